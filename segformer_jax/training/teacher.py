"""The teacher of a run: a SegFormer that is given the same crops, or files of soft targets."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from segformer_jax import ops
from segformer_jax.checkpoints.pretrained import load_config, load_model
from segformer_jax.data.check import listed
from segformer_jax.data.dataset import Dataset
from segformer_jax.data.soft_targets import soft_classes
from segformer_jax.errors import ImageError
from segformer_jax.images.processor import SegformerImageProcessor
from segformer_jax.models import SegformerForSemanticSegmentation
from segformer_jax.training import sharding, state
from segformer_jax.training.distillation import SOFT, Distillation, Targets, shared_classes
from segformer_jax.training.progress import Teller
from segformer_jax.training.settings import ChosenSettings, TrainSettings
from segformer_jax.training.step import normalized


def teachers_classes(settings: TrainSettings) -> dict[int, str] | None:
    """Returns the teacher's class names in its own order; None if the run has no teacher.

    Raises:
        WeightsError: the teacher's model is not found.
        ValueError: there are no files of soft targets, or the first can't be used.
    """
    if settings.teacher is None:
        return None
    if settings.teacher != SOFT:
        return dict(load_config(settings.teacher).id2label)
    found = (min(Path(place).glob("**/soft/*.npz"), default=None) for place in settings.sources)
    file = next(filter(None, found), None)
    if file is None:
        raise ValueError(
            f'teacher is "soft", and {" and ".join(settings.sources)} has no soft/NAME.npz beside '
            "its masks: write them, or name a model as teacher"
        )
    return dict(enumerate(_file_classes([file])))


def check_teacher(settings: TrainSettings, data: Dataset, *, teller: Teller) -> tuple[str, ...]:
    """Checks the teacher's classes, and reports what is learned from it and from which pictures.

    Args:
        settings: of the run.
        data: the pictures to train on.
        teller: receives the messages.

    Returns:
        The classes of the teacher's files that are learned; empty if the teacher is a model.

    Raises:
        ValueError: the teacher has too few of the data's classes, or soft targets can't be used.
    """
    files = [file for file in data.soft if file is not None]
    if settings.teacher != SOFT and files:
        teller.say(f"{len(files):,} soft targets are not used: add --teacher {SOFT} to use them")
    if settings.teacher is None:
        return ()
    if settings.teacher == SOFT:
        taught: tuple[str, ...] = _file_classes(files)
        if len(files) < len(data):
            teller.say(f"{len(data) - len(files):,} of {len(data):,} pictures have no soft targets")
    else:
        taught = tuple(load_config(settings.teacher).id2label.values())
    _, names, lines = shared_classes(data.id2label, taught)
    alone = sum(not data.has_mask(index) for index in range(len(data)))
    if alone:
        lines.append(f"{alone:,} of {len(data):,} pictures have no mask: learned from the teacher")
    for line in lines:
        teller.say(line)
    return names if settings.teacher == SOFT else ()


def distillation(
    settings: ChosenSettings, id2label: Mapping[int, str], *, soft: tuple[str, ...], mesh: Mesh
) -> Distillation | None:
    """Builds how a run learns from its teacher; None if it has no teacher.

    Args:
        settings: of the run, with a value for every setting.
        id2label: the student's classes.
        soft: the names that `check_teacher` returned.
        mesh: the devices; each gets a copy of the teacher's parameters.

    Raises:
        WeightsError: as `from_pretrained`, or the teacher is not a segmentation model.
        ValueError: the teacher has too few of the student's classes, or does not have three input
            channels.
    """
    if settings.teacher is None:
        return None
    if settings.teacher == SOFT:
        classes, _, _ = shared_classes(id2label, soft)
        return Distillation(settings.teacher_weight, settings.temperature, classes, _of_files)
    dtype = jnp.dtype(settings.dtype)
    model = load_model(
        SegformerForSemanticSegmentation,
        settings.teacher,
        dtype=dtype,
        param_dtype=ops.at_least_float32(dtype),
        may_start=False,
    )
    if model.config.num_channels != settings.num_channels:
        raise ValueError(
            f"the teacher {settings.teacher} must have {settings.num_channels} input channels, as "
            f"many as are read of the pictures, got {model.config.num_channels}"
        )
    taught = tuple(model.config.id2label.values())
    classes, names, _ = shared_classes(id2label, taught)
    channels = tuple(taught.index(name) for name in names)
    processor = SegformerImageProcessor.from_pretrained(settings.teacher)
    skeleton, params, stats = state.split(model)

    def targets(batch: Mapping[str, Any], values: Mapping[str, Any]) -> Targets:
        pixels = normalized(batch["image"], processor, ops.at_least_float32(dtype))
        logits = jax.lax.stop_gradient(skeleton.model(values)(pixels).logits)
        if channels != tuple(range(logits.shape[-1])):
            logits = logits[..., jnp.array(channels)]
        return logits, jnp.ones(logits.shape[:-1], bool)

    everywhere = NamedSharding(mesh, PartitionSpec())
    values = params | stats
    values = sharding.place(values, dict.fromkeys(values, everywhere))
    return Distillation(settings.teacher_weight, settings.temperature, classes, targets, values)


def _of_files(batch: Mapping[str, Any], values: Mapping[str, Any]) -> Targets:
    del values
    return batch["soft"], batch["taught"]


def _file_classes(files: list[Path]) -> tuple[str, ...]:
    """Returns the classes of the files, which must be the same in all, in any order.

    Raises:
        ValueError: there are no files, or some can't be used or have other classes than the first;
            the message has a line for each (the first 20).
    """
    problems: list[str] = []
    first: tuple[str, ...] = ()
    for file in files:
        try:
            names = soft_classes(file)
        except ImageError as error:
            problems.append(str(error))
            continue
        first = first or names
        if set(names) != set(first):
            problems.append(f"{file} has other classes ({', '.join(names)}) than the first")
    if not files:
        problems.append("no picture has any")
    if problems:
        raise ValueError(listed(problems, of="the soft targets"))
    return first
