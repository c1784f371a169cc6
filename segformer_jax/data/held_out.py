"""Keeps some pairs of a data set for validation, where it has no split for that."""

from dataclasses import replace

import numpy as np

from segformer_jax.data.dataset import Dataset

USUAL_SHARE = 0.2


def divided(data: Dataset, share: float, *, seed: int, name: str) -> tuple[Dataset, Dataset]:
    """Divides a data set into pairs to train on and pairs for validation, both in its order.

    Args:
        data: all pairs.
        share: the share for validation, in (0, 1); each part has at least one pair.
        seed: seed of the random choice, which is among the pairs with masks.
        name: of the data set, for messages.

    Raises:
        ValueError: fewer than two pairs, or none with a mask.
    """
    masked = [index for index in range(len(data)) if data.has_mask(index)]
    if len(data) < 2 or not masked:
        raise ValueError(
            f"{name} must have at least 2 pictures, one of them with a mask, so that one can be "
            f"kept for validation, got {len(data)} and {len(masked)}: add a split val"
        )
    count = min(max(1, round(share * len(data))), len(data) - 1, len(masked))
    kept = sorted(np.random.default_rng(seed).permutation(masked)[:count].tolist())
    others = sorted(set(range(len(data))) - set(kept))
    validation = replace(data.only(kept), taught=False, soft=())
    return replace(data.only(others), strays=data.strays), validation
