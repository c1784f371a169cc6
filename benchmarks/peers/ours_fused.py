"""The library itself, with the halves of its blocks and its decoder as one kernel each."""

import dataclasses
from pathlib import Path

from benchmarks.contender import Forward
from benchmarks.peers import ours


def forward(folder: Path, *, height: int, width: int, dtype: str) -> Forward:
    """Returns `ours.forward` within `ops.use(…, fused_blocks=True)`."""
    import jax

    from segformer_jax import ops

    parts = ours.forward(folder, height=height, width=width, dtype=dtype)

    def run(pixels):
        with ops.use(ops.forms_for(jax.default_backend()), fused_blocks=True):
            return parts.run(pixels)

    return dataclasses.replace(parts, run=run)
