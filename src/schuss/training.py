"""``Training``: binds a model to data, checks everything once, allocates once, and runs epochs in chunks."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from schuss import activations, costs, diagnostics, engines, philox, training_file, training_schema
from schuss.arrays import on_host
from schuss.checks import (
    EarlyStopping,
    Model,
    data_for,
    folds_for,
    in_fold_order,
    in_place,
    member_values,
    split_off,
    validation_for,
    weights_for,
    whole_number,
)
from schuss.console import progress_bar
from schuss.costs import Cost
from schuss.engines.base import DIVERGED, RUNNING, STEPS, Data, Plan
from schuss.errors import DivergenceWarning, InputError, Problems, TrainingError
from schuss.guards import Guard, interrupts
from schuss.history import History
from schuss.layers import weight_count
from schuss.metrics import accuracy_of_labels
from schuss.network import Network
from schuss.optimizers import LBFGS, Optimizer, Segment, schedule
from schuss.population import Population
from schuss.resources import available_cpus, available_threads, check_memory
from schuss.runs import Answer, Runner, Scores

Array = NDArray[Any]
Callback = Callable[["Training", History], Answer]

_MOST_THREADS = 4096
_BLOCK_OUTPUTS = 1 << 20  # that ``cost`` evaluates at a time, over all members


class Training:
    """Train a model on data: all buffers are made here, once, and freed by ``release`` or at the end of the block.

    model: a Network or a Population; its parameters are trained in place. x: (n, inputs). y: (n, outputs), or (n,) for one
    column; for "cross_entropy" labels 0..k-1 (n,) or a share for each class (n, k). Arrays may be of any real dtype and
    order; they are packed, once for all members and a block at a time, into the model's dtype; x of CuPy, PyTorch or anything
    with DLPack on a CUDA device is read there by engine="cuda". A memory-mapped x larger
    than half of the free memory is read where it is, and shuffled by blocks. ``cost()`` reads the given arrays again.

    cost: "quadratic", 1/2 ||y - a||^2 summed over outputs, averaged over samples; "absolute", "huber", "quantile", "poisson",
    "binary_cross_entropy", "cross_entropy", or one of ``schuss.costs`` with an option, such as Quantile((0.1, 0.9)).
    l2, l1: add l2 / (2 S) sum W^2 + l1 / S sum |W| to the training cost, S being the sum of the weights of a batch (l2 is the
    ``alpha`` of scikit-learn; another thing than an optimizer's weight decay); numbers, or one a member. engine: "auto",
    "cpu", "cuda", "cuda:1", "opencl", "opencl:1", "reference", or a description with options, such as
    ``schuss.engines.CUDA(1, path="step")``; ``explain()`` says what was made of it. batch_size: samples of a step; None
    or n for full batches. shuffle: draw a new order of the samples for every epoch, by ``seed``; full batches need none;
    "member": an order for each member, by its own seed too; "blocks": shuffle blocks of rows, and the rows of a few
    blocks together, of a memory-mapped x read in place. bootstrap: resample the data for each member, by ``seed`` and its
    own: each sample's weight is multiplied with a Poisson(1) number (the bootstrap of Hanley and MacGibbon, 2006).
    validation: (x, y) to evaluate after recorded epochs, or a share of the rows to hold out, drawn by ``seed``. folds,
    held_out: cross-validation in one population instead: folds (n,) whole numbers from 0, the fold of each sample;
    held_out (members,), the fold that each member is not trained on (its samples weigh 0) and is validated on.
    sample_weight: (n,), none negative. class_weight: "balanced", a dictionary of labels, or one number a class; it
    multiplies sample_weight. input_noise: the standard deviation of noise on x, new in each step. average: the decay of a
    moving average of the parameters (``averaged()``). on_divergence: "stop" keeps a member's last finite parameters;
    "restart" goes back to its last good state, with half the learning rate. threads: None means the smallest of affinity,
    cgroup quota and OMP_NUM_THREADS; there are never more than CPUs. The result has the same bits for any number.
    partial: these samples are a part of the data, and one class alone is no mistake.

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
        l2: ArrayLike = 0.0,
        l1: ArrayLike = 0.0,
        engine: str | engines.Engine = "auto",
        batch_size: int | None = None,
        shuffle: bool | Literal["member", "blocks"] = True,
        bootstrap: bool = False,
        validation: tuple[ArrayLike, ArrayLike] | float | None = None,
        folds: ArrayLike | None = None,
        held_out: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
        class_weight: Any = None,
        input_noise: float = 0.0,
        average: float = 0.0,
        on_divergence: Literal["stop", "restart"] = "stop",
        threads: int | None = None,
        seed: int = 0,
        partial: bool = False,
    ) -> None:
        if not isinstance(model, Network | Population):
            raise InputError(f"cannot train: the model must be a Network or a Population; got {model!r}")
        problems = Problems("train")
        if not model.parameters.flags.writeable:
            problems.add("the parameters of this model are read-only memory; train a copy: model.copy()")
        described, x, y, sample_weight, validation = engines.placed(
            engines.resolve(engine), x, y, sample_weight, validation, problems
        )
        row, parameters = costs.resolve(cost), model.parameters.reshape(-1, model.parameters.shape[-1])
        members = len(parameters)
        if wrong := costs.check_last_activation(row, model.activations[-1].name):
            problems.add(wrong)
        number = whole_number(seed, "seed", problems, least=0, most=2**64 - 1)
        if isinstance(validation, float):
            problems.raise_if_any()
            x, y, sample_weight, validation = split_off(x, y, sample_weight, validation, number)
        data = data_for(model, x, y, "", row, problems, one_class=not partial)
        weights = weights_for(sample_weight, class_weight, data, row, model, problems)
        data = in_place(Data(data.x, data.y, weights), x, model.dtype, shuffle == "blocks", problems)
        validated = validation_for(model, validation, row, problems)
        if validation is not None and folds is not None:
            problems.add("pass validation, or folds and held_out: with folds, each member is validated on its own")
        if data.in_place and folds is not None:
            problems.add(
                "folds need x in memory; of a memory-mapped x that is read in place, hold out rows by validation"
            )
        chosen_folds = folds_for(folds, held_out, data, members, problems)
        penalties = [member_values(value, name, members, problems) for name, value in (("l2", l2), ("l1", l1))]
        batch = len(data.x) if batch_size is None else whole_number(batch_size, "batch_size", problems)
        workers = (
            available_threads() if threads is None else whole_number(threads, "threads", problems, most=_MOST_THREADS)
        )
        workers = min(workers, available_cpus())  # more would wait for each other at every barrier
        if not isinstance(shuffle, bool | np.bool_) and shuffle not in ("member", "blocks"):
            problems.add(f'shuffle must be True, False, "member" or "blocks"; got {shuffle!r}')
        for name, value, most in (("input_noise", input_noise, np.inf), ("average", average, 1.0)):
            if isinstance(value, bool) or not (isinstance(value, int | float) and 0 <= value < most):
                problems.add(f"{name} must be a number in [0, {most:g}); got {value!r}")
        if on_divergence not in ("stop", "restart"):
            problems.add(f'on_divergence must be "stop" or "restart"; got {on_divergence!r}')
        problems.raise_if_any()

        self.model = model
        if chosen_folds is not None:
            validated = in_fold_order(data, chosen_folds[0])
        check_memory(parameters.nbytes, f"the velocity of {members} members", members, "members")
        own_shuffle = philox.member_shuffle_seeds(model.seeds, number)
        linked = (*model.activations[:-1], activations.resolve("linear")) if row.row.link else model.activations
        dropout = tuple(dense.dropout for dense in model.dense)
        self._plan = Plan(
            sizes=model.sizes,
            activations=linked,
            cost=row,
            samples=len(data.x),
            batch_size=min(batch, len(data.x)),
            members=members,
            dtype=model.dtype,
            shuffle_seeds=own_shuffle if shuffle == "member" else np.full(members, number, np.uint64),
            noise_seeds=philox.noise_seeds(model.seeds, number),
            l2=penalties[0],
            l1=penalties[1],
            columns=data.y.shape[1],
            order="given" if not shuffle else "blocks" if data.in_place else "shuffled",
            bootstrap_keys=philox.bootstrap_keys(model.seeds, number) if bootstrap else None,
            folds=None if chosen_folds is None else chosen_folds[0],
            left_out=None if chosen_folds is None else chosen_folds[1],
            dropout=dropout if any(dropout) else (),
            input_noise=float(input_noise),
            average=float(average),
            threads=workers,
        )
        self._options = {
            "l2": penalties[0].tolist(),
            "l1": penalties[1].tolist(),
            "batch_size": self._plan.batch_size,
            "shuffle": shuffle if isinstance(shuffle, str) else bool(shuffle),
            "bootstrap": bool(bootstrap),
            "input_noise": float(input_noise),
            "average": float(average),
            "on_divergence": on_divergence,
            "seed": number,
        }
        self._data, self._held_out = data, validated
        self._single = isinstance(model, Network)
        self._guard = Guard()
        chosen, self._session = engines.open_session(described, self._plan, parameters, data, validated)
        self.engine = str(chosen)
        self._runner = Runner(self._session, self._plan, on_divergence == "restart")
        self._history: History | None = None  # of the run that is not finished

    @classmethod
    def resume(
        cls,
        path: str | os.PathLike[str],
        x: ArrayLike,
        y: ArrayLike,
        *,
        validation: tuple[ArrayLike, ArrayLike] | float | None = None,
        folds: ArrayLike | None = None,
        held_out: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
        class_weight: Any = None,
        engine: str | engines.Engine = "auto",
        threads: int | None = None,
    ) -> Self:
        """Return a training as it was when ``checkpoint`` wrote a file; the data must be the same.

        ``training.run(epochs, optimizer, resume=True)`` with the arguments of the run that was cut off goes on with it,
        and gives the bits of a run that was never cut off. ``training.model`` is the model. Raises FileNotFoundError;
        ModelFileError for a file that is damaged or no checkpoint; InputError for data that are not those of the
        checkpoint.
        """
        saved = training_file.read(path)
        training = cls(
            saved.model,
            x,
            y,
            cost=saved.cost,
            validation=validation,
            folds=folds,
            held_out=held_out,
            sample_weight=sample_weight,
            class_weight=class_weight,
            engine=engine,
            threads=threads,
            **saved.options,
        )
        try:
            training._history = saved.restore(training._runner, training._data, training._held_out, training._single)
        except BaseException:
            training.release()
            raise
        return training

    @property
    def epochs(self) -> int:
        """How many epochs were completed so far."""
        return self._runner.epochs

    def run(
        self,
        epochs: int | Sequence[Segment],
        optimizer: Optimizer | None = None,
        *,
        early_stopping: EarlyStopping | None = None,
        record_every: int = 1,
        progress: bool = False,
        callbacks: Sequence[Callback] = (),
        resume: bool = False,
    ) -> History:
        """Train for some epochs and return what was recorded.

        epochs: a number, with an optimizer; or a schedule, a list of (epochs, optimizer) pairs run one after the other.
        The optimizer's state and shuffles continue over runs: ``run(2, o); run(3, o)`` gives the bits of ``run(5, o)``,
        unless numbers of the optimizer are schedules, which go through their course in each run. early_stopping: needs
        validation data. record_every: epochs between two records; the last is always recorded. progress: show a bar.
        callbacks: each ``f(training, history)`` is called about ten times a second; it returns None, True to stop, or
        the members to retire (``schuss.callbacks`` has some ready). resume: go on with the run that a checkpoint was
        written in, given the same epochs and optimizer; the history returned begins where that run began. Where there
        is no such run, a new one begins.

        Ctrl-C ends the run after the current chunk; what was learned and recorded is kept, and ``history.interrupted``
        is set. A network that leaves the finite numbers keeps its last finite parameters and ends the run with a
        DivergenceWarning; later runs raise until ``revive``.

        Raises InputError for arguments that do not fit, TrainingError for a training that was released, is at work in
        another thread, or has diverged.
        """
        segments = schedule(epochs, optimizer)
        self._check_run(segments, early_stopping, record_every, callbacks)
        with self._guard.one_run():
            runner = self._runner
            if runner.retired.all():
                raise TrainingError("every member was retired; revive(members) takes them back in")
            if not ((self._session.read("fate") != DIVERGED) & ~runner.retired).any():
                raise TrainingError(
                    "every member has diverged, and its last finite parameters are kept; to go on, call revive() and "
                    "use a smaller learning rate"
                )
            total = sum(count for count, _ in segments)
            again = resume and runner.now is not None and self._history is not None
            if not again or self._history is None:
                self._history = History(None if self._single else self._plan.members, self._held_out is not None)
            history = self._history
            history.interrupted = False
            scores = self._scores(early_stopping, again)
            with interrupts() as interrupted, progress_bar(total, progress) as advance_bar:

                def look(done: int) -> tuple[list[Answer], bool]:
                    advance_bar(done, history)
                    answers = [callback(self, history) for callback in callbacks]
                    history.interrupted = interrupted()
                    return answers, history.interrupted

                runner.run(segments, history, early_stopping, scores, record_every, again, look)
            self._warn_if_diverged(history)
            return history

    def checkpoint(self, path: str | os.PathLike[str]) -> None:
        """Write all that ``Training.resume`` needs to go on as if nothing had happened, but the data.

        The file holds parameters, the optimizer's state, the position in the run, random keys and the history;
        callbacks may call this during a run (``schuss.callbacks.Checkpoint`` does). It is written beside its place,
        synced and renamed: a process killed on the way, or a full disk, leaves the older file whole. Raises OSError.
        """
        with self._guard.exclusive():
            training_file.write(
                path, self.model, self._plan, self._options, self._runner, self._data, self._held_out, self._history
            )

    def averaged(self) -> Model:
        """Return a copy of the model with the moving average of its parameters.

        The average of a member begins as its first parameters; after its t-th step it becomes d average + (1 - d)
        parameters, d being the smaller of ``average`` and (1 + t) / (10 + t). Raises InputError without ``average=``.
        """
        with self._guard.exclusive():
            if not self._plan.average:
                raise InputError("there is no average of the parameters; pass average=0.999, say, to Training")
            copy = self.model.copy()
            copy.parameters[:] = self._session.read("average").reshape(copy.parameters.shape)
            return copy

    def diagnose(self) -> list[diagnostics.LayerState]:
        """Return for each layer the norms of its weights and of its gradient, and the shares of its units that are dead
        or saturated.

        Of the samples of the first batch, at most 1000 for the units; for a population each number is an array (members,).
        """
        with self._guard.exclusive():
            _, gradient = self._session.value_and_gradient(0)
            return diagnostics.diagnose(self.model, self._first_rows(), gradient)

    def cost(self, x: ArrayLike | None = None, y: ArrayLike | None = None) -> Any:
        """Return the cost of the current weights: a number, or (members,) for a population.

        Without arguments, on the training data as they are now, not resampled, without the fold that is held out, with
        the l2 term; with x and y, on those, without it.
        Raises InputError if they do not fit the network.
        """
        with self._guard.exclusive():
            if (x is None) != (y is None):
                raise InputError("cost needs both x and y, or neither for the training data")
            own = x is None or y is None
            data = self._data
            if x is not None and y is not None:
                problems = Problems("evaluate the cost")
                data = data_for(self.model, x, y, "its ", self._plan.cost, problems, one_class=False)
                problems.raise_if_any()
            result, weight = self._mean_cost(data, self._plan.folds if own else None)
            if own:
                W = self.model.parameters.reshape(self._plan.members, -1)[:, : weight_count(self._plan.sizes)]
                penalty = 0.5 * self._plan.l2 * np.square(W, dtype=np.float64).sum(axis=1)
                penalty += self._plan.l1 * np.abs(W).sum(axis=1, dtype=np.float64)
                result += penalty / weight
            return float(result[0]) if self._single else result

    def value_and_gradient(self) -> tuple[Any, Array]:
        """Return the cost of the first batch and its gradient, of the shape and order of ``model.parameters``.

        With full batches, the default, that is the cost of all training data. Nothing is changed.
        """
        with self._guard.exclusive():
            value, gradient = self._session.value_and_gradient(0)
            return (float(value[0]), gradient[0]) if self._single else (value, gradient)

    def explain(self) -> str:
        """Return in a few lines which engine works here, how it cuts a step, and what memory it has taken.

        >>> import numpy as np
        >>> from schuss import Dense, Network, Training
        >>> with Training(Network(1, [Dense(1)]), np.ones((3, 1)), np.ones(3), engine="reference") as training:
        ...     print(training.explain())
        reference: NumPy, one member after the other, a matrix product for each layer
        """
        with self._guard.exclusive():
            return f"{self.engine}: {self._session.explain()}"

    def revive(self, members: Iterable[int] | None = None) -> None:
        """Let members that diverged go on from their last finite parameters, with fresh optimizer state.

        members: their numbers; None means all that diverged. The cost at the last finite parameters may itself be beyond
        the finite numbers; write smaller ones to ``model.parameters`` first if a run diverges again at once.
        """
        with self._guard.exclusive():
            fate = self._session.read("fate")
            chosen = np.flatnonzero(fate == DIVERGED) if members is None else self._runner.numbers(members)
            fate[chosen] = RUNNING
            self._runner.retired[chosen] = False
            self._session.write("fate", fate)
            for name in ("velocity", "square", "kept_pairs", "progress"):
                state = self._session.read(name)
                if name == "progress":
                    state[chosen, STEPS] = 0
                elif len(state):
                    state[chosen] = 0
                self._session.write(name, state)

    def optimizer_state(self) -> dict[str, Array]:
        """Return copies of what the optimizer of the last run keeps: its moments or pairs, and how many steps it took.

        For another Training of the same model: ``load_optimizer_state``. Empty before the first run.
        """
        with self._guard.exclusive():
            if self._runner.kind is None:
                return {}
            state = {name: self._session.read(name) for name in ("velocity", "square", "pairs", "kept_pairs")}
            state["steps"] = self._session.read("progress")[:, STEPS]
            name, history = self._runner.kind
            return state | {"optimizer": np.array(name), "history": np.array(history)}

    def load_optimizer_state(self, state: dict[str, Array]) -> None:
        """Let the next run go on with a state of ``optimizer_state``, if it is of an optimizer of the same class.

        Raises InputError, naming all that does not fit, if it is of other parameters, or holds numbers that no training
        has.
        """
        with self._guard.exclusive():
            found = training_schema.checked_state(state, self._plan.members, self._plan.parameters, self._plan.dtype)
            progress = self._session.read("progress")
            progress[:, STEPS] = found.pop("steps")
            self._runner.restored = found | {"progress": progress}
            self._runner.restored_kind = str(state["optimizer"]), int(state["history"])

    def retire(self, members: Iterable[int]) -> None:
        """Leave members out of all later runs, at the parameters they have; ``revive(members)`` takes them back in.

        Raises InputError for members that there are not.
        """
        with self._guard.exclusive():
            self._runner.retired[self._runner.numbers(members)] = True

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
            optimizer.check_dtype(self._plan.dtype)
        whole_number(record_every, "record_every", problems)
        if early_stopping is not None and not isinstance(early_stopping, EarlyStopping):
            problems.add(f"early_stopping must be an EarlyStopping(...); got {early_stopping!r}")
        watches_validation = isinstance(early_stopping, EarlyStopping) and not early_stopping.of_training
        if watches_validation and self._held_out is None:
            problems.add("early_stopping needs validation data; pass validation=(x, y) to Training")
        if (
            watches_validation
            and early_stopping
            and early_stopping.metric == "accuracy"
            and not self._plan.cost.classifies
        ):
            problems.add(
                f"accuracy is of classes, and cost={self._plan.cost!r} is of numbers; use metric='r2', or 'cost'"
            )
        if not isinstance(callbacks, Sequence) or not all(callable(callback) for callback in callbacks):
            problems.add(f"callbacks must be a list of functions f(training, history); got {callbacks!r}")
        if any(isinstance(optimizer, LBFGS) for _, optimizer in segments):
            if self._plan.batch_size < self._plan.samples:
                problems.add(
                    f"LBFGS needs full batches; got batch_size={self._plan.batch_size}; pass batch_size=None to Training"
                )
            if self._plan.random:
                problems.add("LBFGS needs the same cost at every evaluation: no dropout, no input_noise")
        problems.raise_if_any()

    def _scores(self, early_stopping: EarlyStopping | None, again: bool) -> Scores | None:
        """Return how early stopping by a metric scores the members, or None if it looks at the cost."""
        metric = None if early_stopping is None else early_stopping.score
        held_out, model = self._held_out, self.model
        if early_stopping is None or metric is None or held_out is None:
            return None
        plan, rows = self._plan, np.ascontiguousarray(on_host(held_out.x), model.dtype)
        shown, link = model.activations, plan.cost.row.link
        if early_stopping.metric == "accuracy":  # of probabilities, also where the network gives logits
            shown = (*shown[:-1], activations.resolve(link)) if link else shown
            metric = accuracy_of_labels if plan.cost.row.targets == "shares" else metric

        def evaluate() -> Array:
            parameters = model.parameters.reshape(-1, model.parameters.shape[-1])
            scores = np.empty(len(parameters))
            folds = np.zeros(len(parameters), np.int32) if plan.left_out is None else plan.left_out
            for fold in np.unique(folds):
                members = np.flatnonzero(folds == fold)
                own = plan.held_out_rows(int(members[0]))
                outputs = engines.predict(parameters[members], model.sizes, shown, rows[own])
                scores[members] = [float(metric(held_out.y[own], one)) for one in outputs]
            return scores

        members, parameters = plan.members, self._session.read("parameters")
        old = self._runner.scores if again else None
        if old is not None:
            return Scores(evaluate, early_stopping, old.best, old.best_epoch, old.parameters)
        return Scores(evaluate, early_stopping, np.full(members, -np.inf), np.zeros(members), parameters)

    def _first_rows(self) -> Array:
        return self._data.rows_of_x(slice(diagnostics.SAMPLES))

    def _warn_if_diverged(self, history: History) -> None:
        if not history.diverged:
            return
        if isinstance(self.model, Network):
            what = f"training diverged in epoch {history.diverged[0]}; {diagnostics.summary(self.model, self._first_rows())}"
        else:
            what = f"{len(history.diverged)} of {self._plan.members} members diverged (history.diverged)"
        advice = "the last finite parameters are kept; try a smaller learning rate or momentum, or scale x and y"
        warnings.warn(f"{what}; {advice}", DivergenceWarning, stacklevel=3)

    def _mean_cost(self, data: Data, folds: Array | None) -> tuple[Array, Array]:
        """Return the cost (members,) without the penalties, a block of rows at a time, and the weight of its samples.

        folds: of the samples, where each member leaves one out.
        """
        plan, total, weight = self._plan, np.zeros(self._plan.members), np.zeros(self._plan.members)
        with np.errstate(all="ignore"):
            block = max(1, _BLOCK_OUTPUTS // (plan.members * plan.sizes[-1]))
            for first, x, y, w in data.blocks(plan.dtype, block):
                each = plan.cost.value(y, self._session.predict(x)).astype(np.float64)
                own = np.ones(len(x)) if w is None else w.astype(np.float64)
                if folds is not None and plan.left_out is not None:
                    own = own * (folds[first : first + len(x)] != plan.left_out[:, None])
                total += (each * own).sum(axis=1)
                weight += own.sum(axis=-1)
        return total / weight, weight
