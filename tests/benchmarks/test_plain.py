"""The baseline of the TPU figures is the same function."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from benchmarks.plain import plain_logits
from segformer_jax import SegformerConfig, SegformerForSemanticSegmentation, ops
from segformer_jax.models.layers import BatchNorm


@pytest.mark.parametrize("form", ["cpu", "tpu"])
def test_plain_logits_are_ours(form, x64, rng):
    config = SegformerConfig.b0(num_labels=7)
    model = SegformerForSemanticSegmentation(
        config, dtype=jnp.float64, param_dtype=jnp.float64, rngs=nnx.Rngs(0)
    )
    model.eval()
    _shuffle(model.decode_head.batch_norm, rng)
    pixel_values = jnp.asarray(rng.normal(size=(2, 96, 65, 3)))

    expected = plain_logits(model, pixel_values)
    with ops.use(form):
        ours = model.folded()(pixel_values).logits

    assert np.ptp(expected) > 0.1
    np.testing.assert_allclose(ours, expected, atol=1e-12)  # float64's rounding


def _shuffle(norm: BatchNorm, rng: np.random.Generator) -> None:
    """Statistics that a fold which drops one of them would show."""
    for value in (norm.mean, norm.var, norm.scale, norm.bias):
        value[...] = jnp.asarray(rng.uniform(0.5, 2, value[...].shape), value[...].dtype)
