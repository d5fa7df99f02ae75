"""What a terminal shows: progress bars and tables, by rich."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from schuss.errors import SchussError
from schuss.history import History

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


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table to standard output; the first column is left-aligned, the others right. Text is never markup."""
    try:
        from rich.box import SIMPLE_HEAD
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text
    except ImportError:
        raise SchussError(_MISSING.format("the command line")) from None
    table = Table(title=Text(title), box=SIMPLE_HEAD, title_justify="left")
    for number, name in enumerate(columns):
        table.add_column(Text(name), justify="right" if number else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    Console().print(table)
