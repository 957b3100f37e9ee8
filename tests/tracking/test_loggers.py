import csv
import json
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from time import sleep
from typing import Any

import pytest
from conftest import TINY

from edgesea.distill import distill
from edgesea.tracking import FOLDER, Track, recording, using

ALL = ["tensorboard", "mlflow", "wandb"]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, where W&B is offline."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)  # which MLflow itself sets when it is used
    return tmp_path


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard reads."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder / FOLDER / "tensorboard")).Reload()
    return {name: [(e.step, e.value) for e in found.Scalars(name)] for name in found.Tags()["scalars"]}


def wandb_records(folder: Path) -> list[dict[str, Any]]:
    """What W&B's command reads."""
    records = []
    for path in sorted((folder / FOLDER / "wandb").glob("offline-run-*/*.wandb")):
        command = [str(Path(sys.executable).with_name("wandb")), "leet", "inspect", "--json", str(path)]
        lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
        records += [json.loads(line) for line in lines]
    return records


def test_a_distillation_is_read_back_by_the_clients_of_each(small_table, small_reduction, here):
    from mlflow import MlflowClient

    options: Any = {**TINY, "epochs": 3, "seed": 5}
    with using(Track(ALL, project="birds", user="ann")):
        result = distill(small_table, small_reduction, here / "run" / "student", **options)
    student = here / "run" / "student"
    with (student / "metrics.csv").open(newline="") as file:
        rows = [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]
    assert result["origin"]["host"]
    assert {**json.loads((student / "results.json").read_text()), "speed": result["speed"]} == result

    client = MlflowClient(f"sqlite:///{here}/mlflow.db")
    (run,) = client.search_runs([client.get_experiment_by_name("birds").experiment_id])
    assert (run.info.run_name, run.info.status) == ("run/student", "FINISHED")
    for name in ("train_mse", "train_mae", "val_mse", "val_r2", "lr"):
        points = [(point.step, point.value) for point in client.get_metric_history(run.info.run_id, name)]
        assert points == [(row["epoch"], row[name]) for row in rows]
    assert run.data.metrics["r2"] == result["r2"]
    params = run.data.params
    assert (params["training/seed"], params["user"], params["host"]) == ("5", "ann", result["origin"]["host"])
    plan = json.loads((student / "plan.json").read_text())
    assert params["table/manifest_sha256"] == plan["table"]["manifest_sha256"]
    assert params["versions/torch"]
    assert params.get("commit") == result["origin"].get("commit")
    files = {file.path for file in client.list_artifacts(run.info.run_id)}
    assert files == {"metrics.csv", "results.json", "config.json", "model.safetensors", "README.md"}
    copy = Path(client.download_artifacts(run.info.run_id, "model.safetensors", str(here)))
    assert copy.read_bytes() == (student / "model.safetensors").read_bytes()

    curves = scalars(student)
    assert curves["val_mse"] == [(row["epoch"], pytest.approx(row["val_mse"], rel=1e-6)) for row in rows]

    records = wandb_records(student)
    histories = [json.loads(json.dumps(record)) for record in records if record["type"] == "history"]
    assert [str(row["val_mse"]) in json.dumps(one) for one, row in zip(histories, rows, strict=False)] == [True] * 3
    text = json.dumps(records)
    assert all(word in text for word in ("run/student", "model.safetensors", plan["table"]["manifest_sha256"]))


def test_a_resumed_run_is_the_same_run_and_has_each_epoch_once(here):
    from mlflow import MlflowClient

    history = [{"epoch": epoch, "loss": 1 / epoch} for epoch in range(1, 6)]
    student = here / "student"
    with using(Track(ALL)):
        with suppress(KeyboardInterrupt), recording("distill", {"seed": 1}, student) as record:
            record.log(history[:2])
            files = [student / FOLDER / f"{name}.json" for name in ALL]
            while not all(file.exists() and json.loads(file.read_text())["epoch"] == 2 for file in files):
                sleep(0.05)
            raise KeyboardInterrupt
        with recording("distill", {"seed": 1}, student) as record:
            record.log(history[:1])  # resumed from an earlier epoch
            record.log(history)
            record.end({"mse": 0.1})
        with recording("run", {}, student) as record:  # at the end of `run`
            (here / "report.html").write_text("report")
            record.end(
                {"evaluate": {"student": {"accuracy": 0.75, "by class": {"a <b>": 1.0}}}}, [here / "report.html"]
            )
    client = MlflowClient(f"sqlite:///{here}/mlflow.db")
    (run,) = client.search_runs([client.get_experiment_by_name("edgesea").experiment_id])
    assert run.info.status == "FINISHED"
    points = [(point.step, point.value) for point in client.get_metric_history(run.info.run_id, "loss")]
    assert points == [(row["epoch"], row["loss"]) for row in history]
    assert run.data.metrics["evaluate/student/accuracy"] == 0.75
    assert [file.path for file in client.list_artifacts(run.info.run_id)] == ["report.html"]
    assert [step for step, _ in scalars(student)["loss"]] == [1, 2, 3, 4, 5]
    runs = [record["run"] for record in wandb_records(student) if record["type"] == "run"]
    assert len(runs) == 3
    assert len({json.dumps(run.get("run_id", run.get("runId"))) for run in runs}) == 1


def test_a_server_that_is_away_neither_stops_a_run_nor_is_silent(here, monkeypatch, caplog):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with using(Track(["mlflow"], uri="http://127.0.0.1:9")), recording("distill", {}, here / "student") as record:
        record.log([{"epoch": 1, "loss": 1.0}])
        record.end({})
    reason, end = [message for message in caplog.messages if message.startswith("mlflow:")]
    assert "127.0.0.1" in reason
    assert "missing" in end
    assert not any("urllib3" in name for name, *_ in caplog.record_tuples)
