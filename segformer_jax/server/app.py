"""The Ray Serve application: an HTTP entry that checks requests, and replicas that segment."""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray import serve

from segformer_jax.cluster.connection import keep_replica_on_loopback
from segformer_jax.cluster.resources import Workers, limit_threads
from segformer_jax.errors import ImageError
from segformer_jax.images.picture import as_rgb
from segformer_jax.images.read import MAX_PIXELS
from segformer_jax.inference.segmentation import Segmentation
from segformer_jax.server import requests
from segformer_jax.server.batcher import Batcher
from segformer_jax.server.budget import Budget
from segformer_jax.server.ingress import Answer, Ingress
from segformer_jax.server.requests import Limits, Wanted


@dataclass(frozen=True)
class Model:
    """The model that replicas load.

    Attributes:
        name: a weights package, a folder that every machine has, or a name on the hub.
        dtype: type of the matrix products.
        batch_size: largest number of pictures per run of a replica's network.
        programs: a folder of programs compiled ahead, which every machine has; by default what the
            replica's environment variable SEGFORMER_JAX_PROGRAMS names.
    """

    name: str = "scene-b0"
    dtype: str = "float32"
    batch_size: int = 8
    programs: Path | None = None


class Replica:
    """One segmenter, compiled for every batch size before it takes requests."""

    def __init__(self, model: Model, limits: Limits, workers: Workers):
        keep_replica_on_loopback()
        limit_threads(workers)
        import jax.numpy as jnp
        import numpy as np

        from segformer_jax.inference.programs import use_programs
        from segformer_jax.inference.segmenter import Segmenter
        from segformer_jax.process import keep_compiled_programs, keep_freed_memory, yield_to_others

        keep_freed_memory()
        keep_compiled_programs()
        self._left_aside = use_programs(
            model.name, model.programs, dtype=model.dtype, device=workers.device
        )
        self._limits = limits
        self._pixels = Budget(limits.decoded_pixels)  # of decoded pictures; others wait as bytes
        self._decoded = asyncio.Semaphore(max(16, 4 * model.batch_size))
        # more threads would slow the network, and so would threads of its own priority
        self._pictures = ThreadPoolExecutor(workers.threads, initializer=yield_to_others)
        self._segmenter = Segmenter.from_pretrained(
            model.name,
            dtype=jnp.dtype(model.dtype),
            device=workers.device,
            batch_size=model.batch_size,
            max_pixels=limits.pixels,
        )
        self._network = Batcher(self._class_maps, model.batch_size)
        channels = self._segmenter.processor.channels or 3
        grey = self._prepared(np.full((64, 64, channels), 128, np.uint8))[1]
        for size in self._segmenter.batch_sizes(*grey.shape[:2]):
            self._segmenter.class_maps([grey] * size, [(512, 512)] * size)

    async def left_aside(self) -> str | None:
        """Returns why programs compiled ahead are left aside, or None."""
        return self._left_aside

    async def segment(self, body: bytes, pixels: int, wish: Wanted) -> Answer:
        """Segments the content of a JPEG or PNG file; threads compute, not the event loop."""
        loop = asyncio.get_running_loop()
        async with self._decoded, self._pixels.taking(pixels):
            try:
                picture, values = await loop.run_in_executor(self._pictures, self._prepared, body)
            except ImageError as error:
                return Answer(422, str(error).encode())
            classes, batch = await self._network((values, (picture.height, picture.width)))
            result = Segmentation(classes, self._segmenter.id2label, picture)
            answer = await loop.run_in_executor(self._pictures, requests.answer, result, wish)
        return Answer(200, answer, batch)

    def _class_maps(self, requests: Sequence[Any]) -> list[Any]:
        inputs, sizes = zip(*requests, strict=True)
        return [classes for classes, _ in self._segmenter.class_maps(inputs, sizes)]

    def _prepared(self, source: Any) -> tuple[Any, Any]:
        processor = self._segmenter.processor
        picture = processor.read(source, max_pixels=self._limits.pixels)
        return as_rgb(picture), processor.eight_bits(picture)


def application(
    model: Model, limits: Limits, workers: Workers, *, name: str = "segformer"
) -> serve.Application:
    """Makes the application for `ray.serve.run`: one HTTP entry in front of the replicas."""
    replicas = serve.deployment(
        Replica,
        name=f"{name}-replica",
        num_replicas=workers.count,
        ray_actor_options=workers.options(),
        max_ongoing_requests=limits.queue,  # Ray retries those above it, up to seconds later
        health_check_timeout_s=120,
    ).bind(model, limits, workers)
    return serve.deployment(
        Ingress,
        name=f"{name}-ingress",
        ray_actor_options={"num_cpus": 0},
        max_ongoing_requests=4 * limits.queue + 100,  # so that the ingress can answer with 503
        health_check_timeout_s=120,
    ).bind(replicas, limits, model.batch_size)


def build(arguments: dict[str, str]) -> serve.Application:
    """Makes the application for `serve run segformer_jax.server.app:build model=scene-b0` (Ray).

    Args:
        arguments: model, dtype, batch_size; max_body_mib, max_pixels, max_queue, max_queue_mib;
            replicas; and cpus, gpus or tpus of each replica.
    """
    usual = {
        "model": "scene-b0", "dtype": "float32", "batch_size": 8, "max_body_mib": 32,
        "max_pixels": MAX_PIXELS, "max_queue": 256, "max_queue_mib": 512, "replicas": 1, "cpus": 1,
        "gpus": 0, "tpus": 0,
    }  # fmt: skip
    unknown = set(arguments) - set(usual)
    if unknown:
        raise ValueError(
            f"there is no argument {min(unknown)!r}: the arguments are {', '.join(usual)}"
        )
    given: dict[str, Any] = {
        name: type(value)(arguments.get(name, value)) for name, value in usual.items()
    }
    device = "gpu" if given["gpus"] else "tpu" if given["tpus"] else "cpu"
    workers = Workers(
        given["replicas"],
        device,
        cpus=given["cpus"],
        gpus=given["gpus"],
        resources={"TPU": given["tpus"]} if given["tpus"] else {},
    )
    return application(
        Model(given["model"], given["dtype"], given["batch_size"]),
        Limits(
            given["max_body_mib"] * 2**20,
            given["max_pixels"],
            given["max_queue"],
            given["max_queue_mib"] * 2**20,
        ),
        workers,
    )
