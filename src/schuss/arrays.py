"""Arrays at the public edge: what users pass becomes C-ordered floats, or a line in the list of problems."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from schuss.errors import Problems

_BLOCK = 1 << 16  # rows checked at a time, so that a check never needs a second copy of the data
_EMPTY = np.empty((0, 0))


def as_matrix(
    given: ArrayLike,
    name: str,
    dtype: np.dtype[Any],
    problems: Problems,
    *,
    columns: int | None = None,
    finite: bool = True,
    vector: bool = False,
) -> NDArray[Any]:
    """Return ``given`` as a C-ordered (n, columns) array of ``dtype``, without a copy where it is one already.

    vector: a 1-D array is taken as one column. finite: NaN and infinity are a problem, named by row and column. What does
    not fit is added to ``problems``, and an empty array returned.
    """
    try:
        array = np.asarray(given)
    except (TypeError, ValueError) as error:
        problems.add(f"{name} cannot be read as an array: {error}")
        return _EMPTY
    if array.dtype.kind not in "fiub":
        problems.add(f"{name} has dtype {array.dtype}; pass real numbers, such as float32, float64 or integers")
        return _EMPTY
    if vector and array.ndim == 1:
        array = array[:, None]
    if array.ndim != 2:
        shape = f"(n, {columns if columns is not None else 'columns'})"
        advice = f"; reshape it with {name}.reshape(-1, 1) or {name}.reshape(1, -1)" if array.ndim == 1 else ""
        problems.add(f"{name} has shape {array.shape} but must be of shape {shape}, samples in rows{advice}")
        return _EMPTY
    if columns is not None and array.shape[1] != columns:
        problems.add(
            f"{name} has {array.shape[1]} columns but the network takes {columns}: {name} has shape {array.shape}"
        )
        return _EMPTY
    with np.errstate(over="ignore"):  # what overflows becomes infinite, and is reported below
        packed = np.ascontiguousarray(array, dtype=dtype)
    if finite:
        _report_first_non_finite(array, packed, name, problems)
    return packed


def as_weights(given: ArrayLike, name: str, n: int, dtype: np.dtype[Any], problems: Problems) -> NDArray[Any]:
    """Return sample weights (n,): finite, none negative, not all zero; else add to ``problems``."""
    column = as_matrix(given, name, dtype, problems, vector=True)
    if column is _EMPTY:
        return column
    if column.shape != (n, 1):
        problems.add(f"{name} has {column.size} values but x has {n} rows; pass one a row")
    elif (column < 0).any():
        problems.add(f"{name} must not be negative; row {int(np.argmax(column[:, 0] < 0))} is {column.min()}")
    elif not column.any():
        problems.add(f"{name} is all zero: there is nothing to train on")
    return column.reshape(-1)


def _report_first_non_finite(array: NDArray[Any], packed: NDArray[Any], name: str, problems: Problems) -> None:
    for first in range(0, len(packed), _BLOCK):
        bad = ~np.isfinite(packed[first : first + _BLOCK])
        if bad.any():
            row, column = (int(i) for i in np.argwhere(bad)[0])
            value = array[first + row, column]
            cause = f"too large for {packed.dtype}" if np.isfinite(value) else "not a finite number"
            problems.add(
                f"{name} holds {value} in row {first + row}, column {column}: {cause}; remove or replace such rows first"
            )
            return
