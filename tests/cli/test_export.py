"""`export` on the command line: the files, and one line for every mistake."""

import sys

import numpy as np
import onnx
import pytest
from PIL import Image

from segformer_jax import cli
from segformer_jax.cli import exporters


@pytest.fixture
def run(capsys):
    """Runs `export scene-b0`: (exit code, standard output, standard error)."""

    def run(*arguments):
        with pytest.raises(SystemExit) as stopped:
            cli.main(["export", "scene-b0", *map(str, arguments)])
        captured = capsys.readouterr()
        return stopped.value.code, captured.out, captured.err

    return run


def test_the_name_of_the_file_chooses_onnx(run, tmp_path):
    path = tmp_path / "new" / "street.onnx"
    code, printed, _ = run(path, "--size", 64, 96, "--with", "preprocess", "argmax")
    assert (code, printed) == (0, f"{path}\n")
    photos = onnx.load(path).graph.input[0].type.tensor_type.shape.dim
    assert [side.dim_value for side in photos] == [0, 64, 96, 3]
    assert photos[0].dim_param == "batch"


def make_photos(folder, count):
    """Writes photos of noise, numbered by their names."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for index in range(count):
        noise = rng.integers(0, 256, (40, 60, 3), "uint8")
        Image.fromarray(noise).save(folder / f"{index:03d}.png")
    return folder


def test_8_bits_are_calibrated_on_a_folder_and_the_number_of_pictures_is_said(run, tmp_path):
    photos, path = make_photos(tmp_path / "photos", 2), tmp_path / "street.onnx"
    code, printed, told = run(
        path, "--quantize", "int8", "--calibrate", photos, "--with", "preprocess"
    )
    assert (code, printed) == (0, f"{path}\n")
    assert told == f"segformer-jax: calibrating on 2 of 2 pictures of {photos}\n"
    assert "QuantizeLinear" in {node.op_type for node in onnx.load(path).graph.node}


def test_masks_of_a_data_set_are_not_calibrated_on(tmp_path, capsys):
    for split in ("train", "val"):
        make_photos(tmp_path / split / "images", 3)
        make_photos(tmp_path / split / "masks", 3)
    pictures = exporters._some_pictures(str(tmp_path))
    assert {file.parent.name for file in pictures} == {"images"}
    assert len(pictures) == 6
    assert capsys.readouterr().err == (
        f"segformer-jax: calibrating on 6 of 6 pictures of {tmp_path}; "
        "6 in folders beside images/ are left out\n"
    )
    (tmp_path / "list.txt").write_text(str(tmp_path.parent / "elsewhere.jpg"))
    assert len(exporters._some_pictures(str(tmp_path / "list.txt"))) == 1
    for file in tmp_path.rglob("images/*"):
        file.unlink()
    with pytest.raises(ValueError, match="all in folders beside images"):
        exporters._some_pictures(str(tmp_path))


def test_of_many_pictures_a_hundred_are_taken_evenly(tmp_path):
    from segformer_jax.cli.exporters import CALIBRATED_ON, _some_pictures

    found = [int(file.stem) for file in _some_pictures(str(make_photos(tmp_path / "photos", 250)))]
    assert (len(found), found[0], found[-1]) == (CALIBRATED_ON, 0, 249)
    assert set(np.diff(found)) == {2, 3}


def test_a_calibration_folder_without_pictures_is_an_error(run, tmp_path):
    (tmp_path / "empty").mkdir()
    for folder, said in (("empty", "holds no picture"), ("missing", "is not a folder, glob")):
        code, printed, told = run(
            tmp_path / "out.onnx", "--quantize", "int8", "--calibrate", tmp_path / folder
        )
        assert (code, printed) == (2, "")
        assert said in told
        assert told.count("\n") == 1
    assert not (tmp_path / "out.onnx").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["--format", "tflite"],
            "--format must be one of stablehlo, onnx, litert, web, transformers.js, got",
        ),
        (["--platforms", "gpu"], "platform must be one of cpu, cuda, rocm, tpu, got 'gpu'"),
        (
            ["--size", 28, 512],
            "size must have sides of at least 29 pixels for this network, got 28 × 512",
        ),
        (["--batch", 0], "batch must be at least 1, or left out for any batch, got 0"),
        (["--with", "resize"], "a step must be one of preprocess, argmax, got 'resize'"),
        (["--format", "litert", "--quantize", "int4"], "one of float16, int8 with --format litert"),
        (["--opset", 18], "--opset must be used with --format onnx only, got --format stablehlo"),
        (
            ["--format", "onnx", "--platforms", "cpu"],
            "--platforms must be used with --format stablehlo only",
        ),
        (["--format", "onnx", "--opset", 5], "opset must be 17 to"),
        (["--runtime", "x"], "--runtime must be used with --format web only"),
        (
            ["--format", "web", "--size", 64, 64],
            "--size must be used with --format stablehlo or onnx or litert only, got --format web",
        ),
        (["--format", "web", "--runtime", "x"], "npm package onnxruntime-web, got x without ort."),
        (
            ["--quantize", "int8", "--calibrate", "examples"],
            "--quantize must be used with --format onnx or litert or transformers.js only, got",
        ),
        (
            ["--format", "onnx", "--quantize", "int4", "--calibrate", "examples"],
            "--quantize must be one of int8, int8-symmetric with --format onnx, got 'int4'",
        ),
        (
            ["--format", "onnx", "--quantize", "int8"],
            "--quantize needs pictures to calibrate on: add --calibrate FOLDER",
        ),
        (
            ["--format", "onnx", "--calibrate", "examples"],
            "--calibrate must be used with --quantize: add --quantize int8",
        ),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(arguments, said, run, tmp_path):
    code, printed, told = run(tmp_path / "new" / "out", *arguments)
    assert (code, printed) == (2, "")
    assert said in told
    assert told.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_onnx_without_its_package_names_the_extra(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    code, _, told = run(tmp_path / "street.onnx")
    assert code == 2
    assert "pip install 'segformer-jax[onnx]'" in told
    assert told.count("\n") == 1
