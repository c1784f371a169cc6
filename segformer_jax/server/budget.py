"""A limited amount of a resource; requests for more wait in the order of their arrival."""

import asyncio
import contextlib
from collections.abc import AsyncIterator


class Budget:
    """Units that are lent and come back, within one event loop.

    Args:
        units: how many there are; who wants more than all gets all.
    """

    def __init__(self, units: int):
        self._all = self._left = units
        self._turn = asyncio.Lock()
        self._returned = asyncio.Event()

    @contextlib.asynccontextmanager
    async def taking(self, units: int) -> AsyncIterator[None]:
        """Waits until they are there, and has them inside the block."""
        units = min(units, self._all)
        async with self._turn:
            while self._left < units:
                self._returned.clear()
                await self._returned.wait()
            self._left -= units
        try:
            yield
        finally:
            self._left += units
            self._returned.set()
