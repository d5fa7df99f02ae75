"""What a training is given, checked: data that fit a model and a cost, whole numbers, and when to stop early."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from operator import index
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from schuss import philox
from schuss.arrays import as_matrix, as_weights
from schuss.costs import Cost
from schuss.engines.base import Data
from schuss.errors import InputError, Problems, unknown_name
from schuss.metrics import METRICS, Metric
from schuss.network import Network
from schuss.population import Population
from schuss.resources import available_memory

Model = Network | Population

_ROOM_OF_WEIGHTS = 1e8  # by which a sum of weights stays below the largest number, for the costs that they multiply
_STREAM_SHARE = 0.5  # of the memory that is free: larger memory-mapped arrays stay where they are


@dataclass(frozen=True)
class EarlyStopping:
    """End a member once its validation cost has not fallen by more than ``min_delta`` for ``patience`` epochs.

    The cost is looked at every ``record_every`` epochs of the run. restore_best: give the member, when the run ends for
    whatever reason, the parameters that had the best value. metric: "cost", or a score of which more is better:
    "accuracy", "r2", or a function of y and the outputs (n, dL) that returns a number; or "training_cost", which needs no
    validation data: the cost of an epoch must fall by more than ``min_delta`` below the lowest before it (scikit-learn's
    rule), and no parameters are restored.

    >>> EarlyStopping(patience=20)
    EarlyStopping(patience=20, min_delta=0.0, restore_best=True, metric='cost')
    """

    patience: int = 10
    min_delta: float = 0.0
    restore_best: bool = True
    metric: str | Callable[[NDArray[Any], NDArray[Any]], float] = "cost"

    def __post_init__(self) -> None:
        problems = Problems("stop early")
        whole_number(self.patience, "patience", problems)
        if not (isinstance(self.min_delta, int | float) and 0 <= self.min_delta < np.inf):
            problems.add(f"min_delta must be a number, at least 0; got {self.min_delta!r}")
        if not callable(self.metric) and self.metric not in ("cost", "training_cost", *METRICS):
            problems.add(unknown_name("metric", self.metric, ["cost", "training_cost", *METRICS]))
        problems.raise_if_any()

    @property
    def of_training(self) -> bool:
        """Whether it is the training cost that must fall."""
        return self.metric == "training_cost"

    @property
    def score(self) -> Metric | None:
        """The function of the metric, or None for the cost."""
        if callable(self.metric):
            return self.metric
        return METRICS.get(self.metric)


def data_for(
    model: Model, x: ArrayLike, y: ArrayLike, prefix: str, cost: Cost, problems: Problems, one_class: bool = True
) -> Data:
    """Return x and y for a model and a cost, as they were given; add what does not fit to ``problems``.

    one_class: whether labels of one class only are a problem.
    """
    rows = as_matrix(x, f"{prefix}x", model.dtype, problems, columns=model.inputs, pack=False)
    targets = as_matrix(y, f"{prefix}y", model.dtype, problems, vector=True, pack=False)
    outputs = model.sizes[-1]
    expected = _columns(cost, outputs)
    if outputs % cost.levels:
        problems.add(
            f"{cost!r} has {cost.levels} levels, one output each, but the network has {outputs} outputs; "
            f"give the last layer {cost.levels} units for each target"
        )
    elif targets.size and targets.shape[1] not in expected:
        count = f"{outputs} output{'s' * (outputs != 1)}"
        shapes = " or ".join(f"({len(rows)}, {columns})" for columns in expected)
        shapes += f" or ({len(rows)},)" if 1 in expected else ""
        problems.add(
            f"{prefix}y has shape {np.shape(y)} but the network gives {count}; pass {prefix}y of shape {shapes}"
        )
    elif rows.size and targets.size and len(rows) != len(targets):
        problems.add(f"{prefix}x has {len(rows)} rows but {prefix}y has {len(targets)}; pass one target a sample")
    elif rows.shape == (0, model.inputs):
        problems.add(f"{prefix}x has no rows; pass at least one sample")
    elif targets.size:
        _check_targets(cost, outputs, targets, prefix, one_class, problems)
    return Data(rows, targets)


def _columns(cost: Cost, outputs: int) -> tuple[int, ...]:
    """Return how many columns y may have."""
    return (1, outputs) if cost.row.targets == "labels" else (outputs // cost.levels,)


def _check_targets(
    cost: Cost, outputs: int, y: NDArray[Any], prefix: str, needs_classes: bool, problems: Problems
) -> None:
    """Add what is wrong with the values of y; with training data that need classes, that there is but one."""
    kind, name, one_class = cost.row.targets, f"{prefix}y", False
    if kind == "counts" and (y < 0).any():
        row = int(np.argmax((y < 0).any(axis=1)))
        problems.add(f"cost='poisson' takes numbers that are not negative; {name} holds {y[row].min()} in row {row}")
    elif kind == "shares":
        bad = ((y < 0) | (y > 1)).any(axis=1)
        if bad.any():
            problems.add(
                f"cost='binary_cross_entropy' takes 0 and 1, or shares between; {name} holds "
                f"{y[np.argmax(bad)].tolist()} in row {int(np.argmax(bad))}"
            )
        one_class = bool((y == y[:1]).all())
    elif kind == "labels" and y.shape[1] == 1 and outputs > 1:
        bad = (y[:, 0] < 0) | (y[:, 0] >= outputs) | (y[:, 0] != np.floor(y[:, 0]))
        if bad.any():
            row = int(np.argmax(bad))
            problems.add(
                f"labels must be whole numbers from 0 to {outputs - 1}, one class an output; {name} holds {y[row, 0]} "
                f"in row {row}; "
                "np.unique(y, return_inverse=True) numbers any labels"
            )
        one_class = bool((y == y[0]).all())
    elif kind == "labels":
        sums = y.sum(axis=1)
        bad = (y < 0).any(axis=1) | (np.abs(sums - 1) > 1e-3)
        if bad.any():
            row = int(np.argmax(bad))
            problems.add(f"{name} must hold the share of each class, of sum 1; row {row} is {y[row].tolist()}")
        one_class = bool((y == y[:1]).all())
    if one_class and needs_classes and len(y) > 1:
        problems.add("y holds one class only: there is nothing to learn; check the labels, or how the rows were split")


def weights_for(
    sample_weight: ArrayLike | None, class_weight: Any, data: Data, cost: Cost, model: Model, problems: Problems
) -> NDArray[Any] | None:
    """Return the weight of each sample, (n,) float64, or None for ones; add what does not fit to ``problems``."""
    weights = _weights(sample_weight, class_weight, data, cost, model.sizes[-1], problems)
    if weights is not None and weights.any() and (weights >= 0).all():
        limits = np.finfo(model.dtype)
        least, most = weights[weights > 0].min(), weights.max()
        with np.errstate(over="ignore"):
            total = weights.sum()
        lowest, highest = float(limits.tiny), float(limits.max) / _ROOM_OF_WEIGHTS
        if least < lowest or total > highest:
            problems.add(
                f"the weights of samples, from {least:g} to {most:g} with the sum {total:g}, leave the range of "
                f"{model.dtype.name}: each must be 0 or at least {lowest:.3g}, their sum at most {highest:.3g}; "
                "divide them by their mean"
            )
    return weights


def _weights(
    sample_weight: ArrayLike | None, class_weight: Any, data: Data, cost: Cost, outputs: int, problems: Problems
) -> NDArray[Any] | None:
    weights = None
    n, kind = len(data.x), np.dtype(np.float64)
    if sample_weight is not None:
        weights = as_weights(sample_weight, "sample_weight", n, kind, problems)
    if class_weight is None or not len(data.y):
        return weights
    classes = 2 if cost.row.targets == "shares" else outputs
    if not cost.classifies or data.y.shape[1] != 1:
        problems.add(
            f"class_weight needs class labels: a cost of classification, and y of shape (n,); got cost={cost!r}"
        )
        return weights
    shares = (data.y[:, 0] != 0) & (data.y[:, 0] != 1)
    if cost.row.targets == "shares" and shares.any():
        row = int(np.argmax(shares))
        problems.add(
            f"class_weight needs labels 0 and 1; y holds {data.y[row, 0]} in row {row}; weigh shares by sample_weight"
        )
        return weights
    labels = np.asarray(data.y[:, 0], np.int64)
    if (labels < 0).any() or (labels >= classes).any():
        return weights  # named already
    counts = np.bincount(labels, minlength=classes)
    if isinstance(class_weight, str) and class_weight == "balanced":
        each = n / (classes * np.maximum(counts, 1))
    elif isinstance(class_weight, Mapping):
        each = np.array([class_weight.get(label, 1.0) for label in range(classes)], np.float64)
        unknown = sorted(set(class_weight) - set(range(classes)), key=str)
        if unknown:
            problems.add(f"class_weight names classes that there are not: {unknown}; they are 0 to {classes - 1}")
    else:
        each = np.atleast_1d(np.asarray(class_weight, np.float64))
    if each.shape != (classes,) or not np.isfinite(each).all() or (each < 0).any():
        problems.add(
            f'class_weight must be "balanced", or one number, not negative, for each of {classes} classes; '
            f"got {class_weight!r}"
        )
        return weights
    each = as_weights(each[labels], "class_weight", n, kind, problems)
    return each if weights is None or len(weights) != n else weights * each


def validation_for(model: Model, validation: object, cost: Cost, problems: Problems) -> Data | None:
    """Return validation data for a model, or None if there are none."""
    if validation is None:
        return None
    if not isinstance(validation, tuple | list) or len(validation) != 2:
        problems.add(f"validation must be a pair (x, y), or a share of the rows such as 0.2; got {validation!r:.80}")
        return None
    return data_for(model, validation[0], validation[1], "validation ", cost, problems, one_class=False)


def folds_for(
    folds: ArrayLike | None, left_out: ArrayLike | None, data: Data, members: int, problems: Problems
) -> tuple[NDArray[np.int32], NDArray[np.int32]] | None:
    """Return the fold of each sample (n,) and the one that each member leaves out (members,), or None; add what does not
    fit to ``problems``.
    """
    if folds is None and left_out is None:
        return None
    if folds is None or left_out is None:
        problems.add(
            "folds and held_out go together: the fold of each sample, and the fold that each member leaves out"
        )
        return None
    known = []
    for name, given, shapes in (("folds", folds, [(len(data.x),)]), ("held_out", left_out, [(), (members,)])):
        array = np.asarray(given)
        if array.dtype.kind not in "iu" or array.shape not in shapes:
            problems.add(
                f"{name} must be whole numbers of shape {shapes[-1]}; got {array.dtype} of shape {array.shape}"
            )
            return None
        known.append(np.broadcast_to(array, shapes[-1]))
    if known[0].size and (known[0].min() < 0 or known[0].max() >= len(data.x)):
        problems.add(f"folds are numbered from 0, and fewer than samples; got {known[0].min()} to {known[0].max()}")
        return None
    weights = np.ones(len(data.x)) if data.weights is None else data.weights
    in_fold = np.bincount(known[0], weights)
    for fold in np.unique(known[1]).tolist():
        inside = float(in_fold[fold]) if 0 <= fold < len(in_fold) else 0.0
        if not 0 < inside < float(weights.sum()):
            problems.add(
                f"held_out names fold {fold}, which must have samples with weight, and leave some to train on; the folds "
                f"are {np.unique(known[0])[:20].tolist()}"
            )
    return np.ascontiguousarray(known[0], np.int32), np.ascontiguousarray(known[1], np.int32)


def in_fold_order(data: Data, folds: NDArray[np.int32]) -> Data:
    """Return the samples in the order of their folds, for the validation of those who leave one out."""
    order = np.argsort(folds, kind="stable")
    return Data(data.rows_of_x(order), data.y[order], None if data.weights is None else data.weights[order])


def split_off(
    x: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None, share: float, seed: int
) -> tuple[Any, Any, Any, tuple[Any, Any]]:
    """Return x, y, sample_weight of the rows to train on and (x, y) of a share of the rows, drawn by the seed.

    Raises InputError if that leaves either without rows.
    """
    rows, targets = np.asarray(x), np.asarray(y)
    n = len(rows) if rows.ndim else 0
    held = round(n * share)
    if not 0 < share < 1 or not 0 < held < n or len(targets) != n:
        raise InputError(
            f"validation={share!r} must leave rows to train on and to validate on; x has {n} rows, y {np.shape(y)[:1]}"
        )
    order = philox.permuted(np.arange(n), n, philox.shuffle_keys(seed, 2**63))
    held_out, kept = np.sort(order[:held]), np.sort(order[held:])
    weights = None if sample_weight is None else np.asarray(sample_weight)[kept]
    return rows[kept], targets[kept], weights, (rows[held_out], targets[held_out])


def in_place(data: Data, given: ArrayLike, dtype: np.dtype[Any], asked: bool, problems: Problems) -> Data:
    """Return data whose x is read where it is, if it is memory-mapped and larger than half of the free memory, or asked."""
    if not isinstance(given, np.memmap):
        if asked:
            problems.add('shuffle="blocks" is for memory-mapped x (numpy.memmap, or numpy.load with mmap_mode="r")')
        return data
    room = available_memory()
    if not asked and (room is None or data.x.size * dtype.itemsize <= _STREAM_SHARE * room):
        return data
    if data.x.dtype != dtype or not data.x.flags.c_contiguous:
        problems.add(
            f"x needs {data.x.size * dtype.itemsize / 1e9:.3g} GB and can only be read in place as a C-ordered array of "
            f"{dtype}; got {data.x.dtype}; write it as such with numpy.lib.format.open_memmap"
        )
        return data
    weights = None if data.weights is None else np.array(data.weights, dtype)
    return Data(data.x, np.array(data.y, dtype, order="C"), weights, in_place=True)


def member_values(value: Any, name: str, members: int, problems: Problems) -> NDArray[np.float64]:
    """Return a number, or one a member, as (members,); add to ``problems`` unless all are finite and at least 0."""
    try:
        array = np.asarray(value, np.float64)
    except (TypeError, ValueError):
        array = np.array(np.nan)
    if (
        isinstance(value, bool)
        or not np.isfinite(array).all()
        or (array < 0).any()
        or array.shape not in ((), (members,))
    ):
        each = f", or one for each of {members} members" if members > 1 else ""
        problems.add(f"{name} must be a finite number, at least 0{each}; got {value!r}")
        return np.zeros(members)
    return np.array(np.broadcast_to(array, members))


def whole_number(value: object, name: str, problems: Problems, least: int = 1, most: int | None = None) -> int:
    """Return a whole number, adding to ``problems`` if it is none."""
    try:
        number = index(value)  # type: ignore[arg-type]
    except TypeError:
        number = least - 1
    if isinstance(value, bool) or number < least or (most is not None and number > most):
        limit = f"at least {least}" if most is None else f"from {least} to {most}"
        problems.add(f"{name} must be a whole number, {limit}; got {value!r}")
    return number


def columns_of(x: ArrayLike) -> int:
    """Return how many inputs a table has; raise InputError if it is none."""
    shape = np.shape(x)
    if len(shape) != 2 or shape[1] < 1:
        raise InputError(f"x must be a table of shape (n, inputs); got shape {shape}")
    return int(shape[1])
