"""Compares two commits by pairs of processes, one of each commit, which take turns.

Two runs in turn meet the same load of the machine, and the first one alternates, so that the ratio
of their times is reliable even if the times are not. But two processes of the same code also
differ, as their memory lies elsewhere. So each pair of processes gives one ratio, the median of its
runs. The confidence interval of the median of these ratios needs no assumption on how they are
distributed: it reaches from one of them, sorted, to another, which the binomial distribution gives.
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
RUNS = 5  # of each process


@dataclass(frozen=True)
class Ratio:
    """The time of a case in this checkout ÷ its time in another commit, over pairs of processes.

    Attributes:
        case: its name.
        here: median time of this checkout, in milliseconds.
        there: median time of the other commit, in milliseconds.
        ratio: the median of the pairs' ratios.
        low: lower end of the 95 % interval of this median.
        high: upper end of this interval.
        bound: the largest upper end that is allowed.
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
        """Whether the upper end of the interval is above the bound."""
        return self.high > self.bound


def against(commit: str, *, cases: Sequence[Case], pairs: int, bound: float) -> Iterator[Ratio]:
    """Yields the ratios of this checkout, with uncommitted changes, to a commit, case by case.

    Args:
        commit: any name of a commit that git accepts.
        cases: what to measure.
        pairs: pairs of processes, each of which runs the case `RUNS` times.
        bound: the largest upper end of a ratio's interval that is allowed; twice as far above 1 in
            bfloat16, whose times vary more.

    Raises:
        ValueError: `pairs` is below 6, for which there is no 95 % interval; or there is no such
            commit.
        RuntimeError: a case does not run.
    """
    if pairs < 6:
        raise ValueError(f"pairs must be 6 or more, got {pairs}: fewer have no interval of 95 %")
    with checked_out(commit) as other:
        for case in cases:
            found = [one_pair(case, other) for _ in range(pairs)]
            allowed = 1 + 2 * (bound - 1) if case.endswith("bf16") else bound
            yield ratio_of(case, found, bound=allowed)


@contextlib.contextmanager
def checked_out(commit: str, *, repository: Path = ROOT) -> Iterator[Path]:
    """Checks out a commit into a temporary folder, which lasts as long as the context.

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
    """Returns the command of a case: this checkout's own cases.py, on the library of `checkout`."""
    return [sys.executable, str(ROOT / "benchmarks" / "cases.py"), str(checkout), case]


class Worker:
    """A process that prints "ready", and then the time of each run."""

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
        """Runs once; returns the time in milliseconds."""
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


def one_pair(case: Case, other: Path) -> tuple[list[float], list[float]]:
    """Returns the times of a process of this checkout and of one of another."""
    with contextlib.ExitStack() as stack:
        here, there = (
            stack.enter_context(Worker(command_of(checkout, case), checkout))
            for checkout in (ROOT, other)
        )
        return take_turns(here, there, runs=RUNS)


def take_turns(here: Worker, there: Worker, *, runs: int) -> tuple[list[float], list[float]]:
    """Returns the times of both, measured in turn; the first one alternates."""
    times: dict[Worker, list[float]] = {here: [], there: []}
    for number in range(runs):
        for worker in (here, there) if number % 2 == 0 else (there, here):
            time.sleep(REST)
            times[worker].append(worker.run())
    return times[here], times[there]


def ratio_of(
    case: str, pairs: Sequence[tuple[Sequence[float], Sequence[float]]], *, bound: float
) -> Ratio:
    """Returns the median of the pairs' ratios and its interval.

    Args:
        case: its name.
        pairs: the times of this checkout and those of the other, for each pair of processes.
        bound: the largest upper end that is allowed.
    """
    ratios = sorted(
        statistics.median(own / other for own, other in zip(here, there, strict=True))
        for here, there in pairs
    )
    rank = outer_rank(len(ratios))
    here, there = (
        statistics.median(time for pair in pairs for time in pair[side]) for side in (0, 1)
    )
    return Ratio(
        case,
        here=here,
        there=there,
        ratio=statistics.median(ratios),
        low=ratios[rank],
        high=ratios[-1 - rank],
        bound=bound,
    )


def outer_rank(count: int) -> int:
    """Returns how many of the sorted values are outside a median's 95 % interval, on either side.

    Each value is above the true median with probability 1/2, like heads of a coin. The interval
    therefore misses the median with probability 2 · P(heads ≤ rank), which must not exceed 5 %. Of
    9 values, 1 is outside on either side.
    """
    missed, rank = 2 / 2**count, 0
    while (missed := missed + 2 * math.comb(count, rank + 1) / 2**count) <= 0.05:
        rank += 1
    return rank
