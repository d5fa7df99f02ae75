"""schuss trains dense neural networks at the speed the hardware allows.

>>> import numpy as np
>>> from schuss import Dense, Network, SGD, Training
>>> x = np.random.default_rng(0).random((200, 4))
>>> y = np.sin(x[:, 0]) + np.cos(x[:, 1]) + np.tanh(x[:, 2]) + x[:, 3] ** 2
>>> network = Network(4, [Dense(8, "sigmoid"), Dense(8, "tanh"), Dense(1)], seed=1)
>>> with Training(network, x, y) as training:
...     history = training.run(300, SGD(learning_rate=0.1, momentum=0.9))
>>> bool(history.cost[-1] < 0.05)
True
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from schuss.checks import EarlyStopping
from schuss.engines import list_engines
from schuss.ensembles import Ensemble
from schuss.errors import (
    DivergenceWarning,
    EngineError,
    InputError,
    ModelFileError,
    SchussError,
    TrainingError,
)
from schuss.history import History
from schuss.layers import Dense
from schuss.network import Network
from schuss.optimizers import LBFGS, SGD, Adam, RMSprop
from schuss.population import Population
from schuss.training import Training

if TYPE_CHECKING:
    from schuss.candidates import Range
    from schuss.checkpoint import load
    from schuss.comparison import Setting, compare
    from schuss.reports import report
    from schuss.sweeps import Sweep, sweep

__all__ = [
    "LBFGS",
    "SGD",
    "Adam",
    "Dense",
    "DivergenceWarning",
    "EarlyStopping",
    "EngineError",
    "Ensemble",
    "History",
    "InputError",
    "ModelFileError",
    "Network",
    "Population",
    "RMSprop",
    "Range",
    "SchussError",
    "Setting",
    "Sweep",
    "Training",
    "TrainingError",
    "compare",
    "list_engines",
    "load",
    "report",
    "sweep",
]

__version__ = "0.1.0"


_LATE = {
    "load": "checkpoint",
    "Setting": "comparison",
    "compare": "comparison",
    "Range": "candidates",
    "Sweep": "sweeps",
    "report": "reports",
    "sweep": "sweeps",
}
_MODULES = ("activations", "callbacks", "costs", "engines", "interop", "schedules", "tabular")


def __getattr__(name: str) -> Any:
    """Import what only some programs need when it is first asked for: it keeps ``import schuss`` short."""
    if name in _MODULES:
        return import_module(f"schuss.{name}")
    if name not in _LATE:
        raise AttributeError(f"module 'schuss' has no attribute {name!r}")
    return getattr(import_module(f"schuss.{_LATE[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*__all__, *_MODULES, "__version__"])
