"""Schedules: a hyper-parameter that changes over a run, as a base value times a factor of the progress.

Any number of an optimizer may be one: ``Adam(Cosine(0.01, warmup=0.05))``. The base may be one value a member; the
factor is shared. Progress is 0 at the first step of a run, or of its segment in a list of (epochs, optimizer), and
grows evenly to just below 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schuss.errors import InputError

Array = NDArray[np.float64]
GRID = np.linspace(0, 1, 257, endpoint=False)
"""Where a schedule is tried before a run."""


@dataclass(frozen=True)
class Schedule:
    """A base value times ``function(progress)``, any function of one number in [0, 1).

    >>> Schedule(0.1, lambda progress: 1 - progress).factors(np.array([0.0, 0.5])).tolist()
    [1.0, 0.5]
    """

    base: Any
    function: Callable[[float], float]

    def factors(self, progress: Array) -> Array:
        """Return the factor at each progress, of its shape."""
        return np.array([float(self.function(float(at))) for at in progress])


@dataclass(frozen=True)
class Cosine:
    """From ``base`` down to ``base * end`` along half a cosine (Loshchilov and Hutter, ICLR 2017), after a linear
    ``warmup``, a share of the run.

    >>> Cosine(0.1).factors(np.array([0.0, 0.5])).round(6).tolist()
    [1.0, 0.5]
    """

    base: Any
    end: float = 0.0
    warmup: float = 0.0

    def factors(self, progress: Array) -> Array:
        """Return the factor at each progress, of its shape."""
        after = np.clip((progress - self.warmup) / (1 - self.warmup), 0, 1)
        return _warm(progress, self.warmup) * (self.end + (1 - self.end) * 0.5 * (1 + np.cos(np.pi * after)))


@dataclass(frozen=True)
class Exponential:
    """From ``base`` to ``base * end`` by the same factor each step.

    >>> Exponential(0.1, end=0.01).factors(np.array([0.0, 0.5])).round(6).tolist()
    [1.0, 0.1]
    """

    base: Any
    end: float = 0.01

    def factors(self, progress: Array) -> Array:
        """Return the factor at each progress, of its shape."""
        return np.asarray(np.float64(self.end) ** progress)


@dataclass(frozen=True)
class Steps:
    """Multiplied by ``factor`` at each share of the run in ``at``.

    >>> Steps(0.1, factor=0.5, at=(0.5,)).factors(np.array([0.4, 0.5])).tolist()
    [1.0, 0.5]
    """

    base: Any
    factor: float = 0.1
    at: Sequence[float] = (0.5, 0.75)

    def factors(self, progress: Array) -> Array:
        """Return the factor at each progress, of its shape."""
        return np.asarray(np.float64(self.factor) ** np.searchsorted(np.sort(self.at), progress, side="right"))


@dataclass(frozen=True)
class Segments:
    """Straight lines between points (progress, factor).

    >>> Segments(0.1, points=((0, 0), (0.5, 1), (1, 0))).factors(np.array([0.25, 0.75])).tolist()
    [0.5, 0.5]
    """

    base: Any
    points: Sequence[tuple[float, float]] = ((0.0, 1.0), (1.0, 0.0))

    def factors(self, progress: Array) -> Array:
        """Return the factor at each progress, of its shape."""
        at, factors = np.array(sorted(self.points), np.float64).T
        return np.asarray(np.interp(progress, at, factors))


@dataclass(frozen=True)
class WarmUp:
    """From 0 to ``base`` over a ``share`` of the run, and constant from then on.

    >>> WarmUp(0.1, share=0.5).factors(np.array([0.25, 0.75])).tolist()
    [0.5, 1.0]
    """

    base: Any
    share: float = 0.05

    def factors(self, progress: Array) -> Array:
        """Return the factor at each progress, of its shape."""
        return _warm(progress, self.share)


@dataclass(frozen=True)
class OneCycle:
    """Up from ``base * start`` to ``base`` at ``peak``, then down to ``base * end``, along cosines (Smith and Topin, 2019).

    >>> OneCycle(0.1, start=0.1, peak=0.5).factors(np.array([0.0, 0.5])).round(6).tolist()
    [0.1, 1.0]
    """

    base: Any
    start: float = 0.04
    peak: float = 0.3
    end: float = 1e-4

    def factors(self, progress: Array) -> Array:
        """Return the factor at each progress, of its shape."""
        up = np.clip(progress / self.peak, 0, 1)
        down = np.clip((progress - self.peak) / (1 - self.peak), 0, 1)
        rising = self.start + (1 - self.start) * 0.5 * (1 - np.cos(np.pi * up))
        return np.where(progress < self.peak, rising, self.end + (1 - self.end) * 0.5 * (1 + np.cos(np.pi * down)))


KINDS = (Schedule, Cosine, Exponential, Steps, Segments, WarmUp, OneCycle)
AnySchedule = Schedule | Cosine | Exponential | Steps | Segments | WarmUp | OneCycle


def _warm(progress: Array, share: float) -> Array:
    return np.minimum(1.0, progress / share) if share > 0 else np.ones_like(progress)


def checked_factors(name: str, schedule: AnySchedule) -> Array:
    """Return the factors on ``GRID``; raise InputError if the schedule cannot be evaluated there or is not finite."""
    try:
        with np.errstate(all="ignore"):
            factors = np.asarray(schedule.factors(GRID), np.float64)
    except Exception as error:
        raise InputError(f"the schedule of {name} fails: {type(error).__name__}: {error}") from error
    if factors.shape != GRID.shape or not np.isfinite(factors).all():
        raise InputError(
            f"the schedule of {name} must give a finite factor at every progress in [0, 1); got {schedule!r}"
        )
    return factors
