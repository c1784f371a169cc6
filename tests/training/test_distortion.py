"""The step changes colours on the device as the reading threads do on the host."""

import jax
import numpy as np
import pytest
from data.folders import photo
from training.runs import rows, settings_of, write_model, write_shapes

from segformer_jax.data.augment import Augmentation, distort, draw_colours
from segformer_jax.data.batches import batches
from segformer_jax.data.formats import open_dataset
from segformer_jax.training.distortion import distorted
from segformer_jax.training.loop import train


def assert_equal_but_for_rounding(given, expected):
    difference = np.abs(np.asarray(given).astype(int) - expected)
    assert difference.max() <= 1
    assert (difference > 0).mean() < 1e-3


@pytest.mark.parametrize("bands", [1, 3, 4])
def test_every_change_is_that_of_the_host(bands):
    pixels = np.stack([photo(seed, (33, 47)) for seed in range(64)])
    pixels = np.concatenate([pixels, pixels[..., :1]], -1)[..., :bands]
    colours = [draw_colours(np.random.default_rng(seed)) for seed in range(64)]
    whole = np.tile(np.array([33, 47], np.int32), (64, 1))
    given = jax.jit(distorted)(pixels, np.array(colours, np.float32), whole)
    expected = np.stack([distort(*each) for each in zip(pixels, colours, strict=True)])
    assert_equal_but_for_rounding(given, expected)
    assert (expected != pixels).mean() > 0.5


def test_the_padding_keeps_its_colour(tmp_path):
    dataset = open_dataset(write_shapes(tmp_path), split="train")
    usual = dict(crop=(80, 72), scale=(0.5, 1.5))
    found = []
    for on_device in (False, True):
        augment = Augmentation(**usual, device_colours=on_device)
        stream = batches(dataset, batch_size=6, augment=augment, seed=3)
        found.append(next(stream))
        stream.close()
    host, device = found
    assert host.keys() == {"image", "mask"}
    assert np.array_equal(host["mask"], device["mask"])
    assert (device["size"] < (80, 72)).any()
    given = jax.jit(distorted)(device["image"], device["colours"], device["size"])
    assert_equal_but_for_rounding(given, host["image"])


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_run_learns_from_the_same_pictures(tmp_path, accumulate):
    write_shapes(tmp_path / "data")
    write_model(tmp_path / "model")
    losses = []
    for on_device in (False, True):
        settings = settings_of(
            tmp_path, out=str(tmp_path / str(on_device)), device_colours=on_device,
            accumulate=accumulate, steps=2,
        )  # fmt: skip
        train(settings)
        losses.append([row["loss"] for row in rows(tmp_path / str(on_device))])
    np.testing.assert_allclose(*losses, rtol=1e-3)
