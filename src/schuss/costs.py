"""The table of costs: value of a sample and its derivative by the output.

A new cost is one row here and one pair of lines in ``engines/kernels/costs.h``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from schuss.errors import InputError, unknown_name

Array = NDArray[np.floating]


@dataclass(frozen=True)
class Cost:
    """A cost of one sample, ``c(y, a)``, summed over the outputs.

    ``value(y, a)`` maps arrays (..., n, outputs) that broadcast to (..., n); ``derivative(y, a)`` is dc/da, (n, outputs).
    """

    name: str
    value: Callable[[Array, Array], Array]
    derivative: Callable[[Array, Array], Array]

    def __reduce__(self) -> tuple[Callable[[str], Cost], tuple[str]]:
        return resolve, (self.name,)

    def __repr__(self) -> str:
        return f"<cost {self.name}>"


_ROWS = (Cost("quadratic", lambda y, a: 0.5 * np.square(a - y).sum(axis=-1), lambda y, a: a - y),)

COSTS = {row.name: row for row in _ROWS}


def resolve(cost: str | Cost) -> Cost:
    """Return the row of the table for a name or a row; raise ``InputError`` for anything else."""
    name = cost.name if isinstance(cost, Cost) else cost
    if not isinstance(name, str) or name not in COSTS:
        raise InputError(unknown_name("cost", name, COSTS))
    return COSTS[name]
