"""Segments films frame by frame, to an overlay film or a folder of masks.

Every frame keeps its timestamp in the film's own time unit, so films with a variable frame rate
keep their timing. Any film that PyAV's FFmpeg reads can be segmented.
"""

import contextlib
import functools
import json
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image

from segformer_jax.atomic import atomic_folder, atomic_path
from segformer_jax.images.read import read_image
from segformer_jax.inference.pipeline import Span, segment_many
from segformer_jax.inference.segmentation import Segmentation
from segformer_jax.inference.segmenter import Segmenter
from segformer_jax.json_text import readable
from segformer_jax.video.writer import Write, fate_of_sound, open_writer, picture_frame

TURNS = {  # FFmpeg and Pillow both count anticlockwise
    90: Image.Transpose.ROTATE_90,
    180: Image.Transpose.ROTATE_180,
    270: Image.Transpose.ROTATE_270,
}
MASK, TIMES = "{:06d}.png", "times.json"


@dataclass(frozen=True)
class FilmResult:
    """The result of `segment_film`.

    Attributes:
        frames: number of segmented frames.
        size: (height, width) of the first frame, upright.
        damage: why the film could not be read to its end; None if it was.
        audio: "copied", "none", or why it was dropped.
    """

    frames: int
    size: tuple[int, int]
    damage: str | None
    audio: str


@dataclass(frozen=True, eq=False)
class Frame:
    """A decoded frame and its time, which is `pts` × the film's `time_base`."""

    index: int
    pts: int
    image: Any  # av.VideoFrame


def check_film(path: str | Path) -> int:
    """Reads only a film's header; returns the number of frames that it states, or 0 if it doesn't.

    Raises:
        ImportError: PyAV is not installed.
        ValueError: the file does not exist, is not a film, or has no video.
    """
    with _opened(Path(path)) as (_, stream):
        return stream.frames


def segment_film(
    segmenter: Segmenter,
    path: str | Path,
    *,
    overlay: str | Path | None = None,
    masks: str | Path | None = None,
    alpha: int | float = 0.5,
    smoothing: int | float = 0.0,
    progress: Callable[[], None] | None = None,
    threads: int | None = None,
    spans: list[Span] | None = None,
) -> FilmResult:
    """Writes the film with its classes in colours, or a mask for each frame, or both.

    A damaged film is segmented as far as it can be read. Results appear when they are complete.

    Args:
        segmenter: its `batch_size` is the number of frames per batch.
        path: the film.
        overlay: .mp4 file to write, H.264 with the film's sound. If a side has an odd number of
            pixels, the last one is repeated, because H.264 stores colours for pairs of pixels.
        masks: folder to write, with the class indices of each frame and a palette, 000000.png and
            so on, and times.json, {"time_base": "1/10", "pts": [0, 1, …]}. Masks of an earlier
            call are replaced; a folder with other files is an error.
        alpha: opacity of the colours, 0…1.
        smoothing: weight of the earlier frames in the logits of a frame, in [0, 1): an exponential
            moving average, which starts again if the size of the frames changes.
        progress: called after each frame.
        threads: as in `segment_many`.
        spans: as in `segment_many`.

    Raises:
        ImportError: PyAV is not installed.
        ValueError: the film does not exist or has no video or no readable frame, `smoothing` is out
            of range, or the folder for masks has other files.
    """
    path = Path(path)
    if not 0 <= smoothing < 1:
        raise ValueError(f"smoothing must be in [0, 1), 0 for none, got {smoothing}")
    trouble: list[str] = []
    sound: deque[Any] = deque()
    times: list[int] = []
    write: Write | None = None  # opened when the first frame tells the size
    size = (0, 0)
    with ExitStack() as stack:
        container, stream = stack.enter_context(_opened(path))
        film = None if overlay is None else stack.enter_context(atomic_path(overlay))
        folder = (
            None
            if masks is None
            else stack.enter_context(atomic_folder(masks, written=_mask_files))
        )

        def then(frame: Frame, result: Segmentation) -> Any:
            if folder is not None:
                result.save(folder / MASK.format(frame.index))
            drawn = None if film is None else picture_frame(result.overlay(alpha=alpha))
            return result.image.size[::-1], drawn

        frames = _frames(container, stream, sound if film is not None else None, trouble)
        outcomes = segment_many(
            segmenter,
            frames,
            read=functools.partial(_upright, max_pixels=segmenter.max_pixels),
            between=_smooth(smoothing) if smoothing else None,
            then=then,
            threads=threads,
            spans=spans,
        )
        for outcome in stack.enter_context(contextlib.closing(outcomes)):
            if outcome.error is not None:
                raise outcome.error
            own, drawn = outcome.value
            if film is not None and write is None:
                inner = (drawn.width, drawn.height)
                write = stack.enter_context(
                    open_writer(film, container, stream, size=inner, sound=sound)
                )
            if write is not None:
                write(drawn, outcome.source.pts)
            size = size if times else own
            times.append(outcome.source.pts)
            if progress is not None:
                progress()
        if not times:
            raise ValueError(
                f"{path} has no frame that can be read: "
                f"{'; '.join(trouble) or 'no reason was given'}"
            )
        if folder is not None:
            table = {"time_base": str(stream.time_base), "pts": times}
            (folder / TIMES).write_text(json.dumps(table) + "\n", encoding="utf-8")
        audio = "none" if film is None else fate_of_sound(container)
    return FilmResult(len(times), size, "; ".join(trouble) or None, audio)


def _mask_files(folder: Path) -> list[str]:
    """Returns the files that an earlier call wrote into its folder of masks, by its times.json."""
    try:
        table = json.loads((folder / TIMES).read_text(encoding="utf-8"))
        frames = len(table["pts"]) if table.keys() == {"time_base", "pts"} else 0
    except (OSError, ValueError, TypeError, AttributeError):
        return []
    return [TIMES, *(MASK.format(index) for index in range(frames))] if frames else []


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, Any]]:
    av = import_av()
    if path.is_dir():
        raise ValueError(f"a film must be a file, got the folder {path}")
    if not path.exists():
        raise ValueError(f"there is no file {path}")
    try:
        container = av.open(readable(str(path)))
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{path} can't be read: FFmpeg needs file names in UTF-8: rename the file"
        ) from error
    except (av.FFmpegError, OSError) as error:
        raise ValueError(f"{path} is not a film that FFmpeg can read: {error.strerror}") from error
    with container:
        streams = [s for s in container.streams.video if not _is_cover(s)]
        if not streams:
            raise ValueError(f"{path} has no video stream")
        streams[0].thread_type = "AUTO"
        yield container, streams[0]


def _frames(
    container: Any, stream: Any, sound: deque[Any] | None, trouble: list[str]
) -> Iterator[Frame]:
    """Yields the frames that can be read; appends sound packets to `sound`, errors to `trouble`."""
    av = import_av()
    step = _frame_length(stream)
    audio = container.streams.audio[:1] if sound is not None else ()
    packets, count, last = 0, 0, None
    try:
        for packet in container.demux([stream, *audio]):
            if sound is not None and packet.stream is not stream:
                if packet.dts is not None:
                    sound.append(packet)
                continue
            packets += packet.size > 0
            for image in packet.decode():
                pts = image.pts
                if pts is None or (last is not None and pts <= last):  # from faulty muxers
                    pts = 0 if last is None else last + (step if pts is None else 1)
                yield Frame(count, pts, image)
                count, last = count + 1, pts
    except av.FFmpegError as error:
        trouble.append(f"frame {count} can't be read: {error.strerror}")
        return
    if packets < stream.frames:
        trouble.append(f"the film says that it has {stream.frames} frames; {packets} are there")


def _upright(frame: Frame, *, max_pixels: int) -> Image.Image:
    picture = read_image(frame.image.to_image(), max_pixels=max_pixels)
    turn = TURNS.get(frame.image.rotation % 360)
    return picture if turn is None else picture.transpose(turn)


def _frame_length(stream: Any) -> int:
    """Returns a frame's usual length in units of the film's time base."""
    rate = stream.average_rate or stream.guessed_rate or Fraction(25)
    return max(1, round(1 / (rate * stream.time_base)))


def _is_cover(stream: Any) -> bool:
    """Whether a stream is a song's cover picture, which FFmpeg gives as a video of one frame."""
    import av

    return bool(stream.disposition & av.stream.Disposition.attached_pic)


def _smooth(smoothing: float) -> Callable[[list[Frame], list[jax.Array]], list[jax.Array]]:
    weight = np.float32(smoothing)
    before: tuple[Any, jax.Array] | None = None

    def between(frames, logits):
        nonlocal before
        smooth = []
        for frame, own in zip(frames, logits, strict=True):
            size = (frame.image.width, frame.image.height, own.shape)
            if before is not None and before[0] == size:
                own = _mixed(jax.device_put(before[1], own.sharding), own, weight)
            before = size, own
            smooth.append(own)
        return smooth

    return between


@jax.jit
def _mixed(before, now, weight):
    return now + (before - now) * weight


def import_av() -> Any:
    """Imports PyAV.

    Raises:
        ImportError: it is not installed.
    """
    try:
        import av
        import av.stream
    except ImportError as error:
        raise ImportError(
            "reading and writing films needs PyAV: pip install 'segformer-jax[video]'"
        ) from error
    return av
