"""Complex arithmetic on pairs (real, imaginary) of float tensors, as `keras.ops.rfft` gives."""


def multiply(a, b):
    """Multiply two pairs."""
    return a[0] * b[0] - a[1] * b[1], a[0] * b[1] + a[1] * b[0]


def divide(a, b):
    """Divide one pair by another, which must not be zero."""
    scale = 1.0 / (b[0] * b[0] + b[1] * b[1])
    return (a[0] * b[0] + a[1] * b[1]) * scale, (a[1] * b[0] - a[0] * b[1]) * scale
