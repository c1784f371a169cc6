"""The forward pass of a CPU or TPU goes over a batch in pieces, and is the same function."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from tiers import short

from segformer_jax import SegformerConfig, SegformerForSemanticSegmentation, ops
from segformer_jax.inference import compiled


@pytest.mark.parametrize("platform", short(["cpu", "tpu"], ["cpu"]))
@pytest.mark.parametrize(
    ("batch", "loops"),
    short([(6, True), (3, True), (2, False), (1, False)], [(6, True)]),
)
def test_pieces_of_a_batch_give_the_logits_of_the_whole(
    batch, loops, platform, x64, rng, monkeypatch
):
    monkeypatch.setattr(compiled, "PIXELS_AT_ONCE", {platform: 2 * 64 * 96})
    model = SegformerForSemanticSegmentation(
        SegformerConfig.b0(num_labels=5),
        dtype=jnp.float64,
        param_dtype=jnp.float64,
        rngs=nnx.Rngs(0),
    )
    model.eval()
    graph, state = nnx.split(model.folded())
    pixel_values = jnp.asarray(rng.normal(size=(batch, 64, 96, 3)))
    by_pieces = compiled.forward_pass(graph, platform)

    with ops.use(platform):
        expected = model(pixel_values).logits
    ours = jax.jit(by_pieces)(state, pixel_values)

    steps = jax.make_jaxpr(by_pieces)(state, pixel_values).eqns
    assert any(step.primitive.name == "scan" for step in steps) == loops
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-6)  # given in float32
