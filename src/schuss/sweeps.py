"""``sweep``: many settings on several seeds each, trained as few populations, and ranked by validation cost."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from schuss import philox
from schuss.candidates import NAMES, NUMERIC, USUAL_RATES, Candidate, Numbers, candidates_of, choices_of
from schuss.checks import columns_of, whole_number
from schuss.console import Table, live_table
from schuss.engines import Engine
from schuss.ensembles import Ensemble
from schuss.errors import DivergenceWarning, Problems, SchussError
from schuss.figures import panels
from schuss.history import History
from schuss.layers import Dense
from schuss.network import Network
from schuss.optimizers import SGD, Optimizer
from schuss.population import Population
from schuss.training import Training


@dataclass
class _Group:
    """The settings of one architecture and batch size, as one population: settings times seeds members."""

    settings: list[int]
    training: Training
    population: Population
    optimizer: Optimizer
    epochs: int = 0
    costs: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))

    def run(self, epochs: int, history_seen: Any) -> bool:
        """Train for some epochs; return whether Ctrl-C ended it."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DivergenceWarning)  # they are counted
            history = self.training.run(epochs, self.optimizer, record_every=epochs, callbacks=[history_seen])
        self.epochs = self.training.epochs
        return history.interrupted


class Sweep:
    """What ``sweep`` found: the candidates, the best first.

    candidates: ranked by cost; those that were trained longer rank before those that were retired earlier. network: the
    best network of the best candidate. interrupted: whether Ctrl-C ended it; what was finished until then is here.
    """

    def __init__(
        self, candidates: list[Candidate], members: list[Network], costs: list[float], interrupted: bool
    ) -> None:
        self.candidates = candidates
        self._members, self._costs = members, costs
        self.interrupted = interrupted

    @property
    def best(self) -> Candidate:
        """The candidate with the lowest validation cost."""
        return self.candidates[0]

    @property
    def network(self) -> Network:
        """The network of the best candidate whose own validation cost is lowest."""
        return self._members[int(np.argmin(self._costs))]

    def population(self) -> Population:
        """Return the networks of the best candidate, one a seed that did not diverge."""
        chosen = [network for network, cost in zip(self._members, self._costs, strict=True) if np.isfinite(cost)]
        return Population.from_parameters(
            chosen[0].inputs,
            chosen[0].dense,
            np.stack([network.parameters for network in chosen]),
            seeds=np.array([network.seed for network in chosen], np.uint64),
        )

    def ensemble(self) -> Ensemble:
        """Return the ensemble of ``population()``."""
        return self.population().ensemble()

    def to_dict(self) -> dict[str, list[Any]]:
        """Return the table by column, the best candidate first."""
        names = Candidate.__dataclass_fields__
        return {name: [getattr(candidate, name) for candidate in self.candidates] for name in names}

    def to_polars(self) -> Any:
        """Return the table as a polars DataFrame. Raises SchussError where polars is not installed."""
        from schuss import tables

        columns = self.to_dict()
        columns["layers"] = ["-".join(map(str, units)) for units in columns["layers"]]
        return tables.frame(columns)

    def plot(self, target: str | os.PathLike[str] | None = None) -> Any:
        """Draw the cost over each hyper-parameter that varies. target: a file to write, or None. Returns the figure.

        Raises SchussError where matplotlib is not installed.
        """
        varying = [name for name in NAMES if len({getattr(candidate, name) for candidate in self.candidates}) > 1]
        figure, row, finish = panels(max(1, len(varying)), target, "sweep.plot()")
        finite = [candidate for candidate in self.candidates if np.isfinite(candidate.cost)]
        for axes, name in zip(row, varying or ["learning_rate"], strict=True):
            values = [getattr(candidate, name) for candidate in finite]
            costs = np.array([candidate.cost for candidate in finite])
            spread = np.array([[c.cost - c.low, c.high - c.cost] for c in finite]).reshape(-1, 2).T
            if name in NUMERIC:
                axes.errorbar(values, costs, np.maximum(spread, 0), fmt="o", ms=4, lw=1)
                positive = [value for value in values if value > 0]
                if len(positive) == len(values) and positive and max(positive) > 20 * min(positive):
                    axes.set_xscale("log")
            else:
                labels = [_label(value) for value in values]
                axes.plot(labels, costs, "o", ms=4)
                axes.tick_params(axis="x", rotation=45)
            axes.set(xlabel=name.replace("_", " "), ylabel="validation cost", yscale="log")
        finish()
        return figure

    def __repr__(self) -> str:
        best = self.best
        return (
            f"<sweep of {len(self.candidates)} settings on {best.seeds} seeds; best: layers {_label(best.layers)}, "
            f"{best.activation}, batch {_label(best.batch_size)}, learning rate {best.learning_rate:.4g}, weight decay "
            f"{best.weight_decay:.4g}, momentum {best.momentum:.4g}, cost {best.cost:.4g} ({best.low:.4g} to "
            f"{best.high:.4g}){'; interrupted' if self.interrupted else ''}>"
        )


def _label(value: Any) -> str:
    if isinstance(value, tuple):
        return "-".join(map(str, value)) or "none"
    return "full" if value is None else str(value)


def sweep(
    x: ArrayLike,
    y: ArrayLike,
    *,
    validation: tuple[ArrayLike, ArrayLike],
    epochs: int,
    layers: Sequence[Sequence[int]] = ((32, 16),),
    activation: str | Sequence[str] = "tanh",
    batch_size: int | Sequence[int | None] | None = None,
    learning_rate: Numbers = USUAL_RATES,
    weight_decay: Numbers = 0.0,
    momentum: Numbers = 0.9,
    draws: int | None = None,
    seeds: int = 3,
    seed: int = 0,
    successive_halving: bool = False,
    engine: str | Engine = "auto",
    threads: int | None = None,
    progress: bool = False,
) -> Sweep:
    """Train many settings on several seeds each, and rank them by their validation cost.

    x (n, inputs), y (n, outputs) or (n,): what to train on. validation: (x, y) to rank by. epochs: of each setting.
    layers: the hidden layers to try, each a sequence of units. activation, batch_size (None: all samples), learning_rate,
    weight_decay, momentum: one value, or a sequence to try; numbers may be a ``Range``. draws: how many settings to draw at
    random; by default the grid of all combinations, or 20 draws where there is a ``Range``. seeds: networks of each
    setting, the same seeds for all. successive_halving: stop the worse half of the settings after 1/8, 1/4 and 1/2 of the
    epochs. progress: show a bar and the best settings so far.

    Settings of one architecture and batch size are trained as one population. Ctrl-C ends the sweep and returns what is
    there.
    Raises InputError for arguments that do not fit, before any work.

    >>> x = np.linspace(-1, 1, 60)[:, None]
    >>> y = np.sin(3 * x)
    >>> held_out = (x[1::2], y[1::2])
    >>> found = sweep(x[::2], y[::2], validation=held_out, epochs=200, layers=[(8,)], learning_rate=[0.001, 0.01, 0.1])
    >>> found.best.learning_rate
    0.1
    """
    problems = Problems("sweep")
    total = whole_number(epochs, "epochs", problems)
    count = whole_number(seeds, "seeds", problems)
    outputs = np.shape(y)[1] if np.ndim(y) == 2 else 1
    choices = choices_of(layers, activation, batch_size, learning_rate, weight_decay, momentum, problems)
    if draws is not None:
        whole_number(draws, "draws", problems)
    if not isinstance(validation, tuple | list) or len(validation) != 2:
        problems.add(f"validation must be a pair (x, y) to rank by; got {type(validation).__name__}")
    problems.raise_if_any()
    held_out = validation[0], validation[1]
    candidates = candidates_of(choices, draws, seed)
    own_seeds = philox.derived_seeds(count, seed)
    groups: list[_Group] = []
    try:
        for key in dict.fromkeys((c.layers, c.activation, c.batch_size) for c in candidates):
            members = [i for i, c in enumerate(candidates) if (c.layers, c.activation, c.batch_size) == key]
            dense = [*(Dense(units, key[1]) for units in key[0]), Dense(outputs)]
            population = Population(columns_of(x), dense, seed=np.tile(own_seeds, len(members)))
            training = Training(
                population,
                x,
                y,
                batch_size=key[2],
                validation=held_out,
                engine=engine,
                threads=threads,
                seed=seed,
            )
            rates = [np.repeat([getattr(candidates[i], name) for i in members], count) for name in NUMERIC]
            groups.append(_Group(members, training, population, SGD(*rates)))
        return _run(candidates, groups, total, count, held_out, successive_halving, progress)
    finally:
        for group in groups:
            group.training.release()


def _run(
    candidates: list[Candidate],
    groups: list[_Group],
    epochs: int,
    seeds: int,
    validation: tuple[ArrayLike, ArrayLike],
    halving: bool,
    progress: bool,
) -> Sweep:
    rungs = sorted({max(1, epochs // 8), max(1, epochs // 4), max(1, epochs // 2), epochs} if halving else {epochs})
    alive, interrupted = set(range(len(candidates))), False
    with live_table(epochs * len(groups), progress) as (advance_bar, show):
        for rung, end in enumerate(rungs):
            for group in groups:
                if interrupted or not alive & set(group.settings):
                    continue
                seen = [group.training.epochs]

                def look(training: Training, history: History, seen: list[int] = seen) -> None:
                    advance_bar(training.epochs - seen[0])
                    seen[0] = training.epochs

                try:
                    interrupted = group.run(end - group.epochs, look)
                except SchussError:  # every member has diverged: their costs say so
                    group.epochs = end
                group.costs = _costs(group, validation)
                _note(candidates, group, seeds, alive)
                show("the best so far", best_table([candidates[i] for i in _ranked(candidates)]))
            if interrupted:
                break
            if rung < len(rungs) - 1:
                ranked = sorted(alive, key=lambda i: candidates[i].cost)
                alive = set(ranked[: -(-len(ranked) // 2)])
                for group in groups:
                    gone = [n for n, i in enumerate(group.settings) if i not in alive]
                    group.training.retire(member for n in gone for member in range(n * seeds, (n + 1) * seeds))
    return _result(candidates, groups, seeds, interrupted)


def _costs(group: _Group, validation: tuple[ArrayLike, ArrayLike]) -> NDArray[np.float64]:
    """Return the validation costs (members,), inf for those that diverged."""
    costs = np.array(group.training.cost(*validation), np.float64)
    costs[group.training.diverged] = np.inf
    costs[~np.isfinite(costs)] = np.inf
    return costs


def _note(candidates: list[Candidate], group: _Group, seeds: int, alive: set[int]) -> None:
    """Write what came of a group's settings into the candidates; those that were retired keep what they had."""
    for n, i in enumerate(group.settings):
        if i not in alive:
            continue
        costs = group.costs[n * seeds : (n + 1) * seeds]
        finite = costs[np.isfinite(costs)]
        low, high = (float(finite.min()), float(finite.max())) if len(finite) else (np.inf, np.inf)
        candidates[i] = replace(
            candidates[i],
            cost=float(np.sort(costs)[(seeds - 1) // 2]) if len(finite) > seeds // 2 else np.inf,
            low=low,
            high=high,
            diverged=seeds - len(finite),
            seeds=seeds,
            epochs=group.epochs,
        )


def _ranked(candidates: list[Candidate]) -> list[int]:
    """Return the numbers of the candidates that were trained, the best first."""
    done = [i for i, candidate in enumerate(candidates) if candidate.seeds]
    return sorted(done, key=lambda i: (-candidates[i].epochs, candidates[i].cost))


def best_table(ranked: list[Candidate], most: int = 10) -> Table:
    """Return columns and rows of the first candidates, for a terminal."""
    rows = [
        (
            _label(one.layers),
            one.activation,
            _label(one.batch_size),
            *(f"{getattr(one, name):.3g}" for name in NUMERIC),
            f"{one.cost:.4g}",
            f"{one.high - one.low:.2g}",
            str(one.epochs),
        )
        for one in ranked[:most]
    ]
    return ("layers", "function", "batch", "rate", "decay", "mu", "cost", "spread", "epochs"), rows


def _result(candidates: list[Candidate], groups: list[_Group], seeds: int, interrupted: bool) -> Sweep:
    ranked = _ranked(candidates)
    if not ranked:
        raise KeyboardInterrupt
    if not np.isfinite(candidates[ranked[0]].cost):
        raise SchussError("every setting of the sweep diverged; try smaller learning rates, or scale x and y")
    group = next(group for group in groups if ranked[0] in group.settings)
    first = group.settings.index(ranked[0]) * seeds
    members = [group.population[first + n].copy() for n in range(seeds)]
    costs = group.costs[first : first + seeds].tolist()
    return Sweep([candidates[i] for i in ranked], members, costs, interrupted)
