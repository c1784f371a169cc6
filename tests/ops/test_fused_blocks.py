"""The Pallas kernels for the halves of a block, interpreted: shapes, types, and who calls them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from segformer_jax import SegformerConfig, SegformerForSemanticSegmentation, ops
from segformer_jax.ops.decode import classified_at_once

# a TPU's kernel keeps float32 where the parts round to bfloat16 (2⁻⁸) after every operation
TOLERANCE = {"float32": 2e-6, "bfloat16": 0.03}
HALVES = ("mix_ffn", "attention_block")
SIDES = [
    (25, 33, 8, 1),  # a picture of 97 × 131: rows and columns of no whole tile
    (4, 128, 32, 1),  # rows that fill the lanes
    (37, 256, 32, 1),  # with a tile that is not whole
    (6, 5, 40, 5),
]
STAGES = [
    *((128, 32, 1), (64, 64, 2), (32, 160, 5), (16, 256, 8)),  # of b0, at 512 × 512
    *((128, 64, 1), (64, 128, 2), (32, 320, 5), (16, 512, 8)),  # of b1 to b5
]


@pytest.fixture
def half(rng):
    def made(name, h, w, c, heads, dtype, keys=(3, 5)):
        def pair(*shape):
            size = np.sqrt(np.prod(shape[:-1]))
            return tuple(jnp.asarray(rng.normal(size=s) / size, dtype) for s in (shape, shape[-1:]))

        x, k, v = (jnp.asarray(rng.normal(size=(2, *s, c)), dtype) for s in ((h, w), keys, keys))
        options = dict(epsilon=1e-5, dtype=jnp.dtype(dtype))
        if name == "mix_ffn":
            layers = (pair(c), pair(c, 4 * c), pair(3, 3, 1, 4 * c), pair(4 * c, c))
            return lambda *a: ops.mix_ffn(*a, **options), (x, *layers)
        layers = (pair(c), pair(c, c), pair(c, c))
        return lambda *a: ops.attention_block(*a, heads=heads, **options), (x, k, v, *layers)

    return made


def by(function, operands, platform="tpu", **use):
    def traced(*operands):
        with ops.use(platform, **use):
            return function(*operands)

    return jax.jit(traced).trace(*operands)


def assert_equal_to_the_parts(function, operands, dtype, platform="tpu"):
    kernel, parts = (
        by(function, operands, platform, local_batch=local, fused_blocks=True)
        for local in (True, False)
    )
    assert "pallas_call" in str(kernel.jaxpr)
    y, expected = (np.asarray(t.lower().compile()(*operands), np.float32) for t in (kernel, parts))
    np.testing.assert_allclose(y, expected, atol=TOLERANCE[dtype] * np.abs(expected).max())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("sides", SIDES)
@pytest.mark.parametrize("name", HALVES)
def test_a_kernel_computes_what_the_parts_do(half, name, sides, dtype):
    function, operands = half(name, *sides, dtype)
    assert_equal_to_the_parts(function, operands, dtype)


@pytest.mark.full
@pytest.mark.parametrize(("side", "channels", "heads"), STAGES)
@pytest.mark.parametrize("name", HALVES)
def test_a_kernel_computes_what_the_parts_do_at_every_stage(half, name, side, channels, heads):
    function, operands = half(name, side, side, channels, heads, "bfloat16")
    assert_equal_to_the_parts(function, operands, "bfloat16")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("keys", [(40, 52), (8, 256)])  # 2080 and 2048: no whole parts, and whole
@pytest.mark.parametrize("platform", ["gpu", "tpu"])
def test_keys_are_taken_in_parts(half, platform, keys, dtype):
    function, operands = half("attention_block", 9, 11, 32, 2, dtype, keys)
    x, k, *others = operands
    assert_equal_to_the_parts(function, (x, 3 * k, *others), dtype, platform)  # unlike maxima


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("sides", [(9, 11, 32, 1), (12, 14, 64, 2), (5, 7, 40, 1)])
def test_a_gpus_mix_ffn_computes_what_the_parts_do(half, sides, dtype):
    function, operands = half("mix_ffn", *sides, dtype)
    assert_equal_to_the_parts(function, operands, dtype, "gpu")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("sides", [(9, 11, 32, 1), (5, 7, 96, 3), (12, 14, 64, 2)])
def test_a_gpus_attention_computes_what_the_parts_do(half, sides, dtype):
    function, operands = half("attention_block", *sides, dtype)
    assert_equal_to_the_parts(function, operands, dtype, "gpu")


@pytest.fixture
def decoder(rng):
    def made(h, w, c, width, labels, dtype):
        def array(*shape):
            return jnp.asarray(rng.normal(size=shape), dtype)

        x = array(2, h, w, c)
        deeper = [array(2, -(-h // step), -(-w // step), width) for step in (2, 4, 8)]
        classifier = array(width, labels) / width**0.5, array(labels)
        operands = x, deeper, array(c, width) / c**0.5, array(width), classifier
        return lambda *a: classified_at_once(*a, dtype=jnp.dtype(dtype)), operands

    return made


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("sides", [(9, 11, 32, 64, 19), (13, 8, 8, 48, 1), (25, 33, 64, 256, 150)])
def test_a_gpus_decoder_computes_what_the_parts_do(decoder, sides, dtype):
    function, operands = decoder(*sides, dtype)
    assert_equal_to_the_parts(function, operands, dtype, "gpu")


def assert_lowered_to_triton(function, operands):
    traced = by(function, operands, "gpu", local_batch=True, fused_blocks=True)
    assert "xla.gpu.triton" in traced.lower(lowering_platforms=("cuda",)).as_text()


@pytest.mark.parametrize(("side", "channels", "heads"), STAGES)
@pytest.mark.parametrize("name", HALVES)
def test_a_gpus_half_is_lowered_to_triton(half, name, side, channels, heads):
    function, operands = half(name, side, side, channels, heads, "bfloat16")
    if name == "mix_ffn" and channels > 64:
        assert "pallas_call" not in str(by(function, operands, "gpu", local_batch=True).jaxpr)
    else:
        assert_lowered_to_triton(function, operands)


@pytest.mark.parametrize(("channels", "width"), [(32, 256), (64, 768)])
@pytest.mark.parametrize("labels", [19, 150])
def test_a_gpus_decoder_is_lowered_to_triton(decoder, channels, width, labels):
    assert_lowered_to_triton(*decoder(128, 128, channels, width, labels, "bfloat16"))


@pytest.mark.parametrize("name", HALVES)
def test_a_kernel_is_called_only_where_the_batch_is_local(half, name):
    function, operands = half(name, 4, 4, 8, 2, "float32")
    assert "pallas_call" not in str(by(function, operands).jaxpr)
    mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    with jax.set_mesh(mesh):
        assert "pallas_call" not in str(by(function, operands, local_batch=True).jaxpr)


def test_more_keys_than_fit_the_fast_memory_are_left_to_the_parts():
    from segformer_jax.ops import attention_tpu, mix_ffn_tpu, mix_ffn_tpu_narrow

    assert attention_tpu.fits((1, 64, 64, 512), (1, 64, 64, 512), 8, jnp.bfloat16)  # of 2048 × 2048
    assert not attention_tpu.fits((1, 128, 128, 512), (1, 128, 128, 512), 8, jnp.bfloat16)
    assert mix_ffn_tpu.fits((1, 512, 512, 128), 512)
    assert not mix_ffn_tpu.fits((1, 8, 1 << 16, 128), 512)
    assert mix_ffn_tpu_narrow.fits((1, 512, 512, 64), 256)  # of 2048 × 2048
    assert not mix_ffn_tpu_narrow.fits((1, 8, 1 << 16, 32), 128)
    assert not mix_ffn_tpu_narrow.fits((1, 8, 192, 32), 128)


def test_every_picture_of_a_mapped_batch_goes_through_the_kernel(half):
    for name in HALVES:
        function, (x, *others) = half(name, 4, 6, 8, 2, "float32")
        xs = jnp.stack([x, 2 * x])
        mapped = by(jax.vmap(lambda x, f=function, o=others: f(x, *o)), (xs,), local_batch=True)
        assert "pallas_call" in str(mapped.jaxpr)
        expected = by(function, (2 * x, *others)).lower().compile()(2 * x, *others)
        np.testing.assert_allclose(mapped.lower().compile()(xs)[1], expected, atol=1e-5)


@pytest.fixture(scope="module")
def model():
    config = SegformerConfig(
        num_encoder_blocks=2, hidden_sizes=(8, 16), depths=(1, 1), num_attention_heads=(1, 2),
        sr_ratios=(2, 1), mlp_ratios=(2, 2), strides=(4, 2), patch_sizes=(7, 3),
        decoder_hidden_size=16, num_labels=3,
    )  # fmt: skip
    model = SegformerForSemanticSegmentation(config, rngs=nnx.Rngs(0))
    model.eval()
    return model


@pytest.mark.parametrize(("platform", "kernels"), [("tpu", 4), ("gpu", 3)])
def test_a_network_of_fused_blocks_is_the_same_network(model, rng, platform, kernels):
    x = jnp.asarray(rng.normal(size=(1, 64, 48, 3)), jnp.float32)
    function, found = (lambda x: model(x).logits), []
    for fused in (False, True):
        traced = by(function, (x,), platform, local_batch=True, fused_blocks=fused)
        count = 2 * kernels if fused else 0  # compiled or interpreted
        assert str(traced.jaxpr).count("pallas_call[") == count
        found.append(traced.lower().compile()(x))
    np.testing.assert_allclose(found[1], found[0], atol=1e-5)  # float32


@pytest.mark.parametrize("change", ["train", "attentions", "activation", "part"])
def test_a_block_that_is_not_segformers_own_is_never_fused(model, change, rng):
    graph, state = nnx.split(model)
    model, options = nnx.merge(graph, state), {}
    if change == "attentions":
        options = dict(output_attentions=True)
    for stage in model.segformer.stages:
        for block in stage.blocks:
            if change == "activation":
                block.mlp.activation = "relu"
            elif change == "part":
                block.mlp.fc1 = nnx.Linear(8, 16, rngs=nnx.Rngs(0))
            elif change == "train":
                block.mlp.dropout.rate, block.mlp.dropout.deterministic = 0.5, False
    block = model.segformer.stages[0].blocks[0]
    x = jnp.ones((1, 4, 4, 8))

    def function(x):
        return block(x, rngs=nnx.Rngs(dropout=0), **options)[0]

    traced = by(function, (x,), fused_blocks=True, local_batch=True)
    assert "pallas_call" not in str(traced.jaxpr)
