"""A .tflite file in LiteRT is transformers' function, computed by XNNPACK's operators alone."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
import reference
import torch
from documentation.blocks import blocks_of
from flax import nnx
from PIL import Image

from segformer_jax import SegformerForSemanticSegmentation, SegformerImageProcessor, Segmenter
from segformer_jax.export import Licence, Signature, export_litert
from segformer_jax.export.litert.conversion import litert_converter, operators

pytestmark = pytest.mark.full
NEEDS = "needs pip install 'segformer-jax[litert]' and pip install --no-deps litert-converter"
pytest.importorskip("litert_converter", reason=NEEDS)
interpreter = pytest.importorskip("ai_edge_litert.interpreter", reason=NEEDS)

ROUNDING = 1e-5  # of float32, ‖Δ‖ / ‖reference‖; 5e-7 is seen
CONFIGS = {
    "gelu": {},
    "relu": dict(hidden_act="relu"),
    "silu": dict(hidden_act="silu"),
    "gelu_new": dict(hidden_act="gelu_new"),
    "one label": dict(num_labels=1),
    "five channels": dict(num_channels=5),
    "other strides and patches": dict(
        patch_sizes=[5, 3, 2, 3], strides=[3, 2, 2, 1], sr_ratios=[3, 2, 1, 2]
    ),
}  # fmt: skip
B2 = dict(
    hidden_sizes=[64, 128, 320, 512], num_attention_heads=[1, 2, 5, 8], depths=[3, 4, 6, 3],
    mlp_ratios=[4, 4, 4, 4], decoder_hidden_size=768, num_labels=150,
)  # fmt: skip
B0 = B2 | dict(hidden_sizes=[32, 64, 160, 256], depths=[2, 2, 2, 2], decoder_hidden_size=256)
ALONE = """
import sys

sys.modules["segformer_jax"] = sys.modules["jax"] = sys.modules["litert_converter"] = None
import numpy as np
from ai_edge_litert.interpreter import Interpreter

path, inputs, outputs = sys.argv[1:]
run = Interpreter(path).get_signature_runner("serving_default")
np.save(outputs, run(pixel_values=np.load(inputs))["logits"])
"""


def make(folder, **config):
    """Transformers' random model in float64, and ours with its weights."""
    hf = reference.hf_model("ForSemanticSegmentation", **config)
    hf.save_pretrained(folder)
    return hf.double(), SegformerForSemanticSegmentation.from_pretrained(folder)


def opened(path):
    return interpreter.Interpreter(str(path), num_threads=2).get_signature_runner()


def assert_equal(tmp_path, size, batch=1, **config):
    hf, ours = make(tmp_path, **config)
    path = tmp_path / "model.tflite"
    export_litert(ours, path, signature=Signature(batch=batch, size=size))
    x = reference.pixels(*size, batch=batch, channels=hf.config.num_channels)
    with torch.no_grad():
        wanted = reference.nhwc(hf(reference.nchw(x)).logits)
    logits = opened(path)(pixel_values=x.astype(np.float32))["logits"]
    assert reference.distance(logits, wanted) <= ROUNDING
    assert np.mean(logits.argmax(-1) == wanted.argmax(-1)) >= 0.9999
    return path


@pytest.mark.parametrize("name", CONFIGS)
def test_logits_are_transformers(name, tmp_path):
    assert_equal(tmp_path, (97, 61), batch=2, **CONFIGS[name])


@pytest.mark.parametrize("size", [(512, 512), (256, 352), (97, 131)])
@pytest.mark.parametrize("config", [B0, B2], ids=["b0", "b2"])
def test_xnnpack_takes_every_operator_of(config, size, tmp_path):
    path = assert_equal(tmp_path, size, **config)
    run = interpreter.Interpreter(str(path))
    run.allocate_tensors()
    nodes = run._get_ops_details()
    (delegate,) = (node for node in nodes if node["op_name"] == "DELEGATE")
    (given,), (returned,) = run.get_input_details(), run.get_output_details()
    assert given["index"] in delegate["inputs"]
    assert list(delegate["outputs"]) == [returned["index"]]  # so nothing is left between or after
    wanted = {"CONV_2D", "DEPTHWISE_CONV_2D", "GELU", "RESIZE_BILINEAR", "SOFTMAX"}
    assert wanted <= set(operators(path.read_bytes()))


def test_it_runs_where_the_library_is_not(tmp_path):
    path = assert_equal(tmp_path, (64, 96))
    x = reference.pixels(64, 96, batch=1).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    files = [str(own) for own in (path, tmp_path / "x.npy", tmp_path / "y.npy")]
    subprocess.run([sys.executable, "-c", ALONE, *files], check=True)
    assert np.array_equal(np.load(tmp_path / "y.npy"), opened(path)(pixel_values=x)["logits"])


@pytest.mark.parametrize("labels", [1, 7, 300])
def test_with_both_steps_photos_become_class_maps(labels, tmp_path):
    hf, ours = make(tmp_path, num_labels=labels)
    signature = Signature(batch=2, size=(61, 90), steps=("preprocess", "argmax"))
    processor = SegformerImageProcessor()
    path = tmp_path / "model.tflite"
    export_litert(ours, path, signature=signature, processor=processor)
    photos = np.random.default_rng(0).integers(0, 256, (2, 61, 90, 3), "uint8")
    wanted = reference.class_maps(hf, photos)
    classes = opened(path)(photos=photos)["classes"]
    assert classes.dtype == (np.uint16 if labels > 255 else np.uint8)
    assert len(np.unique(classes)) > 1
    assert np.mean(classes != wanted) <= 1e-3 * (labels > 7)  # near ties of 300 classes


def test_the_file_is_an_archive_of_labels_colours_licence_and_processor(tmp_path):
    _, ours = make(tmp_path)
    path, processor = tmp_path / "model.tflite", SegformerImageProcessor(size=64)
    signature, licence = Signature(batch=1, size=(64, 64)), Licence("CC0", "All rights waived.")
    for _ in range(2):
        export_litert(ours, path, signature=signature, processor=processor, licence=licence)
    with zipfile.ZipFile(path) as archive:
        texts = {name: archive.read(name).decode() for name in archive.namelist()}
    assert texts["labels.txt"].splitlines() == [f"LABEL_{index}" for index in range(7)]
    rows = json.loads(texts["labels.json"])
    assert [row["label"] for row in rows] == texts["labels.txt"].splitlines()
    assert all(len(bytes.fromhex(row["colour"][1:])) == 3 for row in rows)
    assert texts["LICENCE.txt"] == "Weights: CC0\n\nAll rights waived.\n"
    own = json.loads(texts["preprocessor_config.json"])
    assert SegformerImageProcessor.from_dict(own) == processor


@pytest.mark.parametrize(("kind", "share", "same"), [("float16", 0.52, 0.999), ("int8", 0.3, 0.98)])
def test_smaller_weights_see_the_same_classes(kind, share, same, tmp_path, capfd):
    segmenter = Segmenter.from_pretrained("scene-b0")
    photo = segmenter.processor("examples/street.jpg", size={"height": 288, "width": 384})
    pixels = np.asarray(photo["pixel_values"])
    signature = Signature(batch=1, size=(288, 384))
    whole, small = tmp_path / "whole.tflite", tmp_path / "small.tflite"
    model = SegformerForSemanticSegmentation.from_pretrained("scene-b0")
    export_litert(model, whole, signature=signature)
    capfd.readouterr()
    export_litert(model, small, signature=signature, quantize=kind)
    assert capfd.readouterr().out == ""  # the quantizer prints
    assert small.stat().st_size <= share * whole.stat().st_size
    best = [opened(path)(pixel_values=pixels)["logits"].argmax(-1) for path in (whole, small)]
    assert np.mean(best[0] == best[1]) >= same


def test_the_documented_code_gives_the_class_map(tmp_path, monkeypatch):
    page = Path("docs/where_to_run.md")
    (code,) = (own.code for own in blocks_of(page) if "get_signature_runner" in own.code)
    model = SegformerForSemanticSegmentation.from_pretrained("scene-b0")
    signature = Signature(batch=1, size=(288, 384), steps=("preprocess", "argmax"))
    processor = SegformerImageProcessor.from_pretrained("scene-b0")
    export_litert(model, tmp_path / "model.tflite", signature=signature, processor=processor)
    photo = Image.open("examples/street.jpg")
    photo.save(tmp_path / "photo.jpg", quality=95)
    wanted = Segmenter.from_pretrained("scene-b0")(tmp_path / "photo.jpg").class_map
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(compile(code, str(page), "exec"), names)
    shown = Image.fromarray(names["classes"]).resize(photo.size, Image.Resampling.NEAREST)
    assert np.mean(np.asarray(shown) == wanted) >= 0.98  # its borders have steps of two pixels


class Factorised(nnx.Module):
    """A model with an operation that LiteRT has not."""

    def __call__(self, pixel_values):
        return SimpleNamespace(logits=jnp.linalg.qr(pixel_values)[0])


def test_what_cannot_be_converted_is_said_and_leaves_no_file(tmp_path):
    _, ours = make(tmp_path / "model")
    path = tmp_path / "model.tflite"
    with pytest.raises(ValueError, match="LiteRT needs a fixed batch and size, got batch=None"):
        export_litert(ours, path, signature=Signature(size=(64, 64)))
    with pytest.raises(ValueError, match=r"sides of at least 29 .*got 20 × 64"):
        export_litert(ours, path, signature=Signature(batch=1, size=(20, 64)))
    with pytest.raises(ValueError, match="one of float16, int8 for LiteRT, got 'int4'"):
        export_litert(ours, path, quantize="int4")
    with pytest.raises(ValueError, match=r"LiteRT.* --format stablehlo or onnx"):
        export_litert(Factorised(), path, signature=Signature(batch=1, size=(8, 8)))
    small = Signature(batch=1, size=(64, 64), steps=("preprocess",))
    with pytest.raises(ValueError, match=r"of 8 bits for LiteRT, got stretch=\(0, 4095\)"):
        export_litert(
            ours, path, signature=small, processor=SegformerImageProcessor(stretch=(0, 4095))
        )
    assert not path.exists()


def test_without_the_packages_the_way_to_get_them_is_said(tmp_path, monkeypatch):
    _, ours = make(tmp_path / "model")
    monkeypatch.setitem(sys.modules, "ai_edge_quantizer.qtyping", None)
    with pytest.raises(ImportError, match=r"pip install 'segformer-jax\[litert\]'"):
        export_litert(ours, tmp_path / "model.tflite", quantize="int8")
    monkeypatch.setitem(sys.modules, "litert_converter", None)
    with pytest.raises(ImportError, match="pip install --no-deps 'litert-converter"):
        litert_converter()
    assert not (tmp_path / "model.tflite").exists()
