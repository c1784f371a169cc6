"""`segment` for a folder, a pattern or a list: reports unreadable pictures and segments the others.

Repeating the command resumes it: pictures whose files all exist are skipped, and files are written
completely or not at all.
"""

import contextlib
import errno
import os
import time
from collections.abc import Generator, Iterable
from pathlib import Path
from typing import Any

from segformer_jax.atomic import LEFT_OVER, atomic_path
from segformer_jax.cli.coco_file import COCO, merge_coco
from segformer_jax.cli.made_with import (
    FILE,
    check_settings,
    read_settings,
    settings_of,
    write_settings,
)
from segformer_jax.cli.out_dir import output_folder
from segformer_jax.cli.printing import about, print_json, say
from segformer_jax.cli.progress_bar import progress, say_aside
from segformer_jax.cli.results_of import Picture
from segformer_jax.cli.segment_raster import ALWAYS, is_raster, segment_one
from segformer_jax.cli.segment_request import Request
from segformer_jax.errors import ImageError
from segformer_jax.images.find import find_pictures, is_pattern, other_files
from segformer_jax.json_text import json_bytes

REPORT = "report.json"
BAD_NAME = (errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ)  # a file system allows no such name


def names_many(source: Path) -> bool:
    """Whether an argument of `segment` stands for many pictures: a folder, a pattern, a list."""
    return source.is_dir() or is_pattern(source) or source.suffix.lower() == ".txt"


def segment_many_files(source: Path, request: Request) -> int:
    """Writes DIR/<name>.overlay.png and so on for each picture, report.json and segment.json.

    Rasters among the pictures (`is_raster`) are segmented as if they were named one by one.
    """
    root, found = find_pictures(source, without=request.out_dir, also=ALWAYS)
    if root.resolve() == request.out_dir.resolve():
        raise ValueError(
            "--out-dir must not be the folder of the pictures, got "
            f"{request.out_dir}: choose another, because the results would be read "
            "as pictures"
        )
    pictures = [Picture(own.file, own.name, is_raster(own.file, request)) for own in found]
    _check(pictures, request)
    with output_folder(request.out_dir):
        settings = settings_of(request, root)
        if request.overwrite:
            _remove(pictures, request)
        else:
            check_settings(settings, request.out_dir)
            _check_known(pictures, request)
        _remove_left_overs(pictures, request)
        missing = [own for own in pictures if not _is_there(own, request)]
        report = {
            "model": request.model,
            "source": str(source),
            "out_dir": str(request.out_dir),
            "pictures": len(pictures),
            "done_before": len(pictures) - len(missing),
            "other_files": _count_others(source, request),
        }
        if missing:
            report |= _segment(missing, request, settings)
        else:
            report |= {"done": 0, "failed": []}
        if "coco" in request.outputs:
            merge_coco(
                [picture.results(request)["coco"] for picture in pictures], request.out_dir / COCO
            )
        with atomic_path(request.out_dir / REPORT) as temporary:
            temporary.write_bytes(json_bytes(report))
    if request.json:
        print_json(report)
    else:
        _print_report(report)
    return 1 if report["failed"] else 0


def _segment(pictures: list[Picture], request: Request, settings: dict[str, Any]) -> dict[str, Any]:
    from segformer_jax.inference.pipeline import Span, waited_share

    segmenter = request.segmenter()
    if any(picture.raster for picture in pictures):
        _check_protocol(segmenter, request)
    before = (None if request.overwrite else read_settings(request.out_dir)) or {}
    write_settings(before | settings, request.out_dir)
    failed: list[dict[str, str]] = []
    spans: list[Span] = []
    started = time.monotonic()
    outcomes = _outcomes(segmenter, pictures, request, spans)
    with contextlib.closing(outcomes), progress(len(pictures), unit="picture") as step:
        for picture, error in outcomes:
            if error is not None:
                reason = about(picture.file, error)
                failed.append({"image": str(picture.file), "error": reason})
                say_aside(reason)
            step()
    seconds = time.monotonic() - started
    done = len(pictures) - len(failed)
    report = {
        "done": done,
        "failed": failed,
        "seconds": round(seconds, 3),
        "images_per_second": round(done / seconds, 3),
    }
    return report | ({"device_waited_share": round(waited_share(spans), 4)} if spans else {})


def _check_protocol(segmenter: Any, request: Request) -> None:
    from segformer_jax.geo.raster import raster_protocol

    raster_protocol(segmenter, request.protocol)


def _outcomes(
    segmenter: Any, pictures: list[Picture], request: Request, spans: list[tuple[float, float]]
) -> Generator[tuple[Picture, Exception | None]]:
    """Yields each picture, photos first, when it is done, and the error if it has no results."""
    from segformer_jax.inference.pipeline import segment_many

    def read(picture):
        return segmenter.processor.read(picture.file, max_pixels=request.max_pixels)

    def save(picture, result):
        try:
            picture.save(result, request)
        except OSError as error:
            return _only_bad_names(error)

    photos = [picture for picture in pictures if not picture.raster]
    outcomes = segment_many(
        segmenter, photos, read=read, then=save, spans=spans, protocol=request.protocol
    )
    with contextlib.closing(outcomes):
        for outcome in outcomes:
            yield outcome.source, outcome.error or outcome.value
    for picture in pictures:
        if picture.raster:
            error: Exception | None = None
            try:
                segment_one(segmenter, picture, request)
            except (ImageError, ImportError) as own:
                error = own
            except OSError as own:
                error = _only_bad_names(own)
            yield picture, error


def _only_bad_names(error: OSError) -> ImageError:
    """Returns the error of a name that the file system refuses; raises any other error."""
    if error.errno not in BAD_NAME:
        raise error
    return ImageError(f"the results can't have this name: {error.strerror}: rename the picture")


def _check(pictures: list[Picture], request: Request) -> None:
    """Raises a ValueError if a picture can't have a requested result, or its name is taken."""
    taken_names = (REPORT, FILE, *([COCO] if "coco" in request.outputs else []))
    own = {request.out_dir / name for name in taken_names}
    for picture in pictures:
        if request.bands and not picture.raster:
            raise ValueError(
                f"--bands can be used with rasters only (TIFF, .vrt, .jp2, .img), got "
                f"{picture.file}: leave it out, or give a pattern such as 'photos/*.tif'"
            )
        taken = own & set(picture.results(request).values())
        if taken:
            raise ValueError(
                f"{picture.file} would be written as {taken.pop()}, which the command "
                "writes itself: rename the picture, or leave json out of --outputs"
            )


def _check_known(pictures: Iterable[Picture], request: Request) -> None:
    """Raises a ValueError if results exist without segment.json, which says how they were made."""
    if (request.out_dir / FILE).exists():
        return
    for picture in pictures:
        for file in picture.results(request).values():
            if os.path.exists(file):
                raise ValueError(
                    f"{file} exists, but {FILE}, which records how it was made, is missing: "
                    "give another --out-dir, or --overwrite to replace it"
                )


def _is_there(picture: Picture, request: Request) -> bool:
    return all(os.path.exists(file) for file in picture.results(request).values())


def _remove(pictures: Iterable[Picture], request: Request) -> None:
    """Removes all results, also kinds that are not requested, as they are of other settings."""
    for picture in pictures:
        for file in picture.all_results(request):
            if os.path.exists(file):  # false, too, for a name that is too long
                file.unlink()


def _remove_left_overs(pictures: Iterable[Picture], request: Request) -> None:
    """Removes unfinished files of a killed run; others may be in use by runs on other pictures."""
    results = {file for picture in pictures for file in picture.all_results(request)}
    for place, _, files in os.walk(request.out_dir):
        for name in files:
            begun = LEFT_OVER.fullmatch(name)
            if begun and Path(place, begun[1]) in results:
                Path(place, name).unlink(missing_ok=True)


def _count_others(source: Path, request: Request) -> dict[str, int]:
    """Counts the files of a folder that have no ending of a picture, by their ending."""
    if not source.is_dir():
        return {}
    others = other_files(source, without=request.out_dir)
    return {ending: len(files) for ending, files in sorted(others.items())}


def _print_report(report: dict[str, Any]) -> None:
    if report["done"]:
        waited = report.get("device_waited_share")  # unknown with windows, scales or flips
        print(
            f"pictures done: {report['done']:,} in {report['seconds']:.1f} s, "
            f"{report['images_per_second']:.1f} a second"
            + ("" if waited is None else f"; the device waited {100 * waited:.1f} % of the time")
        )
    if report["done_before"]:
        print(f"there already: {report['done_before']:,}")
    if others := report["other_files"]:
        told = ", ".join(f"{count:,} {ending or 'no ending'}" for ending, count in others.items())
        say(f"files left out, whose endings are of no picture: {told}")
    if report["failed"]:
        say(f"pictures that could not be read: {len(report['failed']):,}")
    print(Path(report["out_dir"]) / REPORT)
