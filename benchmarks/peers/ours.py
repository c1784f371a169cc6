"""The library itself: `Segmenter`, with the process settings of its command line."""

from pathlib import Path

import numpy as np

from benchmarks.contender import Forward


def forward(folder: Path, *, height: int, width: int, dtype: str) -> Forward:
    """Returns `Segmenter.logits`, which is NHWC like the pixels."""
    import jax

    segmenter = _segmenter(folder, dtype)
    return Forward(
        prepare=jax.device_put,
        run=lambda pixels: segmenter.logits(pixels).block_until_ready(),
        logits=np.asarray,
    )


def end_to_end(folder: Path, *, height: int, width: int, dtype: str) -> Forward:
    """Returns the pass from a decoded photo to its class map, at the photo's size."""
    segmenter = _segmenter(folder, dtype)
    return Forward(
        prepare=lambda photo: photo,
        run=lambda photo: segmenter(photo).class_map,
        logits=lambda class_map: class_map,
    )


def _segmenter(folder: Path, dtype: str):
    import jax.numpy as jnp

    from segformer_jax import Segmenter
    from segformer_jax.process import keep_compiled_programs, keep_freed_memory

    keep_freed_memory()
    keep_compiled_programs()
    return Segmenter.from_pretrained(folder, dtype=jnp.dtype(dtype))
