"""A run that is recorded, and what records it: threads that send what is new, and fail by themselves."""

import logging
import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from threading import Event, Thread
from typing import Any

from edgesea.errors import EdgeseaError

log = logging.getLogger(__name__)
FOLDER = "tracking"  # what trackers keep in a student's folder
TRIES, LONGEST = 3, 64.0  # failures in a row after which an ended run is given up; s between tries at most


class Run:
    """A run; its trackers start with the first call of `log` or `end`."""

    def __init__(self, command: str, folder: Path | None, facts: Mapping[str, Any]) -> None:
        self.command, self.facts = command, facts  # options, inputs with their digests, versions, host, commit, user
        self.folder = folder and folder.absolute()  # of the student
        self.name = "/".join(self.folder.parts[-2:]) if self.folder else f"{command} {facts.get('model', '')}"
        self.history: Sequence[Mapping[str, float]] = ()  # a row for each epoch, with its number as `epoch`
        self.results: Mapping[str, Any] = {}
        self.files: Sequence[Path] = ()
        self.status = ""  # finished or failed, when it has ended
        self.start: Callable[[], Iterable[Tracker]] = tuple
        self._trackers: Sequence[Tracker] | None = None

    def log(self, history: Sequence[Mapping[str, float]]) -> None:
        """Record the history of the run until now."""
        self.history = tuple(history)
        self._tell()

    def end(self, results: Mapping[str, Any] = {}, files: Sequence[Path] = (), status: str = "finished") -> None:
        """Record that the run has ended, unless that is recorded already or nothing is."""
        if not self.status and (self._trackers is not None or status == "finished"):
            self.results, self.files, self.status = results, [path for path in files if path.is_file()], status
            self._tell()
            for tracker in self._trackers or ():
                tracker.join(tracker.patience if status == "finished" else 10.0 / len(self._trackers or ()))
                if tracker.is_alive():
                    log.warning("%s: has not answered yet; %s", tracker.name, tracker.later)

    def _tell(self) -> None:
        if self._trackers is None:
            self._trackers = list(self.start())
            for tracker in self._trackers:
                tracker.start()
        for tracker in self._trackers:
            if self.status:
                tracker.ended.set()
            tracker.changed.set()


class Tracker(Thread):
    """Records a run somewhere; one that is slow, or away for a while, is later given all that is missing."""

    later = "the end of the run is missing there"  # what is said of one that has not been recorded when it ended
    pause, patience = 1.0, 60.0  # s between two calls of `send` at least; s that the end of a run waits at most

    def __init__(self, name: str, about: Run) -> None:
        super().__init__(name=name, daemon=True)
        self.about, self.changed, self.ended = about, Event(), Event()

    def send(self, ended: bool) -> None:
        """Record what has not been; an EdgeseaError means that only a user can help."""
        raise NotImplementedError

    def run(self) -> None:
        """Send what is new until the run has ended."""
        failures, warned = 0, set[str]()
        while self.changed.wait():
            self.changed.clear()
            ended, delay = self.ended.is_set(), self.pause
            try:
                self.send(ended)
                failures = 0
                if ended:
                    return
            except Exception as error:
                hopeless, failures = isinstance(error, EdgeseaError), failures + 1
                what = "not recorded there" if hopeless else "tried again"
                if what not in warned:
                    log.warning("%s: %s; %s", self.name, " ".join(str(error).split())[:400] or repr(error), what)
                warned.add(what)
                if ended and (hopeless or failures >= TRIES):
                    if not hopeless:
                        log.warning("%s: given up; %s", self.name, self.later)
                    return
                delay = max(0 if ended else delay, random.uniform(0.5, 1.0) * min(LONGEST, 2.0**failures))
                self.changed.set()
                if hopeless:
                    self.ended.wait()  # then once more
            time.sleep(delay) if ended else self.ended.wait(delay)
