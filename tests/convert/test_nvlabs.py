"""The authors' checkpoints, made backwards from transformers' models and read forwards."""

import json

import numpy as np
import pytest
import reference
import torch
import transformers
from segformer_jax.convert import nvlabs
from segformer_jax.convert.checkpoint import convert_checkpoint
from segformer_jax.convert.sizes import variant_of
from tiers import short

from segformer_jax import SegformerConfig
from segformer_jax.errors import WeightsError
from segformer_jax.images.labels import CLASS_SETS

pytestmark = pytest.mark.usefixtures("cpu_forms")  # a third less to trace


def hf_model(variant: str, kind: str, num_labels: int):
    values = getattr(SegformerConfig, variant)(num_labels=num_labels).to_dict()
    config = transformers.SegformerConfig(**values)
    return reference.randomize(getattr(transformers, f"Segformer{kind}")(config))


def authors_names(hf: torch.nn.Module, prefix: str = "backbone.") -> dict[str, torch.Tensor]:
    """The same weights under the names of the authors' code, key and value in one layer."""
    tensors = {}
    encoder = getattr(hf, "segformer", hf)
    for i, stage in enumerate(encoder.stages, 1):
        parts = {f"patch_embed{i}.proj": stage.patch_embeddings.proj,
                 f"patch_embed{i}.norm": stage.patch_embeddings.layer_norm,
                 f"norm{i}": stage.layer_norm}  # fmt: skip
        for j, block in enumerate(stage.blocks):
            own, attention = f"block{i}.{j}", block.attention
            parts |= {f"{own}.norm1": block.layernorm_before, f"{own}.norm2": block.layernorm_after,
                      f"{own}.attn.q": attention.q_proj, f"{own}.attn.proj": attention.o_proj,
                      f"{own}.mlp.fc1": block.mlp.fc1, f"{own}.mlp.fc2": block.mlp.fc2,
                      f"{own}.mlp.dwconv.dwconv": block.mlp.dwconv.dwconv}  # fmt: skip
            if hasattr(attention, "sequence_reduction"):
                parts[f"{own}.attn.sr"] = attention.sequence_reduction.sequence_reduction
                parts[f"{own}.attn.norm"] = attention.sequence_reduction.layer_norm
            for leaf in ("weight", "bias"):
                key, value = (getattr(p, leaf) for p in (attention.k_proj, attention.v_proj))
                tensors[f"{prefix}{own}.attn.kv.{leaf}"] = torch.cat([key, value])
        for name, module in parts.items():
            tensors |= {f"{prefix}{name}.{n}": t for n, t in module.state_dict().items()}
    if hasattr(hf, "decode_head"):
        head = hf.decode_head
        parts = {"linear_fuse.conv": head.linear_fuse, "linear_fuse.bn": head.batch_norm,
                 "linear_pred": head.classifier}  # fmt: skip
        parts |= {f"linear_c{i}.proj": c.proj for i, c in enumerate(head.linear_projections, 1)}
        for name, module in parts.items():
            tensors |= {f"decode_head.{name}.{n}": t for n, t in module.state_dict().items()}
        tensors["decode_head.conv_seg.weight"] = torch.zeros(150, 128, 1, 1)
    elif hasattr(hf, "classifier"):
        tensors |= {f"head.{n}": t for n, t in hf.classifier.state_dict().items()}
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


MODELS = [
    ("b0", "ForSemanticSegmentation", 150),
    ("b1", "ForImageClassification", 1000),
    ("b2", "ForSemanticSegmentation", 19),
    ("b0", "Model", 2),
]


@pytest.mark.parametrize("new", short([True, False], [True]), ids=["zip", "legacy"])
@pytest.mark.parametrize(("variant", "kind", "num_labels"), short(MODELS, [*MODELS[:2], MODELS[3]]))
def test_an_authors_file_becomes_the_same_model_in_transformers(
    tmp_path, variant, kind, num_labels, new
):
    hf = hf_model(variant, kind, num_labels)
    prefix = "backbone." if kind == "ForSemanticSegmentation" else ""
    content = {"meta": {"epoch": 1}, "state_dict": authors_names(hf, prefix), "optimizer": {"a": 1}}
    if kind != "ForSemanticSegmentation":
        content = content["state_dict"]
    torch.save(content, tmp_path / "x.pth", _use_new_zipfile_serialization=new)

    said = convert_checkpoint(tmp_path / "x.pth", tmp_path / "out")

    assert said == f"Segformer{kind} {variant}, from the authors' layout"
    again = type(hf).from_pretrained(tmp_path / "out")
    for (name, one), other in zip(
        hf.state_dict().items(), again.state_dict().values(), strict=True
    ):
        assert torch.equal(one, other), name
    ours, theirs = again.config, hf.config
    for field in ("depths", "hidden_sizes", "sr_ratios", "patch_sizes", "strides", "mlp_ratios",
                  "num_attention_heads", "num_channels"):  # fmt: skip
        assert (
            list(getattr(ours, field)) == list(getattr(theirs, field))
            if isinstance(getattr(ours, field), list | tuple)
            else getattr(ours, field) == getattr(theirs, field)
        )
    processor = json.loads((tmp_path / "out" / "preprocessor_config.json").read_text())
    assert processor["size"]["height"] == (1024 if num_labels == 19 else 512)
    assert processor["do_reduce_labels"] is (num_labels == 150)
    if kind == "ForSemanticSegmentation":
        known = CLASS_SETS["ade20k" if num_labels == 150 else "cityscapes"].names
        assert tuple(ours.id2label[i] for i in range(num_labels)) == known


@pytest.mark.parametrize("variant", ["b0", "b1", "b2", "b3", "b4", "b5"])
def test_the_variant_is_read_off_the_shapes(variant):
    config = getattr(SegformerConfig, variant)()
    assert variant_of(config.depths, config.hidden_sizes) == variant


def test_another_variant_is_refused_with_its_sizes():
    with pytest.raises(WeightsError, match=r"depths \(1, 2, 3, 4\) and widths \(8, 8, 8, 8\)"):
        variant_of((1, 2, 3, 4), (8, 8, 8, 8))


@pytest.mark.parametrize(
    "name", ["decode_head.fusion_conv.conv.weight", "decode_head.convs.0.bn.weight",
             "backbone.layers.0.1.0.attn.attn.in_proj_weight"],
)  # fmt: skip
def test_mmsegmentations_network_is_told_apart(name):
    tensors = {name: np.zeros(1)}
    assert nvlabs.is_nvlabs(tensors)
    with pytest.raises(
        WeightsError,
        match="another network that can't be converted: its head has a BatchNorm and a ReLU",
    ):
        nvlabs.nvlabs_to_hf(tensors)


def test_tensors_of_no_segformer_are_named():
    tensors = {n: t.numpy() for n, t in authors_names(hf_model("b0", "Model", 2)).items()}
    with pytest.raises(WeightsError, match=r"do not belong to a SegFormer: auxiliary\.weight"):
        nvlabs.nvlabs_to_hf(tensors | {"auxiliary.weight": np.ones(1)})
    del tensors["backbone.patch_embed2.proj.bias"]
    with pytest.raises(WeightsError, match=r"patch_embeddings\.1\.proj\.bias is missing"):
        nvlabs.nvlabs_to_hf(tensors)
    assert not nvlabs.is_nvlabs({"segformer.encoder.layer_norm.0.weight": np.ones(1)})
