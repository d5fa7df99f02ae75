"""``Ensemble``: several networks of one architecture that predict together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from schuss.arrays import as_matrix
from schuss.errors import InputError, Problems
from schuss.layers import Dense
from schuss.network import DenseModel, Network


class Prediction(NamedTuple):
    """What an ensemble predicts: the mean over members and their standard deviation, both (n, dL)."""

    mean: NDArray[Any]
    deviation: NDArray[Any]


class Ensemble(DenseModel):
    """The mean and the spread of several networks; made by ``Population.ensemble``.

    ``ensemble(x)`` returns ``mean`` and ``deviation``, each (n, dL). The deviation is that of the members about their mean:
    how much they disagree, not how far they are from the truth. members: how many; one chosen twice counts twice.
    """

    def __init__(
        self, inputs: int, layers: Sequence[Dense], parameters: NDArray[Any], seeds: NDArray[np.uint64]
    ) -> None:
        self.inputs, self.dense, self.dtype = inputs, tuple(layers), parameters.dtype
        self._parameters, self.seeds = parameters, seeds

    @property
    def members(self) -> int:
        """How many networks it has."""
        return len(self.parameters)

    def __call__(self, x: ArrayLike) -> Prediction:
        """Return the mean and the standard deviation over members, (n, dL), for x (n, inputs).

        Raises InputError for another shape or an x that holds no real numbers.
        """
        outputs = self.outputs(x).astype(np.float64)
        dtype = self.parameters.dtype
        return Prediction(outputs.mean(axis=0).astype(dtype), outputs.std(axis=0).astype(dtype))

    def networks(self) -> list[Network]:
        """Return the members as networks, views of its parameters."""
        pairs = zip(self.parameters, self.seeds, strict=True)
        return [Network.from_parameters(self.inputs, self.dense, one, seed=int(seed)) for one, seed in pairs]

    def outputs(self, x: ArrayLike) -> NDArray[Any]:
        """Return the outputs of each member, (members, n, dL), for x (n, inputs). Raises InputError as a call does."""
        return self._outputs(x)

    def greedy(self, x: ArrayLike, y: ArrayLike, *, size: int = 10) -> Ensemble:
        """Return the ensemble of ``size`` members, chosen one after the other: each time the one, perhaps again, with which
        the mean has the lowest squared error on x (n, inputs) and y (n, dL) or (n,).

        x and y should be held out from the training. Raises InputError if they do not fit. Source: Caruana, Niculescu-Mizil,
        Crew, Ksikes, "Ensemble selection from libraries of models", ICML 2004.
        """
        problems = Problems("choose members")
        targets = as_matrix(y, "y", np.dtype(np.float64), problems, vector=self.dense[-1].units == 1)
        if not isinstance(size, int) or size < 1:
            problems.add(f"size must be a whole number, at least 1; got {size!r}")
        problems.raise_if_any()
        outputs = self._outputs(x).astype(np.float64)
        if outputs.shape[1:] != targets.shape:
            raise InputError(f"y must have shape {outputs.shape[1:]}; got {targets.shape}")
        chosen: list[int] = []
        total = np.zeros_like(targets)
        for count in range(1, size + 1):
            errors = np.square((total + outputs) / count - targets).sum(axis=(1, 2))
            if not np.isfinite(errors).any():
                raise InputError("no member has a finite error on these samples")
            chosen.append(int(np.nanargmin(errors)))
            total += outputs[chosen[-1]]
        return Ensemble(self.inputs, self.dense, self.parameters[chosen], self.seeds[chosen])

    def __repr__(self) -> str:
        different = len(np.unique(self.seeds))
        return f"<ensemble of {self.members} networks, {different} of them different>"
