"""Running generators in threads ahead of their consumer, with results in order and bounded memory."""

import logging
import os
import signal
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import cache
from itertools import islice
from logging.handlers import BufferingHandler
from queue import Full, Queue
from typing import Any, TypeVar

from edgesea.errors import EdgeseaError

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


log = logging.getLogger(__name__)

Messages = list[tuple[int, str]]  # levels and texts


def in_processes(
    function: Callable[..., None], calls: Sequence[tuple[Any, ...]], workers: int, what: str
) -> dict[int, str]:
    """Call a function several times, each in a process, with one progress bar.

    Parameters
    ----------
    function : callable
        Can be pickled; what it returns is dropped.
    calls : sequence of tuple
        Its arguments. Large arrays in them are shared, not copied.
    workers : int
        Processes; with one, it is called here.
    what : str
        Name of the bar.

    Returns
    -------
    dict of int to str
        The EdgeseaErrors, by the number of the call. What the calls logged is logged here, each message once.

    Raises
    ------
    EdgeseaError
        If a process was killed.
    """
    from joblib import Parallel, delayed, parallel_config
    from tqdm import tqdm

    cores = os.cpu_count() or 1
    settings: dict[str, Any] = {"backend": "loky", "n_jobs": min(workers, len(calls) or 1)}
    if settings["n_jobs"] > 1:
        settings["inner_max_num_threads"] = max(1, cores // settings["n_jobs"])
    errors: dict[int, str] = {}
    said: set[tuple[int, str]] = set()
    with parallel_config(**settings), _quiet_bars(), warnings.catch_warnings():
        # Processes that have grown are replaced by new ones, which is as it should be.
        warnings.filterwarnings("ignore", message="A worker stopped while some jobs")
        jobs = Parallel(return_as="generator_unordered")(
            delayed(_attempt)(function, index, arguments, os.getpid()) for index, arguments in enumerate(calls)
        )
        try:
            for index, error, messages in tqdm(jobs, total=len(calls), desc=what, unit="trial", disable=None):
                if error is not None:
                    errors[index] = error
                for message in messages:
                    if message not in said:
                        said.add(message)
                        log.log(*message)
        except BrokenProcessPool as error:
            raise EdgeseaError(
                "a trial's process was killed, probably for lack of memory; choose fewer workers; the same command "
                "goes on from here"
            ) from error
    return errors


def _attempt(
    function: Callable[..., None], index: int, arguments: tuple[Any, ...], parent: int
) -> tuple[int, str | None, Messages]:
    """Call a function in a process; returns the error, and what was logged, for the parent to log."""
    if os.getppid() == parent:
        _follow(parent)
    with _collected() as buffer:
        try:
            function(*arguments)
            error = None
        except EdgeseaError as raised:
            error = str(raised)
    return index, error, [(record.levelno, record.getMessage()) for record in buffer.buffer]


@cache
def _follow(parent: int) -> None:
    """Let this process leave Ctrl-C to its parent, and end when that is killed; joblib's would wait for minutes."""
    from tqdm import tqdm

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    tqdm.set_lock(threading.RLock())  # its own leaves a semaphore behind when the process is killed

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def _collected() -> Iterator[BufferingHandler]:
    """Collect what the library logs, and do nothing else with it."""
    own, buffer = logging.getLogger("edgesea"), BufferingHandler(1000)
    before = own.handlers, own.propagate, own.level
    own.handlers, own.propagate = [buffer], False
    own.setLevel(logging.INFO)
    try:
        yield buffer
    finally:
        own.handlers, own.propagate = before[:2]
        own.setLevel(before[2])


@contextmanager
def _quiet_bars() -> Iterator[None]:
    """Let processes that are started meanwhile show no progress bars of their own."""
    before = os.environ.get("TQDM_DISABLE")
    os.environ["TQDM_DISABLE"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["TQDM_DISABLE"]
        else:
            os.environ["TQDM_DISABLE"] = before
