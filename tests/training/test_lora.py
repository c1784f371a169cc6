"""Adapters change nothing at first, learn alone, and merge into plain weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from segformer_jax import SegformerConfig, SegformerForSemanticSegmentation
from segformer_jax.checkpoints.flat import flat_state
from segformer_jax.training.lora import add_lora, apply_lora, trained_names
from segformer_jax.training.state import split

pytestmark = pytest.mark.usefixtures("cpu_forms")  # a third less to trace
SMALL = dict(hidden_sizes=(8, 12, 16, 24), num_attention_heads=(1, 2, 2, 3), decoder_hidden_size=16)


@pytest.fixture(scope="module")
def network():
    """The logits of a small model as a function of its parameters by name, and these."""
    model = SegformerForSemanticSegmentation(
        SegformerConfig(**SMALL, depths=(1, 1, 1, 1), num_labels=3), rngs=nnx.Rngs(0)
    )
    model.eval()
    skeleton, params, stats = split(model)
    pixels = np.random.default_rng(0).normal(size=(1, 64, 96, 3)).astype(np.float32)

    @jax.jit
    def logits_of(flat):
        return skeleton.model(flat | stats)(pixels).logits

    return logits_of, params


def trained(adapters):
    """Adapters as after some steps: none of them zero."""
    keys = jax.random.split(jax.random.key(1), len(adapters))
    return {
        name: jax.random.normal(key, x.shape, x.dtype)
        for key, (name, x) in zip(keys, adapters.items(), strict=True)
    }


def test_new_adapters_leave_the_logits_exactly_as_they_are(network):
    logits_of, params = network
    adapters = add_lora(params, rank=2, key=jax.random.key(0))
    applied = apply_lora(params, adapters, alpha=4.0)
    assert applied.keys() == params.keys()
    np.testing.assert_array_equal(logits_of(applied), logits_of(params))


def test_merged_weights_are_the_applied_ones(network):
    logits_of, params = network
    adapters = trained(add_lora(params, rank=2, key=jax.random.key(0)))
    path = "segformer.stages.1.blocks.0.mlp.fc1."
    merged = apply_lora(params, adapters, alpha=0.5)
    wanted = np.float64(adapters[f"{path}lora_a"]) @ np.float64(adapters[f"{path}lora_b"])
    np.testing.assert_allclose(
        merged[f"{path}kernel"], np.float64(params[f"{path}kernel"]) + wanted / 4, atol=1e-6
    )
    applied = jax.jit(lambda adapters: logits_of(apply_lora(params, adapters, alpha=0.5)))(adapters)
    scale = float(jnp.abs(applied).max())
    # float32: the product may be rounded otherwise inside a larger program
    np.testing.assert_allclose(logits_of(merged), applied, atol=1e-5 * scale)
    assert float(jnp.abs(applied - logits_of(params)).max()) > 1e-3 * scale


def test_gradients_reach_every_adapter(network):
    logits_of, params = network
    adapters = add_lora(params, rank=2, key=jax.random.key(0))

    def loss_of(adapters):
        return jnp.square(logits_of(apply_lora(params, adapters, alpha=4.0)) - 1).mean()

    gradient_of = jax.jit(jax.grad(loss_of))
    for name, gradient in gradient_of(adapters).items():
        reached = bool(jnp.abs(gradient).max() > 0)
        assert reached == name.endswith("lora_b"), name  # at first B is 0, and with it A's gradient
    gradients = gradient_of(trained(adapters))
    assert all(bool(jnp.abs(gradient).max() > 0) for gradient in gradients.values())


def test_adapters_of_b0_are_counted():
    model = nnx.eval_shape(
        lambda: SegformerForSemanticSegmentation(
            SegformerConfig.b0(num_labels=19), rngs=nnx.Rngs(0)
        )
    )
    params = flat_state(model)
    adapters = jax.eval_shape(lambda key: add_lora(params, rank=8, key=key), jax.random.key(0))
    # per block of width c: 4 projections c → c, c → 4c and 4c → c: 18·c·rank; two blocks a width
    assert sum(x.size for x in adapters.values()) == 2 * 18 * 8 * (32 + 64 + 160 + 256)
    assert len(adapters) == 2 * 6 * 8

    names = trained_names(params, adapters)
    head = {name for name in params if name.startswith("decode_head.")}
    statistics = {
        f"decode_head.batch_norm.{name}" for name in ("mean", "var", "num_batches_tracked")
    }
    assert names == set(adapters) | (head - statistics)
    assert sum((adapters | params)[name].size for name in names) == 147_456 + 399_635


def test_only_the_kernels_of_linear_layers_take_adapters(network):
    _, params = network
    key = jax.random.key(0)
    only = add_lora(params, rank=2, patterns=["*.attention.q_proj.kernel"], key=key)
    assert len(only) == 2 * 4
    with pytest.raises(ValueError, match="no parameter's name matches"):
        add_lora(params, rank=2, patterns=["*.query.*"], key=key)
    with pytest.raises(ValueError, match=r"an adapter must belong to .*dwconv\.bias \(32,\)"):
        add_lora(params, rank=2, patterns=["*.dwconv.*"], key=key)
    with pytest.raises(ValueError, match=r"rank must be at least 1, .*got 0"):
        add_lora(params, rank=0, key=key)
