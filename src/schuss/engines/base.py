"""What a training is to an engine: ``Plan`` and ``Data`` go in, a ``Session`` comes out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from schuss import philox
from schuss.activations import Activation
from schuss.arrays import on_host
from schuss.costs import Cost
from schuss.layers import parameter_count
from schuss.optimizers import Optimizer

Array = NDArray[Any]

RUNNING, DIVERGED, STOPPED, CONVERGED = range(4)
"""The fates of a member."""


BLOCK = 1 << 15
"""Rows that are packed at a time: a second copy of all data is never made."""


@dataclass(frozen=True)
class Data:
    """Samples in rows: x (n, d0), y (n, columns) and weights (n,) or None; checked, but as they were given.

    x may be an array of CuPy, on a device; the engine for CUDA reads it there.
    in_place: the arrays are of the plan's dtype and C-ordered, and an engine may read them where they are, again and again.
    """

    x: Array
    y: Array
    weights: Array | None = None
    in_place: bool = False

    @cached_property
    def total_weight(self) -> float:
        """The sum of the weights, S over all samples."""
        return float(len(self.x)) if self.weights is None else float(self.weights.sum(dtype=np.float64))

    def rows_of_x(self, some: Any) -> Array:
        """Return some rows of x, on the host."""
        return on_host(self.x[some])

    def blocks(self, dtype: np.dtype[Any], rows: int = BLOCK) -> Iterator[tuple[int, Array, Array, Array | None]]:
        """Yield (first row, x, y, weights) for blocks of rows, C-ordered and of a dtype."""
        for first in range(0, len(self.x), rows):
            some = slice(first, first + rows)
            x, y = (np.ascontiguousarray(array, dtype) for array in (self.rows_of_x(some), self.y[some]))
            yield first, x, y, None if self.weights is None else np.ascontiguousarray(self.weights[some], dtype)


@dataclass(frozen=True)
class Plan:
    """All that an engine needs to know before it allocates; no optimizer.

    sizes: d0..dL. activations: of training; where the cost has a link, the last is linear and gives logits. dropout:
    (L,), of the outputs of each layer. input_noise: standard deviation. columns: of y. l2, l1: (members,). batch_size:
    samples of a step; the last step of an epoch may have fewer. order: of the samples, "given", "shuffled" or "blocks".
    shuffle_seeds, noise_seeds: (members,), of the shuffles, and of dropout and noise. bootstrap_keys: (members, 4), of
    each member's resampling, or None. folds: (n,) int32, of the samples, or None; left_out: (members,) int32, the fold
    that a member is not trained on; its validation samples are those of that fold. average: the decay of the moving
    average of the parameters, or 0. threads: how many may work; it never changes a bit of the result.
    """

    sizes: tuple[int, ...]
    activations: tuple[Activation, ...]
    cost: Cost
    samples: int
    batch_size: int
    members: int
    dtype: np.dtype[Any]
    shuffle_seeds: NDArray[np.uint64]
    noise_seeds: NDArray[np.uint64]
    l2: NDArray[np.float64]
    l1: NDArray[np.float64]
    columns: int
    order: str = "shuffled"
    bootstrap_keys: NDArray[np.uint32] | None = None
    folds: NDArray[np.int32] | None = None
    left_out: NDArray[np.int32] | None = None
    dropout: tuple[float, ...] = field(default=())
    input_noise: float = 0.0
    average: float = 0.0
    threads: int = 1

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
        return self.order != "given" and self.batch_size < self.samples

    @property
    def random(self) -> bool:
        """Whether steps have randomness of their own: dropout, or noise."""
        return any(self.dropout) or self.input_noise > 0

    def rows(self, step: int, member: int) -> NDArray[np.int64]:
        """Return the rows of the samples that a step of a member uses."""
        epoch, batch = divmod(step, self.steps_per_epoch)
        first = batch * self.batch_size
        index = np.arange(first, min(first + self.batch_size, self.samples))
        if not self.shuffles:
            return index
        permuted = philox.permuted_by_blocks if self.order == "blocks" else philox.permuted
        return permuted(index, self.samples, philox.shuffle_keys(int(self.shuffle_seeds[member]), epoch))

    def weights(self, rows: NDArray[np.int64], given: Array, member: int) -> Array:
        """Return the weights of samples for a member: the given ones, times how often its resampling holds them; 0 in the
        fold it leaves out.
        """
        own = given
        if self.bootstrap_keys is not None:
            own = own * philox.bootstrap_weights(rows, self.bootstrap_keys[member]).astype(given.dtype)
        if self.folds is not None and self.left_out is not None:
            own = own * (self.folds[rows] != self.left_out[member])
        return own

    @cached_property
    def fold_ends(self) -> NDArray[np.int64]:
        """Where each fold ends among the validation samples, which lie in the order of their folds, (folds,); empty
        without folds.
        """
        return np.cumsum(np.bincount(self.folds), dtype=np.int64) if self.folds is not None else np.empty(0, np.int64)

    def held_out_rows(self, member: int) -> slice:
        """Return which of the validation samples are a member's: all, or those of the fold it leaves out."""
        if self.left_out is None:
            return slice(None)
        fold = int(self.left_out[member])
        return slice(int(self.fold_ends[fold - 1]) if fold else 0, int(self.fold_ends[fold]))


@dataclass(frozen=True)
class Watch:
    """What a run looks at: the validation cost every ``every`` epochs and at the last one, and when that ends a member.

    A member stops once its validation cost has not fallen by more than ``min_delta`` for ``patience`` epochs (None:
    never); its best parameters are kept, and ``finish`` puts them back. of_training: it is the training cost of an epoch
    that must fall by more than ``min_delta`` below the lowest so far; no parameters are kept. fresh: forget what an
    earlier run had seen.
    """

    every: int
    last_epoch: int
    patience: int | None = None
    min_delta: float = 0.0
    restore_best: bool = False
    of_training: bool = False
    fresh: bool = True

    def looks_at(self, epoch: int) -> bool:
        """Return whether the validation cost is evaluated after this epoch (1-based)."""
        return epoch % self.every == 0 or epoch == self.last_epoch


STATES = (
    "parameters",
    "velocity",
    "square",
    "average",
    "best",
    "fate",
    "fate_epoch",
    "progress",
    "pairs",
    "kept_pairs",
)
EPOCH_COST, EPOCH_WEIGHT, BEST_COST, BEST_EPOCH, STEPS, AVERAGED = range(6)
"""The columns of ``progress``."""


class Session(Protocol):
    """An engine at work on one training. All arrays are made when it is opened and freed by ``release``."""

    def begin(self, watch: Watch, optimizer: Optimizer) -> None:
        """Start a run: let members that had stopped or converged go on; make fresh state for an optimizer of another
        class.
        """

    def advance(
        self, first_step: int, steps: int, optimizer: Optimizer, progress: tuple[int, int]
    ) -> tuple[Array, Array | None]:
        """Run ``steps`` steps from the 0-based ``first_step`` on; for schedules, they are the steps ``progress[0]``... of
        ``progress[1]``.

        Return the costs of the epochs completed, (epochs, members) float64, NaN where a member did not run, and the
        validation costs likewise (NaN where not looked at), or None without validation data.
        """

    def finish(self) -> None:
        """End a run: put back the best parameters, if that was asked for."""

    def value_and_gradient(self, step: int) -> tuple[Array, Array]:
        """Return the cost (members,) and its gradient (members, p) on the samples of a step, changing nothing."""

    def predict(self, x: Array) -> Array:
        """Return the outputs (members, n, dL) of the current parameters, by the plan's activations."""

    def read(self, name: str) -> Array:
        """Return a copy of a state; its first axis is empty where the optimizer has none.

        parameters, velocity, square (the mean square of the gradient), average, best (members, p); fate, fate_epoch,
        kept_pairs (members,); progress (members, 6): cost and weight of the epoch so far, best validation cost, its
        epoch, steps of the optimizer, steps averaged; pairs (members, history, 2, p).
        """

    def write(self, name: str, value: Array) -> None:
        """Replace a state that ``read`` names and that is there."""

    def explain(self) -> str:
        """Return in a few lines how a step is cut, what works on it, and what memory it takes."""

    def release(self) -> None:
        """Free everything; the session cannot be used again."""
