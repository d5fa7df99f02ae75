"""The estimators beside scikit-learn's: default MLPs on 20 paired seeds, and a search of 50 candidates on 5 folds.

All in one process, taking turns with pauses. Writes a table to benchmarks/results/estimators.md.

    python benchmarks/estimators.py                 # about ten minutes
    python benchmarks/estimators.py --seeds 3       # a look
"""

import argparse
import time
import warnings
from datetime import date
from platform import python_version

import numpy as np
import sklearn
from cpu import RESULTS, processor
from sklearn import neural_network as theirs
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV, train_test_split

from schuss import Dense, Network
from schuss.engines import cpu
from schuss.interop import sklearn as ours

PAUSE = 1.5  # seconds before a turn: threads of BLAS spin on when their work is done


def data():
    """Yield title, name of the estimator, X, y: the jobs of the defaults."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((10_000, 20))
    y = np.sin(X[:, 0]) + X[:, 1] * X[:, 2] + 0.5 * X[:, 3] ** 2 + rng.normal(0, 0.1, 10_000)
    digits, labels = load_digits(return_X_y=True)
    for kind in ("float64", "float32"):
        yield f"MLPRegressor, 10 000 x 20, {kind}", "MLPRegressor", X.astype(kind), y
        yield f"MLPClassifier, 10 000 x 20, {kind}", "MLPClassifier", X.astype(kind), (y > 0.5).astype(int)
        yield f"MLPClassifier, digits, {kind}", "MLPClassifier", (digits / 16).astype(kind), labels


def timed(estimator, X, y):
    time.sleep(PAUSE)
    started = time.perf_counter()
    estimator.fit(X, y)
    return time.perf_counter() - started


def defaults(title, name, X, y, seeds):
    """Return a row: seconds of both, their ratio, both scores, the paired difference and its standard error, epochs."""
    seconds, scores, epochs = [], [], []
    for seed in range(seeds):
        train_x, test_x, train_y, test_y = train_test_split(X, y, test_size=0.2, random_state=seed)
        pair = [getattr(module, name)(random_state=seed) for module in (theirs, ours)]
        seconds.append([timed(one, train_x, train_y) for one in pair])
        scores.append([one.score(test_x, test_y) for one in pair])
        epochs.append([one.n_iter_ for one in pair])
    seconds, scores = np.array(seconds), np.array(scores)
    difference = scores[:, 1] - scores[:, 0]
    error = difference.std(ddof=1) / np.sqrt(seeds) if seeds > 1 else np.nan
    slow, fast = np.median(seconds, axis=0)
    return (
        f"| {title} | {slow:.2f} | {fast:.3f} | {np.median(seconds[:, 0] / seconds[:, 1]):.1f} x | "
        f"{scores[:, 0].mean():.4f} | {scores[:, 1].mean():.4f} | {difference.mean():+.4f} ({error:.4f}) | "
        f"{np.mean(epochs, axis=0)[0]:.0f}, {np.mean(epochs, axis=0)[1]:.0f} |"
    )


def search(kind, turns):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((1000, 10)).astype(kind)
    y = np.sin(X[:, 0]) + X[:, 1] * X[:, 2] + 0.5 * X[:, 3] ** 2 + rng.normal(0, 0.1, 1000)
    grid = {"alpha": np.geomspace(1e-5, 10, 10).tolist(), "learning_rate_init": [0.0005, 0.001, 0.003, 0.01, 0.03]}
    fast = []
    for _ in range(turns):
        sweep = ours.SweepCV(ours.MLPRegressor(random_state=0), grid, cv=5, refit=False)
        fast.append(timed(sweep, X, y))
    slow = GridSearchCV(theirs.MLPRegressor(random_state=0), grid, cv=5, refit=False)
    seconds = timed(slow, X, y)
    both = [one.cv_results_["mean_test_score"] for one in (slow, sweep)]
    return (
        f"| 50 candidates, 5 folds, 1000 x 10, {kind} | {seconds:.1f} | {np.median(fast):.2f} | "
        f"{seconds / np.median(fast):.1f} x | {slow.best_score_:.4f} | {sweep.best_score_:.4f} | "
        f"{np.corrcoef(both)[0, 1]:.4f} |"
    )


def one_row():
    """Return the microseconds of network(x) on one row, the median of turns, for rows of three kinds."""
    network = Network(4, [Dense(32, "sigmoid"), Dense(16, "tanh"), Dense(1)], seed=1)
    x = np.random.default_rng(0).random((1, 4))
    found = {}
    for title, row in (("float32 array", x.astype("f")), ("float64 array", x), ("list", x.tolist())):
        turns = []
        for _ in range(9):
            started = time.perf_counter()
            for _ in range(2000):
                network(row)
            turns.append((time.perf_counter() - started) / 2000 * 1e6)
        found[title] = np.median(turns)
    return ", ".join(f"{title} {value:.1f}" for title, value in found.items())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--turns", type=int, default=3, help="of the search")
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # that a run has not converged
    lines = [
        "# Estimators beside scikit-learn",
        "",
        f"{date.today()}, {processor()}, {', '.join(cpu.devices())}, Python {python_version()}, scikit-learn "
        f"{sklearn.__version__}; `python benchmarks/estimators.py --seeds {options.seeds} --turns {options.turns}`. Default "
        "parameters, 80 % of the rows; seconds of `fit`, medians over seeds, the ratio paired; scores (R2, accuracy) on the "
        "other 20 %, means over seeds, the paired difference with its standard error.",
        "",
        "| job | scikit-learn, s | schuss, s | times faster | its score | ours | difference | epochs |",
        "|---|---|---|---|---|---|---|---|",
    ]
    print("\n".join(lines))
    for job in data():
        lines.append(defaults(*job, options.seeds))
        print(lines[-1], flush=True)
    lines += [
        "",
        "| search | GridSearchCV, s | SweepCV, s | times faster | its best score | ours | correlation of the scores |",
        "|---|---|---|---|---|---|---|",
    ]
    for kind in ("float64", "float32"):
        lines.append(search(kind, options.turns))
        print(lines[-1], flush=True)
    lines += ["", f"`network(x)` on one row, 4-32-16-1, microseconds: {one_row()}."]
    print(lines[-1])
    (RESULTS / "estimators.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
