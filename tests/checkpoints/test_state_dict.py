"""What training loops save around a model's tensors."""

import argparse
import functools
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch

from segformer_jax.checkpoints.torch_file import read_torch_file
from segformer_jax.errors import WeightsError

MODEL = OrderedDict({"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2)})
OTHER = {"a.weight": torch.zeros(2, 3), "a.bias": torch.zeros(2)}
CONTAINERS = pytest.mark.parametrize("new", [True, False], ids=["zip", "legacy"])


def optimizer_state():
    parameter = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.AdamW([parameter])
    parameter.sum().backward()
    optimizer.step()
    return optimizer.state_dict()


def assert_the_model(found):
    assert found.keys() == MODEL.keys()
    for name, tensor in MODEL.items():
        assert np.array_equal(found[name], tensor.numpy())


@pytest.mark.parametrize(
    "content",
    [
        {"model_state_dict": MODEL, "optimizer_state_dict": optimizer_state(), "loss": 0.5},
        {"model": MODEL, "best": torch.tensor(3.0)},
        {"net": MODEL, "epoch": 3},
        {"model": {"state_dict": MODEL}},
        {"ema_state_dict": MODEL, "optimizer": optimizer_state()},
        {"module": MODEL, "lr_scheduler": None},  # DeepSpeed's
        {"segmentor": MODEL, "optimizer": optimizer_state()},  # anybody's
    ],
    ids=lambda content: next(iter(content)),
)
def test_the_model_is_found_under_its_key(tmp_path, content):
    torch.save(content, tmp_path / "x.ckpt")
    assert_the_model(read_torch_file(tmp_path / "x.ckpt"))


def test_of_several_state_dicts_one_is_read_and_the_others_named(tmp_path):
    torch.save({"model_ema": OTHER, "state_dict": MODEL}, tmp_path / "x.pth")
    with pytest.warns(UserWarning, match="under state_dict were read, and not .* under model_ema$"):
        assert_the_model(read_torch_file(tmp_path / "x.pth"))


@CONTAINERS
def test_what_else_a_loop_keeps_is_neither_imported_nor_called(tmp_path, new):
    content = {
        "pytorch-lightning_version": "2.6.0",
        "state_dict": MODEL,
        "callbacks": {"checkpoint": {"path": Path("x"), "score": np.float64(0.5)}},
        "hyper_parameters": argparse.Namespace(lr=1e-3, loss=torch.nn.functional.cross_entropy),
        "optimizer_states": [functools.partial(torch.nn.Linear, 3)],
        "dtype": torch.float16,
        "scaler": np.ones(3),
    }
    torch.save(content, tmp_path / "x.ckpt", _use_new_zipfile_serialization=new)
    with pytest.warns(UserWarning, match="only its tensors were read") as caught:
        assert_the_model(read_torch_file(tmp_path / "x.ckpt"))
    assert len(caught) == 1
    said = str(caught[0].message)
    for name in ("argparse.Namespace", "functools.partial", "torch.nn.functional.cross_entropy"):
        assert name in said


@pytest.mark.parametrize(
    ("tensor", "said"),
    [
        (torch.ones(2, 3).to(torch.float8_e4m3fn), r"a\.weight is of the type torch\.float8_e4m3f"),
        (torch.ones(2, 3).to(torch.complex64), r"a\.weight is of the type torch\.ComplexFloatSto"),
        (torch.eye(3).to_sparse(), r"a\.weight is an object of torch\._utils\._rebuild_sparse"),
        ([1.0], r"a\.weight is a list"),
    ],
    ids=["float8", "complex", "sparse", "list"],
)
def test_a_parameter_of_another_kind_is_refused_by_name(tmp_path, tensor, said):
    torch.save({"state_dict": MODEL | {"a.weight": tensor}}, tmp_path / "x.pth")
    with pytest.raises(WeightsError, match=rf"must be tensors of floats or integers, got {said}"):
        read_torch_file(tmp_path / "x.pth")


def test_a_file_without_a_model_says_what_it_holds(tmp_path):
    torch.save(optimizer_state(), tmp_path / "optimizer.pt")
    with pytest.raises(
        WeightsError, match=r"got the entries state \(a dict\), param_groups \(a list\)"
    ):
        read_torch_file(tmp_path / "optimizer.pt")


def test_one_dict_shared_without_end_takes_no_time(tmp_path):
    content = OTHER | {"epoch": 1}
    for _ in range(60):
        content = {"state_dict": content, "model": content, "net": content}
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(WeightsError, match="must hold a dict of tensors"):
        read_torch_file(tmp_path / "x.pth")
