"""Optimizers and schedules: frozen descriptions that check themselves and hold no arrays of the training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from operator import index

import numpy as np
from numpy.typing import ArrayLike, NDArray

from schuss.errors import InputError

Number = float | tuple[float, ...]


@dataclass(frozen=True)
class SGD:
    """Stochastic gradient descent with momentum and decoupled weight decay.

    ::

        v <- momentum v - learning_rate G        W <- (1 - learning_rate weight_decay) W + v
        u <- momentum u - learning_rate g        b <- b + u

    nesterov: look ahead, ``W <- (1 - learning_rate weight_decay) W + momentum v - learning_rate G`` with the new v.
    bias_momentum: False moves the biases by ``-learning_rate g`` alone, as the articles do.

    The learning rate lives inside the velocity (Sutskever et al., ICML 2013; PyTorch's form differs when the rate
    changes). The decay never touches biases and does not pass through the velocity (Loshchilov and Hutter, ICLR 2019).
    The articles divide their decay by the number of samples: their ``[0.2 0.1 0.4]`` on 10 000 samples is

    >>> SGD(0.2, weight_decay=0.1 / 10_000, momentum=0.4)
    SGD(learning_rate=0.2, weight_decay=1e-05, momentum=0.4, nesterov=False, bias_momentum=True)

    Each number may be an array of one value a member. Raises InputError for a learning rate or weight decay that is
    negative or not finite, or a momentum outside [0, 1).
    """

    learning_rate: Number
    weight_decay: Number = 0.0
    momentum: Number = 0.0
    nesterov: bool = False
    bias_momentum: bool = True

    def __init__(
        self,
        learning_rate: ArrayLike,
        weight_decay: ArrayLike = 0.0,
        momentum: ArrayLike = 0.0,
        *,
        nesterov: bool = False,
        bias_momentum: bool = True,
    ) -> None:
        set_ = object.__setattr__
        set_(self, "learning_rate", _number("learning_rate", learning_rate))
        set_(self, "weight_decay", _number("weight_decay", weight_decay))
        set_(self, "momentum", _number("momentum", momentum, below=1.0))
        set_(self, "nesterov", bool(nesterov))
        set_(self, "bias_momentum", bool(bias_momentum))

    def check_members(self, members: int) -> None:
        """Raise InputError unless every array among the numbers has one value a member."""
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, tuple) and len(value) != members:
                raise InputError(
                    f"{field.name} has {len(value)} values but the model has {members} member{'s' * (members != 1)}; "
                    f"pass one number, or one a member"
                )

    def short(self) -> str:
        """Return the description without what has its default."""
        parts = [
            f"{field.name}={getattr(self, field.name)!r}"
            for field in fields(self)
            if getattr(self, field.name) != field.default
        ]
        return f"SGD({', '.join(parts)})"

    def table(self, members: int) -> NDArray[np.float64]:
        """Return (members, 3): the learning rate, weight decay and momentum of each member."""
        columns = [np.broadcast_to(v, members) for v in (self.learning_rate, self.weight_decay, self.momentum)]
        return np.ascontiguousarray(np.stack(columns, axis=1), dtype=np.float64)


Segment = tuple[int, SGD]


def schedule(epochs: int | Sequence[Segment], optimizer: SGD | None) -> list[Segment]:
    """Return the segments of a run: ``(epochs, optimizer)`` alone, or a list of such pairs as it was given.

    Raises InputError when the two forms are mixed, a number of epochs is not a whole number of at least 0, or an
    optimizer is none.
    """
    if isinstance(epochs, Sequence) and not isinstance(epochs, str):
        if optimizer is not None:
            raise InputError("a schedule of (epochs, optimizer) pairs was given, and an optimizer beside it; pass one")
        segments = list(epochs)
        if any(not isinstance(pair, Sequence) or isinstance(pair, str) or len(pair) != 2 for pair in segments):
            raise InputError(f"a schedule is a list of (epochs, optimizer) pairs; got {epochs!r}")
    elif optimizer is None:
        raise InputError("run needs an optimizer: run(100, SGD(0.1)), or a schedule: run([(50, SGD(0.2)), ...])")
    else:
        segments = [(epochs, optimizer)]
    return [(_epochs(count), _optimizer(given)) for count, given in segments]


def _number(name: str, value: ArrayLike, below: float = np.inf) -> Number:
    try:
        array = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        raise InputError(f"{name} must be a number, or an array of one a member; got {value!r}") from None
    limit = f"in [0, {below:g})" if np.isfinite(below) else "at least 0 and finite"
    if array.ndim > 1 or array.size == 0:
        raise InputError(f"{name} must be a number, or a flat array of one a member; got shape {array.shape}")
    bad = ~((array >= 0) & (array < below))
    if bad.any():
        raise InputError(f"{name} must be {limit}; got {array[bad][0] if array.ndim else array:g}")
    return float(array) if array.ndim == 0 else tuple(array.tolist())


def _epochs(count: object) -> int:
    try:
        epochs = index(count)  # type: ignore[arg-type]
    except TypeError:
        epochs = -1
    if epochs < 0 or isinstance(count, bool):
        raise InputError(f"epochs must be a whole number, at least 0; got {count!r}")
    return epochs


def _optimizer(optimizer: object) -> SGD:
    if not isinstance(optimizer, SGD):
        raise InputError(f"the optimizer must be an SGD(...); got {optimizer!r}")
    return optimizer
