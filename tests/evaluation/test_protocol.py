"""The sizes are those that mmsegmentation's configurations of the paper give."""

import pytest

from segformer_jax.inference.protocol import Protocol


@pytest.mark.parametrize(
    ("size", "resized"),
    [  # short side 512: kept ratio, then both sides up to a multiple of 32
        ((480, 640), (512, 704)),  # 512 × 683
        ((512, 512), (512, 512)),
        ((683, 512), (704, 512)),
        ((256, 341), (512, 704)),  # 512 × 682
        ((1024, 2048), (512, 1024)),
        ((300, 2400), (256, 2048)),  # the long side is bounded by 2048
        ((2400, 301), (2048, 288)),  # 2048 × 257
    ],
)
def test_the_papers_sizes_are_kept_in_ratio_and_rounded_up(size, resized):
    assert Protocol(short_side=512).size(*size) == resized


def test_any_picture_has_a_size_that_the_divisor_divides():
    assert Protocol(short_side=1, divisor=7).size(1, 10_000) == (7, 7)
    assert Protocol(short_side=65, divisor=1).size(130, 131) == (65, 66)
    assert Protocol().size(480, 640) is None
    for options in ({"short_side": 0}, {"divisor": 0}):
        with pytest.raises(ValueError, match="must be a whole number of pixels, at least 1, got 0"):
            Protocol(**options)
