"""Boundary IoU is the paper's definition, worked out class by class with torch's max pooling."""

import numpy as np
import pytest
import torch

from segformer_jax.evaluation.boundary import boundary_counts


def eroded(mask: np.ndarray, width: int) -> np.ndarray:
    """By a 3×3 square, `width` times; what lies outside the picture is not in the mask."""
    outside = torch.from_numpy(np.pad(~mask, width, constant_values=True).astype(np.float32))[None]
    for _ in range(width):
        outside = torch.nn.functional.max_pool2d(outside, 3, stride=1)
    return outside[0].numpy() == 0


def by_definition(labels, classes, *, num_classes, width):
    valid, counts = labels != 255, np.zeros((2, num_classes), int)
    for index in range(num_classes):
        true_band, given_band = (
            own & valid & ~eroded(own | ~valid, width)
            for own in (labels == index, classes == index)
        )
        counts[:, index] = (true_band & given_band).sum(), (true_band | given_band).sum()
    return counts


def blobs(rng, size, *, num_classes):
    """Areas of some pixels with edges of all kinds."""
    coarse = rng.integers(0, num_classes, [-(-side // 9) for side in size])
    return np.kron(coarse, np.ones((9, 9), int))[: size[0], : size[1]].astype(np.uint8)


@pytest.mark.parametrize(
    ("size", "width"), [((96, 128), 3), ((150, 200), 5), ((20, 15), 1), ((7, 401), 8), ((1, 1), 1)]
)
def test_the_bands_of_all_classes_at_once_are_those_of_each(rng, size, width):
    labels = blobs(rng, size, num_classes=6)
    classes = np.roll(labels, 2, 0)
    classes[rng.random(size) < 0.01] = 5
    labels[blobs(rng, size, num_classes=5) == 0] = 255
    np.testing.assert_array_equal(
        boundary_counts(labels, classes, num_classes=8),  # two of them absent
        by_definition(labels, classes, num_classes=8, width=width),
    )


def test_class_indices_next_to_255_are_no_ignored_pixels(rng):
    labels = blobs(rng, (60, 80), num_classes=3)
    labels = np.array([0, 254, 253], np.uint8)[labels]
    classes = np.roll(labels, 3, 1)
    np.testing.assert_array_equal(
        boundary_counts(labels, classes, num_classes=255),
        by_definition(labels, classes, num_classes=255, width=2),
    )


def test_a_shifted_square_loses_more_of_its_band_than_of_its_area():
    labels = np.zeros((200, 200), np.uint8)
    labels[50:150, 50:150] = 1
    classes = np.roll(labels, 3, 1)
    both, either = boundary_counts(labels, classes, num_classes=2)[:, 1]
    area = np.sum(labels & classes) / np.sum(labels | classes)
    assert 0 < both / either < 0.7 < 0.9 < area
    both, either = boundary_counts(labels, labels, num_classes=2)
    assert both.tolist() == either.tolist()
    ring = 100**2 - (100 - 2 * 6) ** 2  # 2 % of the diagonal of 283 are 6 pixels
    assert both[1] == ring
