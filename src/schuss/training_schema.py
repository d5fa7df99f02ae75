"""What a checkpoint of a training may hold: the schema of its description, its tensors, and the ranges of their numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from schuss import costs
from schuss.checkpoint import FORMAT, SEED, Tensors, architecture
from schuss.engines.base import AVERAGED, BEST_EPOCH, CONVERGED, EPOCH_WEIGHT, RUNNING, STEPS
from schuss.errors import Problems
from schuss.layers import parameter_count
from schuss.schema import (
    LARGEST,
    Check,
    MismatchError,
    either,
    fixed,
    key_of,
    listed,
    mapped,
    number,
    one_of,
    optional,
    record,
    text,
    truth,
    whole,
)

Array = NDArray[Any]
Shapes = dict[str, tuple[int, ...]]

FATES = ("diverged", "stopped", "converged", "restarted")
KINDS: dict[str, tuple[str, ...]] = {
    "SGD": ("velocity",),
    "Adam": ("velocity", "square"),
    "RMSprop": ("velocity", "square"),
    "LBFGS": ("pairs",),
}
"""The states that each optimizer has in the sessions of all engines."""

_OPTIONS: dict[str, Check] = {
    "l2": listed(number(0), 1),
    "l1": listed(number(0), 1),
    "batch_size": whole(1),
    "shuffle": either(truth, one_of("member", "blocks")),
    "bootstrap": truth,
    "input_noise": number(0),
    "average": number(0, 1),
    "on_divergence": one_of("stop", "restart"),
    "seed": SEED,
}
_PAIR = fixed(whole(1), whole(1))
_FINGERPRINT = fixed(_PAIR, _PAIR, truth, truth, text)
_MEMBER_NUMBERS = mapped(lambda key: key.isascii() and key.isdigit() and len(key) < 16, whole(), "a member's number")
_ENTRIES = record(
    {
        "format": one_of(FORMAT),
        "model": architecture(),
        "cost": record({"name": key_of(costs.COSTS, "the name of a cost"), "option": listed(number(), 1)}),
        "options": record(_OPTIONS),
        "step": whole(),
        "run": optional(record({"begin": whole(), "epochs": whole()})),
        "optimizer": optional(fixed(one_of(*KINDS), whole(0, 100))),
        "fates": record({}, dict.fromkeys(FATES, _MEMBER_NUMBERS)),
        "data": _FINGERPRINT,
        "validation": optional(_FINGERPRINT),
    },
    {"folds": optional(text)},
)


def check(description: Any, name: str) -> None:
    """Check the description of a checkpoint, whole: its entries, and that they fit each other."""
    _ENTRIES(description, name)
    costs.from_dict(description["cost"])
    members, options, run = _members(description), description["options"], description["run"]
    for penalty in ("l2", "l1"):
        _equal(f"options.{penalty}", len(options[penalty]), members)
    for key in ("data", "validation"):
        if description[key] is not None:
            (rows, columns), (targets, _) = description[key][:2]
            _equal(f"the columns of {key}", columns, description["model"]["inputs"])
            _equal(f"the targets of {key}", targets, rows)
    _within("options.batch_size", options["batch_size"], 1, description["data"][0][0])
    if run is not None:
        first, last = (
            epochs * _steps_per_epoch(description) for epochs in (run["begin"], run["begin"] + run["epochs"])
        )
        _within("step", description["step"], first, last)
    for fate in description["fates"].values():
        for member, epoch in fate.items():
            _within("a member of fates", int(member), 0, members - 1)
            _within("an epoch of fates", epoch, 0, _epochs(description) + 1)
    if description["optimizer"] is not None:
        kind, history = description["optimizer"]
        _within("the history of the optimizer", history, *((1, 100) if kind == "LBFGS" else (0, 0)))


def layout(description: dict[str, Any], present: Shapes) -> Tensors:
    """Return what a checkpoint holds (see ``checkpoint.Layout``)."""
    members, dtype = _members(description), description["model"]["dtype"]
    kind, history = description["optimizer"] or ("", 0)
    numbers = dtype, (members, _parameters(description))
    own: Tensors = {
        "parameters": numbers,
        "progress": ("float64", (members, 6)),
        **{name: numbers for name in KINDS.get(kind, ()) if name != "pairs"},
        **({"average": numbers} if description["options"]["average"] else {}),
    }
    expected: Tensors = {f"state.{name}": one for name, one in own.items()}
    expected |= {"state.fate": ("int32", (members,)), "state.fate_epoch": ("int64", (members,))}
    expected |= {"state.kept_pairs": ("int64", (members,))}
    expected |= {"runner.retired": ("bool", (members,)), "runner.scale": ("float64", (members,))}
    if kind == "LBFGS":
        expected["state.pairs"] = dtype, (members, history, 2, numbers[1][1])
    if "state.best" in present:
        expected["state.best"] = numbers
    if any(name.startswith("snapshot.") for name in present):
        expected |= {f"snapshot.{name}": one for name, one in own.items()}
        expected |= {"snapshot.step": ("int64", (members,)), "snapshot.cost": ("float64", (members,))}
    if any(name.startswith("score.") for name in present):
        expected |= {"score.best": ("float64", (members,)), "score.best_epoch": ("float64", (members,))}
        expected["score.parameters"] = numbers
    if "history.epoch" in present and description["run"] is not None:
        expected |= _records(description, present)
    return expected


def _records(description: dict[str, Any], present: Shapes) -> Tensors:
    """Return the tensors of the history: of each record its epoch, and the costs of all members."""
    count = present["history.epoch"][0] if present["history.epoch"] else 0
    table: tuple[str, tuple[int, ...]] = "float64", (count, _members(description)) if count else (0,)
    expected: Tensors = {"history.epoch": ("int64", (count,)), "history.cost": table}
    if description["validation"] is not None and count:
        expected["history.validation"] = table
    if "history.score" in present:
        expected["history.score"] = table
    return expected


def check_values(description: dict[str, Any], tensors: dict[str, Array]) -> None:
    """Check that the numbers of the tensors lie where those of a training can; raise MismatchError."""
    step, epochs = description["step"], _epochs(description)
    _all_within("state.fate", tensors["state.fate"], RUNNING, CONVERGED)
    _all_within("state.fate_epoch", tensors["state.fate_epoch"], 0, epochs + 1)
    _all_within("state.kept_pairs", tensors["state.kept_pairs"], 0, LARGEST)
    _all_within("runner.scale", tensors["runner.scale"], 2.0**-20, 1)
    for name in ("state.progress", "snapshot.progress"):
        if name in tensors:
            counts = tensors[name][:, [BEST_EPOCH, STEPS, AVERAGED]]
            _all_within(name, counts, 0, LARGEST, whole_numbers=True)
            _all_within(name, tensors[name][:, EPOCH_WEIGHT], 0, np.inf)
    if "snapshot.step" in tensors:
        _all_within("snapshot.step", tensors["snapshot.step"], 0, step)
    if "score.best_epoch" in tensors:
        _all_within("score.best_epoch", tensors["score.best_epoch"], 0, epochs, whole_numbers=True)
    if "history.epoch" in tensors:
        recorded = tensors["history.epoch"]
        _all_within("history.epoch", recorded, 1, epochs)
        if (np.diff(recorded) <= 0).any():
            raise MismatchError("history.epoch does not rise")
    for name in ("snapshot.parameters", "score.parameters"):
        if name in tensors and not np.isfinite(tensors[name]).all():
            raise MismatchError(f"{name} are not all finite numbers")


def checked_state(state: Any, members: int, parameters: int, dtype: np.dtype[Any]) -> dict[str, Array]:
    """Return the states of ``Training.optimizer_state`` for a session; raise InputError with all that does not fit."""
    problems = Problems("load the optimizer's state")
    names = ("velocity", "square", "pairs", "kept_pairs", "steps", "optimizer", "history")
    missing = [name for name in names if name not in state] if isinstance(state, dict) else list(names)
    if missing:
        problems.add(f"it must hold what optimizer_state() gives after a run; {', '.join(missing)} is missing")
        problems.raise_if_any()
    kind, history = str(np.asarray(state["optimizer"])), np.asarray(state["history"])
    most = (1, 100) if kind == "LBFGS" else (0, 0)
    if kind not in KINDS:
        problems.add(f"optimizer must be one of {', '.join(KINDS)}; got {kind!r:.80}")
    if history.shape != () or history.dtype.kind not in "iu" or not most[0] <= int(history) <= most[1]:
        problems.add(f"history must be a whole number from {most[0]} to {most[1]}; got {history!r:.80}")
    problems.raise_if_any()
    shapes: Shapes = {"velocity": (members, parameters), "square": (members, parameters)}
    shapes["pairs"] = members, int(history), 2, parameters
    found = {}
    for name, shape in shapes.items():
        array = np.asarray(state[name])
        found[name] = array[:0] if array.ndim and not len(array) else array
        if name in KINDS[kind] and (array.shape != shape or array.dtype.kind not in "fiu"):
            problems.add(f"{name} must be numbers of shape {shape}; got {array.dtype} of shape {array.shape}")
        if name not in KINDS[kind] and array.size:
            problems.add(f"{kind} has no {name}; got shape {array.shape}")
    for name in ("kept_pairs", "steps"):
        array = np.asarray(state[name])
        fits = array.shape == (members,) and array.dtype.kind in "fiu"
        if not fits or not ((array >= 0) & (array <= LARGEST) & (array == np.floor(array))).all():
            problems.add(f"{name} must be whole numbers of at least 0, of shape ({members},); got {array!r:.80}")
        found[name] = array
    problems.raise_if_any()
    return {name: np.array(one, np.int64 if name in ("kept_pairs", "steps") else dtype) for name, one in found.items()}


def _members(description: dict[str, Any]) -> int:
    return len(description["model"].get("seeds", (0,)))


def _parameters(description: dict[str, Any]) -> int:
    model = description["model"]
    return parameter_count((model["inputs"], *(layer["units"] for layer in model["layers"])))


def _steps_per_epoch(description: dict[str, Any]) -> int:
    return -(-int(description["data"][0][0]) // int(description["options"]["batch_size"]))


def _epochs(description: dict[str, Any]) -> int:
    return int(description["step"]) // _steps_per_epoch(description)


def _equal(name: str, found: int, expected: int) -> None:
    if found != expected:
        raise MismatchError(f"{name} must be {expected}; got {found}")


def _within(name: str, found: int, least: int, most: int) -> None:
    if not least <= found <= most:
        raise MismatchError(f"{name} must be from {least} to {most}; got {found}")


def _all_within(name: str, array: Array, least: float, most: float, whole_numbers: bool = False) -> None:
    fits = (array >= least) & (array <= most)
    if whole_numbers:
        fits &= array == np.floor(array)
    if not fits.all():
        raise MismatchError(
            f"{name} must be {'whole ' * whole_numbers}numbers from {least} to {most}; got {array[~fits][0]}"
        )
