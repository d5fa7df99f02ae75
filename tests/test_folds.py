"""Cross-validation in one population: each member leaves out a fold, and is validated on it."""

import numpy as np
import pytest

from conftest import data, network
from schuss import SGD, Adam, Dense, EarlyStopping, InputError, Network, Population, Training

SIZES, FUNCTIONS = (3, 7, 2), ("tanh", "linear")
LAYERS = [Dense(units, name) for units, name in zip(SIZES[1:], FUNCTIONS, strict=True)]
N = 131  # several panels, and no multiple of any
FOLDS = np.random.default_rng(3).integers(0, 4, N)
HELD_OUT = np.array([0, 3, 1, 3, 2])


@pytest.mark.parametrize("batch_size", [None, 32])
@pytest.mark.parametrize("weighted", [False, True])
def test_a_member_is_trained_on_the_other_folds_and_validated_on_its_own(engine, batch_size, weighted):
    x, y = data(N, 3, 2)
    weights = np.random.default_rng(1).uniform(0.5, 2, N) if weighted else np.ones(N)
    population = Population(3, LAYERS, members=5, seed=1, dtype="float64")
    alone = population.copy()
    options = {"batch_size": batch_size, "engine": engine}
    with Training(population, x, y, folds=FOLDS, held_out=HELD_OUT, sample_weight=weights, **options) as training:
        history = training.run(6, Adam(0.01))
        costs = training.cost()
    for member, fold in enumerate(HELD_OUT):
        out, one = fold == FOLDS, alone[member]
        with Training(one, x, y, sample_weight=weights * ~out, validation=(x[out], y[out]), **options) as training:
            expected = training.run(6, Adam(0.01))
            assert costs[member] == pytest.approx(training.cost(), rel=1e-13)
        np.testing.assert_allclose(population[member].parameters, one.parameters, rtol=0, atol=1e-13)
        np.testing.assert_allclose(history.cost[:, member], expected.cost, rtol=1e-13)
        error = 0.5 * np.square(one(x[out]) - y[out]).sum(axis=1)
        assert history.validation_cost[-1, member] == pytest.approx(np.average(error, weights=weights[out]), rel=1e-12)


def test_with_full_batches_it_is_as_if_the_fold_were_not_there():
    x, y = data(N, 3, 2)
    one = network(SIZES, FUNCTIONS)
    other = one.copy()
    with Training(one, x, y, folds=FOLDS, held_out=2, l2=0.1) as training:
        training.run(50, SGD(0.3, momentum=0.9))
    kept = FOLDS != 2
    with Training(other, x[kept], y[kept], l2=0.1) as training:
        training.run(50, SGD(0.3, momentum=0.9))
    np.testing.assert_allclose(one.parameters, other.parameters, rtol=0, atol=1e-12)


def test_early_stopping_and_its_best_parameters_look_at_the_own_fold(engine):
    x, y = data(N, 3, 2)
    y = y + np.random.default_rng(0).normal(0, 1, y.shape)
    population = Population(3, LAYERS, members=5, seed=1, dtype="float64")
    with Training(population, x, y, folds=FOLDS, held_out=HELD_OUT, engine=engine) as training:
        history = training.run(400, SGD(0.5, momentum=0.9), early_stopping=EarlyStopping(patience=5))
    assert len(history.stopped) >= 2
    for member, fold in enumerate(HELD_OUT):
        out = fold == FOLDS
        error = 0.5 * np.square(population[member](x[out]) - y[out]).sum(axis=1).mean()
        assert error == pytest.approx(np.nanmin(history.validation_cost[:, member]), rel=1e-12)


def test_a_metric_scores_each_member_on_its_own_fold():
    x, y = data(N, 3, 2)
    population = Population(3, LAYERS, members=5, seed=1, dtype="float64")
    stopping = EarlyStopping(patience=1000, restore_best=False, metric="r2")
    with Training(population, x, y, folds=FOLDS, held_out=HELD_OUT) as training:
        history = training.run(4, SGD(0.1), early_stopping=stopping)
    for member, fold in enumerate(HELD_OUT):
        out = fold == FOLDS
        residual = np.square(y[out] - population[member](x[out])).sum(axis=0)
        expected = np.mean(1 - residual / np.square(y[out] - y[out].mean(axis=0)).sum(axis=0))
        assert history.score[-1, member] == pytest.approx(expected, rel=1e-12)


def test_bits_do_not_depend_on_threads_or_on_other_members():
    x, y = data(N, 3, 2)
    found = []
    for threads, members in ((1, 5), (2, 5), (2, 2)):
        population = Population(3, LAYERS, members=members, seed=1)
        held_out = HELD_OUT[:members]
        with Training(
            population, x, y, folds=FOLDS, held_out=held_out, batch_size=20, threads=threads, bootstrap=True
        ) as training:
            history = training.run(5, SGD(0.1, momentum=0.9))
        found.append((population.parameters[:2].tolist(), history.validation_cost[:, :2].tolist()))
    assert found[0] == found[1] == found[2]


def test_a_killed_run_goes_on_with_the_same_folds_only(tmp_path):
    x, y = data(N, 3, 2)
    population = Population(3, LAYERS, members=5, seed=1)
    whole = population.copy()
    folds = {"folds": FOLDS, "held_out": HELD_OUT}
    with Training(population, x, y, **folds) as training:
        training.run(3, SGD(0.1))
        training.checkpoint(tmp_path / "a")
    with pytest.raises(InputError, match="folds or held_out are not those"):
        Training.resume(tmp_path / "a", x, y, folds=FOLDS, held_out=HELD_OUT[::-1])
    with Training.resume(tmp_path / "a", x, y, **folds) as training:
        training.run(2, SGD(0.1))
        resumed = training.model.parameters
    with Training(whole, x, y, **folds) as training:
        training.run(5, SGD(0.1))
    assert resumed.tolist() == whole.parameters.tolist()


@pytest.mark.parametrize(
    ("folds", "held_out", "words"),
    [
        (FOLDS, None, "go together"),
        (None, 1, "go together"),
        (FOLDS[:-1], 0, r"folds must be whole numbers of shape \(131,\)"),
        (FOLDS.astype(float), 0, "folds must be whole numbers"),
        (FOLDS, [0, 1], "held_out must be whole numbers"),
        (FOLDS - 1, 0, "numbered from 0"),
        (FOLDS, 4, "held_out names fold 4"),
        (np.zeros(N, int), 0, "leave some to train on"),
    ],
)
def test_folds_that_make_no_sense_are_named(folds, held_out, words):
    x, y = data(N, 3, 2)
    with pytest.raises(InputError, match=words):
        Training(network(SIZES, FUNCTIONS), x, y, folds=folds, held_out=held_out)


def test_folds_and_validation_exclude_each_other():
    x, y = data(N, 3, 2)
    with pytest.raises(InputError, match="pass validation, or folds"):
        Training(network(SIZES, FUNCTIONS), x, y, folds=FOLDS, held_out=0, validation=(x, y))


def stops_after(costs, min_delta, patience):
    """Return the epoch after which scikit-learn's rule ends a run with these costs, or None."""
    lowest, idle = np.inf, 0
    for epoch, cost in enumerate(costs, 1):
        idle = idle + 1 if cost > lowest - min_delta else 0
        lowest = min(lowest, cost)
        if idle >= patience:
            return epoch
    return None


@pytest.mark.parametrize("validated", [False, True])
def test_a_run_ends_when_the_training_cost_no_longer_falls(engine, validated):
    x, y = data(N, 3, 2)
    rates = np.array([0.001, 0.05, 0.3, 0.6])
    stopping = EarlyStopping(patience=4, min_delta=1e-3, metric="training_cost")

    def train(early_stopping):
        population = Population(3, LAYERS, members=4, seed=1, dtype="float64")
        held_out = (x[:20], y[:20]) if validated else None
        with Training(population, x, y, engine=engine, batch_size=50, validation=held_out) as training:
            return training.run(60, SGD(rates), early_stopping=early_stopping, record_every=1)

    whole, history = train(None), train(stopping)
    expected = {m: stops_after(whole.cost[:, m], 1e-3, 4) for m in range(4)}
    assert history.stopped == {m: epoch for m, epoch in expected.items() if epoch}
    assert len(history.stopped) >= 2
    for member, epoch in history.stopped.items():
        assert np.isnan(history.cost[epoch:, member]).all()
        np.testing.assert_array_equal(history.cost[:epoch, member], whole.cost[:epoch, member])
        if validated:
            np.testing.assert_array_equal(
                history.validation_cost[:epoch, member], whole.validation_cost[:epoch, member]
            )


def test_the_training_cost_needs_no_validation_data_and_restores_nothing():
    x, y = data(N, 3, 2)
    one = network(SIZES, FUNCTIONS)
    other = one.copy()
    stopping = EarlyStopping(patience=3, metric="training_cost", min_delta=0.01)
    with Training(one, x, y) as training:
        history = training.run(500, SGD(0.2), early_stopping=stopping)
    with Training(other, x, y) as training:
        training.run(int(history.epoch[-1]), SGD(0.2))
    assert history.epoch[-1] < 500
    assert one.parameters.tolist() == other.parameters.tolist()


def test_lbfgs_leaves_out_a_fold_too(engine):
    from schuss import LBFGS

    x, y = data(N, 3, 2)
    one = Network(3, LAYERS, seed=2, dtype="float64")
    with Training(one, x, y, folds=FOLDS, held_out=1, engine=engine) as training:
        history = training.run(30, LBFGS())
    kept = FOLDS != 1
    error = 0.5 * np.square(one(x[kept]) - y[kept]).sum(axis=1).mean()
    with Training(one, x[kept], y[kept], engine=engine) as training:
        assert training.cost() == pytest.approx(error, rel=1e-12)
        assert training.cost() < 0.2 * history.cost[0]
