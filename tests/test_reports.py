"""The report: what it says, that it needs nothing from outside, and how a browser shows it."""

import html
import json
import re
import shutil
import subprocess

import numpy as np
import pytest

import schuss
from schuss import InputError, tabular
from schuss.cli import main
from schuss.reports import report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUICK = {"epochs": 15, "folds": 2, "repeats": 1, "layers": ((), (4,))}
HOSTILE = [
    "</title><script>window.hacked = 1</script>",
    '"><img src=x onerror="parent.hacked = 1">',
    "$\\frac{1}{0}$ $",
    "naïve 列 \u202e emoji 🎿",
    "a very long name " * 20,
    "new\nline\ttab",
]


def hostile_table(n=80):
    rng = np.random.default_rng(0)
    table = {name: rng.normal(size=n) for name in HOSTILE[:-1]}
    table[HOSTILE[-1]] = np.array(["<b>bold</b>", "&amp;", "$x$"])[rng.integers(0, 3, n)]
    table["y & <i>z</i>"] = table[HOSTILE[0]] + rng.normal(0, 0.1, n)
    return table


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """A report on numbers and one on classes, with hostile names."""
    folder = tmp_path_factory.mktemp("pages")
    table = hostile_table()
    model = tabular.fit(table, "y & <i>z</i>", **QUICK)
    report(model, table, folder / "numbers.html", out_of_fold=True, command=["schuss", "train", "my file.csv"])
    table["y & <i>z</i>"] = np.where(table["y & <i>z</i>"] > 0, "<script>a</script>", "b")
    model = tabular.fit(table, "y & <i>z</i>", **QUICK)
    report(model, table, folder / "classes.html", out_of_fold=True)
    return folder


def browse(page, width, dark=False):
    """Return what a headless Chromium makes of a page: its text, how wide it is, its ground, what was drawn."""
    if CHROMIUM is None:
        pytest.skip("chromium is not installed: apt-get install chromium")
    harness = page.with_name(f"harness_{page.stem}_{width}_{dark}.html")
    harness.write_text(
        f'<!doctype html><meta charset="utf-8"><body style="margin: 0"><iframe id="f" style="width: {width}px; '
        f'height: 900px; border: 0" srcdoc="{html.escape(page.read_text())}"></iframe><pre id="out"></pre><script>'
        "addEventListener('load', () => { const d = document.getElementById('f').contentDocument, e = d.documentElement;"
        "document.getElementById('f').remove; document.getElementById('out').textContent = '@@' + JSON.stringify({"
        "wide: e.scrollWidth, room: e.clientWidth, text: d.body.innerText, title: d.title, figures: d.querySelectorAll('svg')"
        ".length, strange: d.querySelectorAll('script, img, link, iframe, object').length, hacked: !!(window.hacked || "
        "document.getElementById('f').contentWindow.hacked), ground: getComputedStyle(d.body).backgroundColor, "
        "drawn: Math.min(...[...d.querySelectorAll('svg')].map(s => s.getBoundingClientRect().width))}) + '@@' })</script>"
    )
    flags = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-sync",
    ]
    flags += ["--disable-component-update", f"--user-data-dir={page.parent / 'profile'}", "--virtual-time-budget=4000"]
    flags += [f"--blink-settings=preferredColorScheme={int(not dark)}", "--dump-dom", harness.as_uri()]
    shown = subprocess.run([CHROMIUM, *flags], capture_output=True, text=True, timeout=120, check=True).stdout
    return json.loads(html.unescape(re.search(r"<pre id=\"out\">@@(.*?)@@</pre>", shown, re.DOTALL)[1]))


@pytest.mark.parametrize("name", ["numbers", "classes"])
def test_a_page_is_whole_in_itself(pages, name):
    text = (pages / f"{name}.html").read_text()
    assert "default-src 'none'" in text
    outside = re.findall(r"https?://[^\s\"'<>]+", text)
    assert {url for url in outside if "w3.org" not in url} == set()  # names of XML, which nobody fetches
    assert not re.findall(r"<(script|img|link|iframe|object|embed)\b", text)
    assert len(text) < 3_000_000


@pytest.mark.parametrize("name", ["numbers", "classes"])
@pytest.mark.parametrize("width", [360, 1200])
def test_a_browser_shows_it_on_a_phone_and_on_a_screen(pages, name, width):
    seen = browse(pages / f"{name}.html", width)
    assert seen["wide"] <= seen["room"] <= width
    assert seen["figures"] == {"numbers": 6, "classes": 4}[name]
    assert seen["drawn"] > 200
    assert not seen["hacked"]
    assert seen["strange"] == 0
    assert seen["title"] == "Predicting y & <i>z</i>"
    for words in (
        "How well it predicts",
        "What it looks at",
        "How it learned",
        "What was tried",
        "The data",
        "How it was made",
    ):
        assert words in seen["text"]
    assert "</title><script>window.hacked = 1</script>" in seen["text"]
    assert "列" in seen["text"]


def test_it_is_light_or_dark_as_the_reader_likes(pages):
    light, dark = (browse(pages / "numbers.html", 800, dark) for dark in (False, True))
    assert light["ground"] == "rgb(255, 255, 255)"
    assert dark["ground"] == "rgb(18, 22, 28)"


def test_the_numbers_are_those_of_rows_not_seen(tmp_path):
    rng = np.random.default_rng(1)
    table = {"x": rng.random(60), "y": rng.random(60)}
    model = tabular.fit(table, "y", **QUICK)
    report(model, table, tmp_path / "r.html", out_of_fold=True)
    found = model.encoding.prediction(model.out_of_fold.outputs)
    error = np.sqrt(np.square(found - table["y"]).mean())
    assert f"<b>{error:.4g}</b>root mean square error" in (tmp_path / "r.html").read_text()


def test_importance_finds_what_matters_only(tmp_path):
    rng = np.random.default_rng(1)
    table = {"nothing": rng.random(300), "all": rng.random(300), "a constant beside": rng.random(300)}
    table["y"] = 10 * table["all"]
    model = tabular.fit(table, "y", **(QUICK | {"epochs": 60}))
    report(model, table, tmp_path / "r.html")
    labels = re.findall(r">([^<>]+)</text>", (tmp_path / "r.html").read_text())
    order = [label for label in labels if label in table and label != "y"]
    assert order[-1] == "all"  # bars are drawn from below


def test_the_command_line_writes_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rows = "\n".join(f"{i},{i % 5},{2 * i + i % 5}" for i in range(60))
    (tmp_path / "my table.csv").write_text(f"a,b,c\n{rows}\n")
    words = ["train", "my table.csv", "--target", "c", "--epochs", "50", "--report", "r.html"]
    assert main(words) == 0
    assert "schuss train &#x27;my table.csv&#x27; --target c --epochs 50" in (tmp_path / "r.html").read_text()
    assert main([*words[:-1], "nowhere/r.html"]) == 2
    assert "there is no folder 'nowhere'" in capsys.readouterr().err
    assert (
        main(
            [
                "sweep",
                "my table.csv",
                "--target",
                "c",
                "--draws",
                "2",
                "--epochs",
                "5",
                "--layers",
                "3",
                "--report",
                "s.html",
            ]
        )
        == 0
    )
    assert "What was tried" in (tmp_path / "s.html").read_text()
    assert (
        main(
            [
                "train",
                "my table.csv",
                "--target",
                "c",
                "--quantiles",
                "0.1,0.5,0.9",
                "--epochs",
                "9",
                "--report",
                "q.html",
            ]
        )
        == 0
    )
    assert "share of the rows at or below" in (tmp_path / "q.html").read_text()


def test_inspect_says_what_is_in_a_file(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    model = tabular.fit(hostile_table(), "y & <i>z</i>", **QUICK)
    model.save("m.safetensors")
    assert main(["inspect", "m.safetensors"]) == 0
    shown = capsys.readouterr().out
    for words in ("format 1", "a population of 4", "y & <i>z</i>: a number", "3 texts", "float32", "out of fold cost"):
        assert words in shown
    schuss.Network(2, [schuss.Dense(1, "tanh")], seed=7).save("n.safetensors")
    assert main(["inspect", "n.safetensors"]) == 0
    assert "1 tanh" in capsys.readouterr().out
    (tmp_path / "m.safetensors").write_bytes((tmp_path / "m.safetensors").read_bytes()[:-3])
    assert main(["inspect", "m.safetensors"]) == 2
    assert "no whole safetensors file" in capsys.readouterr().err


def test_reports_that_cannot_be_made_say_why(tmp_path):
    table = {"x": np.arange(40.0), "y": np.arange(40.0) ** 2}
    model = tabular.fit(table, "y", **QUICK)
    model.save(tmp_path / "m.safetensors")
    (tmp_path / "old.html").write_text("old")
    for given, rows, options, words in [
        (tmp_path / "m.safetensors", table, {"out_of_fold": True}, "just made by"),
        (model, {"x": [1.0]}, {}, "no column 'y'"),
        (model, {"x": [1.0], "y": [1.0]}, {}, "at least 2 rows"),
        (model, {"x": [1.0, 2], "y": [1.0, None]}, {}, "no number in row 1"),
        (model, {"x": [1.0], "y": [1.0]}, {"out_of_fold": True}, "at least 40 rows"),
    ]:
        with pytest.raises(InputError, match=words):
            report(given, rows, tmp_path / "old.html", **options)
    with pytest.raises(FileNotFoundError, match="no folder"):
        report(model, table, tmp_path / "none" / "r.html")
    assert (tmp_path / "old.html").read_text() == "old"
