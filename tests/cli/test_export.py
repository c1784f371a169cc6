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
        (["--format", "tflite"], "--format is 'tflite'; known are stablehlo, onnx"),
        (["--platforms", "gpu"], "there is no platform 'gpu'; known are cpu, cuda, rocm, tpu"),
        (["--size", 28, 512], "the size is 28 × 512; this network takes sides of at least 29"),
        (["--batch", 0], "batch is 0; it is at least 1"),
        (["--with", "resize"], "there is no step 'resize'; known are preprocess, argmax"),
        (["--opset", 18], "--opset is of --format onnx alone; this one is stablehlo"),
        (["--format", "onnx", "--platforms", "cpu"], "--platforms is of --format stablehlo alone"),
        (["--format", "onnx", "--opset", 5], "opset is 5; the graph needs 17 at least"),
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
