"""``Page``: a self-contained page of headings, numbers, tables and figures, for light and dark screens of any width."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np
from numpy.typing import NDArray

_STYLE = """
:root { color-scheme: light dark; --ink: #1c2430; --soft: #5b6675; --ground: #ffffff; --card: #f4f6f9; --line: #d9dfe7;
        --blue: #3b82c4; --orange: #e07b39; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6eaf0; --soft: #9aa6b5; --ground: #12161c; --card: #1b2129;
        --line: #2e3742; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.2rem 1rem 4rem; max-width: 62rem; background: var(--ground); color: var(--ink);
       font: 16px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0.6rem 0 0.2rem; }
h2 { font-size: 1.25rem; margin: 2.4rem 0 0.8rem; border-bottom: 1px solid var(--line); padding-bottom: 0.3rem; }
p, figcaption, footer { color: var(--soft); margin: 0.4rem 0; }
.numbers, .figures { display: grid; gap: 0.9rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 15rem), 1fr)); }
.figures { grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); }
.numbers div, figure { background: var(--card); border-radius: 0.6rem; padding: 0.9rem 1rem; margin: 0; }
.numbers b { display: block; font-size: 1.9rem; line-height: 1.2; }
.numbers small { display: block; color: var(--soft); }
svg { width: 100%; height: auto; color: var(--ink); }
figcaption { font-size: 0.87rem; }
.figures > :only-child { max-width: 40rem; }
.scroll { overflow-x: auto; margin: 0.8rem 0; }
table { border-collapse: collapse; font-size: 0.92rem; min-width: 50%; }
th, td { text-align: left; padding: 0.3rem 0.8rem 0.3rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
th { color: var(--soft); font-weight: 600; }
.matrix td, .matrix th { text-align: center; padding: 0.35rem 0.6rem; min-width: 3rem; }
.matrix tbody th { text-align: right; }
pre { background: var(--card); padding: 0.8rem 1rem; border-radius: 0.6rem; overflow-x: auto; white-space: pre-wrap; }
"""


class Page:
    """A page as it grows. Every text is escaped, but figures, which are SVG of our own."""

    def __init__(self, title: str, subtitle: str) -> None:
        self._title = title
        self._parts = [f"<h1>{escape(title)}</h1>", f"<p>{escape(subtitle)}</p>"]

    def heading(self, text: str) -> None:
        """Begin a section."""
        self._parts.append(f"<h2>{escape(text)}</h2>")

    def text(self, text: str) -> None:
        """Add a paragraph."""
        self._parts.append(f"<p>{escape(text)}</p>")

    def code(self, text: str) -> None:
        """Add lines to copy."""
        self._parts.append(f"<pre><code>{escape(text)}</code></pre>")

    def numbers(self, cards: Sequence[tuple[str, str, str]]) -> None:
        """Add numbers to see first: (value, what it is, beside what)."""
        shown = "".join(
            f"<div><b>{escape(value)}</b>{escape(what)}<small>{escape(beside)}</small></div>"
            for value, what, beside in cards
        )
        self._parts.append(f'<div class="numbers">{shown}</div>')

    def figures(self, *figures: tuple[str, str]) -> None:
        """Add figures side by side: (SVG, caption)."""
        shown = "".join(f"<figure>{one}<figcaption>{escape(caption)}</figcaption></figure>" for one, caption in figures)
        self._parts.append(f'<div class="figures">{shown}</div>')

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Add a table; without names of columns the first of each row is its name."""
        named = any(columns)
        head = "".join(f"<th>{escape(name)}</th>" for name in columns)
        body = ""
        for row in rows:
            first, *others = (escape(cell) for cell in row)
            cells = "".join(f"<td>{cell}</td>" for cell in others)
            body += f"<tr><td>{first}</td>{cells}</tr>" if named else f"<tr><th>{first}</th>{cells}</tr>"
        shown = f"<thead><tr>{head}</tr></thead>" if named else ""
        self._parts.append(f'<div class="scroll"><table>{shown}<tbody>{body}</tbody></table></div>')

    def matrix(self, names: Sequence[str], counts: NDArray[np.int64], rows: str, columns: str) -> None:
        """Add a matrix of counts (k, k) with shaded cells: what is right in one color, what is wrong in another."""
        whole = np.maximum(counts.sum(axis=1, keepdims=True), 1)
        head = "".join(f"<th>{escape(name)}</th>" for name in names)
        body = ""
        for i, name in enumerate(names):
            cells = ""
            for j, count in enumerate(counts[i].tolist()):
                shade = round(70 * count / float(whole[i, 0])) if count else 0
                color = "--blue" if i == j else "--orange"
                cells += (
                    f'<td style="background: color-mix(in srgb, var({color}) {shade}%, transparent)">{count or ""}</td>'
                )
            body += f"<tr><th>{escape(name)}</th>{cells}</tr>"
        self._parts.append(
            f'<p>Rows: {escape(rows)}. Columns: {escape(columns)}.</p><div class="scroll"><table class="matrix"><thead><tr>'
            f"<th></th>{head}</tr></thead><tbody>{body}</tbody></table></div>"
        )

    def html(self) -> str:
        """Return the page."""
        return (
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
            f"<title>{escape(self._title)}</title><style>{_STYLE}</style></head><body>\n"
            + "\n".join(self._parts)
            + "\n<footer>Made by schuss.</footer></body></html>\n"
        )
