"""Scores that early stopping looks at: those of scikit-learn, for every cost, and what is said when one is not finite."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, r2_score

from conftest import data, network
from schuss import SGD, Dense, EarlyStopping, InputError, Network, Population, Training
from schuss.interop.sklearn import EnsembleRegressor, MLPClassifier, MLPRegressor
from schuss.metrics import r2

# What y holds, the outputs, the last activation, the cost, and what scikit-learn would be given for outputs of the network.
SIGN = lambda outputs: outputs > 0  # noqa: E731
HALF = lambda outputs: outputs > 0.5  # noqa: E731
LARGEST = lambda outputs: outputs.argmax(axis=1)  # noqa: E731
CASES = {
    "logits of two classes": ("labels", 1, "linear", "binary_cross_entropy", SIGN),
    "two classes": ("labels", 1, "sigmoid", "binary_cross_entropy", HALF),
    "logits of several labels": ("several", 3, "linear", "binary_cross_entropy", SIGN),
    "several labels": ("several", 3, "sigmoid", "binary_cross_entropy", HALF),
    "logits of classes": ("classes", 3, "linear", "cross_entropy", LARGEST),
    "classes": ("classes", 3, "softmax", "cross_entropy", LARGEST),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_early_stopping_by_accuracy_sees_that_of_scikit_learn(case):
    kind, outputs, activation, cost, decided = case
    x, _ = data(300, 3, 1)
    y = {"labels": (x[:, 0] > 0.2), "several": x > 0.2, "classes": LARGEST(x)}[kind].astype(int)
    model = network((3, 8, outputs), ("tanh", activation))
    stopping = EarlyStopping(100, metric="accuracy", restore_best=False)
    with Training(model, x[:200], y[:200], cost=cost, validation=(x[200:], y[200:])) as training:
        history = training.run(30, SGD(0.5, momentum=0.9), early_stopping=stopping)
    expected = accuracy_score(y[200:], decided(model(x[200:])).reshape(y[200:].shape))
    assert history.score[-1] == pytest.approx(expected, abs=1e-12)
    assert expected > 0.6


def test_accuracy_of_numbers_is_refused():
    x, y = data(40, 2, 1)
    with (
        Training(network((2, 1), ("linear",)), x, y, validation=0.5) as training,
        pytest.raises(InputError, match="accuracy is of classes, and cost='quadratic' is of numbers; use metric='r2'"),
    ):
        training.run(3, SGD(0.1), early_stopping=EarlyStopping(2, metric="accuracy"))


@given(st.data())
@settings(max_examples=100, deadline=None)
def test_r2_is_that_of_scikit_learn(drawn):
    n, outputs = drawn.draw(st.integers(2, 9)), drawn.draw(st.integers(1, 3))
    numbers = st.integers(-400, 400).map(
        lambda value: value / 4
    )  # scikit-learn takes a column for constant by its rounded mean
    y = np.array(drawn.draw(st.lists(st.lists(numbers, min_size=outputs, max_size=outputs), min_size=n, max_size=n)))
    if drawn.draw(st.booleans()):
        y[:, 0] = y[0, 0]
    predicted = y.copy() if drawn.draw(st.booleans()) else np.round(y[::-1] * 0.9, 3)
    expected = r2_score(y, predicted)
    assert r2(y, predicted) == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_a_constant_output_does_not_end_early_stopping_by_r2():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 3))
    y = np.c_[x.sum(axis=1), np.ones(60)]
    model = Network(3, [Dense(8, "tanh"), Dense(2)], seed=0)
    with Training(model, x[:40], y[:40], validation=(x[40:], y[40:])) as training:
        history = training.run(300, SGD(0.05, momentum=0.9), early_stopping=EarlyStopping(30, metric="r2"))
    assert np.isfinite(history.score).all()
    assert len(history) > 50


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_score_that_is_not_finite_is_said_and_counts_as_the_worst(value):
    x, y = data(40, 2, 1)
    seen = []

    def metric(y, outputs):
        seen.append(len(seen))
        return value if len(seen) > 6 else float(len(seen))

    model = Population(2, [Dense(1)], members=2, seed=0)
    with (
        Training(model, x, y, validation=(x, y)) as training,
        pytest.warns(
            RuntimeWarning, match=f"the score of early stopping is {value} in epoch 4 .*count as the worst"
        ) as noted,
    ):
        history = training.run(50, SGD(0.01), early_stopping=EarlyStopping(4, metric=metric))
    assert [warning.filename for warning in noted] == [__file__]
    assert history.stopped == {0: 7, 1: 7}
    assert history.score[:3].tolist() == [[1, 2], [3, 4], [5, 6]]
    assert (history.score[3:] == -np.inf).all()


def test_shares_are_not_weighed_by_class():
    x, _ = data(20, 2, 1)
    y = np.where(x[:, 0] > 0, 0.8, 0.3)
    with pytest.raises(InputError, match=r"class_weight needs labels 0 and 1; y holds 0\.[38]\d* in row 0"):
        Training(network((2, 1), ("sigmoid",)), x, y, cost="binary_cross_entropy", class_weight=[1, 100])


@pytest.mark.parametrize("dtype", [float, int])
def test_masked_values_are_missing_values_to_estimators(dtype):
    x, _ = data(40, 3, 1)
    x = (10 * x).astype(dtype)
    y = x[:, 0] * 2.0
    hidden = np.zeros(x.shape, bool)
    hidden[3, 1] = True
    masked = np.ma.array(x, mask=hidden)
    for estimator in (MLPRegressor(max_iter=200), EnsembleRegressor(max_iter=200), MLPClassifier(max_iter=200)):
        targets = (y > 0).astype(int) if isinstance(estimator, MLPClassifier) else y
        with pytest.raises(ValueError, match="Input X contains NaN"):
            estimator.fit(masked, targets)
        estimator.set_params(solver="lbfgs", max_iter=500, tol=1.0).fit(x, targets)
        with pytest.raises(ValueError, match="Input X contains NaN"):
            estimator.predict(masked)
    with pytest.raises(ValueError, match="Input y contains NaN"):
        MLPRegressor().fit(x, np.ma.array(y, mask=hidden[:, 1]))


@pytest.mark.parametrize("dtype", [float, int])
def test_masked_values_are_missing_values(dtype):
    x = np.ma.array([[1], [2], [999]], mask=[[0], [0], [1]], dtype=dtype)
    y = [1.0, 2.0, 3.0]
    model = Network(1, [Dense(1, initializer=[[1.0]])], seed=0)
    with pytest.raises(InputError, match="x holds nan in row 2, column 0"):
        Training(model, x, y)
    with pytest.raises(InputError, match="y holds nan in row 2, column 0"):
        Training(model, y=x, x=np.array(y)[:, None])
    assert np.isnan(model(x)[:, 0]).tolist() == [False, False, True]
    for other in (np.ma.array([[1j], [2.0]], mask=[[0], [1]]), np.ma.array([["1"], ["2"]], mask=[[0], [1]])):
        with pytest.raises(InputError, match=r"x has dtype .*; pass real numbers"):
            model(other)
    unmasked = np.ma.array([[1.0], [2.0]], mask=False)
    with Training(model, unmasked, [1.0, 2.0]) as training:
        assert training.cost() == 0
