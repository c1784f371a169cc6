"""Parses a program that XLA compiled: its instructions, how often each runs, what each costs."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

_COMPUTATION = re.compile(r"^(ENTRY )?%([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%([\w.\-]+) = (.*?) ([a-z][\w\-]*)\(")
_ARRAY = re.compile(r"\b(pred|[a-z]+(\d+)\w*)\[([\d,]*)\]")


@dataclass(frozen=True)
class Instruction:
    """One instruction of a compiled program.

    Attributes:
        name: XLA's name, such as "fusion.12".
        opcode: "fusion", "copy", "convolution"…
        shape: shape of its result, with layout, as XLA writes it.
        op_name: the operation that it was made from, as JAX names it.
        cycles: the compiler's estimate for one run, or 0 if it gives none.
        times: how often it runs: the product of the trip counts of the loops around it.
        fused: whether it is a step of a fusion, which does not write its result to memory.
    """

    name: str
    opcode: str
    shape: str
    op_name: str
    cycles: int
    times: int
    fused: bool

    @property
    def bytes(self) -> int:
        """Size of the result of one run in bytes, without the padding of its layout."""
        return sum(
            math.prod(map(int, filter(None, sides.split(",")))) * max(int(bits or 8), 8) // 8
            for _, bits, sides in _ARRAY.findall(self.shape)
        )


def instructions(text: str) -> list[Instruction]:
    """Returns all instructions of a compiled program, given as `compiled.as_text()`.

    Raises:
        ValueError: the trip count of a loop is unknown.
    """
    entry, bodies = _computations(text)
    times = dict.fromkeys(bodies, 0) | {entry: 1}
    fused = set()
    for name in _callers_first(entry, bodies):
        for line in bodies[name]:
            for called, trips in _calls(line, bodies):
                times[called] += times[name] * trips
                if name in fused or " fusion(" in line:
                    fused.add(called)
    return [
        Instruction(
            *found.group(1, 3, 2),
            op_name=_first(r'op_name="([^"]*)"', line, ""),
            cycles=int(_first(r'"estimated_cycles":"(\d+)"', line, "0")),
            times=times[name],
            fused=name in fused,
        )
        for name, lines in bodies.items()
        for line in lines
        if times[name] and (found := _INSTRUCTION.match(line))
    ]


def _computations(text: str) -> tuple[str, dict[str, list[str]]]:
    entry, bodies, lines = "", {}, []
    for line in text.splitlines():
        if found := _COMPUTATION.match(line):
            lines = bodies[found[2]] = []
            entry = found[2] if found[1] else entry
        else:
            lines.append(line)
    return entry, bodies


def _callers_first(entry: str, bodies: dict[str, list[str]]) -> list[str]:
    order: list[str] = []

    def visit(name: str) -> None:
        for line in bodies[name]:
            for called, _ in _calls(line, bodies):
                if called not in order:
                    visit(called)
        order.append(name)

    visit(entry)
    return order[::-1]


def _calls(line: str, bodies: dict[str, list[str]]) -> Iterator[tuple[str, int]]:
    """Yields the computations that an instruction runs, and how often."""
    if found := re.search(r" while\(.*condition=%([\w.\-]+), body=%([\w.\-]+)", line):
        known = _first(r'"known_trip_count":\{"n":"(\d+)"', line, "")
        for called in found.groups():
            yield called, int(known) if known else _trips(bodies[found[1]])
    one_of = _first(r"branch_computations=\{([^}]*)\}", line, "")  # each branch counts as taken
    for called in re.findall(r"(?:calls|\w+_computation|to_apply)=%([\w.\-]+)", line):
        yield called, 1
    for called in re.findall(r"%([\w.\-]+)", one_of):
        yield called, 1


def _trips(condition: list[str]) -> int:
    """Returns how often a loop of `lax.map` or `lax.scan` runs: it counts from 0 to a constant."""
    constants = re.findall(r" s32\[\]\S* constant\((\d+)\)", "\n".join(condition))
    if len(constants) != 1 or not any("direction=LT" in line for line in condition):
        raise ValueError(f"a loop of unknown length: {condition}")
    return int(constants[0])


def _first(pattern: str, line: str, missing: str) -> str:
    found = re.search(pattern, line)
    return found[1] if found else missing
