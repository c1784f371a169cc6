"""The door of the server without Ray: how much it holds at one time."""

import asyncio
from types import SimpleNamespace

import pytest
from PIL import Image
from starlette.requests import Request

from segformer_jax.cluster.connection import LOOPBACK
from segformer_jax.server.budget import Budget
from segformer_jax.server.ingress import Answer, Ingress
from segformer_jax.server.requests import Limits


@pytest.fixture(autouse=True)
def _without_ray(monkeypatch):
    """As in a process that started no Ray, whatever ran in this one before."""
    for name in LOOPBACK:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def png(tmp_path) -> bytes:
    Image.new("RGB", (8, 6)).save(tmp_path / "a.png")
    return (tmp_path / "a.png").read_bytes()


def post(body: bytes, *, told: bool = True) -> Request:
    """A request with this body, whose length its headers tell, or not."""

    async def receive():
        return {"type": "http.request", "body": body, "more_body": False}

    headers = [(b"content-length", str(len(body)).encode())] if told else []
    scope = {
        "type": "http", "method": "POST", "path": "/segment", "query_string": b"",
        "headers": headers,
    }  # fmt: skip
    return Request(scope, receive)


def statuses(door: Ingress, requests: list[Request], finish: asyncio.Event) -> list[int]:
    """What each request gets, all at once; replicas answer when all have had time to come in."""

    async def all_of_them():
        tasks = [asyncio.create_task(door(request)) for request in requests]
        await asyncio.sleep(0.3)
        finish.set()
        return [(await task).status_code for task in tasks]

    return asyncio.run(all_of_them())


def door_with(limits: Limits) -> tuple[Ingress, asyncio.Event, list[int]]:
    finish, pixels = asyncio.Event(), []

    async def remote(body, count, wish):
        pixels.append(count)
        await finish.wait()
        return Answer(200, b"mask")

    replicas = SimpleNamespace(segment=SimpleNamespace(remote=remote))
    return Ingress(replicas, limits, batch_size=1), finish, pixels


def test_bodies_are_held_up_to_a_number_of_bytes_and_others_come_again(png):
    limits = Limits(body_bytes=len(png), queue_bytes=3 * len(png) + 1)
    door, finish, pixels = door_with(limits)
    assert statuses(door, [post(png) for _ in range(5)], finish) == [200] * 3 + [503] * 2
    assert pixels == [48] * 3
    assert statuses(door, [post(png)], finish) == [200]  # nothing is held any more


def test_a_body_whose_length_is_not_told_is_taken_for_the_longest(png):
    door, finish, _ = door_with(Limits(body_bytes=1000, queue_bytes=1999))
    requests = [post(png, told=False), post(png, told=False), post(png)]
    assert statuses(door, requests, finish) == [200, 503, 200]


def test_bytes_come_back_when_a_request_fails(png):
    door, finish, _ = door_with(Limits(body_bytes=1000, queue_bytes=1000))
    bad = b"x" * 990
    assert statuses(door, [post(bad)], finish) == [415]
    assert statuses(door, [post(bad), post(png)], finish) == [415, 503]
    assert statuses(door, [post(png)], finish) == [200]


def test_who_wants_more_than_is_left_waits_in_turn_and_who_wants_more_than_all_is_alone():
    async def run():
        budget, order, most = Budget(10), [], 0
        inside = 0

        async def one(name: str, units: int):
            nonlocal inside, most
            async with budget.taking(units):
                order.append(name)
                inside += min(units, 10)
                most = max(most, inside)
                await asyncio.sleep(0.01)
                inside -= min(units, 10)

        await asyncio.gather(
            *(one(name, units) for name, units in [("a", 6), ("b", 5), ("c", 1), ("d", 99)])
        )
        return order, most

    assert asyncio.run(run()) == (["a", "b", "c", "d"], 10)


def test_units_come_back_from_who_is_cancelled():
    async def run():
        budget = Budget(1)

        async def hold():
            async with budget.taking(1):
                await asyncio.sleep(60)

        holder, waiter = asyncio.create_task(hold()), asyncio.create_task(hold())
        await asyncio.sleep(0)
        waiter.cancel()
        holder.cancel()
        await asyncio.gather(holder, waiter, return_exceptions=True)
        async with asyncio.timeout(1), budget.taking(1):
            return True

    assert asyncio.run(run())
