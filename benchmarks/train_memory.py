"""Compares the memory of a training step with transformers': `python -m benchmarks.train_memory`.

Each step is measured in a process of its own. *Peak* is the largest resident memory of the process,
with libraries, weights and AdamW's moments; *step* is the part that the steps added. Ours is the
second process, which finds its program compiled. With
`--compiled b5`, the compiler's figures of one step are printed instead, and nothing is run: what
the step takes on a device, with and without gradient checkpointing.
"""

import json
import os
import subprocess
import sys
import tempfile
from itertools import product
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro

from benchmarks.report import print_rows

LABELS, STEPS = 150, 3
Machine = Literal["cpu", "v5e"]
Variant = Literal["b0", "b1", "b2", "b3", "b4", "b5"]


def main(
    works: tuple[tuple[Variant, int, int], ...] = (("b0", 8, 256), ("b0", 8, 512), ("b2", 2, 512)),
    compiled: Variant | None = None,
    machine: Machine = "cpu",
    batch: int = 2,
    side: int = 512,
) -> None:
    """Prints a row for each work, or the compiler's figures.

    Args:
        works: variant, pictures per step, and side of the square pictures in pixels.
        compiled: print the compiler's figures of this variant instead.
        machine: what it is compiled for: this CPU, or a chip of a TPU v5e, which need not be there.
        batch: pictures of the compiled step.
        side: of the compiled step's pictures, in pixels.
    """
    if compiled is not None:
        print_rows(
            _figures(machine, compiled, batch, side), f"{compiled}, {batch} × {side} × {side}"
        )
        return
    rows = []
    for variant, count, own in works:
        with tempfile.TemporaryDirectory() as cache:
            _measured("ours", variant, count, own, JAX_COMPILATION_CACHE_DIR=cache)
            ours = _measured("ours", variant, count, own, JAX_COMPILATION_CACHE_DIR=cache)
        theirs = _measured("theirs", variant, count, own)
        rows.append(
            {"work": f"{variant}, {count} × {own} × {own}"}
            | {f"ours_{name}_MB": round(value) for name, value in ours.items()}
            | {f"torch_{name}_MB": round(value) for name, value in theirs.items()}
            | {name: round(ours[name] / theirs[name], 2) for name in ours}
        )
    print_rows(rows, f"memory of a training step, {LABELS} classes, float32")


def _measured(
    name: str, variant: str, batch: int, side: int, **environment: str
) -> dict[str, float]:
    command = [
        sys.executable,
        "-m",
        "benchmarks.train_memory",
        name,
        variant,
        str(batch),
        str(side),
    ]
    options: dict[str, Any] = dict(stdout=subprocess.PIPE, text=True, check=True)
    done = subprocess.run(command, env=os.environ | environment, **options)
    return json.loads(done.stdout.splitlines()[-1])


def _report(name: str, variant: str, batch: int, side: int) -> None:
    """Runs a few steps in the child process, and prints its memory in MB as JSON."""
    rng = np.random.default_rng(0)
    pixels = rng.normal(size=(batch, side, side, 3)).astype(np.float32)
    labels = rng.integers(0, LABELS, (batch, side, side)).astype(np.int32)
    step = {"ours": _ours, "theirs": _theirs}[name](variant, pixels, labels)
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    before = _resident("VmRSS")
    for _ in range(STEPS):
        step()
    peak = _resident("VmHWM")
    print(json.dumps({"peak": peak, "step": peak - before}))


def _ours(variant: str, pixels: np.ndarray, labels: np.ndarray):
    from benchmarks.cases import _model, training_step
    from segformer_jax.process import keep_compiled_programs, keep_freed_memory, share_one_arena

    share_one_arena()  # as `segformer-jax train` does
    keep_freed_memory()
    keep_compiled_programs()
    return training_step(_model(variant, LABELS, "float32"), pixels, labels, platform="cpu")


def _theirs(variant: str, pixels: np.ndarray, labels: np.ndarray):
    import torch
    import transformers

    from segformer_jax import SegformerConfig

    config = getattr(SegformerConfig, variant)(num_labels=LABELS)
    model = transformers.SegformerForSemanticSegmentation(
        transformers.SegformerConfig(
            depths=list(config.depths),
            hidden_sizes=list(config.hidden_sizes),
            decoder_hidden_size=config.decoder_hidden_size,
            num_labels=LABELS,
        )
    ).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=6e-5, fused=True)
    inputs = torch.from_numpy(np.ascontiguousarray(np.moveaxis(pixels, -1, 1)))
    targets = torch.from_numpy(labels.astype(np.int64))

    def run() -> float:
        optimizer.zero_grad()
        loss = model(inputs, labels=targets).loss
        loss.backward()
        optimizer.step()
        return loss.item()

    return run


def _resident(name: str) -> float:
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) / 1024


def _figures(machine: Machine, variant: str, batch: int, side: int) -> list[dict[str, Any]]:
    import jax

    if machine == "v5e":
        from benchmarks.tpu import described_chips

        device = described_chips(1)[0]
    else:
        device = jax.local_devices(backend="cpu")[0]
    rows = []
    for dtype, checkpointing in product(("float32", "bfloat16"), (False, True)):
        row = {"type of products": dtype, "checkpointing": "yes" if checkpointing else "no"}
        try:
            own = _lowered(device, variant, dtype, checkpointing, batch, side).compile()
        except jax.errors.JaxRuntimeError as error:  # what a chip's memory can't hold
            rows.append(
                row | {"state_GB": None, "step_GB": None, "error": str(error).splitlines()[0]}
            )
            continue
        memory = own.memory_analysis()
        state, step = memory.argument_size_in_bytes / 1e9, memory.temp_size_in_bytes / 1e9
        rows.append(row | {"state_GB": round(state, 2), "step_GB": round(step, 2)})
    return rows


def _lowered(device: Any, variant: str, dtype: str, checkpointing: bool, batch: int, side: int):
    """Lowers the forward and backward pass and AdamW, with its state donated, for a device."""
    import jax
    import jax.numpy as jnp
    import optax
    from flax import nnx

    from segformer_jax import SegformerConfig, SegformerForSemanticSegmentation, ops

    config = getattr(SegformerConfig, variant)(num_labels=LABELS)
    make = SegformerForSemanticSegmentation
    model = nnx.eval_shape(lambda: make(config, dtype=jnp.dtype(dtype), rngs=nnx.Rngs(0)))
    model.train()
    if checkpointing:
        model.gradient_checkpointing_enable()
    graph, params, stats = nnx.split(model, nnx.Param, ...)
    optimizer = optax.adamw(6e-5)

    def step(params, stats, moments, pixels, labels):
        def loss_of(params):
            own = nnx.merge(graph, params, stats, copy=True)
            loss = own(pixels, labels, rngs=nnx.Rngs(dropout=jax.random.key(0))).loss
            return loss, nnx.state(own, nnx.BatchStat)

        with ops.use(ops.forms_for(device.platform), local_batch=True):
            (loss, stats), gradients = jax.value_and_grad(loss_of, has_aux=True)(params)
        updates, moments = optimizer.update(gradients, moments, params)
        return optax.apply_updates(params, updates), stats, moments, loss

    place = jax.sharding.SingleDeviceSharding(device)
    pixels = jax.ShapeDtypeStruct((batch, side, side, 3), jnp.float32)
    labels = jax.ShapeDtypeStruct((batch, side, side), jnp.int32)
    given = params, stats, jax.eval_shape(optimizer.init, params), pixels, labels
    given = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), given)
    return jax.jit(step, donate_argnums=(0, 1, 2)).lower(*given)


if __name__ == "__main__":
    if sys.argv[1:2] in (["ours"], ["theirs"]):
        _report(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:]))
    else:
        tyro.cli(main)
