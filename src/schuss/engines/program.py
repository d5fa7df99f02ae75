"""Program and memory of a session on a GPU: what ``kernels/fused.cl`` is told of a plan and its cut, and every buffer."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

from schuss.engines import cuts
from schuss.engines.base import Data, Plan
from schuss.engines.cuts import Cut, Limits
from schuss.layers import weight_count

MOST_STEPS = 4096
"""Steps that are asked for at a time; a table of factors has as many rows."""

_ORDERS = ("given", "shuffled", "blocks")


@cache
def _file(name: str) -> str:
    return (Path(__file__).parent / "kernels" / name).read_text()


def kernel_text(plan: Plan, cut: Cut, limits: Limits, held_out: Data | None, weighted: bool, predict_rows: int) -> str:
    """Return the whole text that is compiled for a plan: definitions, and fused.cl with what it includes."""
    head, layers = definitions(plan, cut, limits, held_out, weighted, predict_rows)

    def whole(text: str) -> str:
        return re.sub(r'^#include "(.+)"$', lambda found: included(found[1]), text, flags=re.MULTILINE)

    def included(name: str) -> str:
        return layers if name == "layers" else whole(_file(name))

    return head + whole(_file("fused.cl"))


def definitions(
    plan: Plan, cut: Cut, limits: Limits, held_out: Data | None, weighted: bool, predict_rows: int
) -> tuple[str, str]:
    """Return the definitions before fused.cl, and the text of all layers."""
    sizes, depth, last = plan.sizes, len(plan.activations), plan.activations[-1]
    tiled, at = cut.path != "layers", places(plan, cut)
    cross_entropy = plan.cost.name == "cross_entropy"
    real = "float" if plan.dtype.itemsize == 4 else "double"
    wide = "double" if limits.doubles else "float"
    largest = {"float": "3.402823466e38f", "double": "1.7976931348623157e308"}
    declared = [f"GLOBAL {_C[kind]} *{name}" for name, (kind, _) in buffers(plan, cut, held_out, predict_rows).items()]
    names = ", ".join(one.rsplit("*", 1)[1] for one in declared)
    scalars = "int first_member, int piece"
    known: dict[str, Any] = {
        "SESSION": ", ".join(declared) + f", {scalars}, int source",
        "SESSION_GIVEN": f"{names}, first_member, piece, source",
        "SESSION_GIVEN_FOR_VALIDATION": f"{names}, first_member, piece, VALIDATION",
        "real": real,
        "wide": wide,
        "LARGEST": largest[real],
        "LARGEST_WIDE": largest[wide],
        "THREADS": cut.threads,
        "BLOCK": cuts.BLOCK,
        "TILED": int(tiled),
        "WHOLE_RUNS": int(cut.path in ("grid", "epochs")),
        "LANES": int(cut.lanes),
        "STAGED": int(cut.staged),
        "TILE": cut.tile,
        "LD": _stride(cut),
        "TURNED": at.get("TURNED", 0),
        "TURNED_LD": _turned_stride(plan),
        "TILE_SIZE": at["size"],
        "WORK": at["size"],
        "X_AT": at["A0"],
        "LAST_AT": at[f"A{depth}"],
        "LAST_Z": at.get(f"Z{depth}", 0),
        "W_OF_ROWS": at["W"],
        "ONES": at.get("ONES", 0),
        "SPARE": at.get("SPARE", 0),
        "LAST_SPACE": "LOCAL" if tiled else "GLOBAL",
        "LIBRARY": int(cut.library),
        "ROWS": cut.rows,
        "COST_ROWS": cut.cost_rows,
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
        "FOLDS": int(plan.folds is not None),
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


def places(plan: Plan, cut: Cut) -> dict[str, int]:
    """Return where A, Z and D of each layer begin, and the "size" of all: in a tile, after parameters, or a slot of work."""
    stride = _stride(cut) if cut.tile else cut.piece
    found, end = {}, plan.parameters if cut.staged else 0
    depth = len(plan.activations)
    for level, size in enumerate(plan.sizes):
        found[f"A{level}"] = end
        end += size * stride
        if level and plan.activations[level - 1].reads == "z":
            found[f"Z{level}"] = end
            end += size * stride
        found[f"D{level}"] = found[f"A{level}"]
        if cut.tile and 0 < level < depth:
            found[f"D{level}"] = end
            end += size * stride
    if cut.tile:
        turned = cut.tile * _turned_stride(plan) if cut.lanes else 0
        return found | {"W": end, "TURNED": end, "size": end + turned}
    spare = end + 2 * cut.piece  # after the weights of samples, and ones; room for a product
    return found | {"W": end, "ONES": end + cut.piece, "SPARE": spare, "size": spare + cut.piece * max(plan.sizes)}


def _stride(cut: Cut) -> int:
    """Return how far apart units lie in a tile; the gradient of a GPU reads across, and wants other banks for neighbors."""
    return cut.tile if cut.lanes else cut.tile + 1


def _turned_stride(plan: Plan) -> int:
    """Return how far apart samples lie in a turned tile: whole vectors of inputs, of the layer that has most."""
    return -(-max(plan.sizes[:-1]) // cuts.LANES) * cuts.LANES


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
        known["BU"], known["BS"] = _block(outputs, cut)
        known["BACK_BU"], known["BACK_BS"] = _block(inputs, cut)
        known["JB"], known["IB"] = _gradient_block(outputs, inputs, cut)
        known["SHIFT"] = _shift(plan, level, cut)
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


_ACCUMULATORS = 16  # vectors that a lane's sums fill: half the registers of AVX-512


def _block(units: int, cut: Cut) -> tuple[int, int]:
    """Return how many units of how many samples a thread computes: as much as leaves work for all threads."""
    if cut.lanes:
        samples = cut.tile // cut.threads
        return min(_ACCUMULATORS // samples, units), samples
    for block_units, samples in ((4, 4), (2, 4), (2, 2), (1, 2)):
        if -(-units // block_units) * (cut.tile // samples) >= cut.threads:
            return block_units, samples
    return 1, 1


def _gradient_block(outputs: int, inputs: int, cut: Cut) -> tuple[int, int]:
    if cut.lanes:
        vectors = min(4, -(-inputs // cut.threads))
        return min(_ACCUMULATORS // max(2, vectors), outputs), vectors
    for rows, columns in ((4, 4), (2, 4), (2, 2), (1, 2)):
        if -(-outputs // rows) * -(-inputs // columns) >= cut.threads:
            return rows, columns
    return 1, 1


def _shift(plan: Plan, level: int, cut: Cut) -> int:
    """Return the thread that begins a layer's gradient: after those that are busy with the layers before it."""
    threads = 0
    for inputs, outputs in zip(plan.sizes[: level - 1], plan.sizes[1:level], strict=True):
        rows, columns = _gradient_block(outputs, inputs, cut)
        threads += -(-outputs // rows) * -(-inputs // columns) + outputs
    return threads % cut.threads


# -- the buffers ------------------------------------------------------------------------------------------------------

_C = {"real": "real", "wide": "wide", "i4": "int32_t", "i8": "int64_t", "u4": "uint32_t", "u8": "uint64_t"}
ORDER_WORDS = 12
(
    FIRST_STEP,
    STEPS,
    KIND,
    BIAS_MOMENTUM,
    HAS_FACTORS,
    EVERY,
    LAST_EPOCH,
    PATIENCE,
    EVERYONE,
    PREDICTED,
    CLIPS,
    OF_TRAINING,
) = range(ORDER_WORDS)


def epochs_at_a_time(plan: Plan) -> int:
    """Return of how many epochs the costs have room."""
    return int(max(1, min(MOST_STEPS, (1 << 20) // plan.members)))


def buffers(plan: Plan, cut: Cut, held_out: Data | None, predict_rows: int) -> dict[str, tuple[str, int]]:
    """Return the type and length of every buffer, in the order in which kernels take them."""
    p, members, slots = plan.parameters, plan.members, cut.slots
    everyone, epochs = members * p, epochs_at_a_time(plan)
    rows, columns = (0, 0) if held_out is None else (len(held_out.x), plan.columns)
    return {
        "orders": ("i8", ORDER_WORDS),  # what the host wants: FIRST_STEP... of kernels/step.cl
        "min_delta": ("wide", 1),
        "at": ("i8", members),  # the step that each member takes next
        "fate": ("i4", members),
        "fate_epoch": ("i8", members),
        "progress": ("wide", members * 6),  # base.py
        "rates": ("wide", members * 6),
        "factors": ("wide", MOST_STEPS * 6),
        "penalties": ("wide", members * 2),  # l2, l1
        "shuffle_seeds": ("u8", members),
        "noise_seeds": ("u8", members),
        "bootstrap": ("u4", members * 4 if plan.bootstrap_keys is not None else 0),
        "folds": ("i4", 2 * plan.samples if plan.folds is not None else 0),  # of the training, then the validation data
        "left_out": ("i4", members if plan.folds is not None else 0),
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
        "row_sums": ("wide", slots * cut.cost_rows * 2),  # and of costs and weights
        "held_out_sums": ("wide", slots * cut.held_out_rows * 2),
        "notes": ("wide", slots * cut.slices * 4),  # what the slices of an update tell each other
        "counters": ("u4", slots),  # where groups meet
        "costs": ("wide", epochs * members),
        "held_out_costs": ("wide", epochs * members),
        "work": ("real", 0 if cut.tile else slots * places(plan, cut)["size"]),
        "row_index": ("u4", slots * cut.piece),
    }
