"""How a plan is cut for a GPU: which path its steps take, in tiles or pieces of how many samples, over how many groups."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from itertools import pairwise

from schuss.engines.base import Plan
from schuss.errors import EngineError, InputError, unknown_name

PATHS = ("grid", "epochs", "step", "layers")
"""How a step can be cut; ``choose`` says which is taken."""

THREADS, BLOCK = 256, 64
"""Threads of a group, and the side of the block of a matrix product that it computes: 4 x 4 results a thread."""

LANES = 16
"""Threads of a group in the narrow paths on a processor, where they are the lanes of a vector."""

_ROWS = 128
_WIDE_LAYER = 128 * 128  # weights from which a layer is a matrix product over device memory
_ROWS_OF_ONE_GROUP = 32  # tiles a step of a member that one group does alone
_PARTIAL_BYTES, _WORK_BYTES = 64 << 20, 1 << 30
_GROUPS_A_UNIT, _ROW_SAMPLES = 4, 256  # that keep a unit busy; of a partial sum at least (layers)
_SLICE = 8192  # parameters of a slice of an update at least, on a processor
_MOST_SLOTS = 65535  # groups along the second axis of a launch of CUDA


@dataclass(frozen=True)
class Limits:
    """What a device has: bytes of memory, of local memory a group, and of one buffer at most; compute units; doubles; whether
    all groups of a launch can be on it at the same time and meet (a cooperative launch); whether it has a library of
    matrix products; and whether it is a processor, and no GPU.
    """

    memory: int
    local_memory: int
    units: int
    threads: int = 1024
    doubles: bool = True
    cooperative: bool = False
    products: bool = False
    buffer: int = sys.maxsize
    processor: bool = False


@dataclass(frozen=True)
class Cut:
    """How a plan is cut. threads: of a group; lanes: whether they are those of a vector. tile: samples of a tile, 0 for the
    path "layers". staged: whether a group copies the parameters into its local memory. rows: partial sums of a gradient.
    cost_rows: of a cost. slices: groups that share an update. slots: members at work at the same time. piece: samples at a
    time (layers). held_out_rows: partial sums of a validation cost. library: whether the device's own library makes the
    matrix products (layers).
    """

    path: str
    threads: int
    lanes: bool
    tile: int
    staged: bool
    rows: int
    cost_rows: int
    slices: int
    slots: int
    piece: int
    held_out_rows: int
    library: bool
    why: str


def choose(plan: Plan, held_out: int, limits: Limits, asked: str | None = None) -> Cut:
    """Return how a plan is cut on a device. asked: one of PATHS, or None for the one that should be fastest.

    Rows and tiles are a function of plan and device, never of the number of members. Raises InputError for a path that
    there is not, EngineError if the one asked for cannot take the plan.
    """
    if asked is not None and asked not in PATHS:
        raise InputError(unknown_name("path", asked, PATHS))
    if limits.threads < THREADS:
        raise EngineError(f"the device runs at most {limits.threads} threads in a group, and {THREADS} are needed")
    lanes = limits.processor
    tile, staged = (_tile_of_lanes(plan, limits), False) if lanes else _tile(plan, limits)
    tiles = -(-plan.batch_size // tile) if tile else 0
    rows = min(_ROWS, tiles, _GROUPS_A_UNIT * limits.units if lanes else _ROWS)
    reasons = _refusals(plan, limits, tile, rows)
    path = asked or next(path for path in PATHS if path not in reasons)
    if path in reasons and (asked is None or reasons[path].startswith("cannot")):
        raise EngineError(f"path={path!r} {reasons[path]}; leave it out, or pass one of {', '.join(PATHS)}")
    if path == "layers":
        return _layers(plan, held_out, limits)
    slices = max(1, min(rows, limits.units // plan.members)) if path == "grid" else 1
    slots = max(1, min(plan.members, _MOST_SLOTS, _PARTIAL_BYTES // (rows * plan.parameters * plan.dtype.itemsize)))
    held_out_rows = min(_ROWS, -(-held_out // tile))
    slots = plan.members if path == "grid" else slots
    if lanes and path == "step":
        slices = max(1, min(limits.units, plan.parameters // _SLICE))
    return Cut(
        path=path,
        threads=LANES if lanes else THREADS,
        lanes=lanes,
        tile=tile,
        staged=staged,
        rows=rows,
        cost_rows=rows,
        slices=slices,
        slots=slots,
        piece=0,
        held_out_rows=max(1, held_out_rows),
        library=False,
        why=_WHY[path],
    )


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
    if limits.processor:
        no["epochs"] = "is slower than launches, which cost a processor little"
        return no
    sizes = plan.sizes
    if max(a * b for a, b in pairwise(sizes)) >= _WIDE_LAYER:
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
        if (12 + plan.dtype.itemsize) * tile + (held if staged else 0) + (tile + 1) * units(
            plan
        ) * plan.dtype.itemsize <= room:
            return tile, staged
    return 0, False


def _tile_of_lanes(plan: Plan, limits: Limits) -> int:
    """Return how many samples a tile has on a processor: a vector, or two or four; 0 if none fits."""
    if len(plan.activations) + 2 > LANES:
        return 0
    turned = -(-max(plan.sizes[:-1]) // LANES) * LANES
    for vectors in (4, 2, 1):
        tile = vectors * LANES
        needed = tile * (12 + plan.dtype.itemsize * (units(plan) + turned + 1)) + 512 + 8 * LANES + 16 * len(plan.sizes)
        if needed <= limits.local_memory and (vectors == 1 or plan.batch_size > tile // 2):
            return tile
    return 0


def units(plan: Plan) -> int:
    """Return how many numbers a tile holds of a sample: x, every a, z where it is read, delta of the hidden layers."""
    kept = sum(size * (1 + (f.reads == "z")) for size, f in zip(plan.sizes[1:], plan.activations, strict=True))
    return plan.sizes[0] + kept + sum(plan.sizes[1:-1])


def _layers(plan: Plan, held_out: int, limits: Limits) -> Cut:
    most = max(plan.batch_size, held_out)
    sample = plan.dtype.itemsize * (units(plan) + max(plan.sizes) + 2)
    budget = min(_WORK_BYTES, limits.memory // 4, limits.buffer)
    piece = max(BLOCK, min(-(-most // BLOCK) * BLOCK, budget // sample // BLOCK * BLOCK))
    sizes = plan.sizes
    smallest = min(-(-a // BLOCK) * -(-b // BLOCK) for a, b in pairwise(sizes))
    rows = max(
        1,
        min(
            _ROWS,
            -(-piece // _ROW_SAMPLES),
            -(-_GROUPS_A_UNIT * limits.units // smallest),
            budget // (plan.parameters * plan.dtype.itemsize),
        ),
    )
    cost_rows = min(_ROWS, -(-piece // THREADS))
    if limits.products:
        rows = 1
    member = piece * sample + rows * plan.parameters * plan.dtype.itemsize
    slots = max(1, min(plan.members, _MOST_SLOTS, budget // member))
    slices = max(1, min(256, plan.parameters // (4 * THREADS)))
    why = f"{_WHY['layers']}, by {'the library of the device' if limits.products else 'kernels of our own'}"
    return Cut(
        path="layers",
        threads=THREADS,
        lanes=False,
        tile=0,
        staged=False,
        rows=rows,
        cost_rows=cost_rows,
        slices=slices,
        slots=slots,
        piece=piece,
        held_out_rows=cost_rows,
        library=limits.products,
        why=why,
    )
