"""What `use` says holds for what is traced inside, whoever caches and whoever differentiates."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import export

from segformer_jax import SegformerConfig, SegformerForSemanticSegmentation, ops
from segformer_jax.export.stablehlo import _for_platform

SMALL = dict(
    num_encoder_blocks=2, hidden_sizes=(8, 64), depths=(1, 1), num_attention_heads=(2, 2),
    sr_ratios=(2, 1), mlp_ratios=(2, 2), strides=(4, 2), patch_sizes=(7, 3),
    decoder_hidden_size=64, num_labels=3,
)  # fmt: skip


def test_a_function_that_was_jitted_outside_is_traced_anew():
    traced = []

    @jax.jit
    def function(x):
        traced.append(ops.activation_dtype(jnp.bfloat16))
        return x

    for _ in range(2):
        function(1.0)
        with ops.use("cpu"):
            function(1.0)
        with ops.use("cpu", local_batch=True):
            function(1.0)
    assert traced == [jnp.bfloat16, jnp.float32, jnp.float32]


def test_an_unknown_platform_is_refused():
    with pytest.raises(ValueError, match="one of cpu, gpu, tpu, reference, got 'cuda'"):
        ops.use("cuda")
    assert [ops.forms_for(device) for device in ("cpu", "tpu", "METAL")] == ["cpu", "tpu", "gpu"]


def test_a_form_that_is_named_is_taken_and_goes_again():
    x = jnp.linspace(-1, 1, 5)
    plain, slope = ops.gelu(x), jax.grad(lambda x: ops.gelu(x).sum())(x)
    seven = ops.Form(lambda x: jnp.full_like(x, 7))
    with ops.use("cpu", forms={ops.gelu: seven}):
        np.testing.assert_array_equal(ops.gelu(x), 7)
        with ops.use("tpu"):
            np.testing.assert_array_equal(ops.gelu(x), 7)
        theirs = jax.grad(lambda x: ops.gelu(x).sum())(x)  # the reference's: it gives none
    np.testing.assert_allclose(theirs, slope, rtol=1e-6)
    np.testing.assert_array_equal(ops.gelu(x), plain)


def test_the_reference_stays_it_further_inside():
    with ops.use("reference"), ops.use("cpu"):
        program = str(jax.make_jaxpr(ops.gelu)(jnp.ones(3)))
    assert "custom_jvp" not in program


def test_a_form_takes_a_tangent_or_both_together():
    with pytest.raises(ValueError, match="jvp gives the tangent too"):
        ops.Form(jnp.sin, tangent=jnp.cos, jvp=jnp.cos)


def test_the_derivative_is_the_forms_where_it_is_taken_outside():
    """`use` is entered inside the traced function; its gradient is made when that one has ended."""

    @jax.jit
    def function(x, kernel):
        with ops.use("cpu"):
            return ops.linear(x, kernel, None, dtype=jnp.float32).sum()

    program = str(jax.make_jaxpr(jax.grad(function, 1))(jnp.ones((4, 6)), jnp.ones((6, 3))))
    assert "optimization_barrier" in program


@pytest.mark.parametrize(
    ("platforms", "wide"), [(("cpu",), True), (("tpu",), False), (("cpu", "tpu"), False)]
)
def test_an_export_computes_as_its_platform_whoever_traces_it(platforms, wide):
    model = SegformerForSemanticSegmentation(
        SegformerConfig(**SMALL), dtype=jnp.bfloat16, rngs=nnx.Rngs(0)
    )
    model.eval()
    run = _for_platform(platforms, lambda x: model(x).logits)
    program = export.export(jax.jit(run), platforms=platforms)(jnp.ones((1, 64, 64, 3)))
    assert (program.out_avals[0].dtype == jnp.float32) == wide


@pytest.mark.parametrize("platform", ["cpu", "tpu"])
def test_folding_a_model_in_halves_rounds_what_the_model_rounds(platform, rng):
    model = SegformerForSemanticSegmentation(
        SegformerConfig(**SMALL), dtype=jnp.bfloat16, rngs=nnx.Rngs(0)
    )
    model.eval()
    x = jnp.asarray(rng.normal(size=(1, 64, 64, 3)), jnp.float32)
    with ops.use(platform):
        np.testing.assert_array_equal(model.folded()(x).logits, model(x).logits)
