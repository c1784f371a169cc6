"""What a run says while it runs, to whoever listens."""

from collections.abc import Iterable
from typing import Any


class Teller:
    """Where a run says what it does; this one says nothing."""

    def say(self, text: str) -> None:
        """A line."""

    def checking(self, pairs: Iterable[Any]) -> Iterable[Any]:
        """Hands on what it is given, pair by pair."""
        return pairs

    def step(self, row: dict[str, Any], *, steps: int) -> None:
        """A step was done."""

    def evaluating(self, done: int) -> None:
        """So many more pictures were evaluated."""
