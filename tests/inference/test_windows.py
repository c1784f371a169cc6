"""The tables of rows and columns say what upsampling, averaging and resizing in torch do."""

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from segformer_jax.inference.windows import make_axis, window_starts


@pytest.mark.parametrize(
    ("side", "size", "stride", "starts"),
    [
        (2048, 1024, 768, [0, 768, 1024]),  # Cityscapes
        (1024, 1024, 768, [0]),
        (1025, 1024, 768, [0, 1]),
        (1792, 1024, 768, [0, 768]),
        (100, 100, 1, [0]),
        (10, 4, 4, [0, 4, 6]),
        (50, 64, 48, [0]),
    ],
)
def test_the_last_window_shifts_back(side, size, stride, starts):
    assert window_starts(side, size=size, stride=stride) == starts


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize(
    ("side", "resized", "size", "stride"),
    [(97, 97, 32, 24), (97, 97, 33, 19), (97, 130, 50, 13), (130, 97, 50, 50), (60, 45, 45, 40)],
)
def test_a_table_is_what_torch_does_to_logits(rng, side, resized, size, stride, flip):
    cells = -(-size // 4)
    axis = make_axis(side, resized, size=size, stride=stride, cells=cells, flip=flip)
    logits = rng.normal(size=(len(axis.starts), cells)).astype(np.float32)
    total, count = torch.zeros(1, 1, 1, resized), torch.zeros(resized)
    for start, own in zip(axis.starts, torch.from_numpy(logits), strict=True):
        up = F.interpolate(own[None, None, None], size=(1, size), mode="bilinear")
        total[..., start : start + size] += up
        count[start : start + size] += 1
    mean = total / count
    mean = mean.flip(3) if flip else mean
    expected = F.interpolate(mean, size=(1, side), mode="bilinear")[0, 0, 0].numpy()
    ours = (logits.reshape(-1)[axis.index] * axis.weight).sum(1)
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-5)  # both place pixels in float32
    rows = sum(axis.matrix(w, 5, 40) @ logits[w] for w in axis.windows(5, 40))
    np.testing.assert_allclose(rows, expected[5:40], rtol=0, atol=1e-5)
    for start, stop in itertools.pairwise((0, side // 3, side)):
        part = axis.part(start, stop)
        own = logits[axis.windows(start, stop)]
        ours = (own.reshape(-1)[part.index] * part.weight).sum(1)
        np.testing.assert_allclose(ours, expected[start:stop], rtol=0, atol=1e-5)
        assert part.starts == [axis.starts[i] for i in axis.windows(start, stop)]


def test_the_whole_picture_goes_to_its_size_in_one_step(rng):
    axis = make_axis(101, 64, size=64, stride=None, cells=16)
    logits = rng.normal(size=16).astype(np.float32)
    expected = F.interpolate(
        torch.from_numpy(logits)[None, None, None], size=(1, 101), mode="bilinear"
    )
    ours = (logits[axis.index] * axis.weight).sum(1)
    np.testing.assert_allclose(ours, expected[0, 0, 0], rtol=0, atol=1e-5)
