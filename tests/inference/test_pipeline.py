"""`segment_many` gives what `Segmenter` gives, in order, with bounded memory and all errors."""

import threading
import time
from contextlib import closing
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image
from tiny import write_tiny

from segformer_jax import ImageError, Segmenter
from segformer_jax.inference.class_map import class_map
from segformer_jax.inference.pipeline import segment_many, waited_share

STREET = Path(__file__).resolve().parents[2] / "examples" / "street.jpg"


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory):
    return Segmenter.from_pretrained(write_tiny(tmp_path_factory.mktemp("tiny")), batch_size=4)


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    rng, photo = np.random.default_rng(0), Image.open(STREET)
    return [photo.resize((int(w), int(h))) for w, h in rng.integers(20, 200, (12, 2))]


@pytest.fixture(scope="module")
def expected(segmenter, pictures):
    return [result.class_map for result in segmenter(pictures)]


def test_outcomes_equal_the_segmenters_in_their_order(segmenter, pictures, expected):
    outcomes = list(segment_many(segmenter, iter(pictures), threads=3))
    assert [outcome.source for outcome in outcomes] == pictures
    for outcome, own in zip(outcomes, expected, strict=True):
        assert outcome.error is None
        assert np.array_equal(outcome.value.class_map, own)


def test_an_unreadable_picture_is_an_outcome_and_the_rest_goes_on(segmenter, pictures, tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(STREET.read_bytes()[:50_000])
    sources = [broken, *pictures[:5], tmp_path / "none.jpg", pictures[5]]
    outcomes = list(segment_many(segmenter, sources))
    assert [outcome.source for outcome in outcomes] == sources
    assert [outcome.error is None for outcome in outcomes] == [False] + 5 * [True] + [False, True]
    assert isinstance(outcomes[0].error, ImageError)
    assert "none.jpg" in str(outcomes[6].error)
    assert list(segment_many(segmenter, [])) == []
    assert len(list(segment_many(segmenter, [broken]))) == 1


def test_only_a_few_pictures_are_read_ahead(segmenter, pictures):
    read = 0

    def endless():
        nonlocal read
        while True:
            read += 1
            yield pictures[read % len(pictures)]

    with closing(segment_many(segmenter, endless(), threads=2)) as outcomes:
        for taken, _ in enumerate(outcomes):
            # a batch, four threads and their next pictures; what runs and waits on the device
            assert read <= taken + 2 * (4 + 2) + (4 + 2) + 4 + 1
            if taken == 40:
                break
    assert not [t for t in threading.enumerate() if "ThreadPoolExecutor" in t.name]


def test_what_saving_raises_ends_the_run(segmenter, pictures):
    def full(source, result):
        raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space left"):
        list(segment_many(segmenter, pictures, then=full))


def test_a_result_can_be_saved_where_it_is_made(segmenter, pictures, expected, tmp_path):
    def save(source, result):
        result.save(tmp_path / f"{source}.png")
        return threading.current_thread().name

    outcomes = list(
        segment_many(segmenter, range(8), read=lambda index: pictures[index], then=save)
    )
    assert threading.current_thread().name not in {outcome.value for outcome in outcomes}
    for index in range(8):
        assert np.array_equal(np.asarray(Image.open(tmp_path / f"{index}.png")), expected[index])


def test_the_last_batch_and_gaps_compile_nothing(segmenter, pictures, tmp_path):
    compiled = []

    def listener(event, duration, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(duration)

    same = [picture.resize((90, 70)) for picture in pictures]
    list(segment_many(segmenter, same[:8]))
    jax.monitoring.register_event_duration_secs_listener(listener)
    try:
        list(segment_many(segmenter, [*same[:4], tmp_path / "none.jpg", *same[4:10]]))
    finally:
        jax.monitoring.clear_event_listeners()
    assert compiled == []


def test_the_devices_waiting_is_what_lies_between_batches():
    assert waited_share([]) == 0
    assert waited_share([(1.0, 3.0)]) == 0
    assert waited_share([(0.0, 4.0), (3.0, 6.0), (7.0, 9.0), (9.5, 10.0)]) == pytest.approx(0.15)


def test_a_device_that_computes_during_the_call_is_not_idle(segmenter, pictures, monkeypatch):
    """As a CPU does after `keep_freed_memory`."""
    spans, start = [], segmenter.start

    def slow(inputs, **options):
        time.sleep(0.2)
        return jax.block_until_ready(start(inputs, **options))

    monkeypatch.setattr(segmenter, "start", slow)
    list(segment_many(segmenter, pictures, spans=spans))
    assert all(end - beginning >= 0.2 for beginning, end in spans)


def test_batches_are_timed(segmenter, pictures):
    spans = []
    list(segment_many(segmenter, pictures, spans=spans))
    assert len(spans) == 3
    assert all(start <= end for start, end in spans)
    assert spans == sorted(spans)


def test_bytes_give_the_logits_of_normalised_pixels(segmenter, pictures):
    processor = segmenter.processor
    values = [processor(picture)["pixel_values"][0] for picture in pictures[:4]]
    eight_bits = [processor.eight_bits(picture) for picture in pictures[:4]]
    table = processor.byte_values(3)
    for own, expected in zip(eight_bits, values, strict=True):
        assert own.dtype == np.uint8
        assert np.array_equal(table[own, range(3)], expected)
    both = zip(segmenter.start(eight_bits), segmenter.start(values), strict=True)
    assert all(np.array_equal(a, b) for a, b in both)


def test_a_device_that_is_no_cpu_is_asked_for_all_strips_at_once(monkeypatch, rng):
    import segformer_jax.inference.class_map as module

    logits = jax.numpy.asarray(rng.normal(size=(1, 16, 20, 5)).astype(np.float32))
    expected = class_map(logits, (300, 270))[0]
    monkeypatch.setattr(module, "_on_cpu", lambda logits: False)
    finish = module.start_class_map(logits, (300, 270))
    assert np.mean(finish()[0] != expected) < 1e-4
