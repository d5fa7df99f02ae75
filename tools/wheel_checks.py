"""What is checked of a source distribution and of a wheel before they are published."""

import email
import re
import struct
import sys
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from commands import output
from elftools.elf.elffile import ELFFile
from macholib.MachO import MachO
from macholib.SymbolTable import SymbolTable

MEGABYTES = 6
"""The most that a wheel may take, packed or installed."""

LIBRARIES = {
    "x86_64": ("libschuss_avx2.so", "libschuss_avx512.so", "libschuss_baseline.so"),
    "aarch64": ("libschuss_neon.so",),
    "arm64": ("libschuss_neon.so",),
}
SYSTEM = re.compile(
    r"lib(c|m|pthread|dl|rt)\.so\.\d+|libc\.musl-\w+\.so\.1|ld-linux-[\w-]+\.so\.\d|/usr/lib/libSystem\.B\.dylib"
)
"""Libraries that every system of its kind has."""

LATEST_GLIBC = (2, 28)
FILES = {".py", ".h", ".cl", ".typed", ".so"}


class UnfitError(Exception):
    """Something that must not be published."""


def require(condition: object, message: str) -> None:
    """Raise UnfitError unless a condition holds."""
    if not condition:
        raise UnfitError(message)


@dataclass(frozen=True)
class Library:
    """What a library needs and offers."""

    needed: set[str]
    exported: set[str]
    undefined: set[str]
    glibc: tuple[int, ...]
    stripped: bool


def read_elf(path: Path) -> Library:
    """Return what a library of Linux needs and offers."""
    with path.open("rb") as file:
        elf = ELFFile(file)
        needed = {tag.needed for tag in elf.get_section_by_name(".dynamic").iter_tags("DT_NEEDED")}
        symbols = list(elf.get_section_by_name(".dynsym").iter_symbols())
        versions = [(0,)]
        if (section := elf.get_section_by_name(".gnu.version_r")) is not None:
            names = [entry.name for _, entries in section.iter_versions() for entry in entries]
            versions += [tuple(map(int, name[6:].split("."))) for name in names if name.startswith("GLIBC_")]
        stripped = elf.get_section_by_name(".symtab") is None
        flags = [segment["p_flags"] for segment in elf.iter_segments("PT_GNU_STACK")]
    require(flags and not flags[0] & 1, f"{path.name} asks for a stack that can be executed")
    defined = {symbol.name for symbol in symbols if symbol["st_shndx"] != "SHN_UNDEF" and symbol.name}
    return Library(needed, defined, {symbol.name for symbol in symbols} - defined, max(versions), stripped)


def read_macho(path: Path) -> Library:
    """Return what a library of macOS needs and offers."""
    (header,) = MachO(str(path)).headers
    table = SymbolTable(MachO(str(path)))
    needed = {name for _, _, name in header.walkRelocatables()}
    defined = {name.decode()[1:] for _, name in table.extdefsyms or ()}
    defined -= {"__dso_handle", "_mh_dylib_header"}  # every library has them
    defined -= {name for name in defined if name.startswith(("_Zn", "_Zd"))}  # new and delete: zig cannot hide them
    undefined = {name.decode()[1:] for _, name in table.undefsyms or ()}
    return Library(needed, defined, undefined, (0,), True)


def check_library(path: Path) -> None:
    """Raise UnfitError unless a library needs the system alone, offers schuss_* alone, and knows nothing of Python."""
    library = (read_macho if path.read_bytes()[:4] == struct.pack("<I", 0xFEEDFACF) else read_elf)(path)
    strange = {name for name in library.needed if not SYSTEM.fullmatch(name)}
    require(not strange, f"{path.name} needs {', '.join(sorted(strange))}")
    others = {name for name in library.exported if not name.startswith("schuss_")}
    require(not others, f"{path.name} exports {', '.join(sorted(others)[:5])}")
    require("schuss_open" in library.exported, f"{path.name} does not export schuss_open")
    python = {name for name in library.undefined if name.startswith(("Py", "_Py"))}
    require(not python, f"{path.name} calls Python: {', '.join(sorted(python))}")
    require(library.glibc <= LATEST_GLIBC, f"{path.name} needs glibc {'.'.join(map(str, library.glibc))}")
    require(library.stripped, f"{path.name} has the symbols of its source")


def check_contents(wheel: Path, folder: Path, source: Path) -> int:
    """Unpack a wheel and return its bytes installed; raise UnfitError for what lacks, or has no place in it."""
    with zipfile.ZipFile(wheel) as packed:
        packed.extractall(folder)
        names = [PurePosixPath(name) for name in packed.namelist()]
    require(wheel.stat().st_size < MEGABYTES * 1e6, f"{wheel.name} is larger than {MEGABYTES} MB")
    tag = wheel.stem.split("-", 2)[2]
    (metadata,) = folder.glob("*.dist-info")
    described = email.message_from_string((metadata / "WHEEL").read_text())
    require(described.get_all("Tag") == [tag], f"the tags in the wheel are {described.get_all('Tag')}")
    require(described["Root-Is-Purelib"] == "false", "the wheel says that it fits every platform")
    require((metadata / "licenses" / "LICENSE").is_file(), "the license lacks")
    inside = {name.relative_to("schuss").as_posix() for name in names if name.parts[0] == "schuss"}
    strange = [str(name) for name in names if name.parts[0] == "schuss" and name.suffix not in FILES]
    strange += [str(name) for name in names if name.parts[0] not in ("schuss", metadata.name)]
    require(not strange, f"no place in a wheel: {', '.join(strange)}")
    package = source / "src" / "schuss"
    wanted = {file.relative_to(package).as_posix() for file in package.rglob("*") if file.suffix in FILES - {".so"}}
    architecture = next(name for name in LIBRARIES if tag.endswith(name))
    wanted |= {f"engines/{name}" for name in LIBRARIES[architecture]}
    require(inside == wanted, f"lacking or too much: {', '.join(sorted(inside ^ wanted))}")
    installed = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    require(installed < MEGABYTES * 1e6, f"installed, the wheel takes {installed / 1e6:.1f} MB")
    return installed


def check_repair(wheel: Path, folder: Path) -> None:
    """Raise UnfitError unless auditwheel finds that a wheel fits its platform, and has nothing to repair."""
    platform = wheel.stem.rpartition("-")[2]
    output(sys.executable, "-m", "auditwheel", "repair", "--plat", "auto", "-w", folder, wheel)
    (repaired,) = folder.glob("*.whl")
    tags = repaired.stem.rpartition("-")[2].split(".")
    allowed = re.compile(r"(manylinux|musllinux)_(\d+)_(\d+)_(\w+)")
    found = [match for tag in tags if (match := allowed.fullmatch(tag))]
    family, *version, processor = allowed.fullmatch(platform).groups()
    strange = [
        m[0] for m in found if (m[1], m[4]) != (family, processor) or [int(m[2]), int(m[3])] > [*map(int, version)]
    ]
    require(not strange, f"auditwheel finds that it needs {', '.join(strange)}")
    with zipfile.ZipFile(wheel) as ours, zipfile.ZipFile(repaired) as theirs:
        files = [{name for name in archive.namelist() if not name.endswith("/")} for archive in (ours, theirs)]
        require(files[0] == files[1], f"auditwheel adds or removes {', '.join(sorted(files[0] ^ files[1]))}")
        changed = [
            name
            for name in files[0]
            if not name.endswith(("/WHEEL", "/RECORD")) and ours.read(name) != theirs.read(name)
        ]
    require(not changed, f"auditwheel changes {', '.join(changed)}")


def check_source(archive: Path) -> None:
    """Raise UnfitError unless a source distribution is small, described rightly and without anything compiled."""
    with tarfile.open(archive) as packed:
        names = packed.getnames()
    compiled = [name for name in names if name.endswith((".so", ".o", ".pyc", ".whl"))]
    require(not compiled, f"{archive.name} has {', '.join(compiled)}")
    require(archive.stat().st_size < 2e6, f"{archive.name} is larger than 2 MB")
    output(sys.executable, "-m", "twine", "check", "--strict", archive)


def check(wheel: Path, source: Path) -> tuple[int, int]:
    """Return the bytes of a wheel, packed and installed; raise UnfitError if it must not be published.

    source: the folder that it was built from.
    """
    output(sys.executable, "-m", "twine", "check", "--strict", wheel)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        installed = check_contents(wheel, folder / "content", source)
        for library in (folder / "content").rglob("*.so"):
            check_library(library)
        if "linux" in wheel.name:
            check_repair(wheel, folder / "repaired")
    return wheel.stat().st_size, installed
