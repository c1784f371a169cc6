"""Reads and writes the small JSON files beside weights."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from segformer_jax.atomic import atomic_path
from segformer_jax.checkpoints.not_weights import check_is_no_stand_in
from segformer_jax.errors import WeightsError
from segformer_jax.json_text import json_bytes, json_value


def read_json(file: str | Path) -> dict[str, Any]:
    """Reads a JSON object, with or without a byte order mark.

    Raises:
        WeightsError: the file is missing or not a JSON object; an empty file, a web page and a
            pointer of Git LFS are named as such.
    """
    try:
        check_is_no_stand_in(Path(file))
        values = json_value(Path(file).read_bytes())
    except OSError as error:
        raise WeightsError(f"{file} can't be read ({error.strerror}): correct the path") from error
    except ValueError as error:
        raise WeightsError(
            f"{file} is not valid JSON ({error}): correct or download it again"
        ) from error
    if not isinstance(values, dict):
        raise WeightsError(
            f"{file} must hold a JSON object, got a {type(values).__name__}: "
            "correct or download it again"
        )
    return values


def write_json(values: Mapping[str, Any], file: str | Path) -> None:
    """Writes a file completely or not at all."""
    with atomic_path(file) as temporary:
        Path(temporary).write_bytes(json_bytes(values, sort_keys=True))
