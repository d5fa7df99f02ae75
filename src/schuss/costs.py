"""The table of costs: value of a sample, its derivative, the last activation it is linked with, the targets it takes.

A new cost is one row here and one pair of lines in ``engines/kernels/costs.h``. Costs with a link are computed from
what goes into the last activation, the logit: exact where the activation itself has rounded to 0 or 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from schuss.activations import ACTIVATIONS
from schuss.errors import InputError, unknown_name

Array = NDArray[np.floating]

Targets = Literal["numbers", "counts", "shares", "labels"]
"""What y holds: real numbers; numbers not below 0; numbers from 0 to 1; class labels, or a share for each class."""


@dataclass(frozen=True)
class Row:
    """A row of the table.

    ``value(y, a, p)`` and ``derivative(y, a, p)`` map arrays (..., n, outputs) to the cost of each output and its
    derivative by a, both (..., n, outputs); ``p`` (outputs,) is the option. link: the last activation that is folded
    into the cost, so that ``a`` is its input; None: any element-wise activation, and ``a`` is its output. option: its
    name and default.
    """

    name: str
    value: Callable[[Array, Array, Array], Array]
    derivative: Callable[[Array, Array, Array], Array]
    link: str | None = None
    targets: Targets = "numbers"
    option: tuple[str, float] | None = None


@dataclass(frozen=True)
class Cost:
    """A row of the table with its option: one number, or for quantiles one a level; ``cost=`` of ``Training`` takes it."""

    row: Row
    option: tuple[float, ...] = (0.0,)

    @property
    def name(self) -> str:
        """The name of the row."""
        return self.row.name

    @property
    def levels(self) -> int:
        """How many outputs belong to one target: one, or one for each level of a quantile."""
        return len(self.option)

    @property
    def classifies(self) -> bool:
        """Whether the targets are classes."""
        return self.row.targets in ("shares", "labels")

    def options(self, outputs: int) -> NDArray[np.float64]:
        """Return the option of each output, (outputs,)."""
        return np.resize(np.array(self.option, np.float64), outputs)

    def value(self, y: Array, a: Array) -> Array:
        """Return the cost of each sample, (..., n), for targets y (n, columns) and outputs a (..., n, outputs)."""
        return np.asarray(self.row.value(*self._arguments(y, a)).sum(axis=-1))

    def derivative(self, y: Array, a: Array) -> Array:
        """Return dc/da (n, outputs), a being the logit where the cost has a link."""
        return np.asarray(self.row.derivative(*self._arguments(y, a)))

    def _arguments(self, y: Array, a: Array) -> tuple[Array, Array, Array]:
        outputs = a.shape[-1]
        if y.shape[-1] == outputs:
            targets = y
        elif self.row.targets == "labels":
            targets = (y == np.arange(outputs)).astype(a.dtype)
        else:
            targets = np.repeat(y, outputs // y.shape[-1], axis=-1)
        return targets, a, self.options(outputs).astype(a.dtype)

    def __reduce__(self) -> tuple[Callable[..., Cost], tuple[str, tuple[float, ...]]]:
        return _restored, (self.name, self.option)

    def __repr__(self) -> str:
        if self.row.option is None or self.option == (self.row.option[1],):
            return repr(self.name)
        name, option = self.row.option[0], self.option[0] if self.levels == 1 else self.option
        return f"{_CONSTRUCTORS[self.name]}({name}={option!r})"


def _huber(y: Array, a: Array, p: Array) -> Array:
    near = np.minimum(np.abs(a - y), p)
    return np.asarray(near * (np.abs(a - y) - 0.5 * near))


def _smooth(y: Array, p: Array) -> Array:
    return np.asarray(y + p * (y.dtype.type(0.5) - y))


def _shares(y: Array, p: Array) -> Array:
    return np.asarray(y * (1 - p) + p / y.shape[-1])


def _log_softmax(z: Array) -> Array:
    centred = z - z.max(axis=-1, keepdims=True)
    return np.asarray(centred - np.log(np.exp(centred).sum(axis=-1, keepdims=True)))


_sigmoid, _softplus = ACTIVATIONS["sigmoid"].value, ACTIVATIONS["softplus"].value

_ROWS = (
    Row("quadratic", lambda y, a, p: 0.5 * np.square(a - y), lambda y, a, p: a - y),
    Row("absolute", lambda y, a, p: np.abs(a - y), lambda y, a, p: np.sign(a - y)),
    Row("huber", _huber, lambda y, a, p: np.clip(a - y, -p, p), option=("delta", 1.0)),
    Row(
        "quantile",
        lambda y, a, p: np.maximum(p * (y - a), (p - 1) * (y - a)),
        lambda y, a, p: np.where(y > a, -p, 1 - p),
        option=("levels", 0.5),
    ),
    Row("poisson", lambda y, a, p: np.exp(a) - y * a, lambda y, a, p: np.exp(a) - y, link="exp", targets="counts"),
    Row(
        "binary_cross_entropy",
        lambda y, a, p: _softplus(a) - _smooth(y, p) * a,
        lambda y, a, p: _sigmoid(a) - _smooth(y, p),
        link="sigmoid",
        targets="shares",
        option=("label_smoothing", 0.0),
    ),
    Row(
        "cross_entropy",
        lambda y, a, p: -_shares(y, p) * _log_softmax(a),
        lambda y, a, p: np.exp(_log_softmax(a)) - _shares(y, p),
        link="softmax",
        targets="labels",
        option=("label_smoothing", 0.0),
    ),
)

COSTS = {row.name: Cost(row, (row.option[1],) if row.option else (0.0,)) for row in _ROWS}


def Huber(delta: float = 1.0) -> Cost:  # noqa: N802 - reads as the description that it returns
    """Describe the cost of Huber: 1/2 e^2 for errors up to ``delta``, delta (|e| - delta / 2) beyond (Huber, 1964).

    >>> Huber(2.0)
    Huber(delta=2.0)
    """
    if not (isinstance(delta, int | float) and 0 < delta < np.inf):
        raise InputError(f"delta must be a number above 0; got {delta!r}")
    return _restored("huber", (float(delta),))


def Quantile(levels: float | Sequence[float] = 0.5) -> Cost:  # noqa: N802
    """Describe the pinball cost: the network learns the quantiles of y at ``levels``, each inside (0, 1).

    With m levels the network has m outputs for each target: those of the first target first (Koenker and Bassett, 1978).

    >>> Quantile((0.1, 0.9))
    Quantile(levels=(0.1, 0.9))
    """
    given = np.atleast_1d(np.asarray(levels, dtype=object)).ravel().tolist()
    try:
        numbers = tuple(float(level) for level in given)
    except (TypeError, ValueError):
        numbers = ()
    if not numbers or not all(0 < level < 1 for level in numbers):
        raise InputError(f"quantile levels must be inside (0, 1), at least one; got {levels!r}")
    return _restored("quantile", numbers)


def BinaryCrossEntropy(label_smoothing: float = 0.0) -> Cost:  # noqa: N802
    """Describe the cross-entropy of independent yes-or-no outputs, from logits; smoothing draws y towards 1/2 by a share.

    >>> BinaryCrossEntropy(0.1)
    BinaryCrossEntropy(label_smoothing=0.1)
    """
    return _restored("binary_cross_entropy", (_smoothing(label_smoothing),))


def CrossEntropy(label_smoothing: float = 0.0) -> Cost:  # noqa: N802
    """Describe the cross-entropy of classes, from logits; smoothing gives a share of each target evenly to all classes.

    >>> CrossEntropy(0.1)
    CrossEntropy(label_smoothing=0.1)
    """
    return _restored("cross_entropy", (_smoothing(label_smoothing),))


_CONSTRUCTORS = {
    "huber": "Huber",
    "quantile": "Quantile",
    "binary_cross_entropy": "BinaryCrossEntropy",
    "cross_entropy": "CrossEntropy",
}


_WITH_OPTION: dict[str, Callable[[float], Cost]] = {
    "huber": Huber,
    "binary_cross_entropy": BinaryCrossEntropy,
    "cross_entropy": CrossEntropy,
}


def _smoothing(share: float) -> float:
    if not (isinstance(share, int | float) and 0 <= share < 1):
        raise InputError(f"label_smoothing must be in [0, 1); got {share!r}")
    return float(share)


def _restored(name: str, option: tuple[float, ...]) -> Cost:
    return Cost(COSTS[name].row, option)


def from_dict(plain: dict[str, object]) -> Cost:
    """Return the cost of a name and its option, as a checkpoint holds them; raise InputError if there is none."""
    cost, option = resolve(str(plain["name"])), tuple(float(value) for value in plain["option"])  # type: ignore[attr-defined]
    if cost.name == "quantile":
        return Quantile(option)
    if len(option) != 1 or (cost.row.option is None and option != (0.0,)):
        raise InputError(f"cost={cost!r} has {'one option' if cost.row.option else 'no option'}; got {option!r:.80}")
    return cost if cost.row.option is None else _WITH_OPTION[cost.name](option[0])


def resolve(cost: str | Cost) -> Cost:
    """Return the cost of a name, or a cost as it is; raise ``InputError`` for anything else."""
    if isinstance(cost, Cost):
        return cost
    if not isinstance(cost, str) or cost not in COSTS:
        raise InputError(unknown_name("cost", cost, COSTS))
    return COSTS[cost]


def check_last_activation(cost: Cost, activation: str) -> str | None:
    """Return what is wrong with a cost on a network that ends in an activation, or None."""
    link = cost.row.link
    if link is None:
        if activation != "softmax":
            return None
        return f"a last layer with softmax is trained by cost='cross_entropy'; got cost={cost!r}"
    if activation in (link, "linear"):
        return None
    return (
        f"cost={cost!r} needs a last layer with activation {link!r}, or 'linear' for a network that gives logits; "
        f"got {activation!r}"
    )
