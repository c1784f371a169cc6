"""The limits and the parameters of a request, independent of Ray and of the HTTP server."""

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from segformer_jax.errors import ImageError
from segformer_jax.images.read import MAX_PIXELS, check_image
from segformer_jax.inference.segmentation import Segmentation

SIGNATURES = (
    b"\xff\xd8\xff",
    b"\x89PNG\r\n\x1a\n",
)  # JPEG, PNG: other decoders are never called
HEADER_BYTES = 16 * 1024
DIGITS = 20  # of a length: int() refuses thousands of them
OUTPUTS = ("mask", "overlay", "json")


class Refused(ValueError):
    """The error that answers a request: its HTTP status and message."""

    def __init__(self, status: int, message: str):
        super().__init__(status, message)
        self.status, self.message = status, message


@dataclass(frozen=True)
class Limits:
    """The limits of one request, and of all requests together.

    Attributes:
        body_bytes: largest body, in bytes.
        pixels: largest picture, in pixels.
        queue: largest number of requests that are read, waiting or computed at one time.
        queue_bytes: largest total of their bodies, in bytes; a body without a declared length
            counts as the largest.
        decoded_pixels: largest total of the pictures that a replica has decoded at one time, in
            pixels; a larger picture is decoded when there is no other.
        seconds: time in which a body must arrive.
    """

    body_bytes: int = 32 * 2**20
    pixels: int = MAX_PIXELS
    queue: int = 256
    queue_bytes: int = 512 * 2**20
    decoded_pixels: int = 100_000_000
    seconds: float = 30.0

    def __post_init__(self) -> None:
        for name in ("body_bytes", "pixels", "queue", "queue_bytes", "decoded_pixels"):
            if getattr(self, name) < 1:
                raise ValueError(f"the limit {name} must be at least 1, got {getattr(self, name)}")
        if self.queue_bytes < self.body_bytes:
            raise ValueError(
                "the limit queue_bytes must be at least body_bytes, "
                f"{self.body_bytes:,}, so that the longest body fits, got "
                f"{self.queue_bytes:,}"
            )


@dataclass(frozen=True)
class Wanted:
    """The kind of answer that a request asks for.

    Attributes:
        output: mask (PNG of class indices), overlay or json.
        media_type: image/png, image/jpeg or application/json.
        alpha: opacity of the colours in an overlay, 0 to 1.
        with_mask: whether JSON also has the mask as a PNG in base64.
    """

    output: str
    media_type: str
    alpha: float = 0.5
    with_mask: bool = False


def wanted(query: Mapping[str, str], accept: str = "") -> Wanted:
    """Parses ?output=mask|overlay|json&alpha=0.5&mask=base64, or else the header Accept.

    Raises:
        Refused: 422, a parameter or its value is unknown.
    """
    unknown = set(query) - {"output", "alpha", "mask"}
    if unknown:
        raise Refused(
            422, f"unknown parameter {min(unknown)!r}: the parameters are output, alpha and mask"
        )
    kinds = [kind.split(";")[0].strip().lower() for kind in accept.split(",")]
    by_accept = {"application/json": "json", "image/jpeg": "overlay"}
    output = query.get("output") or next((by_accept[k] for k in kinds if k in by_accept), "mask")
    if output not in OUTPUTS:
        raise Refused(422, f"output must be one of {', '.join(OUTPUTS)}, got {output!r}")
    try:
        alpha = float(query.get("alpha", "0.5"))
    except ValueError:
        alpha = -1.0
    if not 0 <= alpha <= 1:
        raise Refused(422, f"alpha must be in [0, 1], got {query['alpha']!r}")
    if query.get("mask", "base64") != "base64":
        raise Refused(422, f"mask must be base64, got {query['mask']!r}")
    jpeg = output == "overlay" and "image/jpeg" in kinds
    media_type = "application/json" if output == "json" else f"image/{'jpeg' if jpeg else 'png'}"
    return Wanted(output, media_type, alpha, with_mask="mask" in query)


def check_length(headers: Mapping[str, str], limits: Limits) -> int:
    """Checks the headers of a request; returns the number of bytes that its body may have.

    Raises:
        Refused: 431, the headers are longer than 16 KiB; 413, the body's declared length is above
            the limit.
    """
    if sum(len(name) + len(value) for name, value in headers.items()) > HEADER_BYTES:
        raise Refused(431, f"the headers are longer than {HEADER_BYTES:,} bytes")
    length = headers.get("content-length", "")
    if not length.isdecimal():
        return limits.body_bytes
    if len(length) > DIGITS or int(length) > limits.body_bytes:
        raise too_long(limits)
    return int(length)


def too_long(limits: Limits) -> Refused:
    return Refused(413, f"the body is longer than the limit of {limits.body_bytes:,} bytes")


def check_picture(body: bytes, limits: Limits) -> int:
    """Checks the header of a picture without decoding it; returns its number of pixels.

    Raises:
        Refused: 400, the body is empty; 415, it is neither JPEG nor PNG; 422, it is damaged; 413,
            the picture has too many pixels.
    """
    if not body:
        raise Refused(400, "the body must be the content of a JPEG or PNG file, got nothing")
    if not body.startswith(SIGNATURES):
        raise Refused(
            415,
            "the body must be the content of a JPEG or PNG file, got another "
            "format: send the file itself, not a form",
        )
    try:
        width, height = check_image(body, max_pixels=2**62)
    except ImageError as error:
        raise Refused(422, str(error)) from error
    if width * height > limits.pixels:
        raise Refused(
            413,
            f"the picture must have at most {limits.pixels:,} pixels, got {width} x "
            f"{height} = {width * height:,}",
        )
    return width * height


def answer(result: Segmentation, wish: Wanted) -> bytes:
    """Encodes a result as the body of an answer."""
    if wish.output == "json":
        told: dict[str, Any] = result.to_dict()
        if wish.with_mask:
            told["mask"] = base64.b64encode(result.encode("mask.png")).decode()
        return json.dumps(told, ensure_ascii=False).encode()
    if wish.output == "mask":
        return result.encode("mask.png")
    name = "overlay.jpg" if wish.media_type == "image/jpeg" else ".overlay.png"
    return result.encode(name, alpha=wish.alpha)
