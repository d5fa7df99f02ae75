"""Counter-based randomness: Philox 4x32-10, normal numbers, and shuffles by a keyed permutation of the index.

Source: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011. The shuffle is a Feistel
network over the next power of two, walked until it lands below n (Black and Rogaway, CT-RSA 2002).
``engines/kernels/random.h`` holds the same permutation for the compiled engines; a test compares the two.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

UInt32 = NDArray[np.uint32]

UInt64 = NDArray[np.uint64]

# The third word of the counter says what the numbers are for, so that no two uses share any.
(
    STREAM_WEIGHTS,
    STREAM_BIASES,
    STREAM_SHUFFLE,
    STREAM_SEEDS,
    STREAM_MEMBER_SHUFFLE,
    STREAM_BOOTSTRAP,
    STREAM_MEMBER_NOISE,
    STREAM_NOISE,
) = range(8)

_ROUND_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_KEY_INCREMENTS = (np.uint64(0x9E3779B9), np.uint64(0xBB67AE85))
_LOW, _WORD = np.uint64(0xFFFFFFFF), np.uint64(32)
_FEISTEL_ROUNDS = 6


def philox(counter: UInt32, seed: int | UInt64) -> UInt32:
    """Return four random words for each counter.

    counter: (..., 4) uint32. seed: the 64-bit key, or an array of keys that broadcasts against (...). Returns (..., 4).
    """
    c0, c1, c2, c3 = (counter[..., word].astype(np.uint64) for word in range(4))
    key = np.asarray(seed, np.uint64)
    key0, key1 = key & _LOW, key >> _WORD
    for _ in range(10):
        product0, product1 = _ROUND_MULTIPLIERS[0] * c0, _ROUND_MULTIPLIERS[1] * c2
        c0, c1, c2, c3 = (
            (product1 >> _WORD) ^ c1 ^ key0,
            product1 & _LOW,
            (product0 >> _WORD) ^ c3 ^ key1,
            product0 & _LOW,
        )
        key0, key1 = (key0 + _KEY_INCREMENTS[0]) & _LOW, (key1 + _KEY_INCREMENTS[1]) & _LOW
    return np.stack(np.broadcast_arrays(c0, c1, c2, c3), axis=-1).astype(np.uint32)


def _counters(numbers: UInt64, stream: int, substream: int) -> UInt32:
    counter = np.empty((len(numbers), 4), np.uint32)
    counter[:, 0], counter[:, 1] = numbers & _LOW, numbers >> _WORD
    counter[:, 2], counter[:, 3] = stream, substream
    return counter


def normal(count: int, seeds: UInt64, stream: int, substream: int, first: int = 0) -> NDArray[np.float64]:
    """Return ``count`` standard normal numbers (Box-Muller) for each seed, (len(seeds), count), from the ``first`` on."""
    begin, skipped = divmod(first, 4)
    counters = _counters(np.arange(begin, -(-(first + count) // 4), dtype=np.uint64), stream, substream)
    words = philox(counters[None], seeds[:, None]).astype(np.float64)
    radius = np.sqrt(-2 * np.log((words[..., 0::2] + 1) * 2.0**-32))
    angle = words[..., 1::2] * (2 * np.pi * 2.0**-32)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=-1).reshape(len(seeds), -1)[
        :, skipped : skipped + count
    ]


def derived_seeds(count: int, seed: int) -> UInt64:
    """Return seeds that derive from one, (count,); the first do not depend on how many there are."""
    return _pairs(philox(_counters(np.arange(count, dtype=np.uint64), STREAM_SEEDS, 0), seed))


def member_shuffle_seeds(seeds: UInt64, seed: int) -> UInt64:
    """Return the seeds (members,) of shuffles of their own, for networks of given seeds in a training of a given seed."""
    return _pairs(philox(_counters(seeds, STREAM_MEMBER_SHUFFLE, 0), seed))


def noise_seeds(seeds: UInt64, seed: int) -> UInt64:
    """Return the seeds (members,) of dropout and input noise, for networks of given seeds in a training of a given seed."""
    return _pairs(philox(_counters(seeds, STREAM_MEMBER_NOISE, 0), seed))


def bootstrap_keys(seeds: UInt64, seed: int) -> UInt32:
    """Return the keys (members, 4) of bootstrap weights, for networks of given seeds in a training of a given seed."""
    return philox(_counters(seeds, STREAM_BOOTSTRAP, 0), seed)


def _pairs(words: UInt32) -> UInt64:
    return words[:, 0].astype(np.uint64) | words[:, 1].astype(np.uint64) << _WORD


_POISSON = (1580030168, 3160060337, 3950075421, 4213413783, 4279248373, 4292415291, 4294609777, 4294923276)
"""2^32 times the distribution function of Poisson(1) at 0..7, rounded down."""


def bootstrap_weights(rows: NDArray[np.int64], keys: UInt32) -> NDArray[np.int64]:
    """Return how often a member's resampling holds each row: independent Poisson(1) numbers, keyed by the row."""
    x = rows.astype(np.uint32) ^ keys[0]
    for key, multiplier, shift in zip(keys[1:], (0xD2511F53, 0xCD9E8D57, 0x2C1B3C6D), (15, 16, 15), strict=True):
        x = x * np.uint32(multiplier)
        x ^= (x >> np.uint32(shift)) ^ key
    x = x * np.uint32(0x297A2D39)
    x ^= x >> np.uint32(16)
    counts: NDArray[np.int64] = np.searchsorted(np.array(_POISSON, np.uint32), x, side="right")
    return counts


def noise_words(positions: NDArray[np.integer], units: NDArray[np.integer], seed: int, step: int, layer: int) -> UInt32:
    """Return a random word for each sample, by its position in the batch of a step, and each unit of a layer: (samples,
    units).

    Layer 0 is that of the inputs.
    """
    counter = np.array([step & 0xFFFFFFFF, step >> 32, STREAM_NOISE, layer], np.uint32)
    keys = philox(counter[None], seed)[0]
    own = (units.astype(np.uint32) ^ keys[0]) * np.uint32(0x2C1B3C6D)
    own ^= own >> np.uint32(15)
    own *= np.uint32(0x297A2D39)
    own ^= own >> np.uint32(16)
    x = (positions.astype(np.uint32)[:, None] + own) ^ keys[1]
    x *= np.uint32(0xD2511F53)
    x ^= (x >> np.uint32(15)) ^ keys[2]
    x *= np.uint32(0xCD9E8D57)
    x ^= (x >> np.uint32(16)) ^ keys[3]
    x += own * np.uint32(0x9E3779B9)
    x *= np.uint32(0x2C1B3C6D)
    x ^= x >> np.uint32(15)
    x *= np.uint32(0x297A2D39)
    x ^= x >> np.uint32(16)
    return np.asarray(x)


def dropout_mask(samples: int, units: int, seed: int, step: int, layer: int, share: float) -> NDArray[np.bool_]:
    """Return which outputs of a layer (1..L) dropout keeps in a step, (samples, units)."""
    words = noise_words(np.arange(samples), np.arange(units), seed, step, layer)
    kept: NDArray[np.bool_] = words >= np.uint32(min(4294967295.0, share * 2.0**32))
    return kept


def input_noise(samples: int, inputs: int, seed: int, step: int) -> NDArray[np.float64]:
    """Return the standard normal noise of the inputs of a step, (samples, inputs), by Box and Muller."""
    columns = np.arange(inputs)
    first = noise_words(np.arange(samples), columns, seed, step, 0)
    second = noise_words(np.arange(samples), columns | 0x80000000, seed, step, 0)
    noise: NDArray[np.float64] = np.sqrt(-2 * np.log((first + 1.0) * 2.0**-32)) * np.cos(
        second * (2 * np.pi * 2.0**-32)
    )
    return noise


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


BLOCK_ROWS, WINDOW_BLOCKS = 4096, 16
"""Of the shuffle by blocks; native/samples.hpp holds the same."""


def permuted_by_blocks(index: NDArray[np.int64], n: int, keys: UInt32) -> NDArray[np.int64]:
    """Return where a shuffle sends each entry of ``index`` that permutes blocks of rows, then the rows of a few blocks
    together.

    Data that lie on a disk are read in pieces. The rows after the last whole block keep to themselves, at the end.
    """
    window, whole = BLOCK_ROWS * WINDOW_BLOCKS, n // BLOCK_ROWS * BLOCK_ROWS
    result = np.empty_like(index)
    begins = np.where(index < whole, index // window * window, whole)
    for begin in np.unique(begins).tolist():
        chosen = begins == begin
        size = min(window, whole - begin) if begin < whole else n - whole
        own = keys + np.uint32(((begin // window + 1) * 0x9E3779B9) & 0xFFFFFFFF)
        within = permuted(index[chosen] - begin, size, own)
        if begin < whole:
            slots = begin // BLOCK_ROWS + within // BLOCK_ROWS
            within = permuted(slots, whole // BLOCK_ROWS, keys) * BLOCK_ROWS + within % BLOCK_ROWS
        else:
            within = within + whole
        result[chosen] = within
    return result


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
