"""Every form of every operation is its reference, whatever JAX does with it.

Value and both derivatives in float64, mapped, exported, and on eight devices: a batch split on Auto
and on Explicit axes, in `shard_map` with and without `check_vma`, and where that leaves an axis
Explicit. `tests/ops/test_forms.py` compares with torch. What only a GPU can check is not here:
cuDNN's attention, which `use("gpu")` takes for halves.
"""

import os
import subprocess
import sys

import pytest

PROGRAM = """
import re, sys
from contextlib import nullcontext
import jax, jax.numpy as jnp, numpy as np
from jax import export
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from segformer_jax import ops
from segformer_jax.ops.cross_entropy import Weighting

jax.config.update("jax_enable_x64", True)
platform = sys.argv[1]
rng = np.random.default_rng(0)

def normal(*shape):
    return jnp.asarray(rng.normal(size=shape))

labels = jnp.asarray(rng.integers(0, 4, (8, 12, 12)))
f64 = jnp.float64
strided = dict(stride=2, padding=1, dtype=f64)
loss = dict(weighting=Weighting(255, (1.0, 0.5, 2.0, 0.1), 0.1))
cases = dict(
    linear=(lambda *a: ops.linear(*a, dtype=f64), normal(8, 4, 4, 6), normal(6, 5), normal(5)),
    conv=(lambda *a: ops.conv(*a, **strided), normal(8, 8, 8, 4), normal(3, 3, 4, 8), normal(8)),
    cells=(
        lambda *a: ops.conv(*a, stride=4, padding=3, dtype=f64),
        normal(8, 16, 12, 3), normal(7, 7, 3, 4), normal(4),
    ),
    patches=(
        lambda *a: ops.conv(*a, stride=2, padding=0, dtype=f64),
        normal(8, 9, 8, 4), normal(2, 2, 4, 8), normal(8),
    ),
    depthwise=(ops.depthwise_conv, normal(8, 6, 5, 4), normal(3, 3, 1, 4), normal(4)),
    attention=(
        lambda *a: ops.attention(*a, dtype=f64),
        normal(8, 16, 2, 4), normal(8, 4, 2, 4), normal(8, 4, 2, 4),
    ),
    weights=(
        lambda *a: ops.attention_weights(*a, dtype=f64), normal(8, 6, 2, 4), normal(8, 4, 2, 4)
    ),
    layer_norm=(
        lambda *a: ops.layer_norm(*a, epsilon=1e-5), normal(8, 4, 3, 40), normal(40), normal(40)
    ),
    batch_norm=(lambda x: ops.normalize(x, axes=(0, 1, 2), epsilon=1e-5), normal(8, 4, 3, 6)),
    gelu=(ops.gelu, normal(8, 4, 4, 6)),
    resize=(lambda x: ops.resize_bilinear(x, size=(9, 7)), normal(8, 4, 4, 6)),
    add_resized=(lambda x, y: ops.add_resized(x, [y]), normal(8, 4, 4, 6), normal(8, 2, 2, 6)),
    decode=(
        lambda x, y, k, l, b, c, d: ops.decode([x, y], [k, l], b, (c, d), dtype=f64),
        normal(8, 5, 4, 6), normal(8, 3, 2, 7), normal(6, 9), normal(7, 9), normal(9),
        normal(9, 4), normal(4),
    ),
    loss=(lambda x, l: ops.resized_cross_entropy(x, l, **loss), normal(8, 5, 6, 4), labels),
    mix_ffn=(
        lambda x, *w: ops.mix_ffn(x, *zip(w[::2], w[1::2]), epsilon=1e-5, dtype=f64),
        normal(8, 5, 7, 4), normal(4), normal(4), normal(4, 9), normal(9), normal(3, 3, 1, 9),
        normal(9), normal(9, 4), normal(4),
    ),
    attention_block=(
        lambda x, k, v, *w: ops.attention_block(
            x, k, v, *zip(w[::2], w[1::2]), heads=3, epsilon=1e-5, dtype=f64
        ),
        normal(8, 5, 7, 48), normal(8, 2, 3, 48), normal(8, 2, 3, 48), normal(48), normal(48),
        normal(48, 48) / 7, normal(48), normal(48, 48) / 7, normal(48),
    ),
    dropout=(lambda x: ops.dropout(x, jax.random.key(0), rate=0.5), normal(8, 4, 3, 6)),
)
mapped = ("batch_norm", "loss", "dropout")  # of one picture they are something else

def all_of(function, use, *operands):
    \"\"\"The value, its tangent along the operands, and the gradient of its square.\"\"\"
    floats = [jnp.issubdtype(x.dtype, jnp.floating) for x in operands]

    def of_floats(*given):
        given = iter(given)
        whole = [next(given) if f else x for f, x in zip(floats, operands)]
        with use():
            return function(*whole)

    own = [x for f, x in zip(floats, operands) if f]
    value, tangent = jax.jvp(of_floats, own, own)
    _, back = jax.vjp(of_floats, *own)
    return value, tangent, back(value)

def check(case, found, wanted):
    for own, other in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(own, other, rtol=1e-10, atol=1e-10, err_msg=case)

def uses():
    return nullcontext() if platform == "none" else ops.use(platform)

def local():
    return nullcontext() if platform == "none" else ops.use(platform, local_batch=True)

def meshes():
    explicit, auto = AxisType.Explicit, AxisType.Auto
    for kinds in ((explicit, explicit), (auto, auto), (explicit, auto)):
        yield jax.make_mesh((4, 2), ("data", "model"), axis_types=kinds)

for name, (function, *operands) in cases.items():
    batched = [x.shape[0] == 8 and x.ndim > 2 for x in operands]
    specs = tuple(P("data") if own else P() for own in batched)
    wanted = all_of(function, lambda: ops.use("reference"), *operands)
    check(name, jax.jit(lambda *a: all_of(function, uses, *a))(*operands), wanted)
    check(name, jax.jit(lambda *a: all_of(function, local, *a))(*operands), wanted)
    if name not in mapped:
        axes = [0 if own else None for own in batched]
        for use in (uses, local):
            def one(*own):
                with use():
                    return function(*(x[None] if b else x for b, x in zip(batched, own)))[0]
            check(name + " mapped", jax.jit(jax.vmap(one, axes))(*operands), wanted[0])
    shapes = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in operands]
    traced = jax.jit(lambda *a: all_of(function, uses, *a))
    export.export(traced, platforms=("cpu", "cuda", "tpu"))(*shapes)
    for mesh in meshes():
        case = f"{name} on {mesh.axis_types}"
        there = [jax.device_put(x, NamedSharding(mesh, s)) for x, s in zip(operands, specs)]
        compiled = jax.jit(lambda *a: all_of(function, uses, *a)).lower(*there).compile()
        check(case, compiled(*there), wanted)
        gathers = re.findall("all-(?:gather|to-all)", compiled.as_text())
        assert not gathers or name == "dropout", (case, gathers)
        with jax.set_mesh(mesh):
            check(case, jax.jit(lambda *a: all_of(function, uses, *a))(*there), wanted)
    if name in mapped:
        continue
    mesh = next(meshes())
    there = [jax.device_put(x, NamedSharding(mesh, s)) for x, s in zip(operands, specs)]
    for vma in (True, False):
        for manual in ({"data", "model"}, {"data"}):
            def there_alone(*own):
                with local():
                    return function(*own)
            split = jax.shard_map(
                there_alone, mesh=mesh, in_specs=specs, out_specs=P("data"), axis_names=manual,
                check_vma=vma,
            )
            with jax.set_mesh(mesh):
                found = jax.jit(lambda *a: all_of(split, nullcontext, *a))(*there)
            check(f"{name} in shard_map, {vma}, {manual}", found, wanted)
    print(name, flush=True)
"""


@pytest.mark.full
@pytest.mark.parametrize("platform", ["cpu", "gpu", "tpu", "none"])
def test_every_form_is_its_reference_on_one_device_and_on_eight(platform):
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, platform],
        env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
