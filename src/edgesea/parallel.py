"""Threads that read ahead of their consumer: results in order, memory bounded; and that wait without a processor."""

import os
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from itertools import islice
from queue import Full, Queue
from typing import Any, TypeVar

T = TypeVar("T")
_END = object()
MOST_READERS = 8  # threads by default; of more, half wait for Python's lock
# For the threads of OpenMP (of torch, scikit-learn) and OpenBLAS (numpy), which otherwise wait in loops
SLEEP = {"OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0", "OPENBLAS_THREAD_TIMEOUT": "4"}


def sleep_when_idle() -> None:
    """Let threads sleep while they wait for work, unless the environment says how; before numpy and torch are imported.

    Beside other processes, each would take from these, and from its siblings, the processor that they wait for.
    """
    for name, value in SLEEP.items():
        os.environ.setdefault(name, value)


def thread_count() -> int:
    """How many threads compute: the environment's ``OMP_NUM_THREADS``, or else a processor each."""
    setting = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    if setting.isdecimal() and int(setting):
        return int(setting)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def prefetch(
    sources: Iterable[Callable[[], Iterable[T]]], workers: int | None, depth: int = 2
) -> Generator[Iterator[T], None, None]:
    """Call each source in one of `workers` threads and yield an iterator of its items for each, in order.

    None: as many threads as compute, but no more than `MOST_READERS`. At most `depth` items of a source wait to be
    consumed. An exception of a source is raised from its iterator. Asking for the next iterator abandons what is left
    of the last one.
    """
    stop, workers = threading.Event(), workers or min(thread_count(), MOST_READERS)

    def put(queue: "Queue[Any]", item: Any, abandoned: threading.Event) -> bool:
        while not (stop.is_set() or abandoned.is_set()):
            with suppress(Full):
                queue.put(item, timeout=0.1)
                return True
        return False

    def pump(source: Callable[[], Iterable[T]], queue: "Queue[Any]", abandoned: threading.Event) -> None:
        try:
            for item in source():
                if not put(queue, item, abandoned):
                    return
        finally:
            put(queue, _END, abandoned)

    def drain(queue: "Queue[Any]", pumped: "Future[None]") -> Iterator[T]:
        while (item := queue.get()) is not _END:
            yield item
        pumped.result()  # raises what the source raised

    remaining = iter(sources)
    pending: deque[tuple[Queue[Any], threading.Event, Future[None]]] = deque()
    with ThreadPoolExecutor(workers, thread_name_prefix="edgesea-decode") as pool:

        def start(count: int) -> None:
            for source in islice(remaining, count):
                queue: Queue[Any] = Queue(depth)
                abandoned = threading.Event()
                pending.append((queue, abandoned, pool.submit(pump, source, queue, abandoned)))

        try:
            start(workers + 2)
            while pending:
                queue, abandoned, pumped = pending.popleft()
                yield drain(queue, pumped)
                abandoned.set()  # a consumer that gave up halfway must not leave a thread waiting
                start(1)
        finally:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
