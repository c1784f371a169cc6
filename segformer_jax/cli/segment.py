"""`segment`: pictures in, masks out."""

from pathlib import Path
from typing import Annotated, Literal

import tyro

from segformer_jax.cli.model import DEFAULT_MODEL
from segformer_jax.cli.protocol_options import Name, make_protocol
from segformer_jax.images.flips import Flip
from segformer_jax.inference.outputs import Output


def segment(
    images: Annotated[
        tuple[Path, ...],
        tyro.conf.Positional,
        tyro.conf.arg(metavar="IMAGE...", help_behavior_hint="(at least one)"),
    ],
    model: str = DEFAULT_MODEL,
    out_dir: Path = Path("out"),
    outputs: tuple[Output, ...] = (),
    alpha: float = 0.5,
    device: str | None = None,
    dtype: Literal["float32", "bfloat16"] = "float32",
    batch_size: int = 8,
    max_pixels: int = 178_956_970,
    protocol: Name | None = None,
    slide: tuple[int, ...] = (),
    scales: tuple[float, ...] = (),
    flip: bool = False,
    flip_direction: tuple[Flip, ...] = (),
    threshold: float = 0.5,
    bands: tuple[int, ...] = (),
    smoothing: float = 0.0,
    overwrite: bool = False,
    json: bool = False,
    ray: str | None = None,
) -> int:
    """Segment pictures: DIR/<stem>.overlay.png, .mask.png, .npy, .json and a table of classes.

    A folder, a quoted pattern such as `photos/**/*.jpg` or a LIST.txt with a path a line stands for
    many: what can't be read is reported in DIR/report.json, the rest is done, and the same command
    goes on after an interruption. A film becomes DIR/<stem>.overlay.mp4, or DIR/<stem>.masks/.

    Args:
        images: the pictures; or one folder, pattern or list; or films.
        model: a weights package, a folder, or a hub name.
        out_dir: where the results go; made when missing.
        outputs: which files to write for each picture; overlay and mask when left out, overlay
            alone for films, which have these two.
        alpha: weight of the colours in the overlay, 0 to 1.
        device: cpu, gpu or tpu; the fastest there is when left out.
        dtype: what the matrix products compute in.
        batch_size: pictures that go through the network together.
        max_pixels: the largest picture that is opened whole; a larger TIFF is read in windows.
        protocol: the paper's way on Cityscapes (windows of 1024, stride 768) or ADE20K (the whole
            picture, short side 512); -ms with six scales and flips. What is given beside it counts.
        slide: a window's side and the stride, which is three quarters of it when left out. Rasters
            (.vrt, .jp2, .img, and TIFFs that have a georeference or exceed --max-pixels) always
            go in windows, through GDAL, to TIFFs; with --slide or --bands all TIFFs do.
        scales: times the picture's size; the probabilities of all are averaged.
        flip: average with the mirrored picture, too.
        flip_direction: average with the picture flipped in each of these directions, too.
        threshold: for a model of one class, which is where its probability is above this.
        bands: of a raster, from 1: those that are grey, or red, green and blue.
        smoothing: for films, the weight of the frames before, at least 0 (none) and below 1.
        overwrite: begin anew where the results of a folder are there already.
        json: print one JSON object, and nothing else, on standard output.
        ray: on a Ray cluster, where images may be folders and URIs too: local starts one here, auto
            finds the one of this machine, HOST:PORT and ray://HOST:PORT are elsewhere.
    """
    from segformer_jax.cli.segment_film import is_film, segment_films
    from segformer_jax.cli.segment_folder import names_many, segment_many_files
    from segformer_jax.cli.segment_on_ray import segment_on_ray
    from segformer_jax.cli.segment_photos import segment_photos
    from segformer_jax.cli.segment_raster import is_raster, segment_rasters
    from segformer_jax.cli.segment_request import Request

    if not images:
        raise ValueError("no picture given: segformer-jax segment IMAGE...")
    films = [source for source in images if is_film(source) and not names_many(source)]
    request = Request(
        model=model,
        out_dir=out_dir,
        outputs=outputs or (("overlay",) if films else ("overlay", "mask")),
        alpha=alpha,
        device=device,
        dtype=dtype,
        batch_size=batch_size,
        max_pixels=max_pixels,
        json=json,
        protocol=make_protocol(
            protocol,
            slide=slide,
            scales=scales,
            flip=flip,
            flip_direction=flip_direction,
            threshold=threshold,
        ),
        bands=bands,
        overwrite=overwrite,
        smoothing=smoothing,
    )
    if ray is not None:
        return segment_on_ray(images, request, ray)
    if films:
        if len(films) < len(images):
            raise ValueError(f"{films[0]} is a film; segment films and pictures by two commands")
        return segment_films(images, request)
    if smoothing:
        raise ValueError("--smoothing is for films; pictures have no frames before them")
    many = [source for source in images if names_many(source)]
    rasters = [source for source in images if source not in many and is_raster(source, request)]
    if bands and not rasters:
        raise ValueError(f"{images[0]} is no raster: --bands is for TIFF, .vrt, .jp2 and .img")
    if many:
        if len(images) > 1:
            raise ValueError(f"{many[0]} stands for many pictures; segment it alone")
        return segment_many_files(many[0], request)
    if rasters:
        if len(rasters) < len(images):
            raise ValueError(
                f"{rasters[0]} is a raster, and others are not: segment rasters in a command of "
                "their own"
            )
        return segment_rasters(images, request)
    return segment_photos(images, request)
