"""Arrays at the public edge: what users pass becomes C-ordered floats, or a line in the list of problems."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from schuss.errors import Problems

_BLOCK = 1 << 16  # rows checked at a time, so that a check never needs a second copy of the data
_MOST_ROWS = 1 << 32
_EMPTY = np.empty((0, 0))
_HOST = (1, 3, 11)  # types of DLPack: memory of the processor, and what is pinned for CUDA and ROCm
_CUDA = 2


def cuda_device(given: object) -> int | None:
    """Return the number of the CUDA device that holds an array (of CuPy, PyTorch, anything with DLPack), None for others."""
    place = getattr(given, "__dlpack_device__", None)
    if place is None or isinstance(given, np.ndarray):
        return None
    kind, number = place()
    return int(number) if int(kind) == _CUDA else None


def on_host(array: Any) -> NDArray[Any]:
    """Return an array of the host for one of the host or of CuPy."""
    return array if isinstance(array, np.ndarray) else np.asarray(array.get())


def as_matrix(
    given: ArrayLike,
    name: str,
    dtype: np.dtype[Any],
    problems: Problems,
    *,
    columns: int | None = None,
    finite: bool = True,
    vector: bool = False,
    pack: bool = True,
) -> NDArray[Any]:
    """Return ``given`` as a C-ordered (n, columns) array of ``dtype``, without a copy where it is one already.

    pack: False leaves dtype and order as they were given; what does not fit into ``dtype`` is a problem nevertheless.
    vector: a 1-D array is taken as one column. finite: NaN and infinity are a problem, named by row and column. What does
    not fit is added to ``problems``, and an empty array returned. An array of CuPy stays where it is, if it is not packed.
    """
    stays = cuda_device(given) is not None
    if stays and pack:
        problems.add(
            f"{name} is on a GPU; pass a copy on the host, such as {name}.cpu().numpy() or cupy.asnumpy({name})"
        )
        return _EMPTY
    try:
        array: Any = given if stays else np.asarray(unmasked(given))
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
    if len(array) >= _MOST_ROWS:
        problems.add(
            f"{name} has {len(array)} rows; shuffles number at most {_MOST_ROWS - 1}: pass a part of them at a time"
        )
        return _EMPTY
    if finite:
        _report_first_non_finite(array, dtype, name, problems)
    with np.errstate(over="ignore"):  # what overflows becomes infinite, and was reported
        return np.ascontiguousarray(array, dtype=dtype) if pack else array


def unmasked(given: Any) -> Any:
    """Return what is given, but of a masked array a copy with NaN for the values that it hides: they are missing values."""
    if (
        not isinstance(given, np.ma.MaskedArray)
        or given.dtype.kind not in "fiub"
        or not np.ma.getmaskarray(given).any()
    ):
        return given
    values = np.array(given.data, given.dtype if given.dtype.kind == "f" else np.float64)
    values[np.ma.getmaskarray(given)] = np.nan
    return values


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


def _report_first_non_finite(array: NDArray[Any], dtype: np.dtype[Any], name: str, problems: Problems) -> None:
    if array.dtype.kind in "iub":
        return
    for first in range(0, len(array), _BLOCK):
        with np.errstate(over="ignore"):
            bad = ~np.isfinite(array[first : first + _BLOCK].astype(dtype, copy=False))
        if bad.any():
            row, column = (int(i) for i in np.argwhere(bad)[0])
            value = array[first + row, column]
            cause = f"too large for {dtype}" if np.isfinite(value) else "not a finite number"
            problems.add(
                f"{name} holds {value} in row {first + row}, column {column}: {cause}; remove or replace such rows first"
            )
            return
