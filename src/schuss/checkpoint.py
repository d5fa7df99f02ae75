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
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as to_bytes

from schuss.errors import InputError, ModelFileError
from schuss.layers import Dense, parameter_count, sizes_of, views
from schuss.network import DTYPES, DenseModel, Network
from schuss.population import Population

FORMAT = 1


Model = Network | Population


def save(network: DenseModel, path: str | os.PathLike[str], *, extra: dict[str, Any] | None = None) -> None:
    """Write a network or a population, and with it ``extra``, anything that JSON can hold (such as the scaling of a table).

    The file is written beside its place, synced and renamed. Raises OSError; an older file is then untouched.
    """
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
    """Return the model of a description on given parameters, (p,) or (members, p). Raises InputError if they do not fit."""
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
    write_atomically(path, to_bytes(packed, metadata={kind: text, "sha256": _digest_of_all(text, packed)}))


def read_tensors(
    path: str | os.PathLike[str], kind: str, what: str, writer: str
) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Return the description and tensors of a file of ``write_tensors``; raise ModelFileError if it is damaged or another."""
    metadata, tensors = _open(path, what)
    if kind not in metadata:
        raise ModelFileError(f"{str(path)!r} is a safetensors file, but not one written by {writer}")
    if metadata.get("sha256") != _digest_of_all(metadata[kind], tensors):
        raise ModelFileError(f"{str(path)!r} is damaged: the digest of its contents differs from the one it carries")
    return dict(json.loads(metadata[kind])), tensors


def _open(path: str | os.PathLike[str], what: str) -> tuple[dict[str, str], dict[str, NDArray[Any]]]:
    source = Path(path)
    if not source.exists():
        raise FileNotFoundError(f"there is no {what} {str(source)!r}")
    try:
        with safe_open(source, framework="numpy") as file:
            return file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dict
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        raise ModelFileError(f"{str(source)!r} is no whole safetensors file: {error}; was it cut short?") from error


def _digest_of_all(text: str, tensors: dict[str, NDArray[Any]]) -> str:
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
    source = Path(path)
    metadata, tensors = _open(path, "model file")
    if "schuss" not in metadata:
        raise ModelFileError(f"{str(source)!r} is a safetensors file, but not one written by schuss")
    try:
        description = json.loads(metadata["schuss"])
        if description["format"] != FORMAT:
            raise ModelFileError(
                f"{str(source)!r} has format {description['format']}, this version reads {FORMAT}; update schuss"
            )
        dtype = description["dtype"]
        if dtype not in DTYPES:
            raise ValueError(f"dtype {dtype!r}")
        dense = [_dense(row) for row in description["layers"]]
        sizes = sizes_of(description["inputs"], dense)
        seeds = description.get("seeds")
        several = () if seeds is None else (len(seeds),)
        parameters = np.empty((*several, parameter_count(sizes)), dtype)
        for name, view in _tensors(parameters, sizes).items():
            tensor = tensors.pop(name)
            if tensor.shape != view.shape or tensor.dtype != view.dtype:
                raise ValueError(f"{name} has shape {tensor.shape} and dtype {tensor.dtype}")
            view[:] = tensor
        if tensors or metadata.get("sha256") != _digest(metadata["schuss"], parameters):
            raise ValueError("the digest of its contents differs from the one it carries")
        model = restored(description, parameters)
    except (KeyError, TypeError, ValueError, OverflowError, InputError) as error:
        if isinstance(error, ModelFileError):
            raise
        raise ModelFileError(f"{str(source)!r} is damaged: {error}; use another copy of it") from error
    return model, description["extra"]


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


def _seeds(model: DenseModel) -> dict[str, Any]:
    return {"seed": model.seed} if isinstance(model, Network) else {"seeds": model.seeds.tolist()}


def _tensors(parameters: NDArray[Any], sizes: tuple[int, ...]) -> dict[str, NDArray[Any]]:
    named = {}
    for number, (weights, bias) in enumerate(views(parameters, sizes)):
        named[f"layers.{number}.weights"], named[f"layers.{number}.bias"] = weights, bias
    return named


def _dense(row: dict[str, Any]) -> Dense:
    """Return the layer of a description; an initializer that was an array has left its mark in the weights, and is not
    kept.
    """
    initializer = None if row["initializer"] == "array" else str(row["initializer"])
    return Dense(row["units"], row["activation"], initializer=initializer, dropout=row.get("dropout", 0.0))


def _digest(text: str, parameters: NDArray[Any]) -> str:
    return hashlib.sha256(text.encode() + parameters.astype(parameters.dtype.newbyteorder("<")).tobytes()).hexdigest()
