"""Scores of predictions, of which more is better: what early stopping may look at instead of the cost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Metric = Callable[[Array, Array], float]


def accuracy(y: Array, outputs: Array) -> float:
    """Return the share of samples of the right class. outputs (n, k): of each class; y: labels (n, 1) or shares (n, k)."""
    labels = y[:, 0] if y.shape[1] == 1 else y.argmax(axis=1)
    return float((outputs.argmax(axis=1) == labels).mean())


def accuracy_of_labels(y: Array, outputs: Array) -> float:
    """Return the share of samples with all labels right. outputs: (n, k), probabilities; y: (n, k), 0 and 1 or shares."""
    return float(((outputs > 0.5) == (y > 0.5)).all(axis=1).mean())


def r2(y: Array, outputs: Array) -> float:
    """Return 1 - the squared error over that of the mean, averaged over outputs. y, outputs: (n, dL).

    Where y is constant there is no such ratio: 1 if it is met exactly, else 0, as in scikit-learn.
    """
    residual = np.square(y - outputs.astype(np.float64)).sum(axis=0)
    total = np.square(y - y.mean(axis=0, dtype=np.float64)).sum(axis=0)
    constant = (y == y[:1]).all(axis=0)  # the sum of squares about a rounded mean need not be 0
    exact = np.where(residual == 0, 1.0, 0.0)
    return float(np.mean(np.where(constant, exact, 1 - residual / np.where(constant, 1.0, total))))


METRICS: dict[str, Metric] = {"accuracy": accuracy, "r2": r2}
