"""Philox 4x32-10 (Salmon, Moraes, Dror, Shaw 2011), one block of four words at a time in plain Python integers."""

import numpy as np

MASK = 0xFFFFFFFF
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)


def philox4x32(counter, key, rounds=10):
    """Four 32-bit words from a counter of four words and a key of two."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(rounds):
        low = MULTIPLIERS[0] * c0
        high = MULTIPLIERS[1] * c2
        c0, c1, c2, c3 = (high >> 32) ^ c1 ^ k0, high & MASK, (low >> 32) ^ c3 ^ k1, low & MASK
        k0, k1 = (k0 + WEYL[0]) & MASK, (k1 + WEYL[1]) & MASK
    return c0, c1, c2, c3


def words(n, seed, step, layer, first=0):
    """The 32-bit word of elements first..first+n-1 for (seed, step, layer); `first` is a multiple of four."""
    key = (seed & MASK, (seed >> 32 & MASK) ^ (step >> 32 & MASK))
    result = []
    for block in range(first // 4, (first + n + 3) // 4):
        result += philox4x32((block & MASK, block >> 32, step & MASK, layer), key)
    return np.array(result[:n], dtype=np.uint64)


def uniform(n, seed, step, layer, first=0):
    """Uniforms in [0, 1) with 32 random bits."""
    return words(n, seed, step, layer, first).astype(np.float64) * 2.0**-32


def permutation(n, seed, epoch):
    """Fisher-Yates from the last place down: place i changes with floor(r (i + 1)), r of 32 bits up to 65 536 rows, else of 64."""
    halves = 1 if n <= 65536 else 2
    draws = words(halves * n, seed, epoch, MASK).tolist()
    order = np.arange(n)
    for draw, place in enumerate(range(n - 1, 0, -1)):
        random = draws[draw] if halves == 1 else draws[2 * draw] << 32 | draws[2 * draw + 1]
        partner = random * (place + 1) >> 32 * halves
        order[[place, partner]] = order[[partner, place]]
    return order
