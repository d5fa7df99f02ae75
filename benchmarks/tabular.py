"""``schuss.tabular.fit`` with its defaults beside scikit-learn's MLP, gradient boosting and linear models, on five data sets.

The peers have what their users give them: scaling before the MLP and the linear models, the penalty of ridge regression by
cross-validation. Writes a table to benchmarks/results/tabular.md.

    python benchmarks/tabular.py                    # about five minutes
"""

import argparse
import time
import warnings
from datetime import date
from platform import python_version

import numpy as np
import sklearn
from cpu import RESULTS, processor
from sklearn import datasets
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from schuss import tabular
from schuss.engines import cpu


def data():
    """Yield name, X, y, and whether y holds classes."""
    yield "diabetes", *datasets.load_diabetes(return_X_y=True), False
    yield "breast cancer", *datasets.load_breast_cancer(return_X_y=True), True
    yield "wine", *datasets.load_wine(return_X_y=True), True
    yield "digits", *datasets.load_digits(return_X_y=True), True
    yield "Friedman 1", *datasets.make_friedman1(1000, 10, noise=1.0, random_state=0), False


def peers(classes, seed):
    if classes:
        return {
            "MLP": make_pipeline(StandardScaler(), MLPClassifier(random_state=seed)),
            "boosting": HistGradientBoostingClassifier(random_state=seed),
            "linear": make_pipeline(StandardScaler(), LogisticRegression(max_iter=5000)),
        }
    return {
        "MLP": make_pipeline(StandardScaler(), MLPRegressor(random_state=seed)),
        "boosting": HistGradientBoostingRegressor(random_state=seed),
        "linear": make_pipeline(StandardScaler(), RidgeCV(np.geomspace(1e-3, 1e3, 13))),
    }


class Ours:
    def __init__(self, classes, seed):
        self.classes, self.seed = classes, seed

    def columns(self, X):
        return {f"x{i}": column for i, column in enumerate(X.T)}

    def fit(self, X, y):
        self.model = tabular.fit(self.columns(X) | {"y": y}, "y", classify=self.classes, seed=self.seed)

    def score(self, X, y):
        return self.model.score(self.columns(X) | {"y": y})


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--splits", type=int, default=20)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    names = ("schuss", "MLP", "boosting", "linear")
    lines = [
        "# Tables, with default settings",
        "",
        f"{date.today()}, {processor()}, {', '.join(cpu.devices())}, Python {python_version()}, scikit-learn "
        f"{sklearn.__version__}; `python benchmarks/tabular.py --splits {options.splits}`. Test scores (R2, accuracy) on "
        "25 % of the rows, means over splits; in brackets our score less theirs, paired, with its standard error; then the "
        "median seconds of `fit`.",
        "",
        f"| data | {' | '.join(names)} | seconds |",
        "|---|---|---|---|---|---|",
    ]
    print("\n".join(lines))
    for title, X, y, classes in data():
        scores = {name: [] for name in names}
        seconds = {name: [] for name in names}
        for seed in range(options.splits):
            split = train_test_split(X, y, test_size=0.25, random_state=seed, stratify=y if classes else None)
            for name, model in ({"schuss": Ours(classes, seed)} | peers(classes, seed)).items():
                started = time.perf_counter()
                model.fit(split[0], split[2])
                seconds[name].append(time.perf_counter() - started)
                scores[name].append(model.score(split[1], split[3]))
        cells = [f"{np.mean(scores['schuss']):.4f}"]
        for name in names[1:]:
            gain = np.array(scores["schuss"]) - scores[name]
            error = gain.std(ddof=1) / np.sqrt(len(gain))
            cells.append(f"{np.mean(scores[name]):.4f} ({gain.mean():+.4f}, {error:.4f})")
        times = ", ".join(f"{np.median(seconds[name]):.2f}" for name in names)
        lines.append(f"| {title} | {' | '.join(cells)} | {times} |")
        print(lines[-1], flush=True)
    (RESULTS / "tabular.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
