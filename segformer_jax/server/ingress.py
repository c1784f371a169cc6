"""The HTTP entry of the server: reads, checks and counts requests, without decoding pictures."""

import asyncio
import json
import time
from dataclasses import dataclass
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from segformer_jax.cluster.connection import keep_replica_on_loopback
from segformer_jax.server import requests
from segformer_jax.server.prometheus import Metrics
from segformer_jax.server.requests import Limits, Refused

RETRY_AFTER = "1"  # seconds
CLIENT_GONE = 499  # nginx's status for a connection that the client has closed
METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


@dataclass(frozen=True)
class Answer:
    """The answer of a replica.

    Attributes:
        status: the HTTP status.
        body: the result, or the error message if `status` is not 200.
        batch: size of the request's batch if the request was the first in it, else 0.
    """

    status: int
    body: bytes
    batch: int = 0


class Ingress:
    """Answers POST /segment, GET /health and GET /metrics; no request can name a file or URL."""

    def __init__(self, replicas: Any, limits: Limits, batch_size: int):
        keep_replica_on_loopback()
        self._replicas, self._limits = replicas, limits
        self._metrics = Metrics(batch_size)
        self._inside = self._bytes = 0

    async def __call__(self, request: Request) -> Response:
        """Answers one request; errors are answered in JSON, {"error": …}."""
        status = CLIENT_GONE
        try:
            try:
                response = await self._routed(request)
            except Refused as refused:
                response = _error(refused)
            status = response.status_code
            return response
        finally:
            self._metrics.count(status)

    async def _routed(self, request: Request) -> Response:
        routes = {"/segment": "POST", "/health": "GET", "/metrics": "GET"}
        path = request.url.path
        if path not in routes:
            raise Refused(404, f"there is no {path[:80]}: the paths are {', '.join(routes)}")
        if request.method != routes[path]:
            raise Refused(
                405, f"the method of {path} must be {routes[path]}, got {request.method[:20]}"
            )
        if path == "/health":
            return Response(b'{"status": "ok"}', media_type="application/json")
        if path == "/metrics":
            self._metrics.inside(self._inside)
            return Response(self._metrics.text(), media_type=METRICS_TYPE)
        if self._inside >= self._limits.queue:
            raise Refused(
                503, f"{self._inside} requests are waiting, which is the limit: try again later"
            )
        self._inside += 1
        try:
            return await self._segmented(request)
        finally:
            self._inside -= 1

    async def _segmented(self, request: Request) -> Response:
        start = time.monotonic()
        length = requests.check_length(request.headers, self._limits)
        wish = requests.wanted(request.query_params, request.headers.get("accept", ""))
        if self._bytes + length > self._limits.queue_bytes:
            raise Refused(
                503,
                f"{self._bytes:,} bytes are waiting, and {length:,} more would exceed "
                "the limit: try again later",
            )
        self._bytes += length
        try:
            body = await self._body(request)
            pixels = await asyncio.to_thread(requests.check_picture, body, self._limits)
            answer = await self._replicas.segment.remote(body, pixels, wish)
        finally:
            self._bytes -= length
        if answer.batch:
            self._metrics.batch(answer.batch)
        if answer.status != 200:
            raise Refused(answer.status, answer.body.decode())
        self._metrics.answered(time.monotonic() - start)
        return Response(answer.body, media_type=wish.media_type)

    async def _body(self, request: Request) -> bytes:
        """Reads the body; keeps no byte beyond the limit."""
        parts: list[bytes] = []
        length = 0
        try:
            async with asyncio.timeout(self._limits.seconds):
                async for part in request.stream():
                    length += len(part)
                    if length > self._limits.body_bytes:
                        raise requests.too_long(self._limits)
                    parts.append(part)
        except TimeoutError as error:
            seconds = self._limits.seconds
            raise Refused(408, f"the body did not arrive within {seconds:g} s") from error
        except ClientDisconnect as error:
            raise Refused(CLIENT_GONE, "the client has closed the connection") from error
        return b"".join(parts)


def _error(refused: Refused) -> Response:
    body = json.dumps({"error": refused.message}, ensure_ascii=False).encode()
    headers = {"Retry-After": RETRY_AFTER} if refused.status == 503 else {}
    return Response(body, refused.status, headers, media_type="application/json")
