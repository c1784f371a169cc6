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


@contextlib.contextmanager
def no_last_search() -> Iterator[None]:
    """Ends this process without a last search for garbage, which takes 0.3 s with JAX imported.

    After an exception, such as Ctrl-C's, it is searched: a device may still compute, and JAX waits
    for it only when nothing holds its client any more. The process would crash otherwise.
    """
    try:
        yield
    except BaseException:
        gc.unfreeze()
        raise
    atexit.register(gc.freeze)
