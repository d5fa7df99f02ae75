"""What must not be published is refused: tools/wheel_checks.py."""

import importlib
import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from schuss.engines import cpu

pytestmark = pytest.mark.full  # its packages are those of a release
PROJECT = Path(__file__).parent.parent
TAG = "py3-none-manylinux_2_28_aarch64"
INFO = "schuss-1.0.dist-info"


@pytest.fixture
def checks(monkeypatch):
    for package in ("elftools", "macholib"):
        pytest.importorskip(package, reason=f"{package} is not installed: pip install 'schuss[release]'")
    monkeypatch.syspath_prepend(PROJECT / "tools")
    return importlib.import_module("wheel_checks")


def contents(tag=TAG):
    """Return the files of a wheel that fits."""
    package = PROJECT / "src" / "schuss"
    files = {
        f"schuss/{file.relative_to(package).as_posix()}": file.read_bytes()
        for file in package.rglob("*")
        if file.suffix in (".py", ".h", ".cl", ".typed")
    }
    files["schuss/engines/libschuss_neon.so"] = bytes(1000)
    files[f"{INFO}/WHEEL"] = f"Wheel-Version: 1.0\nRoot-Is-Purelib: false\nTag: {tag}\n".encode()
    files[f"{INFO}/licenses/LICENSE"] = b"Apache"
    return files


def written(files, folder):
    path = folder / f"schuss-1.0-{TAG}.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        for name, content in files.items():
            wheel.writestr(name, content)
    return path


def test_a_wheel_with_all_that_it_needs_passes(checks, tmp_path):
    files = contents()
    installed = checks.check_contents(written(files, tmp_path), tmp_path / "content", PROJECT)
    assert installed == sum(map(len, files.values()))


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        (f"{INFO}/licenses/LICENSE", None, "license"),
        ("schuss/engines/libschuss_neon.so", None, r"too much: engines/libschuss_neon\.so"),
        ("schuss/engines/kernels/costs.h", None, r"too much: engines/kernels/costs\.h"),
        ("schuss/engines/libschuss_avx2.so", b"", r"too much: engines/libschuss_avx2\.so"),
        ("schuss/engines/train.cpp", b"", r"no place in a wheel: schuss/engines/train\.cpp"),
        ("tests/conftest.py", b"", r"no place in a wheel: tests/conftest\.py"),
        (f"{INFO}/WHEEL", b"Root-Is-Purelib: false\nTag: py3-none-any\n", r"tags in the wheel are \['py3-none-any'\]"),
        (f"{INFO}/WHEEL", f"Root-Is-Purelib: true\nTag: {TAG}\n".encode(), "fits every platform"),
        ("schuss/engines/libschuss_neon.so", bytes(7_000_000), "larger than 6 MB"),
    ],
)
def test_a_wheel_that_lacks_something_or_has_too_much_is_refused(checks, tmp_path, name, content, words):
    files = contents()
    files.pop(name, None)
    if content is not None:
        files[name] = content
    with pytest.raises(checks.UnfitError, match=words):
        checks.check_contents(written(files, tmp_path), tmp_path / "content", PROJECT)


def test_a_library_that_needs_more_than_the_system_is_refused(checks):
    """Such as this machine's own, which takes the C++ library of the system."""
    path = cpu._folder() / f"libschuss_{cpu.level()}.so"
    library = checks.read_elf(path)
    assert "schuss_open" in library.exported
    assert not any(name.startswith(("Py", "_Py")) for name in library.undefined)
    if "libstdc++.so.6" not in library.needed:
        pytest.skip("this machine's libraries have the C++ library inside")
    with pytest.raises(checks.UnfitError, match=r"needs .*libstdc\+\+\.so\.6"):
        checks.check_library(path)


def test_a_source_distribution_with_something_compiled_is_refused(checks, tmp_path):
    path = tmp_path / "schuss-1.0.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("schuss-1.0/src/schuss/engines/libschuss_avx2.so"), io.BytesIO())
    with pytest.raises(checks.UnfitError, match=r"has .*libschuss_avx2\.so"):
        checks.check_source(path)
