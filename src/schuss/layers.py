"""``Dense``, the description of a layer, and where its numbers lie in the flat parameter vector."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from operator import index
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from schuss import activations, initializers
from schuss.activations import Activation
from schuss.errors import InputError
from schuss.initializers import FixedWeights, Initializer


@dataclass(frozen=True, init=False)
class Dense:
    """Describe a fully connected layer, ``a = f(W a_prev + b)``.

    units: number of outputs, at least 1. activation: a name of the table (linear, sigmoid, tanh, relu, leaky_relu, elu,
    gelu, silu, softplus, exp; softmax for the last layer). initializer: glorot, he, lecun, article, zeros, or an array
    of shape (units, inputs of the layer); by default the one that suits the activation. dropout: the share of the
    outputs, in [0, 1), that each training step sets to 0, scaling up the others; predictions use all (Srivastava et
    al., JMLR 2014).

    Raises InputError for an unknown name, a number of units that is not a positive integer, or another dropout.

    >>> Dense(32, "sigmoid")
    Dense(32, 'sigmoid')
    """

    units: int
    activation: Activation
    initializer: Initializer | FixedWeights
    dropout: float

    def __init__(
        self,
        units: int,
        activation: str | Activation = "linear",
        *,
        initializer: str | Initializer | ArrayLike | None = None,
        dropout: float = 0.0,
    ) -> None:
        try:
            count = index(units)
        except TypeError:
            count = 0
        if not 1 <= count < 2**31 or isinstance(units, bool):
            raise InputError(f"a layer needs a whole number of units, at least 1 and less than 2**31; got {units!r}")
        row = activations.resolve(activation)
        object.__setattr__(self, "units", count)
        object.__setattr__(self, "activation", row)
        chosen = initializers.resolve(row.initializer if initializer is None else initializer)
        object.__setattr__(self, "initializer", chosen)
        if isinstance(dropout, bool) or not (isinstance(dropout, int | float) and 0 <= dropout < 1):
            raise InputError(f"dropout must be a share in [0, 1); got {dropout!r}")
        object.__setattr__(self, "dropout", float(dropout))

    def __repr__(self) -> str:
        name = self.activation.name
        activation = "" if name == "linear" else f", {name!r}"
        own = "" if self.initializer.name == self.activation.initializer else f", initializer={self.initializer.name!r}"
        dropout = f", dropout={self.dropout:g}" if self.dropout else ""
        return f"Dense({self.units}{activation}{own}{dropout})"


def sizes_of(inputs: int, layers: Sequence[Dense]) -> tuple[int, ...]:
    """Return d0..dL."""
    return (inputs, *(layer.units for layer in layers))


def parameter_count(sizes: Sequence[int]) -> int:
    """Return the length of the flat vector: the weights of all layers, then the biases."""
    return sum((fan_in + 1) * fan_out for fan_in, fan_out in pairwise(sizes))


def weight_count(sizes: Sequence[int]) -> int:
    """Return how many of the parameters are weights; the biases follow them."""
    return sum(fan_in * fan_out for fan_in, fan_out in pairwise(sizes))


def views(parameters: NDArray[Any], sizes: Sequence[int]) -> list[tuple[NDArray[Any], NDArray[Any]]]:
    """Return for each layer its weights (d[l], d[l-1]) and biases (d[l],), as views of the flat vector.

    For parameters (members, p), the views have a first axis of members.
    """
    pairs = []
    several = parameters.shape[:-1]
    weights_at, biases_at = 0, weight_count(sizes)
    for fan_in, fan_out in pairwise(sizes):
        flat = parameters[..., weights_at : weights_at + fan_in * fan_out]
        weights = np.lib.stride_tricks.as_strided(
            flat,
            (*several, fan_out, fan_in),
            (*flat.strides[:-1], fan_in * flat.itemsize, flat.itemsize),
        )
        pairs.append((weights, parameters[..., biases_at : biases_at + fan_out]))
        weights_at, biases_at = weights_at + fan_in * fan_out, biases_at + fan_out
    return pairs


_MEMBERS_AT_ONCE = 4096  # whose first parameters are drawn together, in float64


def draw_parameters(
    inputs: int, layers: Sequence[Dense], seeds: NDArray[np.uint64], dtype: np.dtype[Any]
) -> NDArray[Any]:
    """Return first parameters (members, p), each row keyed by its seed."""
    sizes = sizes_of(inputs, layers)
    parameters = np.empty((len(seeds), parameter_count(sizes)), dtype)
    for first in range(0, len(seeds), _MEMBERS_AT_ONCE):
        some = slice(first, first + _MEMBERS_AT_ONCE)
        for number, (layer, (weights, biases)) in enumerate(zip(layers, views(parameters[some], sizes), strict=True)):
            layer.initializer.draw(weights, biases, seeds[some], number)
    return parameters
