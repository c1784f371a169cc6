"""Shows the progress of a command: a bar in a terminal, else a line now and then."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm

from segformer_jax.cli.printing import say

SECONDS = 30.0  # from line to line


@contextmanager
def progress(total: int | None, *, unit: str) -> Iterator[Callable[[], None]]:
    """Gives a function to be called once for each that is done.

    Args:
        total: how many there are; None if that is unknown.
        unit: what is counted, in the singular.
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
    """A line on standard error, above the bar."""
    with tqdm.external_write_mode(file=sys.stderr):
        say(text)
