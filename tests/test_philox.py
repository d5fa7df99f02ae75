"""Philox against the known answers of its authors; shuffles are permutations, uniform, and the same in native code."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import data, network
from schuss import SGD, Training
from schuss.philox import bootstrap_keys, bootstrap_weights, derived_seeds, normal, permuted, philox, shuffle_keys

# kat_vectors of Random123, philox4x32 with 10 rounds.
KNOWN = [
    ([0, 0, 0, 0], [0, 0], [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
    ([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
    (
        [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
        [0xA4093822, 0x299F31D0],
        [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
    ),
]


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN)
def test_known_answers(counter, key, expected):
    words = philox(np.array([counter], np.uint32), key[0] | key[1] << 32)
    assert words[0].tolist() == expected


def test_normal_numbers_have_the_moments_of_a_normal():
    z = normal(200_000, np.array([7], np.uint64), stream=0, substream=3)[0]
    # Standard errors of the mean, variance and fourth moment: 0.0022, 0.0032, 0.022.
    assert abs(z.mean()) < 0.01
    assert abs(z.var() - 1) < 0.015
    assert abs((z**4).mean() - 3) < 0.1
    assert abs(np.corrcoef(z[:-1], z[1:])[0, 1]) < 0.01


def test_several_seeds_draw_what_each_draws_alone():
    seeds = derived_seeds(5, 3)
    together = normal(7, seeds, 0, 1)
    alone = [normal(7, seeds[i : i + 1], 0, 1)[0] for i in range(5)]
    assert together.tobytes() == np.stack(alone).tobytes()


def test_derived_seeds_do_not_depend_on_how_many():
    many = derived_seeds(10_000, 1)
    assert np.array_equal(derived_seeds(10, 1), many[:10])
    assert len(np.unique(many)) == 10_000
    assert not np.isin(derived_seeds(10_000, 2), many).any()


def test_bootstrap_weights_are_poisson_and_differ_between_members():
    n = 100_000
    keys = bootstrap_keys(derived_seeds(2, 0), 5)
    first, second = (bootstrap_weights(np.arange(n), key) for key in keys)
    expected = n * np.exp(-1) / np.array([1, 1, 2, 6, 24, 120])  # of 0..5
    counts = np.bincount(first, minlength=9)
    assert np.abs(counts[:6] - expected).max() < 5 * np.sqrt(expected.max())
    assert counts[6:].sum() < 2 * n * 0.0006
    assert abs(np.corrcoef(first, second)[0, 1]) < 5 / np.sqrt(n)
    assert abs(np.corrcoef(first[:-1], first[1:])[0, 1]) < 5 / np.sqrt(n)


@pytest.mark.parametrize("n", [1, 2, 3, 5, 16, 17, 100, 255, 256, 257, 1000, 65537])
def test_shuffles_are_permutations(n):
    for epoch in range(3):
        order = permuted(np.arange(n), n, shuffle_keys(9, epoch))
        assert np.array_equal(np.sort(order), np.arange(n))


@settings(deadline=None, database=None)
@given(n=st.integers(1, 5000), seed=st.integers(0, 2**64 - 1), epoch=st.integers(0, 2**40))
def test_any_seed_and_epoch_give_a_permutation(n, seed, epoch):
    order = permuted(np.arange(n), n, shuffle_keys(seed, epoch))
    assert np.array_equal(np.sort(order), np.arange(n))


def test_every_position_is_reached_equally_often():
    n, epochs = 12, 6000
    counts = np.zeros((n, n))
    for epoch in range(epochs):
        counts[np.arange(n), permuted(np.arange(n), n, shuffle_keys(1, epoch))] += 1
    chi_square = ((counts - epochs / n) ** 2 / (epochs / n)).sum()
    assert chi_square < 121 + 5 * np.sqrt(2 * 121)  # (n - 1)^2 degrees of freedom


def test_native_code_draws_the_same_shuffle(level):
    # Batches of one sample: the order of the epoch is in the parameters.
    x, y = data(37, 2, 1)
    models = [network((2, 1), ("linear",)) for _ in range(2)]
    for model, engine in zip(models, ("cpu", "reference"), strict=True):
        with Training(model, x, y, engine=engine, batch_size=1, seed=2**63 + 11) as training:
            training.run(3, SGD(0.3))
    np.testing.assert_allclose(models[0].parameters, models[1].parameters, rtol=1e-12)
