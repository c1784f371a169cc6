"""`SegformerImageProcessor`: converts pictures to network input, as transformers does on Pillow."""

import dataclasses
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Shaped, UInt8
from PIL import Image

from segformer_jax.config import FrozenDict
from segformer_jax.images import post_process
from segformer_jax.images.colours import (
    CHANNELS,
    image_array,
    image_bands,
    is_deep,
    on_white,
    to_rgb,
)
from segformer_jax.images.eight_bits import to_eight_bits
from segformer_jax.images.picture import Picture, resized, size_of
from segformer_jax.images.pillow_file import MAX_PIXELS
from segformer_jax.images.read import read_bands, read_class_indices, read_image
from segformer_jax.images.sizes import is_number, size_dict, target_size
from segformer_jax.images.stretch import checked_stretch
from segformer_jax.json_text import json_bytes

SWITCHES = (
    "do_resize",
    "do_rescale",
    "do_normalize",
    "do_reduce_labels",
    "default_to_square",
)
NOT_KEPT = ("image_processor_type", "feature_extractor_type", "processor_class", "reduce_labels")


class BatchFeature(dict):
    """The result of the processor: a dict whose entries are also attributes."""

    def __getattr__(self, name: str) -> Any:
        """Returns the entry of that name."""
        if name in self:
            return self[name]
        raise AttributeError(f"the processor's output has no {name!r}: it has {', '.join(self)}")


@dataclass(frozen=True)
class SegformerImageProcessor:
    """Converts pictures to `pixel_values`, with the options of HF that affect SegFormer.

    Pixels equal those of transformers' `SegformerImageProcessorPil`, but the channels are last.
    Grey, palette and transparent pictures, which raise errors there, are converted to RGB, and
    16-bit values become 8 bits as by `read_image`. EXIF orientation is applied to pictures given as
    paths, but, as in HF, not to PIL images. The bands of an array, if they are not 3, are resized
    one by one; those of a transparent PIL image as in HF, where opacity weighs the colours.

    Args:
        do_resize: whether pictures and maps are resized.
        size: {"height", "width"} in pixels; {"shortest_edge"}, with or without "longest_edge", or
            {"max_height", "max_width"} to keep the aspect ratio. A list of height and width, or a
            number for a square, becomes such a dict.
        resample: Pillow's filter for pictures: 2 is bilinear. Maps always use nearest neighbour.
        do_rescale: whether values are multiplied by `rescale_factor`.
        rescale_factor: 1/255 maps 0…255 to 0…1.
        do_normalize: whether `image_mean` is subtracted and the result divided by `image_std`.
        image_mean: one number, or one for each channel, red first.
        image_std: one number, or one for each channel.
        do_reduce_labels: whether 1 is subtracted from maps before they are resized; 0 becomes 255,
            which the loss ignores.
        do_convert_rgb: None converts pictures to RGB and drops transparency; True blends it onto
            white, as in HF; False keeps the channels (1 for grey, 4 for transparent pictures), for
            networks with another `num_channels`; it is the length of `image_mean`.
        default_to_square: if False, a `size` given as a number is the shortest edge.
        stretch: for values of more than 8 bits: (low, high), which become 0 and 255, or
            "percentile"; see `read_image`. Not in HF.
        extra: options without effect here, kept for `to_dict`.

    Raises:
        ValueError: an option has the wrong type or is out of range.
    """

    do_resize: bool = True
    size: Any = FrozenDict(height=512, width=512)  # noqa: RUF009  # frozen
    resample: int = 2
    do_rescale: bool = True
    rescale_factor: int | float = 1 / 255
    do_normalize: bool = True
    image_mean: int | float | Sequence[int | float] = (0.485, 0.456, 0.406)
    image_std: int | float | Sequence[int | float] = (0.229, 0.224, 0.225)
    do_reduce_labels: bool = False
    do_convert_rgb: bool | None = None
    default_to_square: bool = True
    stretch: Any = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        for name in SWITCHES:
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} must be True or False, got {getattr(self, name)!r}")
        if self.do_convert_rgb not in (None, True, False):
            raise ValueError(
                f"do_convert_rgb must be None, True or False, got {self.do_convert_rgb!r}"
            )
        if self.resample not in list(Image.Resampling):
            known = ", ".join(f"{int(kind)} {kind.name.lower()}" for kind in Image.Resampling)
            raise ValueError(
                f"resample must be a number of one of Pillow's filters, {known}, got "
                f"{self.resample!r}"
            )
        if not is_number(self.rescale_factor):
            raise ValueError(f"rescale_factor must be a number, got {self.rescale_factor!r}")
        changes = {
            "size": FrozenDict(size_dict(self.size, square=self.default_to_square)),
            "resample": int(self.resample),
            "image_mean": _per_channel("image_mean", self.image_mean),
            "image_std": _per_channel("image_std", self.image_std),
            "stretch": checked_stretch(self.stretch),
            "extra": FrozenDict(self.extra),
        }
        for name, value in changes.items():
            object.__setattr__(self, name, value)
        if 0 in np.atleast_1d(self.image_std):
            raise ValueError(
                f"image_std must not hold 0, because pixels are divided by it, got {self.image_std}"
            )

    def __call__(
        self,
        images: Any,
        segmentation_maps: Any = None,
        *,
        return_tensors: str | None = None,
        input_data_format: str | None = None,
        **options: Any,
    ) -> BatchFeature:
        """Converts pictures, and their maps, to the input of `model(**inputs)`.

        Args:
            images: a path, PIL image or array, (h, w) or (h, w, 1|3|4); or a list of these, or a
                batch (b, h, w, c). uint8 is used unchanged, other types are converted as by
                `read_image`. Floats in 0…1 are multiplied by `rescale_factor` again, as in HF, with
                a warning: pass `do_rescale=False` for them.
            segmentation_maps: one map of class indices for each picture: a path, a PIL image (also
                a palette one) or an array (h, w); a list of these, or a batch (b, h, w).
            return_tensors: None or "np" for NumPy, "jax" for arrays on JAX's default device.
            input_data_format: "channels_first" for arrays of shape (c, h, w) or (b, c, h, w). The
                result has its channels last all the same.
            options: options of the processor for this call; None uses the processor's own. Unknown
                ones are left out with a warning.

        Returns:
            `pixel_values` (b, h, w, channels) float32, channels last, 3 unless `do_convert_rgb` is
            False, and, if there are maps, `labels` (b, h, w) int64, or int32 for "jax".

        Raises:
            ImageError: a picture or map can't be read, or has a wrong shape or range.
            ValueError: the resized pictures have different sizes, the numbers of maps and pictures
                differ, `return_tensors` names another library, or `input_data_format` is unknown.
        """
        if options:
            return self._with(options)(
                images,
                segmentation_maps,
                return_tensors=return_tensors,
                input_data_format=input_data_format,
            )
        if return_tensors not in (None, "np", "jax"):
            raise ValueError(
                f"return_tensors is {return_tensors!r}, but this library works without PyTorch and "
                'TensorFlow: leave it out or give "np" for NumPy arrays, "jax" for JAX ones'
            )
        listed = _channels_last(_listed(images, "pictures", 4), input_data_format)
        pictures = [self._pixel_values(image) for image in listed]
        inputs = BatchFeature(pixel_values=_stacked(pictures, "pictures"))
        if segmentation_maps is not None:
            maps = [self._labels(own) for own in _listed(segmentation_maps, "maps", 3)]
            if len(maps) != len(pictures):
                raise ValueError(
                    f"segmentation_maps must hold one map per picture, {len(pictures)}, got "
                    f"{len(maps)}"
                )
            inputs["labels"] = _stacked(maps, "maps")
            if inputs["labels"].shape != inputs["pixel_values"].shape[:3]:
                raise ValueError(
                    "segmentation_maps must have their pictures' sizes, got "
                    f"{inputs['labels'].shape[1:]} and {inputs['pixel_values'].shape[1:3]} "
                    "after resizing"
                )
        return _on_device(inputs) if return_tensors == "jax" else inputs

    preprocess = __call__  # its name in transformers

    def post_process_semantic_segmentation(
        self, outputs: Any, target_sizes: Any = None, return_segmentation_scores: bool = False
    ) -> list:
        """Class maps from the model's outputs: upsamples the logits as torch does, then argmax.

        Args:
            outputs: with `.logits`, (b, h, w, classes), a JAX or NumPy array.
            target_sizes: one (height, width) for each picture; None keeps 1/4 of the input's size.
            return_segmentation_scores: also return the upsampled logits; without them, little
                memory is needed at any size.

        Returns:
            A list of (H, W) int64 class indices or, with scores, of objects with `.segmentation`
            and `.segmentation_scores`, (H, W, classes), where HF has channels first.

        Raises:
            ValueError: `target_sizes` is not one positive (height, width) for each picture.
        """
        return post_process.post_process_semantic_segmentation(
            outputs, target_sizes, return_segmentation_scores
        )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "SegformerImageProcessor":
        """Makes a processor from the content of a preprocessor_config.json of any version.

        A `null` means the default. The old `reduce_labels`, which transformers 5 ignores, is used
        if `do_reduce_labels` is missing.

        Raises:
            ValueError: an option has the wrong type or is out of range.
        """
        own = {
            name: values[name]
            for name in OPTIONS
            if values.get(name) is not None  # HF writes null for what is not set
        }
        if values.get("reduce_labels") is not None:
            own.setdefault("do_reduce_labels", values["reduce_labels"])
        extra = {k: v for k, v in values.items() if k not in OPTIONS and k not in NOT_KEPT}
        return cls(**own, extra=extra)

    def to_dict(self) -> dict[str, Any]:
        """Returns the content of a preprocessor_config.json, which transformers can read too."""
        own: dict[str, Any] = {name: getattr(self, name) for name in OPTIONS}
        for name, usual in (
            ("do_convert_rgb", None),
            ("default_to_square", True),
            ("stretch", None),
        ):
            if own[name] is usual:
                del own[name]
        for name in ("image_mean", "image_std"):
            own[name] = list(own[name]) if isinstance(own[name], tuple) else own[name]
        own["size"] = dict(own["size"])
        if isinstance(own.get("stretch"), tuple):
            own["stretch"] = list(own["stretch"])
        return dict(self.extra) | own | {"image_processor_type": "SegformerImageProcessor"}

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path, **options: Any) -> "SegformerImageProcessor":
        """Loads the processor of a weights package, a folder or a hub repository.

        Args:
            name_or_path: "scene-b0", a folder, or a name on the Hugging Face hub.
            options: options of the processor, which override those of the file; also `revision`,
                `token`, `cache_dir`, `local_files_only`, `subfolder`. Unknown ones are left out
                with a warning.

        A model without a preprocessor_config.json has the default options; a warning says so.

        Raises:
            WeightsError: nothing of that name exists, or it has no config.json either.
            ValueError: an option has the wrong type or is out of range.
        """
        from segformer_jax.checkpoints import pretrained
        from segformer_jax.checkpoints.hub import HUB_OPTIONS

        hub = {name: options.pop(name) for name in HUB_OPTIONS if name in options}
        return cls.from_dict(pretrained.load_processor_config(name_or_path, **hub))._with(options)

    def save_pretrained(self, folder: str | Path) -> list[str]:
        """Writes `folder`/preprocessor_config.json, which transformers can read too."""
        from segformer_jax.checkpoints import pretrained

        return [str(pretrained.save_processor_config(self.to_dict(), folder))]

    def to_json_string(self) -> str:
        """Returns the text of a preprocessor_config.json."""
        return json_bytes(self.to_dict(), sort_keys=True).decode()

    def to_json_file(self, file: str | Path) -> None:
        """Writes a preprocessor_config.json, under any name."""
        from segformer_jax.checkpoints.json_file import write_json

        write_json(self.to_dict(), file)

    @classmethod
    def from_json_file(cls, file: str | Path) -> "SegformerImageProcessor":
        """Reads a preprocessor_config.json, of any name."""
        from segformer_jax.checkpoints.json_file import read_json

        return cls.from_dict(read_json(file))

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Uploads the file that `save_pretrained` writes; returns the address of the commit."""
        from segformer_jax.checkpoints import pretrained

        return pretrained.push_processor_config(self.to_dict(), repo_id, **options)

    def _with(self, options: Mapping[str, Any]) -> "SegformerImageProcessor":
        given = {name: value for name, value in options.items() if value is not None}
        unknown = [name for name in given if name not in OPTIONS and given[name] is not False]
        if unknown:
            warnings.warn(
                f"left out: {', '.join(unknown)}, because the processor has no such option, only "
                f"{', '.join(OPTIONS)}",
                stacklevel=3,
            )
        return dataclasses.replace(self, **{name: given[name] for name in OPTIONS if name in given})

    @property
    def channels(self) -> int | None:
        """Number of channels that pictures are read with; None: as many as each has."""
        if self.do_convert_rgb is not False:
            return 3
        lengths = [len(v) for v in (self.image_mean, self.image_std) if isinstance(v, tuple)]
        return lengths[0] if lengths else None

    @property
    def fixed_size(self) -> tuple[int, int] | None:
        """The height and width that all pictures are resized to; None if these vary."""
        if not self.do_resize or "height" not in self.size:
            return None
        return self.size["height"], self.size["width"]

    def read(self, source: Any, *, max_pixels: int = MAX_PIXELS) -> Picture:
        """Reads the whole picture, upright and with 8 bits: RGB, or as many bands as `channels`.

        Raises:
            ImageError: as `read_image` and `read_bands`.
        """
        how: dict[str, Any] = {"max_pixels": max_pixels, "stretch": self.stretch}
        if self.do_convert_rgb is False:
            return read_bands(source, channels=self.channels, **how)
        return read_image(source, white=bool(self.do_convert_rgb), **how)

    def eight_bits(self, image: Picture) -> UInt8[np.ndarray, "h w c"]:
        """Returns the resized picture as uint8: a quarter of the bytes of its `pixel_values`.

        `byte_values(c)[eight_bits, range(c)]` equals `pixel_values`, bit for bit, on any device.

        Raises:
            ImageError: as `__call__`.
        """
        picture, _ = self._as_bytes(self._channels(image))
        return self._resized(picture, self.resample) if self.do_resize else np.asarray(picture)

    def byte_values(self, channels: int) -> Float[np.ndarray, "256 c"]:
        """Returns the value in `pixel_values` for each value of a byte (0…255) and each channel."""
        return self._scaled(np.repeat(np.arange(256, dtype=np.uint8)[:, None], channels, 1))

    def _pixel_values(self, image: Any) -> Float[np.ndarray, "h w c"]:
        """Converts one picture, with the order of operations and the types of HF."""
        picture, fractions = self._channels(image), False
        floats = not isinstance(picture, Image.Image) and picture.dtype.kind == "f"
        if self.do_resize or self.stretch is not None or not floats:
            (picture, fractions), floats = self._as_bytes(picture), False
        if fractions or (floats and _in_unit_range(np.asarray(picture))):
            self._warn_of_fractions()
        if self.do_resize:
            picture = self._resized(picture, self.resample)
        pixels = np.asarray(picture)
        self._check_channels(pixels.shape[-1])
        if pixels.dtype.kind == "f":
            return self._scaled(pixels)
        # compute the results of the 256 values of a byte, for each channel, and look pixels up
        channels = range(pixels.shape[-1])
        values = np.repeat(np.arange(256, dtype=np.uint8)[:, None], len(channels), 1)
        table = self._scaled(_times(values, 1 / 255) if fractions else values)
        return np.stack([table[:, c][pixels[..., c]] for c in channels], -1)

    def _scaled(self, pixels: Shaped[np.ndarray, "*n c"]) -> Float[np.ndarray, "*n c"]:
        if self.do_rescale:
            pixels = _times(pixels, self.rescale_factor)
        if self.do_normalize:
            if pixels.dtype.kind != "f":
                pixels = pixels.astype(np.float32)
            mean, std = (np.array(v, pixels.dtype) for v in (self.image_mean, self.image_std))
            pixels = (pixels - mean) / std
        return pixels.astype(np.float32)

    def _channels(self, image: Any) -> Shaped[np.ndarray, "h w c"] | Image.Image:
        """Returns the picture with the network's channels: values of any type, or a PIL image."""
        if isinstance(image, str | os.PathLike):
            image = self.read(image)
        if isinstance(image, Image.Image):
            if self.do_convert_rgb is False:
                return image_bands(image, self.channels)
            if is_deep(image):
                grey, _ = to_eight_bits(image_array(np.asarray(image)), stretch=self.stretch)
                return np.repeat(grey, 3, -1)
            return on_white(image) if self.do_convert_rgb else to_rgb(image)
        pixels = image_array(image, channels=(*CHANNELS, self.channels or 3))
        if self.do_convert_rgb is not False and pixels.shape[-1] == 1:
            pixels = np.repeat(pixels, 3, -1)
        if self.do_convert_rgb is None:
            pixels = pixels[..., :3]
        return on_white(pixels) if self.do_convert_rgb else pixels

    def _as_bytes(self, picture: Any) -> tuple[Picture, bool]:
        """Returns the picture with 8 bits, and whether it held floats in 0…1."""
        if isinstance(picture, Image.Image):
            self._check_channels(len(picture.getbands()))
            return picture, False
        self._check_channels(picture.shape[-1])
        return to_eight_bits(picture, stretch=self.stretch)

    def _check_channels(self, channels: int) -> None:
        for name in ("image_mean", "image_std"):
            value = getattr(self, name)
            if self.do_normalize and isinstance(value, tuple) and len(value) != channels:
                raise ValueError(
                    f"{name} must be one number, or one for each of the picture's "
                    f"{channels} channels, got {len(value)}: {value}"
                )

    def _labels(self, segmentation_map: Any) -> Int[np.ndarray, "h w"]:
        labels = read_class_indices(segmentation_map)
        if self.do_reduce_labels:
            labels = np.where(labels == 0, 255, labels) - 1
            labels[labels == 254] = 255
        if self.do_resize:
            size = target_size(self.size, *labels.shape)
            whole = Image.fromarray(labels.astype(np.int32))
            labels = np.asarray(whole.resize(size[::-1], Image.Resampling.NEAREST))
        return labels.astype(np.int64)

    def _resized(self, picture: Picture, resample: int) -> UInt8[np.ndarray, "H W c"]:
        return resized(picture, target_size(self.size, *size_of(picture)), resample)

    def _warn_of_fractions(self) -> None:
        if self.do_rescale:
            warnings.warn(
                "a picture of floats in [0, 1] was multiplied by rescale_factor again, "
                "as in transformers: pass do_rescale=False for such pictures",
                stacklevel=5,
            )


OPTIONS = tuple(f.name for f in dataclasses.fields(SegformerImageProcessor) if f.name != "extra")


def _in_unit_range(pixels: np.ndarray) -> bool:
    return bool(0 <= pixels.min() <= pixels.max() <= 1)


def _times(pixels: np.ndarray, factor: float) -> np.ndarray:
    return (pixels.astype(np.float64) * factor).astype(np.float32)


def _listed(source: Any, what: str, batch_dimensions: int) -> list:
    if isinstance(source, list | tuple):
        items = list(source)
    elif getattr(source, "ndim", None) == batch_dimensions:
        items = list(np.asarray(source))
    else:
        items = [source]
    if not items:
        raise ValueError(f"the list of {what} must not be empty")
    return items


def _channels_last(images: list, input_data_format: str | None) -> list:
    if input_data_format in (None, "channels_last"):
        return images
    if input_data_format != "channels_first":
        raise ValueError(
            'input_data_format must be "channels_first", "channels_last" or None, got '
            f"{input_data_format!r}"
        )
    arrays = [hasattr(x, "__array__") and not isinstance(x, Image.Image) for x in images]
    return [
        np.moveaxis(np.asarray(x), 0, -1) if array and np.ndim(x) == 3 else x
        for x, array in zip(images, arrays, strict=True)
    ]


def _stacked(arrays: list[np.ndarray], what: str) -> np.ndarray:
    sizes = {array.shape[:2] for array in arrays}
    if len(sizes) > 1:
        raise ValueError(
            f"{what} of one batch must have the same size, got {sorted(sizes)}: "
            "resize them (do_resize=True, and size with height and width), or pass "
            "them one by one"
        )
    return np.stack(arrays)


def _on_device(inputs: BatchFeature) -> BatchFeature:
    import jax.numpy as jnp

    return BatchFeature(
        {
            name: jnp.asarray(value, jnp.int32 if name == "labels" else jnp.float32)
            for name, value in inputs.items()
        }
    )


def _per_channel(name: str, value: Any) -> int | float | tuple[int | float, ...]:
    if is_number(value):
        return value
    if isinstance(value, list | tuple | np.ndarray):
        numbers = tuple(np.asarray(value).tolist())
        if numbers and all(is_number(number) for number in numbers):
            return numbers
    raise ValueError(f"{name} must be one number, or one for each channel, got {value!r}")
