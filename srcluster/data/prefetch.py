"""Items that a thread makes ahead of their use."""

import threading
from collections.abc import Iterator
from concurrent.futures import Future
from queue import SimpleQueue
from typing import TypeVar

T = TypeVar("T")


def prefetch(items: Iterator[T], number: int) -> Iterator[T]:
    """The same endless items, up to `number` of them made, or in the making, while one is used.

    An error in the making is raised where its item would have been. The thread ends with the consumer, once the item
    that it makes is made, and never keeps the process from ending.
    """
    made: SimpleQueue[Future[T]] = SimpleQueue()
    room = threading.Semaphore(number)
    closed = threading.Event()

    def make() -> None:
        while room.acquire() and not closed.is_set():
            future: Future[T] = Future()
            try:
                future.set_result(next(items))
            except BaseException as error:
                future.set_exception(error)
                closed.set()
            made.put(future)

    threading.Thread(target=make, daemon=True, name="prefetch").start()
    try:
        while True:
            item = made.get().result()
            room.release()
            yield item
    finally:
        closed.set()
        room.release()
