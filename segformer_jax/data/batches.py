"""An endless stream of batches: the k-th depends only on the data set, the seed and k."""

import atexit
import os
import signal
import threading
import warnings
import weakref
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from multiprocessing import connection, parent_process
from typing import Any

import numpy as np

from segformer_jax.data.augment import Augmentation, scaled_size
from segformer_jax.data.augment import augment as augmented
from segformer_jax.data.dataset import Dataset
from segformer_jax.data.order import ENDLESS, Order, Share, import_grain, make_order
from segformer_jax.data.soft_targets import SoftClasses, cells
from segformer_jax.errors import ImageError
from segformer_jax.images.picture import Picture

MAX_THREADS = 16


def batches(
    dataset: Dataset,
    *,
    batch_size: int,
    augment: Augmentation,
    seed: int,
    start: int = 0,
    process_index: int = 0,
    process_count: int = 1,
    workers: int = 0,
    skip_unreadable: bool = False,
    soft: SoftClasses | None = None,
    shares: Sequence[Share] = (),
) -> Generator[dict[str, np.ndarray]]:
    """An endless stream of augmented batches, with another order in every epoch.

    The picture and the random numbers of sample p depend only on (seed, p). Batch k has the samples
    from k × `batch_size` on, of which each process gets an equal consecutive part, so that the
    whole batch does not depend on the number of processes and workers. To continue after k batches,
    pass `start=k`. Close the stream to end its workers.

    Args:
        dataset: the pictures; if there are fewer than a batch has, they repeat within it.
        batch_size: number of samples per batch, over all processes.
        augment: the augmentation of a picture.
        seed: seed of the order and the augmentation, 0 or more.
        start: number of the first batch.
        process_index: index of this process.
        process_count: number of processes that share a batch.
        workers: number of processes that read and augment; 0 uses threads.
        skip_unreadable: replace a picture that can't be read by the next of the same source in the
            epoch, and warn about it once.
        soft: classes of the data set's soft targets to return, cropped like the masks.
        shares: relative frequency of each source that the data set is joined from; if empty, every
            picture is used once per epoch.

    Yields:
        {"image": (b, h, w, c) uint8, RGB or other bands, "mask": (b, h, w) uint8}, b of this
        process; with `soft` also "soft", (b, ⌈h/4⌉, ⌈w/4⌉, classes) float32 logits, and "taught",
        which of these cells have any, (b, ⌈h/4⌉, ⌈w/4⌉) bool; with `augment.device_colours` also
        "colours", (b, 5) float32, the numbers of `Colours`, and "size", (b, 2) int32, height and
        width of the crop without its padding.

    Raises:
        ValueError: the data set is empty, a number is negative, the batch is not a multiple of the
            processes, or the sources have another number of pictures.
        ImageError: a picture or mask can't be read.
        OSError: a worker process was killed.
        ImportError: grain is missing.
    """
    if not len(dataset):
        raise ValueError("the data set must have at least one picture, got none")
    if batch_size < 1 or process_count < 1 or batch_size % process_count:
        raise ValueError(
            "batch_size must be a multiple of the number of processes, "
            f"{process_count}, got {batch_size}"
        )
    if not 0 <= process_index < process_count:
        raise ValueError(f"process_index must be in 0…{process_count - 1}, got {process_index}")
    for name, number in (("seed", seed), ("start", start), ("workers", workers)):
        if number < 0:
            raise ValueError(f"{name} must be at least 0, got {number}")
    stream = _iterate(
        Samples(
            dataset,
            augment,
            seed=seed,
            order=make_order(len(dataset), shares=shares, seed=seed),
            first=start * batch_size + process_index * (batch_size // process_count),
            run=batch_size // process_count,
            stride=batch_size,
            skip_unreadable=skip_unreadable,
            soft=soft,
        ),
        workers=workers,
    )
    atexit.register(_close, weakref.ref(stream))  # closes it while its modules still exist
    return stream


@dataclass(frozen=True, eq=False)
class Samples:
    """The samples of one process, as a function of their number.

    The samples of all processes form one stream, in which this process has a run of consecutive
    positions in every batch.

    Attributes:
        dataset: the pictures.
        augment: the augmentation.
        seed: seed of the random numbers.
        order: the picture at each position of the stream.
        first: the position of the first sample.
        run: number of consecutive positions in a run.
        stride: distance from the start of a run to the start of the next.
        skip_unreadable: as in `batches`.
        soft: as in `batches`.
    """

    dataset: Dataset
    augment: Augmentation
    seed: int
    order: Order
    first: int
    run: int
    stride: int
    skip_unreadable: bool
    soft: SoftClasses | None

    def __call__(self, number: int) -> dict[str, Any]:
        """Returns a sample with the keys of `batches` and "skipped", errors of skipped pictures.

        If the picture can't be read (with `skip_unreadable`: if no picture of its source can), the
        result is only "error", a message. It is not raised, because grain would add its own text.
        """
        runs, place = divmod(number, self.run)
        position = self.first + runs * self.stride + place
        try:
            (image, mask), index, skipped = self._pair(position)
            rng = self._rng(position)
            pixels, labels, view = augmented(image, mask, options=self.augment, rng=rng)
            sample = {"image": pixels, "mask": labels, "skipped": skipped}
            if view.colours is not None:
                sample["colours"] = np.array(view.colours, np.float32)
                sample["size"] = np.array(view.size, np.int32)
            if self.soft is not None:
                targets = self.soft.read(self.dataset.soft[index])
                sample["soft"], sample["taught"] = cells(
                    targets, view, crop=self.augment.crop, classes=len(self.soft.names)
                )
        except ImageError as error:
            return {"error": str(error)}
        return sample

    def _pair(self, position: int) -> tuple[tuple[Picture, np.ndarray], int, tuple[str, ...]]:
        def scaled(size):
            return scaled_size(size, options=self.augment, rng=self._rng(position))

        skipped = []
        for index in self.order.pictures(position):
            try:
                pair = self.dataset.pair(index, needed=scaled if self.augment.jpeg_draft else None)
                return pair, index, tuple(skipped)
            except ImageError as error:
                if not self.skip_unreadable:
                    raise
                skipped.append(str(error))
        raise ImageError(
            f"none of the {len(skipped)} pictures can be read: the first problem is {skipped[0]}"
        )

    def _rng(self, position: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, position])


def _iterate(samples: Samples, *, workers: int) -> Generator[dict[str, np.ndarray]]:
    grain = import_grain()
    stream = grain.MapDataset.range(ENDLESS).map(samples)
    if workers:  # each makes whole batches, so that only batches are sent between processes
        _mark_flags_as_parsed()
        alone = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
        batched = stream.batch(samples.run, batch_fn=_batch).to_iter_dataset(alone)
        options = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=2)
        iterator = iter(batched.mp_prefetch(options, worker_init_fn=_in_worker))
    else:
        threads = min(MAX_THREADS, os.cpu_count() or 1)
        ahead = grain.ReadOptions(
            num_threads=threads, prefetch_buffer_size=max(threads, 2 * samples.run)
        )
        iterator = iter(stream.to_iter_dataset(ahead).batch(samples.run, batch_fn=_batch))
    warned: set[str] = set()
    try:
        for batch in iterator:
            if "error" in batch:
                raise ImageError(batch["error"])
            for message in batch.pop("skipped"):
                if message not in warned:
                    warnings.warn(f"skipped: {message}", stacklevel=2)
                    warned.add(message)
            # Copied out of memory shared with a worker, which is scarce and is reused.
            yield {name: np.array(array, copy=bool(workers)) for name, array in batch.items()}
    except RuntimeError as error:
        if "Worker process was terminated" not in str(error):
            raise
        reason = str(error).splitlines()[0]  # grain appends lines of its traceback
        raise OSError(
            f"{reason} Workers hand over batches in shared memory (/dev/shm): if that is full, "
            "enlarge it (docker run --shm-size=8g), or take fewer workers, 0 for threads"
        ) from error
    finally:
        iterator.close()


def _close(reference: weakref.ref[Generator[Any]]) -> None:
    stream = reference()
    if stream is not None:
        stream.close()


def _batch(samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    for sample in samples:
        if "error" in sample:
            return sample
    skipped = tuple(message for sample in samples for message in sample["skipped"])
    arrays = samples[0].keys() - {"skipped"}
    batch = {name: np.stack([sample[name] for sample in samples]) for name in arrays}
    return batch | {"skipped": skipped}


def _in_worker(index: int, count: int) -> None:
    """Ignores Ctrl-C, because the parent ends its workers; ends this worker if the parent dies."""
    del index, count
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _end_with(sentinel: int) -> None:
    connection.wait([sentinel])
    os._exit(1)


def _mark_flags_as_parsed() -> None:
    """Marks absl's flags as parsed: grain's workers read one, which fails if absl is not used."""
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
