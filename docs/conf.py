"""Sphinx: ``sphinx-build -W docs build/site`` makes the site."""

import re

import schuss

project, author = "schuss", "The schuss developers"
release = version = schuss.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.viewcode"]
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
html_theme = "furo"
html_title = "schuss"
html_static_path: list[str] = []
autodoc_member_order = "bysource"
autodoc_typehints = "none"
autodoc_default_options = {"members": True}
exclude_patterns = ["conf.py"]
suppress_warnings = ["myst.xref_missing"]  # links to files of the repository


def escaped(app, what, name, obj, options, lines):
    """Docstrings are plain text with formulas: what RST would take as markup in them is escaped."""
    for i, line in enumerate(lines):
        if not line.lstrip().startswith(">>>") and not line.startswith("    "):
            parts = re.split(r"(``.*?``)", line)
            lines[i] = "".join(part if part.startswith("``") else re.sub(r"([|*_])", r"\\\1", part) for part in parts)


def skipped(app, what, name, obj, skip, options):
    """Leave out the methods that scikit-learn adds for its routing of metadata."""
    return True if name.endswith("_request") or name == "get_metadata_routing" else None


def setup(app):
    """Register both."""
    app.connect("autodoc-process-docstring", escaped)
    app.connect("autodoc-skip-member", skipped)
