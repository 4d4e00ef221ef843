"""Seeds that lie far apart, derived from small integers."""

import numpy as np


def derive_seed(seed, *path):
    """Derive a 31-bit seed from an integer and a path of integers.

    Keras adds a generator's seed to its call counter on the torch backend, so generators whose
    seeds are neighbours would draw the same numbers a few calls apart. Hashed seeds do not.

    Args:
        seed: A non-negative integer.
        path: Further non-negative integers, such as the position of a layer in a chain.

    Returns:
        An int in [0, 2**31).

    Example:

    ```python
    first, second = derive_seed(42, 0), derive_seed(42, 1)
    ```
    """
    state = np.random.SeedSequence((int(seed), *path)).generate_state(1, np.uint32)
    return int(state[0] >> 1)
