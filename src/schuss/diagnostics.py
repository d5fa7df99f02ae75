"""What the layers of a network look like: norms, and units that are dead or saturated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schuss.engines import reference
from schuss.layers import views
from schuss.network import DenseModel, Network

Array = NDArray[Any]

SAMPLES = 1000
_FLAT = 1e-3  # of the steepest slope of sigmoid or tanh: below, a unit is saturated


@dataclass(frozen=True)
class LayerState:
    """Numbers of one layer, each a float, or (members,) for a population.

    weight_norm, gradient_norm: Euclidean. dead: the share of its units that are 0 for every sample (relu). saturated:
    the share of its values where a sigmoid or tanh has less than a thousandth of its steepest slope.
    """

    weight_norm: Any
    gradient_norm: Any
    dead: Any
    saturated: Any


def diagnose(model: DenseModel, x: Array, gradient: Array) -> list[LayerState]:
    """Return the state of each layer, on samples x (n, d0); gradient: (members, p)."""
    parameters = model.parameters.reshape(-1, model.parameters.shape[-1])
    rows = np.ascontiguousarray(x, model.dtype)
    units = np.array([_units(model, one, rows) for one in parameters])  # (members, layers, 2)
    layers = []
    pairs = zip(views(parameters, model.sizes), views(gradient, model.sizes), strict=True)
    for number, ((W, _), (G, _)) in enumerate(pairs):
        norms = [np.sqrt(np.square(value, dtype=np.float64).sum(axis=(1, 2))) for value in (W, G)]
        numbers = [*norms, units[:, number, 0], units[:, number, 1]]
        layers.append(LayerState(*((float(n[0]) for n in numbers) if isinstance(model, Network) else numbers)))
    return layers


def summary(network: Network, x: Array) -> str:
    """Return what the layers of a network look like on samples x (n, d0), in a few words."""
    largest = ", ".join(f"{np.abs(layer.weights).max():.4g}" for layer in network.layers)
    shares = _units(network, network.parameters, np.ascontiguousarray(x, network.dtype))
    flat = ", ".join(f"{share:.0%}" for share in shares.sum(axis=1))
    return f"largest weight of each layer: {largest}; dead or saturated units: {flat}"


def _units(model: DenseModel, parameters: Array, x: Array) -> Array:
    """Return for each layer the share of dead units and of saturated values, (layers, 2)."""
    with np.errstate(all="ignore"):
        z, a = reference.forward(parameters, model.sizes, model.activations, x)
        shares = np.zeros((len(z), 2))
        for number, activation in enumerate(model.activations):
            if activation.name == "relu":
                shares[number, 0] = (a[number + 1] <= 0).all(axis=0).mean()
            elif activation.name in ("sigmoid", "tanh"):
                steepest = 0.25 if activation.name == "sigmoid" else 1.0
                shares[number, 1] = (activation.derivative(a[number + 1]) < _FLAT * steepest).mean()
    return shares
