"""Adds measured rows to one JSON file, which several commands share, as soon as they are measured.

The file holds `{"runs": [{"command", "started", "machine", "rows", "not_run"}, …]}`, with a run for
each command. It is written under a temporary name and renamed, so that a command that is killed
leaves the earlier rows as they were.
"""

import fcntl
import json
import os
import shlex
import sys
from collections.abc import Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.machine import describe
from segformer_jax.atomic import atomic_path
from segformer_jax.json_text import json_bytes

Row = dict[str, Any]


def new_run(file: Path) -> Row:
    """Returns a run without rows: the command of this process, the time in UTC and the machine.

    Raises:
        SystemExit: as `read`; called before anything is measured.
    """
    read(file)
    words = sys.orig_argv[1:]
    return {
        "command": shlex.join(["python", *words]),
        "started": datetime.now(UTC).isoformat(timespec="microseconds"),
        "machine": describe(),
        "rows": [],
        "not_run": [],
    }


def append(file: Path, run: Row, rows: Sequence[Row], *, not_run: Sequence[str] = ()) -> None:
    """Adds rows to a run, and writes the run to the file, behind those of other processes.

    Args:
        file: the JSON file, which is made if missing.
        run: of `new_run`; the rows are added to it too.
        rows: dictionaries of JSON's types.
        not_run: what could not be measured, and why.

    Raises:
        SystemExit: as `read`; the file stays as it is.
    """
    run["rows"].extend(rows)
    run["not_run"].extend(not_run)
    file.parent.mkdir(parents=True, exist_ok=True)
    with _alone(file.parent):
        others = [own for own in read(file) if own.get("started") != run["started"]]
        text = json_bytes({"runs": [*others, run]})
        with atomic_path(file) as temporary:
            temporary.write_bytes(text)


def read(file: Path) -> list[Row]:
    """Returns the runs of a file; none if it does not exist.

    Raises:
        SystemExit: the file is damaged, or another kind of file.
    """
    if not file.exists():
        return []
    try:
        runs = json.loads(file.read_bytes())["runs"]
        if not all(isinstance(run["rows"], list) for run in runs):
            raise TypeError("a run has no list of rows")
    except (ValueError, TypeError, KeyError, OSError) as error:
        sys.exit(
            f'{file} must be JSON with "runs", got {type(error).__name__}: {error}: move it away, '
            "or give another file; nothing was written"
        )
    return runs


@contextmanager
def _alone(folder: Path):
    """Waits until no other process that uses this function writes to the folder."""
    lock = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)
