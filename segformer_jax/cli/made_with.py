"""Records the settings of the results in a folder, so that results are not mixed."""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

from segformer_jax.atomic import atomic_path
from segformer_jax.cli.segment_request import Request
from segformer_jax.inference.protocol import Protocol

FILE = "segment.json"
# what changes no result, or only which of them there are
NO_MATTER = ("out_dir", "outputs", "device", "batch_size", "max_pixels", "json", "overwrite")


def settings_of(request: Request, root: Path) -> dict[str, Any]:
    """All that a result depends on: the options, the model's files, where names are relative to."""
    options = dataclasses.asdict(request)
    kept = {name: value for name, value in options.items() if name not in NO_MATTER}
    if "overlay" not in request.outputs:
        del kept["alpha"]
    return {"pictures": str(root.resolve()), "weights": _fingerprint(request.model)} | kept


def check_settings(settings: dict[str, Any], out_dir: Path) -> None:
    """Raises a ValueError if the results in a folder were made with others."""
    file = out_dir / FILE
    before = read_settings(out_dir)
    if before is None:
        return
    if isinstance(before.get("protocol"), dict):  # written before it had all of today's options
        before["protocol"] = _as_read(dataclasses.asdict(Protocol())) | before["protocol"]
    for name in settings.keys() & before.keys():  # alpha is of no account without overlays
        if _as_read(settings[name]) != before[name]:
            raise ValueError(
                f"{file} records that the results in this folder were made with {name} "
                f"{before[name]!r}, not {settings[name]!r}: give another --out-dir, or "
                "--overwrite to replace them"
            )


def read_settings(out_dir: Path) -> dict[str, Any] | None:
    """What `write_settings` wrote; None where there is nothing.

    Raises:
        ValueError: the file is damaged.
    """
    file = out_dir / FILE
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
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
    """Beside the results; what is known of other options stays."""
    with atomic_path(out_dir / FILE) as temporary:
        temporary.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def _as_read(value: Any) -> Any:
    """A value as it is after the way through JSON, where tuples become lists."""
    return json.loads(json.dumps(value))


def _fingerprint(model: str) -> str:
    """Of the files that a model is read from: a folder's weights can be trained on meanwhile."""
    from segformer_jax.checkpoints import hub

    place = hub.resolve(model)
    files = [place] if place.is_file() else sorted(place.iterdir())
    digest = hashlib.sha256()
    for file in files:
        if file.suffix in (".json", ".safetensors", ".bin", ".pth", ".pt") and file.is_file():
            with open(file, "rb") as content:
                digest.update(hashlib.file_digest(content, "sha256").digest())
    return digest.hexdigest()[:16]
