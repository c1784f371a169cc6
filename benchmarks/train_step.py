"""Compares our training step of b0 with transformers': `python -m benchmarks.train_step`.

A step is the forward pass in train mode with the config's own dropout, the loss at the labels'
size, the backward pass and AdamW, on 8 pictures of 256 × 256 with 11 classes. Both start from the
same weights. Before anything is timed, the losses and every parameter's gradient are compared in
float32 with all dropout off, and in bfloat16 the loss and all gradients together.

Float32 on a GPU is TensorFloat-32 for both, except in that comparison. Bfloat16 is mixed precision:
parameters, their gradients and the optimizer are in float32, and the products in bfloat16: ours as
by `segformer-jax train --dtype bfloat16`, theirs by `torch.autocast`.
"""

import contextlib
import os
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import torch
import transformers
import tyro
from flax import nnx

import segformer_jax
from benchmarks import append as results
from benchmarks.cases import training_step
from benchmarks.peers.torch_eager import check_gpu
from benchmarks.report import print_rows
from segformer_jax import ops
from segformer_jax.checkpoints import names
from segformer_jax.checkpoints.flat import values_of
from segformer_jax.process import keep_compiled_programs

BATCH, SIDE, LABELS = 8, 256, 11
RATE, DECAY = 6e-5, 0.01
NO_DROPOUT = dict(drop_path_rate=0.0, classifier_dropout_prob=0.0)
TOLERANCE = 2e-3  # × a gradient's norm: errors of float32 in sums over 32,768 positions
NEGLIGIBLE = 1e-5  # × the norm of all gradients: rounding errors of gradients that are exactly 0
# of values with 8 significant bits: torch.autocast's gradients are 0.02 away, ours 0.02 to 0.04
BFLOAT16_LOSS, BFLOAT16_GRADIENTS = 1e-2, 1e-1

Dtype = Literal["float32", "bfloat16"]
Way = Literal["eager", "channels_last", "compile"]
Step = Callable[[], float]
Row = dict[str, Any]


def measure(
    rounds: int,
    *,
    dtype: Dtype = "float32",
    batch: int = BATCH,
    side: int = SIDE,
    ways: tuple[Way, ...] = ("eager", "channels_last"),
) -> tuple[list[Row], list[str]]:
    """Measures our step and transformers', which take turns in one process.

    Args:
        rounds: runs of each.
        dtype: type of the products.
        batch: pictures of a step.
        side: of the square pictures, in pixels.
        ways: to run transformers' step.

    Returns:
        A row per way, the fastest first: medians in ms, `ratio`, which is the median of the rounds'
        ratios, and `spread`, half the distance between their quartiles divided by `ratio`. And the
        name and error of what did not run.

    Raises:
        AssertionError: losses or gradients differ.
    """
    with tempfile.TemporaryDirectory() as folder:
        hf = _hf_model()
        hf.save_pretrained(folder)
        with jax.default_matmul_precision("highest"):
            few = _batch(min(batch, BATCH), min(side, SIDE))
            _assert_equal_gradients(folder, dtype, *few)
        pictures = _batch(batch, side)
        made: dict[str, Callable[[], Step]] = {"ours": partial(our_step, folder, dtype, *pictures)}
        for way in ways:
            made[f"transformers {way}"] = partial(their_step, folder, dtype, way, *pictures)
        steps, failures = _warmed_up(made)
        times: dict[str, list[float]] = {name: [] for name in steps}
        for _ in range(rounds):
            for name, step in steps.items():
                start = time.perf_counter()
                step()
                times[name].append(1e3 * (time.perf_counter() - start))
    work = f"training step b0, {batch}×{side}×{side}, {dtype}, {LABELS} classes"
    ours = times.pop("ours", None)
    rows = [{"work": work} | _compared(ours, name, own) for name, own in times.items()]
    return sorted(rows, key=lambda row: row["peer_ms"]), failures


def our_step(folder: str, dtype: Dtype, pixels: np.ndarray, labels: np.ndarray) -> Step:
    """Returns the `training_step` of the model in a folder, with its batch on the device."""
    cls = segformer_jax.SegformerForSemanticSegmentation
    model = cls.from_pretrained(folder, dtype=jnp.dtype(dtype), param_dtype=jnp.float32)
    batch = jax.device_put((pixels, labels))
    platform = jax.default_backend()
    return training_step(model, *batch, rate=RATE, decay=DECAY, platform=platform)


def their_step(folder: str, dtype: Dtype, way: Way, pixels: np.ndarray, labels: np.ndarray) -> Step:
    """Returns the step in PyTorch, with its batch on the device; `.item()` waits for the GPU."""
    check_gpu()
    model = transformers.SegformerForSemanticSegmentation.from_pretrained(folder)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.backends.cuda.matmul.allow_tf32 = True  # as JAX and cuDNN's convolutions do by default
    layout = torch.channels_last if way == "channels_last" else torch.contiguous_format
    model = model.train().to(device, memory_format=layout)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=DECAY, fused=True)
    inputs = _nchw(pixels).contiguous(memory_format=layout).to(device)
    targets = torch.from_numpy(labels.astype(np.int64)).to(device)
    run_model = torch.compile(model) if way == "compile" else model

    def run() -> float:
        optimizer.zero_grad()
        with _precision(device, dtype):
            loss = run_model(inputs, labels=targets).loss
        loss.backward()
        optimizer.step()
        return loss.item()

    return run


def _precision(device: str, dtype: Dtype) -> Any:
    if dtype == "float32":
        return contextlib.nullcontext()
    return torch.autocast(device, dtype=getattr(torch, dtype))


def _warmed_up(made: dict[str, Callable[[], Step]]) -> tuple[dict[str, Step], list[str]]:
    """Makes steps and runs each twice; returns those that run, and the errors of the others."""
    steps, failures = {}, []
    for name, make in made.items():
        try:
            step = make()
            step(), step()
            steps[name] = step
        except Exception as error:  # of one library, without which the others are measured
            failures.append(f"{name}: {type(error).__name__}: {error}".splitlines()[0])
    return steps, failures


def _compared(ours: list[float] | None, peer: str, times: list[float]) -> Row:
    row: Row = {"ours_ms": None, "peer": peer, "peer_ms": float(np.median(times))}
    if ours is None:
        return row | {"ratio": None, "spread": None}
    low, middle, high = np.quantile(np.array(ours) / np.array(times), (0.25, 0.5, 0.75))
    spread = float((high - low) / 2 / middle)
    return row | {"ours_ms": float(np.median(ours)), "ratio": float(middle), "spread": spread}


def _assert_equal_gradients(
    folder: str, dtype: Dtype, pixels: np.ndarray, labels: np.ndarray
) -> None:
    """Compares ours in `dtype` with theirs in float32."""
    hf = transformers.SegformerForSemanticSegmentation.from_pretrained(folder, **NO_DROPOUT)
    theirs = hf.train()(_nchw(pixels), labels=torch.from_numpy(labels.astype(np.int64))).loss
    theirs.backward()
    wanted = names.to_flax({name: p.grad.numpy() for name, p in hf.named_parameters()})

    with tempfile.TemporaryDirectory() as without_dropout:
        hf.save_pretrained(without_dropout)
        cls = segformer_jax.SegformerForSemanticSegmentation
        model = cls.from_pretrained(without_dropout, dtype=jnp.dtype(dtype))
    model.train()
    graph, params, stats = nnx.split(model, nnx.Param, ...)

    @jax.jit
    def loss_and_gradients(params, pixels, labels):
        with ops.use(ops.forms_for(jax.default_backend())):
            return jax.value_and_grad(
                lambda params: nnx.merge(graph, params, stats, copy=True)(pixels, labels).loss
            )(params)

    ours, state = loss_and_gradients(params, pixels, labels)
    given = values_of(state)
    assert given.keys() == wanted.keys()
    whole = np.sqrt(sum(np.sum(np.square(g)) for g in wanted.values()))
    off = {name: np.linalg.norm(np.asarray(given[name]) - own) for name, own in wanted.items()}
    if dtype == "bfloat16":
        np.testing.assert_allclose(float(ours), theirs.item(), rtol=BFLOAT16_LOSS)
        distance = np.sqrt(sum(np.square(own) for own in off.values())) / whole
        assert distance <= BFLOAT16_GRADIENTS, f"the gradients differ by {distance:.2g}"
        return
    np.testing.assert_allclose(float(ours), theirs.item(), rtol=1e-5)
    for name, gradient in wanted.items():
        bound = TOLERANCE * np.linalg.norm(gradient) + NEGLIGIBLE * whole
        assert off[name] <= bound, (
            f"the gradients of {name} differ by {off[name]:.2g}, {bound:.2g} allowed"
        )


def _hf_model() -> transformers.SegformerForSemanticSegmentation:
    torch.manual_seed(0)
    return transformers.SegformerForSemanticSegmentation(
        transformers.SegformerConfig(num_labels=LABELS)
    )


def _batch(batch: int, side: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    pixels = rng.normal(size=(batch, side, side, 3)).astype(np.float32)
    return pixels, rng.integers(0, LABELS, (batch, side, side)).astype(np.int32)


def _nchw(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(pixels, -1, 1)))


def main(
    dtypes: tuple[Dtype, ...] = ("float32",),
    batch: int = BATCH,
    side: int = SIDE,
    ways: tuple[Way, ...] = ("eager", "channels_last"),
    rounds: int = 15,
    append: Path | None = None,
) -> None:
    """Prints a table for each type.

    Args:
        dtypes: types of the products.
        batch: pictures of a step.
        side: of the square pictures, in pixels.
        ways: to run transformers' step.
        rounds: runs of each.
        append: a JSON file to which the rows are added as soon as they are measured.
    """
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # PyTorch uses the GPU too
    keep_compiled_programs()
    run = None if append is None else results.new_run(append)
    for dtype in dtypes:
        rows, failures = measure(rounds, dtype=dtype, batch=batch, side=side, ways=ways)
        if append is not None and run is not None:
            results.append(append, run, rows, not_run=failures)
        print_rows(rows, f"training step, {dtype}")
        for failure in failures:
            print("not run:", failure)


if __name__ == "__main__":
    tyro.cli(main)
