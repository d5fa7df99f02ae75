"""The command line: ``schuss train | predict | engines | bench``."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

import schuss
from schuss import activations, checkpoint, limits
from schuss.checks import EarlyStopping
from schuss.console import print_table
from schuss.engines import NAMES, cpu, list_engines
from schuss.errors import InputError, SchussError
from schuss.history import History
from schuss.layers import Dense
from schuss.network import Network
from schuss.optimizers import SGD
from schuss.resources import available_threads
from schuss.training import Training

if TYPE_CHECKING:
    from schuss.tables import Encoding

Array = NDArray[Any]

EXIT_INTERRUPTED = 130
EXIT_WRONG = 2

_TRAIN_RULES = """\
A numeric column becomes one feature, a missing value its median, marked by a second feature. A text column becomes one
feature for each value, up to 100. Rows without a target, constant columns and texts with more values are left out, and named.
The rows are split at random into training, validation (to stop early) and test; everything is standardised by the training
rows, and the scaling travels inside the model file.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status: 0, 2 for input that cannot be used, 130 after Ctrl-C."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.command(options))
    except (SchussError, OSError) as error:
        print(f"schuss: {error}", file=sys.stderr)
        return EXIT_WRONG
    except ModuleNotFoundError as error:
        print(f"schuss: this command needs {error.name}: pip install 'schuss[cli]'", file=sys.stderr)
        return EXIT_WRONG
    except KeyboardInterrupt:
        print("schuss: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="schuss", description="Train dense neural networks from tables.")
    parser.add_argument("--version", action="version", version=f"schuss {schuss.__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    train = commands.add_parser(
        "train", help="learn a column of a table", description="Learn a numeric column of a table.", epilog=_TRAIN_RULES
    )
    train.set_defaults(command=_train)
    train.add_argument("table", help="a .csv (UTF-8, with a header) or .parquet file")
    train.add_argument("--target", required=True, metavar="COLUMN", help="the column to predict")
    train.add_argument(
        "--ignore", action="append", default=[], metavar="COLUMN", help="a column not to learn from; may be repeated"
    )
    train.add_argument(
        "--model", type=Path, metavar="FILE", help="the model file to write (default: TABLE.safetensors, here)"
    )
    train.add_argument("--layers", default="32,16", metavar="UNITS", help="hidden layers (default: %(default)s)")
    train.add_argument(
        "--activation",
        default="tanh",
        choices=list(activations.ACTIVATIONS),
        help="of the hidden layers (default: %(default)s)",
    )
    train.add_argument("--epochs", type=int, default=2000, help="at most (default: %(default)s)")
    train.add_argument(
        "--patience",
        type=int,
        default=100,
        help="epochs without improvement on the validation rows (default: %(default)s)",
    )
    train.add_argument("--batch-size", type=int, default=32, help="samples of a step (default: %(default)s)")
    train.add_argument("--learning-rate", type=float, default=0.01, help="default: %(default)s")
    train.add_argument("--weight-decay", type=float, default=0.01, help="default: %(default)s")
    train.add_argument("--momentum", type=float, default=0.9, help="default: %(default)s")
    train.add_argument("--test-share", type=float, default=0.2, help="of the rows (default: %(default)s)")
    train.add_argument("--validation-share", type=float, default=0.2, help="of the rows (default: %(default)s)")
    train.add_argument(
        "--seed", type=int, default=0, help="of the split, the first weights and the shuffles (default: %(default)s)"
    )
    train.add_argument("--engine", default="auto", choices=["auto", *NAMES], help="default: %(default)s")

    predict = commands.add_parser("predict", help="apply a model to a table", description="Apply a model to a table.")
    predict.set_defaults(command=_predict)
    predict.add_argument("model", type=Path, help="a file written by schuss train")
    predict.add_argument("table", help="a .csv or .parquet file with the columns of the training, in any order")
    predict.add_argument(
        "--output", type=Path, metavar="FILE", help="a .csv or .parquet file (default: CSV to standard output)"
    )

    engines = commands.add_parser(
        "engines", help="list the engines, and why one is absent", description="List the engines."
    )
    engines.set_defaults(command=_engines)

    bench = commands.add_parser(
        "bench",
        help="measure this machine's peak and the share that training reaches",
        description="Measure what this machine can do at most, and what share of it training reaches: of given layers, or of "
        "four networks from narrow to wide.",
    )
    bench.set_defaults(command=_bench)
    bench.add_argument("--layers", metavar="UNITS", help="hidden layers, such as 64,64, of a network of your own")
    bench.add_argument(
        "--activation", default="tanh", choices=list(activations.ACTIVATIONS), help="default: %(default)s"
    )
    bench.add_argument("--inputs", type=int, default=16, help="default: %(default)s")
    bench.add_argument("--outputs", type=int, default=1, help="default: %(default)s")
    bench.add_argument("--samples", type=int, default=10_000, help="default: %(default)s")
    bench.add_argument("--batch-size", type=int, default=None, help="samples of a step (default: all)")
    bench.add_argument("--dtype", default="float32", choices=["float32", "float64"], help="default: %(default)s")
    bench.add_argument("--seconds", type=float, default=1.0, help="a network (default: %(default)s)")
    bench.add_argument("--threads", type=int, default=None, help="default: what the process may use")
    return parser


def _train(options: argparse.Namespace) -> int:
    from schuss import tables

    hidden = _hidden_layers(options.layers, options.activation)
    model_path = options.model or Path(Path(options.table).stem + ".safetensors")
    if not model_path.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {str(model_path.parent)!r} to write the model to")
    picture_path = model_path.with_suffix(".png")
    table, dropped = tables.rows_with_target(tables.read_table(options.table), options.target)
    split = _split(len(table), options)
    training, validation, test = (table[rows] for rows in split)
    if training[options.target].n_unique() < 2:
        raise InputError(f"column {options.target!r} is constant in the training rows; there is nothing to learn")
    encoding, notes = tables.Encoding.learn(training, options.target, options.ignore)
    if dropped:
        notes.append(f"{dropped} rows without a value in {options.target!r} are left out")
    for note in notes:
        print(f"note: {note}", file=sys.stderr)

    x, y = encoding.x(training), encoding.y(training)
    network = Network(x.shape[1], [*hidden, Dense(1)], seed=options.seed)
    optimizer = SGD(options.learning_rate, options.weight_decay, options.momentum)
    print(
        f"{len(x)} rows to learn from, {len(validation)} to validate, {len(test)} to test; {x.shape[1]} features; {network!r}"
    )
    started = time.perf_counter()
    with Training(
        network,
        x,
        y,
        engine=options.engine,
        batch_size=options.batch_size,
        validation=(encoding.x(validation), encoding.y(validation)),
        seed=options.seed,
    ) as session:
        history = session.run(
            options.epochs, optimizer, early_stopping=EarlyStopping(options.patience), progress=sys.stderr.isatty()
        )
        engine = session.engine
    seconds = time.perf_counter() - started
    checkpoint.save(network, model_path, extra={"encoding": encoding.to_dict()})
    history.plot(picture_path)
    _report(history, seconds, engine, _test_errors(network, encoding, training, test), options.target)
    print(f"model: {model_path}\nlearning curve: {picture_path}")
    if history.interrupted:
        print("interrupted: what was learned until then is in the model", file=sys.stderr)
        return EXIT_INTERRUPTED
    return 0


def _hidden_layers(text: str, activation: str) -> list[Dense]:
    try:
        units = [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise InputError(f"--layers must be numbers of units such as 32,16; got {text!r}") from None
    return [Dense(count, activation) for count in units]


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


def _test_errors(network: Network, encoding: Encoding, training: Any, test: Any) -> dict[str, Array]:
    """Return the errors on the test rows, in the target's units: of the network, least squares, and the mean."""
    x, y = encoding.x(training), encoding.y(training)
    test_x = encoding.x(test)
    observed = encoding.prediction(encoding.y(test)[:, None])

    def with_one(features: Array) -> Array:
        return np.hstack([features, np.ones((len(features), 1))])

    coefficients = np.linalg.lstsq(with_one(x), y, rcond=None)[0]
    return {
        "network": encoding.prediction(network(test_x)) - observed,
        "linear least squares": encoding.prediction((with_one(test_x) @ coefficients)[:, None]) - observed,
        "mean of the training rows": encoding.target_mean - observed,
    }


def _report(history: History, seconds: float, engine: str, errors: dict[str, Array], target: str) -> None:
    print(f"{history!r} in {seconds:.2f} s on {engine}")
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


def _predict(options: argparse.Namespace) -> int:
    from schuss import tables

    network, extra = checkpoint.load_with_extra(options.model)
    if "encoding" not in extra or not isinstance(network, Network):
        raise InputError(
            f"{str(options.model)!r} holds a network but no table encoding; it was not written by schuss train"
        )
    encoding = tables.Encoding.from_dict(extra["encoding"])
    table = tables.read_table(options.table)
    x = encoding.x(table)
    for note in encoding.unseen(table):
        print(f"note: {note}", file=sys.stderr)
    tables.write_table({encoding.target: encoding.prediction(network(x))}, options.output)
    return 0


def _engines(_: argparse.Namespace) -> int:
    rows = [
        (info.name, "yes" if info.available else "no", ", ".join(info.devices) or info.reason)
        for info in list_engines()
    ]
    print_table("engines", ("name", "available", "devices, or why not"), rows)
    return 0


def _bench(options: argparse.Namespace) -> int:
    threads = options.threads or available_threads()
    if threads < 1 or not 0 < options.seconds < 3600:
        raise InputError("--threads must be at least 1, and --seconds between 0 and 3600")
    dtype = np.dtype(options.dtype)
    if options.layers:
        if min(options.inputs, options.outputs, options.samples) < 1:
            raise InputError("--inputs, --outputs and --samples must be at least 1")
        hidden = _hidden_layers(options.layers, options.activation)
        layers = (*hidden, Dense(options.outputs))
        cases = [limits.Case(options.inputs, layers, options.samples, options.batch_size)]
    else:
        cases = list(limits.CASES)
    found = [limits.measure(case, dtype, threads, options.seconds) for case in cases]
    peak = np.median([reached.peak for reached in found])
    title = f"training on {', '.join(cpu.devices())}, {dtype}, {threads} used; FMA peak {peak / 1e9:.0f} GFLOP/s"
    print_table(title, limits.COLUMNS, [reached.row() for reached in found])
    print(limits.EXPLANATION)
    return 0
