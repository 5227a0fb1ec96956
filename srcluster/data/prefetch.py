"""Items that a thread makes ahead of their use."""

import threading
from collections.abc import Iterator
from queue import SimpleQueue
from typing import TypeVar

__all__ = ["prefetch"]

T = TypeVar("T")


def prefetch(items: Iterator[T], number: int) -> Iterator[T]:
    """The same endless items, up to `number` of them made, or in the making, while one is used.

    An error in the making is raised where its item would have been. The thread ends with the consumer, once the item
    that it makes is made, and never keeps the process from ending.
    """
    made: SimpleQueue[tuple[T | None, BaseException | None]] = SimpleQueue()
    room = threading.Semaphore(number)
    closed = threading.Event()

    def make() -> None:
        try:
            while room.acquire() and not closed.is_set():
                made.put((next(items), None))
        except BaseException as error:
            made.put((None, error))

    threading.Thread(target=make, daemon=True, name="prefetch").start()
    try:
        while True:
            item, error = made.get()
            if error is not None:
                raise error
            room.release()
            yield item
    finally:
        closed.set()
        room.release()
