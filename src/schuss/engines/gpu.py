"""What CUDA and OpenCL share: how a plan is cut for a GPU, the text that is compiled for it, and the launches of a step.

A ``Cut`` is chosen for a plan; ``definitions`` writes what ``kernels/fused.cl`` needs to know of both; ``GpuSession`` keeps the
buffers of ``_buffers`` and turns steps into lists of ``Launch``, which a ``Queue`` (opencl.py, cuda.py) carries out in order.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from schuss.engines.base import (
    BEST_COST,
    BLOCK as BLOCK_OF_ROWS,
    CONVERGED,
    RUNNING,
    STEPS,
    STOPPED,
    Data,
    Plan,
    Watch,
)
from schuss.engines.reference import ReferenceSession
from schuss.errors import EngineError, InputError, unknown_name
from schuss.layers import weight_count
from schuss.optimizers import LBFGS, SGD, Optimizer

Array = NDArray[Any]

PATHS = ("grid", "epochs", "step", "layers")
"""How a step can be cut; ``choose`` says which is taken."""

TRAINING, VALIDATION, PREDICTION = range(3)
_KINDS = ("gradient", "sgd", "nesterov", "adam", "rmsprop")  # fused.cl: KIND
_ORDERS = ("given", "shuffled", "blocks")
THREADS, BLOCK = 256, 64
"""Threads of a group, and the side of the block of a matrix product that it computes: 4 x 4 results a thread."""

TILE_KERNELS = ("gradient", "validate", "predict", "epochs")
"""The kernels with a tile in local memory."""

_ROWS = 128
_WIDE_LAYER = 128 * 128  # weights from which a layer is a matrix product over device memory
_ROWS_OF_ONE_GROUP = 32  # tiles a step of a member that one group does alone
_PARTIAL_BYTES, _WORK_BYTES = 64 << 20, 1 << 30
_MOST_STEPS = 4096  # that are asked for at a time; a table of factors has as many rows


@dataclass(frozen=True)
class Limits:
    """What a device has: bytes of memory, and of local memory a group; compute units; doubles; and whether all groups of a
    launch can be on it at the same time and meet (a cooperative launch).
    """

    memory: int
    local_memory: int
    units: int
    threads: int = 1024
    doubles: bool = True
    cooperative: bool = False


class Launch(NamedTuple):
    """A kernel on groups x members, beginning with ``first_member``; piece and source are explained in fused.cl."""

    kernel: str
    groups: int
    members: int
    first_member: int = 0
    piece: int = 0
    source: int = TRAINING
    meets: bool = False


class Queue(Protocol):
    """The memory and the program of one session on a device; everything runs in the order of the calls."""

    limits: Limits
    name: str

    def allocate(self, sizes: dict[str, int]) -> None:
        """Make zeroed buffers of so many bytes; kernels take them in this order. Raises EngineError if they do not fit."""

    def build(self, text: str, tile_bytes: int) -> None:
        """Compile a text; the kernels that have a tile need so many bytes of local memory for it."""

    def write(self, name: str, array: Array, offset: int = 0) -> None:
        """Copy an array into a buffer, from a byte on; the array may change as soon as this returns."""

    def packed(self, array: Any, dtype: np.dtype[Any]) -> Array:
        """Return an array of the device C-ordered and of a dtype, for ``write``; where there are such arrays."""

    def read(self, name: str, array: Array) -> None:
        """Copy the beginning of a buffer into a C-ordered array, after all that was asked for before."""

    def run(self, launches: tuple[Launch, ...], times: int) -> None:
        """Ask for the launches, one after the other, so many times."""

    def release(self) -> None:
        """Free everything."""


@dataclass(frozen=True)
class Cut:
    """How a plan is cut. tile: samples of a tile, 0 for the path "layers". staged: whether a group copies the parameters
    into its local memory. rows: partial sums of a gradient. slices: groups that share an update. slots: members at work at
    the same time. piece: samples at a time (layers). held_out_rows: partial sums of a validation cost.
    """

    path: str
    tile: int
    staged: bool
    rows: int
    slices: int
    slots: int
    piece: int
    held_out_rows: int
    why: str


# -- where a plan goes ------------------------------------------------------------------------------------------------


def choose(plan: Plan, held_out: int, limits: Limits, asked: str | None = None) -> Cut:
    """Return how a plan is cut on a device. asked: one of PATHS, or None for the one that should be fastest.

    Rows and tiles are a function of plan and device, never of the number of members. Raises InputError for a path that
    there is not, EngineError if the one asked for cannot take the plan.
    """
    if asked is not None and asked not in PATHS:
        raise InputError(unknown_name("path", asked, PATHS))
    tile, staged = _tile(plan, limits)
    tiles = -(-plan.batch_size // tile) if tile else 0
    rows = min(_ROWS, tiles)
    reasons = _refusals(plan, limits, tile, rows)
    path = asked or next(path for path in PATHS if path not in reasons)
    if path in reasons and (asked is None or reasons[path].startswith("cannot")):
        raise EngineError(f"path={path!r} {reasons[path]}; leave it out, or pass one of {', '.join(PATHS)}")
    if path == "layers":
        return _layers(plan, held_out, limits)
    slices = max(1, min(rows, limits.units // plan.members)) if path == "grid" else 1
    slots = max(1, min(plan.members, _PARTIAL_BYTES // (rows * plan.parameters * plan.dtype.itemsize)))
    held_out_rows = min(_ROWS, -(-held_out // tile))
    slots = plan.members if path == "grid" else slots
    return Cut(path, tile, staged, rows, slices, slots, 0, max(1, held_out_rows), _WHY[path])


_WHY = {
    "grid": "all steps in one launch, shared by groups that meet twice a step",
    "epochs": "all steps in one launch, a group for each member",
    "step": "two launches a step for all members",
    "layers": "a matrix product for each layer",
}


def _refusals(plan: Plan, limits: Limits, tile: int, rows: int) -> dict[str, str]:
    """Return the paths that should not take a plan, and why; those that cannot say so."""
    no: dict[str, str] = {}
    if not tile:
        return dict.fromkeys(
            PATHS[:3], f"cannot hold a tile of this network in {limits.local_memory} bytes of local memory"
        )
    if not limits.cooperative:
        no["grid"] = "cannot be used: groups of this device cannot meet"
    elif plan.members > limits.units:
        no["grid"] = f"cannot be used: there are more members than the {limits.units} groups that can meet"
    elif rows == 1 or 2 * plan.members > limits.units:
        no["grid"] = "has nothing to share"
    if rows > _ROWS_OF_ONE_GROUP:
        no["epochs"] = f"has {rows} tiles a step"
    sizes = plan.sizes
    if max(a * b for a, b in zip(sizes, sizes[1:], strict=False)) >= _WIDE_LAYER:
        no |= {path: "has wide layers" for path in PATHS[:3] if path not in no}
    return no


def _tile(plan: Plan, limits: Limits) -> tuple[int, bool]:
    """Return how many samples a tile has, 0 if none fits, and whether the parameters fit beside it."""
    if len(plan.activations) + 2 > THREADS:
        return 0, False
    room = limits.local_memory - 512 - 8 * THREADS - 16 * len(plan.sizes)
    held = plan.parameters * plan.dtype.itemsize
    staged = held <= min(room // 3, 32 << 10)
    most = min(96, max(16, -(-plan.batch_size // 16) * 16))
    for tile in sorted(range(16, most + 1, 16), key=lambda tile: (-(-plan.batch_size // tile) > _ROWS, abs(64 - tile))):
        if (12 + plan.dtype.itemsize) * tile + (held if staged else 0) + (tile + 1) * _units(
            plan
        ) * plan.dtype.itemsize <= room:
            return tile, staged
    return 0, False


def _units(plan: Plan) -> int:
    """Return how many numbers a tile holds of a sample: x, every a, z where it is read, delta of the hidden layers."""
    kept = sum(size * (1 + (f.reads == "z")) for size, f in zip(plan.sizes[1:], plan.activations, strict=True))
    return plan.sizes[0] + kept + sum(plan.sizes[1:-1])


def _layers(plan: Plan, held_out: int, limits: Limits) -> Cut:
    most = max(plan.batch_size, held_out)
    sample = plan.dtype.itemsize * (_units(plan) + 2)
    budget = min(_WORK_BYTES, limits.memory // 4)
    piece = max(BLOCK, min(-(-most // BLOCK) * BLOCK, budget // sample // BLOCK * BLOCK))
    sizes = plan.sizes
    smallest = min(-(-a // BLOCK) * -(-b // BLOCK) for a, b in zip(sizes, sizes[1:], strict=False))
    rows = max(
        1, min(_ROWS, -(-piece // 256), -(-4 * 132 // smallest), budget // (plan.parameters * plan.dtype.itemsize))
    )
    member = piece * sample + rows * plan.parameters * plan.dtype.itemsize
    slots = max(1, min(plan.members, budget // member))
    slices = max(1, min(256, plan.parameters // (4 * THREADS)))
    return Cut("layers", 0, False, rows, slices, slots, piece, rows, _WHY["layers"])


# -- the text ---------------------------------------------------------------------------------------------------------


@cache
def _file(name: str) -> str:
    return (Path(__file__).parent / "kernels" / name).read_text()


def kernel_text(plan: Plan, cut: Cut, limits: Limits, held_out: Data | None, weighted: bool, predict_rows: int) -> str:
    """Return the whole text that is compiled for a plan: definitions, and fused.cl with what it includes."""
    head, layers = definitions(plan, cut, limits, held_out, weighted, predict_rows)

    def included(match: re.Match[str]) -> str:
        return layers if match[1] == "layers" else _file(match[1])

    return head + re.sub(r'^#include "(.+)"$', included, _file("fused.cl"), flags=re.MULTILINE)


def definitions(
    plan: Plan, cut: Cut, limits: Limits, held_out: Data | None, weighted: bool, predict_rows: int
) -> tuple[str, str]:
    """Return the definitions before fused.cl, and the text of all layers."""
    sizes, depth, last = plan.sizes, len(plan.activations), plan.activations[-1]
    tiled, at = cut.path != "layers", _places(plan, cut)
    cross_entropy = plan.cost.name == "cross_entropy"
    real = "float" if plan.dtype.itemsize == 4 else "double"
    wide = "double" if limits.doubles else "float"
    largest = {"float": "3.402823466e38f", "double": "1.7976931348623157e308"}
    buffers = [f"GLOBAL {_C[kind]} *{name}" for name, (kind, _) in _buffers(plan, cut, held_out, predict_rows).items()]
    names = ", ".join(declared.rsplit("*", 1)[1] for declared in buffers)
    scalars = "int first_member, int piece"
    known: dict[str, Any] = {
        "SESSION": ", ".join(buffers) + f", {scalars}, int source",
        "SESSION_GIVEN": f"{names}, first_member, piece, source",
        "SESSION_GIVEN_FOR_VALIDATION": f"{names}, first_member, piece, VALIDATION",
        "real": real,
        "wide": wide,
        "LARGEST": largest[real],
        "LARGEST_WIDE": largest[wide],
        "THREADS": THREADS,
        "BLOCK": BLOCK,
        "TILED": int(tiled),
        "STAGED": int(cut.staged),
        "TILE": cut.tile,
        "LD": cut.tile + 1,
        "TILE_SIZE": at["size"],
        "WORK": at["size"],
        "X_AT": at["A0"],
        "LAST_AT": at[f"A{depth}"],
        "LAST_Z": at.get(f"Z{depth}", 0),
        "W_OF_ROWS": at["W"],
        "LAST_SPACE": "LOCAL" if tiled else "GLOBAL",
        "ROWS": cut.rows,
        "HELD_OUT_ROWS": cut.held_out_rows,
        "SLICES": cut.slices,
        "PIECE": max(1, cut.piece),
        "DEPTH": depth,
        "D0": sizes[0],
        "DL": sizes[-1],
        "TARGETS": plan.columns,
        "P": plan.parameters,
        "WEIGHTS": weight_count(sizes),
        "MEMBERS": plan.members,
        "SAMPLES": f"{plan.samples}u",
        "BATCH": plan.batch_size,
        "STEPS_PER_EPOCH": f"((int64_t){plan.steps_per_epoch})",
        "HELD_OUT": 0 if held_out is None else len(held_out.x),
        "HELD_OUT_WEIGHTED": int(held_out is not None and held_out.weights is not None),
        "PREDICT_ROWS": predict_rows,
        "ORDER": _ORDERS.index(plan.order) if plan.shuffles else 0,
        "BLOCK_ROWS": "4096u",
        "WINDOW_BLOCKS": "16u",
        "WEIGHTED": int(weighted),
        "BOOTSTRAP": int(plan.bootstrap_keys is not None),
        "RANDOM": int(plan.random),
        "NOISY": int(plan.input_noise > 0),
        "INPUT_NOISE": repr(plan.input_noise),
        "AVERAGES": int(plan.average > 0),
        "AVERAGE": repr(plan.average),
        "CROSS_ENTROPY": int(cross_entropy),
        "COST_OPTIONS": ", ".join(f"(real){float(p)!r}" for p in plan.cost.options(sizes[-1])),
        "LAST_READS_INPUT": int(last.reads == "z"),
        "LAST_SLOPE": f"slope_of_{last.name}",
    }
    if not cross_entropy:
        known |= {"COST_VALUE": f"cost_of_{plan.cost.name}", "COST_DELTA": f"delta_of_{plan.cost.name}"}
    numbers = range(1, depth + 1)
    known["FORWARD_LAYERS(held, tile, keys, position)"] = " ".join(
        f"forward{level}(held, tile, keys, position); BARRIER;" for level in numbers
    )
    known["BACKWARD_LAYERS(held, tile, keys, position)"] = " ".join(
        f"backward{level}(held, tile, keys, position); BARRIER;" for level in reversed(numbers[1:])
    )
    known["GRADIENT_LAYERS(tile, to, first)"] = " ".join(f"gradient{level}(tile, to, first);" for level in numbers)
    layers = "".join(_layer(plan, cut, at, level) for level in numbers)
    return "".join(f"#define {name} {value}\n" for name, value in known.items()), layers


def _places(plan: Plan, cut: Cut) -> dict[str, int]:
    """Return where arrays begin: A, Z, D of each layer and in all "size", in a tile (after the parameters) or a slot of work."""
    stride = cut.tile + 1 if cut.tile else cut.piece
    places, end = {}, plan.parameters if cut.staged else 0
    depth = len(plan.activations)
    for level, size in enumerate(plan.sizes):
        places[f"A{level}"] = end
        end += size * stride
        if level and plan.activations[level - 1].reads == "z":
            places[f"Z{level}"] = end
            end += size * stride
        places[f"D{level}"] = places[f"A{level}"]
        if cut.tile and 0 < level < depth:
            places[f"D{level}"] = end
            end += size * stride
    return places | {"W": end, "size": end if cut.tile else end + cut.piece}


def _layer(plan: Plan, cut: Cut, at: dict[str, int], level: int) -> str:
    """Return layer.cl with the definitions of one layer around it."""
    inputs, outputs = plan.sizes[level - 1 : level + 1]
    weights_at = sum(a * b for a, b in zip(plan.sizes[: level - 1], plan.sizes[1:level], strict=True))
    biases_at = weight_count(plan.sizes) + sum(plan.sizes[1:level])
    activation, share = plan.activations[level - 1], plan.dropout[level - 1] if plan.dropout else 0.0
    known: dict[str, Any] = {
        "LAYER": level,
        "NI": inputs,
        "NO": outputs,
        "W_AT": weights_at,
        "B_AT": biases_at,
        "A_IN": at[f"A{level - 1}"],
        "A_OUT": at[f"A{level}"],
        "Z_IN": at.get(f"Z{level - 1}", 0),
        "Z_OUT": at.get(f"Z{level}", 0),
        "D_IN": at[f"D{level - 1}"],
        "D_OUT": at[f"D{level}"],
        "VALUE": f"value_of_{activation.name}",
        "READS_INPUT": int(activation.reads == "z"),
        **_dropped("DROP", share),
    }
    if level > 1:
        before = plan.activations[level - 2]
        known |= {
            "BEFORE_SLOPE": f"slope_of_{before.name}",
            "BEFORE_READS_INPUT": int(before.reads == "z"),
            **_dropped("BEFORE_DROP", plan.dropout[level - 2] if plan.dropout else 0.0),
        }
    if cut.tile:
        known["BU"], known["BS"] = _block(outputs, cut.tile)
        known["BACK_BU"], known["BACK_BS"] = _block(inputs, cut.tile)
        known["JB"], known["IB"] = _gradient_block(outputs, inputs)
        known["SHIFT"] = _shift(plan, level)
    before_text = "".join(f"#define {name} {value}\n" for name, value in known.items())
    return before_text + _file("layer.cl") + "".join(f"#undef {name}\n" for name in known)


def _dropped(name: str, share: float) -> dict[str, Any]:
    threshold = int(min(4294967295.0, share * 2.0**32))
    return {
        f"{name}_MASK": int(share > 0),
        name: repr(share),
        f"{name}_THRESHOLD": f"{threshold}u",
        f"{name}_FACTOR": repr(1 / (1 - share)),
    }


def _block(units: int, tile: int) -> tuple[int, int]:
    """Return how many units of how many samples a thread computes: as much as leaves work for all threads."""
    for block_units, samples in ((4, 4), (2, 4), (2, 2), (1, 2)):
        if -(-units // block_units) * (tile // samples) >= THREADS:
            return block_units, samples
    return 1, 1


def _gradient_block(outputs: int, inputs: int) -> tuple[int, int]:
    for rows, columns in ((4, 4), (2, 4), (2, 2), (1, 2)):
        if -(-outputs // rows) * -(-inputs // columns) >= THREADS:
            return rows, columns
    return 1, 1


def _shift(plan: Plan, level: int) -> int:
    """Return the thread that begins a layer's gradient: after those that are busy with the layers before it."""
    threads = 0
    for inputs, outputs in zip(plan.sizes[: level - 1], plan.sizes[1:level], strict=True):
        rows, columns = _gradient_block(outputs, inputs)
        threads += -(-outputs // rows) * -(-inputs // columns) + outputs
    return threads % THREADS


# -- the buffers ------------------------------------------------------------------------------------------------------

_C = {"real": "real", "wide": "wide", "i4": "int32_t", "i8": "int64_t", "u4": "uint32_t", "u8": "uint64_t"}
_ORDER_WORDS = 11
(
    _FIRST_STEP,
    _STEPS,
    _KIND,
    _BIAS_MOMENTUM,
    _HAS_FACTORS,
    _EVERY,
    _LAST_EPOCH,
    _PATIENCE,
    _EVERYONE,
    _PREDICTED,
    _CLIPS,
) = range(_ORDER_WORDS)


def _epochs_at_a_time(plan: Plan) -> int:
    return int(max(1, min(_MOST_STEPS, (1 << 20) // plan.members)))


def _buffers(plan: Plan, cut: Cut, held_out: Data | None, predict_rows: int) -> dict[str, tuple[str, int]]:
    """Return the type and length of every buffer, in the order in which kernels take them."""
    p, members, slots = plan.parameters, plan.members, cut.slots
    everyone, epochs = members * p, _epochs_at_a_time(plan)
    rows, columns = (0, 0) if held_out is None else (len(held_out.x), plan.columns)
    return {
        "orders": ("i8", _ORDER_WORDS),  # what the host wants: FIRST_STEP... of fused.cl
        "min_delta": ("wide", 1),
        "at": ("i8", members),  # the step that each member takes next
        "fate": ("i4", members),
        "fate_epoch": ("i8", members),
        "progress": ("wide", members * 6),  # base.py
        "rates": ("wide", members * 6),
        "factors": ("wide", _MOST_STEPS * 6),
        "penalties": ("wide", members * 2),  # l2, l1
        "shuffle_seeds": ("u8", members),
        "noise_seeds": ("u8", members),
        "bootstrap": ("u4", members * 4 if plan.bootstrap_keys is not None else 0),
        "parameters": ("real", everyone),
        "next": ("real", everyone),  # the parameters after a step, until it is adopted; or a gradient
        "velocity": ("real", everyone),
        "square": ("real", everyone),
        "average": ("real", everyone if plan.average else 0),
        "best": ("real", everyone if rows else 0),
        "x": ("real", plan.samples * plan.sizes[0]),
        "y": ("real", plan.samples * plan.columns),
        "weights": ("real", plan.samples),
        "held_out_x": ("real", rows * plan.sizes[0]),
        "held_out_y": ("real", rows * columns),
        "held_out_weights": ("real", rows),
        "predict_x": ("real", predict_rows * plan.sizes[0]),
        "predictions": ("real", members * predict_rows * plan.sizes[-1]),
        "partial": ("real", slots * cut.rows * p),  # partial sums of gradients
        "row_sums": ("wide", slots * cut.rows * 2),  # and of costs and weights
        "held_out_sums": ("wide", slots * cut.held_out_rows * 2),
        "notes": ("wide", slots * cut.slices * 4),  # what the slices of an update tell each other
        "counters": ("u4", slots),  # where groups meet
        "costs": ("wide", epochs * members),
        "held_out_costs": ("wide", epochs * members),
        "work": ("real", 0 if cut.tile else slots * _places(plan, cut)["size"]),
        "row_index": ("u4", slots * cut.piece),
    }


# -- a session --------------------------------------------------------------------------------------------------------


class _HostSearch(ReferenceSession):
    """L-BFGS: its line search and pairs on the host, every cost and gradient from the device."""

    def __init__(self, device: GpuSession, plan: Plan, parameters: Array, data: Data, validation: Data | None) -> None:
        super().__init__(
            plan, parameters, replace(data, in_place=True), validation and replace(validation, in_place=True)
        )
        self._device = device

    def _cost_and_gradient(self, member: int, step: int, parameters: Array) -> tuple[float, Array]:
        return self._device.evaluate(member, step, parameters)

    def _validation_cost(self, member: int) -> float:
        return self._device.validation_cost(member)


class GpuSession:
    """One training on a device (see ``Session``). Between two calls, the parameters are those of the host."""

    def __init__(
        self,
        queue: Queue,
        plan: Plan,
        parameters: Array,
        data: Data,
        validation: Data | None,
        path: str | None = None,
    ) -> None:
        self._queue, self._plan, self._parameters = queue, plan, parameters
        self._data, self._validation = data, validation
        limits = queue.limits
        if plan.dtype.itemsize == 8 and not limits.doubles:
            raise EngineError(f"{queue.name} has no float64; make the model with dtype='float32'")
        self._cut = choose(plan, 0 if validation is None else len(validation.x), limits, path)
        sample = max(plan.sizes[0], plan.members * plan.sizes[-1])
        self._predict_rows = int(max(1, min(plan.samples, (1 << 22) // sample)))
        self._wide = np.dtype(np.float64 if limits.doubles else np.float32)
        kinds = {"real": plan.dtype, "wide": self._wide} | {kind: np.dtype(kind) for kind in ("i4", "i8", "u4", "u8")}
        buffers = _buffers(plan, self._cut, validation, self._predict_rows)
        self._kinds = {name: kinds[kind] for name, (kind, _) in buffers.items()}
        sizes = {name: max(1, count) * kinds[kind].itemsize for name, (kind, count) in buffers.items()}
        self._class: tuple[type[Optimizer], int] | None = None
        self._watch = Watch(every=1, last_epoch=0)
        self._keeps_best = False
        self._host: _HostSearch | None = None
        self._orders = np.zeros(_ORDER_WORDS, np.int64)
        self._look_launches = tuple(self._looks())
        try:
            self._check_memory(sizes)
            queue.allocate(sizes)
            text = kernel_text(plan, self._cut, limits, validation, data.weights is not None, self._predict_rows)
            queue.build(text, _places(plan, self._cut)["size"] * plan.dtype.itemsize if self._cut.tile else 0)
            self._fill()
        except BaseException:
            queue.release()
            raise

    def _check_memory(self, sizes: dict[str, int]) -> None:
        needed, room = sum(sizes.values()), self._queue.limits.memory
        if needed > room:
            largest = max(sizes, key=sizes.__getitem__)
            raise EngineError(
                f"this training needs {needed / 1e9:.3g} GB on {self._queue.name}, which has {room / 1e9:.3g} GB "
                f"(the largest part is {largest!r}, {sizes[largest] / 1e9:.3g} GB); use fewer members or samples"
            )

    def _fill(self) -> None:
        plan = self._plan
        for prefix, data in (("", self._data), ("held_out_", self._validation)):
            if data is None:
                continue
            there = not isinstance(data.x, np.ndarray)  # x is on the device, and never passes through the host
            seen = replace(data, x=data.y) if there else data
            for first, *arrays in seen.blocks(plan.dtype):
                for name, array in zip(("x", "y", "weights"), arrays, strict=True):
                    if array is not None and not (there and name == "x"):
                        self._write(f"{prefix}{name}", array, first * array[:1].nbytes)
            for first in range(0, len(data.x) if there else 0, BLOCK_OF_ROWS):
                array = self._queue.packed(data.x[first : first + BLOCK_OF_ROWS], plan.dtype)
                self._queue.write(f"{prefix}x", array, first * array[:1].nbytes)
        members = plan.members
        self._write("penalties", np.stack([plan.l2, plan.l1], axis=1))
        self._write("shuffle_seeds", plan.shuffle_seeds)
        self._write("noise_seeds", plan.noise_seeds)
        if plan.bootstrap_keys is not None:
            self._write("bootstrap", plan.bootstrap_keys)
        self._write("progress", np.tile([0, 0, np.inf, 0, 0, 0], (members, 1)))
        if plan.average:
            self._write("average", self._parameters)

    def _write(self, name: str, array: Array, offset: int = 0) -> None:
        self._queue.write(name, np.ascontiguousarray(array, self._kinds[name]), offset)

    def _read(self, name: str, *shape: int) -> Array:
        array = np.empty(shape, self._kinds[name])
        self._queue.read(name, array)
        return array.astype(np.float64) if self._kinds[name] == self._wide and name not in _STATES_OF_PLAN else array

    # -- launches -----------------------------------------------------------------------------------------------------

    def _waves(self) -> Iterator[tuple[int, int]]:
        """Yield the first member and the number of members that are at work at the same time."""
        for first in range(0, self._plan.members, self._cut.slots):
            yield first, min(self._cut.slots, self._plan.members - first)

    def _gradients(self, first: int, members: int) -> Iterator[Launch]:
        """Yield the launches that fill the partial sums of a step's gradient."""
        if self._cut.tile:
            yield Launch("gradient", self._cut.rows, members, first)
            return
        depth, sizes, rows = len(self._plan.activations), self._plan.sizes, self._cut.rows
        for piece in range(-(-self._plan.batch_size // self._cut.piece)):
            yield from self._forwards(first, members, piece, TRAINING)
            for level in range(depth, 0, -1):
                inputs, outputs = sizes[level - 1], sizes[level]
                products = -(-inputs // BLOCK) * -(-outputs // BLOCK)
                yield Launch(f"gradient{level}", products * rows, members, first, piece)
                yield Launch(f"bias_gradient{level}", -(-outputs // THREADS) * rows, members, first, piece)
                if level > 1:
                    groups = self._cut.piece // BLOCK * -(-inputs // BLOCK)
                    yield Launch(f"backward{level}", groups, members, first, piece)

    def _forwards(self, first: int, members: int, piece: int, source: int) -> Iterator[Launch]:
        yield Launch("gather", -(-self._cut.piece // THREADS), members, first, piece, source)
        for level, outputs in enumerate(self._plan.sizes[1:], 1):
            groups = self._cut.piece // BLOCK * -(-outputs // BLOCK)
            yield Launch(f"forward{level}", groups, members, first, piece, source)
        yield Launch("output", self._cut.rows, members, first, piece, source)

    def _updates(self, first: int, members: int, clips: bool) -> Iterator[Launch]:
        """Yield the launches that turn the partial sums into new parameters."""
        if self._cut.slices == 1:
            yield Launch("settle", 1, members, first)
            return
        for kernel in ("norm_squares", "update", "adopt") if clips else ("update", "adopt"):
            yield Launch(kernel, self._cut.slices, members, first)

    def _steps(self, clips: bool) -> Iterator[Launch]:
        for first, members in self._waves():
            yield from self._gradients(first, members)
            yield from self._updates(first, members, clips)

    def _looks(self) -> Iterator[Launch]:
        """Yield the launches that look at the validation cost after an epoch."""
        for first, members in self._waves() if self._validation is not None else ():
            yield from self._validations(first, members)
            yield Launch("look", 1, members, first)

    def _validations(self, first: int, members: int) -> Iterator[Launch]:
        rows = 0 if self._validation is None else len(self._validation.x)
        if self._cut.tile:
            yield Launch("validate", self._cut.held_out_rows, members, first, 0, VALIDATION)
            return
        for piece in range(-(-rows // self._cut.piece)):
            yield from self._forwards(first, members, piece, VALIDATION)

    def _run_steps(self, first_step: int, steps: int, clips: bool) -> None:
        """Ask for some steps, and for a look after each epoch that has one."""
        if self._cut.path in ("grid", "epochs"):
            meets = self._cut.slices > 1
            for first, members in self._waves():
                if meets:
                    self._write("counters", np.zeros(self._cut.slots, np.uint32))
                self._queue.run((Launch("epochs", self._cut.slices, members, first, meets=meets),), 1)
            return
        launches, step, end, per_epoch = (
            tuple(self._steps(clips)),
            first_step,
            first_step + steps,
            self._plan.steps_per_epoch,
        )
        while step < end:
            epoch = step // per_epoch + 1
            if self._validation is not None:  # the next epoch that is looked at
                every, last = self._watch.every, self._watch.last_epoch
                epoch = min(-(-epoch // every) * every, max(epoch, last))
                count = min(end, epoch * per_epoch) - step
            else:
                count = end - step
            self._queue.run(launches, count)
            step += count
            if self._validation is not None and step == epoch * per_epoch and self._watch.looks_at(epoch):
                self._queue.run(self._look_launches, 1)

    # -- Session ------------------------------------------------------------------------------------------------------

    def begin(self, watch: Watch, optimizer: Optimizer) -> None:
        """Start a run (see ``Session``)."""
        self._watch = watch
        lbfgs = isinstance(optimizer, LBFGS)
        if lbfgs and self._host is None:
            host = _HostSearch(self, self._plan, self._parameters, self._data, self._validation)
            for name in ("fate", "fate_epoch", "progress", "average", "best"):
                host.adopt(name, self.read(name))
            self._host = host
        elif not lbfgs and self._host is not None:
            host, self._host, self._class = self._host, None, None
            self._keeps_best = len(host.read("best")) > 0
            for name in ("fate", "fate_epoch", "progress", "average", "best"):
                if len(host.read(name)):
                    self.write(name, host.read(name))
        if self._host is not None:
            self._host.begin(watch, optimizer)
            return
        progress = self.read("progress")
        if self._class != (type(optimizer), 0):
            self._class = type(optimizer), 0
            for name in ("velocity", "square"):
                self._write(name, np.zeros_like(self._parameters))
            progress[:, STEPS] = 0
        self._keeps_best = self._keeps_best or watch.patience is not None
        if watch.fresh:
            progress[:, BEST_COST] = np.inf
        self.write("progress", progress)
        fate = self.read("fate")
        fate[(fate == STOPPED) | (fate == CONVERGED)] = RUNNING
        self.write("fate", fate)

    def advance(
        self, first_step: int, steps: int, optimizer: Optimizer, progress: tuple[int, int]
    ) -> tuple[Array, Array | None]:
        """Run some steps (see ``Session``)."""
        if self._host is not None:
            return self._host.advance(first_step, steps, optimizer, progress)
        self._write("parameters", self._parameters)
        rates, per_epoch = optimizer.table(self._plan.members), self._plan.steps_per_epoch
        self._write("rates", rates)
        self._write("min_delta", np.array([self._watch.min_delta]))
        costs, held_out_costs, done = [], [], 0
        while done < steps:
            step = first_step + done
            most = (step // per_epoch + _epochs_at_a_time(self._plan)) * per_epoch - step
            now = min(steps - done, _MOST_STEPS, most)
            epochs = (step + now) // per_epoch - step // per_epoch
            factors = optimizer.factors(progress[0] + done, now, progress[1])
            if factors is not None:
                self._write("factors", factors)
            self._order(step, now, optimizer, bool((rates[:, 5] > 0).any()), factors is not None)
            for name in ("costs", "held_out_costs"):
                self._write(name, np.full((max(1, epochs), self._plan.members), np.nan))
            self._run_steps(step, now, bool((rates[:, 5] > 0).any()))
            costs.append(self._read("costs", epochs, self._plan.members))
            held_out_costs.append(self._read("held_out_costs", epochs, self._plan.members))
            done += now
        self._queue.read("parameters", self._parameters)
        validated = None if self._validation is None else np.concatenate(held_out_costs)
        return np.concatenate(costs), validated

    def _order(
        self, step: int, steps: int, optimizer: Optimizer | None, clips: bool = False, factors: bool = False
    ) -> None:
        """Tell the device what it is to do; optimizer: None for a gradient alone."""
        orders, watch = self._orders, self._watch
        orders[[_FIRST_STEP, _STEPS, _EVERY, _LAST_EPOCH]] = step, steps, watch.every, watch.last_epoch
        orders[_KIND] = 0 if optimizer is None else _KINDS.index(optimizer.kind)
        orders[_BIAS_MOMENTUM] = not isinstance(optimizer, SGD) or optimizer.bias_momentum
        orders[_HAS_FACTORS], orders[_CLIPS], orders[_EVERYONE] = factors, clips, optimizer is None
        orders[_PATIENCE] = -1 if watch.patience is None else watch.patience
        self._write("orders", orders)
        self._write("at", np.full(self._plan.members, step, np.int64))

    def finish(self) -> None:
        """End a run (see ``Session``)."""
        if self._host is not None:
            self._host.finish()
        elif self._watch.restore_best and self._keeps_best:
            improved = np.isfinite(self.read("progress")[:, BEST_COST])
            self._parameters[improved] = self.read("best")[improved]

    def _evaluated(self, step: int, waves: Sequence[tuple[int, int]]) -> None:
        """Leave costs and gradients of a step in ``costs`` and ``next``."""
        self._order(step, 1, None)
        self._write("rates", np.zeros((self._plan.members, 6)))
        for first, members in waves:
            update = Launch("update", self._cut.slices, members, first)
            self._queue.run((*self._gradients(first, members), update, Launch("value", 1, members, first)), 1)

    def value_and_gradient(self, step: int) -> tuple[Array, Array]:
        """Return costs and gradients (see ``Session``)."""
        self._write("parameters", self._parameters)
        self._evaluated(step, list(self._waves()))
        return self._read("costs", self._plan.members), self._read("next", *self._parameters.shape)

    def evaluate(self, member: int, step: int, parameters: Array) -> tuple[float, Array]:
        """Return cost and gradient of one member at other parameters."""
        self._write("parameters", parameters, member * parameters.nbytes)
        self._evaluated(step, [(member, 1)])
        costs, gradients = self._read("costs", self._plan.members), self._read("next", *self._parameters.shape)
        return float(costs[member]), gradients[member]

    def validation_cost(self, member: int) -> float:
        """Return the validation cost of one member at its parameters."""
        parameters = self._parameters[member]
        self._write("parameters", parameters, member * parameters.nbytes)
        self._order(0, 1, None)
        self._queue.run(tuple(self._validations(member, 1)), 1)
        sums = self._read("held_out_sums", self._cut.held_out_rows, 2).sum(axis=0)
        return float(sums[0] / sums[1])

    def predict(self, x: Array) -> Array:
        """Return the outputs (see ``Session``)."""
        plan, most = self._plan, self._predict_rows
        self._write("parameters", self._parameters)
        outputs = np.empty((plan.members, len(x), plan.sizes[-1]), plan.dtype)
        for first in range(0, len(x), most):
            rows = x[first : first + most]
            self._write("predict_x", rows)
            self._orders[_PREDICTED] = len(rows)
            self._write("orders", self._orders)
            self._queue.run(tuple(self._predictions(len(rows))), 1)
            outputs[:, first : first + most] = self._read("predictions", plan.members, most, plan.sizes[-1])[
                :, : len(rows)
            ]
        return outputs

    def _predictions(self, rows: int) -> Iterator[Launch]:
        for first, members in self._waves():
            if self._cut.tile:
                yield Launch("predict", -(-rows // self._cut.tile), members, first, 0, PREDICTION)
                continue
            for piece in range(-(-rows // self._cut.piece)):
                yield from self._forwards(first, members, piece, PREDICTION)

    def read(self, name: str) -> Array:
        """Return a copy of a state (see ``Session``)."""
        plan, members = self._plan, self._plan.members
        if name == "parameters":
            return self._parameters.copy()
        if self._host is not None:
            return self._host.read(name)
        if name in ("pairs", "kept_pairs"):
            return np.zeros(members, np.int64) if name == "kept_pairs" else self._parameters[:0].copy()
        there = {
            "velocity": self._class is not None,
            "square": self._class is not None and self._class[0] is not SGD,
            "average": plan.average > 0,
            "best": self._keeps_best,
        }
        if not there.get(name, True):
            return self._parameters[:0].copy()
        shape = {"fate": (), "fate_epoch": (), "progress": (6,)}.get(name, (plan.parameters,))
        return self._read(name, members, *shape)

    def write(self, name: str, value: Array) -> None:
        """Replace a state (see ``Session``)."""
        if name == "parameters":
            self._parameters[...] = value
        elif self._host is not None:
            self._host.write(name, value)
        elif name not in ("pairs", "kept_pairs"):
            self._write(name, value)

    def explain(self) -> str:
        """Return how the steps are cut (see ``Session``)."""
        cut, plan = self._cut, self._plan
        buffers = _buffers(plan, cut, self._validation, self._predict_rows)
        taken = sum(max(1, count) * self._kinds[name].itemsize for name, (_, count) in buffers.items())
        held = "; parameters in local memory" if cut.staged else ""
        samples = f"tiles of {cut.tile} samples{held}" if cut.tile else f"pieces of {cut.piece} samples"
        return (
            f"path {cut.path!r}: {cut.why}\n{samples}; {cut.rows} partial sums of a gradient; updates in {cut.slices} "
            f"slice{'s' * (cut.slices != 1)}; {cut.slots} of {plan.members} members at work at a time\n"
            f"{taken / 1e6:.3g} MB of device memory on {self._queue.name}"
        )

    def release(self) -> None:
        """Free all device memory (see ``Session``)."""
        self._host = None
        self._queue.release()


_STATES_OF_PLAN = ("next", "velocity", "square", "average", "best", "predictions")
