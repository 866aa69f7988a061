"""bfloat16: 8 bits of significand, the exponents of float32."""

import numpy as np


def to_bf16(x):
    """x, of float32 values, rounded to bfloat16 (nearest, ties to even); subnormal float32 become 0; float64 comes back."""
    x = np.asarray(x, dtype=np.float64)
    fraction, exponent = np.frexp(x)  # x = fraction * 2^exponent, 0.5 <= |fraction| < 1
    rounded = np.ldexp(np.rint(fraction * 2**8), exponent - 8)
    rounded = np.where(np.abs(x) < 2.0**-126, 0.0, rounded)
    return np.where(np.abs(rounded) >= 2.0**128, np.copysign(np.inf, x), rounded)


def bf16_matmul(a, b):
    """The product of the rounded operands in float64."""
    return to_bf16(a) @ to_bf16(b)


def bf16_chain(a, b):
    """The same in float32 as the dot product of pairs sums it: c = (c + a1 b1) + a0 b0 for every two k, each sum rounded to float32."""
    a, b = to_bf16(a), to_bf16(b)
    if a.shape[1] % 2:
        a, b = np.pad(a, ((0, 0), (0, 1))), np.pad(b, ((0, 1), (0, 0)))
    c = np.zeros((len(a), b.shape[1]), np.float32)
    for p in range(0, a.shape[1], 2):
        for k in (p + 1, p):
            c = (c.astype(np.float64) + np.outer(a[:, k], b[k])).astype(np.float32)
    return c
