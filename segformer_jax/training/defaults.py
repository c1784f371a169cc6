"""Chooses the settings that the user leaves open, from the pictures and the device."""

import math
from typing import Any

import numpy as np

from segformer_jax.data.check import Survey
from segformer_jax.json_text import json_value
from segformer_jax.training.settings import VARIANTS, ChosenSettings, TrainSettings

EPOCHS = 40  # if the number of steps is left open
PAPERS_RATE, PAPERS_STEPS = 6e-5, 160_000  # the encoder's, from ImageNet's weights
HIGHEST_RATE = 6e-4  # for short runs, and from scratch
SMALLEST = 32  # pixels; the network's smallest input, rounded up
SIDES = {"cpu": 256}  # the crop's largest side; 512 elsewhere, as in the paper
STEPS = {"cpu": (300, 4_000)}  # the fewest and the most; 1,000 and 40,000 elsewhere
PICTURES = {"cpu": 8}  # per step, 16 elsewhere


def choose(
    settings: TrainSettings, survey: Survey, *, platform: str, devices: int
) -> tuple[ChosenSettings, list[str]]:
    """Returns the settings with every value chosen, and a line for each choice that was made.

    Args:
        settings: as the user gave them.
        survey: of the pictures to train on.
        platform: "cpu", "gpu" or "tpu".
        devices: number of devices of all processes.

    Raises:
        ValueError: the batch size is not a multiple of devices × accumulated parts.
    """
    scratch = settings.model in VARIANTS
    short = int(np.median([min(size) for size in survey.sizes]))
    wanted = max(512, *settings.crop) if settings.crop else 512  # less would pad the crops
    short_side = settings.short_side or min(max(short, SMALLEST), wanted)
    side = min(SIDES.get(platform, 512), 32 * math.ceil(short_side / 32))
    parts = devices * settings.accumulate
    batch = settings.batch_size or parts * math.ceil(PICTURES.get(platform, 16) / parts)
    fewest, most = STEPS.get(platform, (1_000, 40_000))
    epochs = EPOCHS * math.ceil(len(survey.sizes) / batch)
    steps = settings.steps or min(max(epochs, fewest), most)
    chosen: dict[str, Any] = {
        "batch_size": batch,
        "crop": (max(side, 64), max(side, 64)),
        "short_side": short_side,
        "steps": steps,
        "warmup": min(1500, steps // 10),
        "lr": HIGHEST_RATE if scratch else _rate(steps),
        "head_factor": 1.0 if scratch else 10.0,
        "eval_every": max(math.ceil(steps / 10), min(100, steps)),
        "workers": 0,
    }
    if settings.dtype == "auto":
        chosen["dtype"] = "float32" if platform == "cpu" else "bfloat16"
    given = vars(settings) | {"num_channels": settings.num_channels or 3}
    open_ = [name for name in chosen if getattr(settings, name) in (None, "auto")]
    whole = ChosenSettings(**(given | {name: chosen[name] for name in open_}))
    check_batch(whole, devices=devices)
    return whole, [f"{name} {_told(chosen[name])}" for name in open_]


def check_batch(settings: TrainSettings, *, devices: int) -> None:
    """Raises a ValueError if the batch size is not a multiple of devices × accumulated parts."""
    parts = devices * settings.accumulate
    if settings.batch_size is not None and settings.batch_size % parts:
        raise ValueError(
            f"batch_size must be a multiple of {parts}, for {devices} devices and "
            f"{settings.accumulate} part{'s' * (settings.accumulate > 1)} "
            f"(accumulate), got {settings.batch_size}"
        )


def _rate(steps: int) -> float:
    """Returns the paper's learning rate times √(its steps ÷ `steps`), up to `HIGHEST_RATE`."""
    rate = PAPERS_RATE * math.sqrt(PAPERS_STEPS / steps)
    return float(f"{min(max(rate, PAPERS_RATE), HIGHEST_RATE):.2g}")


def processor_size(survey: Survey, short_side: int) -> dict[str, int]:
    """Returns the size to which pictures are resized when the model is used.

    It has the short side of the training, and the pictures' median aspect ratio.
    """
    sizes = np.array(survey.sizes)
    ratio = float(np.median(sizes[:, 1] / sizes[:, 0]))
    height, width = (
        (short_side, short_side * ratio) if ratio >= 1 else (short_side / ratio, short_side)
    )
    return {"height": round(height), "width": round(width)}


def class_weights(choice: str, survey: Survey) -> tuple[float, ...] | None:
    """Returns the weight of each class in the loss; None if all weigh the same.

    Args:
        choice: "none"; "balanced", which is √(the median of the classes' pixels ÷ the class's own
            pixels), in [1/4, 4]; or a JSON list of numbers.
        survey: of the pictures to train on.

    Raises:
        ValueError: `choice` is none of these, or does not have one weight for each class.
    """
    if choice == "none":
        return None
    pixels = np.array(survey.class_pixels, np.float64)
    if choice == "balanced":
        there = pixels > 0
        if not there.any():  # no masks: everything is learned from a teacher
            return None
        median = np.median(pixels[there])
        weights = np.sqrt(median / np.where(there, pixels, median))
        return tuple(np.clip(weights, 0.25, 4).round(3).tolist())
    weights = _numbers(choice)
    if len(weights) != len(pixels):
        raise ValueError(
            f"class_weights must be none, balanced, or a JSON list of {len(pixels)} "
            f"numbers of 0 or more, got {choice!r}"
        )
    return weights


def _numbers(text: str) -> tuple[float, ...]:
    """Returns the numbers of a JSON list; empty unless the text is a list of numbers ≥ 0."""
    try:
        values = json_value(text)
        numbers = tuple(float(value) for value in values)
    except (ValueError, TypeError):
        return ()
    return numbers if all(number >= 0 for number in numbers) else ()


def _told(value: Any) -> str:
    return "×".join(map(str, value)) if isinstance(value, tuple) else str(value)
