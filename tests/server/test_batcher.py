"""Batches of the server: nothing waits for an idle network, and full batches wait behind one."""

import asyncio
import threading

import pytest

from segformer_jax.server.batcher import Batcher


class Network:
    """Computes a batch when it is told to, and keeps the batches."""

    def __init__(self):
        self.batches, self.go = [], threading.Semaphore(0)

    def __call__(self, requests):
        self.batches.append(list(requests))
        assert self.go.acquire(timeout=30)
        if "broken" in requests:
            raise ValueError("a broken request")
        return [f"{request}!" for request in requests]


async def until(true):
    for _ in range(3000):
        if true():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it never came true")


def test_the_first_goes_alone_and_a_full_batch_waits_behind_it():
    async def main():
        network = Network()
        batcher = Batcher(network, 3)
        asked = [asyncio.ensure_future(batcher(request)) for request in "abcdefgh"]
        await until(lambda: network.batches)
        assert network.batches == [["a"]]
        network.go.release()
        await until(lambda: len(network.batches) == 2)  # it was ready before the first ended
        network.go.release(3)
        return network.batches, await asyncio.gather(*asked)

    batches, answers = asyncio.run(main())
    assert batches == [["a"], ["b", "c", "d"], ["e", "f", "g"], ["h"]]
    assert [answer for answer, _ in answers] == [f"{request}!" for request in "abcdefgh"]
    assert [size for _, size in answers] == [1, 3, 0, 0, 3, 0, 0, 1]


def test_an_error_is_that_of_its_batch_alone_and_who_left_is_not_computed():
    async def main():
        network = Network()
        batcher = Batcher(network, 2)
        asked = [asyncio.ensure_future(batcher(request)) for request in ("broken", "b", "c", "d")]
        await until(lambda: network.batches)
        asked[3].cancel()
        await asyncio.sleep(0)
        network.go.release(4)
        answers = await asyncio.gather(*asked, return_exceptions=True)
        assert (await batcher("e"))[0] == "e!"
        return network.batches, answers

    batches, answers = asyncio.run(main())
    assert batches[0] == ["broken"]
    with pytest.raises(ValueError, match="a broken request"):
        raise answers[0]
    assert [answer[0] for answer in answers[1:3]] == ["b!", "c!"]
    assert isinstance(answers[3], asyncio.CancelledError)
