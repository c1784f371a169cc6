"""The network's input from a picture: equal to `SegformerImageProcessorPil` of transformers."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int, Num
from PIL import Image

from segformer_jax.config import FrozenDict
from segformer_jax.errors import ImageError
from segformer_jax.images.post_process import SegmentationScores, class_maps
from segformer_jax.images.read import check_layout, read_image, rgb_array, to_bytes, to_rgb

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIZES = (
    {"height", "width"},
    {"shortest_edge"},
    {"shortest_edge", "longest_edge"},
    {"max_height", "max_width"},
)
LEGACY = {"reduce_labels": "do_reduce_labels"}
TYPES = ("image_processor_type", "feature_extractor_type", "processor_class")


class BatchFeature(dict):
    """A dict whose entries are attributes too, as transformers' processors give it."""

    def __getattr__(self, name: str) -> Any:
        if name in self:
            return self[name]
        raise AttributeError(name)


@dataclass(frozen=True)
class SegformerImageProcessor:
    """Resizes, rescales and normalises pictures; HF's `SegformerImageProcessor`, option by option.

    The order is: reduce labels (masks), RGB, resize to exactly `size` by Pillow, times
    `rescale_factor`, minus mean, divided by standard deviation. Every option can be given to a call
    as well.

    Args:
        do_resize: resize to `size`.
        size: an int for a square, (height, width), or HF's dict: height and width; shortest_edge
            (and longest_edge), or max_height and max_width, which keep the picture's proportions.
        resample: Pillow's filter; 2 is bilinear, antialiased when shrinking. Masks take nearest.
        do_rescale: multiply by `rescale_factor`.
        rescale_factor: 1/255 brings 0…255 to 0…1.
        do_normalize: subtract `image_mean`, divide by `image_std`, per channel.
        image_mean: of the channels, red first.
        image_std: likewise.
        do_reduce_labels: in masks, 0 becomes 255 (ignored) and the rest counts one less (ADE20K).
            The key `reduce_labels` of old files, which transformers 5 reads past, means the same.
        do_convert_rgb: make RGB of grey, palette and transparent pictures; False keeps channels.
        extra: what else is in preprocessor_config.json, kept and written back.

    Raises:
        ValueError: a size, mean or deviation that makes no sense.
    """

    do_resize: bool = True
    size: Any = FrozenDict(height=512, width=512)  # noqa: RUF009  # frozen
    resample: int = Image.Resampling.BILINEAR
    do_rescale: bool = True
    rescale_factor: float = 1 / 255
    do_normalize: bool = True
    image_mean: Sequence[float] | float = IMAGENET_MEAN
    image_std: Sequence[float] | float = IMAGENET_STD
    do_reduce_labels: bool = False
    do_convert_rgb: bool = True
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        object.__setattr__(self, "size", FrozenDict(_size(self.size)))
        object.__setattr__(self, "extra", FrozenDict(self.extra))
        for name in ("image_mean", "image_std"):
            value = getattr(self, name)
            if isinstance(value, Iterable):
                object.__setattr__(self, name, tuple(float(v) for v in value))
        if np.any(np.asarray(self.image_std) == 0):
            raise ValueError(f"image_std is {self.image_std}; pictures are divided by it")
        if self.resample not in list(Image.Resampling):
            raise ValueError(f"resample is {self.resample!r}; Pillow's filters are 0 to 5")

    def __call__(
        self,
        images: Any,
        segmentation_maps: Any = None,
        *,
        return_tensors: str | None = None,
        **overrides: Any,
    ) -> BatchFeature:
        """The network's input, ready for `model(**inputs)`.

        Args:
            images: a picture or a list of them: paths, PIL pictures, arrays (h, w) or
                (h, w, 1|3|4), in any mixture. The EXIF orientation of a path is applied, that of a
                PIL picture is not, as in HF.
            segmentation_maps: masks of class indices, likewise, one for each picture; palette PNGs
                give their indices.
            return_tensors: None or "np" for NumPy, "jax" for JAX arrays.
            overrides: any option of the constructor, for this call.

        Returns:
            `pixel_values` (b, h, w, 3) float32, NHWC, and with masks `labels` (b, h, w) int64
            (int32 as JAX arrays).

        Raises:
            ImageError: a picture that can't be read, as `read_image`.
            ValueError: pictures that end up with different sizes, masks that do not belong to the
                pictures, another `return_tensors`.
        """
        if return_tensors not in (None, "np", "jax"):
            raise ValueError(
                f"return_tensors is {return_tensors!r}; this library makes 'np' or 'jax' arrays, "
                "NHWC, and has no other framework to make tensors with"
            )
        own = dataclasses.replace(self, **overrides) if overrides else self
        pictures = _listed(images, axes=3)
        data = {"pixel_values": _stacked([own._pixel_values(picture) for picture in pictures])}
        if segmentation_maps is not None:
            maps = _listed(segmentation_maps, axes=2)
            if len(maps) != len(pictures):
                raise ValueError(f"{len(maps)} segmentation maps for {len(pictures)} images")
            data["labels"] = _stacked([own._labels(own_map) for own_map in maps])
        if return_tensors == "jax":
            import jax.numpy as jnp

            data = {name: jnp.asarray(value) for name, value in _jax_types(data).items()}
        return BatchFeature(data)

    def _pixel_values(self, picture: Any) -> Num[np.ndarray, "h w c"]:
        x = _channels(picture, rgb=self.do_convert_rgb)
        if self.do_resize:
            x = _resize(x, self._target(*x.shape[:2]), self.resample)
        if self.do_rescale:
            x = (x.astype(np.float64) * self.rescale_factor).astype(np.float32)
        if self.do_normalize:
            x = x if np.issubdtype(x.dtype, np.floating) else x.astype(np.float32)
            mean, std = (np.array(v, x.dtype) for v in (self.image_mean, self.image_std))
            if mean.ndim and mean.shape != x.shape[-1:]:
                raise ValueError(
                    f"image_mean has {mean.size} entries, the picture {x.shape[-1]} channels"
                )
            x = (x - mean) / std
        return x.astype(np.float32)

    def _labels(self, picture: Any) -> Int[np.ndarray, "h w"]:
        x = _indices(picture)
        if self.do_reduce_labels:
            x = np.where((x == 0) | (x == 255), 255, x - 1)
        if self.do_resize:
            height, width = self._target(*x.shape)
            values = Image.fromarray(x.astype(np.int32))  # Pillow's mode I holds any class
            x = np.asarray(values.resize((width, height), Image.Resampling.NEAREST))
        return x.astype(np.int64)

    def _target(self, height: int, width: int) -> tuple[int, int]:
        """The size that a picture is resized to, (height, width), by HF's rules."""
        size = self.size
        if "height" in size:
            return size["height"], size["width"]
        if "max_height" in size:
            scale = min(size["max_height"] / height, size["max_width"] / width)
            return int(height * scale), int(width * scale)
        short, long = min(height, width), max(height, width)
        new_short, new_long = size["shortest_edge"], int(size["shortest_edge"] * long / short)
        longest = size.get("longest_edge")
        if longest is not None and long / short * new_short > longest:
            exact = longest * short / long
            new_short, new_long = round(exact), int(exact * long / short)
            if short == new_short:
                new_long = long
        return (new_short, new_long) if height <= width else (new_long, new_short)

    def post_process_semantic_segmentation(
        self,
        outputs: Any,
        target_sizes: Sequence[tuple[int, int]] | None = None,
        return_segmentation_scores: bool = False,
    ) -> list[Int[np.ndarray, "_ _"]] | list[SegmentationScores]:
        """Class maps of a model's outputs: HF's method, the logits NHWC.

        Args:
            outputs: what the model gave; `outputs.logits` is (b, h, w, classes).
            target_sizes: (height, width) of each map, `image.size[::-1]` of a PIL picture; the
                logits are upsampled to it before they are compared. None keeps their size.
            return_segmentation_scores: give the upsampled logits, (H, W, classes), as well.

        Returns:
            One (H, W) int64 map per picture, or objects with `segmentation` and
            `segmentation_scores`.

        Raises:
            ValueError: another number of sizes than of pictures.
        """
        return class_maps(
            np.asarray(outputs.logits), target_sizes, keep_scores=return_segmentation_scores
        )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "SegformerImageProcessor":
        """Reads the content of a preprocessor_config.json, of new and old files."""
        values = {name: value for name, value in values.items() if name not in TYPES}
        for old, new in LEGACY.items():
            if old in values:
                legacy = values.pop(old)
                values.setdefault(new, legacy)
        known = {f.name for f in dataclasses.fields(cls)} - {"extra"}
        return cls(
            **{name: v for name, v in values.items() if name in known and v is not None},
            extra={name: v for name, v in values.items() if name not in known},
        )

    def to_dict(self) -> dict[str, Any]:
        """The content of a preprocessor_config.json that transformers and `from_dict` read."""
        values: dict[str, Any] = dict(self.extra)
        for f in dataclasses.fields(self):
            value = getattr(self, f.name)
            if f.name != "extra" and not (f.name == "do_convert_rgb" and value):
                values[f.name] = list(value) if isinstance(value, tuple) else value
        values |= {"size": dict(self.size), "resample": int(self.resample)}
        return dict(sorted((values | {"image_processor_type": "SegformerImageProcessor"}).items()))

    @classmethod
    def from_pretrained(cls, name_or_path: Any, **hub_options: Any) -> "SegformerImageProcessor":
        """The processor of a weights package, a folder, or a hub repository."""
        from segformer_jax.checkpoints import pretrained

        return cls.from_dict(pretrained.load_processor_config(name_or_path, **hub_options))

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes `folder`/preprocessor_config.json."""
        from segformer_jax.checkpoints import pretrained

        pretrained.save_processor_config(self.to_dict(), folder)

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Uploads what `save_pretrained` writes; gives the address of the commit."""
        from segformer_jax.checkpoints import pretrained

        return pretrained.push_processor_config(self.to_dict(), repo_id, **options)


def _size(size: Any) -> dict[str, int]:
    if isinstance(size, int) and not isinstance(size, bool):
        size = {"height": size, "width": size}
    elif isinstance(size, tuple | list) and len(size) == 2:
        size = {"height": size[0], "width": size[1]}
    if not isinstance(size, Mapping):
        raise ValueError(f"size is {size!r}; it is an int, (height, width) or HF's dict")
    size = {name: value for name, value in size.items() if value is not None}
    if set(size) not in SIZES:
        raise ValueError(f"size is {size}; its keys are one of {[sorted(keys) for keys in SIZES]}")
    if not all(isinstance(value, int) and value > 0 for value in size.values()):
        raise ValueError(f"size is {size}; sides are positive whole numbers of pixels")
    return size


def _listed(pictures: Any, *, axes: int) -> list[Any]:
    """One picture or many, as a list; an array with one axis more is a batch."""
    if isinstance(pictures, list | tuple):
        return list(pictures)
    if not isinstance(pictures, str | Path | Image.Image) and np.ndim(pictures) > axes:
        return list(np.asarray(pictures))
    return [pictures]


def _channels(picture: Any, *, rgb: bool) -> Num[np.ndarray, "h w c"]:
    """(h, w, channels) in the values that the picture has; 16 bits are brought to 8."""
    if isinstance(picture, str | Path):
        return np.asarray(read_image(picture))
    if isinstance(picture, Image.Image):
        if rgb or picture.mode not in ("L", "RGB", "RGBA"):
            picture = to_rgb(picture)
        return check_layout(np.asarray(picture))
    if not hasattr(picture, "__array__"):
        raise ImageError(
            f"a picture is a path, a PIL picture or an array; this is a {type(picture).__name__}"
        )
    x = check_layout(np.asarray(picture))
    if x.dtype in (np.uint16, np.bool_):
        x = to_bytes(x)
    return rgb_array(x) if rgb else x


def _indices(picture: Any) -> Int[np.ndarray, "h w"]:
    """Class indices of a mask, which are never scaled."""
    if isinstance(picture, str | Path):
        path = Path(picture)
        if not path.is_file():
            raise ImageError(f"there is no file {path}")
        try:
            with Image.open(path) as image:
                x = np.asarray(image)
        except OSError as error:
            raise ImageError(f"{path} is no mask that can be read: {error}") from error
    else:
        x = np.asarray(picture)
    if x.ndim == 3 and x.shape[-1] == 1:
        x = x[..., 0]
    if x.ndim != 2:
        raise ValueError(
            f"a segmentation map has shape {x.shape}; it holds one class index per pixel, (h, w)"
        )
    if np.issubdtype(x.dtype, np.floating) and not np.array_equal(x, np.trunc(x)):
        raise ValueError("a segmentation map holds fractions; it holds class indices")
    return x.astype(np.int64)


def _resize(x: np.ndarray, size: tuple[int, int], resample: int) -> np.ndarray:
    """Pillow's resize of bytes; floats in 0…1 go there and back as in HF."""
    height, width = size
    values = to_bytes(x)
    flat = values[..., 0] if values.shape[-1] == 1 else values
    resized = np.asarray(Image.fromarray(flat).resize((width, height), Image.Resampling(resample)))
    resized = resized.reshape(height, width, -1)
    scaled = x.dtype != np.uint8 and not np.array_equal(values, x)
    return (resized.astype(np.float64) * (1 / 255)).astype(np.float32) if scaled else resized


def _stacked(arrays: list[np.ndarray]) -> np.ndarray:
    shapes = sorted({array.shape for array in arrays})
    if len(shapes) > 1:
        raise ValueError(f"pictures of different sizes, {shapes}, can't be one batch: resize them")
    return np.stack(arrays)


def _jax_types(data: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {n: v.astype(np.int32) if v.dtype == np.int64 else v for n, v in data.items()}
