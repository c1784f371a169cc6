"""Checkpoints of segmentation_models.pytorch: the logits are those that its package computed."""

import json
import re

import jax
import numpy as np
import onnxruntime
import pytest
from peers import smp
from safetensors.numpy import save_file
from segformer_jax.convert.checkpoint import convert_checkpoint

from segformer_jax import SegformerConfig, SegformerForSemanticSegmentation, cli
from segformer_jax.errors import WeightsError
from segformer_jax.export import export_onnx

pytestmark = pytest.mark.usefixtures("cpu_forms")  # a third less to trace

FOUND = json.loads(smp.FILE.read_text())


@pytest.fixture(scope="module", autouse=True)
def wide():
    with jax.enable_x64(True):
        yield


def state_dict(variant: str) -> dict[str, np.ndarray]:
    shapes = FOUND[variant]["shapes"]
    return {name: smp.tensor(name, shape) for name, shape in shapes.items()}


def save(folder, tensors, variant="b0"):
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(FOUND[variant]["config"]))
    return folder


@pytest.mark.parametrize("variant", ["b0", pytest.param("b2", marks=pytest.mark.full)])
def test_logits_are_those_of_its_package(tmp_path, variant):
    source, out = save(tmp_path / "smp", state_dict(variant), variant), tmp_path / "out"
    with pytest.warns(UserWarning, match="transformers does not know layer_norm_epsilons"):
        said = convert_checkpoint(source, out)
    assert said == (
        f"SegformerForSemanticSegmentation {variant}, from segmentation_models.pytorch's layout"
    )
    model = SegformerForSemanticSegmentation.from_pretrained(
        out, dtype=np.float64, param_dtype=np.float64
    )
    logits = np.asarray(jax.jit(model)(smp.pixels()).logits)
    expected = np.asarray(FOUND[variant]["logits"])
    assert np.abs(logits - expected).max() <= 1e-9
    assert model.config.epsilon("blocks") == 1e-6  # with 1e-5 they are over 1e-7 away


def test_a_folder_that_is_not_converted_yet_says_how(tmp_path):
    source = save(tmp_path / "smp", {"encoder.patch_embed1.norm.bias": np.zeros(32)})
    with pytest.raises(WeightsError, match=f"segformer-jax convert {re.escape(str(source))} OUT"):
        SegformerForSemanticSegmentation.from_pretrained(source)


def test_onnx_has_the_epsilons(tmp_path):
    tensors = {name: np.asarray(value, np.float32) for name, value in state_dict("b0").items()}
    source, out = save(tmp_path / "smp", tensors), tmp_path / "out"
    with pytest.warns(UserWarning, match="transformers does not know layer_norm_epsilons"):
        convert_checkpoint(source, out)
    export_onnx(SegformerForSemanticSegmentation.from_pretrained(out), tmp_path / "p.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "p.onnx", providers=["CPUExecutionProvider"])
    pixels = np.moveaxis(smp.pixels(), -1, 1).astype(np.float32)
    (logits,) = session.run(None, {"pixel_values": pixels})
    assert np.abs(np.moveaxis(logits, 1, -1) - FOUND["b0"]["logits"]).max() <= 1e-5


@pytest.mark.filterwarnings("always")
def test_a_command_converts_a_wrappers_file_without_the_auxiliary_classifier(tmp_path, capsys):
    tensors = {f"model.{name}": np.float32(value) for name, value in state_dict("b0").items()}
    tensors = {name: np.asarray(value) for name, value in tensors.items()}
    tensors["model.classification_head.3.weight"] = np.zeros((4, 256), np.float32)
    save_file(tensors, tmp_path / "best.safetensors")
    with pytest.raises(SystemExit) as stopped:
        cli.main(["convert", str(tmp_path / "best.safetensors"), str(tmp_path / "out")])
    assert stopped.value.code == 0
    told = capsys.readouterr()
    assert "from segmentation_models.pytorch's layout" in told.out
    assert "begin with 'model.', which was taken off" in told.err
    assert "transformers does not know layer_norm_epsilons" in told.err
    assert SegformerConfig.from_pretrained(tmp_path / "out").num_labels == 3


def test_another_decoder_or_encoder_is_refused_by_its_names(tmp_path):
    tensors = state_dict("b0")
    other = {name: v for name, v in tensors.items() if name.startswith("encoder.")}
    other["decoder.blocks.0.conv1.0.weight"] = np.zeros((4, 4, 3, 3))
    with pytest.raises(WeightsError, match=r"do not belong to a SegFormer: decoder\.blocks\.0"):
        convert_checkpoint(save(tmp_path / "unet", other), tmp_path / "out")
    other = {name: v for name, v in tensors.items() if not name.startswith("encoder.")}
    other["encoder.layer1.0.conv1.weight"] = np.zeros((4, 4, 3, 3))
    with pytest.raises(WeightsError, match=r"do not belong to a SegFormer: encoder\.layer1"):
        convert_checkpoint(save(tmp_path / "resnet", other), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_epsilons_are_checked():
    for wrong in ({"decoder": 1e-6}, {"blocks": 0}, {"blocks": "1e-6"}, 1e-6):
        with pytest.raises(ValueError, match="layer_norm_epsilons must give positive numbers by"):
            SegformerConfig(layer_norm_epsilons=wrong)
    config = SegformerConfig(layer_norm_epsilons={"blocks": 1e-6})
    assert (config.epsilon("blocks"), config.epsilon("stages")) == (1e-6, 1e-5)
    assert SegformerConfig.from_dict(config.to_dict()) == config
    assert "layer_norm_epsilons" not in SegformerConfig().to_dict()
