"""Settings of a whole process, for programs such as the command line and a server."""

import ctypes
import os
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import jax

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8  # of glibc's mallopt
NICENESS = 10  # more than others: a tenth of their share of a busy core
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
    """Makes the memory of large temporaries be used again, instead of returned after each call.

    Returned memory has to be faulted in again: with b2 at 512×512, 21,000 pages per call, an eighth
    of the time. glibc keeps blocks above 64 MB only for the main thread. So a CPU now runs programs
    in the thread that calls them, also without glibc. Call this before JAX has started a device.
    """
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    _mallopt({M_MMAP_THRESHOLD: 1 << 30, M_TRIM_THRESHOLD: 2**31 - 1})


def yield_to_others() -> None:
    """Gives the calling thread a lower priority than the other threads have; Linux only.

    On a CPU, the threads of a network wait for each other. One that another thread interrupts, such
    as one that reads a picture, would keep all of them waiting.
    """
    if sys.platform == "linux":  # elsewhere a priority is the whole process's
        thread = os.PRIO_PROCESS, threading.get_native_id()
        os.setpriority(*thread, os.getpriority(*thread) + NICENESS)  # Linux takes 19 for more


def set_up_training() -> None:
    """Makes the settings of a process that trains; call it before JAX has started a device.

    All threads share one arena of glibc's. With an arena each, they would fault in the others'
    memory again, which takes a third of a step's CPU time. (Inference is faster with an arena each:
    its main thread has all of the large temporaries.)

    Two settings keep the temporaries of a step from being in memory several times on a CPU. With
    `keep_freed_memory`, the next step starts when those of the one before are free. And small
    arrays have room elsewhere: glibc would cut them from that free block, so that the next step
    needs another.
    """
    _mallopt({M_ARENA_MAX: 1})
    keep_freed_memory()
    keep_compiled_programs()
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
