"""Compares our training step of b0 with transformers': `python -m benchmarks.train_step`.

A step is the forward pass in train mode with the config's own dropout, the loss at the labels'
size, the backward pass and AdamW, on 8 pictures of 256 × 256 with 11 classes in float32. Both
start from the same weights; before anything is timed, the losses and every parameter's gradient
are compared with all dropout off. On a GPU both use TensorFloat-32, except in that comparison.
"""

import tempfile
import time
from collections.abc import Callable

import jax
import numpy as np
import torch
import transformers
from flax import nnx
from rich.console import Console
from rich.table import Table

import segformer_jax
from benchmarks.cases import training_step
from segformer_jax.checkpoints import names
from segformer_jax.checkpoints.flat import values_of

BATCH, SIDE, LABELS = 8, 256, 11
RATE, DECAY = 6e-5, 0.01
NO_DROPOUT = dict(drop_path_rate=0.0, classifier_dropout_prob=0.0)
TOLERANCE = 2e-3  # × a gradient's norm: errors of float32 in sums over 32,768 positions
NEGLIGIBLE = 1e-5  # × the norm of all gradients: rounding errors of gradients that are exactly 0

Step = Callable[[], float]


def measure(rounds: int) -> list[dict]:
    """Returns one row: both medians in ms, their ratio, and the spread of the rounds' ratios.

    The peer is PyTorch eager or eager in channels_last, whichever is faster in this run. `ratio` is
    the median of the rounds' ratios, and `spread` half the distance between their quartiles,
    divided by `ratio`.
    """
    with tempfile.TemporaryDirectory() as folder:
        hf = _hf_model()
        hf.save_pretrained(folder)
        with jax.default_matmul_precision("highest"):
            _assert_equal_gradients(folder)
        steps: dict[str, Step] = {
            "ours": our_step(folder),
            "transformers eager": their_step(folder, torch.contiguous_format),
            "transformers eager, channels_last": their_step(folder, torch.channels_last),
        }
        for step in steps.values():
            step(), step()
        times = {name: [] for name in steps}
        for _ in range(rounds):
            for name, step in steps.items():
                start = time.perf_counter()
                step()
                times[name].append(1e3 * (time.perf_counter() - start))
    ours = np.array(times.pop("ours"))
    peer = min(times, key=lambda name: float(np.median(times[name])))
    ratios = ours / np.array(times[peer])
    low, middle, high = np.quantile(ratios, (0.25, 0.5, 0.75))
    return [
        {
            "work": f"training step b0, {BATCH}×{SIDE}×{SIDE}, float32, {LABELS} classes",
            "ours_ms": float(np.median(ours)),
            "peer": peer,
            "peer_ms": float(np.median(times[peer])),
            "ratio": float(middle),
            "spread": float((high - low) / 2 / middle),
        }
    ]


def our_step(folder: str) -> Step:
    """Returns the `training_step` of the model in a folder."""
    model = segformer_jax.SegformerForSemanticSegmentation.from_pretrained(folder)
    return training_step(model, *_batch(), rate=RATE, decay=DECAY)


def their_step(folder: str, layout: torch.memory_format) -> Step:
    model = transformers.SegformerForSemanticSegmentation.from_pretrained(folder)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.backends.cuda.matmul.allow_tf32 = True  # as JAX and cuDNN's convolutions do by default
    model = model.train().to(device, memory_format=layout)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=DECAY, fused=True)
    pixels, labels = _batch()
    inputs = _nchw(pixels).contiguous(memory_format=layout).to(device)
    targets = torch.from_numpy(labels.astype(np.int64)).to(device)

    def run() -> float:
        optimizer.zero_grad()
        loss = model(inputs, labels=targets).loss
        loss.backward()
        optimizer.step()
        return loss.item()

    return run


def _assert_equal_gradients(folder: str) -> None:
    hf = transformers.SegformerForSemanticSegmentation.from_pretrained(folder, **NO_DROPOUT)
    pixels, labels = _batch()
    theirs = hf.train()(_nchw(pixels), labels=torch.from_numpy(labels.astype(np.int64))).loss
    theirs.backward()
    wanted = names.to_flax({name: p.grad.numpy() for name, p in hf.named_parameters()})

    with tempfile.TemporaryDirectory() as without_dropout:
        hf.save_pretrained(without_dropout)
        cls = segformer_jax.SegformerForSemanticSegmentation
        model = cls.from_pretrained(without_dropout)
    model.train()
    graph, params, stats = nnx.split(model, nnx.Param, ...)

    @jax.jit
    def loss_and_gradients(params, pixels, labels):
        return jax.value_and_grad(
            lambda params: nnx.merge(graph, params, stats, copy=True)(pixels, labels).loss
        )(params)

    ours, state = loss_and_gradients(params, pixels, labels)
    given = values_of(state)
    np.testing.assert_allclose(float(ours), theirs.item(), rtol=1e-5)
    assert given.keys() == wanted.keys()
    whole = np.sqrt(sum(np.sum(np.square(g)) for g in wanted.values()))
    for name, gradient in wanted.items():
        bound = TOLERANCE * np.linalg.norm(gradient) + NEGLIGIBLE * whole
        off = np.linalg.norm(np.asarray(given[name]) - gradient)
        assert off <= bound, f"the gradients of {name} differ by {off:.2g}, {bound:.2g} allowed"


def _hf_model() -> transformers.SegformerForSemanticSegmentation:
    torch.manual_seed(0)
    return transformers.SegformerForSemanticSegmentation(
        transformers.SegformerConfig(num_labels=LABELS)
    )


def _batch() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    pixels = rng.normal(size=(BATCH, SIDE, SIDE, 3)).astype(np.float32)
    return pixels, rng.integers(0, LABELS, (BATCH, SIDE, SIDE)).astype(np.int32)


def _nchw(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(pixels, -1, 1)))


def main(rounds: int = 15) -> None:
    """Prints the table of `measure`."""
    table = Table("work", "ours, ms", "peer", "peer, ms", "ratio", "spread")
    for row in measure(rounds):
        table.add_row(
            row["work"],
            f"{row['ours_ms']:.0f}",
            row["peer"],
            f"{row['peer_ms']:.0f}",
            f"{row['ratio']:.2f}",
            f"± {row['spread']:.0%}",
        )
    Console().print(table)


if __name__ == "__main__":
    main()
