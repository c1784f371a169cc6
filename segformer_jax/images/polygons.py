"""Turns class maps into polygons that cover exactly the pixels of their class.

A map is read in strips, from the top down, and a polygon is yielded as soon as its last row was
read: memory depends on the polygons that are not complete, not on the height of the map.

Borders are directed, with their class on the right. At each corner of the pixel grid, the 2×2
pixels around it say which borders turn there. Between two turns a border is straight, so a border
that leaves a corner eastward turns again at the next corner that one reaches eastward: the sorted
corners of both kinds, side by side, link the turns of all borders; likewise for the other three
directions. Strips are cut through the middle of a row of pixels, where only vertical borders cross.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Int, Integer

from segformer_jax.images.simplify import simplified

STRIP = 1 << 21  # pixels that are worked on at once
EAST, SOUTH, WEST, NORTH = range(4)

Ring = Int[np.ndarray, "_ _"]  # x, y, and inside this file a mark


@dataclass(frozen=True, eq=False)
class Polygon:
    """A connected area of one class; pixels that share only a corner are not connected.

    Attributes:
        index: the class.
        rings: the outline, then the holes: corners (x, y) of pixels, where (0, 0) is the upper left
            corner of the map and y points down. The first corner is not repeated at the end.
            Outlines go clockwise as they are seen, holes the other way.
        pixels: number of pixels of the class map, also of a simplified polygon.
    """

    index: int
    rings: tuple[Ring, ...]
    pixels: int


def polygons_of(
    class_map: Integer[np.ndarray, "H W"],
    *,
    ignore_index: int | None = None,
    min_area: int = 0,
    simplify: float = 0.0,
) -> Iterator[Polygon]:
    """Yields the polygons of a class map in memory, as `polygons_of_strips`."""
    rows = max(1, STRIP // class_map.shape[1])
    strips = (class_map[top : top + rows] for top in range(0, len(class_map), rows))
    return polygons_of_strips(
        strips, ignore_index=ignore_index, min_area=min_area, simplify=simplify
    )


def polygons_of_strips(
    strips: Iterable[Integer[np.ndarray, "_ W"]],
    *,
    ignore_index: int | None = None,
    min_area: int = 0,
    simplify: float = 0.0,
) -> Iterator[Polygon]:
    """Yields the polygons of a class map that is given in strips of whole rows.

    Drawn again, with a pixel belonging to the polygon that its centre is in, they give the map.
    They are valid by the rules of the OGC: no ring crosses or touches itself. Simplified polygons
    still share their borders, but may cross where a shape is thinner than the tolerance.

    Args:
        strips: from the top down, each of at least one row.
        ignore_index: pixels of this value belong to no polygon.
        min_area: smaller polygons, in pixels, are left out.
        simplify: how far, in pixels, a border may be moved to have fewer corners (Douglas and
            Peucker's rule); polygons and holes that vanish are left out.
    """
    for area in _areas(strips, -1 if ignore_index is None else ignore_index, simplify > 0):
        rings = [simple for ring in area.rings for simple in _simple(ring)]
        sizes = [_size(ring) for ring in rings]
        pixels, outline = sum(sizes), int(np.argmax(sizes))
        if pixels < min_area:
            continue
        rings.insert(0, rings.pop(outline))
        shown = [simplified(r[:, :2], r[:, 2] > 0, simplify) if simplify else r for r in rings]
        if len(shown[0]) > 2:
            kept = tuple(ring[:, :2] for ring in shown if len(ring) > 2)
            yield Polygon(area.index, kept, pixels)


def _areas(strips: Iterable[Integer[np.ndarray, "_ W"]], nothing: int, every: bool) -> Iterator:
    tracer: _Tracer | None = None
    for strip in strips:
        if tracer is None:
            tracer = _Tracer(strip.shape[1], nothing, every)
        yield from tracer.add(strip)
    if tracer is not None:
        yield from tracer.add(np.full((1, tracer.width), nothing))


@dataclass
class _Area:
    """What is known of an area: its class, and its rings in any order."""

    index: int = -1
    rings: list[Ring] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class _Turns:
    """The corners of a strip where borders turn, by the direction that borders reach them in."""

    points: Int[np.ndarray, "n 3"]  # x, y in the strip, and 1 where simplifying must keep it
    arriving: Int[np.ndarray, " n"]
    leaving: Int[np.ndarray, " n"]
    inside: Int[np.ndarray, "n 2"]  # row and column of a pixel on the right, in the grid

    def those(self, way: int) -> tuple[Int[np.ndarray, " _"], Int[np.ndarray, " _"]]:
        """Returns the turns that leave in this direction, and those reached in it."""
        return np.flatnonzero(self.leaving == way), np.flatnonzero(self.arriving == way)


class _Tracer:
    """Borders and areas that are not complete; `add` continues them."""

    def __init__(self, width: int, nothing: int, every: bool):
        self.width, self.nothing, self.every = width, nothing, every
        self.top = 0  # the grid row at the upper side of the next strip
        self.above = np.full(width + 2, nothing)  # the last row of pixels, and one on each side
        self.above_areas = np.zeros(width + 2, np.int64)  # their areas
        self.fresh = 1  # the next area's number
        self.areas: dict[int, _Area] = {}
        # borders that reach the cut from below (northward), by column, each with its turns so far,
        # and the place, among those that leave through the cut (southward), where it ends
        self.chains: list[list[Ring]] = []
        self.ends: np.ndarray = np.zeros(0, np.int64)

    def add(self, strip: Integer[np.ndarray, "rows W"]) -> Iterator[_Area]:
        """Continues all borders through a strip; yields the areas that are complete."""
        grid = np.full((len(strip) + 1, self.width + 2), self.nothing)
        grid[0], grid[1:, 1:-1] = self.above, strip
        areas = self._areas_of(grid)
        turns = _turns(grid, self.nothing, self.every)
        for ring, turn in self._rings(grid, turns):
            row, column = turns.inside[turn]
            area = self.areas.setdefault(int(areas[row, column]), _Area(int(grid[row, column])))
            area.rings.append(ring)
        self.above, self.above_areas = grid[-1], areas[-1]
        self.top += len(strip)
        going_on = set(np.unique(areas[-1]).tolist())
        for number in [number for number in self.areas if number not in going_on]:
            yield self.areas.pop(number)

    def _areas_of(self, grid: Int[np.ndarray, "rows w"]) -> Int[np.ndarray, "rows w"]:
        """Returns the number of each pixel's area; joins areas that turn out to be one."""
        parts, count = _connected(grid)
        numbers = self.fresh + np.arange(count)
        self.fresh += count
        known: set[int] = set()
        data = grid[0] != self.nothing
        pairs = np.unique(np.stack([parts[0][data], self.above_areas[data]]), axis=1)
        for part, number in pairs.T.tolist():
            if part not in known:
                known.add(part)
                numbers[part] = number
            elif number in self.areas:
                old = self.areas.pop(number)
                self.areas.setdefault(int(numbers[part]), _Area(old.index)).rings += old.rings
        return numbers[parts]

    def _rings(self, grid: Int[np.ndarray, "rows w"], turns: _Turns) -> Iterator[tuple[Ring, int]]:
        """Yields the rings that close in this strip, each with one of its turns."""
        top_s, top_n = _crossings(grid[0], self.nothing)
        bottom_s, bottom_n = _crossings(grid[-1], self.nothing)
        count = len(turns.points)
        first = np.cumsum([count, *map(len, (top_s, top_n, bottom_n, bottom_s))])
        enter_s, leave_n, enter_n, leave_s = (np.arange(*first[i : i + 2]) for i in range(4))
        after = np.zeros(first[-1], np.int64)  # what follows each turn and each crossing
        after[leave_n] = enter_s[self.ends]
        (x, y, _), height = turns.points.T, len(grid) + 1
        by_row, by_column = y * (self.width + 1) + x, x * height + y + 1
        for way in (EAST, WEST):
            left, reached = turns.those(way)
            _link(after, (left, by_row[left]), (reached, by_row[reached]))
        for way, enter, enter_at, leave, leave_at in (
            (SOUTH, enter_s, top_s * height, leave_s, bottom_s * height + height - 1),
            (NORTH, enter_n, bottom_n * height + height - 1, leave_n, top_n * height),
        ):
            left, reached = turns.those(way)
            starts = np.concatenate([left, enter]), np.concatenate([by_column[left], enter_at])
            stops = np.concatenate([reached, leave]), np.concatenate([by_column[reached], leave_at])
            _link(after, starts, stops)
        points = turns.points + np.array([0, self.top, 0])
        walk = _Walk(points, after.tolist(), int(first[1]), self.chains)
        walks = [walk.along(node, to=int(first[3])) for node in enter_n.tolist()]
        for node in range(count):
            if not walk.done[node]:
                yield np.concatenate(walk.along(node, to=int(first[-1]))[0]), node
        self.chains = [parts for parts, _ in walks]
        self.ends = np.array([end for _, end in walks], np.int64) - first[3]


class _Walk:
    """Follows borders from turn to turn; nodes above the turns are crossings of the two cuts."""

    def __init__(
        self, points: Ring, after: list[int], leave_n: int, chains: Sequence[Sequence[Ring]]
    ):
        self.points, self.after, self.leave_n, self.chains = points, after, leave_n, chains
        self.done = bytearray(len(points))

    def along(self, start: int, *, to: int) -> tuple[list[Ring], int]:
        """Returns the turns from a node to the first node ≥ `to`, or around; and the last node."""
        parts, run, node = [], [], start
        while True:
            if node < len(self.points):
                run.append(node)
                self.done[node] = True
            elif self.leave_n <= node < self.leave_n + len(self.chains):
                parts += [self.points[run]] if run else []
                parts += self.chains[node - self.leave_n]
                run = []
            node = self.after[node]
            if node >= to or node == start:
                return [*parts, self.points[run]] if run else parts, node


def _link(after: np.ndarray, left: Sequence[np.ndarray], reached: Sequence[np.ndarray]) -> None:
    """Links the nodes that borders leave and reach in one direction, sorted by place."""
    (starts, start_keys), (stops, stop_keys) = left, reached
    after[starts[np.argsort(start_keys)]] = stops[np.argsort(stop_keys)]


def _crossings(row: Int[np.ndarray, " w"], nothing: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the grid columns where borders cross a row of pixels southward, and northward."""
    differ = row[:-1] != row[1:]
    left, right = row[:-1] != nothing, row[1:] != nothing
    return np.flatnonzero(differ & left), np.flatnonzero(differ & right)


def _turns(grid: Int[np.ndarray, "rows w"], nothing: int, every: bool) -> _Turns:
    """Returns the turns in the corners between the pixels a b over c d of all 2×2 pixels.

    With `every`, borders that go straight on where a third area begins count as turns, too: all
    areas then have the same corners along a common border.
    """
    a, b, c, d = grid[:-1, :-1], grid[:-1, 1:], grid[1:, :-1], grid[1:, 1:]
    found = []
    for arriving, own, right, left, across, offset in (
        # pixels as a border that arrives sees them: right and left of it, and ahead of these
        (SOUTH, a, c, b, d, (0, 0)),
        (WEST, b, a, d, c, (0, 1)),
        (NORTH, d, b, c, a, (1, 1)),
        (EAST, c, d, a, b, (1, 0)),
    ):
        border = (own != left) & (own != nothing)
        to_right, to_left = border & (right != own), border & (right == own) & (across == own)
        straight = border & ~to_right & ~to_left & (across != left)  # a third area begins
        y, x = np.nonzero(to_right | to_left | straight if every else to_right | to_left)
        turn = np.where(to_right[y, x], 1, np.where(to_left[y, x], 3, 0))
        meet = (straight | (to_right & ((left != across) | (across != right))))[y, x]
        fixed = meet | (x == 0) | (x == grid.shape[1] - 2)  # also the corners of the map
        points, inside = np.stack([x, y, fixed], -1), np.stack([y, x], -1) + offset
        found.append((points, np.full(len(x), arriving), (arriving + turn) % 4, inside))
    return _Turns(*(np.concatenate(own) for own in zip(*found, strict=True)))


def _connected(grid: Int[np.ndarray, "rows w"]) -> tuple[Int[np.ndarray, "rows w"], int]:
    """Returns the connected part, from 0, that each pixel is in, and the number of parts."""
    new = np.ones(grid.shape, bool)  # where a run of equal pixels begins in its row
    new[:, 1:] = grid[:, 1:] != grid[:, :-1]
    runs = new.cumsum().reshape(grid.shape) - 1
    meet = grid[1:] == grid[:-1]
    meet[:, 1:] &= new[1:, 1:] | new[:-1, 1:] | ~meet[:, :-1]  # once for two runs
    upper, lower = runs[:-1][meet], runs[1:][meet]
    count = int(runs[-1, -1]) + 1
    # imported here: SciPy's start takes as long as segmenting a photo
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    links = coo_array((np.ones(len(upper), bool), (upper, lower)), shape=(count, count))
    parts, labels = connected_components(links, directed=False)
    return labels[runs], parts


def _size(ring: Ring) -> int:
    """Returns the number of pixels inside; it is below 0 for a hole."""
    (x, y), (x_next, y_next) = ring.T[:2], np.roll(ring, -1, 0).T[:2]
    return int((x * y_next - x_next * y).sum()) // 2


def _simple(ring: Ring) -> Iterator[Ring]:
    """Splits a ring that passes a corner twice, as an outline and a hole that meet there do."""
    corners = list(map(tuple, ring.tolist()))
    if len(set(corners)) == len(corners):
        yield ring
        return
    path: list[tuple[int, ...]] = []
    place: dict[tuple[int, ...], int] = {}
    for corner in corners:
        if corner in place:
            loop, path = path[place[corner] :], path[: place[corner]]
            for passed in loop:
                del place[passed]
            yield np.array(loop)
        place[corner] = len(path)
        path.append(corner)
    yield np.array(path)
