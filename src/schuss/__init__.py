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
from schuss.optimizers import SGD
from schuss.population import Population
from schuss.training import Training

if TYPE_CHECKING:
    from schuss.checkpoint import load

__all__ = [
    "SGD",
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
    "SchussError",
    "Training",
    "TrainingError",
    "list_engines",
    "load",
]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Import what reads model files when it is first asked for: most programs only train."""
    if name == "load":
        from schuss.checkpoint import load

        return load
    raise AttributeError(f"module 'schuss' has no attribute {name!r}")
