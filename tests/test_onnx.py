"""Graphs of ONNX run in onnxruntime as the models do; dense graphs come back as networks."""

import numpy as np
import polars as pl
import pytest

onnx = pytest.importorskip("onnx", reason="onnx is not installed")
runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

from onnx import TensorProto, helper, numpy_helper

from conftest import data, network
from schuss import Dense, InputError, Network, Population, tabular
from schuss.activations import ACTIVATIONS
from schuss.costs import COSTS
from schuss.interop import onnx as interop

X = np.random.default_rng(0).normal(0, 2, (37, 3)).astype("f")


def run(model, **inputs):
    """Return the outputs of a graph by name."""
    session = runtime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return dict(zip([one.name for one in session.get_outputs()], session.run(None, inputs), strict=True))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", [name for name in ACTIVATIONS if name != "softmax"])
def test_every_activation_runs(name, dtype):
    model = network((3, 9, 4), (name, name), dtype=dtype)
    x = X / 10 if name == "exp" else X  # the exponential of an exponential
    np.testing.assert_allclose(run(interop.export(model), x=x)["outputs"], model(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("cost", COSTS)
def test_every_cost_runs(cost):
    last = COSTS[cost].row.link or "linear"
    model = network((3, 8, 8, 3), ("tanh", "relu", last), dtype="float32")
    np.testing.assert_allclose(run(interop.export(model), x=X)["outputs"], model(X), rtol=1e-5, atol=1e-5)


def test_an_ensemble_gives_mean_and_deviation(tmp_path):
    population = Population(3, [Dense(7, "gelu"), Dense(5, "silu"), Dense(2, "softmax")], members=6, seed=1)
    interop.export(population.ensemble(), tmp_path / "e.onnx")
    found, expected = run(onnx.load(tmp_path / "e.onnx"), x=X), population.ensemble()(X)
    np.testing.assert_allclose(found["outputs"], expected.mean, atol=1e-6)
    np.testing.assert_allclose(found["deviation"], expected.deviation, atol=1e-6)


def table_of(n, seed=0):
    rng = np.random.default_rng(seed)
    numbers = rng.normal(1e6, 10, n)
    numbers[::7] = np.nan
    texts = np.array(["röd", "blå", None, "a 'b' \"c\""], dtype=object)[rng.integers(0, 4, n)]
    y = np.nan_to_num(numbers - 1e6) * (texts == "röd") + rng.normal(0, 0.1, n)
    return pl.DataFrame({"größe <b>": numbers, "x": texts.tolist(), "flag": rng.random(n) > 0.5, "y": y})


def inputs_of(table):
    """Return the columns as the graph takes them."""
    return {
        "größe <b>": table["größe <b>"].to_numpy().reshape(-1, 1),
        "x": table["x"].fill_null("").to_numpy().astype(object).reshape(-1, 1),
        "flag": table["flag"].cast(pl.Float64).to_numpy().reshape(-1, 1),
    }


def test_a_table_goes_in_as_it_is():
    table = table_of(200)
    model = tabular.fit(table, "y", epochs=20, folds=3)
    other = table_of(50, seed=1).with_columns(x=pl.lit("never seen"))
    for rows in (table, other):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("schuss.tabular.warnings.warn", lambda *_, **__: None)  # of the category
            expected, deviation = model.predict(rows, return_std=True)
        found = run(interop.export(model), **inputs_of(rows))
        scale = model.encoding.target_deviation
        np.testing.assert_allclose(found["prediction"], expected, rtol=0, atol=1e-5 * scale)
        np.testing.assert_allclose(found["deviation"], deviation, rtol=0, atol=1e-5 * scale)


def test_a_table_gives_the_names_of_classes():
    table = table_of(200).with_columns(y=pl.Series(["low", "hög"] * 100))
    model = tabular.fit(table, "y", epochs=5, folds=2, repeats=1)
    found = run(interop.export(model), **inputs_of(table))
    np.testing.assert_allclose(found["probabilities"], model.predict_proba(table), atol=1e-5)
    assert (found["label"] == model.predict(table)).mean() > 0.99


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_estimators_run():
    pytest.importorskip("sklearn")
    from schuss.interop.sklearn import EnsembleClassifier, MLPClassifier, MLPRegressor

    x, y = data(60, 3, 2)
    kinds = np.array(["a", "b", "c"])[np.arange(60) % 3]
    options = {"random_state": 0, "max_iter": 20}
    regressor = MLPRegressor(**options).fit(x, y)
    cases = [
        MLPClassifier(**options).fit(x, kinds),
        MLPClassifier(**options).fit(x, np.arange(60) % 2 + 5),
        MLPClassifier(**options).fit(x, kinds == "a"),
        MLPClassifier(**options).fit(x, np.stack([kinds == "a", kinds != "b"], axis=1).astype(int)),
        EnsembleClassifier(n_estimators=3, **options).fit(x, kinds),
    ]
    found = run(interop.export(regressor), x=x.astype("f"))
    np.testing.assert_allclose(found["outputs"], regressor.predict(x), atol=1e-5)
    for model in cases:
        found = run(interop.export(model), x=x.astype("f"))
        np.testing.assert_allclose(found["probabilities"], model.predict_proba(x), atol=1e-5)
        assert (found["label"] == model.predict(x)).all()


@pytest.mark.parametrize("name", [name for name in ACTIVATIONS if name != "softmax"])
def test_what_was_exported_comes_back(name, tmp_path):
    model = network((3, 9, 4), (name, "linear"), dtype="float32")
    interop.export(model, tmp_path / "n.onnx")
    again = interop.load(tmp_path / "n.onnx")
    assert again.sizes == model.sizes
    assert [layer.activation for layer in again.layers] == [name, "linear"]
    np.testing.assert_array_equal(again.parameters, model.parameters)


def graph_of(*nodes, **constants):
    made = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.DOUBLE, ["n", 2])],
        [helper.make_tensor_value_info("y", TensorProto.DOUBLE, ["n", 2])],
        [numpy_helper.from_array(np.asarray(value, np.float64), name) for name, value in constants.items()],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)])


def test_products_and_sums_of_other_exporters_are_layers():
    node = helper.make_node
    graph = graph_of(
        node("MatMul", ["x", "W"], ["a"]),
        node("Add", ["b", "a"], ["c"]),
        node("Relu", ["c"], ["d"]),
        node("Dropout", ["d"], ["e"]),
        node("Gemm", ["e", "V"], ["f"]),
        node("Softmax", ["f"], ["y"], axis=-1),
        W=[[1.0, 2], [3, 4]],
        b=[0.5, -5],
        V=[[1.0, 0], [0, 2]],
    )
    found = interop.load(graph)
    assert found.dtype == np.float64
    x = np.array([[1.0, 1.0]])
    hidden = np.maximum(x @ [[1.0, 2], [3, 4]] + [0.5, -5], 0) * [1, 2]
    np.testing.assert_allclose(found(x), np.exp(hidden) / np.exp(hidden).sum(), rtol=1e-12)


def test_graphs_that_are_no_dense_network_name_the_node(tmp_path):
    node, W = helper.make_node, np.eye(2)
    wrong = {
        "conv7": graph_of(node("Conv", ["x", "W"], ["y"], name="conv7"), W=W),
        "no dense layer": graph_of(node("Identity", ["x"], ["y"])),
        "goes to 2 nodes": graph_of(node("Gemm", ["x", "W"], ["a"]), node("Relu", ["a"], ["a2"]),
                                    node("Add", ["a", "a2"], ["y"]), W=W),
        "alpha=": graph_of(node("Gemm", ["x", "W"], ["a"]), node("LeakyRelu", ["a"], ["y"], alpha=0.3), W=W),
        "alpha=0.5": graph_of(node("Gemm", ["x", "W"], ["y"], alpha=0.5), W=W),
    }  # fmt: skip
    for words, graph in wrong.items():
        with pytest.raises(InputError, match=words):
            interop.load(graph)
    (tmp_path / "x.onnx").write_bytes(b"no graph")
    with pytest.raises(InputError, match="is no ONNX file"):
        interop.load(tmp_path / "x.onnx")
    with pytest.raises(FileNotFoundError):
        interop.load(tmp_path / "y.onnx")
    with pytest.raises(InputError, match="cannot export dict"):
        interop.export({})


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_fitted_mlps_of_scikit_learn_become_networks():
    pytest.importorskip("sklearn")
    from sklearn.neural_network import MLPClassifier, MLPRegressor

    from schuss.interop.sklearn import from_sklearn

    x, y = data(60, 3, 2)
    kinds = np.arange(60) % 3
    old = MLPRegressor(hidden_layer_sizes=(5, 4), activation="logistic", max_iter=20).fit(x, y)
    np.testing.assert_allclose(from_sklearn(old)(x), old.predict(x), rtol=1e-12)
    old = MLPClassifier((5,), max_iter=20).fit(x.astype("f"), kinds)
    np.testing.assert_allclose(from_sklearn(old)(x), old.predict_proba(x.astype("f")), rtol=1e-5)
    old = MLPClassifier((5,), max_iter=20).fit(x, kinds > 0)
    np.testing.assert_allclose(from_sklearn(old)(x)[:, 0], old.predict_proba(x)[:, 1], rtol=1e-12)
    for wrong in (MLPRegressor(), Network(1, [Dense(1)])):
        with pytest.raises(InputError, match="takes a fitted"):
            from_sklearn(wrong)
