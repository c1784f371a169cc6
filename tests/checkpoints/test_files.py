import json

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from safetensors.torch import save_file

from segformer_jax.checkpoints.files import read_weights, write_safetensors
from segformer_jax.errors import WeightsError

TENSORS = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(3), "c": torch.ones(4).half()}


def write_shards(folder, suffix):
    """Two shards and their index, as transformers splits a large model."""
    stem = "model" if suffix == ".safetensors" else "pytorch_model"
    names = [f"{stem}-0000{i}-of-00002{suffix}" for i in (1, 2)]
    parts = [{"a": TENSORS["a"]}, {"b": TENSORS["b"], "c": TENSORS["c"]}]
    for name, part in zip(names, parts, strict=True):
        (save_file if suffix == ".safetensors" else torch.save)(part, folder / name)
    index = {"weight_map": {"a": names[0], "b": names[1], "c": names[1]}}
    (folder / f"{stem}{suffix}.index.json").write_text(json.dumps(index))
    return names


def assert_read(path):
    found = read_weights(path)
    assert found.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert found[name].dtype == tensor.numpy().dtype
        assert np.array_equal(found[name], tensor.numpy())


def test_every_container_is_read(tmp_path):
    save_file(TENSORS, tmp_path / "model.safetensors")
    assert_read(tmp_path)
    assert_read(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").rename(tmp_path / "other.safetensors")
    for new in (True, False):
        torch.save(TENSORS, tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=new)
        assert_read(tmp_path)


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_shards_are_put_together(tmp_path, suffix):
    names = write_shards(tmp_path, suffix)
    assert_read(tmp_path)
    (tmp_path / names[1]).unlink()
    with pytest.raises(WeightsError, match=rf"names the file {names[1]}, which is missing"):
        read_weights(tmp_path)


def test_an_index_may_not_lead_elsewhere(tmp_path):
    index = {"weight_map": {"a": "../secret.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(WeightsError, match="must name files in its own folder"):
        read_weights(tmp_path)
    for text in ("[]", "[" * 100_000):
        (tmp_path / "model.safetensors.index.json").write_text(text)
        with pytest.raises(WeightsError, match="is not an index of weight shards"):
            read_weights(tmp_path)
    for name in (5, None, "a" * 300):
        index = {"weight_map": {"a": name, "b": "b.safetensors"}}
        (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
        with pytest.raises(WeightsError, match=r"names the file .* is missing beside it"):
            read_weights(tmp_path)


def test_what_is_missing_or_damaged_is_said(tmp_path):
    with pytest.raises(WeightsError, match=r"has no weights: expected one of model\.safetensors"):
        read_weights(tmp_path)
    save_file(TENSORS, tmp_path / "model.safetensors")
    whole = (tmp_path / "model.safetensors").read_bytes()
    for size in (0, 5, 60, len(whole) - 1):
        (tmp_path / "model.safetensors").write_bytes(whole[:size])
        said = (
            "is damaged or not a safetensors file" if size else "must hold data, got an empty file"
        )
        with pytest.raises(WeightsError, match=said):
            read_weights(tmp_path)
    save_file(
        {"a": torch.ones(2), "b": torch.ones(2).to(torch.float8_e4m3fn)}, tmp_path / "8.safetensors"
    )
    with pytest.raises(
        WeightsError,
        match=r"8\.safetensors must be .* got F8_E4M3 for b: .*float32.*float8 has a scale",
    ):
        read_weights(tmp_path / "8.safetensors")
    (tmp_path / "weights.h5").write_bytes(b"\x89HDF")
    with pytest.raises(WeightsError, match=r"must be a file of weights, .* known are \.safet"):
        read_weights(tmp_path / "weights.h5")


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "Git LFS pointer"),
        ("\n<!DOCTYPE html><html><body>Log in</body></html>", "got a web page"),
        ("\ufeff<HTML>", "got a web page"),
        ("", "an empty file"),
    ],
)
def test_what_lies_in_a_files_place_is_named(tmp_path, name, content, said):
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(WeightsError, match=f"{name} must hold .*{said}"):
        read_weights(tmp_path)


def test_a_folder_of_runs_says_where_its_weights_are(tmp_path):
    for name in ("checkpoint-500", "checkpoint-1000"):
        (tmp_path / name).mkdir()
        save_file(TENSORS, tmp_path / name / "model.safetensors")
    for name in ("last.ckpt", "optimizer.pt", "rng_state.pth", "training_args.bin", "trainer.json"):
        (tmp_path / name).touch()
    with pytest.raises(
        WeightsError, match=r"it holds checkpoint-1000, checkpoint-500, last\.ckpt: give one of"
    ):
        read_weights(tmp_path)


def test_writing_keeps_shapes_and_is_all_or_nothing(tmp_path):
    path = tmp_path / "model.safetensors"
    arrays = {"scalar": np.array(3), "turned": np.arange(6.0).reshape(2, 3).T}
    write_safetensors(arrays, path)
    found = load_file(path)
    assert found["scalar"].shape == ()
    assert np.array_equal(found["turned"], arrays["turned"])
    with pytest.raises(Exception, match="object"):
        write_safetensors({"a": np.array([object()])}, path)
    assert load_file(path).keys() == arrays.keys()
    assert list(tmp_path.iterdir()) == [path]
