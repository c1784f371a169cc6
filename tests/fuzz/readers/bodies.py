"""Requests to the server: a body, its headers and the query."""

import json
from pathlib import Path
from random import Random

from segformer_jax.errors import ImageError
from segformer_jax.images.read import read_image
from segformer_jax.server.requests import Limits, Refused, check_length, check_picture, wanted
from tests.fuzz.damage import damaged_json
from tests.fuzz.kinds import Reader, Sample
from tests.fuzz.readers.pictures import MOST, damaged_picture, pictures

LIMITS = Limits(body_bytes=2**20, pixels=MOST)
SENT = {
    "headers": {"content-length": "99999", "accept": "image/jpeg;q=1, */*"},
    "query": {"output": "overlay", "alpha": "0.5", "mask": "base64"},
}


def _samples() -> list[Sample]:
    sent = json.dumps(SENT).encode()
    samples = [
        Sample({"body": content, "sent.json": sent}, "body")
        for content in pictures()
        if not content.startswith((b"II", b"MM"))
    ]
    return [*samples, *[Sample(samples[0].files, "sent.json")] * 3]


def _damage(rng: Random, content: bytes, others: list[bytes]) -> bytes:
    damage = damaged_json if content.startswith(b"{") else damaged_picture
    return damage(rng, content, others)


def _read(folder: Path) -> None:
    headers, query = _sent(folder / "sent.json")
    check_length(headers, LIMITS)
    wanted(query, headers.get("accept", ""))
    body = (folder / "body").read_bytes()
    check_picture(body, LIMITS)
    read_image(body, max_pixels=LIMITS.pixels)  # what a replica does; the answer is 422


def _sent(path: Path) -> tuple[dict[str, str], dict[str, str]]:
    """The headers and the query, all strings, as the HTTP server gives them."""
    try:
        content = json.loads(path.read_bytes())
        return tuple({str(n): str(v) for n, v in content[key].items()} for key in SENT)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}, {}  # not a request at all


BODIES = Reader("server", _samples, _damage, _read, (Refused, ImageError), names_file=False)
