"""Computes a picture's class map from the top down, strip by strip, for any protocol.

Windows are read and computed when a strip first needs them, and freed when no strip needs them any
more. Memory holds only the logits of one or two rows of windows, at 1/4 of the pixels per side, and
one strip of full-size logits.
"""

import functools
import typing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt

from segformer_jax.images.flips import reversed_sides
from segformer_jax.images.processor import SegformerImageProcessor
from segformer_jax.inference.best_class import (
    best_of_logits,
    best_of_probabilities,
    check_threshold,
)
from segformer_jax.inference.class_map import rounded_width
from segformer_jax.inference.protocol import Protocol, View
from segformer_jax.inference.windows import Axis, Pixels, make_axis

STRIP_VALUES = 1 << 23  # logits in a strip: 32 MiB
STRIP_ROWS = (8, 128)  # fewest and most rows of a strip
PADDING = 1 / 8  # largest share of a picture's windows that may be added to fill the last batch

Strip = tuple[UInt[np.ndarray, "rows width"], Float[np.ndarray, "rows width"] | None]


@typing.runtime_checkable
class WindowModel(typing.Protocol):
    """Computes the logits of windows: the part of `Segmenter` that is used here."""

    processor: SegformerImageProcessor
    batch_size: int

    @property
    def num_labels(self) -> int: ...

    @property
    def device_count(self) -> int: ...

    def logits_size(self, height: int, width: int) -> tuple[int, int]: ...

    def start(self, inputs: Sequence[np.ndarray], *, at_least: int = 1) -> list[Array]: ...


def whole_class_map(
    segmenter: WindowModel, pixels: Pixels, protocol: Protocol, *, scores: bool = False
) -> tuple[UInt[np.ndarray, "H W"], Float[np.ndarray, "H W"] | None]:
    """Returns the best class of every pixel, and with `scores` its probability."""
    parts = list(class_strips(segmenter, pixels, protocol, scores=scores))
    classes, certainties = zip(*parts, strict=True)
    return np.concatenate(classes), np.concatenate(certainties) if scores else None


def class_strips(
    segmenter: WindowModel,
    pixels: Pixels,
    protocol: Protocol,
    *,
    columns: tuple[int, int] | None = None,
    scores: bool = False,
) -> Iterator[Strip]:
    """Yields the class map a few rows at a time: classes, and their probabilities or None.

    Each strip is computed outside of the caller's `jax.set_mesh`, which is set again whenever the
    caller continues.

    Args:
        segmenter: computes the logits.
        pixels: the picture.
        protocol: windows, scales and flips.
        columns: the first column of the result and the one past the last; None: all columns. A
            column has the same values, up to rounding, whichever others are computed.
        scores: whether to compute probabilities.

    Raises:
        ValueError: the protocol has a threshold, but the model has several labels.
    """
    columns = columns or (0, pixels.size[1])
    strips = _class_strips(segmenter, pixels, protocol, columns, scores)
    while True:
        with jax.set_mesh(None):
            strip = next(strips, None)
        if strip is None:
            return
        yield strip


def _class_strips(
    segmenter: WindowModel,
    pixels: Pixels,
    protocol: Protocol,
    columns: tuple[int, int],
    scores: bool,
) -> Iterator[Strip]:
    height, width = pixels.size
    left, right = columns
    labels = segmenter.num_labels
    check_threshold(protocol.threshold, labels)
    rows = _strip_rows(rounded_width(right - left), labels)
    looks = [
        _look(segmenter, pixels, protocol, view, (left, right))
        for view in protocol.views(segmenter.processor, height, width)
    ]
    taps = [_padded_taps(look.columns, rounded_width(right - left)) for look in looks]
    tops = range(0, height, rows)
    for top, *lows in zip(tops, *(_low_strips(segmenter, o, rows) for o in looks), strict=True):
        if len(looks) == 1:
            best, certainty = _strip(lows[0], taps[0], scores, protocol.threshold)
        else:
            total: Array | float = 0.0
            for low, own in zip(lows, taps, strict=True):
                total = _plus_probabilities(total, low, own)
            best, certainty = _best_of_mean(total, len(looks), scores, protocol.threshold)
        own = np.s_[: min(rows, height - top), : right - left]
        yield np.asarray(best)[own], np.asarray(certainty)[own] if scores else None


@dataclass(frozen=True, eq=False)
class _Look:
    """A view with its resized pixels, and the tables of its two sides, which place the windows."""

    pixels: Pixels
    rows: Axis
    columns: Axis
    flipped: tuple[bool, bool]

    def windows(self) -> Iterator[np.ndarray | None]:
        """Yields the windows row by row, from left to right; None where there is no data."""
        size = (self.rows.size, self.columns.size)
        rows, columns = (slice(None, None, -1 if flipped else 1) for flipped in self.flipped)
        for top, left in product(self.rows.starts, self.columns.starts):
            part = self.pixels.read(top, left, size)
            yield None if part is None else part[rows, columns]


def _look(
    segmenter: WindowModel, pixels: Pixels, protocol: Protocol, view: View, columns: tuple[int, int]
) -> _Look:
    windows = protocol.windows
    size = view.size
    if windows is not None:
        size = min(windows.size[0], size[0]), min(windows.size[1], size[1])
    cells = segmenter.logits_size(*size)
    axes, flipped = [], reversed_sides(view.flip)
    for side in (0, 1):
        axis = make_axis(
            pixels.size[side],
            view.size[side],
            size=size[side],
            stride=None if windows is None else windows.steps[side],
            cells=cells[side],
            flip=flipped[side],
        )
        axes.append(axis.renumbered(view.size[side]) if flipped[side] else axis)
    rows, across = axes
    resized = pixels.resized(view.size, segmenter.processor.resample)
    return _Look(resized, rows, across.part(*columns), flipped)


def _low_strips(
    segmenter: WindowModel, look: _Look, rows: int
) -> Iterator[Float[Array, "rows _ labels"]]:
    """Yields strips whose rows are the picture's, and whose columns are still the logits'."""
    waiting = _window_rows(segmenter, look)
    held: dict[int, Array] = {}
    span = look.rows.span(rows)
    for top in range(0, len(look.rows.index), rows):
        used = look.rows.windows(top, top + rows)
        held = {row: held[row] for row in used if row in held}
        strip: Array | float = 0.0
        for row in used:
            if row not in held:
                held[row] = next(waiting)
            matrix = look.rows.matrix(row, top, top + rows)
            first = min(int(matrix.any(0).argmax()), look.rows.cells - span)
            strip = _plus_rows(strip, matrix[:, first : first + span], held[row], np.int32(first))
        assert isinstance(strip, Array)
        yield strip


def _window_rows(segmenter: WindowModel, look: _Look) -> Iterator[Float[Array, "_ _ labels"]]:
    """Yields the logits of each row of windows, side by side."""
    across = len(look.columns.starts)
    shape = (1, look.rows.cells, look.columns.cells, segmenter.num_labels)
    row: list[Array | np.ndarray] = []
    device = None
    for logits in _window_logits(segmenter, look):
        if logits is None:
            row.append(np.zeros(shape, np.float32))
        else:
            device = device or next(iter(logits.devices()))
            row.append(jax.device_put(logits, device))
        if len(row) == across:
            yield _side_by_side(row)
            row = []


def _window_logits(
    segmenter: WindowModel, look: _Look
) -> Iterator[Float[Array, "1 _ _ labels"] | None]:
    """Yields each window's logits, None if it has no data; starts the next batch beforehand."""
    batch = _batch(segmenter, len(look.rows.starts) * len(look.columns.starts))
    before: list[Array | None] = []
    group: list[np.ndarray | None] = []
    for window in look.windows():
        group.append(window)
        if sum(own is not None for own in group) == batch:
            started = _started(segmenter, group, batch)
            yield from before
            before, group = started, []
    started = _started(segmenter, group, batch)
    yield from before
    yield from started


def _started(
    segmenter: WindowModel, group: list[np.ndarray | None], batch: int
) -> list[Array | None]:
    """Starts computing the logits of some windows, in a batch of a fixed size."""
    inputs = [
        segmenter.processor(window, do_resize=False)["pixel_values"][0]
        for window in group
        if window is not None
    ]
    logits = iter(segmenter.start(inputs, at_least=batch))
    return [None if window is None else next(logits) for window in group]


def _batch(segmenter: WindowModel, count: int) -> int:
    """Returns the fixed number of windows per batch, so that the last one needs little padding."""
    least = segmenter.device_count
    sizes = [least << power for power in range(16) if least << power <= segmenter.batch_size]
    return max((size for size in sizes if -count % size <= PADDING * count), default=least)


def _strip_rows(width: int, labels: int) -> int:
    least, most = STRIP_ROWS
    return max(least, min(most, 1 << (STRIP_VALUES // (width * labels)).bit_length() - 1))


def _padded_taps(axis: Axis, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns indices and weights, (taps, pixels), padded to a width that is compiled for."""
    more = ((0, width - len(axis.index)), (0, 0))
    index, weight = np.pad(axis.index, more, mode="edge"), np.pad(axis.weight, more)
    return index.T.astype(np.int32), np.ascontiguousarray(weight.T)


@jax.jit
def _side_by_side(row):
    return jnp.concatenate(row, axis=2)[0]


@jax.jit
def _plus_rows(strip, matrix, logits, first):
    own = jax.lax.dynamic_slice_in_dim(logits, first, matrix.shape[1])
    return strip + jnp.tensordot(matrix, own, axes=1, precision="highest")


def _full(low, taps):
    """Returns (rows, width, labels): every pixel computed from its taps."""
    parts = [
        jnp.take(low, index, axis=1, mode="clip") * weight[None, :, None]
        for index, weight in zip(*taps, strict=True)
    ]
    return functools.reduce(jnp.add, parts)


@functools.partial(jax.jit, static_argnames=("scores", "threshold"))
def _strip(low, taps, scores, threshold):
    return best_of_logits(_full(low, taps), threshold=threshold, scores=scores)


@jax.jit
def _plus_probabilities(total, low, taps):
    x = _full(low, taps)
    return total + (jax.nn.sigmoid(x) if x.shape[-1] == 1 else jax.nn.softmax(x, -1))


@functools.partial(jax.jit, static_argnames=("count", "scores", "threshold"))
def _best_of_mean(total, count, scores, threshold):
    return best_of_probabilities(total / count, threshold=threshold, scores=scores)
