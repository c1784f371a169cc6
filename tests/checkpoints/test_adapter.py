"""Folders of PEFT: adapters that belong to the weights of another folder."""

import json

import numpy as np
import pytest
import reference
import torch
import transformers
from safetensors.torch import save_file

from segformer_jax import SegformerConfig, SegformerForSemanticSegmentation
from segformer_jax.errors import WeightsError

pytestmark = pytest.mark.usefixtures("cpu_forms")  # a third less to trace

QUERY = "segformer.stages.0.blocks.0.attention.q_proj"
PATCHES = "segformer.stages.1.patch_embeddings.proj"
HEAD = "decode_head.classifier"
CALLED = "ignore:the adapters in .* have 3 classes"


@pytest.fixture
def base(tmp_path):
    reference.hf_model("ForSemanticSegmentation").save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def write(folder, base, tensors, **settings):
    folder.mkdir(exist_ok=True)
    save_file(
        {f"base_model.model.{n}": t for n, t in tensors.items()},
        folder / "adapter_model.safetensors",
    )
    usual = {"peft_type": "LORA", "base_model_name_or_path": str(base), "lora_alpha": 8, "r": 2}
    (folder / "adapter_config.json").write_text(json.dumps(usual | settings))
    return folder


def pair(layer, torch_layer, *, rank=2):
    weight = torch_layer.weight
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(rank, *weight.shape[1:], generator=generator)
    b = torch.randn(len(weight), rank, *(1 for _ in weight.shape[2:]), generator=generator)
    change = (b.flatten(1) @ a.flatten(1)).reshape(weight.shape)
    return {f"{layer}.lora_A.weight": a, f"{layer}.lora_B.weight": b}, change


@pytest.mark.filterwarnings(CALLED)
@pytest.mark.parametrize(
    ("settings", "scale"),
    [({}, 4), ({"use_rslora": True}, 8 / 2**0.5), ({"alpha_pattern": {"q_proj|proj": 3}}, 1.5)],
    ids=["plain", "rslora", "pattern"],
)
def test_adapters_are_merged_into_their_base(base, tmp_path, settings, scale):
    hf = transformers.SegformerForSemanticSegmentation.from_pretrained(base)
    head = {f"{HEAD}.weight": torch.randn(3, 16, 1, 1), f"{HEAD}.bias": torch.randn(3)}
    tensors = dict(head)
    with torch.no_grad():
        for name in (QUERY, PATCHES):
            own, change = pair(name, hf.get_submodule(name))
            tensors |= own
            hf.get_submodule(name).weight += scale * change
        hf.decode_head.classifier = torch.nn.Conv2d(16, 3, 1)
        hf.decode_head.classifier.load_state_dict({n.split(".")[-1]: t for n, t in head.items()})
        x = reference.pixels(64, 64).astype(np.float32)
        expected = reference.nhwc(hf.eval()(reference.nchw(x)).logits)

    folder = write(tmp_path / "adapters", base, tensors, **settings)
    model = SegformerForSemanticSegmentation.from_pretrained(folder)
    assert reference.distance(model(x).logits, expected) < 1e-5  # float32


@pytest.mark.filterwarnings("ignore:.*(id2label|is_gradient_checkpointing)")  # PEFT's own
@pytest.mark.filterwarnings(CALLED)
def test_what_peft_saves_is_what_peft_merges(base, tmp_path):
    peft = pytest.importorskip("peft", reason="the reference is PEFT: pip install -e '.[test]'")
    hf = transformers.SegformerForSemanticSegmentation.from_pretrained(
        base, num_labels=3, ignore_mismatched_sizes=True
    )
    settings = peft.LoraConfig(
        r=4,
        target_modules=["q_proj", "fc1", "sequence_reduction.sequence_reduction"],
        modules_to_save=["decode_head"],
        bias="lora_only",
        rank_pattern={"q_proj": 3},
        alpha_pattern={"stages.0.blocks.0.attention.q_proj": 5},
    )
    adapted = peft.get_peft_model(hf, settings)
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn(parameter.shape)
        adapted.base_model.model.decode_head.batch_norm.running_mean += 0.1
        adapted.save_pretrained(tmp_path / "adapters")
        x = reference.pixels(64, 64).astype(np.float32)
        merged = adapted.merge_and_unload().eval()
        expected = reference.nhwc(merged(reference.nchw(x)).logits)
    model = SegformerForSemanticSegmentation.from_pretrained(tmp_path / "adapters")
    assert reference.distance(model(x).logits, expected) < 1e-5  # float32


def test_the_classes_are_the_adapters(base, tmp_path):
    head = {f"{HEAD}.weight": torch.ones(3, 16, 1, 1), f"{HEAD}.bias": torch.ones(3)}
    folder = write(tmp_path / "adapters", base, head)
    with pytest.warns(UserWarning, match="have 3 classes, .* called LABEL_0 to LABEL_2; give"):
        assert SegformerConfig.from_pretrained(folder).num_labels == 3
    names = {0: "sky", 1: "road", 2: "car"}
    model = SegformerForSemanticSegmentation.from_pretrained(folder, id2label=names)
    assert model.config.id2label == names
    assert np.all(model.decode_head.classifier.bias[...] == 1)


def test_what_can_not_be_merged_is_refused(base, tmp_path):
    hf = transformers.SegformerForSemanticSegmentation.from_pretrained(base)
    own, _ = pair(QUERY, hf.get_submodule(QUERY))
    elsewhere = {name.replace("q_proj", "z_proj"): tensor for name, tensor in own.items()}
    cases = (
        (own, {"peft_type": "IA3"}, "must be plain LoRA, got IA3: merge"),
        (own, {"use_dora": True}, "got LORA with use_dora"),
        (own, {"init_lora_weights": "pissa"}, "got LORA and init_lora_weights 'pissa'"),
        (
            own,
            {"base_model_name_or_path": "/no/folder"},
            "adapters in .* can't be opened: .*folder",
        ),
        (own, {"base_model_name_or_path": None}, "must name the model of these adapters, got None"),
        (own, {"lora_alpha": "8"}, "lora_alpha in .* must be a number, got '8'"),
        (elsewhere, {}, r"adapters must belong to layers of .*z_proj; correct base_model"),
    )
    for tensors, settings, said in cases:
        folder = write(tmp_path / "adapters", base, tensors, **settings)
        with pytest.raises(WeightsError, match=said):
            SegformerForSemanticSegmentation.from_pretrained(folder)


def test_adapters_beside_their_model_in_one_file_are_named(base):
    hf = transformers.SegformerForSemanticSegmentation.from_pretrained(base)
    own, _ = pair(QUERY, hf.get_submodule(QUERY))
    tensors = {
        name.replace("q_proj.", "q_proj.base_layer."): t for name, t in hf.state_dict().items()
    }
    save_file(tensors | own, base / "model.safetensors")
    with pytest.raises(WeightsError, match=r"model\.merge_and_unload\(\)"):
        SegformerForSemanticSegmentation.from_pretrained(base)
