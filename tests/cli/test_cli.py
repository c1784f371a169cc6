"""The command line as a user meets it: files, tables, exit codes, one-line errors."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import reference
import safetensors.numpy
import torch
import transformers
from PIL import Image
from tiers import short
from tiny import write_tiny

from segformer_jax import SegformerConfig, Segmenter
from segformer_jax.checkpoints import hub
from segformer_jax.models.arithmetic import multiply_adds

ROOT = Path(__file__).resolve().parents[2]
STREET = ROOT / "examples" / "street.jpg"
PROGRAM = [sys.executable, "-c", "from segformer_jax.cli import main; main()"]


@pytest.fixture
def model(tmp_path) -> Path:
    """A copy of scene-b0 to damage."""
    folder = tmp_path / "model"
    shutil.copytree(hub.resolve("scene-b0"), folder, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def test_segment_writes_every_output_and_a_table(run, tmp_path):
    out = tmp_path / "new" / "out"
    code, printed, said = run(
        "segment", STREET, "--out-dir", out, "--outputs", "overlay", "mask", "npy", "json"
    )
    assert code == 0
    result = Segmenter.from_pretrained("scene-b0")(STREET)
    assert np.array_equal(np.load(out / "street.npy"), result.class_map)
    assert np.array_equal(np.asarray(Image.open(out / "street.mask.png")), result.class_map)
    assert np.array_equal(np.asarray(Image.open(out / "street.overlay.png")), result.overlay())
    assert json.loads((out / "street.json").read_text()) == result.to_dict()
    assert len(list(out.iterdir())) == 4
    for label, share in result.areas().items():
        assert re.search(rf"{label} +{100 * share:.1f} %", printed)
    assert str(out / "street.overlay.png") in printed
    assert said.count("scene-b0") == 1
    assert "CC BY-NC 4.0" in said


def test_json_is_one_object_and_nothing_else(run, tmp_path):
    small = tmp_path / "small.png"
    Image.open(STREET).resize((100, 80)).save(small)
    code, printed, _ = run("segment", STREET, small, "--out-dir", tmp_path / "out", "--json")
    assert code == 0
    report = json.loads(printed)
    assert report["model"] == "scene-b0"
    first, second = report["images"]
    assert (second["height"], second["width"]) == (80, 100)
    assert sum(row["share"] for row in first["classes"]) == pytest.approx(1)
    assert first["outputs"]["mask"] == str(tmp_path / "out" / "street.mask.png")


@pytest.mark.full
def test_a_second_process_does_not_compile_and_an_unwritable_cache_does_no_harm(tmp_path):
    def segment(cache):
        command = [*PROGRAM, "segment", str(STREET), "--out-dir", str(tmp_path / "out")]
        environment = os.environ | {"XDG_CACHE_HOME": str(cache), "JAX_LOG_COMPILES": "1"}
        environment |= {"JAX_EXPLAIN_CACHE_MISSES": "1"}
        environment.pop("JAX_COMPILATION_CACHE_DIR", None)  # a run of all tests may have its own
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        return done.stderr

    assert "PERSISTENT COMPILATION CACHE MISS" in segment(tmp_path / "cache")
    second = segment(tmp_path / "cache")
    assert "Persistent compilation cache hit" in second
    assert "PERSISTENT COMPILATION CACHE MISS" not in second
    (tmp_path / "file").touch()
    segment(tmp_path / "file")


BAD = {
    "not an image": "is not a picture of a kind that",
    "truncated": "truncated",
    "missing": "there is no file",
    "a folder among others": "can't be mixed with other pictures",
    "no picture": "no picture given",
    "two of a name": "would both be written as street",
    "too large": "--max-pixels",
    "alpha": r"--alpha must be in \[0, 1\], .* got 1.5",
    "unknown model": "no model 'street-b9'.*installed: scene-b0.*nvidia/segformer-b0",
    "another architecture": "model_type must be 'segformer', got 'vit'",
    "truncated safetensors": "model.safetensors is damaged",
    "pickle": r"must hold a dict of tensors, .*an object of posix\.system",
    "out is a file": "the output folder must be a folder, got the file",
    "out is unwritable": "the output folder .* can't be written",
    "small processor": "at least 29 pixels",
    "device": "device must be .*, got 'tpu'",
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_exit_code_2(case, run, model, tmp_path):
    image, options = tmp_path / "image.jpg", ["--model", model]
    shutil.copy(STREET, image)
    images, out = [image], tmp_path / "out"
    match case:
        case "not an image":
            image.write_text("hello")
        case "truncated":
            image.write_bytes(STREET.read_bytes()[:100_000])
        case "missing":
            images = [tmp_path / "missing.jpg"]
        case "a folder among others":
            images = [image, tmp_path]
        case "no picture":
            images = []
        case "two of a name":
            shutil.copy(STREET, tmp_path / "street.png")
            images = [STREET, tmp_path / "street.png"]
        case "too large":
            options += ["--max-pixels", "1000"]
        case "alpha":
            options += ["--alpha", "1.5"]
        case "unknown model":
            options = ["--model", "street-b9"]
        case "another architecture":
            (model / "config.json").write_text('{"model_type": "vit"}')
        case "truncated safetensors":
            weights = model / "model.safetensors"
            weights.write_bytes(weights.read_bytes()[:1_000_000])
        case "pickle":
            (model / "model.safetensors").unlink()

            class Attack:
                def __reduce__(self):
                    return os.system, (f"touch {tmp_path / 'ran'}",)

            torch.save({"a": Attack()}, model / "pytorch_model.bin")
        case "out is a file":
            out.touch()
        case "out is unwritable":
            out = Path("/proc/segformer")
        case "small processor":
            (model / "preprocessor_config.json").write_text('{"size": 20}')
        case "device":
            options += ["--device", "tpu"]
    code, printed, said = run("segment", *images, "--out-dir", out, *options)
    assert code == 2
    assert printed == ""
    assert said.startswith("segformer-jax: error: ")
    assert said.count("\n") == 1
    assert re.search(BAD[case], said), said
    assert not (tmp_path / "ran").exists()
    assert not out.is_dir()


def test_several_pictures_are_segmented_but_for_those_that_cannot_be_read(run, tmp_path):
    small, damaged, text = (tmp_path / name for name in ("small.png", "damaged.jpg", "text.png"))
    Image.open(STREET).resize((100, 80)).save(small)
    damaged.write_bytes(STREET.read_bytes()[:100_000])
    text.write_text("hello")
    out = tmp_path / "out"
    images = [text, damaged, small, tmp_path / "missing.jpg"]
    code, printed, said = run("segment", *images, "--out-dir", out, "--batch-size", "1")
    assert code == 1
    for reason in ("text.png is not a picture", "truncated", "there is no file", "be read: 3"):
        assert reason in said
    written = sorted(out.iterdir())
    assert [file.name for file in written] == ["small.mask.png", "small.overlay.png"]
    assert all(str(file) in printed for file in written)

    code, printed, said = run("segment", *images, "--out-dir", out, "--json")
    report = json.loads(printed)
    assert code == 1
    assert [Path(row["image"]).name for row in report["images"]] == ["small.png"]
    assert [row["image"] for row in report["failed"]] == [str(images[i]) for i in (0, 1, 3)]


def test_pictures_that_are_all_unreadable_leave_no_folder(run, tmp_path):
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_text("hello")
    out = tmp_path / "out"
    code, printed, _ = run("segment", tmp_path / "a.png", tmp_path / "b.png", "--out-dir", out)
    assert (code, printed) == (1, "")
    assert not out.exists()


def test_the_limit_on_pixels_can_be_raised(run, tmp_path):
    code, _, _ = run("segment", STREET, "--out-dir", tmp_path, "--max-pixels", 751 * 563)
    assert code == 0


def test_ctrl_c_leaves_no_partial_file(tmp_path):
    images = []
    for i in range(200):
        images.append(str(tmp_path / f"{i}.jpg"))
        shutil.copy(STREET, images[-1])
    out = tmp_path / "out"
    heeding = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    program = [*PROGRAM[:2], heeding + PROGRAM[2]]  # also where the tests run in the background
    command = [*program, "segment", *images, "--out-dir", str(out), "--batch-size", "1"]
    running = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    limit = time.monotonic() + 120
    while time.monotonic() < limit and not (out.is_dir() and any(out.glob("*.overlay.png"))):
        time.sleep(0.05)
    running.send_signal(signal.SIGINT)
    _, said = running.communicate(timeout=60)
    assert running.returncode == 130
    assert said.splitlines()[-1] == "segformer-jax: interrupted"
    written = list(out.iterdir())
    assert 0 < len(written) < 400
    assert not [file for file in written if not file.name.endswith(".png")]
    for file in written:
        Image.open(file).load()


BUSY = """
from segformer_jax import cli
from segformer_jax.cli import collector

def command(arguments):
    with collector.paused():
        import numpy as np
        from segformer_jax import Segmenter
        segmenter = Segmenter.from_pretrained("scene-b0")
        pixels = np.zeros((512, 512, 3), np.float32)
        segmenter.class_maps([pixels], [(512, 512)])
    logits = [segmenter.start([pixels]) for _ in range(16)]
    raise KeyboardInterrupt

cli._run = command
cli.main([])
"""


def test_an_interrupted_program_waits_for_what_is_being_computed():
    """Otherwise one in two crashed, as XLA's threads went on while its code was unloaded."""
    running = [
        subprocess.Popen([*PROGRAM[:2], BUSY], stderr=subprocess.PIPE, text=True) for _ in range(2)
    ]
    for process in running:
        assert process.communicate(timeout=120)[1] == "segformer-jax: interrupted\n"
        assert process.returncode == 130


@pytest.mark.parametrize("options", short([[], ["--json"]], [[]]))
def test_a_reader_that_stops_early_meets_silence(options):
    command = [*PROGRAM, "info", "b0", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as shown:
        shown.stdout.close()
        assert shown.stderr.read() == b""
    assert shown.returncode == 1


def test_info_counts_layers_parameters_and_multiply_adds(run):
    code, printed, _ = run("info", "b0", "--size", "512", "512", "--json")
    assert code == 0
    about = json.loads(printed)
    assert about["parameters"] == 3_752_694  # what transformers' model has, for 150 classes
    assert sum(row["parameters"] for row in about["layers"]) == about["parameters"]
    assert about["multiply_adds_usual"] / 1e9 == pytest.approx(8.4, abs=0.1)
    code, printed, _ = run("info", "scene-b0")
    assert code == 0
    assert "32 labels: other, wall, building, sky" in printed
    code, _, said = run("info", "b0", "--size", "16", "512")
    assert (code, "at least 29 pixels" in said) == (2, True)


@pytest.mark.parametrize("kind", ["Model", "ForImageClassification"])
def test_info_counts_the_other_models_as_what_they_are(kind, run, tmp_path):
    hf = reference.hf_model(kind)
    hf.save_pretrained(tmp_path)
    code, printed, _ = run("info", tmp_path, "--json")
    about = json.loads(printed)
    assert (code, about["architecture"]) == (0, f"Segformer{kind}")
    assert about["parameters"] == sum(p.numel() for p in hf.parameters())
    assert sum(row["parameters"] for row in about["layers"]) == about["parameters"]
    classifier = 24 * 7 if kind == "ForImageClassification" else 0
    config = SegformerConfig.from_pretrained(tmp_path)
    counted = multiply_adds(config, 512, 512, head=False) + classifier
    assert about["multiply_adds"] == about["multiply_adds_usual"] == counted
    assert len(about["labels"]) == (7 if classifier else 0)
    _, printed, _ = run("info", tmp_path)
    assert ("classifier" in printed) == ("labels" in printed) == bool(classifier)
    assert "2 blocks, 1 head " in printed
    assert "1 block, 2 heads" in printed


def test_convert_writes_what_verify_finds_equal(run, model, tmp_path):
    code, printed, _ = run("convert", model, tmp_path / "out")
    assert code == 0
    assert "SegformerForSemanticSegmentation" in printed
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == [
        "config.json", "model.safetensors", "preprocessor_config.json",
    ]  # fmt: skip
    for suffix in ("bin", "safetensors"):
        if suffix == "bin":
            from safetensors.torch import load_file

            torch.save(load_file(model / "model.safetensors"), model / "pytorch_model.bin")
        file = next(model.glob(f"*.{suffix}"))
        assert run("convert", file, tmp_path / suffix)[0] == 0
        one, other = (
            (tmp_path / name / "model.safetensors").read_bytes() for name in ("out", suffix)
        )
        assert one == other
    code, _, said = run("convert", model, tmp_path / "named", "--id2label", tmp_path / "names")
    assert (code, "--id2label must name a file" in said) == (2, True)
    code, _, said = run("convert", tmp_path / "missing.pth", tmp_path / "other")
    assert (code, "there is no model" in said) == (2, True)


def test_int8_weights_go_there_and_back(run, tmp_path):
    write_tiny(tmp_path / "hf")
    small, back = tmp_path / "int8", tmp_path / "back"
    code, printed, _ = run("convert", tmp_path / "hf", small, "--weights", "int8")
    assert (code, "in int8" in printed) == (0, True)
    assert sorted(file.name for file in small.iterdir()) == [
        "config.json", "model.int8.safetensors", "preprocessor_config.json",
    ]  # fmt: skip
    for folder, weights in ((small, "int8"), (tmp_path / "hf", "float"), ("b0", None)):
        assert json.loads(run("info", folder, "--json")[1])["weights"] == weights
        assert ("weights: int8" in run("info", folder)[1]) == (weights == "int8")
    assert run("convert", small, back)[0] == 0
    hf = transformers.SegformerForSemanticSegmentation.from_pretrained(back)
    kernel = hf.decode_head.linear_fuse.weight.detach().numpy()[:, :, 0, 0]
    written = safetensors.numpy.load_file(small / "model.int8.safetensors")
    multiples = kernel / written["decode_head.linear_fuse.weight_scale"][:, None]
    np.testing.assert_allclose(multiples, np.rint(multiples), rtol=1e-6)
    code, _, said = run("convert", small, back, "--weights", "int8")
    assert (code, "holds model.safetensors, which is read before" in said) == (2, True)


def test_convert_writes_float16_over_what_was_there(run, tmp_path):
    """As a weights package's file is made from a run's folder, its card beside it."""
    write_tiny(tmp_path / "hf")
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "README.md").write_text("card")
    for _ in range(2):
        code, printed, _ = run(
            "convert", tmp_path / "hf", tmp_path / "package", "--weights", "float16"
        )
        assert (code, "in float16" in printed) == (0, True)
    names = ["README.md", "config.json", "model.safetensors", "preprocessor_config.json"]
    assert sorted(file.name for file in (tmp_path / "package").iterdir()) == names
    whole, half = (
        safetensors.numpy.load_file(tmp_path / name / "model.safetensors")
        for name in ("hf", "package")
    )
    assert {str(tensor.dtype) for tensor in half.values()} == {"float16", "int64"}
    for name, tensor in whole.items():
        assert np.array_equal(half[name], tensor.astype(half[name].dtype)), name


def test_convert_writes_nothing_when_the_processor_is_broken(run, model, tmp_path):
    (model / "preprocessor_config.json").write_text('{"size":')
    code, _, said = run("convert", model, tmp_path / "out")
    assert (code, "preprocessor_config.json is not valid JSON" in said) == (2, True)
    assert not (tmp_path / "out").exists()


def test_an_empty_folder_that_was_there_before_stays(run, model, tmp_path):
    (tmp_path / "out").mkdir()
    (model / "config.json").write_text("{}")
    assert run("convert", model, tmp_path / "out")[0] == 2
    assert (tmp_path / "out").is_dir()


@pytest.mark.full
def test_verify_shows_every_stage_and_says_equal(run):
    transformers.utils.logging.enable_progress_bar()
    code, printed, said = run("verify", "scene-b0", "--image", STREET)
    assert (code, said) == (0, "")
    assert all(f"stage {i}" in printed for i in (1, 2, 3, 4))
    assert "equal to transformers" in printed


def test_verify_without_torch_says_what_to_install(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    code, _, said = run("verify", "scene-b0")
    assert (code, "pip install 'segformer-jax[convert]'" in said) == (2, True)


def test_published_logits_need_the_right_picture_and_checkpoint(run):
    code, _, said = run("verify", "scene-b0", "--published")
    assert (code, "add --image 000000039769.jpg" in said) == (2, True)
    code, _, said = run("verify", "scene-b0", "--published", "--image", STREET)
    assert (code, "nothing was published for 'scene-b0'" in said) == (2, True)
    options = ("--checkpoint", "foo", "--image", STREET)
    code, _, said = run("verify", "scene-b0", "--published", *options)
    assert (code, "the rows are segformer.b0.512x512.ade.160k, " in said) == (2, True)
    name = "nvidia/segformer-b0-finetuned-ade-512-512"
    code, _, said = run("verify", name, "--published", "--image", STREET)
    assert (code, "got b2977cdb" in said) == (2, True)


def test_help_names_every_command(run):
    code, printed, _ = run("--help")
    assert code == 0
    assert all(command in printed for command in ("segment", "info", "convert", "verify", "demo"))
    code, printed, _ = run("segment", "--help")
    assert code == 0
    assert "--max-pixels" in printed
    assert "(at least one)" in printed
