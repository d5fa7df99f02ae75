"""``Training``: binds a model to data, checks everything once, allocates once, and runs epochs in chunks."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from schuss import costs, engines, philox
from schuss.arrays import as_weights
from schuss.checks import EarlyStopping, Model, data_for, validation_for, whole_number
from schuss.console import progress_bar
from schuss.costs import Cost
from schuss.engines.base import DIVERGED, RUNNING, STOPPED, Data, Plan, Watch
from schuss.errors import DivergenceWarning, InputError, Problems, TrainingError
from schuss.guards import Guard, interrupts
from schuss.history import History
from schuss.layers import weight_count
from schuss.network import Network
from schuss.optimizers import SGD, Segment, schedule
from schuss.population import Population
from schuss.resources import available_threads, check_memory

Array = NDArray[Any]
Callback = Callable[["Training", History], "bool | Iterable[int] | None"]

_CHUNK_SECONDS = 0.1  # the longest that Ctrl-C, callbacks and the progress bar wait, unless one step takes longer
_BLOCK_OUTPUTS = 1 << 20  # that ``cost`` evaluates at a time, over all members


class Training:
    """Train a model on data: all buffers are made here, once, and freed by ``release`` or at the end of the block.

    model: a Network or a Population; its parameters are trained in place. x: (n, inputs). y: (n, outputs), or (n,) for one
    output. Arrays may be of any real dtype and order; they are packed, once for all members, into the model's dtype.
    ``cost()`` reads the given arrays again.

    cost: "quadratic", 1/2 ||y - a||^2 summed over outputs, averaged over samples. l2: adds l2 / (2 S) sum W^2 to the
    training cost, S being the sum of the weights of a batch (the ``alpha`` of scikit-learn; another thing than an
    optimizer's weight decay). engine: "auto", "cpu" or "reference". batch_size: samples of a step; None or n for
    full batches. shuffle: draw a new order of the samples for every epoch, by ``seed``; full batches need none; "member":
    an order for each member, by its own seed too. bootstrap: resample the data for each member, by ``seed`` and its own:
    each sample's weight is multiplied with a Poisson(1) number (the bootstrap of Hanley and MacGibbon, 2006).
    validation: (x, y) to evaluate after recorded epochs. sample_weight: (n,), none negative. threads: None means the
    smallest of affinity, cgroup quota and OMP_NUM_THREADS; the result has the same bits for any number.

    Raises InputError, naming every mismatch at once, before any work; EngineError for an engine that is absent.

    >>> import numpy as np
    >>> from schuss import SGD, Dense, Network, Training
    >>> x = np.linspace(0, 1, 50)[:, None]
    >>> network = Network(1, [Dense(8, "tanh"), Dense(1)], seed=3)
    >>> with Training(network, x, x**2) as training:
    ...     history = training.run(500, SGD(0.3, momentum=0.9))
    >>> bool(history.cost[-1] < history.cost[0] / 100)
    True
    """

    def __init__(
        self,
        model: Model,
        x: ArrayLike,
        y: ArrayLike,
        *,
        cost: str | Cost = "quadratic",
        l2: float = 0.0,
        engine: str = "auto",
        batch_size: int | None = None,
        shuffle: bool | Literal["member"] = True,
        bootstrap: bool = False,
        validation: tuple[ArrayLike, ArrayLike] | None = None,
        sample_weight: ArrayLike | None = None,
        threads: int | None = None,
        seed: int = 0,
    ) -> None:
        if not isinstance(model, Network | Population):
            raise InputError(f"cannot train: the model must be a Network or a Population; got {model!r}")
        problems = Problems("train")
        row = costs.resolve(cost)
        data, self._given = data_for(model, x, y, "", problems)
        if sample_weight is not None:
            weights = as_weights(sample_weight, "sample_weight", len(data.x), model.dtype, problems)
            data = Data(data.x, data.y, weights)
        held_out = validation_for(model, validation, problems)
        if not (isinstance(l2, int | float) and 0 <= l2 < np.inf):
            problems.add(f"l2 must be a finite number, at least 0; got {l2!r}")
        batch = len(data.x) if batch_size is None else whole_number(batch_size, "batch_size", problems)
        workers = available_threads() if threads is None else whole_number(threads, "threads", problems)
        number = whole_number(seed, "seed", problems, least=0, most=2**64 - 1)
        if not isinstance(shuffle, bool | np.bool_) and shuffle != "member":
            problems.add(f'shuffle must be True, False or "member"; got {shuffle!r}')
        problems.raise_if_any()

        self.model = model
        self.engine = engines.choose(engine)
        parameters = model.parameters.reshape(-1, model.parameters.shape[-1])
        members = len(parameters)
        check_memory(parameters.nbytes, f"the velocity of {members} members", members, "members")
        own_shuffle = philox.member_shuffle_seeds(model.seeds, number)
        self._plan = Plan(
            sizes=model.sizes,
            activations=model.activations,
            cost=row,
            l2=float(l2),
            samples=len(data.x),
            batch_size=min(batch, len(data.x)),
            shuffle=bool(shuffle),
            members=members,
            dtype=model.dtype,
            shuffle_seeds=own_shuffle if shuffle == "member" else np.full(members, number, np.uint64),
            bootstrap_keys=philox.bootstrap_keys(model.seeds, number) if bootstrap else None,
            threads=workers,
        )
        self._weights = data.weights
        self._validated = held_out is not None
        self._single = isinstance(model, Network)
        self._guard = Guard()
        self._retired = np.zeros(members, bool)
        self._step = 0
        self._steps_per_second = 0.0
        self._session = engines.open_session(self.engine, self._plan, parameters, data, held_out)

    @property
    def epochs(self) -> int:
        """How many epochs were completed so far."""
        return self._step // self._plan.steps_per_epoch

    def run(
        self,
        epochs: int | Sequence[Segment],
        optimizer: SGD | None = None,
        *,
        early_stopping: EarlyStopping | None = None,
        record_every: int = 1,
        progress: bool = False,
        callbacks: Sequence[Callback] = (),
    ) -> History:
        """Train for some epochs and return what was recorded.

        epochs: a number, with an optimizer; or a schedule, a list of (epochs, optimizer) pairs run one after the other.
        Velocity and shuffles continue over runs: ``run(2, o); run(3, o)`` gives the bits of ``run(5, o)``.
        early_stopping: needs validation data. record_every: epochs between two records; the last is always recorded.
        progress: show a bar. callbacks: each ``f(training, history)`` is called about ten times a second; it returns
        None, True to stop, or the members to retire.

        Ctrl-C ends the run after the current chunk; what was learned and recorded is kept, and ``history.interrupted``
        is set. A network that leaves the finite numbers keeps its last finite parameters and ends the run with a
        DivergenceWarning; later runs raise until ``revive``.

        Raises InputError for arguments that do not fit, TrainingError for a training that was released, is at work in
        another thread, or has diverged.
        """
        segments = schedule(epochs, optimizer)
        self._check_run(segments, early_stopping, record_every, callbacks)
        with self._guard.one_run():
            if self._retired.all():
                raise TrainingError("every member was retired; revive(members) takes them back in")
            if not ((self._session.read("fate") != DIVERGED) & ~self._retired).any():
                raise TrainingError(
                    "every member has diverged, and its last finite parameters are kept; to go on, call revive() and "
                    "use a smaller learning rate"
                )
            total = sum(count for count, _ in segments)
            history = History(None if self._single else self._plan.members, self._validated)
            self._session.begin(self._watch(total, early_stopping, record_every))
            self._leave_out()
            try:
                with interrupts() as interrupted, progress_bar(total, progress) as advance_bar:
                    self._run_segments(segments, history, record_every, callbacks, interrupted, advance_bar)
            finally:
                self._session.finish()
            self._warn_if_diverged(history)
            return history

    def cost(self, x: ArrayLike | None = None, y: ArrayLike | None = None) -> Any:
        """Return the cost of the current weights: a number, or (members,) for a population.

        Without arguments, on the training data as they are now, not resampled, with the l2 term; with x and y, on those,
        without it.
        Raises InputError if they do not fit the network.
        """
        with self._guard.exclusive():
            if (x is None) != (y is None):
                raise InputError("cost needs both x and y, or neither for the training data")
            own = x is None or y is None
            weights = self._weights if own else None
            problems = Problems("evaluate the cost")
            data, _ = data_for(self.model, *(self._given if x is None or y is None else (x, y)), "", problems)
            problems.raise_if_any()
            result = self._mean_cost(Data(data.x, data.y, weights))
            if own:
                W = self.model.parameters.reshape(self._plan.members, -1)[:, : weight_count(self._plan.sizes)]
                total = Data(data.x, data.y, weights).total_weight
                result += 0.5 * self._plan.l2 / total * np.square(W, dtype=np.float64).sum(axis=1)
            return float(result[0]) if self._single else result

    def value_and_gradient(self) -> tuple[Any, Array]:
        """Return the cost of the first batch and its gradient, of the shape and order of ``model.parameters``.

        With full batches, the default, that is the cost of all training data. Nothing is changed.
        """
        with self._guard.exclusive():
            value, gradient = self._session.value_and_gradient(0)
            return (float(value[0]), gradient[0]) if self._single else (value, gradient)

    def revive(self, members: Iterable[int] | None = None) -> None:
        """Let members that diverged go on from their last finite parameters, with fresh optimizer state.

        members: their numbers; None means all that diverged. The cost at the last finite parameters may itself be beyond
        the finite numbers; write smaller ones to ``model.parameters`` first if a run diverges again at once.
        """
        with self._guard.exclusive():
            fate, velocity = self._session.read("fate"), self._session.read("velocity")
            chosen = np.flatnonzero(fate == DIVERGED) if members is None else self._numbers(members)
            fate[chosen], velocity[chosen] = RUNNING, 0
            self._retired[chosen] = False
            self._session.write("fate", fate)
            self._session.write("velocity", velocity)

    def retire(self, members: Iterable[int]) -> None:
        """Leave members out of all later runs, at the parameters they have; ``revive(members)`` takes them back in.

        Raises InputError for members that there are not.
        """
        with self._guard.exclusive():
            self._retired[self._numbers(members)] = True

    @property
    def diverged(self) -> NDArray[np.bool_]:
        """Which members have left the finite numbers and were not revived, (members,)."""
        with self._guard.exclusive():
            found: NDArray[np.bool_] = self._session.read("fate") == DIVERGED
            return found

    def release(self) -> None:
        """Free all buffers. The model keeps its parameters; this Training cannot be used again."""
        if not self._guard.released:
            with self._guard.exclusive():
                self._guard.release()
                self._session.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def __repr__(self) -> str:
        plan = self._plan
        batch = "full batches" if plan.batch_size == plan.samples else f"batches of {plan.batch_size}"
        state = "released" if self._guard.released else f"{self.epochs} epochs done"
        return f"<Training of {plan.samples} samples in {batch} on {self.engine}, {state}>"

    # -- one run ------------------------------------------------------------------------------------------------------

    def _check_run(
        self,
        segments: list[Segment],
        early_stopping: EarlyStopping | None,
        record_every: int,
        callbacks: Sequence[Callback],
    ) -> None:
        problems = Problems("run")
        for _, optimizer in segments:
            optimizer.check_members(self._plan.members)
        whole_number(record_every, "record_every", problems)
        if early_stopping is not None and not isinstance(early_stopping, EarlyStopping):
            problems.add(f"early_stopping must be an EarlyStopping(...); got {early_stopping!r}")
        if early_stopping is not None and not self._validated:
            problems.add("early_stopping needs validation data; pass validation=(x, y) to Training")
        if not isinstance(callbacks, Sequence) or not all(callable(callback) for callback in callbacks):
            problems.add(f"callbacks must be a list of functions f(training, history); got {callbacks!r}")
        problems.raise_if_any()

    def _numbers(self, members: Iterable[int]) -> NDArray[np.int64]:
        """Return the numbers of members as an array; raise InputError if there are no such members."""
        chosen = np.array(list(members), np.int64)
        if chosen.size and not (chosen.min() >= 0 and chosen.max() < self._plan.members):
            raise InputError(f"members are numbered from 0 to {self._plan.members - 1}; got {chosen.tolist()}")
        return chosen

    def _leave_out(self) -> None:
        if self._retired.any():
            fate = self._session.read("fate")
            fate[self._retired & (fate == RUNNING)] = STOPPED
            self._session.write("fate", fate)

    def _watch(self, epochs: int, early_stopping: EarlyStopping | None, record_every: int) -> Watch:
        last_epoch = self.epochs + epochs
        if early_stopping is None:
            return Watch(record_every, last_epoch)
        stop = early_stopping
        return Watch(record_every, last_epoch, stop.patience, float(stop.min_delta), stop.restore_best)

    def _run_segments(
        self,
        segments: list[Segment],
        history: History,
        record_every: int,
        callbacks: Sequence[Callback],
        interrupted: Callable[[], bool],
        advance_bar: Callable[[int, History], None],
    ) -> None:
        watch = self._watch(sum(count for count, _ in segments), None, record_every)
        for count, optimizer in segments:
            end = (self.epochs + count) * self._plan.steps_per_epoch
            while self._step < end:
                before = self.epochs
                self._advance(min(self._chunk(), end - self._step), optimizer, history, watch)
                advance_bar(self.epochs - before, history)
                asked = [callback(self, history) for callback in callbacks]
                if self._retire(asked, history):
                    return
                if interrupted():
                    history.interrupted = True
                    return

    def _advance(self, steps: int, optimizer: SGD, history: History, watch: Watch) -> None:
        """Run one chunk and record its epochs."""
        started = time.perf_counter()
        cost, validation = self._session.advance(self._step, steps, optimizer)
        self._steps_per_second = steps / max(time.perf_counter() - started, 1e-9)
        first_epoch = self.epochs + 1
        self._step += steps
        fate, fate_epoch = self._session.read("fate"), self._session.read("fate_epoch")
        for fated, members in ((DIVERGED, history.diverged), (STOPPED, history.stopped)):
            new = (fate == fated) & (fate_epoch >= first_epoch)
            members.update((int(member), int(fate_epoch[member])) for member in np.flatnonzero(new))
        last_epoch = watch.last_epoch
        if not (fate == RUNNING).any():  # what follows was not run: the next run goes on from there
            self._step = min(self._step, int(fate_epoch.max()) * self._plan.steps_per_epoch)
            last_epoch = int((fate_epoch - (fate == DIVERGED)).max())
        for row, epoch in enumerate(range(first_epoch, first_epoch + len(cost))):
            if epoch == last_epoch or (epoch < last_epoch and watch.looks_at(epoch)):
                history.record(epoch, cost[row], None if validation is None else validation[row])

    def _chunk(self) -> int:
        """Return how many steps to run before Python looks again; where runs are cut never changes a bit."""
        if self._steps_per_second == 0.0:
            return 1
        return max(1, int(self._steps_per_second * _CHUNK_SECONDS))

    def _retire(self, asked: Sequence[bool | Iterable[int] | None], history: History) -> bool:
        """Do what the callbacks ask; return whether the run is over."""
        fate = self._session.read("fate")
        stop = False
        for answer in asked:
            if isinstance(answer, bool | np.bool_):
                stop = stop or bool(answer)
            elif answer is not None:
                members = [member for member in self._numbers(answer).tolist() if fate[member] == RUNNING]
                history.stopped.update(dict.fromkeys(members, self.epochs))
                fate[members] = STOPPED
                self._session.write("fate", fate)
        return stop or not (fate == RUNNING).any()

    def _warn_if_diverged(self, history: History) -> None:
        if not history.diverged:
            return
        if isinstance(self.model, Network):
            largest = ", ".join(f"{np.abs(layer.weights).max():.4g}" for layer in self.model.layers)
            what = f"training diverged in epoch {history.diverged[0]}; largest weight of each layer: {largest}"
        else:
            what = f"{len(history.diverged)} of {self._plan.members} members diverged (history.diverged)"
        advice = "the last finite parameters are kept; try a smaller learning rate or momentum, or scale x and y"
        warnings.warn(f"{what}; {advice}", DivergenceWarning, stacklevel=3)

    def _mean_cost(self, data: Data) -> Array:
        """Return the cost (members,) without l2, a block of rows at a time."""
        total = np.zeros(self._plan.members)
        with np.errstate(all="ignore"):
            block = max(1, _BLOCK_OUTPUTS // (self._plan.members * self._plan.sizes[-1]))
            for first in range(0, len(data.x), block):
                rows = slice(first, first + block)
                each = self._plan.cost.value(data.y[rows], self._session.predict(data.x[rows])).astype(np.float64)
                total += each.sum(axis=1) if data.weights is None else each @ data.weights[rows]
        return total / data.total_weight
