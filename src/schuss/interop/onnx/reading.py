"""Dense ONNX graphs as networks: a graph is followed node by node, and whatever is not known to be equal is refused."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from schuss.activations import ACTIVATIONS, LEAKY_SLOPE
from schuss.errors import InputError, unknown_name
from schuss.interop.onnx import files
from schuss.layers import Dense
from schuss.network import Network

Array = NDArray[Any]

_OLDEST_OPSET = 7  # from which on Gemm, Add and Dropout mean what they mean today
_NAMED = {row.onnx: row.name for row in ACTIVATIONS.values() if row.name != "linear"}
_ATTRIBUTES: dict[str, dict[str, tuple[Any, ...]]] = {
    "Gemm": {"alpha": (1.0,), "beta": (1.0,), "transA": (0,), "transB": (0, 1)},
    "LeakyRelu": {"alpha": (LEAKY_SLOPE,)},
    "Elu": {"alpha": (1.0,)},
    "Swish": {"alpha": (1.0,)},
    "Gelu": {"approximate": (b"none",)},
    "Softmax": {"axis": (-1, 1)},
    "Flatten": {"axis": (-1, 1)},
    "Cast": {"to": (TensorProto.FLOAT, TensorProto.DOUBLE), "saturate": (0, 1)},
}
"""The values of attributes with which a node does what ours do, as their defaults are; nodes that are not here have none."""
_KNOWN = ("Gemm", "MatMul", "Add", *_NAMED, "Identity", "Dropout", "Flatten", "Cast")


def load(path: str | os.PathLike[str] | Any) -> Network:
    """Return the network of an ONNX file, or of an ``onnx.ModelProto``, that is a chain of dense layers.

    Known are Gemm, or MatMul and Add, each with constant weights, and the activations of schuss; Identity, Dropout that
    predicts, Flatten(axis=1) and Cast to a floating-point number are passed over. float64 weights make a float64 network.
    External data are read only for a file given by its path, and only from its folder. Raises FileNotFoundError, or
    InputError that names the node which is none of these, or differs from ours.
    """
    from_file = isinstance(path, str | os.PathLike)
    proto = files.read(path) if from_file else path
    if not isinstance(proto, onnx.ModelProto):
        raise InputError(f"pass the path of an ONNX file or an onnx.ModelProto; got {type(proto).__name__}")
    _check_opset(proto)
    files.inline(proto, Path(path).parent if from_file else None)
    files.check(proto)
    return _Chain(proto.graph).network()


def _check_opset(proto: Any) -> None:
    versions = [one.version for one in proto.opset_import if one.domain in ("", "ai.onnx")]
    newest = onnx.defs.onnx_opset_version()
    if len(versions) != 1 or not _OLDEST_OPSET <= versions[0] <= newest:
        raise InputError(
            f"the ONNX model must be of one opset from {_OLDEST_OPSET} to {newest}; got {versions}; a newer onnx knows more"
        )
    if any(one.domain in ("", "ai.onnx") for one in proto.functions):
        raise InputError("the ONNX model has operators of its own under the names of the standard")


class _Chain:
    """A graph that is followed from its input: the layers so far, and the value that comes out of them."""

    def __init__(self, graph: Any) -> None:
        self._constants = files.arrays(graph)
        self._nodes = [node for node in graph.node if node.op_type != "Constant"]
        inputs = [one for one in graph.input if one.name not in self._constants]
        if len(inputs) != 1 or len(graph.output) != 1:
            raise InputError(f"a dense graph has one input and one output; got {len(inputs)} and {len(graph.output)}")
        self._value, self._end = inputs[0].name, graph.output[0].name
        self._shape = _shape(inputs[0])
        self._weights: list[Array] = []
        self._biases: list[Array] = []
        self._names: list[str] = []

    def network(self) -> Network:
        """Return the network."""
        for _ in self._nodes:
            if self._value == self._end:
                break
            users = [node for node in self._nodes if self._value in node.input]
            if not self._take_silu(users):
                if len(users) != 1:
                    raise InputError(
                        f"the value {self._value!r} goes to {len(users)} nodes; a dense graph is a chain, where each "
                        "goes to one"
                    )
                self._take(users[0])
        if self._value != self._end:
            raise InputError("the graph never comes to its output")
        if not self._weights:
            raise InputError("the graph has no dense layer: no Gemm or MatMul with constant weights")
        dtype = np.float64 if all(W.dtype == np.float64 for W in self._weights) else np.float32
        layers = [Dense(len(W), name) for W, name in zip(self._weights, self._names, strict=True)]
        network = Network(self._weights[0].shape[1], layers, seed=0, dtype=dtype)
        with np.errstate(over="ignore"):
            for layer, W, b in zip(network.layers, self._weights, self._biases, strict=True):
                layer.weights[:], layer.bias[:] = W, b
        if not np.isfinite(network.parameters).all():
            raise InputError("the graph has weights that are not finite in float32")
        return network

    def _take_silu(self, users: list[Any]) -> bool:
        """Follow x Sigmoid(x), if that is what comes next; return whether it is."""
        if len(users) != 2 or self._names[-1:] != ["linear"]:
            return False
        sigmoid, product = sorted(users, key=lambda node: node.op_type != "Sigmoid")
        if (sigmoid.op_type, product.op_type) != ("Sigmoid", "Mul") or not _is_plain(sigmoid, product):
            return False
        found = sigmoid.output[0]
        others = [node for node in self._nodes if found in node.input]
        if sorted(product.input) != sorted((self._value, found)) or len(others) != 1 or found == self._end:
            return False
        self._names[-1], self._value = "silu", product.output[0]
        return True

    def _take(self, node: Any) -> None:
        """Follow the chain through a node."""
        kind = node.op_type
        if kind not in _KNOWN or not _is_plain(node):
            known = unknown_name("node", kind, _KNOWN) if kind not in _KNOWN else "it differs from the one of schuss"
            raise InputError(f"node {node.name!r} ({kind}{_said(node)}) is no part of a dense network; {known}")
        if kind in ("Gemm", "MatMul"):
            self._take_product(node)
        elif kind == "Add":
            self._take_sum(node)
        elif kind in _NAMED:
            if self._names[-1:] != ["linear"]:
                raise InputError(f"node {node.name!r} ({kind}) must follow a layer that has no activation yet")
            self._names[-1] = _NAMED[kind]
        elif kind == "Dropout" and not self._predicts(node):
            raise InputError(f"node {node.name!r} (Dropout) is for training; export the model for predictions")
        elif kind == "Flatten" and not self._names:
            self._flatten(node)
        self._value = node.output[0]

    def _flatten(self, node: Any) -> None:
        if self._shape[0] == 2:
            return
        if _attributes(node).get("axis", 1) != 1:
            raise InputError(f"node {node.name!r} (Flatten) must keep the axis of the samples: axis=1")
        self._shape = 2, None

    def _take_product(self, node: Any) -> None:
        names = list(node.input)
        if names[0] != self._value or any(name not in self._constants for name in names[1:] if name):
            raise InputError(
                f"node {node.name!r} ({node.op_type}) must multiply the value with weights that are constants"
            )
        W = self._constant(names[1])
        options = _attributes(node)
        if W.ndim == 2 and not options.get("transB", 0):
            W = W.T
        expected = len(self._weights[-1]) if self._weights else self._columns()
        if W.ndim != 2 or W.size == 0 or expected not in (None, W.shape[1]):
            raise InputError(
                f"node {node.name!r} ({node.op_type}) must have weights for {expected or 'some'} inputs; got shape {W.shape}"
            )
        self._weights.append(W)
        self._names.append("linear")
        self._biases.append(np.zeros(len(W), W.dtype))
        if len(names) > 2 and names[2]:
            self._add(node, names[2])

    def _take_sum(self, node: Any) -> None:
        others = [name for name in node.input if name != self._value]
        if self._names[-1:] != ["linear"] or len(others) != 1 or others[0] not in self._constants:
            raise InputError(f"node {node.name!r} (Add) must add a constant bias to a layer")
        self._add(node, others[0])

    def _add(self, node: Any, name: str) -> None:
        """Add a constant that is the same for all samples to the bias of the last layer."""
        bias, units = self._constant(name), len(self._weights[-1])
        columns = bias.shape[-1] if bias.ndim else 1
        if bias.ndim > 2 or bias.size != columns or columns not in (1, units):
            raise InputError(
                f"node {node.name!r} ({node.op_type}) must have a bias of one number for each of {units} outputs; got shape "
                f"{bias.shape}"
            )
        self._biases[-1] = self._biases[-1] + np.broadcast_to(bias.reshape(-1), units)

    def _constant(self, name: str) -> Array:
        array = self._constants[name]()
        if array.dtype.kind != "f":
            raise InputError(f"the constant {name!r} must be of float32 or float64; got {array.dtype}")
        return array

    def _columns(self) -> int | None:
        """Return how many columns the input of the graph has, or None if nothing is said; raise InputError for no table."""
        rank, columns = self._shape
        if rank != 2:
            raise InputError(
                f"the input of the graph must be declared as (n, inputs); it has {rank} axes (0: none is said)"
            )
        return columns

    def _predicts(self, node: Any) -> bool:
        """Return whether a Dropout passes on what it gets: only its first output is used, and it is not in training mode."""
        mode = node.input[2] if len(node.input) > 2 else ""
        return not mode or (mode in self._constants and not np.any(self._constants[mode]()))


def _shape(given: Any) -> tuple[int, int | None]:
    """Return how many axes the input of a graph has, 0 if nothing is said, and the length of the last, or None."""
    axes = given.type.tensor_type.shape.dim
    return len(axes), axes[-1].dim_value if axes and axes[-1].HasField("dim_value") else None


def _attributes(node: Any) -> dict[str, Any]:
    try:
        return {one.name: helper.get_attribute_value(one) for one in node.attribute}
    except ValueError as error:
        raise InputError(f"node {node.name!r} ({node.op_type}): {error}") from error


def _is_plain(*nodes: Any) -> bool:
    """Return whether nodes are of the standard, and their attributes such that they do what ours do."""
    return all(node.domain in ("", "ai.onnx") and not _said(node) for node in nodes)


def _said(node: Any) -> str:
    """Return in words what sets a node apart from ours: its domain, and attributes of other values; or nothing."""
    usual = _ATTRIBUTES.get(node.op_type, {})
    odd = [
        f" {name}={value!r:.40}" for name, value in _attributes(node).items() if not _fits(value, usual.get(name, ()))
    ]
    if node.op_type == "Dropout":  # the share and the seed are of training
        odd = [one for one in odd if not one.startswith((" ratio=", " seed="))]
    own = [f" of the domain {node.domain!r}"] if node.domain not in ("", "ai.onnx") else []
    return ",".join(own + odd)


def _fits(value: Any, usual: tuple[Any, ...]) -> bool:
    return any(value == one or (isinstance(value, float) and abs(value - one) < 1e-6) for one in usual)
