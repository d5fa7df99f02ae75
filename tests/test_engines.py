"""What every engine promises: right gradients, the reference's numbers, the same bits however the work is cut."""

import os

import numpy as np
import pytest

from conftest import central_differences, data, network, thinned
from schuss import SGD, Dense, EarlyStopping, InputError, Network, Training, TrainingError
from schuss.activations import ELEMENTWISE

# Sizes and samples that take every branch of the kernels: one, odd, whole blocks, wide, less than a panel, several tiles.
SHAPES = [
    ((1, 1), 1),
    ((4, 1), 7),
    ((3, 5, 2), 1),
    ((4, 8, 8, 1), 100),
    ((5, 33, 17, 3), 61),
    ((2, 16, 4), 24),
    ((7, 13, 1), 1000),
    ((20, 100, 1), 213),
    ((6, 37, 11), 150),
    ((6, 9, 11, 10, 7), 50),
    ((9, 130, 70, 2), 400),
    ((5, 170, 150, 3), 300),
    ((3, 150, 170, 1), 9000),  # more samples than the CPU engine holds at once for layers so wide
]


def eps(dtype):
    return float(np.finfo(dtype).eps)


@pytest.mark.parametrize("activation", ELEMENTWISE)
def test_gradient_is_that_of_central_differences(engine, activation):
    x, y = data(13, 3, 2)
    model = network((3, 6, 5, 2), (activation, "tanh", activation))
    rng = np.random.default_rng(1)
    weights = rng.uniform(0.5, 2, 13)
    with Training(model, x, y, engine=engine, l2=0.3, sample_weight=weights) as training:
        cost, gradient = training.value_and_gradient()
        expected = central_differences(training.cost, model.parameters)
        assert cost == pytest.approx(training.cost(), rel=1e-13)
    assert np.abs(gradient - expected).max() <= 1e-6 * np.abs(expected).max()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("sizes", "n"), SHAPES)
def test_gradient_is_that_of_the_reference(every_level, sizes, n, dtype):
    x, y = data(n, sizes[0], sizes[-1], dtype=dtype)
    model = network(sizes, ["gelu", "sigmoid", "softplus", "elu"][: len(sizes) - 1], dtype=dtype)
    results = []
    for name in ("cpu", "reference"):
        with Training(model, x, y, engine=name) as training:
            results.append(training.value_and_gradient())
    (cost, gradient), (expected_cost, expected) = results
    assert cost == pytest.approx(expected_cost, rel=50 * eps(dtype))
    assert np.abs(gradient - expected).max() <= 200 * eps(dtype) * max(np.abs(expected).max(), 1e-3)


@pytest.mark.parametrize(
    "options", [{}, {"batch_size": 16}, {"batch_size": 50}, {"batch_size": 1}, {"batch_size": 33, "shuffle": False}]
)
@pytest.mark.parametrize(
    "optimizer", [SGD(0.02, 0.01, 0.5), SGD(0.005, 0.1, 0.9, nesterov=True), SGD(0.01, 0, 0.5, bias_momentum=False)]
)
def test_training_follows_the_reference(level, optimizer, options):
    x, y = data(150, 3, 2)
    weights = np.random.default_rng(0).integers(0, 3, 150)
    models, histories = [], []
    for name in ("cpu", "reference"):
        models.append(network((3, 9, 6, 2), ("sigmoid", "silu", "linear")))
        with Training(
            models[-1], x, y, engine=name, l2=0.1, sample_weight=weights, validation=(x[:40], y[:40]), **options
        ) as t:
            histories.append(t.run(5, optimizer))
    scale = np.abs(models[1].parameters).max()
    assert np.abs(models[0].parameters - models[1].parameters).max() <= 1e4 * eps("float64") * scale
    np.testing.assert_allclose(histories[0].cost, histories[1].cost, rtol=1e-12)
    np.testing.assert_allclose(histories[0].validation_cost, histories[1].validation_cost, rtol=1e-12)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("sizes", [(4, 1), (3, 33, 5, 2), (7, 150, 141, 2), (2, 141, 150, 17)])
@pytest.mark.parametrize("batch_size", thinned([1, 2, 3, 5, 14, 31, 64, 150], 1, 5, 31, 150))
def test_batches_of_every_size_follow_the_reference(level, sizes, batch_size, dtype):
    x, y = data(155, sizes[0], sizes[-1], dtype=dtype)
    models, costs = [], []
    for name in ("cpu", "reference"):
        models.append(network(sizes, ["gelu", "tanh", "silu"][-len(sizes) + 1 :], dtype=dtype))
        with Training(models[-1], x, y, engine=name, batch_size=batch_size) as training:
            costs.append(training.run(2, SGD(0.01, 0.01, 0.5)).cost)
    steps = 2 * -(-155 // batch_size)
    assert np.abs(models[0].parameters - models[1].parameters).max() <= 20 * steps * eps(dtype)
    np.testing.assert_allclose(costs[0], costs[1], rtol=20 * steps * eps(dtype))


@pytest.mark.parametrize("activation", ELEMENTWISE)
@pytest.mark.parametrize("batch_size", [7, 100])
def test_batches_follow_the_reference_with_every_activation(level, activation, batch_size):
    x, y = data(300, 3, 1, dtype="float32")
    models = []
    for name in ("cpu", "reference"):
        models.append(network((3, 41, 9, 1), (activation, activation, "linear"), dtype="float32"))
        with Training(models[-1], x, y, engine=name, batch_size=batch_size) as training:
            history = training.run(3, SGD(1e-3, 0.01, 0.5))
        assert history.diverged == {}
    scale = np.abs(models[1].parameters).max()
    assert np.abs(models[0].parameters - models[1].parameters).max() <= 200 * eps("float32") * scale


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("sizes", [(9, 40, 1), (5, 37, 11), (33, 100, 3)])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"dropout": 0.4},
        {"input_noise": 0.1},
        {"bootstrap": True},
        {"bootstrap": True, "dropout": 0.4},
        {"folds": np.arange(333) // 2 % 3, "held_out": 1},
        {"folds": np.arange(333) // 130, "held_out": 1, "shuffle": False},  # the second batch has no weight at all
        {"sample_weight": np.arange(333) % 4},
    ],
    ids=lambda options: " ".join(options),
)
def test_one_hidden_layer_follows_the_reference(many_cpus, level, sizes, activation, options, dtype):
    options = dict(options)
    x, y = data(333, sizes[0], sizes[-1], dtype=dtype)
    layers = [Dense(sizes[1], activation, dropout=options.pop("dropout", 0.0)), Dense(sizes[-1])]
    models, costs = [], []
    for name, threads in (("cpu", 1), ("cpu", 3), ("reference", 1)):
        models.append(Network(sizes[0], layers, seed=1, dtype=dtype))
        with Training(models[-1], x, y, engine=name, threads=threads, batch_size=130, l2=0.1, **options) as training:
            costs.append(training.run(3, SGD(0.01, 0.01, 0.5)).cost)
            if name == "cpu":
                assert "one hidden layer" in training.explain()
    assert models[0].parameters.tobytes() == models[1].parameters.tobytes()
    assert np.abs(models[0].parameters - models[2].parameters).max() <= 200 * eps(dtype)
    np.testing.assert_allclose(costs[0], costs[2], rtol=200 * eps(dtype))


@pytest.mark.parametrize("batch_size", [None, 100, 20, 7])
@pytest.mark.parametrize("sizes", [(5, 100, 1), (6, 70, 9), (4, 32, 16, 1), (5, 40, 40, 3), (3, 150, 140, 2)])
def test_threads_never_change_a_bit(many_cpus, level, sizes, batch_size):
    x, y = data(700, sizes[0], sizes[-1], dtype="float32")
    results = []
    for threads in (1, 2, 3, 8):
        model = network(sizes, ("sigmoid", "tanh", "linear")[-len(sizes) + 1 :], dtype="float32")
        with Training(
            model, x, y, engine="cpu", threads=threads, batch_size=batch_size, validation=(x[:90], y[:90])
        ) as t:
            history = t.run(4, SGD(0.01, 1e-4, 0.9))
        results.append((model.parameters.tobytes(), history.cost.tobytes(), history.validation_cost.tobytes()))
    assert all(result == results[0] for result in results)


@pytest.mark.parametrize("batch_size", [None, 30])
def test_runs_continue_each_other_to_the_bit(every_engine, batch_size):
    x, y = data(100, 3, 1, dtype="float32")
    optimizer = SGD(0.1, 0.01, 0.9)
    whole, parts = (network((3, 8, 1), ("tanh", "linear"), dtype="float32") for _ in range(2))
    with Training(whole, x, y, engine=every_engine, batch_size=batch_size) as training:
        once = training.run(5, optimizer)
    with Training(parts, x, y, engine=every_engine, batch_size=batch_size) as training:
        first, second = training.run(2, optimizer), training.run([(1, optimizer), (2, optimizer)])
    assert whole.parameters.tobytes() == parts.parameters.tobytes()
    assert once.cost.tolist() == [*first.cost, *second.cost]
    assert [*first.epoch, *second.epoch] == [1, 2, 3, 4, 5]


def test_where_chunks_are_cut_never_changes_a_bit(engine, monkeypatch):
    x, y = data(100, 3, 1)
    results = []
    for seconds in (0.0, 1e-4, 10.0):
        monkeypatch.setattr("schuss.runs._CHUNK_SECONDS", seconds)
        model = network((3, 8, 1), ("tanh", "linear"))
        with Training(model, x, y, engine=engine, batch_size=30) as training:
            history = training.run(6, SGD(0.1, 0.01, 0.9))
        results.append((model.parameters.tobytes(), history.cost.tobytes()))
    assert results[0] == results[1] == results[2]


def test_a_diverged_step_leaves_no_trace(engine):
    x, y = data(60, 3, 1, dtype="float32")
    model = network((3, 8, 1), ("relu", "linear"), dtype="float32")
    with Training(model, x, 1e3 * y, engine=engine) as training:
        with pytest.warns(RuntimeWarning, match=r"diverged in epoch \d+; largest weight of each layer"):
            history = training.run(500, SGD(50.0))
        assert np.isfinite(model.parameters).all()
        epoch = history.diverged[0]
        assert history.epoch[-1] == epoch - 1 == len(history.cost)
        assert np.isfinite(history.cost).all()
        with pytest.raises(TrainingError, match="revive"):
            training.run(1, SGD(0.1))
        model.parameters[:] = network((3, 8, 1), ("relu", "linear"), dtype="float32").parameters
        training.revive()
        history = training.run(50, SGD(1e-3))
        assert history.cost[-1] < history.cost[0]


@pytest.mark.parametrize(("target", "cost_is_finite"), [(1e150, True), (1e200, False)])
def test_a_step_that_leaves_the_finite_numbers_is_not_adopted(engine, target, cost_is_finite):
    # The cost is y^2 / 2, the gradient -y, the step 1e200 y: for y = 1e150 only the parameters overflow.
    x, y = np.ones((4, 1)), np.full((4, 1), target)
    model = network((1, 1), ("linear",))
    before = model.parameters.copy()
    with Training(model, x, y, engine=engine) as training:
        cost, gradient = training.value_and_gradient()
        assert np.isfinite(cost) == cost_is_finite
        assert np.isfinite(gradient).all()
        with pytest.warns(RuntimeWarning, match="epoch 1"):
            history = training.run(3, SGD(1e200))
    assert history.diverged == {0: 1}
    np.testing.assert_array_equal(model.parameters, before)


def test_batches_without_weight_are_skipped(engine):
    x, y = data(40, 2, 1)
    weights = np.r_[np.ones(20), np.zeros(20)]
    first, second = (network((2, 4, 1), ("tanh", "linear")) for _ in range(2))
    with Training(first, x, y, engine=engine, batch_size=20, shuffle=False, sample_weight=weights) as training:
        training.run(3, SGD(0.1, 0.1, 0.5))
    with Training(second, x[:20], y[:20], engine=engine) as training:
        training.run(3, SGD(0.1, 0.1, 0.5))
    np.testing.assert_allclose(first.parameters, second.parameters, rtol=1e-12)


def test_early_stopping_restores_the_best(engine):
    x, y = data(60, 3, 1)
    rng = np.random.default_rng(0)
    held_x, held_y = data(40, 3, 1, seed=5)
    model = network((3, 40, 1), ("tanh", "linear"))
    stopping = EarlyStopping(patience=15)
    with Training(model, x, y + rng.normal(0, 1, y.shape), engine=engine, validation=(held_x, held_y)) as training:
        history = training.run(20_000, SGD(0.05, momentum=0.9), early_stopping=stopping)
        best = int(np.argmin(history.validation_cost))
        assert history.stopped == {0: best + 1 + 15}
        assert history.epoch[-1] == best + 1 + 15
        assert training.cost(held_x, held_y) == pytest.approx(history.validation_cost[best], rel=1e-12)
        again = training.run(2, SGD(0.0), early_stopping=stopping)
        assert again.epoch.tolist() == [best + 17, best + 18]


def test_records_fall_on_multiples_and_the_last_epoch(every_engine):
    x, y = data(30, 2, 1)
    with Training(network((2, 1), ("linear",)), x, y, engine=every_engine, validation=(x, y)) as training:
        assert training.run(7, SGD(0.1), record_every=3).epoch.tolist() == [3, 6, 7]
        history = training.run(4, SGD(0.1), record_every=3)
    assert history.epoch.tolist() == [9, 11]
    assert np.isfinite(history.validation_cost).all()


def test_hand_worked_step_with_momentum_and_decay(every_engine):
    # One input, one unit, no bias move worth hiding: W = 2, b = 1, x = 3, y = 5. z = 7, delta = 2, G = 6, g = 2.
    # eta .1, lambda .5, mu .9: v = -.6, W = (1 - .05) 2 - .6 = 1.3; u = -.2, b = .8.
    # Second step: z = 4.7, delta = -.3, G = -.9, g = -.3; v = -.54 + .09 = -.45, W = .95 1.3 - .45 = .785;
    # u = -.18 + .03 = -.15, b = .65.
    model = network((1, 1), ("linear",))
    model.parameters[:] = [2, 1]
    with Training(model, [[3.0]], [5.0], engine=every_engine) as training:
        history = training.run(2, SGD(0.1, 0.5, 0.9))
    np.testing.assert_allclose(model.parameters, [0.785, 0.65], rtol=1e-14)
    np.testing.assert_allclose(history.cost, [2.0, 0.045], rtol=1e-13)


@pytest.mark.full
@pytest.mark.parametrize("batch_size", [None, 64])
@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_is_that_of_pytorch(engine, nesterov, batch_size):
    torch = pytest.importorskip("torch", reason="PyTorch is an oracle of this test")
    x, y = data(200, 4, 2)
    model = network((4, 16, 8, 2), ("sigmoid", "tanh", "linear"))
    net = torch.nn.Sequential(
        torch.nn.Linear(4, 16), torch.nn.Sigmoid(), torch.nn.Linear(16, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2)
    ).double()
    for linear, layer in zip(net[::2], model.layers, strict=True):
        linear.weight.data[:], linear.bias.data[:] = torch.tensor(layer.weights), torch.tensor(layer.bias)
    # At a constant learning rate the two forms of the velocity agree.
    optimizer = torch.optim.SGD(net.parameters(), lr=0.02, momentum=0.8, nesterov=nesterov)
    tx, ty = torch.tensor(x), torch.tensor(y)
    for _ in range(100):
        for first in range(0, 200, batch_size or 200):
            optimizer.zero_grad()
            rows = slice(first, first + (batch_size or 200))
            loss = 0.5 * ((net(tx[rows]) - ty[rows]) ** 2).sum(dim=1).mean()
            loss.backward()
            optimizer.step()
    with Training(model, x, y, engine=engine, batch_size=batch_size, shuffle=False) as training:
        training.run(100, SGD(0.02, momentum=0.8, nesterov=nesterov))
    for linear, layer in zip(net[::2], model.layers, strict=True):
        np.testing.assert_allclose(layer.weights, linear.weight.detach().numpy(), rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(layer.bias, linear.bias.detach().numpy(), rtol=1e-10, atol=1e-12)


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system does not say which CPUs are allowed")
def test_a_run_leaves_the_thread_free_to_use_the_cpus_it_could(many_cpus):
    allowed = os.sched_getaffinity(0)
    x, y = data(500, 3, 1)
    for own in (allowed, {min(allowed)}):
        os.sched_setaffinity(0, own)
        try:
            with Training(network((3, 40, 1), ("tanh", "linear")), x, y, engine="cpu", threads=4) as training:
                training.run(3, SGD(0.1))
            assert os.sched_getaffinity(0) == own
        finally:
            os.sched_setaffinity(0, allowed)


def test_an_unknown_engine_lists_the_known():
    x, y = data(3, 1, 1)
    with pytest.raises(InputError, match="known: auto, cpu, cuda, cuda:1, opencl, opencl:1, reference"):
        Training(network((1, 1), ("linear",)), x, y, engine="cpux")
