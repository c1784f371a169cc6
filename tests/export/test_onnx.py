"""An ONNX file in ONNX Runtime is transformers' function, at every size and configuration."""

import json
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
import reference
import torch
from tiers import short

from segformer_jax import SegformerForSemanticSegmentation, SegformerImageProcessor
from segformer_jax.export import Signature, export_onnx

ROUNDING = 1e-5  # of float32, ‖Δ‖ / ‖reference‖; 5e-7 is seen
CONFIGS = {
    "gelu": {},
    "relu": dict(hidden_act="relu"),
    "silu": dict(hidden_act="silu"),
    "gelu_new": dict(hidden_act="gelu_new"),
    "all keys": dict(sr_ratios=[1, 1, 1, 1]),
    "one label": dict(num_labels=1),
    "five channels": dict(num_channels=5),
    "one head": dict(num_attention_heads=[1, 1, 1, 1]),
    "other strides and patches": dict(
        patch_sizes=[5, 3, 2, 3], strides=[3, 2, 2, 1], sr_ratios=[3, 2, 1, 2]
    ),
    "wide patches": dict(patch_sizes=[8, 5, 4, 1], strides=[4, 2, 2, 2]),
    "one stage": dict(
        num_encoder_blocks=1, depths=[2], sr_ratios=[8], hidden_sizes=[8], patch_sizes=[7],
        strides=[4], num_attention_heads=[2], mlp_ratios=[2],
    ),
    "five stages": dict(
        num_encoder_blocks=5, depths=[1] * 5, sr_ratios=[8, 4, 2, 1, 1],
        hidden_sizes=[8, 8, 8, 8, 16], patch_sizes=[7, 3, 3, 3, 3], strides=[4, 2, 2, 2, 2],
        num_attention_heads=[1, 1, 2, 2, 2], mlp_ratios=[2] * 5,
    ),
}  # fmt: skip


def make(folder, **config):
    """Transformers' random model in float64, and ours with its weights."""
    hf = reference.hf_model("ForSemanticSegmentation", **config)
    hf.save_pretrained(folder)
    return hf.double(), SegformerForSemanticSegmentation.from_pretrained(folder)


def run(path, **inputs):
    onnx.checker.check_model(path, full_check=True)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, inputs)[0]


def assert_equal(path, hf, *, batch, height, width):
    x = reference.pixels(height, width, batch=batch, channels=hf.config.num_channels)
    x = reference.nchw(x)
    with torch.no_grad():
        wanted = hf(x).logits.numpy()
    logits = run(path, pixel_values=x.numpy().astype(np.float32))
    assert reference.distance(logits, wanted) <= ROUNDING
    assert np.array_equal(logits.argmax(1), wanted.argmax(1))


LOGITS = [*((name, 20) for name in CONFIGS), ("gelu", 17), ("gelu_new", 17)]


@pytest.mark.parametrize(
    ("name", "opset"), short(LOGITS, [case for case in LOGITS if case[0] != "relu"])
)
def test_logits_are_transformers(name, opset, tmp_path):
    hf, ours = make(tmp_path, **CONFIGS[name])
    export_onnx(ours, tmp_path / "model.onnx", opset=opset)
    model = onnx.load(tmp_path / "model.onnx")
    assert {(own.domain, own.version) for own in model.opset_import} == {("", opset)}
    for batch, height, width in [(1, 64, 96), (3, 45, 70), (2, 97, 61)]:
        assert_equal(tmp_path / "model.onnx", hf, batch=batch, height=height, width=width)


def test_set_sizes_are_the_files_and_leave_the_function_as_it_is(tmp_path):
    hf, ours = make(tmp_path)
    path = tmp_path / "model.onnx"
    export_onnx(ours, path, signature=Signature(batch=2, size=(45, 70)))
    assert_equal(path, hf, batch=2, height=45, width=70)
    session = onnxruntime.InferenceSession(path)
    assert session.get_inputs()[0].shape == [2, 3, 45, 70]
    assert session.get_outputs()[0].shape == [2, 7, 12, 18]
    names = json.loads(session.get_modelmeta().custom_metadata_map["id2label"])
    assert names == {str(i): f"LABEL_{i}" for i in range(7)}


@pytest.mark.parametrize("labels", [1, 7, 300])
def test_with_both_steps_photos_become_class_maps(labels, tmp_path):
    hf, ours = make(tmp_path, num_labels=labels)
    signature = Signature(steps=("preprocess", "argmax"))
    processor = SegformerImageProcessor()
    export_onnx(ours, tmp_path / "model.onnx", signature=signature, processor=processor)
    photos = np.random.default_rng(0).integers(0, 256, (2, 61, 90, 3), "uint8")
    wanted = reference.class_maps(hf, photos)
    classes = run(tmp_path / "model.onnx", photos=photos)
    assert classes.dtype == (np.uint16 if labels > 255 else np.uint8)
    assert len(np.unique(classes)) > 1
    assert np.mean(classes != wanted) <= 1e-3 * (labels > 7)  # near ties of 300 classes


def test_an_opset_without_the_operators_is_refused(tmp_path):
    _, ours = make(tmp_path / "model")
    with pytest.raises(ValueError, match=r"opset must be 17 to .*got 16"):
        export_onnx(ours, tmp_path / "model.onnx", opset=16)
    with pytest.raises(ValueError, match="the newest of the installed onnx"):
        export_onnx(ours, tmp_path / "model.onnx", opset=1000)
    with pytest.raises(ValueError, match=r"sides of at least 29 .*got 20 × 64"):
        export_onnx(ours, tmp_path / "model.onnx", signature=Signature(size=(20, 64)))
    assert not (tmp_path / "model.onnx").exists()


def test_without_the_package_the_extra_is_named(tmp_path, monkeypatch):
    _, ours = make(tmp_path / "model")
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ImportError, match=r"pip install 'segformer-jax\[onnx\]'"):
        export_onnx(ours, tmp_path / "model.onnx")
