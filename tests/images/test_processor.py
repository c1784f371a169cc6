import json

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
import transformers
from PIL import Image

from segformer_jax import ImageError
from segformer_jax.images.processor import SegformerImageProcessor

Theirs = transformers.SegformerImageProcessorPil
SIZES = (
    lambda a, b: {"height": a, "width": b},
    lambda a, b: {"shortest_edge": a},
    lambda a, b: {"shortest_edge": a, "longest_edge": b},
    lambda a, b: {"max_height": a, "max_width": b},
    lambda a, b: a,
    lambda a, b: [a, b],
)


def _nhwc(features) -> np.ndarray:
    return np.moveaxis(np.stack(features["pixel_values"]), 1, -1)


def _random_options(rng) -> dict:
    a, b = (int(side) for side in rng.integers(12, 90, 2))
    every = {
        "do_rescale": bool(rng.random() < 0.5),
        "rescale_factor": float(rng.choice([1 / 255, 1 / 127.5, 2.0])),
        "do_normalize": bool(rng.random() < 0.5),
        "image_mean": rng.random(3).tolist() if rng.random() < 0.8 else 0.5,
        "image_std": (0.1 + rng.random(3)).tolist() if rng.random() < 0.8 else 0.25,
        "do_reduce_labels": True,
        "do_resize": bool(rng.random() < 0.5),
        "size": SIZES[rng.integers(len(SIZES))](a, b),
        "resample": int(rng.integers(6)),
        "default_to_square": bool(rng.random() < 0.5),
    }
    return {name: value for name, value in every.items() if rng.random() < 0.5}


def _random_picture(rng, kind: str):
    h, w = rng.integers(30, 120, 2)
    pixels = rng.integers(0, 256, (h, w, 3), dtype=np.uint8)
    if kind in ("RGB", "RGBA", "LA", "L", "P", "1"):
        alpha = Image.fromarray(rng.integers(0, 256, (h, w), dtype=np.uint8))
        image = Image.fromarray(pixels).convert(kind)
        if "A" in kind:
            image.putalpha(alpha)
        return image
    if kind == "uint8 rgba":
        return rng.integers(0, 256, (h, w, 4), dtype=np.uint8)
    if kind.startswith("0…1"):
        return rng.random((h, w, 3 if kind[-1] != "a" else 4)).astype(kind.split()[1])
    return pixels.astype(kind)


KINDS = ("RGB", "uint8", "int64", "float32", "0…1 float64", "0…1 float32", "0…1 float16")
CONVERTED = ("RGBA", "LA", "L", "P", "1", "uint8 rgba", "0…1 float64 rgba")  # else refused


@pytest.mark.filterwarnings("ignore:a picture of floats")
@pytest.mark.parametrize(
    ("kind", "convert"), [(k, None) for k in KINDS] + [(k, True) for k in KINDS + CONVERTED]
)
def test_pixels_and_labels_equal_transformers_for_random_options(rng, kind, convert):
    for _ in range(16):
        options = _random_options(rng) | {"do_convert_rgb": convert}
        picture = _random_picture(rng, kind)
        size = picture.size[::-1] if isinstance(picture, Image.Image) else picture.shape[:2]
        labels = rng.integers(0, 256, size, dtype=np.uint8)
        if rng.random() < 0.5:
            labels = labels.astype(np.int64)
        ours = SegformerImageProcessor(**options)(picture, labels)
        theirs = Theirs(**options)([picture], [labels.copy()])
        assert ours["pixel_values"].dtype == np.float32
        assert np.array_equal(ours["pixel_values"], _nhwc(theirs).astype(np.float32)), options
        assert ours["labels"].dtype == np.int64
        assert np.array_equal(ours["labels"], np.stack(theirs["labels"])), options


@pytest.mark.parametrize("mode", ["L", "RGBA"])
def test_kept_channels_equal_transformers(rng, mode):
    picture = _random_picture(rng, mode)
    options = {"size": {"height": 20, "width": 30}, "image_mean": 0.4, "image_std": 0.2}
    ours = SegformerImageProcessor(**options, do_convert_rgb=False)(picture)
    assert ours.pixel_values.shape == (1, 20, 30, len(mode))
    assert np.array_equal(ours.pixel_values, _nhwc(Theirs(**options)(picture)))


def test_options_of_a_call_count_for_it_alone(rng):
    picture = _random_picture(rng, "RGB")
    processor = SegformerImageProcessor(size=40)
    changes = {"size": {"height": 11, "width": 7}, "do_normalize": False, "resample": 0}
    ours = processor(picture, **changes)
    assert np.array_equal(ours.pixel_values, _nhwc(Theirs(size=40)(picture, **changes)))
    assert processor(picture, size=None).pixel_values.shape == (1, 40, 40, 3)
    assert processor == SegformerImageProcessor(size=40)


def test_a_photo_at_the_standard_size_equals_transformers(shared):
    photo = Image.open(shared / "photos/leuvenA.jpg")
    assert np.array_equal(SegformerImageProcessor()(photo).pixel_values, _nhwc(Theirs()(photo)))


@pytest.mark.parametrize("size", [(1, 1), (20, 500), (500, 3)])
def test_tiny_and_narrow_pictures_equal_transformers(rng, size):
    picture = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
    ours = SegformerImageProcessor()(picture).pixel_values
    assert np.array_equal(ours, _nhwc(Theirs()(picture, input_data_format="channels_last")))
    narrow = SegformerImageProcessor(size={"max_height": 9, "max_width": 9})(picture).pixel_values
    assert min(narrow.shape) == 1  # where transformers fails


def test_a_list_of_every_kind_makes_one_batch(rng, tmp_path):
    image = _random_picture(rng, "RGB")
    array = np.asarray(image)
    image.save(tmp_path / "photo.png")
    grey = array[..., 0]
    alpha = np.dstack([array, grey])
    pictures = [image, array, alpha, tmp_path / "photo.png", str(tmp_path / "photo.png")]
    processor = SegformerImageProcessor(size=32)
    inputs = processor(images=[*pictures, grey, grey[..., None], Image.fromarray(grey)])
    assert inputs["pixel_values"].shape == (8, 32, 32, 3)
    for own in inputs["pixel_values"][1:5]:
        assert np.array_equal(own, inputs["pixel_values"][0])
    expected = _nhwc(Theirs(size=32)(np.dstack([grey] * 3)))[0]
    for own in inputs["pixel_values"][5:]:
        assert np.array_equal(own, expected)
    batch = processor(np.stack([array, array]))
    assert np.array_equal(batch.pixel_values, inputs["pixel_values"][:2])


def test_the_exif_orientation_counts_for_paths_only(rng, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    _random_picture(rng, "RGB").save(tmp_path / "turned.png", exif=exif)
    processor, theirs = SegformerImageProcessor(size=32), Theirs(size=32)
    path = str(tmp_path / "turned.png")
    assert np.array_equal(processor(path).pixel_values, _nhwc(theirs(path)))
    image = Image.open(path)
    assert np.array_equal(processor(image).pixel_values, _nhwc(theirs(image)))


def test_floats_in_0_to_1_are_rescaled_twice_with_a_warning_as_in_transformers(rng):
    picture = _random_picture(rng, "0…1 float32")
    processor = SegformerImageProcessor()
    with pytest.warns(UserWarning, match="do_rescale=False"):
        twice = processor(picture)
    assert np.array_equal(twice.pixel_values, _nhwc(Theirs()(picture)))
    once = processor(picture, do_rescale=False)  # and no warning
    assert np.array_equal(once.pixel_values, _nhwc(Theirs()(picture, do_rescale=False)))


def test_maps_are_read_from_palettes_files_and_wide_types(rng, tmp_path):
    indices = rng.integers(0, 200, (20, 30), dtype=np.uint8)
    palette = Image.fromarray(indices)
    palette.putpalette(rng.integers(0, 256, 768, dtype=np.uint8).tobytes())
    palette.save(tmp_path / "map.png")
    wide = Image.fromarray(indices.astype(np.uint16))
    picture = np.zeros((20, 30, 3), np.uint8)
    processor = SegformerImageProcessor(size=17, do_reduce_labels=True)
    theirs = Theirs(size=17, do_reduce_labels=True)([picture], [indices.copy()])["labels"][0]
    for source in (palette, wide, tmp_path / "map.png", indices.astype(float), indices):
        assert np.array_equal(processor(picture, source).labels[0], theirs)
    many = np.arange(600, dtype=np.uint16).reshape(20, 30)
    assert processor(picture, many, do_resize=False, do_reduce_labels=False).labels.max() == 599
    assert processor(picture, many, do_reduce_labels=False).labels.max() > 255


def test_the_callers_maps_are_never_written_to():
    labels = np.zeros((8, 8), np.uint8)
    inputs = SegformerImageProcessor(do_reduce_labels=True, size=8)(np.zeros((8, 8, 3)), labels)
    assert (inputs.labels == 255).all()
    assert (labels == 0).all()


def test_jax_arrays_on_request(rng):
    picture = _random_picture(rng, "RGB")
    labels = np.zeros(picture.size[::-1], np.uint8)
    inputs = SegformerImageProcessor(size=16)(picture, labels, return_tensors="jax")
    assert isinstance(inputs.pixel_values, jax.Array)
    assert inputs.pixel_values.dtype == jnp.float32
    assert inputs.labels.dtype == jnp.int32
    plain = SegformerImageProcessor(size=16)(picture, labels, return_tensors="np")
    assert np.array_equal(inputs["pixel_values"], plain["pixel_values"])


def test_the_result_is_a_dict_with_attributes(rng):
    inputs = SegformerImageProcessor(size=16)(_random_picture(rng, "RGB"))
    assert dict(**inputs).keys() == {"pixel_values"}
    assert inputs.pixel_values is inputs["pixel_values"]
    with pytest.raises(AttributeError, match="labels"):
        _ = inputs.labels


@pytest.mark.parametrize("kind", ["pt", "tf", "flax"])
def test_tensors_of_other_libraries_are_refused_with_a_reason(kind):
    with pytest.raises(ValueError, match="without PyTorch"):
        SegformerImageProcessor()(np.zeros((8, 8, 3), np.uint8), return_tensors=kind)


def test_what_makes_no_batch_is_refused():
    processor = SegformerImageProcessor(do_resize=False)
    small, large = np.zeros((8, 8, 3), np.uint8), np.zeros((8, 9, 3), np.uint8)
    with pytest.raises(ValueError, match=r"must have the same size.*do_resize=True"):
        processor([small, large])
    with pytest.raises(ValueError, match="one map per picture, 1, got 2"):
        processor(small, [small[..., 0]] * 2)
    with pytest.raises(ValueError, match="must have their pictures' sizes"):
        processor(small, large[..., 0])
    with pytest.raises(ValueError, match="empty"):
        processor([])
    with pytest.raises(ImageError, match="NHWC"):
        processor(np.moveaxis(small, -1, 0).repeat(2, 1))
    with pytest.raises(ImageError, match=r"no file nowhere.jpg"):
        processor("nowhere.jpg")
    with pytest.raises(ImageError, match="class index per pixel"):
        processor(small, Image.new("RGB", (8, 8)))
    with pytest.raises(ValueError, match=r"image_mean must be .* 1 channels, got 3"):
        processor(Image.new("L", (8, 8)), do_convert_rgb=False)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"size": {"height": 3}}, "must have the keys"),
        ({"size": {"longest_edge": 3}}, "must have the keys"),
        ({"size": {"height": 0, "width": 3}}, "at least 1"),
        ({"size": 2.5}, "whole numbers"),
        ({"size": "large"}, "whole numbers"),
        ({"resample": 9}, "0 nearest"),
        ({"image_mean": []}, "image_mean"),
        ({"image_std": "one"}, "image_std"),
        ({"image_std": [1, 0, 1]}, "must not hold 0"),
        ({"rescale_factor": float("nan")}, "rescale_factor"),
        ({"do_resize": "yes"}, "do_resize must be True or False, got 'yes'"),
        ({"do_convert_rgb": 3}, "do_convert_rgb"),
    ],
    ids=str,
)
def test_options_are_checked(options, said, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users run it
    with pytest.raises(ValueError, match=said):
        SegformerImageProcessor.from_dict(options)


# --- preprocessor_config.json

OLD = {  # as nvidia's repositories have it
    "do_normalize": True,
    "do_resize": True,
    "feature_extractor_type": "SegformerFeatureExtractor",
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
    "reduce_labels": True,
    "resample": 2,
    "size": 512,
}


def test_old_files_are_read_and_their_label_reduction_counts():
    processor = SegformerImageProcessor.from_dict(OLD)
    assert processor == SegformerImageProcessor(do_reduce_labels=True)
    assert processor.size == {"height": 512, "width": 512}
    both = SegformerImageProcessor.from_dict(OLD | {"do_reduce_labels": False})
    assert not both.do_reduce_labels


def test_null_stands_for_the_default():
    nothing = dict.fromkeys(["do_resize", "size", "image_mean", "do_reduce_labels"])
    assert SegformerImageProcessor.from_dict(nothing) == SegformerImageProcessor()


def test_unknown_options_are_kept():
    extra = {"do_center_crop": True, "crop_size": {"height": 3, "width": 3}, "of_later": [1]}
    processor = SegformerImageProcessor.from_dict(extra)
    assert extra.items() <= processor.to_dict().items()
    assert SegformerImageProcessor.from_dict(processor.to_dict()) == processor
    assert hash(processor.size) == hash(SegformerImageProcessor().size)


def test_transformers_reads_what_is_written_as_an_equal_processor(rng):
    for _ in range(30):
        options = _random_options(rng)
        ours = SegformerImageProcessor(**options)
        written = json.loads(json.dumps(ours.to_dict()))
        assert written["image_processor_type"] == "SegformerImageProcessor"
        theirs = Theirs(**options)
        square = {"default_to_square": theirs.default_to_square}  # which HF writes now and then
        assert Theirs.from_dict(written).to_dict() | square == theirs.to_dict() | square
        assert SegformerImageProcessor.from_dict(json.loads(theirs.to_json_string())) == ours


def test_a_saved_processor_comes_back_here_and_in_transformers(tmp_path, rng):
    ours = SegformerImageProcessor(size={"shortest_edge": 40}, do_reduce_labels=True)
    ours.save_pretrained(tmp_path)
    assert SegformerImageProcessor.from_pretrained(tmp_path) == ours
    changed = SegformerImageProcessor.from_pretrained(tmp_path, do_reduce_labels=False, size=8)
    assert changed == SegformerImageProcessor(size=8)
    picture = _random_picture(rng, "RGB")
    theirs = transformers.AutoImageProcessor.from_pretrained(tmp_path)
    assert np.array_equal(ours(picture).pixel_values, _nhwc(theirs(picture)))
