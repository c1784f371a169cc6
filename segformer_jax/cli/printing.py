"""Prints tables and JSON to standard output, and everything else to standard error."""

import json
import sys
from typing import Any


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


def show_warning(message, category, filename, lineno, file=None, line=None) -> None:
    say(f"warning: {listed(message)}")


def listed(error: Any) -> str:
    """The text in one line, but for the items of a list, which are indented: a line each."""
    first, *items = str(error).split("\n  ")
    return "\n  ".join(map(one_line, (first or error, *items)))


def one_line(error: Any) -> str:
    text = " ".join(str(error).split())
    return text or type(error).__name__
