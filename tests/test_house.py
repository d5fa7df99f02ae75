"""Who may import whom, which module owns a heavy package (DESIGN section 4), and that the kernel lab keeps up."""

import ast
import os
import shutil
import subprocess
from pathlib import Path

import pytest

import schuss

ROOT = Path(schuss.__file__).parent
HEAVY = {"cupy", "matplotlib", "onnx", "polars", "pyopencl", "rich", "safetensors", "sklearn"}

# Lower modules never import from higher ones; engines never import network or training.
RANKS = [
    {"errors", "philox"},
    {"resources", "guards", "figures", "page"},
    {"activations", "initializers", "arrays", "schedules", "metrics"},
    {"costs"},
    {"layers", "optimizers"},
    {"engines"},
    {"network", "history"},
    {"ensembles", "diagnostics"},
    {"population"},
    {"checkpoint", "checks", "console", "tables"},
    {"runs"},
    {"training_file"},
    {"training", "candidates"},
    {"comparison", "limits", "callbacks", "tabular"},
    {"sweeps", "interop", "reports"},
    {"table_commands"},
    {"cli", "__main__", "__init__"},
]
RANK = {name: rank for rank, names in enumerate(RANKS) for name in names}


def imports():
    """Yield (importing module, imported dotted name) for every import of the package."""
    for path in ROOT.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            for name in names:
                yield path.relative_to(ROOT).with_suffix(""), name


def test_imports_go_downwards_only():
    for importer, imported in imports():
        if not imported.startswith("schuss."):
            continue
        above, below = importer.parts[0], imported.split(".")[1]
        if below not in RANK or (
            above in ("network", "population") and below == "checkpoint"
        ):  # save, inside the method
            continue
        assert RANK[above] >= RANK[below], f"{importer} imports {imported}"


def test_a_heavy_package_is_imported_in_one_module():
    owners = {}
    for importer, imported in imports():
        room = importer.parent if importer.parent.name == "sklearn" else importer  # a folder of its own
        owners.setdefault(imported.split(".")[0], set()).add(str(room))
    assert {name: len(owners.get(name, ())) for name in HEAVY} == dict.fromkeys(HEAVY, 1)


@pytest.mark.full
@pytest.mark.skipif(not shutil.which(os.environ.get("CXX", "g++")), reason="no C++ compiler")
def test_the_kernel_lab_fits_the_kernels():
    project = Path(__file__).parent.parent
    includes = [f"-I{project / 'native'}", f"-I{ROOT / 'engines' / 'kernels'}"]
    command = [os.environ.get("CXX", "g++"), "-std=gnu++20", "-fsyntax-only", "-w", *includes]
    subprocess.run([*command, project / "benchmarks" / "kernel_lab" / "lab.cpp"], check=True)
