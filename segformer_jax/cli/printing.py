"""Prints tables and JSON to standard output, and everything else to standard error."""

import contextlib
import json
import sys
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from segformer_jax.json_text import json_bytes, readable

LISTED = 20  # of many lines of one kind


def print_json(value: Any) -> None:
    """Prints a line of JSON; characters that the output's encoding lacks are escaped."""
    line = json_bytes(value, indent=None).decode().strip()
    whole = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    print(line if whole else json.dumps(json.loads(line)))


def make_table(first: str, *others: str, title: str) -> Any:
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    table.add_column(first)
    for name in others:
        table.add_column(name, justify="right")
    return table


def make_console() -> Any:
    """A console that prints names as they are, also `[red]` and `:car:`, which rich replaces."""
    from rich.console import Console

    return Console(soft_wrap=not sys.stdout.isatty(), markup=False, emoji=False)


def say(message: str) -> None:
    print(f"segformer-jax: {readable(message)}", file=sys.stderr)


@contextlib.contextmanager
def shown_warnings() -> Iterator[None]:
    """Prints each warning as a line: the first 20 of each kind, then how many more there were."""
    counts: Counter[type[Warning]] = Counter()

    def show(message, category, filename, lineno, file=None, line=None) -> None:
        counts[category] += 1
        if counts[category] <= LISTED:
            say(f"warning: {by_line(message)}")

    with warnings.catch_warnings():
        warnings.showwarning = show
        try:
            yield
        finally:
            for count in counts.values():
                if count > LISTED:
                    say(f"{count - LISTED:,} more warnings like the last of these")


def about(file: Path, error: Exception) -> str:
    """Returns an error as one line that names its file."""
    reason = one_line(error)
    return reason if str(file) in reason else f"{file}: {reason}"


def by_line(error: Any) -> str:
    """Returns the text in one line, except for the items of a list, which are indented."""
    first, *items = str(error).split("\n  ")
    return "\n  ".join(map(one_line, (first or error, *items)))


def one_line(error: Any) -> str:
    text = " ".join(str(error).split())
    return text or type(error).__name__
