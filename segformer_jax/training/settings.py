"""All settings of a training run, shared by command line, JSON file and Python."""

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from segformer_jax.images.flips import Flip, check_directions
from segformer_jax.images.stretch import chosen_stretch
from segformer_jax.json_text import json_value

Format = Literal[
    "auto",
    "folder",
    "cvat",
    "roboflow",
    "coco",
    "labelme",
    "labelstudio",
    "yolo",
    "ade20k",
    "cityscapes",
    "voc",
    "huggingface",
]
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
MAX_CHANNELS = 16
VARIANTS = ("b0", "b1", "b2", "b3", "b4", "b5")


@dataclass(frozen=True)
class TrainSettings:
    """The settings of a training run. Those left at None are chosen from the data and printed.

    Args:
        data: the folder of pictures and masks, or several; their classes are matched by name.
        out: the folder of the run; calling again with the same folder resumes the run.
        model: a weights package, a folder or a name on the hub; b0 to b5 start at random.
        steps: number of optimizer steps of the whole run.
        batch_size: pictures per step, over all devices.
        crop: height and width of the training crops, in pixels.
        short_side: resize pictures to this short side before the random scale; by default the
            pictures' usual short side, at most 512.
        lr: the peak learning rate of the encoder.
        seed: seed of all random numbers.
        format: how the data is stored; "auto" detects it.
        reduce_zero_label: ignore label 0 and lower the others by one (ADE20K).
        range: the values of pictures with more than 8 bits that become 0 and 255; by default the
            range that the files record, else all of 16 bits.
        stretch: "percentile" stretches each band of each picture from its 2nd to its 98th
            percentile instead.
        num_channels: number of bands of the pictures, 1 to 16; by default chosen from the data, 3
            for all pictures in grey and colour.
        mask_suffix: what a mask's name has after its picture's, such as "_mask"; masks may then be
            beside their pictures.
        resize_masks: give masks of another size their picture's, by the nearest pixel, if the
            ratios of the sides agree.
        train_split: the split to train on; join several with "+", as in "train+val".
        val_split: the split to evaluate on.
        val_share: the share of the training pictures, drawn by `seed`, to evaluate on instead where
            there is no such split; by default 0.2 where no folder has one.
        data_weights: relative frequency of the samples from each folder of `data`; if empty, every
            picture is used once per epoch.
        scale: range of the random scale.
        cat_max_ratio: draw a crop again if one class covers this share of it or more; 1 for off.
        flip: probability of flipping a crop.
        flip_direction: directions of the flips, all equally likely: "horizontal" swaps left and
            right, "vertical" top and bottom, "diagonal" both.
        photometric: vary brightness, contrast, saturation and hue at random.
        device_colours: do so in the training step, on the device, where reading pictures limits the
            speed; a value may then differ by 1 of 255.
        jpeg_draft: decode a JPEG at 1/2, 1/4 or 1/8 of its size if it is scaled to that or less
            anyway; faster, but its pixels then differ a little from those of the whole picture.
        losses: the losses whose sum is minimised.
        loss_weights: a factor for each of `losses`; if empty, 1 for each.
        teacher: also learn from the logits of this SegFormer (given as for `model`), whose classes
            are matched by name, or, with "soft", of the files soft/NAME.npz beside the masks.
            Pictures then need no masks.
        teacher_weight: weight of the teacher's part of the loss, in (0, 1].
        temperature: divide the logits of teacher and student by this.
        class_weights: "none", "balanced" (rarer classes weigh more) or a JSON list of numbers.
        label_smoothing: label smoothing of the cross entropy, in [0, 1).
        denominator: divisor of the summed cross entropy, OHEM or focal loss: the class weights of
            the labelled pixels ("valid", as in HF and torch), the number of labelled pixels
            ("valid_pixels"), or of all pixels ("all", as in the paper).
        ohem_threshold: OHEM keeps pixels whose true class has a lower probability than this; with
            None it keeps the `ohem_min_kept` pixels per picture with the largest loss.
        ohem_min_kept: smallest number of pixels per picture that OHEM keeps; by default 1/16.
        focal_gamma: exponent of the focal loss; larger values weigh easy pixels less.
        dice_smooth: number added to numerator and denominator of the dice score.
        tversky_alpha: weight of false positive pixels in the Tversky loss.
        tversky_beta: weight of false negative pixels in the Tversky loss.
        tversky_gamma: exponent of the Tversky loss.
        tversky_smooth: number added to numerator and denominator of the Tversky index.
        jaccard_smooth: number added to numerator and denominator of the IoU.
        schedule: decay of the learning rate after the warm-up.
        warmup: number of steps of linear warm-up.
        head_factor: learning rate of the decode head ÷ `lr`; by default 10, or 1 from scratch.
        weight_decay: weight decay of AdamW; norms have none.
        layer_decay: learning rate of each block ÷ that of the next block.
        clip_norm: scale gradients down to this norm if theirs is larger.
        freeze: patterns of names of parameters that are not trained, such as "segformer.*".
        accumulate: split the batch of each step into this many parts, to save memory.
        ema: evaluate and save an average of the weights with this decay.
        lora_rank: rank of LoRA on the encoder, merged into its weights when saved; 0 is off.
        lora_alpha: LoRA's alpha ÷ its rank, the factor of the low-rank product.
        dtype: type of the matrix products; "auto" is bfloat16 on GPU and TPU, float32 on CPU.
            "float64", for comparisons, makes the parameters float64 too and needs `jax_enable_x64`.
        gradient_checkpointing: recompute activations in the backward pass, to save memory.
        fsdp: split parameters and optimizer state over the devices too.
        save_every: steps between two checkpoints, besides those at evaluations and at the end.
        checkpoint_seconds: also save a checkpoint, after a step, if the last one is older than this
            many seconds; None turns this off.
        eval_every: steps between two evaluations.
        eval_limit: number of pictures to evaluate on during the run; 0 is all.
        workers: number of processes that prepare pictures; 0 uses threads.
        skip_unreadable: leave out files that can't be read, with a warning, and replace a picture
            that turns out to be damaged by the next.
        log: also send metrics to these trackers, besides metrics.jsonl.
        coordinator: HOST:PORT of process 0; "auto" gets it from SLURM, a TPU pod,
            Kubernetes or MPI.
        num_processes: number of processes.
        process_id: index of this process.
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
    format: Format = "auto"
    reduce_zero_label: bool = False
    range: tuple[float, ...] = ()
    stretch: Literal["percentile"] | None = None
    num_channels: int | None = None
    mask_suffix: str = ""
    resize_masks: bool = False
    train_split: str = "train"
    val_split: str = "val"
    val_share: float | None = None
    data_weights: tuple[float, ...] = ()
    scale: tuple[float, float] = (0.5, 2.0)
    cat_max_ratio: float = 0.75
    flip: float = 0.5
    flip_direction: tuple[Flip, ...] = ("horizontal",)
    photometric: bool = True
    device_colours: bool = False
    jpeg_draft: bool = False
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
        chosen_stretch(self.range, self.stretch)
        _check(
            self,
            "num_channels",
            lambda value: value is None or 1 <= value <= MAX_CHANNELS,
            f"in 1…{MAX_CHANNELS}",
        )
        for name in whole:
            _check(self, name, lambda value: value is None or value >= 1, "at least 1")
        for name in ("warmup", "workers", "process_id"):
            _check(self, name, lambda value: value is None or value >= 0, "at least 0")
        for name in ("eval_limit", "lora_rank", "weight_decay", "seed", "focal_gamma"):
            _check(self, name, lambda value: value >= 0, "at least 0")
        for name in ("tversky_alpha", "tversky_beta", "tversky_smooth", "jaccard_smooth"):
            _check(self, name, lambda value: value >= 0, "at least 0")
        for name in ("accumulate", "lora_alpha", "layer_decay", "temperature", "dice_smooth"):
            _check(self, name, lambda value: value > 0, "above 0")
        _check(self, "tversky_gamma", lambda value: value > 0, "above 0")
        for name in ("lr", "head_factor", "clip_norm", "checkpoint_seconds"):
            _check(self, name, lambda value: value is None or value > 0, "above 0")
        _check(self, "flip", lambda value: 0 <= value <= 1, "in [0, 1]")
        _check(self, "label_smoothing", lambda value: 0 <= value < 1, "in [0, 1)")
        _check(self, "cat_max_ratio", lambda value: 0 < value <= 1, "in (0, 1], 1 for off")
        _check(
            self,
            "ohem_threshold",
            lambda value: value is None or 0 <= value <= 1,
            "in [0, 1], or None",
        )
        _check(self, "val_share", lambda value: value is None or 0 < value < 1, "in (0, 1)")
        _check(self, "teacher_weight", lambda value: 0 < value <= 1, "in (0, 1]")
        _check(self, "ema", lambda value: value is None or 0 <= value < 1, "in [0, 1)")
        _check(
            self,
            "crop",
            lambda value: value is None or min(value) >= 32,
            "sides of at least 32 pixels",
        )
        _check(self, "scale", lambda value: 0 < value[0] <= value[1], "0 < low ≤ high")
        _check(
            self,
            "data",
            lambda value: (
                isinstance(value, str) or ("" not in value and len({*value}) == len(value))
            ),
            "names of folders, each given once",
        )
        _check(
            self,
            "data_weights",
            lambda value: all(0 < w < math.inf for w in value),
            "numbers above 0",
        )
        check_directions(self.flip_direction)
        _check(
            self,
            "losses",
            lambda value: 0 < len(value) == len({*value}),
            "one or more losses, each named once",
        )
        if self.data and self.data_weights and len(self.data_weights) != len(self.sources):
            raise ValueError(
                "data_weights must hold one number for each data set of "
                f"{self.sources}, got {self.data_weights}"
            )
        if self.loss_weights and len(self.loss_weights) != len(self.losses):
            raise ValueError(
                f"loss_weights must hold one number for each of {self.losses}, got "
                f"{self.loss_weights}"
            )
        if self.device_colours and not self.photometric:
            raise ValueError(
                "device_colours must be false without photometric, which varies the colours, got "
                "true: leave one of the two out"
            )
        if "mcc" in self.losses and self.class_weights != "none":
            raise ValueError(
                f"class_weights must be none with the loss mcc, got {self.class_weights}: leave "
                "one of them out"
            )
        usual = TrainSettings.teacher_weight, TrainSettings.temperature
        if self.teacher is None and (self.teacher_weight, self.temperature) != usual:
            raise ValueError(
                "teacher_weight and temperature must be used with a teacher only, got "
                f"{self.teacher_weight} and {self.temperature}: name one with --teacher "
                "MODEL"
            )
        if self.batch_size is not None and self.batch_size % self.accumulate:
            raise ValueError(
                f"batch_size must be a multiple of accumulate, {self.accumulate}, got "
                f"{self.batch_size}"
            )

    @property
    def sources(self) -> tuple[str, ...]:
        """The folders of `data` as a tuple, also if it is only one."""
        return (self.data,) if isinstance(self.data, str) else self.data

    @classmethod
    def paper(cls, **changes: Any) -> "TrainSettings":
        """Returns the paper's recipe for ADE20K (section 4.1 and the released configurations)."""
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
        """Makes settings from a dict as `to_dict` returns, or from a part of one.

        Raises:
            ValueError: a setting does not exist, has the wrong type, or is out of range.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        unknown = sorted(values.keys() - known)
        if unknown:
            raise ValueError(
                f"there is no setting {', '.join(unknown)}: the settings are {_listed(known)}"
            )
        values = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
        _check_types(cls, values)
        return cls(**_with_floats(values))

    @classmethod
    def from_file(cls, name: str | Path) -> "TrainSettings":
        """Reads settings from a JSON file; the name "paper" gives the paper's recipe.

        Raises:
            ValueError: the file does not exist or holds no JSON object, or as `from_dict`.
        """
        if str(name) == "paper":
            return cls.paper()
        file = Path(name)
        if not file.is_file():
            raise ValueError(f'there is no file {file}: --config takes a JSON file, or "paper"')
        try:
            values = json_value(file.read_bytes())
        except ValueError as error:
            raise ValueError(f"{file} is not valid JSON: {error}") from error
        if not isinstance(values, dict):
            raise ValueError(f"{file} must hold a JSON object, got a {type(values).__name__}")
        return cls.from_dict(values.get("settings", values))  # a run's settings.json has more keys

    def to_dict(self) -> dict[str, Any]:
        """Returns all settings as a dict of values that JSON can represent."""
        return json.loads(json.dumps(dataclasses.asdict(self)))


@dataclass(frozen=True, kw_only=True)
class ChosenSettings(TrainSettings):
    """The settings of a run in which all that `TrainSettings` may leave open are chosen."""

    steps: int
    batch_size: int
    crop: tuple[int, int]
    short_side: int
    lr: float
    warmup: int
    head_factor: float
    eval_every: int
    workers: int
    num_channels: int = 3


# settings that may change when a run is resumed, because they do not affect the result
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
        raise ValueError(f"{name} must be {rule}, got {value!r}")


def _check_types(of: type[TrainSettings], values: Mapping[str, Any]) -> None:
    kinds = get_type_hints(of)
    for name, value in values.items():
        if not _fits(value, kinds[name]):
            raise ValueError(f"{name} must be {_described(kinds[name])}, got {value!r}")


def _fits(value: Any, kind: Any) -> bool:
    """Whether a value is of an annotated type; an int is accepted as a float."""
    parts = get_args(kind)
    if get_origin(kind) is Literal:
        return value in parts
    if get_origin(kind) in (Union, UnionType):
        return any(_fits(value, part) for part in parts)
    if get_origin(kind) is tuple:
        if not isinstance(value, tuple):
            return False
        kinds = parts[:1] * len(value) if parts[-1] is ... else parts
        return len(value) == len(kinds) and all(
            _fits(part, of) for part, of in zip(value, kinds, strict=True)
        )
    if isinstance(value, bool):  # a bool is also an int in Python
        return kind is bool
    return isinstance(value, int | float if kind is float else kind)


def _with_floats(values: Mapping[str, Any]) -> dict[str, Any]:
    """Converts ints to floats in settings of type float; JSON may write 1.0 as 1."""

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
    if get_origin(kind) in (Union, UnionType):
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
