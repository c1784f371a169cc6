"""Segments many pictures: threads read ahead and write results while the device computes.

    reading threads ──▶ one batch after another, started without waiting ──▶ writing threads
    file → bytes           the device's queue holds the next two              class map → file

(A CPU may compute a batch when it is started: see `process.keep_freed_memory`.)

The number of pictures in each step is bounded, so memory does not grow with the number of pictures.
Results come in the order of the sources.
"""

import functools
import os
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, UInt8

from segformer_jax.errors import ImageError
from segformer_jax.images.picture import Picture, as_rgb, size_of
from segformer_jax.inference.class_map import start_class_map
from segformer_jax.inference.protocol import Protocol
from segformer_jax.inference.segmentation import Segmentation
from segformer_jax.inference.segmenter import WHOLE, Segmenter
from segformer_jax.inference.windowed import whole_class_map
from segformer_jax.inference.windows import ImagePixels
from segformer_jax.process import yield_to_others

Span = tuple[float, float]


@dataclass(frozen=True, eq=False)
class PictureOutcome:
    """The result of one picture: a value, or the error with which it could not be read.

    Attributes:
        source: the picture as it was given.
        value: the `Segmentation`, or the result of `then`; None if there is an error.
        error: why the picture can't be read; None if it was read.
    """

    source: Any
    value: Any = None
    error: ImageError | None = None


@dataclass(frozen=True, eq=False)
class _Read:
    source: Any
    picture: Picture
    pixels: UInt8[np.ndarray, "h w c"] | Float[np.ndarray, "h w c"] | None


def segment_many(
    segmenter: Segmenter,
    sources: Iterable[Any],
    *,
    read: Callable[[Any], Picture] | None = None,
    between: Callable[[list[Any], list[jax.Array]], list[jax.Array]] | None = None,
    then: Callable[[Any, Segmentation], Any] | None = None,
    protocol: Protocol = WHOLE,
    threads: int | None = None,
    spans: list[Span] | None = None,
) -> Generator[PictureOutcome]:
    """Segments any number of pictures; yields one outcome for each, in their order.

    A picture that can't be read gives an outcome with an error, and the others are segmented. If
    you may leave the loop early, close the iterator (`contextlib.closing`): it then finishes the
    pictures that it has begun, and ends its threads.

    Args:
        segmenter: its `batch_size` is the number of pictures per batch.
        sources: paths, PIL pictures or arrays, or what `read` takes. They are iterated in the
            caller's thread, only as far ahead as needed.
        read: opens a source, in a reading thread, as the processor's `read` does by default.
        between: maps the sources and logits of each batch, in their order, to the logits for the
            class maps. It runs in the caller's thread, outside of its `jax.set_mesh`, and must not
            block.
        then: called with each result in a writing thread, for example to save it; what it returns
            becomes the value of the outcome.
        protocol: windows, scales and flips; with these, one picture is computed at a time.
        threads: number of reading threads, and of writing threads; by default one per core.
        spans: gets the start and end, in seconds, of every batch on the device, for
            `waited_share`.

    Yields:
        A `PictureOutcome` for each source.

    Raises:
        Exception: errors of `read` other than `ImageError`, and errors of `then`.
    """
    threads = threads or usable_cores()
    batch_size = segmenter.batch_size
    ahead, behind = batch_size + threads, 2 * batch_size + 2 * threads  # pictures
    read = read or functools.partial(segmenter.processor.read, max_pixels=segmenter.max_pixels)

    def inputs_of(picture):
        if protocol == WHOLE:
            return segmenter.processor.eight_bits(picture)
        return protocol.inputs(segmenter.processor, picture) if protocol.simple else None

    def prepare(source):
        try:
            picture = read(source)
            return _Read(source, picture, inputs_of(picture))
        except ImageError as error:
            return PictureOutcome(source, error=error)

    def finish(one, class_map):
        result = Segmentation(class_map()[0], segmenter.id2label, as_rgb(one.picture))
        return PictureOutcome(one.source, result if then is None else then(one.source, result))

    unread = iter(sources)
    being_read: deque[Future] = deque()
    at_work: deque[Future] = deque()  # a batch on the device, or being written
    full, watched = False, _done(None)
    with ExitStack() as stack:
        readers, writers, watcher = (
            stack.enter_context(_threads(count)) for count in (threads, threads, 1)
        )

        def read_on():
            while len(being_read) < ahead:
                try:
                    source = next(unread)
                except StopIteration:
                    return
                being_read.append(readers.submit(prepare, source))

        def started(good):
            nonlocal full, watched
            inputs = [one.pixels for one in good]
            full = full or len(inputs) == batch_size
            segmenter.start_compiling(inputs)
            beginning = time.perf_counter()
            logits = segmenter.start(inputs, at_least=batch_size if full else 1)
            if logits and spans is not None:
                watched = watcher.submit(_watch, logits, beginning, spans)
            if between is not None:
                with jax.set_mesh(None):
                    logits = between([one.source for one in good], logits)
            return [
                start_class_map(own, size_of(one.picture), threshold=protocol.threshold)
                for own, one in zip(logits, good, strict=True)
            ]

        def in_windows(one):
            class_map = whole_class_map(segmenter, ImagePixels(one.picture), protocol)
            return lambda: class_map

        read_on()
        while being_read:
            batch = [being_read.popleft() for _ in range(min(batch_size, len(being_read)))]
            found = [future.result() for future in batch]
            read_on()
            good = [one for one in found if isinstance(one, _Read)]
            maps = iter(started(good) if protocol.simple else [in_windows(one) for one in good])
            for one in found:
                read_well = isinstance(one, _Read)
                at_work.append(writers.submit(finish, one, next(maps)) if read_well else _done(one))
            while len(at_work) > behind:
                yield at_work.popleft().result()
        while at_work:
            yield at_work.popleft().result()
        watched.result()


def waited_share(spans: list[Span]) -> float:
    """Returns the share of the time, 0…1, in which the device was idle.

    The time runs from the start of the first batch to the end of the last. The device is idle
    between the end of a batch and the start of the next.
    """
    if not spans:
        return 0.0
    waited = sum(max(0.0, start - end) for (_, end), (start, _) in pairwise(spans))
    return waited / (spans[-1][1] - spans[0][0])


def usable_cores() -> int:
    """Number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _watch(logits: list[jax.Array], started: float, spans: list[Span]) -> None:
    jax.block_until_ready(logits)
    spans.append((started, time.perf_counter()))


def _done(value: Any) -> Future:
    future: Future = Future()
    future.set_result(value)
    return future


@contextmanager
def _threads(count: int) -> Iterator[ThreadPoolExecutor]:
    """Yields a thread pool; at the end, running calls are finished and waiting ones cancelled."""
    pool = ThreadPoolExecutor(count, initializer=yield_to_others)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
