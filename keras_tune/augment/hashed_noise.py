"""White noise as a function of a key, the same on every backend."""

import math

from keras import ops


def hashed_normal(keys, samples):
    """Compute standard normal numbers from integer keys.

    Sample numbers are mixed with a key by a 32-bit hash; the Box-Muller transform makes normal
    numbers of pairs of hashes. In contrast to `keras.random.normal` this is a pure function of
    its arguments, so it can run for some examples of a batch only.

    Args:
        keys: (batch, 2), int32, random.
        samples: Number of samples for each key.

    Returns:
        (batch, samples), float32.

    Source: A. Appleby, MurmurHash3 (the finalizer, which is the hash used here).
    """
    pairs = -(-samples // 2)
    counter = ops.arange(2 * pairs, dtype="int32")[None]
    bits = _mix(_mix(counter ^ keys[:, :1]) ^ keys[:, 1:])
    # 24 bits fill the mantissa of a float32; half a step keeps the logarithm away from 0.
    uniform = (ops.cast(bits & 0xFFFFFF, "float32") + 0.5) * 2.0**-24
    radius = ops.sqrt(-2.0 * ops.log(uniform[:, :pairs]))
    angle = (2.0 * math.pi) * uniform[:, pairs:]
    normal = ops.concatenate([radius * ops.cos(angle), radius * ops.sin(angle)], axis=1)
    return normal[:, :samples]


def _mix(bits):
    bits = (bits ^ _shift_right(bits, 16)) * _signed(0x85EBCA6B)
    bits = (bits ^ _shift_right(bits, 13)) * _signed(0xC2B2AE35)
    return bits ^ _shift_right(bits, 16)


def _shift_right(bits, count):
    # int32 shifts carry the sign along, which a 32-bit hash must not.
    return ops.right_shift(bits, count) & ((1 << (32 - count)) - 1)


def _signed(constant):
    return constant - (1 << 32)
