"""``report``: one page on a model and how well it predicts, to look at or to send: no network access, no scripts."""

from __future__ import annotations

import os
import platform
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import schuss
from schuss import tables, tabular
from schuss.checkpoint import write_atomically
from schuss.engines import list_engines
from schuss.errors import InputError
from schuss.figures import plain, svg
from schuss.history import History
from schuss.page import Page
from schuss.population import mean_and_deviation
from schuss.tables import Encoding
from schuss.tabular import TabularModel

Array = NDArray[Any]

_MOST_ROWS = 2000  # of which columns are permuted, or that are drawn
_MOST_COLUMNS = 20  # that are drawn, the most important ones
_REPEATS = 5  # permutations of each column
_BLUE, _ORANGE = "#3b82c4", "#e07b39"


@dataclass(frozen=True)
class _Seen:
    """The rows that a report is about: what was observed and predicted."""

    table: Any
    outputs: Array  # (n, dL)
    deviation: Array | None
    observed: Array  # (n,) numbers, or numbers of classes
    encoding: Encoding

    @property
    def predicted(self) -> Array:
        """Numbers in the target's units, or the numbers of the classes, (n,); of quantiles the middle one."""
        if self.encoding.classes is not None:
            return np.asarray(self.outputs.argmax(axis=1))
        middle = self.outputs[:, [self.outputs.shape[1] // 2]]
        return self.encoding.prediction(middle)


def report(
    model: TabularModel | str | os.PathLike[str],
    table: Any,
    path: str | os.PathLike[str],
    *,
    out_of_fold: bool = False,
    history: History | None = None,
    command: Sequence[str] | None = None,
) -> None:
    """Write a page (HTML, all in one file) on a model and how well it predicts the rows of a table.

    model: of ``schuss.tabular.fit``, or the path of a file that it or ``schuss train`` wrote. table: rows with the target
    that the model has not seen; or, with out_of_fold=True, the table that ``fit`` learned from: then each row's prediction
    is that of the networks that had not seen it. history: of the training, where the model has none. command: what to run to
    get the model again, as a list of words.

    The page has the data, the learning curve, predicted against observed and the residuals, or the confusion matrix, the
    calibration, the importance of each column (permuted, Breiman 2001), the settings tried, hardware and speed.

    Raises InputError if the table does not fit the model, OSError where the disk refuses; an older page is then untouched.

    >>> import numpy as np, pathlib, tempfile
    >>> x = np.random.default_rng(0).uniform(-1, 1, (100, 2))
    >>> table = {"width": x[:, 0], "height": x[:, 1], "area": x[:, 0] * x[:, 1]}
    >>> model = tabular.fit(table, "area", epochs=20, folds=2)
    >>> page = pathlib.Path(tempfile.mkdtemp()) / "report.html"
    >>> report(model, table, page, out_of_fold=True)
    >>> page.read_text()[:15]
    '<!doctype html>'
    """
    target = Path(path)
    if not target.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {str(target.parent)!r} to write the report to")
    chosen = model if isinstance(model, TabularModel) else tabular.load(model)
    seen = _seen(chosen, tables.as_table(table), out_of_fold)
    history = history or chosen.history
    page = Page(f"Predicting {chosen.encoding.target}", _subtitle(chosen, seen, out_of_fold))
    page.numbers(_headline(seen))
    if chosen.classes is not None:
        _classes(page, seen)
    else:
        _numbers(page, seen)
    _importance(page, chosen, seen, out_of_fold)
    if history is not None and len(history):
        _curve(page, history)
    _settings(page, chosen)
    _data(page, seen)
    _machine(page, chosen, command)
    write_atomically(target, page.html().encode())


def _seen(model: TabularModel, table: Any, out_of_fold: bool) -> _Seen:
    encoding = model.encoding
    if out_of_fold:
        if model.out_of_fold is None:
            raise InputError(
                "out_of_fold=True is for a model just made by schuss.tabular.fit; pass rows it has not seen"
            )
        rows = model.out_of_fold.rows
        if len(rows) and rows[-1] >= len(table):
            raise InputError(f"the model was fitted to a table of at least {rows[-1] + 1} rows; got {len(table)}")
        table, outputs, deviation = table[rows.tolist()], model.out_of_fold.outputs, None
    else:
        outputs, deviation = model.outputs(table)
    observed = tables.observed(table, encoding)
    if len(observed) < 2:
        raise InputError(f"a report needs at least 2 rows; the table has {len(observed)}")
    if encoding.classes is not None:
        codes = {label: code for code, label in enumerate(encoding.classes)}
        observed = np.array([codes[label] for label in observed])
    return _Seen(table, np.asarray(outputs, np.float64), deviation, observed, encoding)


def _subtitle(model: TabularModel, seen: _Seen, out_of_fold: bool) -> str:
    many = "one network" if not hasattr(model.model, "__len__") else f"{len(model.model)} networks together"
    sizes = "-".join(map(str, model.model.sizes))
    how = "each predicted by networks that had not seen it" if out_of_fold else "not used for training"
    return f"Predicted by {many} ({sizes}); judged on {len(seen.observed)} rows, {how}."


def _headline(seen: _Seen) -> list[tuple[str, str, str]]:
    """Return (value, what it is, beside what) of the numbers at the top."""
    y, p = seen.observed, seen.predicted
    if seen.encoding.classes is not None:
        chances = seen.outputs[np.arange(len(y)), y]
        shares = np.bincount(y, minlength=len(seen.encoding.classes)) / len(y)
        entropy = -(shares[shares > 0] * np.log(shares[shares > 0])).sum()
        return [
            (f"{(y == p).mean():.1%}", "accuracy", f"always the most frequent class of these rows: {shares.max():.1%}"),
            (
                f"{-np.log(np.maximum(chances, 1e-15)).mean():.4g}",
                "log loss",
                f"the shares of the classes in these rows: {entropy:.4g}",
            ),
        ]
    error = p - y
    spread = float(y.std())
    r2 = f"{1 - np.square(error).mean() / spread**2:.3f}" if spread > 0 else "-"
    return [
        (r2, "R²", "1 is perfect, 0 is the mean alone"),
        (f"{np.sqrt(np.square(error).mean()):.4g}", "root mean square error", f"the mean alone: {spread:.4g}"),
        (
            f"{np.abs(error).mean():.4g}",
            "mean absolute error",
            f"the median alone: {np.abs(y - np.median(y)).mean():.4g}",
        ),
    ]


def _numbers(page: Page, seen: _Seen) -> None:
    y, p = seen.observed, seen.predicted
    some = np.random.default_rng(0).permutation(len(y))[:_MOST_ROWS]
    target = plain(seen.encoding.target)

    def against(axes: Any) -> None:
        ends = [min(y.min(), p.min()), max(y.max(), p.max())]
        axes.plot(ends, ends, color=_ORANGE, lw=1)
        axes.plot(p[some], y[some], "o", ms=3, alpha=0.5, color=_BLUE, mew=0)
        axes.set(xlabel=f"predicted {target}", ylabel=f"observed {target}")

    def residuals(axes: Any) -> None:
        axes.axhline(0, color=_ORANGE, lw=1)
        axes.plot(p[some], (y - p)[some], "o", ms=3, alpha=0.5, color=_BLUE, mew=0)
        axes.set(xlabel=f"predicted {target}", ylabel="observed - predicted")

    def distribution(axes: Any) -> None:
        axes.hist(y - p, bins=min(40, max(5, len(y) // 8)), color=_BLUE)
        axes.set(xlabel="observed - predicted", ylabel="rows")

    def calibration(axes: Any) -> None:
        order = np.argsort(p, kind="stable")
        parts = [part for part in np.array_split(order, min(10, len(y))) if len(part)]
        middle, seen_mean = [p[part].mean() for part in parts], [y[part].mean() for part in parts]
        error = [y[part].std() / np.sqrt(len(part)) for part in parts]
        ends = [min(*middle, *seen_mean), max(*middle, *seen_mean)] if len(parts) > 1 else [middle[0], middle[0]]
        axes.plot(ends, ends, color=_ORANGE, lw=1)
        axes.errorbar(middle, seen_mean, error, fmt="o", ms=4, color=_BLUE)
        axes.set(xlabel="mean predicted", ylabel="mean observed")

    page.heading("How well it predicts")
    page.figures(
        (svg(against, "against"), "Each row: on the line, prediction and observation agree."),
        (svg(residuals, "residuals"), "Residuals: a pattern here is something that the model has missed."),
        (svg(distribution, "distribution"), "How the residuals are spread."),
        (svg(calibration, "calibration"), "Calibration: tenths of the rows by prediction, with standard errors."),
    )
    if seen.encoding.levels is not None:
        found = seen.encoding.predictions(seen.outputs)
        rows = [
            (f"{level:g}", f"{(y <= values).mean():.3f}")
            for level, values in zip(seen.encoding.levels, found.values(), strict=True)
        ]
        page.table(("quantile", "share of the rows at or below"), rows)
    if seen.deviation is not None:
        shown = seen.deviation[:, 0] * seen.encoding.target_deviation
        page.text(
            f"The networks disagree about a row by {shown.mean():.4g} (standard deviation, mean over rows); that says where "
            "they have seen little, not how large an error is."
        )


def _classes(page: Page, seen: _Seen) -> None:
    names, y, p = seen.encoding.classes or (), seen.observed, seen.predicted
    count = len(names)
    confusion = np.zeros((count, count), np.int64)
    np.add.at(confusion, (y, p), 1)
    page.heading("How well it predicts")
    if count <= 30:
        page.matrix([plain(name, 24).replace(r"\$", "$") for name in names], confusion, "observed", "predicted")
    else:
        wrong = [(names[i], names[j], str(confusion[i, j])) for i, j in np.argwhere(confusion) if i != j]
        page.table(("observed", "predicted", "rows"), sorted(wrong, key=lambda row: -int(row[2]))[:30])
    rows = []
    for code in range(min(count, 100)):
        hit, called, there = confusion[code, code], confusion[:, code].sum(), confusion[code].sum()
        rows.append((names[code], str(there), _share(hit, there), _share(hit, called)))
    page.table(("class", "rows", "found (recall)", "right when named (precision)"), rows)
    confidence, right = seen.outputs.max(axis=1), y == p

    def calibration(axes: Any) -> None:
        axes.plot([0, 1], [0, 1], color=_ORANGE, lw=1)
        which = np.minimum((confidence * 10).astype(int), 9)
        bins = [which == one for one in range(10) if (which == one).any()]
        error = [np.sqrt(max(right[b].mean() * (1 - right[b].mean()), 0.25 / len(y)) / b.sum()) for b in bins]
        axes.errorbar(
            [confidence[b].mean() for b in bins], [right[b].mean() for b in bins], error, fmt="o", ms=4, color=_BLUE
        )
        axes.set(xlabel="probability of the class named", ylabel="share that is right", xlim=(0, 1.02), ylim=(0, 1.05))

    def confident(axes: Any) -> None:
        axes.hist([confidence[right], confidence[~right]], bins=20, range=(0, 1), stacked=True, color=[_BLUE, _ORANGE],
                  label=["right", "wrong"])  # fmt: skip
        axes.set(xlabel="probability of the class named", ylabel="rows")
        axes.legend(frameon=False)

    page.figures(
        (svg(calibration, "calibration"), "Calibration: on the line, probabilities can be taken at their word."),
        (svg(confident, "confident"), "How sure it is, where it is right and where it is wrong."),
    )


def _share(part: Any, whole: Any) -> str:
    return f"{part / whole:.1%}" if whole else "-"


def _importance(page: Page, model: TabularModel, seen: _Seen, out_of_fold: bool) -> None:
    """Show by how much the score falls when a column is permuted."""
    rng, encoding = np.random.default_rng(0), seen.encoding
    some = np.sort(rng.permutation(len(seen.observed))[:_MOST_ROWS])
    table, y = seen.table[some.tolist()], seen.observed[some]
    x, widths = encoding.x(table), [column.features for column in encoding.columns]

    def loss(features: Array) -> float:
        outputs = mean_and_deviation(model.model, features)[0]
        found = _Seen(table, outputs, None, y, encoding)
        if encoding.classes is not None:
            return float(1 - (found.predicted == y).mean())
        return float(np.sqrt(np.square(found.predicted - y).mean()))

    own, ends = loss(x), np.cumsum(widths)
    found = []
    for column, end, width in zip(encoding.columns, ends, widths, strict=True):
        worse = []
        for _ in range(_REPEATS):
            changed = x.copy()
            changed[:, end - width : end] = x[rng.permutation(len(x)), end - width : end]
            worse.append(loss(changed) - own)
        found.append((column.name, float(np.mean(worse)), float(np.std(worse))))
    found.sort(key=lambda one: -one[1])
    shown = found[:_MOST_COLUMNS][::-1]

    def bars(axes: Any) -> None:
        axes.barh(
            range(len(shown)), [one[1] for one in shown], xerr=[one[2] for one in shown], color=_BLUE, ecolor=_ORANGE
        )
        axes.set_yticks(range(len(shown)), [plain(one[0]) for one in shown])
        axes.set(xlabel="accuracy lost" if encoding.classes else "root mean square error added")

    page.heading("What it looks at")
    also = (
        " The networks have seen these rows, which makes columns look a little more important." if out_of_fold else ""
    )
    page.figures(
        (
            svg(bars, "importance", height=max(1.6, 0.9 + 0.26 * len(shown))),
            f"What is lost when a column is shuffled ({_REPEATS} times, {len(some)} rows). Of columns that say the same, "
            f"each looks unimportant.{also}",
        )
    )
    if len(found) > _MOST_COLUMNS:
        page.text(f"The {len(found) - _MOST_COLUMNS} columns that are not shown matter less.")


def _curve(page: Page, history: History) -> None:
    page.heading("How it learned")
    what = "of the best epoch, by the validation cost" if history.validation_cost is not None else "of the last epoch"
    several = " (the median of the networks, and the range of the middle 80 %)" if history.cost.ndim > 1 else ""
    page.figures(
        (svg(history.draw, "curve"), f"The cost after each epoch{several}; the weights kept are those {what}.")
    )
    notes = [f"{len(history.diverged)} networks left the finite numbers"] if history.diverged else []
    notes += ["the training was interrupted"] if history.interrupted else []
    if notes:
        page.text(f"Note: {'; '.join(notes)}.")


def _settings(page: Page, model: TabularModel) -> None:
    if len(model.settings) < 2:
        return
    page.heading("What was tried")
    page.table(
        ("hidden layers", "learning rate", "weight decay", "cost on rows not seen"),
        [
            (
                "-".join(map(str, one.layers)) or "none (linear)",
                f"{one.learning_rate:g}",
                f"{one.weight_decay:g}",
                f"{one.cost:.5g}",
            )
            for one in model.settings
        ],
    )


def _data(page: Page, seen: _Seen) -> None:
    page.heading("The data")
    names = [seen.encoding.target, *(column.name for column in seen.encoding.columns)]
    page.table(("column", "kind", "missing", "values"), tables.summary(seen.table, names[:201]))
    if len(names) > 201:
        page.text(f"and {len(names) - 201} further columns")


def _machine(page: Page, model: TabularModel, command: Sequence[str] | None) -> None:
    page.heading("How it was made")
    known = dict(model.about)
    rows = [("made", datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"))]
    rows += [("parameters", f"{model.model.parameters.size}"), ("network", repr(model.model).split("  #")[0])]
    rows += [(name.replace("_", " "), f"{value}") for name, value in known.items() if name != "schuss"]
    rows += [
        (
            "machine",
            f"{platform.machine()}, {_processor()}; {', '.join(list_engines()[0].devices) or 'no native kernels'}",
        ),
        ("versions", f"schuss {schuss.__version__}, NumPy {np.__version__}, Python {platform.python_version()}"),
    ]
    page.table(("", ""), rows)
    if command:
        page.text("The command:")
        page.code(shlex.join(command))


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor()
    )
