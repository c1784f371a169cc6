"""Reads and writes the small JSON files beside weights."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from segformer_jax.atomic import atomic_path
from segformer_jax.checkpoints.not_weights import check_is_no_stand_in
from segformer_jax.errors import WeightsError


def read_json(file: Path) -> dict[str, Any]:
    """The object that a file holds, with or without a byte order mark.

    Raises:
        WeightsError: it is no JSON object; an empty file, a web page or a pointer of Git LFS is
            named as such.
    """
    check_is_no_stand_in(file)
    try:
        values = json.loads(file.read_text(encoding="utf-8-sig"))
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


def write_json(values: Mapping[str, Any], file: Path) -> None:
    """Writes a file, whole or not at all."""
    with atomic_path(file) as temporary:
        text = json.dumps(values, indent=2, sort_keys=True, ensure_ascii=False)
        Path(temporary).write_text(text + "\n", encoding="utf-8")
