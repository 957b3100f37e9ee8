"""A run that is recorded, and what records it: threads that send what is new, and fail by themselves.

Curves, results and files are recorded by Lightning's loggers: TensorBoard, MLflow, Weights & Biases.
"""

import logging
import os
import random
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from threading import Event, Thread
from typing import Any

from edgesea.artifact import plain, read_json, write_json
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


def flat(value: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Nested values by names such as ``training/lr``."""
    found: dict[str, Any] = {}
    for key, one in value.items():
        found |= flat(one, f"{above}{key}/") if isinstance(one, Mapping) else {f"{above}{key}": one}
    return found


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """The numbers among nested values, by names that every logger allows."""
    found = flat(plain(values)).items()
    return {re.sub(r"[^\w/. -]+", "_", key): float(one) for key, one in found if type(one) in (int, float)}


class Curves(Tracker):
    """A tracker that is given each epoch once; the id by which it knows a run is in the student's folder."""

    def __init__(self, name: str, about: Run, project: str, uri: str | None) -> None:
        super().__init__(name, about)
        local = f"sqlite:///{Path('mlflow.db').absolute()}"
        self._uri = (uri or os.environ.get("MLFLOW_TRACKING_URI") or local) if name == "mlflow" else None
        folder = about.folder / FOLDER if about.folder else Path.cwd()
        self._file = folder / f"{name}.json" if about.folder else None
        found = read_json(self._file) if self._file and self._file.is_file() else {}
        found = found if found.get("uri") == self._uri else {}  # another server does not know it
        self._id, self._epoch, self._is_open = found.get("id"), found.get("epoch", 0), False
        self._logger = self._make(folder, project)

    def _make(self, folder: Path, project: str) -> Any:
        from lightning.pytorch import loggers

        about = self.about
        if self.name == "tensorboard":
            return loggers.TensorBoardLogger(folder, "", self.name, default_hp_metric=False)
        if self.name == "mlflow":
            tags = {"mlflow.user": str(about.facts["user"]), "edgesea.command": about.command}
            for chatty in ("mlflow.store", "alembic", "lightning.pytorch.loggers", "urllib3"):  # about tables, retries
                logging.getLogger(chatty).setLevel(logging.ERROR)
            return loggers.MLFlowLogger(project, about.name, self._uri, tags, run_id=self._id)
        import wandb

        folder.mkdir(parents=True, exist_ok=True)
        given: dict[str, Any] = {"id": self._id, "job_type": about.command, "reinit": "create_new"}
        quiet = wandb.Settings(silent=True, console="off")
        return loggers.WandbLogger(about.name, folder, project=project, settings=quiet, **given)

    def send(self, ended: bool) -> None:
        """Record the epochs that have not been; at the end results and files."""
        about, logger = self.about, self._logger
        if not self._is_open:
            if self._id is None:
                logger.log_hyperparams(plain(about.facts))
            self._id, self._is_open = str(logger.version), True
            self._remember()
        for row in [row for row in about.history if row["epoch"] > self._epoch]:
            logger.log_metrics(_numbers(row), int(row["epoch"]))
            self._epoch = int(row["epoch"])
            self._remember()
        logger.save()
        if ended:
            logger.log_metrics(_numbers(about.results), self._epoch)
            self._store(logger.experiment)
            logger.finalize("success" if about.status == "finished" else about.status)

    def _store(self, experiment: Any) -> None:
        """Record files."""
        for path in self.about.files if self.name == "mlflow" else ():
            experiment.log_artifact(self._id, str(path))
        if self.name == "wandb":
            import wandb

            artifact = wandb.Artifact(re.sub(r"[^\w.-]+", "-", self.about.name), self.about.command.split()[0])
            for path in self.about.files:
                artifact.add_file(str(path))
            if self.about.files:
                experiment.log_artifact(artifact)
            experiment.finish(exit_code=int(self.about.status != "finished"))

    def _remember(self) -> None:
        if self._file:
            write_json(self._file, {"id": self._id, "epoch": self._epoch, "uri": self._uri})
