"""Run a command and say what went wrong."""

import os
import subprocess
import sys
from pathlib import Path


class CommandError(Exception):
    """A command failed; the message is the command and all that it printed."""


def output(*command: object, folder: Path | None = None, environment: dict[str, str] | None = None) -> str:
    """Return what a command prints; raise CommandError if it fails. Programs of this Python's environment are found first."""
    given = dict(os.environ if environment is None else environment)
    given["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{given.get('PATH', '')}"
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, cwd=folder, env=given)
    if done.returncode:
        raise CommandError(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
    return done.stdout
