"""JSON and file names as text, the same in any locale.

Where a locale is not UTF-8, Python hands out a file name's other bytes as surrogates, which no
encoding writes; `readable` turns them back.
"""

import json
import re
from typing import Any

ESCAPED = re.compile("[\udc80-\udcff]+")  # bytes of a file name that Python could not decode


def readable(text: str) -> str:
    """The text, with what was escaped of file names decoded as UTF-8 where it is UTF-8."""
    return ESCAPED.sub(
        lambda found: (
            found[0].encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape")
        ),
        text,
    )


def json_bytes(value: Any, *, indent: int | None = 2, sort_keys: bool = False) -> bytes:
    r"""JSON in UTF-8 with a line break at the end.

    Names that are not UTF-8 keep their escapes, such as `\udce9`: read back by Python, they name
    the same file.
    """
    text = json.dumps(value, indent=indent, sort_keys=sort_keys, ensure_ascii=False)
    return (readable(text) + "\n").encode("utf-8", "backslashreplace")
