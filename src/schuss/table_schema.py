"""What a model file may say of a table: the schema of its encoding, which must fit the network beside it."""

from __future__ import annotations

from typing import Any

from schuss.schema import MismatchError, listed, number, optional, record, text, truth

_COLUMN = record(
    {"name": text, "categories": optional(listed(text, 1)), "median": number(), "marks_missing": truth},
)
_ENTRIES = record(
    {
        "target": text,
        "columns": listed(_COLUMN, 1),
        "feature_mean": listed(number(), 1),
        "feature_deviation": listed(number(above=0), 1),
        "target_mean": number(),
        "target_deviation": number(above=0),
    },
    {
        "classes": optional(listed(text, 2)),
        "levels": optional(listed(number(above=0, below=1), 1)),
        "clip": optional(number(above=0)),
    },
)


def check_encoding(plain: Any, inputs: int, outputs: int) -> None:
    """Check what ``Encoding.to_dict`` gave, whole, for a network of so many inputs and outputs; raise MismatchError."""
    _ENTRIES(plain, "encoding")
    columns, classes, levels = plain["columns"], plain.get("classes"), plain.get("levels")
    _once("the columns of encoding", [plain["target"], *(column["name"] for column in columns)])
    for column in columns:
        _once(f"the categories of {column['name']!r:.80}", column["categories"] or [])
    _once("encoding.classes", classes or [])
    features = sum(len(one["categories"]) if one["categories"] else 1 + one["marks_missing"] for one in columns)
    for name, found in (
        ("the inputs of the network", inputs),
        ("the length of encoding.feature_mean", len(plain["feature_mean"])),
        ("the length of encoding.feature_deviation", len(plain["feature_deviation"])),
    ):
        if found != features:
            raise MismatchError(f"{name} must be {features}, the features of the columns; got {found}")
    if classes and levels:
        raise MismatchError("encoding has classes and levels of quantiles; a model predicts one of them")
    expected = len(classes or levels or (0,))
    if outputs != expected:
        raise MismatchError(f"the network must have {expected} outputs, for what encoding predicts; got {outputs}")


def _once(name: str, texts: list[str]) -> None:
    if len(set(texts)) < len(texts):
        twice = next(one for one in texts if texts.count(one) > 1)
        raise MismatchError(f"{name} hold {twice!r:.80} twice")
