"""What a sweep may try: ranges and lists of hyper-parameters, and the settings that come of them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schuss.activations import ACTIVATIONS
from schuss.checks import whole_number
from schuss.errors import InputError, Problems, unknown_name
from schuss.optimizers import SGD


@dataclass(frozen=True)
class Range:
    """Numbers from ``low`` to ``high`` to draw from: evenly on a logarithmic scale, or on a linear one.

    >>> Range(1e-3, 1)
    Range(low=0.001, high=1, log=True)
    """

    low: float
    high: float
    log: bool = True

    def __post_init__(self) -> None:
        finite = np.isfinite(self.low) and np.isfinite(self.high)
        if not (finite and self.low < self.high) or (self.log and self.low <= 0):
            raise InputError(
                "a range needs low < high, both finite, and above 0 on a logarithmic scale; "
                f"got {self.low!r} to {self.high!r}"
            )

    def draw(self, rng: np.random.Generator) -> float:
        """Return one number."""
        if self.log:
            return float(np.exp(rng.uniform(np.log(self.low), np.log(self.high))))
        return float(rng.uniform(self.low, self.high))


Numbers = float | Sequence[float] | NDArray[Any] | Range
USUAL_RATES = Range(1e-3, 1.0)
NUMERIC = ("learning_rate", "weight_decay", "momentum")
NAMES = ("layers", "activation", "batch_size", *NUMERIC)


@dataclass(frozen=True)
class Candidate:
    """One setting of a sweep, and what came of it.

    cost: the median over its seeds of the final validation cost, inf if half of them diverged. low, high: the least and
    the greatest of those that did not diverge. epochs: how many it was trained; fewer where successive halving retired it.
    """

    layers: tuple[int, ...]
    activation: str
    batch_size: int | None
    learning_rate: float
    weight_decay: float
    momentum: float
    cost: float = np.nan
    low: float = np.nan
    high: float = np.nan
    diverged: int = 0
    seeds: int = 0
    epochs: int = 0


def choices_of(
    layers: Any,
    activation: Any,
    batch_size: Any,
    learning_rate: Numbers,
    weight_decay: Numbers,
    momentum: Numbers,
    problems: Problems,
) -> dict[str, list[Any] | Range]:
    """Return for each name the values to try, or a range; add what is wrong to ``problems``."""
    try:
        hidden = [tuple(int(units) for units in one) for one in layers]
        if not hidden or any(units < 1 for one in hidden for units in one):
            raise ValueError
    except (TypeError, ValueError):
        problems.add(f"layers must be a list of hidden layers such as [(32, 16), (8,)]; got {layers!r}")
        hidden = [(1,)]
    names = [activation] if isinstance(activation, str) else list(activation)
    for name in names:
        if name not in ACTIVATIONS:
            problems.add(unknown_name("activation", name, list(ACTIVATIONS)))
    sizes = list(batch_size) if isinstance(batch_size, Sequence) else [batch_size]
    for size in sizes:
        if size is not None:
            whole_number(size, "batch_size", problems)
    found: dict[str, list[Any] | Range] = {"layers": hidden, "activation": names, "batch_size": sizes}
    for name, given in zip(NUMERIC, (learning_rate, weight_decay, momentum), strict=True):
        if isinstance(given, Range):
            found[name] = given
            continue
        try:
            values = np.atleast_1d(np.asarray(given, np.float64)).tolist()
            SGD(**{"learning_rate": 0.1, name: values})
        except (TypeError, ValueError) as error:
            problems.add(f"{name}: {error}")
            values = [0.0]
        found[name] = values
    problems_of_empty = [name for name, values in found.items() if isinstance(values, list) and not values]
    for name in problems_of_empty:
        problems.add(f"{name} is empty; give at least one value to try")
    return found


def candidates_of(choices: dict[str, list[Any] | Range], draws: int | None, seed: int) -> list[Candidate]:
    """Return the grid, or random draws from it and from the ranges."""
    lists = [values for values in choices.values() if not isinstance(values, Range)]
    ranged = len(lists) < len(choices)
    if draws is None and not ranged:
        grid = itertools.product(*lists)
        found = [Candidate(**dict(zip(choices, point, strict=True))) for point in grid]
    else:
        rng = np.random.default_rng(seed)
        found = []
        for _ in range(20 if draws is None else draws):
            drawn: dict[str, Any] = {
                name: values.draw(rng) if isinstance(values, Range) else values[int(rng.integers(len(values)))]
                for name, values in choices.items()
            }
            found.append(Candidate(**drawn))
    found = list(dict.fromkeys(found))
    if len(found) < 2:
        raise InputError("a sweep needs at least two settings to compare; give several values, a Range, or more draws")
    return found
