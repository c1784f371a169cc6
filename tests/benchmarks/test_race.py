"""Contenders in processes of their own."""

import numpy as np
import pytest
import transformers
from reference import distance, hf_model

from benchmarks import forward
from benchmarks.race import Entry, race


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    hf_model("ForSemanticSegmentation").float().save_pretrained(folder)
    transformers.SegformerImageProcessorPil().save_pretrained(folder)
    return folder


@pytest.mark.full
def test_contenders_take_turns_and_failures_are_named(folder):
    pixels = np.random.default_rng(0).normal(size=(1, 64, 96, 3)).astype(np.float32)
    names = ["ours", "transformers", "KerasHub"]  # the last one takes squares alone
    lanes, failures = race([Entry(name, folder, pixels, 64, 96) for name in names], rounds=3)
    assert [lane.contender for lane in lanes] == names[:2]
    assert len(failures) == 1
    assert failures[0].startswith("KerasHub: ")
    assert distance(lanes[1].output, lanes[0].output) < 1e-5  # float32's rounding
    assert all(lane.low <= lane.median <= lane.high for lane in lanes)
    assert all(lane.peak > lane.added for lane in lanes)
    forward.check_agreement(lanes)


@pytest.mark.full
def test_a_contender_that_is_not_equal_is_refused(folder):
    pixels = np.zeros((1, 32, 32, 3), np.float32)
    lanes, _ = race([Entry("ours", folder, pixels, 32, 32)] * 2, rounds=2)
    lanes[1].output[:] += 1
    with pytest.raises(AssertionError, match="from ours"):
        forward.check_agreement(lanes)


def test_growth_is_the_power_of_the_number_of_pixels():
    rows = [
        {"contender": "ours", "ms": 3 * n**1.5, "ms_per_megapixel": 3 * n**0.5} for n in (1, 2, 5)
    ]
    np.testing.assert_allclose(forward.growth(rows, "ours"), 1.5, rtol=1e-12)
