"""`check-data` tells what a data set is, holds and lacks, before anything is trained."""

import json

import numpy as np
import rasterio
from data.folders import labels, save, write_folder
from PIL import Image


def test_a_sound_data_set_is_described_and_drawn(run, tmp_path):
    write_folder(tmp_path, count=3)
    write_folder(tmp_path, split="val", count=2)
    sheet = tmp_path / "sheet.png"
    code, printed, said = run("check-data", tmp_path, "--sheet", sheet)
    assert (code, said) == (0, "")
    assert "train: train/images and train/masks, 3 classes from id2label.json" in printed
    assert "3 pairs, 32×24 (3)" in printed
    share = np.mean([np.mean(labels(number) == 1) for number in range(3)])
    assert f"{share:.2%}" in printed
    with Image.open(sheet) as drawn:
        assert drawn.width > 2 * 384


def test_every_problem_has_a_line_and_the_exit_code_is_1(run, tmp_path):
    write_folder(tmp_path, count=2)
    (tmp_path / "train" / "masks" / "a.png").unlink()
    save(labels(5, (24, 30)), tmp_path / "train" / "masks" / "b.png")
    sheet = tmp_path / "sheet.png"
    code, printed, said = run("check-data", tmp_path, "--sheet", sheet, "--json")
    assert code == 1
    assert "the data set has 2 problems" in said.splitlines()[0]
    assert "a.png has no mask" in said.splitlines()[1]
    assert "b.png is 30×24, its picture 32×24" in said.splitlines()[2]
    told = json.loads(printed)
    assert told["splits"]["train"]["pairs"] == 2
    assert len(told["problems"]) == 2
    assert not sheet.exists()  # there is no pair to draw


def test_a_folder_without_splits_is_checked_whole(run, tmp_path):
    write_folder(tmp_path, count=2)
    code, printed, _ = run("check-data", tmp_path / "train", "--count", "0")
    assert code == 0
    assert "all: images and masks, 3 classes" in printed


def test_pictures_of_five_bands_are_no_problem(run, tmp_path):
    write_folder(tmp_path, count=2)
    for file in sorted((tmp_path / "train" / "images").iterdir()):
        file.unlink()
        options = dict(driver="GTiff", count=5, height=24, width=32, dtype="uint8")
        place = {"crs": "EPSG:32632", "transform": rasterio.Affine(0.5, 0, 5e5, 0, -0.5, 5e6)}
        with rasterio.open(file.with_suffix(".tif"), "w", **options, **place) as raster:
            raster.write(np.full((5, 24, 32), 100, np.uint8))
    code, _, said = run("check-data", tmp_path, "--split", "train", "--sheet", tmp_path / "s.png")
    assert (code, said) == (0, "")
    assert run("convert-data", tmp_path, tmp_path / "out")[0] == 0
    assert len(list((tmp_path / "out" / "train" / "images").glob("*.tif"))) == 2
