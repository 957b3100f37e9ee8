"""Calling a function in several processes, which end with their parent and say nothing themselves."""

import logging
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import cache
from logging.handlers import BufferingHandler
from typing import Any

from edgesea.errors import EdgeseaError

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
