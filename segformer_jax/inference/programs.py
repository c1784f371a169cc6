"""A folder of programs that `segformer-jax compile` has compiled ahead, and its use.

The folder is a compilation cache of JAX with a manifest, programs.json. A process that uses it
traces the network, but compiles nothing. Programs are code: use only folders that you trust.
"""

import contextlib
import dataclasses
import hashlib
import math
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.compilation_cache.compilation_cache import reset_cache

from segformer_jax.atomic import atomic_path
from segformer_jax.config import SegformerConfig
from segformer_jax.inference.devices import local_devices
from segformer_jax.inference.made_for import MadeFor
from segformer_jax.json_text import json_bytes, json_value

MANIFEST = "programs.json"
VARIABLE = "SEGFORMER_JAX_PROGRAMS"  # names the folder for every command, as in an image
FORMAT = "segformer-jax programs 1"
HIT = "/jax/compilation_cache/cache_hits"  # JAX's name of the event that a program was found
CACHE = {  # JAX's settings of the cache; keys don't depend on the cache's path without XLA's own
    "jax_compilation_cache_max_size": -1,
    "jax_persistent_cache_enable_xla_caches": "",
    "jax_persistent_cache_min_entry_size_bytes": 0,
}


@dataclass(frozen=True)
class Manifest:
    """The content of programs.json.

    Attributes:
        made_for: the machine, versions and model that the programs are for.
        model: the model's name, as it was given.
        sizes: heights and widths of the network's input, in pixels.
        batch_sizes: numbers of pictures per run of the network.
        files: SHA-256 of each file of the folder, by its name.
    """

    made_for: MadeFor
    model: str
    sizes: list[tuple[int, int]]
    batch_sizes: list[int]
    files: dict[str, str]

    def write(self, folder: Path) -> None:
        """Writes `folder`/programs.json."""
        values = {"format": FORMAT} | dataclasses.asdict(self)
        with atomic_path(folder / MANIFEST) as temporary:
            temporary.write_bytes(json_bytes(values))

    @classmethod
    def read(cls, folder: Path) -> "Manifest":
        """Reads `folder`/programs.json.

        Raises:
            OSError: it can't be read.
            ValueError: it is damaged, or of another kind.
        """
        values = json_value((folder / MANIFEST).read_bytes())
        if not isinstance(values, dict) or values.get("format") != FORMAT:
            raise ValueError(f"its format is not {FORMAT!r}")
        files = values["files"] if isinstance(values.get("files"), dict) else {}
        if not files or any(Path(name).name != name for name in files):
            raise ValueError("it must list the folder's files")
        try:
            return cls(
                MadeFor.from_dict(values["made_for"]),
                str(values["model"]),
                [(int(height), int(width)) for height, width in values["sizes"]],
                [int(count) for count in values["batch_sizes"]],
                files,
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"an entry is missing or of another type: {error}") from error


def names_written(folder: Path) -> list[str]:
    """Returns the names of a folder's files that `segformer-jax compile` wrote."""
    try:
        return [MANIFEST, *Manifest.read(folder).files]
    except (OSError, ValueError):
        return []


def check_folder(folder: str | Path) -> None:
    """Checks that a folder has a manifest that can be opened.

    Raises:
        ValueError: it has none.
    """
    try:
        with open(Path(folder) / MANIFEST, "rb"):
            pass
    except OSError as error:
        raise ValueError(
            f"--programs must be a folder that segformer-jax compile wrote, got {folder}, whose "
            f"{MANIFEST} can't be read ({error.strerror}): correct the path, or leave it out"
        ) from error


def use_programs(
    model: str | Path,
    folder: str | Path | None = None,
    *,
    dtype: Any = jnp.float32,
    device: Any = None,
    **hub_options: Any,
) -> str | None:
    """Makes this process take a model's programs from a folder instead of compiling them.

    Call it before the model is loaded. Nothing is written to the folder. If the process has a
    compilation cache that can be written (`process.keep_compiled_programs`), the programs are
    copied there, so that it serves for all others; else others are compiled and not kept.

    Args:
        model: "scene-b0", a folder, or a name on the Hugging Face hub.
        folder: what `segformer-jax compile` wrote; by default what the environment variable
            SEGFORMER_JAX_PROGRAMS names, and without it nothing is changed.
        dtype: type of the matrix products, as for `Segmenter.from_pretrained`.
        device: as for `Segmenter`.
        hub_options: as for `Segmenter.from_pretrained`.

    Returns:
        A line for the user why the programs are left aside; None if they are used, or if there is
        no folder. Everything works without them; it is compiled anew.

    Raises:
        WeightsError: the model has no config.json that can be read.
        ValueError: JAX finds no such device.
    """
    folder = folder or os.environ.get(VARIABLE)
    if not folder:
        return None
    folder = Path(folder)
    here = MadeFor.here(SegformerConfig.from_pretrained(str(model), **hub_options), dtype, device)
    try:
        manifest = Manifest.read(folder)
        reason = manifest.made_for.difference(here)
        if reason is None and not _take(manifest, folder, device):
            reason = manifest.made_for.surplus(here)
    except (OSError, ValueError) as error:
        said = getattr(error, "strerror", None) or error
        reason = f"they are damaged or can't be read ({said})"
    return reason and f"the programs in {folder} are left aside: {reason}: compiling anew"


def probe(device: Any) -> bool:
    """Compiles a tiny program, or finds it in JAX's cache; returns whether it was found."""
    found = []

    def listen(event: str, **_: Any) -> None:
        found.append(event == HIT)

    @jax.jit
    def probe(x):
        return 2 * x + 1

    value = jax.device_put(np.ones(8, np.float32), local_devices(device)[0])
    jax.monitoring.register_event_listener(listen)
    try:
        with jax.set_mesh(None):
            probe.lower(value).compile()
    finally:
        jax.monitoring.unregister_event_listener(listen)
    return any(found)


@contextlib.contextmanager
def cache_in(folder: Path, *, written: bool) -> Iterator[None]:
    """Makes a folder JAX's compilation cache meanwhile; without `written` it is only read."""
    before = {name: getattr(jax.config, name) for name in (*CACHE, *_of(folder, written))}
    _set(CACHE | _of(folder, written))
    try:
        yield
    finally:
        _set(before)


def _of(folder: Path, written: bool) -> dict[str, Any]:
    return {
        "jax_compilation_cache_dir": str(folder),
        "jax_persistent_cache_min_compile_time_secs": 0.0 if written else math.inf,
    }


def _set(values: dict[str, Any]) -> None:
    for name, value in values.items():
        jax.config.update(name, value)
    reset_cache()  # JAX opens the folder again at the next compilation


def _take(manifest: Manifest, folder: Path, device: Any) -> bool:
    """Sets JAX's cache to the programs, and returns True, if they are for this very machine.

    Raises:
        OSError: a file can't be read.
        ValueError: a file is damaged.
    """
    contents = {name: _checked(folder / name, known) for name, known in manifest.files.items()}
    with cache_in(folder, written=False):
        if not probe(device):
            return False
    own = _own_cache(folder)
    if own is not None:
        with contextlib.suppress(OSError, ValueError):  # the disk is full: read the folder
            for name, content in contents.items():
                if not (own / name).exists():
                    with atomic_path(own / name) as temporary:
                        temporary.write_bytes(content)
            _set(CACHE)
            return True
    _set(CACHE | _of(folder, written=False))
    return True


def _checked(file: Path, known: str) -> bytes:
    content = file.read_bytes()
    if hashlib.sha256(content).hexdigest() != known:
        raise ValueError(f"{file.name} was changed")
    return content


def _own_cache(folder: Path) -> Path | None:
    """Returns the folder of JAX's compilation cache if this process can write it."""
    config: Any = jax.config  # its attributes are defined when JAX is imported
    own = config.jax_compilation_cache_dir
    if own is None or config.jax_compilation_cache_max_size != -1:
        return None  # a cache of limited size has files about its files
    try:
        Path(own).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=own):
            return None if Path(own).samefile(folder) else Path(own)
    except OSError:
        return None
