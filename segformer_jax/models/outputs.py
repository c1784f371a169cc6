"""The outputs of the models: frozen dataclasses that are pytrees, so `jax.jit` can return them."""

from dataclasses import dataclass

import jax
from jaxtyping import Array, Float


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class SegformerModelOutput:
    """The encoder's feature pyramid.

    Attributes:
        last_hidden_state: the last feature map, (b, h, w, c); (b, h·w, c) if the config has
            `reshape_last_stage=False`.
        hidden_states: one map per stage, after its LayerNorm, with `config.hidden_sizes` channels,
            by default at 1/4, 1/8, 1/16, 1/32 of the picture's size (`config.feature_strides`).
        attentions: with `output_attentions`, one (b, heads, h·w, keys) per block.
    """

    last_hidden_state: Float[Array, "b *grid c"]
    hidden_states: tuple[Float[Array, "b *_"], ...]
    attentions: tuple[Float[Array, "b _ _ _"], ...] | None = None


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class SemanticSegmenterOutput:
    """Logits of every class at 1/4 of the picture, before any softmax, NHWC.

    Attributes:
        logits: (b, ⌈h/4⌉, ⌈w/4⌉, num_labels).
        loss: scalar, when labels were given.
        hidden_states: with `output_hidden_states`, the encoder's feature maps.
        attentions: with `output_attentions`, one (b, heads, h·w, keys) per block.
    """

    logits: Float[Array, "b h w labels"]
    loss: Float[Array, ""] | None = None
    hidden_states: tuple[Float[Array, "b *_"], ...] | None = None
    attentions: tuple[Float[Array, "b _ _ _"], ...] | None = None


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ImageClassifierOutput:
    """Logits of every class, before any softmax; the rest as in `SemanticSegmenterOutput`."""

    logits: Float[Array, "b labels"]
    loss: Float[Array, ""] | None = None
    hidden_states: tuple[Float[Array, "b *_"], ...] | None = None
    attentions: tuple[Float[Array, "b _ _ _"], ...] | None = None
