"""int8 weights, against torch's quantisation per channel."""

import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
import torch
import transformers
from safetensors.numpy import load_file, save_file
from safetensors.torch import load_file as torch_load_file
from safetensors.torch import save_file as torch_save_file

import segformer_jax
from segformer_jax import (
    SegformerForSemanticSegmentation,
    SegformerImageProcessor,
    Segmenter,
)
from segformer_jax.checkpoints.files import is_int8, weights_file
from segformer_jax.checkpoints.flat import flat_state
from segformer_jax.checkpoints.int8 import INT8_FILE, dequantise, quantise
from segformer_jax.errors import WeightsError

pytestmark = pytest.mark.usefixtures("cpu_forms")  # a third less to trace

FLOAT_FILE = "model.safetensors"
SEGMENTATION = "ForSemanticSegmentation"
STREET = Path(__file__).resolve().parents[2] / "examples" / "street.jpg"
QUERY = "segformer.encoder.block.0.0.attention.self.query.weight"
FUSE = "decode_head.linear_fuse.weight"
CLASSIFIER = "decode_head.classifier.weight"
KEY = "segformer.encoder.block.0.0.attention.self.key.weight"
PROJECTION = "decode_head.linear_c.0.proj.weight"


@pytest.fixture
def folder(tmp_path):
    """A random tiny segmentation model as transformers saves it."""
    reference.hf_model(SEGMENTATION).save_pretrained(tmp_path / "hf")
    return tmp_path / "hf"


@pytest.fixture
def int8(folder, tmp_path):
    """The same with int8 weights."""
    model = SegformerForSemanticSegmentation.from_pretrained(folder)
    model.save_pretrained(tmp_path / "int8", weights="int8")
    return tmp_path / "int8"


def by_torch(tensors):
    """A file's tensors, its int8 kernels made floats in torch."""
    whole = {}
    for name, tensor in tensors.items():
        if tensor.dtype == torch.int8:
            scale = tensors[f"{name}_scale"]
            whole[name] = tensor.float() * scale.view(-1, *[1] * (tensor.dim() - 1))
        elif not name.endswith("_scale"):
            whole[name] = tensor
    return whole


def rounded_by_torch(kernel, scale):
    """Torch's own rounding per channel, to −127 … 127, and back to floats."""
    zeros = torch.zeros(len(scale), dtype=torch.int32)
    return torch.fake_quantize_per_channel_affine(
        torch.from_numpy(kernel), torch.from_numpy(scale), zeros, 0, -127, 127
    ).numpy()


@pytest.mark.parametrize("shape", [(40, 24), (16, 8, 3, 3), (32, 3, 7, 7), (11, 64, 1, 1)])
def test_kernels_are_what_torch_makes_of_them(shape, rng):
    """Torch multiplies by 1 ÷ scale in float32: near a half it may round to the other side."""
    sizes = rng.uniform(0.01, 10, (shape[0], *[1] * (len(shape) - 1)))
    kernel = (sizes * rng.normal(size=shape)).astype(np.float32)
    ours = quantise({"a.weight": kernel})
    scale = ours["a.weight_scale"]
    assert np.array_equal(scale, torch.from_numpy(kernel).abs().flatten(1).amax(1) / 127)
    exact = kernel.astype(np.float64) / scale.reshape(sizes.shape)
    clear = np.abs(exact % 1 - 0.5) > 1e-4
    assert clear.mean() > 0.99
    assert ours["a.weight"].dtype == np.int8
    assert np.abs(ours["a.weight"]).reshape(len(kernel), -1).max(1).tolist() == [127] * shape[0]
    whole = dequantise(ours, source=Path("file"))
    assert whole.keys() == {"a.weight"}
    assert whole["a.weight"].dtype == np.float32
    assert np.array_equal(whole["a.weight"][clear], rounded_by_torch(kernel, scale)[clear])


def test_of_two_multiples_as_near_the_even_one_is_taken():
    """Scales that are powers of two leave nothing to rounding: torch must agree on every half."""
    halves = np.array([[127, *np.arange(-126.5, 127)], [-127, *np.arange(-126.5, 127)]])
    kernel = (halves * np.array([[2.0**-3], [2.0**-9]])).astype(np.float32)
    ours = quantise({"a.weight": kernel})
    assert ours["a.weight_scale"].tolist() == [2**-3, 2**-9]
    assert ours["a.weight"].tolist()[0][125:131] == [-2, -2, 0, 0, 2, 2]
    whole = dequantise(ours, source=Path("file"))["a.weight"]
    assert np.array_equal(whole, rounded_by_torch(kernel, ours["a.weight_scale"]))


def test_channels_of_zeros_and_of_next_to_nothing_stay_finite():
    least = float(np.finfo(np.float32).smallest_subnormal)
    kernel = np.array([[0, 0], [least, 0], [135 * least, -135 * least], [3e38, 0]], np.float32)
    ours = quantise({"a.weight": kernel})
    assert ours["a.weight_scale"].tolist()[:3] == [1, 1, least]
    assert ours["a.weight"].tolist() == [[0, 0], [0, 0], [127, -127], [127, 0]]
    whole = dequantise(ours, source=Path("file"))["a.weight"]
    np.testing.assert_allclose(whole, kernel, rtol=1e-6, atol=10 * least)


def test_weights_that_are_not_finite_are_all_named():
    values = {"a": np.nan, "b": 2, "c": np.inf}
    bad = {f"{name}.weight": np.array([[1, value]]) for name, value in values.items()}
    with pytest.raises(
        ValueError, match=r"must be finite, got NaN or infinity in a\.weight, c\.weight:"
    ):
        quantise(bad)


@pytest.mark.parametrize("kind", ["Model", "ForSemanticSegmentation", "ForImageClassification"])
def test_dense_layers_are_int8_and_all_else_stays_bit_for_bit(kind, tmp_path):
    hf = reference.hf_model(kind)
    hf.save_pretrained(tmp_path / "hf", save_original_format=False)
    model = getattr(segformer_jax, f"Segformer{kind}").from_pretrained(tmp_path / "hf")
    model.save_pretrained(tmp_path / "int8", weights="int8", save_original_format=False)
    assert sorted(f.name for f in (tmp_path / "int8").iterdir()) == ["config.json", INT8_FILE]
    before = load_file(tmp_path / "hf" / "model.safetensors")
    after = load_file(tmp_path / "int8" / INT8_FILE)
    dense = {
        f"{name}.weight"
        for name, module in hf.named_modules()
        if isinstance(module, torch.nn.Linear)
        or (isinstance(module, torch.nn.Conv2d) and module.groups == 1)
    }
    assert {name for name, tensor in after.items() if tensor.dtype == np.int8} == dense
    assert after.keys() == before.keys() | {f"{name}_scale" for name in dense}
    for name in before.keys() - dense:
        assert after[name].tobytes() == before[name].tobytes(), name
    assert json.loads((tmp_path / "int8" / "config.json").read_text())["dtype"] == "float32"


def test_a_loaded_model_computes_what_torch_does_with_these_weights(int8, tmp_path, x64):
    (tmp_path / "torch").mkdir()
    shutil.copy(int8 / "config.json", tmp_path / "torch")
    torch_save_file(by_torch(torch_load_file(int8 / INT8_FILE)), tmp_path / "torch" / FLOAT_FILE)
    hf = transformers.SegformerForSemanticSegmentation.from_pretrained(tmp_path / "torch")
    hf.double().set_attn_implementation("exact")
    ours = SegformerForSemanticSegmentation.from_pretrained(
        int8, dtype=jnp.float64, param_dtype=jnp.float64
    )
    x = reference.pixels(64, 96)
    with torch.no_grad():
        logits = reference.nhwc(hf(reference.nchw(x)).logits)
    found = jax.jit(lambda x: ours(x).logits)(x)  # one program to compile
    assert reference.distance(found, logits) < 1e-12


@pytest.mark.full
def test_every_float_type_gives_the_int8_of_its_float32_values(folder, tmp_path):
    """But BatchNorm's statistics: a narrow model has them in float32, its float file has not."""
    for dtype in (jnp.float16, jnp.bfloat16):
        narrow = SegformerForSemanticSegmentation.from_pretrained(folder, param_dtype=dtype)
        narrow.save_pretrained(tmp_path / "float")
        wide = SegformerForSemanticSegmentation.from_pretrained(tmp_path / "float")
        for name, model in (("narrow", narrow), ("wide", wide)):
            model.save_pretrained(tmp_path / name, weights="int8")
        one, other = (load_file(tmp_path / name / INT8_FILE) for name in ("narrow", "wide"))
        assert one.keys() == other.keys()
        for name in one:
            assert one[name].dtype == other[name].dtype
            assert "running" in name or np.array_equal(one[name], other[name]), name


def test_floats_saved_again_open_in_transformers_and_give_the_same_int8(int8, tmp_path):
    model = SegformerForSemanticSegmentation.from_pretrained(int8)
    model.save_pretrained(tmp_path / "float")
    hf = transformers.SegformerForSemanticSegmentation.from_pretrained(tmp_path / "float")
    wanted = by_torch(torch_load_file(int8 / INT8_FILE))
    hf.save_pretrained(tmp_path / "theirs")  # under the file's names
    theirs = torch_load_file(tmp_path / "theirs" / FLOAT_FILE)
    assert theirs.keys() == wanted.keys()
    assert all(torch.equal(theirs[name], wanted[name]) for name in wanted)
    model.save_pretrained(tmp_path / "again", weights="int8")
    one, other = load_file(int8 / INT8_FILE), load_file(tmp_path / "again" / INT8_FILE)
    for name in one:
        if one[name].dtype == np.int8:
            assert np.array_equal(one[name], other[name]), name


def test_the_file_may_go_by_another_name(int8):
    wanted = flat_state(SegformerForSemanticSegmentation.from_pretrained(int8))
    other = (int8 / INT8_FILE).rename(int8 / "other.safetensors")
    found = flat_state(SegformerForSemanticSegmentation.from_pretrained(other))
    assert all(np.array_equal(found[name], value) for name, value in wanted.items())
    assert is_int8(other)


def test_missing_and_damaged_scales_are_listed_at_once(int8):
    tensors = load_file(int8 / INT8_FILE)
    del tensors[f"{FUSE}_scale"], tensors[f"{QUERY}_scale"]
    tensors[f"{KEY}_scale"][[1, 3]] = np.nan, 0
    tensors[f"{CLASSIFIER}_scale"] = np.ones(6, np.float32)
    tensors[f"{PROJECTION}_scale"] = np.ones(16, np.float16)
    save_file(tensors, int8 / INT8_FILE)
    with pytest.raises(WeightsError) as caught:
        SegformerForSemanticSegmentation.from_pretrained(int8)
    first, missing, damaged, advice = str(caught.value).splitlines()
    assert str(int8 / INT8_FILE) in first
    assert set(missing.removeprefix("  missing: ").split(", ")) == {
        f"{FUSE}_scale",
        f"{QUERY}_scale",
    }
    assert f"{KEY}_scale has 2 of 8 values that are not finite and above 0" in damaged
    assert f"{CLASSIFIER}_scale has shape (6,), not (7,)" in damaged
    assert f"{PROJECTION}_scale is float16, not float32" in damaged
    assert damaged.count("_scale") == 3
    assert "segformer-jax convert SOURCE OUT_DIR --weights int8" in advice


def test_a_kernel_that_is_missing_and_a_file_cut_short_are_said(int8):
    tensors = load_file(int8 / INT8_FILE)
    del tensors[FUSE]
    save_file(tensors, int8 / INT8_FILE)
    fuse = r"decode_head\.linear_fuse\.weight"
    message = rf"missing:\n +{fuse}\n +unexpected:\n +{fuse}_scale\n"
    with pytest.raises(WeightsError, match=message):
        SegformerForSemanticSegmentation.from_pretrained(int8)
    (int8 / INT8_FILE).write_bytes((int8 / INT8_FILE).read_bytes()[:9_000])
    for read in (SegformerForSemanticSegmentation.from_pretrained, is_int8):
        with pytest.raises(WeightsError, match=r"model\.int8\.safetensors is damaged or not"):
            read(int8)


def test_floats_go_first_and_int8_is_not_saved_beside_them(folder, int8):
    floats = SegformerForSemanticSegmentation.from_pretrained(folder)
    floats.save_pretrained(int8)
    found = flat_state(SegformerForSemanticSegmentation.from_pretrained(int8))
    assert all(np.array_equal(found[name], value) for name, value in flat_state(floats).items())
    assert not is_int8(int8)
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    with pytest.raises(ValueError, match=r"holds model\.safetensors, which is read before"):
        floats.save_pretrained(folder, weights="int8")
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


def test_other_weights_are_refused(folder, tmp_path):
    model = SegformerForSemanticSegmentation.from_pretrained(folder)
    with pytest.raises(ValueError, match="weights must be one of float, float16, int8, got 'int4'"):
        model.save_pretrained(tmp_path / "new", weights="int4")
    assert not (tmp_path / "new").exists()


@pytest.mark.full
def test_scene_b0_is_a_quarter_as_large_and_sees_the_same_classes(tmp_path):
    model = SegformerForSemanticSegmentation.from_pretrained("scene-b0")
    for weights in ("float", "int8"):
        model.save_pretrained(tmp_path / weights, weights=weights)
        SegformerImageProcessor.from_pretrained("scene-b0").save_pretrained(tmp_path / weights)
    size, whole = (weights_file(tmp_path / w).stat().st_size for w in ("int8", "float"))
    assert size <= 0.30 * whole
    segment = Segmenter.from_pretrained(tmp_path / "int8")
    quantised = segment(STREET).class_map
    segment.update(SegformerForSemanticSegmentation.from_pretrained(tmp_path / "float"))
    floats = segment(STREET).class_map
    assert (quantised == floats).mean() >= 0.99
    assert not np.array_equal(quantised, floats)  # or the int8 file was never read
