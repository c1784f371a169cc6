"""One data set in the format of every tool gives the same masks, and the same trained weights."""

from pathlib import Path

import numpy as np
import pytest
from data import every_format
from training.runs import compiled_once, weights, write_model

from segformer_jax.data.formats import FORMATS, open_dataset
from segformer_jax.training.loop import train
from segformer_jax.training.settings import TrainSettings

# pycocotools 2.0.11, which NumPy 2 copies for
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
MADE = every_format.examples(5)
# the trained model has other class names than the data
RENAMED = "ignore:.*has no fitting weights:UserWarning"


def test_each_format_has_a_writer():
    assert set(FORMATS) <= set(every_format.WRITERS)


@pytest.mark.parametrize("name", every_format.WRITERS)
def test_pictures_and_masks_of_boxes_are_those_that_were_written(name, tmp_path):
    place = every_format.write(name, tmp_path, MADE)
    data = open_dataset(place, split=None if name in every_format.WITHOUT_SPLITS else "train")
    assert len(data) == len(MADE)
    classes = [label.strip("_") for label in data.id2label.values()]  # labelme's _background_
    assert classes == ["background", "crack", "spall"]
    for index, one in enumerate(MADE):
        picture, mask = data.pair(index)
        assert np.array_equal(picture, one.picture)
        assert np.array_equal(mask, one.mask)


@pytest.mark.full
@pytest.mark.filterwarnings(RENAMED)
def test_twenty_steps_on_each_give_the_same_weights(tmp_path):
    start = str(write_model(tmp_path / "start"))
    found = {}
    with compiled_once(tmp_path / "compiled"):
        for name in every_format.WRITERS:
            data = every_format.write(name, tmp_path, MADE)
            out = str(tmp_path / f"run-{name}")
            options = dict(steps=20, batch_size=2, crop=(64, 64), eval_every=20, val_share=0.2)
            train(TrainSettings(data=str(data), model=start, out=out, **options))
            found[name] = weights(Path(out))
    assert len(set(found.values())) == 1, {name: hash(own) for name, own in found.items()}
