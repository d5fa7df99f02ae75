"""Networks with all that belongs to them as one ONNX graph, written node by node."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

import schuss
from schuss.activations import Activation
from schuss.checkpoint import write_atomically
from schuss.ensembles import Ensemble
from schuss.errors import InputError
from schuss.network import Network
from schuss.population import Population
from schuss.tables import MISSING, Column, Encoding
from schuss.tabular import TabularModel

Array = NDArray[Any]

OPSET, ML_OPSET, IR_VERSION = 20, 3, 9
"""The versions that are written: old enough for the runtimes of 2024, new enough for Gelu."""


def export(model: Any, path: str | os.PathLike[str] | None = None, *, name: str = "schuss") -> Any:
    """Return a model as an ``onnx.ModelProto``, checked by onnx's checker; write it to a file if a path is given.

    model, and its inputs and outputs (n is free; numbers are float32 if nothing else is said):

    - Network: ``x`` (n, inputs) to ``outputs`` (n, dL), as ``network(x)``.
    - Ensemble, or Population, which is taken as its ensemble: ``x`` to ``outputs`` and ``deviation``, each (n, dL).
    - a fitted regressor of ``schuss.interop.sklearn``: ``x`` to ``outputs``; a classifier: ``label`` (n,) int64 or text, and
      ``probabilities`` (n, classes); of several labels ``label`` (n, labels).
    - TabularModel: an input for each column by its name, (n, 1), float64 with NaN for what is missing, or text with "" for
      it; ``prediction`` (n,) float64 in the units of the target, for quantiles (n, levels), and ``deviation`` (n,) for
      several networks; or ``label`` (n,) and ``probabilities``.

    Parameters are rounded to float32. Raises InputError for anything else, OSError where the disk refuses.

    >>> from schuss import Dense, Network
    >>> graph = export(Network(4, [Dense(8, "tanh"), Dense(1)], seed=1)).graph
    >>> [node.op_type for node in graph.node]
    ['Gemm', 'Tanh', 'Gemm', 'Identity']
    """
    graph = _Graph(name)
    if isinstance(model, TabularModel):
        _tabular(graph, model)
    elif isinstance(model, Network | Population | Ensemble):
        _plain(graph, model)
    elif hasattr(model, "model_") and hasattr(model, "get_params"):
        _estimator(graph, model)
    else:
        raise InputError(
            f"cannot export {type(model).__name__}; pass a Network, Ensemble, Population or TabularModel, or a fitted "
            "estimator of schuss.interop.sklearn"
        )
    made = graph.model()
    onnx.checker.check_model(made, full_check=True)
    if path is not None:
        write_atomically(path, made.SerializeToString())
    return made


class _Graph:
    """A graph as it grows: nodes, constants, inputs and outputs."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._nodes: list[Any] = []
        self._constants: list[Any] = []
        self._inputs: list[Any] = []
        self._outputs: list[Any] = []
        self._taken: set[str] = set()

    def input(self, name: str, kind: int, columns: int) -> str:
        """Return a new input (n, columns)."""
        self._inputs.append(helper.make_tensor_value_info(name, kind, ["n", columns]))
        self._taken.add(name)
        return name

    def output(self, value: str, name: str, kind: int, *shape: int) -> None:
        """Make a value an output (n, ...) of a name."""
        while name in self._taken:
            name += "_"
        self._taken.add(name)
        self._nodes.append(helper.make_node("Identity", [value], [name]))
        self._outputs.append(helper.make_tensor_value_info(name, kind, ["n", *shape]))

    def constant(self, value: Any, dtype: Any = np.float32) -> str:
        """Return a constant."""
        array = np.asarray(value, dtype) if dtype is not str else np.asarray(value, dtype=object)
        self._constants.append(numpy_helper.from_array(np.ascontiguousarray(array), self._fresh("constant")))
        return str(self._constants[-1].name)

    def node(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """Return the output of a new node."""
        made = self._fresh(operator)
        self._nodes.append(helper.make_node(operator, list(inputs), [made], name=made, **attributes))
        return made

    def _fresh(self, stem: str) -> str:
        count = len(self._nodes) + len(self._constants)
        name = f"schuss/{stem}_{count}"
        while name in self._taken:
            name += "_"
        self._taken.add(name)
        return name

    def model(self) -> Any:
        """Return all of it."""
        graph = helper.make_graph(self._nodes, self._name, self._inputs, self._outputs, self._constants)
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("ai.onnx.ml", ML_OPSET)]
        made = helper.make_model(
            graph, opset_imports=opsets, producer_name="schuss", producer_version=schuss.__version__
        )
        made.ir_version = IR_VERSION
        return made


def _activate(graph: _Graph, activation: Activation, z: str) -> str:
    if activation.name == "linear":
        return z
    if activation.name == "silu":  # Swish came with opset 24
        return graph.node("Mul", z, graph.node("Sigmoid", z))
    return graph.node(activation.onnx, z)


def _network(graph: _Graph, network: Network, x: str) -> str:
    for layer in network.layers:
        W, b = graph.constant(layer.weights), graph.constant(layer.bias)
        x = _activate(graph, layer.dense.activation, graph.node("Gemm", x, W, b, transB=1))
    return x


def _members(graph: _Graph, ensemble: Ensemble, x: str) -> str:
    """Return the outputs of all members, (members, n, dL): the weights of all in one product."""
    networks = ensemble.networks()
    for level, dense in enumerate(ensemble.dense):
        layers = [network.layers[level] for network in networks]
        W = graph.constant(np.stack([layer.weights.T for layer in layers]))
        b = graph.constant(np.stack([layer.bias for layer in layers])[:, None])
        x = _activate(graph, dense.activation, graph.node("Add", graph.node("MatMul", x, W), b))
    return x


def _mean(graph: _Graph, model: Network | Population | Ensemble, x: str) -> tuple[str, str | None]:
    """Return the outputs, and for several networks their deviation."""
    if isinstance(model, Network):
        return _network(graph, model, x), None
    outputs = _members(graph, model if isinstance(model, Ensemble) else model.ensemble(), x)
    first = graph.constant([0], np.int64)
    mean = graph.node("ReduceMean", outputs, first, keepdims=0)
    away = graph.node("Sub", outputs, mean)
    return mean, graph.node("Sqrt", graph.node("ReduceMean", graph.node("Mul", away, away), first, keepdims=0))


def _plain(graph: _Graph, model: Network | Population | Ensemble) -> None:
    outputs, deviation = _mean(graph, model, graph.input("x", TensorProto.FLOAT, model.inputs))
    graph.output(outputs, "outputs", TensorProto.FLOAT, model.sizes[-1])
    if deviation is not None:
        graph.output(deviation, "deviation", TensorProto.FLOAT, model.sizes[-1])


def _estimator(graph: _Graph, estimator: Any) -> None:
    model = estimator.model_
    outputs, _ = _mean(graph, model, graph.input("x", TensorProto.FLOAT, model.inputs))
    classes = getattr(estimator, "classes_", None)
    if classes is None:
        graph.output(outputs, "outputs", TensorProto.FLOAT, model.sizes[-1])
        return
    if model.sizes[-1] == len(classes) and not model.activations[-1].joint:  # several labels
        label = graph.node("Cast", graph.node("Greater", outputs, graph.constant(0.5)), to=TensorProto.INT64)
        graph.output(label, "label", TensorProto.INT64, len(classes))
        graph.output(outputs, "probabilities", TensorProto.FLOAT, len(classes))
        return
    if model.sizes[-1] == 1:
        outputs = graph.node("Concat", graph.node("Sub", graph.constant(1.0), outputs), outputs, axis=1)
    _classes(graph, outputs, list(classes))


def _classes(graph: _Graph, probabilities: str, classes: Sequence[Any]) -> None:
    code = graph.node("ArgMax", probabilities, axis=1, keepdims=0)
    whole = all(float(label).is_integer() for label in classes) if np.asarray(classes).dtype.kind in "biuf" else False
    kind, dtype = (TensorProto.INT64, np.int64) if whole else (TensorProto.STRING, str)
    values = [int(label) for label in classes] if whole else [str(label) for label in classes]
    graph.output(graph.node("Gather", graph.constant(values, dtype), code), "label", kind)
    graph.output(probabilities, "probabilities", TensorProto.FLOAT, len(classes))


def _tabular(graph: _Graph, model: TabularModel) -> None:
    encoding = model.encoding
    outputs, deviation = _mean(graph, model.model, _features(graph, encoding))
    if encoding.classes is not None:
        _classes(graph, outputs, encoding.classes)
        return

    def in_units(value: str, shift: float) -> str:
        scaled = graph.node("Mul", graph.node("Cast", value, to=TensorProto.DOUBLE), double(encoding.target_deviation))
        return graph.node("Add", scaled, double(shift))

    def double(value: float) -> str:
        return graph.constant(value, np.float64)

    flat = graph.constant([-1], np.int64)
    prediction = in_units(outputs, encoding.target_mean)
    if encoding.levels is not None:
        graph.output(prediction, "prediction", TensorProto.DOUBLE, len(encoding.levels))
        return
    graph.output(graph.node("Reshape", prediction, flat), "prediction", TensorProto.DOUBLE)
    if deviation is not None:
        graph.output(graph.node("Reshape", in_units(deviation, 0.0), flat), "deviation", TensorProto.DOUBLE)


def _features(graph: _Graph, encoding: Encoding) -> str:
    """Return x (n, features): the columns encoded, scaled and bent, in float64 up to here."""
    parts = [part for column in encoding.columns for part in _column(graph, column)]
    features = graph.node("Concat", *parts, axis=1)
    mean, deviation = (graph.constant(v, np.float64) for v in (encoding.feature_mean, encoding.feature_deviation))
    scaled = graph.node("Div", graph.node("Sub", features, mean), deviation)
    if encoding.clip is not None:
        share = graph.node("Div", scaled, graph.constant(encoding.clip, np.float64))
        square = graph.node("Add", graph.constant(1.0, np.float64), graph.node("Mul", share, share))
        scaled = graph.node("Div", scaled, graph.node("Sqrt", square))
    return graph.node("Cast", scaled, to=TensorProto.FLOAT)


def _column(graph: _Graph, column: Column) -> list[str]:
    if column.categories is None:
        given = graph.input(column.name, TensorProto.DOUBLE, 1)
        missing = graph.node("IsNaN", given)
        parts = [graph.node("Where", missing, graph.constant([[column.median]], np.float64), given)]
        return [*parts, graph.node("Cast", missing, to=TensorProto.DOUBLE)] if column.marks_missing else parts
    given = graph.input(column.name, TensorProto.STRING, 1)
    codes = {category: code for code, category in enumerate(column.categories)}
    codes.setdefault("", codes.get(MISSING, -1))
    code = graph.node(
        "LabelEncoder",
        given,
        domain="ai.onnx.ml",
        keys_strings=list(codes),
        values_int64s=list(codes.values()),
        default_int64=-1,
    )
    same = graph.node("Equal", code, graph.constant([range(len(column.categories))], np.int64))
    return [graph.node("Cast", same, to=TensorProto.DOUBLE)]
