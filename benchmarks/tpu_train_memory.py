"""Says what memory a training step takes on a TPU v5e, without having one.

    python -m benchmarks.tpu_train_memory --variant b5 --batch 2

needs `pip install "segformer-jax[cli,tpu]"`, whose libtpu compiles the step: loss, gradients and
BatchNorm's statistics, in bfloat16, with dropout, drop path and gradient checkpointing. Nothing is
run: the figures are the compiler's. Parameters, gradients and AdamW's two moments are in float32.
"""

import jax
import jax.numpy as jnp
import tyro

from benchmarks.data_parallel import lowered
from benchmarks.tpu import described_chips
from benchmarks.train_memory import Variant
from segformer_jax.config import SegformerConfig


def main(
    variant: Variant = "b5",
    batch: int = 2,
    side: int = 512,
    labels: int = 150,
    gradient_checkpointing: bool = True,
) -> None:
    """Prints the memory of one chip.

    Args:
        variant: size of the network.
        batch: pictures per step.
        side: of the square pictures, in pixels.
        labels: number of classes.
        gradient_checkpointing: compute the blocks again in the backward pass.
    """
    jax.config.update("jax_platforms", "cpu")
    step = lowered(
        getattr(SegformerConfig, variant)(num_labels=labels),
        "tpu",
        batch=batch,
        side=side,
        devices=described_chips(1),
        dtype=jnp.bfloat16,
        checkpointing=gradient_checkpointing,
    )
    memory = step.compile().memory_analysis()
    # the results are mostly the gradients, which have the size of the parameters
    kept = 4 * memory.output_size_in_bytes
    print(
        f"{variant}, {batch} × {side} × {side}, bfloat16, on one chip of a TPU v5e: temporaries "
        f"{memory.temp_size_in_bytes / 1e9:.2f} GB; parameters, gradients and AdamW's two moments "
        f"{kept / 1e9:.2f} GB"
    )


if __name__ == "__main__":
    tyro.cli(main)
