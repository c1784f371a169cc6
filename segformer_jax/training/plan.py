"""Prepares a run before its first step: opens and checks the data, chooses open settings."""

import importlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import jax
import numpy as np
from flax import nnx

from segformer_jax.data.augment import PADDING, Augmentation
from segformer_jax.data.bands import band_statistics, data_channels
from segformer_jax.data.dataset import Dataset
from segformer_jax.data.order import Share
from segformer_jax.images.processor import SegformerImageProcessor
from segformer_jax.models.contract import matmul_dtype
from segformer_jax.training import sharding
from segformer_jax.training.checkpointing import whole_checkpoints
from segformer_jax.training.defaults import check_batch, choose
from segformer_jax.training.model import (
    described,
    kept_apart,
    reader_of,
    run_processor,
    run_stretch,
)
from segformer_jax.training.progress import Teller
from segformer_jax.training.record import Record, read_record, resumed
from segformer_jax.training.settings import Dtype, TrainSettings
from segformer_jax.training.sources import open_run_data
from segformer_jax.training.teacher import check_teacher, teachers_classes

RECORD, CHECKPOINTS = "settings.json", "checkpoints"


@dataclass(frozen=True)
class Plan:
    """A prepared run, in which every setting has a value.

    Attributes:
        record: the settings, and the data's properties that they were chosen for.
        data: the pictures to train on.
        validation: the pictures to evaluate on.
        shares: relative frequency of each of several data sets, if they have weights.
        given: the model to train, if it is not the one named in the settings.
    """

    record: Record
    data: Dataset
    validation: Dataset
    shares: tuple[Share, ...] = ()
    given: nnx.Module | None = None

    @property
    def augmentation(self) -> Augmentation:
        """The augmentation of the training pictures."""
        settings = self.record.chosen
        return Augmentation(
            crop=settings.crop,
            short_side=settings.short_side,
            scale=settings.scale,
            cat_max_ratio=settings.cat_max_ratio,
            flip=settings.flip,
            flip_direction=settings.flip_direction,
            photometric=settings.photometric,
            device_colours=settings.device_colours,
            jpeg_draft=settings.jpeg_draft,
            padding=self._padding(),
        )

    def _padding(self) -> tuple[int, ...]:
        """The mean of pictures that are not RGB, which is about 0 once they are normalised."""
        if self.record.chosen.num_channels == 3:
            return PADDING
        mean = np.broadcast_to(
            run_processor(self.record).image_mean, self.record.chosen.num_channels
        )
        return tuple(np.rint(255 * mean).astype(int).tolist())


def prepare(
    settings: TrainSettings, *, model: nnx.Module | None = None, teller: Teller | None = None
) -> Plan:
    """Opens the data of a run; for a new run, also checks it and chooses the open settings.

    Until a run has its first checkpoint, its folder can be used with other settings.

    Args:
        settings: of the run.
        model: the model to train instead of the one named in the settings.
        teller: progress callbacks.

    Raises:
        ValueError: as `train`.
    """
    check_given(settings)
    given = None if model is None else check_model(settings, model)
    before, chosen = None, None
    folder = Path(settings.out)
    if whole_checkpoints(folder / CHECKPOINTS):
        before = read_record(folder / RECORD)
    if before is not None:
        chosen = resumed(before, settings, given=given)
    sharding.join_processes(settings.coordinator, settings.num_processes, settings.process_id)
    if teller is None or jax.process_index() > 0:  # only process 0 reports
        teller = Teller()
    opened = open_run_data(
        chosen or settings,
        teacher=teachers_classes(settings),
        read=reader_of(settings, model),
        recorded=None if before is None else len(before.survey.sizes),
    )
    data, validation, shares = opened.training, opened.validation, opened.shares
    if before is not None and chosen is not None:
        _check_same(before, data, opened.parts)
        check_batch(chosen, devices=jax.device_count())
        record = replace(before, chosen=chosen)
        data = replace(data, read=run_processor(record).read)
        return Plan(record, data, validation, shares, model)
    soft = check_teacher(settings, data, teller=teller)
    for note in opened.notes:
        teller.say(note)
    survey = opened.check(progress=teller.checking)
    channels = settings.num_channels or data_channels([data, validation])
    if channels != 3:
        plain = SegformerImageProcessor(
            do_convert_rgb=False, image_mean=(0,) * channels, stretch=run_stretch(settings, model)
        )
        mean, std = band_statistics(replace(data, read=plain.read))
        survey = replace(survey, image_mean=mean, image_std=std)
    asked = replace(settings, num_channels=channels, val_share=opened.val_share)
    chosen, lines = choose(
        asked if model is None else replace(asked, dtype=_dtype(model)),
        survey,
        platform=jax.devices()[0].platform,
        devices=jax.device_count(),
    )
    teller.say(
        f"{len(data):,} pictures to train on, {len(validation):,} to evaluate on, "
        f"{len(data.id2label)} classes: {', '.join(data.id2label.values())}"
    )
    if channels != 3:
        lines.append(f"num_channels {channels}")
    if lines:
        teller.say(f"chosen: {', '.join(lines)}")
    if model is not None and (note := kept_apart(model)):
        teller.say(note)
    record = Record(settings, chosen, survey, dict(data.id2label), soft, given)
    data = replace(data, read=run_processor(record).read)
    return Plan(record, data, validation, shares, model)


def check_given(settings: TrainSettings) -> None:
    """Raises a ValueError if the data or the run's folder is not given."""
    for name in ("data", "out"):
        if not getattr(settings, name):
            raise ValueError(f"no {name} given: write segformer-jax train --data FOLDER --out RUN")


def check_model(settings: TrainSettings, model: nnx.Module) -> str:
    """Checks a model given besides the settings; returns the line that identifies it.

    Raises:
        ValueError: it is not an NNX module, or the settings name a model or another dtype.
    """
    line = described(model)
    usual = TrainSettings()
    if settings.model != usual.model:
        raise ValueError(
            "settings.model must be left out when model= is given, got "
            f"{settings.model!r} and a {line}"
        )
    if settings.dtype not in (usual.dtype, _dtype(model)):
        raise ValueError(
            "settings.dtype must be left out when model= is given, got "
            f"{settings.dtype} and a model in {_dtype(model)}: make the model in "
            "the wanted type"
        )
    return line


def _dtype(model: nnx.Module) -> Any:
    name = matmul_dtype(model).name
    return name if name in get_args(Dtype) else "float32"


def _check_same(record: Record, data: Dataset, parts: tuple[int, ...]) -> None:
    """Raises a ValueError if the data is not as recorded.

    The order of the pictures, and so the run, depends on their number in each data set.
    """
    count = _sum(parts or (len(data),))
    before = _sum(record.survey.parts or (len(record.survey.sizes),))
    if count != before or dict(data.id2label) != record.id2label:
        raise ValueError(
            f"the data must be those that the run was begun with ({before} pictures "
            f"of {len(record.id2label)} classes: "
            f"{', '.join(record.id2label.values())}), got {count} pictures of "
            f"{len(data.id2label)} ({', '.join(data.id2label.values())}): give the "
            "first to continue, or another folder (--out)"
        )


def _sum(counts: tuple[int, ...]) -> str:
    return " + ".join(f"{count:,}" for count in counts)


ALWAYS = ("grain", "matplotlib", "optax", "orbax.checkpoint")
TRACKERS = {"tensorboard": "tensorboard.summary", "trackio": "trackio"}


def check_packages(settings: TrainSettings) -> None:
    """Imports every package that the run will need, so that a missing one is found at once.

    Raises:
        ImportError: one is missing; the message says how to install it.
    """
    wanted = dict.fromkeys(ALWAYS, "train") | {TRACKERS[name]: name for name in settings.log}
    for package, extra in wanted.items():
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise ImportError(
                f"this run needs {package} ({error}): pip install 'segformer-jax[{extra}]'"
            ) from error
