"""Examples in docstrings and in the README run."""

import doctest
import importlib
import pkgutil
import re
from pathlib import Path

import pytest

import schuss

README = Path(__file__).parent.parent / "README.md"
FOUND = [module.name for module in pkgutil.walk_packages(schuss.__path__, "schuss.")]
MODULES = ["schuss", *(name for name in FOUND if "__main__" not in name and "libschuss" not in name)]


@pytest.mark.parametrize("name", MODULES)
def test_docstrings(name):
    result = doctest.testmod(importlib.import_module(name), optionflags=doctest.NORMALIZE_WHITESPACE)
    assert result.failed == 0


def test_enough_docstrings_hold_an_example():
    finder = doctest.DocTestFinder()
    examples = sum(len(test.examples) for name in MODULES for test in finder.find(importlib.import_module(name)))
    assert examples >= 15


def test_the_examples_of_the_guide_to_populations(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    scope = {}
    for code in re.findall(r"```python\n(.*?)```", (README.parent / "docs" / "populations.md").read_text(), re.DOTALL):
        exec(compile(code, "populations.md", "exec"), scope)
    assert scope["best"](scope["held"][0]).shape == (500, 1)
    assert scope["chosen"].members == 5
    assert scope["found"].best.cost < 0.1
    assert Path("sweep.png").exists()


def test_the_examples_of_the_guide_to_training(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    scope = {}
    blocks = re.findall(r"```python\n(.*?)```", (README.parent / "docs" / "training.md").read_text(), re.DOTALL)
    for code in [*blocks, blocks[2]]:  # the long run a second time: it finds its checkpoint
        exec(compile(code, "training.md", "exec"), scope)
    assert (scope["probabilities"].argmax(axis=1) == scope["labels"]).mean() > 0.9
    assert scope["history"].epoch[-1] >= 50
    assert len(Path("run.csv").read_text().splitlines()) > 1


def test_the_example_of_the_readme(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    scope = {}
    exec(compile(code, "README.md", "exec"), scope)
    assert scope["history"].validation_cost[-1] < 0.01
    assert schuss.load("network.safetensors").parameters.tolist() == scope["network"].parameters.tolist()


def test_the_example_of_the_guide_to_engines(capsys):
    (code,) = re.findall(r"```python\n(.*?)```", (README.parent / "docs" / "engines.md").read_text(), re.DOTALL)
    exec(compile(code, "engines.md", "exec"), {})
    promised = re.search(r"# (cpu: .*?); \.\.\.$", code, re.MULTILINE)[1]
    assert capsys.readouterr().out.startswith(promised)


PAGES = ("tutorial", "tables", "scikit_learn", "moving_from_pytorch", "onnx", "model_files")


@pytest.mark.filterwarnings("ignore:Maximum iterations")
@pytest.mark.parametrize("page", PAGES)
def test_the_examples_of_a_page_run(page, tmp_path, monkeypatch):
    if page in ("scikit_learn", "onnx"):
        pytest.importorskip({"scikit_learn": "sklearn"}.get(page, page))
    (tmp_path / "examples").symlink_to(README.parent / "examples")
    monkeypatch.chdir(tmp_path)
    scope = {}
    blocks = re.findall(r"```python\n(.*?)```", (README.parent / "docs" / f"{page}.md").read_text(), re.DOTALL)
    assert blocks
    for code in blocks:
        exec(compile(code, f"{page}.md", "exec"), scope)
    if page == "tutorial":
        assert scope["history"].cost.shape == (100, 40)
        assert scope["verdict"] == "b is better"
        assert scope["found"].best.cost < 0.05
    if page == "tables":
        assert scope["model"].settings[0].cost < 0.1


def test_moving_from_scikit_learn_takes_three_lines():
    title, *lines = [
        line for line in (README.parent / "docs" / "moving_from_scikit_learn.md").read_text().splitlines() if line
    ]
    assert (title, len(lines)) == ("# Moving from scikit-learn", 3)
