"""Prefixes that wrappers of torch leave before the names of a model's tensors."""

import shutil

import numpy as np
import pytest
import reference
import torch
from safetensors.torch import save_file

from segformer_jax import SegformerForSemanticSegmentation, SegformerModel
from segformer_jax.checkpoints.flat import flat_state
from segformer_jax.checkpoints.prefix import without_prefix
from segformer_jax.errors import WeightsError


class Wrapped(torch.nn.Module):
    """A module of a training loop, with a loss that has a tensor of its own."""

    def __init__(self, name, model, *, loss=False):
        super().__init__()
        setattr(self, name, model)
        self.criterion = torch.nn.CrossEntropyLoss(torch.ones(7) if loss else None)


WRAPPERS = {  # what a user writes: the prefix and what has it not
    "module.": torch.nn.DataParallel,
    "_orig_mod.": lambda model: torch.compile(model, backend="eager"),
    "model.": lambda model: Wrapped("model", model, loss=True),
    "net.": lambda model: Wrapped("net", model),
    "module._orig_mod.": lambda model: torch.nn.DataParallel(torch.compile(model, backend="eager")),
    "student.model.": lambda model: Wrapped("student", Wrapped("model", model)),
}
AVERAGED = torch.optim.swa_utils.AveragedModel  # has n_averaged beside its module


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("prefix") / "hf"
    reference.hf_model("ForSemanticSegmentation").save_pretrained(path)
    return path


@pytest.mark.parametrize("prefix", WRAPPERS)
def test_a_wrappers_prefix_is_taken_off_and_said(folder, tmp_path, prefix):
    wanted = flat_state(SegformerForSemanticSegmentation.from_pretrained(folder))
    wrapped = WRAPPERS[prefix](reference.hf_model("ForSemanticSegmentation"))
    shutil.copy(folder / "config.json", tmp_path)
    torch.save({"state_dict": wrapped.state_dict()}, tmp_path / "last.ckpt")
    with pytest.warns(UserWarning, match=f"begin with '{prefix}', which was taken off") as caught:
        model = SegformerForSemanticSegmentation.from_pretrained(tmp_path / "last.ckpt")
    assert len(caught) == 1
    loss = str(caught[0].message).endswith("left out, because they do not: criterion.weight")
    assert loss == (prefix == "model.")
    found = flat_state(model)
    assert found.keys() == wanted.keys()
    assert all(np.array_equal(found[name], wanted[name]) for name in wanted)


def test_averages_of_torch_are_read(folder, tmp_path):
    averaged = AVERAGED(reference.hf_model("ForSemanticSegmentation"))
    shutil.copy(folder / "config.json", tmp_path)
    tensors = {name: tensor.contiguous() for name, tensor in averaged.state_dict().items()}
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.warns(UserWarning, match=r"'module\.', .* left out, .*: n_averaged"):
        SegformerForSemanticSegmentation.from_pretrained(tmp_path)


@pytest.mark.parametrize("kind", ["Model", "ForImageClassification"])
def test_names_without_a_wrapper_stay_as_they_are(kind, tmp_path):
    """The encoder's names all begin with "encoder.", in a classifier with "segformer."."""
    hf = reference.hf_model(kind)
    hf.save_pretrained(tmp_path)
    SegformerModel.from_pretrained(tmp_path)
    assert without_prefix(hf.state_dict(), source="x").keys() == hf.state_dict().keys()
    other = {"model.conv.weight": 1, "model.conv.bias": 2}
    assert without_prefix(other, source="x") == other


def test_two_models_in_one_file_are_named(tmp_path):
    name = "decode_head.classifier.weight"
    with pytest.raises(WeightsError, match=r"one SegFormer, got one under each of '', 'teacher\.'"):
        without_prefix({name: 1, f"teacher.{name}": 2}, source="x")
