"""Windows, scales and flips give what a plain loop in torch gives, whatever the windowed."""

import dataclasses
import math

import jax
import numpy as np
import pytest
import reference
import torch
import torch.nn.functional as F
import transformers
from inference.tiny import make_checkpoint, make_picture
from PIL import Image

from segformer_jax import Segmenter
from segformer_jax.inference import windowed
from segformer_jax.inference.pipeline import segment_many
from segformer_jax.inference.protocol import Protocol, Windows
from segformer_jax.inference.windows import ImagePixels


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return make_checkpoint(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def segmenter(checkpoint):
    return Segmenter.from_pretrained(checkpoint, batch_size=1)


@pytest.fixture(scope="module")
def torch_model(checkpoint):
    return transformers.SegformerForSemanticSegmentation.from_pretrained(checkpoint).float().eval()


def upsampled(x, size):
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False)


def window_logits(model, x, windows):
    """The sum of all windows' logits, divided by how many there are over each pixel."""
    height, width = x.shape[2:]
    (h_crop, w_crop), (h_stride, w_stride) = windows.size, windows.stride
    total = torch.zeros(1, model.config.num_labels, height, width)
    count = torch.zeros(1, 1, height, width)
    for row in range(max(height - h_crop + h_stride - 1, 0) // h_stride + 1):
        for column in range(max(width - w_crop + w_stride - 1, 0) // w_stride + 1):
            bottom = min(row * h_stride + h_crop, height)
            right = min(column * w_stride + w_crop, width)
            top, left = max(bottom - h_crop, 0), max(right - w_crop, 0)
            part = x[:, :, top:bottom, left:right]
            logits = upsampled(model(part).logits, part.shape[2:])
            total[:, :, top:bottom, left:right] += logits
            count[:, :, top:bottom, left:right] += 1
    return total / count


def by_torch(model, processor, picture, protocol, sizes):
    """The mean of every view's probabilities: (labels, H, W)."""
    mean, own = 0, (picture.height, picture.width)
    axes = {"horizontal": (3,), "vertical": (2,), "diagonal": (2, 3)}
    views = [(), *(axes[name] for name in protocol.flip_direction if protocol.flip)]
    for size in sizes:
        resized = picture.resize(size[::-1], Image.Resampling.BILINEAR)
        for flipped in views:
            x = reference.nchw(processor(resized, do_resize=False)["pixel_values"]).flip(flipped)
            with torch.inference_mode():
                if protocol.windows:
                    logits = window_logits(model, x, protocol.windows)
                    logits = upsampled(logits, own) if logits.shape[2:] != own else logits
                else:
                    logits = upsampled(model(x).logits, own)
            logits = logits.flip(flipped)
            mean = mean + (logits.sigmoid() if logits.shape[1] == 1 else logits.softmax(1))
    return (mean / len(sizes) / len(views))[0].numpy()


def assert_same(result, probabilities):
    """To 1e-5, and in every pixel whose two best classes differ by more than float32 does."""
    if len(probabilities) == 1:
        probabilities = np.concatenate([1 - probabilities, probabilities])
    np.testing.assert_allclose(result.scores, probabilities.max(0), rtol=0, atol=1e-5)
    second, best = np.sort(probabilities, 0)[-2:]
    sure = best - second > 2e-5
    assert sure.mean() > 0.99
    np.testing.assert_array_equal(result.class_map[sure], probabilities.argmax(0)[sure])
    assert len(np.unique(result.class_map)) > 1


def scaled(picture, *scales):
    return [
        (math.floor(picture.height * s + 0.5), math.floor(picture.width * s + 0.5)) for s in scales
    ]


@pytest.mark.parametrize(
    ("size", "window", "stride"),
    [
        ((101, 147), (64, 48), (37, 29)),  # odd strides; the last windows shift back
        ((130, 70), (64, 48), (23, 13)),  # many windows over a pixel
        ((128, 96), (64, 48), (64, 48)),  # no overlap
        ((50, 90), (64, 48), (48, 36)),  # the window is too high, and shrinks
        ((45, 61), (64, 96), (48, 72)),  # in both
        ((70, 71), (57, 49), (43, 31)),  # sides that 4 does not divide
    ],
)
def test_windows_are_those_of_a_plain_loop(segmenter, torch_model, size, window, stride):
    picture, protocol = make_picture(*size), Protocol(windows=Windows(window, stride))
    result = segmenter(picture, scores=True, protocol=protocol)
    expected = by_torch(torch_model, segmenter.processor, picture, protocol, [size])
    assert_same(result, expected)


@pytest.mark.parametrize("flip", [False, True])
def test_scales_and_flips_of_windows_are_averaged_after_the_softmax(segmenter, torch_model, flip):
    picture = make_picture(91, 118)
    windows = Windows((64, 48), (41, 37))
    protocol = Protocol(windows=windows, scales=(0.75, 1.0, 1.3), flip=flip)
    result = segmenter(picture, scores=True, protocol=protocol)
    sizes = scaled(picture, *protocol.scales)
    assert_same(result, by_torch(torch_model, segmenter.processor, picture, protocol, sizes))


@pytest.mark.parametrize(
    "directions",
    [
        ("horizontal", "vertical", "diagonal"),
        pytest.param(("vertical",), marks=pytest.mark.full),
        pytest.param(("diagonal",), marks=pytest.mark.full),
    ],
)
@pytest.mark.parametrize(
    "options",
    [
        dict(windows=Windows((64, 48), (41, 37)), scales=(1.0, 1.3)),
        dict(windows=Windows((32, 48), (19, 29)), short_side=140, divisor=1),
        dict(scales=(0.5,)),
        dict(),
    ],
    ids=["windows", "resized", "scaled", "whole"],
)
def test_flips_in_any_direction_are_those_of_a_plain_loop(
    segmenter, torch_model, options, directions
):
    picture = make_picture(127, 118)
    protocol = Protocol(**options, flip=True, flip_direction=directions)
    result = segmenter(picture, scores=True, protocol=protocol)
    sizes = [view.size for view in protocol.views(segmenter.processor, 127, 118) if not view.flip]
    assert_same(result, by_torch(torch_model, segmenter.processor, picture, protocol, sizes))


@pytest.mark.full
def test_one_mirrored_scale_is_not_the_picture_alone(segmenter, torch_model):
    picture, windows = make_picture(91, 118), Windows((64, 48), (41, 37))
    protocol = Protocol(windows=windows, scales=(1.25,), flip=True)
    result = segmenter(picture, scores=True, protocol=protocol)
    sizes = scaled(picture, 1.25)
    assert_same(result, by_torch(torch_model, segmenter.processor, picture, protocol, sizes))
    alone = segmenter(picture, scores=True, protocol=dataclasses.replace(protocol, flip=False))
    assert np.abs(alone.scores - result.scores).max() > 1e-3


def test_scales_of_the_whole_picture_are_those_of_the_processors_size(segmenter, torch_model):
    picture, protocol = make_picture(91, 118), Protocol(scales=(0.5, 1.5), flip=True)
    result = segmenter(picture, scores=True, protocol=protocol)
    sizes = [(32, 48), (96, 144)]
    assert_same(result, by_torch(torch_model, segmenter.processor, picture, protocol, sizes))


def test_ade20ks_protocol_scales_the_short_side_before_it_rounds_up(segmenter, torch_model):
    picture = make_picture(75, 100)
    protocol = Protocol(short_side=64, scales=(0.75, 1.25), flip=True)
    result = segmenter(picture, scores=True, protocol=protocol)
    sizes = [(64, 64), (96, 128)]  # 48 × 64 and 80 × 107, in multiples of 32
    assert_same(result, by_torch(torch_model, segmenter.processor, picture, protocol, sizes))
    once = segmenter(picture, scores=True, protocol=Protocol(short_side=64))
    expected = by_torch(
        torch_model, segmenter.processor, picture, Protocol(short_side=64), [(64, 96)]
    )
    assert_same(once, expected)


def test_windows_of_a_resized_picture(segmenter, torch_model):
    picture = make_picture(150, 210)
    protocol = Protocol(short_side=96, divisor=1, windows=Windows((64, 48)))
    result = segmenter(picture, scores=True, protocol=protocol)
    expected = by_torch(torch_model, segmenter.processor, picture, protocol, [(96, 134)])
    assert_same(result, expected)


@pytest.mark.full
def test_a_model_of_one_class(tmp_path):
    checkpoint = make_checkpoint(tmp_path, num_labels=1, id2label={0: "crack"})
    model = transformers.SegformerForSemanticSegmentation.from_pretrained(checkpoint).float().eval()
    segmenter, picture = Segmenter.from_pretrained(checkpoint), make_picture(91, 118)
    for protocol in (
        Protocol(windows=Windows((64, 48))),
        Protocol(windows=Windows((64, 48)), scales=(0.75, 1.0), flip=True),
    ):
        result = segmenter(picture, scores=True, protocol=protocol)
        sizes = scaled(picture, *protocol.scales)
        assert_same(result, by_torch(model, segmenter.processor, picture, protocol, sizes))


def test_a_threshold_of_one_class_holds_in_windows_views_and_the_whole_picture(tmp_path):
    checkpoint = make_checkpoint(tmp_path, num_labels=1, id2label={0: "crack"})
    segmenter, picture = Segmenter.from_pretrained(checkpoint), make_picture(91, 118)
    for options in (
        dict(),
        dict(short_side=64),
        dict(windows=Windows((64, 48))),
        dict(windows=Windows((64, 48)), flip=True, flip_direction=("vertical",)),
    ):
        usual = segmenter(picture, scores=True, protocol=Protocol(**options))
        p = np.where(usual.class_map == 1, usual.scores, 1 - usual.scores)
        threshold = float(np.quantile(p, 0.8))
        protocol = Protocol(**options, threshold=threshold)
        found = segmenter(picture, scores=True, protocol=protocol)
        sure = np.abs(p - threshold) > 1e-5
        np.testing.assert_array_equal(found.class_map[sure], p[sure] > threshold)
        own = np.where(found.class_map == 1, p, 1 - p)
        np.testing.assert_allclose(found.scores, own, rtol=0, atol=1e-5)
        (many,) = segment_many(segmenter, [picture], protocol=protocol)
        np.testing.assert_array_equal(many.value.class_map, found.class_map)


def test_a_threshold_of_several_classes_is_refused(segmenter):
    for options in (dict(), dict(windows=Windows((64, 48)))):
        protocol = Protocol(**options, threshold=0.4)
        with pytest.raises(ValueError, match=r"threshold must be 0\.5 with 7 labels"):
            segmenter(make_picture(64, 64), protocol=protocol)


def test_neither_strips_nor_columns_change_anything(segmenter, monkeypatch):
    picture = ImagePixels(make_picture(301, 133))
    directions = ("horizontal", "vertical", "diagonal")
    views = dict(scales=(0.75, 1.0), flip=True, flip_direction=directions)
    protocol = Protocol(windows=Windows((64, 48), (41, 37)), **views)
    whole, scores = windowed.whole_class_map(segmenter, picture, protocol, scores=True)
    monkeypatch.setattr(windowed, "STRIP_ROWS", (16, 16))
    parts = []
    for columns in ((0, 50), (50, 133)):
        some = list(
            windowed.class_strips(segmenter, picture, protocol, columns=columns, scores=True)
        )
        assert len(some) == 19
        parts.append([np.concatenate(part) for part in zip(*some, strict=True)])
    classes, certainties = (np.concatenate(part, 1) for part in zip(*parts, strict=True))
    np.testing.assert_allclose(certainties, scores, rtol=0, atol=1e-5)
    assert (classes == whole).mean() > 0.999  # all but equal classes are rounding's


def test_a_list_gives_what_each_picture_gives(segmenter):
    pictures = [make_picture(70, 90, seed=1), make_picture(80, 60, seed=2)]
    protocol = Protocol(windows=Windows((64, 48)))
    for picture, result in zip(pictures, segmenter(pictures, protocol=protocol), strict=True):
        alone = segmenter(picture, protocol=protocol)
        np.testing.assert_array_equal(result.class_map, alone.class_map)
        assert result.scores is None
        assert result.image.size == picture.size


def test_all_windows_of_a_picture_run_in_one_compiled_program(checkpoint):
    segmenter, shapes = Segmenter.from_pretrained(checkpoint, batch_size=4), []
    start = segmenter.start

    def listening(inputs, *, at_least):
        shapes.extend((max(len(inputs), at_least), *own.shape) for own in inputs[:1])
        return start(inputs, at_least=at_least)

    segmenter.start = listening
    segmenter(make_picture(200, 161), protocol=Protocol(windows=Windows((64, 48), (48, 36))))
    assert set(shapes) == {(4, 64, 48, 3)}
    assert len(shapes) == 5  # 4 × 5 windows


def test_no_more_logits_are_held_than_the_strip_needs(segmenter):
    picture = ImagePixels(make_picture(2000, 48))
    protocol = Protocol(windows=Windows((64, 48)))
    before = _live_bytes()
    most = max(_live_bytes() for _ in windowed.class_strips(segmenter, picture, protocol))
    assert most - before < 2000 * 48 * segmenter.config.num_labels * 4 / 4


def _live_bytes() -> int:
    """Of all arrays of this process, other tests' too."""
    return sum(array.nbytes for array in jax.live_arrays())
