"""``schuss.tabular``: from a table to a model, whatever the table."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import schuss
from schuss import InputError, Network, tabular
from schuss.tables import CLIP, Encoding

EXAMPLES = Path(__file__).parent.parent / "examples"
QUICK = {"epochs": 30, "folds": 3, "repeats": 1, "layers": ((), (8,))}


def table_of(n=120, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.uniform(-1, 1, (n, 2))
    color = np.array(["red", "blue", "grün"])[rng.integers(0, 3, n)]
    return {"width": x[:, 0], "height": x[:, 1], "color": color, "price": 100 + 10 * x[:, 0] + 5 * (color == "red")}


def test_numbers_are_learned_and_come_back_in_their_units():
    model = tabular.fit(table_of(), "price")
    new = table_of(seed=1)
    mean, deviation = model.predict(new, return_std=True)
    assert np.sqrt(np.square(mean - new["price"]).mean()) < 0.7
    assert (deviation > 0).all()
    assert model.score(new) == pytest.approx(1 - np.square(mean - new["price"]).mean() / new["price"].var())


def test_classes_are_learned_by_name():
    model = tabular.fit(EXAMPLES / "wine.csv", "cultivar", **QUICK)
    assert model.classes == ("first", "second", "third")
    assert model.score(EXAMPLES / "wine.csv") > 0.95
    chances = model.predict_proba(EXAMPLES / "wine.csv")
    np.testing.assert_allclose(chances.sum(axis=1), 1, atol=1e-6)
    assert (np.array(model.classes)[chances.argmax(axis=1)] == model.predict(EXAMPLES / "wine.csv")).all()


def test_a_row_is_judged_by_those_who_have_not_seen_it():
    """Targets without any sense: what was seen can be learned by heart, what was not cannot be guessed."""
    rng = np.random.default_rng(0)
    table = {"x": rng.random(60), "y": rng.random(60), "noise": rng.normal(size=60)}
    model = tabular.fit(
        table,
        "noise",
        layers=((64, 64),),
        learning_rate=(0.003,),
        weight_decay=(0.0,),
        dropout=0.0,
        epochs=150,
        folds=3,
    )
    found = model.encoding.prediction(model.out_of_fold.outputs)
    assert 1 - np.square(found - table["noise"]).mean() / table["noise"].var() < 0.2
    assert model.settings[0].cost == pytest.approx(
        0.5 * np.square(model.out_of_fold.outputs[:, 0] - model.encoding.y(pl.DataFrame(table))).mean()
    )
    assert [one.cost for one in model.settings] == sorted(one.cost for one in model.settings)


def test_settings_that_are_not_clearly_worse_predict_together():
    table = table_of()
    table["price"] = table["price"] + np.random.default_rng(5).normal(0, 5, 120)
    one, two, far = (
        tabular.fit(table, "price", layers=((8,),), learning_rate=rates, weight_decay=(0.1,), epochs=60, folds=3)
        for rates in ([0.01], [0.01, 0.0101], [0.01, 1e-6])
    )
    assert (len(one.model), len(two.model), len(far.model)) == (3, 6, 3)
    np.testing.assert_array_equal(far.model.parameters, one.model.parameters)
    y = two.encoding.y(pl.DataFrame(table))
    assert two.about["out_of_fold_cost"] == pytest.approx(
        0.5 * np.square(two.out_of_fold.outputs[:, 0] - y).mean(), rel=1e-6
    )
    halves = [two.model[first : first + 3](two.encoding.x(pl.DataFrame(table))).mean(axis=0) for first in (0, 3)]
    np.testing.assert_allclose(two.encoding.prediction(sum(halves) / 2), two.predict(table), rtol=1e-5)


def test_the_same_seed_gives_the_same_bits_for_any_number_of_threads():
    models = [tabular.fit(table_of(), "price", seed=4, threads=threads, **QUICK) for threads in (1, 2)]
    assert models[0].model.parameters.tolist() == models[1].model.parameters.tolist()


def test_pandas_polars_files_and_dictionaries_are_the_same(tmp_path):
    pandas = pytest.importorskip("pandas")
    table = table_of()
    pl.DataFrame(table).write_parquet(tmp_path / "t.parquet")
    frame = pandas.DataFrame(table).astype({"color": "category"})
    given = [table, pl.DataFrame(table), frame, tmp_path / "t.parquet"]
    found = [tabular.fit(one, "price", **QUICK).model.parameters.tolist() for one in given]
    assert all(one == found[0] for one in found)


def test_columns_may_come_in_another_order_with_more_beside_them():
    table = table_of()
    model = tabular.fit(table, "price", **QUICK)
    other = {"further": np.zeros(120)} | dict(reversed(table.items()))
    np.testing.assert_array_equal(model.predict(other), model.predict(table))


def test_a_category_that_was_not_there_is_none_of_the_known_and_named():
    model = tabular.fit(table_of(), "price", **QUICK)
    with pytest.warns(UserWarning, match="values not seen in training \\('mauve'\\)"):
        found = model.predict(table_of() | {"color": ["mauve"] * 120})
    assert np.isfinite(found).all()


def test_a_column_without_values_is_left_out_and_named():
    with pytest.warns(UserWarning, match="'empty' is empty and left out"):
        model = tabular.fit(table_of() | {"empty": [None] * 120}, "price", **QUICK)
    assert "empty" not in [column.name for column in model.encoding.columns]
    with pytest.warns(UserWarning, match="60 rows without a value in 'price'"):
        model = tabular.fit(pl.DataFrame(table_of()).with_columns(pl.when(pl.col("width") > -9).then("price")
                            .shift(60).alias("price")), "price", **QUICK)  # fmt: skip
    assert model.out_of_fold.rows.tolist() == list(range(60, 120))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"width": ["wide"] * 120}, "column 'width' was numeric in training but holds String"),
        ({"width": None}, "columns that are missing: 'width'"),
    ],
)
def test_columns_of_another_kind_are_refused(change, words):
    model = tabular.fit(table_of(), "price", **QUICK)
    other = {name: column for name, column in (table_of() | change).items() if column is not None}
    with pytest.raises(InputError, match=words):
        model.predict(other)


def test_tables_that_cannot_be_learned_say_why(tmp_path):
    pandas = pytest.importorskip("pandas")
    table = table_of()
    twice = pandas.DataFrame(np.zeros((20, 3)), columns=["a", "a", "price"])
    (tmp_path / "twice.csv").write_text("a,b,a\n1,2,3\n")
    (tmp_path / "wide.csv").write_text(",".join(f"c{i}" for i in range(1_000_000)) + "\n")
    cases = [
        (twice, "price", "several columns of the name 'a'"),
        (tmp_path / "twice.csv", "b", "several columns of the name 'a'"),
        (tmp_path / "wide.csv", "c1", "1000000 columns; a dense network for more than 100000"),
        (table, "prize", "has no column 'prize'"),
        (table | {"price": ["one"] * 120}, "price", "has 1 class in 120 rows"),
        (table | {"price": [1.0] * 120}, "price", "is constant"),
        (table | {"price": [*[1.0] * 119, np.inf]}, "price", "infinity in row 119"),
        (table | {"width": [*[1.0] * 119, np.inf]}, "price", "infinity in row 119"),
        ({name: column[:5] for name, column in table.items()}, "price", "at least 10 are needed"),
        ({"price": table["price"]}, "price", "no column is left"),
        (table | {"width": [[1]] * 120}, "price", "cannot be used"),
        ({"a": [1, 2], "b": [1]}, "a", "make no table"),
        ([1, 2, 3], "price", "a table is a polars or pandas frame"),
        ({}, "price", "has no column"),
    ]
    for given, target, words in cases:
        with pytest.raises(InputError, match=words):
            tabular.fit(given, target)
    with pytest.raises(FileNotFoundError):
        tabular.fit(tmp_path / "none.csv", "a")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"folds": 1}, "folds"),
        ({"epochs": 0}, "epochs"),
        ({"layers": ()}, "layers"),
        ({"learning_rate": 0.1}, "learning_rate"),
    ],
)
def test_wrong_arguments_are_named(options, words):
    with pytest.raises(InputError, match=words):
        tabular.fit(table_of(), "price", **options)


def test_the_robust_rule_by_hand():
    numbers = [0.0, 1.0, 2.0, 3.0, 1000.0]
    flags = [0.0, 0.0, 0.0, 0.0, 5.0]
    table = pl.DataFrame({"a": numbers, "b": flags, "y": [0.0, 1, 2, 3, 4]})
    encoding, _ = Encoding.learn(table, "y", robust=True)
    x = encoding.x(table)
    scaled = (1000 - 2) / 2  # median 2, quartiles 1 and 3
    assert x[4, 0] == pytest.approx(scaled / np.sqrt(1 + (scaled / CLIP) ** 2))
    assert x[1, 0] == pytest.approx(-0.5 / np.sqrt(1 + 0.25 / 100))
    assert x[4, 1] == pytest.approx(2 / np.sqrt(1 + 4 / 100))  # no spread of the middle half: half the range is 2.5
    assert np.abs(x).max() < CLIP


def test_a_model_travels(tmp_path):
    model = tabular.fit(table_of(), "price", **QUICK)
    model.save(tmp_path / "m.safetensors")
    again = tabular.load(tmp_path / "m.safetensors")
    np.testing.assert_array_equal(again.predict(table_of(seed=2)), model.predict(table_of(seed=2)))
    assert again.about["rows"] == 120
    Network(1, [schuss.Dense(1)], seed=0).save(tmp_path / "n.safetensors")
    with pytest.raises(InputError, match="no table encoding"):
        tabular.load(tmp_path / "n.safetensors")


# -- files that were written before ---------------------------------------------------------------------------------------

FILES = Path(__file__).parent / "files"


@pytest.mark.parametrize("version", sorted(path.name for path in FILES.iterdir() if path.is_dir()))
def test_files_of_every_version_load_and_predict_what_they_did(version):
    expected = json.loads((FILES / version / "expected.json").read_text())
    x = np.array(expected["x"])
    for name in ("network", "population"):
        model = schuss.load(FILES / version / f"{name}.safetensors")
        np.testing.assert_allclose(model(x), expected[name], rtol=1e-5, atol=1e-6)
    for name in ("numbers", "classes", "quantiles"):
        model = tabular.load(FILES / version / f"{name}.safetensors")
        np.testing.assert_allclose(model.outputs(expected["table"])[0], expected[name], rtol=1e-5, atol=1e-6)
    x, y = np.array(expected["train_x"]), np.array(expected["train_y"])
    with schuss.Training.resume(FILES / version / "checkpoint.safetensors", x, y, engine="reference") as training:
        training.run(2, schuss.Adam(0.01))
        np.testing.assert_allclose(training.model.parameters, expected["resumed"], rtol=1e-4, atol=1e-5)
