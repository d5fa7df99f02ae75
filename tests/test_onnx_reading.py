"""What is not known to equal a dense network is refused by InputError, whatever the graph, the file or its data."""

import os

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from onnx import TensorProto, external_data_helper, helper, numpy_helper

from schuss import InputError
from schuss.interop import onnx as interop

EYE = np.eye(2)


def graph_of(*nodes, opset=20, shape=("n", 2), output="y", **constants):
    """A model of nodes from x to an output, with float64 constants."""
    made = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.DOUBLE, shape)],
        [helper.make_tensor_value_info(output, TensorProto.DOUBLE, ["n", 2])],
        [numpy_helper.from_array(np.asarray(value, np.float64), name) for name, value in constants.items()],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


def node(operator, inputs, outputs, **attributes):
    return helper.make_node(operator, inputs.split(), outputs.split(), **attributes)


def after_a_layer(operator, opset=20, constants=(), **attributes):
    """x through a layer and one node."""
    names = " ".join(("a", *dict(constants)))
    nodes = node("Gemm", "x W", "a"), node(operator, names, "y", **attributes)
    return graph_of(*nodes, opset=opset, W=EYE, **dict(constants))


def cast(kind):
    return graph_of(node("Gemm", "x W", "a"), node("Cast", "a", "b", to=kind), node("Cast", "b", "y", to=11), W=EYE)


REFUSED = {
    "a cycle": graph_of(node("Identity", "x", "x")),
    "a cycle of two": graph_of(node("Identity", "b", "a"), node("Identity", "a", "b"), node("Gemm", "x W", "y"), W=EYE),
    "LeakyRelu of slope 1": after_a_layer("LeakyRelu", alpha=1.0),
    "Elu of 0.01": after_a_layer("Elu", alpha=0.01),
    "Gelu by tanh": after_a_layer("Gelu", approximate="tanh"),
    "Softmax over the samples": after_a_layer("Softmax", axis=0),
    "Relu before silu": graph_of(
        node("Gemm", "x W", "a"),
        node("Relu", "a", "b"),
        node("Sigmoid", "b", "c"),
        node("Mul", "b c", "y"),
        W=EYE,
    ),
    "two activations": graph_of(node("Gemm", "x W", "a"), node("Relu", "a", "b"), node("Tanh", "b", "y"), W=EYE),
    "an activation first": graph_of(node("Relu", "x", "a"), node("Gemm", "a W", "y"), W=EYE),
    "Flatten of the samples": after_a_layer("Flatten", axis=0),
    "Flatten of images by the last axis": graph_of(
        node("Flatten", "x", "a", axis=-1), node("Gemm", "a W", "y"), shape=("n", 2, 2), W=EYE
    ),
    "an input of three axes": graph_of(node("MatMul", "x W", "y"), shape=("n", 3, 2), W=EYE),
    "an input of unknown axes": graph_of(node("MatMul", "x W", "y"), shape=None, W=EYE),
    "weights for other inputs": graph_of(node("Gemm", "x W", "y"), shape=("n", 3), W=EYE),
    "weights that do not follow": graph_of(
        node("Gemm", "x W", "a"), node("Gemm", "a V", "y"), W=EYE, V=np.ones((3, 2))
    ),
    "a whole number": cast(TensorProto.INT64),
    "a half": cast(TensorProto.FLOAT16),
    "a bias that mixes samples": after_a_layer("Add", constants={"b": [[1.0], [2.0]]}),
    "a bias that makes outputs": graph_of(
        node("Gemm", "x W", "a"), node("Add", "a b", "y"), W=np.ones((2, 1)), b=[1.0, 2]
    ),
    "a bias of three axes": after_a_layer("Add", constants={"b": [[[1.0, 2.0]]]}),
    "a value added to itself": graph_of(node("Gemm", "x W", "a"), node("Add", "a a", "y"), W=EYE),
    "a value times itself": graph_of(node("MatMul", "x x", "y"), W=EYE),
    "weights times the value": graph_of(node("MatMul", "W x", "y"), W=EYE),
    "weights that are not finite": graph_of(node("Gemm", "x W", "y"), W=[[np.nan, 1], [1, 1]]),
    "no weights": graph_of(node("Gemm", "x W", "y"), W=np.ones((2, 0))),
    "an operator of another domain": graph_of(
        node("Gemm", "x W", "a"), node("Relu", "a", "y", domain="com.example"), W=EYE
    ),
    "an opset before 7": after_a_layer("Relu", opset=6),
    "an opset of the future": after_a_layer("Relu", opset=999),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_differs_is_refused(case):
    with pytest.raises(InputError):
        interop.load(REFUSED[case])


def test_dropout_is_passed_over_only_where_it_predicts():
    def model(*mode):
        names = " ".join(["a", "ratio", "mode"][: 2 + len(mode)])
        made = graph_of(node("Gemm", "x W", "a"), node("Dropout", names, "y"), W=EYE)
        ratio = numpy_helper.from_array(np.array(0.5, np.float32), "ratio")
        made.graph.initializer.extend([ratio, *(numpy_helper.from_array(np.array(one), "mode") for one in mode)])
        return made

    for made in (model(), model(False)):
        assert interop.load(made).sizes == (2, 2)
    with pytest.raises(InputError, match="for training"):
        interop.load(model(True))


def test_what_is_usual_is_taken():
    rng = np.random.default_rng(0)
    W, x = rng.normal(size=(4, 2)), rng.normal(size=(5, 2, 2))
    images = graph_of(node("Flatten", "x", "a"), node("Gemm", "a W", "y"), shape=("n", 2, 2), W=W)
    np.testing.assert_allclose(interop.load(images)(x.reshape(5, 4)), x.reshape(5, 4) @ W, rtol=1e-12)
    for made in (
        after_a_layer("LeakyRelu", alpha=0.01),
        after_a_layer("Elu"),
        after_a_layer("Softmax", opset=11),
        after_a_layer("Flatten", axis=1),
        after_a_layer("Add", constants={"b": 1.0}),
        after_a_layer("Add", constants={"b": [[1.0, 2.0]]}),
    ):
        assert interop.load(made).sizes == (2, 2)


@pytest.mark.parametrize("change", ["short", "long", "ragged", "negative", "kind", "text"])
def test_constants_that_are_not_whole_are_refused(change):
    made = after_a_layer("Relu")
    (tensor,) = made.graph.initializer
    if change in ("short", "long", "ragged"):
        tensor.raw_data = (
            tensor.raw_data[:-8] if change == "short" else tensor.raw_data + bytes(8 if change == "long" else 1)
        )
    elif change == "negative":
        tensor.dims[:] = [-2, -2]
    else:
        tensor.data_type = TensorProto.INT64 if change == "kind" else TensorProto.STRING
    with pytest.raises(InputError):
        interop.load(made)


def external(folder, location="weights.bin", **entries):
    """A model whose weights lie in a file beside it."""
    made = after_a_layer("Relu")
    (tensor,) = made.graph.initializer
    external_data_helper.set_external_data(tensor, location, **entries)
    tensor.ClearField("raw_data")
    (folder / "model.onnx").write_bytes(made.SerializeToString())
    return made


def test_external_data_lie_in_the_folder_of_the_model(tmp_path, monkeypatch):
    folder = tmp_path / "folder"
    folder.mkdir()
    W = np.array([[1.0, 2], [3, 4]])
    (folder / "weights.bin").write_bytes(bytes(8) + W.tobytes())
    made = external(folder, offset=8, length=32)
    np.testing.assert_array_equal(interop.load(folder / "model.onnx").layers[0].weights, W.T)
    monkeypatch.chdir(folder)
    with pytest.raises(InputError, match="pass that"):
        interop.load(made)
    (tmp_path / "secret.bin").write_bytes(W.tobytes())
    os.symlink(tmp_path / "secret.bin", folder / "link.bin")
    os.mkfifo(folder / "pipe.bin")
    for location in ("../secret.bin", str(tmp_path / "secret.bin"), "link.bin", "pipe.bin", ".", "none.bin", ""):
        external(folder, location)
        with pytest.raises(InputError, match="cannot be read"):
            interop.load(folder / "model.onnx")
    for entries in ({"offset": 16}, {"length": 16}, {"offset": -8}, {"offset": 2**62}):
        external(folder, **entries)
        with pytest.raises(InputError, match="all the numbers"):
            interop.load(folder / "model.onnx")


def test_a_deep_or_broken_model_is_refused(tmp_path):
    content = after_a_layer("Relu").SerializeToString()
    rng = np.random.default_rng(0)
    for _ in range(200):
        changed = bytearray(content)
        for _ in range(rng.integers(1, 4)):
            changed[rng.integers(len(changed))] = rng.integers(256)
        (tmp_path / "m.onnx").write_bytes(changed)
        try:
            found = interop.load(tmp_path / "m.onnx")
        except InputError:
            continue
        assert np.isfinite(found.parameters).all()
    with pytest.raises(InputError, match="pass the path"):
        interop.load({})
