"""Signals that ask a process to end, while it reads."""

import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")  # Windows lacks the last
ONE_REQUEST = 1.0  # seconds; timeout(1), and shells whose terminal closes, send the same signal twice


class Interruptible:
    """A binary file, of which nothing more is read once a signal has come: a read then raises KeyboardInterrupt.

    So does the read that is waiting when it comes. All else goes on, so that what has been read is finished, unless a
    signal comes later than `ONE_REQUEST` after the first: that one does what it did before.

    Parameters
    ----------
    file : binary file
        One of the system's, such as ``sys.stdin.buffer``, of which nothing is buffered.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.isatty = file, file.isatty
        self.name = getattr(file, "name", "input")
        self._waiting = False
        self._since = 0.0  # when the first signal came
        self._before: dict[int, Any] = {}  # the handlers of signals

    def read(self, size: int) -> bytes:
        """At most `size` bytes, as soon as there are any."""
        self._waiting = True
        try:
            if self._since:
                raise KeyboardInterrupt
            if os.name == "nt":  # which cannot wait for a pipe without reading it
                return reading(self._file)(size)
            select.select([self._file], [], [])
        finally:
            self._waiting = False  # what is read from now on is not thrown away
        return reading(self._file)(size)

    def install(self) -> None:
        """Handle those signals that would end the process. (Under nohup, SIGHUP would not.)"""
        for number in (getattr(signal, name) for name in SIGNALS if hasattr(signal, name)):
            if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
                self._before[number] = signal.signal(number, self._handle)

    def restore(self) -> None:
        """Let signals do what they did before."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, _: object) -> None:
        now = time.monotonic()
        self._since = self._since or now
        if now - self._since > ONE_REQUEST:
            signal.signal(number, self._before[number])
            signal.raise_signal(number)
        elif self._waiting:
            self._waiting = False  # so that a second one does not meet the first on its way
            raise KeyboardInterrupt


@contextmanager
def ended_by_signals(file: BinaryIO) -> Iterator[Interruptible]:
    """Let signals end what reads `file`, as long as the context lasts; only the main thread can have handlers."""
    source = Interruptible(file)
    if threading.current_thread() is threading.main_thread():
        source.install()
    try:
        yield source
    finally:
        source.restore()


def reading(file: BinaryIO | Interruptible) -> Callable[[int], bytes]:
    """What reads a file: ``read1`` does not wait for as many bytes as are asked for."""
    read: Callable[[int], bytes] = getattr(file, "read1", file.read)
    return read
