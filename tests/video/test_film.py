"""Films: every frame, its timestamp and the sound are kept, by PyAV's own account."""

import json
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import reference
import torch
from PIL import Image
from tiny import write_tiny

from segformer_jax import Segmenter, cli
from segformer_jax.cli.segment_request import Request
from segformer_jax.video.film import check_film, segment_film
from segformer_jax.video.writer import picture_frame

av = pytest.importorskip("av")

STREET = Path(__file__).resolve().parents[2] / "examples" / "street.jpg"
UNEVEN = (0, 90, 200, 450, 460, 900, 907, 1400, 1401, 1500)  # milliseconds


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory):
    return Segmenter.from_pretrained(write_tiny(tmp_path_factory.mktemp("tiny")), batch_size=4)


def pictures(count: int, size: tuple[int, int]) -> list[Image.Image]:
    """A street that moves by."""
    photo = Image.open(STREET)
    return [photo.resize(size, box=(8 * i, 0, 8 * i + 500, 400)) for i in range(count)]


def make_film(
    file: Path,
    *,
    pts: tuple[int, ...] = UNEVEN,
    time_base: Fraction = Fraction(1, 1000),
    size: tuple[int, int] = (96, 64),
    codec: str = "ffv1",
    pixels: str = "bgr0",
    rotation: int = 0,
    sound: str | None = None,
) -> list[Image.Image]:
    """Lossless, unless another codec is asked for; gives the frames."""
    shown = pictures(len(pts), size)
    with av.open(str(file), "w") as out:
        video = out.add_stream(codec, rate=25)
        video.width, video.height = size
        video.pix_fmt, video.codec_context.time_base = pixels, time_base
        if rotation:
            video.set_display_rotation(rotation)
        audio = None if sound is None else out.add_stream(sound, rate=44100, layout="mono")
        for time, picture in zip(pts, shown, strict=True):
            frame = av.VideoFrame.from_image(picture).reformat(format=pixels)
            frame.pts, frame.time_base = time, time_base
            out.mux(video.encode(frame))
        out.mux(video.encode(None))
        for k in range(0 if audio is None else 60):
            tone = np.sin(np.arange(1152) * 0.05)[None] * 9000
            frame = av.AudioFrame.from_ndarray(tone.astype(np.int16), format="s16", layout="mono")
            frame.sample_rate, frame.pts = 44100, 1152 * k
            out.mux(audio.encode(frame))
        if audio is not None:
            out.mux(audio.encode(None))
    return shown


def times(file: Path) -> list[Fraction]:
    with av.open(str(file)) as film:
        return [frame.pts * frame.time_base for frame in film.decode(video=0)]


def sounds(file: Path) -> list[bytes]:
    with av.open(str(file)) as film:
        return [bytes(packet) for packet in film.demux(audio=0) if packet.size]


def test_frames_timestamps_and_sound_are_kept(segmenter, tmp_path):
    source, overlay, masks = tmp_path / "a.mkv", tmp_path / "o" / "a.mp4", tmp_path / "o" / "a"
    shown = make_film(source, sound="libmp3lame")
    result = segment_film(segmenter, source, overlay=overlay, masks=masks)
    assert (result.frames, result.size, result.damage, result.audio) == (
        10,
        (64, 96),
        None,
        "copied",
    )
    assert times(overlay) == times(source) == [Fraction(time, 1000) for time in UNEVEN]
    assert sounds(overlay) == sounds(source)
    assert json.loads((masks / "times.json").read_text()) == {
        "time_base": "1/1000",
        "pts": list(UNEVEN),
    }
    expected = segmenter(shown[:8])
    with av.open(str(overlay)) as film:
        frames = [frame.to_image() for frame in film.decode(video=0)]
    for index, own in enumerate(expected):
        mask = Image.open(masks / f"{index:06d}.png")
        assert np.array_equal(np.asarray(mask), own.class_map)
        difference = np.asarray(frames[index], np.float32) - np.asarray(own.overlay(), np.float32)
        assert np.abs(difference).mean() < 12  # of 255: H.264, whose colours are at half the size
    assert len(list(masks.iterdir())) == 11
    assert sorted(file.name for file in (tmp_path / "o").iterdir()) == ["a", "a.mp4"]


@pytest.mark.parametrize("time_base", [Fraction(1, 90_000), Fraction(1001, 30_000)])
def test_other_clocks_and_long_gaps_are_kept(segmenter, tmp_path, time_base):
    pts = (0, 1, 7, 5000)
    options = dict(codec="libx264", pixels="yuv420p", time_base=time_base, pts=pts)
    make_film(tmp_path / "a.mp4", **options)
    segment_film(segmenter, tmp_path / "a.mp4", overlay=tmp_path / "b.mp4")
    assert times(tmp_path / "b.mp4") == [p * time_base for p in pts]


def test_odd_sides_grow_by_a_pixel_and_a_turned_film_is_upright(segmenter, tmp_path):
    make_film(tmp_path / "odd.mkv", size=(65, 49))
    result = segment_film(segmenter, tmp_path / "odd.mkv", overlay=tmp_path / "odd.mp4")
    assert result.size == (49, 65)
    with av.open(str(tmp_path / "odd.mp4")) as film:
        assert (film.streams.video[0].width, film.streams.video[0].height) == (66, 50)
    file, masks = tmp_path / "turned.mp4", tmp_path / "turned"
    make_film(file, codec="libx264", pixels="yuv420p", rotation=90)
    with av.open(str(file)) as film:
        upright = [
            frame.to_image().transpose(Image.Transpose.ROTATE_90) for frame in film.decode(video=0)
        ]
    result = segment_film(segmenter, file, overlay=tmp_path / "upright.mp4", masks=masks)
    assert result.size == (96, 64)
    expected = segmenter(upright[:4])[1].class_map
    assert np.array_equal(np.asarray(Image.open(masks / "000001.png")), expected)
    with av.open(str(tmp_path / "upright.mp4")) as film:
        frame = next(film.decode(video=0))
        assert (frame.width, frame.height, frame.rotation) == (64, 96, 0)


@pytest.mark.parametrize("colour", [(255, 0, 0), (0, 0, 255), (10, 200, 90), (255, 255, 255)])
def test_colours_survive_by_what_the_film_says_of_itself(colour):
    shown = picture_frame(Image.new("RGB", (32, 16), colour)).to_image()
    assert np.abs(np.asarray(shown, np.int16) - colour).max() <= 1


def test_smoothing_is_the_moving_average_of_the_logits(segmenter, tmp_path):
    shown = make_film(tmp_path / "a.mkv")
    segment_film(segmenter, tmp_path / "a.mkv", masks=tmp_path / "masks", smoothing=0.7)
    average, differ = None, 0
    for index, picture in enumerate(shown):
        logits = np.asarray(segmenter.start([segmenter.processor.eight_bits(picture)] * 4)[0])
        average = logits if average is None else 0.7 * average + 0.3 * logits
        upsampled = torch.nn.functional.interpolate(
            reference.nchw(average), size=(64, 96), mode="bilinear", align_corners=False
        )
        mask = np.asarray(Image.open(tmp_path / "masks" / f"{index:06d}.png"))
        assert np.mean(mask != upsampled[0].argmax(0).numpy()) < 1e-3  # near ties
        differ += np.mean(mask != segmenter([picture] * 4)[0].class_map)
    assert differ > 0.01
    with pytest.raises(ValueError, match=r"smoothing must be in \[0, 1\), .*got 1"):
        segment_film(segmenter, tmp_path / "a.mkv", masks=tmp_path / "masks", smoothing=1)


def test_a_folder_of_photos_is_not_replaced_by_masks(segmenter, tmp_path):
    make_film(tmp_path / "long.mkv")
    make_film(tmp_path / "short.mkv", pts=(0, 40))
    photos, masks = tmp_path / "photos", tmp_path / "masks"
    photos.mkdir()
    Image.new("RGB", (8, 8)).save(photos / "000000.png")
    with pytest.raises(ValueError, match=r"photos must be new, empty .* got one with 000000.png"):
        segment_film(segmenter, tmp_path / "short.mkv", masks=photos)
    assert [path.name for path in photos.iterdir()] == ["000000.png"]
    segment_film(segmenter, tmp_path / "long.mkv", masks=masks)
    segment_film(segmenter, tmp_path / "short.mkv", masks=masks)
    names = ["000000.png", "000001.png", "times.json"]
    assert sorted(path.name for path in masks.iterdir()) == names
    (masks / "mine.jpg").touch()
    with pytest.raises(ValueError, match=r"masks must be new, empty .* got one with mine.jpg"):
        segment_film(segmenter, tmp_path / "long.mkv", masks=masks)
    assert (masks / "mine.jpg").exists()


def test_a_truncated_film_is_segmented_as_far_as_it_goes(segmenter, tmp_path):
    whole, cut = tmp_path / "whole.avi", tmp_path / "cut.avi"
    pts = tuple(range(30))
    make_film(whole, codec="mjpeg", pixels="yuvj420p", time_base=Fraction(1, 10), pts=pts)
    with av.open(str(whole)) as film:  # frames lie one behind the other, each on its own
        starts = [packet.pos for packet in film.demux(video=0) if packet.size]
    cut.write_bytes(whole.read_bytes()[: starts[20]])
    result = segment_film(segmenter, cut, overlay=tmp_path / "cut.mp4")
    assert result.frames == 20
    assert result.damage is not None
    assert times(tmp_path / "cut.mp4") == times(whole)[: result.frames]


def test_what_is_no_film_is_one_error(segmenter, tmp_path, monkeypatch):
    (tmp_path / "text.mp4").write_text("hello")
    with av.open(str(tmp_path / "song.mp4"), "w") as out:
        audio = out.add_stream("aac", rate=44100, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.int16), "s16", "mono")
        frame.sample_rate = 44100
        out.mux(audio.encode(frame))
        out.mux(audio.encode(None))
    for name, reason in (
        ("text.mp4", "is not a film that FFmpeg can read: Invalid data"),
        ("song.mp4", "has no video stream"),
        ("none.mp4", "there is no file"),
        ("", "must be a file, got the folder"),
    ):
        with pytest.raises(ValueError, match=reason):
            check_film(tmp_path / name)
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ImportError, match=r"pip install 'segformer-jax\[video\]'"):
        check_film(tmp_path / "text.mp4")


def test_the_command_line_knows_films_by_their_endings(segmenter, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Request, "segmenter", lambda request: segmenter)

    def run(*arguments):
        with pytest.raises(SystemExit) as stopped:
            cli.main(["segment", *map(str, arguments), "--out-dir", str(tmp_path / "out")])
        captured = capsys.readouterr()
        return stopped.value.code, captured.out, captured.err

    make_film(tmp_path / "a.mkv", sound="pcm_s16le")
    code, printed, said = run(tmp_path / "a.mkv", "--json")
    [film] = json.loads(printed)["films"]
    assert (code, film["frames"], film["damage"]) == (0, 10, None)
    assert "dropped: an .mp4 does not hold pcm_s16le" in said
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["a.overlay.mp4"]
    (tmp_path / "text.mov").write_text("hello")
    for arguments, reason in (
        ((tmp_path / "text.mov",), "is not a film"),
        ((tmp_path / "a.mkv", STREET), "segment them by two commands"),
        ((tmp_path / "a.mkv", "--outputs", "npy"), "--outputs must be overlay"),
        ((tmp_path / "a.mkv", "--smoothing", "1"), "--smoothing must be in [0, 1)"),
    ):
        code, printed, said = run(*arguments)
        assert (code, printed, said.count("\n")) == (2, "", 1)
        assert reason in said
