import contextlib
import itertools
import multiprocessing
import subprocess
import sys
import warnings

import numpy as np
import pytest
from data.folders import photo, save, write_folder
from PIL import Image

from segformer_jax import ImageError
from segformer_jax.data.augment import Augmentation
from segformer_jax.data.batches import batches
from segformer_jax.data.formats import open_dataset
from segformer_jax.data.order import Share

SMALL = Augmentation((16, 20))
AS_IT_IS = Augmentation((24, 32), scale=(1, 1), flip=0, photometric=False)


@pytest.fixture
def dataset(tmp_path):
    return open_dataset(write_folder(tmp_path, count=5), split="train")


def _first(count: int, dataset, **options) -> list[dict[str, np.ndarray]]:
    options = dict(batch_size=4, augment=SMALL, seed=7) | options
    with contextlib.closing(batches(dataset, **options)) as stream:
        return list(itertools.islice(stream, count))


def _equal(one, other) -> bool:
    return len(one) == len(other) and all(
        np.array_equal(a[name], b[name])
        for a, b in zip(one, other, strict=True)
        for name in ("image", "mask")
    )


def _which(batch) -> list[int]:
    """The picture that each sample is, where nothing was done to it."""
    photos = [photo(number) for number in range(5)]
    return [
        next(number for number in range(5) if np.array_equal(image, photos[number]))
        for image in batch["image"]
    ]


def test_a_batch_is_of_pictures_and_masks(dataset):
    (batch,) = _first(1, dataset)
    assert set(batch) == {"image", "mask"}
    assert (batch["image"].shape, batch["image"].dtype) == ((4, 16, 20, 3), np.uint8)
    assert (batch["mask"].shape, batch["mask"].dtype) == ((4, 16, 20), np.uint8)


def test_the_stream_starts_anywhere_and_depends_on_the_seed_alone(dataset):
    whole = _first(12, dataset)
    assert _equal(whole[7:], _first(5, dataset, start=7))  # 28 samples on: amid the sixth epoch
    assert _equal(whole, _first(12, dataset))
    assert not _equal(whole, _first(12, dataset, seed=8))
    assert not _equal(whole[:5], whole[5:10])  # the same pictures, otherwise cropped


def test_two_processes_share_what_one_has(dataset):
    whole = _first(9, dataset)
    for start in (0, 7):
        parts = [
            _first(2, dataset, start=start, process_index=index, process_count=2)
            for index in range(2)
        ]
        joined = [
            {name: np.concatenate([a[name], b[name]]) for name in a}
            for a, b in zip(*parts, strict=True)
        ]
        assert _equal(joined, whole[start : start + 2])


@pytest.mark.full
def test_worker_processes_make_the_same_batches(dataset):
    whole = _first(11, dataset)
    made = _first(4, dataset, start=7, workers=2)
    assert _equal(made, whole[7:])
    assert all(type(array) is np.ndarray for batch in made for array in batch.values())
    with contextlib.closing(
        batches(dataset, batch_size=4, augment=SMALL, seed=7, workers=1, process_count=2)
    ) as stream:
        batch = next(stream)
    assert _equal([{name: array[:2] for name, array in whole[0].items()}], [batch])


def test_every_epoch_has_every_picture_once_in_another_order(dataset):
    stream = _first(20, dataset, batch_size=5, augment=AS_IT_IS)
    orders = [tuple(_which(batch)) for batch in stream]
    assert all(sorted(order) == list(range(5)) for order in orders)
    assert len(set(orders)) > 10
    other = [
        tuple(_which(batch))
        for batch in _first(20, dataset, batch_size=5, augment=AS_IT_IS, seed=8)
    ]
    assert orders[1:] != other[:-1]  # a seed beside another is not its stream one epoch on


def test_a_data_set_smaller_than_a_batch_repeats_in_it(tmp_path):
    one = open_dataset(write_folder(tmp_path / "one", count=1), split="train")
    (batch,) = _first(1, one, batch_size=3)
    assert len(batch["image"]) == 3
    assert not np.array_equal(batch["image"][0], batch["image"][1])
    five = open_dataset(write_folder(tmp_path / "five", count=5), split="train")
    (batch,) = _first(1, five, batch_size=10, augment=AS_IT_IS)
    assert sorted(_which(batch)) == sorted([*range(5), *range(5)])


def test_an_unreadable_picture_is_named(dataset):
    dataset.pictures[2].write_bytes(b"no picture")
    with pytest.raises(ImageError, match=r"^\S*images/c\.png is not a picture.*$"):
        _first(2, dataset, batch_size=5)


def test_an_unreadable_picture_is_named_by_a_worker_too(dataset):
    dataset.pictures[2].write_bytes(b"no picture")
    with pytest.raises(ImageError, match=r"^\S*images/c\.png is not a picture.*$") as raised:
        _first(2, dataset, batch_size=5, workers=1)
    assert "\n" not in str(raised.value)


def test_unreadable_pictures_are_skipped_by_option_and_named_once(dataset):
    before = _first(8, dataset, batch_size=5, augment=AS_IT_IS)
    dataset.pictures[2].write_bytes(b"no picture")
    options = dict(batch_size=5, augment=AS_IT_IS, skip_unreadable=True)
    with pytest.warns(UserWarning, match=r"skipped: \S*images/c\.png is not a picture") as warned:
        after = _first(8, dataset, **options)
    assert len(warned) == 1
    for old, new in zip(map(_which, before), map(_which, after), strict=True):
        place = old.index(2)
        assert new == [*old[:place], old[(place + 1) % 5], *old[place + 1 :]]  # the next one
    with pytest.warns(UserWarning, match=r"c\.png"):
        assert _equal(_first(3, dataset, start=5, workers=1, **options), after[5:])


def test_masks_that_do_not_fit_are_skipped_and_a_hopeless_data_set_is_told(dataset):
    for place in dataset.masks:
        save(np.zeros((3, 3), np.uint8), place)
    with pytest.raises(ImageError, match=r"masks/.\.png is 3×3, its picture 32×24"):
        _first(1, dataset)
    with pytest.raises(
        ImageError, match=r"none of the 5 pictures can be read: the first problem is \S*masks/"
    ):
        _first(1, dataset, skip_unreadable=True)


WEIGHTED = (Share(1, 1), Share(4, 3))  # picture a, and b to e


def test_weights_give_every_source_its_share_of_each_batch(dataset):
    stream = _first(10, dataset, batch_size=8, augment=AS_IT_IS, shares=WEIGHTED)
    for batch in stream:
        assert _which(batch).count(0) == 2
    others = [number for batch in stream for number in _which(batch) if number]
    epochs = np.array(others).reshape(-1, 4)
    assert all(sorted(epoch) == [1, 2, 3, 4] for epoch in epochs.tolist())
    assert len({tuple(epoch) for epoch in epochs.tolist()}) > 5


@pytest.mark.full
def test_a_weighted_stream_starts_anywhere_with_workers_too(dataset):
    whole = _first(9, dataset, shares=WEIGHTED)
    assert _equal(whole[6:], _first(3, dataset, start=6, workers=2, shares=WEIGHTED))


def test_a_weighted_stream_starts_anywhere_on_any_number_of_processes(dataset):
    whole = _first(9, dataset, shares=WEIGHTED)
    assert _equal(whole[7:], _first(2, dataset, start=7, shares=WEIGHTED))
    assert not _equal(whole, _first(9, dataset, seed=8, shares=WEIGHTED))
    parts = [
        _first(2, dataset, start=5, process_index=index, process_count=2, shares=WEIGHTED)
        for index in range(2)
    ]
    joined = [
        {name: np.concatenate([a[name], b[name]]) for name in a}
        for a, b in zip(*parts, strict=True)
    ]
    assert _equal(joined, whole[5:7])


def test_a_picture_of_the_same_source_stands_in_for_an_unreadable_one(dataset):
    options = dict(batch_size=8, augment=AS_IT_IS, shares=WEIGHTED, skip_unreadable=True)
    dataset.pictures[2].write_bytes(b"no picture")
    with pytest.warns(UserWarning, match=r"skipped: \S*images/c\.png is not a picture"):
        stream = _first(4, dataset, **options)
    assert [_which(batch).count(0) for batch in stream] == [2] * 4
    dataset.pictures[0].write_bytes(b"no picture")
    with pytest.raises(
        ImageError, match=r"none of the 1 pictures can be read: the first problem is .*a\.png"
    ):
        _first(1, dataset, **options)


def test_shares_of_other_pictures_are_refused(dataset):
    with pytest.raises(ValueError, match="the sources have 6 pictures, the data set 5"):
        batches(dataset, batch_size=4, augment=SMALL, seed=7, shares=(Share(1, 1), Share(5, 1)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(batch_size=0), "batch_size .*, got 0"),
        (dict(process_count=3), "batch_size must be a multiple of .* 3, got 4"),
        (dict(process_index=2, process_count=2), "process_index must be in 0…1, got 2"),
        (dict(seed=-1), "seed must be at least 0, got -1"),
        (dict(start=-1), "start must be at least 0, got -1"),
        (dict(workers=-1), "workers must be at least 0, got -1"),
    ],
)
def test_impossible_numbers_are_refused_at_once(dataset, changes, message):
    with pytest.raises(ValueError, match=message):
        batches(dataset, **dict(batch_size=4, augment=SMALL, seed=7) | changes)


def test_without_grain_the_extra_is_named(dataset, monkeypatch):
    monkeypatch.setitem(sys.modules, "grain", None)
    with pytest.raises(ImportError, match=r"pip install 'segformer-jax\[train\]'$"):
        batches(dataset, batch_size=4, augment=SMALL, seed=7)


def test_a_worker_that_is_killed_ends_the_stream(dataset):
    before = set(multiprocessing.active_children())
    with contextlib.closing(
        batches(dataset, batch_size=4, augment=SMALL, seed=7, workers=1)
    ) as stream:
        next(stream)
        (worker,) = set(multiprocessing.active_children()) - before
        worker.kill()
        with pytest.raises(OSError, match=r"exit code -9\. .*/dev/shm") as raised:
            list(itertools.islice(stream, 10))  # some are made already
    assert "\n" not in str(raised.value)


def test_importing_the_pipeline_starts_no_device():
    """A worker must not take the accelerator that its parent has."""
    code = (
        "import segformer_jax.data.batches, jax._src.xla_bridge as bridge\n"
        "assert not bridge._backends"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_real_pictures_stream(shared):
    dataset = open_dataset(shared / "data" / "aerial", split="val")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (batch,) = _first(1, dataset, augment=Augmentation((256, 256)))
    assert set(np.unique(batch["mask"])) <= {0, 1, 2, 3, 4, 255}


def test_drafts_of_jpegs_change_neither_masks_nor_the_order(tmp_path):
    write_folder(tmp_path, count=5)
    for file in (tmp_path / "train" / "images").iterdir():
        with Image.open(file) as image:
            image.save(file.with_suffix(".jpg"), quality=95)
        file.unlink()
    dataset = open_dataset(tmp_path, split="train")
    small = dict(crop=(6, 8), short_side=6, photometric=False)
    whole = _first(6, dataset, augment=Augmentation(**small))
    draft = _first(6, dataset, augment=Augmentation(**small, jpeg_draft=True))
    later = _first(2, dataset, augment=Augmentation(**small, jpeg_draft=True), start=4)
    assert _equal(draft[4:], later)
    assert not _equal(draft, whole)
    for one, other in zip(whole, draft, strict=True):
        assert np.array_equal(one["mask"], other["mask"])
