"""Optimizers and schedules: worked examples, PyTorch, SciPy, the reference; what they refuse."""

import numpy as np
import pytest

from conftest import data, network, thinned
from schuss import LBFGS, SGD, Adam, Dense, InputError, Network, Population, RMSprop, Training
from schuss.engines.lbfgs import line_search
from schuss.schedules import Cosine, Exponential, OneCycle, Schedule, Segments, Steps, WarmUp

STEPWISE = [
    Adam(0.01, 0.1),
    Adam(0.02, beta1=0.5, beta2=0.9, epsilon=1e-3, clip_norm=0.5),
    RMSprop(0.005, 0.1, 0.5),
    RMSprop(0.01, rho=0.5, clip_norm=0.3),
    SGD(0.05, 0.1, 0.9, nesterov=True, clip_norm=0.2),
    SGD(Cosine(0.05, warmup=0.2), 0.1, Segments(0.9, points=((0, 0.5), (1, 1)))),
]


@pytest.mark.parametrize("batch_size", thinned([None, 1, 16, 50], None, 16))
@pytest.mark.parametrize("optimizer", STEPWISE, ids=lambda o: o.short()[:40])
@pytest.mark.parametrize("sizes", [(3, 9, 6, 2), (3, 150, 140, 2)])
def test_training_follows_the_reference(level, optimizer, batch_size, sizes):
    x, y = data(80, 3, 2)
    models, costs = [], []
    for engine in ("cpu", "reference"):
        models.append(network(sizes, ("sigmoid", "silu", "linear")))
        with Training(models[-1], x, y, engine=engine, l2=0.1, l1=0.05, batch_size=batch_size) as training:
            costs.append(training.run(2, optimizer).cost)
    # Adam and RMSprop divide by the root of a mean square, which magnifies rounding where gradients are near 0.
    np.testing.assert_allclose(models[0].parameters, models[1].parameters, rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(costs[0], costs[1], rtol=1e-10)


def torch_twin(torch, model, dtype):
    net = torch.nn.Sequential(
        torch.nn.Linear(4, 16), torch.nn.Sigmoid(), torch.nn.Linear(16, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2)
    ).to(getattr(torch, dtype))
    for linear, layer in zip(net[::2], model.layers, strict=True):
        linear.weight.data[:], linear.bias.data[:] = torch.tensor(layer.weights), torch.tensor(layer.bias)
    weights = [p for name, p in net.named_parameters() if name.endswith("weight")]
    biases = [p for name, p in net.named_parameters() if name.endswith("bias")]
    return net, weights, biases


@pytest.mark.full
@pytest.mark.parametrize(("dtype", "bound"), [("float32", 1e-5), ("float64", 1e-12)])
@pytest.mark.parametrize("kind", ["adamw", "rmsprop", "nesterov", "clipped"])
def test_hundred_steps_are_those_of_pytorch(engine, kind, dtype, bound):
    torch = pytest.importorskip("torch", reason="PyTorch is an oracle of this test")
    x, y = data(120, 4, 2, dtype=dtype)
    model = network((4, 16, 8, 2), ("sigmoid", "tanh", "linear"), dtype=dtype)
    net, weights, biases = torch_twin(torch, model, dtype)
    optimizer, ours = {
        # epsilon is large enough that gradients near 0 are not blown up by rounding
        "adamw": lambda: (
            torch.optim.AdamW(
                [{"params": weights, "weight_decay": 0.1}, {"params": biases, "weight_decay": 0.0}], lr=0.002, eps=1e-3
            ),
            Adam(0.002, 0.1, epsilon=1e-3),
        ),
        "rmsprop": lambda: (
            torch.optim.RMSprop(net.parameters(), lr=0.001, alpha=0.9, eps=1e-2, momentum=0.5),
            RMSprop(0.001, momentum=0.5, rho=0.9, epsilon=1e-2),
        ),
        "nesterov": lambda: (
            torch.optim.SGD(net.parameters(), lr=0.02, momentum=0.8, nesterov=True),
            SGD(0.02, momentum=0.8, nesterov=True),
        ),
        "clipped": lambda: (torch.optim.SGD(net.parameters(), lr=0.05), SGD(0.05, clip_norm=0.1)),
    }[kind]()
    tx, ty = torch.tensor(x), torch.tensor(y)
    for _ in range(100):
        optimizer.zero_grad()
        (0.5 * ((net(tx) - ty) ** 2).sum(dim=1).mean()).backward()
        if kind == "clipped":  # PyTorch adds 1e-6 to the norm before it divides: undone here
            norm = torch.sqrt(sum((p.grad**2).sum() for p in net.parameters()))
            for p in net.parameters():
                p.grad *= min(1, 0.1 / float(norm))
        optimizer.step()
    with Training(model, x, y, engine=engine) as training:
        training.run(100, ours)
    for linear, layer in zip(net[::2], model.layers, strict=True):
        for mine, theirs in ((layer.weights, linear.weight), (layer.bias, linear.bias)):
            expected = theirs.detach().numpy()
            assert np.abs(mine - expected).max() <= bound * np.abs(expected).max()


def test_a_worked_step_of_adam_and_of_rmsprop(every_engine):
    # W = 2, b = 1, x = 3, y = 5: delta = 2, G = 6, g = 2. Adam's first step is eta sign(G): m' = G, s' = G^2.
    # Decay: (1 - .1 .5) 2 = 1.9. RMSprop: s = .1 36 = 3.6, move -.1 6 / (1.897 + 0) = -.3162; g: .2 / sqrt(.4) = .3162.
    for optimizer, expected in (
        (Adam(0.1, 0.5, epsilon=1e-300), [1.8, 0.9]),
        (RMSprop(0.1, 0.5, rho=0.9, epsilon=1e-300), [1.9 - 0.1 * 6 / 3.6**0.5, 1 - 0.1 * 2 / 0.4**0.5]),
    ):
        model = network((1, 1), ("linear",))
        model.parameters[:] = [2, 1]
        with Training(model, [[3.0]], [5.0], engine=every_engine) as training:
            training.run(1, optimizer)
        np.testing.assert_allclose(model.parameters, expected, rtol=1e-14)


@pytest.mark.parametrize("optimizer", [Adam(0.01), RMSprop(0.01, momentum=0.5), LBFGS(history=4)], ids=lambda o: o.kind)
def test_runs_continue_each_other_to_the_bit(engine, optimizer, monkeypatch):
    x, y = data(100, 3, 1, dtype="float32")
    whole, parts, cut = (network((3, 8, 1), ("tanh", "linear"), dtype="float32") for _ in range(3))
    with Training(whole, x, y, engine=engine) as training:
        once = training.run(9, optimizer)
    with Training(parts, x, y, engine=engine) as training:
        first, second = training.run(4, optimizer), training.run(5, optimizer)
    monkeypatch.setattr("schuss.runs._CHUNK_SECONDS", 0.0)
    with Training(cut, x, y, engine=engine) as training:
        training.run(9, optimizer)
    assert whole.parameters.tobytes() == parts.parameters.tobytes() == cut.parameters.tobytes()
    assert once.cost.tolist() == [*first.cost, *second.cost]


def test_another_class_starts_its_own_state(engine):
    x, y = data(50, 3, 1)
    first, second = (network((3, 5, 1), ("tanh", "linear")) for _ in range(2))
    with Training(first, x, y, engine=engine) as training:
        training.run(3, SGD(0.1, momentum=0.9))
        training.run(3, Adam(0.01))
    with Training(second, x, y, engine=engine) as training:
        training.run(3, SGD(0.1, momentum=0.9))
    with Training(second, x, y, engine=engine) as training:
        training.run(3, Adam(0.01))
    assert first.parameters.tobytes() == second.parameters.tobytes()


@pytest.mark.parametrize(
    "optimizer", [Adam([0.01, 0.02, 0.03]), RMSprop([0.01, 0.02, 0.03]), LBFGS(tolerance=[1e-3, 1e-5, 0])]
)
def test_members_train_as_alone(engine, optimizer):
    x, y = data(60, 3, 1)
    population = Population(3, [Dense(6, "tanh"), Dense(1)], members=3, seed=1)
    alone = Network(3, population.dense, seed=int(population.seeds[1]))
    with Training(population, x, y, engine=engine) as training:
        history = training.run(12, optimizer)
    name = "tolerance" if isinstance(optimizer, LBFGS) else "learning_rate"
    with Training(alone, x, y, engine=engine) as training:
        own = training.run(12, type(optimizer)(**{name: getattr(optimizer, name)[1]}))
    assert population.parameters[1].tobytes() == alone.parameters.tobytes()
    assert history.cost[: len(own), 1].tolist() == own.cost.tolist()


# -- L-BFGS ------------------------------------------------------------------------------------------------------------------


def test_lbfgs_follows_the_reference(level):
    x, y = data(90, 3, 2)
    models, histories = [], []
    for engine in ("cpu", "reference"):
        models.append(network((3, 9, 6, 2), ("sigmoid", "silu", "linear")))
        with Training(models[-1], x, y, engine=engine, l2=0.01, validation=(x[:30], y[:30])) as training:
            histories.append(training.run(25, LBFGS(history=5)))
    np.testing.assert_allclose(histories[0].cost, histories[1].cost, rtol=1e-7)
    np.testing.assert_allclose(histories[0].validation_cost, histories[1].validation_cost, rtol=1e-7)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_lbfgs_has_the_same_bits_for_any_threads(many_cpus, level, threads):
    x, y = data(3000, 4, 1, dtype="float32")
    results = []
    for count in (1, threads):
        model = network((4, 32, 16, 1), ("sigmoid", "tanh", "linear"), dtype="float32")
        with Training(model, x, y, engine="cpu", threads=count) as training:
            cost = training.run(30, LBFGS()).cost
        results.append((model.parameters.tobytes(), cost.tobytes()))
    assert results[0] == results[1]


def test_lbfgs_finds_what_scipy_finds(engine):
    optimize = pytest.importorskip("scipy.optimize", reason="SciPy is the oracle of this test")
    x, y = data(100, 3, 1)
    model = network((3, 4, 1), ("tanh", "linear"))
    start = model.parameters.copy()
    with Training(model, x, y, engine=engine, l2=1.0) as training:

        def value_and_gradient(parameters):
            model.parameters[:] = parameters
            return training.value_and_gradient()

        theirs = optimize.minimize(
            value_and_gradient, start, jac=True, method="L-BFGS-B", options={"gtol": 1e-9, "ftol": 0, "maxiter": 5000}
        )
        model.parameters[:] = start
        history = training.run(5000, LBFGS(tolerance=1e-8))
        assert history.converged
        assert training.cost() <= theirs.fun * (1 + 1e-10)


def test_lbfgs_ends_at_a_minimum_and_idles(engine):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(50, 3))
    y = x @ [1.0, -2, 3] + 0.5
    population = Population(3, [Dense(1)], members=2, seed=0, dtype="float64")
    with Training(population, x, y, engine=engine) as training:
        history = training.run(200, LBFGS(tolerance=[1e-4, 1e-10]))
        assert sorted(history.converged) == [0, 1]
        assert history.converged[0] < history.converged[1] < 100
        assert np.isnan(history.cost[history.converged[0] :, 0]).all()
        assert len(history) == history.converged[1]
        again = training.run(5, LBFGS(tolerance=[1e-4, 1e-10]))
    assert len(again) == 1
    assert "2 converged" in repr(again)
    np.testing.assert_allclose(population.parameters[1], [1, -2, 3, 0.5], rtol=1e-8)


def test_the_line_search_holds_the_strong_wolfe_conditions():
    functions = {
        "quadratic": (lambda t: (t - 3) ** 2, lambda t: 2 * (t - 3)),
        "far": (lambda t: (t - 3e4) ** 2, lambda t: 2 * (t - 3e4)),
        "wall": (lambda t: -t + np.exp(30 * (t - 1)), lambda t: -1 + 30 * np.exp(30 * (t - 1))),
        "bumps": (lambda t: np.sin(5 * t) + 0.1 * (t - 6) ** 2, lambda t: 5 * np.cos(5 * t) + 0.2 * (t - 6)),
        "edge": (
            lambda t: -np.sqrt(4 - t) - t if t < 4 else np.nan,
            lambda t: 0.5 / np.sqrt(4 - t) - 1 if t < 4 else np.nan,
        ),
    }
    with np.errstate(all="ignore"):
        for name, (f, slope) in functions.items():
            sign = -1 if slope(0) > 0 else 1  # "bumps" rises at first: the other way round

            def at(t, f=f, slope=slope, sign=sign):
                return f(sign * t), sign * slope(sign * t)

            for first in (1e-3, 0.1, 1.0, 10.0):
                t, _ = line_search(*at(0.0), first, 0.0, at)
                cost, end = at(t)
                assert cost <= at(0.0)[0] + 1e-4 * t * at(0.0)[1], name
                assert abs(end) <= -0.9 * at(0.0)[1], name


# -- schedules ---------------------------------------------------------------------------------------------------------------


def test_a_schedule_is_a_factor_of_every_member(engine):
    x, y = data(40, 3, 1)
    layers = [Dense(5, "tanh"), Dense(1)]
    scheduled, by_hand = (Population(3, layers, members=2, seed=1, dtype="float64") for _ in range(2))
    with Training(scheduled, x, y, engine=engine, batch_size=20) as training:
        training.run(4, SGD(Exponential([0.1, 0.2], end=0.5), momentum=0.5))
    with Training(by_hand, x, y, engine=engine, batch_size=20) as training:
        rates = 0.5 ** (np.arange(8) / 8)
        seen = []
        for step in range(8):
            optimizer = SGD(np.array([0.1, 0.2]) * rates[step], momentum=0.5)
            training._session.begin(training_watch(), optimizer)
            training._session.advance(step, 1, optimizer, (0, 1))
            seen.append(by_hand.parameters.copy())
    np.testing.assert_allclose(scheduled.parameters, seen[-1], rtol=1e-13)


def training_watch():
    from schuss.engines.base import Watch

    return Watch(every=1, last_epoch=10)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (Steps(1, factor=0.5, at=(0.25, 0.5)), [1, 0.5, 0.25, 0.25]),
        (Segments(1, points=((0, 0), (0.5, 1), (1, 0))), [0, 0.5, 1, 0.5]),
        (Exponential(1, end=0.0001), [1, 0.1, 0.01, 0.001]),
        (Cosine(1, end=0.2), [1, 0.2 + 0.4 * (1 + 0.5**0.5), 0.6, 0.2 + 0.4 * (1 - 0.5**0.5)]),
        (Cosine(1, warmup=0.5), [0, 0.5, 1, 0.5]),
        (WarmUp(1, share=0.5), [0, 0.5, 1, 1]),
        (OneCycle(1, start=0, peak=0.5, end=0), [0, 0.5, 1, 0.5]),
        (Schedule(1, lambda t: 1 - t * t), [1, 0.9375, 0.75, 0.4375]),
    ],
)
def test_schedules_have_the_factors_written_down(schedule, expected):
    np.testing.assert_allclose(schedule.factors(np.array([0, 0.25, 0.5, 0.75])), expected, atol=1e-12)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Adam(beta1=1.0), r"beta1 must be in \[0, 1\)"),
        (lambda: Adam(epsilon=-1), "epsilon must be at least 0"),
        (lambda: RMSprop(rho=1.5), "rho must be in"),
        (lambda: SGD(0.1, clip_norm=-1), "clip_norm must be at least 0"),
        (lambda: LBFGS(history=0), "history must be a whole number from 1 to 100"),
        (lambda: LBFGS(tolerance=-1), "tolerance must be at least 0"),
        (lambda: LBFGS(tolerance=Cosine(1)), "cannot have a schedule"),
        (lambda: SGD(Schedule(0.1, lambda t: 1 / t)), "the schedule of learning_rate fails: ZeroDivisionError"),
        (lambda: SGD(Schedule(0.1, lambda t: t - 0.5)), "learning_rate must be at least 0"),
        (lambda: SGD(0.1, momentum=Segments(0.9, points=((0, 1), (1, 2)))), r"momentum must be in \[0, 1\)"),
        (lambda: SGD(Cosine("fast")), "the base of learning_rate must be a number"),
    ],
)
def test_optimizers_and_schedules_check_themselves(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_what_lbfgs_cannot_have_is_refused():
    x, y = data(30, 3, 1)
    with Training(network((3, 1), ("linear",)), x, y, batch_size=10) as training:
        with pytest.raises(InputError, match="LBFGS needs full batches; got batch_size=10"):
            training.run(5, LBFGS())
        with pytest.raises(InputError, match="uses one class of optimizer"):
            training.run([(1, SGD(0.1)), (1, Adam())])
    layers = [Dense(4, "tanh", dropout=0.5), Dense(1)]
    with Training(Network(3, layers, seed=0), x, y) as training, pytest.raises(InputError, match="no dropout"):
        training.run(5, LBFGS())


@pytest.mark.parametrize(
    ("dtype", "size"),
    [("float32", 1e20), ("float32", 1e-30), ("float64", 1e200), ("float64", 1e-200), ("float64", 1e-310)],
)
@pytest.mark.parametrize("name", ["cpu", "reference"])
def test_gradients_whose_squares_leave_the_range_are_clipped_to_the_norm(name, dtype, size):
    x = (size * np.random.default_rng(0).normal(size=(40, 2))).astype(dtype)
    model = Network(2, [Dense(1)], seed=0, dtype=dtype)
    model.parameters[:] = 0  # the step can be read from them to the last digit
    y = np.ones(40)
    with Training(model, x, y, cost="absolute", engine=name) as training:
        gradient = training.value_and_gradient()[1]
        gradient[-1] = 0  # of the bias, which the weights alone are compared with
        clip = 0.25 * min(1.0, size)
        training.run(1, SGD(1.0, clip_norm=clip))
    wanted = np.append(gradient[:-1], -1.0).astype(np.longdouble)  # the bias has the gradient -1 at 0
    wanted *= clip / (np.abs(wanted).max() * np.sqrt(((wanted / np.abs(wanted).max()) ** 2).sum()))
    assert np.abs(model.parameters + wanted).max() <= 8 * np.finfo(dtype).eps * np.abs(wanted).max()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("make", [Adam, RMSprop])
def test_epsilon_must_be_a_number_of_the_dtype(make, dtype):
    x, y = data(40, 2, 1, dtype=dtype)
    x[:, 1] = 0  # a weight whose gradient is always 0
    tiny = float(np.finfo(dtype).tiny)
    with Training(network((2, 1), ("linear",), dtype=dtype), x, y) as training:
        for wrong in (0.0, tiny / 1e3):
            with pytest.raises(InputError, match=f"epsilon must be at least .* the smallest number of {dtype}"):
                training.run(2, make(0.01, epsilon=wrong))
        assert training.run(5, make(0.01, epsilon=tiny)).diverged == {}
