"""One commit against another: a process each, turn by turn, and the ratio of every pair.

What the machine does at a moment, both meet, and who goes first alternates; so the ratios of pairs
hold where the times do not. Their median has an interval without any assumption on how times are
spread: it reaches from one of the sorted ratios to another, by the binomial distribution.
"""

import contextlib
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from benchmarks.race import REST

Case = Literal["b0", "b2", "b5", "b0-bf16", "train-step", "class-map", "folder"]
CASES: tuple[Case, ...] = get_args(Case)
ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Ratio:
    """How many times as long a case takes here as there.

    Attributes:
        case: its name.
        here: the median of this checkout, in milliseconds.
        there: of the other commit.
        ratio: the median of the pairs' ratios.
        low: where its interval of 95 % begins.
        high: where it ends.
        bound: what the interval may reach.
    """

    case: str
    here: float
    there: float
    ratio: float
    low: float
    high: float
    bound: float

    @property
    def slower(self) -> bool:
        """Whether the interval reaches above the bound."""
        return self.high > self.bound


def against(commit: str, *, cases: Sequence[Case], pairs: int, bound: float) -> Iterator[Ratio]:
    """The ratios of this checkout, as it lies there, to a commit, case by case.

    Args:
        commit: anything that git knows as one.
        cases: what to measure.
        pairs: runs of each.
        bound: what the interval of a ratio may reach; twice as far above 1 in bfloat16, whose
            times spread more.

    Raises:
        ValueError: fewer than 6 pairs, which have no interval of 95 %; no such commit.
        RuntimeError: a case that does not run.
    """
    if pairs < 6:
        raise ValueError(f"pairs must be 6 or more, got {pairs}: fewer have no interval of 95 %")
    with checked_out(commit) as other:
        for case in cases:
            with contextlib.ExitStack() as stack:
                here, there = (
                    stack.enter_context(Worker(command_of(checkout, case), checkout))
                    for checkout in (ROOT, other)
                )
                times = take_turns(here, there, pairs=pairs)
            allowed = 1 + 2 * (bound - 1) if case.endswith("bf16") else bound
            yield ratio_of(case, *times, bound=allowed)


@contextlib.contextmanager
def checked_out(commit: str, *, repository: Path = ROOT) -> Iterator[Path]:
    """A folder with the files of a commit, for as long as it is needed.

    Raises:
        ValueError: git knows no such commit.
    """
    git = ["git", "-C", str(repository), "worktree"]
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder).resolve() / "checkout"
        added = [*git, "add", "--detach", str(place), commit]
        done = subprocess.run(added, capture_output=True, text=True)
        if done.returncode:
            raise ValueError(f"{commit!r} can't be checked out: {done.stderr.strip()}")
        try:
            yield place
        finally:
            subprocess.run([*git, "remove", "--force", str(place)], check=True)


def command_of(checkout: Path, case: str) -> list[str]:
    """The program of a case, always this checkout's own, on the library of another."""
    return [sys.executable, str(ROOT / "benchmarks" / "cases.py"), str(checkout), case]


class Worker:
    """A process that says "ready", and then how long each run took."""

    def __init__(self, command: Sequence[str], checkout: Path):
        self.process = subprocess.Popen(
            command,
            env=os.environ | {"PYTHONPATH": str(checkout)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> "Worker":
        try:
            self._answer()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()

    def run(self) -> float:
        """One run, in milliseconds."""
        assert self.process.stdin is not None
        self.process.stdin.write("run\n")
        self.process.stdin.flush()
        return float(self._answer())

    def _answer(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.process.args} ended with {self.process.wait()}")
        return line.strip()


def take_turns(here: Worker, there: Worker, *, pairs: int) -> tuple[list[float], list[float]]:
    """The times of both, pair by pair; who goes first alternates."""
    times: dict[Worker, list[float]] = {here: [], there: []}
    for number in range(pairs):
        for worker in (here, there) if number % 2 == 0 else (there, here):
            time.sleep(REST)
            times[worker].append(worker.run())
    return times[here], times[there]


def ratio_of(case: str, here: list[float], there: list[float], *, bound: float) -> Ratio:
    """The median ratio of the pairs and its interval."""
    ratios = sorted(own / other for own, other in zip(here, there, strict=True))
    rank = outer_rank(len(ratios))
    return Ratio(
        case,
        here=statistics.median(here),
        there=statistics.median(there),
        ratio=statistics.median(ratios),
        low=ratios[rank],
        high=ratios[-1 - rank],
        bound=bound,
    )


def outer_rank(count: int) -> int:
    """How many of the sorted values lie outside a median's interval of 95 %, on either side.

    Each value is above the true median as a coin shows heads, so that both outer parts together
    have the probability 2 · P(heads ≤ rank) of missing it: 3 values of 15 on either side.
    """
    missed, rank = 2 / 2**count, 0
    while (missed := missed + 2 * math.comb(count, rank + 1) / 2**count) <= 0.05:
        rank += 1
    return rank
