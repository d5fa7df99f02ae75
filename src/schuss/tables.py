"""CSV and Parquet tables to arrays, by rules that travel in the model file.

The rules: a numeric or boolean column becomes one feature, a missing value its median, and a second feature says whether it
was missing (if any was, in the rows learned from). A text or categorical column becomes one feature for each value seen; a
missing value counts as a value of its own, and a value not seen before is none of them. Columns that are constant, or text
with more than 100 values, are left out; dates and nested columns are refused. Features and target are standardised to mean
0 and deviation 1 over the rows learned from; classes are numbered in the order of their names. The robust rule takes the
median and the range of the middle half instead (half the whole range where that is 0), and then bends what is far out
towards ``CLIP`` (Holzmüller, Grinsztajn, Steinwart: "Better by default", NeurIPS 2024).
"""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray

from schuss.checkpoint import write_atomically
from schuss.errors import InputError, Problems
from schuss.table_schema import check_encoding

MOST_CATEGORIES = 100
MOST_COLUMNS = 100_000
CLIP = 10.0
"""Far enough out that most tables stay linear: 3, as published, lost half a point of accuracy on wine."""
MISSING = "(missing)"

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Column:
    """How one column becomes features: by its median where numeric, by its categories where not."""

    name: str
    categories: tuple[str, ...] | None
    median: float
    marks_missing: bool

    @property
    def features(self) -> int:
        """How many features it becomes."""
        return len(self.categories) if self.categories is not None else 1 + self.marks_missing

    def encode(self, series: pl.Series) -> list[Array]:
        """Return the features of a column, each of shape (rows,)."""
        if self.categories is not None:
            values = series.cast(pl.String).fill_null(MISSING)
            return [(values == category).to_numpy().astype(np.float64) for category in self.categories]
        numbers = _numbers(series)
        missing = np.isnan(numbers)
        features = [np.where(missing, self.median, numbers)]
        return [*features, missing.astype(np.float64)] if self.marks_missing else features


@dataclass(frozen=True)
class Encoding:
    """How a table becomes x and y and back: the columns, and the mean and deviation of each feature and the target."""

    target: str
    columns: tuple[Column, ...]
    feature_mean: tuple[float, ...]
    feature_deviation: tuple[float, ...]
    target_mean: float
    target_deviation: float
    classes: tuple[str, ...] | None = None
    levels: tuple[float, ...] | None = None
    clip: float | None = None

    @classmethod
    def learn(
        cls,
        table: pl.DataFrame,
        target: str,
        ignored: Sequence[str] = (),
        classes: tuple[str, ...] | None = None,
        scaled: bool = True,
        levels: tuple[float, ...] | None = None,
        robust: bool = False,
    ) -> tuple[Self, list[str]]:
        """Return the encoding of a table's rows, and notes on the columns left out.

        classes: of the target, if they are to be told apart. scaled: standardise a numeric target. levels: of the
        quantiles that are learned instead of its mean. robust: scale the features by the robust rule.

        Raises InputError for columns that cannot be used, or if none is left.
        """
        columns, notes = [], []
        problems = Problems("use the table")
        for series in table:
            if series.name != target and series.name not in ignored:
                column, note = _learn_column(series, problems)
                columns += [column] if column else []
                notes += [note] if note else []
        problems.raise_if_any()
        if not columns:
            raise InputError(f"no column is left to predict {target!r} from: {'; '.join(notes) or 'there is no other'}")
        features = np.stack([f for column in columns for f in column.encode(table[column.name])], axis=1)
        y = _numbers(table[target]) if scaled and classes is None else np.array([0.0])
        middle, deviation = _robust(features) if robust else (features.mean(axis=0), features.std(axis=0))
        encoding = cls(
            target=target,
            columns=tuple(columns),
            feature_mean=tuple(middle.tolist()),
            feature_deviation=tuple(np.where(deviation > 0, deviation, 1.0).tolist()),
            target_mean=float(y.mean()),
            target_deviation=float(y.std()) or 1.0,
            classes=classes,
            levels=levels,
            clip=CLIP if robust else None,
        )
        return encoding, notes

    @property
    def feature_names(self) -> list[str]:
        """The name of each feature: of its column, with the category or "missing"."""
        names = []
        for column in self.columns:
            if column.categories is not None:
                names += [f"{column.name} = {category}" for category in column.categories]
            else:
                names += [column.name, f"{column.name} missing"][: 1 + column.marks_missing]
        return names

    def x(self, table: pl.DataFrame) -> Array:
        """Return the standardised features (rows, features); raise InputError if columns are missing or of another kind."""
        problems = Problems("use the table")
        absent = [column.name for column in self.columns if column.name not in table.columns]
        if absent:
            problems.add(f"the model was trained with columns that are missing: {', '.join(map(repr, absent))}")
        for column in self.columns:
            if column.categories is None and column.name in table.columns and not _is_number(table[column.name]):
                problems.add(f"column {column.name!r} was numeric in training but holds {table[column.name].dtype}")
        problems.raise_if_any()
        features = np.stack([f for column in self.columns for f in column.encode(table[column.name])], axis=1)
        scaled = (features - self.feature_mean) / self.feature_deviation
        return scaled if self.clip is None else scaled / np.sqrt(1 + np.square(scaled / self.clip))

    def y(self, table: pl.DataFrame) -> Array:
        """Return the standardised target (rows,), or the numbers of the classes."""
        if self.classes is not None:
            number = {label: float(code) for code, label in enumerate(self.classes)}
            return np.array([number[label] for label in table[self.target].cast(pl.String)])
        return (_numbers(table[self.target]) - self.target_mean) / self.target_deviation

    def prediction(self, outputs: NDArray[Any]) -> Array:
        """Return outputs (rows, 1) of the network in the units of the target (rows,)."""
        return outputs[:, 0].astype(np.float64) * self.target_deviation + self.target_mean

    def predictions(self, outputs: NDArray[Any], probabilities: bool = False) -> dict[str, Any]:
        """Return the columns that outputs (rows, dL) of the network predict: the target, or its quantiles or class.

        probabilities: a column of each class's probability, too.
        """
        if self.levels is not None:
            values = outputs.astype(np.float64) * self.target_deviation + self.target_mean
            return {f"{self.target} {level:g}": values[:, number] for number, level in enumerate(self.levels)}
        if self.classes is None:
            return {self.target: self.prediction(outputs)}
        columns: dict[str, Any] = {self.target: [self.classes[code] for code in outputs.argmax(axis=1)]}
        if probabilities:
            columns |= {f"P({label})": outputs[:, code] for code, label in enumerate(self.classes)}
        return columns

    def unseen(self, table: pl.DataFrame) -> list[str]:
        """Return a note for every column with values that were not there in training."""
        notes = []
        for column in self.columns:
            if column.categories is not None:
                new = set(table[column.name].cast(pl.String).fill_null(MISSING)) - set(column.categories)
                if new:
                    some = ", ".join(map(repr, sorted(new)[:3]))
                    notes.append(
                        f"column {column.name!r} has values not seen in training ({some}): taken as none of the known"
                    )
        return notes

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, for the model file."""
        return asdict(self)

    @classmethod
    def from_dict(cls, plain: Any, inputs: int, outputs: int) -> Self:
        """Return the encoding that ``to_dict`` gave, for a network of so many inputs and outputs.

        Raises MismatchError if it is no encoding, or one of another network.
        """
        check_encoding(plain, inputs, outputs)
        columns = tuple(
            Column(
                column["name"],
                column["categories"] and tuple(column["categories"]),
                float(column["median"]),
                column["marks_missing"],
            )
            for column in plain["columns"]
        )
        numbers = {
            name: tuple(map(float, plain[name])) if isinstance(plain.get(name), list) else plain.get(name)
            for name in ("feature_mean", "feature_deviation", "levels")
        }
        classes, clip = plain.get("classes"), plain.get("clip")
        return cls(
            target=plain["target"],
            columns=columns,
            target_mean=float(plain["target_mean"]),
            target_deviation=float(plain["target_deviation"]),
            classes=classes and tuple(classes),
            clip=clip and float(clip),
            **numbers,
        )


def read_table(path: str | os.PathLike[str]) -> pl.DataFrame:
    """Return a CSV (UTF-8, comma-separated, with a header) or Parquet table, by the ending of its name.

    Raises FileNotFoundError, or InputError that says why the file is no table.
    """
    source = Path(path)
    if not source.is_file():
        raise FileNotFoundError(f"there is no table {str(source)!r}")
    if source.suffix.lower() not in (".csv", ".parquet"):
        raise InputError(f"{str(source)!r} ends in {source.suffix!r}; pass a .csv or .parquet file")
    try:
        if source.suffix.lower() == ".csv":
            _check_header(source)
        if source.suffix.lower() == ".parquet":
            return pl.read_parquet(source)
        return pl.read_csv(source, infer_schema_length=None, null_values=["", "NA", "NaN", "nan", "null", "?"])
    except pl.exceptions.NoDataError:
        raise InputError(f"{str(source)!r} is empty; a table needs a header and rows") from None
    except (pl.exceptions.PolarsError, OSError, UnicodeError) as error:
        reason = str(error).splitlines()[0]
        hint = "; save it as UTF-8" if "utf-8" in reason.lower() or "utf8" in reason.lower() else ""
        raise InputError(f"{str(source)!r} cannot be read as a table: {reason}{hint}") from error


def _check_header(source: Path) -> None:
    """Raise InputError if columns of a CSV table have the same name, or there are too many."""
    with source.open(encoding="utf-8-sig", newline="") as file:
        names = next(csv.reader(file), [])
    _check_names(names, repr(str(source)))


def _check_names(names: Sequence[str], what: str) -> None:
    if len(names) > MOST_COLUMNS:
        raise InputError(
            f"{what} has {len(names)} columns; a dense network for more than {MOST_COLUMNS} would have too many weights; "
            "select columns first"
        )
    twice = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
    if twice:
        raise InputError(f"{what} has several columns of the name {', '.join(map(repr, twice[:5]))}; rename them")


def as_table(given: Any) -> pl.DataFrame:
    """Return a table for a polars or pandas frame, a dictionary of columns, or the path of a file.

    Raises FileNotFoundError, or InputError that says why it is no table.
    """
    if isinstance(given, pl.DataFrame):
        _check_names(given.columns, "the table")
        return given
    if isinstance(given, str | os.PathLike):
        return read_table(given)
    if hasattr(given, "columns") and hasattr(given, "dtypes") and hasattr(given, "iloc"):  # pandas
        names = [str(name) for name in given.columns]
        _check_names(names, "the table")
        given = {name: _values(given.iloc[:, i]) for i, name in enumerate(names)}
    if not isinstance(given, Mapping):
        raise InputError(
            f"a table is a polars or pandas frame, a dictionary of columns, or the path of a .csv or .parquet file; got "
            f"{type(given).__name__}"
        )
    try:
        return pl.DataFrame(dict(given), strict=False)
    except (pl.exceptions.PolarsError, TypeError, ValueError) as error:
        raise InputError(f"the columns make no table: {str(error).splitlines()[0]}") from error


def _values(column: Any) -> Any:
    """Return the values of a column of pandas: numbers as an array, others as a list with None for what is missing."""
    if column.dtype.kind in "fiub" and isinstance(column.dtype, np.dtype):
        return column.to_numpy()
    return [None if missing else value for value, missing in zip(column.tolist(), column.isna(), strict=True)]


def is_number(table: pl.DataFrame, target: str) -> bool:
    """Return whether the target is numeric; raise InputError if the table has no such column."""
    if target not in table.columns:
        raise InputError(f"the table has no column {target!r}; it has {', '.join(map(repr, table.columns))}")
    return _is_number(table[target]) and table[target].dtype != pl.Boolean


def rows_with_class(table: pl.DataFrame, target: str) -> tuple[pl.DataFrame, int, tuple[str, ...]]:
    """Return the rows whose class is there, how many were dropped, and the classes; raise InputError if they cannot be
    learned.
    """
    is_number(table, target)
    kept = table.filter(table[target].is_not_null())
    if table[target].dtype.is_float():
        kept = kept.filter(~kept[target].is_nan())
    elif not (
        table[target].dtype.is_integer() or table[target].dtype in (pl.String, pl.Categorical, pl.Enum, pl.Boolean)
    ):
        raise InputError(f"column {target!r} holds {table[target].dtype}, which names no classes; make it a text")
    classes = tuple(str(label) for label in kept[target].unique().sort().cast(pl.String))
    if len(kept) < 10 or len(classes) < 2:
        raise InputError(
            f"column {target!r} has {len(classes)} class{'es' * (len(classes) != 1)} in {len(kept)} rows; at least 2 "
            f"classes and 10 rows are needed to learn and test"
        )
    if len(classes) > MOST_CATEGORIES:
        raise InputError(
            f"column {target!r} has {len(classes)} different values, more than {MOST_CATEGORIES} classes; if it "
            "holds numbers, learn it without --classify"
        )
    return kept, len(table) - len(kept), classes


def rows_with_target(table: pl.DataFrame, target: str) -> tuple[pl.DataFrame, int]:
    """Return the rows whose target is there, and how many were dropped; raise InputError if it cannot be learned."""
    if not is_number(table, target):
        raise InputError(
            f"column {target!r} holds {table[target].dtype}, not numbers; schuss train learns its classes, "
            "a sweep does not yet"
        )
    numbers = _numbers(table[target])
    if np.isinf(numbers).any():
        raise InputError(
            f"column {target!r} holds an infinity in row {int(np.isinf(numbers).argmax())}; remove that row"
        )
    kept = table.filter(~np.isnan(numbers))
    if len(kept) < 10:
        raise InputError(
            f"the table has {len(kept)} rows with a value in {target!r}; at least 10 are needed to learn and test"
        )
    if _numbers(kept[target]).std() == 0:
        raise InputError(f"column {target!r} is constant; there is nothing to learn")
    return kept, len(table) - len(kept)


_NUMBER = "\0number of the row"


def numbered(table: pl.DataFrame) -> pl.DataFrame:
    """Return a table with the number of each row in a further column, for ``without_numbers``."""
    return table.with_row_index(_NUMBER)


def without_numbers(table: pl.DataFrame) -> tuple[pl.DataFrame, NDArray[np.int64]]:
    """Return a table of ``numbered`` without the column, and the numbers of the rows that are left."""
    return table.drop(_NUMBER), table[_NUMBER].to_numpy().astype(np.int64)


def observed(table: pl.DataFrame, encoding: Encoding) -> NDArray[Any]:
    """Return the target of each row, (n,): numbers, or the names of classes; raise InputError if a row has none."""
    is_number(table, encoding.target)
    column = table[encoding.target]
    if encoding.classes is not None:
        labels = column.cast(pl.String)
        unknown = sorted(set(labels.drop_nulls()) - set(encoding.classes))
        if unknown or labels.null_count():
            raise InputError(
                f"column {encoding.target!r} must hold the classes of the training; got {', '.join(map(repr, unknown[:5]))}"
                f"{' and rows without one' if labels.null_count() else ''}"
            )
        return labels.to_numpy()
    if not _is_number(column):
        raise InputError(f"column {encoding.target!r} was numeric in training but holds {column.dtype}")
    numbers = _numbers(column)
    if not np.isfinite(numbers).all():
        raise InputError(f"column {encoding.target!r} has no number in row {int(np.argmin(np.isfinite(numbers)))}")
    return numbers


def summary(table: pl.DataFrame, names: Sequence[str]) -> list[tuple[str, str, str, str]]:
    """Return for each column its name, kind, share of missing values, and in words its values."""
    rows = []
    for name in names:
        series = table[name]
        if _is_number(series):
            numbers = _numbers(series)
            known = numbers[~np.isnan(numbers)]
            values = "none"
            if known.size:
                low, middle, high = np.quantile(known, (0, 0.5, 1))
                values = f"{low:.5g} to {high:.5g}, median {middle:.5g}"
            kind, missing = "number", 1 - known.size / max(1, len(numbers))
        else:
            texts = series.cast(pl.String).drop_nulls()
            counts = texts.value_counts(sort=True)
            first = [f"{label[:40]} ({count})" for label, count in counts.head(3).iter_rows()]
            more = f", and {len(counts) - 3} more" if len(counts) > 3 else ""
            kind, missing, values = "text", series.null_count() / max(1, len(series)), ", ".join(first) + more
        rows.append((name, kind, f"{missing:.1%}" if missing else "", values))
    return rows


def frame(columns: dict[str, Any]) -> pl.DataFrame:
    """Return columns as a table."""
    return pl.DataFrame(columns)


def write_table(columns: dict[str, Any], path: str | os.PathLike[str] | None) -> None:
    """Write columns as CSV or Parquet, by the ending of the name, or as CSV to standard output for None."""
    table = pl.DataFrame(columns)
    if path is None:
        print(table.write_csv(), end="")
    elif Path(path).suffix.lower() == ".parquet":
        import io

        buffer = io.BytesIO()
        table.write_parquet(buffer)
        write_atomically(path, buffer.getvalue())
    else:
        write_atomically(path, table.write_csv().encode())


def _learn_column(series: pl.Series, problems: Problems) -> tuple[Column | None, str]:
    name = series.name
    if _is_number(series):
        numbers = _numbers(series)
        if np.isinf(numbers).any():
            problems.add(
                f"column {name!r} holds an infinity in row {int(np.isinf(numbers).argmax())}; remove or replace it"
            )
            return None, ""
        known = numbers[~np.isnan(numbers)]
        missing = len(known) < len(numbers)
        if known.size == 0 or (known.min() == known.max() and not missing):
            return None, f"column {name!r} is {'empty' if known.size == 0 else 'constant'} and left out"
        return Column(name, None, float(np.median(known)), missing), ""
    if series.dtype not in (pl.String, pl.Categorical, pl.Enum):
        problems.add(
            f"column {name!r} holds {series.dtype}, which cannot be used; name it in --ignore, or make it a number"
        )
        return None, ""
    categories = tuple(sorted(set(series.cast(pl.String).fill_null(MISSING))))
    if len(categories) < 2:
        return None, f"column {name!r} is constant and left out"
    if len(categories) > MOST_CATEGORIES:
        return (
            None,
            f"column {name!r} has {len(categories)} different texts, more than {MOST_CATEGORIES}, and is left out",
        )
    return Column(name, categories, 0.0, False), ""


def _robust(features: Array) -> tuple[Array, Array]:
    """Return the middle and the scale of each feature, by the robust rule."""
    low, middle, high = np.quantile(features, (0.25, 0.5, 0.75), axis=0)
    half = 0.5 * (features.max(axis=0) - features.min(axis=0))
    return middle, np.where(high > low, high - low, half)


def _is_number(series: pl.Series) -> bool:
    empty = series.null_count() == len(series)  # read from text, a column of missing values has no kind of its own
    return series.dtype.is_numeric() or series.dtype == pl.Boolean or empty


def _numbers(series: pl.Series) -> Array:
    return series.cast(pl.Float64).fill_null(np.nan).to_numpy().astype(np.float64)
