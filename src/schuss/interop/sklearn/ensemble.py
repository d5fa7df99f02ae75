"""``EnsembleRegressor`` and ``EnsembleClassifier``: a population as one estimator, whose members may disagree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schuss.ensembles import Ensemble
from schuss.errors import InputError, Problems
from schuss.interop.sklearn.base import DenseEstimator, Target, draw
from schuss.interop.sklearn.mlp import Classifier, Regressor
from schuss.layers import Dense
from schuss.population import Population

Array = NDArray[Any]


class _Many(DenseEstimator):
    """Some networks, each with its own first weights and shuffles, trained as one population."""

    n_estimators: int
    bootstrap: bool
    select: int | None

    def _check(self) -> None:
        super()._check()
        problems = Problems("fit")
        for name in ("n_estimators", *(["select"] if self.select is not None else [])):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
                problems.add(f"{name} must be a whole number, at least 1; got {value!r}")
        problems.raise_if_any()

    def _model(self, inputs: int, layers: list[Dense], random: np.random.RandomState, dtype: np.dtype[Any]) -> Any:
        seeds = random.randint(np.iinfo(np.int32).max, size=self.n_estimators)
        population = Population(inputs, layers, seed=seeds, dtype=dtype)
        for seed, parameters in zip(seeds, population.parameters, strict=True):
            draw(parameters, population, np.random.RandomState(seed))
        return population

    def _options(self) -> dict[str, Any]:
        return {"shuffle": "member" if self.shuffle else False, "bootstrap": self.bootstrap}

    def _train(
        self,
        X: Array,
        target: Target,
        weights: Any,
        held_out: tuple[Array, Array] | None,
        scored: Any,
        incremental: bool,
    ) -> None:
        super()._train(X, target, weights, held_out, scored, incremental)
        everyone: Ensemble = self._trained.ensemble()
        self.ensemble_ = everyone
        if self.select is not None:
            x, y = held_out if held_out is not None else (X, target.y)
            if target.cost.row.targets == "labels":
                y = y.reshape(-1, 1) == np.arange(target.last.units)
            if target.cost.levels > 1:
                raise InputError("select chooses by squared error, which a loss of several quantiles has not")
            self.ensemble_ = everyone.greedy(x, y, size=self.select)

    def _members(self, X: Any) -> Array:
        """Return the outputs of each member that counts, (members, n, dL)."""
        return self.ensemble_.outputs(self._rows(X))

    def _mean(self, X: Array) -> Array:
        return self.ensemble_(X).mean

    @property
    def model_(self) -> Ensemble:
        """The ensemble that predicts."""
        if not hasattr(self, "ensemble_"):
            raise AttributeError(f"this {type(self).__name__} is not fitted yet; call fit first")
        return self.ensemble_


@dataclass(eq=False, repr=False)
class EnsembleRegressor(_Many, Regressor):
    """Learn numbers with several networks, trained together; predict their mean, and how much they disagree.

    n_estimators: how many. bootstrap: resample the rows for each. select: keep the ensemble of so many, chosen one after the
    other (greedily, one may count twice) by the rows held out, else by those of the training. The others as for
    ``MLPRegressor``; random_state also draws the seed of each network.

    >>> from sklearn.datasets import load_diabetes
    >>> from sklearn.preprocessing import scale
    >>> X, y = load_diabetes(return_X_y=True)
    >>> model = EnsembleRegressor(n_estimators=8, random_state=0, max_iter=500).fit(X, scale(y))
    >>> mean, deviation = model.predict(X[:3], return_std=True)
    >>> mean.shape, bool((deviation > 0).all()), model.predict_quantiles(X[:3], (0.1, 0.9)).shape
    ((3,), True, (3, 2))
    """

    loss: Any = "squared_error"
    hidden_layer_sizes: Any = (100,)
    activation: Any = "relu"
    _: KW_ONLY
    n_estimators: int = 10
    bootstrap: bool = False
    select: int | None = None

    def predict(self, X: Any, return_std: bool = False) -> Any:
        """Return the mean over members for X (n, features), (n,) or (n, outputs); with return_std a pair with the standard
        deviation over members: how much they disagree, not how far they are from the truth.
        """
        if not return_std:
            return self._decoded(self._raw(X))
        mean, deviation = self.ensemble_(self._rows(X))
        return self._decoded(mean), self._decoded(deviation)

    def predict_quantiles(self, X: Any, quantiles: Sequence[float] = (0.1, 0.5, 0.9)) -> Array:
        """Return the quantiles over members, (n, quantiles), or (n, outputs, quantiles) for several outputs."""
        levels = np.asarray(quantiles, np.float64)
        if levels.ndim != 1 or not ((levels >= 0) & (levels <= 1)).all():
            raise InputError(f"quantiles must be a list of numbers in [0, 1]; got {quantiles!r}")
        found = np.moveaxis(np.quantile(self._members(X), levels, axis=0), 0, -1)
        return np.asarray(found[:, 0] if found.shape[1] == 1 else found)


@dataclass(eq=False, repr=False)
class EnsembleClassifier(_Many, Classifier):
    """Learn classes with several networks, trained together; their probabilities are averaged.

    n_estimators, bootstrap, select: as for ``EnsembleRegressor``; the others as for ``MLPClassifier``.

    >>> from sklearn.datasets import load_wine
    >>> from sklearn.preprocessing import scale
    >>> X, y = load_wine(return_X_y=True)
    >>> model = EnsembleClassifier(n_estimators=8, random_state=0, max_iter=300).fit(scale(X), y)
    >>> probabilities, deviation = model.predict_proba(scale(X)[:3], return_std=True)
    >>> probabilities.shape, deviation.shape
    ((3, 3), (3, 3))
    """

    hidden_layer_sizes: Any = (100,)
    activation: Any = "relu"
    _: KW_ONLY
    loss: Any = "log_loss"
    class_weight: Any = None
    n_estimators: int = 10
    bootstrap: bool = False
    select: int | None = None

    def predict(self, X: Any) -> Array:
        """Return the class of the highest mean probability for X (n, features), (n,); or the labels over 1/2, (n, labels)."""
        return self._decoded(self._raw(X))

    def predict_proba(self, X: Any, return_std: bool = False) -> Any:
        """Return the mean probability of each class, (n, classes); with return_std a pair with its standard deviation over
        members.
        """
        if not return_std:
            return super().predict_proba(X)
        members = self._members(X)
        found = np.stack([self._probabilities(one) for one in members])
        return found.mean(axis=0), found.std(axis=0)
