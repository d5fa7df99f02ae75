"""Whatever a model file holds, with a digest that is right, is refused by ModelFileError or good."""

import hashlib
import json
import os

import numpy as np
import pytest
from safetensors.numpy import save_file

import schuss
from altered import DELETED, changed, parts
from schuss import (
    Dense,
    InputError,
    ModelFileError,
    Network,
    Population,
    checkpoint,
    tabular,
)
from schuss.table_commands import described


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


def test_folders_and_pipes_are_no_files(tmp_path):
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")  # nobody writes: opening it would wait for ever
    for name in ("folder", "pipe"):
        with pytest.raises(ModelFileError, match="is no file"):
            schuss.load(tmp_path / name)


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
