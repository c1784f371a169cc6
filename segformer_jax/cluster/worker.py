"""The Ray worker, which takes pictures as bytes in batches and returns one row per picture."""

import itertools
import posixpath
import warnings
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from segformer_jax.cluster import store
from segformer_jax.cluster.resources import Workers, limit_threads
from segformer_jax.errors import ImageError
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
    """The settings of a run, which all of its workers share.

    Attributes:
        model: a weights package, a folder that every machine has, or a name on the hub.
        dtype: type of the matrix products.
        batch_size: number of pictures per run of the network.
        max_pixels: largest picture, in pixels, that is opened.
        out: absolute path or URI of the folder of the results; None puts masks into the rows, for a
            table.
        outputs: the kinds of files to write; each row lists the files in this order.
        roots: folders that the names of the results are relative to.
        alpha: opacity of the colours in the overlay, 0 to 1.
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
    """A segmenter in its own process, which Ray uses for many batches."""

    def __init__(self, job: Job, workers: Workers):
        limit_threads(workers)
        import jax.numpy as jnp

        from segformer_jax.inference.programs import use_programs
        from segformer_jax.inference.segmenter import Segmenter
        from segformer_jax.process import keep_compiled_programs, keep_freed_memory, yield_to_others

        keep_freed_memory()
        keep_compiled_programs()
        left_aside = use_programs(job.model, dtype=job.dtype, device=workers.device)
        if left_aside is not None:
            warnings.warn(left_aside, stacklevel=2)
        self._job = job
        self._segmenter = Segmenter.from_pretrained(
            job.model,
            dtype=jnp.dtype(job.dtype),
            device=workers.device,
            batch_size=job.batch_size,
            max_pixels=job.max_pixels,
        )
        self._threads = ThreadPoolExecutor(
            min(job.batch_size, workers.threads), initializer=yield_to_others
        )

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Turns rows of `path` and `bytes` into results; unreadable pictures get an `error`."""
        paths, contents = (batch.column(name).to_pylist() for name in ("path", "bytes"))
        read = list(self._threads.map(self._read, contents))
        pictures = [picture for picture in read if not isinstance(picture, ImageError)]
        results = iter(self._segmenter(pictures))
        found = [one if isinstance(one, ImageError) else next(results) for one in read]
        rows = list(self._threads.map(self._row, paths, found))
        return pa.Table.from_pylist(rows, schema=TABLE if self._job.out is None else FILES)

    def _read(self, content: bytes) -> Any:
        try:
            return self._segmenter.processor.read(content, max_pixels=self._job.max_pixels)
        except ImageError as error:
            return error

    def _row(self, path: str, found: Segmentation | ImageError) -> dict[str, Any]:
        if isinstance(found, ImageError):
            return {"path": path, "error": " ".join(str(found).split())}
        row = {"path": path} | found.to_dict()
        if self._job.out is None:
            return row | {"mask": found.encode("mask.png")}
        stem = result_stem(path, self._job.roots)
        picture = posixpath.basename(path)
        names = [stem + ENDINGS[kind] for kind in self._job.outputs]
        outputs = [
            store.write(
                self._job.out, name, found.encode(name, alpha=self._job.alpha, picture=picture)
            )
            for name in names
        ]
        return row | {"outputs": outputs}


def result_stem(path: str, roots: tuple[str, ...]) -> str:
    """Returns the name of a picture's results without ending: its path relative to its root.

    If several roots contain the picture, the innermost one counts; if none does, the whole path is
    used.
    """
    inside = [root for root in roots if path.startswith(root.rstrip("/") + "/")]
    root = max(inside, key=len, default="")
    name = posixpath.normpath(path.removeprefix(root)).lstrip("/.")
    return posixpath.splitext(name)[0]


def clashes(paths: list[str], roots: tuple[str, ...]) -> Mapping[str, list[str]]:
    """Returns the pictures whose results would have the same name, grouped by that name."""
    by_stem = sorted((result_stem(path, roots), path) for path in set(paths))
    groups = itertools.groupby(by_stem, key=lambda pair: pair[0])
    listed = {stem: [path for _, path in group] for stem, group in groups}
    return {stem: own for stem, own in listed.items() if len(own) > 1}
