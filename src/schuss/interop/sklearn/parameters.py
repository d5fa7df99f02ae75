"""``Parameters``: those of scikit-learn's MLPs and our own, checked, and what they mean to schuss."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator

from schuss.activations import ELEMENTWISE
from schuss.errors import Problems, unknown_name
from schuss.layers import Dense
from schuss.optimizers import LBFGS, SGD, Adam, Optimizer, RMSprop
from schuss.schedules import Schedule

ACTIVATIONS = {"identity": "linear", "logistic": "sigmoid"} | {name: name for name in ELEMENTWISE}
"""scikit-learn's names, and ours."""

SOLVERS = ("adam", "sgd", "lbfgs", "rmsprop")
OF_A_MEMBER = ("alpha", "beta_1", "beta_2", "epsilon", "learning_rate_init", "momentum", "weight_decay")
"""Parameters of which each member of a population may have its own."""


@dataclass(eq=False, repr=False)
class Parameters(BaseEstimator):
    """The parameters of scikit-learn's MLPs, by their names and with their meanings, and our own (the last ones).

    activation: a name, or one a hidden layer. dropout: the share of the outputs of hidden layers, or one a layer.
    weight_decay: decoupled, as of AdamW (``alpha`` is the term of the cost). class_weight: "balanced", or a dictionary.
    scoring: what early stopping looks at on the rows held out: a scorer's name or a callable (estimator, X, y); None for
    accuracy or R2. engine, threads: as for ``schuss.Training``. progress: show a bar. callbacks: each f(training, history).
    """

    _: KW_ONLY
    solver: str = "adam"
    alpha: float = 0.0001
    batch_size: Any = "auto"
    learning_rate: str = "constant"
    learning_rate_init: float = 0.001
    power_t: float = 0.5
    max_iter: int = 200
    shuffle: bool = True
    random_state: Any = None
    tol: float = 1e-4
    verbose: bool = False
    warm_start: bool = False
    momentum: float = 0.9
    nesterovs_momentum: bool = True
    early_stopping: bool = False
    validation_fraction: float = 0.1
    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-8
    n_iter_no_change: int = 10
    max_fun: int = 15000
    dropout: Any = 0.0
    weight_decay: float = 0.0
    scoring: Any = None
    engine: Any = "auto"
    threads: int | None = None
    progress: bool = False
    callbacks: Sequence[Callable[..., Any]] = ()

    loss: Any
    hidden_layer_sizes: Any
    activation: Any

    def _hidden(self) -> list[Dense]:
        """Return the hidden layers."""
        sizes = np.atleast_1d(np.asarray(self.hidden_layer_sizes, dtype=object)).tolist()
        several = isinstance(self.activation, Sequence) and not isinstance(self.activation, str)
        names = list(self.activation) if several else [self.activation] * len(sizes)
        shares = np.atleast_1d(np.asarray(self.dropout, dtype=object)).tolist()
        shares = shares * len(sizes) if len(shares) == 1 else shares
        problems = Problems("fit")
        for size in sizes:
            if isinstance(size, bool) or not isinstance(size, int | np.integer) or size < 1:
                problems.add(f"hidden_layer_sizes must be > 0, whole numbers; got {self.hidden_layer_sizes!r}")
                break
        for name, values in (("activation", names), ("dropout", shares)):
            if len(values) != len(sizes):
                problems.add(
                    f"{name} has {len(values)} values for {len(sizes)} hidden layers; pass one, or one a layer"
                )
        for name in dict.fromkeys(map(str, names)):
            if name not in ACTIVATIONS:
                problems.add(unknown_name("activation", name, ACTIVATIONS))
        problems.raise_if_any()
        rows = zip(sizes, names, shares, strict=True)
        return [Dense(int(size), ACTIVATIONS[name], dropout=share) for size, name, share in rows]

    def _check(self) -> None:
        """Raise InputError with all that is wrong with the parameters."""
        problems = Problems("fit")
        if self.solver not in SOLVERS:
            problems.add(unknown_name("solver", self.solver, SOLVERS))
        if self.learning_rate not in ("constant", "invscaling", "adaptive"):
            problems.add(unknown_name("learning_rate", self.learning_rate, ("constant", "invscaling", "adaptive")))
        for name in ("max_iter", "n_iter_no_change", "max_fun"):
            value = getattr(self, name)
            if isinstance(value, bool) or not (isinstance(value, int | np.integer) or value == np.inf) or value < 1:
                problems.add(f"{name} must be a whole number, at least 1; got {value!r}")
        if not 0 < self.validation_fraction < 1:
            problems.add(f"validation_fraction must be inside (0, 1); got {self.validation_fraction!r}")
        if not self.tol >= 0:
            problems.add(f"tol must be at least 0; got {self.tol!r}")
        size = self.batch_size
        if size != "auto" and (isinstance(size, bool) or not isinstance(size, int | np.integer) or size < 1):
            problems.add(f'batch_size must be "auto" or a whole number, at least 1; got {size!r}')
        problems.raise_if_any()

    def _batch(self, samples: int) -> int | None:
        """Return the batch size for so many samples."""
        if self.solver == "lbfgs":
            return None
        if self.batch_size == "auto":
            return min(200, samples)
        if self.batch_size > samples:
            warnings.warn(
                f"Got `batch_size` {self.batch_size} larger than the {samples} samples. It is going to be clipped",
                stacklevel=4,
            )
        return min(int(self.batch_size), samples)

    def _optimizer(self, samples: int, rate: float = 1.0) -> Optimizer:
        """Return the optimizer; rate: a factor of the learning rate."""
        eta = np.asarray(self.learning_rate_init) * rate
        if self.solver == "lbfgs":
            return LBFGS(tolerance=self.tol)
        if self.solver == "adam":
            return Adam(eta, self.weight_decay, self.beta_1, self.beta_2, self.epsilon)
        if self.solver == "rmsprop":
            return RMSprop(eta, self.weight_decay, self.momentum)
        given: Any = eta
        if self.learning_rate == "invscaling":
            epochs = self._epochs()

            def factor(progress: float) -> float:
                return float((np.floor(progress * epochs + 1e-9) * samples + 1.0) ** -self.power_t)

            given = Schedule(eta, factor)
        return SGD(given, self.weight_decay, self.momentum, nesterov=bool(self.nesterovs_momentum))

    def _epochs(self) -> int:
        return int(min(self.max_iter, self.max_fun) if self.solver == "lbfgs" else self.max_iter)
