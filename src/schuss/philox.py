"""Counter-based randomness: Philox 4x32-10, normal numbers, and shuffles by a keyed permutation of the index.

Source: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011. The shuffle is a Feistel
network over the next power of two, walked until it lands below n (Black and Rogaway, CT-RSA 2002).
``engines/kernels/random.h`` holds the same permutation for the compiled engines; a test compares the two.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

UInt32 = NDArray[np.uint32]

# The third word of the counter says what the numbers are for, so that no two uses share any.
STREAM_WEIGHTS, STREAM_BIASES, STREAM_SHUFFLE, STREAM_SEEDS = range(4)

_ROUND_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_KEY_INCREMENTS = (0x9E3779B9, 0xBB67AE85)
_LOW = np.uint64(0xFFFFFFFF)
_FEISTEL_ROUNDS = 6


def philox(counter: UInt32, seed: int) -> UInt32:
    """Return four random words for each row of ``counter``.

    counter: (n, 4) uint32. seed: the 64-bit key. Returns (n, 4) uint32.
    """
    c0, c1, c2, c3 = (counter[:, word].astype(np.uint64) for word in range(4))
    key0, key1 = seed & 0xFFFFFFFF, (seed >> 32) & 0xFFFFFFFF
    for _ in range(10):
        product0, product1 = _ROUND_MULTIPLIERS[0] * c0, _ROUND_MULTIPLIERS[1] * c2
        c0, c1, c2, c3 = (
            (product1 >> np.uint64(32)) ^ c1 ^ np.uint64(key0),
            product1 & _LOW,
            (product0 >> np.uint64(32)) ^ c3 ^ np.uint64(key1),
            product0 & _LOW,
        )
        key0 = (key0 + _KEY_INCREMENTS[0]) & 0xFFFFFFFF
        key1 = (key1 + _KEY_INCREMENTS[1]) & 0xFFFFFFFF
    return np.stack([c0, c1, c2, c3], axis=1).astype(np.uint32)


def _counters(blocks: int, stream: int, substream: int) -> UInt32:
    index = np.arange(blocks, dtype=np.uint64)
    counter = np.empty((blocks, 4), np.uint32)
    counter[:, 0], counter[:, 1] = index & _LOW, index >> np.uint64(32)
    counter[:, 2], counter[:, 3] = stream, substream
    return counter


def normal(count: int, seed: int, stream: int, substream: int) -> NDArray[np.float64]:
    """Return ``count`` standard normal numbers (Box-Muller), the same for the same three keys."""
    words = philox(_counters(-(-count // 4), stream, substream), seed).astype(np.float64)
    radius = np.sqrt(-2 * np.log((words[:, 0::2] + 1) * 2.0**-32))
    angle = words[:, 1::2] * (2 * np.pi * 2.0**-32)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=2).reshape(-1)[:count]


def shuffle_keys(seed: int, epoch: int) -> UInt32:
    """Return the eight words that key the shuffle of one epoch."""
    counter = np.zeros((2, 4), np.uint32)
    counter[:, 0], counter[:, 1] = epoch & 0xFFFFFFFF, epoch >> 32
    counter[:, 2], counter[:, 3] = STREAM_SHUFFLE, (0, 1)
    return philox(counter, seed).reshape(-1)


def permuted(index: NDArray[np.int64], n: int, keys: UInt32) -> NDArray[np.int64]:
    """Return where the keyed permutation of range(n) sends each entry of ``index``."""
    bits = max(4, (n - 1).bit_length())
    position = index.astype(np.uint32)
    walking = np.arange(len(position))
    while walking.size:
        position[walking] = _feistel(position[walking], bits, keys)
        walking = walking[position[walking] >= n]
    return position.astype(np.int64)


def _feistel(x: UInt32, bits: int, keys: UInt32) -> UInt32:
    """Permute the numbers below 2**bits: alternating halves, each round mixing one with a hash of the other."""
    right_bits = bits // 2
    left_bits = bits - right_bits
    left, right = x >> np.uint32(right_bits), x & np.uint32((1 << right_bits) - 1)
    for key in keys[:_FEISTEL_ROUNDS]:
        mixed = (right ^ key) * np.uint32(0xD2511F53)
        mixed ^= mixed >> np.uint32(15)
        mixed *= np.uint32(0xCD9E8D57)
        mixed ^= mixed >> np.uint32(16)
        left, right = right, (left ^ mixed) & np.uint32((1 << left_bits) - 1)
        left_bits, right_bits = right_bits, left_bits
    return (left << np.uint32(right_bits)) | right
