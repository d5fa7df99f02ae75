"""``Network``: one flat parameter vector in host memory, and views of it."""

from __future__ import annotations

import os
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from operator import index
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from schuss import engines
from schuss.activations import Activation
from schuss.arrays import as_matrix, cuda_device
from schuss.errors import InputError, Problems
from schuss.layers import Dense, draw_parameters, parameter_count, sizes_of, views
from schuss.resources import check_memory

DTYPES = ("float32", "float64")
_BLOCK = 1 << 16  # rows that are packed at a time


@dataclass(frozen=True)
class Layer:
    """A layer of a network: its description, and writable views of its weights (units, inputs) and bias (units,)."""

    dense: Dense
    weights: NDArray[Any]
    bias: NDArray[Any]

    @property
    def units(self) -> int:
        """The number of outputs."""
        return self.dense.units

    @property
    def activation(self) -> str:
        """The name of the activation."""
        return self.dense.activation.name

    def __repr__(self) -> str:
        return f"<layer {self.weights.shape[1]} -> {self.units} {self.activation}>"


class DenseModel:
    """What networks and populations share: an architecture, and parameters in host memory."""

    inputs: int
    dense: tuple[Dense, ...]
    dtype: np.dtype[Any]
    seeds: NDArray[np.uint64]  # one a member
    _parameters: NDArray[Any]

    @property
    def parameters(self) -> NDArray[Any]:
        """All parameters, (p,) or (members, p), writable; training changes them in place.

        To set them: ``parameters[:] = values``.
        """
        return self._parameters

    @property
    def sizes(self) -> tuple[int, ...]:
        """d0..dL: the inputs, then the units of each layer."""
        return sizes_of(self.inputs, self.dense)

    @property
    def activations(self) -> tuple[Activation, ...]:
        """The activation of each layer."""
        return tuple(layer.activation for layer in self.dense)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model to a safetensors file, in one step: a killed process leaves an older file whole.

        ``schuss.load`` gives it back. Raises OSError where the disk refuses; the old file is then untouched.
        """
        from schuss import checkpoint  # it imports this module, to make models

        checkpoint.save(self, path)

    def _outputs(self, x: ArrayLike) -> NDArray[Any]:
        """Return the outputs (members, n, dL) for x (n, inputs); raise InputError if it does not fit."""
        problems = Problems("predict")
        rows = as_matrix(
            x, "x", self.dtype, problems, columns=self.inputs, finite=False, pack=cuda_device(x) is not None
        )
        problems.raise_if_any()
        parameters = self._parameters.reshape(-1, self._parameters.shape[-1])
        sizes, activations, n = self.sizes, self.activations, len(rows)
        if n <= _BLOCK or (rows.dtype == self.dtype and rows.flags.c_contiguous):
            return engines.predict(parameters, sizes, activations, _packed(rows, self.dtype))
        check_memory(len(parameters) * n * sizes[-1] * self.dtype.itemsize, "the outputs", n, "rows")
        outputs = np.empty((len(parameters), n, sizes[-1]), self.dtype)
        for first in range(0, n, _BLOCK):  # never a second copy of all of x
            block = _packed(rows[first : first + _BLOCK], self.dtype)
            outputs[:, first : first + _BLOCK] = engines.predict(parameters, sizes, activations, block)
        return outputs


def _packed(rows: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    with np.errstate(over="ignore"):  # what overflows becomes infinite
        return np.ascontiguousarray(rows, dtype=dtype)


class Network(DenseModel):
    """A dense network: one flat vector of parameters, the weights of all layers first, then the biases.

    inputs: number of columns of x. layers: descriptions, first to last. seed: keys the first weights, and any later
    randomness of this network; one is drawn and kept if none is given. dtype: "float32" or "float64".

    Raises InputError for inputs or layers that make no network, or more parameters than memory holds.

    >>> network = Network(4, [Dense(32, "sigmoid"), Dense(1)], seed=1)
    >>> network
    Network(4, [Dense(32, 'sigmoid'), Dense(1)], seed=1)  # 193 parameters, float32
    >>> network([[0.1, 0.2, 0.3, 0.4]]).shape
    (1, 1)
    """

    def __init__(
        self, inputs: int, layers: Sequence[Dense], *, seed: int | None = None, dtype: DTypeLike = "float32"
    ) -> None:
        self.inputs, self.dense, self.dtype = check_architecture(inputs, layers, dtype)
        self.seed = secrets.randbits(32) if seed is None else check_seed(seed)
        self.seeds = np.array([self.seed], np.uint64)
        p = parameter_count(self.sizes)
        check_memory(p * self.dtype.itemsize, f"{p} parameters", p, "parameters")
        self._parameters = draw_parameters(self.inputs, self.dense, self.seeds, self.dtype)[0]

    @classmethod
    def from_parameters(cls, inputs: int, layers: Sequence[Dense], parameters: NDArray[Any], *, seed: int) -> Self:
        """Return a network on given memory: ``parameters`` is a flat, contiguous float32 or float64 vector.

        Of read-only memory, a memory-mapped file for example, the network predicts but cannot be trained; its ``copy()`` can.
        Raises InputError for memory that holds no such network.
        """
        network = cls.__new__(cls)
        network.inputs, network.dense, network.dtype = check_architecture(inputs, layers, dtype_of(parameters))
        network.seed = check_seed(seed)
        network.seeds = np.array([network.seed], np.uint64)
        network._parameters = check_memory_of(
            parameters, (parameter_count(network.sizes),), f"a network of {network.sizes}"
        )
        return network

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers, with writable views of ``parameters``."""
        pairs = views(self.parameters, self.sizes)
        return tuple(Layer(dense, W, b) for dense, (W, b) in zip(self.dense, pairs, strict=True))

    def __call__(self, x: ArrayLike) -> NDArray[Any]:
        """Return the outputs (n, dL) for x (n, inputs), in the network's dtype.

        x may be of any real dtype and order. A NaN in a row makes the outputs of that row NaN. Raises InputError for
        another shape or an x that holds no real numbers.
        """
        outputs: NDArray[Any] = self._outputs(x)[0]
        return outputs

    def copy(self) -> Self:
        """Return an independent network with the same parameters and seed."""
        return self.from_parameters(self.inputs, self.dense, self.parameters.copy(), seed=self.seed)

    def __repr__(self) -> str:
        kind = "" if self.dtype == np.float32 else f", dtype={self.dtype.name!r}"
        return (
            f"Network({self.inputs}, {list(self.dense)}, seed={self.seed}{kind})"
            f"  # {self.parameters.size} parameters, {self.dtype.name}"
        )


def check_architecture(
    inputs: int, layers: Sequence[Dense], dtype: DTypeLike
) -> tuple[int, tuple[Dense, ...], np.dtype[Any]]:
    """Return the arguments of a network in their own types; raise InputError with all that is wrong with them."""
    problems = Problems("make a network")
    try:
        count = index(inputs)
    except TypeError:
        count = 0
    if not 1 <= count < 2**31 or isinstance(inputs, bool):
        problems.add(f"inputs must be a whole number, at least 1 and less than 2**31; got {inputs!r}")
    given = tuple(layers) if isinstance(layers, Sequence) else ()
    if not given or not all(isinstance(layer, Dense) for layer in given):
        problems.add(f"layers must be a list of at least one Dense(units, activation); got {layers!r}")
    for layer in given[:-1] if all(isinstance(layer, Dense) for layer in given) else ():
        if layer.activation.joint:
            problems.add(f"{layer.activation.name} is for the last layer only; got {layers!r}")
    if given and isinstance(given[-1], Dense):
        if given[-1].dropout:
            problems.add(
                "the last layer must have no dropout: it would train the network to other outputs than it predicts"
            )
        if given[-1].activation.joint and given[-1].units < 2:
            problems.add(
                'softmax needs at least 2 units; for two classes use Dense(2, "softmax") or Dense(1, "sigmoid")'
            )
    try:
        kind = np.dtype(dtype).newbyteorder("=")
    except TypeError:
        kind = np.dtype(object)
    if kind.name not in DTYPES:
        problems.add(f"dtype must be one of {', '.join(DTYPES)}; got {dtype!r}")
    problems.raise_if_any()
    return count, given, kind


def dtype_of(parameters: object) -> np.dtype[Any]:
    """Return the dtype of the memory of parameters; raise InputError if it is no array."""
    if not isinstance(parameters, np.ndarray):
        raise InputError(
            f"parameters must be a NumPy array, the memory that is trained; got {type(parameters).__name__}"
        )
    dtype: np.dtype[Any] = parameters.dtype
    return dtype


def check_memory_of(parameters: NDArray[Any], shape: tuple[int, ...], model: str) -> NDArray[Any]:
    """Return the memory of a model's parameters; raise InputError, with all that is wrong, if kernels cannot work on it."""
    problems = Problems("use these parameters")
    if parameters.shape != shape:
        problems.add(f"{model} has parameters of shape {shape}; got shape {parameters.shape}")
    if not parameters.dtype.isnative:
        problems.add(
            f"their bytes are in the order of another machine; pass parameters.astype({parameters.dtype.name!r})"
        )
    if not (parameters.flags.c_contiguous and parameters.flags.aligned):
        problems.add("they must be contiguous in C order, and aligned; pass numpy.array(parameters)")
    problems.raise_if_any()
    return parameters


def check_seed(seed: int) -> int:
    """Return a seed as an int; raise InputError if it is none."""
    try:
        number = index(seed)
    except TypeError:
        number = -1
    if not 0 <= number < 2**64:
        raise InputError(f"a seed must be a whole number from 0 to 2**64 - 1; got {seed!r}")
    return number
