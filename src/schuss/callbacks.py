"""Ready-made callbacks of ``Training.run``: checkpoints, records in a file or for TensorBoard, a live plot.

A callback is any ``f(training, history)``, called about ten times a second with what was recorded so far; it returns
None, True to stop the run, or the numbers of members to retire.
"""

from __future__ import annotations

import csv
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from schuss.checks import whole_number
from schuss.errors import Problems, SchussError

if TYPE_CHECKING:
    from schuss.history import History
    from schuss.training import Training


class Checkpoint:
    """Write a checkpoint (``Training.checkpoint``) whenever ``every`` more epochs are done.

    Chunks of a run last about a tenth of a second; it is written between two, when at least ``every`` epochs have passed.
    """

    def __init__(self, path: str | os.PathLike[str], every: int = 1) -> None:
        problems = Problems("write checkpoints")
        self._every, self._path, self._last = whole_number(every, "every", problems), Path(path), -1
        if not self._path.parent.is_dir():
            problems.add(f"there is no folder {str(self._path.parent)!r}")
        problems.raise_if_any()

    def __call__(self, training: Training, history: History) -> None:
        """Write if it is time."""
        if self._last < 0 or training.epochs - self._last >= self._every:
            training.checkpoint(self._path)
            self._last = training.epochs


class Lines:
    """Print a line for each record: the epoch, its cost and what was validated; of a population the medians."""

    def __init__(self) -> None:
        self._printed: tuple[int, int] = (0, 0)  # whose history it was, and how many lines

    def __call__(self, training: Training, history: History) -> None:
        """Print the records that are new."""
        first = self._printed[1] if self._printed[0] == id(history) else 0
        rows = _rows(history)
        for row in range(first, len(history)):
            values = ", ".join(f"{name.replace('cost', 'loss')} = {column[row]:.8f}" for name, column in rows.items())
            print(f"Iteration {history.epoch[row]}, {values}")
        self._printed = id(history), len(history)


class CSVLog:
    """Append the records to a CSV file, a line an epoch: epoch, cost, validation_cost, score; for a population their medians.

    Raises InputError if there is no folder for it; an older file is replaced.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        problems = Problems("log")
        self._path, self._written = Path(path), 0
        if not self._path.parent.is_dir():
            problems.add(f"there is no folder {str(self._path.parent)!r} for {str(path)!r}")
        problems.raise_if_any()

    def __call__(self, training: Training, history: History) -> None:
        """Write the records that are new."""
        rows = _rows(history)
        with self._path.open("a" if self._written else "w", newline="") as file:
            writer = csv.writer(file)
            if not self._written:
                writer.writerow(["epoch", *rows])
            for number in range(self._written, len(history)):
                writer.writerow([history.epoch[number], *(values[number] for values in rows.values())])
        self._written = len(history)


class TensorBoard:
    """Write the records for TensorBoard into a folder, by its own writer (pip install tensorboardX, or PyTorch and
    tensorboard).

    For a population their medians. Raises SchussError where no writer is installed.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        writer = None
        for module in ("tensorboardX", "torch.utils.tensorboard"):
            try:
                writer = __import__(module, fromlist=["SummaryWriter"]).SummaryWriter
                break
            except ImportError:
                continue
        if writer is None:
            raise SchussError("TensorBoard needs a writer: pip install tensorboardX")
        self._writer: Any = writer(str(folder))
        self._written = 0

    def __call__(self, training: Training, history: History) -> None:
        """Write the records that are new."""
        for name, values in _rows(history).items():
            for number in range(self._written, len(history)):
                self._writer.add_scalar(name, values[number], int(history.epoch[number]))
        self._written = len(history)
        self._writer.flush()


class LivePlot:
    """Draw the learning curve again every ``seconds`` in a notebook. Raises SchussError outside of one."""

    def __init__(self, seconds: float = 1.0) -> None:
        try:
            from IPython.display import display
        except ImportError:
            raise SchussError("LivePlot draws in a notebook: pip install ipython matplotlib") from None
        self._seconds, self._last, self._display = seconds, 0.0, display
        self._axes: Any = None
        self._shown: Any = None

    def __call__(self, training: Training, history: History) -> None:
        """Draw if it is time."""
        if time.monotonic() - self._last < self._seconds or not len(history):
            return
        self._last = time.monotonic()
        if self._shown is None:
            self._axes = history.plot()
            self._shown = self._display(self._axes.figure, display_id=True)
            return
        self._axes.clear()
        history.plot(self._axes)
        self._shown.update(self._axes.figure)


def _rows(history: History) -> dict[str, Any]:
    """Return the recorded values by name, each (records,); of a population the median over members."""
    found = {"cost": history.cost, "validation_cost": history.validation_cost, "score": history.score}
    return {
        name: values if values.ndim == 1 else np.nanmedian(values, axis=1)
        for name, values in found.items()
        if values is not None
    }
