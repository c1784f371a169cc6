"""Every form of an operation is the same function, and torch's."""

from importlib import import_module

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from tiers import short
from torch.nn import functional as F

from segformer_jax import ops
from segformer_jax.ops.cast import cast
from segformer_jax.ops.cross_entropy import Weighting

# a module of the name of what it holds
attention_module, resize_module = (
    import_module(f"segformer_jax.ops.{name}") for name in ("attention", "resize")
)

FORMS = ["cpu", "tpu"]
ROUNDING = 1e-12  # float64


@pytest.fixture(autouse=True)
def _x64(x64):
    """All in float64, where a wrong form can't hide behind rounding."""


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def nchw(x):
    return torch.from_numpy(np.moveaxis(x, -1, 1).copy())


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("size", "stride", "padding", "channels"),
    [(7, 4, 3, 3), (3, 2, 1, 20), (8, 8, 0, 6), (1, 1, 0, 5), (5, 3, 2, 3), (2, 2, 1, 4),
     (7, 4, 3, 40), (7, 2, 3, 3), (8, 4, 4, 3)],
)  # fmt: skip
@pytest.mark.parametrize("sides", short([[29, 35], [32, 40], [17, 50]], [[29, 35]]))
def test_conv_is_torchs(form, size, stride, padding, channels, sides):
    x, kernel, bias = normal(2, *sides, channels), normal(size, size, channels, 6), normal(6)
    expected = F.conv2d(
        nchw(x),
        torch.from_numpy(kernel.transpose(3, 2, 0, 1).copy()),
        torch.from_numpy(bias),
        stride=stride,
        padding=padding,
    )
    with ops.use(form):
        ours = ops.conv(
            jnp.asarray(x),
            jnp.asarray(kernel),
            jnp.asarray(bias),
            stride=stride,
            padding=padding,
            dtype=jnp.float64,
        )
    np.testing.assert_allclose(np.moveaxis(ours, -1, 1), expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize("form", FORMS)
def test_depthwise_conv_and_its_gradients_are_torchs(form):
    x, kernel, bias = normal(2, 9, 7, 5), normal(3, 3, 1, 5), normal(5)
    theirs = [
        nchw(x),
        torch.from_numpy(kernel.transpose(3, 2, 0, 1).copy()),
        torch.from_numpy(bias),
    ]
    theirs = [t.requires_grad_() for t in theirs]
    expected = F.conv2d(theirs[0], theirs[1], theirs[2], padding=1, groups=5)
    weights = normal(*expected.shape, seed=1)
    (expected * torch.from_numpy(weights)).sum().backward()

    def total(x, kernel, bias):
        y = ops.depthwise_conv(x, kernel, bias)
        return jnp.sum(y * np.moveaxis(weights, 1, -1)), y

    with ops.use(form):
        gradients, ours = jax.grad(total, argnums=(0, 1, 2), has_aux=True)(
            *map(jnp.asarray, (x, kernel, bias))
        )
    np.testing.assert_allclose(np.moveaxis(ours, -1, 1), expected.detach(), atol=ROUNDING)
    np.testing.assert_allclose(np.moveaxis(gradients[0], -1, 1), theirs[0].grad, atol=ROUNDING)
    np.testing.assert_allclose(gradients[1].transpose(3, 2, 0, 1), theirs[1].grad, atol=1e-11)
    np.testing.assert_allclose(gradients[2], theirs[2].grad, atol=1e-11)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("size", [(16, 20), (9, 7), (1, 1), (5, 33), (40, 3)])
def test_resize_bilinear_and_its_gradient_are_torchs(form, size):
    x = normal(2, 8, 10, 3)
    theirs = nchw(x).requires_grad_()
    expected = F.interpolate(theirs, size=size, mode="bilinear", align_corners=False)
    weights = normal(*expected.shape, seed=1)
    (expected * torch.from_numpy(weights)).sum().backward()

    def total(x):
        y = ops.resize_bilinear(x, size=size)
        return jnp.sum(y * np.moveaxis(weights, 1, -1)), y

    with ops.use(form):
        gradient, ours = jax.grad(total, has_aux=True)(jnp.asarray(x))
    np.testing.assert_allclose(np.moveaxis(ours, -1, 1), expected.detach(), atol=ROUNDING)
    np.testing.assert_allclose(np.moveaxis(gradient, -1, 1), theirs.grad, atol=ROUNDING)


@pytest.mark.parametrize("largest", short([500, 4000], [500]))
def test_resize_in_float32_takes_the_neighbours_that_torch_takes(rng, largest):
    """A ramp shows every weight: float32 positions differ from exact ones at odd ratios."""
    for old, new in rng.integers(1, largest, (largest // 60, 2)):
        ramp = np.arange(old, dtype=np.float32).reshape(1, old, 1, 1)
        ours = ops.resize_bilinear(jnp.asarray(ramp), size=(int(new), 1))
        expected = F.interpolate(nchw(ramp), size=(int(new), 1), mode="bilinear")
        np.testing.assert_allclose(np.ravel(ours), expected.ravel(), rtol=3e-7, atol=old * 1e-7)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("limit", [attention_module.SCORES_PER_CHUNK, 60])
def test_attention_is_torchs(form, limit, monkeypatch):
    monkeypatch.setattr(attention_module, "SCORES_PER_CHUNK", limit)
    jax.clear_caches()
    q, k, v = normal(2, 35, 3, 4), normal(2, 12, 3, 4, seed=1), normal(2, 12, 3, 4, seed=2)
    theirs = [torch.from_numpy(a.transpose(0, 2, 1, 3).copy()) for a in (q, k, v)]
    expected = F.scaled_dot_product_attention(*theirs).transpose(1, 2)
    with ops.use(form):
        ours = ops.attention(*map(jnp.asarray, (q, k, v)), dtype=jnp.float64)
    np.testing.assert_allclose(ours, expected, atol=ROUNDING)


@pytest.mark.parametrize("keys", [1, 5, 7])  # in a block: 23 keys are many blocks, five, three
def test_attention_by_blocks_of_keys_is_torchs(keys, monkeypatch):
    monkeypatch.setattr(attention_module, "KEYS_PER_BLOCK", keys)
    monkeypatch.setattr(attention_module, "SCORES_PER_CHUNK", 60)
    monkeypatch.setattr(attention_module, "SCORES_AT_ONCE", 1)  # the gradients by blocks too
    jax.clear_caches()
    q, k, v = normal(2, 35, 3, 4), normal(2, 23, 3, 4, seed=1), normal(2, 23, 3, 4, seed=2)
    k *= np.linspace(-200, 200, 23).reshape(1, 23, 1, 1)  # the largest score is in any block
    weights = normal(*q.shape, seed=3)
    theirs = [torch.from_numpy(a.transpose(0, 2, 1, 3).copy()).requires_grad_() for a in (q, k, v)]
    expected = F.scaled_dot_product_attention(*theirs).transpose(1, 2)
    (expected * torch.from_numpy(weights)).sum().backward()

    def total(q, k, v):
        y = ops.attention(q, k, v, dtype=jnp.float64)
        return jnp.sum(y * weights), y

    with ops.use("cpu"):
        gradients, ours = jax.grad(total, argnums=(0, 1, 2), has_aux=True)(
            *map(jnp.asarray, (q, k, v))
        )
        np.testing.assert_allclose(ours, expected.detach(), atol=ROUNDING)
    for gradient, own in zip(gradients, theirs, strict=True):
        np.testing.assert_allclose(gradient.transpose(0, 2, 1, 3), own.grad, rtol=1e-9, atol=1e-9)
    jax.clear_caches()


@pytest.mark.parametrize("form", FORMS)
def test_gradients_of_attention_are_torchs(form):
    q, k, v = normal(2, 35, 3, 4), normal(2, 12, 3, 4, seed=1), normal(2, 12, 3, 4, seed=2)
    weights = normal(*q.shape, seed=3)
    theirs = [torch.from_numpy(a.transpose(0, 2, 1, 3).copy()).requires_grad_() for a in (q, k, v)]
    y = F.scaled_dot_product_attention(*theirs).transpose(1, 2)
    (y * torch.from_numpy(weights)).sum().backward()

    def total(q, k, v):
        return jnp.sum(ops.attention(q, k, v, dtype=jnp.float64) * weights)

    with ops.use(form):
        ours = jax.grad(total, argnums=(0, 1, 2))(*map(jnp.asarray, (q, k, v)))
    for gradient, expected in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(gradient.transpose(0, 2, 1, 3), expected.grad, atol=ROUNDING)


def test_attention_of_a_large_picture_is_taken_in_pieces_everywhere(monkeypatch):
    monkeypatch.setattr(attention_module, "SCORES_AT_ONCE", 100)
    jax.clear_caches()
    q, k, v = (jnp.asarray(normal(1, n, 2, 4)) for n in (35, 12, 12))
    with ops.use("tpu"):
        in_pieces = jax.make_jaxpr(lambda *a: ops.attention(*a, dtype=jnp.float64))(q, k, v)
    assert "scan" in str(in_pieces)


def test_large_scores_do_not_overflow():
    q = jnp.full((1, 2, 1, 4), 1e3, jnp.float32)
    for form in FORMS:
        with ops.use(form):
            y = ops.attention(q, q, q, dtype=jnp.float32)
        np.testing.assert_allclose(y, q)


def test_halves_on_a_tpu_are_summed_in_float32():
    """4 + 8 · 2⁻⁷ is a bfloat16, but 4 + 2⁻⁷ rounds to 4."""
    x, kernel = jnp.ones((1, 3, 3, 4), jnp.bfloat16), jnp.full((3, 3, 1, 4), 2**-7)
    with ops.use("tpu"):
        y = ops.depthwise_conv(x, kernel.at[0, 0].set(4), jnp.zeros(4))
    assert y.dtype == jnp.bfloat16
    np.testing.assert_array_equal(y[0, 1, 1], jnp.asarray(4.0625, jnp.bfloat16))


@pytest.mark.parametrize("wrt", ["x", "kernel"])
def test_depthwise_conv_can_be_differentiated_forwards_and_mapped(wrt):
    x, kernel, bias = (jnp.asarray(a) for a in (normal(2, 6, 5, 4), normal(3, 3, 1, 4), normal(4)))

    def function(own):
        return ops.depthwise_conv(*((own, kernel) if wrt == "x" else (x, own)), bias)

    point = x if wrt == "x" else kernel
    direction = jnp.asarray(normal(*point.shape, seed=5))
    _, tangent = jax.jvp(function, (point,), (direction,))
    np.testing.assert_allclose(
        tangent, function(direction) - function(jnp.zeros_like(direction)), atol=ROUNDING
    )
    stacked = jnp.stack([point, direction])
    np.testing.assert_allclose(jax.vmap(function)(stacked)[1], function(direction), atol=ROUNDING)


def assert_equal_derivatives(function, plain, *arguments):
    """Values, both directions of differentiation, and both of these mapped over a batch."""
    directions = tuple(jnp.asarray(normal(*a.shape, seed=9)) for a in arguments)
    y, given = jax.jit(lambda *a: jax.jvp(function, a, directions))(*arguments)
    expected_y, expected = jax.jit(lambda *a: jax.jvp(plain, a, directions))(*arguments)
    np.testing.assert_allclose(y, expected_y, atol=1e-11)
    np.testing.assert_allclose(given, expected, atol=1e-11)
    cotangent = jnp.asarray(normal(*np.shape(y), seed=11))

    def gradients_of(f, *a):
        return jax.vjp(jax.checkpoint(f), *a)[1](cotangent)

    wanted = jax.jit(lambda *a: gradients_of(plain, *a))(*arguments)
    ours = jax.jit(lambda *a: gradients_of(function, *a))(*arguments)
    for own, other in zip(ours, wanted, strict=True):
        np.testing.assert_allclose(own, other, atol=1e-11)
    stacked = [jnp.stack([d, a]) for a, d in zip(arguments, directions, strict=True)]
    mapped = jax.jit(jax.vmap(lambda *a: gradients_of(function, *a)))(*stacked)
    for own, other in zip(mapped, wanted, strict=True):
        np.testing.assert_allclose(own[1], other, atol=1e-11)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("outputs", [3, 9])
def test_derivatives_of_a_linear_layer_are_the_plain_ones(form, outputs):
    arguments = [jnp.asarray(normal(*s)) for s in [(2, 4, 3, 5), (5, outputs), (outputs,)]]
    with ops.use(form):
        assert_equal_derivatives(
            lambda x, kernel, bias: ops.linear(x, kernel, bias, dtype=jnp.float64),
            lambda x, kernel, bias: jnp.matmul(x, kernel) + bias.reshape(1, 1, 1, -1),
            *arguments,
        )


@pytest.mark.parametrize("form", FORMS)
def test_derivatives_of_depthwise_conv_are_the_plain_ones(form):
    arguments = [jnp.asarray(normal(*s)) for s in [(2, 6, 5, 4), (3, 3, 1, 4), (4,)]]
    with ops.use(form):
        assert_equal_derivatives(
            ops.depthwise_conv,
            lambda x, kernel, bias: (
                import_module("segformer_jax.ops.depthwise")._by_lax(x, kernel)
                + bias.reshape(1, 1, 1, -1)
            ),
            *arguments,
        )


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("sides", [[], [(3, 4)], [(8, 6), (4, 3), (2, 9)]])
def test_derivatives_of_a_sum_of_resized_maps_are_the_plain_ones(form, sides):
    arguments = [
        jnp.asarray(normal(2, *side, 3, seed=i)) for i, side in enumerate([(8, 6), *sides])
    ]
    with ops.use(form):
        assert_equal_derivatives(
            lambda first, *others: ops.add_resized(first, others),
            lambda *maps: sum(resize_module._by_matmuls(x, size=(8, 6)) for x in maps),
            *arguments,
        )


@pytest.mark.parametrize("form", FORMS)
def test_derivatives_of_attention_are_the_plain_ones(form):
    def plain(q, k, v):
        scores = jnp.einsum("bnhd,bkhd->bhnk", q, k) * 4**-0.5
        weights = jnp.exp(scores) / jnp.exp(scores).sum(-1, keepdims=True)
        return jnp.einsum("bhnk,bkhd->bnhd", weights, v)

    arguments = [jnp.asarray(normal(2, n, 3, 4, seed=i)) for i, n in enumerate((35, 12, 12))]
    with ops.use(form):
        assert_equal_derivatives(
            lambda q, k, v: ops.attention(q, k, v, dtype=jnp.float64), plain, *arguments
        )


def test_derivatives_of_gelu_and_the_norms_are_the_plain_ones():
    def normalized(x):
        y = x - x.mean((0, 2), keepdims=True)
        return y / jnp.sqrt(jnp.square(y).mean((0, 2), keepdims=True) + 0.1)

    x = jnp.asarray(normal(3, 5, 4) * 3)
    assert_equal_derivatives(ops.ACTIVATIONS["gelu"], lambda x: x * jax.scipy.stats.norm.cdf(x), x)
    assert_equal_derivatives(lambda x: ops.normalize(x, axes=(0, 2), epsilon=0.1), normalized, x)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("size", "options"),
    [
        ((8, 6), dict()),
        ((5, 9), dict(smoothing=0.1)),
        ((31, 24), dict()),
        ((31, 24), dict(class_weights=(0.5, 2.0, 1.5, 0.0, 3.0))),
        ((31, 24), dict(class_weights=(0.5, 2.0, 1.5, 0.0, 3.0), smoothing=0.2, denominator="all")),
    ],
)
def test_derivatives_of_the_loss_are_the_plain_ones(form, size, options, rng):
    labels = rng.integers(0, 5, (2, *size))
    labels[0, :2] = 255
    weights, smoothing = (
        np.array(options.get("class_weights", (1.0,) * 5)),
        options.get("smoothing", 0),
    )
    one_hot = (labels[..., None] == np.arange(5)).astype(float)
    spread = (labels != 255)[..., None] * weights / 5
    targets = (1 - smoothing) * one_hot * weights + smoothing * spread
    count = labels.size if "denominator" in options else (one_hot * weights).sum()

    def plain(logits):
        large = resize_module._by_matmuls(logits, size=size)
        return -(targets * jax.nn.log_softmax(large, -1)).sum() / float(count)

    weighting = Weighting(255, **options)
    with ops.use(form):
        assert_equal_derivatives(
            lambda x: ops.resized_cross_entropy(x, jnp.asarray(labels), weighting=weighting),
            plain,
            jnp.asarray(normal(2, 8, 6, 5)),
        )


def test_bfloat16_on_a_cpu_keeps_float32_between_the_products():
    with ops.use("tpu"):
        assert ops.activation_dtype(jnp.bfloat16) == jnp.bfloat16
    x, wide = jnp.full((2, 64), 1.001, jnp.float32), jnp.ones((64, 64), jnp.float32)
    with ops.use("cpu"):
        assert ops.activation_dtype(jnp.bfloat16) == jnp.float32
        assert ops.activation_dtype(jnp.float64) == jnp.float64
        y = ops.linear(x, wide, None, dtype=jnp.bfloat16)
        narrow = ops.linear(x, wide[:, :3], None, dtype=jnp.bfloat16)  # float32 is as fast there
    assert y.dtype == jnp.float32
    np.testing.assert_array_equal(y, 64.0)  # 1.001 is 1 in bfloat16
    np.testing.assert_allclose(narrow, 64.064, rtol=1e-6)  # float32's rounding


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize(
    ("form", "dtype", "halves"),
    [("cpu", "bfloat16", True), ("cpu", "float16", False), ("gpu", "float16", True),
     ("gpu", "bfloat16", True), ("tpu", "bfloat16", True)],
)  # fmt: skip
def test_attention_multiplies_halves_but_float16_on_a_cpu(form, dtype, halves, large, monkeypatch):
    if large:
        monkeypatch.setattr(attention_module, "SCORES_AT_ONCE", 1)
    jax.clear_caches()  # the number above is no argument
    x = jnp.ones((1, 8, 2, 4), jnp.float32)
    with ops.use(form):
        program = jax.make_jaxpr(lambda x: ops.attention(x, x, x, dtype=jnp.dtype(dtype)))(x)
    jax.clear_caches()
    assert (f":{'b' * (dtype == 'bfloat16')}f16[" in str(program)) == halves


@pytest.mark.parametrize("blocks", [1, 3])
def test_attention_in_bfloat16_on_a_cpu_is_that_of_torch(blocks, monkeypatch):
    q, k, v = (normal(1, n, 2, 32, seed=seed) for seed, n in enumerate((40, 30, 30)))
    wanted = F.scaled_dot_product_attention(
        *(torch.from_numpy(x.swapaxes(1, 2)).bfloat16().double() for x in (q, k, v))
    )
    monkeypatch.setattr(attention_module, "KEYS_PER_BLOCK", 30 // blocks)
    jax.clear_caches()
    with ops.use("cpu"):
        y = ops.attention(*map(jnp.float32, (q, k, v)), dtype=jnp.bfloat16)
    jax.clear_caches()
    assert y.dtype == jnp.float32
    np.testing.assert_allclose(y, wanted.numpy().swapaxes(1, 2), rtol=0, atol=0.01)


def test_a_cast_on_a_cpu_rounds_as_numpy(rng):
    bits = rng.integers(0, 1 << 32, 100_000, dtype=np.uint32)
    bits[:10_000] = bits[:10_000] & 0xFFFF0000 | 0x8000  # halfway between two
    x = np.concatenate([bits.view(np.float32), np.float32([0, -0.0, np.inf, -np.inf, 3.4e38])])
    nan = np.asarray(jnp.isnan(x))
    with ops.use("cpu"):
        y, dy = jax.jvp(lambda x: cast(x, jnp.bfloat16), (jnp.asarray(x),), (jnp.ones_like(x),))
    np.testing.assert_array_equal(jnp.isnan(y), nan)
    np.testing.assert_array_equal(y[~nan], x[~nan].astype(y.dtype))
    np.testing.assert_array_equal(dy, jnp.ones_like(y))


def test_the_gradient_of_a_linear_layer_is_chosen_by_the_form_of_its_call():
    x, kernel = jnp.ones((4, 6)), jnp.ones((6, 3))

    def program() -> str:
        return str(
            jax.make_jaxpr(jax.grad(lambda k: ops.linear(x, k, None, dtype=jnp.float64).sum()))(
                kernel
            )
        )

    assert "platform_index" in program()
    with ops.use("cpu"):
        assert "optimization_barrier" in program()
    with ops.use("gpu"):
        assert "optimization_barrier" not in program()


def test_one_form_leaves_no_choice_in_the_program():
    x = jnp.zeros((1, 8, 8, 4))
    args = (x, jnp.zeros((3, 3, 1, 4)), jnp.zeros(4))
    assert "platform_index" in str(jax.make_jaxpr(ops.depthwise_conv)(*args))
    with ops.use("cpu"):
        program = str(jax.make_jaxpr(lambda *a: ops.depthwise_conv(*a))(*args))
    assert "platform_index" not in program
