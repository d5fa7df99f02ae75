"""``fit``: a table and the name of a column in, a good model out, with nothing else to say.

What it does: numbers are scaled robustly and bent where they are far out, texts become one feature a category, the target is
standardised. Some settings are trained, each on all folds of a cross-validation, as one population an architecture; every
network stops at the best epoch of the fold that it did not see. The setting with the best predictions for rows not seen wins;
its networks and those of settings of the same architecture that are not clearly worse predict together.

The choices follow published recipes: robust scaling with smooth clipping, AdamW with beta2 = 0.95 and a falling rate, and the
best epoch from RealMLP (Holzmüller, Grinsztajn, Steinwart: "Better by default: strong pre-tuned MLPs and boosted trees on
tabular data", NeurIPS 2024); many small networks whose predictions are averaged from TabM (Gorishniy, Kotelnikov, Babenko,
ICLR 2025). A linear model is among the settings by default.
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

import schuss
from schuss import checkpoint, tables
from schuss.checks import EarlyStopping, Model, whole_number
from schuss.console import live_table
from schuss.costs import Cost, resolve
from schuss.engines import Engine
from schuss.errors import DivergenceWarning, InputError, Problems, SchussError
from schuss.history import History
from schuss.layers import Dense
from schuss.network import Network
from schuss.optimizers import Adam
from schuss.population import Population, mean_and_deviation
from schuss.schedules import Cosine
from schuss.schema import anything, mapped
from schuss.tables import Encoding
from schuss.training import Training

Array = NDArray[Any]


@dataclass(frozen=True)
class Trial:
    """A setting that ``fit`` tried, and the cost of its predictions for rows not seen (the target standardised)."""

    layers: tuple[int, ...]
    learning_rate: float
    weight_decay: float
    cost: float = np.inf


@dataclass(frozen=True)
class OutOfFold:
    """What was predicted for each row by networks that had not seen it.

    rows: (n,) their numbers in the table. outputs: (n, dL) of the network, averaged over repeats.
    """

    rows: NDArray[np.int64]
    outputs: Array


@dataclass
class TabularModel:
    """A network, or several that predict together, and how a table becomes their x and their outputs a column.

    model: Network or Population. encoding: the rules of the table. about: what is known of the training. settings: what
    ``fit`` tried, the best first. out_of_fold: its predictions for the rows of the training, or None. history: of the
    training, or None.
    """

    model: Model
    encoding: Encoding
    about: dict[str, Any] = field(default_factory=dict)
    settings: list[Trial] = field(default_factory=list)
    out_of_fold: OutOfFold | None = None
    history: History | None = None

    @property
    def classes(self) -> tuple[str, ...] | None:
        """The names of the classes, in the order of the probabilities; None where a number is predicted."""
        return self.encoding.classes

    def outputs(self, table: Any) -> tuple[Array, Array | None]:
        """Return the outputs of the network (n, dL) for a table, and for several networks their deviation, else None.

        A category that was not there in training is taken as none of the known, with a UserWarning.
        """
        rows = tables.as_table(table)
        x = self.encoding.x(rows)
        for note in self.encoding.unseen(rows):
            warnings.warn(note, UserWarning, stacklevel=3)
        return mean_and_deviation(self.model, x)

    def predict(self, table: Any, return_std: bool = False) -> Any:
        """Return what is predicted for each row of a table, (n,): numbers in the target's units, or the names of classes;
        for quantiles (n, levels).

        table: a polars or pandas frame, a dictionary of columns, or a path; columns in any order, further ones are ignored.
        return_std: with numbers of several networks, a pair with the standard deviation over networks. Raises InputError
        for columns that are missing or of another kind.
        """
        outputs, deviation = self.outputs(table)
        found = self.encoding.predictions(outputs)
        values = np.array([*found.values()]).T if len(found) > 1 else np.array(found[self.encoding.target])
        if not return_std:
            return values
        if deviation is None or self.classes is not None:
            raise InputError("return_std is for numbers predicted by several networks")
        return values, deviation[:, 0].astype(np.float64) * self.encoding.target_deviation

    def predict_proba(self, table: Any) -> Array:
        """Return the probability of each class, (n, classes), in the order of ``classes``. Raises InputError without any."""
        if self.classes is None:
            raise InputError(f"probabilities are for classes; this model predicts the number {self.encoding.target!r}")
        return self.outputs(table)[0]

    def score(self, table: Any) -> float:
        """Return the accuracy, or R2, on the rows of a table with a target."""
        rows = tables.as_table(table)
        observed = tables.observed(rows, self.encoding)
        predicted = self.predict(rows)
        if self.classes is not None:
            return float((predicted == observed).mean())
        return float(1 - np.square(predicted - observed).sum() / np.square(observed - observed.mean()).sum())

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a model file (docs/model_files.md), which ``schuss.tabular.load`` and ``schuss predict`` read."""
        checkpoint.save(self.model, path, extra={"encoding": self.encoding.to_dict(), "about": self.about})

    def __repr__(self) -> str:
        kind = "class" if self.classes else "number"
        many = "" if isinstance(self.model, Network) else f"{len(self.model)} networks, "
        return f"<tabular model of the {kind} {self.encoding.target!r}: {many}{'-'.join(map(str, self.model.sizes))}>"


def load(path: str | os.PathLike[str]) -> TabularModel:
    """Return the model of a file that ``TabularModel.save`` or ``schuss train`` wrote.

    Raises FileNotFoundError, or ModelFileError that says what is wrong with the file; InputError if it holds no encoding.
    """
    model, extra = checkpoint.load_with_extra(path)
    if "encoding" not in extra:
        raise InputError(f"{str(path)!r} holds a network but no table encoding; it was not written by schuss train")
    return TabularModel(model, encoding_of(path, model, extra), extra.get("about", {}))


def encoding_of(path: str | os.PathLike[str], model: Model, extra: dict[str, Any]) -> Encoding:
    """Return the encoding of a model file that was read.

    Raises ModelFileError if it is no encoding, does not fit the model, or what is said about it is no record.
    """
    with checkpoint.refused(path, "copy of it"):
        mapped(lambda key: True, anything, "a text")(extra.get("about", {}), "about")
        return Encoding.from_dict(extra["encoding"], model.inputs, model.sizes[-1])


def fit(
    table: Any,
    target: str,
    *,
    classify: bool | None = None,
    ignore: Sequence[str] = (),
    layers: Sequence[Sequence[int]] = ((), (128, 64)),
    learning_rate: Sequence[float] = (0.003, 0.01),
    weight_decay: Sequence[float] = (0.1, 1.0),
    dropout: float = 0.1,
    folds: int = 10,
    repeats: int = 1,
    epochs: int = 200,
    patience: int = 40,
    seed: int = 0,
    engine: str | Engine = "auto",
    threads: int | None = None,
    progress: bool = False,
) -> TabularModel:
    """Learn a column of a table; return a model that predicts it.

    table: a polars or pandas frame, a dictionary of columns, or the path of a .csv or .parquet file. target: the name of the
    column; a number, or a class where it is a text, true or false, or classify=True. ignore: columns not to learn from.
    layers, learning_rate, weight_decay: the settings to try; () is a linear model. folds: of the cross-validation; repeats:
    networks a fold, each with its own seed. epochs, patience: at most, and without improvement on the fold not seen.
    progress: show a bar and the best so far. The same seed gives the same bits.

    Raises InputError, before any work, for a table or arguments that do not fit; UserWarning for columns left out.

    >>> import numpy as np
    >>> from schuss import tabular
    >>> x = np.random.default_rng(0).uniform(-1, 1, (200, 2))
    >>> table = {"width": x[:, 0], "color": np.where(x[:, 1] > 0, "red", "blue"), "price": x[:, 0] ** 2 + (x[:, 1] > 0)}
    >>> model = tabular.fit(table, "price", epochs=100, folds=3)
    >>> model.score(table) > 0.95, model.predict({"color": ["red"], "width": [0.5]}).shape
    (True, (1,))
    """
    problems = Problems("fit")
    for name, value, least in (("folds", folds, 2), ("repeats", repeats, 1), ("epochs", epochs, 1)):
        whole_number(value, name, problems, least=least)
    for name, values in (("layers", layers), ("learning_rate", learning_rate), ("weight_decay", weight_decay)):
        if not isinstance(values, Sequence) or isinstance(values, str) or not values:
            problems.add(f"{name} must be a list of settings to try; got {values!r}")
    stopping = EarlyStopping(patience)
    problems.raise_if_any()
    rows, kept, encoding, notes = _prepared(tables.as_table(table), target, classify, list(ignore))
    for note in notes:
        warnings.warn(note, UserWarning, stacklevel=2)
    work = _Work(encoding.x(rows).astype(np.float32), encoding.y(rows), encoding, folds, repeats, seed)
    jobs: list[_Job] = []
    started = time.perf_counter()
    try:
        jobs.extend(  # all are checked before any works; those that are open are closed if one cannot be
            _Job(work, tuple(units), learning_rate, weight_decay, dropout, engine, threads) for units in layers
        )
        with live_table(epochs * len(jobs), progress) as (advance_bar, show):
            for job in jobs:
                if job.run(epochs, stopping, advance_bar):
                    raise KeyboardInterrupt
                tried = sorted((one for done in jobs for one in done.settings), key=lambda one: one.cost)
                show("the best so far", _table(tried))
    finally:
        for job in jobs:
            job.training.release()
    best = min(jobs, key=lambda job: min(one.cost for one in job.settings))
    if not np.isfinite(tried[0].cost):
        raise SchussError("every network diverged; try smaller learning rates")
    model, outputs = best.winner()
    about = {
        "schuss": schuss.__version__,
        "rows": len(rows),
        "features": work.x.shape[1],
        "networks": len(model),
        "tried": sum(len(job.population) for job in jobs),
        "cost": work.cost.name,
        "out_of_fold_cost": float(work.costs(outputs[None]).mean()),
        "seconds": round(time.perf_counter() - started, 3),
        "engine": best.training.engine,
        "seed": seed,
    }
    return TabularModel(model, encoding, about, tried, OutOfFold(kept, outputs), best.history)


def _prepared(
    table: Any, target: str, classify: bool | None, ignore: list[str]
) -> tuple[Any, Any, Encoding, list[str]]:
    """Return the rows with a target, their numbers, the encoding learned from them, and notes on what was left out."""
    numbered = tables.numbered(table)
    classes = None
    if classify or (classify is None and not tables.is_number(table, target)):
        rows, dropped, classes = tables.rows_with_class(numbered, target)
    else:
        rows, dropped = tables.rows_with_target(numbered, target)
    rows, kept = tables.without_numbers(rows)
    encoding, notes = Encoding.learn(rows, target, ignore, classes, robust=True)
    if dropped:
        notes.append(f"{dropped} rows without a value in {target!r} are left out")
    return rows, kept, encoding, notes


class _Work:
    """What all settings are trained on: x, y, the cost, and the fold of each row."""

    def __init__(self, x: Array, y: Array, encoding: Encoding, folds: int, repeats: int, seed: int) -> None:
        self.x, self.y, self.repeats, self.seed = x, y, repeats, seed
        self.classes = len(encoding.classes or ())
        self.cost: Cost = resolve("cross_entropy" if self.classes else "quadratic")
        self.last = Dense(self.classes, "softmax") if self.classes else Dense(1)
        self.count = min(folds, len(x) // 2)
        self.batch_size = int(np.clip(len(x) // 16, 16, 256))
        order = np.random.default_rng(seed).permutation(len(x))
        if self.classes:  # each class evenly over the folds
            order = order[np.argsort(y[order], kind="stable")]
        self.folds = np.empty(len(x), np.int64)
        self.folds[order] = np.arange(len(x)) % self.count

    def costs(self, outputs: Array) -> Array:
        """Return the cost of each row, (settings, n), of outputs (settings, n, dL), which are probabilities for classes."""
        if self.classes:
            chances = outputs[:, np.arange(len(self.y)), self.y.astype(int)]
            return np.asarray(-np.log(np.maximum(chances, 1e-12)))
        return np.asarray(0.5 * np.square(outputs[:, :, 0] - self.y))


class _Job:
    """All settings of one architecture, on all folds, as one population."""

    def __init__(
        self,
        work: _Work,
        layers: tuple[int, ...],
        learning_rate: Sequence[float],
        weight_decay: Sequence[float],
        dropout: float,
        engine: str | Engine,
        threads: int | None,
    ) -> None:
        self._work = work
        self.settings = [Trial(layers, float(rate), float(decay)) for rate in learning_rate for decay in weight_decay]
        each = work.count * work.repeats  # members of a setting: the repeats of a fold beside each other
        members = len(self.settings) * each
        dense = [*(Dense(units, "silu", dropout=dropout) for units in layers), work.last]
        self.population = Population(work.x.shape[1], dense, members=members, seed=work.seed)
        self._fold_of = np.tile(np.repeat(np.arange(work.count), work.repeats), len(self.settings))
        rates = np.repeat([one.learning_rate for one in self.settings], each)
        decays = np.repeat([one.weight_decay for one in self.settings], each)
        self._optimizer = Adam(Cosine(rates, warmup=0.02), decays, beta2=0.95)
        self.training = Training(
            self.population,
            work.x,
            work.y,
            cost=work.cost,
            batch_size=work.batch_size,
            shuffle="member",
            folds=work.folds,
            held_out=self._fold_of,
            engine=engine,
            threads=threads,
            seed=work.seed,
        )
        self.history: History | None = None
        self.outputs = np.zeros((len(self.settings), len(work.x), work.last.units))

    def run(self, epochs: int, stopping: EarlyStopping, advance_bar: Any) -> bool:
        """Train, and predict each row by those that did not see it; return whether Ctrl-C ended it."""
        seen = [0]

        def look(training: Training, _: Any) -> None:
            advance_bar(training.epochs - seen[0])
            seen[0] = training.epochs

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DivergenceWarning)  # such a setting has an infinite cost
            history = self.training.run(epochs, self._optimizer, early_stopping=stopping, callbacks=[look])
        self.history = history
        advance_bar(max(0, epochs - seen[0]))
        work, each = self._work, self._work.count * self._work.repeats
        for member, fold in enumerate(self._fold_of):
            out = work.folds == fold
            self.outputs[member // each, out] += self.population[member](work.x[out]) / work.repeats
        costs = work.costs(self.outputs).mean(axis=1)
        for member in history.diverged:
            costs[member // each] = np.inf
        self.settings = [
            Trial(one.layers, one.learning_rate, one.weight_decay, float(cost))
            for one, cost in zip(self.settings, np.nan_to_num(costs, nan=np.inf), strict=True)
        ]
        return history.interrupted

    def winner(self) -> tuple[Population, Array]:
        """Return the networks of the best setting and of those that are not clearly worse, and what they predicted for the
        rows that they had not seen. Clearly: by more than two standard errors of the difference, paired over rows.
        """
        means = np.array([one.cost for one in self.settings])
        best = int(np.argmin(means))
        costs = self._work.costs(self.outputs)
        errors = (costs - costs[best]).std(axis=1, ddof=1) / np.sqrt(len(self._work.x))
        good = np.isfinite(means) & (means - means[best] <= 2 * errors)
        each = self._work.count * self._work.repeats
        return self.population.select(np.flatnonzero(np.repeat(good, each))), self.outputs[good].mean(axis=0)


def _table(settings: list[Trial]) -> Any:
    rows = [
        (
            "-".join(map(str, one.layers)) or "linear",
            f"{one.learning_rate:g}",
            f"{one.weight_decay:g}",
            f"{one.cost:.5g}",
        )
        for one in settings
    ]
    return ("layers", "rate", "decay", "cost"), rows
