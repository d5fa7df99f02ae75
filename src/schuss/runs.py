"""``Runner``: cuts the epochs of a run into chunks, records them, and does what early stopping, callbacks and divergence
ask for.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schuss.checks import EarlyStopping
from schuss.engines.base import CONVERGED, DIVERGED, RUNNING, STOPPED, Plan, Session, Watch
from schuss.errors import InputError, warn
from schuss.history import History
from schuss.optimizers import LBFGS, Optimizer, Segment, slowed

Array = NDArray[Any]
Answer = bool | Iterable[int] | None

_CHUNK_SECONDS = 0.1  # the longest that Ctrl-C, callbacks and the progress bar wait, unless one step takes longer
_SNAPSHOTS = 50  # of a run, to go back to after a divergence
_MOST_RESTARTS = 10
_SNAPSHOT_STATES = ("parameters", "velocity", "square", "average", "progress")


@dataclass
class Scores:
    """What early stopping by a metric knows: how to score a member, (members,) floats, and the best so far."""

    evaluate: Callable[[], Array]
    stopping: EarlyStopping
    best: Array
    best_epoch: Array
    parameters: Array
    warned: bool = False  # that a score was not finite

    def look(self, epoch: int, running: Array, parameters: Array) -> tuple[Array, Array]:
        """Return the scores (members,), NaN for who does not run, and who has not improved for too long."""
        scores = np.where(running, self.evaluate(), np.nan)
        if (running & ~np.isfinite(scores)).any() and not self.warned:
            self.warned = True
            first = int(np.argmax(running & ~np.isfinite(scores)))
            warn(
                f"the score of early stopping is {scores[first]} in epoch {epoch} (member {first}): such scores count as the "
                "worst; choose a metric that is finite on these data"
            )
        scores = np.where(running & ~np.isfinite(scores), -np.inf, scores)
        improved = running & (scores > self.best + np.where(np.isfinite(self.best), self.stopping.min_delta, 0))
        self.best[improved], self.best_epoch[improved] = scores[improved], epoch
        self.parameters[improved] = parameters[improved]
        return scores, running & (epoch - self.best_epoch >= self.stopping.patience)


class Runner:
    """The runs of one training: where it stands, and who of the members takes part."""

    def __init__(self, session: Session, plan: Plan, restarts: bool) -> None:
        self.session, self.plan, self._restarts = session, plan, restarts
        self.step = 0
        self.retired = np.zeros(plan.members, bool)
        self.scale = np.ones(plan.members)  # of the learning rates, halved by each restart
        self.now: dict[str, Any] | None = None  # the run that is not finished: its beginning and epochs
        self.scores: Scores | None = None
        self.snapshot: dict[str, Array] = {}
        self.restored: dict[str, Array] = {}  # states of a checkpoint, for the next run
        self.restored_kind: tuple[str, int] | None = None
        self.kind: tuple[str, int] | None = None
        self._steps_per_second = 0.0

    @property
    def epochs(self) -> int:
        """How many epochs were completed."""
        return self.step // self.plan.steps_per_epoch

    def run(
        self,
        segments: list[Segment],
        history: History,
        early_stopping: EarlyStopping | None,
        scores: Scores | None,
        record_every: int,
        resume: bool,
        look: Callable[[int], tuple[list[Answer], bool]],
    ) -> None:
        """Run the segments. look(epochs done since) is called between chunks: what callbacks ask, and whether to end."""
        total = sum(count for count, _ in segments)
        resumed = self.now if resume else None
        if resumed is not None and resumed["epochs"] != total:
            raise InputError(
                f"the run to resume was one of {resumed['epochs']} epochs, of which {self.epochs - resumed['begin']} are "
                f"done; got {total}; pass the same epochs and optimizer"
            )
        begin = self.epochs if resumed is None else int(resumed["begin"])
        self.now = {"begin": begin, "epochs": total}
        self.scores = scores
        stop = early_stopping if scores is None else None
        watch = Watch(
            record_every,
            begin + total,
            None if stop is None else stop.patience,
            0.0 if stop is None else float(stop.min_delta),
            stop is not None and stop.restore_best and not stop.of_training,
            stop is not None and stop.of_training,
            fresh=resumed is None,
        )
        self._begin(watch, segments, resumed is not None)
        try:
            self._run_segments(segments, begin, history, watch, look)
        finally:
            self.session.finish()
            if scores is not None and scores.stopping.restore_best:
                parameters, improved = self.session.read("parameters"), np.isfinite(scores.best)
                parameters[improved] = scores.parameters[improved]
                self.session.write("parameters", parameters)

    def _begin(self, watch: Watch, segments: list[Segment], resumed: bool) -> None:
        if not segments:
            return
        first = segments[0][1]
        kind = type(first).__name__, first.history if isinstance(first, LBFGS) else 0
        self.session.begin(watch, first)
        if self.restored and self.restored_kind == kind:
            for name, value in self.restored.items():
                if len(value) and (resumed or name not in ("fate", "fate_epoch", "best")):
                    self.session.write(name, value)
        if self.kind != kind or not resumed:
            self.snapshot = {}
        self.kind, self.restored = kind, {}
        if self.retired.any():
            fate = self.session.read("fate")
            fate[self.retired & (fate == RUNNING)] = STOPPED
            self.session.write("fate", fate)

    def _run_segments(
        self,
        segments: list[Segment],
        begin: int,
        history: History,
        watch: Watch,
        look: Callable[[int], tuple[list[Answer], bool]],
    ) -> None:
        per_epoch, first = self.plan.steps_per_epoch, begin * self.plan.steps_per_epoch
        for count, optimizer in segments:
            start, steps = first, count * per_epoch
            first += steps
            while self.step < start + steps:
                before, end = self.epochs, min(start + steps, self._cut(watch, begin))
                position = self.step - start, steps
                self._advance(min(self._chunk(), end - self.step), optimizer, position, history, watch)
                answers, over = look(self.epochs - before)
                if self._obey(answers, history):
                    self.now = None
                    return
                if over:
                    return
        self.now = None

    def _cut(self, watch: Watch, begin: int) -> int:
        """Return the step at which Python must look at the latest; this never depends on time."""
        periods = [watch.every] if self.scores is not None else []
        if self._restarts:
            periods.append(max(1, (watch.last_epoch - begin) // _SNAPSHOTS))
        if not periods:
            return watch.last_epoch * self.plan.steps_per_epoch
        cut = min((self.epochs // period + 1) * period for period in periods)
        return min(cut, watch.last_epoch) * self.plan.steps_per_epoch

    def _chunk(self) -> int:
        """Return how many steps to run before Python looks again; where runs are cut never changes a bit."""
        if self._steps_per_second == 0.0:
            return 1
        return max(1, int(self._steps_per_second * _CHUNK_SECONDS))

    def _advance(
        self, steps: int, optimizer: Optimizer, position: tuple[int, int], history: History, watch: Watch
    ) -> None:
        """Run one chunk and record its epochs."""
        if self._restarts and not self.snapshot:
            self._snap(None)
        started = time.perf_counter()
        cost, validation = self.session.advance(self.step, steps, slowed(optimizer, self.scale), position)
        self._steps_per_second = steps / max(time.perf_counter() - started, 1e-9)
        first_epoch = self.epochs + 1
        self.step += steps
        if self._restarts:
            self._restart(cost, validation, first_epoch, optimizer, position, steps, history)
        fate, fate_epoch = self.session.read("fate"), self.session.read("fate_epoch")
        for fated, members in (
            (DIVERGED, history.diverged),
            (STOPPED, history.stopped),
            (CONVERGED, history.converged),
        ):
            new = (fate == fated) & (fate_epoch >= first_epoch)
            members.update((int(member), int(fate_epoch[member])) for member in np.flatnonzero(new))
        last_epoch = watch.last_epoch
        if not (fate == RUNNING).any():  # what follows was not run: the next run goes on from there
            self.step = min(self.step, int(fate_epoch.max()) * self.plan.steps_per_epoch)
            last_epoch = int((fate_epoch - (fate == DIVERGED)).max())
        for row, epoch in enumerate(range(first_epoch, first_epoch + len(cost))):
            if epoch == last_epoch or (epoch < last_epoch and watch.looks_at(epoch)):
                score = self._score(epoch, history)
                history.record(epoch, cost[row], None if validation is None else validation[row], score)

    def _score(self, epoch: int, history: History) -> Array | None:
        """Return the scores (members,) of early stopping's metric, and stop who has not improved for too long."""
        if self.scores is None:
            return None
        fate, fate_epoch = self.session.read("fate"), self.session.read("fate_epoch")
        scores, over = self.scores.look(epoch, fate == RUNNING, self.session.read("parameters"))
        fate[over], fate_epoch[over] = STOPPED, epoch
        self.session.write("fate", fate)
        self.session.write("fate_epoch", fate_epoch)
        history.stopped.update(dict.fromkeys(np.flatnonzero(over).tolist(), epoch))
        return scores

    def _obey(self, answers: Sequence[Answer], history: History) -> bool:
        """Do what the callbacks ask; return whether the run is over."""
        fate = self.session.read("fate")
        stop = False
        for answer in answers:
            if isinstance(answer, bool | np.bool_):
                stop = stop or bool(answer)
            elif answer is not None:
                members = [member for member in self.numbers(answer).tolist() if fate[member] == RUNNING]
                history.stopped.update(dict.fromkeys(members, self.epochs))
                fate[members] = STOPPED
                self.session.write("fate", fate)
        return stop or not (fate == RUNNING).any()

    def numbers(self, members: Iterable[int]) -> NDArray[np.int64]:
        """Return the numbers of members as an array; raise InputError if there are no such members."""
        chosen = np.array(list(members), np.int64)
        if chosen.size and not (chosen.min() >= 0 and chosen.max() < self.plan.members):
            raise InputError(f"members are numbered from 0 to {self.plan.members - 1}; got {chosen.tolist()}")
        return chosen

    # -- going back after a divergence --------------------------------------------------------------------------------

    def _snap(self, cost: Array | None) -> None:
        """Keep the state of the members that do well: whose cost is no more than half above the lowest at a snapshot."""
        states = {name: self.session.read(name) for name in _SNAPSHOT_STATES}
        if not self.snapshot:
            members = self.plan.members
            self.snapshot = states | {"step": np.full(members, self.step), "cost": np.full(members, np.inf)}
            return
        if cost is None:
            return
        well = (self.session.read("fate") == RUNNING) & (cost <= 1.5 * self.snapshot["cost"])
        for name, value in states.items():
            if len(value):
                self.snapshot[name][well] = value[well]
        self.snapshot["step"][well] = self.step
        self.snapshot["cost"][well] = np.minimum(self.snapshot["cost"], cost)[well]

    def _restart(
        self,
        cost: Array,
        validation: Array | None,
        first_epoch: int,
        optimizer: Optimizer,
        position: tuple[int, int],
        steps: int,
        history: History,
    ) -> None:
        """Run members that diverged in this chunk again from their snapshots, at half the learning rate."""
        while not isinstance(optimizer, LBFGS):
            fate = self.session.read("fate")
            lost = (fate == DIVERGED) & (self.session.read("fate_epoch") >= first_epoch)
            lost &= self.scale > 0.5**_MOST_RESTARTS
            if not lost.any():
                break
            for member in np.flatnonzero(lost).tolist():
                self._run_again(member, cost, validation, first_epoch, optimizer, position, steps)
                history.restarted[member] = history.restarted.get(member, 0) + 1
        if self.step % self.plan.steps_per_epoch == 0 and len(cost):
            period = max(1, (self.now["epochs"] if self.now else 1) // _SNAPSHOTS)
            if self.epochs % period == 0:
                self._snap(cost[-1])

    def _run_again(
        self,
        member: int,
        cost: Array,
        validation: Array | None,
        first_epoch: int,
        optimizer: Optimizer,
        position: tuple[int, int],
        steps: int,
    ) -> None:
        self.scale[member] /= 2
        for name in _SNAPSHOT_STATES:
            state = self.session.read(name)
            if len(state):
                state[member] = self.snapshot[name][member]
                self.session.write(name, state)
        fate = self.session.read("fate")
        alone = np.full_like(fate, STOPPED)
        alone[member] = RUNNING
        self.session.write("fate", alone)
        begin, start = int(self.snapshot["step"][member]), self.step - steps - position[0]  # of the segment
        begin = max(begin, start)  # a snapshot of an earlier segment: this one is run from its first step
        again = self.session.advance(
            begin, self.step - begin, slowed(optimizer, self.scale), (begin - start, position[1])
        )
        skipped = first_epoch - 1 - begin // self.plan.steps_per_epoch
        for whole, new in ((cost, again[0]), (validation, again[1])):
            if whole is not None and new is not None:
                whole[:, member] = new[skipped:, member]
        fate[member] = self.session.read("fate")[member]
        self.session.write("fate", fate)
