"""A data set of four bands of 16 bits is trained on, evaluated, segmented and exported."""

import json

import numpy as np
import pytest
import rasterio
from PIL import Image
from training.runs import NAMES, write_model

from segformer_jax import SegformerImageProcessor, Segmenter, cli
from segformer_jax.export import load_exported

PLACE = {"crs": "EPSG:32632", "transform": rasterio.Affine(0.5, 0, 500_000, 0, -0.5, 5_600_000)}


@pytest.fixture(scope="module")
def field(tmp_path_factory):
    """Two classes that differ in the fourth band alone."""
    root, rng = tmp_path_factory.mktemp("field"), np.random.default_rng(0)
    for split, count in (("train", 4), ("val", 2)):
        for kind in ("images", "masks"):
            (root / split / kind).mkdir(parents=True)
        for index in range(count):
            mask = np.zeros((64, 64), np.uint8)
            mask[:, 8 * (index + 2) :] = 1
            planes = rng.integers(200, 600, (4, 64, 64), dtype=np.uint16)
            planes[3] += 2500 * mask.astype(np.uint16)
            options = dict(driver="GTiff", count=4, height=64, width=64, dtype="uint16")
            file = root / split / "images" / f"{index}.tif"
            with rasterio.open(file, "w", photometric="MINISBLACK", **options, **PLACE) as raster:
                raster.write(planes)
            Image.fromarray(mask).save(root / split / "masks" / f"{index}.png")
    (root / "id2label.json").write_text(json.dumps(NAMES))
    return root


def command(*arguments):
    with pytest.raises(SystemExit) as stopped:
        cli.main(list(map(str, arguments)))
    assert stopped.value.code == 0


@pytest.mark.full  # it compiles for each of the commands
def test_four_commands_take_four_bands_of_16_bits(field, tmp_path, capsys):
    run, start = tmp_path / "run", write_model(tmp_path / "start")
    command(
        *("train", "--data", field, "--model", start, "--out", run, "--steps", 60),
        *("--batch-size", 4, "--crop", 64, 64, "--lr", 1e-2, "--range", 0, 4095),
        *("--eval-every", 60),
    )
    assert "num_channels 4" in capsys.readouterr().err
    processor = SegformerImageProcessor.from_pretrained(run / "last")
    assert (processor.channels, processor.stretch) == (4, (0, 4095))
    assert np.allclose(processor.image_mean[:3], 400 / 4095, atol=0.01)

    command("evaluate", "--data", field / "val", "--model", run / "last", "--json")
    scores = json.loads(capsys.readouterr().out)
    assert scores["pixel_accuracy"] > 0.9

    picture = field / "val" / "images" / "0.tif"
    command("segment", picture, "--model", run / "last", "--out-dir", tmp_path / "out")
    with rasterio.open(tmp_path / "out" / "0.mask.tif") as written:
        classes, crs = written.read(1), written.crs
    assert crs == PLACE["crs"]
    mask = np.asarray(Image.open(field / "val" / "masks" / "0.png"))
    assert (classes == mask).mean() > 0.9
    segmenter = Segmenter.from_pretrained(run / "last")
    assert np.array_equal(segmenter(picture).class_map, classes)

    program = tmp_path / "model.stablehlo"
    command(
        *("export", run / "last", program, "--with", "preprocess", "argmax"),
        *("--platforms", "cpu", "--batch", 1, "--size", 64, 64),
    )
    with rasterio.open(picture) as file:
        planes = np.moveaxis(file.read(), 0, -1)
    assert np.array_equal(np.asarray(load_exported(program)(planes[None]))[0], classes)
