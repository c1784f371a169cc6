"""Whole models from files and back, against transformers."""

import json
import shutil
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
import torch
import transformers
from safetensors.numpy import load_file, save_file
from transformers.utils import logging

from segformer_jax import (
    SegformerConfig,
    SegformerForImageClassification,
    SegformerForSemanticSegmentation,
    SegformerImageProcessor,
    SegformerModel,
    Segmenter,
)
from segformer_jax.checkpoints.flat import flat_state
from segformer_jax.errors import WeightsError

pytestmark = pytest.mark.usefixtures("cpu_forms")  # a third less to trace

SEGMENTATION = "ForSemanticSegmentation"
CLASSES = {
    "Model": SegformerModel,
    "ForSemanticSegmentation": SegformerForSemanticSegmentation,
    "ForImageClassification": SegformerForImageClassification,
}
FUSE = "decode_head.linear_fuse.weight"


@pytest.fixture
def folder(tmp_path):
    """A random tiny segmentation model as transformers saves it."""
    reference.hf_model(SEGMENTATION).save_pretrained(tmp_path / "hf")
    return tmp_path / "hf"


def assert_same(one, other):
    one, other = flat_state(one), flat_state(other)
    assert one.keys() == other.keys()
    for name in one:
        assert one[name].dtype == other[name].dtype
        assert np.array_equal(one[name], other[name]), name


def edit(folder, change):
    """Rewrites the folder's weights by a function of its tensors."""
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def test_every_dialect_and_container_is_the_same_model(folder, tmp_path):
    wanted = SegformerForSemanticSegmentation.from_pretrained(folder)
    hf = transformers.SegformerForSemanticSegmentation.from_pretrained(folder)
    others = [tmp_path / name for name in ("new", "shards", "zip", "legacy", "raw", "bin shards")]
    hf.save_pretrained(others[0], save_original_format=False)
    hf.save_pretrained(others[1], max_shard_size="20KB")
    assert (others[1] / "model.safetensors.index.json").is_file()
    old = {n: torch.from_numpy(t) for n, t in load_file(folder / "model.safetensors").items()}
    for path, tensors, new in ((others[2], old, True), (others[3], old, False),
                               (others[4], hf.state_dict(), True)):  # fmt: skip
        path.mkdir()
        shutil.copy(folder / "config.json", path)
        torch.save(tensors, path / "pytorch_model.bin", _use_new_zipfile_serialization=new)
    others[5].mkdir()
    shutil.copy(folder / "config.json", others[5])
    names = sorted(old)
    halves = {"pytorch_model-1.bin": names[::2], "pytorch_model-2.bin": names[1::2]}
    for file, own in halves.items():
        torch.save({name: old[name] for name in own}, others[5] / file)
    index = {"weight_map": {name: file for file, own in halves.items() for name in own}}
    (others[5] / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    for path in others:
        assert_same(SegformerForSemanticSegmentation.from_pretrained(path), wanted)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("kind", list(CLASSES))
def test_what_is_saved_is_what_was_loaded_bit_for_bit(kind, dtype, tmp_path):
    hf = reference.hf_model(kind).to(getattr(torch, dtype))
    hf.save_pretrained(tmp_path / "hf")
    model = CLASSES[kind].from_pretrained(tmp_path / "hf", param_dtype=jnp.dtype(dtype))
    for original_names in (True, False):
        model.save_pretrained(tmp_path / "ours", save_original_format=original_names)
        hf.save_pretrained(tmp_path / "hf", save_original_format=original_names)
        with open(tmp_path / "ours" / "model.safetensors", "rb") as file:
            assert b'"format":"pt"' in file.read(1 << 20)
        theirs = load_file(tmp_path / "hf" / "model.safetensors")
        ours = load_file(tmp_path / "ours" / "model.safetensors")
        assert ours.keys() == theirs.keys()
        for name, tensor in theirs.items():
            assert ours[name].dtype == tensor.dtype
            assert ours[name].shape == tensor.shape
            assert ours[name].tobytes() == tensor.tobytes(), name
    saved = json.loads((tmp_path / "ours" / "config.json").read_text())
    assert saved["dtype"] == dtype
    assert saved["architectures"] == [f"Segformer{kind}"]


@pytest.mark.parametrize("kind", list(CLASSES))
def test_transformers_loads_what_we_save_without_a_word(kind, tmp_path, capfd):
    hf = reference.hf_model(kind)
    hf.save_pretrained(tmp_path / "hf")
    model = CLASSES[kind].from_pretrained(tmp_path / "hf")
    model.save_pretrained(tmp_path / "ours")
    logging.disable_progress_bar()
    capfd.readouterr()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = type(hf).from_pretrained(tmp_path / "ours")
    assert capfd.readouterr().err == ""
    for (name, one), other in zip(
        hf.state_dict().items(), again.state_dict().values(), strict=True
    ):
        assert torch.equal(one, other), name


def test_half_precision_files_load_as_float32(folder, tmp_path):
    hf = transformers.SegformerForSemanticSegmentation.from_pretrained(folder)
    hf.half().save_pretrained(tmp_path / "half")
    model = SegformerForSemanticSegmentation.from_pretrained(tmp_path / "half")
    state = flat_state(model)
    assert {str(v.dtype) for v in state.values()} == {"float32"}
    query = hf.segformer.stages[0].blocks[0].attention.q_proj.weight.detach().float().numpy()
    assert np.array_equal(state["segformer.stages.0.blocks.0.attention.q_proj.kernel"], query.T)


def test_float16_halves_the_file_and_transformers_reads_it(folder, tmp_path):
    model = SegformerForSemanticSegmentation.from_pretrained(folder)
    model.decode_head.batch_norm.num_batches_tracked[...] = 160_000  # beyond float16, and whole
    for weights in ("float", "float16"):
        model.save_pretrained(tmp_path / weights, weights=weights)
    before, after = (load_file(tmp_path / w / "model.safetensors") for w in ("float", "float16"))
    assert after.keys() == before.keys()
    for name, tensor in before.items():
        kept = name.endswith("num_batches_tracked")
        assert after[name].dtype == (tensor.dtype if kept else np.float16), name
        assert np.array_equal(after[name], tensor.astype(after[name].dtype)), name
    assert json.loads((tmp_path / "float16" / "config.json").read_text())["dtype"] == "float16"
    hf = transformers.SegformerForSemanticSegmentation.from_pretrained(tmp_path / "float16")
    assert {p.dtype for p in hf.parameters()} == {torch.float16}


def test_what_float16_can_not_hold_is_named_and_not_written(folder, tmp_path):
    model = SegformerForSemanticSegmentation.from_pretrained(folder)
    model.decode_head.classifier.bias[...] = 70_000.0
    model.decode_head.batch_norm.var[...] = np.nan
    message = (
        r"at most 65504, which decode_head\.batch_norm\.var, decode_head\.classifier\.bias are"
    )
    with pytest.raises(ValueError, match=message):
        model.save_pretrained(tmp_path / "new", weights="float16")
    assert not (tmp_path / "new").exists()


def test_a_loaded_model_is_in_eval_mode(folder):
    model = SegformerForSemanticSegmentation.from_pretrained(folder)
    x = np.zeros((1, 64, 64, 3), np.float32)
    assert np.array_equal(model(x).logits, model(x).logits)
    assert model.decode_head.batch_norm.use_running_average


@pytest.mark.parametrize("source", ["Model", "ForImageClassification"])
def test_an_encoder_starts_a_new_head_and_says_so(source, tmp_path):
    """The way everybody starts: from ImageNet's encoder, with own classes."""
    hf = reference.hf_model(source)
    hf.save_pretrained(tmp_path)
    names = {0: "road", 1: "crack"}
    with pytest.warns(UserWarning, match=r"must be trained: decode_head\.") as caught:
        model = SegformerForSemanticSegmentation.from_pretrained(
            tmp_path, id2label=names, label2id={"road": 0, "crack": 1}
        )
    assert len(caught) == 1
    assert model.config.id2label == names
    encoder = hf if source == "Model" else hf.segformer
    bias = encoder.stages[1].layer_norm.bias.detach().numpy()
    assert np.array_equal(model.segformer.stages[1].layer_norm.bias[...], bias)
    assert model.decode_head.classifier.kernel.shape == (16, 2)
    std = np.std(model.decode_head.linear_fuse.kernel[...])
    assert std == pytest.approx(hf.config.initializer_range, rel=0.2)


def test_a_segmentation_file_gives_its_encoder(folder):
    encoder = SegformerModel.from_pretrained(folder)
    whole = SegformerForSemanticSegmentation.from_pretrained(folder)
    assert_same(encoder, whole.segformer)
    with pytest.warns(UserWarning, match="initialised at random") as caught:
        SegformerForImageClassification.from_pretrained(folder)
    assert "decode_head" not in str(caught[0].message)


def test_another_number_of_labels_starts_a_new_classifier_alone(folder):
    before = SegformerForSemanticSegmentation.from_pretrained(folder)
    with pytest.warns(UserWarning, match="initialised at random") as caught:
        model = SegformerForSemanticSegmentation.from_pretrained(folder, num_labels=3)
    listed = str(caught[0].message).split(": ")[-1]
    assert listed == "decode_head.classifier.bias, decode_head.classifier.weight"
    fuse = model.decode_head.linear_fuse.kernel[...]
    assert np.array_equal(fuse, before.decode_head.linear_fuse.kernel[...])


def test_as_many_labels_keep_the_classifier(folder):
    names = {i: f"class {i}" for i in range(7)}
    model = SegformerForSemanticSegmentation.from_pretrained(folder, id2label=names)
    before = SegformerForSemanticSegmentation.from_pretrained(folder)
    assert_same(model, before)
    assert model.config.id2label == names


@pytest.mark.parametrize("channels", [1, 2, 4, 7])
def test_another_number_of_channels_adapts_the_first_kernel_as_timm(folder, channels):
    """One: the sum over the inputs; more: repeated, times 3/channels."""
    model = SegformerForSemanticSegmentation.from_pretrained(folder, num_channels=channels)
    old = load_file(folder / "model.safetensors")
    kernel = torch.from_numpy(old["segformer.encoder.patch_embeddings.0.proj.weight"])
    if channels == 1:
        expected = kernel.sum(1, keepdim=True)
    else:
        expected = kernel.repeat(1, 3, 1, 1)[:, :channels] * (3 / channels)
    ours = model.segformer.stages[0].patch_embeddings.proj.kernel[...]
    np.testing.assert_allclose(np.transpose(ours, (3, 2, 0, 1)), expected, rtol=1e-6)
    assert model.config.num_channels == channels


def test_everything_that_does_not_fit_is_listed_at_once(folder):
    def change(tensors):
        del tensors[FUSE], tensors["segformer.encoder.layer_norm.2.weight"]
        tensors["stray"] = np.ones(1, np.float32)
        tensors["decode_head.classifier.weight"] = np.ones((9, 16, 1, 1), np.float32)

    edit(folder, change)
    with pytest.raises(WeightsError) as caught:
        SegformerForSemanticSegmentation.from_pretrained(folder)
    assert str(caught.value).splitlines() == [
        f"the weights of {folder} do not fit this model",
        "  missing:",
        "    decode_head.linear_fuse.weight",
        "    segformer.encoder.layer_norm.2.weight",
        "  unexpected:",
        "    stray",
        "  of another shape:",
        "    decode_head.classifier.weight is (9, 16, 1, 1), wanted (7, 16, 1, 1)",
        "if only the classifier differs, pass num_labels=… to start a new one; if the sizes in "
        "config.json are another model's, take the config that belongs to these weights",
    ]


def test_names_are_the_files_and_long_lists_are_cut(folder):
    hf = transformers.SegformerForSemanticSegmentation.from_pretrained(folder)
    hf.save_pretrained(folder, save_original_format=False)
    edit(folder, lambda tensors: tensors.pop("segformer.stages.2.layer_norm.weight"))
    with pytest.raises(
        WeightsError, match=r"missing:\n    segformer\.stages\.2\.layer_norm\.weight"
    ):
        SegformerForSemanticSegmentation.from_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"depths": [2, 2, 1, 1]}))
    with pytest.raises(WeightsError) as caught:
        SegformerForSemanticSegmentation.from_pretrained(folder)
    missing = str(caught.value).partition("unexpected")[0].splitlines()[2:-1]
    assert len(missing) == 21
    assert missing[-1] == "    and 3 more"  # a block has 22


def test_names_of_no_known_layout_say_what_reads_others(folder):
    save_file({"a.weight": np.ones(2, np.float32)}, folder / "model.safetensors")
    with pytest.raises(WeightsError, match=r"none of these names is .* segformer-jax convert FILE"):
        SegformerModel.from_pretrained(folder)


def test_half_a_head_is_an_error_not_a_new_start(folder):
    edit(folder, lambda tensors: tensors.pop("decode_head.classifier.weight"))
    with pytest.raises(WeightsError, match=r"missing:\n +decode_head\.classifier\.weight"):
        SegformerForSemanticSegmentation.from_pretrained(folder)


def test_mismatched_sizes_can_be_ignored(folder):
    def change(tensors):
        tensors[FUSE] = np.ones((3, 3, 1, 1), np.float32)

    edit(folder, change)
    with pytest.warns(UserWarning, match=r"must be trained: decode_head\.linear_fuse\.weight$"):
        SegformerForSemanticSegmentation.from_pretrained(folder, ignore_mismatched_sizes=True)


def test_a_missing_counter_is_zero(folder):
    edit(folder, lambda tensors: tensors.pop("decode_head.batch_norm.num_batches_tracked"))
    model = SegformerForSemanticSegmentation.from_pretrained(folder)
    assert int(model.decode_head.batch_norm.num_batches_tracked[...]) == 0


def test_float64_parameters_need_x64(folder):
    with pytest.raises(ValueError, match=r'config\.update\("jax_enable_x64", True\)'):
        SegformerForSemanticSegmentation.from_pretrained(folder, param_dtype=jnp.float64)


def test_what_is_no_checkpoint_is_said(folder, tmp_path):
    with pytest.raises(WeightsError, match=r"config\.json is missing"):
        SegformerModel.from_pretrained(tmp_path)
    for text in ("{", "[" * 100_000):
        (folder / "config.json").write_text(text)
        with pytest.raises(WeightsError, match=r"config\.json is not valid JSON"):
            SegformerModel.from_pretrained(folder)
    (folder / "config.json").write_text('{"model_type": "vit"}')
    with pytest.raises(ValueError, match="model_type must be 'segformer', got 'vit'"):
        SegformerModel.from_pretrained(folder)
    (folder / "config.json").write_text('{"depths": [2, 2, 2, 2]}')
    with pytest.raises(
        WeightsError, match=r"must have \"model_type\": \"segformer\", got no model_type"
    ):
        SegformerModel.from_pretrained(folder)


def test_a_folded_model_is_not_saved(folder, tmp_path):
    model = SegformerForSemanticSegmentation.from_pretrained(folder)
    with pytest.raises(ValueError, match="a folded model can't be saved"):
        model.folded().save_pretrained(tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_folder_that_takes_no_files_is_a_value_error(folder, tmp_path):
    model = SegformerForSemanticSegmentation.from_pretrained(folder)
    (tmp_path / "file").touch()
    for own in (model, model.config, SegformerImageProcessor()):
        with pytest.raises(ValueError, match="must be a folder, got the file"):
            own.save_pretrained(tmp_path / "file")
        for bad in (tmp_path / "file" / "sub", "/proc/x"):
            with pytest.raises(ValueError, match=f"the output folder {bad} can't be written"):
                own.save_pretrained(bad)


def test_an_unknown_option_is_named_and_the_known_ones_listed(folder):
    for cls in (SegformerForSemanticSegmentation, SegformerConfig):
        with pytest.raises(TypeError, match=r"from_pretrained has no option foo: .* revision"):
            cls.from_pretrained(folder, foo=1)


def test_unknown_keys_of_a_config_survive(folder, tmp_path):
    config = json.loads((folder / "config.json").read_text())
    config |= {"downsampling_rates": [1, 4, 8, 16], "torch_dtype": "float64"}
    (folder / "config.json").write_text(json.dumps(config))
    SegformerForSemanticSegmentation.from_pretrained(folder).save_pretrained(tmp_path / "new")
    saved = json.loads((tmp_path / "new" / "config.json").read_text())
    assert saved["downsampling_rates"] == [1, 4, 8, 16]
    assert saved["dtype"] == "float32"
    assert "torch_dtype" not in saved


def test_a_config_and_an_index_may_have_a_byte_order_mark(folder, tmp_path):
    AutoModel = transformers.SegformerForSemanticSegmentation
    AutoModel.from_pretrained(folder).save_pretrained(tmp_path, max_shard_size="20KB")
    for name in ("config.json", "model.safetensors.index.json"):
        file = tmp_path / name
        file.write_text(file.read_text(encoding="utf-8"), encoding="utf-8-sig")
    SegformerForSemanticSegmentation.from_pretrained(tmp_path)


def test_a_missing_processor_is_the_default_one_and_said(folder):
    """A training loop's checkpoint, whichever door it is opened by."""
    said = f"{folder} has no preprocessor_config.json: .* SegFormer's defaults, resized to 512×512"
    with pytest.warns(UserWarning, match=said):
        processor = SegformerImageProcessor.from_pretrained(folder)
    assert processor == SegformerImageProcessor()
    with pytest.warns(UserWarning, match=said):
        Segmenter.from_pretrained(folder)
    with pytest.warns(UserWarning, match=said):  # a file in the folder
        SegformerImageProcessor.from_pretrained(folder / "model.safetensors", do_resize=False)
    (folder / "config.json").unlink()
    with pytest.raises(WeightsError, match=r"not a complete checkpoint: preprocessor_config\.json"):
        SegformerImageProcessor.from_pretrained(folder)


def test_class_names_with_gaps_are_refused_unless_others_are_given(folder):
    config = json.loads((folder / "config.json").read_text())
    config["id2label"] = {str(i): f"class {i}" for i in range(1, 8)}
    (folder / "config.json").write_text(json.dumps(config))
    said = r"config\.json: id2label must .* 0 to 6 without a gap, got 1, 2, 3, 4, 5, 6, 7: give"
    for cls in (SegformerForSemanticSegmentation, SegformerConfig):
        with pytest.raises(ValueError, match=said):
            cls.from_pretrained(folder)
    names = {i: f"class {i + 1}" for i in range(7)}
    model = SegformerForSemanticSegmentation.from_pretrained(folder, id2label=names)
    assert model.config.id2label == names
    SegformerImageProcessor().save_pretrained(folder)
    assert Segmenter.from_pretrained(folder, id2label=names).id2label == names
    with pytest.raises(
        ValueError, match=r"must name the 7 classes of .*, got 2 names: give one for"
    ):
        Segmenter.from_pretrained(folder, id2label={0: "a", 1: "b"})


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json"])
def test_a_pointer_in_place_of_a_config_is_named(folder, name):
    SegformerImageProcessor().save_pretrained(folder)
    (folder / name).write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(WeightsError, match=rf"{name} must hold .* got a Git LFS pointer"):
        Segmenter.from_pretrained(folder)


def test_processor_and_config_travel_alone(tmp_path):
    SegformerImageProcessor(size=300, do_reduce_labels=True).save_pretrained(tmp_path)
    SegformerConfig.b2(num_labels=5).save_pretrained(tmp_path)
    theirs = transformers.SegformerImageProcessorPil.from_pretrained(tmp_path)
    assert (theirs.size["height"], theirs.do_reduce_labels) == (300, True)
    assert SegformerImageProcessor.from_pretrained(tmp_path).size == {"height": 300, "width": 300}
    assert SegformerConfig.from_pretrained(tmp_path) == SegformerConfig.b2(num_labels=5)


def test_loading_and_predicting_import_no_torch(folder):
    import subprocess
    import sys

    program = (
        "import sys, numpy as np\n"
        "from segformer_jax import SegformerForSemanticSegmentation as Model\n"
        "Model.from_pretrained(sys.argv[1])(np.zeros((1, 64, 64, 3), 'f'))\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)\n"
    )
    hf = transformers.SegformerForSemanticSegmentation.from_pretrained(folder)
    torch.save(hf.state_dict(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    subprocess.run([sys.executable, "-c", program, folder], check=True)


def test_parameters_are_copies_on_the_device(folder):
    model = SegformerForSemanticSegmentation.from_pretrained(folder)
    assert all(isinstance(value, jax.Array) for value in flat_state(model).values())
