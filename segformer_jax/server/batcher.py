"""Forms batches of the requests that are ready, so that the network is never without one."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

Request = TypeVar("Request")
Answer = TypeVar("Answer")


class Batcher(Generic[Request, Answer]):
    """Computes requests together in a thread of its own.

    Whatever is ready when the thread is idle becomes a batch at once. While one is computed, others
    gather; as soon as they fill a batch, it waits behind the one that is computed.

    Args:
        compute: returns the answers to some requests, in their order. It runs in the thread.
        size: the largest number of requests in a batch.
    """

    def __init__(self, compute: Callable[[Sequence[Request]], Sequence[Answer]], size: int):
        self._compute, self._size = compute, size
        self._ready: deque[tuple[Request, asyncio.Future[tuple[Answer, int]]]] = deque()
        self._batches = 0  # that are computed, or wait to be
        self._thread = ThreadPoolExecutor(1)

    async def __call__(self, request: Request) -> tuple[Answer, int]:
        """Returns the answer, and the size of its batch for one request of each, 0 for others.

        Raises:
            Exception: what `compute` raises, for every request of the batch.
        """
        answer: asyncio.Future[tuple[Answer, int]] = asyncio.get_running_loop().create_future()
        self._ready.append((request, answer))
        self._start()
        return await answer

    def _start(self) -> None:
        while self._ready and (
            not self._batches or (self._batches == 1 and len(self._ready) >= self._size)
        ):
            count = min(self._size, len(self._ready))
            batch = [self._ready.popleft() for _ in range(count)]
            batch = [(request, answer) for request, answer in batch if not answer.cancelled()]
            if batch:
                requests, answers = zip(*batch, strict=True)
                self._batches += 1
                done = asyncio.get_running_loop().run_in_executor(
                    self._thread, self._compute, requests
                )
                done.add_done_callback(lambda done, answers=answers: self._finish(done, answers))

    def _finish(self, done: asyncio.Future, answers: Sequence[asyncio.Future]) -> None:
        self._batches -= 1
        self._start()
        error = done.exception()
        for index, answer in enumerate(answers):
            if answer.cancelled():
                continue
            if error is not None:
                answer.set_exception(error)
            else:
                answer.set_result((done.result()[index], 0 if index else len(answers)))
