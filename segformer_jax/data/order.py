"""Chooses the picture of each training sample, from the seed and the sample's number alone."""

import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

ENDLESS = 1 << 40  # samples; more than any run takes


@dataclass(frozen=True)
class Share:
    """The size of one of several sources of pictures, and how often it is drawn from.

    Attributes:
        pictures: number of its pictures.
        weight: the source's share of the samples is this ÷ the sum of all sources' weights.
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
    """The endless order in which a run sees the pictures.

    Attributes:
        sources: for each source, the index of its first picture, the number of its pictures, and an
            endless sequence that holds each of them once per epoch, shuffled anew every epoch.
        turns: for each position, the source to draw from and how often it was drawn from before;
            None if there is only one source.
    """

    sources: tuple[tuple[int, int, Any], ...]
    turns: Any

    def pictures(self, position: int) -> Iterator[int]:
        """Yields the index of the picture at a position, then those of its possible replacements.

        These are the other pictures of the same source, in the order of the epoch.
        """
        source, turn = (0, position) if self.turns is None else self.turns[position]
        first, count, shuffled = self.sources[source]
        epoch, place = divmod(turn, count)
        for further in range(count):
            yield first + shuffled[epoch * count + (place + further) % count]


def make_order(pictures: int, *, shares: Sequence[Share] = (), seed: int) -> Order:
    """Makes an order with every picture once per epoch; with shares, once per epoch of its source.

    With shares, any sequence of consecutive samples has each source's share of them, to within a
    few samples. grain rounds weights down to hundredths of the smallest.

    Args:
        pictures: number of all pictures.
        shares: the sources, in the order in which their pictures are joined; empty for one source.
        seed: seed of the order, 0 or more.

    Raises:
        ValueError: the number of the sources' pictures is not `pictures`.
        ImportError: grain is missing.
    """
    grain = import_grain()
    counts = [share.pictures for share in shares] or [pictures]
    if sum(counts) != pictures:
        raise ValueError(f"the sources have {sum(counts)} pictures, the data set {pictures}")
    seeds = np.random.SeedSequence(seed).generate_state(len(counts))  # `shuffle` takes 32 bits
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
    """Imports and returns grain.

    Raises:
        ImportError: it is missing; the message says how to install it.
    """
    try:
        import grain
    except ImportError as error:
        raise ImportError("training needs grain: pip install 'segformer-jax[train]'") from error
    return grain
