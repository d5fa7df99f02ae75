"""``from_sklearn``: a fitted MLP of scikit-learn as a network."""

from __future__ import annotations

from typing import Any

from sklearn.neural_network import MLPClassifier, MLPRegressor

from schuss.errors import InputError
from schuss.interop.sklearn.parameters import ACTIVATIONS
from schuss.layers import Dense
from schuss.network import Network


def from_sklearn(fitted: Any) -> Network:
    """Return a network with the weights of a fitted ``sklearn.neural_network`` MLPRegressor or MLPClassifier, in their dtype.

    Its outputs are those that ``predict`` gives, or the probabilities (of two classes, that of the second). Raises InputError
    for anything else, or an MLP that was not fitted.

    >>> from sklearn.datasets import load_iris
    >>> from sklearn.neural_network import MLPClassifier
    >>> X, y = load_iris(return_X_y=True)
    >>> from_sklearn(MLPClassifier((5,), solver="lbfgs", max_iter=2000, random_state=0).fit(X, y)).sizes
    (4, 5, 3)
    """
    if not isinstance(fitted, MLPRegressor | MLPClassifier) or not hasattr(fitted, "coefs_"):
        raise InputError(f"from_sklearn takes a fitted MLPRegressor or MLPClassifier of scikit-learn; got {fitted!r}")
    names = [fitted.activation] * (len(fitted.coefs_) - 1) + [fitted.out_activation_]
    known = ACTIVATIONS | {"softmax": "softmax"}
    layers = [Dense(W.shape[1], known[name]) for W, name in zip(fitted.coefs_, names, strict=True)]
    network = Network(fitted.coefs_[0].shape[0], layers, seed=0, dtype=fitted.coefs_[0].dtype.name)
    for layer, W, b in zip(network.layers, fitted.coefs_, fitted.intercepts_, strict=True):
        layer.weights[:], layer.bias[:] = W.T, b
    return network
