"""`--id2label`: names of a model's classes, from a file."""

from pathlib import Path

from segformer_jax.json_text import json_value


def read_class_names(file: Path | None) -> dict[int, str] | None:
    """Returns the names by index; None if no file is given.

    Args:
        file: JSON, {"0": "road", "1": "sky"} or ["road", "sky"]; or text with a name a line, the
            first of the class 0. A config.json is read too.

    Raises:
        ValueError: the file is not there, or holds something else. Gaps are the model's to refuse.
    """
    if file is None:
        return None
    rule = '--id2label must name a file such as {"0": "road", "1": "sky"}, or with a name a line'
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{rule}, got {file}, which can't be read: {error}") from error
    if not text.lstrip().startswith(("{", "[")):
        return dict(enumerate(line.strip() for line in text.splitlines() if line.strip()))
    try:
        content = json_value(text)
        content = content.get("id2label", content) if isinstance(content, dict) else content
        items = enumerate(content) if isinstance(content, list) else content.items()
        return {int(index): str(name) for index, name in items}
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{rule}, got {file}: {error}") from error
