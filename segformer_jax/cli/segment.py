"""`segment`: writes the masks of pictures."""

from pathlib import Path
from typing import Annotated, Literal

import tyro

from segformer_jax.cli.open_model import DEFAULT_MODEL
from segformer_jax.cli.protocol_options import Name, make_protocol
from segformer_jax.images.flips import Flip
from segformer_jax.images.stretch import chosen_stretch
from segformer_jax.inference.result_files import Output


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
    range: tuple[float, ...] = (),
    stretch: Literal["percentile"] | None = None,
    smoothing: float = 0.0,
    min_area: int = 0,
    simplify: float = 0.0,
    overwrite: bool = False,
    json: bool = False,
    ray: str | None = None,
    id2label: Path | None = None,
    programs: Path | None = None,
) -> int:
    """Segment pictures: DIR/<stem>.overlay.png, .mask.png, .npy, .json and a table of classes.

    To segment many pictures, give a folder, a quoted pattern such as `photos/**/*.jpg`, or a
    LIST.txt with a path a line. Pictures that can't be read are listed in DIR/report.json and the
    others are segmented; repeat the command to resume it. A film becomes DIR/<stem>.overlay.mp4,
    or DIR/<stem>.masks/.

    Args:
        images: the pictures; or one folder, pattern or list; or films.
        model: an installed weights package, a folder, or a name on the Hugging Face hub.
        out_dir: the folder of the results; created if missing.
        outputs: which files to write for each picture: by default overlay and mask. polygons is
            GeoJSON, coco and labelme are for annotation tools, gpkg is for rasters. Films have
            overlay and mask only, by default overlay.
        alpha: opacity of the colours in the overlay, 0 to 1.
        device: cpu, gpu or tpu; by default JAX chooses, preferring an accelerator.
        dtype: the type of the matrix products.
        batch_size: number of pictures per run of the network.
        max_pixels: largest picture, in pixels, that is decoded whole; larger TIFFs go in windows.
        protocol: the paper's settings for Cityscapes (windows of 1024, stride 768) or ADE20K (whole
            picture, short side 512); -ms adds six scales and flips. Other options override it.
        slide: segment in windows of this side and stride; the stride is by default three quarters
            of the side. Rasters (.vrt, .jp2, .img, and TIFFs with a georeference or more than
            --max-pixels) are always read in windows by GDAL and written as TIFFs; with --slide or
            --bands, all TIFFs are.
        scales: segment at these multiples of the picture's size and average the probabilities.
        flip: also segment the mirrored picture, and average the probabilities.
        flip_direction: also segment the picture flipped in each of these directions.
        threshold: for models of one class: pixels above this probability belong to it.
        bands: for rasters: numbers, from 1, of the grey band, or of red, green and blue; or of as
            many bands as the model has channels.
        range: for pictures of more than 8 bits: the values that become black and white, such as
            0 4095 for 12 bits; by default the model's, or the file's, or all of 16 bits.
        stretch: percentile makes the 2nd percentile of each band black and the 98th white instead.
        min_area: leave out polygons of fewer pixels.
        simplify: move the borders of polygons by up to so many pixels, so that they have fewer
            corners; neighbours keep a common border.
        smoothing: for films: weight of the earlier frames, in [0, 1); 0 is none.
        overwrite: replace the results that the folder already has.
        json: print one JSON object, and nothing else, to standard output.
        ray: segment on a Ray cluster; images may also be folders and URIs. local starts Ray on this
            machine, auto uses the Ray that runs here, HOST:PORT or ray://HOST:PORT another one.
        id2label: a file with the names of the model's classes, used instead of its own: JSON such
            as {"0": "road", "1": "sky"}, or a name a line.
        programs: a folder that segformer-jax compile wrote for this model, so that nothing needs to
            be compiled; by default the one that SEGFORMER_JAX_PROGRAMS names.
    """
    from segformer_jax.cli.class_names import read_class_names
    from segformer_jax.cli.segment_film import is_film, segment_films
    from segformer_jax.cli.segment_folder import names_many, segment_many_files
    from segformer_jax.cli.segment_on_ray import segment_on_ray
    from segformer_jax.cli.segment_photos import segment_photos
    from segformer_jax.cli.segment_raster import is_raster, segment_rasters
    from segformer_jax.cli.segment_request import Request

    if not images:
        raise ValueError("no picture given: write segformer-jax segment IMAGE...")
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
        min_area=min_area,
        simplify=simplify,
        id2label=read_class_names(id2label),
        stretch=chosen_stretch(range, stretch),
        programs=programs,
    )
    if ray is not None:
        return segment_on_ray(images, request, ray)
    if films:
        if len(films) < len(images):
            raise ValueError(
                f"{films[0]} is a film and can't be mixed with pictures: segment them "
                "by two commands"
            )
        return segment_films(images, request)
    if smoothing:
        raise ValueError("--smoothing can be used with films only: leave it out")
    many = [source for source in images if names_many(source)]
    rasters = [source for source in images if source not in many and is_raster(source, request)]
    if bands and not rasters and not many:
        raise ValueError(
            "--bands can be used with rasters only (TIFF, .vrt, .jp2, .img), got "
            f"{images[0]}: leave it out"
        )
    if many:
        if len(images) > 1:
            raise ValueError(
                f"{many[0]} is a folder, pattern or list, and can't be mixed with other "
                "pictures: segment it by a command with nothing else"
            )
        return segment_many_files(many[0], request)
    if rasters:
        if any(source.exists() for source in images if source not in rasters):
            raise ValueError(
                f"{rasters[0]} is a raster and can't be mixed with other pictures: "
                "segment rasters by a separate command"
            )
        return segment_rasters(images, request)
    return segment_photos(images, request)
