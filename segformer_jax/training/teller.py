"""Progress callbacks of a training run."""

from collections.abc import Iterable
from typing import Any


class Teller:
    """Progress callbacks; the default does nothing."""

    def say(self, text: str) -> None:
        """A line of text about the run."""

    def checking(self, pairs: Iterable[Any]) -> Iterable[Any]:
        """Wraps the loop that checks the data's pairs, and yields every pair."""
        return pairs

    def step(self, row: dict[str, Any], *, steps: int) -> None:
        """Called after each step with its line of metrics.jsonl."""

    def evaluating(self, done: int) -> None:
        """Called when this many more pictures have been evaluated."""
