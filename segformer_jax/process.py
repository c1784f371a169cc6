"""Settings of a whole process, for programs: the command line, a server."""

import ctypes
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import jax

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8  # of glibc's mallopt


def keep_compiled_programs() -> None:
    """Compiled programs are kept on disk, so that the next process need not compile.

    The folder is `JAX_COMPILATION_CACHE_DIR`, or `segformer-jax` in the user's cache. One that
    can't be written is done without.
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
    """Large temporaries are reused, not given back and faulted in anew at every call (glibc).

    All threads share one arena: each with its own would fault in the others' memory again, which
    is a third of a training step's CPU time. Call it before threads are started.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # another C library has none
        mallopt(M_ARENA_MAX, 1)
        mallopt(M_MMAP_THRESHOLD, 1 << 30)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
