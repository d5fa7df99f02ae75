"""Choosing and listing engines, and the one function through which networks predict."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from schuss.activations import Activation
from schuss.engines import cpu, reference
from schuss.engines.base import Data, Plan, Session
from schuss.errors import EngineError, InputError, unknown_name

NAMES = ("cpu", "reference")


@dataclass(frozen=True)
class EngineInfo:
    """What is known of an engine: its name, whether it can be used, why not if it cannot, and its devices."""

    name: str
    available: bool
    reason: str
    devices: tuple[str, ...]


def list_engines() -> list[EngineInfo]:
    """Return every engine, available or with the reason why not, and its devices.

    >>> [info.name for info in list_engines()]
    ['cpu', 'reference']
    """
    try:
        native = EngineInfo("cpu", True, "", cpu.devices())
    except EngineError as error:
        native = EngineInfo("cpu", False, str(error), ())
    return [native, EngineInfo("reference", True, "", ("NumPy",))]


def choose(engine: str) -> str:
    """Return the engine's name for a name or "auto": the native kernels where they were built, else the reference.

    Raises InputError for an unknown name, and EngineError, with the reason, for an engine that is absent.
    """
    if engine == "auto":
        return "cpu" if list_engines()[0].available else "reference"
    if not isinstance(engine, str) or engine not in NAMES:
        raise InputError(unknown_name("engine", engine, ["auto", *NAMES]))
    if engine == "cpu":
        cpu.library()  # raises EngineError with the reason
    return engine


def open_session(
    engine: str, plan: Plan, parameters: NDArray[Any], data: Data, validation: Data | None = None
) -> Session:
    """Return a session of a chosen engine on ``parameters`` (members, p), which it may use as its own memory."""
    if engine == "cpu":
        return cpu.NativeSession(plan, parameters, data, validation)
    return reference.ReferenceSession(plan, parameters, data, validation)


def predict(
    parameters: NDArray[Any], sizes: tuple[int, ...], activations: tuple[Activation, ...], x: NDArray[Any]
) -> NDArray[Any]:
    """Return the outputs (members, n, dL) for parameters (members, p) and C-ordered x (n, d0) of the same dtype."""
    if choose("auto") == "cpu":
        return cpu.predict(parameters, sizes, activations, x)
    return reference.predict(parameters, sizes, activations, x)
