"""A StableHLO program runs without this library, on every size, and is transformers' function."""

import os
import subprocess
import sys

import jax
import jaxtyping
import numpy as np
import onnxruntime
import pytest
import reference
import torch
import transformers
from flax import nnx
from jax import export
from safetensors.numpy import load_file

from segformer_jax import (
    SegformerConfig,
    SegformerForImageClassification,
    SegformerForSemanticSegmentation,
    SegformerImageProcessor,
)
from segformer_jax.export import Signature, export_onnx, export_stablehlo, load_exported

ROUNDING = 1e-6  # of float32, ‖Δ‖ / ‖reference‖; 3e-7 is seen
SHAPES = [(1, 64, 96), (2, 29, 131), (1, 97, 61)]
WITHOUT_US = """
import sys
sys.modules["segformer_jax"] = sys.modules["flax"] = None  # importing them raises

import jax
import numpy as np

with open(sys.argv[1], "rb") as file:
    program = jax.export.deserialize(bytearray(file.read()))
inputs = np.load(sys.argv[2])
np.savez(sys.argv[3], **{name: program.call(inputs[name]) for name in inputs})
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Transformers' tiny model in float64, and ours."""
    hf = reference.hf_model("ForSemanticSegmentation", depths=[1, 1, 1, 1])
    folder = tmp_path_factory.mktemp("model")
    hf.save_pretrained(folder)
    return hf.double(), SegformerForSemanticSegmentation.from_pretrained(folder)


ONE_STAGE = dict(
    num_encoder_blocks=1, depths=[1], sr_ratios=[8], hidden_sizes=[8], patch_sizes=[7],
    strides=[4], num_attention_heads=[2], mlp_ratios=[2],
)  # fmt: skip


def small(folder, **config):
    """The same with one stage, which compiles fast."""
    hf = reference.hf_model("ForSemanticSegmentation", **ONE_STAGE, **config)
    hf.save_pretrained(folder)
    return hf.double(), SegformerForSemanticSegmentation.from_pretrained(folder)


@pytest.fixture(scope="module")
def program(models, tmp_path_factory):
    path = tmp_path_factory.mktemp("program") / "tiny.stablehlo"
    export_stablehlo(models[1], path)
    return path


def logits_of(hf, pixels) -> np.ndarray:
    with torch.no_grad():
        return reference.nhwc(hf(reference.nchw(pixels.astype(np.float64))).logits)


def pictures(batch: int, height: int, width: int, dtype: str) -> np.ndarray:
    rng, shape = np.random.default_rng(height), (batch, height, width, 3)
    return rng.integers(0, 256, shape, "uint8") if dtype == "uint8" else rng.normal(size=shape)


@pytest.mark.full
def test_one_file_gives_the_logits_of_every_size_in_a_process_without_us(models, program, tmp_path):
    hf, _ = models
    inputs = {
        "x".join(map(str, shape)): pictures(*shape, "float").astype(np.float32) for shape in SHAPES
    }
    np.savez(tmp_path / "inputs.npz", **inputs)
    files = [str(file) for file in (program, tmp_path / "inputs.npz", tmp_path / "outputs.npz")]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    subprocess.run([sys.executable, "-c", WITHOUT_US, *files], check=True, env=environment)
    outputs = np.load(tmp_path / "outputs.npz")
    for name, pixels in inputs.items():
        expected = logits_of(hf, pixels)
        assert reference.distance(outputs[name], expected) <= ROUNDING
        assert np.array_equal(outputs[name].argmax(-1), expected.argmax(-1))


def test_the_file_is_lowered_for_cpu_cuda_and_tpu_with_open_batch_and_size(program):
    loaded = export.deserialize(bytearray(program.read_bytes()))
    assert loaded.platforms == ("cpu", "cuda", "tpu")
    assert [str(side) for side in loaded.in_avals[0].shape] == ["b", "h", "w", "3"]
    assert not loaded.disabled_safety_checks
    with pytest.raises(ValueError, match=r"float32\[b,h,w,3\], not float32\[1,28,64,3\].*h >= 29"):
        load_exported(program)(np.zeros((1, 28, 64, 3), np.float32))


def test_a_program_of_a_processor_with_a_range_takes_the_16_bit_values(tmp_path):
    _, ours = small(tmp_path)
    processor = SegformerImageProcessor(stretch=(100, 4095), do_resize=False)
    signature = Signature(batch=1, size=(61, 90), steps=("preprocess",))
    photo = np.random.default_rng(0).integers(0, 5000, (61, 90, 3), "uint16")
    expected = np.asarray(ours(processor(photo)["pixel_values"]).logits)
    export_stablehlo(ours, tmp_path / "p", signature=signature, processor=processor)
    logits = np.asarray(load_exported(tmp_path / "p")(photo[None]))
    assert reference.distance(logits, expected) <= ROUNDING
    export_onnx(ours, tmp_path / "p.onnx", signature=signature, processor=processor)
    session = onnxruntime.InferenceSession(tmp_path / "p.onnx", providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {"photos": photo[None]})
    assert reference.distance(np.moveaxis(logits, 1, -1), expected) <= ROUNDING
    own = SegformerImageProcessor(stretch="percentile")
    for write in (export_stablehlo, export_onnx):
        with pytest.raises(ValueError, match="fixed range, got a processor that stretches each"):
            write(ours, tmp_path / "q", signature=signature, processor=own)
    assert not (tmp_path / "q").exists()


def test_with_both_steps_a_photo_becomes_its_class_map(tmp_path):
    hf, ours = small(tmp_path)
    processor = SegformerImageProcessor(image_mean=(0.3, 0.4, 0.5))
    signature = Signature(batch=2, size=(61, 90), steps=("preprocess", "argmax"))
    export_stablehlo(ours, tmp_path / "p", signature=signature, processor=processor)
    photos = pictures(2, 61, 90, "uint8")
    hf_processor = transformers.SegformerImageProcessorPil(
        image_mean=[0.3, 0.4, 0.5], do_resize=False
    )
    pixels = hf_processor(list(photos), return_tensors="np")["pixel_values"]
    with torch.no_grad():
        logits = hf(torch.from_numpy(pixels).double()).logits
        wide = torch.nn.functional.interpolate(logits, (61, 90), mode="bilinear")
    classes = load_exported(tmp_path / "p")(photos)
    assert classes.dtype == np.uint8
    assert np.array_equal(classes, wide.argmax(1).numpy())


def test_preprocessing_is_the_processors_bit_for_bit():
    from segformer_jax.export.signature import pixel_table
    from segformer_jax.export.stablehlo import normalized

    photos = pictures(1, 40, 50, "uint8")
    pixels = transformers.SegformerImageProcessorPil(do_resize=False)(
        photos[0], return_tensors="np"
    )["pixel_values"]
    config = SegformerForSemanticSegmentation.from_pretrained("scene-b0").config
    table = pixel_table(SegformerImageProcessor(), config)
    assert np.array_equal(jax.jit(normalized)(photos, table), pixels.transpose(0, 2, 3, 1))


def test_one_label_is_a_class_map_of_logits_above_zero(tmp_path):
    hf, ours = small(tmp_path, num_labels=1)
    export_stablehlo(ours, tmp_path / "p", signature=Signature(1, (64, 64), steps=("argmax",)))
    pixels = pictures(1, 64, 64, "float")
    with torch.no_grad():
        logits = hf(reference.nchw(pixels)).logits
        wide = torch.nn.functional.interpolate(logits, (64, 64), mode="bilinear")
    classes = load_exported(tmp_path / "p")(pixels.astype(np.float32))
    assert 0 < classes.mean() < 1
    assert np.array_equal(classes, (wide[:, 0] > 0).numpy())


def test_weights_beside_the_program_can_be_exchanged(tmp_path):
    hf, ours = small(tmp_path)
    path = tmp_path / "p"
    export_stablehlo(
        ours, path, signature=Signature(1, (64, 96)), platforms=["cpu"], weights_beside=True
    )
    pixels = pictures(1, 64, 96, "float").astype(np.float32)
    weights = load_file(f"{path}.safetensors")
    assert b"decode_head.classifier.bias" in path.read_bytes()
    assert weights["decode_head.classifier.bias"].shape == (7,)
    expected = logits_of(hf, pixels)
    assert reference.distance(load_exported(path)(pixels), expected) <= ROUNDING
    weights["decode_head.classifier.bias"] += 1
    moved = export.deserialize(bytearray(path.read_bytes())).call(weights, pixels)
    assert reference.distance(moved, expected + 1) <= ROUNDING


def test_precision_is_written_into_the_products(models, tmp_path):
    texts = []
    for precision in ("default", "highest"):
        options = dict(signature=Signature(1, (64, 64)), platforms=["tpu"])
        export_stablehlo(models[1], tmp_path / "p", precision=precision, **options)
        loaded = export.deserialize(bytearray((tmp_path / "p").read_bytes()))
        texts.append(loaded.mlir_module())
    products = ("stablehlo.dot_general", "stablehlo.convolution")
    exact, every = texts[1].count("[HIGHEST, HIGHEST]"), sum(map(texts[1].count, products))
    assert texts[0].count("[HIGHEST, HIGHEST]") < exact == every


@pytest.mark.parametrize("damage", ["empty", "text", "noise", "cut short"])
def test_what_is_no_program_is_said_so(damage, program, tmp_path):
    whole = program.read_bytes()
    contents = {
        "empty": b"",
        "text": b"no program" * 100,
        "noise": np.random.default_rng(0).bytes(5000),
        "cut short": whole[: len(whole) // 2],
    }
    (tmp_path / "p").write_bytes(contents[damage])
    with pytest.raises(ValueError, match="is not an exported program"):
        load_exported(tmp_path / "p")


def test_missing_and_damaged_weights_are_named(models, tmp_path):
    path = tmp_path / "p"
    signature = Signature(1, (64, 64))
    export_stablehlo(models[1], path, signature=signature, weights_beside=True)
    beside = tmp_path / "p.safetensors"
    beside.write_bytes(beside.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"p\.safetensors is damaged"):
        load_exported(path)
    beside.unlink()
    with pytest.raises(ValueError, match=r"p\.safetensors, which is missing"):
        load_exported(path)


def test_a_classifier_is_refused_by_its_kind(tmp_path, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users run it
    model = nnx.eval_shape(
        lambda: SegformerForImageClassification(SegformerConfig(), rngs=nnx.Rngs(0))
    )
    with pytest.raises(ValueError, match=r"got a SegformerForImageClassification: use jax.export"):
        export_onnx(model, tmp_path / "p")
    rule = r"SegformerForImageClassification must map .* are \(b, h, w, labels\), got \(1, 2\)"
    with pytest.raises(ValueError, match=rule):
        export_stablehlo(model, tmp_path / "p")
    assert not (tmp_path / "p").exists()


def test_wrong_wishes_are_refused_and_leave_the_file_as_it_was(models, tmp_path):
    path = tmp_path / "p"
    path.write_text("before")
    for wish, said in [
        (dict(platforms=["gpu"]), "platform must be one of cpu, .* got 'gpu'"),
        (dict(platforms=[]), "platforms must name at least one"),
        (dict(signature=Signature(size=(28, 64))), "sides of at least .*got 28 × 64"),
        (dict(signature=Signature(steps=("preprocess",))), "needs a processor"),
    ]:
        with pytest.raises(ValueError, match=said):
            export_stablehlo(models[1], path, **wish)
    assert [file.name for file in tmp_path.iterdir()] == ["p"]
    assert path.read_text() == "before"
    with pytest.raises(ValueError, match="a step must be one of preprocess, argmax, got 'resize'"):
        Signature(steps=("resize",))
    with pytest.raises(ValueError, match=r"batch must be at least 1, .*got 0"):
        Signature(batch=0)
