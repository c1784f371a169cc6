"""Counts the instruction bundles that a TPU program runs, from what libtpu dumps of its schedule.

A TPU core runs one bundle per cycle in the order that the compiler chose, unless it waits for
memory. The sum of a program's bundles, each as often as its loops run, is therefore the shortest
time that its schedule allows: an estimate that treats XLA's own fusions and Pallas kernels alike.
"""

import re
from pathlib import Path

FLAGS = "--xla_jf_dump_to={folder} --xla_jf_dump_llo_text=true"  # of libtpu: LIBTPU_INIT_ARGS
_BUNDLE = re.compile(r"^\s*(?:0x[0-9a-f]+|0)\s+(L[HBE]|P[BF]|CT)?\s*:\s*((?:> ?)*)\s*\{(.*)$")
_EXIT = re.compile(r"scmp\.(ge|gt)\.s32\.totalorder %\w+, (\d+) /\* loop exit test \*/")
DELAY = 5  # bundles from a branch to where it takes effect


def of_program(folder: Path) -> dict[str, int]:
    """Returns the bundles of every instruction of the programs whose dumps are in a folder."""
    files = (f for f in folder.glob("*final_bundles.txt") if "schedule" not in f.name)
    return {re.sub(r"^\d+-|-\d+-final_bundles.txt$", "", f.name): of_file(f) for f in files}


def of_file(path: Path) -> int:
    """Returns how many bundles one instruction of a program runs.

    A loop without a constant number of rounds counts once; there are some in changes of layout.
    """
    found = filter(None, map(_BUNDLE.match, path.read_text().splitlines()))
    bundles = [(m[1], m[2].count(">"), m[3]) for m in found]
    times = [1] * len(bundles)
    for start, (label, depth, text) in enumerate(bundles):
        if label == "LB":
            regions = set(re.findall(r"Start region (\d+)", text))
            back = next(
                i
                for i, (_, _, own) in enumerate(bundles)
                if i >= start and regions & set(re.findall(r"target = \$region(\d+)", own))
            )
            stop = min(back + DELAY, len(bundles))
            rounds = _rounds([t for _, d, t in bundles[start:stop] if d == depth])
            times[start:stop] = [n * rounds for n in times[start:stop]]
    return sum(times)


def _rounds(texts: list[str]) -> int:
    tests = [m for text in texts for m in _EXIT.finditer(text)]
    if not tests:
        return 1
    rounds = int(tests[0][2]) + (tests[0][1] == "gt")
    steps = [int(n) for text in texts for n in re.findall(r"sadd\.s32 (\d+), [^;]*cssa", text)]
    # a loop over blocks has one round before and one after, which only move data
    last = re.compile(rf"scmp\.lt\.s32\.totalorder %\w+, {rounds - 1}\b")
    pipelined = any(map(last.search, texts))
    return rounds - 2 if pipelined else -(-rounds // max([1, *steps]))
