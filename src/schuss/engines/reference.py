"""The reference engine: NumPy in any dtype. What the words mean; the oracle of every test, and the fallback."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from schuss import philox
from schuss.activations import Activation
from schuss.engines.base import (
    AVERAGED,
    BEST_COST,
    BEST_EPOCH,
    CONVERGED,
    DIVERGED,
    EPOCH_COST,
    EPOCH_WEIGHT,
    RUNNING,
    STEPS,
    STOPPED,
    Data,
    Plan,
    Watch,
)
from schuss.engines.lbfgs import direction, line_search
from schuss.layers import views, weight_count
from schuss.optimizers import LBFGS, SGD, Adam, Optimizer

Array = NDArray[Any]


def forward(
    parameters: Array,
    sizes: tuple[int, ...],
    activations: tuple[Activation, ...],
    x: Array,
    masks: list[Array] | None = None,
) -> tuple[list[Array], list[Array]]:
    """Return the inputs z and outputs a of all layers; ``a[0]`` is x, ``z[l]`` belongs to ``a[l + 1]``.

    masks: what dropout multiplies the outputs of each layer with, on their way to the next.
    """
    outputs, inputs, given = [x], [], x
    for level, ((W, b), f) in enumerate(zip(views(parameters, sizes), activations, strict=True)):
        inputs.append(given @ W.T + b)
        outputs.append(f.value(inputs[-1]))
        given = outputs[-1] if masks is None else outputs[-1] * masks[level]
    return inputs, outputs


def predict(parameters: Array, sizes: tuple[int, ...], activations: tuple[Activation, ...], x: Array) -> Array:
    """Return the outputs (members, n, dL) for parameters (members, p) and x (n, d0)."""
    with np.errstate(all="ignore"):
        return np.stack([forward(member, sizes, activations, x)[1][-1] for member in parameters])


def cost_and_gradient(
    plan: Plan, member: int, parameters: Array, x: Array, y: Array, w: Array, masks: list[Array] | None = None
) -> tuple[float, Array]:
    """Return the cost C of one member on a batch, and the gradients G and g as one flat vector (DESIGN section 2)."""
    S = w.sum(dtype=np.float64)
    z, a = forward(parameters, plan.sizes, plan.activations, x, masks)
    layers = views(parameters, plan.sizes)
    gradient = np.empty_like(parameters)
    l2, l1 = parameters.dtype.type(plan.l2[member]), parameters.dtype.type(plan.l1[member])
    delta = plan.cost.derivative(y, a[-1]) * w[:, None]
    for level, (G, g) in reversed(list(enumerate(views(gradient, plan.sizes)))):
        W, f = layers[level][0], plan.activations[level]
        given = a[level] if masks is None or level == 0 else a[level] * masks[level - 1]
        delta = delta * f.derivative(a[level + 1] if f.reads == "a" else z[level])
        G[:] = (delta.T @ given + l2 * W + l1 * np.sign(W)) / S
        g[:] = delta.sum(axis=0) / S
        if level > 0:
            delta = delta @ W if masks is None else (delta @ W) * masks[level - 1]
    weights = parameters[: weight_count(plan.sizes)]
    penalty = 0.5 * plan.l2[member] * (weights @ weights) + plan.l1[member] * np.abs(weights).sum()
    return float((w @ plan.cost.value(y, a[-1]) + penalty) / S), gradient


def update(
    parameters: Array,
    velocity: Array,
    square: Array,
    gradient: Array,
    rates: Array,
    weights: int,
    step: int,
    optimizer: Optimizer,
) -> tuple[Array, Array, Array]:
    """Return the parameters after a step, the ``step``-th from 1, and the new state; only the first ``weights`` entries
    decay.
    """
    eta, decay, mu, rho, epsilon, clip = (float(rate) for rate in rates)
    as_type = parameters.dtype.type
    if clip > 0:
        largest = float(np.abs(gradient).max()) or 1.0  # scaled by it, no square leaves the range of float64
        norm = largest * float(np.sqrt(np.square(gradient / np.float64(largest)).sum()))
        gradient = gradient * as_type(clip / norm) if norm > clip else gradient
    if isinstance(optimizer, SGD):
        change = as_type(eta) * gradient
        new_velocity = as_type(mu) * velocity - change
        move = as_type(mu) * new_velocity - change if optimizer.nesterov else new_velocity.copy()
        if not optimizer.bias_momentum:
            move[weights:] = -change[weights:]
            new_velocity[weights:] = velocity[weights:]
    elif isinstance(optimizer, Adam):
        new_velocity = as_type(mu) * velocity + (1 - as_type(mu)) * gradient
        square = as_type(rho) * square + (1 - as_type(rho)) * gradient * gradient
        spread = np.sqrt(square) * as_type(1 / np.sqrt(1 - rho**step)) + as_type(epsilon)
        move = -as_type(eta / (1 - mu**step)) * new_velocity / spread
    else:
        square = as_type(rho) * square + (1 - as_type(rho)) * gradient * gradient
        new_velocity = as_type(mu) * velocity - as_type(eta) * gradient / (np.sqrt(square) + as_type(epsilon))
        move = new_velocity
    kept = parameters.copy()
    kept[:weights] *= as_type(1 - eta * decay)
    return kept + move, new_velocity, square


def _packed(data: Data, dtype: np.dtype[Any]) -> Data:
    """Return data of a dtype that the caller cannot change under a training, unless they are to stay in place."""
    if data.in_place:
        return data
    w = None if data.weights is None else np.array(data.weights, dtype)
    return Data(np.array(data.x, dtype, order="C"), np.array(data.y, dtype, order="C"), w)


class ReferenceSession:
    """One training on NumPy arrays; ``parameters`` (members, p) is the model's own memory, changed in place."""

    def __init__(self, plan: Plan, parameters: Array, data: Data, validation: Data | None) -> None:
        self._plan, self._data = plan, _packed(data, plan.dtype)
        self._validation = None if validation is None else _packed(validation, plan.dtype)
        self._watch = Watch(every=1, last_epoch=0)
        self._class: tuple[type[Optimizer], int] | None = None
        nothing, members = np.empty((0, parameters.shape[1]), plan.dtype), plan.members
        self._state: dict[str, Array] = {
            "parameters": parameters,
            "velocity": nothing,
            "square": nothing,
            "average": parameters.copy() if plan.average else nothing,
            "best": nothing,
            "fate": np.full(members, RUNNING, np.int32),
            "fate_epoch": np.zeros(members, np.int64),
            "progress": np.tile([0, 0, np.inf, 0, 0, 0], (members, 1)),
            "pairs": nothing,
            "kept_pairs": np.zeros(members, np.int64),
        }

    def begin(self, watch: Watch, optimizer: Optimizer) -> None:
        """Start a run (see ``Session``)."""
        self._watch, state = watch, self._state
        history = optimizer.history if isinstance(optimizer, LBFGS) else 0
        if self._class != (type(optimizer), history):
            self._class = type(optimizer), history
            like = state["parameters"]
            nothing = like[:0].copy()
            state["velocity"] = nothing if history else np.zeros_like(like)
            state["square"] = nothing if history or isinstance(optimizer, SGD) else np.zeros_like(like)
            state["pairs"] = np.zeros((len(like), history, 2, like.shape[1]), like.dtype) if history else nothing
            state["kept_pairs"][:] = 0
            state["progress"][:, STEPS] = 0
        if watch.patience is not None and not watch.of_training and not len(state["best"]):
            state["best"] = np.zeros_like(state["parameters"])
        if watch.fresh:
            state["progress"][:, BEST_COST] = np.inf
        fate = state["fate"]
        fate[(fate == STOPPED) | (fate == CONVERGED)] = RUNNING

    def advance(
        self, first_step: int, steps: int, optimizer: Optimizer, progress: tuple[int, int]
    ) -> tuple[Array, Array | None]:
        """Run some steps (see ``Session``)."""
        plan, fate, sums = self._plan, self._state["fate"], self._state["progress"]
        rates = optimizer.table(plan.members)
        factors = optimizer.factors(progress[0], steps, progress[1])
        costs, validation_costs = [], []
        for step in range(first_step, first_step + steps):
            epoch, batch = divmod(step, plan.steps_per_epoch)
            now = rates if factors is None else rates * factors[step - first_step]
            for member in np.flatnonzero(fate == RUNNING).tolist():
                if batch == 0:
                    sums[member, [EPOCH_COST, EPOCH_WEIGHT]] = 0
                if isinstance(optimizer, LBFGS):
                    self._iterate(member, step, now[member])
                else:
                    self._step(member, step, now[member], optimizer)
            if batch == plan.steps_per_epoch - 1:
                ran = (fate == RUNNING) | ((fate == CONVERGED) & (self._state["fate_epoch"] == epoch + 1))
                with np.errstate(invalid="ignore"):  # 0 / 0: a member whose samples all weigh nothing
                    costs.append(np.where(ran, sums[:, EPOCH_COST] / sums[:, EPOCH_WEIGHT], np.nan))
                validation_costs.append(self._look(epoch + 1, ran, costs[-1]))
        shape = (len(costs), plan.members)
        recorded = np.reshape(np.array(costs), shape)
        return recorded, None if self._validation is None else np.reshape(np.array(validation_costs), shape)

    def _batch(self, member: int, step: int) -> tuple[Array, Array, Array, list[Array] | None]:
        """Return the x, y and weights of a step, with its noise, and the masks of its dropout."""
        plan, data = self._plan, self._data
        rows = plan.rows(step, member)
        given = np.ones(len(rows), plan.dtype) if data.weights is None else data.weights[rows]
        x, w = data.x[rows], plan.weights(rows, given, member)
        if not plan.random:
            return x, data.y[rows], w, None
        seed, n = int(plan.noise_seeds[member]), len(rows)
        if plan.input_noise:
            x = x + (plan.input_noise * philox.input_noise(n, plan.sizes[0], seed, step)).astype(plan.dtype)
        masks = []
        for layer, (units, share) in enumerate(
            zip(plan.sizes[1:], plan.dropout or (0.0,) * len(plan.activations), strict=True), 1
        ):
            kept = philox.dropout_mask(n, units, seed, step, layer, share) if share else np.ones((n, units), bool)
            masks.append(kept * plan.dtype.type(1 / (1 - share)))
        return x, data.y[rows], w, masks

    def _cost_and_gradient(self, member: int, step: int, parameters: Array) -> tuple[float, Array]:
        x, y, w, masks = self._batch(member, step)
        return cost_and_gradient(self._plan, member, parameters, x, y, w, masks)

    def _fail(self, member: int, step: int, fate: int = DIVERGED) -> None:
        self._state["fate"][member] = fate
        self._state["fate_epoch"][member] = step // self._plan.steps_per_epoch + 1

    def _step(self, member: int, step: int, rates: Array, optimizer: Optimizer) -> None:
        plan, state = self._plan, self._state
        x, y, w, masks = self._batch(member, step)
        S = float(w.sum(dtype=np.float64))
        if S == 0:
            return
        parameters, sums = state["parameters"][member], state["progress"][member]
        square = state["square"][member] if len(state["square"]) else np.empty(0, plan.dtype)
        with np.errstate(all="ignore"):
            cost, gradient = cost_and_gradient(plan, member, parameters, x, y, w, masks)
            count = int(sums[STEPS]) + 1
            velocity, weights = state["velocity"][member], weight_count(plan.sizes)
            new = update(parameters, velocity, square, gradient, rates, weights, count, optimizer)
        if not (np.isfinite(cost) and np.isfinite(new[0]).all()):
            self._fail(member, step)
            return
        sums[EPOCH_COST] += S * cost
        sums[EPOCH_WEIGHT] += S
        state["velocity"][member] = new[1]
        if len(state["square"]):
            state["square"][member] = new[2]
        self._adopt(member, new[0])

    def _adopt(self, member: int, parameters: Array) -> None:
        state = self._state
        state["parameters"][member] = parameters
        sums = state["progress"][member]
        sums[STEPS] += 1
        if self._plan.average:
            decay = min(self._plan.average, (1 + sums[AVERAGED]) / (10 + sums[AVERAGED]))
            sums[AVERAGED] += 1
            as_type, average = parameters.dtype.type, state["average"][member]
            average[:] = as_type(decay) * average + as_type(1 - decay) * parameters

    def _iterate(self, member: int, step: int, rates: Array) -> None:
        """Take one iteration of L-BFGS."""
        plan, state = self._plan, self._state
        parameters, pairs = state["parameters"][member].copy(), state["pairs"][member]
        kept = int(state["kept_pairs"][member])
        found: dict[float, tuple[Array, Array]] = {}

        def evaluate(t: float) -> tuple[float, float]:
            trial = parameters + parameters.dtype.type(t) * aim
            value, slopes = self._cost_and_gradient(member, step, trial)
            found[t] = trial, slopes
            return value, float(slopes @ aim)

        with np.errstate(all="ignore"):
            cost, gradient = self._cost_and_gradient(member, step, parameters)
            if not (np.isfinite(cost) and np.isfinite(gradient).all()):
                self._fail(member, step)
                return
            state["progress"][member, [EPOCH_COST, EPOCH_WEIGHT]] = cost, 1
            accepted = 0.0
            total = float(np.abs(gradient).sum())
            if np.abs(gradient).max() > rates[0] and total > 0:
                noise = 4 * float(np.finfo(plan.dtype).eps) * abs(cost)
                for kept_now in (kept, 0) if kept else (0,):
                    kept = kept_now
                    aim = direction(pairs, kept, gradient)
                    slope = float(gradient @ aim)
                    downhill = slope < 0
                    if not downhill:
                        aim, slope = -gradient, -float(gradient @ gradient)
                    first = 1.0 if kept and downhill else min(1.0, 1 / total)
                    accepted, _ = line_search(cost, slope, first, noise, evaluate)
                    if accepted > 0:
                        break
            if accepted > 0:
                s, change = found[accepted][0] - parameters, found[accepted][1] - gradient
                if s @ change > np.finfo(plan.dtype).eps * (change @ change):
                    pairs[kept % len(pairs)] = s, change
                    kept += 1
                self._adopt(member, found[accepted][0])
            else:
                self._fail(member, step, CONVERGED)
        state["kept_pairs"][member] = kept

    def _look(self, epoch: int, ran: Array, training_costs: Array) -> Array:
        """Return the validation costs after an epoch, keep the best parameters, and stop who no longer improves."""
        costs = np.full(self._plan.members, np.nan)
        state, watch = self._state, self._watch
        if self._validation is not None and watch.looks_at(epoch):
            for member in np.flatnonzero(ran).tolist():
                costs[member] = self._validation_cost(member)
        elif not watch.of_training:
            return costs
        watched = training_costs if watch.of_training else costs
        for member in np.flatnonzero(ran).tolist():
            sums, lowest = state["progress"][member], state["progress"][member, BEST_COST]
            if watch.of_training:
                sums[BEST_COST] = min(lowest, watched[member])
            if watched[member] < lowest - watch.min_delta:
                sums[BEST_COST], sums[BEST_EPOCH] = watched[member], epoch
                if len(state["best"]) and not watch.of_training:
                    state["best"][member] = state["parameters"][member]
            elif (
                watch.patience is not None
                and epoch - sums[BEST_EPOCH] >= watch.patience
                and state["fate"][member] == RUNNING
            ):
                state["fate"][member], state["fate_epoch"][member] = STOPPED, epoch
        return costs

    def _validation_cost(self, member: int) -> float:
        data = self._validation
        if data is None:
            return np.nan
        own = self._plan.held_out_rows(member)
        a = predict(
            self._state["parameters"][member : member + 1], self._plan.sizes, self._plan.activations, data.x[own]
        )
        with np.errstate(all="ignore"):
            each = self._plan.cost.value(data.y[own], a[0]).astype(np.float64)
        w = np.ones(len(each)) if data.weights is None else data.weights[own]
        return float(w @ each) / float(w.sum(dtype=np.float64))

    def finish(self) -> None:
        """End a run (see ``Session``)."""
        if self._watch.restore_best and len(self._state["best"]):
            improved = np.isfinite(self._state["progress"][:, BEST_COST])
            self._state["parameters"][improved] = self._state["best"][improved]

    def value_and_gradient(self, step: int) -> tuple[Array, Array]:
        """Return costs and gradients (see ``Session``)."""
        pairs = []
        for member, parameters in enumerate(self._state["parameters"]):
            with np.errstate(all="ignore"):
                pairs.append(self._cost_and_gradient(member, step, parameters))
        return np.array([cost for cost, _ in pairs]), np.stack([gradient for _, gradient in pairs])

    def predict(self, x: Array) -> Array:
        """Return the outputs (see ``Session``)."""
        return predict(self._state["parameters"], self._plan.sizes, self._plan.activations, x)

    def read(self, name: str) -> Array:
        """Return a copy of a state (see ``Session``)."""
        return self._state[name].copy()

    def write(self, name: str, value: Array) -> None:
        """Replace a state (see ``Session``)."""
        self._state[name][...] = value

    def adopt(self, name: str, value: Array) -> None:
        """Take over a state of another session, with its shape."""
        self._state[name] = value

    def explain(self) -> str:
        """Return how the steps are cut (see ``Session``)."""
        return "NumPy, one member after the other, a matrix product for each layer"

    def release(self) -> None:
        """Drop every array (see ``Session``)."""
        self._state.clear()
