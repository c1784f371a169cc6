"""Evaluation: compares a segmenter's class maps with a data set's masks, at the masks' size."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import Float, Int, UInt, UInt8

from segformer_jax.data.dataset import Dataset
from segformer_jax.evaluation.boundary import boundary_counts
from segformer_jax.evaluation.metrics import (
    IGNORED,
    RunningConfusion,
    Scores,
    check_beta,
    check_countable,
    confusion_matrix,
    mean,
    mean_iou,
    ratio,
    scores,
)
from segformer_jax.images.labels import distinct_names
from segformer_jax.inference.class_map import start_class_map
from segformer_jax.inference.protocol import Protocol
from segformer_jax.inference.segmenter import Segmenter
from segformer_jax.inference.windowed import whole_class_map
from segformer_jax.inference.windows import ImagePixels

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The scores of a model on a data set.

    Attributes:
        scores: scores of the whole data set.
        confusion: (C, C) int64 numbers of pixels; rows are true classes, columns predicted ones.
        id2label: the classes, in the model's order.
        per_image: mean IoU of each picture, by name, over the classes in its labels or prediction;
            NaN if all its pixels are ignored.
        boundary_iou: (C,) boundary IoU of each class, NaN if it has none; None if not asked for.
        protocol: how the pictures were prepared.
    """

    scores: Scores
    confusion: Int[np.ndarray, "C C"]
    id2label: Mapping[int, str]
    per_image: Mapping[str, float]
    boundary_iou: Float[np.ndarray, " C"] | None
    protocol: Protocol

    def worst(self, count: int) -> list[str]:
        """Names of the pictures with the lowest mean IoU, lowest first."""
        known = [name for name, score in self.per_image.items() if not math.isnan(score)]
        return sorted(known, key=self.per_image.__getitem__)[:count]

    def to_dict(self, *, details: bool = False) -> dict[str, Any]:
        """The scores as a dict for JSON: in 0…1, or null if undefined; classes by name.

        Args:
            details: include the confusion matrix and each picture's mean IoU.
        """
        own = self.scores
        values: dict[str, Any] = {
            "mean_iou": _number(own.mean_iou),
            "per_class_iou": self._by_name(own.per_class_iou),
            "per_class_accuracy": self._by_name(own.per_class_accuracy),
            "pixel_accuracy": _number(own.pixel_accuracy),
            "mean_accuracy": _number(own.mean_accuracy),
            "frequency_weighted_iou": _number(own.frequency_weighted_iou),
            "mean_dice": _number(own.mean_dice),
            "per_class_dice": self._by_name(own.per_class_dice),
            "mean_precision": _number(own.mean_precision),
            "per_class_precision": self._by_name(own.per_class_precision),
            "mean_f_score": _number(own.mean_f_score),
            "per_class_f_score": self._by_name(own.per_class_f_score),
            "beta": own.beta,
            "images": len(self.per_image),
        }
        if self.boundary_iou is not None:
            values["boundary_iou"] = _number(mean(self.boundary_iou))
            values["per_class_boundary_iou"] = self._by_name(self.boundary_iou)
        values |= self.protocol.to_dict()
        if details:
            values["confusion_matrix"] = self.confusion.tolist()
            values["per_image"] = {name: _number(iou) for name, iou in self.per_image.items()}
        return values

    def _by_name(self, per_class: Float[np.ndarray, " C"]) -> dict[str, float | None]:
        names = distinct_names(self.id2label)
        return {names[index]: _number(per_class[index]) for index in sorted(names)}


def evaluate(
    segmenter: Segmenter,
    dataset: Dataset,
    *,
    batch_size: int | None = None,
    short_side: int | None = None,
    divisor: int = 32,
    protocol: Protocol | None = None,
    boundary: bool = False,
    beta: float = 1.0,
    progress: Callable[[int], Any] | None = None,
    process_index: int | None = None,
    process_count: int | None = None,
) -> Evaluation:
    """Segments every picture and compares it with its mask, at the mask's size.

    Memory does not grow with the data set: a thread reads the next batch while one is computed, and
    the confusion matrix is accumulated on the device.

    Args:
        segmenter: the model; its processor prepares the pictures.
        dataset: the pictures with masks; its classes must be the model's, in any order.
        batch_size: number of pictures per batch. Default: the segmenter's if its processor resizes
            all pictures to one size, else 1, because every size and batch is compiled separately.
        short_side: resize the whole picture to this shorter side and keep its ratio, as the paper
            does (512 for ADE20K), instead of using the processor's size.
        divisor: with `short_side`, round both sides up to a multiple of this.
        protocol: windows, scales, flips, and the threshold for one class. It has its own
            `short_side` and `divisor`.
        boundary: also compute the boundary IoU, which takes a few milliseconds per picture.
        beta: in the F-score, recall counts this many times as much as precision.
        progress: called with the number of pictures that have just been finished.
        process_index: index of this process among those that share the work; by default JAX's.
        process_count: number of these processes. If they are JAX's processes, all must call this
            function, and each gets the scores of the whole set; otherwise those of its part.

    Raises:
        ValueError: there are no pictures, the classes are not the model's, an option is out of
            range, `short_side` or `divisor` is given with `protocol`, or a threshold with several
            classes.
        ImageError: as `Dataset.pair`.
    """
    if protocol is not None and (short_side, divisor) != (None, 32):
        raise ValueError(
            "short_side and divisor must be the protocol's where one is given, got short_side "
            f"{short_side} and divisor {divisor} beside it: evaluate(protocol=dataclasses.replace("
            "protocol, short_side=…))"
        )
    protocol = Protocol(short_side, divisor) if protocol is None else protocol
    if batch_size is None:
        batch_size = segmenter.batch_size if protocol.batches_well(segmenter.processor) else 1
    process_index = jax.process_index() if process_index is None else process_index
    process_count = jax.process_count() if process_count is None else process_count
    _check(dataset, batch_size, process_index, process_count)
    check_beta(beta)
    dataset = replace(dataset, read=segmenter.processor.read)
    indices = range(process_index, len(dataset), process_count)
    table, count = model_labels(segmenter, dataset), len(segmenter.id2label)

    def read(index: int) -> tuple[Any, UInt8[np.ndarray, "H W"]]:
        image, labels = dataset.pair(index)
        whole = protocol.simple  # otherwise `whole_class_map` resizes or cuts the picture
        return protocol.inputs(segmenter.processor, image) if whole else image, table[labels]

    confusion = RunningConfusion(count)
    edges = np.zeros((2, count), np.int64)
    ious, seen = np.zeros(len(dataset)), np.zeros(len(dataset), np.int64)
    batches = np.array_split(indices, -(-len(indices) // batch_size)) if indices else []

    def started() -> Iterator[tuple[np.ndarray, Sequence[np.ndarray], Callable[[], list]]]:
        for batch, pairs in _ahead(lambda batch: [read(int(i)) for i in batch], batches):
            inputs, masks = zip(*pairs, strict=True)
            yield batch, masks, _start(segmenter, protocol, inputs, masks)

    def counted() -> Iterator[tuple[np.ndarray, list[Any]]]:
        for batch, masks, finish in _a_turn_later(started()):
            means = []
            for labels, classes in zip(masks, finish(), strict=True):
                own = confusion_matrix(*_padded(labels, classes), num_classes=count)
                confusion.add(own, labels.size)
                means.append(mean_iou(own))
                if boundary:
                    edges[...] += boundary_counts(labels, classes, num_classes=count)
            yield batch, means

    for batch, means in _a_turn_later(counted()):
        ious[batch], seen[batch] = jax.device_get(means), 1
        if progress is not None:
            progress(len(batch))

    sums: list[np.ndarray] = [confusion.total(), edges, ious, seen]
    if 1 < process_count == jax.process_count():
        sums = _over_processes(sums)
    total, edges, ious, seen = sums
    return Evaluation(
        scores=scores(total, beta=beta),
        confusion=total,
        id2label=segmenter.id2label,
        per_image={dataset.names[i]: float(ious[i]) for i in np.flatnonzero(seen)},
        boundary_iou=ratio(edges[0], edges[1]) if boundary else None,
        protocol=protocol,
    )


def model_labels(segmenter: Segmenter, dataset: Dataset) -> UInt8[np.ndarray, "256"]:
    """Returns the model's class index for every label of the data set; 255 stays 255.

    Classes are matched by name, so their order may differ. A single class, of a model or a data
    set, gets "background" as class 0 beside it; for a model of one class, the data set may use any
    name for the background.

    Raises:
        ValueError: the classes differ; the message lists both.
    """
    own, given = dict(segmenter.id2label), dict(dataset.id2label)
    check_countable(max(len(own), len(given)))
    if len(given) == 1:
        given = {0: "background", 1: given[0]}
    if segmenter.num_labels == 1 and len(given) == 2:
        others = [name for name in given.values() if name != own[1]]
        own[0] = others[0] if len(others) == 1 else own[0]
    if sorted(own.values()) != sorted(given.values()):
        raise ValueError(
            f"the data set's {len(given)} classes ({', '.join(given.values())}) are not the "
            f"model's {len(own)} ({', '.join(own.values())}): take a model that was trained on "
            "these classes, or name them in id2label.json as the model does"
        )
    table = np.full(256, IGNORED, np.uint8)
    table[_by_label(given)] = _by_label(own)
    return table


def _start(
    segmenter: Segmenter, protocol: Protocol, inputs: Sequence[Any], masks: Sequence[np.ndarray]
) -> Callable[[], list[UInt[np.ndarray, "_ _"]]]:
    """Starts to compute a batch on the device; the returned function waits for its class maps."""
    if not protocol.simple:  # each picture is already computed as many windows or views
        return lambda: [
            whole_class_map(segmenter, ImagePixels(image), protocol)[0] for image in inputs
        ]
    finish = [
        start_class_map(own, mask.shape, threshold=protocol.threshold)
        for own, mask in zip(segmenter.start(inputs), masks, strict=True)
    ]
    return lambda: [own()[0] for own in finish]


def _by_label(id2label: Mapping[int, str]) -> list[int]:
    return sorted(id2label, key=lambda index: (id2label[index], index))


def _check(dataset: Dataset, batch_size: int, process_index: int, process_count: int) -> None:
    if not len(dataset):
        raise ValueError(
            "the data set must have pictures to evaluate, got none: give a split "
            "that has some, such as FOLDER/val"
        )
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    if not 0 <= process_index < process_count:
        raise ValueError(
            f"process_index must be in 0…process_count - 1, got {process_index} of {process_count}"
        )


def _ahead(
    function: Callable[[Item], Result], items: Iterable[Item]
) -> Iterator[tuple[Item, Result]]:
    """Yields each item with its result, while a thread computes the result of the next item."""
    with ThreadPoolExecutor(1) as thread:
        waiting = None
        for item in items:
            following = (item, thread.submit(function, item))
            if waiting is not None:
                yield waiting[0], waiting[1].result()
            waiting = following
        if waiting is not None:
            yield waiting[0], waiting[1].result()


def _a_turn_later(items: Iterable[Item]) -> Iterator[Item]:
    """Yields each item only after the next one was produced, or at the end."""
    waiting: list[Item] = []
    for item in items:
        yield from waiting
        waiting = [item]
    yield from waiting


def _padded(labels: np.ndarray, classes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Flattens and pads both to a power of two, so that few programs are compiled for all sizes."""
    more = (1 << (labels.size - 1).bit_length()) - labels.size
    labels = np.pad(labels.reshape(-1), (0, more), constant_values=IGNORED)
    return labels, np.pad(classes.reshape(-1), (0, more))


def _over_processes(arrays: list[np.ndarray]) -> list[np.ndarray]:
    """Sums over all processes; sends uint32 halves, because JAX would cut 64-bit numbers to 32."""
    gathered = multihost_utils.process_allgather([array.view(np.uint32) for array in arrays])
    return [
        np.ascontiguousarray(all_).view(own.dtype).sum(0)
        for all_, own in zip(gathered, arrays, strict=True)
    ]


def _number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
