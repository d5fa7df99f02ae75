"""The command line, from files to files."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import schuss
from schuss import checkpoint, training_file
from schuss.callbacks import Checkpoint
from schuss.cli import main

ROOT = Path(__file__).parent.parent
DIABETES = ROOT / "examples" / "diabetes.csv"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def table(rows=120, seed=0):
    rng = np.random.default_rng(seed)
    size = rng.uniform(0, 10, rows)
    kind = rng.choice(["rot", "grün", "blau"], rows)
    effect = {"rot": 0.0, "grün": 5.0, "blau": -5.0}
    value = size + np.array([effect[k] for k in kind]) + rng.normal(0, 0.1, rows)
    return pl.DataFrame({"Größe": size, "kind": kind, "flag": rng.random(rows) > 0.5, "value": value})


def train(*arguments):
    return main(["train", *arguments])


def test_the_shipped_table_is_learned_and_predicted(capsys):
    assert train(str(DIABETES), "--target", "progression") == 0
    printed = capsys.readouterr().out
    assert "linear least squares" in printed
    assert "mean of the training rows" in printed
    assert Path("diabetes.png").read_bytes().startswith(b"\x89PNG")
    assert main(["predict", "diabetes.safetensors", str(DIABETES), "--output", "out.csv"]) == 0
    predicted = pl.read_csv("out.csv")["progression"].to_numpy()
    observed = pl.read_csv(DIABETES)["progression"].to_numpy()
    assert np.corrcoef(predicted, observed)[0, 1] > 0.6


def test_the_scaling_in_the_file_gives_the_predictions_of_training(capsys):
    table().write_parquet("t.parquet")
    assert train("t.parquet", "--target", "value", "--seed", "3") == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if "network " in line and "." in line]
    root_mean_square = float(rows[-1][1])
    assert main(["predict", "t.safetensors", "t.parquet", "--output", "out.parquet"]) == 0
    error = pl.read_parquet("out.parquet")["value"] - table()["value"]
    order = np.random.default_rng(3).permutation(120)[:24]  # the test rows: a fifth
    assert np.sqrt((error.to_numpy()[order] ** 2).mean()) == pytest.approx(root_mean_square, rel=1e-3)


def test_columns_may_come_in_another_order_with_gaps_and_new_values(capsys):
    table().with_columns(pl.when(pl.col("Größe") > 9).then(None).otherwise("Größe").alias("Größe")).write_csv("t.csv")
    assert train("t.csv", "--target", "value") == 0
    changed = table(20, seed=1).select("flag", "kind", "Größe").with_columns(pl.lit("lila").alias("kind"))
    changed.with_columns(pl.lit(None, pl.Float64).alias("Größe")).write_csv("new.csv")
    capsys.readouterr()
    assert main(["predict", "t.safetensors", "new.csv"]) == 0
    captured = capsys.readouterr()
    assert "values not seen in training ('lila')" in captured.err
    assert captured.out.splitlines()[0] == "value"
    assert np.isfinite([float(line) for line in captured.out.splitlines()[1:]]).all()


def test_notes_name_what_is_left_out(capsys):
    plain = table().with_columns(
        pl.lit(1).alias("same"), pl.arange(0, 120).cast(pl.String).str.replace("^", "id").alias("id")
    )
    plain.with_columns(pl.when(pl.col("flag")).then(pl.col("value")).alias("value")).write_csv("t.csv")
    assert train("t.csv", "--target", "value", "--epochs", "5") == 0
    notes = capsys.readouterr().err
    assert "'same' is constant" in notes
    assert "rows without a value in 'value' are left out" in notes


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"a,value\n", "0 rows with a value"),
        (b"a,value\n1,2\n", "1 rows with a value"),
        (b"a,b\n1,2\n", "no column 'value'; it has 'a', 'b'"),
        (b"a,value\n" + b"1,5\n" * 30, "'value' is constant"),
        (b"a,value\n" + b"1,yes\n2,yes\n" * 30, "1 class in 60 rows; at least 2 classes"),
        (b"a,value\n" + b"1,2\n1,3\n" * 30, "no column is left"),
        (b"value\n" + b"1\n2\n" * 30, "no column is left"),
        ("größe,value\n1,2\n2,3\n".encode("latin-1") * 10, "UTF-8"),
        (b"a,value\n" + b"1,2\ninf,3\n" * 30, "infinity in row"),
        (b"a,value\n" + b"1,2\n2,inf\n" * 30, "infinity in row 1"),
    ],
)
def test_tables_that_cannot_be_used_are_refused_before_any_work(content, message, capsys):
    Path("t.csv").write_bytes(content)
    assert train("t.csv", "--target", "value") == 2
    assert message in capsys.readouterr().err
    assert os.listdir() == ["t.csv"]


def test_dates_are_refused_and_may_be_ignored(capsys):
    table().with_columns(pl.lit("2024-01-01").str.to_date().alias("day")).write_parquet("t.parquet")
    assert train("t.parquet", "--target", "value") == 2
    assert "column 'day' holds Date" in capsys.readouterr().err
    assert train("t.parquet", "--target", "value", "--ignore", "day", "--epochs", "3") == 0


def test_files_that_are_not_there_or_are_no_tables(capsys):
    Path("t.txt").write_text("a,b")
    for path, message in (("none.csv", "there is no table"), ("t.txt", "pass a .csv or .parquet")):
        assert train(path, "--target", "value") == 2
        assert message in capsys.readouterr().err
    table().write_csv("t.csv")
    assert train("t.csv", "--target", "value", "--model", "none/m.safetensors") == 2
    assert "there is no folder" in capsys.readouterr().err
    assert train("t.csv", "--target", "value", "--layers", "many") == 2
    assert "--layers must be numbers" in capsys.readouterr().err


def test_prediction_refuses_what_does_not_fit(capsys):
    table().write_csv("t.csv")
    assert train("t.csv", "--target", "value", "--epochs", "3") == 0
    table().drop("kind", "flag").write_csv("fewer.csv")
    table().with_columns(pl.lit("tall").alias("Größe")).write_csv("text.csv")
    schuss.Network(3, [schuss.Dense(1)]).save("bare.safetensors")
    Path("cut.safetensors").write_bytes(Path("t.safetensors").read_bytes()[:-5])
    for arguments, message in (
        (["t.safetensors", "fewer.csv"], "columns that are missing: 'kind', 'flag'"),
        (["t.safetensors", "text.csv"], "'Größe' was numeric in training but holds String"),
        (["bare.safetensors", "t.csv"], "no table encoding"),
        (["cut.safetensors", "t.csv"], "cut short"),
    ):
        assert main(["predict", *arguments, "--output", "never.csv"]) == 2
        assert message in capsys.readouterr().err
    assert not Path("never.csv").exists()


def test_ctrl_c_keeps_what_was_learned():
    table(4000).write_csv("t.csv")
    command = [
        sys.executable,
        "-m",
        "schuss",
        "train",
        "t.csv",
        "--target",
        "value",
        "--epochs",
        "10000000",
        "--patience",
        "10000000",
        "--checkpoint",
        "c",
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not Path("c").exists() and process.poll() is None:  # it trains, however long the imports took
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "what was learned until then is in the model" in errors
    network, extra = checkpoint.load_with_extra("t.safetensors")
    assert extra["encoding"]["target"] == "value"
    assert np.isfinite(network.parameters).all()


@pytest.mark.parametrize("ensemble", [False, True])
def test_sweep_keeps_the_best(capsys, ensemble):
    path = str(DIABETES)
    options = [
        "--layers",
        "8",
        "--layers",
        "4,4",
        "--learning-rate",
        "0.003..0.1",
        "--draws",
        "6",
        "--batch-size",
        "32,full",
    ]
    extra = ["--epochs", "30", "--halving"] + ["--ensemble"] * ensemble
    assert main(["sweep", path, "--target", "progression", *options, *extra]) == 0
    out = capsys.readouterr().out
    assert "the best of 6 settings on 3 seeds" in out
    assert "linear least squares" in out
    assert Path("diabetes.png").stat().st_size > 5000
    assert main(["predict", "diabetes.safetensors", path]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == ("progression,progression deviation" if ensemble else "progression")
    assert len(lines) == 443


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--learning-rate", "fast"], "--learning-rate must be like 0.1"),
        (["--learning-rate", "1..0.1"], "a range needs low < high"),
        (["--batch-size", "many"], "--batch-size must be like 32"),
        (["--layers", "8,x"], "--layers must be numbers of units"),
        (["--activation", "tanh,tan"], "unknown activation 'tan'"),
        (["--learning-rate", "0.1", "--weight-decay", "0", "--layers", "4"], "at least two settings"),
    ],
)
def test_what_a_sweep_refuses(capsys, options, message):
    path = str(DIABETES)
    assert main(["sweep", path, "--target", "progression", *options]) == 2
    assert message in capsys.readouterr().err
    assert not Path("diabetes.safetensors").exists()


def test_engines_and_bench_print_tables(capsys):
    assert main(["engines"]) == 0
    assert "reference" in capsys.readouterr().out
    assert main(["bench", "--seconds", "0.05"]) == 0
    assert "16-256-256-4" in capsys.readouterr().out
    assert main(["bench", "--seconds", "0"]) == 2


def test_an_absent_engine_says_why(monkeypatch, capsys):
    monkeypatch.setenv("SCHUSS_INSTRUCTION_SET", "mmx")
    assert main(["engines"]) == 0
    assert "'mmx' is not available" in capsys.readouterr().out


# -- classes, quantiles, optimizers, checkpoints -----------------------------------------------------------------------------

WINE = ROOT / "examples" / "wine.csv"


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "rmsprop", "lbfgs"])
def test_classes_are_learned_and_predicted(optimizer, capsys):
    assert train(str(WINE), "--target", "cultivar", "--optimizer", optimizer) == 0
    printed = capsys.readouterr().out
    assert "most frequent class of the training rows" in printed
    assert "log loss" in printed
    assert main(["predict", "wine.safetensors", str(WINE), "--probabilities", "--output", "out.csv"]) == 0
    predicted, observed = pl.read_csv("out.csv"), pl.read_csv(WINE)["cultivar"]
    assert (predicted["cultivar"] == observed).mean() > 0.95
    chances = predicted.select("P(first)", "P(second)", "P(third)").to_numpy()
    np.testing.assert_allclose(chances.sum(axis=1), 1, atol=1e-5)
    assert [("first", "second", "third")[k] for k in chances.argmax(axis=1)] == predicted["cultivar"].to_list()


def test_numbers_and_truth_values_may_be_classes():
    rows = table(200).with_columns(grade=(pl.col("Größe") / 4).floor().cast(pl.Int64) * 10, big=pl.col("value") > 5)
    rows.write_parquet("t.parquet")
    for target, more in (("grade", ["--classify"]), ("big", [])):
        assert train("t.parquet", "--target", target, *more, "--optimizer", "adam") == 0
        assert main(["predict", "t.safetensors", "t.parquet", "--output", "out.parquet"]) == 0
        predicted = pl.read_parquet("out.parquet")[target].to_list()
        assert np.mean([str(a).lower() == b for a, b in zip(rows[target].to_list(), predicted, strict=True)]) > 0.8


def test_quantiles_are_columns():
    assert train(str(DIABETES), "--target", "progression", "--quantiles", "0.1,0.9", "--optimizer", "adam") == 0
    assert main(["predict", "diabetes.safetensors", str(DIABETES), "--output", "out.csv"]) == 0
    found = pl.read_csv("out.csv")
    assert found.columns == ["progression 0.1", "progression 0.9"]
    inside = pl.read_csv(DIABETES)["progression"].is_between(found["progression 0.1"], found["progression 0.9"])
    assert 0.6 < inside.mean() < 0.95


def test_counts_are_learned_by_poisson():
    rng = np.random.default_rng(0)
    x = rng.uniform(size=500)
    pl.DataFrame({"x": x, "count": rng.poisson(np.exp(2 * x))}).write_csv("t.csv")
    assert train("t.csv", "--target", "count", "--cost", "poisson", "--optimizer", "adam") == 0
    pl.DataFrame({"x": [0.0, 1.0]}).write_csv("new.csv")
    assert main(["predict", "t.safetensors", "new.csv", "--output", "out.csv"]) == 0
    np.testing.assert_allclose(pl.read_csv("out.csv")["count"], [1, np.exp(2)], rtol=0.35)


def test_a_run_that_was_killed_is_resumed_to_the_same_bits(monkeypatch):
    monkeypatch.setattr("schuss.runs._CHUNK_SECONDS", 0.0)
    arguments = (str(DIABETES), "--target", "progression", "--optimizer", "adam", "--epochs", "50")
    write = Checkpoint.__call__

    def write_and_fail(self, training, history):
        write(self, training, history)
        if training.epochs >= 20:
            raise HaltError

    assert train(*arguments, "--model", "whole.safetensors") == 0
    resumable = (*arguments, "--checkpoint", "c", "--resume", "--model", "cut.safetensors")
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "__call__", write_and_fail)
        with pytest.raises(HaltError):
            train(*resumable)
    assert not Path("cut.safetensors").exists()
    assert training_file.read("c").description["run"]["epochs"] == 50
    assert train(*resumable) == 0
    whole, cut = (schuss.load(f"{name}.safetensors") for name in ("whole", "cut"))
    assert cut.parameters.tobytes() == whole.parameters.tobytes()


class HaltError(Exception):
    pass


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--target", "cultivar", "--cost", "huber"], "is learned as classes, by cross-entropy; leave out --cost"),
        (["--target", "ash", "--cost", "cross_entropy"], "is for classes; add --classify"),
        (["--target", "ash", "--classify", "--resume"], "--resume goes on from a checkpoint; name it by --checkpoint"),
        (["--target", "ash", "--quantiles", "0.5,high"], "--quantiles must be like"),
        (["--target", "ash", "--quantiles", "0.5,2"], "quantile levels must be inside"),
        (["--target", "ash", "--dropout", "1"], "dropout must be a share"),
        (["--target", "proline", "--classify"], "different values, more than 100 classes"),
    ],
)
def test_objectives_that_do_not_fit_are_named(arguments, message, capsys):
    assert train(str(WINE), *arguments) == 2
    assert message in capsys.readouterr().err
    assert not list(Path().glob("*.safetensors"))


def test_a_sweep_refuses_classes_and_says_what_learns_them(capsys):
    assert main(["sweep", str(WINE), "--target", "cultivar"]) == 2
    assert "schuss train learns its classes" in capsys.readouterr().err


def test_probabilities_of_numbers_are_refused(capsys):
    assert train(str(DIABETES), "--target", "progression", "--epochs", "2") == 0
    assert main(["predict", "diabetes.safetensors", str(DIABETES), "--probabilities"]) == 2
    assert "--probabilities is for classes" in capsys.readouterr().err
