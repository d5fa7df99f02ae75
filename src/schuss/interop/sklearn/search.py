"""``SweepCV``: cross-validation in which all folds of all candidates train together, as one population an architecture."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, MetaEstimatorMixin, clone, is_classifier
from sklearn.exceptions import NotFittedError
from sklearn.metrics import check_scoring
from sklearn.model_selection import ParameterGrid, ParameterSampler, check_cv
from sklearn.utils import check_random_state
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import _check_sample_weight

from schuss.console import live_table
from schuss.errors import DivergenceWarning, InputError
from schuss.interop.sklearn.base import DenseEstimator, Target, draw
from schuss.interop.sklearn.mlp import MLPClassifier, MLPRegressor
from schuss.interop.sklearn.parameters import OF_A_MEMBER
from schuss.population import Population
from schuss.training import Training

Array = NDArray[Any]


def _best_has(name: str) -> Callable[[Any], bool]:
    def check(self: SweepCV) -> bool:
        getattr(getattr(self, "best_estimator_", self.estimator), name)
        return True

    return check


class SweepCV(MetaEstimatorMixin, BaseEstimator):
    """Search the parameters of an ``MLPRegressor`` or ``MLPClassifier`` of schuss by cross-validation, as GridSearchCV does.

    estimator: the one to tune. params: a dictionary of lists, or a list of such, to try all combinations; with n_iter, lists
    or distributions (anything with ``rvs``) to draw so many candidates from. cv: a number of folds, or a splitter whose test
    sets split the samples. scoring: a scorer's name or a callable (estimator, X, y). refit: fit the best candidate to all
    samples (``best_estimator_``). random_state: of the draws. verbose: show a bar and the best so far.

    Candidates that differ in learning_rate_init, alpha, momentum, weight_decay, beta_1, beta_2 or epsilon alone are members
    of one population, a member a fold. A fold that is held out weighs 0 in the batches, which are that much larger.

    ``cv_results_``, ``best_params_``, ``best_score_``, ``best_index_``, ``best_estimator_`` are those of GridSearchCV.

    >>> from schuss.interop.sklearn import MLPRegressor
    >>> from sklearn.datasets import load_diabetes
    >>> from sklearn.preprocessing import scale
    >>> X, y = load_diabetes(return_X_y=True)
    >>> grid = {"alpha": [1e-4, 1.0], "learning_rate_init": [1e-3, 1e-2]}
    >>> search = SweepCV(MLPRegressor(random_state=0, max_iter=100, tol=0.01), grid, cv=3).fit(scale(X), scale(y))
    >>> len(search.cv_results_["params"]), sorted(search.best_params_)
    (4, ['alpha', 'learning_rate_init'])
    """

    def __init__(
        self,
        estimator: Any,
        params: Any,
        *,
        n_iter: int | None = None,
        cv: Any = 5,
        scoring: Any = None,
        refit: bool = True,
        random_state: Any = None,
        verbose: bool = False,
    ) -> None:
        self.estimator = estimator
        self.params = params
        self.n_iter = n_iter
        self.cv = cv
        self.scoring = scoring
        self.refit = refit
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, X: Any, y: Any, sample_weight: Any = None, *, groups: Any = None) -> Self:
        """Train all candidates on all folds, rank them, and refit the best; return the search.

        Raises ValueError for parameters that do not fit, before any training.
        """
        if type(self.estimator) not in (MLPRegressor, MLPClassifier):
            raise InputError(f"SweepCV tunes an MLPRegressor or MLPClassifier of schuss; got {self.estimator!r}")
        candidates = self._candidates()
        for candidate in candidates:
            proto = clone(self.estimator).set_params(**candidate)
            proto._check()
            proto._hidden()
            if proto.early_stopping:
                raise InputError(
                    "early_stopping=True would stop by the very fold that scores; leave it out: SweepCV stops by the "
                    "training loss, as scikit-learn does by default"
                )
        probe = clone(self.estimator)
        rows, labels = probe._read(X, y, True)
        probe._learn(labels, False)
        weights = None if sample_weight is None else _check_sample_weight(sample_weight, rows)
        by_class = probe._class_weights(labels)
        if by_class is not None:
            weights = by_class if weights is None else weights * by_class
        folds = self._folds(rows, labels, groups)
        keys = [_key(candidate) for candidate in candidates]
        count, started = int(folds.max()) + 1, time.perf_counter()
        scores = np.full((len(candidates), count), np.nan)
        seconds = np.zeros(len(candidates))
        groups_of = {key: [i for i, other in enumerate(keys) if other == key] for key in dict.fromkeys(keys)}
        with live_table(len(groups_of), self.verbose) as (advance_bar, show):
            for members in groups_of.values():
                began = time.perf_counter()
                some = [candidates[i] for i in members]
                scores[members] = self._scores(probe, some, rows, labels, weights, folds)
                seconds[members] = (time.perf_counter() - began) / len(members)
                advance_bar(1)
                show("the best so far", self._best_table(candidates, scores))
        self._keep(candidates, scores, seconds)
        self.scorer_ = check_scoring(self.estimator, self.scoring)
        self.n_splits_, self.multimetric_ = count, False
        self.sweep_time_ = time.perf_counter() - started
        if self.refit:
            began = time.perf_counter()
            self.best_estimator_ = clone(self.estimator).set_params(**self.best_params_)
            self.best_estimator_.fit(X, y, sample_weight)
            self.refit_time_ = time.perf_counter() - began
        return self

    def _candidates(self) -> list[dict[str, Any]]:
        if self.n_iter is not None:
            found = list(ParameterSampler(self.params, self.n_iter, random_state=check_random_state(self.random_state)))
        else:
            found = list(ParameterGrid(self.params))
        known = self.estimator.get_params()
        unknown = sorted({name for candidate in found for name in candidate} - set(known))
        if not found or unknown:
            raise InputError(f"params names {unknown or 'nothing'}; the parameters are {', '.join(sorted(known))}")
        return found

    def _folds(self, X: Array, y: Array, groups: Any) -> NDArray[np.int32]:
        """Return the number of the fold in whose test set each sample is."""
        splitter = check_cv(self.cv, y, classifier=is_classifier(self.estimator))
        folds, seen = np.zeros(len(X), np.int32), np.zeros(len(X), np.int64)
        for fold, (_, test) in enumerate(splitter.split(X, y, groups)):
            folds[test] = fold
            seen[test] += 1
        if (seen != 1).any():
            raise InputError(
                f"cv must put each sample into one test set, as KFold and StratifiedKFold do; {splitter!r} puts some "
                f"into {seen.min()} and some into {seen.max()}; scikit-learn's GridSearchCV takes any"
            )
        return folds

    def _scores(
        self,
        probe: DenseEstimator,
        candidates: Sequence[Mapping[str, Any]],
        X: Array,
        y: Array,
        weights: Array | None,
        folds: NDArray[np.int32],
    ) -> Array:
        """Return the scores (candidates, folds) of candidates that make one population."""
        proto = copy(probe).set_params(**candidates[0])
        count = int(folds.max()) + 1
        for name in OF_A_MEMBER:
            values = np.repeat([candidate.get(name, getattr(proto, name)) for candidate in candidates], count)
            if len(set(values.tolist())) > 1:
                setattr(proto, name, values.astype(np.float64))
        target: Target = proto._target(y)
        random, members = check_random_state(proto.random_state), len(candidates) * count
        layers = [*proto._hidden(), target.last]
        population = Population(X.shape[1], layers, seed=np.zeros(members, np.uint64), dtype=X.dtype)
        draw(population.parameters[0], population, random)
        population.parameters[1:] = population.parameters[0]
        batch = _batch(proto, len(X), count)
        with (
            Training(
                population,
                X,
                target.y,
                cost=target.cost,
                l2=proto.alpha,
                batch_size=batch,
                shuffle=proto.shuffle,
                sample_weight=weights,
                folds=folds,
                held_out=np.tile(np.arange(count), len(candidates)),
                engine=proto.engine,
                threads=proto.threads,
                seed=int(random.randint(np.iinfo(np.int32).max)),
            ) as training,
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore", DivergenceWarning)  # their scores are the worst
            epochs = proto._epochs()
            history = training.run(
                epochs, proto._optimizer(len(X)), early_stopping=proto._stopping(target, None), record_every=epochs
            )
        scorer = check_scoring(proto, self.scoring)
        scores = np.empty((len(candidates), count))
        for fold in range(count):
            out = folds == fold
            for i in range(len(candidates)):
                member = i * count + fold
                proto._outputs_given = population[member](X[out])
                scores[i, fold] = np.nan if member in history.diverged else scorer(proto, X[out], y[out])
        return scores

    def _keep(self, candidates: list[dict[str, Any]], scores: Array, seconds: Array) -> None:
        """Fill ``cv_results_`` and what names the best."""
        mean = scores.mean(axis=1)
        order = np.where(np.isnan(mean), -np.inf, mean)
        ranks = 1 + (order[:, None] < order).sum(axis=1)
        results: dict[str, Any] = {"params": candidates}
        for name in dict.fromkeys(name for candidate in candidates for name in candidate):
            column = np.ma.MaskedArray(np.empty(len(candidates), dtype=object), mask=True)
            for i, candidate in enumerate(candidates):
                if name in candidate:
                    column[i] = candidate[name]
            results[f"param_{name}"] = column
        for fold in range(scores.shape[1]):
            results[f"split{fold}_test_score"] = scores[:, fold]
        results |= {"mean_test_score": mean, "std_test_score": scores.std(axis=1), "rank_test_score": ranks}
        results |= {"mean_fit_time": seconds / scores.shape[1]}
        self.cv_results_ = results
        if not np.isfinite(order).any():
            raise InputError("every candidate diverged; try smaller learning rates, or scale X")
        self.best_index_ = int(order.argmax())
        self.best_score_ = float(mean[self.best_index_])
        self.best_params_ = candidates[self.best_index_]

    @staticmethod
    def _best_table(candidates: list[dict[str, Any]], scores: Array) -> Any:
        mean = np.nan_to_num(scores.mean(axis=1), nan=-np.inf)
        rows = [(str(candidates[i]), f"{mean[i]:.5g}") for i in np.argsort(-mean)[:10] if np.isfinite(mean[i])]
        return ("parameters", "mean score"), rows

    @property
    def classes_(self) -> Array:
        """The classes of the best estimator."""
        return self._best().classes_

    @property
    def n_features_in_(self) -> int:
        """The features of the best estimator."""
        return self._best().n_features_in_

    def _best(self) -> Any:
        if not hasattr(self, "best_estimator_"):
            raise NotFittedError(f"this {type(self).__name__} has no best estimator; call fit, with refit=True")
        return self.best_estimator_

    @available_if(_best_has("predict"))
    def predict(self, X: Any) -> Array:
        """Return what the best estimator predicts."""
        return self._best().predict(X)

    @available_if(_best_has("predict_proba"))
    def predict_proba(self, X: Any) -> Array:
        """Return the probabilities of the best estimator."""
        return self._best().predict_proba(X)

    def score(self, X: Any, y: Any) -> float:
        """Return the score of the best estimator, by ``scoring``."""
        return float(self.scorer_(self._best(), X, y))

    @property
    def _estimator_type(self) -> str:
        return str(getattr(self.estimator, "_estimator_type", ""))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        own = self.estimator.__sklearn_tags__()
        tags.estimator_type = own.estimator_type
        tags.classifier_tags, tags.regressor_tags = own.classifier_tags, own.regressor_tags
        tags.target_tags, tags.input_tags = own.target_tags, own.input_tags
        return tags


def _batch(proto: DenseEstimator, samples: int, folds: int) -> int | None:
    """Return a batch size that makes an epoch of all samples as many steps as one without a fold."""
    trained = samples - samples // folds
    batch = proto._batch(trained)
    if batch is None or batch >= trained:
        return None
    return -(-samples // -(-trained // batch))


def _key(candidate: Mapping[str, Any]) -> str:
    """Return what candidates of one population have in common."""
    return repr(sorted((name, value) for name, value in candidate.items() if name not in OF_A_MEMBER))
