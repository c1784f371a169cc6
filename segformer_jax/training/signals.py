"""Turns SIGTERM and Ctrl-C into requests to stop, which the loop checks between two steps."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def collected_signals() -> Iterator[list[int]]:
    """The SIGTERMs and the first Ctrl-C that came, instead of an end; in the main thread only.

    A second Ctrl-C is a KeyboardInterrupt.
    """
    received: list[int] = []

    def receive(number: int, frame: Any) -> None:
        if number in received and number == signal.SIGINT:
            raise KeyboardInterrupt
        received.append(number)

    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    before = {number: signal.signal(number, receive) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
