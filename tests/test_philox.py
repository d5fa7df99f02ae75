"""Philox against the known answers of its authors; shuffles are permutations, uniform, and the same in native code."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import data, network
from schuss import SGD, Training
from schuss.philox import normal, permuted, philox, shuffle_keys

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
    z = normal(200_000, seed=7, stream=0, substream=3)
    # Standard errors of the mean, variance and fourth moment: 0.0022, 0.0032, 0.022.
    assert abs(z.mean()) < 0.01
    assert abs(z.var() - 1) < 0.015
    assert abs((z**4).mean() - 3) < 0.1
    assert abs(np.corrcoef(z[:-1], z[1:])[0, 1]) < 0.01


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
