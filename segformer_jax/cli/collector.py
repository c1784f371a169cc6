"""Python's garbage collector, which searches all that a program has imported again and again."""

import atexit
import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def paused() -> Iterator[None]:
    """Collects nothing inside, and never searches what was made there, because it stays.

    Importing JAX, opening a model and tracing it take 0.3 s less so.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        if was_enabled:
            gc.enable()


def skip_last_search() -> None:
    """Ends this process without a last search for garbage, which takes 0.3 s with JAX imported."""
    atexit.register(gc.freeze)
