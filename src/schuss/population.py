"""``Population``: many networks of one architecture, trained as one job."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator, Sequence
from operator import index
from typing import Any, Self, cast, overload

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from schuss import philox
from schuss.ensembles import Ensemble
from schuss.errors import InputError
from schuss.layers import Dense, draw_parameters, parameter_count
from schuss.network import DenseModel, Network, check_architecture, check_memory_of, check_seed, dtype_of
from schuss.resources import check_memory


class Population(DenseModel):
    """Networks of one architecture side by side, each with its own seed: parameters of shape (members, p).

    inputs, layers, dtype: as for ``Network``. members: how many. seed: derives ``seeds``, one a member, which do not depend
    on ``members``; or a sequence of one a member. Member i equals ``Network(inputs, layers, seed=population.seeds[i])``,
    to the bit, before and after a training.

    ``population[i]`` is a Network on the memory of member i, ``population[a:b]`` a Population on that of some: training
    one trains the other. ``population(x)`` predicts with all.

    Raises InputError for inputs, layers or seeds that make no population, or more members than memory holds.

    >>> population = Population(4, [Dense(8, "tanh"), Dense(1)], members=100, seed=0)
    >>> population
    Population(4, [Dense(8, 'tanh'), Dense(1)], members=100, seed=0)  # 100 x 49 parameters, float32
    >>> population([[0.1, 0.2, 0.3, 0.4]]).shape
    (100, 1, 1)
    >>> len(population[:10])
    10
    """

    def __init__(
        self,
        inputs: int,
        layers: Sequence[Dense],
        *,
        members: int | None = None,
        seed: int | Sequence[int] | NDArray[np.integer[Any]] | None = None,
        dtype: DTypeLike = "float32",
    ) -> None:
        self.inputs, self.dense, self.dtype = check_architecture(inputs, layers, dtype)
        given = _given_seeds(seed)
        count, p = _count(members, given), parameter_count(self.sizes)
        check_memory(count * p * self.dtype.itemsize, f"{count} members of {p} parameters", count, "members")
        self._seed: int | None = None
        if given is None:
            self._seed = check_seed(secrets.randbits(32) if seed is None else cast("int", seed))
            given = philox.derived_seeds(count, self._seed)
        self.seeds = given
        self._parameters = draw_parameters(self.inputs, self.dense, self.seeds, self.dtype)

    @classmethod
    def from_parameters(
        cls, inputs: int, layers: Sequence[Dense], parameters: NDArray[Any], *, seeds: NDArray[np.uint64]
    ) -> Self:
        """Return a population on given memory: ``parameters`` is (members, p), C-ordered, ``seeds`` (members,).

        Of read-only memory it predicts but cannot be trained; its ``copy()`` can. Raises InputError for memory that holds no
        such population.
        """
        population = cls.__new__(cls)
        population.inputs, population.dense, population.dtype = check_architecture(inputs, layers, dtype_of(parameters))
        expected = (len(seeds), parameter_count(population.sizes))
        population.seeds, population._seed = seeds, None
        population._parameters = check_memory_of(parameters, expected, f"a population of {population.sizes}")
        return population

    def __len__(self) -> int:
        return len(self._parameters)

    def __iter__(self) -> Iterator[Network]:
        return (self[member] for member in range(len(self)))

    @overload
    def __getitem__(self, which: int) -> Network: ...
    @overload
    def __getitem__(self, which: slice) -> Population: ...
    def __getitem__(self, which: int | slice) -> Network | Population:
        """Return a member as a Network, or consecutive members as a Population, on the same memory.

        Raises IndexError beyond the members, InputError for steps and lists, which no view can hold: see ``select``.
        """
        if isinstance(which, slice):
            first, end, step = which.indices(len(self))
            if step != 1 or end <= first:
                raise InputError(
                    f"a view holds one or more consecutive members, as in population[10:20]; got [{which}]; "
                    "population.select(members) copies any"
                )
            return Population.from_parameters(
                self.inputs, self.dense, self._parameters[first:end], seeds=self.seeds[first:end]
            )
        try:
            member = index(which)
        except TypeError:
            raise InputError(
                f"population[...] takes a number or a slice; got {which!r}; population.select(members) copies any"
            ) from None
        if not -len(self) <= member < len(self):
            raise IndexError(f"member {member} of {len(self)}")
        return Network.from_parameters(self.inputs, self.dense, self._parameters[member], seed=int(self.seeds[member]))

    def select(self, members: Iterable[int]) -> Population:
        """Return an independent population of some members, in the given order. Raises InputError for none or unknown."""
        chosen = np.array(list(members))
        if chosen.dtype == bool and chosen.shape == (len(self),):
            chosen = np.flatnonzero(chosen)
        if chosen.ndim != 1 or not len(chosen) or chosen.dtype.kind not in "iu":
            raise InputError(f"members must be their numbers, at least one; got {members!r}")
        if chosen.min() < -len(self) or chosen.max() >= len(self):
            raise InputError(f"the population has {len(self)} members; got {chosen.min()} to {chosen.max()}")
        return self.from_parameters(
            self.inputs, self.dense, np.ascontiguousarray(self._parameters[chosen]), seeds=self.seeds[chosen]
        )

    def __call__(self, x: ArrayLike) -> NDArray[Any]:
        """Return the outputs of all members, (members, n, dL), for x (n, inputs).

        Raises InputError for another shape or an x that holds no real numbers.
        """
        return self._outputs(x)

    def ensemble(self, members: Iterable[int] | None = None) -> Ensemble:
        """Return the ensemble of some members, all by default: it predicts their mean and standard deviation.

        ``ensemble.greedy(x, y)`` chooses among them on a validation set.
        """
        chosen = self if members is None else self.select(members)
        return Ensemble(chosen.inputs, chosen.dense, chosen.parameters, chosen.seeds)

    def copy(self) -> Self:
        """Return an independent population with the same parameters and seeds."""
        population = self.from_parameters(self.inputs, self.dense, self._parameters.copy(), seeds=self.seeds.copy())
        population._seed = self._seed
        return population

    def __repr__(self) -> str:
        kind = "" if self.dtype == np.float32 else f", dtype={self.dtype.name!r}"
        seed = self._seed if self._seed is not None else f"<{len(self)} seeds>"
        count, p = self._parameters.shape
        return (
            f"Population({self.inputs}, {list(self.dense)}, members={count}, seed={seed}{kind})"
            f"  # {count} x {p} parameters, {self.dtype.name}"
        )


def _given_seeds(seed: Any) -> NDArray[np.uint64] | None:
    """Return the seeds of a sequence of one a member, or None for a single number or none."""
    if seed is None or np.ndim(seed) == 0:
        return None
    if np.ndim(seed) != 1 or not len(seed):
        raise InputError(f"seed must be a number, or a flat sequence of one a member; got shape {np.shape(seed)}")
    return np.array([check_seed(one) for one in seed], np.uint64)


def _count(members: int | None, given: NDArray[np.uint64] | None) -> int:
    """Return how many members there are."""
    if members is None and given is not None:
        return len(given)
    try:
        count = index(members)  # type: ignore[arg-type]
    except TypeError:
        count = 0
    if count < 1 or isinstance(members, bool):
        raise InputError(f"members must be a whole number, at least 1; got {members!r}")
    if given is not None and len(given) != count:
        raise InputError(f"seed has {len(given)} values but members is {count}; pass one seed, or one a member")
    return count


def mean_and_deviation(model: Network | Population, x: ArrayLike) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """Return the outputs (n, dL) for x (n, inputs); for a population those of its mean, and the deviation over members.

    Raises InputError as a call does.
    """
    return (model(x), None) if isinstance(model, Network) else model.ensemble()(x)
