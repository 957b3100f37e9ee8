"""Who watches a run: TensorBoard, MLflow, Weights & Biases, a Google Sheet; none changes, delays or ends it."""

import getpass
import logging
import os
import socket
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from edgesea.artifact import versions
from edgesea.config import checked_options
from edgesea.errors import EdgeseaError, missing_extra
from edgesea.tracking.tracker import FOLDER, Curves, Run, Tracker

__all__ = ["FOLDER", "Track", "current", "log_history", "origin", "read_track", "recording", "track", "using"]
log = logging.getLogger(__name__)
LIBRARIES = {"tensorboard": "tensorboard", "mlflow": "mlflow", "wandb": "wandb", "sheets": "gspread"}


@dataclass(frozen=True)
class Track:
    """Who watches a run.

    Parameters
    ----------
    track : list of {"csv", "tensorboard", "mlflow", "wandb", "sheets"}
        Where runs are recorded besides metrics.csv, which is always written; needs edgesea[track].
    project : str
        Experiment of MLflow, project of W&B.
    uri : str, optional
        Address of an MLflow server; default: MLFLOW_TRACKING_URI in the environment, or else the file mlflow.db here.
    sheet : str, optional
        Id or address of a Google Sheet; default: GSHEET_ID in the environment.
    credentials : Path, optional
        JSON file of a Google service account or OAuth client; default: GOOGLE_APPLICATION_CREDENTIALS in the
        environment, or else gspread's places.
    user : str, optional
        Name in the Google Sheet; default: that of your account.
    """

    track: list[Literal["csv", "tensorboard", "mlflow", "wandb", "sheets"]] = field(default_factory=list)
    project: str = "edgesea"
    uri: str | None = None
    sheet: str | None = None
    credentials: Path | None = None
    user: str | None = None

    def check(self) -> None:
        """EdgeseaError if a library, an account or a sheet are missing; nothing is sent."""
        for name in self.track:
            if (library := LIBRARIES.get(name)) and find_spec(library) is None:
                raise missing_extra(library, "track")
        if "sheets" in self.track:
            self.spreadsheet()
        if "wandb" in self.track and os.environ.get("WANDB_MODE", "online") == "online":
            import wandb

            if not wandb.login(prompt=False):  # it must not ask while it trains
                raise EdgeseaError("wandb: no API key; call `wandb login` once, or set WANDB_MODE=offline")

    def spreadsheet(self, interactive: bool = False) -> Any:
        """The Google Sheet; if `interactive`, a user may be asked for consent."""
        from edgesea.tracking.sheets import Spreadsheet

        return Spreadsheet(self.sheet, self.credentials, interactive)

    def trackers(self, run: Run) -> Iterator[Tracker]:
        """The trackers of a run; one that fails to start is left out."""
        from edgesea.tracking.sheets import SheetRow, tabs

        for name in self.track:
            try:
                run.facts = {**run.facts, "user": self.user or getpass.getuser(), **origin(), "versions": versions()}
                if name == "sheets" and run.command in tabs():
                    yield SheetRow(run, self.spreadsheet())
                elif name in ("mlflow", "wandb") or (name == "tensorboard" and run.folder):
                    yield Curves(name, run, self.project, self.uri)
            except Exception as error:
                log.warning("%s: %s; not recorded there", name, " ".join(str(error).split())[:400])


def read_track(given: Any, source: str) -> Track:
    """The options of a YAML file's section ``track``: a mapping, or only who; EdgeseaError names `source`."""
    options = given or {} if isinstance(given, Mapping | None) else {"track": given}
    return Track(**checked_options(Track, options, source))


_TRACK: ContextVar[Track] = ContextVar("track", default=Track())  # noqa: B039
_RUN: ContextVar[Run] = ContextVar("run")


@contextmanager
def using(track: Track) -> Iterator[None]:
    """Record the runs in this block."""
    track.check()
    token = _TRACK.set(track)
    try:
        yield
    finally:
        _TRACK.reset(token)


@contextmanager
def recording(command: str, facts: Mapping[str, Any], folder: Path | None = None) -> Iterator[Run]:
    """Record a run in this block, of which `facts` are known; `folder` is that of its student."""
    run = Run(command, folder, facts)
    run.start = partial(_TRACK.get().trackers, run)
    token = _RUN.set(run)
    try:
        yield run
    finally:
        run.end(status="failed")  # unless it has ended; it may be resumed
        _RUN.reset(token)


def current() -> Track:
    """The options of the innermost `using`."""
    return _TRACK.get()


def log_history(history: Sequence[Mapping[str, float]]) -> None:
    """Record the history of the run whose block this is."""
    if run := _RUN.get(None):
        run.log(history)


def track(action: Literal["test", "sync"]) -> dict[str, Any]:
    """Try, or complete, what is recorded in a Google Sheet.

    `edgesea track test --sheet ... --credentials ...` shows at once whether the credentials, and the sharing of the
    sheet, are right.

    Parameters
    ----------
    action : {"test", "sync"}
        test: write a row and remove it again. sync: send what could not be sent when it was to be.

    Returns
    -------
    dict
        What was done, or could not be.

    EdgeseaError: the sheet cannot be written; it names the remedy.
    """
    from edgesea.tracking import sheets

    track = _TRACK.get()
    return sheets.test(track.spreadsheet(interactive=True)) if action == "test" else sheets.sync(track.credentials)


def origin() -> dict[str, str]:
    """Where a run is made: the host, and the git commit of the working directory where there is one."""
    command = ["git", "--no-optional-locks", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        found = ""
    return {"host": socket.gethostname(), **({"commit": found} if found else {})}
