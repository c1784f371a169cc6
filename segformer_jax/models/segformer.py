"""SegFormer's three models: the encoder alone, and with a segmentation or a classification head."""

from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int, Key, Num, UInt32

from segformer_jax import ops
from segformer_jax.config import SegformerConfig
from segformer_jax.models.decode_head import FoldedDecodeHead, SegformerDecodeHead
from segformer_jax.models.encoder import Stage
from segformer_jax.models.layers import Conv, Linear
from segformer_jax.models.loss import classification_loss, segmentation_loss
from segformer_jax.models.outputs import (
    ImageClassifierOutput,
    ModelOutput,
    SegformerModelOutput,
    SemanticSegmenterOutput,
)

Model = TypeVar("Model", bound="_Pretrained")
Randomness = nnx.Rngs | Key[Array, ""] | UInt32[Array, " _"] | None
Pixels = Num[Array | np.ndarray, "b h w channels"]


class _Pretrained(nnx.Module):
    """Loading and saving, which all models share; implemented in `checkpoints.pretrained`."""

    config: SegformerConfig

    @classmethod
    def from_pretrained(cls: type[Model], name_or_path: Any, **options) -> Model | Any:
        """Loads the model of a weights package, folder, file or hub repository, in eval mode.

        Takes `dtype`, `param_dtype`, `num_labels` or `id2label`, `num_channels`,
        `ignore_mismatched_sizes`, `config`, any field of the config by its name,
        `output_loading_info`, and the hub's `revision`, `token`, `cache_dir`, `local_files_only`,
        `subfolder`: see `segformer_jax.checkpoints.pretrained.load_model`.
        """
        from segformer_jax.checkpoints import pretrained

        return pretrained.load_model(cls, name_or_path, **options)

    def save_pretrained(self, folder: Any, **options) -> None:
        """Writes config.json and model.safetensors as transformers does.

        `weights="float16"` halves the file of a float32 model. `weights="int8"` writes
        model.int8.safetensors instead, a quarter as large, which `from_pretrained` reads but
        transformers does not. `max_shard_size="2GB"` splits larger weights into files of that size.
        """
        from segformer_jax.checkpoints import pretrained

        pretrained.save_model(self, folder, **options)

    def push_to_hub(self, repo_id: str, **options) -> str:
        """Uploads the files of `save_pretrained` (same options); returns the commit's address."""
        from segformer_jax.checkpoints import pretrained

        return pretrained.push_model(self, repo_id, **options)

    def gradient_checkpointing_enable(self, gradient_checkpointing_kwargs: Any = None) -> None:
        """In training, keep only each block's input and recompute the rest in the backward pass.

        `gradient_checkpointing_kwargs` chooses between two ways that PyTorch has; JAX has one.
        """
        self._set_gradient_checkpointing(True)

    def gradient_checkpointing_disable(self) -> None:
        """Keep all activations of the forward pass, the default."""
        self._set_gradient_checkpointing(False)

    @property
    def is_gradient_checkpointing(self) -> bool:
        """Whether training recomputes activations."""
        return any(stage.gradient_checkpointing for stage in self._stages())

    def num_parameters(self) -> int:
        """The number of trained values, without BatchNorm's statistics."""
        return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(self, nnx.Param)))

    def _set_gradient_checkpointing(self, enabled: bool) -> None:
        for stage in self._stages():
            stage.gradient_checkpointing = enabled

    def _stages(self) -> list[Stage]:
        return [module for _, module in nnx.iter_modules(self) if isinstance(module, Stage)]


class SegformerModel(_Pretrained):
    """The Mix Transformer encoder: a pyramid of feature maps (paper, section 3.1).

    Args:
        config: the sizes of the network.
        dtype: type of the matrix products. With bfloat16, a CPU keeps float32 between them.
        param_dtype: type of the parameters.
        rngs: seed of the new parameters, such as `nnx.Rngs(0)`. If it has a stream named `dropout`,
            as in `nnx.Rngs(0, dropout=1)`, the model keeps it for calls in train mode without
            `rngs`.
    """

    def __init__(
        self,
        config: SegformerConfig,
        *,
        dtype=jnp.float32,
        param_dtype=jnp.float32,
        rngs: nnx.Rngs,
    ):
        self.config = config
        self.stages = nnx.List(
            Stage(config, stage, dtype=dtype, param_dtype=param_dtype, rngs=rngs)
            for stage in range(config.num_encoder_blocks)
        )
        self.dtype = jnp.dtype(dtype)
        self.rngs = nnx.data(nnx.Rngs(dropout=rngs.dropout()) if "dropout" in rngs else None)

    def __call__(
        self,
        pixel_values: Pixels,
        *,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
        rngs: Randomness = None,
    ) -> SegformerModelOutput | Any:
        """Computes the feature maps of normalised pictures, (b, h, w, channels), h and w ≥ 29.

        Args:
            pixel_values: (b, h, w, channels), as `SegformerImageProcessor` returns them.
            output_hidden_states: False leaves the pyramid out and returns its last map alone. None
                returns it, whatever the config says.
            output_attentions: as in `SegformerForSemanticSegmentation`.
            return_dict: as in `SegformerForSemanticSegmentation`.
            rngs: as in `SegformerForSemanticSegmentation`.

        Raises:
            ValueError: the pixels are NCHW or integers, the number of channels is wrong, a side is
                below `config.minimum_size`, or dropout in train mode has no `rngs`.
        """
        maps, attentions = self.features(
            pixel_values, output_attentions=output_attentions, rngs=rngs
        )
        maps = _as_configured(self.config, maps)
        hidden_states = None if output_hidden_states is False else maps
        output = SegformerModelOutput(maps[-1], hidden_states, attentions)
        return _returned(output, return_dict)

    def features(
        self,
        pixel_values: Pixels,
        *,
        output_attentions: bool | None = None,
        rngs: Randomness = None,
    ) -> tuple[tuple[Float[Array, "b _ _ _"], ...], tuple[Float[Array, "b _ _ _"], ...] | None]:
        """Computes the feature maps, always as grids (b, h, w, c), and the attentions."""
        if output_attentions is None:
            output_attentions = self.config.output_attentions
        check_pixel_values(pixel_values, self.config)
        rngs = self.rngs if rngs is None else _streams(rngs)
        output_attentions = output_attentions or None  # False would be an operand to nnx.tabulate
        x = jnp.asarray(pixel_values, ops.activation_dtype(self.dtype))
        maps, attentions = [], []
        for stage in self.stages:
            x, weights = stage(x, output_attentions=output_attentions, rngs=rngs)
            maps.append(x)
            attentions.extend(weights)
        return tuple(maps), tuple(attentions) if output_attentions else None


class SegformerForSemanticSegmentation(_Pretrained):
    """The encoder and the all-MLP decode head: logits at 1/4 of the picture's size.

    Its arguments are those of `SegformerModel`.
    """

    def __init__(
        self,
        config: SegformerConfig,
        *,
        dtype=jnp.float32,
        param_dtype=jnp.float32,
        rngs: nnx.Rngs,
    ):
        self.config = config
        self.segformer = SegformerModel(config, dtype=dtype, param_dtype=param_dtype, rngs=rngs)
        self.decode_head: SegformerDecodeHead | FoldedDecodeHead = SegformerDecodeHead(
            config, dtype=dtype, param_dtype=param_dtype, rngs=rngs
        )

    def __call__(
        self,
        pixel_values: Pixels,
        labels: Int[Array | np.ndarray, "b H W"] | None = None,
        *,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
        rngs: Randomness = None,
    ) -> SemanticSegmenterOutput | Any:
        """Computes the logits of normalised pictures, and the loss if labels are given.

        Args:
            pixel_values: (b, h, w, channels), as `SegformerImageProcessor` returns them.
            labels: class indices, or `config.semantic_loss_ignore_index` (255) for pixels to
                ignore; of any size, usually the picture's.
            output_hidden_states: also return the encoder's feature maps; None uses the config's
                value.
            output_attentions: also return every block's attention; None uses the config's value.
            return_dict: False returns the output's `to_tuple()`; the config's has no effect.
            rngs: random numbers for dropout in train mode: `nnx.Rngs(dropout=seed)` or a
                `jax.random.key`; None uses the stream that the model was made with, if any.

        Raises:
            ValueError: as `SegformerModel`, or labels have a wrong value, shape or type.
        """
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        rngs = _streams(rngs)
        maps, attentions = self.segformer.features(
            pixel_values, output_attentions=output_attentions, rngs=rngs
        )
        logits = self.decode_head(maps, rngs=self.segformer.rngs if rngs is None else rngs)
        loss = None if labels is None else segmentation_loss(logits, labels, self.config)
        hidden_states = _as_configured(self.config, maps) if output_hidden_states else None
        output = SemanticSegmenterOutput(logits, loss, hidden_states, attentions)
        return _returned(output, return_dict)

    def folded(self) -> "SegformerForSemanticSegmentation":
        """Returns an equivalent model for inference only, with products of parameters precomputed.

        Its parameters are not HF's, so it can be neither saved nor trained. A decode head of
        another type, or with a part of another type, is not changed.
        """
        if type(self.decode_head) is FoldedDecodeHead:
            return self
        model = nnx.clone(self)
        model.eval()
        if type(model.decode_head) is SegformerDecodeHead and model.decode_head.foldable:
            model.decode_head = model.decode_head.folded()
        model.segformer.rngs = None
        for _, layer in nnx.iter_modules(model):
            if type(layer) is Linear or type(layer) is Conv:
                layer.kernel = nnx.Param(ops.rounded(layer.kernel[...], dtype=layer.dtype))
            if isinstance(layer, Stage):
                layer.gradient_checkpointing = False  # there is no gradient
        return model


class SegformerForImageClassification(_Pretrained):
    """The encoder, the mean over its last map, and a linear layer, as trained on ImageNet.

    Its arguments are those of `SegformerModel`.
    """

    def __init__(
        self,
        config: SegformerConfig,
        *,
        dtype=jnp.float32,
        param_dtype=jnp.float32,
        rngs: nnx.Rngs,
    ):
        self.config = config
        self.segformer = SegformerModel(config, dtype=dtype, param_dtype=param_dtype, rngs=rngs)
        self.classifier = Linear(
            config.hidden_sizes[-1],
            config.num_labels,
            stddev=config.initializer_range,
            dtype=dtype,
            param_dtype=param_dtype,
            rngs=rngs,
        )

    def __call__(
        self,
        pixel_values: Pixels,
        labels: Num[Array | np.ndarray, "b *labels"] | None = None,
        *,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
        rngs: Randomness = None,
    ) -> ImageClassifierOutput | Any:
        """Computes the logits, and for labels the loss that `config.problem_type` selects.

        Args:
            pixel_values: normalised pictures, (b, h, w, channels).
            labels: (b,) class indices or numbers, or (b, num_labels) probabilities.
            output_hidden_states: as in `SegformerForSemanticSegmentation`.
            output_attentions: as in `SegformerForSemanticSegmentation`.
            return_dict: as in `SegformerForSemanticSegmentation`.
            rngs: as in `SegformerForSemanticSegmentation`.

        Raises:
            ValueError: as `SegformerModel`, or labels have a wrong value or shape.
        """
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        maps, attentions = self.segformer.features(
            pixel_values, output_attentions=output_attentions, rngs=rngs
        )
        logits = self.classifier(maps[-1].mean((1, 2)))
        loss = None if labels is None else classification_loss(logits, labels, self.config)
        hidden_states = _as_configured(self.config, maps) if output_hidden_states else None
        output = ImageClassifierOutput(logits, loss, hidden_states, attentions)
        return _returned(output, return_dict)


def model_class(config: SegformerConfig) -> type[_Pretrained]:
    """Returns the class named first in a config's `architectures`; by default segmentation."""
    named = config.extra.get("architectures") or [""]
    others = (SegformerModel, SegformerForImageClassification)
    return next((c for c in others if c.__name__ == named[0]), SegformerForSemanticSegmentation)


def _streams(rngs: Randomness) -> nnx.Rngs | None:
    """Returns streams of random numbers; a key becomes the stream `dropout`."""
    return nnx.Rngs(dropout=rngs) if isinstance(rngs, jax.Array) else rngs


def _returned(output: ModelOutput, return_dict: bool | None) -> Any:
    return output.to_tuple() if return_dict is False else output


def _as_configured(config: SegformerConfig, maps: tuple[Array, ...]) -> tuple[Array, ...]:
    if config.reshape_last_stage:
        return maps
    b, _, _, c = maps[-1].shape
    return (*maps[:-1], maps[-1].reshape(b, -1, c))


def check_pixel_values(pixel_values: Any, config: Any) -> None:
    """Raises a ValueError that says what is wrong with an input's layout, type or size.

    Args:
        pixel_values: the input.
        config: has the model's `num_channels` and `minimum_size`.
    """
    shape, channels = np.shape(pixel_values), config.num_channels
    if not hasattr(pixel_values, "dtype"):
        raise ValueError(f"pixel_values must be an array, got {type(pixel_values).__name__}")
    if len(shape) != 4:
        raise ValueError(
            f"pixel_values must have the shape (batch, height, width, {channels}), got {shape}"
        )
    if shape[-1] != channels:
        nchw = " (this looks like NCHW: transpose it by (0, 2, 3, 1))" * (shape[1] == channels)
        raise ValueError(
            f"pixel_values must be NHWC, (batch, height, width, {channels}), got {shape}{nchw}"
        )
    if not jnp.issubdtype(jax.numpy.result_type(pixel_values), jnp.floating):
        raise ValueError(
            "pixel_values must be normalised floats, got "
            f"{jax.numpy.result_type(pixel_values)}: use SegformerImageProcessor"
        )
    least = config.minimum_size
    if any(side < least for side in shape[1:3]):
        raise ValueError(
            f"pixel_values must have sides of at least {least} pixels for this "
            f"network, got {shape[1]} × {shape[2]}: resize the picture"
        )
