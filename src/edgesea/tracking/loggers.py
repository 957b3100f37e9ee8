"""Trackers of curves, results and files, by Lightning's loggers: TensorBoard, MLflow, Weights & Biases."""

import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgesea.artifact import plain, read_json, write_json
from edgesea.tracking.tracker import FOLDER, Run, Tracker


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
