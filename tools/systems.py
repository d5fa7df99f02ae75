"""Systems of other processors and C libraries, as folders of Debian's packages, in which programs run under qemu.

Nothing is installed: apt works in a state of its own, and packages are only unpacked. Needs Debian or Ubuntu, and
their package qemu-user where the processor is another.
"""

import os
import platform
import shutil
from pathlib import Path

from commands import CommandError, output

DEBIAN = {"x86_64": "amd64", "aarch64": "arm64"}
"""Debian's names of the processors."""


class MissingError(Exception):
    """What a system needs is not there, with what to install."""


def unpack(processor: str, packages: tuple[str, ...], folder: Path) -> Path:
    """Return a folder with packages for a processor, and all that they need, unpacked; it is kept for later calls."""
    folder = folder.resolve()
    root = folder / f"{processor}-{'-'.join(packages)}"
    if root.is_dir():
        return root
    for program in ("apt-get", "dpkg"):
        if shutil.which(program) is None:
            raise MissingError(f"{program} is needed, of Debian or Ubuntu")
    state = folder / f"apt-{processor}"
    for name in ("lists/partial", "cache/archives/partial"):
        (state / name).mkdir(parents=True, exist_ok=True)
    (state / "status").touch()
    for stale in (state / "cache" / "archives").glob("*.deb"):
        stale.unlink()
    architecture = DEBIAN[processor]
    (state / "apt.conf").write_text(
        f'APT::Architecture "{architecture}";\nAPT::Architectures {{ "{architecture}"; }};\n'
        f'Dir::State::lists "{state}/lists";\nDir::State::status "{state}/status";\nDir::Cache "{state}/cache";\n'
        'Debug::NoLocking "true";\n'
    )
    environment = {**os.environ, "APT_CONFIG": str(state / "apt.conf")}
    for words in (["update"], ["install", "--download-only", "--no-install-recommends", "-y", *packages]):
        try:
            output("apt-get", "-qq", *words, environment=environment)
        except CommandError as error:
            raise MissingError(f"packages for {architecture}: {error}") from error
    unfinished = root.with_name(f"{root.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    for archive in sorted((state / "cache" / "archives").glob("*.deb")):
        output("dpkg", "-x", archive, unfinished)
    return unfinished.rename(root)


def emulator(processor: str, root: Path) -> list[str]:
    """Return the words before a program of a processor that lies in, or takes its libraries from, an unpacked system."""
    if processor == platform.machine():
        return []
    name = f"qemu-{processor}"
    if shutil.which(name) is not None:
        return [name, "-L", str(root)]
    raise MissingError(f"{name} is needed: Debian's package qemu-user")
