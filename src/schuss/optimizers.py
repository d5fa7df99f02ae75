"""Optimizers: frozen descriptions that check themselves and hold no arrays of the training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from operator import index
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from schuss.errors import InputError
from schuss.schedules import KINDS, AnySchedule, checked_factors

Number = float | tuple[float, ...] | AnySchedule


@dataclass(frozen=True)
class Optimizer:
    """What all optimizers share. ``COLUMNS`` names the number in each column of the table that engines read, or None."""

    COLUMNS: ClassVar[tuple[str | None, ...]] = ()
    LIMITS: ClassVar[dict[str, float]] = {"momentum": 1.0, "beta1": 1.0, "beta2": 1.0, "rho": 1.0}

    def __post_init__(self) -> None:
        for name in self.COLUMNS:
            if name is not None:
                object.__setattr__(self, name, _number(name, getattr(self, name), self.LIMITS.get(name, np.inf)))

    @property
    def kind(self) -> str:
        """The name by which engines know the optimizer."""
        return type(self).__name__.lower()

    def check_members(self, members: int) -> None:
        """Raise InputError unless every array among the numbers has one value a member."""
        for name in filter(None, self.COLUMNS):
            value = _base(getattr(self, name))
            if isinstance(value, tuple) and len(value) != members:
                raise InputError(
                    f"{name} has {len(value)} values but the model has {members} member{'s' * (members != 1)}; "
                    f"pass one number, or one a member"
                )

    def check_dtype(self, dtype: np.dtype[Any]) -> None:
        """Raise InputError if epsilon is 0 in a dtype: where a gradient has always been 0 the step would be 0 / 0."""
        if "epsilon" in self.COLUMNS:
            least, tiny = np.min(_base(self.epsilon)), np.finfo(dtype).tiny  # type: ignore[attr-defined]
            if least < tiny:
                raise InputError(
                    f"epsilon must be at least {tiny:.3g}, the smallest number of {dtype.name}; got {least:g}"
                )

    def short(self) -> str:
        """Return the description without what has its default."""
        parts = [
            f"{field.name}={getattr(self, field.name)!r}"
            for field in fields(self)
            if getattr(self, field.name) != field.default
        ]
        return f"{type(self).__name__}({', '.join(parts)})"

    def table(self, members: int) -> NDArray[np.float64]:
        """Return (members, 6): the base values of the columns for each member, 0 where there is none."""
        columns = [
            np.broadcast_to(0.0 if name is None else _base(getattr(self, name)), members) for name in self.COLUMNS
        ]
        return np.ascontiguousarray(np.stack(columns, axis=1), dtype=np.float64)

    def factors(self, first: int, steps: int, total: int) -> NDArray[np.float64] | None:
        """Return (steps, 6): the factors of the steps ``first``... of ``total``, or None if nothing has a schedule."""
        schedules = {k: getattr(self, name) for k, name in enumerate(self.COLUMNS) if name is not None}
        schedules = {k: value for k, value in schedules.items() if isinstance(value, KINDS)}
        if not schedules:
            return None
        table = np.ones((steps, len(self.COLUMNS)))
        progress = np.arange(first, first + steps) / total
        for k, schedule in schedules.items():
            table[:, k] = schedule.factors(progress)
        return table


@dataclass(frozen=True)
class SGD(Optimizer):
    """Stochastic gradient descent with momentum and decoupled weight decay.

    ::

        v <- momentum v - learning_rate G        W <- (1 - learning_rate weight_decay) W + v
        u <- momentum u - learning_rate g        b <- b + u

    nesterov: look ahead, ``W <- (1 - learning_rate weight_decay) W + momentum v - learning_rate G`` with the new v.
    bias_momentum: False moves the biases by ``-learning_rate g`` alone, as the articles do. clip_norm: a gradient whose
    norm over all parameters is larger is shortened to it; 0 never does.

    The learning rate lives inside the velocity (Sutskever et al., ICML 2013; PyTorch's form differs when the rate
    changes). The decay never touches biases and does not pass through the velocity (Loshchilov and Hutter, ICLR 2019).
    The articles divide their decay by the number of samples: their ``[0.2 0.1 0.4]`` on 10 000 samples is

    >>> SGD(0.2, weight_decay=0.1 / 10_000, momentum=0.4).short()
    'SGD(learning_rate=0.2, weight_decay=1e-05, momentum=0.4)'

    Each number may be an array of one value a member, or a schedule (``schuss.schedules``). Raises InputError for a
    learning rate or weight decay that is negative or not finite, or a momentum outside [0, 1).
    """

    learning_rate: Any
    weight_decay: Any = 0.0
    momentum: Any = 0.0
    nesterov: bool = False
    bias_momentum: bool = True
    clip_norm: Any = 0.0

    COLUMNS = ("learning_rate", "weight_decay", "momentum", None, None, "clip_norm")

    def __init__(
        self,
        learning_rate: ArrayLike | AnySchedule,
        weight_decay: ArrayLike | AnySchedule = 0.0,
        momentum: ArrayLike | AnySchedule = 0.0,
        *,
        nesterov: bool = False,
        bias_momentum: bool = True,
        clip_norm: ArrayLike | AnySchedule = 0.0,
    ) -> None:
        given = learning_rate, weight_decay, momentum, bool(nesterov), bool(bias_momentum), clip_norm
        for field, value in zip(fields(self), given, strict=True):
            object.__setattr__(self, field.name, value)
        self.__post_init__()

    @property
    def kind(self) -> str:
        """The name by which engines know the optimizer."""
        return "nesterov" if self.nesterov else "sgd"


@dataclass(frozen=True)
class Adam(Optimizer):
    """Adam with decoupled weight decay, AdamW (Kingma and Ba, ICLR 2015; Loshchilov and Hutter, ICLR 2019).

    ::

        m <- beta1 m + (1 - beta1) G        s <- beta2 s + (1 - beta2) G^2
        W <- (1 - learning_rate weight_decay) W - learning_rate m' / (sqrt(s') + epsilon)

    with m' = m / (1 - beta1^t), s' = s / (1 - beta2^t) at the t-th step. Biases do not decay. clip_norm: as for
    ``SGD``. Each number may be an array of one value a member, or a schedule. Raises InputError for numbers out of
    range.

    >>> Adam().short()
    'Adam()'
    """

    learning_rate: Any = 0.001
    weight_decay: Any = 0.0
    beta1: Any = 0.9
    beta2: Any = 0.999
    epsilon: Any = 1e-8
    clip_norm: Any = 0.0

    COLUMNS = ("learning_rate", "weight_decay", "beta1", "beta2", "epsilon", "clip_norm")


@dataclass(frozen=True)
class RMSprop(Optimizer):
    """Gradients divided by the root of their mean square (Hinton, 2012), with momentum and decoupled weight decay.

    ::

        s <- rho s + (1 - rho) G^2        v <- momentum v - learning_rate G / (sqrt(s) + epsilon)
        W <- (1 - learning_rate weight_decay) W + v

    Biases do not decay. clip_norm: as for ``SGD``. Each number may be an array of one value a member, or a schedule. Raises
    InputError for numbers out of range.

    >>> RMSprop(0.01, momentum=0.9).short()
    'RMSprop(learning_rate=0.01, momentum=0.9)'
    """

    learning_rate: Any = 0.001
    weight_decay: Any = 0.0
    momentum: Any = 0.0
    rho: Any = 0.99
    epsilon: Any = 1e-8
    clip_norm: Any = 0.0

    COLUMNS = ("learning_rate", "weight_decay", "momentum", "rho", "epsilon", "clip_norm")


@dataclass(frozen=True)
class LBFGS(Optimizer):
    """The quasi-Newton method with limited memory, for full batches (Liu and Nocedal, 1989): an epoch is an iteration.

    history: how many pairs of steps and gradient changes it remembers, from 1 to 100. tolerance: a member has converged
    once no entry of its gradient is larger, or no step lowers its cost in the precision of its parameters
    (``history.converged``); may be an array of one value a member. The line search holds the strong Wolfe conditions,
    with constants 1e-4 and 0.9.

    >>> LBFGS()
    LBFGS(history=10, tolerance=1e-08)
    """

    history: int = 10
    tolerance: Any = 1e-8

    COLUMNS = ("tolerance", None, None, None, None, None)

    def __post_init__(self) -> None:
        super().__post_init__()
        try:
            count = 0 if isinstance(self.history, bool) else index(self.history)
        except TypeError:
            count = 0
        if not 1 <= count <= 100:
            raise InputError(f"history must be a whole number from 1 to 100; got {self.history!r}")
        if isinstance(self.tolerance, KINDS):
            raise InputError("the tolerance of LBFGS cannot have a schedule")


Segment = tuple[int, Optimizer]


def schedule(epochs: int | Sequence[Segment], optimizer: Optimizer | None) -> list[Segment]:
    """Return the segments of a run: ``(epochs, optimizer)`` alone, or a list of such pairs as it was given.

    Raises InputError when the two forms are mixed, a number of epochs is not a whole number of at least 0, an optimizer
    is none, or optimizers of different classes follow each other.
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
    checked = [(_epochs(count), _optimizer(given)) for count, given in segments]
    if len({type(given) for _, given in checked}) > 1:
        raise InputError("a schedule uses one class of optimizer; call run once for each class")
    return checked


def slowed(optimizer: Optimizer, scale: NDArray[np.float64]) -> Optimizer:
    """Return the optimizer with each member's learning rate times ``scale`` (members,)."""
    if isinstance(optimizer, LBFGS) or (scale == 1).all():
        return optimizer
    rate: Any = optimizer.learning_rate  # type: ignore[attr-defined]
    slower = tuple((np.broadcast_to(_base(rate), len(scale)) * scale).tolist())
    return replace(optimizer, learning_rate=replace(rate, base=slower) if isinstance(rate, KINDS) else slower)  # type: ignore[call-arg]


def _base(value: Any) -> Any:
    return value.base if isinstance(value, KINDS) else value


def _number(name: str, value: Any, below: float) -> Number:
    if isinstance(value, KINDS):
        factors = checked_factors(name, value)
        base = _number(f"the base of {name}", value.base, np.inf)
        _checked_range(
            name,
            np.multiply.outer(np.array([factors.min(), factors.max()]), np.atleast_1d(np.asarray(base, np.float64))),
            below,
        )
        return replace(value, base=base)
    try:
        array = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        raise InputError(
            f"{name} must be a number, an array of one a member, or a schedule such as Cosine(0.01); got {value!r}"
        ) from None
    if array.ndim > 1 or array.size == 0:
        raise InputError(f"{name} must be a number, or a flat array of one a member; got shape {array.shape}")
    _checked_range(name, array, below)
    return float(array) if array.ndim == 0 else tuple(array.tolist())


def _checked_range(name: str, array: NDArray[np.float64], below: float) -> None:
    bad = ~((array >= 0) & (array < below))
    if bad.any():
        limit = f"in [0, {below:g})" if np.isfinite(below) else "at least 0 and finite"
        raise InputError(f"{name} must be {limit}; got {array[bad][0] if array.ndim else array:g}")


def _epochs(count: object) -> int:
    try:
        epochs = index(count)  # type: ignore[arg-type]
    except TypeError:
        epochs = -1
    if epochs < 0 or isinstance(count, bool):
        raise InputError(f"epochs must be a whole number, at least 0; got {count!r}")
    return epochs


def _optimizer(optimizer: object) -> Optimizer:
    if not isinstance(optimizer, Optimizer):
        raise InputError(f"the optimizer must be an SGD(...), Adam(...), RMSprop(...) or LBFGS(...); got {optimizer!r}")
    return optimizer
