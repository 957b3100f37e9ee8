import json
import random
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import enumerate as enumerate_threads
from time import sleep
from typing import Any

import pytest
from sheets_server import ACCOUNT, SheetsServer, serving

from edgesea.errors import EdgeseaError
from edgesea.tracking import Track, recording, sheets, tracker, using

TAB = "embedding_approx_mse"
COLUMNS = list(sheets.tabs()["distill"]["columns"])
FACTS: dict[str, Any] = {
    "student": "sea-64", "data": "/data/=table", "epoch_windows": 640, "validation_windows": 90, "devices": 2,
    "save_every": 0, "reduction": {"method": "pca"}, "architecture": {"embedding_size": 64, "n_mels": 64},
    "training": {"epochs": 9, "batch_size": 32, "seed": 7, "lr": 1e-5},
}  # fmt: skip
ISSUE = [
    "Username", "Model Dir", "Train Data Dir", "Valid Data Dir", "Emb Train Dir", "Emb Valid Dir", "Approximation mode",
    "Emb key", "Model Representation", "Student Emb Len", "# Epochs", "Train Epoch Size", "Valid Epoch Size",
    "Train Batch Size", "Valid Batch Size", "Random State", "Learning Rate", "# GPUs", "Checkpoint Interval",
    "Latest Epoch", "Latest Train Loss", "Latest Valid Loss", "Latest Train MAE", "Latest Valid MAE", "Best Train Loss",
    "Best Valid Loss", "Best Train MAE", "Best Valid MAE",
]  # fmt: skip


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SheetsServer]:
    """A server in place of Google's; updates, and attempts to repeat them, follow each other quickly."""
    monkeypatch.setattr(sheets.SheetRow, "pause", 0.05)
    monkeypatch.setattr(sheets, "TIMEOUT", 2.0)
    monkeypatch.setattr(tracker, "LONGEST", 0.1)
    yield from serving(tmp_path / "cache", monkeypatch)


@pytest.fixture
def track(server: SheetsServer, tmp_path: Path) -> Track:
    return Track(["sheets"], sheet="book", credentials=server.credentials(tmp_path), user="ann")


def history(epochs: int) -> list[dict[str, float]]:
    """Losses that fall, but for the last one."""
    losses = [(epoch, 1 / epoch if epoch < epochs else 2.0) for epoch in range(1, epochs + 1)]
    return [{"epoch": epoch, "lr": 0.1, "train_mse": x, "val_mse": 2 * x, "val_mae": 3 * x} for epoch, x in losses]


def run(track: Track, folder: Path, epochs: int = 3, facts: Mapping[str, Any] = FACTS, wait: float = 0.0) -> None:
    """Record a run of so many epochs."""
    with using(track), recording("distill", facts, folder) as record:
        for epoch in range(1, epochs + 1):
            record.log(history(epochs)[:epoch])
            sleep(wait)
        record.end({"r2": 0.5})


def pending() -> list[Path]:
    return list(sheets.outbox().glob("*.json"))


def test_a_row_holds_exactly_what_is_known_of_a_run_in_the_columns_of_the_group(server, track, tmp_path):
    run(track, tmp_path / "=1+1" / "student")
    header, row = server.tabs[TAB]["cells"]
    assert header == ISSUE
    places = ["/data/=table/clips"] * 2 + ["/data/=table/windows"] * 2
    sizes = ["pca", "pca_64", "sea-64, mel64", 64, 9, 640, 90, 32, 32, 7, 1e-5, 2, 0]
    curves = [3, 2.0, 4.0, None, 6.0, 0.5, 1.0, None, 1.5]
    assert row == ["ann", f"{tmp_path}/=1+1/student", *places, *sizes, *curves]
    run(track, tmp_path / "=1+1" / "student", epochs=5)  # resumed
    assert [row["Latest Epoch"] for row in server.rows(TAB)] == [5]
    assert not pending()


def test_columns_and_rows_are_found_wherever_they_have_been_moved_to(server, track, tmp_path):
    rng = random.Random(0)

    def rearrange() -> None:
        """What a user may do between two updates: new columns, and another order of columns and rows."""
        if TAB not in server.tabs:
            return
        tab = server.tabs[TAB]
        rows = [row + [None] * (tab["columns"] - len(row)) for row in tab["cells"]]
        rows = [[f"note {len(row)}" if index == 0 else 40 + index, *row] for index, row in enumerate(rows)]
        order = rng.sample(range(len(rows[0])), len(rows[0]))
        header, *others = [[row[place] for place in order] for row in rows]
        tab["cells"], tab["columns"] = [header, *rng.sample(others, len(others))], len(order)

    with using(track), recording("distill", FACTS, tmp_path / "a") as one:
        one.log([])
        run(track, tmp_path / "b")
        for epoch in range(1, 5):
            rearrange()
            one.log(history(4)[:epoch])
            sleep(0.4)
            assert {row["Model Dir"]: row["Latest Epoch"] for row in server.rows(TAB)} == {
                str(tmp_path / "a"): epoch, str(tmp_path / "b"): 3,
            }  # fmt: skip
        notes = [[cell for name, cell in row.items() if name.startswith("note")] for row in server.rows(TAB)]
        server.tabs[TAB]["cells"][0][server.tabs[TAB]["cells"][0].index("Best Valid MAE")] = "mine"
        one.end({})
    assert [[cell for name, cell in row.items() if name.startswith("note")] for row in server.rows(TAB)] == notes
    assert len(notes) == 2
    assert server.tabs[TAB]["cells"][0][-1] == "Best Valid MAE"  # was renamed, so it is made again
    run(track, tmp_path / "c")
    assert [row["Best Valid Loss"] for row in server.rows(TAB) if row["Model Dir"] == str(tmp_path / "c")] == [1.0]
    assert [row["Best Valid MAE"] for row in server.rows(TAB)].count(None) == 1


def test_two_runs_at_once_make_one_tab_and_two_rows(server, track, tmp_path):
    for number in range(5):
        server.tabs.clear()

        def made_meanwhile(number: int = number) -> None:  # by somebody on another machine
            server.before_write = lambda: None
            cells = [COLUMNS, ["bob", f"/bob/{number}"]]
            server.tabs[TAB] = {"id": 77, "columns": len(COLUMNS), "cells": cells}

        server.before_write = made_meanwhile if number % 2 else lambda: None
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda name: run(track, tmp_path / name), "ab"))
        folders = sorted(row["Model Dir"] for row in server.rows(TAB))
        assert folders == [*([f"/bob/{number}"] if number % 2 else []), str(tmp_path / "a"), str(tmp_path / "b")]
        assert {row["Latest Epoch"] for row in server.rows(TAB)} - {None} == {3}


@pytest.mark.parametrize(
    "fault", [(429, "Quota exceeded"), (500, "Internal"), (502, ""), "drop", "drop the answer", 1.0, 2.5], ids=str
)
def test_what_passes_by_itself_is_tried_again(server, track, tmp_path, fault, caplog):
    for place in range(1, 6):  # reading, making the tab, adding the row, reading again
        server.tabs.clear()
        server.faults = [None] * place + [fault]
        run(track, tmp_path / f"{place}", wait=0.05)
        assert [(row["Model Dir"], row["Latest Epoch"]) for row in server.rows(TAB)] == [
            (str(tmp_path / f"{place}"), 3)
        ]
    assert not pending()
    assert len(caplog.messages) <= 5  # once for each run


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ((403, "The caller does not have permission"), [ACCOUNT, "share"]),
        ((403, "Google Sheets API has not been used in project 1 before or it is disabled."), ["enable", "project"]),
        ((404, "Requested entity was not found."), ["/d/", "book"]),
    ],
)
def test_what_only_the_user_can_change_is_said_once_and_sent_later(server, track, tmp_path, fault, words, caplog):
    server.always = fault
    run(track, tmp_path / "a", wait=0.1)
    (message,) = caplog.messages
    assert all(word in message for word in words)
    assert len(server.reads) + len(server.writes) <= 2  # at the begin and at the end
    with pytest.raises(EdgeseaError) as error:
        sheets.sync(track.credentials)
    assert all(word in str(error.value) for word in [*words, "1 of 1"])
    server.always = None
    assert sheets.sync(track.credentials) == {"sent": 1}
    assert [row["Latest Epoch"] for row in server.rows(TAB)] == [3]


def test_without_a_network_a_run_ends_at_once_and_the_next_one_sends_its_row(server, track, tmp_path):
    server.always = "drop"
    run(track, tmp_path / "a")
    (left,) = pending()
    assert json.loads(left.read_text())["row"]["Latest Epoch"] == 3
    server.always = None
    run(track, tmp_path / "b")
    assert {row["Model Dir"] for row in server.rows(TAB)} == {str(tmp_path / "a"), str(tmp_path / "b")}
    assert not pending()


def test_a_server_that_is_silent_does_not_hold_up_a_run(server, track, tmp_path, monkeypatch):
    monkeypatch.setattr(sheets.SheetRow, "patience", 0.2)
    server.always = 4.0
    run(track, tmp_path / "a")
    (thread,) = [thread for thread in enumerate_threads() if thread.name == "sheets"]
    assert thread.is_alive()  # nobody waits for it
    assert len(pending()) == 1
    thread.join()
    assert len(pending()) == 1


@pytest.mark.slow
def test_two_runs_of_200_short_epochs_stay_within_the_quota_also_with_thirty_seconds_of_silence(
    server, track, tmp_path, monkeypatch
):
    monkeypatch.undo()
    monkeypatch.setenv("EDGESEA_CACHE", str(tmp_path / "cache"))
    server.redirect(monkeypatch)
    server.faults = [None] * 6 + [30.0]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda name: run(track, tmp_path / name, 200, wait=0.1), "ab"))
    assert [row["Latest Epoch"] for row in server.rows(TAB)] == [200, 200]
    for calls in (server.reads, server.writes):
        assert max(sum(start <= call < start + 60 for call in calls) for start in calls) <= 60


def test_the_scores_of_tags_have_a_row_of_their_own_kind(server, track, tmp_path):
    tagging = {"standardize": True, "context": False, "pca_components": 32, "cooccurrence_loss_factor": 0.0}
    facts = {"model": "m", "data": "/d", "output": "/o/student", "experiment": "student"}
    areas = {"engine": 0.5, "saw": None, "dog": 0.25}
    scores = {"micro_auprc": 0.75, "macro_auprc": 0.5, "micro_f1": None}
    for by_tag in ({"class_auprc": areas}, {"coarse": {"class_auprc": areas}}):
        with using(track), recording("evaluate sonyc_ust", {**facts, "tagging": tagging}) as record:
            record.end({**scores, **by_tag})
    (row,) = server.rows("sonyc_ust")
    assert list(row) == list(sheets.tabs()["evaluate sonyc_ust"]["columns"])
    assert {name: value for name, value in row.items() if value is not None and name != "Commit"} == {
        "Username": "ann", "Model Type": "m", "Annotation Dir": "/d", "Taxonomy Dir": "/d", "Output Dir": "/o/student",
        "Exp. ID": "student", "No Standardize": False, "Co-occurrence Loss": False, "Co-occurrence Loss Factor": 0.0,
        "PCA": True, "PCA Components": 32, "No Timestamp": True, "Micro AUPRC": 0.75, "Macro AUPRC": 0.5,
        "Coarse Tag AUPRC": "engine 0.5000, dog 0.2500",
    }  # fmt: skip
    with using(track), recording("evaluate esc50", facts) as record:
        record.end({"accuracy": 1.0})
    assert len(server.rows("sonyc_ust")) == 1
