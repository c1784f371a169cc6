"""`segment` for films: an overlay film, or a mask for each frame."""

import time
from pathlib import Path
from typing import Any

from segformer_jax.cli.out_dir import output_folder
from segformer_jax.cli.printing import print_json
from segformer_jax.cli.progress_bar import progress, say_aside
from segformer_jax.cli.segment_request import Request
from segformer_jax.inference.protocol import Protocol

ENDINGS = (
    *(".3gp", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4"),
    *(".mpeg", ".mpg", ".mts", ".ogv", ".ts", ".webm", ".wmv"),
)


def is_film(source: Path) -> bool:
    """Whether the name of a file has the ending of a film."""
    return source.suffix.lower() in ENDINGS


def segment_films(sources: tuple[Path, ...], request: Request) -> int:
    """Writes DIR/<stem>.overlay.mp4 and DIR/<stem>.masks/ for each film; returns the exit code."""
    others = set(request.outputs) - {"overlay", "mask"}
    if others:
        raise ValueError(
            "--outputs must be overlay (an .mp4) or mask (a folder of PNGs) for a "
            f"film, got {others.pop()}: leave it out"
        )
    if request.protocol != Protocol():
        raise ValueError(
            "a film's frames are segmented at the processor's size: leave out "
            "--protocol, --slide, --scales, --flip and --threshold, which are for "
            "pictures"
        )
    if request.stretch is not None:
        raise ValueError(
            "--range and --stretch are for pictures of more than 8 bits, which a film's frames do "
            "not have: leave them out"
        )
    frames = [_checked(sources, source) for source in sources]
    with output_folder(request.out_dir):
        segmenter = request.segmenter()
        reports = []
        for source, count in zip(sources, frames, strict=True):
            reports.append(_segment(segmenter, source, count, request))
            if not request.json:
                _print_report(reports[-1])
    if request.json:
        print_json({"model": request.model, "films": reports})
    return 1 if any(report["damage"] for report in reports) else 0


def _segment(segmenter: Any, source: Path, count: int, request: Request) -> dict[str, Any]:
    from segformer_jax.inference.pipeline import Span, waited_share
    from segformer_jax.video.film import segment_film

    overlay, masks = (request.out_dir / f"{source.stem}{end}" for end in (".overlay.mp4", ".masks"))
    spans: list[Span] = []
    started = time.monotonic()
    with progress(count or None, unit="frame") as step:
        result = segment_film(
            segmenter,
            source,
            overlay=overlay if "overlay" in request.outputs else None,
            masks=masks if "mask" in request.outputs else None,
            alpha=request.alpha,
            smoothing=request.smoothing,
            progress=step,
            spans=spans,
        )
    seconds = time.monotonic() - started
    if result.damage:
        say_aside(f"{source} is damaged: {result.damage}")
    if result.audio.startswith("dropped"):
        say_aside(f"the sound of {source} is {result.audio}")
    height, width = result.size
    return {
        "film": str(source),
        "frames": result.frames,
        "height": height,
        "width": width,
        "damage": result.damage,
        "audio": result.audio,
        "seconds": round(seconds, 3),
        "frames_per_second": round(result.frames / seconds, 3),
        "device_waited_share": round(waited_share(spans), 4),
        "outputs": {
            kind: str(file)
            for kind, file in (("overlay", overlay), ("mask", masks))
            if kind in request.outputs
        },
    }


def _checked(sources: tuple[Path, ...], source: Path) -> int:
    from segformer_jax.video.film import check_film

    same = [other for other in sources if other.stem == source.stem]
    if len(same) > 1:
        raise ValueError(
            f"{same[0]} and {same[1]} would both be written as {source.stem}.*: segment them into "
            "two folders (--out-dir)"
        )
    return check_film(source)


def _print_report(report: dict[str, Any]) -> None:
    print(
        f"{report['film']}, {report['width']}×{report['height']}: {report['frames']:,} frames in "
        f"{report['seconds']:.1f} s, {report['frames_per_second']:.1f} a second; the device waited "
        f"{100 * report['device_waited_share']:.1f} % of the time"
    )
    for file in report["outputs"].values():
        print(file)
