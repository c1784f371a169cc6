"""A training step on any mesh is that of one device, and so is a `Segmenter` inside one."""

import os
import subprocess
import sys

import pytest

PROGRAM = """
import sys
import jax, jax.numpy as jnp, numpy as np
from flax import nnx
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from segformer_jax import SegformerConfig, SegformerForSemanticSegmentation, Segmenter
from segformer_jax import SegformerImageProcessor

jax.config.update("jax_enable_x64", True)
config = SegformerConfig(
    hidden_sizes=(8, 16), depths=(1, 1), num_encoder_blocks=2, sr_ratios=(4, 1), strides=(4, 2),
    patch_sizes=(7, 3), num_attention_heads=(1, 2), mlp_ratios=(2, 2), decoder_hidden_size=16,
    num_labels=5, drop_path_rate=0.1,
)
f64 = dict(dtype=jnp.float64, param_dtype=jnp.float64)
model = SegformerForSemanticSegmentation(config, **f64, rngs=nnx.Rngs(0))
model.train()
graph, params, stats = nnx.split(model, nnx.Param, ...)
rng = np.random.default_rng(0)
pixels, labels = rng.normal(size=(8, 64, 64, 3)), rng.integers(0, 5, (8, 64, 64))

@jax.jit
def step(params, stats, pixels, labels):
    def loss_of(params):
        own = nnx.merge(graph, params, stats, copy=True)
        out = own(pixels, labels, rngs=nnx.Rngs(dropout=jax.random.key(0)))
        return out.loss, (nnx.state(own, nnx.BatchStat), out.logits)

    return jax.value_and_grad(loss_of, has_aux=True)(params)

def check(found):
    for own, other in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(own, other, rtol=0, atol=1e-11)

def split(x):
    whole = x.ndim < 2 or x.shape[-1] % 4
    return P() if whole else P(*[None] * (x.ndim - 1), "data")

wanted = step(params, stats, jnp.asarray(pixels), jnp.asarray(labels))
for kind in [getattr(AxisType, name) for name in sys.argv[1:]]:
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(kind, kind))
    put = lambda x, spec: jax.device_put(x, NamedSharding(mesh, spec))
    batch = put(pixels, P("data")), put(labels, P("data"))
    everywhere = jax.tree.map(lambda x: put(x, P()), (params, stats))
    fsdp = jax.tree.map(lambda x: put(x, split(x)), params)
    check(step(*everywhere, *batch))
    with jax.set_mesh(mesh):
        check(step(*everywhere, *batch))
        check(step(fsdp, everywhere[1], *batch))

model.eval()
logits = model(pixels).logits
graph, state = nnx.split(model)
mesh = jax.make_mesh((8,), ("data",))
state = jax.device_put(state, NamedSharding(mesh, P()))
there = jax.device_put(pixels, NamedSharding(mesh, P("data")))
for vma in (True, False):
    forward = jax.shard_map(
        lambda state, x: nnx.merge(graph, state)(x).logits, mesh=mesh, in_specs=(P(), P("data")),
        out_specs=P("data"), check_vma=vma,
    )
    np.testing.assert_allclose(jax.jit(forward)(state, there), logits, rtol=0, atol=1e-11)

segment = Segmenter(model, SegformerImageProcessor(size=dict(height=64, width=64)))
photo = rng.integers(0, 255, (50, 60, 3)).astype(np.uint8)
alone = [segment(photo, scores=scores).class_map for scores in (False, True)]
with jax.set_mesh(mesh):
    for scores, classes in zip((False, True), alone):
        np.testing.assert_array_equal(segment(photo, scores=scores).class_map, classes)
        np.testing.assert_array_equal(segment([photo, photo], scores=scores)[1].class_map, classes)
"""


@pytest.mark.full
@pytest.mark.parametrize("kind", ["Explicit", "Auto"])
def test_every_mesh_gives_the_single_devices_step(kind):
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, kind],
        env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
