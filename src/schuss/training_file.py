"""Checkpoints of a training: safetensors with all state, checked by a digest, written in one step.

The file holds the tensors ``state.*`` (as engines name them), ``history.*``, ``snapshot.*`` and ``score.*``. The metadata has
``schuss_training``, the description as JSON, and ``sha256``, the digest of that text and of all tensors.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schuss import checkpoint, costs, training_schema
from schuss.checks import EarlyStopping, Model
from schuss.costs import Cost
from schuss.engines.base import STATES, Data, Plan
from schuss.errors import InputError
from schuss.history import History
from schuss.runs import Runner, Scores
from schuss.schema import MismatchError

Array = NDArray[Any]

FORMAT = checkpoint.FORMAT
_ROWS = 64  # of the data, by which a checkpoint knows them again


@dataclass(frozen=True)
class Saved:
    """What a checkpoint holds: the model, the cost, the options of Training, and the rest."""

    model: Model
    cost: Cost
    options: dict[str, Any]
    description: dict[str, Any]
    tensors: dict[str, Array]
    path: str

    def restore(self, runner: Runner, data: Data, held_out: Data | None, single: bool) -> History | None:
        """Put a new training's runner where the old one stood; return the history of the run that was not finished.

        Raises InputError if the data are not the same.
        """
        for name, given in (("x, y, sample_weight", data), ("validation", held_out)):
            key = "data" if given is data else "validation"
            if _fingerprint(given) != self.description[key]:
                raise InputError(
                    f"cannot resume from {self.path!r}: the {name} given are not those of the checkpoint "
                    f"({_shape(self.description[key])}, got {_shape(_fingerprint(given))}); pass the same data"
                )
        plan, run = runner.plan, self.description["run"]
        if _folds(plan) != self.description.get("folds"):
            raise InputError(
                f"cannot resume from {self.path!r}: folds or held_out are not those of the checkpoint; pass the same"
            )
        runner.step, runner.now = self.description["step"], run
        runner.retired[:], runner.scale[:] = self.tensors["runner.retired"], self.tensors["runner.scale"]
        runner.restored = {name: self.tensors[f"state.{name}"] for name in STATES if f"state.{name}" in self.tensors}
        kind = self.description["optimizer"]
        runner.restored_kind = None if kind is None else (kind[0], kind[1])
        runner.kind = runner.restored_kind
        runner.snapshot = _under("snapshot.", self.tensors)
        for name in ("fate", "fate_epoch", "progress", "average"):
            if name in runner.restored:
                runner.session.write(name, runner.restored[name])
        score = _under("score.", self.tensors)
        if score:
            runner.scores = Scores(
                _not_scored, EarlyStopping(), score["best"], score["best_epoch"], score["parameters"]
            )
        if run is None:
            return None
        history = History(None if single else plan.members, held_out is not None)
        history.restore(_under("history.", self.tensors), self.description["fates"])
        return history


def write(
    path: str | os.PathLike[str],
    model: Model,
    plan: Plan,
    options: dict[str, Any],
    runner: Runner,
    data: Data,
    held_out: Data | None,
    history: History | None,
) -> None:
    """Write a checkpoint. Raises OSError; an older file is then untouched."""
    tensors = {f"state.{name}": runner.session.read(name) for name in STATES}
    waiting = runner.restored  # a run that would have put them back has not begun yet
    tensors |= {f"state.{name}": value for name, value in waiting.items() if name != "parameters"}
    tensors = {name: value for name, value in tensors.items() if len(value)}
    tensors["runner.retired"], tensors["runner.scale"] = runner.retired, runner.scale
    if not waiting or runner.restored_kind == runner.kind:  # else the next run takes new ones
        tensors |= {f"snapshot.{name}": value for name, value in runner.snapshot.items() if len(value)}
    if runner.scores is not None:
        scores = runner.scores
        tensors |= {
            "score.best": scores.best,
            "score.best_epoch": scores.best_epoch,
            "score.parameters": scores.parameters,
        }
    fates: dict[str, Any] = {}
    if history is not None and runner.now is not None:
        tensors |= {f"history.{name}": value for name, value in history.arrays.items()}
        fates = {name: getattr(history, name) for name in training_schema.FATES}
    description = {
        "format": FORMAT,
        "model": checkpoint.describe(model),
        "cost": {"name": plan.cost.name, "option": list(plan.cost.option)},
        "options": options,
        "step": runner.step,
        "run": runner.now,
        "optimizer": runner.restored_kind if waiting else runner.kind,
        "fates": fates,
        "data": _fingerprint(data),
        "validation": _fingerprint(held_out),
        "folds": _folds(plan),
    }
    checkpoint.write_tensors(path, "schuss_training", description, tensors)


def read(path: str | os.PathLike[str]) -> Saved:
    """Return what a checkpoint holds. Raises FileNotFoundError, or ModelFileError that says what is wrong with the file."""
    description, text, digest, tensors = checkpoint.read_tensors(
        path, "schuss_training", "checkpoint", "Training.checkpoint", training_schema.check, training_schema.layout
    )
    with checkpoint.refused(path, "checkpoint"):
        if digest != checkpoint.digest_of_all(text, tensors):
            raise MismatchError("the digest of its contents differs from the one it carries")
        training_schema.check_values(description, tensors)
        options = dict(description["options"])
        model = checkpoint.restored(description["model"], np.ascontiguousarray(tensors["state.parameters"]))
        for name in ("l2", "l1"):
            options[name] = options[name][0] if len(options[name]) == 1 else options[name]
        cost = costs.from_dict(description["cost"])
    return Saved(model, cost, options, description, tensors, str(Path(path)))


def _fingerprint(data: Data | None) -> list[Any] | None:
    """Return the shapes of data and a digest of some of their rows, by which they are known again."""
    if data is None:
        return None
    rows = np.unique(np.linspace(0, len(data.x) - 1, _ROWS).astype(np.int64))
    digest = hashlib.sha256()
    chosen = data.rows_of_x(rows), data.y[rows], None if data.weights is None else data.weights[rows]
    for array in chosen:
        if array is not None:
            digest.update(np.ascontiguousarray(array, np.float64).tobytes())
    weighted = data.weights is not None
    return [list(data.x.shape), list(data.y.shape), weighted, data.in_place, digest.hexdigest()]


def _folds(plan: Plan) -> str | None:
    """Return a digest of the folds and who leaves out which, or None."""
    if plan.folds is None or plan.left_out is None:
        return None
    return hashlib.sha256(plan.folds.tobytes() + plan.left_out.tobytes()).hexdigest()


def _shape(fingerprint: list[Any] | None) -> str:
    if fingerprint is None:
        return "none"
    return f"x {tuple(fingerprint[0])}, y {tuple(fingerprint[1])}{', weighted' * fingerprint[2]}"


def _under(prefix: str, tensors: dict[str, Array]) -> dict[str, Array]:
    return {name.removeprefix(prefix): value.copy() for name, value in tensors.items() if name.startswith(prefix)}


def _not_scored() -> Array:
    raise InputError("a resumed run needs the early stopping of the run that was cut off")
