"""The picture of each training sample, as a function of the seed and the sample's number."""

import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

ENDLESS = 1 << 40  # samples


@dataclass(frozen=True)
class Share:
    """One of several sources of pictures, and how often it is drawn from.

    Attributes:
        pictures: how many it has.
        weight: its share of the samples is this ÷ the sum over all sources.
    """

    pictures: int
    weight: int | float

    def __post_init__(self):
        if self.pictures < 1:
            raise ValueError(f"pictures must be at least 1 per source, got {self.pictures}")
        if not 0 < self.weight < math.inf:
            raise ValueError(f"weight must be above 0, got {self.weight}")


@dataclass(frozen=True, eq=False)
class Order:
    """The pictures in the order in which a run sees them, without end.

    Attributes:
        sources: of each, the number of its first picture, how many it has, and all of them once an
            epoch, every epoch in another order.
        turns: by position, the source whose turn it is, and how many turns it had before; None for
            one source, whose turn it always is.
    """

    sources: tuple[tuple[int, int, Any], ...]
    turns: Any

    def pictures(self, position: int) -> Iterator[int]:
        """The number of the picture at a position; then those that may stand in for it.

        These are the other pictures of its source, in the order of the epoch.
        """
        source, turn = (0, position) if self.turns is None else self.turns[position]
        first, count, shuffled = self.sources[source]
        epoch, place = divmod(turn, count)
        for further in range(count):
            yield first + shuffled[epoch * count + (place + further) % count]


def make_order(pictures: int, *, shares: Sequence[Share] = (), seed: int) -> Order:
    """Every picture once an epoch; with shares, every picture once an epoch of its source.

    Any run of samples holds each source's share of them, to within a few samples; grain rounds
    weights down to hundredths of the smallest.

    Args:
        pictures: how many there are.
        shares: of the sources, whose pictures lie one source after the other.
        seed: of the order, 0 or more.

    Raises:
        ValueError: the sources have another number of pictures.
        ImportError: grain is missing.
    """
    grain = import_grain()
    counts = [share.pictures for share in shares] or [pictures]
    if sum(counts) != pictures:
        raise ValueError(f"the sources have {sum(counts)} pictures, the data set {pictures}")
    seeds = np.random.SeedSequence(seed).generate_state(len(counts))  # shuffle takes 32 bits
    sources = tuple(
        (sum(counts[:place]), count, grain.MapDataset.range(count).shuffle(seed=int(own)).repeat())
        for place, (count, own) in enumerate(zip(counts, seeds, strict=True))
    )
    if len(sources) == 1:
        return Order(sources, None)
    turns = [
        grain.MapDataset.range(ENDLESS).map(functools.partial(_turn, source))
        for source in range(len(sources))
    ]
    return Order(sources, grain.MapDataset.mix(turns, [share.weight for share in shares]))


def _turn(source: int, number: int) -> tuple[int, int]:
    return source, number


def import_grain() -> Any:
    """The package.

    Raises:
        ImportError: it is missing; it says how to get it.
    """
    try:
        import grain
    except ImportError as error:
        raise ImportError("training needs grain: pip install 'segformer-jax[train]'") from error
    return grain
