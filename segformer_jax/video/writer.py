"""Writes an .mp4 with the timestamps and the sound of another film."""

import contextlib
from collections import deque
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from segformer_jax.json_text import readable

COPIED = ("aac", "ac3", "alac", "eac3", "flac", "mp3", "opus")  # not encoded again
BT709, TV_RANGE = 1, 1  # FFmpeg's numbers, the first for matrix, primaries and transfer alike
TICKS = 65535  # most units per second that MPEG-4 part 2 can count time in

Write = Callable[[Any, int], None]


def picture_frame(picture: Image.Image) -> Any:
    """Converts a picture to a 4:2:0 frame; the last pixels of a side of odd length are repeated."""
    import av

    pixels = np.asarray(picture)
    height, width, _ = pixels.shape
    if height % 2 or width % 2:
        pixels = np.pad(pixels, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
    return frame.reformat(format="yuv420p", dst_colorspace=BT709, dst_color_range=TV_RANGE)


def fate_of_sound(container: Any) -> str:
    """Returns what happens to a film's sound: "copied", "none", or why it is dropped."""
    sound = next(iter(container.streams.audio), None)
    if sound is None:
        return "none"
    codec = sound.codec_context.codec.canonical_name
    return "copied" if codec in COPIED else f"dropped: an .mp4 does not hold {codec}"


@contextlib.contextmanager
def open_writer(
    file: Path, container: Any, stream: Any, *, size: tuple[int, int], sound: deque[Any]
) -> Iterator[Write]:
    """Opens an .mp4 file as a context that gives the function that writes a frame.

    The function takes a `picture_frame` and its timestamp, in units of `stream.time_base`.

    Args:
        file: file to write; it becomes an .mp4 whatever its ending.
        container: the film whose sound is copied.
        stream: the video stream of this film.
        size: width and height of the frames; frames of another size are resized.
        sound: packets of sound that have been read so far; those that are due are removed.

    Raises:
        ValueError: PyAV's FFmpeg has no libx264, and its MPEG-4 encoder can't represent the
            timestamps.
    """
    import av

    with av.open(readable(str(file)), "w", format="mp4") as out:
        video = _add_video(out, stream, size)
        copied = None
        if fate_of_sound(container) == "copied":
            copied = out.add_stream_from_template(container.streams.audio[0])

        def pass_on(until: Fraction | None) -> None:
            while sound and (until is None or sound[0].dts * sound[0].time_base <= until):
                packet = sound.popleft()
                if copied is not None:
                    packet.stream = copied
                    out.mux(packet)

        def write(frame: Any, pts: int) -> None:
            if (frame.width, frame.height) != size:
                frame = frame.reformat(*size)
            frame.pts, frame.time_base = pts, stream.time_base
            out.mux(video.encode(frame))
            pass_on(pts * stream.time_base)

        yield write
        out.mux(video.encode(None))
        pass_on(None)


def _add_video(out: Any, stream: Any, size: tuple[int, int]) -> Any:
    import av

    ours = "libx264" in av.codecs_available
    if not ours and stream.time_base.denominator > TICKS:
        raise ValueError(
            "this film needs libx264, which the installed PyAV lacks, because "
            f"MPEG-4 can't count time in units of {stream.time_base} s: pip install "
            "--upgrade av"
        )
    rate = stream.average_rate or stream.guessed_rate or Fraction(25)
    options = {"crf": "20", "preset": "veryfast"} if ours else {"qscale": "3"}
    video = out.add_stream("libx264" if ours else "mpeg4", rate=rate, options=options)
    video.width, video.height = size
    video.pix_fmt = "yuv420p"
    coder = video.codec_context
    coder.time_base = stream.time_base
    coder.colorspace = coder.color_primaries = coder.color_trc = BT709
    coder.color_range = TV_RANGE
    shape = stream.sample_aspect_ratio
    if shape and shape != 1:
        coder.sample_aspect_ratio = shape
    return video
