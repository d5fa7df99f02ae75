"""The estimators for scikit-learn: its own checks, its own MLPs as oracle, and what it does not have."""

import pickle
import warnings
from functools import partial

import numpy as np
import polars as pl
import pytest

pytest.importorskip("sklearn", reason="scikit-learn is not installed")

from sklearn import neural_network as theirs
from sklearn.base import clone
from sklearn.datasets import load_diabetes, load_digits, load_iris
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import log_loss
from sklearn.model_selection import GridSearchCV, GroupKFold, KFold, ShuffleSplit, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler, scale
from sklearn.utils.estimator_checks import parametrize_with_checks

from schuss import InputError
from schuss.callbacks import CSVLog
from schuss.costs import CrossEntropy, Huber, Quantile
from schuss.interop.sklearn import EnsembleClassifier, EnsembleRegressor, MLPClassifier, MLPRegressor, SweepCV

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

X, Y = load_diabetes(return_X_y=True)
X, Y = scale(X), scale(Y)
FLOWERS, KINDS = load_iris(return_X_y=True)
FLOWERS = scale(FLOWERS)
ESTIMATORS = [MLPRegressor(), MLPClassifier(), EnsembleRegressor(n_estimators=3), EnsembleClassifier(n_estimators=3)]


@pytest.mark.filterwarnings("ignore")
@parametrize_with_checks(ESTIMATORS)  # none is expected to fail
def test_every_check_of_scikit_learn(estimator, check):
    check(estimator)


@pytest.mark.parametrize("name", ["MLPRegressor", "MLPClassifier"])
def test_every_parameter_has_their_name_place_and_default(name):
    ours, old = ({"MLPRegressor": MLPRegressor, "MLPClassifier": MLPClassifier}[name]), getattr(theirs, name)
    assert old().get_params().items() <= ours().get_params().items()
    positional = ("poisson", (3,), "tanh") if name == "MLPRegressor" else ((3,), "tanh")
    assert old(*positional).get_params().items() <= ours(*positional).get_params().items()


# -- scikit-learn's MLPs as oracle: without shuffling the same batches, from the same first weights -------------------------

SETTINGS = {
    "defaults": {},
    "batches, alpha": {"batch_size": 64, "alpha": 0.5},
    "logistic": {"activation": "logistic"},
    "tanh, three layers": {"activation": "tanh", "hidden_layer_sizes": (7, 6, 5)},
    "no momentum": {"momentum": 0.0},
    "classical momentum": {"nesterovs_momentum": False},
    "inverse scaling": {"learning_rate": "invscaling", "learning_rate_init": 0.1},
    "stops": {"tol": 0.01, "n_iter_no_change": 3},
}


@pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("task", ["number", "counts", "numbers", "two classes", "classes", "labels"])
def test_gradient_descent_takes_the_steps_of_scikit_learn(setting, task):
    options = {"solver": "sgd", "shuffle": False, "random_state": 5, "hidden_layer_sizes": (8, 6), "max_iter": 30}
    options |= setting
    x, y = {
        "number": (X, Y),
        "counts": (X, np.random.default_rng(0).poisson(2, len(X))),
        "numbers": (X, np.stack([Y, X[:, 0] * Y], axis=1)),
        "two classes": (FLOWERS, np.where(KINDS == 1, "one", "other")),
        "classes": (FLOWERS, KINDS),
        "labels": (FLOWERS, np.stack([KINDS > 0, KINDS > 1], axis=1).astype(int)),
    }[task]
    if task == "counts":
        options["loss"] = "poisson"
    name = "MLPRegressor" if task in ("number", "counts", "numbers") else "MLPClassifier"
    weights = np.random.default_rng(1).integers(1, 3, len(x)).astype(float) if task == "number" else None
    ours = {"MLPRegressor": MLPRegressor, "MLPClassifier": MLPClassifier}[name](**options).fit(x, y, weights)
    old = getattr(theirs, name)(**options).fit(x, y, weights)
    assert ours.n_iter_ == old.n_iter_
    assert ours.out_activation_ == old.out_activation_
    assert (ours.n_layers_, ours.n_outputs_) == (old.n_layers_, old.n_outputs_)
    for mine, other in zip([*ours.coefs_, *ours.intercepts_], [*old.coefs_, *old.intercepts_], strict=True):
        np.testing.assert_allclose(mine, other, rtol=0, atol=1e-12)
    penalty = 0.0
    if task == "numbers":  # theirs averages the errors over outputs but not the penalty: docs/scikit_learn.md
        penalty = 0.25 * options.get("alpha", 1e-4) * sum(np.square(w).sum() for w in old.coefs_) / 64
    if task != "number":  # with weights, they average batches by their rows, we by their weights
        np.testing.assert_allclose(ours.loss_, old.loss_, rtol=1e-9, atol=1.2 * penalty)
    if name == "MLPClassifier":
        np.testing.assert_allclose(ours.predict_proba(x), old.predict_proba(x), atol=1e-12)
    np.testing.assert_array_equal(ours.predict(x).shape, old.predict(x).shape)


def test_adam_and_lbfgs_reach_what_scikit_learn_reaches():
    for solver, tolerance in (("adam", 0.02), ("lbfgs", 0.05)):
        options = {"solver": solver, "random_state": 0, "hidden_layer_sizes": (20,), "alpha": 1.0, "max_iter": 400}
        ours, old = MLPRegressor(**options).fit(X, Y), theirs.MLPRegressor(**options).fit(X, Y)
        assert abs(ours.score(X, Y) - old.score(X, Y)) < tolerance


def test_a_run_that_has_not_converged_says_so():
    with pytest.warns(ConvergenceWarning, match=r"Maximum iterations \(3\)"):
        MLPRegressor(max_iter=3).fit(X, Y)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = MLPRegressor(max_iter=500, tol=0.01, random_state=0).fit(X, Y)
    assert model.n_iter_ < 500


# -- the ways to fit -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", ["adam", "sgd", "rmsprop"])
def test_partial_fit_is_the_fit_cut_into_epochs(solver):
    options = {"solver": solver, "shuffle": False, "random_state": 1, "batch_size": 100}
    whole = MLPRegressor(max_iter=4, **options).fit(X, Y)
    parts = MLPRegressor(**options)
    for _ in range(4):
        parts.partial_fit(X, Y)
    np.testing.assert_array_equal(parts.network_.parameters, whole.network_.parameters)
    np.testing.assert_allclose(parts.loss_curve_, whole.loss_curve_, rtol=1e-15)
    assert parts.t_ == whole.t_ == 4 * len(X)


def test_partial_fit_wants_to_know_the_classes():
    model = MLPClassifier(random_state=0)
    with pytest.raises(ValueError, match="classes must be passed on the first call"):
        model.partial_fit(FLOWERS[:50], KINDS[:50])
    for _ in range(30):
        for first in range(0, 150, 50):
            model.partial_fit(FLOWERS[first : first + 50], KINDS[first : first + 50], classes=[0, 1, 2])
    assert model.score(FLOWERS, KINDS) > 0.6
    with pytest.raises(ValueError, match="not the same as on last call"):
        model.partial_fit(FLOWERS, KINDS, classes=[0, 1])
    with pytest.raises(AttributeError):
        _ = MLPClassifier(solver="lbfgs").partial_fit


def test_a_warm_start_goes_on_and_a_cold_one_does_not():
    cold = MLPRegressor(max_iter=5, random_state=0).fit(X, Y)
    first = cold.network_.parameters.copy()
    assert cold.fit(X, Y).network_.parameters.tolist() == first.tolist()
    warm = MLPRegressor(max_iter=5, random_state=0, warm_start=True).fit(X, Y)
    assert warm.fit(X, Y).loss_ < warm.loss_curve_[0]
    assert len(warm.loss_curve_) == 10
    with pytest.raises(ValueError, match="classes not in"):
        MLPClassifier(warm_start=True).fit(FLOWERS[:100], KINDS[:100]).fit(FLOWERS, KINDS)


def test_float32_in_is_float32_out():
    model = MLPRegressor(max_iter=5, random_state=0).fit(X.astype("f"), Y)
    assert model.predict(X).dtype == np.float32
    assert MLPRegressor(max_iter=5, random_state=0).fit(X, Y).predict(X.astype("f")).dtype == np.float64


def test_layers_of_different_functions_with_dropout():
    model = MLPRegressor(hidden_layer_sizes=(8, 6), activation=("tanh", "silu"))
    model.set_params(dropout=(0.1, 0.0), random_state=0, max_iter=50).fit(X, Y)
    assert [layer.activation for layer in model.network_.layers] == ["tanh", "silu", "linear"]
    assert [dense.dropout for dense in model.network_.dense] == [0.1, 0.0, 0.0]


@pytest.mark.parametrize("loss", ["absolute_error", "huber", Huber(0.5), "quadratic"])
def test_a_regressor_takes_other_losses(loss):
    assert MLPRegressor(loss=loss, random_state=0, max_iter=200).fit(X, Y).score(X, Y) > 0.4


def test_quantiles_are_columns():
    model = MLPRegressor(loss=Quantile((0.1, 0.5, 0.9)), random_state=0, max_iter=300).fit(X, Y)
    low, _, high = model.predict(X).T
    assert 0.7 < ((low < Y) & (high > Y)).mean() < 0.95


def test_class_weights_are_sample_weights():
    y = KINDS == 2
    x = FLOWERS[:, :2]
    options = {"random_state": 0, "max_iter": 100}
    by_class = MLPClassifier(class_weight={False: 1, True: 3}, **options).fit(x, y)
    by_sample = MLPClassifier(**options).fit(x, y, np.where(y, 3.0, 1.0))
    np.testing.assert_array_equal(by_class.network_.parameters, by_sample.network_.parameters)
    plain, balanced = (MLPClassifier(class_weight=w, **options).fit(x, y) for w in (None, "balanced"))
    assert balanced.predict(x).sum() > plain.predict(x).sum()
    with pytest.raises(InputError, match="several labels"):
        MLPClassifier(class_weight="balanced").fit(x, np.stack([y, ~y], axis=1).astype(int))


def test_early_stopping_looks_at_any_scorer():
    digits, labels = load_digits(return_X_y=True)
    digits = digits / 16
    for scoring in (None, "neg_log_loss", lambda model, x, y: -log_loss(y, model.predict_proba(x))):
        model = MLPClassifier(early_stopping=True, scoring=scoring, random_state=0, n_iter_no_change=5, tol=1e-3)
        model.fit(digits, labels)
        assert model.n_iter_ == len(model.validation_scores_) < 200
        assert model.best_validation_score_ == max(model.validation_scores_)
        assert model.best_loss_ is None
    held = digits[1500:], labels[1500:]
    model = MLPClassifier(early_stopping=True, scoring="neg_log_loss", random_state=0, tol=0.0)
    model.fit(digits[:1500], labels[:1500], validation=held)
    found = -log_loss(held[1], model.predict_proba(held[0]))
    assert found == pytest.approx(model.best_validation_score_, rel=1e-9)  # the best parameters were put back


def test_a_validation_set_gives_a_curve():
    model = MLPRegressor(random_state=0, max_iter=30).fit(X[:300], Y[:300], validation=(X[300:], Y[300:]))
    assert len(model.validation_loss_curve_) == model.n_iter_ == 30
    error = 0.5 * np.square(model.predict(X[300:]) - Y[300:]).mean()
    assert model.validation_loss_curve_[-1] == pytest.approx(error, rel=1e-12)
    with pytest.raises(ValueError, match="must be a pair"):
        MLPRegressor().fit(X, Y, validation=X)


def test_frames_give_their_names():
    frame = pl.DataFrame(X, schema=[f"column {i}" for i in range(10)])
    model = MLPRegressor(max_iter=5, random_state=0).fit(frame, Y)
    assert model.feature_names_in_[3] == "column 3"
    with pytest.raises(ValueError, match="feature names"):
        model.predict(frame.select(reversed(frame.columns)))
    pandas = pytest.importorskip("pandas")
    same = MLPRegressor(max_iter=5, random_state=0).fit(pandas.DataFrame(X, columns=frame.columns), Y)
    np.testing.assert_array_equal(same.network_.parameters, model.network_.parameters)


def test_pipelines_searches_and_sparse_columns_work():
    cities = np.array([["Bern"], ["Oslo"], ["Rome"]])[np.arange(90) % 3]
    y = np.arange(90) % 3 * 1.0
    model = make_pipeline(OneHotEncoder(), MLPRegressor(random_state=0, max_iter=500, learning_rate_init=0.01))
    assert model.fit(cities, y).score(cities, y) > 0.99
    search = GridSearchCV(make_pipeline(StandardScaler(), MLPRegressor(random_state=0, max_iter=20)),
                          {"mlpregressor__alpha": [0.1, 1.0]}, cv=3)  # fmt: skip
    assert search.fit(X, Y).best_score_ > -5


def test_estimators_travel(tmp_path):
    model = MLPClassifier(early_stopping=True, random_state=0, max_iter=20).fit(FLOWERS, KINDS)
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.predict_proba(FLOWERS), model.predict_proba(FLOWERS))
    assert clone(model).get_params() == model.get_params()


def test_callbacks_and_lines(tmp_path, capsys):
    MLPRegressor(max_iter=7, random_state=0, verbose=True, callbacks=[CSVLog(tmp_path / "log.csv")]).fit(X, Y)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(",")[0] for line in lines] == [f"Iteration {i}" for i in range(1, 8)]
    assert "loss = " in lines[0]
    assert len((tmp_path / "log.csv").read_text().splitlines()) == 8


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"hidden_layer_sizes": (5, 0)}, "hidden_layer_sizes must be > 0"),
        ({"hidden_layer_sizes": "ten"}, "hidden_layer_sizes must be > 0"),
        ({"activation": "rellu"}, "did you mean 'relu'"),
        ({"activation": ("relu", "tanh")}, "activation has 2 values for 1 hidden layers"),
        ({"solver": "adamm"}, "unknown solver"),
        ({"learning_rate": "fast"}, "unknown learning_rate"),
        ({"learning_rate_init": -1}, "learning_rate"),
        ({"alpha": -1}, "l2"),
        ({"max_iter": 0}, "max_iter"),
        ({"batch_size": 0}, "batch_size"),
        ({"tol": -1}, "tol"),
        ({"validation_fraction": 1.0, "early_stopping": True}, "validation_fraction"),
        ({"loss": "log_loss"}, "unknown loss"),
        ({"loss": CrossEntropy(0.1)}, "is for classes"),
        ({"dropout": 1.0}, "dropout"),
        ({"engine": "gpu"}, "unknown engine"),
    ],
)
def test_wrong_parameters_are_named_before_any_work(options, words):
    with pytest.raises(ValueError, match=words):
        MLPRegressor(**options).fit(X, Y)


def test_a_fit_that_fails_leaves_what_was_fitted():
    model = MLPClassifier(random_state=0, max_iter=20).fit(FLOWERS, KINDS)
    before = model.predict(FLOWERS)
    for X_wrong, y_wrong in ((FLOWERS, Y[:150]), (FLOWERS, np.zeros(150)), (FLOWERS[:, :2] * np.nan, KINDS)):
        with pytest.raises(ValueError, match=r"label type|one class|NaN"):
            model.fit(X_wrong, y_wrong)
        assert model.predict(FLOWERS).tolist() == before.tolist()
        assert model.classes_.tolist() == [0, 1, 2]


def test_targets_that_are_no_classes_are_named():
    with pytest.raises(ValueError, match="one class only"):
        MLPClassifier().fit(FLOWERS, np.zeros(150))
    with pytest.raises(ValueError, match="Unknown label type"):
        MLPClassifier().fit(X, Y)
    with pytest.raises(ValueError, match="is for two classes"):
        MLPClassifier(loss="binary_cross_entropy").fit(FLOWERS, KINDS)


# -- ensembles -----------------------------------------------------------------------------------------------------------


def test_an_ensemble_is_the_mean_of_its_members():
    model = EnsembleRegressor(n_estimators=5, random_state=0, max_iter=100).fit(X, Y)
    mean, deviation = model.predict(X, return_std=True)
    members = np.stack([network(X)[:, 0] for network in model.ensemble_.networks()])
    np.testing.assert_allclose(mean, members.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(deviation, members.std(axis=0), rtol=1e-9, atol=1e-15)
    np.testing.assert_allclose(model.predict_quantiles(X, (0.0, 1.0)), np.stack([members.min(0), members.max(0)], 1))
    assert len({network.parameters[0] for network in model.ensemble_.networks()}) == 5


def test_a_member_is_the_network_that_its_seed_draws():
    model = EnsembleRegressor(n_estimators=3, random_state=0, max_iter=1, learning_rate_init=1e-30).fit(X, Y)
    seed = int(model.ensemble_.seeds[1])
    alone = MLPRegressor(random_state=seed, max_iter=1, learning_rate_init=1e-30).fit(X, Y)
    np.testing.assert_allclose(model.ensemble_.parameters[1], alone.network_.parameters, atol=1e-20)


def test_probabilities_are_averaged_over_members():
    model = EnsembleClassifier(n_estimators=4, random_state=0, max_iter=50, bootstrap=True).fit(FLOWERS, KINDS)
    mean, deviation = model.predict_proba(FLOWERS, return_std=True)
    np.testing.assert_allclose(mean, model.predict_proba(FLOWERS), atol=1e-12)
    np.testing.assert_allclose(mean.sum(axis=1), 1, atol=1e-12)
    assert (deviation > 0).any()
    two = EnsembleClassifier(n_estimators=4, random_state=0, max_iter=50).fit(FLOWERS, KINDS == 1)
    assert two.predict_proba(FLOWERS).shape == (150, 2)
    assert two.predict(FLOWERS).dtype == bool


def test_selection_is_greedy_on_the_rows_held_out():
    options = {"n_estimators": 8, "random_state": 0, "max_iter": 60}
    train, held = (X[:300], Y[:300]), (X[300:], Y[300:])
    everyone = EnsembleRegressor(**options).fit(*train, validation=held)
    chosen = EnsembleRegressor(**options, select=4).fit(*train, validation=held)
    assert chosen.ensemble_.members == 4
    errors = [np.square(model.predict(held[0]) - held[1]).mean() for model in (everyone, chosen)]
    assert errors[1] < errors[0]
    classes = EnsembleClassifier(n_estimators=5, select=2, random_state=0, max_iter=30).fit(FLOWERS, KINDS)
    assert classes.ensemble_.members == 2


@pytest.mark.parametrize("wrong", [{"n_estimators": 0}, {"select": 0}, {"n_estimators": 2.5}])
def test_ensembles_of_no_members_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        EnsembleRegressor(**wrong).fit(X, Y)


# -- the search ----------------------------------------------------------------------------------------------------------


def test_full_batches_score_as_a_grid_search_does():
    grid = {"alpha": [0.01, 10.0], "learning_rate_init": [0.01, 0.1], "hidden_layer_sizes": [(5,), (3, 3)]}
    options = {"solver": "sgd", "random_state": 3, "max_iter": 40, "tol": 0.0, "shuffle": False, "batch_size": 442}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ours = SweepCV(MLPRegressor(**options), grid, cv=KFold(4)).fit(X, Y)
        other = GridSearchCV(theirs.MLPRegressor(**options), grid, cv=KFold(4)).fit(X, Y)
    assert ours.cv_results_["params"] == other.cv_results_["params"]
    for key in ("mean_test_score", "std_test_score", "split2_test_score", "rank_test_score"):
        np.testing.assert_allclose(ours.cv_results_[key], other.cv_results_[key], rtol=1e-9)
    assert ours.best_params_ == other.best_params_
    np.testing.assert_allclose(ours.predict(X), other.predict(X), rtol=1e-9, atol=1e-12)
    assert ours.score(X, Y) == pytest.approx(other.score(X, Y), rel=1e-9)


def test_a_search_among_classifiers():
    grid = [{"alpha": [1e-4, 1.0]}, {"activation": ["tanh"], "momentum": [0.5, 0.9]}]
    search = SweepCV(MLPClassifier(random_state=0, max_iter=60), grid, cv=3, scoring="neg_log_loss")
    search.fit(FLOWERS, np.array(["a", "b", "c"])[KINDS])
    assert search.classes_.tolist() == ["a", "b", "c"]
    assert search.predict_proba(FLOWERS).shape == (150, 3)
    assert search.cv_results_["param_activation"].mask.tolist() == [True, True, False, False]
    assert search.best_score_ == search.cv_results_["mean_test_score"].max() < 0
    assert cross_val_score(search, FLOWERS, KINDS, cv=3).min() < 0


def test_draws_from_distributions():
    class Uniform:
        def rvs(self, random_state=None):
            return float(random_state.uniform(0.001, 0.1))

    make = partial(SweepCV, MLPRegressor(random_state=0, max_iter=5), {"learning_rate_init": Uniform()}, cv=3)
    first, again = (make(n_iter=6, random_state=4, refit=False).fit(X, Y) for _ in range(2))
    assert len(first.cv_results_["params"]) == 6
    np.testing.assert_array_equal(first.cv_results_["mean_test_score"], again.cv_results_["mean_test_score"])
    with pytest.raises(Exception, match="refit=True"):
        first.predict(X)


@pytest.mark.parametrize(
    ("search", "words"),
    [
        (lambda: SweepCV(theirs.MLPRegressor(), {"alpha": [1]}), "SweepCV tunes an MLPRegressor"),
        (lambda: SweepCV(MLPRegressor(), {"alfa": [1]}), "names"),
        (lambda: SweepCV(MLPRegressor(early_stopping=True), {"alpha": [1.0]}), "early_stopping=True"),
        (lambda: SweepCV(MLPRegressor(), {"alpha": [1.0]}, cv=ShuffleSplit(3)), "into one test set"),
        (lambda: SweepCV(MLPRegressor(), {"solver": ["adam", "adm"]}), "unknown solver"),
    ],
)
def test_searches_that_cannot_be_made_say_why(search, words):
    with pytest.raises(ValueError, match=words):
        search().fit(X, Y)


def test_groups_stay_together():
    groups = np.arange(len(X)) % 11
    search = SweepCV(MLPRegressor(random_state=0, max_iter=3), {"alpha": [1.0]}, cv=GroupKFold(4), refit=False)
    assert search.fit(X, Y, groups=groups).n_splits_ == 4
