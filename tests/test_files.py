"""Whatever a model file or a checkpoint holds, with a digest that is right, is refused by ModelFileError or good."""

import hashlib
import json

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

import schuss
from schuss import (
    LBFGS,
    SGD,
    Adam,
    Dense,
    EarlyStopping,
    InputError,
    ModelFileError,
    Network,
    Population,
    Training,
    checkpoint,
    tabular,
    training_file,
)
from schuss.table_commands import described

DELETED = object()


def changed(value, path, new):
    """Return plain data with the value at a path, such as "layers.0.units", replaced or removed."""
    whole = json.loads(json.dumps(value))
    inside, keys = whole, [int(key) if key.isdigit() else key for key in path.split(".")]
    for key in keys[:-1]:
        inside = inside[key]
    if new is DELETED:
        del inside[keys[-1]]
    else:
        inside[keys[-1]] = new
    return whole


def parts(path, kind="schuss"):
    with safe_open(path, framework="numpy") as file:
        return json.loads(file.metadata()[kind]), load_file(path)


def seal(path, description, tensors):
    """Write a model file of one network with the digest that docs/model_files.md describes."""
    text = description if isinstance(description, str) else json.dumps(description)
    names = sorted(tensors, key=lambda name: (name.endswith("bias"), name))
    digest = hashlib.sha256(text.encode() + b"".join(tensors[name].tobytes() for name in names))
    save_file(tensors, path, metadata={"schuss": text, "sha256": digest.hexdigest()})


@pytest.fixture
def model_file(tmp_path):
    path = tmp_path / "model"
    Network(3, [Dense(4, "tanh", dropout=0.1), Dense(2)], seed=1).save(path)
    return path


MODEL_CHANGES = [
    *[("inputs", value) for value in (-1, 0, 4, True, 3.0, "3", None, [], 60_000, 2**31, 2**64, DELETED)],
    *[("layers", value) for value in ([], {}, None, "x", [[]], DELETED)],
    *[("layers.0.units", value) for value in (0, -4, 60_000, 2**40, "4", DELETED)],
    *[("layers.0.activation", value) for value in ("swish", [], {}, 3, "softmax")],
    *[("layers.0.initializer", value) for value in ("none", [], None)],
    *[("layers.0.dropout", value) for value in (1.0, -0.1, "0", None, True)],
    ("layers.1.dropout", 0.5),
    ("layers.0.further", 1),
    *[("dtype", value) for value in ("float64", "object", "float16", [], None)],
    *[("seed", value) for value in (-1, 2**64, 0.5, None, DELETED)],
    *[("seeds", value) for value in ([1], [], 3)],
    *[("extra", value) for value in (None, [], "x", DELETED)],
    *[("format", value) for value in (0, -1, True, "1", None, DELETED)],
]


@pytest.mark.parametrize(("path", "new"), MODEL_CHANGES, ids=str)
def test_a_description_that_does_not_fit_is_refused(model_file, path, new):
    description, tensors = parts(model_file)
    seal(model_file, description, tensors)
    schuss.load(model_file)
    seal(model_file, changed(description, path, new), tensors)
    with pytest.raises(ModelFileError):
        schuss.load(model_file)


@pytest.mark.parametrize(
    "text", ["", "[]", "1", "{", "NaN", '{"format": NaN}', "[" * 100_000, '{"a":' * 90_000, "9" * 5000]
)
def test_a_text_that_is_no_description_is_refused(model_file, text):
    seal(model_file, text, parts(model_file)[1])
    with pytest.raises(ModelFileError, match="damaged"):
        schuss.load(model_file)


def test_a_deep_description_is_refused(model_file):
    description, tensors = parts(model_file)
    deep = []
    for _ in range(500):
        deep = [deep]
    seal(model_file, description | {"extra": {"about": deep}}, tensors)
    with pytest.raises(ModelFileError, match="deeper"):
        schuss.load(model_file)


def test_a_later_format_asks_for_an_update(model_file):
    description, tensors = parts(model_file)
    seal(model_file, description | {"format": 2}, tensors)
    with pytest.raises(ModelFileError, match="update schuss"):
        schuss.load(model_file)


def test_tensors_that_do_not_fit_are_refused(model_file):
    description, tensors = parts(model_file)
    W = tensors["layers.0.weights"]
    for change in (
        {"layers.0.weights": W.T.copy()},
        {"layers.0.weights": W.astype("float64")},
        {"layers.0.weights": W.astype("int32")},
        {"layers.0.weights": W.astype("float16")},
        {"layers.0.weights": np.full_like(W, np.nan)},
        {"layers.0.weights": np.full_like(W, np.inf)},
        {"layers.2.weights": W},
    ):
        seal(model_file, description, tensors | change)
        with pytest.raises(ModelFileError):
            schuss.load(model_file)
    seal(model_file, description, {name: one for name, one in tensors.items() if name != "layers.1.bias"})
    with pytest.raises(ModelFileError, match=r"layers\.1\.bias is missing"):
        schuss.load(model_file)


def test_a_dtype_that_numpy_lacks_is_refused(model_file):
    content = model_file.read_bytes().replace(b'"F32"', b'"I32"')
    model_file.write_bytes(content)
    with pytest.raises(ModelFileError):
        schuss.load(model_file)
    model_file.write_bytes(content.replace(b'"I32"', b'"F8_E5M2"'))
    with pytest.raises(ModelFileError):
        schuss.load(model_file)


def test_parameters_that_are_not_finite_are_not_saved(tmp_path):
    model = Population(2, [Dense(2)], members=3, seed=1)
    model.parameters[1, 0] = np.inf
    with pytest.raises(InputError, match="not all finite"):
        model.save(tmp_path / "model")
    assert not list(tmp_path.iterdir())
    (tmp_path / "folder").mkdir()
    with pytest.raises(ModelFileError, match="is no file"):
        schuss.load(tmp_path / "folder")


# -- encodings ---------------------------------------------------------------------------------------------------------------

TABLE = {"number": [*range(11), None], "text": ["a", "b", "c"] * 4}
ENCODING_CHANGES = [
    *[("columns", value) for value in ([], None, {}, [[]])],
    *[("columns.0.name", value) for value in (3, None, "text", "y", DELETED)],
    *[("columns.0.median", value) for value in (None, "0", 10**400, True)],
    *[("columns.0.marks_missing", value) for value in (1, None, False)],
    *[("columns.1.categories", value) for value in ([], ["a", "a", "b"], ["a", "b"], [1, 2, 3], "abc", None)],
    *[("feature_mean", value) for value in ([], [0.0], None, [0, 0, 0, 0, "0"])],
    *[("feature_deviation", value) for value in ([1, 1, 1, 1, 0], [1, 1, 1, 1, -1], 1.0)],
    *[("target", value) for value in (None, 3, DELETED)],
    *[("target_mean", value) for value in (None, "0")],
    *[("target_deviation", value) for value in (0, -1, None)],
    *[("classes", value) for value in (["a", "b"], ["a"], "ab", [1])],
    *[("levels", value) for value in ([0.1, 0.9], [0], [1], 0.5)],
    *[("clip", value) for value in (0, -1, "x")],
    ("further", 1),
]


@pytest.fixture(scope="module")
def table_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("table") / "model"
    tabular.fit(TABLE | {"y": [0.5 * i for i in range(12)]}, "y", epochs=1, folds=2, layers=[[2]]).save(path)
    return path


@pytest.mark.parametrize(("path", "new"), ENCODING_CHANGES, ids=str)
def test_an_encoding_that_does_not_fit_is_refused_on_loading(table_file, tmp_path, path, new):
    model, extra = checkpoint.load_with_extra(table_file)
    extra["encoding"] = changed(extra["encoding"], path, new)
    checkpoint.save(model, tmp_path / "model", extra=extra)
    for reader in (tabular.load, described):
        with pytest.raises(ModelFileError):
            reader(tmp_path / "model")


def test_whole_numbers_of_an_encoding_are_numbers(table_file, tmp_path):
    model, extra = checkpoint.load_with_extra(table_file)
    extra["encoding"] = changed(extra["encoding"], "clip", 2**64)
    extra["encoding"]["feature_mean"][0] = 2**70
    checkpoint.save(model, tmp_path / "model", extra=extra)
    assert np.isfinite(tabular.load(tmp_path / "model").predict(TABLE)).all()


def test_what_is_said_about_a_training_is_a_record(table_file, tmp_path):
    model, extra = checkpoint.load_with_extra(table_file)
    checkpoint.save(model, tmp_path / "model", extra=extra | {"about": [1]})
    with pytest.raises(ModelFileError, match="about must be an object"):
        tabular.load(tmp_path / "model")


# -- checkpoints -------------------------------------------------------------------------------------------------------------

rng = np.random.default_rng(0)
X, Y = rng.normal(size=(20, 3)), rng.normal(size=(20, 1))


def cut_off(path, optimizer, engine="cpu", **options):
    """Write a checkpoint in the middle of a run of two members."""

    def write(training, history):
        training.checkpoint(path)
        return True

    model = Population(3, [Dense(2, "tanh"), Dense(1)], members=2, seed=1)
    with Training(model, X, Y, validation=(X, Y), engine=engine, **options) as training:
        training.run(9, optimizer, early_stopping=EarlyStopping(patience=5), callbacks=[write])
    return parts(path, "schuss_training")


DESCRIPTION_CHANGES = [
    *[("step", value) for value in (-1, 2**62, 10**9, 0.5, None, True, DELETED)],
    *[("run.begin", value) for value in (-2, 5, 2**62, None)],
    *[("run.epochs", value) for value in (-1, 0, "9", DELETED)],
    *[("run", value) for value in ([], 3, DELETED)],
    *[("optimizer", value) for value in (["LBFGS", 0], ["LBFGS", 101], ["SGD", 0], ["Adam", 1])],
    *[("optimizer", value) for value in (["Adam"], "Adam", ["x", 0], None)],
    *[("model.inputs", value) for value in (4, 60_000)],
    *[("model.seeds", value) for value in ([1], [1, 2, 3], DELETED)],
    ("model.format", 1),
    *[("cost.name", value) for value in ("mse", [], None, "huber", "quantile")],
    *[("cost.option", value) for value in ([], [1.0], [0.0, 0.0], 0.0)],
    *[("options.l2", value) for value in ([], [0.0], 0.0, [0.0, -1.0])],
    *[("options.batch_size", value) for value in (0, -8, 21, 8.0, None)],
    *[("options.average", value) for value in (1.0, 0, -1)],
    *[("options.shuffle", value) for value in ("x", None, 1)],
    *[("options.threads", value) for value in (1, 2**31)],
    *[("options.seed", value) for value in (-1, 2**64)],
    *[("data", value) for value in (None, [], [[20, 3], [20, 1]], [[-20, 3], [20, 1], False, False, ""])],
    *[("validation", value) for value in (3, [[20, 3], [19, 1], False, False, ""])],
    *[("fates", value) for value in (None, {"lost": {}}, {"stopped": {"2": 1}}, {"stopped": {"-1": 1}})],
    ("fates", {"stopped": {"0": 99}}),
    ("format", 0),
    ("further", 1),
]  # fmt: skip


@pytest.mark.parametrize(("path", "new"), DESCRIPTION_CHANGES, ids=str)
def test_a_checkpoint_whose_description_does_not_fit_is_refused(tmp_path, path, new):
    description, tensors = cut_off(tmp_path / "c", Adam(0.01), batch_size=8, average=0.9)
    checkpoint.write_tensors(tmp_path / "c", "schuss_training", description, tensors)
    Training.resume(tmp_path / "c", X, Y, validation=(X, Y)).release()
    checkpoint.write_tensors(tmp_path / "c", "schuss_training", changed(description, path, new), tensors)
    with pytest.raises(ModelFileError):
        Training.resume(tmp_path / "c", X, Y, validation=(X, Y))


def column(array, which, value):
    array = array.copy()
    array[..., which] = value
    return array


BAD_NUMBERS = {
    "state.kept_pairs": (-3, -(2**62)),
    "state.fate": (77, -1),
    "state.fate_epoch": (-5, 2**40),
    "runner.scale": (0.0, -1.0, 2.0, np.nan, np.inf),
    "snapshot.step": (-1, 2**40),
    "snapshot.parameters": (np.nan,),
    "state.parameters": (np.nan, np.inf),
    "history.epoch": (0, -1, 2**40),
}


@pytest.mark.parametrize("optimizer", [SGD(0.1), LBFGS(history=3)], ids=lambda one: one.kind)
def test_numbers_that_no_training_has_are_refused(tmp_path, optimizer):
    description, tensors = cut_off(tmp_path / "c", optimizer, on_divergence="restart")
    bad = [(name, np.full_like(tensors[name], value)) for name, values in BAD_NUMBERS.items() for value in values]
    bad += [("state.progress", column(tensors["state.progress"], which, value))
            for which in (3, 4, 5) for value in (-1, 0.5, np.nan, np.inf, 2.0**60)]  # fmt: skip
    bad += [(name, np.concatenate([tensors[name]] * 2)) for name in tensors]
    bad += [(name, tensors[name].astype("float16")) for name in tensors]
    bad += [("state.square", tensors["state.parameters"]), ("other", tensors["state.fate"])]
    for name, array in bad:
        checkpoint.write_tensors(tmp_path / "c", "schuss_training", description, tensors | {name: array})
        with pytest.raises(ModelFileError):
            Training.resume(tmp_path / "c", X, Y, validation=(X, Y))
    for name in set(tensors) - {"state.best"}:  # without early stopping there is none
        left = {other: array for other, array in tensors.items() if other != name}
        checkpoint.write_tensors(tmp_path / "c", "schuss_training", description, left)
        with pytest.raises(ModelFileError):
            Training.resume(tmp_path / "c", X, Y, validation=(X, Y))


@pytest.mark.parametrize("optimizer", [SGD(0.1), Adam(0.01), LBFGS(history=3)], ids=lambda one: one.kind)
def test_an_optimizer_state_that_does_not_fit_is_refused(optimizer):
    model = Population(3, [Dense(2, "tanh"), Dense(1)], members=2, seed=1)
    with Training(model, X, Y) as training:
        training.run(4, optimizer)
        state = training.optimizer_state()
        training.load_optimizer_state(state)
        wrong = [
            ("kept_pairs", [-3, 0]),
            ("kept_pairs", [0.5, 0]),
            ("kept_pairs", 1),
            ("steps", [-1, 0]),
            ("steps", [np.nan, 0]),
        ]
        wrong += [("optimizer", "Momentum"), ("history", -1), ("history", 101), ("history", 0.5)]
        wrong += [(name, state[name][:, :1]) for name in ("velocity", "square", "pairs") if len(state[name])]
        wrong += [("velocity", np.zeros((2, 4))), ("pairs", np.zeros((2, 5, 2, 11)))]
        for name, value in wrong:
            with pytest.raises(InputError, match="optimizer's state"):
                training.load_optimizer_state(state | {name: np.asarray(value)})
        for other in ({}, None, {name: state[name] for name in state if name != "steps"}):
            with pytest.raises(InputError, match="missing"):
                training.load_optimizer_state(other)
        training.run(2, optimizer)


def test_a_state_that_waits_for_its_run_is_that_of_the_checkpoint(tmp_path):
    with Training(Network(3, [Dense(2), Dense(1)], seed=1), X, Y) as training:
        training.run(3, Adam(0.01))
        state = training.optimizer_state()
    with Training(Network(3, [Dense(2), Dense(1)], seed=1), X, Y, on_divergence="restart") as training:
        training.run(3, SGD(0.01))
        training.load_optimizer_state(state)
        training.checkpoint(tmp_path / "c")
    assert training_file.read(tmp_path / "c").description["optimizer"] == ["Adam", 0]
    with Training.resume(tmp_path / "c", X, Y) as training:
        training.run(2, Adam(0.01), resume=True)
        assert training.optimizer_state()["steps"].tolist() == [5.0]
