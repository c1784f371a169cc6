"""Shows the progress of a command: a bar in a terminal, else a line every 30 seconds."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm

from segformer_jax.cli.printing import say

SECONDS = 30.0  # between two lines


@contextmanager
def progress(total: int | None, *, unit: str) -> Iterator[Callable[[], None]]:
    """Shows progress; yields a function that is to be called after each item.

    Args:
        total: number of items, or None if unknown; the progress of a single item is not shown.
        unit: name of an item, in the singular.
    """
    started = told = time.monotonic()
    done = 0

    def step():
        nonlocal done, told
        done += 1
        bar.update()
        now = time.monotonic()
        if bar.disable and total != 1 and now - told >= SECONDS:
            told = now
            of = f"/{total:,}" if total else ""
            say(f"{done:,}{of} {unit}s, {done / (now - started):.1f} a second")

    quiet = total == 1 or not sys.stderr.isatty()
    with tqdm(total=total, unit=unit, disable=quiet) as bar:
        yield step


def say_aside(text: str) -> None:
    """Prints a line on standard error, above the bar."""
    with tqdm.external_write_mode(file=sys.stderr):
        say(text)
