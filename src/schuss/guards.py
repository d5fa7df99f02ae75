"""What keeps a training whole: one thread at a time, no run within a run, and Ctrl-C noted instead of raised."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from schuss.errors import TrainingError


@contextmanager
def interrupts() -> Iterator[Callable[[], bool]]:
    """Note Ctrl-C instead of raising, in the main thread; a second one raises KeyboardInterrupt at once.

    Where the program handles Ctrl-C outside Python, it stays with that.
    """
    python_handles = signal.getsignal(signal.SIGINT) is not None  # else a handler that could not be put back
    if threading.current_thread() is not threading.main_thread() or not python_handles:
        yield lambda: False
        return
    noted = False

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal noted
        if noted:
            signal.default_int_handler(number, frame)
        noted = True

    before = signal.signal(signal.SIGINT, note)
    try:
        yield lambda: noted
    finally:
        signal.signal(signal.SIGINT, before)


class Guard:
    """Who may use a training now; raises TrainingError for everyone else."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._running = False
        self.released = False

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Hold the training for one thread; callbacks, in the same thread, may enter again."""
        if not self._lock.acquire(blocking=False):
            raise TrainingError("this Training is at work in another thread; give each thread a Training of its own")
        try:
            if self.released:
                raise TrainingError("this Training was released; make a new one, the model has kept its parameters")
            yield
        finally:
            self._lock.release()

    @contextmanager
    def one_run(self) -> Iterator[None]:
        """Hold the training for one run."""
        with self.exclusive():
            if self._running:
                raise TrainingError("run was called from a callback of run; return True to stop it instead")
            self._running = True
            try:
                yield
            finally:
                self._running = False

    def release(self) -> None:
        """Let nobody in any more."""
        if self._running:
            raise TrainingError("release was called from a callback of run; return True to stop it first")
        self.released = True
