"""ONNX files and their constants: data in other files are read only from the folder of the model, and only whole."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from schuss.errors import InputError

_FIELDS = {
    TensorProto.FLOAT: ("float_data", 4),
    TensorProto.DOUBLE: ("double_data", 8),
    TensorProto.BOOL: ("int32_data", 1),
}
"""The types of constants that are read: where their numbers lie, if not in raw_data, and the bytes of one there."""


def read(path: str | os.PathLike[str]) -> Any:
    """Return the ``onnx.ModelProto`` of a file, without external data. Raises FileNotFoundError or InputError."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no ONNX file {str(path)!r}")
    try:
        return onnx.load(os.fspath(path), load_external_data=False)
    except Exception as error:  # protobuf's own, which has no stable name
        raise InputError(f"{str(path)!r} is no ONNX file: {error}") from error


def check(proto: Any) -> None:
    """Raise InputError unless onnx's checker finds that a model keeps the rules of its operators."""
    try:
        onnx.checker.check_model(proto)
    except Exception as error:  # of the checker, of protobuf, or what its C++ makes of texts that are not UTF-8
        raise InputError(f"the ONNX model is not valid: {str(error).strip()[:500]}") from error


def inline(proto: Any, folder: Path | None) -> None:
    """Put the external data of a model's constants into the model itself.

    folder: where they lie, or None if the model did not come from a file. Raises InputError for data that are not there.
    """
    for tensor in _constants(proto.graph).values():
        if tensor.data_location == TensorProto.EXTERNAL:
            content = _external(tensor, folder)
            tensor.ClearField("external_data")
            tensor.data_location = TensorProto.DEFAULT
            tensor.raw_data = content


def arrays(graph: Any) -> dict[str, Callable[[], NDArray[Any]]]:
    """Return for the name of each constant a function that makes its array; it raises InputError if it cannot be used."""
    return {name: partial(_array, name, tensor) for name, tensor in _constants(graph).items()}


def _constants(graph: Any) -> dict[str, Any]:
    found = {one.name: one for one in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and [one.name for one in node.attribute] == ["value"] and node.output:
            found[node.output[0]] = node.attribute[0].t
    return found


def _array(name: str, tensor: Any) -> NDArray[Any]:
    kind, shape = tensor.data_type, list(tensor.dims)
    if kind not in _FIELDS or tensor.HasField("segment") or any(length < 0 for length in shape):
        raise InputError(f"the constant {name!r} must be a whole array of float32, float64 or bool")
    field, size = _FIELDS[kind]
    found = len(tensor.raw_data) if tensor.HasField("raw_data") else len(getattr(tensor, field)) * size
    if found != math.prod(shape) * size:
        raise InputError(f"the constant {name!r} has the shape {shape}, of {size} bytes a number, but {found} bytes")
    array = np.array(numpy_helper.to_array(tensor))
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise InputError(f"the constant {name!r} holds numbers that are not finite")
    return array


def _external(tensor: Any, folder: Path | None) -> bytes:
    """Return the data of a tensor that lie in a file beside the model."""
    entries = {one.key: one.value for one in tensor.external_data}
    location = entries.get("location", "")
    if folder is None:
        raise InputError(
            f"the constant {tensor.name!r} lies in the file {location!r}; external data are read only beside a model that is "
            "given by its path: pass that"
        )
    if tensor.data_type not in _FIELDS:
        raise InputError(f"the constant {tensor.name!r} must be of float32, float64 or bool")
    size = math.prod(tensor.dims) * _FIELDS[tensor.data_type][1]
    try:
        home = folder.resolve(strict=True)
        source = (home / location).resolve(strict=True)
        offset, length = int(entries.get("offset", "0")), int(entries.get("length", size))
        inside = source.is_relative_to(home) and source.is_file() and not Path(location).is_absolute()
        if not inside or length != size or not 0 <= offset <= source.stat().st_size - length:
            raise ValueError("it must be a file in the folder of the model, with all the numbers of the constant")
        with source.open("rb") as file:
            file.seek(offset)
            content: bytes = file.read(length)
        return content
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(f"the constant {tensor.name!r} cannot be read from {location!r}: {error}") from error
