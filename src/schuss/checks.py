"""What a training is given, checked: data that fit a model, whole numbers, and when to stop early."""

from __future__ import annotations

from dataclasses import dataclass
from operator import index
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from schuss.arrays import as_matrix
from schuss.engines.base import Data
from schuss.errors import InputError, Problems
from schuss.network import Network
from schuss.population import Population

Model = Network | Population


@dataclass(frozen=True)
class EarlyStopping:
    """End a member once its validation cost has not fallen by more than ``min_delta`` for ``patience`` epochs.

    The cost is looked at every ``record_every`` epochs of the run. restore_best: give the member, when the run ends for
    whatever reason, the parameters that had the lowest validation cost.

    >>> EarlyStopping(patience=20)
    EarlyStopping(patience=20, min_delta=0.0, restore_best=True)
    """

    patience: int = 10
    min_delta: float = 0.0
    restore_best: bool = True

    def __post_init__(self) -> None:
        problems = Problems("stop early")
        whole_number(self.patience, "patience", problems)
        if not (isinstance(self.min_delta, int | float) and 0 <= self.min_delta < np.inf):
            problems.add(f"min_delta must be a number, at least 0; got {self.min_delta!r}")
        problems.raise_if_any()


def data_for(
    model: Model, x: ArrayLike, y: ArrayLike, prefix: str, problems: Problems
) -> tuple[Data, tuple[ArrayLike, ArrayLike]]:
    """Return x and y packed for a model, and as they were given; add what does not fit to ``problems``."""
    outputs = model.sizes[-1]
    rows = as_matrix(x, f"{prefix}x", model.dtype, problems, columns=model.inputs)
    targets = as_matrix(y, f"{prefix}y", model.dtype, problems, vector=outputs == 1)
    shape = f"({len(rows)}, {outputs})" + (f" or ({len(rows)},)" if outputs == 1 else "")
    if targets.size and targets.shape[1] != outputs:
        problems.add(
            f"{prefix}y has shape {targets.shape} but the network gives {outputs} output{'s' * (outputs != 1)}; "
            f"pass {prefix}y of shape {shape}"
        )
    elif rows.size and targets.size and len(rows) != len(targets):
        problems.add(f"{prefix}x has {len(rows)} rows but {prefix}y has {len(targets)}; pass one target a sample")
    elif rows.shape == (0, model.inputs):
        problems.add(f"{prefix}x has no rows; pass at least one sample")
    return Data(rows, targets), (x, y)


def validation_for(model: Model, validation: object, problems: Problems) -> Data | None:
    """Return validation data packed for a model, or None if there are none."""
    if validation is None:
        return None
    if not isinstance(validation, tuple | list) or len(validation) != 2:
        problems.add(f"validation must be a pair (x, y); got {type(validation).__name__}")
        return None
    return data_for(model, validation[0], validation[1], "validation ", problems)[0]


def whole_number(value: Any, name: str, problems: Problems, *, least: int = 1, most: int | None = None) -> int:
    """Return a whole number within limits; add to ``problems`` if it is none."""
    try:
        number = index(value)
    except TypeError:
        number = least - 1
    if isinstance(value, bool) or number < least or (most is not None and number > most):
        limit = f"at least {least}" if most is None else f"from {least} to {most}"
        problems.add(f"{name} must be a whole number, {limit}; got {value!r}")
    return number


def columns_of(x: ArrayLike) -> int:
    """Return how many inputs a table has; raise InputError if it is none."""
    shape = np.shape(x)
    if len(shape) != 2 or shape[1] < 1:
        raise InputError(f"x must be a table of shape (n, inputs); got shape {shape}")
    return int(shape[1])
