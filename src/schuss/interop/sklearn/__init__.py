"""scikit-learn estimators: change the import, keep the pipeline.

>>> from schuss.interop.sklearn import MLPRegressor  # instead of sklearn.neural_network
>>> import numpy as np
>>> X = np.random.default_rng(0).random((300, 3))
>>> MLPRegressor(max_iter=400, random_state=0).fit(X, X.sum(axis=1)).score(X, X.sum(axis=1)) > 0.9
True
"""

from schuss.interop.sklearn.ensemble import EnsembleClassifier, EnsembleRegressor
from schuss.interop.sklearn.fitted import from_sklearn
from schuss.interop.sklearn.mlp import MLPClassifier, MLPRegressor
from schuss.interop.sklearn.search import SweepCV

__all__ = ["EnsembleClassifier", "EnsembleRegressor", "MLPClassifier", "MLPRegressor", "SweepCV", "from_sklearn"]
