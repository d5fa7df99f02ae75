"""``History``: what a run recorded, and its picture."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from schuss.errors import InputError
from schuss.figures import axes_for

if TYPE_CHECKING:
    from schuss.figures import Axes


class History:
    """The record of one ``run``.

    epoch: (records,) int64, 1-based, continuing over runs. cost: (records,) for a network, (records, members) for a
    population: the mean over the epoch's batches, each before its update, including the l2 term. validation_cost: of
    cost's shape, after the update, or None. diverged, stopped: {member: epoch} of those that left the finite numbers,
    and of those that early stopping ended (a network is member 0). converged: {member: epoch} of those that an
    optimizer can improve no further. restarted: {member: times} of those that went back after diverging. score: of
    cost's shape, the metric of early stopping, or None. interrupted: whether Ctrl-C ended the run.
    """

    def __init__(self, members: int | None, validated: bool) -> None:
        self._members = members
        width = 1 if members is None else members
        self._epochs: list[int] = []
        self._costs: list[NDArray[np.float64]] = []
        self._validation: list[NDArray[np.float64]] | None = [] if validated else None
        self._scores: list[NDArray[np.float64]] = []
        self._empty = np.empty((0, width))
        self.diverged: dict[int, int] = {}
        self.stopped: dict[int, int] = {}
        self.converged: dict[int, int] = {}
        self.restarted: dict[int, int] = {}
        self.interrupted = False

    def record(
        self,
        epoch: int,
        cost: NDArray[np.float64],
        validation: NDArray[np.float64] | None,
        score: NDArray[np.float64] | None = None,
    ) -> None:
        """Add one record: the costs (members,) of an epoch."""
        self._epochs.append(epoch)
        self._costs.append(cost)
        if self._validation is not None and validation is not None:
            self._validation.append(validation)
        if score is not None:
            self._scores.append(score)

    @property
    def score(self) -> NDArray[np.float64] | None:
        """The scores of early stopping's metric, of the shape of ``cost``, or None."""
        return self._shaped(self._scores) if self._scores else None

    @property
    def epoch(self) -> NDArray[np.int64]:
        """The epochs recorded, (records,)."""
        return np.array(self._epochs, np.int64)

    @property
    def cost(self) -> NDArray[np.float64]:
        """The training costs, (records,) or (records, members)."""
        return self._shaped(self._costs)

    @property
    def validation_cost(self) -> NDArray[np.float64] | None:
        """The validation costs, of the shape of ``cost``, or None."""
        return None if self._validation is None else self._shaped(self._validation)

    def _shaped(self, rows: list[NDArray[np.float64]]) -> NDArray[np.float64]:
        table = np.stack(rows) if rows else self._empty
        return table[:, 0] if self._members is None else table

    def best(self) -> int:
        """Return the member with the lowest final validation cost, else training cost; never one that diverged.

        Raises InputError if nothing was recorded or every member diverged.
        """
        rows = self._costs if self._validation is None else self._validation
        if not rows:
            raise InputError("nothing was recorded yet; run at least one epoch first")
        table = np.stack(rows)
        seen = np.isfinite(table)
        last = len(rows) - 1 - np.argmax(seen[::-1], axis=0)  # a member that stopped early has its last value earlier
        final = np.where(seen.any(axis=0), table[last, np.arange(table.shape[1])], np.inf)
        final[list(self.diverged)] = np.inf
        if not np.isfinite(final).any():
            raise InputError("every member diverged; try a smaller learning rate")
        return int(np.argmin(final))

    def to_dict(self) -> dict[str, Any]:
        """Return plain lists and numbers, ready for JSON."""
        validation = self.validation_cost
        return {
            "epoch": self._epochs.copy(),
            "cost": self.cost.tolist(),
            "validation_cost": None if validation is None else validation.tolist(),
            "diverged": dict(self.diverged),
            "score": None if self.score is None else self.score.tolist(),
            "stopped": dict(self.stopped),
            "converged": dict(self.converged),
            "restarted": dict(self.restarted),
            "interrupted": self.interrupted,
        }

    @property
    def arrays(self) -> dict[str, NDArray[Any]]:
        """The records as arrays, (records,) or (records, members), for a checkpoint."""
        found = {"epoch": self.epoch, "cost": np.array(self._costs)}
        found |= {"validation": np.array(self._validation)} if self._validation else {}
        return found | ({"score": np.array(self._scores)} if self._scores else {})

    def restore(self, arrays: dict[str, NDArray[Any]], fates: dict[str, dict[str, int]]) -> None:
        """Take in the records of ``arrays`` and the fates of ``to_dict`` (JSON makes its numbers text)."""
        for row, epoch in enumerate(arrays.get("epoch", ())):
            validation, score = arrays.get("validation"), arrays.get("score")
            rows = (None if given is None else given[row] for given in (validation, score))
            self.record(int(epoch), arrays["cost"][row], *rows)
        for name, members in fates.items():
            getattr(self, name).update({int(member): epoch for member, epoch in members.items()})

    def plot(self, target: str | os.PathLike[str] | Axes | None = None) -> Axes:
        """Draw cost over epochs, logarithmic; a population as its median with the range of the middle 80 % of members.

        target: a file to write (its ending names the format), axes to draw on, or None for new ones. Returns the axes.
        Raises SchussError where matplotlib is not installed.
        """
        axes, finish = axes_for(target, "history.plot()")
        self.draw(axes)
        finish()
        return axes

    def draw(self, axes: Axes) -> None:
        """Draw what ``plot`` draws on given axes."""
        marker = "o" if len(self._epochs) < 2 else "None"
        for rows, label, color in ((self._costs, "training", "C0"), (self._validation or [], "validation", "C1")):
            if not rows:
                continue
            low, middle, high = np.nanpercentile(np.stack(rows), (10, 50, 90), axis=1)
            axes.plot(self._epochs, middle, marker=marker, color=color, label=label)
            if self._members is not None:
                axes.fill_between(self._epochs, low, high, color=color, alpha=0.25, linewidth=0)
        positive = all((row[np.isfinite(row)] > 0).all() for row in (*self._costs, *(self._validation or [])))
        axes.set(xlabel="epoch", ylabel="cost", yscale="log" if positive else "linear")
        axes.grid(alpha=0.3)
        if self._costs:
            axes.legend()

    def __len__(self) -> int:
        return len(self._epochs)

    def __repr__(self) -> str:
        if not self._epochs:
            return "History(no epochs)"
        parts = [f"epochs {self._epochs[0]} to {self._epochs[-1]}"]
        for label, rows in (("cost", self._costs), ("validation", self._validation or [])):
            if rows:
                first, last = np.nanmedian(rows[0]), np.nanmedian(rows[-1])
                parts.append(f"{label} {first:.4g} -> {last:.4g}")
        parts += [f"{len(self.diverged)} diverged"] * bool(self.diverged)
        parts += [f"{len(self.stopped)} stopped early"] * bool(self.stopped)
        parts += [f"{len(self.converged)} converged"] * bool(self.converged)
        parts += [f"{len(self.restarted)} restarted"] * bool(self.restarted)
        parts += ["interrupted"] * self.interrupted
        return f"History({', '.join(parts)})"
