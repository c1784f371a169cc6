"""`python -m benchmarks.compare` measures this library and its peers, interleaved in one run.

It exits 1 if a contender did not run, or computed other logits. `--against COMMIT` compares this
checkout with another commit, and exits 1 if it is slower.
"""

import dataclasses
import logging
import math
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import tyro

from benchmarks import append as results
from benchmarks import class_map, forward, machine, report, startup, train_step, two_commits
from benchmarks.contender import CONTENDERS, ON_CPU, ON_GPU

Work = Literal["forward", "growth", "end-to-end", "class-map", "train-step", "startup", "overhead"]
WORKS: tuple[Work, ...] = (
    "forward", "end-to-end", "class-map", "train-step", "startup", "overhead"
)  # fmt: skip


def compare(
    works: tuple[Work, ...] = WORKS,
    variants: tuple[str, ...] = ("b0", "b2"),
    batches: tuple[int, ...] = (1,),
    sides: tuple[int, ...] = (512,),
    contenders: tuple[str, ...] = (),
    rounds: int = 15,
    out: Path = Path("out/benchmarks"),
    append: Path | None = None,
    limit: float | None = None,
    against: str | None = None,
    pairs: int = 9,
    only: tuple[two_commits.Case, ...] = two_commits.CASES,
    bound: float = 1.03,
) -> None:
    """Measures, prints tables, and writes results.json and forward.svg.

    Args:
        works: what to measure; `growth` runs b0 over the sides and fits how time grows.
        variants: sizes of the network for `forward`, `startup` and `overhead`.
        batches: pictures per batch for `forward`.
        sides: sides of the square input, in pixels.
        contenders: the libraries to measure, to which "ours" is added if none of ours is among
            them; by default all that suit the device.
        rounds: runs of each contender.
        out: folder of the results.
        append: a JSON file to which the rows are added as soon as they are measured, instead of the
            files in `out`.
        limit: seconds after which no further contender of `forward` is waited for; those that are
            ready are measured.
        against: a commit to compare this checkout with, instead of peers; exits 1 if the interval
            of a ratio reaches above the bound.
        pairs: with `--against`: pairs of processes; each process runs a case five times.
        only: with `--against`: the cases; by default all.
        bound: with `--against`: limit of this checkout's time ÷ the commit's; in bfloat16, it is
            twice as far above 1.

    Raises:
        ValueError: a contender is unknown; or as `two_commits.against`.
    """
    until = math.inf if limit is None else time.monotonic() + limit
    if against is not None:
        sys.exit(_against(against, only, pairs, bound, out))
    unknown = sorted(set(contenders) - CONTENDERS.keys())
    if unknown:
        raise ValueError(
            f"contenders must be of {', '.join(map(repr, CONTENDERS))}, got "
            f"{', '.join(map(repr, unknown))}: a name with spaces needs quotes"
        )
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    logging.getLogger().setLevel(logging.ERROR)
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # processes share a GPU
    contenders = contenders or (ON_GPU if jax.default_backend() == "gpu" else ON_CPU)
    own = [name for name in contenders if CONTENDERS[name].module == "ours"] or ["ours"]
    names = [*own, *(name for name in contenders if name not in own)]
    run = None if append is None else results.new_run(append)
    about = machine.describe() if run is None else run["machine"]
    about["peak_gmacs"] = peaks = {kind: machine.peak(kind) for kind in ("float32", "bfloat16")}
    result: dict[str, Any] = {"machine": about}
    failures: list[str] = []

    def keep(work: str, rows: list[dict[str, Any]], failed: Sequence[str] = ()) -> None:
        failures.extend(failed)
        result.setdefault(work, []).extend(rows)
        if append is None or run is None:
            report.write_json(out / "results.json", result | {"not_run": failures})
        else:
            results.append(append, run, rows, not_run=failed)
        report.print_rows(rows, work)

    for work in works:
        if work == "forward":
            for variant in variants:
                for batch in batches:
                    for side in sides:
                        rows, failed = forward.measure_forward(
                            variant,
                            batch=batch,
                            side=side,
                            contenders=names,
                            rounds=rounds,
                            peaks=peaks,
                            until=until,
                        )
                        keep(work, rows, failed)
            if append is None:
                report.plot(out / "forward.svg", result[work], about)
        elif work == "growth":
            keep(work, *_growth(sides, names, rounds, peaks))
        elif work == "end-to-end":
            pair = ["ours", *(name for name in names if name == "transformers")]
            keep(work, *forward.measure_end_to_end(rounds=rounds, contenders=pair))
        elif work == "class-map":
            keep(work, class_map.measure(rounds))
        elif work == "train-step":
            keep(work, *train_step.measure(rounds))
        elif work == "startup":
            keep(work, [startup.measure_startup(variant) for variant in variants])
            keep(work, [startup.measure_help(rounds)])
        else:
            keep(work, [startup.measure_overhead(variant) for variant in variants])
    for failure in failures:
        print("not run:", failure)
    sys.exit(bool(failures))


def _against(commit: str, cases: Any, pairs: int, bound: float, out: Path) -> int:
    """Compares this checkout with a commit; returns the exit code, 1 if a case is slower."""
    found = []
    for ratio in two_commits.against(commit, cases=cases, pairs=pairs, bound=bound):
        found.append(ratio)
        verdict = "slower" if ratio.slower else "not slower"
        report.print_rows([dataclasses.asdict(ratio) | {"verdict": verdict}], ratio.case)
        rows = [dataclasses.asdict(own) for own in found]
        about = {"machine": machine.describe(), "against": commit, "pairs": pairs, "cases": rows}
        report.write_json(out / "against.json", about)
    return int(any(ratio.slower for ratio in found))


def _growth(sides, names, rounds, peaks) -> tuple[list[dict[str, Any]], list[str]]:
    rows, failures = [], []
    for side in sides:
        more, failed = forward.measure_forward(
            "b0", batch=1, side=side, contenders=names, rounds=rounds, peaks=peaks
        )
        rows += more
        failures += failed
    for row in rows:
        row["growth"] = forward.growth(rows, row["contender"])
    return rows, failures


if __name__ == "__main__":
    tyro.cli(compare)
