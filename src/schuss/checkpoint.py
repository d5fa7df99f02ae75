"""Model files: safetensors with the description in the metadata, checked by a digest, written in one step.

A file holds ``layers.0.weights`` (units, inputs), ``layers.0.bias`` (units,) and so on, readable by any safetensors
reader; for a population they have a first axis of members. The metadata has two entries: ``schuss``, the description as
JSON, and ``sha256``, the digest of that text and of all tensors in order.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as to_bytes

from schuss.activations import ACTIVATIONS
from schuss.errors import InputError, ModelFileError
from schuss.initializers import INITIALIZERS
from schuss.layers import Dense, parameter_count, views
from schuss.network import DTYPES, DenseModel, Network
from schuss.population import Population
from schuss.schema import Check, MismatchError, anything, key_of, listed, mapped, number, one_of, parsed, record, whole

FORMAT = 1

Model = Network | Population
Tensors = dict[str, tuple[str, tuple[int, ...]]]
"""The dtype and shape of tensors, by name."""
Layout = Callable[[dict[str, Any], dict[str, tuple[int, ...]]], Tensors]
"""For a description and the shapes that a file has: the dtype and shape of each tensor that it must have, and no others."""

MOST_UNITS = 2**31 - 1  # the engines count them in 32 bits
SEED = whole(0, 2**64 - 1)
_DTYPES = {"float32": "F32", "float64": "F64", "int32": "I32", "int64": "I64", "bool": "BOOL"}
_LAYER = record(
    {
        "units": whole(1, MOST_UNITS),
        "activation": key_of(ACTIVATIONS, "the name of an activation"),
        "initializer": key_of((*INITIALIZERS, "array"), "the name of an initializer"),
    },
    {"dropout": number(0, 1)},
)
_NETWORK: dict[str, Check] = {
    "inputs": whole(1, MOST_UNITS),
    "layers": listed(_LAYER, 1),
    "dtype": one_of(*DTYPES),
}
_SEEDS: dict[str, Check] = {"seed": SEED, "seeds": listed(SEED, 1)}


def architecture(**others: Check) -> Check:
    """Return the schema of what ``describe`` gives, with other entries beside it."""
    entries = record({**_NETWORK, **others}, _SEEDS)

    def check(value: Any, name: str) -> None:
        entries(value, name)
        if ("seed" in value) == ("seeds" in value):
            raise MismatchError("a network has a seed, a population seeds; got both or neither")

    return check


_MODEL = architecture(format=one_of(FORMAT), extra=mapped(lambda key: True, anything, "a text"))


def save(network: DenseModel, path: str | os.PathLike[str], *, extra: dict[str, Any] | None = None) -> None:
    """Write a network or a population, and with it ``extra``, anything that JSON can hold (such as the scaling of a table).

    The file is written beside its place, synced and renamed. Raises OSError, and InputError for parameters that are not
    finite; an older file is then untouched.
    """
    if not np.isfinite(network.parameters).all():
        raise InputError("cannot save: the parameters are not all finite numbers, and the file could not be loaded")
    description = {"format": FORMAT, **describe(network), "extra": extra or {}}
    tensors = {name: np.ascontiguousarray(array) for name, array in _tensors(network.parameters, network.sizes).items()}
    text = json.dumps(description, sort_keys=True, ensure_ascii=False, allow_nan=False)
    metadata = {"schuss": text, "sha256": _digest(text, network.parameters)}
    write_atomically(path, to_bytes(tensors, metadata=metadata))


def describe(network: DenseModel) -> dict[str, Any]:
    """Return the architecture, seeds and dtype of a model as plain data."""
    return {
        "inputs": network.inputs,
        "layers": [
            {
                "units": dense.units,
                "activation": dense.activation.name,
                "initializer": dense.initializer.name,
                "dropout": dense.dropout,
            }
            for dense in network.dense
        ],
        **_seeds(network),
        "dtype": network.dtype.name,
    }


def restored(description: dict[str, Any], parameters: NDArray[Any]) -> Model:
    """Return the model of a description that fits ``ARCHITECTURE`` on given parameters, (p,) or (members, p).

    Raises MismatchError for parameters that are not finite, InputError if the layers make no network.
    """
    if not np.isfinite(parameters).all():
        raise MismatchError("the parameters are not all finite numbers")
    dense = [_dense(row) for row in description["layers"]]
    seeds = description.get("seeds")
    if seeds is None:
        return Network.from_parameters(description["inputs"], dense, parameters.reshape(-1), seed=description["seed"])
    return Population.from_parameters(description["inputs"], dense, parameters, seeds=np.array(seeds, np.uint64))


def write_tensors(
    path: str | os.PathLike[str], kind: str, description: dict[str, Any], tensors: dict[str, NDArray[Any]]
) -> None:
    """Write tensors with a description under the name ``kind``, and a digest of both, in one step. Raises OSError."""
    text = json.dumps(description, sort_keys=True, ensure_ascii=False)
    packed = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    write_atomically(path, to_bytes(packed, metadata={kind: text, "sha256": digest_of_all(text, packed)}))


def read_tensors(
    path: str | os.PathLike[str], kind: str, what: str, writer: str, check: Check, layout: Layout
) -> tuple[dict[str, Any], str, str, dict[str, NDArray[Any]]]:
    """Return the description, its text, the digest and the tensors of a file.

    The description is of the name ``kind`` and must fit ``check``; the tensors must be those of ``layout``. Both are compared
    with what the file says of itself, and that with its length, before any tensor is read. Raises FileNotFoundError, or
    ModelFileError for a file that is damaged or of another kind.
    """
    source = Path(path)
    if not source.exists():
        raise FileNotFoundError(f"there is no {what} {str(source)!r}")
    if not source.is_file():
        raise ModelFileError(f"{str(source)!r} is no file")
    with refused(source, what), safe_open(source, framework="numpy") as file:
        metadata = file.metadata() or {}
        if kind not in metadata:
            raise ModelFileError(f"{str(source)!r} is a safetensors file, but not one written by {writer}")
        description = parsed(metadata[kind])
        found = description.get("format") if isinstance(description, dict) else None
        if type(found) is int and found > FORMAT:
            raise ModelFileError(f"{str(source)!r} has format {found}, this version reads {FORMAT}; update schuss")
        check(description, "")
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - it is no dict
        present = {name: (one.get_dtype(), tuple(one.get_shape())) for name, one in slices.items()}
        _compare(present, layout(description, {name: shape for name, (_, shape) in present.items()}))
        tensors = {name: file.get_tensor(name) for name in present}
        return description, metadata[kind], metadata.get("sha256", ""), tensors


@contextmanager
def refused(path: str | os.PathLike[str], what: str) -> Iterator[None]:
    """Raise ModelFileError for whatever is found wrong with a file while it is read."""
    try:
        yield
    except ModelFileError:
        raise
    except (SafetensorError, OSError) as error:
        raise ModelFileError(f"{str(path)!r} is no whole safetensors file: {error}; was it cut short?") from error
    except (MismatchError, InputError) as error:
        raise ModelFileError(f"{str(path)!r} is damaged: {error}; use another {what}") from error
    except MemoryError as error:
        raise ModelFileError(f"{str(path)!r} is larger than the memory that is free") from error


def _compare(found: Tensors, expected: Tensors) -> None:
    """Raise MismatchError unless the tensors found, dtype and shape by name, are those that are expected."""
    for name, (dtype, shape) in expected.items():
        if name not in found:
            raise MismatchError(f"{name} is missing")
        if found[name] != (_DTYPES[dtype], shape):
            raise MismatchError(
                f"{name} must be {dtype} of shape {shape}; got {found[name][0]} of shape {found[name][1]!s:.80}"
            )
    unknown = [name for name in found if name not in expected]
    if unknown:
        raise MismatchError(f"{unknown[0]!r:.80} is no tensor of such a file")


def digest_of_all(text: str, tensors: dict[str, NDArray[Any]]) -> str:
    """Return the digest of a description and of all tensors in the order of their names."""
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype.str} {tensor.shape}".encode())
        digest.update(tensor.tobytes())
    return digest.hexdigest()


def load(path: str | os.PathLike[str]) -> Model:
    """Return the network of a model file, or the population.

    Raises FileNotFoundError, or ModelFileError that says what is wrong with the file.
    """
    return load_with_extra(path)[0]


def load_with_extra(path: str | os.PathLike[str]) -> tuple[Model, dict[str, Any]]:
    """Return the network or population of a model file and what ``save`` was given as ``extra``."""
    description, text, digest, tensors = read_tensors(path, "schuss", "model file", "schuss", _MODEL, _layout)
    with refused(path, "copy of it"):
        parameters = np.empty((*_several(description), _count(description)), description["dtype"])
        for name, view in _tensors(parameters, _sizes(description)).items():
            view[:] = tensors.pop(name)
        if digest != _digest(text, parameters):
            raise MismatchError("the digest of its contents differs from the one it carries")
        return restored(description, parameters), description["extra"]


def write_atomically(path: str | os.PathLike[str], content: bytes) -> None:
    """Replace a file in one step: a process killed on the way, or a full disk, leaves the old one whole."""
    target = Path(path)
    if target.is_dir():
        raise IsADirectoryError(f"{str(target)!r} is a folder; name a file in it")
    if not target.parent.is_dir():
        raise FileNotFoundError(f"cannot write {str(target)!r}: there is no folder {str(target.parent)!r}")
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, target)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the new name itself
    finally:
        os.close(folder)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sizes(description: dict[str, Any]) -> tuple[int, ...]:
    return description["inputs"], *(layer["units"] for layer in description["layers"])


def _count(description: dict[str, Any]) -> int:
    return parameter_count(_sizes(description))


def _several(description: dict[str, Any]) -> tuple[int, ...]:
    return (len(description["seeds"]),) if "seeds" in description else ()


def _layout(description: dict[str, Any], present: dict[str, tuple[int, ...]]) -> Tensors:
    """Return what a model file holds (see ``Layout``)."""
    several, dtype = _several(description), description["dtype"]
    expected: Tensors = {}
    for level, (inputs, units) in enumerate(pairwise(_sizes(description))):
        expected[f"layers.{level}.weights"] = dtype, (*several, units, inputs)
        expected[f"layers.{level}.bias"] = dtype, (*several, units)
    return expected


def _seeds(model: DenseModel) -> dict[str, Any]:
    return {"seed": model.seed} if isinstance(model, Network) else {"seeds": model.seeds.tolist()}


def _tensors(parameters: NDArray[Any], sizes: tuple[int, ...]) -> dict[str, NDArray[Any]]:
    named = {}
    for level, (weights, bias) in enumerate(views(parameters, sizes)):
        named[f"layers.{level}.weights"], named[f"layers.{level}.bias"] = weights, bias
    return named


def _dense(row: dict[str, Any]) -> Dense:
    """Return the layer of a description; an initializer that was an array has left its mark in the weights, and is not
    kept.
    """
    initializer = None if row["initializer"] == "array" else str(row["initializer"])
    return Dense(row["units"], row["activation"], initializer=initializer, dropout=row.get("dropout", 0.0))


def _digest(text: str, parameters: NDArray[Any]) -> str:
    return hashlib.sha256(text.encode() + parameters.astype(parameters.dtype.newbyteorder("<")).tobytes()).hexdigest()
