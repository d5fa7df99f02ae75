"""What the estimators share: the fit, what it records, and predictions."""

from __future__ import annotations

import warnings
from copy import copy
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import check_scoring
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from schuss.arrays import unmasked
from schuss.callbacks import Lines
from schuss.checks import EarlyStopping
from schuss.costs import Cost
from schuss.errors import InputError
from schuss.history import History
from schuss.interop.sklearn.parameters import Parameters
from schuss.layers import Dense, views
from schuss.network import DenseModel
from schuss.resources import check_memory
from schuss.training import Training

Array = NDArray[Any]

_MOST_EPOCHS = np.iinfo(np.int64).max
_MOST_SEEDS = np.iinfo(np.int32).max
_SMALLEST_RATE = 1e-6  # at which an adaptive rate ends the training


@dataclass(frozen=True)
class Target:
    """What y came to: its columns for the cost, the last layer, the cost; and how the cost becomes scikit-learn's loss,
    which is averaged over some columns, and has a constant.
    """

    y: Array
    last: Dense
    cost: Cost
    averaged: int = 1
    constant: float = 0.0

    def loss(self, cost: float) -> float:
        """Return scikit-learn's loss for a cost."""
        return cost / self.averaged + self.constant


class DenseEstimator(Parameters):
    """A fit and its predictions; a subclass says what y and the outputs mean, and what is trained."""

    # -- what a subclass says -----------------------------------------------------------------------------------------

    def _learn(self, y: Array, incremental: bool) -> None:
        """Note the classes, or how many columns y has."""
        raise NotImplementedError

    def _target(self, y: Array) -> Target:
        """Return what y comes to."""
        raise NotImplementedError

    def _decoded(self, outputs: Array) -> Array:
        """Return what ``predict`` gives for outputs (n, dL) of the network."""
        raise NotImplementedError

    def _class_weights(self, y: Array) -> Array | None:
        """Return the factor of each sample's weight by its class, or None."""
        return None

    def _model(self, inputs: int, layers: list[Dense], random: np.random.RandomState, dtype: np.dtype[Any]) -> Any:
        """Return the Network or the Population to train, with its first weights."""
        raise NotImplementedError

    def _options(self) -> dict[str, Any]:
        """Return how Training is to draw its batches."""
        return {"shuffle": bool(self.shuffle)}

    def _stopping(self, target: Target, scored: EarlyStopping | None) -> EarlyStopping | None:
        """Return when to stop early; scored: by the rows held out."""
        if scored is not None or self.solver == "lbfgs":
            return scored
        patience = int(min(self.n_iter_no_change, _MOST_EPOCHS - 1)) + 1
        return EarlyStopping(patience, float(self.tol) * target.averaged, metric="training_cost")

    # -- the fit ------------------------------------------------------------------------------------------------------

    def fit(self, X: Any, y: Any, sample_weight: Any = None, *, validation: tuple[Any, Any] | None = None) -> Self:
        """Fit to X (n, features), an array, a sparse matrix or a frame, and y; return the estimator.

        sample_weight: (n,), none negative. validation: (X, y) to look at after each epoch (``validation_loss_curve_``)
        and, with early_stopping=True, to stop by instead of rows split off. What has the dtype float32 is computed in
        it, all else in float64. Raises ValueError for what does not fit.
        """
        return self._fit(X, y, sample_weight, validation, incremental=False)

    def _read(self, X: Any, y: Any, first: bool, **options: Any) -> tuple[Array, Array]:
        X, y = validate_data(
            self,
            unmasked(X),
            unmasked(y),
            accept_sparse=["csr", "csc"],
            multi_output=True,
            dtype=(np.float64, np.float32),
            reset=first,
            **options,
        )
        if first and X.shape[1] > 1_000_000:
            raise InputError(f"X has {X.shape[1]} columns, which make too many weights; select columns, or reduce them")
        return dense(X), np.asarray(y.toarray() if hasattr(y, "toarray") else y)

    def _fit(
        self, X: Any, y: Any, sample_weight: Any, validation: tuple[Any, Any] | None, *, incremental: bool
    ) -> Self:
        before = dict(vars(self))
        try:
            self._try_to_fit(X, y, sample_weight, validation, incremental)
        except BaseException:  # a fit that cannot be made leaves the estimator as it was
            self.__dict__.clear()
            self.__dict__.update(before)
            raise
        return self

    def _try_to_fit(
        self, X: Any, y: Any, sample_weight: Any, validation: tuple[Any, Any] | None, incremental: bool
    ) -> None:
        self._check()
        hidden = self._hidden()
        first = not hasattr(self, "_seed") or not (self.warm_start or incremental)
        X, y = self._read(X, y, first)
        weights = None if sample_weight is None else _check_sample_weight(sample_weight, X)
        by_class = self._class_weights(y)
        if by_class is not None:
            weights = by_class if weights is None else weights * by_class
        if first:
            self._learn(y, incremental)
        target = self._target(y)
        held_out, scored = None, None
        if validation is not None or (self.early_stopping and self.solver != "lbfgs"):
            if incremental:
                raise InputError("partial_fit does not support early_stopping=True: it takes one step at a time")
            X, y, weights, held = self._hold_out(X, y, weights, validation, target)
            target, held_out = self._target(y), (held[0], self._target(held[1]).y)
            if self.early_stopping and self.solver != "lbfgs":
                scored = self._scored(*held)
        if first:
            self._begin(X, hidden, target)
        self._train(X, target, weights, held_out, scored, incremental)

    def _begin(self, X: Array, hidden: list[Dense], target: Target) -> None:
        """Draw the first weights."""
        random = check_random_state(self.random_state)
        self._trained = self._model(X.shape[1], [*hidden, target.last], random, X.dtype)
        self._seed = int(random.randint(_MOST_SEEDS))
        self._calls, self.t_ = 0, 0
        self._optimizer_state: dict[str, Array] = {}
        self.loss_curve_: list[float] = []
        self.validation_scores_: list[float] | None = None
        self.validation_loss_curve_: list[float] | None = None
        self.best_loss_: float | None = None
        self.best_validation_score_: float | None = None
        self.n_outputs_ = target.last.units
        self.n_layers_ = len(hidden) + 2
        names = {"linear": "identity", "sigmoid": "logistic"}
        self.out_activation_ = names.get(target.last.activation.name, target.last.activation.name)

    def _hold_out(
        self, X: Array, y: Array, weights: Array | None, given: tuple[Any, Any] | None, target: Target
    ) -> tuple[Array, Array, Array | None, tuple[Array, Array]]:
        """Return the rows to train on, and those to look at: given, or split off as scikit-learn does."""
        if given is not None:
            if not isinstance(given, tuple | list) or len(given) != 2:
                raise InputError(f"validation must be a pair (X, y); got {type(given).__name__}")
            held = self._read(*given, False)
            return X, y, weights, (np.asarray(held[0], X.dtype), held[1])
        stratify = y if target.cost.classifies and y.ndim == 1 else None
        arrays = [X, y, *([] if weights is None else [weights])]
        parts = train_test_split(
            *arrays, random_state=self.random_state, test_size=self.validation_fraction, stratify=stratify
        )
        if len(parts[1]) < 2:
            raise InputError(
                "The validation set is too small. Increase 'validation_fraction' or the size of your dataset."
            )
        return parts[0], parts[2], None if weights is None else parts[4], (parts[1], parts[3])

    def _scored(self, X: Array, y: Array) -> EarlyStopping:
        """Return early stopping by the scorer on the rows held out."""
        scorer, probe = check_scoring(self, self.scoring), copy(self)

        def score(_: Array, outputs: Array) -> float:
            probe._outputs_given = outputs
            with np.errstate(all="ignore"):
                return float(scorer(probe, X, y)) if np.isfinite(outputs).all() else -np.inf

        return EarlyStopping(int(min(self.n_iter_no_change, _MOST_EPOCHS - 1)) + 1, float(self.tol), metric=score)

    def _train(
        self,
        X: Array,
        target: Target,
        weights: Array | None,
        held_out: tuple[Array, Array] | None,
        scored: EarlyStopping | None,
        incremental: bool,
    ) -> None:
        if not self._trained.parameters.flags.writeable:  # loaded by joblib as a memory map, or handed to its workers
            self._trained = self._trained.copy()
        callbacks: list[Any] = [*self.callbacks, *([Lines()] if self.verbose else [])]
        with Training(
            self._trained,
            X,
            target.y,
            cost=target.cost,
            l2=self.alpha,
            batch_size=self._batch(len(X)),
            sample_weight=weights,
            validation=held_out,
            engine=self.engine,
            threads=self.threads,
            seed=self._seed + self._calls,
            partial=incremental,
            **self._options(),
        ) as training:
            if incremental and self._optimizer_state:
                training.load_optimizer_state(self._optimizer_state)
            stopping = None if incremental else self._stopping(target, scored)
            epochs, rate = 1 if incremental else self._epochs(), 1.0
            histories: list[History] = []
            while epochs > 0:
                optimizer = self._optimizer(len(X), rate)
                history = training.run(
                    epochs, optimizer, early_stopping=stopping, progress=self.progress, callbacks=callbacks
                )
                histories.append(history)
                epochs -= len(history)
                rate /= 5
                adaptive = self.solver == "sgd" and self.learning_rate == "adaptive" and history.stopped
                if not adaptive or np.max(self.learning_rate_init) * rate <= _SMALLEST_RATE:
                    break
            self._optimizer_state = training.optimizer_state() if incremental else {}
        self._note(histories, target, len(X), incremental)

    def _note(self, histories: list[History], target: Target, samples: int, incremental: bool) -> None:
        """Keep what a run recorded, under scikit-learn's names; a population as the mean over members."""
        last = histories[-1]
        self.history_ = last

        def curve(name: str) -> list[float]:
            rows = [getattr(history, name) for history in histories]
            table = np.concatenate([row for row in rows if row is not None]) if rows[0] is not None else np.empty(0)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", RuntimeWarning)  # of epochs in which no member ran
                return list((table if table.ndim == 1 else np.nanmean(table, axis=1)).tolist())

        costs = [target.loss(cost) for cost in curve("cost")]
        self.loss_curve_ = [*self.loss_curve_, *costs] if incremental or self.warm_start else costs
        self.loss_ = self.loss_curve_[-1] if self.loss_curve_ else np.nan
        self.n_iter_ = len(costs)
        self.t_ += len(costs) * samples
        self._calls += 1
        self.validation_loss_curve_ = [target.loss(cost) for cost in curve("validation_cost")] or None
        self.validation_scores_ = curve("score") or None
        self.best_validation_score_ = max(self.validation_scores_) if self.validation_scores_ else None
        self.best_loss_ = None if self.validation_scores_ else min(self.loss_curve_, default=None)
        if last.interrupted:
            warnings.warn("Training interrupted by user.", stacklevel=6)
        ended = last.stopped or last.converged or last.diverged
        if not (incremental or ended or last.interrupted) and self.n_iter_ >= self._epochs():
            warnings.warn(
                f"Maximum iterations ({self.max_iter}) reached and the optimization hasn't converged yet.",
                ConvergenceWarning,
                stacklevel=6,
            )

    # -- predictions --------------------------------------------------------------------------------------------------

    def _raw(self, X: Any) -> Array:
        """Return the outputs (n, dL) of the network, or their mean over members."""
        given: Array | None = getattr(self, "_outputs_given", None)
        if given is not None:
            return given
        return self._mean(self._rows(X))

    def _rows(self, X: Any) -> Array:
        check_is_fitted(self, "_trained")
        floats = (np.float64, np.float32)
        return dense(validate_data(self, unmasked(X), accept_sparse=["csr", "csc"], dtype=floats, reset=False))

    def _mean(self, X: Array) -> Array:
        outputs: Array = self._trained(X)
        return outputs

    @property
    def model_(self) -> Any:
        """What predicts: a Network, or an Ensemble."""
        if not hasattr(self, "_trained"):
            raise AttributeError(f"this {type(self).__name__} is not fitted yet; call fit first")
        return self._trained

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "_trained")

    def __getstate__(self) -> dict[str, Any]:
        state = dict(super().__getstate__())
        state.pop("_outputs_given", None)
        return state

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags


def draw(parameters: Array, model: DenseModel, random: np.random.RandomState) -> None:
    """Draw the first parameters (p,) of a network as scikit-learn does, the same for the same random state: weights and
    biases evenly within sqrt(6 / (inputs + units)) of 0, or sqrt(2 / ...) for networks of logistic units.
    """
    factor = 2.0 if model.activations[0].name == "sigmoid" and len(model.activations) > 1 else 6.0
    for weights, bias in views(parameters, model.sizes):
        bound = np.sqrt(factor / sum(weights.shape))
        weights[:] = random.uniform(-bound, bound, weights.shape[::-1]).T
        bias[:] = random.uniform(-bound, bound, bias.shape)


def dense(X: Any) -> Array:
    """Return a sparse matrix as an array, and an array as it is."""
    if not hasattr(X, "toarray"):
        return np.asarray(X)
    rows, columns = X.shape
    check_memory(rows * columns * X.dtype.itemsize, f"X of {rows} rows and {columns} columns, made dense", rows, "rows")
    return np.asarray(X.toarray())
