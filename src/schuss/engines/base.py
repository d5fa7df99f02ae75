"""What a training is to an engine: ``Plan`` and ``Data`` go in, a ``Session`` comes out."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from schuss import philox
from schuss.activations import Activation
from schuss.costs import Cost
from schuss.layers import parameter_count
from schuss.optimizers import SGD

Array = NDArray[Any]

RUNNING, DIVERGED, STOPPED = range(3)
"""The fates of a member."""


@dataclass(frozen=True)
class Data:
    """Samples in rows: x (n, d0), y (n, dL) and weights (n,) or None, all C-ordered and of the plan's dtype."""

    x: Array
    y: Array
    weights: Array | None = None

    @cached_property
    def total_weight(self) -> float:
        """The sum of the weights, S over all samples."""
        return float(len(self.x)) if self.weights is None else float(self.weights.sum(dtype=np.float64))


@dataclass(frozen=True)
class Plan:
    """All that an engine needs to know before it allocates; no optimizer.

    sizes: d0..dL. batch_size: samples of a step; the last step of an epoch may have fewer. shuffle_seeds: (members,), of the
    shuffles. bootstrap_keys: (members, 4), of each member's resampling, or None. threads: how many may work; it never
    changes a bit of the result.
    """

    sizes: tuple[int, ...]
    activations: tuple[Activation, ...]
    cost: Cost
    l2: float
    samples: int
    batch_size: int
    shuffle: bool
    members: int
    dtype: np.dtype[Any]
    shuffle_seeds: NDArray[np.uint64]
    bootstrap_keys: NDArray[np.uint32] | None
    threads: int

    @property
    def steps_per_epoch(self) -> int:
        """How many batches an epoch has."""
        return -(-self.samples // self.batch_size)

    @property
    def parameters(self) -> int:
        """How many parameters a member has."""
        return parameter_count(self.sizes)

    @property
    def shuffles(self) -> bool:
        """Whether the order of the samples matters at all: one full batch is a sum in any order."""
        return self.shuffle and self.batch_size < self.samples

    def rows(self, step: int, member: int) -> NDArray[np.int64]:
        """Return the rows of the samples that a step of a member uses."""
        epoch, batch = divmod(step, self.steps_per_epoch)
        first = batch * self.batch_size
        index = np.arange(first, min(first + self.batch_size, self.samples))
        if not self.shuffles:
            return index
        return philox.permuted(index, self.samples, philox.shuffle_keys(int(self.shuffle_seeds[member]), epoch))

    def weights(self, rows: NDArray[np.int64], given: Array, member: int) -> Array:
        """Return the weights of samples for a member: the given ones, times how often its resampling holds them."""
        if self.bootstrap_keys is None:
            return given
        resampled: Array = given * philox.bootstrap_weights(rows, self.bootstrap_keys[member]).astype(given.dtype)
        return resampled


@dataclass(frozen=True)
class Watch:
    """What a run looks at: the validation cost every ``every`` epochs and at the last one, and when that ends a member.

    A member stops once its validation cost has not fallen by more than ``min_delta`` for ``patience`` epochs (None:
    never); its best parameters are kept, and ``finish`` puts them back.
    """

    every: int
    last_epoch: int
    patience: int | None = None
    min_delta: float = 0.0
    restore_best: bool = False

    def looks_at(self, epoch: int) -> bool:
        """Return whether the validation cost is evaluated after this epoch (1-based)."""
        return epoch % self.every == 0 or epoch == self.last_epoch


class Session(Protocol):
    """An engine at work on one training. All arrays are made when it is opened and freed by ``release``."""

    def begin(self, watch: Watch) -> None:
        """Start a run: forget the best parameters of an earlier one, let members that had stopped go on."""

    def advance(self, first_step: int, steps: int, optimizer: SGD) -> tuple[Array, Array | None]:
        """Run ``steps`` steps from the 0-based ``first_step`` on.

        Return the costs of the epochs completed, (epochs, members) float64, NaN where a member did not run, and the
        validation costs likewise (NaN where not looked at), or None without validation data.
        """

    def finish(self) -> None:
        """End a run: put back the best parameters, if that was asked for."""

    def value_and_gradient(self, step: int) -> tuple[Array, Array]:
        """Return the cost (members,) and its gradient (members, p) on the samples of a step, changing nothing."""

    def predict(self, x: Array) -> Array:
        """Return the outputs (members, n, dL) of the current parameters."""

    def read(self, name: str) -> Array:
        """Return a copy of a state: parameters, velocity (members, p); fate, fate_epoch (members,)."""

    def write(self, name: str, value: Array) -> None:
        """Replace a state that ``read`` names."""

    def release(self) -> None:
        """Free everything; the session cannot be used again."""
