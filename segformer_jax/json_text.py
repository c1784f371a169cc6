"""Reads JSON, and writes it and file names as UTF-8, whatever the locale.

Bytes of a file name that are not in the locale's encoding are surrogates in Python, which UTF-8
can't encode.
"""

import json
import re
from typing import Any

ESCAPED = re.compile("[\udc80-\udcff]+")  # bytes of a file name that Python could not decode


def readable(text: str) -> str:
    """Returns the text with its surrogates decoded as UTF-8, where they are the bytes of UTF-8."""
    return ESCAPED.sub(
        lambda found: (
            found[0].encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape")
        ),
        text,
    )


def json_value(text: str | bytes) -> Any:
    """Parses JSON; bytes may begin with a byte order mark.

    Raises:
        ValueError: the text is not JSON, not UTF-8, UTF-16 or UTF-32, or nested too deeply, for
            which Python's parser has an error of another kind.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def json_bytes(value: Any, *, indent: int | None = 2, sort_keys: bool = False) -> bytes:
    r"""Returns JSON in UTF-8 with a line break at the end.

    File names that are not UTF-8 get escapes such as `\udce9`; Python reads these as the name of
    the same file.
    """
    text = json.dumps(value, indent=indent, sort_keys=sort_keys, ensure_ascii=False)
    return (readable(text) + "\n").encode("utf-8", "backslashreplace")
