"""Tries readers with damaged files for some seconds; exits with 1 if one shows a fault."""

import argparse
import sys

from tests.fuzz.readers import READERS
from tests.fuzz.watching import Found, try_reader


def line(name: str, found: Found) -> str:
    """What a reader did, in a line."""
    kinds = {**found.outcomes, "faults": len(found.faults)}
    told = ", ".join(f"{kind} {count:,}" for kind, count in sorted(kinds.items()))
    return f"{name}: {found.inputs:,} inputs, {told}; the slowest took {found.slowest:.2f} s"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60, help="for all readers together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--reader", choices=READERS, help="one alone; otherwise all")
    options = parser.parse_args()
    names = [options.reader] if options.reader else list(READERS)
    results = {}
    for name in names:
        seconds = options.seconds / len(names)
        results[name] = found = try_reader(READERS[name], seed=options.seed, seconds=seconds)
        for kind, place in found.faults:
            print(f"{name}, seed {options.seed}, {place}: {kind}", flush=True)
    for name, found in results.items():
        print(line(name, found))
    return int(any(found.faults for found in results.values()))


if __name__ == "__main__":
    sys.exit(main())
