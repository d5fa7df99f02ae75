"""Callbacks outlive a run: used again, by the same training or another, they write each record once and lose none."""

import csv
import pickle
import signal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import data, network
from schuss import SGD, InputError, Training
from schuss.callbacks import Checkpoint, CSVLog, Lines
from schuss.interop.sklearn import MLPRegressor

X, Y = data(40, 2, 1)


def epochs_of(path):
    with path.open() as file:
        return [int(row["epoch"]) for row in csv.DictReader(file)]


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 4), st.sampled_from([1, 2])), min_size=1, max_size=6))
@settings(max_examples=40, deadline=None)
def test_any_order_of_runs_and_trainings_is_recorded_once(tmp_path_factory, runs):
    folder = tmp_path_factory.mktemp("log")
    log, path, expected, costs = CSVLog(folder / "log.csv"), folder / "log.csv", [], []
    trainings = [
        Training(network((2, 3, 1), ("tanh", "linear"), seed=seed), X, Y, engine="reference") for seed in (1, 2)
    ]
    for second, epochs, every in runs:
        training = trainings[second]
        history = training.run(epochs, SGD(0.1), callbacks=[log], record_every=every)
        expected += history.epoch.tolist()
        costs += history.cost.tolist()
    assert epochs_of(path) == expected
    with path.open() as file:
        assert [float(row["cost"]) for row in csv.DictReader(file)] == pytest.approx(costs, rel=1e-15)
    for training in trainings:
        training.release()


def test_a_log_of_other_columns_is_refused(tmp_path):
    log = CSVLog(tmp_path / "log.csv")
    with Training(network((2, 1), ("linear",)), X, Y) as training:
        training.run(2, SGD(0.1), callbacks=[log])
    with (
        Training(network((2, 1), ("linear",)), X, Y, validation=0.5) as training,
        pytest.raises(
            InputError, match="has the columns epoch, cost, and this run records epoch, cost, validation_cost"
        ),
    ):
        training.run(2, SGD(0.1), callbacks=[log])
    assert epochs_of(tmp_path / "log.csv") == [1, 2]


def test_partial_fit_and_adaptive_rates_log_every_epoch(tmp_path, capsys):
    model = MLPRegressor(random_state=0, callbacks=[CSVLog(tmp_path / "a.csv"), Lines()])
    for _ in range(6):
        model.partial_fit(X, Y[:, 0])
    assert epochs_of(tmp_path / "a.csv") == [1] * 6
    assert len(capsys.readouterr().out.splitlines()) == 6
    adaptive = {
        "solver": "sgd",
        "learning_rate": "adaptive",
        "learning_rate_init": 0.1,
        "tol": 1e-2,
        "n_iter_no_change": 2,
    }
    log = CSVLog(tmp_path / "b.csv")
    model = MLPRegressor(hidden_layer_sizes=(4,), **adaptive, random_state=0, callbacks=[log]).fit(X, Y[:, 0])
    assert epochs_of(tmp_path / "b.csv") == list(range(1, model.n_iter_ + 1))


def test_what_has_logged_can_be_stored(tmp_path):
    callbacks = [CSVLog(tmp_path / "log.csv"), Checkpoint(tmp_path / "c"), Lines()]
    model = MLPRegressor(max_iter=5, n_iter_no_change=2, tol=10.0, random_state=0, callbacks=callbacks).fit(X, Y[:, 0])
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.predict(X), model.predict(X))
    again.fit(X, Y[:, 0])
    assert epochs_of(tmp_path / "log.csv") == [*range(1, model.n_iter_ + 1)] * 2


def test_a_checkpoint_follows_the_training_that_runs(tmp_path):
    keep = Checkpoint(tmp_path / "c", every=5)
    for seed in (1, 2):
        with Training(network((2, 1), ("linear",), seed=seed), X, Y) as training:
            training.run(20, SGD(0.1), callbacks=[keep])
        with Training.resume(tmp_path / "c", X, Y) as training:
            assert training.model.seed == seed


def test_a_handler_outside_python_keeps_ctrl_c(monkeypatch):
    monkeypatch.setattr(signal, "getsignal", lambda number: None)  # what Python says of a handler that is not its own
    monkeypatch.setattr(signal, "signal", lambda *_: pytest.fail("it could not be put back"))
    with Training(network((2, 1), ("linear",)), X, Y) as training:
        assert len(training.run(3, SGD(0.1))) == 3


def test_names_of_the_package_are_those_it_offers():
    import schuss

    assert {"sweep", "compare", "Range", "Setting", "load", "report", "tabular"} <= set(dir(schuss))
    assert not {"Any", "import_module", "TYPE_CHECKING"} & set(dir(schuss))
    assert all(hasattr(schuss, name) for name in dir(schuss))
