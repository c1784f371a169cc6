"""Contenders in processes of their own."""

import math

import numpy as np
import pytest
import transformers
from reference import distance, hf_model

from benchmarks import forward
from benchmarks.race import ContenderError, Entry, Lane, Worker, race


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
    assert forward.agreeing(lanes) == (lanes, [])


@pytest.mark.full
def test_a_contender_that_dies_is_an_error_of_its_own(folder):
    worker = Worker(Entry("ours", folder, np.zeros((1, 32, 32, 3), np.float32), 32, 32, calls=2))
    worker.start(math.inf)
    worker.run()
    worker.process.kill()
    worker.process.join()
    with pytest.raises(ContenderError, match="its process died"):
        worker.run()


def test_no_contender_starts_without_time_left(tmp_path):
    entries = [Entry(name, tmp_path, np.zeros(()), 32, 32) for name in ("ours", "transformers")]
    lanes, failures = race(entries, rounds=2, until=0)
    assert not lanes
    assert failures == [f"{e.contender}: no time was left to start it" for e in entries]


def lane(name, *, off=0.0, ms=2.0, peak=None):
    return Lane(name, ms, ms, ms, peak, None, 9.0, np.ones((1, 8, 8, 3)) + off)


def test_a_contender_with_other_logits_is_left_out_and_named():
    lanes = [lane("ours"), lane("transformers", off=1e-7), lane("ONNX Runtime", off=1.0)]
    kept, failures = forward.agreeing(lanes)
    assert kept == lanes[:2]
    assert failures == ["ONNX Runtime: its logits are 1.0e+00 from those of ours, 1.0e-05 allowed"]


def test_rows_of_peers_are_kept_where_ours_did_not_run():
    assert forward.agreeing([lane("transformers"), lane("OpenVINO", off=1)])[1] == []
    rows = forward._rows("work", [lane("ours", ms=1, peak=3), lane("transformers, bfloat16")])
    assert [row["ratio"] for row in rows] == [1.0, None]
    assert [row["memory_ratio"] for row in rows] == [1.0, None]


def test_growth_is_the_power_of_the_number_of_pixels():
    rows = [
        {"contender": "ours", "ms": 3 * n**1.5, "ms_per_megapixel": 3 * n**0.5} for n in (1, 2, 5)
    ]
    np.testing.assert_allclose(forward.growth(rows, "ours"), 1.5, rtol=1e-12)
