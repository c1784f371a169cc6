"""A Ray worker: takes a batch of pictures as bytes and returns a row about each of them."""

import itertools
import posixpath
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from segformer_jax.cluster import store
from segformer_jax.cluster.resources import Workers, limit_threads
from segformer_jax.errors import ImageError
from segformer_jax.images.read import read_image
from segformer_jax.inference.result_files import ENDINGS
from segformer_jax.inference.segmentation import Segmentation

CLASSES = pa.list_(
    pa.struct({"id": pa.int32(), "label": pa.string(), "share": pa.float64(), "pixels": pa.int64()})
)
ROW = {
    "path": pa.string(),
    "height": pa.int32(),
    "width": pa.int32(),
    "classes": CLASSES,
    "error": pa.string(),
}
FILES = pa.schema(ROW | {"outputs": pa.list_(pa.string())})
TABLE = pa.schema(ROW | {"mask": pa.binary()})


@dataclass(frozen=True)
class Job:
    """What all workers of a run are told.

    Attributes:
        model: a weights package, a folder that every machine has, or a hub name.
        dtype: what the matrix products compute in.
        batch_size: pictures that go through the network together.
        max_pixels: the largest picture that is opened.
        out: the folder of the results, absolute, or its URI; None makes a table.
        outputs: the kinds of files; a row lists them in this order.
        roots: folders that are left out of the results' names.
        alpha: weight of the colours in the overlay.
    """

    model: str
    dtype: str
    batch_size: int
    max_pixels: int
    out: str | None
    outputs: tuple[str, ...]
    roots: tuple[str, ...]
    alpha: float


class SegmentBatch:
    """A segmenter in a process of its own, kept by Ray for many batches."""

    def __init__(self, job: Job, workers: Workers):
        limit_threads(workers)
        import jax.numpy as jnp

        from segformer_jax.inference.segmenter import Segmenter
        from segformer_jax.process import keep_compiled_programs, keep_freed_memory

        keep_freed_memory()
        keep_compiled_programs()
        self._job = job
        self._segmenter = Segmenter.from_pretrained(
            job.model,
            dtype=jnp.dtype(job.dtype),
            device=workers.device,
            batch_size=job.batch_size,
            max_pixels=job.max_pixels,
        )
        self._threads = ThreadPoolExecutor(min(job.batch_size, workers.threads))

    def __call__(self, batch: pa.Table) -> pa.Table:
        """One row for each of the columns `path` and `bytes`; what can't be read has an `error`."""
        paths, contents = (batch.column(name).to_pylist() for name in ("path", "bytes"))
        read = list(self._threads.map(self._read, contents))
        pictures = [picture for picture in read if not isinstance(picture, ImageError)]
        results = iter(self._segmenter(pictures))
        found = [one if isinstance(one, ImageError) else next(results) for one in read]
        rows = list(self._threads.map(self._row, paths, found))
        return pa.Table.from_pylist(rows, schema=TABLE if self._job.out is None else FILES)

    def _read(self, content: bytes) -> Any:
        try:
            return read_image(content, max_pixels=self._job.max_pixels)
        except ImageError as error:
            return error

    def _row(self, path: str, found: Segmentation | ImageError) -> dict[str, Any]:
        if isinstance(found, ImageError):
            return {"path": path, "error": " ".join(str(found).split())}
        row = {"path": path} | found.to_dict()
        if self._job.out is None:
            return row | {"mask": found.encode("mask.png")}
        stem = result_stem(path, self._job.roots)
        names = [stem + ENDINGS[kind] for kind in self._job.outputs]
        outputs = [
            store.write(self._job.out, name, found.encode(name, alpha=self._job.alpha))
            for name in names
        ]
        return row | {"outputs": outputs}


def result_stem(path: str, roots: tuple[str, ...]) -> str:
    """The name of a picture's results, without their ending: as its folders lie below its root.

    Only the innermost of the roots counts. Without any the whole path is kept.
    """
    inside = [root for root in roots if path.startswith(root.rstrip("/") + "/")]
    root = max(inside, key=len, default="")
    name = posixpath.normpath(path.removeprefix(root)).lstrip("/.")
    return posixpath.splitext(name)[0]


def clashes(paths: list[str], roots: tuple[str, ...]) -> Mapping[str, list[str]]:
    """The pictures whose results would have one name, by that name."""
    by_stem = sorted((result_stem(path, roots), path) for path in set(paths))
    groups = itertools.groupby(by_stem, key=lambda pair: pair[0])
    listed = {stem: [path for _, path in group] for stem, group in groups}
    return {stem: own for stem, own in listed.items() if len(own) > 1}
