"""Every setting of a training run in one frozen value: command line, JSON file and Python alike."""

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from segformer_jax.images.flips import Flip, check_directions

Layout = Literal["auto", "folder", "ade20k", "cityscapes", "voc", "huggingface"]
Loss = Literal[
    "cross_entropy",
    "ohem",
    "focal",
    "dice",
    "tversky",
    "jaccard",
    "mcc",
    "lovasz",
    "lovasz_per_image",
]
Schedule = Literal["poly", "cosine"]
Dtype = Literal["auto", "float32", "bfloat16", "float64"]
Tracker = Literal["tensorboard", "trackio"]
Settings = TypeVar("Settings", bound="TrainSettings")
VARIANTS = ("b0", "b1", "b2", "b3", "b4", "b5")


@dataclass(frozen=True)
class TrainSettings:
    """A training run. What is left at None is chosen for the data, and said.

    Args:
        data: the folder of pictures and masks, or several; their classes are matched by name.
        out: the run's folder; a second call with the same one goes on where the first stopped.
        model: a weights package, a folder, a hub name, or a variant, b0 to b5, from scratch.
        steps: optimizer steps of the whole run.
        batch_size: pictures per step, over all devices.
        crop: height and width of what the network sees, in pixels.
        short_side: pictures are resized to this short side before the random scale; left open, to
            the usual one of the pictures, or 512 where that is smaller.
        lr: the peak learning rate of the encoder.
        seed: of everything random.
        layout: how the data lies; recognised when "auto".
        reduce_zero_label: label 0 is ignored, and the others move down by one (ADE20K).
        train_split: the split that is trained on; several, joined by "+", as in "train+val".
        val_split: the split that is evaluated on.
        data_weights: how often each folder of `data` is drawn from, as parts of their sum; when
            empty, every picture comes once an epoch.
        scale: the range of the random scale.
        cat_max_ratio: a crop of which one class takes more than this is drawn again.
        flip: the probability of flipping.
        flip_direction: in which directions, each as often: "horizontal" swaps left and right,
            "vertical" top and bottom, "diagonal" both.
        photometric: random brightness, contrast, saturation and hue.
        losses: what is minimised, their sum.
        loss_weights: a weight for each of `losses`; 1 for each when empty.
        teacher: learn from its logits too: any SegFormer, as `model`, whose classes are matched by
            name; or "soft" for the files soft/NAME.npz beside the masks. Pictures may lack masks.
        teacher_weight: the teacher's share of the loss, above 0, at most 1.
        temperature: the teacher's and the student's logits are divided by it.
        class_weights: "none", "balanced" (rarer classes weigh more) or a JSON list of numbers.
        label_smoothing: of the cross entropy, 0 to 1.
        denominator: what the summed cross entropy, OHEM or focal loss is divided by: the class
            weights of the labelled pixels ("valid", as in HF and torch), the number of these
            ("valid_pixels"), or of all pixels ("all", as in the paper).
        ohem_threshold: OHEM keeps pixels whose true class has a lower probability than this; None
            keeps the `ohem_min_kept` pixels per picture of the largest loss.
        ohem_min_kept: the least number of pixels per picture that OHEM keeps; None is a sixteenth.
        focal_gamma: how strongly easy pixels count less in the focal loss.
        dice_smooth: pixels that are added to both sides of dice's fraction.
        tversky_alpha: what a pixel counts in the Tversky loss that is wrongly given to a class.
        tversky_beta: what a pixel of a class counts there that is missed.
        tversky_gamma: the power of the Tversky loss.
        tversky_smooth: pixels that are added to both sides of Tversky's fraction.
        jaccard_smooth: pixels that are added to both sides of Jaccard's fraction.
        schedule: of the learning rate after the warm-up.
        warmup: steps of linear warm-up.
        head_factor: the decode head's learning rate, in units of `lr`; 10, or 1 from scratch.
        weight_decay: of AdamW; norms have none.
        layer_decay: each block's learning rate is this times the next one's.
        clip_norm: gradients are scaled down to this norm.
        freeze: patterns of parameter names that stay as they are, such as "segformer.*".
        accumulate: each step goes through its batch in this many parts.
        ema: the decay of the average of the weights that is evaluated and kept.
        lora_rank: train low-rank changes of the encoder alone, merged into it at the end; 0 is off.
        lora_alpha: their scale, in units of the rank.
        dtype: of the matrix products; "auto" is bfloat16 on GPU and TPU, float32 on CPU. "float64"
            is for comparisons, keeps the parameters in it too, and needs `jax_enable_x64`.
        gradient_checkpointing: less memory, more time.
        fsdp: parameters and optimizer are split over the devices too.
        save_every: steps between two checkpoints, beside those at evaluations and at the end.
        checkpoint_seconds: a checkpoint is also due when the last one is older than this; None
            leaves these out. A step that takes long is finished first.
        eval_every: steps between two evaluations.
        eval_limit: evaluate on the first so many pictures during the run; 0 is all.
        workers: processes that prepare pictures; 0 leaves it to threads.
        skip_unreadable: a picture that can't be read is replaced by the next, with a warning.
        log: where metrics go besides metrics.jsonl.
        coordinator: HOST:PORT of process 0 of several; "auto" asks SLURM, a TPU pod or MPI.
        num_processes: how many processes there are.
        process_id: which of them this one is.
    """

    data: str | tuple[str, ...] = ""
    out: str = ""
    model: str = "scene-b0"
    steps: int | None = None
    batch_size: int | None = None
    crop: tuple[int, int] | None = None
    short_side: int | None = None
    lr: float | None = None
    seed: int = 0
    layout: Layout = "auto"
    reduce_zero_label: bool = False
    train_split: str = "train"
    val_split: str = "val"
    data_weights: tuple[float, ...] = ()
    scale: tuple[float, float] = (0.5, 2.0)
    cat_max_ratio: float = 0.75
    flip: float = 0.5
    flip_direction: tuple[Flip, ...] = ("horizontal",)
    photometric: bool = True
    losses: tuple[Loss, ...] = ("cross_entropy",)
    loss_weights: tuple[float, ...] = ()
    teacher: str | None = None
    teacher_weight: float = 0.5
    temperature: float = 2.0
    class_weights: str = "none"
    label_smoothing: float = 0.0
    denominator: Literal["valid", "valid_pixels", "all"] = "valid"
    ohem_threshold: float | None = 0.7
    ohem_min_kept: int | None = None
    focal_gamma: float = 2.0
    dice_smooth: float = 1.0
    tversky_alpha: float = 0.5
    tversky_beta: float = 0.5
    tversky_gamma: float = 1.0
    tversky_smooth: float = 0.0
    jaccard_smooth: float = 0.0
    schedule: Schedule = "poly"
    warmup: int | None = None
    head_factor: float | None = None
    weight_decay: float = 0.01
    layer_decay: float = 1.0
    clip_norm: float | None = None
    freeze: tuple[str, ...] = ()
    accumulate: int = 1
    ema: float | None = None
    lora_rank: int = 0
    lora_alpha: float = 1.0
    dtype: Dtype = "auto"
    gradient_checkpointing: bool = False
    fsdp: bool = False
    save_every: int | None = None
    checkpoint_seconds: float | None = 50.0
    eval_every: int | None = None
    eval_limit: int = 0
    workers: int | None = None
    skip_unreadable: bool = False
    log: tuple[Tracker, ...] = ()
    coordinator: str | None = None
    num_processes: int | None = None
    process_id: int | None = None

    def __post_init__(self):
        _check_types(type(self), dataclasses.asdict(self))
        whole = ("steps", "batch_size", "short_side", "ohem_min_kept", "save_every", "eval_every")
        for name in whole:
            _check(self, name, lambda value: value is None or value >= 1, "it is at least 1")
        for name in ("warmup", "workers", "process_id"):
            _check(self, name, lambda value: value is None or value >= 0, "it is at least 0")
        for name in ("eval_limit", "lora_rank", "weight_decay", "seed", "focal_gamma"):
            _check(self, name, lambda value: value >= 0, "it is at least 0")
        for name in ("tversky_alpha", "tversky_beta", "tversky_smooth", "jaccard_smooth"):
            _check(self, name, lambda value: value >= 0, "it is at least 0")
        for name in ("accumulate", "lora_alpha", "layer_decay", "temperature", "dice_smooth"):
            _check(self, name, lambda value: value > 0, "it is above 0")
        _check(self, "tversky_gamma", lambda value: value > 0, "it is above 0")
        for name in ("lr", "head_factor", "clip_norm", "checkpoint_seconds"):
            _check(self, name, lambda value: value is None or value > 0, "it is above 0")
        for name in ("flip", "label_smoothing", "cat_max_ratio"):
            _check(self, name, lambda value: 0 <= value <= 1, "it lies in 0…1")
        _check(
            self,
            "ohem_threshold",
            lambda value: value is None or 0 <= value <= 1,
            "it lies in 0…1, or is None",
        )
        _check(self, "teacher_weight", lambda value: 0 < value <= 1, "it lies in (0, 1]")
        _check(self, "ema", lambda value: value is None or 0 <= value < 1, "it lies in [0, 1)")
        _check(self, "crop", lambda value: value is None or min(value) >= 32, "sides are ≥ 32")
        _check(self, "scale", lambda value: 0 < value[0] <= value[1], "it is 0 < low ≤ high")
        _check(
            self,
            "data",
            lambda value: (
                isinstance(value, str) or ("" not in value and len({*value}) == len(value))
            ),
            "each folder has a name, and is given once",
        )
        _check(
            self,
            "data_weights",
            lambda value: all(0 < w < math.inf for w in value),
            "each is above 0",
        )
        check_directions(self.flip_direction)
        _check(self, "losses", lambda value: 0 < len(value) == len({*value}), "each is named once")
        if self.data and self.data_weights and len(self.data_weights) != len(self.sources):
            raise ValueError(
                f"data_weights are {self.data_weights}; give one for each of {self.sources}"
            )
        if self.loss_weights and len(self.loss_weights) != len(self.losses):
            raise ValueError(
                f"loss_weights are {self.loss_weights}; give one for each of {self.losses}"
            )
        if "mcc" in self.losses and self.class_weights != "none":
            raise ValueError(
                f"class_weights must be none with the loss mcc, got {self.class_weights}: leave "
                "one of them out"
            )
        usual = TrainSettings.teacher_weight, TrainSettings.temperature
        if self.teacher is None and (self.teacher_weight, self.temperature) != usual:
            raise ValueError(
                f"teacher_weight is {self.teacher_weight} and temperature {self.temperature}, but "
                "there is no teacher: name one, --teacher MODEL"
            )
        if self.batch_size is not None and self.batch_size % self.accumulate:
            raise ValueError(
                f"batch_size is {self.batch_size}, which {self.accumulate} parts (accumulate) do "
                "not divide"
            )

    @property
    def sources(self) -> tuple[str, ...]:
        """The folders of `data`, whether it is one or several."""
        return (self.data,) if isinstance(self.data, str) else self.data

    @classmethod
    def paper(cls, **changes: Any) -> "TrainSettings":
        """The recipe of the paper on ADE20K (section 4.1 and its released configurations)."""
        recipe: dict[str, Any] = dict(
            model="nvidia/mit-b0",
            steps=160_000,
            batch_size=16,
            crop=(512, 512),
            short_side=512,
            lr=6e-5,
            warmup=1500,
            head_factor=10.0,
            denominator="all",
            eval_every=16_000,
        )
        return cls(**(recipe | changes))

    @classmethod
    def from_dict(cls: type[Settings], values: Mapping[str, Any]) -> Settings:
        """From what `to_dict` gives, or a part of it.

        Raises:
            ValueError: a setting that does not exist, of another type, or out of range.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        unknown = sorted(values.keys() - known)
        if unknown:
            raise ValueError(f"there is no setting {', '.join(unknown)}; there is {_listed(known)}")
        values = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
        _check_types(cls, values)
        return cls(**_with_floats(values))

    @classmethod
    def from_file(cls, name: str | Path) -> "TrainSettings":
        """From a JSON file, or the name of a recipe: "paper".

        Raises:
            ValueError: no such file, no JSON object, or as `from_dict`.
        """
        if str(name) == "paper":
            return cls.paper()
        file = Path(name)
        if not file.is_file():
            raise ValueError(f'there is no file {file}: --config takes a JSON file, or "paper"')
        try:
            values = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{file} is not JSON: {error}") from error
        if not isinstance(values, dict):
            raise ValueError(f"{file} holds a {type(values).__name__}; it is a JSON object")
        return cls.from_dict(values.get("settings", values))  # a run's settings.json holds more

    def to_dict(self) -> dict[str, Any]:
        """All settings, ready for JSON."""
        return json.loads(json.dumps(dataclasses.asdict(self)))


@dataclass(frozen=True, kw_only=True)
class ChosenSettings(TrainSettings):
    """The settings of a run with a value for each that `TrainSettings` may leave open."""

    steps: int
    batch_size: int
    crop: tuple[int, int]
    short_side: int
    lr: float
    warmup: int
    head_factor: float
    eval_every: int
    workers: int


# what may change when a run is resumed, for it changes nothing of the result
MAY_CHANGE = (
    "data",
    "out",
    "save_every",
    "checkpoint_seconds",
    "workers",
    "skip_unreadable",
    "log",
    "fsdp",
    "coordinator",
    "num_processes",
    "process_id",
)


def _check(settings: TrainSettings, name: str, holds: Any, rule: str) -> None:
    value = getattr(settings, name)
    if not holds(value):
        raise ValueError(f"{name} is {value!r}; {rule}")


def _check_types(of: type[TrainSettings], values: Mapping[str, Any]) -> None:
    kinds = get_type_hints(of)
    for name, value in values.items():
        if not _fits(value, kinds[name]):
            raise ValueError(f"{name} is {value!r}; it is {_described(kinds[name])}")


def _fits(value: Any, kind: Any) -> bool:
    """Whether a value is of an annotated type; a whole number goes for a number."""
    parts = get_args(kind)
    if get_origin(kind) is Literal:
        return value in parts
    if get_origin(kind) is UnionType:
        return any(_fits(value, part) for part in parts)
    if get_origin(kind) is tuple:
        if not isinstance(value, tuple):
            return False
        kinds = parts[:1] * len(value) if parts[-1] is ... else parts
        return len(value) == len(kinds) and all(
            _fits(part, of) for part, of in zip(value, kinds, strict=True)
        )
    if isinstance(value, bool):  # which is an int to Python
        return kind is bool
    return isinstance(value, int | float if kind is float else kind)


def _with_floats(values: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers that JSON writes without a point, where one belongs."""

    def converted(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(map(converted, value))
        return float(value) if isinstance(value, int) else value

    kinds = get_type_hints(TrainSettings)
    return {
        name: converted(value) if "float" in str(kinds[name]) else value
        for name, value in values.items()
    }


def _described(kind: Any) -> str:
    parts = get_args(kind)
    if get_origin(kind) is Literal:
        return ", ".join(parts[:-1]) + f" or {parts[-1]}" if parts[1:] else str(parts[0])
    if get_origin(kind) is UnionType:
        return " or ".join(_described(part) for part in parts)
    if get_origin(kind) is tuple:
        return (
            f"a list, each {_described(parts[0])}"
            if parts[-1] is ...
            else f"a list of {len(parts)}, each {_described(parts[0])}"
        )
    return KINDS[kind]


KINDS = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a text",
    NoneType: "null",
}


def _listed(names: set[str]) -> str:
    return ", ".join(sorted(names))
