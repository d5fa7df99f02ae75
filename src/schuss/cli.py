"""The command line: ``schuss train | sweep | predict | inspect | engines | bench``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import schuss
from schuss import activations, costs, limits, table_commands
from schuss.console import print_table
from schuss.engines import cpu, list_engines, resolve
from schuss.errors import InputError, SchussError
from schuss.layers import Dense
from schuss.resources import available_threads

EXIT_WRONG = 2

_SWEEP_RULES = """\
Numbers are one value, several (0.01,0.1,1), or a range to draw from (0.001..1: evenly on a logarithmic scale; 0..0.9, from
zero: evenly). --layers 32,16 --layers 8 tries both; --batch-size and --activation take several, separated by commas.

"""

_TRAIN_RULES = """\
A numeric target is learned as a number, a text or true and false as classes; --classify takes numbers as classes, too.
A numeric column becomes one feature, a missing value its median, marked by a second feature. A text column becomes one
feature for each value, up to 100. Rows without a target, constant columns and texts with more values are left out, and named.
The rows are split at random into training, validation (to stop early) and test; everything is standardised by the training
rows, and the scaling travels inside the model file.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status: 0, 2 for input that cannot be used, 130 after Ctrl-C."""
    options = _parser().parse_args(arguments)
    options.words = list(sys.argv[1:] if arguments is None else arguments)
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
        return table_commands.EXIT_INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="schuss", description="Train dense neural networks from tables.")
    parser.add_argument("--version", action="version", version=f"schuss {schuss.__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    train = commands.add_parser(
        "train",
        help="learn a column of a table",
        description="Learn a column of a table: numbers, or classes.",
        epilog=_TRAIN_RULES,
    )
    train.set_defaults(command=table_commands.train)
    _add_table_arguments(train)
    train.add_argument("--layers", default="32,16", metavar="UNITS", help="hidden layers (default: %(default)s)")
    train.add_argument(
        "--activation",
        default="tanh",
        choices=list(activations.ELEMENTWISE),
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
    train.add_argument("--classify", action="store_true", help="take a numeric target as classes")
    train.add_argument(
        "--cost",
        default="quadratic",
        choices=[name for name in costs.COSTS if name not in ("quantile", "binary_cross_entropy")],
        help="what to minimise (default: %(default)s, or cross_entropy for classes)",
    )
    train.add_argument("--quantiles", metavar="LEVELS", help="learn quantiles instead, such as 0.1,0.5,0.9")
    train.add_argument("--dropout", type=float, default=0.0, help="of the hidden layers (default: %(default)s)")
    train.add_argument(
        "--optimizer", default="sgd", choices=["sgd", "adam", "rmsprop", "lbfgs"], help="default: %(default)s"
    )
    train.add_argument(
        "--learning-rate", type=float, help="default: 0.01 for sgd, 0.003 for adam and rmsprop; lbfgs has none"
    )
    train.add_argument("--weight-decay", type=float, default=0.01, help="default: %(default)s")
    train.add_argument("--momentum", type=float, default=0.9, help="of sgd and rmsprop (default: %(default)s)")
    train.add_argument(
        "--checkpoint", type=Path, metavar="FILE", help="write all that a later --resume needs, again and again"
    )
    train.add_argument(
        "--resume", action="store_true", help="go on from the checkpoint, if it is there, to the same bits"
    )

    sweep = commands.add_parser(
        "sweep",
        help="try many settings on a column of a table, and keep the best",
        description="Train many settings on several seeds each, rank them on the validation rows, and keep the best.",
        epilog=_SWEEP_RULES + _TRAIN_RULES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    sweep.set_defaults(command=table_commands.sweep)
    _add_table_arguments(sweep)
    sweep.add_argument(
        "--layers",
        action="append",
        metavar="UNITS",
        help="hidden layers to try; may be repeated (default: 32,16 and 16)",
    )
    sweep.add_argument("--activation", default="tanh", metavar="NAMES", help="such as tanh,relu (default: %(default)s)")
    sweep.add_argument("--batch-size", default="32", metavar="SIZES", help="such as 32,128,full (default: %(default)s)")
    for name, default in (("learning-rate", "0.001..0.3"), ("weight-decay", "0,0.01,0.1"), ("momentum", "0.9")):
        sweep.add_argument(f"--{name}", default=default, metavar="NUMBERS", help="default: %(default)s")
    sweep.add_argument(
        "--draws", type=int, help="settings drawn at random (default: the whole grid, or 20 with a range)"
    )
    sweep.add_argument("--seeds", type=int, default=3, help="networks of each setting (default: %(default)s)")
    sweep.add_argument("--epochs", type=int, default=300, help="of each setting (default: %(default)s)")
    sweep.add_argument(
        "--halving", action="store_true", help="stop the worse half after 1/8, 1/4 and 1/2 of the epochs"
    )
    sweep.add_argument(
        "--ensemble", action="store_true", help="keep all networks of the best setting, which predict their mean"
    )

    predict = commands.add_parser("predict", help="apply a model to a table", description="Apply a model to a table.")
    predict.set_defaults(command=table_commands.predict)
    predict.add_argument("model", type=Path, help="a file written by schuss train")
    predict.add_argument("table", help="a .csv or .parquet file with the columns of the training, in any order")
    predict.add_argument("--probabilities", action="store_true", help="add a column of the probability of each class")
    predict.add_argument(
        "--output", type=Path, metavar="FILE", help="a .csv or .parquet file (default: CSV to standard output)"
    )

    inspect = commands.add_parser(
        "inspect", help="say what is in a model file", description="Say what is in a model file, after checking it."
    )
    inspect.set_defaults(command=table_commands.inspect)
    inspect.add_argument("model", type=Path, help="a file of schuss train, sweep, or save")

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
        "--activation", default="tanh", choices=list(activations.ELEMENTWISE), help="default: %(default)s"
    )
    bench.add_argument("--inputs", type=int, default=16, help="default: %(default)s")
    bench.add_argument("--outputs", type=int, default=1, help="default: %(default)s")
    bench.add_argument("--samples", type=int, default=10_000, help="default: %(default)s")
    bench.add_argument("--batch-size", type=int, default=None, help="samples of a step (default: all)")
    bench.add_argument("--dtype", default="float32", choices=["float32", "float64"], help="default: %(default)s")
    bench.add_argument("--seconds", type=float, default=1.0, help="a network (default: %(default)s)")
    bench.add_argument("--threads", type=int, default=None, help="default: what the process may use")
    return parser


def _add_table_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("table", help="a .csv (UTF-8, with a header) or .parquet file")
    command.add_argument("--target", required=True, metavar="COLUMN", help="the column to predict")
    command.add_argument(
        "--ignore", action="append", default=[], metavar="COLUMN", help="a column not to learn from; may be repeated"
    )
    command.add_argument(
        "--model", type=Path, metavar="FILE", help="the model file to write (default: TABLE.safetensors, here)"
    )
    command.add_argument(
        "--report", type=Path, metavar="FILE", help="write a page (.html) on how well the test rows are predicted"
    )
    command.add_argument("--test-share", type=float, default=0.2, help="of the rows (default: %(default)s)")
    command.add_argument("--validation-share", type=float, default=0.2, help="of the rows (default: %(default)s)")
    command.add_argument(
        "--seed", type=int, default=0, help="of the split, the first weights and the shuffles (default: %(default)s)"
    )
    command.add_argument(
        "--engine",
        default="auto",
        type=_engine,
        help="auto, cpu, cuda, cuda:1, opencl or reference (default: %(default)s)",
    )


def _engine(name: str) -> str:
    """Return the name of an engine that is there; else argparse tells why it is not."""
    try:
        resolve(name)
    except SchussError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return name


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
        hidden = table_commands.hidden_layers(options.layers, options.activation)
        layers = (*hidden, Dense(options.outputs))
        cases = [limits.Case(options.inputs, layers, options.samples, options.batch_size)]
    else:
        cases = list(limits.CASES)
    found = [limits.measure(case, dtype, threads, options.seconds) for case in cases]
    peak = np.median([reached.peak for reached in found])
    title = f"training on {', '.join(cpu.devices())}, {dtype}, {threads} used: FMA peak {peak / 1e9:.0f} GFLOP/s, "
    title += (
        f"memory {cpu.read_bandwidth(threads) / 1e9:.0f} GB/s, a barrier {cpu.barrier_seconds(threads) * 1e6:.2f} us"
    )
    print_table(title, limits.COLUMNS, [reached.row() for reached in found])
    print(limits.EXPLANATION)
    return 0
