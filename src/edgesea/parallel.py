"""Threads that read ahead of their consumer, and processes that share work; results in order, memory bounded."""

import logging
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import cache
from itertools import islice
from queue import Full, Queue
from typing import Any, TypeVar

from edgesea.errors import EdgeseaError

T = TypeVar("T")
_END = object()


def prefetch(
    sources: Iterable[Callable[[], Iterable[T]]], workers: int, depth: int = 2
) -> Generator[Iterator[T], None, None]:
    """Call each source in one of `workers` threads and yield an iterator of its items for each, in order.

    At most `depth` items of a source wait to be consumed. An exception of a source is raised from its iterator. Asking
    for the next iterator abandons what is left of the last one.
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


def in_processes(
    function: Callable[..., T], calls: Sequence[tuple[Any, ...]], workers: int, name: str
) -> list[T | EdgeseaError]:
    """Results of `function` for each tuple of arguments, or its EdgeseaError, in the order of `calls`.

    Each call runs in one of `workers` processes (with one: in this one), with one progress bar `name` for all.
    """
    from joblib import Parallel, delayed, parallel_config
    from tqdm import tqdm

    jobs = max(1, min(workers, len(calls)))
    threads = max(1, (os.cpu_count() or 1) // jobs) if jobs > 1 else None
    results: dict[int, T | EdgeseaError] = {}
    os.environ["TQDM_DISABLE"] = "1"  # for the processes; here tqdm is loaded already
    with parallel_config("loky", n_jobs=jobs, inner_max_num_threads=threads):
        found = Parallel(return_as="generator_unordered")(
            delayed(_attempt)(function, index, arguments, os.getpid()) for index, arguments in enumerate(calls)
        )
        try:
            for index, result in tqdm(found, total=len(calls), desc=name, disable=None):
                results[index] = result
        except BrokenProcessPool as error:
            raise EdgeseaError(
                f"{name}: a process was killed, probably for lack of memory; choose fewer workers and run the command "
                "again: it resumes"
            ) from error
        finally:
            del os.environ["TQDM_DISABLE"]
    return [results[index] for index in range(len(calls))]


def _attempt(
    function: Callable[..., T], index: int, arguments: tuple[Any, ...], parent: int
) -> tuple[int, T | EdgeseaError]:
    if os.getpid() != parent:
        _follow(parent)
    try:
        return index, function(*arguments)
    except EdgeseaError as error:
        return index, error


@cache
def _follow(parent: int) -> None:
    """In a process: leave Ctrl-C to the parent, end when that is killed (joblib's would wait minutes), be silent."""
    from tqdm import tqdm

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    tqdm.set_lock(threading.RLock())  # its own leaves a semaphore behind when the process is killed
    logging.disable(logging.WARNING)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
