"""Converting what has Hugging Face's names, and less than its layout."""

import pytest
import reference
import torch
import transformers
from segformer_jax.convert.checkpoint import convert_checkpoint

from segformer_jax import SegformerConfig
from segformer_jax.errors import WeightsError


def b0() -> torch.nn.Module:
    config = transformers.SegformerConfig(**SegformerConfig.b0(num_labels=3).to_dict())
    return reference.randomize(transformers.SegformerForSemanticSegmentation(config))


def test_without_a_config_the_sizes_are_read_off_the_weights(tmp_path):
    """As Lightning keeps it: `self.model`, and no config.json."""
    hf = b0()
    state = {f"model.{name}": tensor for name, tensor in hf.state_dict().items()}
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "last.ckpt")
    names = {0: "sky", 1: "road", 2: "car"}
    with pytest.warns(UserWarning, match="off|begin") as caught:
        said = convert_checkpoint(tmp_path / "last.ckpt", tmp_path / "out", id2label=names)
    assert said == "SegformerForSemanticSegmentation b0, from Hugging Face's names"
    prefix, sizes = (str(one.message) for one in caught)
    assert "begin with 'model.', which was taken off" in prefix
    assert "no config.json beside the weights of" in sizes
    assert "the sizes of b0 are read off them" in sizes
    again = transformers.SegformerForSemanticSegmentation.from_pretrained(tmp_path / "out")
    assert again.config.id2label == names
    for (name, one), other in zip(
        hf.state_dict().items(), again.state_dict().values(), strict=True
    ):
        assert torch.equal(one, other), name


def test_sizes_of_no_variant_are_named(tmp_path):
    torch.save(reference.hf_model("ForSemanticSegmentation").state_dict(), tmp_path / "x.pth")
    with pytest.raises(
        WeightsError, match=r"no SegFormer variant has .* \(8, 12, 16, 24\).*; put the config\.json"
    ):
        convert_checkpoint(tmp_path / "x.pth", tmp_path / "out")
    torch.save({"conv.weight": torch.ones(1)}, tmp_path / "x.pth")
    with pytest.raises(WeightsError, match=r"incomplete: encoder\.patch_embeddings\.0\.proj\.bias"):
        convert_checkpoint(tmp_path / "x.pth", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_class_names_given_replace_those_of_the_config(tmp_path):
    hf = reference.hf_model("ForSemanticSegmentation")
    hf.save_pretrained(tmp_path / "hf")
    names = {i: f"class {i}" for i in range(7)}
    with pytest.warns(UserWarning, match="SegFormer's defaults"):
        convert_checkpoint(tmp_path / "hf", tmp_path / "out", id2label=names)
    assert SegformerConfig.from_pretrained(tmp_path / "out").id2label == names
    with (
        pytest.warns(UserWarning, match="SegFormer's defaults"),
        pytest.raises(ValueError, match=r"id2label must name the 7 classes of .* got 2 names"),
    ):
        convert_checkpoint(tmp_path / "hf", tmp_path / "other", id2label={0: "a", 1: "b"})
