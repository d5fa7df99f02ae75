"""How a plan becomes launches: the kernels of a step, of a look at the validation data, of a prediction, in their order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from schuss.engines import cuts, program
from schuss.engines.base import Plan
from schuss.engines.cuts import Cut
from schuss.layers import weight_count

TRAINING, VALIDATION, PREDICTION = range(3)
"""The rows that a kernel works on; kernels/step.cl has the same."""

TILE_KERNELS = ("gradient", "validate", "predict", "epochs")
"""The kernels with a tile in local memory."""


class Launch(NamedTuple):
    """A kernel on groups x members, beginning with ``first_member``; piece: which part of the rows (layers); source: whose
    rows. meets: whether its groups wait for each other.
    """

    kernel: str
    groups: int
    members: int
    first_member: int = 0
    piece: int = 0
    source: int = TRAINING
    meets: bool = False


class Product(NamedTuple):
    """A matrix product by the device's own library: result (m, n) <- left (m, k) right (k, n), or += where it adds.

    All lie row by row in buffers, at (name, first number); a transposed factor lies as (k, m) or (n, k).
    """

    result: tuple[str, int]
    left: tuple[str, int]
    right: tuple[str, int]
    m: int
    n: int
    k: int
    dtype: str
    left_transposed: bool = False
    right_transposed: bool = False
    adds: bool = False


Call = Launch | Product


@dataclass(frozen=True)
class Launches:
    """The launches of a plan, cut in a certain way; held_out: rows of validation data."""

    plan: Plan
    cut: Cut
    held_out: int

    def waves(self) -> Iterator[tuple[int, int]]:
        """Yield the first member and the number of members that are at work at the same time."""
        for first in range(0, self.plan.members, self.cut.slots):
            yield first, min(self.cut.slots, self.plan.members - first)

    @property
    def whole_runs(self) -> bool:
        """Whether one launch takes all the steps that are asked for."""
        return self.cut.path in ("grid", "epochs")

    def runs(self) -> Iterator[tuple[Call, ...]]:
        """Yield what takes all the steps that are asked for, looks included, a wave at a time (grid, epochs)."""
        for first, members in self.waves():
            yield (Launch("epochs", self.cut.slices, members, first, meets=self.cut.slices > 1),)

    @cached_property
    def steps(self) -> dict[bool, tuple[Call, ...]]:
        """What takes one step of all members, without and with clipping (step, layers)."""
        return {clips: self._steps(clips) for clips in (False, True)}

    def _steps(self, clips: bool) -> tuple[Call, ...]:
        return tuple(
            launch
            for first, members in self.waves()
            for launch in (*self._gradients(first, members), *self._updates(first, members, clips))
        )

    @cached_property
    def looks(self) -> tuple[Call, ...]:
        """What looks at the validation cost after an epoch (step, layers)."""
        return tuple(
            launch
            for first, members in self.waves()
            for launch in (*self.validations(first, members), Launch("look", 1, members, first))
        )

    @cached_property
    def glances(self) -> tuple[Call, ...]:
        """What looks at the training cost alone after an epoch (step, layers)."""
        return tuple(Launch("look", 1, members, first) for first, members in self.waves())

    def evaluation(self, first: int, members: int) -> tuple[Call, ...]:
        """Return what leaves the gradient of a step in ``next`` and its cost in ``costs``."""
        update = Launch("update", self.cut.slices, members, first)
        return (*self._gradients(first, members), update, Launch("value", 1, members, first))

    def validations(self, first: int, members: int) -> Iterator[Call]:
        """Yield what fills the partial sums of the validation cost."""
        if self.cut.tile:
            yield Launch("validate", self.cut.held_out_rows, members, first, 0, VALIDATION)
            return
        for piece in range(-(-self.held_out // self.cut.piece)):
            yield from self._forwards(first, members, piece, VALIDATION)

    def predictions(self, rows: int) -> tuple[Call, ...]:
        """Return what leaves the outputs for some rows in ``predictions``."""
        found: list[Call] = []
        for first, members in self.waves():
            if self.cut.tile:
                found.append(Launch("predict", -(-rows // self.cut.tile), members, first, 0, PREDICTION))
                continue
            for piece in range(-(-rows // self.cut.piece)):
                found += self._forwards(first, members, piece, PREDICTION)
        return tuple(found)

    def _gradients(self, first: int, members: int) -> Iterator[Call]:
        """Yield what fills the partial sums of a step's gradient."""
        if self.cut.tile:
            yield Launch("gradient", self.cut.rows, members, first)
            return
        sizes, rows = self.plan.sizes, self.cut.rows
        for piece in range(-(-self.plan.batch_size // self.cut.piece)):
            yield from self._forwards(first, members, piece, TRAINING)
            for level in range(len(sizes) - 1, 0, -1):
                inputs, outputs = sizes[level - 1], sizes[level]
                if self.cut.library:
                    yield from self._backward_products(level, first, members, piece)
                    continue
                yield Launch(f"gradient{level}", _blocks(inputs) * _blocks(outputs) * rows, members, first, piece)
                yield Launch(f"bias_gradient{level}", _groups(outputs) * rows, members, first, piece)
                if level > 1:
                    groups = _blocks(self.cut.piece) * _blocks(inputs)
                    yield Launch(f"backward{level}", groups, members, first, piece)

    def _forwards(self, first: int, members: int, piece: int, source: int) -> Iterator[Call]:
        yield Launch("gather", _groups(self.cut.piece), members, first, piece, source)
        for level, outputs in enumerate(self.plan.sizes[1:], 1):
            if self.cut.library:
                yield from self._forward_products(level, first, members)
                yield Launch(f"activate{level}", _groups(self.cut.piece * outputs), members, first, piece, source)
                continue
            groups = _blocks(self.cut.piece) * _blocks(outputs)
            yield Launch(f"forward{level}", groups, members, first, piece, source)
        yield Launch("output", self.cut.cost_rows, members, first, piece, source)

    # The members one after the other, whoever still takes part: so each has the bits that it has alone.

    def _forward_products(self, level: int, first: int, members: int) -> Iterator[Product]:
        """Yield W a_prev of each member, where a is to be."""
        (inputs, outputs), dtype = self.plan.sizes[level - 1 : level + 1], self.plan.dtype.name
        for slot in range(members):
            W = "parameters", (first + slot) * self.plan.parameters + self._weights_at(level)
            a, given = self._at(slot, f"A{level}"), self._at(slot, f"A{level - 1}")
            yield Product(a, given, W, self.cut.piece, outputs, inputs, dtype, right_transposed=True)

    def _backward_products(self, level: int, first: int, members: int, piece: int) -> Iterator[Call]:
        """Yield the gradients of a layer, delta^T a_prev and delta^T 1, and delta of the layer before it."""
        (inputs, outputs), dtype = self.plan.sizes[level - 1 : level + 1], self.plan.dtype.name
        samples, biases_at = self.cut.piece, weight_count(self.plan.sizes) + sum(self.plan.sizes[1:level])
        for slot in range(members):
            W = "parameters", (first + slot) * self.plan.parameters + self._weights_at(level)
            G = "partial", slot * self.plan.parameters + self._weights_at(level)
            g = "partial", slot * self.plan.parameters + biases_at
            delta, given = self._at(slot, f"A{level}"), self._at(slot, f"A{level - 1}")
            yield Product(G, delta, given, outputs, inputs, samples, dtype, left_transposed=True, adds=piece > 0)
            ones = self._at(slot, "ONES")
            yield Product(g, delta, ones, outputs, 1, samples, dtype, left_transposed=True, adds=piece > 0)
            if level > 1:
                yield Product(self._at(slot, "SPARE"), delta, W, samples, inputs, outputs, dtype)
        if level > 1:
            yield Launch(f"derive{level}", _groups(samples * inputs), members, first, piece)

    def _at(self, slot: int, name: str) -> tuple[str, int]:
        places = program.places(self.plan, self.cut)
        return "work", slot * places["size"] + places[name]

    def _weights_at(self, level: int) -> int:
        sizes = self.plan.sizes
        return weight_count(sizes[:level])

    def _updates(self, first: int, members: int, clips: bool) -> Iterator[Launch]:
        """Yield what turns the partial sums into new parameters."""
        if self.cut.slices == 1:
            yield Launch("settle", 1, members, first)
            return
        for kernel in ("norm_squares", "update", "adopt") if clips else ("update", "adopt"):
            yield Launch(kernel, self.cut.slices, members, first)


def _blocks(count: int) -> int:
    return -(-count // cuts.BLOCK)


def _groups(count: int) -> int:
    return -(-count // cuts.THREADS)
