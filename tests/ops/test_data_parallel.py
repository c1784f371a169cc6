"""A batch that is split over devices stays split: no device sees another one's pictures."""

import json
import os
import re
import subprocess
import sys

import pytest

PLATFORMS = ("cpu", "gpu", "tpu", "none")
PROGRAM = """
import contextlib, json, sys
from importlib import import_module
import jax, jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
from segformer_jax import SegformerConfig, SegformerForSemanticSegmentation, ops

config = SegformerConfig(
    hidden_sizes=(8, 16), depths=(1, 1), num_encoder_blocks=2, sr_ratios=(4, 1), strides=(4, 2),
    patch_sizes=(7, 3), num_attention_heads=(1, 2), mlp_ratios=(2, 2), decoder_hidden_size=16,
    num_labels=5, hidden_dropout_prob=0.1, drop_path_rate=0.1,
)
model = SegformerForSemanticSegmentation(config, rngs=nnx.Rngs(0))
model.train()
graph, params, stats = nnx.split(model, nnx.Param, ...)

def compiled(platform, count, devices):
    use = contextlib.nullcontext() if platform == "none" else ops.use(platform)

    @jax.jit
    def step(params, stats, pixels, labels):
        with use:
            def loss_of(params):
                own = nnx.merge(graph, params, stats, copy=True)
                out = own(pixels, labels, rngs=nnx.Rngs(dropout=jax.random.key(0)))
                return out.loss, nnx.state(own, nnx.BatchStat)

            return jax.value_and_grad(loss_of, has_aux=True)(params)

    mesh = Mesh(jax.devices()[:devices], ("data",))

    def like(shape, dtype, spec):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, spec))

    whole = [jax.tree.map(lambda x: like(x.shape, x.dtype, P()), s) for s in (params, stats)]
    pixels = like((count, 64, 64, 3), jnp.float32, P("data"))
    labels = like((count, 64, 64), jnp.int32, P("data"))
    return step.lower(*whole, pixels, labels).compile()

for platform in sys.argv[1:]:
    eight, one = compiled(platform, 16, 8), compiled(platform, 2, 1)
    memory = [c.memory_analysis().temp_size_in_bytes for c in (eight, one)]
    print(json.dumps([platform, eight.as_text(), *memory]), flush=True)
import_module("segformer_jax.ops.attention").SCORES_AT_ONCE = 1 << 12  # it goes in pieces
jax.clear_caches()
print(json.dumps(["tpu, in pieces", compiled("tpu", 16, 8).as_text(), 0, 1]))
"""


@pytest.fixture(scope="module")
def programs():
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *PLATFORMS],
        env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    rows = map(json.loads, done.stdout.splitlines())
    return {case: rest for case, *rest in rows}


@pytest.mark.parametrize("case", [*PLATFORMS, "tpu, in pieces"])
def test_a_training_step_over_eight_devices_gathers_nothing(programs, case):
    text, eight, one = programs[case]
    moved = re.findall(r"= (\S+) (all-gather|all-to-all|collective-permute)[\w\-]*\(", text)
    assert not moved
    assert "all-reduce" in text
    assert eight <= 1.1 * one  # a device's own pictures, and what the sum of gradients takes
