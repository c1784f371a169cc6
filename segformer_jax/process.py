"""Settings of a whole process, for programs such as the command line and a server."""

import ctypes
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import jax

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8  # of glibc's mallopt


def keep_compiled_programs() -> None:
    """Keeps compiled programs on disk, so that the next process need not compile them.

    The folder is `JAX_COMPILATION_CACHE_DIR`, or `segformer-jax/compiled` in the user's cache
    folder. If the latter can't be written, nothing is kept.
    """
    config: Any = jax.config  # its attributes are defined when JAX is imported
    if config.jax_compilation_cache_dir is None:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        folder = Path(base) / "segformer-jax" / "compiled"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError:
            return
        jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)


def keep_freed_memory() -> None:
    """Makes glibc reuse the memory of large temporaries, instead of returning it after each call.

    Returned memory would have to be faulted in again. Without glibc it has no effect.
    """
    _mallopt({M_MMAP_THRESHOLD: 1 << 30, M_TRIM_THRESHOLD: 2**31 - 1})


def share_one_arena() -> None:
    """Makes all threads share one arena of glibc's, for training and for long runs.

    With an arena each, they would fault in the others' memory again, which takes a third of a
    training step's CPU time. But XLA's compiler allocates in every thread, and waits for the others
    then: a photo's first forward pass takes a tenth longer to compile. Call this before threads are
    started. Without glibc it has no effect.
    """
    _mallopt({M_ARENA_MAX: 1})


def _mallopt(options: dict[int, int]) -> None:
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # other C libraries may not have it
        for option, value in options.items():
            mallopt(option, value)
