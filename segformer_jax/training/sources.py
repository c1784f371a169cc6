"""The data of a run from one or several data sets, whose classes are matched by name.

The classes of the run are those of all data sets, in the order of their first appearance. Two names
that differ only in case or surrounding blanks are the same class.
"""

import math
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from segformer_jax.data.check import Examined, Palettes, Survey, check, readable
from segformer_jax.data.dataset import IGNORED, Dataset, joined
from segformer_jax.data.formats import open_dataset
from segformer_jax.data.held_out import USUAL_SHARE, divided
from segformer_jax.data.masks import Coding, read_mask
from segformer_jax.data.order import Share
from segformer_jax.data.splits import NoSplitError
from segformer_jax.images.picture import Picture
from segformer_jax.images.read import read_image
from segformer_jax.training.settings import TrainSettings


@dataclass(frozen=True, eq=False)
class Source:
    """One of the data sets, with its own classes and masks.

    Attributes:
        path: the path as it was given; for messages.
        data: its pictures and masks.
    """

    path: str
    data: Dataset


@dataclass(frozen=True, eq=False)
class Recoded:
    """A mask of one of several data sets; `open` converts it to the classes of all data sets.

    Attributes:
        place: where the mask is, as in `Dataset.masks`.
        coding: what its pixels mean.
        table: the new class index for each of the data set's own; 255 stays 255.
    """

    place: Any
    coding: Coding
    table: tuple[int, ...]

    def open(self) -> Image.Image:
        """Returns a grey picture of the new class indices.

        Raises:
            ImageError: as `read_mask`.
        """
        source = self.place if isinstance(self.place, Path) else self.place.open()
        classes = read_mask(source, coding=self.coding)
        return Image.fromarray(np.asarray(self.table, np.uint8)[classes])

    def __str__(self) -> str:
        return str(self.place)


@dataclass(frozen=True, eq=False)
class RunData:
    """The data to train on and the data to evaluate on.

    Attributes:
        training: the pairs of all data sets, one data set after the other.
        validation: likewise, of the data sets that have the validation split.
        sources: the data sets of `training`.
        validation_sources: the data sets of `validation`.
        weights: relative frequency of the samples of each source; empty if every picture is used
            once per epoch.
        notes: messages for the user, such as what was detected and which classes a source lacks.
        val_share: the share of the pictures kept for validation where there is no split for it;
            None if no source was divided.
    """

    training: Dataset
    validation: Dataset
    sources: tuple[Source, ...]
    validation_sources: tuple[Source, ...]
    weights: tuple[float, ...]
    notes: tuple[str, ...]
    val_share: float | None = None

    @property
    def parts(self) -> tuple[int, ...]:
        """The number of pictures of each source; empty if there is only one source."""
        counts = tuple(len(source.data) for source in self.sources)
        return counts if len(counts) > 1 else ()

    @property
    def shares(self) -> tuple[Share, ...]:
        """The size and weight of each source; empty if every picture is used once per epoch."""
        if not self.weights:
            return ()
        counts = (len(source.data) for source in self.sources)
        return tuple(map(Share, counts, self.weights))

    def check(self, *, progress: Callable[[Iterable[Examined]], Iterable[Examined]]) -> Survey:
        """Checks every source with `data.check.check`; returns a survey of the training pictures.

        With weights, a source's pixels are counted as often as its pictures are drawn on average.

        Raises:
            ValueError: training sources have problems, or else validation sources; all are listed.
        """
        palettes: dict[str, Palettes] = {}
        surveys = _checked(self.sources, progress, palettes, whole=False)
        _checked(self.validation_sources, progress, palettes, whole=True)
        if not self.parts:
            return surveys[0]
        pixels, ignored = np.zeros(self.training.coding.num_values), 0.0
        for source, survey, often in zip(self.sources, surveys, self._frequencies(), strict=True):
            table = _table(source, self.training.id2label)
            pixels[list(table[: len(survey.class_pixels)])] += often * np.array(survey.class_pixels)
            ignored += often * survey.ignored_pixels
        return Survey(
            sizes=tuple(size for survey in surveys for size in survey.sizes),
            # rounded up, so that a class that occurs never has 0 pixels
            class_pixels=tuple(np.ceil(pixels).astype(np.int64).tolist()),
            ignored_pixels=math.ceil(ignored),
            parts=self.parts,
        )

    def _frequencies(self) -> list[float]:
        """Returns how often a picture of each source is drawn in `len(training)` samples."""
        if not self.weights:
            return [1.0] * len(self.sources)
        return [
            weight / sum(self.weights) * len(self.training) / len(source.data)
            for source, weight in zip(self.sources, self.weights, strict=True)
        ]


def open_run_data(
    settings: TrainSettings,
    *,
    teacher: Mapping[int, str] | None = None,
    read: Callable[[Any], Picture] = read_image,
    recorded: int | None = None,
) -> RunData:
    """Opens the folders of `settings.data`; a single data set keeps its classes and masks.

    Args:
        settings: of the run.
        teacher: the classes of a model that replaces missing masks, as in `open_dataset`.
        read: reads a picture.
        recorded: for a run that continues, the number of pictures that it trains on. If there are
            as many, none is left out: one that was damaged since is skipped when it is drawn.

    Raises:
        ValueError: as `open_dataset`, `union` and `recoded`.
        NoSplitError: no folder has the validation split, or one lacks the training split.
    """
    sources = [_training(path, settings, teacher, read) for path in settings.sources]
    evaluated: dict[str, Source] = {}
    missing: dict[str, NoSplitError] = {}
    for path in settings.sources:
        try:
            evaluated[path] = _opened(path, settings.val_split, settings, read)
        except NoSplitError as error:
            missing[path] = error
    share = settings.val_share
    if share is not None and not missing:
        raise ValueError(
            f"val_share must be left out where the data have a split {settings.val_split} to "
            f"evaluate on, got {share}"
        )
    if not evaluated and share is None:
        if settings.val_split != TrainSettings.val_split:
            raise next(iter(missing.values()))
        share = USUAL_SHARE
    notes = [f"{source.path}: {source.data.recognised}" for source in sources]
    if share is not None:
        for place, source in enumerate(sources):
            if source.path in missing:
                parts = divided(source.data, share, seed=settings.seed, name=source.path)
                sources[place], evaluated[source.path] = (Source(source.path, p) for p in parts)
                notes.append(
                    f"{source.path} has no split to evaluate on: "
                    f"{len(evaluated[source.path].data):,} of its {len(source.data):,} pictures "
                    f"are kept for that (--val-share {share:g}, --seed {settings.seed})"
                )
        missing = {}
    validation = [evaluated[path] for path in settings.sources if path in evaluated]
    if settings.eval_limit:
        validation = _first(validation, settings.eval_limit)
    if settings.skip_unreadable:
        if sum(len(source.data) for source in sources) != recorded:
            sources = [replace(s, data=readable(s.data, whole=False)) for s in sources]
        validation = [replace(s, data=readable(s.data, whole=True)) for s in validation]
    if len(sources) == 1:
        return RunData(
            sources[0].data,
            validation[0].data,
            tuple(sources),
            tuple(validation),
            (),
            tuple(notes),
            share,
        )
    id2label = union(sources)
    return RunData(
        training=joined(recoded(source, id2label) for source in sources),
        validation=joined(recoded(source, id2label) for source in validation),
        sources=tuple(sources),
        validation_sources=tuple(validation),
        weights=settings.data_weights,
        notes=(
            *notes,
            *_lacking(sources, id2label),
            *_shares(settings),
            *(f"not evaluated on {path}: {error}" for path, error in missing.items()),
        ),
        val_share=share,
    )


def _opened(
    path: str,
    split: str | None,
    settings: TrainSettings,
    read: Callable[[Any], Picture],
    teacher: Mapping[int, str] | None = None,
) -> Source:
    data = open_dataset(
        path,
        split=split,
        format=settings.format,
        reduce_zero_label=settings.reduce_zero_label,
        mask_suffix=settings.mask_suffix,
        resize_masks=settings.resize_masks,
        teacher=teacher,
    )
    return Source(path, replace(data, read=read))


def _training(
    path: str,
    settings: TrainSettings,
    teacher: Mapping[int, str] | None,
    read: Callable[[Any], Picture],
) -> Source:
    """Opens the training split, or all of a data set that has no splits.

    Raises:
        ValueError: as `open_dataset`.
    """
    try:
        return _opened(path, settings.train_split, settings, read, teacher)
    except NoSplitError as error:
        if settings.train_split != TrainSettings.train_split:
            raise
        try:
            return _opened(path, None, settings, read, teacher)
        except ValueError:  # it has splits, and none of them is for training
            raise error from None


def union(sources: Sequence[Source]) -> dict[int, str]:
    """Returns the classes of all sources, in the order and spelling of their first appearance.

    Raises:
        ValueError: there are more than 255, or a source has two classes of one name.
    """
    names: dict[str, str] = {}
    for source in sources:
        own = [_key(name) for name in source.data.id2label.values()]
        twice = next((name for name in own if own.count(name) > 1), None)
        if twice is not None:
            raise ValueError(
                f"{source.path} has two classes of the name {twice!r}, and classes of several data "
                "sets are matched by name: rename one in its id2label.json"
            )
        for name in source.data.id2label.values():
            names.setdefault(_key(name), name)
    if len(names) > IGNORED:
        raise ValueError(
            f"the {len(sources)} data sets must have at most {IGNORED} classes "
            f"together, 0…254, because {IGNORED} marks ignored pixels, got "
            f"{len(names)}: leave a data set out, or give equal classes the same "
            "name"
        )
    return dict(enumerate(names.values()))


def recoded(source: Source, id2label: Mapping[int, str]) -> Dataset:
    """Returns a source's pairs with their masks converted to the classes of all sources.

    Raises:
        ValueError: a class of the source is not in `id2label`, or the source has a single class,
            separated from everything else, and other sources have more.
    """
    coding, table = source.data.coding, _table(source, id2label)
    return replace(
        source.data,
        id2label=dict(id2label),
        coding=Coding(max(len(id2label), 2)),
        masks=tuple(
            None if place is None else Recoded(place, coding, table) for place in source.data.masks
        ),
    )


def _table(source: Source, id2label: Mapping[int, str]) -> tuple[int, ...]:
    """Returns the index in `id2label` of each class index of a source, 0…255; else 255."""
    own = list(source.data.id2label.values())
    index_of = {_key(name): index for index, name in id2label.items()}
    unknown = [name for name in own if _key(name) not in index_of]
    if unknown:
        raise ValueError(
            f"{source.path} has pictures to evaluate on with the classes {', '.join(unknown)}, "
            "which no data set has to train on: correct the names in its id2label.json"
        )
    if len(own) == 1 and len(id2label) > 1:
        others = [name for name in id2label.values() if _key(name) != _key(own[0])]
        raise ValueError(
            f"{source.path} has the class {own[0]!r} alone, and its masks tell it from everything "
            f"else; that everything else can't be matched with {', '.join(others[:8])}"
            f"{', …' * (len(others) > 8)}: give it a name, in id2label.json "
            f'{{"0": "background", "1": "{own[0]}"}}'
        )
    indices = [0, 1] if len(own) == 1 else [index_of[_key(name)] for name in own]
    return (*indices, *[IGNORED] * (IGNORED + 1 - len(indices)))


def _checked(
    sources: Sequence[Source],
    progress: Callable[[Iterable[Examined]], Iterable[Examined]],
    palettes: dict[str, Palettes],
    *,
    whole: bool,
) -> list[Survey]:
    """Checks each source and returns its survey; palettes are compared with those of its path.

    Raises:
        ValueError: with the problems of all sources.
    """
    surveys, problems = [], []
    for source in sources:
        own = palettes.setdefault(source.path, {})
        try:
            surveys.append(check(source.data, whole=whole, progress=progress, palettes=own))
        except ValueError as error:
            if len(sources) == 1:
                raise
            problems.append(textwrap.indent(f"{source.path}: {error}", "  "))
    if problems:
        raise ValueError("\n".join(["the data sets have problems", *problems]))
    return surveys


def _first(sources: Sequence[Source], limit: int) -> list[Source]:
    """Keeps about `limit` pairs: the first of each source, by its size, but at least one."""
    total = sum(len(source.data) for source in sources)
    counts = [max(1, round(limit * len(source.data) / total)) for source in sources]
    return [
        replace(source, data=source.data.only(range(min(count, len(source.data)))))
        for source, count in zip(sources, counts, strict=True)
    ]


def _lacking(sources: Sequence[Source], id2label: Mapping[int, str]) -> list[str]:
    lines = []
    for source in sources:
        own = {_key(name) for name in source.data.id2label.values()}
        lacking = [name for name in id2label.values() if _key(name) not in own]
        if lacking:
            lines.append(f"{source.path} lacks {', '.join(lacking)}")
    return lines


def _shares(settings: TrainSettings) -> list[str]:
    """Returns a message with the share of the samples of each source; none without weights."""
    total = sum(settings.data_weights)
    parts = [
        f"{weight / total:.1%} from {path}"
        for path, weight in zip(settings.sources, settings.data_weights, strict=False)
    ]
    return [f"samples: {', '.join(parts)}"] if parts else []


def _key(name: str) -> str:
    return name.strip().casefold()
