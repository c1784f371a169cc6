"""Reading `torch.save`'s files as torch does, and refusing whatever is not tensors."""

import contextlib
import io
import os
import pickle
import re
import zipfile
from collections import OrderedDict

import ml_dtypes
import numpy as np
import pytest
import torch

from segformer_jax.checkpoints.torch_file import read_torch_file
from segformer_jax.errors import WeightsError

CONTAINERS = pytest.mark.parametrize("new", [True, False], ids=["zip", "legacy"])


def save(value, path, new):
    torch.save(value, path, _use_new_zipfile_serialization=new)
    return path


def tensors() -> OrderedDict:
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(6, 8, generator=generator)
    dtypes = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
    found = OrderedDict({str(dtype): base.to(dtype) for dtype in dtypes})
    for dtype in (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool):
        found[str(dtype)] = (base.abs() * 3).to(dtype)
    found["transposed"] = base.T
    found["strided"] = base[1::2, ::3]
    found["expanded"] = base[:1].expand(4, 8)
    found["shares its storage"] = base.view(-1)[5:17]
    found["scalar"] = torch.tensor(2.5)
    found["empty"] = torch.zeros(0, 3)
    found["parameter"] = torch.nn.Parameter(base[2])
    return found


def as_numpy(tensor: torch.Tensor) -> np.ndarray:
    if tensor.dtype == torch.bfloat16:
        return tensor.float().numpy().astype(ml_dtypes.bfloat16)
    return tensor.detach().numpy()


@CONTAINERS
@pytest.mark.parametrize("wrapped", [False, True])
def test_every_kind_of_tensor_is_read_as_torch_reads_it(tmp_path, new, wrapped):
    given = tensors()
    content = {"meta": {"epoch": 3, "classes": ("a", "b")}, "state_dict": given, "optimizer": given}
    path = save(content if wrapped else given, tmp_path / "x.bin", new)

    found = read_torch_file(path)

    loaded = torch.load(path, weights_only=True)
    loaded = loaded["state_dict"] if wrapped else loaded
    assert list(found) == list(given)
    for name, tensor in loaded.items():
        expected = as_numpy(tensor)
        assert found[name].dtype == expected.dtype, name
        assert found[name].shape == expected.shape, name
        assert found[name].tobytes() == np.ascontiguousarray(expected).tobytes(), name


@CONTAINERS
def test_a_whole_models_state_dict_is_read(tmp_path, new):
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    found = read_torch_file(save(model.state_dict(), tmp_path / "x.bin", new))
    for name, tensor in model.state_dict().items():
        assert np.array_equal(found[name], tensor.numpy())


class Attack:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@CONTAINERS
@pytest.mark.parametrize(
    ("function", "arguments", "name"),
    [
        (os.system, ("touch {}",), "system"),
        (eval, ("open({!r}, 'w')",), "eval"),
        (getattr, (os, "system"), "getattr"),
        (io.open, ("{}", "w"), "open"),
    ],
)
def test_a_pickle_that_calls_anything_else_has_none_of_it_called(
    tmp_path, new, function, arguments, name
):
    mark = tmp_path / "ran"
    arguments = tuple(a.format(str(mark)) if isinstance(a, str) else a for a in arguments)
    if os in arguments:
        arguments = (1, "real")
    attack = Attack(function, *arguments)
    path = save({"weight": torch.ones(2), "more": attack}, tmp_path / "x.bin", new)
    with pytest.warns(UserWarning, match="left out|neither imported") as caught:
        assert read_torch_file(path).keys() == {"weight"}
    left_out, not_imported = (str(one.message) for one in caught)
    assert left_out == f"{path}: these entries are no tensors and were left out: more"
    assert re.search(rf"neither imported nor called: \S+\.{name}$", not_imported)
    for content in ({"weight": attack, "bias": torch.ones(2)}, {"weight": attack}, attack):
        save(content, path, new)
        with pytest.raises(WeightsError, match=rf"{path}: .*an object of \S+\.{name}\b"):
            read_torch_file(path)
    assert not mark.exists()


@CONTAINERS
def test_a_pickled_module_is_refused_by_name(tmp_path, new):
    path = save(torch.nn.Linear(2, 2), tmp_path / "x.bin", new)
    with pytest.raises(
        WeightsError, match=r"got an object of torch\.nn\.modules\.linear\.Linear: "
    ):
        read_torch_file(path)


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_a_bare_pickle_is_no_checkpoint(tmp_path, protocol):
    path = tmp_path / "x.bin"
    path.write_bytes(pickle.dumps({"a": 1}, protocol=protocol))
    with pytest.raises(WeightsError, match=r"not written by torch\.save"):
        read_torch_file(path)


@CONTAINERS
def test_every_truncation_is_one_clear_error(tmp_path, new):
    path = save({"weight": torch.randn(50, 7)}, tmp_path / "x.bin", new)
    whole = path.read_bytes()
    for size in range(0, len(whole) - 1, max(1, len(whole) // 60)):
        path.write_bytes(whole[:size])
        with pytest.raises(WeightsError, match=r"x\.bin"):
            read_torch_file(path)


def damaged(data: bytes, rng: np.random.Generator) -> bytes:
    """Some bits flipped, and now and then the end cut off."""
    content = bytearray(data)
    for place in rng.integers(0, len(content), rng.integers(1, 4)):
        content[place] ^= 1 << rng.integers(8)
    return bytes(content[: rng.integers(len(content))] if rng.random() < 0.2 else content)


@pytest.mark.filterwarnings("ignore")  # what NumPy and zipfile think of it
def test_damage_anywhere_is_a_weights_error_or_harmless(tmp_path):
    content = OrderedDict(a=torch.ones(2, 3), b=torch.nn.Parameter(torch.zeros(4).double()))
    whole, legacy = (save(content, tmp_path / str(new), new).read_bytes() for new in (True, False))
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    pickled = next(name for name in files if name.endswith("data.pkl"))
    rng, path = np.random.default_rng(0), tmp_path / "x.bin"
    for number in range(3000):
        if number % 3 == 2:  # a damaged pickle whose checksum is right
            with zipfile.ZipFile(path, "w") as archive:
                for name, data in files.items():
                    archive.writestr(name, damaged(data, rng) if name == pickled else data)
        else:
            path.write_bytes(damaged((whole, legacy)[number % 3], rng))
        with contextlib.suppress(WeightsError):
            found = read_torch_file(path)
            assert all(isinstance(value, np.ndarray) for value in found.values())


def test_a_tensor_that_repeats_one_number_without_end_is_refused(tmp_path):
    path = save({"weight": torch.zeros(1).expand(2**40)}, tmp_path / "x.bin", True)
    with pytest.raises(WeightsError, match="from a storage of 1"):
        read_torch_file(path)


def test_a_tensor_that_reaches_past_its_storage_is_refused(tmp_path):
    path = save({"weight": torch.ones(4)}, tmp_path / "x.bin", True)
    damaged = tmp_path / "damaged.bin"
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(damaged, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            new.writestr(name, data[:8] if name.endswith("data/0") else data)
    with pytest.raises(WeightsError, match="reaches to element 3 of a storage of 2"):
        read_torch_file(damaged)


@CONTAINERS
def test_entries_that_are_no_tensors_are_named(tmp_path, new):
    path = save({"weight": torch.ones(2), "epoch": 3}, tmp_path / "x.bin", new)
    with pytest.warns(UserWarning, match="these entries are no tensors and were left out: epoch"):
        assert read_torch_file(path).keys() == {"weight"}
    with pytest.raises(WeightsError, match="must hold a dict of tensors, got a list"):
        read_torch_file(save([torch.ones(2)], path, new))


def test_other_zip_files_are_told_apart(tmp_path):
    path = tmp_path / "x.bin"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("hello.txt", "hello")
    with pytest.raises(WeightsError, match=r"has no data\.pkl"):
        read_torch_file(path)
