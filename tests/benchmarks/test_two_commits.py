"""Two checkouts in turn: what is made of their times, and the exit code. The times are made up."""

import json
import math
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from benchmarks import cases, compare, two_commits
from benchmarks.two_commits import CASES, checked_out, outer_rank, ratio_of

FAKE = """
import sys
base, *factors = map(float, sys.argv[1:])
print("ready", flush=True)
for line, factor in zip(sys.stdin, factors):
    print(base * factor, flush=True)
"""


def fake(base, factors):
    return [sys.executable, "-c", FAKE, str(base), *map(str, factors)]


@pytest.fixture
def against(monkeypatch, tmp_path, capsys):
    """Runs `compare --against` on made-up times; this checkout takes `slower` times as long."""

    def against(slower, *, only=("b0",), **options):
        def command(checkout, case):
            mine = checkout == two_commits.ROOT
            return fake(10 * (slower if mine else 1), [1 + index / 10 for index in range(5)])

        monkeypatch.setattr(two_commits, "command_of", command)
        monkeypatch.setattr(two_commits, "REST", 0)
        with pytest.raises(SystemExit) as ended:
            compare.compare(against="HEAD", only=only, pairs=6, out=tmp_path / "out", **options)
        file = tmp_path / "out" / "against.json"
        return ended.value.code, json.loads(file.read_text()), capsys.readouterr().out

    return against


@pytest.mark.parametrize(("slower", "code"), [(0.9, 0), (1.02, 0), (1.04, 1)])
def test_the_exit_code_is_1_above_the_bound(slower, code, against):
    ended, written, said = against(slower)
    assert ended == code
    (case,) = written["cases"]
    assert [case[name] for name in ("ratio", "low", "high")] == pytest.approx([slower] * 3)
    assert (case["here"], case["there"]) == pytest.approx((12 * slower, 12))
    assert (case["bound"], written["against"], written["pairs"]) == (1.03, "HEAD", 6)
    assert ("not slower" in said) == (code == 0)


def test_the_bound_is_the_callers_and_twice_as_far_in_bfloat16(against):
    assert against(1.04, bound=1.05)[0] == 0
    assert against(1.05, only=("b0-bf16",))[0] == 0
    assert against(1.07, only=("b0-bf16",))[0] == 1
    ended, written, _ = against(1.05, only=("b0", "b0-bf16"))
    assert (ended, [case["case"] for case in written["cases"]]) == (1, ["b0", "b0-bf16"])


def test_a_slow_pair_of_processes_decides_nothing_and_two_leave_it_open():
    def ratio(*slow):
        pairs = [([own] * 5, [1.0] * 5) for own in (1.0,) * (9 - len(slow)) + slow]
        return ratio_of("b0", pairs, bound=1.03)

    one, two = ratio(9.0), ratio(1.1, 1.1)
    assert (one.ratio, one.low, one.high, one.slower) == (1, 1, 1, False)
    assert (two.ratio, two.high, two.slower) == (1, 1.1, True)  # not shown to be as fast


def test_the_ratio_of_a_pair_is_the_median_of_its_runs():
    pairs = [([2.0, 3.0, 90.0], [1.0, 2.0, 3.0])] * 6
    assert ratio_of("b0", pairs, bound=1.03).ratio == 2


@pytest.mark.parametrize(("count", "rank"), [(6, 0), (9, 1), (15, 3), (30, 9), (100, 39)])
def test_the_interval_covers_95_percent_and_the_next_narrower_one_does_not(count, rank):
    def coverage(rank):
        return 1 - 2 * sum(math.comb(count, k) for k in range(rank + 1)) / 2**count

    assert outer_rank(count) == rank
    assert coverage(rank) >= 0.95 > coverage(rank + 1)
    assert all(a <= b for a, b in pairwise(outer_rank(n) for n in range(6, 40)))


def test_too_few_pairs_a_wrong_commit_and_a_dead_worker_are_errors(monkeypatch):
    def run(commit="HEAD", pairs=6):
        return list(two_commits.against(commit, cases=["b0"], pairs=pairs, bound=1.03))

    with pytest.raises(ValueError, match="pairs must be 6 or more, got 5"):
        run(pairs=5)
    with pytest.raises(ValueError, match="'no-such-commit' can't be checked out"):
        run(commit="no-such-commit")
    dies = [sys.executable, "-c", "raise SystemExit(3)"]
    monkeypatch.setattr(two_commits, "command_of", lambda *_: dies)
    with pytest.raises(RuntimeError, match="ended with 3"):
        run()


def test_turns_alternate():
    order = []

    class Fake:
        def __init__(self, name):
            self.name = name

        def run(self):
            order.append(self.name)
            return float(len(order))

    here, there = two_commits.take_turns(Fake("here"), Fake("there"), runs=3)
    assert order == ["here", "there", "there", "here", "here", "there"]
    assert (here, there) == ([1, 4, 5], [2, 3, 6])


def test_a_commit_is_checked_out_for_a_while(tmp_path):
    def git(*arguments):
        who = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", "-C", str(tmp_path), *who, *arguments], check=True)

    git("init", "-q")
    for text in ("old", "new"):
        Path(tmp_path, "file").write_text(text)
        git("add", "file")
        git("commit", "-qm", text)
    with checked_out("HEAD~1", repository=tmp_path) as place:
        assert Path(place, "file").read_text() == "old"
    assert not place.exists()
    assert Path(tmp_path, "file").read_text() == "new"


@pytest.mark.full
def test_a_case_runs_on_the_library_of_its_checkout(tmp_path):
    assert tuple(cases.CASES) == CASES
    command = two_commits.command_of(two_commits.ROOT, "class-map")
    with two_commits.Worker(command, two_commits.ROOT) as worker:
        assert worker.run() > 0
    command = two_commits.command_of(tmp_path, "class-map")  # whose library is another's
    with (
        pytest.raises(RuntimeError, match="ended with 1"),
        two_commits.Worker(command, two_commits.ROOT),
    ):
        pass


@pytest.mark.full
def test_the_folder_is_segmented_anew_in_every_run():
    program = "from benchmarks import cases; cases.PHOTOS = 2; run = cases.folder(); run(), run()"
    subprocess.run([sys.executable, "-c", program], check=True, cwd=two_commits.ROOT)
