"""Ways to damage a file's content."""

import json
import re
import struct
from copy import deepcopy
from random import Random
from typing import Any

NUMBERS = (0, 1, 255, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1)
HEAD = 128  # bytes: half of the damage is done there
TEXTS = (
    *("", "0", "-1", "1e999", "٣", "²", "\0", "é", "a" * 300),
    *("..", "../../outside", "/etc/passwd"),
)
LONG = (200_000, 6_000)  # beyond csv's longest field, and beyond int()'s longest number
VALUES: tuple[Any, ...] = (  # in place of a value in JSON
    *(None, True, [], {}, [[]], [None], {"a": 1}),
    *(0, -1, 0.5, 255, 256, 2**31, 2**63, 2**64, 10**400),
    *(1e308, -1e308, float("nan"), float("inf"), *TEXTS),
)


def damaged(rng: Random, content: bytes, others: list[bytes]) -> bytes:
    """Damages bytes in one to three ways: bits, numbers, cuts, chunks and other files' parts."""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        content = rng.choice(WAYS)(rng, content, others)
    return content


def damaged_text(rng: Random, content: bytes, others: list[bytes]) -> bytes:
    """Damages text: a word is replaced or doubled; or as bytes."""
    if rng.random() < 0.3:
        return damaged(rng, content, others)
    words = re.split(rb"(\W+)", content)
    at = rng.randrange(len(words))
    words[at] = rng.choice(
        (
            rng.choice(TEXTS).encode(),
            str(rng.choice(NUMBERS)).encode(),
            b"9" * rng.choice(LONG) if rng.random() < 0.05 else b'"',
            words[at] * 2,
            rng.choice(words),
        )
    )
    return b"".join(words)


def damaged_json(rng: Random, content: bytes, others: list[bytes]) -> bytes:
    """Damages JSON: a value is replaced or left out, or nested too deeply; or as text."""
    way = rng.random()
    if way < 0.3:
        return damaged_text(rng, content, others)
    if way < 0.31:
        depth = rng.choice((1_000, 100_000))
        return content.replace(b"[", b"[" * depth, 1)
    value = json.loads(content)
    for _ in range(rng.choice((1, 1, 2))):
        holders = [holder for holder in _holders(value) if holder]
        if not holders:
            break
        holder = rng.choice(holders)
        keys = list(holder) if isinstance(holder, dict) else range(len(holder))
        key = rng.choice(keys)
        match rng.randrange(4):
            case 0:
                del holder[key]
            case 1:
                holder[key] = deepcopy(holder[rng.choice(keys)])
            case _:
                holder[key] = deepcopy(rng.choice(VALUES))
    return json.dumps(value).encode()


def _holders(value: Any) -> list[Any]:
    """All dicts and lists in a value."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    own = [value] if isinstance(value, dict | list) else []
    return own + [found for part in inner for found in _holders(part)]


def _place(rng: Random, content: bytes) -> int:
    """An offset, half of the time near the beginning."""
    return rng.randrange(max(1, min(len(content), HEAD if rng.random() < 0.5 else len(content))))


def _bits(rng: Random, content: bytes, others: list[bytes]) -> bytes:
    flipped = bytearray(content or b"\0")
    for _ in range(rng.choice((1, 2, 8))):
        flipped[_place(rng, flipped)] ^= 1 << rng.randrange(8)
    return bytes(flipped)


def _number(rng: Random, content: bytes, others: list[bytes]) -> bytes:
    size, kind = rng.choice(((1, "B"), (2, "H"), (4, "I"), (8, "Q")))
    number = rng.choice(NUMBERS) % 256**size
    at = _place(rng, content)
    return content[:at] + struct.pack(rng.choice("<>") + kind, number) + content[at + size :]


def _cut(rng: Random, content: bytes, others: list[bytes]) -> bytes:
    return content[: _place(rng, content)]


def _without_chunk(rng: Random, content: bytes, others: list[bytes]) -> bytes:
    start, end = sorted((_place(rng, content), _place(rng, content)))
    return content[:start] + content[end:]


def _twice(rng: Random, content: bytes, others: list[bytes]) -> bytes:
    start, end = sorted((_place(rng, content), _place(rng, content)))
    return content[:end] + content[start:end] + content[end:]


def _swapped(rng: Random, content: bytes, others: list[bytes]) -> bytes:
    a, b, c = sorted(_place(rng, content) for _ in range(3))
    return content[:a] + content[b:c] + content[a:b] + content[c:]


def _spliced(rng: Random, content: bytes, others: list[bytes]) -> bytes:
    """The beginning of another file and the rest of this one."""
    other = rng.choice(others)
    at = _place(rng, other)
    return other[:at] + content[at if rng.random() < 0.5 else _place(rng, content) :]


WAYS = (_bits, _bits, _number, _number, _cut, _without_chunk, _twice, _swapped, _spliced)
