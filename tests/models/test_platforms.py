"""One program for all platforms, lowered on a machine that has none but a CPU."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import export

from segformer_jax import SegformerConfig, SegformerForSemanticSegmentation


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_the_forward_pass_lowers_for_cpu_cuda_and_tpu(dtype):
    config = SegformerConfig(
        hidden_sizes=(8, 16, 20, 32), depths=(1, 1, 1, 1), decoder_hidden_size=16, num_labels=3
    )
    model = SegformerForSemanticSegmentation(config, dtype=dtype, rngs=nnx.Rngs(0))
    model.eval()
    graph, state = nnx.split(model.folded())
    leaves, structure = jax.tree.flatten(state)

    def forward(leaves, pixels):
        return nnx.merge(graph, jax.tree.unflatten(structure, leaves))(pixels).logits

    pixels = np.ones((1, 64, 96, 3), np.float32)
    exported = export.export(jax.jit(forward), platforms=("cpu", "cuda", "tpu"))(leaves, pixels)
    assert exported.platforms == ("cpu", "cuda", "tpu")
    logits = exported.call(leaves, pixels)
    np.testing.assert_array_equal(logits, jax.jit(forward)(leaves, pixels))
