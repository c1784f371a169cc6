import io
import pickle
import sys

import numpy as np
import pytest
from data.folders import labels, photo, save, write_json
from PIL import Image

from segformer_jax import ImageError
from segformer_jax.data.formats import open_dataset

datasets = pytest.importorskip("datasets")


def _png(array) -> bytes:
    file = io.BytesIO()
    Image.fromarray(array).save(file, format="PNG")
    return file.getvalue()


def _table(count: int, *, mask: str = "label", first: int = 0):
    rows = range(first, first + count)
    features = datasets.Features(
        {"image": datasets.Image(), mask: datasets.Image(), "scene": datasets.Value("string")}
    )
    columns = {
        "image": [{"bytes": _png(photo(row)), "path": None} for row in rows],
        mask: [{"bytes": _png(labels(row)), "path": None} for row in rows],
        "scene": ["street"] * count,
    }
    return datasets.Dataset.from_dict(columns, features=features)


@pytest.fixture
def saved(tmp_path):
    splits = {"train": _table(3), "validation": _table(2, first=3)}
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "saved")
    write_json({"0": "a", "1": "b", "2": "c"}, tmp_path / "saved" / "id2label.json")
    return tmp_path / "saved"


def test_a_saved_data_set_is_read_by_split(saved):
    dataset = open_dataset(saved, split="val")
    assert dataset.names == ("row_000000", "row_000001")
    for index in range(2):
        image, mask = dataset.pair(index)
        assert np.array_equal(image, photo(3 + index))
        assert np.array_equal(mask, labels(3 + index))
    assert len(open_dataset(saved / "train")) == 3
    copy = pickle.loads(pickle.dumps(dataset))
    assert np.array_equal(copy.mask(1), labels(4))


def test_one_data_set_alone_with_its_classes_beside_and_files_outside(tmp_path):
    table = _table(2, mask="annotation")
    outside = str(save(photo(9), tmp_path / "outside.png"))
    features = table.features
    columns = table.cast_column("image", datasets.Image(decode=False)).to_dict()
    columns["image"] = [{"bytes": None, "path": outside}] * 2
    datasets.Dataset.from_dict(columns, features=features).save_to_disk(tmp_path / "one")
    write_json({"0": "a", "1": "b", "2": "c"}, tmp_path / "id2label.json")
    dataset = open_dataset(tmp_path / "one")
    assert np.array_equal(dataset.mask(1), labels(1))
    assert dataset.image(0).size == (32, 24)
    with pytest.raises(ValueError, match="has one split only"):
        open_dataset(tmp_path / "one", split="train")


def test_damaged_and_empty_cells_are_named_by_row(tmp_path):
    rows = [
        {"image": {"bytes": b"nothing", "path": None}, "label": None},
        {"image": {"bytes": _png(photo(0))[:300], "path": None}, "label": None},
    ]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Image()})
    datasets.Dataset.from_list(rows, features=features).save_to_disk(tmp_path / "one")
    write_json({"0": "a", "1": "b"}, tmp_path / "id2label.json")
    dataset = open_dataset(tmp_path / "one")
    with pytest.raises(ImageError, match="one, row 0, image is not a picture"):
        dataset.image(0)
    with pytest.raises(ImageError, match="one, row 1, image: the image is damaged"):
        dataset.image(1)
    for index in range(2):
        with pytest.raises(ImageError, match=f"row {index}, label is empty"):
            dataset.mask(index)


def test_other_columns_and_splits_are_told_what_there_is(saved, tmp_path):
    with pytest.raises(ValueError, match="has no split test or testing; it has train, validation"):
        open_dataset(saved, split="test")
    with pytest.raises(ValueError, match="choose one, train or validation"):
        open_dataset(saved)
    _table(1).remove_columns("label").save_to_disk(tmp_path / "one")
    with pytest.raises(ValueError, match="got the columns image, scene, of which image hold"):
        open_dataset(tmp_path / "one")


def test_without_the_package_the_extra_is_named(saved, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ImportError, match=r"pip install 'segformer-jax\[hf\]'$"):
        open_dataset(saved, split="train")


@pytest.mark.parametrize("typed", [True, False], ids=["datasets'", "another writer's"])
def test_a_folder_of_parquet_files_is_read_by_its_splits(tmp_path, typed):
    data = tmp_path / "data"
    data.mkdir()
    for part, count in (("train", 2), ("validation", 1)):
        table = _table(count)
        if not typed:
            columns = {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}
            for name in ("image", "label"):
                table = table.cast_column(name, datasets.Image(decode=False))
                table = table.cast_column(name, columns)
        table.to_parquet(str(data / f"{part}-00000-of-00001.parquet"))
    write_json({"0": "a", "1": "b", "2": "c"}, tmp_path / "id2label.json")
    dataset = open_dataset(tmp_path, split="train")
    assert len(dataset) == 2
    assert len(open_dataset(tmp_path, split="val")) == 1
    assert np.array_equal(dataset.mask(1), labels(1))
