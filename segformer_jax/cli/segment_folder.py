"""`segment` for a folder, a pattern or a list: reports unreadable pictures and segments the others.

Repeating the command resumes it: pictures whose files all exist are skipped, and files are written
completely or not at all.
"""

import contextlib
import json
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from segformer_jax.atomic import LEFT_OVER, atomic_path
from segformer_jax.cli.made_with import (
    FILE,
    check_settings,
    read_settings,
    settings_of,
    write_settings,
)
from segformer_jax.cli.out_dir import output_folder
from segformer_jax.cli.printing import one_line, print_json, say
from segformer_jax.cli.progress_bar import progress, say_aside
from segformer_jax.cli.segment_request import Request
from segformer_jax.images.find import Found, find_pictures, is_pattern, other_files
from segformer_jax.inference.result_files import ENDINGS

REPORT = "report.json"


def names_many(source: Path) -> bool:
    """Whether an argument of `segment` stands for many pictures: a folder, a pattern, a list."""
    return source.is_dir() or is_pattern(source) or source.suffix.lower() == ".txt"


def segment_many_files(source: Path, request: Request) -> int:
    """Writes DIR/<name>.overlay.png and so on for each picture, report.json and segment.json."""
    root, pictures = find_pictures(source, without=request.out_dir)
    if root.resolve() == request.out_dir.resolve():
        raise ValueError(
            "--out-dir must not be the folder of the pictures, got "
            f"{request.out_dir}: choose another, because the results would be read "
            "as pictures"
        )
    _check_names(pictures, request)
    with output_folder(request.out_dir):
        settings = settings_of(request, root)
        if request.overwrite:
            _remove(pictures, request.out_dir)
        else:
            check_settings(settings, request.out_dir)
            _check_known(pictures, request)
        _remove_left_overs(pictures, request.out_dir)
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
        with atomic_path(request.out_dir / REPORT) as temporary:
            temporary.write_text(
                json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
            )
    if request.json:
        print_json(report)
    else:
        _print_report(report)
    return 1 if report["failed"] else 0


def output_files(picture: Found, request: Request) -> dict[str, Path]:
    """Returns the path of each requested kind of result of a picture."""
    return {kind: request.out_dir / f"{picture.name}{ENDINGS[kind]}" for kind in request.outputs}


def _segment(pictures: list[Found], request: Request, settings: dict[str, Any]) -> dict[str, Any]:
    from segformer_jax.inference.pipeline import Span, segment_many, waited_share

    segmenter = request.segmenter()
    before = (None if request.overwrite else read_settings(request.out_dir)) or {}
    write_settings(before | settings, request.out_dir)
    failed: list[dict[str, str]] = []
    spans: list[Span] = []

    def read(picture):
        return segmenter.processor.read(picture.file, max_pixels=request.max_pixels)

    def save(picture, result):
        for file in output_files(picture, request).values():
            result.save(file, alpha=request.alpha)

    started = time.monotonic()
    outcomes = segment_many(
        segmenter, pictures, read=read, then=save, spans=spans, protocol=request.protocol
    )
    with contextlib.closing(outcomes), progress(len(pictures), unit="picture") as step:
        for outcome in outcomes:
            if outcome.error is not None:
                reason = one_line(outcome.error)
                failed.append({"image": str(outcome.source.file), "error": reason})
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


def _check_names(pictures: list[Found], request: Request) -> None:
    """Raises a ValueError if a result would have the name of report.json or segment.json."""
    own = {request.out_dir / name for name in (REPORT, FILE)}
    for picture in pictures:
        taken = own & set(output_files(picture, request).values())
        if taken:
            raise ValueError(
                f"{picture.file} would be written as {taken.pop()}, which the command "
                "writes itself: rename the picture, or leave json out of --outputs"
            )


def _check_known(pictures: Iterable[Found], request: Request) -> None:
    """Raises a ValueError if results exist without segment.json, which says how they were made."""
    if (request.out_dir / FILE).exists():
        return
    for picture in pictures:
        for file in output_files(picture, request).values():
            if file.exists():
                raise ValueError(
                    f"{file} exists, but {FILE}, which records how it was made, is missing: "
                    "give another --out-dir, or --overwrite to replace it"
                )


def _is_there(picture: Found, request: Request) -> bool:
    return all(os.path.exists(file) for file in output_files(picture, request).values())


def _remove(pictures: Iterable[Found], out_dir: Path) -> None:
    """Removes all results, also kinds that are not requested, as they are of other settings."""
    for picture in pictures:
        for ending in ENDINGS.values():
            (out_dir / f"{picture.name}{ending}").unlink(missing_ok=True)


def _remove_left_overs(pictures: Iterable[Found], out_dir: Path) -> None:
    """Removes unfinished files of a killed run; others may be in use by runs on other pictures."""
    names = {f"{picture.name}{ending}" for picture in pictures for ending in ENDINGS.values()}
    for place, _, files in os.walk(out_dir):
        for name in files:
            begun = LEFT_OVER.fullmatch(name)
            if begun and Path(place, begun[1]).relative_to(out_dir).as_posix() in names:
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
