"""Names for the arguments and results of functions, as annotations, and ranges of numbers.

Keras gives tensors of three frameworks no common class, so these names say to a reader what a type
checker cannot check.
"""

import dataclasses
import math
from typing import Any

# A tensor of the Keras backend, eager or symbolic.
Tensor = Any
# What `keras.ops.convert_to_tensor` takes: a tensor, a NumPy array or nested lists of numbers.
TensorLike = Any
# The shape of a tensor; None stands for a length that only the data knows.
Shape = tuple[int | None, ...]
# A dtype policy: its name ("mixed_bfloat16") or a `keras.DTypePolicy`.
DType = Any


@dataclasses.dataclass(frozen=True)
class Range:
    """The finite numbers that a setting may have, as a part of its annotation.

    Args:
        low: Float, the lowest number. Defaults to none.
        high: Float, the highest number. Defaults to none.
        above: Float, which numbers must exceed, in place of `low`. Defaults to None.
        below: Float, which must exceed the numbers, in place of `high`. Defaults to None.

    Example:

    ```python
    from typing import Annotated

    from keras_tune.types import Range

    Probability = Annotated[float, Range(0, 1)]
    ```
    """

    low: float = -math.inf
    high: float = math.inf
    above: float | None = None
    below: float | None = None
