"""Drawing the first weights.

Glorot and Bengio, AISTATS 2010; He et al., ICCV 2015; LeCun et al., "Efficient BackProp", 1998. ``article`` is the one of
the articles this library grew from: W ~ N(0, 1) / fan_in, b ~ N(0, 1). The others leave the biases at 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from schuss import philox
from schuss.errors import InputError, unknown_name

Array = NDArray[Any]
Seeds = NDArray[np.uint64]

_NUMBERS_AT_ONCE = 1 << 20


@dataclass(frozen=True)
class Initializer:
    """A normal distribution of first weights, by the fan in and the fan out of a layer."""

    name: str
    deviation: Callable[[int, int], float]
    bias_deviation: float = 0.0

    def __reduce__(self) -> tuple[Callable[[str], Initializer | FixedWeights], tuple[str]]:
        return resolve, (self.name,)

    def __repr__(self) -> str:
        return f"<initializer {self.name}>"

    def draw(self, weights: Array, biases: Array, seeds: Seeds, layer: int) -> None:
        """Fill weights (members, fan_out, fan_in) and biases (members, fan_out), keyed by seed and the layer's index.

        A block of rows at a time: the numbers are drawn in float64, and never all at once.
        """
        members, fan_out, fan_in = weights.shape
        rows = max(1, _NUMBERS_AT_ONCE // (members * fan_in))
        for first in range(0, fan_out, rows):
            block = weights[:, first : first + rows]
            count = block.shape[1] * fan_in
            drawn = philox.normal(count, seeds, philox.STREAM_WEIGHTS, layer, first * fan_in)
            block[...] = drawn.reshape(block.shape) * self.deviation(fan_in, fan_out)
        biases[...] = philox.normal(fan_out, seeds, philox.STREAM_BIASES, layer) * self.bias_deviation


class FixedWeights:
    """First weights given as an array; the biases start at 0."""

    name = "array"

    def __init__(self, weights: ArrayLike) -> None:
        array = np.array(weights, dtype=np.float64)
        if array.ndim != 2 or not np.isfinite(array).all():
            raise InputError(
                f"an initializer array must be finite and of shape (units, inputs of the layer); got shape {array.shape}"
            )
        array.flags.writeable = False
        self.weights = array

    def draw(self, weights: Array, biases: Array, seeds: Seeds, layer: int) -> None:
        """Fill weights (members, fan_out, fan_in) with those given, checked against the layer, and biases with 0."""
        _, fan_out, fan_in = weights.shape
        if self.weights.shape != (fan_out, fan_in):
            raise InputError(
                f"layer {layer} has {fan_out} units and {fan_in} inputs, but its initializer array has shape "
                f"{self.weights.shape}; pass one of shape ({fan_out}, {fan_in})"
            )
        weights[...], biases[...] = self.weights, 0

    def __eq__(self, other: object) -> bool:
        return isinstance(other, FixedWeights) and np.array_equal(self.weights, other.weights)

    def __hash__(self) -> int:
        return hash((self.weights.shape, self.weights.tobytes()))

    def __repr__(self) -> str:
        return f"<initializer array {self.weights.shape}>"


_ROWS = (
    Initializer("glorot", lambda fan_in, fan_out: math.sqrt(2 / (fan_in + fan_out))),
    Initializer("he", lambda fan_in, fan_out: math.sqrt(2 / fan_in)),
    Initializer("lecun", lambda fan_in, fan_out: math.sqrt(1 / fan_in)),
    Initializer("article", lambda fan_in, fan_out: 1 / fan_in, bias_deviation=1.0),
    Initializer("zeros", lambda fan_in, fan_out: 0.0),
)

INITIALIZERS = {row.name: row for row in _ROWS}


def resolve(initializer: str | Initializer | FixedWeights | ArrayLike) -> Initializer | FixedWeights:
    """Return the initializer for a name, a row of the table or an array of weights."""
    if isinstance(initializer, Initializer | FixedWeights):
        return initializer
    if isinstance(initializer, str):
        if initializer not in INITIALIZERS:
            raise InputError(unknown_name("initializer", initializer, [*INITIALIZERS, "or an array of weights"]))
        return INITIALIZERS[initializer]
    return FixedWeights(initializer)
