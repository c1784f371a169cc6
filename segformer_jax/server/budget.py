"""A limited amount of a resource, for which tasks wait in the order of their arrival."""

import asyncio
import contextlib
from collections.abc import AsyncIterator


class Budget:
    """A number of units that the tasks of one event loop take and give back.

    Args:
        units: total number of units; a task that asks for more gets all of them.
    """

    def __init__(self, units: int):
        self._all = self._left = units
        self._turn = asyncio.Lock()
        self._returned = asyncio.Event()

    @contextlib.asynccontextmanager
    async def taking(self, units: int) -> AsyncIterator[None]:
        """Waits until `units` are free, and holds them inside the block."""
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
