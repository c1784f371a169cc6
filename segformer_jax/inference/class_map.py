"""Computes class maps of any size from logits at 1/4 of a picture, with few compiled programs.

The full-size logits are never in memory: strips of `ROWS` rows are interpolated and reduced to the
best class at once. Sizes are passed as arrays of neighbours and weights, and widths are rounded up
to a few values, so that a thousand picture sizes need only a few programs. CPUs have a faster
implementation for class maps without scores.
"""

import threading
from collections.abc import Callable
from functools import cache, lru_cache, partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt

from segformer_jax.bilinear import bilinear_neighbours
from segformer_jax.inference.best_class import best_of_logits, check_threshold
from segformer_jax.inference.class_map_cpu import class_map_on_cpu, padded
from segformer_jax.ops.resize import lerp

ROWS = 128


def class_map(
    logits: Float[Array, "1 h w labels"],
    size: tuple[int, int],
    *,
    scores: bool = False,
    threshold: float = 0.5,
) -> tuple[UInt[np.ndarray, "H W"], Float[np.ndarray, "H W"] | None]:
    """Returns each pixel's best class in a picture of `size`, and with `scores` its probability.

    The logits are upsampled bilinearly as torch does, then compared. With a single label the map is
    1 where its probability is above the threshold. The map is uint8, or uint16 above 255 classes.

    Raises:
        ValueError: `threshold` is not 0.5, and there are several labels.
    """
    return start_class_map(logits, size, scores=scores, threshold=threshold)()


def start_class_map(
    logits: Float[Array, "1 h w labels"],
    size: tuple[int, int],
    *,
    scores: bool = False,
    threshold: float = 0.5,
) -> Callable[[], tuple[UInt[np.ndarray, "H W"], Float[np.ndarray, "H W"] | None]]:
    """Starts `class_map` without waiting, so that the device never waits for the host.

    Returns:
        A function that waits for the class map and returns it. On a GPU or TPU all work has been
        started, including the copy to the host; on a CPU most work is done when it is called.
    """
    check_threshold(threshold, logits.shape[-1])
    if logits.shape[-1] > 1 and not scores and _on_cpu(logits):

        def finish_on_cpu():
            with jax.set_mesh(None):
                return class_map_on_cpu(logits, size), None

        return finish_on_cpu
    with jax.set_mesh(None):  # in a caller's mesh, all arrays must be on its devices
        strips = list(class_map_strips(logits, size, scores=scores, threshold=threshold))
    for strip in strips:
        for part in strip:
            part.copy_to_host_async()

    def finish():
        classes, certainties = (
            [np.asarray(part)[:, : size[1]] for part in parts]
            for parts in zip(*strips, strict=True)
        )
        whole = np.concatenate(classes)[: size[0]]
        return whole, np.concatenate(certainties)[: size[0]] if scores else None

    return finish


@cache
def start_compiling(grid: tuple[int, int, int], device: jax.Device) -> threading.Thread | None:
    """Compiles, once and in a thread, what class maps of (h, w, labels) logits need on a CPU.

    It is called before the network is compiled, which takes Python's time first and XLA's then, so
    that both cores of a small machine have work.
    """
    if device.platform != "cpu" or grid[-1] == 1:
        return None
    logits = jax.device_put(np.zeros((1, *grid), np.float32), device)
    thread = threading.Thread(target=class_map, args=(logits, (1, 1)))
    thread.start()
    return thread


def class_map_strips(
    logits: Float[Array, "1 h w labels"],
    size: tuple[int, int],
    *,
    scores: bool,
    threshold: float = 0.5,
):
    """Yields strip after strip, still on the device: (classes, probabilities), padded to `ROWS`."""
    rows, columns = _neighbours(logits.shape[1:3], size, logits.sharding)
    for strip in rows:
        yield _strip(logits, strip, columns, scores, threshold)


@lru_cache(maxsize=16)  # the pictures of a folder, and the frames of a film, are mostly of one size
def _neighbours(grid, size, sharding):
    """Returns the neighbours of each strip's rows and of the columns, on the device if only one."""
    rows = bilinear_neighbours(grid[0], size[0])
    columns = bilinear_neighbours(grid[1], size[1])
    strips = [
        [padded(a[start : start + ROWS], ROWS) for a in rows] for start in range(0, size[0], ROWS)
    ]
    found = strips, [padded(a, rounded_width(size[1])) for a in columns]
    one = len(sharding.device_set) == 1
    return jax.device_put(found, next(iter(sharding.device_set))) if one else found


def rounded_width(width: int) -> int:
    """Rounds up to a width that is compiled for: 256, 512, 768, 1024, 1536, 2048 and so on."""
    whole = max(256, 1 << (width - 1).bit_length())
    between = whole * 3 // 4
    return between if width <= between and whole > 512 else whole


def _on_cpu(logits: Array) -> bool:
    return all(device.platform == "cpu" for device in logits.devices())


@partial(jax.jit, static_argnums=(3, 4))
def _strip(logits, rows, columns, scores, threshold):
    x = lerp(logits[0].astype(jnp.float32), rows, 0)
    x = lerp(x, columns, 1)  # (rows, width, labels)
    return best_of_logits(x, threshold=threshold, scores=scores)
