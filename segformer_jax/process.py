"""Settings of a whole process, for programs such as the command line and a server."""

import ctypes
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import jax

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8  # of glibc's mallopt
ROOM = 2 << 30  # bytes for arrays that outlive a training step, or lie between two


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


def set_up_training() -> None:
    """Makes the settings of a process that trains; call it before JAX has started a device.

    The last two keep the temporaries of a step from being in memory several times on a CPU. The
    next step starts when those of the one before are free. And small arrays have room elsewhere:
    glibc would cut them from that free block, so that the next step needs another.
    """
    share_one_arena()
    keep_freed_memory()
    keep_compiled_programs()
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    _leave_room(ROOM)


def _leave_room(size: int) -> None:
    """Leaves glibc a free block that it prefers for small arrays; untouched, it is not in memory.

    A second block keeps it apart from what is allocated later.
    """
    libc = _libc()
    if hasattr(libc, "mallopt"):
        libc.malloc.argtypes, libc.malloc.restype = (ctypes.c_size_t,), ctypes.c_void_p
        libc.free.argtypes = (ctypes.c_void_p,)
        room, _ = libc.malloc(size), libc.malloc(size // 8)
        libc.free(room)


def _mallopt(options: dict[int, int]) -> None:
    mallopt = getattr(_libc(), "mallopt", None)
    if mallopt is not None:  # other C libraries may not have it
        for option, value in options.items():
            mallopt(option, value)


def _libc() -> Any:
    return ctypes.CDLL(None) if sys.platform == "linux" else None
