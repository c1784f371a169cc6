"""Chooses the settings that a run leaves open, from its pictures and its device."""

import json
import math
from typing import Any

import numpy as np

from segformer_jax.data.check import Survey
from segformer_jax.training.settings import VARIANTS, ChosenSettings, TrainSettings

EPOCHS = 40  # of a run whose number of steps is left open
PAPERS_RATE, PAPERS_STEPS = 6e-5, 160_000  # of the encoder, from ImageNet's weights
HIGHEST_RATE = 6e-4  # of shorter runs, and from scratch
SMALLEST = 32  # what the network takes, rounded up
SIDES = {"cpu": 256}  # of the crop; 512 elsewhere, as in the paper
STEPS = {"cpu": (300, 4_000)}  # the fewest and the most
PICTURES = {"cpu": 8}  # per step, 16 elsewhere


def choose(
    settings: TrainSettings, survey: Survey, *, platform: str, devices: int
) -> tuple[ChosenSettings, list[str]]:
    """The settings with nothing left open, and a line for each choice that was made.

    Args:
        settings: what the user asked for.
        survey: of the pictures that are trained on.
        platform: "cpu", "gpu" or "tpu".
        devices: how many there are, over all processes.

    Raises:
        ValueError: a batch that the devices do not divide.
    """
    scratch = settings.model in VARIANTS
    short = int(np.median([min(size) for size in survey.sizes]))
    wanted = max(512, *settings.crop) if settings.crop else 512  # else a crop would be padding
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
    open_ = [name for name in chosen if getattr(settings, name) in (None, "auto")]
    whole = ChosenSettings(**(vars(settings) | {name: chosen[name] for name in open_}))
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
    """The paper's learning rate, higher in a shorter run by the root of their ratio."""
    rate = PAPERS_RATE * math.sqrt(PAPERS_STEPS / steps)
    return float(f"{min(max(rate, PAPERS_RATE), HIGHEST_RATE):.2g}")


def processor_size(survey: Survey, short_side: int) -> dict[str, int]:
    """The size that pictures are given when the model is used.

    It has the short side that was trained on, and their median aspect ratio.
    """
    sizes = np.array(survey.sizes)
    ratio = float(np.median(sizes[:, 1] / sizes[:, 0]))
    height, width = (
        (short_side, short_side * ratio) if ratio >= 1 else (short_side / ratio, short_side)
    )
    return {"height": round(height), "width": round(width)}


def class_weights(choice: str, survey: Survey) -> tuple[float, ...] | None:
    """The weight of each class in the loss.

    Args:
        choice: "none"; "balanced", the square root of the median share of a class ÷ its own, 1/4
            to 4; or a JSON list of numbers.
        survey: of the pictures that are trained on.

    Raises:
        ValueError: neither of these, or another number of weights than of classes.
    """
    if choice == "none":
        return None
    pixels = np.array(survey.class_pixels, np.float64)
    if choice == "balanced":
        there = pixels > 0
        if not there.any():  # all is learned from a teacher
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
    """The numbers of a JSON list; none where it is anything else."""
    try:
        values = json.loads(text)
        numbers = tuple(float(value) for value in values)
    except (ValueError, TypeError):
        return ()
    return numbers if all(number >= 0 for number in numbers) else ()


def _told(value: Any) -> str:
    return "×".join(map(str, value)) if isinstance(value, tuple) else str(value)
