"""`segformer-jax serve` as its clients meet it: one server for all of these tests."""

import base64
import contextlib
import http.client
import io
import json
import os
import random
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from server import processes

from segformer_jax import Segmenter

pytestmark = pytest.mark.full
STREET = Path(__file__).resolve().parents[2] / "examples" / "street.jpg"
PROGRAM = [sys.executable, "-c", "from segformer_jax.cli import main; main()"]
QUEUE, BATCH = 8, 2
LOOPBACK = {"127.0.0.1", "::1", "::ffff:127.0.0.1"}


class Server:
    """A running server and how to ask it."""

    def __init__(self, port, process):
        self.port, self.process = port, process

    def ask(self, method="POST", path="/segment", body=b"", headers=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        with contextlib.closing(connection):
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            return response.status, response.headers, response.read()

    def metric(self, name):
        text = self.ask("GET", "/metrics")[2].decode()
        return float(re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)[1])


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    port = _free_port()
    said = tmp_path_factory.mktemp("server") / "said.txt"
    environment = os.environ | {
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path_factory.mktemp("compiled")),
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    options = f"--port {port} --batch-size {BATCH} --max-body-mib 1 --max-pixels 1000000".split()
    with said.open("w") as file:
        process = subprocess.Popen(
            [*PROGRAM, "serve", "scene-b0", *options, "--max-queue", str(QUEUE)],
            stdout=file,
            stderr=file,
            env=environment,
        )
    try:
        while "is served at" not in said.read_text():
            assert process.poll() is None, said.read_text()
            time.sleep(0.1)
        yield Server(port, process)
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(timeout=120)


@pytest.fixture(scope="module")
def expected():
    return Segmenter.from_pretrained("scene-b0")(STREET)


def test_the_mask_is_the_segmenters(server, expected):
    status, headers, body = server.ask(body=STREET.read_bytes())
    assert (status, headers["content-type"]) == (200, "image/png")
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(body))), expected.class_map)


def test_json_holds_sizes_shares_and_the_mask_where_it_is_asked_for(server, expected):
    told = json.loads(server.ask(path="/segment?output=json", body=STREET.read_bytes())[2])
    assert told == expected.to_dict()
    accept = {"Accept": "application/json"}
    status, headers, body = server.ask(
        path="/segment?mask=base64", body=STREET.read_bytes(), headers=accept
    )
    assert (status, headers["content-type"]) == (200, "application/json")
    mask = Image.open(io.BytesIO(base64.b64decode(json.loads(body)["mask"])))
    assert np.array_equal(np.asarray(mask), expected.class_map)


def test_overlays_are_png_or_jpeg(server, expected):
    path = "/segment?output=overlay&alpha=0.25"
    status, headers, body = server.ask(path=path, body=STREET.read_bytes())
    assert (status, headers["content-type"]) == (200, "image/png")
    overlay = np.asarray(Image.open(io.BytesIO(body)))
    assert np.array_equal(overlay, np.asarray(expected.overlay(alpha=0.25)))
    jpeg = {"Accept": "image/jpeg"}
    status, headers, body = server.ask(body=STREET.read_bytes(), headers=jpeg)
    assert (status, headers["content-type"]) == (200, "image/jpeg")
    assert Image.open(io.BytesIO(body)).size == expected.image.size


def test_two_hundred_bad_requests_get_an_error_each_and_the_service_goes_on(server):
    for request, allowed in _bad_requests(200):
        status, headers, body = server.ask(**request)
        told = {key: str(value)[:60] for key, value in request.items()}
        assert status in allowed, (told, status, body[:200])
        if request.get("method") != "HEAD":
            assert headers["content-type"] == "application/json", told
            assert set(json.loads(body)) == {"error"}, told
    assert server.ask("GET", "/health")[0] == 200
    assert server.ask(body=STREET.read_bytes())[0] == 200
    assert server.metric('segformer_requests_total{status="413"}') > 0


def test_a_full_queue_is_a_503_that_says_when_to_come_again(server):
    picture = STREET.read_bytes()
    head = f"POST /segment HTTP/1.1\r\nHost: x\r\nContent-Length: {len(picture)}\r\n\r\n"
    waiting = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(QUEUE)]
    for one in waiting:
        one.sendall(head.encode() + picture[:100])
    _until(lambda: server.metric("segformer_requests_inside") == QUEUE)
    status, headers, body = server.ask(body=picture)
    assert (status, headers["retry-after"]) == (503, "1")
    assert "waiting" in json.loads(body)["error"]
    for one in waiting:
        one.sendall(picture[100:])
    for one in waiting:
        assert b" 200 " in one.recv(100)
        one.close()
    _until(lambda: server.metric("segformer_requests_inside") == 0)
    assert server.ask(body=picture)[0] == 200


def test_requests_at_one_time_go_through_the_network_together(server):
    buffer = io.BytesIO()
    Image.open(STREET).resize((80, 60)).save(buffer, "PNG")  # the network is what they wait for
    picture = buffer.getvalue()
    alone = server.ask(body=picture)
    before = [server.metric(f"segformer_batch_size_{part}") for part in ("sum", "count")]
    wrong = []

    def client():
        for _ in range(4):
            status, _, body = server.ask(body=picture)
            wrong.extend([] if (status, body) == (200, alone[2]) else [status])

    clients = [threading.Thread(target=client) for _ in range(QUEUE)]
    for one in clients:
        one.start()
    for one in clients:
        one.join()
    assert not wrong
    after = [server.metric(f"segformer_batch_size_{part}") for part in ("sum", "count")]
    pictures, batches = (b - a for a, b in zip(before, after, strict=True))
    assert pictures == 4 * QUEUE
    assert batches < pictures
    assert server.metric('segformer_batch_size_bucket{le="1.0"}') < after[1]
    assert server.metric(f'segformer_batch_size_bucket{{le="{BATCH}.0"}}') == after[1]


def test_nothing_listens_outside_loopback(server):
    family = [server.process.pid, *processes.below(server.process.pid)]
    assert any("raylet" in processes.command(pid) for pid in family)
    assert processes.listening(family) <= LOOPBACK


def test_a_port_in_use_is_one_line(server):
    again = subprocess.run(
        [*PROGRAM, "serve", "scene-b0", "--port", str(server.port)],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        timeout=120,
    )
    assert again.returncode == 2
    message = r"segformer-jax: error: can't listen on 127\.0\.0\.1:\d+: .*--port\n"
    assert re.fullmatch(message, again.stderr)


def test_ctrl_c_ends_it_with_all_its_processes(server):
    family = processes.below(server.process.pid)
    server.process.send_signal(signal.SIGINT)
    assert server.process.wait(timeout=120) in (0, 130)
    _until(lambda: not any("ray" in processes.command(pid) for pid in family))


def _until(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _bad_requests(count):
    """Requests, and the statuses that are right for them."""
    rng = random.Random(0)
    jpeg = STREET.read_bytes()
    buffer = io.BytesIO()
    Image.open(STREET).resize((200, 150)).save(buffer, "PNG")
    png = buffer.getvalue()
    kinds = [
        lambda: (dict(body=jpeg[: rng.randrange(3, len(jpeg) * 9 // 10)]), {422}),
        lambda: (dict(body=png[: rng.randrange(8, len(png) * 9 // 10)]), {422}),
        lambda: (dict(body=_bomb(rng.randrange(2_000, 2**31), rng.randrange(2_000, 2**31))), {413}),
        lambda: (dict(body=_bomb(100_000, 100_000)), {413}),
        lambda: (dict(body=b"\x89PNG\r\n\x1a\n" + rng.randbytes(rng.randrange(300))), {422}),
        lambda: (dict(body=b"\xff\xd8\xff" + rng.randbytes(rng.randrange(300))), {422}),
        lambda: (dict(body=b"no picture at all" * rng.randrange(1, 100)), {415}),
        lambda: (dict(body=b"GIF89a" + rng.randbytes(100)), {415}),
        lambda: (dict(), {400}),
        lambda: (dict(body=bytes(2**20 + rng.randrange(1, 1000))), {413}),
        lambda: (dict(body=jpeg, headers={"X-Long": "x" * rng.randrange(17_000, 60_000)}), {431}),
        lambda: (dict(method=rng.choice(["GET", "PUT", "DELETE", "HEAD"])), {405}),
        lambda: (dict(method="POST", path="/metrics"), {405}),
        lambda: (dict(path="/../etc/passwd", body=jpeg), {404}),
        lambda: (dict(path="/segment?output=/tmp/x", body=jpeg), {422}),
        lambda: (dict(path="/segment?alpha=nan", body=jpeg), {422}),
        lambda: (dict(path="/segment?image=/etc/passwd", body=jpeg), {422}),
    ]
    return [kinds[i % len(kinds)]() for i in range(count)]


def _bomb(width, height):
    """A PNG of a few bytes that claims to be as large."""

    def chunk(kind, data):
        check = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check)

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(100)))
        + chunk(b"IEND", b"")
    )
