"""Compiles all programs that a model needs for given input sizes, into a folder."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from segformer_jax.atomic import atomic_folder
from segformer_jax.config import SegformerConfig
from segformer_jax.images.processor import SegformerImageProcessor
from segformer_jax.inference import compiled
from segformer_jax.inference.class_map import rounded_width
from segformer_jax.inference.made_for import MadeFor
from segformer_jax.inference.programs import Manifest, cache_in, names_written, probe
from segformer_jax.inference.segmenter import Segmenter

WIDEST = 8192  # pixels of a picture whose class map is compiled for, where its width matters


def compile_ahead(
    model: str | Path,
    folder: str | Path,
    *,
    sizes: Sequence[tuple[int, int]] = (),
    batch_size: int = 8,
    dtype: Any = jnp.float32,
    device: Any = None,
    done: Callable[[int, int, int], None] = lambda height, width, count: None,
    **hub_options: Any,
) -> Manifest:
    """Writes the programs with which `Segmenter` computes class maps, for `use_programs`.

    They are those of `segment` for photos and of `serve`: whole pictures in batches of every size
    up to `batch_size`, without scores. Programs of windows, of several scales and of probabilities
    are not among them. They run only on CPUs, or accelerators, of the kind that compiles them.

    Args:
        model: "scene-b0", a folder, or a name on the Hugging Face hub.
        folder: the folder to write; replaced if it is empty or holds programs, else never touched.
        sizes: heights and widths of the network's input in pixels; by default the size that the
            model's processor resizes pictures to.
        batch_size: largest number of pictures per run of the network, over all devices.
        dtype: type of the matrix products, as for `Segmenter.from_pretrained`.
        device: as for `Segmenter`.
        done: called with height, width and batch size when their programs are compiled.
        hub_options: as for `Segmenter.from_pretrained`.

    Returns:
        What was written, as in programs.json.

    Raises:
        WeightsError: as `Segmenter.from_pretrained`.
        ValueError: a size is too small for the network, or missing although the processor keeps
            the ratio of pictures; the folder holds other files or can't be written.
    """
    sizes = chosen_sizes(model, sizes, **hub_options)
    with atomic_folder(folder, written=names_written) as temporary:
        with cache_in(temporary, written=True):
            jax.clear_caches()  # what this process has compiled before would not be written
            compiled.forget_known()
            probe(device)
            segmenter = Segmenter.from_pretrained(
                model, dtype=jnp.dtype(dtype), device=device, batch_size=batch_size, **hub_options
            )
            for size in sizes:
                for count in segmenter.batch_sizes(*size):
                    _run(segmenter, size, count)
                    done(*size, count)
            config: Any = segmenter.config
        files = {
            file.name: hashlib.sha256(file.read_bytes()).hexdigest()
            for file in sorted(temporary.iterdir())
        }
        manifest = Manifest(
            MadeFor.here(config, dtype, device),
            str(model),
            sizes,
            sorted({count for size in sizes for count in segmenter.batch_sizes(*size)}),
            files,
        )
        manifest.write(temporary)
    return manifest


def chosen_sizes(
    model: str | Path, sizes: Sequence[tuple[int, int]] = (), **hub_options: Any
) -> list[tuple[int, int]]:
    """Returns the input sizes to compile for: the given ones, or the processor's.

    Raises:
        ValueError: as `compile_ahead`.
    """
    config = SegformerConfig.from_pretrained(str(model), **hub_options)
    least = config.minimum_size
    for height, width in sizes:
        if min(height, width) < least:
            raise ValueError(
                f"--size must be a height and a width of at least {least} pixels for this "
                f"network, got {height} {width}"
            )
    if sizes:
        return list(dict.fromkeys((int(height), int(width)) for height, width in sizes))
    own = SegformerImageProcessor.from_pretrained(model, **hub_options).fixed_size
    if own is None:
        raise ValueError(
            f"the processor of {model} keeps the ratio of pictures, so its sizes are not known: "
            "give the heights and widths of the network's input, such as --size 512 683 683 512"
        )
    return [own]


def _run(segmenter: Segmenter, size: tuple[int, int], count: int) -> None:
    """Runs all programs of an input size and batch size once, with black pictures."""
    channels = segmenter.processor.channels or getattr(segmenter.config, "num_channels", 3)
    black = np.zeros((*size, channels), np.uint8)
    segmenter.class_maps([black] * count, [(64, 64)] * count)
    if count == segmenter.batch_sizes(*size)[0]:  # CPUs need one program of class maps, others some
        for width in sorted({rounded_width(width) for width in range(1, WIDEST + 1)}):
            segmenter.class_maps([black], [(64, width)])
