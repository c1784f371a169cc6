"""Takes corners out of the borders of polygons, so that neighbours keep a common border."""

from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Int

Corners = Int[np.ndarray, "_ 2"]


def simplified(ring: Corners, fixed: Bool[np.ndarray, " _"], tolerance: float) -> Corners:
    """Returns the corners of a ring that Douglas and Peucker's rule keeps.

    The ring is divided at its fixed corners, and each part is simplified on its own, in a direction
    that does not depend on the ring's: two rings with a common part keep the same corners of it.

    Args:
        ring: its corners; the first is not repeated.
        fixed: corners where more than two areas meet. Without any, the ring is divided at its
            first corner in the order of x and y, and at the one that is farthest from it.
        tolerance: largest distance of a removed corner from the new border, in pixels.
    """
    places = np.flatnonzero(fixed)
    if len(places) == 0:
        places = np.lexsort(ring.T[::-1])[:1]
    if len(places) == 1:
        distance = ((ring - ring[places[0]]) ** 2).sum(1)
        farthest = np.flatnonzero(distance == distance.max())
        places = np.sort([places[0], farthest[np.lexsort(ring[farthest].T[::-1])[0]]])
    ring = np.roll(ring, -places[0], 0)
    bounds = [*(places - places[0]).tolist(), len(ring)]
    closed = np.concatenate([ring, ring[:1]])
    parts = [closed[start : end + 1] for start, end in pairwise(bounds)]
    return np.concatenate([_part(part, tolerance)[:-1] for part in parts])


def _part(part: Corners, tolerance: float) -> Corners:
    backwards = part[0].tolist() > part[-1].tolist()
    if part[0].tolist() == part[-1].tolist():  # around, from a corner back to it
        backwards = part[1].tolist() > part[-2].tolist()
    line = part[::-1] if backwards else part
    keep = np.zeros(len(line), bool)
    keep[[0, -1]] = True
    todo = [(0, len(line) - 1)]
    while todo:
        first, last = todo.pop()
        if last - first < 2:
            continue
        distance = _distance(line[first + 1 : last], line[first], line[last])
        farthest = int(distance.argmax())
        if distance[farthest] > tolerance:
            middle = first + 1 + farthest
            keep[middle] = True
            todo += [(first, middle), (middle, last)]
    kept = line[keep]
    return kept[::-1] if backwards else kept


def _distance(points: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """The distance of points from the straight line between two others, which ends at these."""
    way, offset = (end - start).astype(float), (points - start).astype(float)
    along = np.clip(offset @ way / max(1.0, way @ way), 0, 1)
    return np.hypot(*(offset - along[:, None] * way).T)
