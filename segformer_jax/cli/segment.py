"""`segment`: pictures in, masks out."""

from pathlib import Path
from typing import Annotated, Literal

import tyro

from segformer_jax.cli.on_ray import segment_on_ray
from segformer_jax.cli.photos import segment_photos
from segformer_jax.cli.request import DEFAULT_MODEL, Output, Request


def segment(
    images: Annotated[
        tuple[Path, ...],
        tyro.conf.Positional,
        tyro.conf.arg(metavar="IMAGE...", help_behavior_hint="(at least one)"),
    ],
    model: str = DEFAULT_MODEL,
    out_dir: Path = Path("out"),
    outputs: tuple[Output, ...] = ("overlay", "mask"),
    alpha: float = 0.5,
    device: str | None = None,
    dtype: Literal["float32", "bfloat16"] = "float32",
    batch_size: int = 8,
    max_pixels: int = 178_956_970,
    json: bool = False,
    ray: str | None = None,
) -> int:
    """Segment pictures: DIR/<stem>.overlay.png, .mask.png, .npy, .json and a table of classes.

    Args:
        images: the pictures.
        model: a weights package, a folder, or a hub name.
        out_dir: where the results go; made when missing.
        outputs: which files to write for each picture.
        alpha: weight of the colours in the overlay, 0 to 1.
        device: cpu, gpu or tpu; the fastest there is when left out.
        dtype: what the matrix products compute in.
        batch_size: pictures that go through the network together.
        max_pixels: the largest picture that is opened.
        json: print one JSON object, and nothing else, on standard output.
        ray: on a Ray cluster, where images may be folders and URIs too: local starts one here, auto
            finds the one of this machine, HOST:PORT and ray://HOST:PORT are elsewhere.
    """
    if not images:
        raise ValueError("no picture given: segformer-jax segment IMAGE...")
    request = Request(
        model=model,
        out_dir=out_dir,
        outputs=outputs,
        alpha=alpha,
        device=device,
        dtype=dtype,
        batch_size=batch_size,
        max_pixels=max_pixels,
        json=json,
    )
    if ray is not None:
        return segment_on_ray(images, request, ray)
    return segment_photos(images, request)
