"""Reads and writes the JSON of configs and processors."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from segformer_jax.atomic import atomic_path
from segformer_jax.errors import WeightsError


def json_text(values: Mapping[str, Any]) -> str:
    """Returns the text of a file: sorted keys, indented by 2, as transformers writes it."""
    return json.dumps(values, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def write_json(values: Mapping[str, Any], file: str | Path) -> None:
    """Writes a file, completely or not at all.

    Raises:
        ValueError: the folder can't be written.
    """
    with atomic_path(file) as temporary:
        Path(temporary).write_text(json_text(values), encoding="utf-8")


def read_json(file: str | Path) -> dict[str, Any]:
    """Reads the JSON object in a file.

    Raises:
        WeightsError: there is no such file, or it holds something else.
    """
    try:
        values = json.loads(Path(file).read_text(encoding="utf-8"))
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
