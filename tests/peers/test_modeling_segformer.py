"""What transformers' tests of its SegFormer models expect, under their names, in our own words.

Theirs are tests/models/segformer/test_modeling_segformer.py and what it inherits from
tests/test_modeling_common.py, tests/test_configuration_common.py and tests/test_pipeline_mixin.py
(transformers 5). Here pictures are NumPy arrays, channels last.
"""

import dataclasses
import inspect
import json
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
import torch
import transformers
from flax import nnx
from peers import small
from peers.small import CLASSES, CONFIG, HEADS, LABELS, SIDE, new, pixels, saved, shaped
from safetensors.numpy import load_file, save_file

from segformer_jax import (
    SegformerConfig,
    SegformerForImageClassification,
    SegformerForSemanticSegmentation,
    SegformerImageProcessor,
    SegformerModel,
    Segmenter,
    WeightsError,
)
from segformer_jax.checkpoints.flat import flat_state

pytestmark = pytest.mark.usefixtures("cpu_forms")  # a third less to trace

EXCEPTIONS = {
    "test_from_pretrained_no_checkpoint": "weights in memory: checkpoints.flat.fill(model, values)",
    "test_gradient_checkpointing_backward_compatibility": "a frozen config, of the network alone",
    "test_config_attn_implementation_setter": "a frozen config; ops.use chooses implementations",
    "test_can_set_attention_dynamically": "ops.use chooses implementations, around a call",
    "test_peft_gradient_checkpointing_enable_disable": "the package peft adapts PyTorch's modules",
    "test_cannot_load_with_meta_device_context_manager": "torch.device alone; nnx.eval_shape",
    "test_multi_gpu_data_parallel_forward": "torch's DataParallel; see tests/models/test_meshes.py",
    "test_cpu_offload": "device_map",
    "test_disk_offload_bin": "device_map",
    "test_disk_offload_safetensors": "device_map",
    "test_model_parallelism": "device_map",
}
NOTHING_THERE = """
    Theirs that check nothing for SegFormer, or are skipped for it, on a CPU at least.
    About their test classes: num_layers_is_small, generation_tester_mixin_inheritance,
    model_base_model_prefix. Tokens, embeddings and positions: inputs_embeds,
    inputs_embeds_matches_input_ids, model_get_set_embeddings, resize_embeddings_untied,
    resize_tokens_embeddings, resize_position_vector_embeddings, get_text_features_*,
    get_image_features_*, get_audio_features_*, get_video_features_*. Models of several parts or
    experts: attn_implementation_composite_models, sdpa_can_dispatch_composite_models,
    can_set_attention_dynamically_composite_model, internal_model_config_and_subconfig_are_same,
    eager_matches_batched_and_grouped_inference, tp_plan_matches_params. Not set for SegFormer:
    keep_in_fp32_modules, keep_in_fp32_modules_exist, can_init_all_missing_weights,
    load_with_mismatched_shapes, torch_compile_for_training, sliding windows. Kernels of GPUs:
    flash_attn_*, flex_attention_with_grads, sdpa_can_compile_dynamic, sdpa_can_dispatch_on_flash.
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("theirs")


def test_the_exceptions_are_few_and_no_test_has_their_names():
    assert len(EXCEPTIONS) <= 12
    assert not EXCEPTIONS.keys() & globals().keys()


# --- the config


def test_config(tmp_path):
    values = dict(image_size=SIDE, hidden_sizes=(8, 8, 16, 16), num_attention_heads=(1, 1, 2, 2))
    config = SegformerConfig(**values)
    assert config.num_encoder_blocks == 4
    told = json.loads(config.to_json_string())
    assert {name: told[name] for name in values} == json.loads(json.dumps(values))
    config.to_json_file(tmp_path / "own.json")
    assert SegformerConfig.from_json_file(tmp_path / "own.json") == config
    read = transformers.SegformerConfig.from_json_file(tmp_path / "own.json")
    assert (read.image_size, list(read.hidden_sizes)) == (SIDE, [8, 8, 16, 16])
    config.save_pretrained(tmp_path / "part")
    assert SegformerConfig.from_pretrained(tmp_path / "part") == config
    assert SegformerConfig.from_pretrained(tmp_path, subfolder="part") == config
    changed = SegformerConfig.from_pretrained(
        tmp_path / "part", id2label={0: "a", 1: "b", 2: "c"}, label2id={"a": 0}, drop_path_rate=0.3
    )
    assert (changed.num_labels, changed.drop_path_rate, changed.label2id["c"]) == (3, 0.3, 2)
    assert len(SegformerConfig(num_labels=5).id2label) == 5
    assert SegformerConfig().num_labels == transformers.SegformerConfig().num_labels
    with pytest.raises(WeightsError, match=r"none\.json can't be read \(No such file"):
        SegformerConfig.from_json_file(tmp_path / "none.json")


# --- outputs


def test_model():
    assert shaped(new(SegformerModel))["last_hidden_state"].shape == (2, SIDE // 32, SIDE // 32, 16)


def test_for_image_segmentation():
    output, _ = small.everything(new(SegformerForSemanticSegmentation), pixels())
    assert output.logits.shape == (2, SIDE // 4, SIDE // 4, LABELS)
    assert output.loss > 0


def test_for_binary_image_segmentation():
    model = new(SegformerForSemanticSegmentation, num_labels=1, id2label=None)
    assert shaped(model, **small.labels(type(model)))["loss"].shape == ()


def test_forward_signature():
    for cls in CLASSES:
        names = list(inspect.signature(cls.__call__).parameters)
        assert names[1] == "pixel_values"
        assert {"output_hidden_states", "output_attentions", "return_dict"} <= set(names)


def test_model_main_input_name():
    inputs = SegformerImageProcessor()(np.zeros((8, 8, 3), np.uint8))
    assert list(inputs) == [list(inspect.signature(SegformerModel.__call__).parameters)[1]]


def test_attention_outputs():
    for cls in CLASSES:
        asked = shaped(new(cls), output_attentions=True, output_hidden_states=False)
        configured = shaped(new(cls, output_attentions=True), output_hidden_states=False)
        assert list(asked) == list(configured)
        assert list(asked)[-1] == "attentions"
        assert len(asked["attentions"]) == sum(CONFIG.depths)
        first, last = asked["attentions"][0].shape, asked["attentions"][-1].shape
        assert first[1:] == (1, (SIDE // 4) ** 2, (SIDE // 32) ** 2)
        assert last[1:] == (2, (SIDE // 32) ** 2, (SIDE // 32) ** 2)
        both = shaped(new(cls), output_attentions=True, output_hidden_states=True)
        assert len(both) == len(asked) + 1


def test_hidden_states_output():
    for cls in CLASSES:
        model, configured = new(cls), new(cls, output_hidden_states=True)
        for output in (shaped(model, output_hidden_states=True), shaped(configured)):
            assert len(output["hidden_states"]) == CONFIG.num_encoder_blocks
            assert output["hidden_states"][0].shape[1:] == (SIDE // 4, SIDE // 4, 8)
        assert "hidden_states" not in shaped(model, output_hidden_states=False)


def test_model_outputs_equivalence():
    for cls in CLASSES:
        named, plain = small.everything(new(cls), pixels())
        assert type(plain) is tuple
        assert list(named) == list(small.theirs(cls)(
            torch.zeros(1, 3, SIDE, SIDE), output_hidden_states=True, output_attentions=True,
            **{name: torch.zeros(value.shape[1:])[None].long()
               for name, value in small.labels(cls).items()},
        ))  # fmt: skip
        assert named.to_tuple()[:2] == named[:2] == tuple(named.values())[:2]
        for one, other in zip(
            jax.tree.leaves(named.to_tuple()), jax.tree.leaves(plain), strict=True
        ):
            np.testing.assert_array_equal(one, other)
        assert dict(**named).keys() == set(named)
        assert named[-1] is named["attentions"] is named.attentions
        without = dataclasses.replace(named, attentions=None)
        assert (len(without), "attentions" in without) == (len(named) - 1, False)
        with pytest.raises(KeyError, match=r"'attentions' must be one of .*hidden_states"):
            without["attentions"]


def test_capture_outputs_decorator():
    for cls in CLASSES:
        output = shaped(new(cls), output_attentions=True, output_hidden_states=True)
        assert list(output)[1:] == ["hidden_states", "attentions"]


def test_determinism():
    for cls in CLASSES:
        first, second = (small.everything(new(cls), pixels())[0][0] for _ in range(2))
        np.testing.assert_array_equal(first, second)


def test_batching_equivalence():
    for cls in HEADS[:1]:  # whose output holds the others' hidden states and attentions
        two, _ = small.everything(new(cls), pixels())
        one, _ = small.everything(new(cls), pixels()[:1])
        for batch, single in zip(jax.tree.leaves(two), jax.tree.leaves(one), strict=True):
            if single.ndim:  # not the loss, a mean over the batch
                np.testing.assert_allclose(batch[:1], single, atol=1e-5, rtol=1e-5)


def test_model_forward_default_config_values():
    def last(x):
        model = SegformerModel(SegformerConfig.from_dict({}), rngs=nnx.Rngs(0))
        model.eval()
        return model(x)[0]

    assert jax.eval_shape(last, pixels()).shape == (2, SIDE // 32, SIDE // 32, 256)


def test_feed_forward_chunking():
    values = CONFIG.to_dict() | {"chunk_size_feed_forward": 1}  # SegFormer has no use for it
    model = SegformerModel(SegformerConfig.from_dict(values), rngs=nnx.Rngs(0))
    model.eval()
    assert small.program(model) == small.program(new(SegformerModel))


def test_retain_grad_hidden_states_attentions():
    graph, state = nnx.split(new(SegformerModel))

    def of_both(x):
        output = nnx.merge(graph, state)(x, output_attentions=True)
        return output.hidden_states[0].ravel()[0] * output.attentions[0].ravel()[0]

    assert np.abs(jax.jit(jax.grad(of_both))(pixels())).sum() > 0


def test_model_is_small():
    for cls in CLASSES:
        assert new(cls).num_parameters() == small.theirs(cls).num_parameters() < 1_000_000


# --- training


def test_training():
    """By values for the classifier; tests/models compares both models' gradients with PyTorch's."""
    assert all(np.isfinite(value).all() for value in small.gradients(HEADS[1], False).values())


def test_training_gradient_checkpointing():
    plain, again = (small.gradients(HEADS[1], checkpointing) for checkpointing in (False, True))
    for name, gradient in plain.items():
        assert gradient.any() == again[name].any(), name


def test_training_gradient_checkpointing_use_reentrant_true():
    model = nnx.clone(new(HEADS[0]))
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": True})
    assert model.is_gradient_checkpointing


def test_training_gradient_checkpointing_use_reentrant_false():
    model = nnx.clone(new(HEADS[0]))
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    assert model.is_gradient_checkpointing


def test_gradient_checkpointing_enable_disable():
    for cls in CLASSES:
        model = nnx.clone(new(cls))
        assert not model.is_gradient_checkpointing
        model.gradient_checkpointing_enable()
        assert model.is_gradient_checkpointing
        model.gradient_checkpointing_disable()
        assert not model.is_gradient_checkpointing


def assert_pixels_have_a_gradient(model):
    graph, state = nnx.split(model)
    gradient = jax.eval_shape(
        jax.grad(lambda x: nnx.merge(graph, state)(x, **small.labels(type(model))).loss), pixels()
    )
    assert gradient.shape == pixels().shape


def test_enable_input_require_grads():
    assert_pixels_have_a_gradient(new(HEADS[1]))


def test_enable_input_require_grads_with_gradient_checkpointing():
    model = nnx.clone(new(HEADS[1]))
    model.gradient_checkpointing_enable()
    assert_pixels_have_a_gradient(model)


def test_problem_types():
    for problem_type, count, dtype in (
        ("multi_label_classification", 2, np.float32),
        ("single_label_classification", 1, np.int32),
        ("regression", 1, np.float32),
    ):
        model = new(HEADS[1], problem_type=problem_type, num_labels=count, id2label=None)
        labels = np.zeros((2, count) if count > 1 else 2, dtype)
        assert shaped(model, labels=labels)["loss"].shape == ()


# --- parameters before they are loaded


def test_init_weights_can_init_buffers():
    fresh = flat_state(new(HEADS[0]))
    for name, buffer in small.theirs(HEADS[0]).named_buffers():
        name = name.replace("running_", "")
        np.testing.assert_array_equal(fresh[name], buffer.numpy(), err_msg=name)


def test_all_tensors_are_parameter_or_buffer():
    for cls in CLASSES:
        model = nnx.eval_shape(lambda cls=cls: cls(CONFIG, rngs=nnx.Rngs(0)))
        assert {type(leaf) for leaf in jax.tree.leaves(nnx.split(model)[1])} == {
            jax.ShapeDtypeStruct
        }


def test_can_be_initialized_on_meta():
    for cls in CLASSES:
        model = nnx.eval_shape(lambda cls=cls: cls(CONFIG, rngs=nnx.Rngs(0)))
        assert {n: v.shape for n, v in flat_state(model).items()} == {
            n: v.shape for n, v in flat_state(new(cls)).items()
        }


def test_tied_weights_keys():
    leaves = jax.tree.leaves(nnx.state(new(HEADS[0]), nnx.Param))
    assert len({leaf.unsafe_buffer_pointer() for leaf in leaves}) == len(leaves)


# --- files


def test_save_load(tmp_path):
    for cls in CLASSES:
        new(cls).save_pretrained(tmp_path)
        loaded = cls.from_pretrained(tmp_path)
        loaded.save_pretrained(tmp_path)
        again = cls.from_pretrained(tmp_path)
        assert again.config.to_dict() == loaded.config.to_dict()
        small.assert_same_parameters(again, new(cls))


def test_save_load_keys_to_ignore_on_save(tmp_path, folder):
    for cls in CLASSES:
        new(cls).save_pretrained(tmp_path)
        ours, own = (load_file(f / "model.safetensors") for f in (tmp_path, saved(cls, folder)))
        assert {n: v.shape for n, v in ours.items()} == {n: v.shape for n, v in own.items()}


def test_load_contiguous_weights(folder):
    loaded = HEADS[0].from_pretrained(saved(HEADS[0], folder))
    assert all(np.asarray(leaf).flags.c_contiguous for leaf in flat_state(loaded).values())


def test_torch_save_load(tmp_path):
    model = small.theirs(HEADS[0])
    model.config.save_pretrained(tmp_path)
    for zipped in (True, False):
        file = tmp_path / "pytorch_model.bin"
        torch.save(model.state_dict(), file, _use_new_zipfile_serialization=zipped)
        kernel = flat_state(HEADS[0].from_pretrained(tmp_path))["decode_head.classifier.kernel"]
        np.testing.assert_array_equal(
            kernel.T, model.decode_head.classifier.weight.detach().numpy()[..., 0, 0]
        )


def test_can_use_safetensors(tmp_path):
    for cls in CLASSES:
        new(cls).save_pretrained(tmp_path)
        loaded, told = cls.from_pretrained(tmp_path, output_loading_info=True)
        assert told == {
            "missing_keys": set(), "unexpected_keys": set(), "mismatched_keys": set(),
            "error_msgs": [],
        }  # fmt: skip
        small.assert_same_parameters(loaded, new(cls))


def test_load_save_without_tied_weights(tmp_path, folder):
    """In shards, whose size `max_shard_size` gives; a later model leaves none of them behind."""
    new(HEADS[0]).save_pretrained(tmp_path, max_shard_size="20KB")
    small.theirs(HEADS[0]).save_pretrained(folder / "shards", max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    assert not (tmp_path / "model.safetensors").exists()
    assert {f.name for f in tmp_path.iterdir()} == {f.name for f in (folder / "shards").iterdir()}
    small.assert_same_parameters(HEADS[0].from_pretrained(tmp_path), new(HEADS[0]))
    transformers.SegformerForSemanticSegmentation.from_pretrained(tmp_path)
    for options, message in (
        (dict(max_shard_size="much"), "max_shard_size must be bytes, or a size such as '2GB'"),
        (dict(max_shard_size=1000, weights="int8"), "max_shard_size must be left out for int8"),
    ):
        with pytest.raises(ValueError, match=message):
            new(HEADS[0]).save_pretrained(tmp_path, **options)
    new(HEADS[0]).save_pretrained(tmp_path)
    assert {f.name for f in tmp_path.iterdir()} == {"config.json", "model.safetensors"}


def test_correct_missing_keys(folder):
    for cls in HEADS:
        with pytest.warns(UserWarning, match="must be trained"):
            _, told = cls.from_pretrained(saved(SegformerModel, folder), output_loading_info=True)
        _, expected = getattr(transformers, cls.__name__).from_pretrained(
            saved(SegformerModel, folder), output_loading_info=True
        )
        assert told == expected
        assert told["missing_keys"]


def test_model_weights_reload_no_missing_tied_weights(tmp_path):
    new(SegformerModel).save_pretrained(tmp_path)
    names = load_file(tmp_path / "model.safetensors").keys()
    save_file({"tensor": np.array([1, 2])}, tmp_path / "model.safetensors")
    with pytest.raises(WeightsError) as error:
        SegformerModel.from_pretrained(tmp_path)
    listed = [line.strip() for line in str(error.value).splitlines()]
    assert len(names & set(listed)) == 20
    assert f"and {len(names) - 20:,} more" in listed


def test_can_load_ignoring_mismatched_shapes(folder):
    path, more = saved(HEADS[1], folder), CONFIG.with_labels(num_labels=42)
    with pytest.raises(WeightsError, match=r"classifier\.weight is \(3, 16\), wanted \(42, 16\)"):
        HEADS[1].from_pretrained(path, config=more)
    with pytest.warns(UserWarning, match="classifier"):
        model, told = HEADS[1].from_pretrained(
            path, config=more, ignore_mismatched_sizes=True, output_loading_info=True
        )
    _, expected = transformers.SegformerForImageClassification.from_pretrained(
        path, num_labels=42, ignore_mismatched_sizes=True, output_loading_info=True
    )
    assert told["mismatched_keys"] == {(n, tuple(a), tuple(b)) for n, a, b in expected[
        "mismatched_keys"
    ]}  # fmt: skip
    assert told["missing_keys"] == expected["missing_keys"]
    assert model.classifier.kernel.shape == (16, 42)
    rest = nnx.state(model.segformer), nnx.state(HEADS[1].from_pretrained(path).segformer)
    assert jax.tree.all(jax.tree.map(np.array_equal, *rest))
    with pytest.warns(UserWarning, match="classifier"):
        assert HEADS[1].from_pretrained(path, num_labels=42).config.num_labels == 42


def test_reverse_loading_mapping(tmp_path, folder):
    own, renamed = (load_file(saved(HEADS[0], folder) / "model.safetensors"), {})
    HEADS[0].from_pretrained(saved(HEADS[0], folder)).save_pretrained(tmp_path)
    renamed = load_file(tmp_path / "model.safetensors")
    assert renamed.keys() == own.keys() != dict(small.theirs(HEADS[0]).state_dict()).keys()
    assert all(np.array_equal(renamed[name], own[name]) for name in own)


def test_can_load_from_already_mapped_keys(tmp_path):
    new(HEADS[0]).save_pretrained(tmp_path, save_original_format=False)
    assert load_file(tmp_path / "model.safetensors").keys() == (
        small.theirs(HEADS[0]).state_dict().keys()
    )
    small.assert_same_parameters(HEADS[0].from_pretrained(tmp_path), new(HEADS[0]))


def test_bc_torch_dtype(folder):
    path = saved(SegformerModel, folder)
    for dtype in ("float16", torch.bfloat16, jnp.float32, "auto"):
        old, now = (SegformerModel.from_pretrained(path, **{n: dtype})
                    for n in ("torch_dtype", "dtype"))  # fmt: skip
        expected = "float32" if dtype in ("auto", jnp.float32) else str(dtype).split(".")[-1]
        assert old.dtype.name == now.dtype.name == expected
    stored = transformers.SegformerModel.from_pretrained(path).half()
    stored.save_pretrained(folder / "halves")
    halves = SegformerModel.from_pretrained(folder / "halves", dtype="auto", param_dtype="auto")
    assert {leaf.dtype.name for leaf in jax.tree.leaves(nnx.state(halves))} == {"float16"}


# --- options of from_pretrained


def test_eager_matches_sdpa_inference(folder):
    eager, sdpa = (
        SegformerModel.from_pretrained(saved(SegformerModel, folder), attn_implementation=name)
        for name in ("eager", "sdpa")
    )
    assert small.program(eager) == small.program(sdpa)


def test_sdpa_can_dispatch_non_composite_models(folder):
    """And what else a script may give: fields of the config, and what has no meaning in JAX."""
    path = saved(SegformerModel, folder)
    with pytest.warns(UserWarning, match="without effect here: attn_implementation='flash_attent"):
        SegformerModel.from_pretrained(path, attn_implementation="flash_attention_2")
    model = SegformerModel.from_pretrained(path, drop_path_rate=0.4, device_map=None)
    assert model.config.drop_path_rate == 0.4
    with pytest.raises(ValueError, match=r"device_map must be left out, got 'auto': JAX loads"):
        SegformerModel.from_pretrained(path, device_map="auto")


def devices_of(model) -> set:
    return {device for leaf in flat_state(model).values() for device in leaf.devices()}


def test_can_load_with_device_context_manager(folder):
    device = jax.devices("cpu")[-1]
    with jax.default_device(device):
        model = SegformerModel.from_pretrained(saved(SegformerModel, folder))
    assert devices_of(model) == {device}


def test_can_load_with_global_device_set(folder):
    device, before = jax.devices("cpu")[-1], jax.config.jax_default_device
    jax.config.update("jax_default_device", device)
    try:
        model = SegformerModel.from_pretrained(saved(SegformerModel, folder))
    finally:
        jax.config.update("jax_default_device", before)
    assert devices_of(model) == {device}


def test_torch_export():
    graph, state = nnx.split(new(HEADS[0]))
    forward = jax.jit(lambda x: nnx.merge(graph, state)(x).logits)
    exported = jax.export.deserialize(jax.export.export(forward)(pixels()).serialize())
    expected = small.everything(new(HEADS[0]), pixels())[0].logits
    np.testing.assert_allclose(exported.call(pixels()), expected, atol=1e-4, rtol=1e-4)


# --- checkpoints in use


def test_model_from_pretrained():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert SegformerModel.from_pretrained("scene-b0") is not None


def assert_logits_as_theirs(count, tmp_path, rng):
    """With random weights, because theirs are under a licence of their own."""
    hf = reference.hf_model("ForSemanticSegmentation", num_labels=count)
    hf.save_pretrained(tmp_path)
    picture = rng.integers(0, 256, (50, 70, 3), dtype=np.uint8)
    inputs = SegformerImageProcessor(size=SIDE)(picture)
    model = SegformerForSemanticSegmentation.from_pretrained(tmp_path)
    graph, state = nnx.split(model)
    logits = jax.jit(lambda state, x: nnx.merge(graph, state)(x).logits)(state, inputs.pixel_values)
    with torch.no_grad():
        expected = reference.nhwc(hf(reference.nchw(inputs.pixel_values)).logits)
    assert logits.shape == (1, SIDE // 4, SIDE // 4, count)
    np.testing.assert_allclose(logits, expected, atol=1e-4)  # theirs


def test_inference_image_segmentation_ade(tmp_path, rng):
    assert_logits_as_theirs(150, tmp_path, rng)


def test_inference_image_segmentation_city(tmp_path, rng):
    assert_logits_as_theirs(19, tmp_path, rng)


def test_post_processing_semantic_segmentation():
    output, _ = small.everything(new(HEADS[0]), pixels())
    processor = SegformerImageProcessor()
    sized = processor.post_process_semantic_segmentation(output, target_sizes=[(50, 30)] * 2)
    assert [one.shape for one in sized] == [(50, 30)] * 2
    assert processor.post_process_semantic_segmentation(output)[0].shape == (SIDE // 4, SIDE // 4)


def test_pipeline_feature_extraction():
    inputs = SegformerImageProcessor(size=SIDE)([np.zeros((9, 9, 3), np.uint8)] * 2)
    output, _ = small.everything(new(SegformerModel), inputs.pixel_values)
    assert np.isfinite(output.last_hidden_state).all()


def test_pipeline_image_classification():
    model = new(SegformerForImageClassification)
    output, _ = small.everything(model, pixels())
    scores = jax.nn.softmax(output.logits)
    named = {model.config.id2label[i]: float(score) for i, score in enumerate(scores[0])}
    assert set(named) == {"LABEL_0", "LABEL_1", "LABEL_2"}
    assert abs(sum(named.values()) - 1) < 1e-5  # float32


def test_pipeline_image_segmentation(tmp_path):
    new(HEADS[0]).save_pretrained(tmp_path)
    SegformerImageProcessor(size=SIDE).save_pretrained(tmp_path)
    found = Segmenter.from_pretrained(tmp_path)(np.zeros((20, 30, 3), np.uint8)).to_list()
    assert {"label", "mask"} <= found[0].keys()
    assert dataclasses.asdict(CONFIG)["num_labels"] >= len(found) >= 1
