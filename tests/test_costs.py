"""Costs, the targets they take, dropout, noise, penalties and weights: right gradients, the reference's numbers,
PyTorch's.
"""

import numpy as np
import pytest

from conftest import central_differences, data, thinned
from schuss import SGD, Adam, Dense, InputError, Network, Population, Training
from schuss.activations import ELEMENTWISE
from schuss.costs import COSTS, BinaryCrossEntropy, CrossEntropy, Huber, Quantile
from schuss.engines import cpu
from schuss.metrics import accuracy, accuracy_of_labels, r2
from schuss.philox import dropout_mask, input_noise

EPS = float(np.finfo(np.float64).eps)

CASES = {
    "quadratic": ("quadratic", "tanh", 2),
    "absolute": ("absolute", "linear", 2),
    "huber": (Huber(0.3), "silu", 2),
    "quantile": (Quantile((0.1, 0.5, 0.9)), "linear", 6),
    "poisson": ("poisson", "exp", 2),
    "poisson of log rates": ("poisson", "linear", 2),
    "binary": ("binary_cross_entropy", "sigmoid", 2),
    "binary, smooth": (BinaryCrossEntropy(0.2), "linear", 1),
    "classes": ("cross_entropy", "softmax", 5),
    "classes, smooth": (CrossEntropy(0.1), "softmax", 3),
    "shares": ("cross_entropy", "linear", 4),
}


def case(name, n=37, dtype="float64"):
    """Return a network, x, y and the cost of a case."""
    cost, activation, outputs = CASES[name]
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (n, 3))
    model = Network(3, [Dense(7, "tanh"), Dense(outputs, activation)], seed=2, dtype=dtype)
    if name == "shares":
        y = rng.dirichlet(np.ones(outputs), n)
    elif name.startswith("classes"):
        y = rng.integers(0, outputs, n)
    elif name.startswith("binary"):
        y = rng.integers(0, 2, (n, outputs))
    elif name.startswith("poisson"):
        y = rng.poisson(2, (n, outputs))
    else:
        y = rng.normal(size=(n, outputs // getattr(cost, "levels", 1)))
    return model, x, y, cost


def test_every_cost_has_a_case():
    assert {CASES[name][0] if isinstance(CASES[name][0], str) else CASES[name][0].name for name in CASES} == set(COSTS)


@pytest.mark.parametrize("name", CASES)
def test_gradient_is_that_of_central_differences(engine, name):
    model, x, y, cost = case(name)
    weights = np.random.default_rng(1).uniform(0.5, 2, len(x))
    with Training(model, x, y, cost=cost, engine=engine, l2=0.3, l1=0.2, sample_weight=weights) as training:
        value, gradient = training.value_and_gradient()
        expected = central_differences(training.cost, model.parameters)
        assert value == pytest.approx(training.cost(), rel=1e-13)
    assert np.abs(gradient - expected).max() <= 1e-6 * np.abs(expected).max()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("batch_size", thinned([None, 1, 5, 64, 200], None, 5, 64))
@pytest.mark.parametrize("name", CASES)
def test_training_follows_the_reference(level, name, batch_size, dtype):
    results = []
    for engine in ("cpu", "reference"):
        model, x, y, cost = case(name, 311, dtype)
        held_out = (x[:50], y[:50])
        with Training(model, x, y, cost=cost, engine=engine, batch_size=batch_size, validation=held_out) as training:
            history = training.run(2, SGD(0.01, 0.01, 0.5))
        results.append((model.parameters, history.cost, history.validation_cost))
    steps = 2 * -(-311 // (batch_size or 311))
    for ours, expected in zip(*results, strict=True):
        np.testing.assert_allclose(
            ours, expected, rtol=50 * steps * np.finfo(dtype).eps, atol=20 * steps * np.finfo(dtype).eps
        )


@pytest.mark.full
@pytest.mark.parametrize(
    ("name", "loss"),
    [
        (
            "huber",
            lambda t, z, y: t.nn.functional.huber_loss(t.nn.functional.silu(z), y, delta=0.3, reduction="none").sum(1),
        ),
        ("absolute", lambda t, z, y: (z - y).abs().sum(1)),
        ("poisson", lambda t, z, y: t.nn.functional.poisson_nll_loss(z, y, reduction="none").sum(1)),
        ("binary", lambda t, z, y: t.nn.functional.binary_cross_entropy_with_logits(z, y, reduction="none").sum(1)),
        ("classes", lambda t, z, y: t.nn.functional.cross_entropy(z, y.long(), reduction="none")),
        (
            "classes, smooth",
            lambda t, z, y: t.nn.functional.cross_entropy(z, y.long(), reduction="none", label_smoothing=0.1),
        ),
        ("shares", lambda t, z, y: t.nn.functional.cross_entropy(z, y, reduction="none")),
    ],
)
@pytest.mark.parametrize(("dtype", "bound"), [("float32", 1e-5), ("float64", 1e-12)])
def test_hundred_steps_are_those_of_pytorch(engine, name, loss, dtype, bound):
    torch = pytest.importorskip("torch", reason="PyTorch is an oracle of this test")
    model, x, y, cost = case(name, 100, dtype)
    net = torch.nn.Sequential(torch.nn.Linear(3, 7), torch.nn.Tanh(), torch.nn.Linear(7, model.sizes[-1])).to(
        getattr(torch, dtype)
    )
    for linear, layer in zip(net[::2], model.layers, strict=True):
        linear.weight.data[:], linear.bias.data[:] = torch.tensor(layer.weights), torch.tensor(layer.bias)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.02, momentum=0.8)
    tx, ty = torch.tensor(x, dtype=getattr(torch, dtype)), torch.tensor(y, dtype=getattr(torch, dtype))
    for _ in range(100):
        optimizer.zero_grad()
        loss(torch, net(tx), ty).mean().backward()
        optimizer.step()
    with Training(model, x, y, cost=cost, engine=engine) as training:
        training.run(100, SGD(0.02, momentum=0.8))
    for linear, layer in zip(net[::2], model.layers, strict=True):
        for ours, theirs in ((layer.weights, linear.weight), (layer.bias, linear.bias)):
            expected = theirs.detach().numpy()
            assert np.abs(ours - expected).max() <= bound * np.abs(expected).max()


def test_logits_far_from_zero_keep_their_cost(every_engine):
    # z = 1000 x: e^z overflows and 1 - sigmoid(z) rounds to 0, but the costs are 1000 where the label is wrong, 0 where
    # right.
    for cost, layer in (("binary_cross_entropy", Dense(1, "sigmoid")), ("cross_entropy", Dense(2, "softmax"))):
        model = Network(1, [layer], seed=0, dtype="float32")
        model.parameters[:] = 0
        model.layers[0].weights[-1] = 1000
        with Training(model, [[1.0], [-1.0]], [0, 1], cost=cost, engine=every_engine) as training:
            value, gradient = training.value_and_gradient()
        assert value == pytest.approx(1000, rel=1e-6)
        assert np.isfinite(gradient).all()


def test_softmax_of_a_worked_example():
    # z = (ln 1, ln 2, ln 5): probabilities 1/8, 2/8, 5/8.
    model = Network(1, [Dense(3, "softmax")], seed=0, dtype="float64")
    model.parameters[:] = [*np.log([1, 2, 5]), 0, 0, 0]
    np.testing.assert_allclose(model([[1.0]]), [[1 / 8, 2 / 8, 5 / 8]], rtol=1e-14)
    with Training(model, [[1.0], [1.0]], [2, 0], cost="cross_entropy") as training:
        assert training.cost() == pytest.approx(0.5 * (np.log(8 / 5) + np.log(8)), rel=1e-14)


def test_quantiles_are_learned():
    rng = np.random.default_rng(0)
    y = rng.exponential(size=4000)
    levels = (0.1, 0.5, 0.9)
    model = Network(1, [Dense(3)], seed=0)
    with Training(model, np.zeros((4000, 1)), y, cost=Quantile(levels)) as training:
        training.run(3000, Adam(0.01))
    np.testing.assert_allclose(model([[0.0]])[0], np.quantile(y, levels), atol=0.03)


# -- dropout, noise, averages ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("batch_size", thinned([None, 1, 7, 100], None, 7))
@pytest.mark.parametrize("sizes", [(3, 9, 6, 2), (4, 150, 140, 1)])
def test_dropout_and_noise_follow_the_reference(level, sizes, batch_size, dtype):
    x, y = data(205, sizes[0], sizes[-1], dtype=dtype)
    results = []
    for engine in ("cpu", "reference"):
        layers = [Dense(sizes[1], "gelu", dropout=0.3), Dense(sizes[2], "tanh", dropout=0.5), Dense(sizes[3])]
        model = Network(sizes[0], layers, seed=3, dtype=dtype)
        with Training(
            model, x, y, engine=engine, batch_size=batch_size, input_noise=0.1, average=0.9, seed=5
        ) as training:
            history = training.run(2, SGD(0.01, momentum=0.5))
            results.append((model.parameters.copy(), history.cost, training.averaged().parameters))
    steps = 2 * -(-205 // (batch_size or 205))
    for ours, expected in zip(*results, strict=True):
        np.testing.assert_allclose(
            ours, expected, rtol=100 * steps * np.finfo(dtype).eps, atol=40 * steps * np.finfo(dtype).eps
        )


def test_dropout_keeps_its_share_and_steps_layers_and_seeds_differ():
    masks = [dropout_mask(400, 50, *key, 0.3) for key in ((1, 0, 1), (1, 1, 1), (1, 0, 2), (2, 0, 1))]
    for mask in masks:
        assert mask.mean() == pytest.approx(0.7, abs=5 * (0.21 / mask.size) ** 0.5)
        assert mask.mean(axis=0).std() == pytest.approx((0.21 / 400) ** 0.5, rel=0.4)
    for other in masks[1:]:
        assert (masks[0] == other).mean() == pytest.approx(0.49 + 0.09, abs=0.02)
    noise = input_noise(20_000, 3, 1, 0)
    assert np.abs(noise.mean(axis=0)).max() < 0.03
    np.testing.assert_allclose(noise.std(axis=0), 1, atol=0.02)
    assert np.abs(np.corrcoef(noise.T) - np.eye(3)).max() < 0.03


def test_a_member_drops_out_alone_as_among_others(engine):
    x, y = data(60, 3, 1)
    layers = [Dense(8, "tanh", dropout=0.5), Dense(1)]
    population = Population(3, layers, members=3, seed=1)
    alone = Network(3, layers, seed=int(population.seeds[2]))
    for model in (population, alone):
        with Training(model, x, y, engine=engine, batch_size=20) as training:
            training.run(3, Adam(0.01))
    assert population.parameters[2].tobytes() == alone.parameters.tobytes()
    assert (population.parameters[0] != population.parameters[1]).any()


def test_average_is_the_one_written_down(engine):
    x, y = data(40, 2, 1)
    model = Network(2, [Dense(3, "tanh"), Dense(1)], seed=0, dtype="float64")
    expected = model.parameters.copy()
    with Training(model, x, y, engine=engine, average=0.5) as training:
        for t in range(8):
            training.run(1, SGD(0.1))
            decay = min(0.5, (1 + t) / (10 + t))
            expected = decay * expected + (1 - decay) * model.parameters
        np.testing.assert_allclose(training.averaged().parameters, expected, rtol=1e-13)


# -- targets and weights -----------------------------------------------------------------------------------------------------


def test_class_weights_are_sample_weights(engine):
    model, x, y, cost = case("classes", 60)
    counts = np.bincount(y, minlength=5)
    each = {"balanced": 60 / (5 * counts), "given": np.arange(1, 6.0), "some": np.array([1, 3.0, 1, 1, 1])}
    for class_weight, numbers in (
        ("balanced", each["balanced"]),
        (each["given"], each["given"]),
        ({1: 3.0}, each["some"]),
    ):
        values = []
        for options in ({"class_weight": class_weight}, {"sample_weight": numbers[y]}):
            with Training(model, x, y, cost=cost, engine=engine, **options) as training:
                values.append(training.value_and_gradient())
        assert values[0][0] == pytest.approx(values[1][0], rel=1e-14)
        np.testing.assert_allclose(values[0][1], values[1][1], rtol=1e-13)


def network_for(cost, outputs=3, last="softmax"):
    return Network(3, [Dense(outputs, last)], seed=0), cost


X = np.random.default_rng(0).uniform(size=(6, 3))


@pytest.mark.parametrize(
    ("arguments", "y", "message"),
    [
        (
            ("cross_entropy", 3),
            [0, 1, 2, 3, 0, 1],
            "labels must be whole numbers from 0 to 2.*holds 3 in row 3.*np.unique",
        ),
        (("cross_entropy", 3), [0, 1, 2, 0.5, 0, 1], r"holds 0\.5 in row 3"),
        (("cross_entropy", 3), [-1, 1, 2, 0, 0, 1], "holds -1 in row 0"),
        (("cross_entropy", 3), [1] * 6, "one class only"),
        (("cross_entropy", 3), np.full((6, 3), 0.5), "share of each class, of sum 1"),
        (
            ("cross_entropy", 3),
            np.zeros((6, 2)),
            r"y has shape \(6, 2\).*pass y of shape \(6, 1\) or \(6, 3\) or \(6,\)",
        ),
        (("binary_cross_entropy", 1, "sigmoid"), [0, 1, 2, 0, 0, 1], "takes 0 and 1"),
        (("binary_cross_entropy", 1, "sigmoid"), [0] * 6, "one class only"),
        (("poisson", 1, "exp"), [0, 1, -2, 0, 0, 1], "not negative; y holds -2 in row 2"),
        ((Quantile((0.1, 0.9)), 3, "linear"), np.zeros(6), "2 levels, one output each, but the network has 3 outputs"),
        (("cross_entropy", 3, "tanh"), [0, 1, 2, 0, 0, 1], "needs a last layer with activation 'softmax', or 'linear'"),
        (("quadratic", 3), np.zeros((6, 3)), "softmax is trained by cost='cross_entropy'"),
        (("cross_entropy", 3), ["a", "b", "c", "a", "b", "c"], "y has dtype <U1"),
    ],
)
def test_targets_that_do_not_fit_are_named(arguments, y, message):
    model, cost = network_for(*arguments)
    with pytest.raises(InputError, match=message):
        Training(model, X, y, cost=cost)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Quantile((0.1, 1.0)), r"inside \(0, 1\)"),
        (lambda: Quantile(()), "at least one"),
        (lambda: Quantile("half"), "got 'half'"),
        (lambda: Huber(0), "above 0"),
        (lambda: CrossEntropy(1.0), "label_smoothing must be"),
        (lambda: Dense(3, dropout=1.0), "dropout must be a share"),
        (lambda: Network(2, [Dense(3, "softmax"), Dense(1)]), "softmax is for the last layer only"),
        (lambda: Network(2, [Dense(1, "softmax")]), "softmax needs at least 2 units"),
        (lambda: Network(2, [Dense(2, dropout=0.5)]), "the last layer must have no dropout"),
        (
            lambda: Training(*_classes(), cost="cross_entropy", class_weight=[1, 2]),
            "one number, not negative, for each of 3 classes",
        ),
        (lambda: Training(*_classes(), cost="cross_entropy", class_weight={7: 1}), "names classes that there are not"),
        (lambda: Training(*_classes(), cost="cross_entropy", class_weight=[0, 0, 0]), "class_weight is all zero"),
        (lambda: Training(*_regression(), class_weight="balanced"), "class_weight needs class labels"),
        (lambda: Training(*_regression(), l1=-1), "l1 must be a finite number"),
        (lambda: Training(*_regression(), input_noise=-1), "input_noise must be"),
        (lambda: Training(*_regression(), average=1), "average must be"),
        (lambda: Training(*_regression(), on_divergence="ignore"), "on_divergence must be"),
        (lambda: Training(*_regression(), validation=1.5), "must leave rows"),
        (lambda: Training(*_regression(), validation=(X[:0], X[:0, 0])), "validation x has no rows"),
        (lambda: Training(*_regression(), shuffle="blocks"), "for memory-mapped x"),
    ],
)
def test_descriptions_and_options_that_do_not_fit_are_named(make, message):
    with pytest.raises(InputError, match=message):
        make()


def _regression():
    return Network(3, [Dense(1)], seed=0), X, X[:, 0]


def _classes():
    return Network(3, [Dense(3, "softmax")], seed=0), X, np.array([0, 1, 2, 0, 1, 2])


def test_metrics_are_those_written_down():
    assert accuracy(np.array([[0], [1], [1]]), np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]])) == pytest.approx(2 / 3)
    assert accuracy_of_labels(np.array([[0.0], [1.0]]), np.array([[0.4], [0.3]])) == 0.5
    assert accuracy_of_labels(np.array([[0, 1], [1, 1]]), np.array([[0.2, 0.9], [0.7, 0.4]])) == 0.5
    assert r2(np.array([[1.0], [2.0], [3.0]]), np.array([[1.0], [2.0], [4.0]])) == pytest.approx(0.5)


@pytest.mark.parametrize("name", ["exp", "softmax"])
def test_new_activations_predict_what_numpy_says(level, name):
    for dtype in ("float32", "float64"):
        model = Network(4, [Dense(33, "tanh"), Dense(5, name)], seed=1, dtype=dtype)
        x = np.random.default_rng(0).normal(0, 20, (101, 4)).astype(dtype)
        a = np.tanh(x @ model.layers[0].weights.T + model.layers[0].bias)
        z = (a @ model.layers[1].weights.T + model.layers[1].bias).astype(np.float64)
        expected = np.exp(z) if name == "exp" else np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
        np.testing.assert_allclose(model(x), expected, rtol=300 * np.finfo(dtype).eps)
    assert name in ELEMENTWISE or name == "softmax"
    assert cpu.library().schuss_activation(name.encode()) >= 0
