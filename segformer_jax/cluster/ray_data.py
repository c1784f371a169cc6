"""Segments pictures from any store into any store, on all workers of a Ray cluster."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from segformer_jax.atomic import atomic_folder
from segformer_jax.cluster import store
from segformer_jax.cluster.connection import import_ray
from segformer_jax.cluster.resources import Workers, choose_workers
from segformer_jax.cluster.worker import Job, SegmentBatch, clashes
from segformer_jax.images.find import picture_endings
from segformer_jax.images.read import MAX_PIXELS
from segformer_jax.inference.result_files import ENDINGS, Output

READING = 0.1  # CPUs that Ray reserves for a task that reads files, because it mostly waits
AT_ONCE = 2  # concurrent batches per worker: one is decoded or written while one is computed


def segment_dataset(
    source: Any,
    out: str | Path,
    *,
    model: str = "scene-b0",
    outputs: tuple[Output, ...] | Literal["parquet"] = ("mask",),
    alpha: float = 0.5,
    dtype: str = "float32",
    device: str | None = None,
    batch_size: int = 8,
    max_pixels: int = MAX_PIXELS,
    workers: int | None = None,
    cpus_per_worker: int | None = None,
) -> Any:
    """Segments pictures on the Ray cluster of this process and writes the results.

    If a worker dies, Ray starts another one and repeats its batches; files are written completely
    or not at all. A picture that can't be read becomes a row with an `error`, and the others are
    segmented.

    Args:
        source: a path, a folder (its pictures, and those of the folders in it) or a URI such as
            s3://bucket/photos; several of them; or a `ray.data.Dataset` with the columns `path` and
            `bytes`. Every machine of the cluster reads them, so paths must be on a shared disk.
        out: folder or URI of the results, which keep the pictures' folders.
        model: a weights package, a folder that every machine has, or a name on the hub.
        outputs: the files to write for each picture, as for `segment` on the command line; or
            "parquet" for a table of path, height, width, classes with their shares, mask (the class
            indices as a PNG) and error.
        alpha: opacity of the colours in the overlay, 0 to 1.
        dtype: type of the matrix products.
        device: cpu, gpu or tpu; by default an accelerator if the cluster has one.
        batch_size: number of pictures per run of a worker's network.
        max_pixels: largest picture, in pixels, that is opened.
        workers: number of workers; by default one per accelerator, or per two CPUs.
        cpus_per_worker: CPUs of each worker without an accelerator.

    Returns:
        A `ray.data.Dataset` with one row per picture, in any order: path, height, width, classes
        (id, label, share, pixels), error, and outputs (the files written). With "parquet", a
        dataset that reads the table.

    Raises:
        ImportError: Ray is not installed.
        FileNotFoundError: a path does not exist.
        ValueError: there are no pictures, two results would have the same name, the table exists
            already, or there are more workers than the cluster has room for.
    """
    ray = import_ray("data")
    out, table = store.absolute(out), outputs == "parquet"
    kinds = () if isinstance(outputs, str) else tuple(outputs)
    _check_outputs(out, outputs)
    pictures, roots = _opened(ray, source)
    chosen = choose_workers(
        ray.cluster_resources(), workers=workers, cpus=cpus_per_worker, device=device
    )
    job = Job(
        model=store.absolute(model) if os.path.exists(model) else model,
        dtype=dtype,
        batch_size=batch_size,
        max_pixels=max_pixels,
        out=None if table else out,
        outputs=kinds,
        roots=roots,
        alpha=alpha,
    )
    rows = _mapped(ray, pictures, job, chosen)
    if not table:
        return rows.materialize()
    _write_parquet(rows, out)
    return ray.data.read_parquet(out)


def _mapped(ray: Any, pictures: Any, job: Job, workers: Workers) -> Any:
    options = workers.options()
    # Ray reserves only half of the CPUs: otherwise its tasks that read and write never get one
    options["num_cpus"] /= 2
    return pictures.map_batches(
        SegmentBatch,
        fn_constructor_args=(job, workers),
        batch_size=job.batch_size,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(
            size=workers.count,
            max_concurrent_calls_per_actor=AT_ONCE,
            enable_true_multi_threading=True,
        ),
        udf_modifying_row_count=False,
        **options,
    )


def _opened(ray: Any, source: Any) -> tuple[Any, tuple[str, ...]]:
    """Returns the dataset of a source, and the folders that names of results are relative to."""
    if isinstance(source, ray.data.Dataset):
        missing = {"path", "bytes"} - set(source.columns() or ())
        if missing:
            raise ValueError(
                "the dataset must have the columns path and bytes, got none named "
                f"{' and '.join(sorted(missing))}: make it with "
                "ray.data.read_binary_files(…, include_paths=True)"
            )
        return source.select_columns(["path", "bytes"]), ()
    given = [source] if isinstance(source, str | Path) else list(source)
    if not given:
        raise ValueError("no picture given")
    places = [store.absolute(place) for place in given]
    folders = [place for place in places if store.is_folder(place)]
    files = [place for place in places if place not in folders]
    parts = [_reading(ray, files)] if files else []
    parts += [_reading(ray, [folder], endings=_endings()) for folder in folders]
    roots = tuple({store.inside_store(place) for place in folders} | {_parent(f) for f in files})
    both = clashes([path for part in parts for path in part.input_files()], roots)
    if both:
        stem, paths = next(iter(both.items()))
        raise ValueError(
            f"{' and '.join(paths[:2])} would both be written as {stem}.*: segment them into two "
            "folders"
        )
    return (parts[0].union(*parts[1:]) if len(parts) > 1 else parts[0]), roots


def _reading(ray: Any, places: Sequence[str], *, endings: Sequence[str] | None = None) -> Any:
    return ray.data.read_binary_files(
        list(places), include_paths=True, num_cpus=READING, file_extensions=endings
    )


def _endings() -> list[str]:
    """Returns the file endings of pictures, to select them in folders that hold other files too."""
    return sorted(ending.removeprefix(".") for ending in picture_endings())


def _parent(file: str) -> str:
    return os.path.dirname(store.inside_store(file))


def _check_outputs(out: str, outputs: Any) -> None:
    if outputs == "parquet":
        if not store.is_uri(out) and Path(out).exists():
            raise ValueError(f"{out} exists already: give the table another name")
        return
    unknown = [kind for kind in outputs if kind not in ENDINGS]
    if isinstance(outputs, str) or unknown or not outputs:
        raise ValueError(f"outputs must be 'parquet', or some of {(*ENDINGS,)}, got {outputs!r}")


def _write_parquet(rows: Any, out: str) -> None:
    """Writes a folder of Parquet files; on a disk, the folder appears when it is complete."""
    if store.is_uri(out):
        rows.write_parquet(out)
        return
    with atomic_folder(out) as part:
        rows.write_parquet(str(part))
