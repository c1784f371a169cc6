"""`export` on the command line: the files, and one line for every mistake."""

import sys

import onnx
import pytest

from segformer_jax import cli


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


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--format", "tflite"], "--format must be one of stablehlo, onnx, web, got 'tflite'"),
        (["--platforms", "gpu"], "platform must be one of cpu, cuda, rocm, tpu, got 'gpu'"),
        (
            ["--size", 28, 512],
            "size must have sides of at least 29 pixels for this network, got 28 × 512",
        ),
        (["--batch", 0], "batch must be at least 1, or left out for any batch, got 0"),
        (["--with", "resize"], "a step must be one of preprocess, argmax, got 'resize'"),
        (["--opset", 18], "--opset must be used with --format onnx only, got --format stablehlo"),
        (
            ["--format", "onnx", "--platforms", "cpu"],
            "--platforms must be used with --format stablehlo only",
        ),
        (["--format", "onnx", "--opset", 5], "opset must be 17 to"),
        (["--runtime", "x"], "--runtime must be used with --format web only"),
        (["--format", "web", "--size", 64, 64], "must be left out with --format web"),
        (["--format", "web", "--runtime", "x"], "npm package onnxruntime-web, got x without ort."),
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
