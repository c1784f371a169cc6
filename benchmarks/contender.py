"""What one library offers to be measured: the same weights and pixels in, logits out."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Forward:
    """A compiled or ready forward pass, in three parts of which only `run` is timed.

    A peer's module in `benchmarks.peers` has a function
    `forward(folder, *, height, width, dtype) -> Forward`: folder holds a checkpoint in transformers'
    layout, dtype is "float32" or "bfloat16". It imports its library inside, so that naming a peer
    costs nothing where it isn't installed.

    Attributes:
        prepare: normalised pixels (b, height, width, 3) float32 → what the library wants.
        run: a forward pass; it returns when the result is there.
        logits: the result → (b, ⌈height/4⌉, ⌈width/4⌉, labels) float32, or at (height, width)
            where the library can give no others.
    """

    prepare: Callable[[np.ndarray], Any]
    run: Callable[[Any], Any]
    logits: Callable[[Any], np.ndarray]
