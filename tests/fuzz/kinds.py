"""The types of the readers in `readers/`."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random


@dataclass(frozen=True)
class Sample:
    """A valid input.

    Attributes:
        files: contents by path, relative to the input's folder.
        damaged: the path of the one that is damaged; the others stay as they are.
    """

    files: dict[str, bytes]
    damaged: str


@dataclass(frozen=True)
class Reader:
    """Functions that read files of a kind.

    Attributes:
        name: for messages, and for `--reader`.
        samples: makes valid inputs, always the same ones.
        damage: damages a file's content; the last argument has the contents of all samples, to
            take parts from.
        read: reads the folder of an input.
        documented: the exceptions that `read` may raise; other subclasses of theirs are faults.
        names_file: whether the message names a path in the input's folder.
    """

    name: str
    samples: Callable[[], list[Sample]]
    damage: Callable[[Random, bytes, list[bytes]], bytes]
    read: Callable[[Path], None]
    documented: tuple[type[Exception], ...]
    names_file: bool = True
