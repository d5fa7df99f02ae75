"""L-BFGS in NumPy (Liu and Nocedal, 1989), with a line search that holds the strong Wolfe conditions.

Source: Nocedal and Wright, Numerical Optimization, 2nd edition, algorithms 7.4, 3.5 and 3.6. native/lbfgs.hpp is the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

_DECREASE, _CURVATURE, _MOST_EVALUATIONS = 1e-4, 0.9, 20


class Point(NamedTuple):
    """A step t along a direction: the cost there, and its slope along the direction."""

    t: float
    cost: float
    slope: float


def direction(pairs: Array, kept: int, gradient: Array) -> Array:
    """Return -H gradient; pairs: (history, 2, p), steps and changes of the gradient, the i-th kept in place i % history."""
    history = len(pairs)
    numbers = range(max(0, kept - history), kept)
    q, shares = -gradient, {}
    for i in reversed(numbers):
        s, y = pairs[i % history]
        shares[i] = float(s @ q) / float(s @ y)
        q = q - gradient.dtype.type(shares[i]) * y
    if kept:
        s, y = pairs[(kept - 1) % history]
        q = q * gradient.dtype.type(float(s @ y) / float(y @ y))
    for i in numbers:
        s, y = pairs[i % history]
        q = q + gradient.dtype.type(shares[i] - float(y @ q) / float(s @ y)) * s
    return np.asarray(q)


def line_search(
    cost: float, slope: float, first: float, noise: float, evaluate: Callable[[float], tuple[float, float]]
) -> tuple[float, float]:
    """Return the accepted step, 0 if none lowers the cost, and the step that was evaluated last.

    cost, slope: at t = 0. first: the first t to try. noise: how far costs may differ by rounding alone. evaluate(t)
    returns both.
    """
    low = high = Point(0.0, cost, slope)
    t, bracketed = first, False
    for evaluation in range(1, _MOST_EVALUATIONS + 1):
        now = Point(t, *evaluate(t))
        finite = np.isfinite(now.cost) and np.isfinite(now.slope)
        rises = not finite or now.cost > cost + _DECREASE * t * slope + noise
        if not rises and abs(now.slope) <= -_CURVATURE * slope:
            return t, t
        if evaluation == _MOST_EVALUATIONS:
            return (t if not rises and now.cost < low.cost else low.t), t
        if not bracketed:
            if rises or (low.t > 0 and now.cost >= low.cost):
                high, bracketed = now, True
            elif now.slope >= 0:
                low, high, bracketed = now, low, True
            else:
                further = _minimum(low, now)
                low, t = now, min(max(further if further > t else 0, 2 * t), 10 * t)
                continue
        elif rises or now.cost >= low.cost:
            high = now
        else:
            high = low if now.slope * (high.t - low.t) >= 0 else high
            low = now
        width = high.t - low.t
        if abs(width) <= 1e-10 * max(low.t, high.t):
            break
        share = 0.5
        if np.isfinite(high.cost) and np.isfinite(high.slope):
            share = (_minimum(low, high) - low.t) / width
        t = low.t + (0.5 if np.isnan(share) else min(0.9, max(0.1, share))) * width
    return low.t, now.t


def _minimum(a: Point, b: Point) -> float:
    """Return where the cubic through two points with their slopes has its minimum, NaN if it has none."""
    d1 = a.slope + b.slope - 3 * (a.cost - b.cost) / (a.t - b.t)
    with np.errstate(invalid="ignore"):
        d2 = float(np.copysign(np.sqrt(d1 * d1 - a.slope * b.slope), b.t - a.t))
    return b.t - (b.t - a.t) * (b.slope + d2 - d1) / (b.slope - a.slope + 2 * d2)
