"""Running generators in threads ahead of their consumer, with results in order and bounded memory."""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from queue import Full, Queue
from typing import Any, TypeVar

T = TypeVar("T")
_END = object()


def prefetch(sources: Iterable[Callable[[], Iterable[T]]], workers: int, depth: int = 2) -> Iterator[Iterator[T]]:
    """Iterate over `sources`, each of which makes an iterable, with threads running ahead.

    Parameters
    ----------
    sources : iterable of callables
        Each is called in a thread; what it yields is handed over in order.
    workers : int
        Number of threads.
    depth : int
        Items of one source that may wait to be consumed.

    Yields
    ------
    iterator
        One for each source, in order. An exception of the source is raised from it. Asking for the next one abandons
        what is left of it.
    """
    stop = threading.Event()

    def put(queue: "Queue[Any]", item: Any, abandoned: threading.Event) -> bool:
        while not (stop.is_set() or abandoned.is_set()):
            try:
                queue.put(item, timeout=0.1)
                return True
            except Full:
                continue
        return False

    def pump(source: Callable[[], Iterable[T]], queue: "Queue[Any]", abandoned: threading.Event) -> None:
        if stop.is_set():
            return
        try:
            for item in source():
                if not put(queue, (item, None), abandoned):
                    return
            put(queue, (_END, None), abandoned)
        except BaseException as error:
            put(queue, (_END, error), abandoned)

    def drain(queue: "Queue[Any]") -> Iterator[T]:
        while True:
            item, error = queue.get()
            if error is not None:
                raise error
            if item is _END:
                return
            yield item

    remaining = iter(sources)
    pending: deque[tuple[Queue[Any], threading.Event]] = deque()
    with ThreadPoolExecutor(workers, thread_name_prefix="edgesea-decode") as pool:

        def start(count: int) -> None:
            for source in islice(remaining, count):
                pending.append((Queue(depth), threading.Event()))
                pool.submit(pump, source, *pending[-1])

        try:
            start(workers + 2)
            while pending:
                queue, abandoned = pending.popleft()
                yield drain(queue)
                abandoned.set()  # a consumer that gave up halfway must not leave a thread waiting
                start(1)
        finally:
            stop.set()
