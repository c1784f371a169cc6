"""Tiny runs for the tests of training: pictures of shapes, a network, a program for processes."""

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
import reference
from data.folders import save, write_json
from jax.experimental.compilation_cache import compilation_cache

from segformer_jax import SegformerImageProcessor
from segformer_jax.training.settings import TrainSettings

SMALL = dict(
    num_labels=3,
    num_encoder_blocks=2,
    depths=[1, 1],
    sr_ratios=[4, 2],
    hidden_sizes=[8, 16],
    patch_sizes=[7, 3],
    strides=[4, 2],
    num_attention_heads=[1, 2],
    mlp_ratios=[2, 2],
)
NAMES = {0: "ground", 1: "square", 2: "disc"}
ROOT = Path(__file__).resolve().parents[2]
PROGRAM = [sys.executable, "-c", "from segformer_jax.cli import main; main()"]


def shapes(seed: int, side: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """A picture of a red square and a blue disc, 20 pixels or more, and its mask."""
    rng = np.random.default_rng(seed)
    image = rng.integers(60, 90, (side, side, 3)).astype(np.uint8)
    mask = np.zeros((side, side), np.uint8)
    top, left = rng.integers(2, 12, 2)
    mask[top : top + 24, left : left + 24] = 1
    y, x = np.mgrid[:side, :side]
    middle_y, middle_x = rng.integers(48, 52, 2)
    mask[(y - middle_y) ** 2 + (x - middle_x) ** 2 < 121] = 2
    image[mask == 1], image[mask == 2] = (200, 60, 40), (40, 80, 220)
    return image, mask


def write_shapes(root: Path, *, train: int = 6, val: int = 4) -> Path:
    """A data folder of such pictures, 64×64."""
    for split, count, first in (("train", train, 0), ("val", val, 100)):
        for number in range(count):
            image, mask = shapes(first + number)
            save(image, root / split / "images" / f"{number}.png")
            save(mask, root / split / "masks" / f"{number}.png")
    write_json({str(index): name for index, name in NAMES.items()}, root / "id2label.json")
    return root


def write_model(folder: Path, **config) -> Path:
    """A random network of three classes, as transformers saves it, with the default processor.

    It has two stages, for a step of it is compiled in half the time.
    """
    hf = reference.hf_model("ForSemanticSegmentation", **(SMALL | config))
    hf.config.id2label = NAMES
    hf.config.label2id = {name: index for index, name in NAMES.items()}
    hf.float().save_pretrained(folder)
    SegformerImageProcessor().save_pretrained(folder)
    return folder


def settings_of(folder: Path, **changes) -> TrainSettings:
    """A short run on `folder`/data from `folder`/model."""
    usual = dict(
        data=str(folder / "data"),
        model=str(folder / "model"),
        steps=4,
        batch_size=4,
        eval_every=2,
    )
    return TrainSettings(**(usual | changes))


def rows(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def losses(run: Path) -> list[tuple[int, float]]:
    return [(row["step"], row["loss"]) for row in rows(run)]


def weights(run: Path, name: str = "last") -> bytes:
    return (run / name / "model.safetensors").read_bytes()


def files(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Every file's content and time of change."""
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def environment(cache: Path, *flags: str, optimized: bool = False, **more: str) -> dict[str, str]:
    """Of a process that imports this tree, and shares what it compiles, fast or as users do."""
    if not optimized:
        inherited = os.environ.get("XLA_FLAGS", "")
        flags = (inherited, "--xla_backend_optimization_level=0", *flags)
    return os.environ | {
        "PYTHONPATH": str(ROOT),
        "XDG_CACHE_HOME": str(cache),
        "XLA_FLAGS": " ".join(flags),
        **more,
    }


@contextlib.contextmanager
def compiled_once(folder: Path) -> Iterator[None]:
    """Programs of this process are compiled fast, and equal ones once."""
    options = {
        "jax_compilation_cache_dir": str(folder),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_disable_most_optimizations": True,
    }
    *cache, fast = options  # JAX has the first as attributes, the last is read by its name
    before = {name: getattr(jax.config, name) for name in cache} | {fast: jax.config.read(fast)}
    for name, value in options.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()
    try:
        yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()
