"""What a tracker is: a thread that is given the latest news of a run, and records what has not been recorded."""

import logging
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread
from typing import Any, NamedTuple

from edgesea.errors import EdgeseaError

log = logging.getLogger(__name__)
FOLDER = "tracking"  # what trackers keep in a student's folder
TRIES, LONGEST = 3, 64.0  # failures in a row after which an ended run is given up; s between tries at most


@dataclass(frozen=True)
class Run:
    """What is known of a run from its beginning."""

    command: str
    folder: Path | None  # of its student
    facts: Mapping[str, Any]  # options, inputs with their digests, user, versions, host and commit

    @property
    def name(self) -> str:
        """For people, in lists of runs."""
        return "/".join(self.folder.parts[-2:]) if self.folder else f"{self.command} {self.facts.get('model', '')}"


class News(NamedTuple):
    """What is known of a run now."""

    history: Sequence[Mapping[str, float]] = ()  # a row for each epoch, with its number as `epoch`
    results: Mapping[str, Any] = {}
    files: Sequence[Path] = ()
    status: str = ""  # finished or failed, when it has ended


class Tracker(Thread):
    """Records a run somewhere; what is slow, or away for a while, is later given all that is missing."""

    pause, patience = 1.0, 60.0  # s between two calls of `send` at least; s that the end of a run waits at most

    def __init__(self, run: Run) -> None:
        super().__init__(name=type(self).__name__, daemon=True)
        self.about, self._news, self._changed, self._ended = run, News(), Event(), Event()

    def send(self, news: News) -> None:
        """Record what has not been; an EdgeseaError means that it is no use to try again."""
        raise NotImplementedError

    def post(self, news: News) -> None:
        """There are news."""
        self._news = news
        self._changed.set()
        if news.status:
            self._ended.set()

    def run(self) -> None:
        """Send the latest news until the run has ended."""
        failures, warned = 0, set[str]()
        while self._changed.wait():
            self._changed.clear()
            news, delay = self._news, self.pause
            try:
                self.send(news)
                failures = 0
                if news.status:
                    return
            except Exception as error:
                hopeless, failures = isinstance(error, EdgeseaError), failures + 1
                what = "not recorded there" if hopeless else "tried again"
                if what not in warned:
                    log.warning("%s: %s; %s", self.name, " ".join(str(error).split())[:400] or repr(error), what)
                warned.add(what)
                if news.status and (hopeless or failures >= TRIES):
                    return
                delay = max(0 if news.status else delay, random.uniform(0.5, 1.0) * min(LONGEST, 2.0**failures))
                self._changed.set()
                if hopeless:
                    self._ended.wait()  # then once more
            time.sleep(delay) if news.status else self._ended.wait(delay)

    def finish(self, patience: float) -> None:
        """Wait until the last news are sent."""
        self.join(patience)
        if self.is_alive():
            log.warning("%s: no answer within %.0f s; the end of the run is missing there", self.name, patience)
