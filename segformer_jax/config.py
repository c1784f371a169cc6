"""The sizes and options of a SegFormer, named as in Hugging Face's config.json."""

import dataclasses
import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from segformer_jax.errors import listed
from segformer_jax.json_text import json_bytes

EPSILON = 1e-5  # of every norm in HF's layout
ACTIVATIONS = ("gelu", "relu", "silu", "swish", "gelu_new")
PROBLEM_TYPES = ("regression", "single_label_classification", "multi_label_classification")


class FrozenDict(dict):
    """A dict that can be hashed and compared with a plain dict, but not changed."""

    def __hash__(self) -> int:
        return hash(json.dumps(self, sort_keys=True, default=str))

    def __reduce__(self):
        return type(self), (dict(self),)

    def _refuse(self, *_args, **_kwargs):
        raise TypeError(
            "this dict can't be changed, because its config or processor is "
            "frozen: make a changed copy with dataclasses.replace(config, "
            "id2label={…}) or dataclasses.replace(processor, size={…})"
        )

    __setitem__ = __delitem__ = __ior__ = _refuse
    pop = popitem = clear = update = setdefault = _refuse


@dataclass(frozen=True)
class SegformerConfig:
    """The sizes and options of a SegFormer: HF's `SegformerConfig`, frozen and hashable.

    The defaults are those of MiT-b0. Sequences hold one entry per encoder stage. `layer_norm_eps`
    has no effect, as in HF: every LayerNorm has epsilon 1e-5, unless `layer_norm_epsilons` says
    otherwise. Keys of a config.json that are not fields here are kept in `extra` and written back.

    Args:
        num_labels: number of classes; by default that of `id2label`, or 2.
        id2label: class names by index; by default `LABEL_0`…
        hidden_act: activation of the Mix-FFN: gelu (exact), relu, silu (or swish), gelu_new.
        initializer_range: standard deviation of new linear and convolution kernels.
        drop_path_rate: stochastic depth of the last block; it grows linearly from 0 at the first.
        semantic_loss_ignore_index: label of pixels that the loss ignores.
        reshape_last_stage: if False, the last feature map is returned as tokens, (b, h·w, c).
        layer_norm_epsilons: epsilons of the LayerNorms by their place, for networks that were not
            trained in HF's layout: any of "patch_embeddings", "sequence_reduction", "blocks" (both
            of each block) and "stages" (the last of each stage). transformers doesn't know it.
        problem_type: loss of the image classifier; None infers it from the labels, as HF does.
        image_size: kept for files that have it; without effect, because pictures may have any size.

    Raises:
        ValueError: sizes differ in length or are not positive; a hidden size is not a multiple of
            its attention heads; a rate is outside [0, 1); an activation or the place of an epsilon
            is unknown; there is no label, or `id2label` has other indices than 0, 1, 2, …
    """

    num_channels: int = 3
    num_encoder_blocks: int = 4
    depths: tuple[int, ...] = (2, 2, 2, 2)
    sr_ratios: tuple[int, ...] = (8, 4, 2, 1)
    hidden_sizes: tuple[int, ...] = (32, 64, 160, 256)
    patch_sizes: tuple[int, ...] = (7, 3, 3, 3)
    strides: tuple[int, ...] = (4, 2, 2, 2)
    num_attention_heads: tuple[int, ...] = (1, 2, 5, 8)
    mlp_ratios: tuple[float, ...] = (4, 4, 4, 4)
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.0
    attention_probs_dropout_prob: float = 0.0
    classifier_dropout_prob: float = 0.1
    initializer_range: float = 0.02
    drop_path_rate: float = 0.1
    layer_norm_eps: float = 1e-6
    layer_norm_epsilons: Mapping[str, float] | None = None
    decoder_hidden_size: int = 256
    semantic_loss_ignore_index: int = 255
    reshape_last_stage: bool = True
    num_labels: int = None  # type: ignore[assignment]  # always an int after __post_init__
    id2label: Mapping[int, str] = None  # type: ignore[assignment]  # always a FrozenDict, likewise
    problem_type: str | None = None
    output_hidden_states: bool = False
    output_attentions: bool = False
    image_size: Any = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def b0(cls, **changes) -> "SegformerConfig":
        """The smallest: 3.8 M parameters, 37.4 mIoU on ADE20K (paper, table 1a)."""
        return cls(**changes)

    @classmethod
    def b1(cls, **changes) -> "SegformerConfig":
        """B0 at twice the width: 13.7 M parameters, 42.2 mIoU on ADE20K (paper, table 1a)."""
        sizes: dict[str, Any] = dict(hidden_sizes=(64, 128, 320, 512))
        return cls(**(sizes | changes))

    @classmethod
    def b2(cls, **changes) -> "SegformerConfig":
        """27.5 M parameters, 46.5 mIoU on ADE20K (paper, table 1a)."""
        return cls._large((3, 4, 6, 3), changes)

    @classmethod
    def b3(cls, **changes) -> "SegformerConfig":
        """47.3 M parameters, 49.4 mIoU on ADE20K (paper, table 1a)."""
        return cls._large((3, 4, 18, 3), changes)

    @classmethod
    def b4(cls, **changes) -> "SegformerConfig":
        """64.1 M parameters, 50.3 mIoU on ADE20K (paper, table 1a)."""
        return cls._large((3, 8, 27, 3), changes)

    @classmethod
    def b5(cls, **changes) -> "SegformerConfig":
        """The largest: 84.7 M parameters, 51.0 mIoU on ADE20K (paper, table 1a)."""
        return cls._large((3, 6, 40, 3), changes)

    @classmethod
    def _large(cls, depths: tuple[int, ...], changes: dict[str, Any]) -> "SegformerConfig":
        sizes: dict[str, Any] = dict(
            hidden_sizes=(64, 128, 320, 512), depths=depths, decoder_hidden_size=768
        )
        return cls(**(sizes | changes))

    def __post_init__(self):
        for name in PER_STAGE:
            object.__setattr__(self, name, self._per_stage(name))
        if self.id2label is None:
            count = 2 if self.num_labels is None else self.num_labels
            _positive("num_labels", count)
            names = {i: f"LABEL_{i}" for i in range(count)}
        else:
            names = _names(self.id2label)
            if sorted(names) != list(range(len(names))):
                raise ValueError(
                    f"id2label must number the classes from 0 to {len(names) - 1} without a gap, "
                    f"got {listed(sorted(names))}: give the names in the order of the model's "
                    "outputs, by id2label= in Python, or --id2label of segment and convert"
                )
            if self.num_labels not in (None, len(names)):
                raise ValueError(
                    f"num_labels must be the number of classes in id2label, {len(names)}, "
                    f"got {self.num_labels}: give one of the two"
                )
        object.__setattr__(self, "id2label", FrozenDict(sorted(names.items())))
        object.__setattr__(self, "num_labels", len(self.id2label))
        object.__setattr__(self, "extra", FrozenDict(self.extra))
        if self.layer_norm_epsilons is not None:
            object.__setattr__(self, "layer_norm_epsilons", _epsilons(self.layer_norm_epsilons))
        if isinstance(self.image_size, list):  # of a file
            object.__setattr__(self, "image_size", tuple(self.image_size))
        self._check()

    def _per_stage(self, name: str) -> tuple:
        values = getattr(self, name)
        if isinstance(values, str) or not hasattr(values, "__iter__"):
            raise ValueError(f"{name} must hold one number per encoder stage, got {values!r}")
        values = tuple(values)
        if len(values) != self.num_encoder_blocks:
            raise ValueError(
                f"{name} must hold one number per encoder stage, "
                f"{self.num_encoder_blocks} (num_encoder_blocks), got {len(values)}: "
                f"{values}"
            )
        for value in values:
            _positive(name, value, integer=name != "mlp_ratios")
        return values

    def _check(self):
        for name in ("num_channels", "num_encoder_blocks", "decoder_hidden_size", "num_labels"):
            _positive(name, getattr(self, name))
        sizes = zip(self.hidden_sizes, self.num_attention_heads, self.mlp_ratios, strict=True)
        for stage, (width, heads, ratio) in enumerate(sizes):
            if width % heads:
                raise ValueError(
                    f"stage {stage}: hidden size must be a multiple of the attention heads, "
                    f"got {width} and {heads}"
                )
            if int(width * ratio) < 1:
                raise ValueError(
                    f"stage {stage}: mlp_ratio times hidden size must be at least 1 "
                    f"channel, got {ratio} × {width}"
                )
        for name in RATES:
            rate = getattr(self, name)
            if not _is_number(rate) or not 0 <= rate < 1:
                raise ValueError(f"{name} must be a number in [0, 1), got {rate!r}")
        if not _is_number(self.initializer_range) or not self.initializer_range >= 0:
            raise ValueError(
                f"initializer_range must be a number of at least 0, got {self.initializer_range!r}"
            )
        if self.hidden_act not in ACTIVATIONS:
            raise ValueError(
                f"hidden_act must be one of {', '.join(ACTIVATIONS)}, got {self.hidden_act!r}"
            )
        if self.problem_type not in (None, *PROBLEM_TYPES):
            raise ValueError(
                f"problem_type must be one of {', '.join(PROBLEM_TYPES)}, got {self.problem_type!r}"
            )

    @property
    def label2id(self) -> dict[str, int]:
        """Class indices by name."""
        return {name: index for index, name in self.id2label.items()}

    @property
    def feature_strides(self) -> tuple[int, ...]:
        """Pixels of the picture per cell of each feature map: (4, 8, 16, 32) by default."""
        return tuple(itertools.accumulate(self.strides, int.__mul__))

    def feature_sizes(self, height: int, width: int) -> tuple[tuple[int, int], ...]:
        """The (height, width) of each stage's feature map for a picture of the given size."""
        sizes = []
        for patch, stride in zip(self.patch_sizes, self.strides, strict=True):
            height, width = (
                (side + 2 * (patch // 2) - patch) // stride + 1 for side in (height, width)
            )
            sizes.append((height, width))
        return tuple(sizes)

    @property
    def minimum_size(self) -> int:
        """Smallest side, in pixels, for which every attention has a key: 29 by default."""
        return next(side for side in itertools.count(1) if self._fits(side))

    def _fits(self, side: int) -> bool:
        sizes = self.feature_sizes(side, side)
        return all(h >= ratio for (h, _), ratio in zip(sizes, self.sr_ratios, strict=True))

    def epsilon(self, place: str) -> float:
        """The epsilon of the LayerNorms in a place, as in `layer_norm_epsilons`."""
        return (self.layer_norm_epsilons or {}).get(place, EPSILON)

    def with_labels(
        self, *, num_labels: int | None = None, id2label: Mapping[int, str] | None = None
    ) -> "SegformerConfig":
        """A copy of the config with other classes, given by name or by number.

        If the number stays the same, so do the names, as in HF.
        """
        if id2label is None and num_labels == self.num_labels:
            return self
        return dataclasses.replace(self, num_labels=num_labels, id2label=id2label)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "SegformerConfig":
        """Reads the content of a config.json.

        Raises:
            ValueError: `model_type` names another architecture, or the values do not fit together.
        """
        values = dict(values)
        model_type = values.pop("model_type", "segformer")
        if model_type != "segformer":
            raise ValueError(
                f"model_type must be 'segformer', got {model_type!r}: give the config "
                "of a SegFormer"
            )
        values.pop("label2id", None)  # follows from id2label
        if values.get("id2label") is not None:
            values.pop("num_labels", None)  # in HF, id2label takes precedence
        known = {f.name for f in dataclasses.fields(cls)} - {"extra"}
        return cls(
            **{name: value for name, value in values.items() if name in known},
            extra={name: value for name, value in values.items() if name not in known},
        )

    def to_dict(self) -> dict[str, Any]:
        """The content of a config.json, which transformers and `from_dict` can read."""
        values: dict[str, Any] = {"model_type": "segformer"} | dict(self.extra)
        for f in dataclasses.fields(self):
            value = getattr(self, f.name)
            if f.name in ("extra", "num_labels") or (f.name in OPTIONAL and value == f.default):
                continue
            values[f.name] = list(value) if isinstance(value, tuple) else value
        values["id2label"] = {str(index): name for index, name in self.id2label.items()}
        values["label2id"] = self.label2id
        return dict(sorted(values.items()))

    def to_json_string(self) -> str:
        """Returns the text of a config.json."""
        return json_bytes(self.to_dict(), sort_keys=True).decode()

    def to_json_file(self, file) -> None:
        """Writes a config.json, under any name."""
        from segformer_jax.checkpoints.json_file import write_json

        write_json(self.to_dict(), file)

    @classmethod
    def from_json_file(cls, file) -> "SegformerConfig":
        """Reads a config.json, of any name."""
        from segformer_jax.checkpoints.json_file import read_json

        return cls.from_dict(read_json(file))

    @classmethod
    def from_pretrained(cls, name_or_path: str, **options) -> "SegformerConfig":
        """Reads config.json of a weights package, a folder, or a hub repository.

        `options` are fields to change, such as `id2label`, and `revision`, `token`, `cache_dir`,
        `local_files_only`, `subfolder`.
        """
        from segformer_jax.checkpoints import pretrained

        return pretrained.load_config(name_or_path, **options)

    def save_pretrained(self, folder) -> None:
        """Writes `folder`/config.json."""
        from segformer_jax.checkpoints import pretrained

        pretrained.save_config(self, folder)


PER_STAGE = (
    "depths",
    "sr_ratios",
    "hidden_sizes",
    "patch_sizes",
    "strides",
    "num_attention_heads",
    "mlp_ratios",
)
RATES = (
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "classifier_dropout_prob",
    "drop_path_rate",
)
OPTIONAL = (
    "problem_type",
    "output_hidden_states",
    "output_attentions",
    "image_size",
    "layer_norm_epsilons",
)
PLACES = ("patch_embeddings", "sequence_reduction", "blocks", "stages")  # of LayerNorms


def _names(id2label: Any) -> dict[int, str]:
    try:
        return {int(index): str(name) for index, name in id2label.items()}
    except (AttributeError, TypeError, ValueError):
        raise ValueError(
            "id2label must name each class by its index, as "
            f"{{0: 'road', 1: 'sky'}}, got {id2label!r}"
        ) from None


def _epsilons(given: Any) -> FrozenDict:
    named = isinstance(given, Mapping) and all(place in PLACES for place in given)
    if not named or not all(_is_number(value) and value > 0 for value in given.values()):
        raise ValueError(
            "layer_norm_epsilons must give positive numbers by the places "
            f"{', '.join(PLACES)}, got {given!r}"
        )
    return FrozenDict(given)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _positive(name: str, value: Any, *, integer: bool = True) -> None:
    kinds = int if integer else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds) or not value > 0:
        raise ValueError(
            f"{name} must be a positive {'integer' if integer else 'number'}, got {value!r}"
        )
