"""What the plain data of a file may be: a schema is a check, put together from smaller ones, that names what does not fit.

A check takes a value and its name, such as ``layers[0].units``, and raises MismatchError. Nothing of a file is used before
its schema has seen all of it.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Container, Iterable, Mapping
from typing import Any, NoReturn

Check = Callable[[Any, str], None]

LARGEST = 2**53
"""The largest count that a file may hold: beyond it a float64 no longer holds every whole number."""

DEEPEST = 100
"""Levels of a description: every later step may go down them by recursion."""


class MismatchError(ValueError):
    """A value of a file is not what its schema asks for."""


def parsed(text: str) -> Any:
    """Return the value of a JSON text; raise MismatchError for what is none, holds NaN or infinities, or is too deep."""

    def refuse(name: str) -> Any:
        raise MismatchError(f"the description holds {name}, which is no number")

    try:
        value = json.loads(text, parse_constant=refuse)
    except MismatchError:
        raise
    except (ValueError, RecursionError) as error:
        raise MismatchError(f"the description is no JSON, or too deep: {error}") from None
    level, depth = [value], 0
    while level:
        level = [inner for one in level if isinstance(one, dict | list) for inner in _contents(one)]
        depth += 1
        if depth > DEEPEST:
            raise MismatchError(f"the description is deeper than {DEEPEST} levels")
    return value


def whole(least: int = 0, most: int = LARGEST) -> Check:
    """Return the check for a whole number from ``least`` to ``most``."""

    def check(value: Any, name: str) -> None:
        if type(value) is not int or not least <= value <= most:
            _refuse(value, name, f"a whole number from {least} to {most}")

    return check


def number(least: float = -math.inf, below: float = math.inf, *, above: float = -math.inf) -> Check:
    """Return the check for a finite number, at least ``least``, above ``above`` and below ``below``."""

    def check(value: Any, name: str) -> None:
        fits = type(value) in (int, float) and abs(value) <= sys.float_info.max
        if not fits or not (value >= least and above < value < below):
            _refuse(value, name, f"a number {_range(least, above, below)}")

    return check


def one_of(*known: Any) -> Check:
    """Return the check for one of some values."""

    def check(value: Any, name: str) -> None:
        if not any(type(value) is type(one) and value == one for one in known):
            _refuse(value, name, f"one of {', '.join(map(repr, known))}")

    return check


def key_of(table: Container[str], what: str) -> Check:
    """Return the check for a key of a table, in words ``what``."""

    def check(value: Any, name: str) -> None:
        if not isinstance(value, str) or value not in table:
            _refuse(value, name, what)

    return check


def text(value: Any, name: str) -> None:
    """Check that a value is a text that can be written as UTF-8."""
    if not isinstance(value, str) or any("\ud800" <= letter <= "\udfff" for letter in value):
        _refuse(value, name, "a text")


def truth(value: Any, name: str) -> None:
    """Check that a value is true or false."""
    if not isinstance(value, bool):
        _refuse(value, name, "true or false")


def anything(value: Any, name: str) -> None:
    """Check nothing: the value is another program's."""


def optional(check: Check) -> Check:
    """Return the check for null, or what fits ``check``."""
    return lambda value, name: None if value is None else check(value, name)


def either(first: Check, second: Check) -> Check:
    """Return the check for what fits the one or the other."""

    def check(value: Any, name: str) -> None:
        try:
            first(value, name)
        except MismatchError:
            second(value, name)

    return check


def listed(each: Check, least: int = 0, most: int = LARGEST) -> Check:
    """Return the check for a list of ``least`` to ``most`` values that fit ``each``."""

    def check(value: Any, name: str) -> None:
        if not isinstance(value, list) or not least <= len(value) <= most:
            _refuse(value, name, f"a list of {least if least == most else f'at least {least}'}")
        for place, one in enumerate(value):
            each(one, f"{name}[{place}]")

    return check


def fixed(*checks: Check) -> Check:
    """Return the check for a list of as many values as there are checks, one for each."""

    def check(value: Any, name: str) -> None:
        if not isinstance(value, list) or len(value) != len(checks):
            _refuse(value, name, f"a list of {len(checks)}")
        for place, (one, each) in enumerate(zip(value, checks, strict=True)):
            each(one, f"{name}[{place}]")

    return check


def mapped(key: Callable[[str], bool], each: Check, keys: str) -> Check:
    """Return the check for an object whose keys hold ``key``, in words ``keys``, and whose values fit ``each``."""

    def check(value: Any, name: str) -> None:
        if not isinstance(value, dict):
            _refuse(value, name, "an object")
        for one, content in value.items():
            if not key(one):
                _refuse(one, f"a key of {name}", keys)
            each(content, f"{name}[{one!r:.40}]")

    return check


def record(required: Mapping[str, Check], others: Mapping[str, Check] | None = None) -> Check:
    """Return the check for an object with all keys of ``required``, perhaps some of ``others``, and no more."""
    known = {**required, **(others or {})}

    def check(value: Any, name: str) -> None:
        if not isinstance(value, dict):
            _refuse(value, name, "an object")
        problems = _named("missing", [key for key in required if key not in value])
        problems += _named("unknown", [key for key in value if key not in known])
        if problems:
            raise MismatchError(f"{name}: {'; '.join(problems)}")
        for key, content in value.items():
            known[key](content, f"{name}.{key}" if name else key)

    return check


def _contents(value: dict[str, Any] | list[Any]) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value


def _named(what: str, keys: Iterable[str]) -> list[str]:
    found = ", ".join(f"{key!r:.40}" for key in keys)
    return [f"{what} {found:.200}"] if found else []


def _range(least: float, above: float, below: float) -> str:
    parts = [f"at least {least:g}"] * (least > -math.inf) + [f"above {above:g}"] * (above > -math.inf)
    return " and ".join([*parts, f"below {below:g}"] if below < math.inf else parts) or "that is finite"


def _refuse(value: Any, name: str, expected: str) -> NoReturn:
    raise MismatchError(f"{name} must be {expected}; got {_shown(value)}")


def _shown(value: Any) -> str:
    if isinstance(value, dict | list):
        return f"{'an object' if isinstance(value, dict) else 'a list'} of {len(value)}"
    if type(value) is int and abs(value) > LARGEST:
        return f"a number of {value.bit_length()} bits"
    return f"{value!r:.80}"
