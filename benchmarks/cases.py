"""The cases of `benchmarks.compare --against`, each run in a process on the library of a checkout.

    PYTHONPATH=CHECKOUT python benchmarks/cases.py CHECKOUT CASE

prints "ready" once everything is compiled, then answers each line of its input with the
milliseconds of one run. It imports no other file of the benchmarks, and uses the library only as
users do, so that it runs on older and newer checkouts too.
"""

import contextlib
import functools
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from PIL import Image

Run = Callable[[], Any]

SIDE, LABELS = 512, 150
PHOTOS = 200
STREET = Path(__file__).resolve().parents[1] / "examples" / "street.jpg"


def forward(variant: str, dtype: str = "float32") -> Run:
    """Returns a run of the compiled forward pass of one picture of 512 × 512."""
    from segformer_jax import SegformerImageProcessor, Segmenter

    processor = SegformerImageProcessor(size=SIDE)
    segment = Segmenter(_model(variant, LABELS, dtype), processor, device=jax.local_devices()[0])
    pixels = jax.device_put(_noise(1, SIDE, SIDE, 3))
    return lambda: segment.logits(pixels).block_until_ready()


def train_step() -> Run:
    """Returns a run of a training step of b0 on 8 pictures of 256 × 256 and 11 classes."""
    labels = np.random.default_rng(0).integers(0, 11, (8, 256, 256)).astype(np.int32)
    return training_step(_model("b0", 11, "float32"), _noise(8, 256, 256, 3), labels)


def training_step(
    model: Any,
    pixels: Any,
    labels: Any,
    *,
    rate: float = 6e-5,
    decay: float = 0.01,
    platform: str | None = None,
    sharding: Any = None,
) -> Callable[[], float]:
    """Returns a function that runs one step of AdamW and returns the loss.

    The step is pure and jitted; its state is donated, and kept from call to call. With a platform,
    operations are traced in its forms, as `segformer-jax train` does. With a sharding, the state
    has it, and so does the loss.
    """
    model.train()
    graph, params, stats = nnx.split(model, nnx.Param, ...)
    optimizer = optax.adamw(rate, weight_decay=decay)
    forms = contextlib.nullcontext
    if platform is not None:
        from segformer_jax import ops

        forms = functools.partial(ops.use, ops.forms_for(platform), local_batch=sharding is None)

    def step(state, pixels, labels):
        params, stats, moments, key = state

        def loss_of(params):
            own = nnx.merge(graph, params, stats, copy=True)
            loss = own(pixels, labels, rngs=nnx.Rngs(dropout=key)).loss
            return loss, nnx.state(own, nnx.BatchStat)

        with forms():
            (loss, new), gradients = jax.value_and_grad(loss_of, has_aux=True)(params)
        updates, moments = optimizer.update(gradients, moments, params)
        params = optax.apply_updates(params, updates)
        return (params, new, moments, jax.random.fold_in(key, 0)), loss

    jitted = jax.jit(step, donate_argnums=0, out_shardings=sharding)
    state = (params, stats, optimizer.init(params), jax.random.key(0))
    state = state if sharding is None else jax.device_put(state, sharding)

    def run() -> float:
        nonlocal state
        state, loss = jitted(state, pixels, labels)
        return float(loss)

    return run


def class_map() -> Run:
    """Returns a run from logits of 150 classes, in patches as in a photo, to 960 × 1280 classes."""
    from segformer_jax.inference.class_map import class_map

    coarse = 4 * np.repeat(np.repeat(_noise(1, 16, 16, LABELS), 8, 1), 8, 2)
    logits = jnp.asarray(coarse + _noise(1, 128, 128, LABELS))
    return lambda: class_map(logits, (960, 1280))


def folder() -> Run:
    """Returns a run of the command `segment` on a folder of 200 photos of 640 × 480."""
    from segformer_jax.cli import main

    place = Path(tempfile.mkdtemp())
    _make_photos(place / "photos")
    outs = (place / f"out{number}" for number in range(1_000_000))  # an old one is resumed

    def run() -> None:
        out = next(outs)
        with contextlib.suppress(SystemExit):
            main(["segment", str(place / "photos"), "--out-dir", str(out)])
        assert len(list(out.rglob("*.mask.png"))) == PHOTOS, f"{out} lacks masks"

    return run


CASES: dict[str, Callable[[], Run]] = {
    "b0": lambda: forward("b0"),
    "b2": lambda: forward("b2"),
    "b5": lambda: forward("b5"),
    "b0-bf16": lambda: forward("b0", "bfloat16"),
    "train-step": train_step,
    "class-map": class_map,
    "folder": folder,
}


def _model(variant: str, labels: int, dtype: str) -> Any:
    from segformer_jax import SegformerConfig, SegformerForSemanticSegmentation

    config = getattr(SegformerConfig, variant)(num_labels=labels)
    model = SegformerForSemanticSegmentation(config, dtype=jnp.dtype(dtype), rngs=nnx.Rngs(0))
    model.eval()
    return model


def _noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def _make_photos(folder: Path) -> None:
    folder.mkdir()
    with Image.open(STREET) as street:
        for index, share in enumerate(np.random.default_rng(0).uniform(0.5, 1, PHOTOS)):
            box = (0, 0, round(share * street.width), round(share * street.height))
            street.resize((640, 480), box=box).save(folder / f"{index:03d}.jpg", quality=90)


def _serve(checkout: str, case: str) -> None:
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # keeps what the library prints apart from the answers
    import segformer_jax

    found = Path(segformer_jax.__file__)
    assert found.is_relative_to(Path(checkout).resolve()), f"{found} is not of {checkout}"
    run = CASES[case]()
    run(), run()  # to compile, and to warm up
    print("ready", file=answers)
    for _ in sys.stdin:
        start = time.perf_counter()
        run()
        print(1e3 * (time.perf_counter() - start), file=answers)


if __name__ == "__main__":
    _serve(*sys.argv[1:])
