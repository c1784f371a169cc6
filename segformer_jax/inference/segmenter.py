"""`Segmenter` turns pictures into class maps. It compiles at the first call."""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, overload

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, UInt, UInt8
from PIL import Image

from segformer_jax.checkpoints.pretrained import load_model
from segformer_jax.images.picture import as_rgb, size_of
from segformer_jax.images.pillow_file import MAX_PIXELS
from segformer_jax.images.processor import SegformerImageProcessor
from segformer_jax.inference.class_map import start_class_map, start_compiling
from segformer_jax.inference.compiled import compiler_options, forward_pass, pictures_at_once
from segformer_jax.inference.devices import local_devices
from segformer_jax.inference.protocol import Protocol
from segformer_jax.inference.segmentation import Segmentation
from segformer_jax.inference.windowed import whole_class_map
from segformer_jax.inference.windows import ImagePixels
from segformer_jax.models.contract import in_use, interface_of
from segformer_jax.models.segformer import SegformerForSemanticSegmentation, check_pixel_values

Picture = str | Path | Image.Image | np.ndarray
WHOLE = Protocol()  # each picture at the processor's size


class Segmenter:
    """Segments pictures with a model, compiled for the local devices.

    Args:
        model: any module that maps `pixel_values` to an output with `.logits`. Its parameters are
            copied to the devices; the model itself is not changed. A SegFormer's decode head is
            folded: some products of its parameters are computed once instead of at every call.
        processor: converts a picture to the network's input.
        device: a platform ("cpu", "gpu", "tpu"), a `jax.Device`, or several of them, over which
            batches are split. Default: all local devices of JAX's default platform.
        batch_size: number of pictures per run of the network, over all devices.
        max_pixels: largest picture, in pixels, that is opened.
        id2label: names of the classes; needed only if the model has no `config` with them.

    Raises:
        ValueError: the processor's size is too small for the network, a device is unknown, or the
            model's logits do not have these classes.
    """

    def __init__(
        self,
        model: nnx.Module,
        processor: SegformerImageProcessor,
        *,
        device: str | jax.Device | Sequence[jax.Device] | None = None,
        batch_size: int = 8,
        max_pixels: int = MAX_PIXELS,
        id2label: Mapping[int, str] | None = None,
    ):
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        self.config, self.processor = getattr(model, "config", None), processor
        self.batch_size, self.max_pixels = batch_size, max_pixels
        if self.config is not None:
            _check_size(processor, self.config)
        model = in_use(model)
        self._interface = interface_of(model, size=_some_size(processor), id2label=id2label)
        devices = local_devices(device)
        self._mesh = Mesh(np.array(devices), ("batch",))
        platform = devices[0].platform
        self._compiler_options = compiler_options(platform, self._interface.dtype)
        self._on_cpu = platform == "cpu"
        self._graph, state = nnx.split(model)
        leaves, structure = jax.tree.flatten(state)  # calls are far cheaper with a list than a tree
        self._leaves = self._on_every_device(leaves)
        on_state = forward_pass(self._graph, platform)

        def forward(leaves, pixel_values):
            return on_state(jax.tree.unflatten(structure, leaves), pixel_values)

        def forward_each(leaves, pixel_values):  # one array per picture: slicing would be compiled
            return tuple(own[None] for own in forward(leaves, pixel_values))

        def normalised(table, pixels):
            channels = [
                jnp.take(table[:, c], pixels[..., c], mode="clip") for c in range(pixels.shape[-1])
            ]
            return jnp.stack(channels, -1)

        self._forward = self._compiled(forward)
        self._forward_each = self._compiled(forward_each)
        self._normalised = self._compiled(normalised)

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        *,
        dtype: Any = jnp.float32,
        device: str | jax.Device | Sequence[jax.Device] | None = None,
        batch_size: int = 8,
        max_pixels: int = MAX_PIXELS,
        id2label: Mapping[int, str] | None = None,
        **hub_options: Any,
    ) -> "Segmenter":
        """Loads the model and processor of a weights package, folder or hub repository.

        Args:
            name_or_path: "scene-b0", a folder, or a name on the Hugging Face hub.
            dtype: type of the matrix products; bfloat16 is usually faster and nearly as exact.
            device: as in `Segmenter`.
            batch_size: as in `Segmenter`.
            max_pixels: as in `Segmenter`.
            id2label: names of the classes, instead of those in config.json.
            hub_options: `revision`, `token`, `cache_dir`, `local_files_only`, `subfolder`.

        Raises:
            WeightsError: as `load_model`, or the checkpoint has no trained decode head.
            ValueError: as `load_model`; `id2label` has more or fewer classes than the checkpoint.
        """
        processor = SegformerImageProcessor.from_pretrained(name_or_path, **hub_options)
        model = load_model(
            SegformerForSemanticSegmentation,
            name_or_path,
            dtype=dtype,
            id2label=id2label,
            may_start=False,
            **hub_options,
        )
        return cls(model, processor, device=device, batch_size=batch_size, max_pixels=max_pixels)

    @property
    def id2label(self) -> dict[int, str]:
        """Names of the class map's values. A model of one label has "background" at 0."""
        names = dict(self._interface.id2label)
        return names if len(names) > 1 else {0: "background", 1: next(iter(names.values()))}

    @property
    def num_labels(self) -> int:
        """Length of the last axis of the logits; 1 for one label against the background."""
        return self._interface.num_labels

    def logits_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the logits for an input of this height and width."""
        return self._interface.logits_shape(height, width)[:2]

    @property
    def device_count(self) -> int:
        """Number of devices that a batch is split over."""
        return self._mesh.size

    def batch_sizes(self, height: int, width: int) -> list[int]:
        """Sizes of the batches that are compiled for: powers of two per device, ascending.

        A CPU computes only a few pictures at a time, so that their maps stay in its cache.

        Args:
            height: of the network's input.
            width: of the network's input.
        """
        sizes = sorted({self._rounded(count) for count in range(1, self.batch_size + 1)})
        if self._on_cpu:
            most = self._mesh.size * pictures_at_once("cpu", height, width)
            return [size for size in sizes if size <= most] or sizes[:1]
        return sizes

    @overload
    def __call__(
        self, images: Picture, *, scores: bool = False, protocol: Protocol = WHOLE
    ) -> Segmentation: ...
    @overload
    def __call__(
        self, images: Sequence[Picture], *, scores: bool = False, protocol: Protocol = WHOLE
    ) -> list[Segmentation]: ...
    def __call__(self, images, *, scores=False, protocol=WHOLE):
        """Segments one picture, or a list of pictures of any sizes, in batches.

        Args:
            images: a path, PIL picture or array, (h, w) or (h, w, 1|3|4) in 0…255, or with as many
                bands as the processor has `channels`; or a list.
            scores: also return the probability of each pixel's class.
            protocol: use windows, several scales or flips; see `Protocol`.

        Returns:
            A `Segmentation` of the picture's size, with EXIF orientation applied; a list of them
            if `images` is a list.

        Raises:
            ImageError: a picture can't be read, or is larger than `max_pixels`.
            ValueError: the protocol has a threshold, but the model has several labels.
        """
        if isinstance(images, list | tuple):
            results: list[Segmentation] = []
            for start in range(0, len(images), self.batch_size):
                some = images[start : start + self.batch_size]
                results += self._segment(some, scores, protocol)
            return results
        return self._segment([images], scores, protocol)[0]

    def logits(self, pixel_values: Float[Array | np.ndarray, "b h w c"]) -> Float[Array, "b _ _ _"]:
        """Runs only the compiled forward pass: (b, ⌈h/4⌉, ⌈w/4⌉, labels) float32, before softmax.

        Raises:
            ValueError: as the model's `__call__`.
        """
        check_pixel_values(pixel_values, self._interface)
        count = len(pixel_values)
        whole = self._rounded(count) if self._mesh.size > 1 else count
        if whole != count:
            pixel_values = np.pad(pixel_values, ((0, whole - count), (0, 0), (0, 0), (0, 0)))
        logits = self._forward(self._leaves, self._put(pixel_values))
        with jax.set_mesh(None):  # a caller's mesh may have other devices
            return logits if whole == count else logits[:count]

    def class_maps(
        self,
        inputs: Sequence[Float[np.ndarray, "_ _ c"] | UInt8[np.ndarray, "_ _ c"]],
        sizes: Sequence[tuple[int, int]],
        *,
        scores: bool = False,
        threshold: float = 0.5,
    ) -> list[tuple[UInt[np.ndarray, "_ _"], Float[np.ndarray, "_ _"] | None]]:
        """Class maps of pictures that the caller has prepared with the processor.

        Args:
            inputs: one per picture, as in `start`. Inputs of one size run in batches, each of which
                is padded to one of `batch_sizes`.
            sizes: (height, width) of each class map.
            scores: as in `__call__`.
            threshold: for models of one class; see `Protocol`.

        Returns:
            The class map of each picture, and its scores, or None without `scores`.

        Raises:
            ValueError: as the model's `__call__`.
        """
        if not scores:
            self.start_compiling(inputs)
        maps = [
            start_class_map(own, size, scores=scores, threshold=threshold)
            for own, size in zip(self.start(inputs), sizes, strict=True)
        ]
        return [finish() for finish in maps]

    def start(
        self,
        inputs: Sequence[Float[np.ndarray, "_ _ c"] | UInt8[np.ndarray, "_ _ c"]],
        *,
        at_least: int = 1,
    ) -> list[Float[Array, "1 _ _ labels"]]:
        """Each picture's logits, on its device, which may still be computing them.

        `class_map(logits, size)` waits for them and computes the class map.

        Args:
            inputs: the normalised pixels of each picture, or the result of `processor.eight_bits`,
                which has a quarter of the bytes and is normalised on the device with the same
                result, bit for bit.
            at_least: size to which a smaller batch is padded, instead of being compiled for, if all
                inputs have one size; at most the largest of `batch_sizes`.

        Raises:
            ValueError: as the model's `__call__`.
        """
        logits: list[Any] = [None] * len(inputs)
        groups = _by_shape(inputs)
        for same in groups:
            shape, dtype = inputs[same[0]].shape, inputs[same[0]].dtype
            dtype = np.float32 if dtype == np.uint8 else dtype
            check_pixel_values(jax.ShapeDtypeStruct((1, *shape), dtype), self._interface)
            least = at_least if len(groups) == 1 else 1
            rest = iter(same)
            for size in self._runs(len(same), shape, least):
                batch = list(itertools.islice(rest, size))
                own = self._each([inputs[index] for index in batch], size)
                for index, each in zip(batch, own, strict=True):
                    logits[index] = each
        return logits

    def start_compiling(self, inputs: Sequence[np.ndarray]) -> None:
        """Compiles class maps without scores of such inputs in a thread; call it before `start`.

        Raises:
            ValueError: as the model's `__call__`.
        """
        for shape in {pixels.shape for pixels in inputs}:
            check_pixel_values(jax.ShapeDtypeStruct((1, *shape), np.float32), self._interface)
            start_compiling(self._interface.logits_shape(*shape[:2]), self._mesh.devices.flat[0])

    def update(self, model: nnx.Module) -> None:
        """Replaces the weights by those of another model with the same layers, without compiling.

        The weights are copied, so the model may be trained further or deleted.

        Raises:
            ValueError: the model's config, layers or types differ from those of the segmenter.
        """
        config = getattr(model, "config", None)
        if config != self.config:
            raise ValueError(
                "the model must have the config that this segmenter was compiled for, "
                f"got another {_differences(config, self.config)}: make a new "
                "Segmenter(model, processor)"
            )
        graph, state = nnx.split(in_use(model))
        leaves = jax.tree.leaves(state)
        for given, own in zip(leaves, self._leaves, strict=False):
            if given.dtype != own.dtype:
                raise ValueError(
                    f"the model must compute in {own.dtype}, which this segmenter was "
                    f"compiled for, got {given.dtype}: make a new Segmenter(model, "
                    "processor)"
                )
        if graph != self._graph:
            raise ValueError(
                "the model must have the layers that this segmenter was compiled for, "
                "got others: make a new Segmenter(model, processor)"
            )
        self._leaves = self._on_every_device(leaves)

    def _segment(
        self, images: Sequence[Picture], scores: bool, protocol: Protocol
    ) -> list[Segmentation]:
        read = functools.partial(self.processor.read, max_pixels=self.max_pixels)
        pictures = [read(image) for image in images]
        if protocol.simple:
            inputs = [protocol.inputs(self.processor, picture) for picture in pictures]
            sizes = [size_of(picture) for picture in pictures]
            how = dict(scores=scores, threshold=protocol.threshold)
            maps = self.class_maps(inputs, sizes, **how)
        else:
            maps = [
                whole_class_map(self, ImagePixels(p), protocol, scores=scores) for p in pictures
            ]
        return [
            Segmentation(classes, self.id2label, as_rgb(picture), certainty)
            for picture, (classes, certainty) in zip(pictures, maps, strict=True)
        ]

    def _compiled(self, function: Callable) -> Callable:
        """Compiles a function so that each device runs its own part of the batch by itself.

        The mesh is the segmenter's own, whatever mesh the caller has set with `jax.set_mesh`.
        """
        batch = PartitionSpec("batch")
        compiled = jax.jit(
            jax.shard_map(
                function,
                mesh=self._mesh,
                in_specs=(PartitionSpec(), batch),
                out_specs=batch,
                check_vma=False,
            ),
            compiler_options=self._compiler_options,
        )

        def run(*arguments: Any) -> Any:
            with jax.set_mesh(self._mesh):
                return compiled(*arguments)

        return run

    def _runs(self, count: int, shape: tuple[int, ...], at_least: int) -> Iterator[int]:
        """Yields the sizes of the batches in which to compute `count` pictures of a shape."""
        most = self.batch_sizes(*shape[:2])[-1]
        while count > 0:
            size = min(most, self._rounded(max(count, at_least)))
            yield size
            count -= size

    def _each(self, inputs: list[np.ndarray], size: int) -> Iterator[Array]:
        """Yields each picture's logits, (1, h, w, labels), on the device that computed them.

        The pictures run as one batch, padded to `size`.
        """
        batch = np.zeros((size, *inputs[0].shape), inputs[0].dtype)
        for place, pixels in zip(batch, inputs, strict=False):
            place[...] = pixels
        pixel_values = self._put(batch)
        if batch.dtype == np.uint8:
            table = self.processor.byte_values(batch.shape[-1])
            pixel_values = self._put(self._normalised(table, pixel_values))  # one program for both
        parts = self._forward_each(self._leaves, pixel_values)
        shards = [_shards_in_order(part) for part in parts]
        for index in range(len(inputs)):  # device d has the pictures d·n … d·n + n - 1
            device, place = divmod(index, len(parts))
            yield shards[place][device]

    def _on_every_device(self, leaves: list[Any]) -> list[Array]:
        whole = NamedSharding(self._mesh, PartitionSpec())
        return jax.device_put(leaves, whole, may_alias=False)  # training steps donate the originals

    def _put(self, pixel_values: Any) -> Array:
        """Splits a batch over the devices. CPUs wait for the copy, so that the program finds it.

        JAX would otherwise run the program in another thread, as soon as the copy is there, in
        spite of `process.keep_freed_memory`.
        """
        put = jax.device_put(pixel_values, NamedSharding(self._mesh, PartitionSpec("batch")))
        if self._on_cpu:
            put.block_until_ready()
        return put

    def _rounded(self, count: int) -> int:
        """Rounds a batch size up to one that is compiled for: a power of two per device."""
        per_device = -(-count // self._mesh.size)
        return self._mesh.size * (1 << (per_device - 1).bit_length())


def _shards_in_order(array: Array) -> list[Any]:
    shards = sorted(array.addressable_shards, key=lambda shard: shard.index[0].start or 0)
    return [shard.data for shard in shards]


def _by_shape(inputs: Sequence[np.ndarray]) -> list[list[int]]:
    groups: dict[Any, list[int]] = {}
    for index, x in enumerate(inputs):
        groups.setdefault((x.shape, x.dtype), []).append(index)
    return list(groups.values())


def _differences(given: Any, own: Any) -> str:
    if type(given) is not type(own) or not dataclasses.is_dataclass(own):
        return f"its values ({given!r}, compiled for {own!r})"
    names = [field.name for field in dataclasses.fields(own)]
    differ = [name for name in names if getattr(given, name) != getattr(own, name)]
    return ", ".join(
        f"{name} ({getattr(given, name)!r}, compiled for {getattr(own, name)!r})" for name in differ
    )


def _some_size(processor: SegformerImageProcessor) -> tuple[int, int]:
    """Returns the processor's output size, with 512 for a height or width that it does not fix."""
    size = processor.size if processor.do_resize and isinstance(processor.size, dict) else {}
    return size.get("height", 512), size.get("width", 512)


def _check_size(processor: SegformerImageProcessor, config: Any) -> None:
    least = getattr(config, "minimum_size", 1)
    if processor.do_resize and isinstance(processor.size, dict):
        side = min(processor.size.values())
        if side < least:
            raise ValueError(
                f"size in preprocessor_config.json must have sides of at least {least} "
                f"pixels for this network, got {processor.size}"
            )
