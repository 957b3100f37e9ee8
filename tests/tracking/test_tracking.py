"""Tracking from the command line: a run, and the command `track`."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from conftest import write_noise
from sheets_server import ACCOUNT, SheetsServer, serving

from edgesea import cli
from edgesea.tracking import sheets

TAXONOMY = "fine: {1: {1: small}, 2: {1: bark}}\ncoarse: {1: engine, 2: dog}\n"


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SheetsServer]:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    yield from serving(tmp_path / "cache", monkeypatch)


def test_a_run_is_one_run_of_mlflow_and_rows_of_a_sheet(server, tmp_path):
    from mlflow import MlflowClient

    lines = ["split,sensor_id,audio_filename,annotator_id,1-1_small_presence,2-1_bark_presence,1_engine_presence,"
             "2_dog_presence"]  # fmt: skip
    for index in range(8):
        write_noise(tmp_path / "ust" / "audio" / f"{index}.wav", 1.5, seed=index)
        tags = ("1,0,1,0", "0,1,0,1")[index % 2]
        lines.append(f"{'train' if index < 6 else 'validate'},{index % 2},{index}.wav,0,{tags}")
    (tmp_path / "ust" / "annotations.csv").write_text("\n".join(lines) + "\n")
    (tmp_path / "ust" / "dcase-ust-taxonomy.yaml").write_text(TAXONOMY)
    tagging = {"num_hidden_layers": 0, "num_epochs": 2, "members": 1}
    track = {"track": ["csv", "mlflow", "sheets"], "sheet": "https://docs.google.com/spreadsheets/d/book/edit"}
    source = {"source": str(tmp_path / "ust/audio"), "sample_rate": 8000, "validate": 0.3}
    student = {"student": "sea-64", "filters": [2, 2, 2, 4], "n_mels": 16}
    config = {
        "extract": {**source, "workers": 1, "device": "cpu"},
        "reduce": {"size": 3},
        "distill": {**student, "epochs": 2, "batch_size": 4, "device": "cpu"},
        "evaluate": {"task": "sonyc_ust", "data": str(tmp_path / "ust"), "tagging": tagging, "resamples": 0},
        "track": {**track, "credentials": str(server.credentials(tmp_path))},
    }
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(config))
    run = tmp_path / "runs" / "one"
    assert cli.main(["run", "tiny.yaml", "--out", str(run), "--user", "ann"]) == 0

    results = json.loads((run / "results.json").read_text())
    assert results["origin"]["host"] == results["distill"]["origin"]["host"]
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    (recorded,) = client.search_runs([client.get_experiment_by_name("edgesea").experiment_id])
    files = {file.path for file in client.list_artifacts(recorded.info.run_id)}
    assert {"report.html", "results.json", "model.safetensors", "metrics.csv"} <= files
    assert recorded.data.metrics["evaluate/student/micro_auprc"] == results["evaluate"]["student"]["micro_auprc"]
    assert recorded.data.metrics["val_mse"] >= results["distill"]["mse"]

    (row,) = server.rows("embedding_approx_mse")
    assert (row["Username"], row["Model Dir"], row["Latest Epoch"]) == ("ann", str(run / "student"), 2)
    assert (row["Emb key"], row["Emb Train Dir"]) == ("pca_3", str(run / "table/windows"))
    rows = server.rows("sonyc_ust")
    assert [row["Output Dir"] for row in rows] == [str(run / "evaluate" / one) for one in results["evaluate"]]
    for row, scores in zip(rows, results["evaluate"].values(), strict=True):
        assert (row["Micro AUPRC"], row["Micro F1 (@0.5)"]) == (scores["micro_auprc"], scores["micro_f1"])
        assert (row["Num Epochs"], row["Annotation Dir"]) == (2, str(tmp_path / "ust"))

    written = yaml.safe_load((run / "config.yaml").read_text())["track"]
    assert written == {**config["track"], "user": "ann"}  # the jobs of `submit` are told who watches
    assert cli.main(["run", str(run / "config.yaml"), "--out", str(run), "--dry-run"]) == 0


def test_test_says_what_works(server, tmp_path, capsys):
    words = ["track", "test", "--sheet", "book", "--credentials", str(server.credentials(tmp_path))]
    assert cli.main(words) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["sheet"], found["account"]) == ("book", ACCOUNT)
    assert len(server.writes) == 3  # the tab, the row, and its removal
    assert not server.rows("embedding_approx_mse")


def test_what_is_wrong_is_named_with_its_remedy(server, tmp_path, refuses, monkeypatch):
    account = server.credentials(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("GSHEET_ID", raising=False)
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    (tmp_path / "other.json").write_text('{"type": "service_account"}')
    (tmp_path / "client.json").write_text('{"installed": {"client_id": "a", "client_secret": "b"}}')
    book = ["track", "test", "--sheet=book"]
    refuses("track", "test", words=["--sheet", "GSHEET_ID"])
    refuses("track", "test", "--sheet=http://example.org/x", "--credentials", account, words=["example.org/x"])
    refuses(*book, "--credentials", tmp_path / "none.json", words=["none.json"])
    refuses(*book, "--credentials", tmp_path / "other.json", words=["other.json"])
    refuses("distill", "t", "r", "s", "--track=sheets", "--sheet=book", "--credentials", tmp_path / "client.json",
            words=["client.json", "edgesea track test"])  # fmt: skip
    refuses("distill", "t", "r", "s", "--track=paper", words=["paper", "mlflow"], code=2)
    for status, message, words in (
        (403, "The caller does not have permission", ["share", ACCOUNT]),
        (404, "Requested entity was not found.", ["/d/"]),
        (500, "Internal error", ["Internal error", "HTTPS_PROXY"]),
    ):
        server.always = (status, message)
        refuses(*book, "--credentials", account, words=words)
    server.always = "drop"
    refuses(*book, "--credentials", account, words=["HTTPS_PROXY"])


def test_sync_without_anything_to_send(server, capsys):
    assert cli.main(["track", "sync"]) == 0
    assert json.loads(capsys.readouterr().out) == {"sent": 0}
    assert not sheets.outbox().exists()
