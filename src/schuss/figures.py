"""Figures: where they are drawn to, and as text for a page."""

from __future__ import annotations

import io
import os
import re
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from schuss.errors import SchussError

if TYPE_CHECKING:
    from matplotlib.axes import Axes as Axes
    from matplotlib.figure import Figure

_INK, _FAINT = "#010203", "#0a0b0c"  # what the page's own colors take the place of


def panels(
    count: int, target: str | os.PathLike[str] | None, what: str
) -> tuple[Figure, list[Axes], Callable[[], None]]:
    """Return a figure of some axes side by side, and what to call when they are drawn: it writes a file, if one is given.

    Raises SchussError, naming ``what`` was asked, where matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise SchussError(f"{what} needs matplotlib: pip install 'schuss[cli]'") from None
    if target is None:
        from matplotlib import pyplot

        figure = pyplot.figure(figsize=(max(7, 3.5 * count), 4), layout="constrained")
        return figure, list(figure.subplots(1, count, squeeze=False)[0]), lambda: None
    figure = Figure(figsize=(max(7, 3.5 * count), 4), layout="constrained")
    return figure, list(figure.subplots(1, count, squeeze=False)[0]), lambda: figure.savefig(target, dpi=150)


def axes_for(target: str | os.PathLike[str] | Axes | None, what: str) -> tuple[Axes, Callable[[], None]]:
    """Return axes to draw on, given ones or new ones, and what to call when they are drawn (see ``panels``)."""
    if target is None or isinstance(target, str | os.PathLike):
        _, axes, finish = panels(1, target, what)
        return axes[0], finish
    return target, lambda: None


def svg(draw: Callable[[Any], None], name: str, height: float = 3.4) -> str:
    """Return what ``draw(axes)`` draws as SVG for a page: its text and lines take the page's color.

    name: tells the figures of a page apart. Raises SchussError where matplotlib is not installed.
    """
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError:
        raise SchussError("a report needs matplotlib: pip install 'schuss[cli]'") from None
    style: dict[Any, Any] = {"svg.fonttype": "none", "svg.hashsalt": name, "font.size": 10, "font.family": "sans-serif"}
    style |= dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color", "axes.edgecolor"), _INK)
    style |= {
        "grid.color": _FAINT,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.axisbelow": True,
        "legend.frameon": False,
    }
    buffer = io.StringIO()
    with matplotlib.rc_context(style), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of glyphs that its fonts lack: the browser has them
        figure = Figure(figsize=(6, height), layout="constrained")
        figure.patch.set_alpha(0)
        axes = figure.subplots()
        axes.patch.set_alpha(0)
        draw(axes)
        axes.grid(alpha=0.15)
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = re.sub(r"<metadata>.*?</metadata>", "", buffer.getvalue(), flags=re.DOTALL)
    text = text[text.index("<svg") :].replace(_INK, "currentColor").replace(_FAINT, "currentColor")
    text = re.sub(
        r'\bid="((?:figure|axes|patch|line2d|text|matplotlib\.axis|xtick|ytick|PathCollection|legend)_\d+)"', "", text
    )
    return re.sub(r'width="[\d.]+pt" height="[\d.]+pt"', 'role="img"', text, count=1)


def plain(text: str, most: int = 32) -> str:
    """Return a text for a label: shortened, on one line, and with nothing that is a formula."""
    line = " ".join(str(text).split())
    line = line if len(line) <= most else f"{line[: most - 1]}…"
    return line.replace("\\", "\\\\").replace("$", r"\$") if "$" in line else line
