"""Populations: each member is the network it would be alone, to the bit, whatever becomes of the others."""

import numpy as np
import pytest

import schuss
from conftest import data
from schuss import SGD, Dense, EarlyStopping, InputError, Network, Population, Training, TrainingError

LAYERS = [Dense(8, "sigmoid"), Dense(5, "tanh"), Dense(2)]


def alone(population, member, x, y, epochs, optimizer, engine, **options):
    """Return the network of a member, trained by itself, and its history."""
    model = Network(population.inputs, population.dense, seed=int(population.seeds[member]), dtype=population.dtype)
    with Training(model, x, y, engine=engine, **options) as training:
        return model, training.run(epochs, optimizer)


@pytest.mark.parametrize("initializer", ["glorot", "article", "zeros"])
def test_a_member_begins_as_the_network_of_its_seed(initializer):
    layers = [Dense(7, "tanh", initializer=initializer), Dense(3, initializer=np.ones((3, 7)))]
    population = Population(5, layers, members=50, seed=3)
    for member in (0, 1, 17, 49):
        network = Network(5, layers, seed=population.seeds[member])
        assert network.parameters.tobytes() == population.parameters[member].tobytes()
    fewer = Population(5, layers, members=10, seed=3)
    assert np.array_equal(fewer.seeds, population.seeds[:10])
    assert np.array_equal(Population(5, layers, seed=population.seeds[4:6]).parameters, population.parameters[4:6])


@pytest.mark.parametrize("members", [3, 7])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"batch_size": 9},
        {"batch_size": 70, "shuffle": "member"},
        {"batch_size": 40, "bootstrap": True},
        {"bootstrap": True, "sample_weight": np.linspace(0, 2, 130)},
        {"batch_size": 5, "bootstrap": True, "shuffle": "member", "l2": 0.1},
    ],
)
def test_a_member_is_the_network_it_would_be_alone(engine, options, members):
    x, y = data(130, 3, 2, dtype="float32")
    held = data(50, 3, 2, seed=1, dtype="float32")
    rates = np.geomspace(0.01, 0.1, members)
    decays = np.linspace(0, 0.1, members)
    population = Population(3, LAYERS, members=members, seed=1)
    with Training(population, x, y, engine=engine, validation=held, threads=2, **options) as training:
        history = training.run(6, SGD(rates, decays, 0.9))
    for member in range(0, members, 2):
        optimizer = SGD(rates[member], decays[member], 0.9)
        network, own = alone(population, member, x, y, 6, optimizer, engine, validation=held, **options)
        assert network.parameters.tobytes() == population.parameters[member].tobytes()
        assert own.cost.tobytes() == history.cost[:, member].tobytes()
        assert own.validation_cost.tobytes() == history.validation_cost[:, member].tobytes()


@pytest.mark.parametrize("options", [{"batch_size": 16}, {"batch_size": 40, "shuffle": "member"}, {"bootstrap": True}])
def test_populations_follow_the_reference(level, options):
    x, y = data(100, 3, 2)
    populations, costs = [], []
    for engine in ("cpu", "reference"):
        populations.append(Population(3, LAYERS, members=4, seed=1, dtype="float64"))
        with Training(populations[-1], x, y, engine=engine, **options) as training:
            costs.append(training.run(5, SGD([0.01, 0.02, 0.05, 0.1], 0.01, [0, 0.5, 0.9, 0.3])).cost)
            gradients = training.value_and_gradient()
    np.testing.assert_allclose(costs[0], costs[1], rtol=1e-12)
    np.testing.assert_allclose(populations[0].parameters, populations[1].parameters, rtol=1e-9, atol=1e-12)
    assert gradients[0].shape == (4,)
    assert gradients[1].shape == populations[0].parameters.shape


def test_shuffles_and_resamplings_of_members_differ():
    x, y = data(100, 3, 2)
    seeds = [7, 8]
    start = Network(3, LAYERS, seed=7, dtype="float64").parameters
    for options in ({"batch_size": 10, "shuffle": "member"}, {"bootstrap": True}):
        population = Population(3, LAYERS, seed=seeds, dtype="float64")
        population.parameters[:] = start
        with Training(population, x, y, **options) as training:
            training.run(3, SGD(0.1))
        assert not np.array_equal(population.parameters[0], population.parameters[1])
    population.parameters[:] = start
    with Training(population, x, y, batch_size=10) as training:
        training.run(3, SGD(0.1))
    assert np.array_equal(population.parameters[0], population.parameters[1])


def test_a_bootstrap_weight_is_a_sample_weight():
    x, y = data(90, 3, 2)
    network = Network(3, LAYERS, seed=11, dtype="float64")
    counts = schuss.philox.bootstrap_weights(
        np.arange(90), schuss.philox.bootstrap_keys(np.array([11], np.uint64), 4)[0]
    )
    weighted = network.copy()
    with Training(network, x, y, bootstrap=True, seed=4, engine="reference") as training:
        training.run(5, SGD(0.1, momentum=0.5))
    with Training(weighted, x, y, sample_weight=counts, seed=4, engine="reference") as training:
        training.run(5, SGD(0.1, momentum=0.5))
    np.testing.assert_allclose(network.parameters, weighted.parameters, rtol=1e-12)


@pytest.mark.parametrize("threads", [1, 2, 8])
def test_a_diverged_member_is_frozen_and_the_others_do_not_notice(many_cpus, engine, threads):
    x, y = data(60, 3, 2, dtype="float32")
    rates = np.array([0.05, 1e4, 0.02, 1e6, 0.1])
    relu = [Dense(8, "relu"), Dense(2)]
    population = Population(3, relu, members=5, seed=2)
    with Training(population, x, 10 * y, engine=engine, threads=threads) as training:
        with pytest.warns(schuss.DivergenceWarning, match="2 of 5 members diverged"):
            history = training.run(30, SGD(rates, momentum=0.5))
        assert sorted(history.diverged) == [1, 3]
        assert np.isfinite(population.parameters).all()
        frozen = population.parameters[[1, 3]].copy()
        for member, epoch in history.diverged.items():
            assert np.isnan(history.cost[epoch - 1 :, member]).all()
            assert np.isfinite(history.cost[: epoch - 1, member]).all()
        assert history.best() in (0, 2, 4)
        training.run(5, SGD(rates, momentum=0.5))
        assert np.array_equal(population.parameters[[1, 3]], frozen)
        population.parameters[1] = 0
        training.revive([1])
        training.run(1, SGD(np.where(rates > 1, 0.0, rates)))
    others = Population(3, relu, seed=population.seeds[[0, 2, 4]])
    with Training(others, x, 10 * y, engine=engine) as training:
        training.run(30, SGD(rates[[0, 2, 4]], momentum=0.5))
        training.run(5, SGD(rates[[0, 2, 4]], momentum=0.5))
        training.run(1, SGD(rates[[0, 2, 4]]))
    assert others.parameters.tobytes() == population.parameters[[0, 2, 4]].tobytes()


def test_a_training_of_the_diverged_alone_raises():
    x, y = data(20, 3, 2)
    population = Population(3, [Dense(4, "relu"), Dense(2)], members=2, seed=0)
    with Training(population, x, 1e3 * y) as training:
        with pytest.warns(schuss.DivergenceWarning):
            training.run(200, SGD(1e5))
        with pytest.raises(TrainingError, match="revive"):
            training.run(1, SGD(0.1))


def test_early_stopping_is_by_member(engine):
    x, y = data(60, 3, 2, dtype="float32")
    noisy = y + np.random.default_rng(0).normal(0, 1, y.shape)
    held = data(40, 3, 2, seed=5, dtype="float32")
    population = Population(3, [Dense(30, "tanh"), Dense(2)], members=4, seed=0)
    optimizer = SGD([0.1, 0.05, 0.2, 1e-6], momentum=0.9)
    with Training(population, x, noisy, engine=engine, validation=held) as training:
        history = training.run(400, optimizer, early_stopping=EarlyStopping(10))
        final = training.cost(*held)
    assert len(history.stopped) >= 2
    assert 3 not in history.stopped
    np.testing.assert_allclose(final, np.nanmin(history.validation_cost, axis=0), rtol=1e-5)
    for member, epoch in history.stopped.items():
        assert epoch == np.nanargmin(history.validation_cost[:, member]) + 1 + 10
        assert np.isnan(history.validation_cost[epoch:, member]).all()


def test_callbacks_retire_members(every_engine, monkeypatch):
    monkeypatch.setattr("schuss.runs._CHUNK_SECONDS", 0.0)
    x, y = data(30, 3, 2)
    population = Population(3, LAYERS, members=3, seed=0)
    with Training(population, x, y, engine=every_engine) as training:
        history = training.run(5, SGD(0.1), callbacks=[lambda t, h: [1] if t.epochs == 2 else None])
    assert history.stopped == {1: 2}
    assert np.isnan(history.cost[2:, 1]).all()
    assert np.isfinite(history.cost[:, [0, 2]]).all()


def test_members_and_slices_are_views():
    population = Population(3, LAYERS, members=10, seed=0)
    network, some = population[4], population[3:6]
    x, y = data(20, 3, 2)
    assert isinstance(network, Network)
    assert len(some) == 3
    assert np.array_equal(some.seeds, population.seeds[3:6])
    with Training(some, x, y) as training:
        training.run(3, SGD(0.1))
    assert np.array_equal(network.parameters, some.parameters[1])
    assert np.shares_memory(network.parameters, population.parameters)
    assert np.array_equal(population[-1].parameters, population.parameters[9])
    assert len(list(population)) == 10
    picked = population.select([7, 2])
    assert np.array_equal(picked.parameters, population.parameters[[7, 2]])
    assert not np.shares_memory(picked.parameters, population.parameters)
    for bad in (slice(0, 4, 2), slice(5, 5), [1, 2], "a"):
        with pytest.raises(InputError, match="select"):
            population[bad]
    with pytest.raises(IndexError, match="member 10 of 10"):
        population[10]
    with pytest.raises(InputError, match="10 members"):
        population.select([10])


def test_all_members_predict_at_once():
    population = Population(3, LAYERS, members=4, seed=0)
    x, _ = data(11, 3, 2)
    outputs = population(x)
    assert outputs.shape == (4, 11, 2)
    for member, network in enumerate(population):
        assert outputs[member].tobytes() == network(x).tobytes()


def test_populations_are_saved_whole(tmp_path):
    population = Population(3, LAYERS, members=4, seed=5, dtype="float64")
    path = tmp_path / "p.safetensors"
    population.save(path)
    again = schuss.load(path)
    assert isinstance(again, Population)
    assert again.parameters.tobytes() == population.parameters.tobytes()
    assert np.array_equal(again.seeds, population.seeds)
    content = bytearray(path.read_bytes())
    content[-9] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(schuss.ModelFileError, match="digest"):
        schuss.load(path)


def test_ensembles_predict_mean_and_deviation():
    population = Population(3, LAYERS, members=6, seed=0)
    x, y = data(40, 3, 2)
    outputs = population(x).astype(np.float64)
    mean, deviation = population.ensemble()(x)
    np.testing.assert_allclose(mean, outputs.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(deviation, outputs.std(axis=0), rtol=1e-5, atol=1e-7)
    assert population.ensemble([2])(x).deviation.max() == 0
    with pytest.raises(InputError):
        population.ensemble([])
    # The first chosen is the best alone; no pair that begins with it does better than the pair chosen.
    chosen = population.ensemble().greedy(x, y, size=2)
    alone_errors = np.square(outputs - y).sum(axis=(1, 2))
    first = int(np.argmin(alone_errors))
    pairs = np.square((outputs[first] + outputs) / 2 - y).sum(axis=(1, 2))
    assert chosen.seeds.tolist() == [population.seeds[first], population.seeds[int(np.argmin(pairs))]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"members": 0}, "members must be a whole number, at least 1; got 0"),
        ({"members": 2.5}, "members must be a whole number"),
        ({}, "members must be a whole number"),
        ({"members": 3, "seed": [1, 2]}, "seed has 2 values but members is 3"),
        ({"seed": [-1]}, "a seed must be a whole number"),
        ({"members": 10**13}, r"GB of memory are free; about \d+ members would fit"),
    ],
)
def test_what_makes_no_population(arguments, message):
    with pytest.raises(InputError, match=message):
        Population(3, LAYERS, **arguments)


def test_arrays_of_the_wrong_length_name_the_hyperparameter():
    x, y = data(20, 3, 2)
    with (
        Training(Population(3, LAYERS, members=3, seed=0), x, y) as training,
        pytest.raises(InputError, match="momentum has 2 values but the model has 3 members"),
    ):
        training.run(1, SGD(0.1, momentum=[0.1, 0.2]))
    with pytest.raises(InputError, match="shuffle must be"):
        Training(Population(3, LAYERS, members=3, seed=0), x, y, shuffle="epoch")


def test_many_members_share_the_data():
    x, y = data(1000, 4, 1, dtype="float32")
    population = Population(4, [Dense(8, "tanh"), Dense(8, "tanh"), Dense(1)], members=2000, seed=0)
    with Training(population, x, y) as training:
        history = training.run(2, SGD(0.1))
    assert history.cost.shape == (2, 2000)
    assert (history.cost[1] < history.cost[0]).mean() > 0.9
