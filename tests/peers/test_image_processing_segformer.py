"""What transformers' tests of SegFormer's image processor expect, under their names, in our words.

Theirs are tests/models/segformer/test_image_processing_segformer.py and what it inherits from
tests/test_image_processing_common.py and tests/test_preprocessing_common.py (transformers 5). Here
tensors are NumPy arrays, and the result's channels come last.
"""

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from transformers import SegformerImageProcessorPil

from segformer_jax import ImageError, SegformerImageProcessor

OPTIONS = dict(size={"height": 30, "width": 30}, image_mean=[0.5] * 3, image_std=[0.5] * 3)
PROCESSOR, THEIRS = SegformerImageProcessor(**OPTIONS), SegformerImageProcessorPil(**OPTIONS)
EXCEPTIONS = {
    "test_explicit_none_preserved": "the options are checked and frozen: a switch is True or False",
    "test_can_compile_torchvision_backend": "torch.compile",
    "test_new_models_require_torchvision_backend": "about their own repository",
    "test_post_process_test_mixin_inheritance": "about their own test classes",
}
NOTHING_THERE = "Skipped there for SegFormer: test_cast_dtype_device."


@pytest.fixture
def arrays(rng) -> list[np.ndarray]:
    """Pictures of different sizes, channels last."""
    return [rng.integers(0, 255, (h, w, 3), dtype=np.uint8) for h, w in ((40, 60), (31, 30))]


@pytest.fixture
def maps(arrays, rng) -> list[np.ndarray]:
    return [rng.integers(0, 151, x.shape[:2], dtype=np.uint8) for x in arrays]


def of_theirs(images, maps=None, **options) -> dict[str, np.ndarray]:
    """Transformers' result, channels last."""
    found = THEIRS(images, maps, return_tensors="np", **options)
    return {
        name: np.moveaxis(value, 1, -1) if name == "pixel_values" else value
        for name, value in found.items()
    }


def assert_as_theirs(images, maps=None, *, ours=None, **options) -> None:
    found = PROCESSOR(images if ours is None else ours, maps, **options)
    for name, expected in of_theirs(images, maps).items():
        np.testing.assert_array_equal(found[name], expected, err_msg=name)


def test_the_exceptions_are_few_and_no_test_has_their_names():
    assert len(EXCEPTIONS) <= 6
    assert not EXCEPTIONS.keys() & globals().keys()


# --- calls


def test_call_pil(arrays):
    pictures = [Image.fromarray(x) for x in arrays]
    assert PROCESSOR(pictures[0]).pixel_values.shape == (1, 30, 30, 3)
    assert_as_theirs(pictures)


def test_call_numpy(arrays):
    assert PROCESSOR.preprocess(arrays[0]).pixel_values.shape == (1, 30, 30, 3)
    assert_as_theirs(arrays)
    assert_as_theirs(arrays, ours=arrays, input_data_format="channels_last")


def test_call_pytorch(arrays):
    """Arrays with their channels first, as PyTorch's tensors have them; and those tensors."""
    first = [np.moveaxis(x, -1, 0) for x in arrays]
    assert_as_theirs(arrays, ours=first, input_data_format="channels_first")
    tensors = [torch.from_numpy(np.ascontiguousarray(x)) for x in first]
    assert_as_theirs(arrays, ours=tensors, input_data_format="channels_first")
    batch = np.stack([first[0]] * 2)
    assert_as_theirs([arrays[0]] * 2, ours=batch, input_data_format="channels_first")
    mixed = [Image.fromarray(arrays[0]), arrays[1][..., 0]]  # have no channels to move
    assert PROCESSOR(mixed, input_data_format="channels_first").pixel_values.shape[0] == 2
    with pytest.raises(ImageError, match="or give the processor input_data_format='channels_firs"):
        PROCESSOR(first[0])
    with pytest.raises(ValueError, match=r"input_data_format must be .*, got 'nchw'"):
        PROCESSOR(arrays[0], input_data_format="nchw")


def test_call_numpy_4_channels(rng):
    pictures = [rng.integers(0, 255, (h, w, 4), dtype=np.uint8) for h, w in ((40, 60), (31, 30))]
    options = dict(image_mean=[0.0] * 4, image_std=[1.0] * 4)
    found = PROCESSOR(
        pictures, input_data_format="channels_last", do_convert_rgb=False, **options
    ).pixel_values
    assert found.shape == (2, 30, 30, 4)
    # theirs takes the fourth band for opacity, and weighs the colours with it: here it is a band
    for first in (0, 1):
        three = [np.ascontiguousarray(x[..., first : first + 3]) for x in pictures]
        means = dict(image_mean=[0.0] * 3, image_std=[1.0] * 3)
        expected = of_theirs(three, **means)["pixel_values"]
        np.testing.assert_array_equal(found[..., first : first + 3], expected)


def test_call_segmentation_maps(arrays, maps):
    for images, own in ((arrays[0], maps[0]), (arrays, maps)):
        labels = PROCESSOR(images, own).labels
        assert labels.dtype == np.int64
        assert labels.min() >= 0
        assert labels.max() <= 255
        assert_as_theirs(images, own)
    pictures, pil = ([Image.fromarray(x) for x in own] for own in (arrays, maps))
    assert_as_theirs(pictures, pil)


def test_reduce_labels(arrays, maps):
    assert PROCESSOR(arrays, maps).labels.max() <= 150
    reduced = PROCESSOR(arrays, maps, do_reduce_labels=True).labels
    expected = of_theirs(arrays, [x.copy() for x in maps], do_reduce_labels=True)["labels"]
    np.testing.assert_array_equal(reduced, expected)


def test_image_processor_preprocess_arguments(arrays):
    with pytest.warns(UserWarning, match=r"left out: extra_argument, .* only do_resize, size"):
        found = PROCESSOR(arrays, extra_argument=True)
    np.testing.assert_array_equal(found.pixel_values, PROCESSOR(arrays).pixel_values)
    # transformers has this one for other models; for SegFormer nothing is cropped there, either
    with pytest.warns(UserWarning, match="left out: do_center_crop, crop_size"):
        found = PROCESSOR(arrays, do_center_crop=True, crop_size=20)
    expected = of_theirs(arrays, do_center_crop=True, crop_size=20)
    np.testing.assert_array_equal(found.pixel_values, expected["pixel_values"])
    PROCESSOR(arrays, do_center_crop=False, crop_size=None)  # asks for what is done: no warning


def test_explicit_none_kwarg_falls_back_to_default(arrays):
    for name in ("do_resize", "do_rescale", "do_normalize"):
        found = PROCESSOR(arrays, **{name: None}).pixel_values
        np.testing.assert_array_equal(found, PROCESSOR(arrays).pixel_values)


def test_backends_equivalence(arrays, maps):
    assert_as_theirs(Image.fromarray(arrays[0]), Image.fromarray(maps[0]))


def test_backends_equivalence_batched(arrays, maps):
    assert_as_theirs([arrays[0]] * 3, [maps[0]] * 3)


# --- options


def test_image_processor_properties():
    """Of transformers 4."""
    for name in ("do_resize", "size", "do_normalize", "image_mean", "image_std"):
        assert hasattr(PROCESSOR, name)


def test_image_processor_from_dict_with_kwargs(tmp_path):
    """Of transformers 4: other options than the file's."""
    PROCESSOR.save_pretrained(tmp_path)
    found = SegformerImageProcessor.from_pretrained(tmp_path, size=42, do_reduce_labels=True)
    assert (found.size, found.do_reduce_labels) == ({"height": 42, "width": 42}, True)
    with pytest.warns(UserWarning, match="left out: use_fast"):
        assert SegformerImageProcessor.from_pretrained(tmp_path, use_fast=True) == PROCESSOR


def test_init_without_params():
    assert SegformerImageProcessor() is not None


def test_override_instance_attributes_does_not_affect_other_instances():
    first, second = SegformerImageProcessor(), SegformerImageProcessor()
    with pytest.raises(TypeError, match=r"dataclasses\.replace"):
        first.size["height"] = -1
    changed = dataclasses.replace(first, size=7, image_mean=0.1)
    assert second == first != changed


# --- files


def test_to_json_string():
    told = json.loads(PROCESSOR.to_json_string())
    assert {name: told[name] for name in OPTIONS} == OPTIONS


def test_to_json_file(tmp_path):
    PROCESSOR.to_json_file(tmp_path / "own.json")
    assert SegformerImageProcessor.from_json_file(tmp_path / "own.json") == PROCESSOR
    assert SegformerImageProcessorPil.from_json_file(tmp_path / "own.json").size.height == 30


def test_from_and_save_pretrained(tmp_path):
    file = PROCESSOR.save_pretrained(tmp_path)[0]
    assert json.loads(Path(file).read_text(encoding="utf-8"))["size"] == OPTIONS["size"]
    assert SegformerImageProcessor.from_pretrained(tmp_path) == PROCESSOR


def test_save_load_with_auto_class(tmp_path):
    PROCESSOR.save_pretrained(tmp_path)
    found = transformers.AutoImageProcessor.from_pretrained(tmp_path, backend="pil")
    assert type(found) is SegformerImageProcessorPil
    assert found.to_dict() == THEIRS.to_dict()


def test_save_load_backends(tmp_path):
    THEIRS.save_pretrained(tmp_path)
    ours = SegformerImageProcessor.from_pretrained(tmp_path)
    assert dataclasses.replace(ours, extra={}) == PROCESSOR


def test_save_load_backends_auto(tmp_path):
    THEIRS.save_pretrained(tmp_path)
    SegformerImageProcessor.from_pretrained(tmp_path).save_pretrained(tmp_path)
    found = transformers.AutoImageProcessor.from_pretrained(tmp_path, backend="pil")
    assert found.to_dict() == THEIRS.to_dict()


# --- results


def assert_post_processed_as_theirs(logits, target_sizes) -> None:
    first = torch.from_numpy(np.ascontiguousarray(np.moveaxis(logits, -1, 1)))
    ours, theirs = SimpleNamespace(logits=logits), SimpleNamespace(logits=first)
    found, expected = (
        one.post_process_semantic_segmentation(
            outputs, target_sizes, return_segmentation_scores=True
        )
        for one, outputs in ((PROCESSOR, ours), (THEIRS, theirs))
    )
    plain = PROCESSOR.post_process_semantic_segmentation(ours, target_sizes)
    for own, map_alone, other in zip(found, plain, expected, strict=True):
        np.testing.assert_array_equal(own.segmentation, other.segmentation)
        np.testing.assert_array_equal(own.segmentation, map_alone)
        scores = np.moveaxis(other.segmentation_scores.numpy(), 0, -1)
        np.testing.assert_allclose(own.segmentation_scores, scores, atol=1e-6)  # float32


def test_post_process_semantic_segmentation(rng):
    assert_post_processed_as_theirs(rng.normal(size=(2, 30, 20, 5)).astype(np.float32), None)


def test_post_process_semantic_segmentation_target_sizes(rng):
    logits = rng.normal(size=(2, 30, 20, 5)).astype(np.float32)
    assert_post_processed_as_theirs(logits, [(1, 4)] * 2)
    with pytest.raises(ValueError, match=r"target_sizes must hold .* per picture, 2, got 3"):
        PROCESSOR.post_process_semantic_segmentation(SimpleNamespace(logits=logits), [(1, 4)] * 3)
