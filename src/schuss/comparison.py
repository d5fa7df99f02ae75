"""``compare``: two settings on the same seeds, with an interval; it says so when no difference is shown."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from schuss.checks import columns_of, whole_number
from schuss.engines import Engine
from schuss.errors import DivergenceWarning, Problems
from schuss.figures import axes_for
from schuss.layers import Dense
from schuss.optimizers import Optimizer
from schuss.population import Population
from schuss.training import Training

if TYPE_CHECKING:
    from collections.abc import Sequence

_RESAMPLES = 4000


@dataclass(frozen=True)
class Setting:
    """One way to train: the layers, the optimizer, the batch size (None: all samples) and the l2 term.

    >>> from schuss import SGD
    >>> Setting([Dense(8, "tanh"), Dense(1)], SGD(0.1), batch_size=32)
    Setting([Dense(8, 'tanh'), Dense(1)], SGD(learning_rate=0.1), batch_size=32)
    """

    layers: Sequence[Dense]
    optimizer: Optimizer
    batch_size: int | None = None
    l2: float = 0.0

    def __repr__(self) -> str:
        batch = "" if self.batch_size is None else f", batch_size={self.batch_size}"
        l2 = f", l2={self.l2:g}" if self.l2 else ""
        return f"Setting({list(self.layers)}, {self.optimizer.short()}{batch}{l2})"


@dataclass(frozen=True)
class Comparison:
    """What ``compare`` found: the final costs of both settings on each seed, inf where a run diverged.

    cost_a, cost_b: (seeds,). ratio: the median over seeds of cost_b / cost_a; below 1 where b is better. interval: 95 %,
    by the bootstrap over seeds. improved: the share of seeds on which b has the lower cost. diverged: how many of a, of b.
    """

    cost_a: NDArray[np.float64]
    cost_b: NDArray[np.float64]
    ratio: float
    interval: tuple[float, float]
    improved: float
    diverged: tuple[int, int]

    @property
    def verdict(self) -> str:
        """In words: which setting is better, or "no difference shown"."""
        low, high = self.interval
        if low <= 1 <= high:
            return "no difference shown"
        return "b is better" if high < 1 else "a is better"

    def plot(self, target: str | os.PathLike[str] | Any = None) -> Any:
        """Draw the cost of b over that of a, a point a seed. target: as for ``History.plot``."""
        axes, finish = axes_for(target, "comparison.plot()")
        both = np.isfinite(self.cost_a) & np.isfinite(self.cost_b)
        axes.plot(self.cost_a[both], self.cost_b[both], "o", ms=3, alpha=0.5)
        if both.any():
            ends = [min(axes.get_xlim()[0], axes.get_ylim()[0]), max(axes.get_xlim()[1], axes.get_ylim()[1])]
            ends[0] = max(ends[0], float(min(self.cost_a[both].min(), self.cost_b[both].min())) / 2)
            axes.plot(ends, ends, color="gray", lw=1)
        axes.set(xlabel="cost of a", ylabel="cost of b", xscale="log", yscale="log", title=self.verdict)
        finish()
        return axes

    def __repr__(self) -> str:
        low, high = self.interval
        of_a, of_b = self.diverged
        return (
            f"<comparison on {len(self.cost_a)} seeds: cost of b / cost of a {self.ratio:.4g} (95 %: {low:.4g} to "
            f"{high:.4g}), b lower on {self.improved:.0%}, diverged {of_a} and {of_b}: {self.verdict}>"
        )


def compare(
    a: Setting,
    b: Setting,
    x: ArrayLike,
    y: ArrayLike,
    *,
    epochs: int,
    validation: tuple[ArrayLike, ArrayLike] | None = None,
    seeds: int = 100,
    seed: int = 0,
    engine: str | Engine = "auto",
    threads: int | None = None,
) -> Comparison:
    """Train two settings from the same seeds and compare their final costs, seed by seed.

    a, b: the settings. x (n, inputs), y (n, outputs) or (n,): what to train on. epochs: of each run. validation: (x, y)
    whose cost is compared; by default that of the training data, without l2. seeds: how many networks each setting trains;
    seed: what they derive from. A run that diverged ranks worst; it is never dropped. Both settings see the same batches.

    Raises InputError for arguments that do not fit, before any work.

    >>> import numpy as np
    >>> from schuss import SGD
    >>> x = np.linspace(-1, 1, 64)[:, None]
    >>> layers = [Dense(8, "tanh"), Dense(1)]
    >>> plain, moving = Setting(layers, SGD(0.1)), Setting(layers, SGD(0.1, momentum=0.9))
    >>> found = compare(plain, moving, x, np.sin(3 * x), epochs=100, seeds=20)
    >>> found.verdict
    'b is better'
    """
    problems = Problems("compare")
    count = whole_number(seeds, "seeds", problems, least=2)
    total = whole_number(epochs, "epochs", problems)
    for name, setting in (("a", a), ("b", b)):
        if not isinstance(setting, Setting):
            problems.add(f"{name} must be a Setting(layers, optimizer); got {setting!r}")
    problems.raise_if_any()
    trainings: list[Training] = []
    try:
        for setting in (a, b):  # both are checked before either works
            setting.optimizer.check_members(1)
            population = Population(columns_of(x), setting.layers, members=count, seed=seed)
            options: dict[str, Any] = {"batch_size": setting.batch_size, "l2": setting.l2, "engine": engine}
            trainings.append(Training(population, x, y, threads=threads, seed=seed, **options))
        held_out = validation or (x, y)
        costs = [_final(*pair, total, held_out) for pair in zip(trainings, (a, b), strict=True)]
    finally:
        for training in trainings:
            training.release()
    return compared(*costs)


def compared(cost_a: NDArray[np.float64], cost_b: NDArray[np.float64]) -> Comparison:
    """Compare costs that are paired by seed, (seeds,) each; what is not finite counts as diverged, and as the worst."""
    a, b = (np.where(np.isfinite(cost), cost, np.inf) for cost in (cost_a, cost_b))
    with np.errstate(invalid="ignore", divide="ignore"):
        ratios = np.log(b) - np.log(a)
    ratios[np.isnan(ratios)] = 0.0  # both diverged, or both are 0
    rng = np.random.default_rng(0)
    medians = [_median(ratios[rng.integers(0, len(ratios), len(ratios))]) for _ in range(_RESAMPLES)]
    low, high = np.quantile(medians, (0.025, 0.975), method="inverted_cdf")
    return Comparison(
        cost_a=a,
        cost_b=b,
        ratio=float(np.exp(_median(ratios))),
        interval=(float(np.exp(low)), float(np.exp(high))),
        improved=float((b < a).mean()),
        diverged=(int(np.isinf(a).sum()), int(np.isinf(b).sum())),
    )


def _median(values: NDArray[np.float64]) -> float:
    """Return the lower median: it is one of the values, so infinite ones need no arithmetic."""
    return float(np.partition(values, (len(values) - 1) // 2)[(len(values) - 1) // 2])


def _final(
    training: Training, setting: Setting, epochs: int, held_out: tuple[ArrayLike, ArrayLike]
) -> NDArray[np.float64]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DivergenceWarning)  # it is counted
        history = training.run(epochs, setting.optimizer, record_every=epochs)
    costs = np.array(training.cost(*held_out), np.float64)
    costs[list(history.diverged)] = np.inf
    return costs
