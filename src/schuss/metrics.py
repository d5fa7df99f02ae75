"""Scores of predictions, of which more is better: what early stopping may look at instead of the cost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Metric = Callable[[Array, Array], float]


def accuracy(y: Array, outputs: Array) -> float:
    """Return the share of samples of the right class. outputs (n, k); y: labels (n, 1) or shares (n, k); one output:
    over 1/2.
    """
    if outputs.shape[1] == 1:
        return float(((outputs > 0.5) == (y > 0.5)).mean())
    labels = y[:, 0] if y.shape[1] == 1 else y.argmax(axis=1)
    return float((outputs.argmax(axis=1) == labels).mean())


def r2(y: Array, outputs: Array) -> float:
    """Return 1 - the squared error over that of the mean, averaged over outputs. y, outputs: (n, dL)."""
    residual = np.square(y - outputs.astype(np.float64)).sum(axis=0)
    total = np.square(y - y.mean(axis=0, dtype=np.float64)).sum(axis=0)
    return float(np.mean(1 - residual / np.where(total > 0, total, np.nan)))


METRICS: dict[str, Metric] = {"accuracy": accuracy, "r2": r2}
