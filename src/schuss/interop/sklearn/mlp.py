"""``MLPRegressor`` and ``MLPClassifier``: scikit-learn's, on schuss."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import ClassifierMixin, RegressorMixin
from sklearn.utils import compute_class_weight
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import column_or_1d

from schuss import costs
from schuss.costs import Cost
from schuss.errors import InputError, unknown_name
from schuss.interop.sklearn.base import DenseEstimator, Target, draw
from schuss.layers import Dense
from schuss.network import Network

Array = NDArray[Any]

LOSSES = {
    "squared_error": "quadratic",
    "absolute_error": "absolute",
    "huber": "huber",
    "quantile": "quantile",
    "poisson": "poisson",
}
"""What a regressor may minimise: scikit-learn's names, and the names of our costs."""


def _stochastic(estimator: DenseEstimator) -> bool:
    return bool(estimator.solver != "lbfgs")


class Regressor(RegressorMixin, DenseEstimator):
    """What y means to a regressor, and its outputs."""

    loss: Any

    def _learn(self, y: Array, incremental: bool) -> None:
        self._columns = 1 if y.ndim == 1 else y.shape[1]

    def _target(self, y: Array) -> Target:
        name = LOSSES.get(self.loss, self.loss) if isinstance(self.loss, str) else self.loss
        if not isinstance(name, Cost) and name not in LOSSES.values():
            raise InputError(unknown_name("loss", self.loss, LOSSES))
        cost = costs.resolve(name)
        if cost.classifies:
            raise InputError(
                f"loss={cost!r} is for classes; a regressor takes {', '.join(LOSSES)} or a cost of numbers"
            )
        units = self._columns * cost.levels
        constant = 0.0
        if cost.name == "poisson":  # scikit-learn's is half the deviance: 0 for a perfect fit
            constant = float(np.mean(y * np.log(np.where(y > 0, y, 1)) - y))
        return Target(y, Dense(units, cost.row.link or "linear"), cost, units, constant)

    def _decoded(self, outputs: Array) -> Array:
        return outputs[:, 0] if outputs.shape[1] == 1 else outputs

    def _read(self, X: Any, y: Any, first: bool, **options: Any) -> tuple[Array, Array]:
        X, y = super()._read(X, y, first, y_numeric=True, **options)
        return X, column_or_1d(y, warn=True) if y.ndim == 2 and y.shape[1] == 1 else y

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags


class Classifier(ClassifierMixin, DenseEstimator):
    """What y means to a classifier, and its outputs: classes, or several labels at once."""

    loss: Any
    class_weight: Any

    def _learn(self, y: Array, incremental: bool) -> None:
        if incremental:
            return  # partial_fit was told the classes
        self._multilabel = _kind(y) == "multilabel-indicator"
        self.classes_ = np.arange(y.shape[1]) if self._multilabel else np.unique(y)
        if not self._multilabel and len(self.classes_) < 2:
            raise InputError(f"y has one class only, {self.classes_[0]!r}: a classifier needs at least 2 classes")

    def _target(self, y: Array) -> Target:
        kind = _kind(y)
        if self._multilabel != (kind == "multilabel-indicator"):
            raise InputError(f"y was {'several labels' if self._multilabel else 'classes'} before; got {kind}")
        elif not self._multilabel and len(np.setdiff1d(y, self.classes_)):
            raise InputError(
                f"`y` has classes not in `self.classes_`: {np.setdiff1d(y, self.classes_)}; known: {self.classes_}"
            )
        count = len(self.classes_)
        default = "cross_entropy" if count > 2 and not self._multilabel else "binary_cross_entropy"
        cost = costs.resolve(default if self.loss == "log_loss" else self.loss)
        if not cost.classifies or (self._multilabel and cost.row.targets == "labels"):
            raise InputError(f"loss must be 'log_loss' or a cost of classification that fits y; got {self.loss!r}")
        if cost.row.targets == "labels":
            return Target(np.searchsorted(self.classes_, y), Dense(count, "softmax"), cost)
        if self._multilabel:
            return Target(np.asarray(y, np.float64), Dense(count, "sigmoid"), cost)
        if count > 2:
            raise InputError(f"loss={cost!r} is for two classes, or several labels; y has {count} classes")
        return Target(np.searchsorted(self.classes_, y), Dense(1, "sigmoid"), cost)

    def _class_weights(self, y: Array) -> Array | None:
        if self.class_weight is None:
            return None
        if y.ndim != 1:
            raise InputError("class_weight is for classes, not for several labels at once; pass sample_weight")
        known = np.unique(y)
        each = compute_class_weight(self.class_weight, classes=known, y=y)
        return np.asarray(each)[np.searchsorted(known, y)]

    def _read(self, X: Any, y: Any, first: bool, **options: Any) -> tuple[Array, Array]:
        X, y = super()._read(X, y, first, **options)
        return X, column_or_1d(y, warn=True) if y.ndim == 2 and y.shape[1] == 1 else y

    def _probabilities(self, outputs: Array) -> Array:
        """Return (n, classes) for the outputs of the network."""
        return np.hstack([1 - outputs, outputs]) if outputs.shape[1] == 1 and not self._multilabel else outputs

    def _decoded(self, outputs: Array) -> Array:
        if self._multilabel:
            return (outputs > 0.5).astype(np.int64)
        return np.asarray(self.classes_[self._probabilities(outputs).argmax(axis=1)])

    def predict_proba(self, X: Any) -> Array:
        """Return the probability of each class, or label, (n, classes), in the order of ``classes_``."""
        return self._probabilities(self._raw(X))

    def predict_log_proba(self, X: Any) -> Array:
        """Return the logarithm of ``predict_proba``."""
        with np.errstate(divide="ignore"):
            return np.asarray(np.log(self.predict_proba(X)))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags


def _kind(y: Array) -> str:
    """Return what y holds: binary, multiclass or multilabel-indicator; raise ValueError if it is no classifier's target."""
    kind = str(type_of_target(y, raise_unknown=True))
    if kind not in ("binary", "multiclass", "multilabel-indicator"):
        check_classification_targets(y)
        raise ValueError(f"Unknown label type: {kind}: y must be classes, or a matrix of 0 and 1, a column a label")
    return kind


class _One(DenseEstimator):
    """One network: its weights by scikit-learn's names, and training by single steps."""

    def _model(self, inputs: int, layers: list[Dense], random: np.random.RandomState, dtype: np.dtype[Any]) -> Network:
        network = Network(inputs, layers, seed=0, dtype=dtype)
        draw(network.parameters, network, random)
        return network

    def predict(self, X: Any) -> Array:
        """Return what X (n, features) predicts: (n,), or (n, outputs)."""
        return self._decoded(self._raw(X))

    @property
    def network_(self) -> Network:
        """The network."""
        return self.model_

    @property
    def coefs_(self) -> list[Array]:
        """Views of the weights of each layer, (inputs, units)."""
        return [layer.weights.T for layer in self.model_.layers]

    @property
    def intercepts_(self) -> list[Array]:
        """Views of the biases of each layer, (units,)."""
        return [layer.bias for layer in self.model_.layers]


@dataclass(eq=False, repr=False)
class MLPRegressor(_One, Regressor):
    """Learn numbers: scikit-learn's ``MLPRegressor``, trained by schuss.

    All parameters of scikit-learn's, with its defaults. loss: squared_error, poisson, and also absolute_error, huber,
    quantile or one of ``schuss.costs`` with an option, such as Quantile((0.1, 0.9)). The others are explained at
    ``Parameters``, and what differs from scikit-learn in docs/scikit_learn.md.

    >>> from sklearn.datasets import load_diabetes
    >>> from sklearn.preprocessing import scale
    >>> X, y = load_diabetes(return_X_y=True)
    >>> model = MLPRegressor(activation=("tanh",), dropout=0.1, random_state=0, max_iter=500).fit(X, scale(y))
    >>> model.predict(X[:2]).shape
    (2,)
    """

    loss: Any = "squared_error"
    hidden_layer_sizes: Any = (100,)
    activation: Any = "relu"

    @available_if(_stochastic)
    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Train for one epoch on X and y, going on from before; return the estimator."""
        return self._fit(X, y, sample_weight, None, incremental=True)


@dataclass(eq=False, repr=False)
class MLPClassifier(_One, Classifier):
    """Learn classes, or several labels at once: scikit-learn's ``MLPClassifier``, trained by schuss.

    All parameters of scikit-learn's, with its defaults. loss: "log_loss", or a cost with an option, such as
    ``schuss.costs.CrossEntropy(0.1)``. class_weight: "balanced", or a dictionary {class: weight}. The others are explained at
    ``Parameters``, and what differs from scikit-learn in docs/scikit_learn.md.

    >>> from sklearn.datasets import load_wine
    >>> from sklearn.preprocessing import scale
    >>> X, y = load_wine(return_X_y=True)
    >>> MLPClassifier(random_state=0, class_weight="balanced", max_iter=300).fit(scale(X), y).score(scale(X), y)
    1.0
    """

    hidden_layer_sizes: Any = (100,)
    activation: Any = "relu"
    _: KW_ONLY
    loss: Any = "log_loss"
    class_weight: Any = None

    @available_if(_stochastic)
    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None, classes: Any = None) -> Self:
        """Train for one epoch on X and y, going on from before; return the estimator.

        classes: all that there will ever be; needed in the first call.
        """
        if not hasattr(self, "classes_"):
            if classes is None:
                raise ValueError("classes must be passed on the first call to partial_fit.")
            self._multilabel = str(type_of_target(y)).startswith("multilabel")
            self.classes_ = np.arange(np.shape(y)[1]) if self._multilabel else np.unique(classes)
        elif classes is not None and not self._multilabel and not np.array_equal(np.unique(classes), self.classes_):
            raise ValueError(
                f"`classes={classes!r}` is not the same as on last call to partial_fit, was: {self.classes_!r}"
            )
        return self._fit(X, y, sample_weight, None, incremental=True)
