"""Windows, scales and rasters on the command line: files, scores, exit codes, one-line errors."""

import json
import re
import sys
from dataclasses import replace

import numpy as np
import pytest
import rasterio
import torch
import torchmetrics
from inference.tiny import make_checkpoint, make_picture
from PIL import Image

from segformer_jax import Segmenter, cli, process
from segformer_jax.cli.segment_raster import is_raster
from segformer_jax.cli.segment_request import Request
from segformer_jax.inference.protocol import Protocol, Windows

PLACE = {"crs": "EPSG:32632", "transform": rasterio.Affine(0.5, 0, 500_000, 0, -0.5, 5_600_000)}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_checkpoint(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def segmenter(model):
    return Segmenter.from_pretrained(model, batch_size=1)


@pytest.fixture
def run(monkeypatch, capfd, model):
    """Runs a command in this process: (exit code, standard output, standard error)."""
    monkeypatch.setattr(process, "keep_compiled_programs", lambda: None)
    monkeypatch.setattr(process, "keep_freed_memory", lambda: None)
    monkeypatch.setattr(process, "set_up_training", lambda: None)

    def run(command, *arguments):
        options = ["--model", model, "--batch-size", 1]
        with pytest.raises(SystemExit) as stopped:
            cli.main([str(argument) for argument in (command, *arguments, *options)])
        captured = capfd.readouterr()
        return stopped.value.code, captured.out, captured.err

    return run


def write_raster(path, picture, dtype=np.uint8, **place):
    planes = np.moveaxis(np.asarray(picture).astype(dtype), -1, 0)
    size = dict(zip(("count", "height", "width"), planes.shape, strict=True))
    with rasterio.open(path, "w", driver="GTiff", dtype=planes.dtype, **size, **place) as file:
        file.write(planes)
    return path


def same(classes, expected):
    return classes.shape == expected.shape and (classes == expected).mean() > 0.9995


def test_a_photo_in_windows_at_several_scales(run, segmenter, tmp_path):
    picture, out = make_picture(80, 100), tmp_path / "out"
    picture.save(tmp_path / "a.png")
    options = ["--slide", 64, 40, "--scales", 1, 1.25, "--flip-direction", "vertical", "diagonal"]
    options += ["--outputs", "npy"]
    code, _, _ = run("segment", tmp_path / "a.png", "--out-dir", out, *options)
    assert code == 0
    views = dict(scales=(1.0, 1.25), flip=True, flip_direction=("vertical", "diagonal"))
    protocol = Protocol(windows=Windows((64, 64), (40, 40)), **views)
    assert same(np.load(out / "a.npy"), segmenter(picture, protocol=protocol).class_map)


def test_a_georeferenced_tiff_gives_tiffs_in_its_place(run, segmenter, tmp_path):
    picture, out = make_picture(90, 120), tmp_path / "out"
    write_raster(tmp_path / "a.tif", picture, **PLACE)
    options = ["--outputs", "mask", "overlay", "json", "--slide", 64, "--json"]
    code, printed, said = run("segment", tmp_path / "a.tif", "--out-dir", out, *options)
    assert (code, said) == (0, "")
    with rasterio.open(out / "a.mask.tif") as mask, rasterio.open(out / "a.overlay.tif") as drawn:
        assert (mask.crs.to_string(), mask.transform) == (PLACE["crs"], PLACE["transform"])
        assert (mask.count, drawn.count) == (1, 3)
        windows = Protocol(windows=Windows((64, 64)))
        assert same(mask.read(1), segmenter(picture, protocol=windows).class_map)
    report = json.loads(printed)["images"][0]
    assert report["outputs"]["mask"] == str(out / "a.mask.tif")
    assert sum(row["pixels"] for row in report["classes"]) == 90 * 120
    assert json.loads((out / "a.json").read_text())["classes"] == report["classes"]


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_a_plain_tiff_is_a_photo_unless_it_is_too_large_or_windows_are_asked_for(tmp_path):
    request = Request(
        model="none",
        out_dir=tmp_path,
        outputs=("mask",),
        alpha=0.5,
        device=None,
        dtype="float32",
        batch_size=1,
        max_pixels=90 * 120,
        json=False,
    )
    plain = write_raster(tmp_path / "a.tif", make_picture(90, 120))
    placed = write_raster(tmp_path / "b.tif", make_picture(90, 120), **PLACE)
    assert not is_raster(plain, request)
    assert is_raster(placed, request)
    assert is_raster(plain, replace(request, max_pixels=90 * 120 - 1))
    assert is_raster(plain, replace(request, protocol=Protocol.cityscapes()))
    assert is_raster(plain, replace(request, bands=(3, 2, 1)))
    assert is_raster(tmp_path / "a.vrt", request)
    assert not is_raster(tmp_path / "a.png", replace(request, protocol=Protocol.cityscapes()))
    assert not is_raster(tmp_path / "missing.tif", request)


def test_an_evaluation_in_windows_is_that_of_the_same_class_maps(run, segmenter, tmp_path):
    names = {index: f"LABEL_{index}" for index in range(7)}
    (tmp_path / "id2label.json").write_text(json.dumps(names))
    metric = torchmetrics.JaccardIndex(task="multiclass", num_classes=7, ignore_index=255)
    protocol = Protocol(windows=Windows((64, 64)), flip=True)
    for kind in ("images", "masks"):
        (tmp_path / "val" / kind).mkdir(parents=True)
    for seed in (1, 2):
        picture, mask = make_picture(80, 100, seed=seed), np.full((80, 100), seed, np.uint8)
        mask[:40] = 3
        picture.save(tmp_path / "val" / "images" / f"{seed}.png")
        Image.fromarray(mask).save(tmp_path / "val" / "masks" / f"{seed}.png")
        classes = segmenter(picture, protocol=protocol).class_map
        metric.update(torch.from_numpy(classes.astype(int)), torch.from_numpy(mask.astype(int)))
    options = ["--slide", 64, "--flip", "--beta", 2, "--json"]
    code, printed, _ = run("evaluate", "--data", tmp_path / "val", *options)
    assert code == 0
    report = json.loads(printed)
    assert report["mean_iou"] == pytest.approx(float(metric.compute()), abs=1e-3)
    assert report["beta"] == 2
    assert 0 <= report["mean_f_score"] <= 1
    assert (report["windows"], report["stride"], report["flip"]) == ([64, 64], [48, 48], True)


BAD = {
    "three": (["--slide", 1, 2, 3], "--slide must be one or two numbers"),
    "stride": (["--slide", 64, 65], "no pixel is left out"),
    "zero": (["--slide", 0], "at least 1"),
    "scale": (["--scales", 0], "at least one number above 0"),
    "threshold": (["--threshold", 0.4], "threshold must be 0.5 with 7 labels, got 0.4"),
    "bands": (["--bands", 1], "--bands can be used with rasters only"),
    "tiny": (["--slide", 20], "at least 29"),
    "mixed": ([], "is a raster and can't be mixed"),
    "npy": (["--outputs", "npy"], "--outputs must not have npy for a raster"),
    "whole": (["--protocol", "ade20k"], "short_side must be None for a raster"),
    "float": ([], "must be all uint8, or all uint16 with white at 65535, got float32"),
    "rubbish": ([], "can't be read or written as a raster"),
    "missing": (["--slide", 64], "can't be read or written as a raster"),
    "twins": ([], "would both be written as a"),
    "no rasterio": ([], r"pip install 'segformer-jax\[geo\]'"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_exit_code_2(case, run, tmp_path, monkeypatch):
    options, message = BAD[case]
    photo, source = tmp_path / "photo.png", tmp_path / "a.tif"
    picture = make_picture(80, 100)
    picture.save(photo)
    write_raster(source, picture, np.float32 if case == "float" else np.uint8, **PLACE)
    images = [source]
    match case:
        case "three" | "stride" | "zero" | "scale" | "threshold" | "bands" | "tiny":
            images = [photo]
        case "mixed":
            images = [photo, source]
        case "rubbish":
            source.write_bytes(b"no raster")
        case "missing":
            source.unlink()
        case "twins":
            images.append(write_raster(tmp_path / "a.tiff", picture, **PLACE))
        case "no rasterio":
            monkeypatch.setitem(sys.modules, "rasterio", None)
    code, printed, said = run("segment", *images, "--out-dir", tmp_path / "out", *options)
    assert (code, printed) == (2, "")
    assert said.startswith("segformer-jax: error: ")
    assert said.count("\n") == 1
    assert re.search(message, said), said
    assert not (tmp_path / "out").exists()
