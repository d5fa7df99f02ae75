"""The commands on tables: ``schuss train``, ``sweep`` and ``predict``."""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

import schuss
from schuss import checkpoint, costs, sweeps
from schuss.callbacks import Checkpoint
from schuss.candidates import Range
from schuss.checks import EarlyStopping, Model
from schuss.console import print_table
from schuss.costs import Cost
from schuss.errors import InputError
from schuss.layers import Dense
from schuss.network import Network
from schuss.optimizers import LBFGS, SGD, Adam, Optimizer, RMSprop
from schuss.population import mean_and_deviation
from schuss.training import Training

if TYPE_CHECKING:
    from schuss.tables import Encoding

Array = NDArray[Any]

EXIT_INTERRUPTED = 130


RATES = {"sgd": 0.01, "adam": 0.003, "rmsprop": 0.003}
"""The learning rates that ``schuss train`` takes where none is given."""


def train(options: argparse.Namespace) -> int:
    """Run ``schuss train``; return the exit status."""
    from schuss.tabular import TabularModel

    hidden = hidden_layers(options.layers, options.activation, options.dropout)
    cost, levels, optimizer = _objective(options)
    prepared = _prepare(options, learns_classes=True, cost=cost, levels=levels)
    training, validation, test, encoding = prepared.training, prepared.validation, prepared.test, prepared.encoding
    model_path, picture_path = prepared.model_path, prepared.model_path.with_suffix(".png")
    if encoding.classes is not None:
        cost = costs.resolve("cross_entropy")
        last = Dense(len(encoding.classes), "softmax")
    else:
        last = Dense(len(levels or (1,)), cost.row.link or "linear")

    x, y = encoding.x(training), encoding.y(training)
    network = Network(x.shape[1], [*hidden, last], seed=options.seed)
    print(
        f"{len(x)} rows to learn from, {len(validation)} to validate, {len(test)} to test; {x.shape[1]} features; {network!r}"
    )
    started = time.perf_counter()
    with _opened(options, network, x, y, cost, (encoding.x(validation), encoding.y(validation))) as session:
        history = session.run(
            options.epochs,
            optimizer,
            early_stopping=EarlyStopping(options.patience),
            progress=sys.stderr.isatty(),
            callbacks=[Checkpoint(options.checkpoint, every=10)] if options.checkpoint else [],
            resume=options.resume,
        )
        engine, model = session.engine, session.model
    seconds = time.perf_counter() - started
    about = {
        "rows": len(x),
        "features": x.shape[1],
        "cost": cost.name,
        "epochs": int(history.epoch[-1]) if len(history) else 0,
    }
    about |= {
        "optimizer": optimizer.short(),
        "random_seed": options.seed,
        "engine": engine,
        "seconds": round(seconds, 3),
    }
    made = TabularModel(model, encoding, about, history=history)
    made.save(model_path)
    history.plot(picture_path)
    print(f"{history!r} in {seconds:.2f} s on {engine}")
    if encoding.classes is not None:
        _print_scores(model, encoding, training, test)
    elif levels is not None:
        _print_coverage(model, encoding, test)
    else:
        _print_errors(_test_errors(model, encoding, training, test), options.target)
    if options.report:
        schuss.report(made, test, options.report, command=["schuss", *options.words])
        print(f"report: {options.report}")
    print(f"model: {model_path}\nlearning curve: {picture_path}")
    if history.interrupted:
        print("interrupted: what was learned until then is in the model", file=sys.stderr)
        return EXIT_INTERRUPTED
    return 0


def _objective(options: argparse.Namespace) -> tuple[Cost, tuple[float, ...] | None, Optimizer]:
    """Return the cost, the levels of its quantiles or None, and the optimizer that the options ask for."""
    levels = None
    if options.quantiles:
        try:
            levels = tuple(float(part) for part in options.quantiles.split(","))
        except ValueError:
            raise InputError(f"--quantiles must be like 0.1,0.5,0.9; got {options.quantiles!r}") from None
    cost = costs.Quantile(levels) if levels else costs.resolve(options.cost)
    if options.resume and not options.checkpoint:
        raise InputError("--resume goes on from a checkpoint; name it by --checkpoint FILE")
    if options.optimizer == "lbfgs":
        return cost, levels, LBFGS()
    rate = RATES[options.optimizer] if options.learning_rate is None else options.learning_rate
    numbers = {"learning_rate": rate, "weight_decay": options.weight_decay}
    if options.optimizer == "adam":
        return cost, levels, Adam(**numbers)
    kind = SGD if options.optimizer == "sgd" else RMSprop
    return cost, levels, kind(**numbers, momentum=options.momentum)


def _opened(
    options: argparse.Namespace, network: Network, x: Array, y: Array, cost: Cost, validation: tuple[Array, Array]
) -> Training:
    """Return the training, as a checkpoint left it if it is to go on from one."""
    if options.resume and options.checkpoint.exists():
        return Training.resume(options.checkpoint, x, y, validation=validation, engine=options.engine)
    return Training(
        network,
        x,
        y,
        cost=cost,
        engine=options.engine,
        batch_size=None if options.optimizer == "lbfgs" else options.batch_size,
        validation=validation,
        seed=options.seed,
    )


@dataclass(frozen=True)
class _Prepared:
    """A table, read, split and encoded, and where the model will go."""

    training: Any
    validation: Any
    test: Any
    encoding: Encoding
    model_path: Path


def _prepare(
    options: argparse.Namespace,
    learns_classes: bool = False,
    cost: Cost = costs.COSTS["quadratic"],
    levels: tuple[float, ...] | None = None,
) -> _Prepared:
    """Read and split the table and learn its encoding; print what was left out. Nothing is written yet."""
    from schuss import tables

    model_path = options.model or Path(Path(options.table).stem + ".safetensors")
    for path, what in ((model_path, "model"), (options.report, "report")):
        if path is not None and not path.parent.is_dir():
            raise FileNotFoundError(f"there is no folder {str(path.parent)!r} to write the {what} to")
    table = tables.read_table(options.table)
    classes = None
    if learns_classes and (options.classify or not tables.is_number(table, options.target)):
        table, dropped, classes = tables.rows_with_class(table, options.target)
        if cost.name != "quadratic" and not cost.classifies:
            raise InputError(
                f"column {options.target!r} is learned as classes, by cross-entropy; leave out --cost and --quantiles"
            )
    else:
        table, dropped = tables.rows_with_target(table, options.target)
        if cost.classifies:
            raise InputError(
                f"--cost {cost.name} is for classes; add --classify if the numbers in {options.target!r} are some"
            )
    training, validation, test = (table[rows] for rows in _split(len(table), options))
    if training[options.target].n_unique() < 2:
        raise InputError(f"column {options.target!r} is constant in the training rows; there is nothing to learn")
    encoding, notes = tables.Encoding.learn(
        training, options.target, options.ignore, classes, scaled=cost.row.targets == "numbers", levels=levels
    )
    if dropped:
        notes.append(f"{dropped} rows without a value in {options.target!r} are left out")
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    return _Prepared(training, validation, test, encoding, model_path)


def sweep(options: argparse.Namespace) -> int:
    """Run ``schuss sweep``; return the exit status."""
    from schuss.tabular import TabularModel, Trial

    choices: dict[str, Any] = {
        name: _numbers(getattr(options, name), name) for name in ("learning_rate", "weight_decay", "momentum")
    }
    choices["layers"] = [
        tuple(dense.units for dense in hidden_layers(text, "tanh")) for text in options.layers or ["32,16", "16"]
    ]
    choices["activation"] = [name.strip() for name in options.activation.split(",")]
    choices["batch_size"] = [_batch(text) for text in options.batch_size.split(",")]
    prepared = _prepare(options)
    encoding = prepared.encoding
    started = time.perf_counter()
    found = sweeps.sweep(
        encoding.x(prepared.training),
        encoding.y(prepared.training),
        validation=(encoding.x(prepared.validation), encoding.y(prepared.validation)),
        epochs=options.epochs,
        draws=options.draws,
        seeds=options.seeds,
        seed=options.seed,
        successive_halving=options.halving,
        engine=options.engine,
        progress=sys.stderr.isatty(),
        **choices,
    )
    seconds = time.perf_counter() - started
    model = found.population() if options.ensemble else found.network
    settings = [Trial(one.layers, one.learning_rate, one.weight_decay, one.cost) for one in found.candidates]
    about = {
        "rows": len(prepared.training),
        "tried": len(settings),
        "random_seed": options.seed,
        "seconds": round(seconds, 3),
    }
    made = TabularModel(model, encoding, about, settings)
    made.save(prepared.model_path)
    picture_path = prepared.model_path.with_suffix(".png")
    found.plot(picture_path)
    if options.report:
        schuss.report(made, prepared.test, options.report, command=["schuss", *options.words])
        print(f"report: {options.report}")
    title = f"the best of {len(found.candidates)} settings on {options.seeds} seeds, by median validation cost"
    print_table(f"{title}; {seconds:.1f} s", *sweeps.best_table(found.candidates))
    _print_errors(_test_errors(model, encoding, prepared.training, prepared.test), options.target)
    print(f"model: {prepared.model_path}\npicture: {picture_path}")
    if found.interrupted:
        print("interrupted: the table and the model are of what was finished", file=sys.stderr)
        return EXIT_INTERRUPTED
    return 0


def _numbers(text: str, name: str) -> Any:
    """Return the numbers of 0.1, 0.01,0.1 or 0.001..1."""
    try:
        if ".." in text:
            low, high = (float(part) for part in text.split(".."))
            return Range(low, high, log=low > 0)
        return [float(part) for part in text.split(",")]
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        flag = "--" + name.replace("_", "-")
        raise InputError(f"{flag} must be like 0.1, or 0.01,0.1, or a range 0.001..1; got {text!r}") from None


def _batch(text: str) -> int | None:
    if text.strip() == "full":
        return None
    try:
        return int(text)
    except ValueError:
        raise InputError(f"--batch-size must be like 32, or 32,128,full; got {text!r}") from None


def hidden_layers(text: str, activation: str, dropout: float = 0.0) -> list[Dense]:
    """Return the layers of a text such as 32,16."""
    try:
        units = [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise InputError(f"--layers must be numbers of units such as 32,16; got {text!r}") from None
    return [Dense(count, activation, dropout=dropout) for count in units]


def _split(rows: int, options: argparse.Namespace) -> list[list[int]]:
    """Return the row numbers to train, validate and test on, by the seed."""
    shares = options.test_share, options.validation_share
    if not (min(shares) > 0 and sum(shares) < 1):
        raise InputError(f"the test and validation shares must be above 0 and leave rows to learn from; got {shares}")
    test, validation = (max(1, round(rows * share)) for share in shares)
    order = np.random.default_rng(options.seed).permutation(rows)
    return [
        sorted(part.tolist()) for part in (order[test + validation :], order[test : test + validation], order[:test])
    ]


def _test_errors(model: Model, encoding: Encoding, training: Any, test: Any) -> dict[str, Array]:
    """Return the errors on the test rows, in the target's units: of the network, least squares, and the mean."""
    x, y = encoding.x(training), encoding.y(training)
    test_x = encoding.x(test)
    observed = encoding.prediction(encoding.y(test)[:, None])

    def with_one(features: Array) -> Array:
        return np.hstack([features, np.ones((len(features), 1))])

    coefficients = np.linalg.lstsq(with_one(x), y, rcond=None)[0]
    return {
        "network": encoding.prediction(mean_and_deviation(model, test_x)[0]) - observed,
        "linear least squares": encoding.prediction((with_one(test_x) @ coefficients)[:, None]) - observed,
        "mean of the training rows": encoding.prediction(y[:, None]).mean() - observed,
    }


def _print_scores(model: Model, encoding: Encoding, training: Any, test: Any) -> None:
    """Print accuracy and log loss on the test rows: of the network, least squares on the classes, and the most frequent
    class.
    """
    x, y, test_x = encoding.x(training), encoding.y(training).astype(int), encoding.x(test)
    observed, classes = encoding.y(test).astype(int), encoding.classes or ()
    shares = np.bincount(y, minlength=len(classes)) / len(y)
    one_hot = np.eye(len(classes))[y]
    coefficients = np.linalg.lstsq(np.hstack([x, np.ones((len(x), 1))]), one_hot, rcond=None)[0]
    probabilities = mean_and_deviation(model, test_x)[0].astype(np.float64)
    predicted = {
        "network": (probabilities.argmax(axis=1), probabilities),
        "linear least squares": ((np.hstack([test_x, np.ones((len(test_x), 1))]) @ coefficients).argmax(axis=1), None),
        "most frequent class of the training rows": (
            np.full(len(test_x), shares.argmax()),
            np.tile(shares, (len(test_x), 1)),
        ),
    }
    rows = []
    for name, (labels, chances) in predicted.items():
        loss = "-"
        if chances is not None:
            loss = f"{-np.log(np.maximum(chances[np.arange(len(labels)), observed], 1e-15)).mean():.4g}"
        rows.append((name, f"{(labels == observed).mean():.1%}", loss))
    title = f"{len(classes)} classes of {encoding.target} on {len(test)} test rows"
    print_table(title, ("prediction by", "accuracy", "log loss"), rows)


def _print_coverage(model: Model, encoding: Encoding, test: Any) -> None:
    """Print the share of the test rows below each predicted quantile."""
    quantiles = encoding.predictions(mean_and_deviation(model, encoding.x(test))[0])
    observed = encoding.prediction(encoding.y(test)[:, None])
    rows = [
        (f"{level:g}", f"{(observed <= values).mean():.3f}", f"{values.mean():.4g}")
        for level, values in zip(encoding.levels or (), quantiles.values(), strict=True)
    ]
    columns = ("level", "share of the rows at or below", "mean")
    print_table(f"quantiles of {encoding.target} on {len(test)} test rows", columns, rows)


def _print_errors(errors: dict[str, Array], target: str) -> None:
    variance = errors["mean of the training rows"].var()
    rows = []
    for name, error in errors.items():
        squared = float(np.square(error).mean())
        r2 = f"{1 - squared / variance:.3f}" if variance > 0 else "-"
        rows.append((name, f"{squared**0.5:.4g}", f"{np.abs(error).mean():.4g}", r2))
    count = len(errors["network"])
    print_table(
        f"errors of {target} on {count} test rows", ("prediction by", "root mean square", "mean absolute", "R2"), rows
    )


def predict(options: argparse.Namespace) -> int:
    """Run ``schuss predict``; return the exit status."""
    from schuss import tables, tabular

    made = tabular.load(options.model)
    encoding, table = made.encoding, tables.read_table(options.table)
    x = encoding.x(table)
    for note in encoding.unseen(table):
        print(f"note: {note}", file=sys.stderr)
    outputs, deviation = mean_and_deviation(made.model, x)
    if options.probabilities and encoding.classes is None:
        raise InputError(f"--probabilities is for classes; {str(options.model)!r} predicts numbers")
    columns = encoding.predictions(outputs, options.probabilities)
    if deviation is not None:
        columns[f"{encoding.target} deviation"] = deviation[:, 0] * encoding.target_deviation
    tables.write_table(columns, options.output)
    return 0


def inspect(options: argparse.Namespace) -> int:
    """Run ``schuss inspect``; return the exit status."""
    title, rows, columns = described(options.model)
    print_table(title, ("", ""), rows)
    if columns:
        print_table("columns, in any order", ("column", "kind", "features", "where missing"), columns)
    return 0


def described(path: Path) -> tuple[str, list[tuple[str, str]], list[tuple[str, ...]]]:
    """Return a title, what is known of a model file, and the columns it takes, if it has an encoding.

    Raises FileNotFoundError, or ModelFileError that says what is wrong with the file.
    """
    model, extra = checkpoint.load_with_extra(path)
    many = "a network" if isinstance(model, Network) else f"a population of {len(model)}"
    layers = ", ".join(f"{dense.units} {dense.activation.name}" for dense in model.dense)
    seeds = ", ".join(str(seed) for seed in model.seeds[:5]) + (", ..." if len(model.seeds) > 5 else "")
    rows = [("inputs", f"{model.inputs}"), ("layers", layers), ("seeds" if len(model.seeds) > 1 else "seed", seeds)]
    rows += [("parameters", f"{model.parameters.size} of {model.dtype.name}")]
    rows += [("largest", f"{np.abs(model.parameters).max():.4g}")]
    columns: list[tuple[str, ...]] = []
    if "encoding" in extra:
        from schuss.tabular import encoding_of

        encoding = encoding_of(path, model, extra)
        classes, levels = encoding.classes, encoding.levels
        kind = f"classes {', '.join(classes)}" if classes else f"quantiles {list(levels)}" if levels else "a number"
        rows += [("predicts", f"{encoding.target}: {kind}")]
        for column in encoding.columns:
            names = column.categories
            instead = "a category of its own, or none" if names else f"{column.median:.5g}"
            columns.append((column.name, f"{len(names)} texts" if names else "number", f"{column.features}", instead))
    about = extra.get("about")
    rows += [(name.replace("_", " "), f"{value}") for name, value in about.items()] if isinstance(about, dict) else []
    return f"{path}: {many}, format {checkpoint.FORMAT}", rows, columns
