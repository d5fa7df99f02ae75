"""Ready-made callbacks of ``Training.run``: checkpoints, records in a file or for TensorBoard, a live plot.

A callback is any ``f(training, history)``, called about ten times a second with what was recorded so far; it returns
None, True to stop the run, or the numbers of members to retire.
"""

from __future__ import annotations

import csv
import os
import time
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from schuss.checks import whole_number
from schuss.errors import InputError, Problems, SchussError

if TYPE_CHECKING:
    from schuss.history import History
    from schuss.training import Training


class _Progress:
    """How far a callback has come with the training that it follows; 0 for any other training."""

    def __init__(self) -> None:
        self._training: weakref.ref[Training] | None = None
        self._epoch = 0

    def of(self, training: Training) -> int:
        """Return the last epoch that was dealt with."""
        return self._epoch if self._training is not None and self._training() is training else 0

    def reach(self, training: Training, epoch: int) -> None:
        """Note that this epoch was dealt with."""
        self._training, self._epoch = weakref.ref(training), epoch

    def new(self, training: Training, history: History) -> range:
        """Return the rows of the history after the last epoch, and note that they were dealt with."""
        first = int(np.searchsorted(history.epoch, self.of(training), side="right"))
        if len(history):
            self.reach(training, int(history.epoch[-1]))
        return range(first, len(history))

    def __reduce__(self) -> tuple[type[_Progress], tuple[()]]:
        return _Progress, ()  # the training stays behind


class Checkpoint:
    """Write a checkpoint (``Training.checkpoint``) whenever ``every`` more epochs are done.

    Chunks of a run last about a tenth of a second; it is written between two, when at least ``every`` epochs have passed.
    """

    def __init__(self, path: str | os.PathLike[str], every: int = 1) -> None:
        problems = Problems("write checkpoints")
        self._every, self._path = whole_number(every, "every", problems), Path(path)
        self._progress = _Progress()
        if not self._path.parent.is_dir():
            problems.add(f"there is no folder {str(self._path.parent)!r}")
        problems.raise_if_any()

    def __call__(self, training: Training, history: History) -> None:
        """Write if it is time."""
        last = self._progress.of(training)
        if not last or training.epochs - last >= self._every:
            training.checkpoint(self._path)
            self._progress.reach(training, training.epochs)


class Lines:
    """Print a line for each record: the epoch, its cost and what was validated; of a population the medians."""

    def __init__(self) -> None:
        self._progress = _Progress()

    def __call__(self, training: Training, history: History) -> None:
        """Print the records that are new."""
        rows = _rows(history)
        for row in self._progress.new(training, history):
            values = ", ".join(f"{name.replace('cost', 'loss')} = {column[row]:.8f}" for name, column in rows.items())
            print(f"Iteration {history.epoch[row]}, {values}")


class CSVLog:
    """Append the records to a CSV file, a line an epoch: epoch, cost, validation_cost, score; for a population their medians.

    An older file is replaced by the first record. Later runs, and other trainings with the same columns, are appended: each
    record once. Raises InputError if there is no folder for it, or the columns are others than before.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        problems = Problems("log")
        self._path, self._progress = Path(path), _Progress()
        self._columns: list[str] | None = None  # of the header, once it is written
        if not self._path.parent.is_dir():
            problems.add(f"there is no folder {str(self._path.parent)!r} for {str(path)!r}")
        problems.raise_if_any()

    def __call__(self, training: Training, history: History) -> None:
        """Write the records that are new."""
        rows = _rows(history)
        columns = ["epoch", *rows]
        if self._columns not in (None, columns):
            raise InputError(
                f"cannot log: {str(self._path)!r} has the columns {', '.join(self._columns or [])}, and this run records "
                f"{', '.join(columns)}; use a CSVLog of its own for it"
            )
        new = self._progress.new(training, history)
        lines = [[history.epoch[number], *(values[number] for values in rows.values())] for number in new]
        with self._path.open("w" if self._columns is None else "a", newline="") as file:
            csv.writer(file).writerows(lines if self._columns else [columns, *lines])
        self._columns = columns


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
        self._progress = _Progress()

    def __call__(self, training: Training, history: History) -> None:
        """Write the records that are new."""
        rows = _rows(history)
        for number in self._progress.new(training, history):
            for name, values in rows.items():
                self._writer.add_scalar(name, values[number], int(history.epoch[number]))
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
