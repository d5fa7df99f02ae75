"""Sweeps and comparisons: the ranking is that of single trainings, divergence ranks worst, chance claims nothing."""

import numpy as np
import pytest

import schuss
from conftest import data
from schuss import SGD, Dense, InputError, Network, Range, Setting, Training, compare, sweep
from schuss.comparison import compared

X, Y = data(60, 3, 1, dtype="float32")
HELD = data(30, 3, 1, seed=1, dtype="float32")
LAYERS = [Dense(6, "tanh"), Dense(1)]


def test_a_sweep_ranks_as_single_trainings_would():
    found = sweep(
        X, Y, validation=HELD, epochs=40, layers=[(6,), (4, 3)], batch_size=[None, 16],
        learning_rate=[0.01, 0.1], weight_decay=[0.0, 0.1], momentum=[0.5], seeds=3, seed=7,
    )  # fmt: skip
    assert len(found.candidates) == 16
    costs = [candidate.cost for candidate in found.candidates]
    assert costs == sorted(costs)
    seeds = schuss.philox.derived_seeds(3, 7)
    for candidate in found.candidates[::5]:
        dense = [*(Dense(units, "tanh") for units in candidate.layers), Dense(1)]
        alone = []
        for seed in seeds:
            with Training(Network(3, dense, seed=seed), X, Y, batch_size=candidate.batch_size, seed=7) as training:
                training.run(40, SGD(candidate.learning_rate, candidate.weight_decay, candidate.momentum))
                alone.append(training.cost(*HELD))
        assert (candidate.low, candidate.cost, candidate.high) == tuple(sorted(alone))
    best = found.network
    with Training(best.copy(), X, Y) as training:
        assert training.cost(*HELD) == pytest.approx(found.best.low, rel=1e-6)
    assert found.ensemble().members == 3


def test_the_worse_half_is_retired_at_rungs():
    options = {"validation": HELD, "layers": [(6,)], "learning_rate": np.geomspace(1e-4, 0.1, 8), "seeds": 2}
    full = sweep(X, Y, epochs=80, **options)
    halved = sweep(X, Y, epochs=80, successive_halving=True, **options)
    assert [candidate.epochs for candidate in halved.candidates] == [80, 20 * 2, 20, 20, 10, 10, 10, 10]
    assert halved.best == full.best  # the survivor was trained as if the others had not been there


def test_divergence_ranks_last_and_is_counted():
    options = {"validation": HELD, "epochs": 60, "layers": [(6,)], "activation": "relu"}
    found = sweep(X, 1e3 * Y, learning_rate=[1e-6, 1e4], seeds=3, **options)
    assert found.best.learning_rate == 1e-6
    assert found.candidates[1].cost == np.inf
    assert found.candidates[1].diverged == 3
    with pytest.raises(schuss.SchussError, match="every setting of the sweep diverged"):
        sweep(X, 1e3 * Y, learning_rate=[1e5, 1e6], **options)


def test_random_draws_stay_in_their_range_and_repeat():
    options = {"validation": HELD, "epochs": 3, "layers": [(4,), (5,)], "learning_rate": Range(1e-3, 1e-1), "draws": 30}
    first, second = (
        sweep(X, Y, momentum=Range(0, 0.9, log=False), **options),
        sweep(X, Y, momentum=Range(0, 0.9, log=False), **options),
    )
    assert first.to_dict() == second.to_dict()
    rates = np.array([candidate.learning_rate for candidate in first.candidates])
    assert len(np.unique(rates)) == 30
    assert rates.min() >= 1e-3
    assert rates.max() <= 1e-1
    assert 3 < (rates < 1e-2).sum() < 27  # half of a logarithmic range lies below its geometric middle
    assert {candidate.layers for candidate in first.candidates} == {(4,), (5,)}


def test_a_sweep_is_a_tidy_table_and_a_picture(tmp_path):
    found = sweep(X, Y, validation=HELD, epochs=3, layers=[(4,), (5,)], learning_rate=[0.01, 0.1], batch_size=[None, 8])
    table = found.to_polars()
    assert table.shape == (8, 12)
    assert table["cost"].to_list() == found.to_dict()["cost"]
    found.plot(tmp_path / "sweep.png")
    assert (tmp_path / "sweep.png").stat().st_size > 5000
    assert "sweep of 8 settings on 3 seeds; best: layers" in repr(found)


def test_an_interrupted_sweep_returns_what_is_finished(monkeypatch):
    from schuss import sweeps

    run = sweeps._Group.run
    calls = []

    def interrupted(self, epochs, look):
        calls.append(1)
        return run(self, epochs, look) or len(calls) == 2

    monkeypatch.setattr(sweeps._Group, "run", interrupted)
    found = sweep(X, Y, validation=HELD, epochs=3, layers=[(4,), (5,), (6,)], learning_rate=[0.01, 0.1])
    assert found.interrupted
    assert len(found.candidates) == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"learning_rate": 0.1}, "at least two settings"),
        ({"learning_rate": []}, "learning_rate"),
        ({"learning_rate": [0.1, -1]}, "learning_rate must be at least 0"),
        ({"momentum": [0.5, 1.0]}, r"momentum must be in \[0, 1\)"),
        ({"layers": [8, 4]}, "layers must be a list of hidden layers"),
        ({"activation": ["tanh", "tan"]}, "unknown activation 'tan'"),
        ({"batch_size": [0, 4]}, "batch_size must be a whole number"),
        ({"seeds": 0}, "seeds must be a whole number"),
        ({"validation": HELD[0]}, "validation must be a pair"),
        ({"validation": (HELD[0][:, :2], HELD[1])}, "validation x has 2 columns"),
    ],
)
def test_what_makes_no_sweep(arguments, message):
    options = {"validation": HELD, "epochs": 3, "learning_rate": [0.1, 0.2], **arguments}
    with pytest.raises(InputError, match=message):
        sweep(X, Y, **options)


def test_ranges_check_themselves():
    for low, high in ((0, 1), (1, 1), (2, 1), (np.nan, 1), (1, np.inf)):
        with pytest.raises(InputError, match="a range needs"):
            Range(low, high)


def test_compare_sees_momentum_and_no_difference_where_there_is_none():
    slow, fast = Setting(LAYERS, SGD(0.05)), Setting(LAYERS, SGD(0.05, momentum=0.9))
    found = compare(slow, fast, X, Y, epochs=60, seeds=20)
    assert found.verdict == "b is better"
    assert found.interval[0] <= found.ratio <= found.interval[1] < 1
    assert compare(fast, slow, X, Y, epochs=60, seeds=20).verdict == "a is better"
    same = compare(slow, slow, X, Y, epochs=10, seeds=5)
    assert (same.ratio, same.interval, same.improved) == (1.0, (1.0, 1.0), 0.0)
    assert same.verdict == "no difference shown"


def test_a_diverged_run_ranks_worst_and_is_never_dropped():
    good, bad = np.array([1.0, 2, 3, 4, 5]), np.array([np.nan, np.inf, 0.1, 0.1, 0.1])
    found = compared(good, bad)
    assert found.diverged == (0, 2)
    assert found.improved == 0.6
    assert found.interval[1] == np.inf
    assert found.verdict == "no difference shown"
    found = compared(good, np.full(5, np.inf))
    assert found.ratio == np.inf
    assert found.verdict == "a is better"


@pytest.mark.full
def test_the_interval_covers_the_truth_as_often_as_it_says():
    # Costs whose log-ratio has median 0.1: about 95 of 100 intervals hold it. With 41 seeds the bootstrap is near nominal.
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(100):
        low, high = compared(np.ones(41), np.exp(rng.normal(0.1, 1, 41))).interval
        hits += low <= np.exp(0.1) <= high
    assert 88 <= hits <= 100


def test_retired_members_stay_out_until_they_are_revived():
    population = schuss.Population(3, LAYERS, members=3, seed=0)
    with Training(population, X, Y) as training:
        training.run(2, SGD(0.1))
        training.retire([1])
        before = population.parameters.copy()
        training.run(2, SGD(0.1))
        assert np.array_equal(population.parameters[1], before[1])
        assert not np.array_equal(population.parameters[0], before[0])
        training.revive([1])
        training.run(1, SGD(0.1))
        assert not np.array_equal(population.parameters[1], before[1])
        for call in (training.retire, training.revive):
            with pytest.raises(InputError, match="numbered from 0 to 2"):
                call([3])
        training.retire([0, 1, 2])
        with pytest.raises(schuss.TrainingError, match="retired"):
            training.run(1, SGD(0.1))
