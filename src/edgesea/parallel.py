"""Threads that read ahead of their consumer, and processes that share work; results in order, memory bounded."""

import logging
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
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
    os.environ["TQDM_DISABLE"] = "1"  # for the processes; here tqdm is loaded already
    with parallel_config("loky", n_jobs=jobs, inner_max_num_threads=threads):
        attempts = (delayed(_attempt)(function, arguments, os.getpid()) for arguments in calls)
        try:
            return list(tqdm(Parallel(return_as="generator")(attempts), total=len(calls), desc=name, disable=None))
        except BrokenProcessPool as error:
            reason = "a process was killed, probably for lack of memory"
            raise EdgeseaError(f"{name}: {reason}; choose fewer workers and run it again: it resumes") from error
        finally:
            del os.environ["TQDM_DISABLE"]


def _attempt(function: Callable[..., T], arguments: tuple[Any, ...], parent: int) -> T | EdgeseaError:
    if os.getpid() != parent:
        _follow(parent)
    try:
        return function(*arguments)
    except EdgeseaError as error:
        return error


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
