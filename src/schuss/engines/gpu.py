"""What CUDA and OpenCL share: a session on a device.

``cuts.py`` says how a plan is cut, ``program.py`` what is compiled for it and which buffers there are, ``launches.py`` which
kernels make up a step. ``GpuSession`` moves states and orders to and fro; a ``Queue`` (opencl.py, cuda.py) carries out
launches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from schuss.engines import cuts, program
from schuss.engines.base import BEST_COST, BLOCK, CONVERGED, RUNNING, STEPS, STOPPED, Data, Plan, Watch
from schuss.engines.cuts import Limits
from schuss.engines.launches import Call, Launches
from schuss.engines.reference import ReferenceSession
from schuss.errors import EngineError
from schuss.optimizers import LBFGS, SGD, Optimizer

Array = NDArray[Any]

_KINDS = ("gradient", "sgd", "nesterov", "adam", "rmsprop")  # kernels/step.cl
_STATES_OF_PLAN = ("next", "velocity", "square", "average", "best", "predictions")  # of the plan's dtype


class Queue(Protocol):
    """The memory and the program of one session on a device; everything runs in the order of the calls."""

    limits: Limits
    name: str

    def allocate(self, sizes: dict[str, int]) -> None:
        """Make zeroed buffers of so many bytes; kernels take them in this order. Raises EngineError if they do not fit."""

    def build(self, text: str, tile_bytes: int, meets: bool) -> None:
        """Compile a text; the kernels that have a tile need so many bytes of local memory for it. meets: whether groups of
        a launch will wait for each other.
        """

    def write(self, name: str, array: Array, offset: int = 0) -> None:
        """Copy an array into a buffer, from a byte on; the array may change as soon as this returns."""

    def packed(self, array: Any, dtype: np.dtype[Any]) -> Array:
        """Return an array of the device C-ordered and of a dtype, for ``write``; where there are such arrays."""

    def read(self, name: str, array: Array) -> None:
        """Copy the beginning of a buffer into a C-ordered array, after all that was asked for before."""

    def run(self, calls: tuple[Call, ...], times: int) -> None:
        """Ask for the calls, one after the other, so many times."""

    def release(self) -> None:
        """Free everything."""


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
        self._cut = cuts.choose(plan, 0 if validation is None else len(validation.x), limits, path)
        self._launches = Launches(plan, self._cut, 0 if validation is None else len(validation.x))
        sample = max(plan.sizes[0], plan.members * plan.sizes[-1])
        self._predict_rows = int(max(1, min(plan.samples, (1 << 22) // sample)))
        self._wide = np.dtype(np.float64 if limits.doubles else np.float32)
        kinds = {"real": plan.dtype, "wide": self._wide} | {kind: np.dtype(kind) for kind in ("i4", "i8", "u4", "u8")}
        buffers = program.buffers(plan, self._cut, validation, self._predict_rows)
        self._kinds = {name: kinds[kind] for name, (kind, _) in buffers.items()}
        sizes = {name: max(1, count) * kinds[kind].itemsize for name, (kind, count) in buffers.items()}
        self._class: tuple[type[Optimizer], int] | None = None
        self._watch = Watch(every=1, last_epoch=0)
        self._keeps_best = False
        self._host: _HostSearch | None = None
        self._orders = np.zeros(program.ORDER_WORDS, np.int64)
        try:
            self._check_memory(sizes)
            queue.allocate(sizes)
            text = program.kernel_text(
                plan, self._cut, limits, validation, data.weights is not None, self._predict_rows
            )
            tile_bytes = program.places(plan, self._cut)["size"] * plan.dtype.itemsize if self._cut.tile else 0
            queue.build(text, tile_bytes, meets=self._cut.path == "grid" and self._cut.slices > 1)
            self._fill()
        except BaseException:
            queue.release()
            raise

    def _check_memory(self, sizes: dict[str, int]) -> None:
        needed, room = sum(sizes.values()), self._queue.limits.memory
        largest = max(sizes, key=sizes.__getitem__)
        if needed > room:
            raise EngineError(
                f"this training needs {needed / 1e9:.3g} GB on {self._queue.name}, which has {room / 1e9:.3g} GB "
                f"(the largest part is {largest!r}, {sizes[largest] / 1e9:.3g} GB); use fewer members or samples"
            )
        most = self._queue.limits.buffer
        if sizes[largest] > most:
            raise EngineError(
                f"this training needs {sizes[largest] / 1e9:.3g} GB for {largest!r}, and a buffer of {self._queue.name} "
                f"holds at most {most / 1e9:.3g} GB; use fewer members or samples"
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
            for first in range(0, len(data.x) if there else 0, BLOCK):
                array = self._queue.packed(data.x[first : first + BLOCK], plan.dtype)
                self._queue.write(f"{prefix}x", array, first * array[:1].nbytes)
        members = plan.members
        self._write("penalties", np.stack([plan.l2, plan.l1], axis=1))
        self._write("shuffle_seeds", plan.shuffle_seeds)
        self._write("noise_seeds", plan.noise_seeds)
        if plan.bootstrap_keys is not None:
            self._write("bootstrap", plan.bootstrap_keys)
        if plan.folds is not None and plan.left_out is not None:
            self._write("folds", np.concatenate([plan.folds, np.sort(plan.folds)]))
            self._write("left_out", plan.left_out)
        self._write("progress", np.tile([0, 0, np.inf, 0, 0, 0], (members, 1)))
        if plan.average:
            self._write("average", self._parameters)

    def _write(self, name: str, array: Array, offset: int = 0) -> None:
        self._queue.write(name, np.ascontiguousarray(array, self._kinds[name]), offset)

    def _read(self, name: str, *shape: int) -> Array:
        array = np.empty(shape, self._kinds[name])
        self._queue.read(name, array)
        return array.astype(np.float64) if self._kinds[name] == self._wide and name not in _STATES_OF_PLAN else array

    def _run_steps(self, first_step: int, steps: int, clips: bool) -> None:
        """Ask for some steps, and for a look after each epoch that has one."""
        if self._launches.whole_runs:
            for launches in self._launches.runs():
                self._write("counters", np.zeros(self._cut.slots, np.uint32))
                self._queue.run(launches, 1)
            return
        launches, per_epoch, watch = self._launches.steps[clips], self._plan.steps_per_epoch, self._watch
        step, end = first_step, first_step + steps
        while step < end:
            epoch, count = step // per_epoch + 1, end - step
            validates = self._validation is not None
            if validates or watch.of_training:  # up to the next epoch that is looked at
                if not watch.of_training:
                    epoch = min(-(-epoch // watch.every) * watch.every, max(epoch, watch.last_epoch))
                count = min(count, epoch * per_epoch - step)
            self._queue.run(launches, count)
            step += count
            if validates and step == epoch * per_epoch and watch.looks_at(epoch):
                self._queue.run(self._launches.looks, 1)
            elif watch.of_training and step == epoch * per_epoch:
                self._queue.run(self._launches.glances, 1)

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
        self._keeps_best = self._keeps_best or (watch.patience is not None and not watch.of_training)
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
            most = (step // per_epoch + program.epochs_at_a_time(self._plan)) * per_epoch - step
            now = min(steps - done, program.MOST_STEPS, most)
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
        orders[[program.FIRST_STEP, program.STEPS, program.EVERY, program.LAST_EPOCH]] = (
            step,
            steps,
            watch.every,
            watch.last_epoch,
        )
        orders[program.KIND] = 0 if optimizer is None else _KINDS.index(optimizer.kind)
        orders[program.BIAS_MOMENTUM] = not isinstance(optimizer, SGD) or optimizer.bias_momentum
        orders[program.HAS_FACTORS], orders[program.CLIPS], orders[program.EVERYONE] = factors, clips, optimizer is None
        orders[program.PATIENCE] = -1 if watch.patience is None else watch.patience
        orders[program.OF_TRAINING] = watch.of_training
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
            self._queue.run(self._launches.evaluation(first, members), 1)

    def value_and_gradient(self, step: int) -> tuple[Array, Array]:
        """Return costs and gradients (see ``Session``)."""
        self._write("parameters", self._parameters)
        self._evaluated(step, list(self._launches.waves()))
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
        self._queue.run(tuple(self._launches.validations(member, 1)), 1)
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
            self._orders[program.PREDICTED] = len(rows)
            self._write("orders", self._orders)
            self._queue.run(self._launches.predictions(len(rows)), 1)
            outputs[:, first : first + most] = self._read("predictions", plan.members, most, plan.sizes[-1])[
                :, : len(rows)
            ]
        return outputs

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
        buffers = program.buffers(plan, cut, self._validation, self._predict_rows)
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
