"""The comparison with PyTorch finds equal what is equal, and a fault where there is one."""

import pytest
import reference
import torch
from flax import nnx
from segformer_jax.convert import verify

from segformer_jax import SegformerModel
from segformer_jax.checkpoints import files
from segformer_jax.ops import ACTIVATIONS

pytestmark = pytest.mark.usefixtures("cpu_forms")  # a third less to trace


@pytest.mark.full
def test_scene_b0_is_equal_stage_by_stage():
    report = verify.compare_with_torch("scene-b0")
    assert report["equal"]
    assert list(report["stages"]) == ["stage 1", "stage 2", "stage 3", "stage 4", "logits"]
    assert max(row["float64"] for row in report["stages"].values()) < 1e-11
    assert report["argmax_agreement"]["float64"] == 1


@pytest.mark.full
@pytest.mark.parametrize("kind", ["Model", "ForImageClassification"])
def test_the_other_models_are_compared_as_what_they_are(kind, tmp_path):
    reference.hf_model(kind).save_pretrained(tmp_path)
    report = verify.compare_with_torch(str(tmp_path))
    assert report["equal"]
    assert ("logits" in report["stages"]) == (kind != "Model")


@pytest.mark.full
def test_weights_that_we_misread_are_found(monkeypatch, tmp_path):
    hf = reference.hf_model("Model")
    hf.save_pretrained(tmp_path)
    torch.save(hf.state_dict(), tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    assert verify.compare_with_torch(str(tmp_path))["equal"]
    read = files.read_weights
    monkeypatch.setattr(
        files, "read_weights", lambda path: {n: 1.001 * t for n, t in read(path).items()}
    )
    assert not verify.compare_with_torch(str(tmp_path))["equal"]


@pytest.mark.full
def test_a_single_file_is_compared_too(tmp_path):
    reference.hf_model("Model").save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "mine.safetensors")
    assert verify.compare_with_torch(str(tmp_path / "mine.safetensors"))["equal"]


@pytest.mark.full
def test_int8_weights_are_compared_as_the_floats_they_stand_for(tmp_path):
    reference.hf_model("Model").save_pretrained(tmp_path / "hf")
    model = SegformerModel.from_pretrained(tmp_path / "hf")
    model.save_pretrained(tmp_path / "int8", weights="int8")
    assert verify.compare_with_torch(str(tmp_path / "int8"))["equal"]


@pytest.mark.full
def test_a_wrong_activation_is_found(monkeypatch):
    monkeypatch.setitem(ACTIVATIONS, "gelu", nnx.gelu)  # Flax's is the tanh approximation
    report = verify.compare_with_torch("scene-b0")
    assert not report["equal"]
    assert report["stages"]["stage 1"]["float64"] > 1e-6
