"""Records the settings of the results in a folder, so that results are not mixed."""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

from segformer_jax.atomic import atomic_path
from segformer_jax.cli.segment_request import POLYGONS, Request
from segformer_jax.inference.protocol import Protocol
from segformer_jax.json_text import json_bytes, json_value

FILE = "segment.json"
# options that change no result; they affect at most which results are written
NO_MATTER = (
    *("out_dir", "outputs", "device", "batch_size", "max_pixels", "json", "overwrite"),
    "programs",
)


def settings_of(request: Request, root: Path) -> dict[str, Any]:
    """Returns what results depend on: options, hash of the model's files, the pictures' folder."""
    options = dataclasses.asdict(request)
    kept = {name: value for name, value in options.items() if name not in NO_MATTER}
    if "overlay" not in request.outputs:
        del kept["alpha"]
    if not POLYGONS & set(request.outputs):
        del kept["min_area"], kept["simplify"]
    return {"pictures": str(root.resolve()), "weights": _fingerprint(request.model)} | kept


def check_settings(settings: dict[str, Any], out_dir: Path) -> None:
    """Raises a ValueError if the results in a folder were made with other settings."""
    file = out_dir / FILE
    before = read_settings(out_dir)
    if before is None:
        return
    if isinstance(before.get("protocol"), dict):  # older versions wrote fewer options
        before["protocol"] = _as_read(dataclasses.asdict(Protocol())) | before["protocol"]
    for name in settings.keys() & before.keys():  # alpha is absent without overlays
        if _as_read(settings[name]) != before[name]:
            raise ValueError(
                f"{file} records that the results in this folder were made with {name} "
                f"{before[name]!r}, not {settings[name]!r}: give another --out-dir, or "
                "--overwrite to replace them"
            )


def read_settings(out_dir: Path) -> dict[str, Any] | None:
    """Returns what `write_settings` wrote, or None if there is no such file.

    Raises:
        ValueError: the file is damaged.
    """
    file = out_dir / FILE
    try:
        found = json_value(file.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise ValueError(
            f"{file} is damaged: give another --out-dir, or --overwrite to replace the results"
        )
    return found


def write_settings(settings: dict[str, Any], out_dir: Path) -> None:
    """Writes the settings into the folder of the results; replaces those that were there."""
    with atomic_path(out_dir / FILE) as temporary:
        temporary.write_bytes(json_bytes(settings))


def _as_read(value: Any) -> Any:
    """Returns a value as it would be read from JSON, where tuples become lists."""
    return json.loads(json.dumps(value))


def _fingerprint(model: str) -> str:
    """Hashes the files of a model, because more training may change the weights in a folder."""
    from segformer_jax.checkpoints import hub

    place = hub.resolve(model)
    files = [place] if place.is_file() else sorted(place.iterdir())
    digest = hashlib.sha256()
    for file in files:
        if file.suffix in (".json", ".safetensors", ".bin", ".pth", ".pt") and file.is_file():
            with open(file, "rb") as content:
                digest.update(hashlib.file_digest(content, "sha256").digest())
    return digest.hexdigest()[:16]
