"""The table of activations: name, NumPy formula, derivative, ONNX operator, default initializer.

A new element-wise activation is one row here and one pair of lines in ``engines/kernels/activations.h``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from schuss.errors import InputError, unknown_name

Array = NDArray[np.floating]

LEAKY_SLOPE = 0.01


@dataclass(frozen=True)
class Activation:
    """A function of a layer, ``a = f(z)``: element-wise, or ``joint`` over the outputs of a sample, for the last layer only.

    ``derivative`` takes the output a where ``reads == "a"``, so that z need not be kept, else the input z. A joint
    function has none here: it is trained folded into a cost (costs.py).
    """

    name: str
    value: Callable[[Array], Array]
    derivative: Callable[[Array], Array]
    reads: Literal["a", "z"]
    onnx: str
    initializer: str
    joint: bool = False

    def __reduce__(self) -> tuple[Callable[[str], Activation], tuple[str]]:
        return resolve, (self.name,)

    def __repr__(self) -> str:
        return f"<activation {self.name}>"


def _sigmoid(z: Array) -> Array:
    decayed = np.exp(-np.abs(z))  # never overflows
    return np.asarray(np.where(z >= 0, 1, decayed) / (1 + decayed))


def _phi(z: Array) -> Array:
    """Return the distribution function of the standard normal, to full precision also in the left tail."""
    half_erfc = np.frompyfunc(lambda t: 0.5 * math.erfc(-t / math.sqrt(2.0)), 1, 1)
    return np.asarray(half_erfc(z), dtype=z.dtype)


def _gelu_derivative(z: Array) -> Array:
    return _phi(z) + z * np.exp(-0.5 * z * z) * (1 / math.sqrt(2 * math.pi))


def _silu_derivative(z: Array) -> Array:
    s = _sigmoid(z)
    return s * (1 + z * (1 - s))


def _elu(z: Array) -> Array:
    return np.where(z > 0, z, np.expm1(np.minimum(z, 0)))


def _softmax(z: Array) -> Array:
    powers = np.exp(z - z.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))


def _no_derivative(a: Array) -> Array:
    raise TypeError("softmax is differentiated together with its cost")


def _where_positive(a: Array, positive: float, otherwise: Array | float) -> Array:
    return np.where(a > 0, a.dtype.type(positive), np.asarray(otherwise, a.dtype))


_ROWS = (
    Activation("linear", lambda z: z, np.ones_like, "a", "Identity", "glorot"),
    Activation("sigmoid", _sigmoid, lambda a: a * (1 - a), "a", "Sigmoid", "glorot"),
    Activation("tanh", np.tanh, lambda a: 1 - a * a, "a", "Tanh", "glorot"),
    Activation("relu", lambda z: np.maximum(z, 0), lambda a: _where_positive(a, 1, 0.0), "a", "Relu", "he"),
    Activation(
        "leaky_relu",
        lambda z: np.maximum(z, z.dtype.type(LEAKY_SLOPE) * z),
        lambda a: _where_positive(a, 1, LEAKY_SLOPE),
        "a",
        "LeakyRelu",
        "he",
    ),
    Activation("elu", _elu, lambda a: _where_positive(a, 1, a + 1), "a", "Elu", "he"),
    Activation("gelu", lambda z: z * _phi(z), _gelu_derivative, "z", "Gelu", "he"),
    Activation("silu", lambda z: z * _sigmoid(z), _silu_derivative, "z", "Swish", "he"),
    Activation("softplus", lambda z: np.logaddexp(z, z.dtype.type(0)), lambda a: -np.expm1(-a), "a", "Softplus", "he"),
    Activation("exp", np.exp, lambda a: a, "a", "Exp", "glorot"),
    Activation("softmax", _softmax, _no_derivative, "a", "Softmax", "glorot", joint=True),
)

ACTIVATIONS = {row.name: row for row in _ROWS}

ELEMENTWISE = tuple(row.name for row in _ROWS if not row.joint)
"""The names of those that any layer may have."""


def resolve(activation: str | Activation) -> Activation:
    """Return the row of the table for a name or a row; raise ``InputError`` for anything else."""
    name = activation.name if isinstance(activation, Activation) else activation
    if not isinstance(name, str) or name not in ACTIVATIONS:
        raise InputError(unknown_name("activation", name, ACTIVATIONS))
    return ACTIVATIONS[name]
