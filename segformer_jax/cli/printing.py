"""Prints tables and JSON to standard output, and everything else to standard error."""

import contextlib
import json
import sys
import warnings
from collections import Counter
from collections.abc import Iterator
from typing import Any

LISTED = 20  # of many lines of one kind


def print_json(value: Any) -> None:
    print(json.dumps(value, ensure_ascii=False))


def make_table(first: str, *others: str, title: str) -> Any:
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    table.add_column(first)
    for name in others:
        table.add_column(name, justify="right")
    return table


def make_console() -> Any:
    from rich.console import Console

    return Console(soft_wrap=not sys.stdout.isatty())


def say(message: str) -> None:
    print(f"segformer-jax: {message}", file=sys.stderr)


@contextlib.contextmanager
def shown_warnings() -> Iterator[None]:
    """Prints warnings in a line each: of each kind the first 20, then how many more there were."""
    counts: Counter[type[Warning]] = Counter()

    def show(message, category, filename, lineno, file=None, line=None) -> None:
        counts[category] += 1
        if counts[category] <= LISTED:
            say(f"warning: {one_line(message)}")

    with warnings.catch_warnings():
        warnings.showwarning = show
        try:
            yield
        finally:
            for count in counts.values():
                if count > LISTED:
                    say(f"{count - LISTED:,} more warnings like the last of these")


def one_line(error: Any) -> str:
    text = " ".join(str(error).split())
    return text or type(error).__name__
