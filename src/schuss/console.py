"""What a terminal shows: progress bars and tables, by rich."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from schuss.errors import SchussError
from schuss.history import History

if TYPE_CHECKING:
    from rich.table import Table as RichTable

Table = tuple[Sequence[str], Sequence[Sequence[str]]]
"""Columns, and rows of cells."""

_MISSING = "{} needs rich: pip install 'schuss[cli]'"


@contextmanager
def progress_bar(epochs: int, shown: bool) -> Iterator[Callable[[int, History], None]]:
    """Yield ``advance(epochs, history)``, which moves a bar of ``epochs`` on standard error, or does nothing."""
    if not shown:
        yield lambda epochs, history: None
        return
    try:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
    except ImportError:
        raise SchussError(_MISSING.format("progress=True")) from None
    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("epochs"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[costs]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("epochs", total=epochs, costs="")

        def advance(done: int, history: History) -> None:
            bar.update(task, advance=done, costs=repr(history).partition(", ")[2].rstrip(")"))

        yield advance


@contextmanager
def live_table(total: int, shown: bool) -> Iterator[tuple[Callable[[int], None], Callable[[str, Table], None]]]:
    """Yield ``advance(epochs)``, which moves a bar, and ``show(title, table)``, which replaces the table above it.

    On standard error; nothing happens unless ``shown``.
    """
    if not shown:
        yield lambda epochs: None, lambda title, table: None
        return
    try:
        from rich.console import Console, Group
        from rich.live import Live
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
    except ImportError:
        raise SchussError(_MISSING.format("progress=True")) from None
    bar = Progress(BarColumn(), TextColumn("{task.percentage:.0f} %"), TimeRemainingColumn())
    task = bar.add_task("", total=total)
    with Live(bar, console=Console(stderr=True), refresh_per_second=8) as live:
        yield (
            lambda epochs: bar.advance(task, epochs),
            lambda title, table: live.update(Group(_rich_table(title, *table), bar)),
        )


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table to standard output; the first column is left-aligned, the others right. Text is never markup.

    Where the output is no terminal it is 132 columns wide.
    """
    try:
        from rich.console import Console
    except ImportError:
        raise SchussError(_MISSING.format("the command line")) from None
    Console(width=None if sys.stdout.isatty() else 132).print(_rich_table(title, columns, rows))


def _rich_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> RichTable:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(title), box=SIMPLE_HEAD, title_justify="left")
    for number, name in enumerate(columns):
        table.add_column(Text(name), justify="right" if number else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    return table
