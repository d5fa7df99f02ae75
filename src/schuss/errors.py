"""What can go wrong, each error saying what was expected, what was got and what to try."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable


class SchussError(Exception):
    """Base of every error that schuss raises on purpose."""


class InputError(SchussError, ValueError):
    """An argument, an array or a table cannot be used as it is."""


class TrainingError(SchussError, RuntimeError):
    """A ``Training`` is in a state that does not allow the call: released, busy, or diverged."""


class EngineError(SchussError, RuntimeError):
    """An engine is absent or refused the work."""


class ModelFileError(SchussError, ValueError):
    """A model file is damaged, or is none."""


class DivergenceWarning(RuntimeWarning):
    """Training left the finite numbers; the last finite parameters were kept."""


class Problems:
    """Collects every mismatch of a call, so that one error can name them all."""

    def __init__(self, action: str) -> None:
        self._action = action
        self._found: list[str] = []

    def add(self, problem: str) -> None:
        """Note one mismatch: what was expected, what was got, what to do."""
        self._found.append(problem)

    def raise_if_any(self) -> None:
        """Raise one ``InputError`` that lists all that was noted."""
        if len(self._found) == 1:
            raise InputError(f"cannot {self._action}: {self._found[0]}")
        if self._found:
            listed = "".join(f"\n  {number}. {problem}" for number, problem in enumerate(self._found, 1))
            raise InputError(f"cannot {self._action}, for {len(self._found)} reasons:{listed}")


def unknown_name(what: str, got: object, known: Iterable[str]) -> str:
    """Return the message for a name that is not in a table: the nearest one, and all that are known."""
    from difflib import get_close_matches  # slow to import, and only needed here

    names = list(known)
    near = get_close_matches(str(got), names, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"unknown {what} {got!r}{hint} known: {', '.join(names)}"


def warn(message: str, category: type[Warning] = RuntimeWarning) -> None:
    """Warn at the line outside this package, and outside scikit-learn, which calls its estimators, that led here."""
    level, frame = 1, sys._getframe()
    inner = {"schuss", "sklearn"}
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] in inner:
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)
