"""Trackers of curves, results and files, by Lightning's loggers: TensorBoard, MLflow, Weights & Biases."""

import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgesea.artifact import plain, read_json, write_json
from edgesea.errors import EdgeseaError
from edgesea.tracking.tracker import FOLDER, News, Run, Tracker


def flat(value: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Nested values by names such as ``training/lr``."""
    found: dict[str, Any] = {}
    for key, one in value.items():
        found |= flat(one, f"{above}{key}/") if isinstance(one, Mapping) else {f"{above}{key}": one}
    return found


def numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """The numbers among nested values, by names that every tracker allows."""
    found = flat(plain(values)).items()
    return {re.sub(r"[^\w/. -]+", "_", key): float(one) for key, one in found if type(one) in (int, float)}


class Curves(Tracker):
    """A tracker that is given each epoch once; what it knows a run by, and which epochs, is in the student's folder."""

    def __init__(self, name: str, run: Run, project: str, uri: str | None) -> None:
        super().__init__(run)
        self.name, self._project = name, project
        local = f"sqlite:///{Path('mlflow.db').absolute()}"
        self._uri = (uri or os.environ.get("MLFLOW_TRACKING_URI") or local) if name == "mlflow" else None
        self._folder = Path.cwd() if run.folder is None else run.folder / FOLDER
        self._file = None if run.folder is None else self._folder / f"{name}.json"
        found = read_json(self._file) if self._file and self._file.is_file() else {}
        found = found if found.get("uri") == self._uri else {}  # another server does not know it
        self._id: str | None = found.get("id")
        self._epoch: int = found.get("epoch", 0)
        self._logger = self._make()
        self._is_open = False

    def _make(self) -> Any:
        from lightning.pytorch import loggers

        if self.name == "tensorboard":
            return loggers.TensorBoardLogger(self._folder, "", "tensorboard", default_hp_metric=False)
        if self.name == "mlflow":
            logging.getLogger("alembic").setLevel(logging.WARNING)  # it reports every table of a new file
            tags = {"mlflow.user": str(self.about.facts["user"]), "edgesea.command": self.about.command}
            return loggers.MLFlowLogger(self._project, self.about.name, self._uri, tags, run_id=self._id)
        import wandb

        self._folder.mkdir(parents=True, exist_ok=True)
        given: Any = {"project": self._project, "job_type": self.about.command, "reinit": "create_new"}
        quiet = wandb.Settings(silent=True, console="off")
        return loggers.WandbLogger(self.about.name, self._folder, id=self._id, settings=quiet, **given)

    def send(self, news: News) -> None:
        """Record the epochs that have not been; at the end results and files."""
        if not self._is_open:
            if self._id is None:
                self._logger.log_hyperparams(plain(self.about.facts))
            self._id, self._is_open = str(self._logger.version), True
            self._remember()
        for row in [row for row in news.history if row["epoch"] > self._epoch]:
            self._logger.log_metrics(numbers(row), int(row["epoch"]))
            self._epoch = int(row["epoch"])
            self._remember()
        self._logger.save()
        if not news.status:
            return
        self._logger.log_metrics(numbers(news.results), self._epoch)
        files = [path for path in news.files if path.is_file()]
        if self.name == "mlflow":
            for path in files:
                self._logger.experiment.log_artifact(self._id, str(path))
        if self.name == "wandb":
            import wandb

            artifact = wandb.Artifact(re.sub(r"[^\w.-]+", "-", self.about.name), self.about.command)
            for path in files:
                artifact.add_file(str(path))
            if files:
                self._logger.experiment.log_artifact(artifact)
            self._logger.experiment.finish(exit_code=int(news.status != "finished"))
        self._logger.finalize({"finished": "success"}.get(news.status, news.status))

    def _remember(self) -> None:
        if self._file:
            write_json(self._file, {"id": self._id, "epoch": self._epoch, "uri": self._uri})


def check_wandb() -> None:
    """EdgeseaError if nobody is logged in to W&B; it must not ask while it trains."""
    import wandb

    if os.environ.get("WANDB_MODE", "online") == "online" and not wandb.login(prompt=False):
        raise EdgeseaError("wandb: no API key; call `wandb login` once, or set WANDB_MODE=offline")
