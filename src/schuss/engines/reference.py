"""The reference engine: NumPy in any dtype. What the words mean; the oracle of every test, and the fallback."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from schuss.activations import Activation
from schuss.engines.base import DIVERGED, RUNNING, STOPPED, Data, Plan, Watch
from schuss.layers import views, weight_count
from schuss.optimizers import SGD

Array = NDArray[Any]


def forward(
    parameters: Array, sizes: tuple[int, ...], activations: tuple[Activation, ...], x: Array
) -> tuple[list[Array], list[Array]]:
    """Return the inputs z and outputs a of all layers; ``a[0]`` is x, ``z[l]`` belongs to ``a[l + 1]``."""
    outputs, inputs = [x], []
    for (W, b), f in zip(views(parameters, sizes), activations, strict=True):
        inputs.append(outputs[-1] @ W.T + b)
        outputs.append(f.value(inputs[-1]))
    return inputs, outputs


def predict(parameters: Array, sizes: tuple[int, ...], activations: tuple[Activation, ...], x: Array) -> Array:
    """Return the outputs (members, n, dL) for parameters (members, p) and x (n, d0)."""
    with np.errstate(all="ignore"):
        return np.stack([forward(member, sizes, activations, x)[1][-1] for member in parameters])


def cost_and_gradient(plan: Plan, parameters: Array, x: Array, y: Array, w: Array) -> tuple[float, Array]:
    """Return the cost C of one member on a batch, and the gradients G and g as one flat vector (DESIGN section 2)."""
    S = w.sum(dtype=np.float64)
    z, a = forward(parameters, plan.sizes, plan.activations, x)
    layers = views(parameters, plan.sizes)
    gradient = np.empty_like(parameters)
    delta = plan.cost.derivative(y, a[-1]) * w[:, None]
    for level, (G, g) in reversed(list(enumerate(views(gradient, plan.sizes)))):
        W, f = layers[level][0], plan.activations[level]
        delta = delta * f.derivative(a[level + 1] if f.reads == "a" else z[level])
        G[:] = (delta.T @ a[level] + plan.l2 * W) / S
        g[:] = delta.sum(axis=0) / S
        if level > 0:
            delta = delta @ W
    weights = parameters[: weight_count(plan.sizes)]
    cost = (w @ plan.cost.value(y, a[-1]) + 0.5 * plan.l2 * (weights @ weights)) / S
    return float(cost), gradient


def sgd_update(
    parameters: Array, velocity: Array, gradient: Array, rates: Array, weights: int, optimizer: SGD
) -> tuple[Array, Array]:
    """Return the new parameters and velocity; the first ``weights`` entries decay, the biases after them do not."""
    as_type = parameters.dtype.type
    rate, decay, momentum = (float(rate) for rate in rates)
    step = as_type(rate) * gradient
    new_velocity = as_type(momentum) * velocity - step
    move = as_type(momentum) * new_velocity - step if optimizer.nesterov else new_velocity.copy()
    if not optimizer.bias_momentum:
        move[weights:] = -step[weights:]
        new_velocity[weights:] = velocity[weights:]
    kept = parameters.copy()
    kept[:weights] *= as_type(1 - rate * decay)
    return kept + move, new_velocity


def _copied(data: Data) -> Data:
    """Return data that the caller cannot change under a training."""
    return Data(data.x.copy(), data.y.copy(), None if data.weights is None else data.weights.copy())


class ReferenceSession:
    """One training on NumPy arrays; ``parameters`` (members, p) is the model's own memory, changed in place."""

    def __init__(self, plan: Plan, parameters: Array, data: Data, validation: Data | None) -> None:
        self._plan, self._data = plan, _copied(data)
        self._validation = None if validation is None else _copied(validation)
        everyone = np.ones(plan.samples, plan.dtype)
        self._sample_weights = everyone if data.weights is None else data.weights
        self._epoch_cost, self._epoch_weight = np.zeros(plan.members), np.zeros(plan.members)
        self._best_cost = np.full(plan.members, np.inf)
        self._best_epoch = np.zeros(plan.members, np.int64)
        self._best = np.zeros_like(parameters)
        self._watch = Watch(every=1, last_epoch=0)
        self._state: dict[str, Array] = {
            "parameters": parameters,
            "velocity": np.zeros_like(parameters),
            "fate": np.full(plan.members, RUNNING, np.int32),
            "fate_epoch": np.zeros(plan.members, np.int64),
        }

    def begin(self, watch: Watch) -> None:
        """Start a run (see ``Session``)."""
        self._watch = watch
        self._best_cost[:] = np.inf
        fate = self._state["fate"]
        fate[fate == STOPPED] = RUNNING

    def advance(self, first_step: int, steps: int, optimizer: SGD) -> tuple[Array, Array | None]:
        """Run some steps (see ``Session``)."""
        plan, fate = self._plan, self._state["fate"]
        rates = optimizer.table(plan.members)
        costs, validation_costs = [], []
        for step in range(first_step, first_step + steps):
            epoch, batch = divmod(step, plan.steps_per_epoch)
            if batch == 0:
                self._epoch_cost[:] = self._epoch_weight[:] = 0
            for member in np.flatnonzero(fate == RUNNING).tolist():
                self._step(member, step, rates[member], optimizer)
            if batch == plan.steps_per_epoch - 1:
                with np.errstate(invalid="ignore"):  # 0 / 0: a member whose samples all weigh nothing
                    costs.append(np.where(fate == RUNNING, self._epoch_cost / self._epoch_weight, np.nan))
                validation_costs.append(self._look(epoch + 1))
        shape = (len(costs), plan.members)
        recorded = np.reshape(np.array(costs), shape)
        return recorded, None if self._validation is None else np.reshape(np.array(validation_costs), shape)

    def _step(self, member: int, step: int, rates: Array, optimizer: SGD) -> None:
        plan, data, state = self._plan, self._data, self._state
        rows = plan.rows(step, member)
        w = plan.weights(rows, self._sample_weights[rows], member)
        S = float(w.sum(dtype=np.float64))
        if S == 0:
            return
        parameters, velocity = state["parameters"][member], state["velocity"][member]
        with np.errstate(all="ignore"):
            cost, gradient = cost_and_gradient(plan, parameters, data.x[rows], data.y[rows], w)
            new = sgd_update(parameters, velocity, gradient, rates, weight_count(plan.sizes), optimizer)
        if not (np.isfinite(cost) and np.isfinite(new[0]).all()):
            state["fate"][member], state["fate_epoch"][member] = DIVERGED, step // plan.steps_per_epoch + 1
            return
        self._epoch_cost[member] += S * cost
        self._epoch_weight[member] += S
        parameters[:], velocity[:] = new

    def _look(self, epoch: int) -> Array:
        """Return the validation costs after an epoch, keep the best parameters, and stop who no longer improves."""
        costs = np.full(self._plan.members, np.nan)
        if self._validation is None or not self._watch.looks_at(epoch):
            return costs
        fate, watch = self._state["fate"], self._watch
        for member in np.flatnonzero(fate == RUNNING).tolist():
            costs[member] = self._validation_cost(member)
            if costs[member] < self._best_cost[member] - watch.min_delta:
                self._best_cost[member], self._best_epoch[member] = costs[member], epoch
                self._best[member] = self._state["parameters"][member]
            elif watch.patience is not None and epoch - self._best_epoch[member] >= watch.patience:
                fate[member], self._state["fate_epoch"][member] = STOPPED, epoch
        return costs

    def _validation_cost(self, member: int) -> float:
        data = self._validation
        if data is None:
            return np.nan
        a = predict(self._state["parameters"][member : member + 1], self._plan.sizes, self._plan.activations, data.x)
        with np.errstate(all="ignore"):
            each = self._plan.cost.value(data.y, a[0]).astype(np.float64)
        return float(each.sum() if data.weights is None else data.weights @ each) / data.total_weight

    def finish(self) -> None:
        """End a run (see ``Session``)."""
        if self._watch.restore_best:
            improved = np.isfinite(self._best_cost)
            self._state["parameters"][improved] = self._best[improved]

    def value_and_gradient(self, step: int) -> tuple[Array, Array]:
        """Return costs and gradients (see ``Session``)."""
        plan, data, pairs = self._plan, self._data, []
        for member, parameters in enumerate(self._state["parameters"]):
            rows = plan.rows(step, member)
            w = plan.weights(rows, self._sample_weights[rows], member)
            pairs.append(cost_and_gradient(plan, parameters, data.x[rows], data.y[rows], w))
        return np.array([cost for cost, _ in pairs]), np.stack([gradient for _, gradient in pairs])

    def predict(self, x: Array) -> Array:
        """Return the outputs (see ``Session``)."""
        return predict(self._state["parameters"], self._plan.sizes, self._plan.activations, x)

    def read(self, name: str) -> Array:
        """Return a copy of a state (see ``Session``)."""
        return self._state[name].copy()

    def write(self, name: str, value: Array) -> None:
        """Replace a state (see ``Session``)."""
        self._state[name][:] = value

    def release(self) -> None:
        """Drop every array (see ``Session``)."""
        self._state.clear()
