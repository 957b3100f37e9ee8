"""Data sets as people have them: with clips that were lost, cut short or never arrived."""

import csv
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import soundfile
import yaml
from conftest import make_esc50
from test_sonyc_ust import write_tags

from edgesea import cli
from edgesea.errors import EdgeseaError
from edgesea.tasks.evaluate import evaluate
from edgesea.tasks.options import TaggingOptions

QUICK: dict[str, Any] = {"workers": 1, "resamples": 0, "hop": 1.0}
TAGGING = TaggingOptions(members=1, num_epochs=5)


@pytest.fixture
def esc(tmp_path: Path) -> Path:
    """Twenty clips: five of each of two classes in each of two folds."""
    return make_esc50(tmp_path / "esc50")


@pytest.fixture
def city(esc: Path) -> Path:
    rows = pd.read_csv(esc / "meta" / "esc50.csv", dtype=str)
    names = {"filename": "slice_file_name", "category": "class"}
    for row in rows.itertuples():
        (esc / "audio" / f"fold{row.fold}").mkdir(exist_ok=True)
        (esc / "audio" / row.filename).rename(esc / "audio" / f"fold{row.fold}" / row.filename)
    (esc / "metadata").mkdir()
    rows.rename(columns=names).to_csv(esc / "metadata" / "UrbanSound8K.csv", index=False)
    return esc


@pytest.fixture
def ust(esc: Path) -> Path:
    return write_tags(esc)


def listed(path: Path) -> dict[str, str]:
    with path.open(newline="") as file:
        return {row["clip"]: row["reason"] for row in csv.DictReader(file)}


@pytest.mark.parametrize(
    ("task", "folder", "audio"), [("esc50", "esc", ""), ("urbansound8k", "city", "fold1/"), ("sonyc_ust", "ust", "")]
)
def test_missing_clips_are_refused_and_counted_where_they_are_allowed(
    task, folder, audio, tmp_path, request, capsys, caplog
):
    data, out = request.getfixturevalue(folder), tmp_path / "new" / "scores.json"
    lost = [f"audio/{audio}{name}.wav" for name in ("00", "13")]
    for name in lost:
        (data / name).unlink()
    command = ["evaluate", task, str(data), "spectral", f"--out={out}", "--resamples=0", "--workers=1"]
    command += ["--tagging.members=1"] if task == "sonyc_ust" else []
    assert cli.main([*command, "--max-skipped=0.099"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    remedy, list_file = "max_skipped=0.1", out.with_name("scores.skipped.csv")
    assert [word for word in (str(data), "2 of 20 clips", lost[0], remedy, str(list_file)) if word not in line] == []
    assert not out.exists()
    assert list(listed(list_file)) == lost
    assert cli.main([*command, "--max-skipped=0.1"]) == 0
    assert [str(data) in message for message in caplog.messages if "2 of 20 clips" in message] == [True]
    result = yaml.safe_load(out.read_text())
    assert (result["skipped"], result["clips"], list(listed(list_file))) == (2, 7 if task == "sonyc_ust" else 18, lost)


def test_scores_are_those_of_the_clips_that_are_there(esc, tmp_path):
    whole, lost = tmp_path / "part", ("03.wav", "10.wav", "14.wav")
    shutil.copytree(esc, whole)
    rows = pd.read_csv(esc / "meta" / "esc50.csv")
    rows[~rows.filename.isin(lost)].to_csv(whole / "meta" / "esc50.csv", index=False)
    for name in lost:
        (esc / "audio" / name).unlink()
    found = evaluate("esc50", esc, "spectral", max_skipped=0.2, **QUICK)
    expected = evaluate("esc50", whole, "spectral", **QUICK)
    assert found == {**expected, "data": str(esc), "skipped": 3}


def test_damaged_clips_are_found_whatever_is_wrong_with_them(esc, tmp_path, refuses):
    audio, out = esc / "audio", tmp_path / "s.json"
    samples = soundfile.read(audio / "05.wav")[0]
    (audio / "00.wav").write_bytes(b"")
    (audio / "01.wav").write_text("<html>not found</html>")
    (audio / "02.wav").unlink()
    (audio / "02.wav").mkdir()
    (audio / "03.wav").unlink()
    (audio / "03.wav").symlink_to(tmp_path / "away.wav")
    soundfile.write(audio / "04.wav", samples[:0], 8000)
    samples[7000] = np.nan
    soundfile.write(audio / "05.wav", samples, 8000, "FLOAT")
    (audio / "06.wav").write_bytes((audio / "07.wav").read_bytes()[:9000])
    refuses("evaluate", "esc50", esc, "spectral", f"--out={out}", words=["4 of 20", "00.wav", "max_skipped=0.2"])
    # What only decoding shows is found before a classifier is trained.
    refuses(
        *("evaluate", "esc50", esc, "spectral", f"--out={out}", "--max-skipped=0.2"),
        words=["7 of 20", "00.wav", "max_skipped=0.35"],
    )
    reasons = listed(tmp_path / "s.skipped.csv")
    assert list(reasons) == [f"audio/{n:02d}.wav" for n in range(7)]
    assert len({*reasons.values()}) >= 5
    assert evaluate("esc50", esc, "spectral", max_skipped=0.35, **QUICK)["skipped"] == 7


def test_the_cache_does_not_hide_them(esc, tmp_path):
    cache, out = tmp_path / "cache", tmp_path / "s.json"
    (esc / "audio" / "02.wav").write_bytes((esc / "audio" / "03.wav").read_bytes()[:9000])
    for _ in range(2):
        assert evaluate("esc50", esc, "spectral", cache=cache, max_skipped=0.05, out=out, **QUICK)["skipped"] == 1
    with pytest.raises(EdgeseaError, match=r"1 of 20 .*02\.wav"):
        evaluate("esc50", esc, "spectral", cache=cache, **QUICK)
    shutil.copy(esc / "audio" / "04.wav", esc / "audio" / "02.wav")
    assert evaluate("esc50", esc, "spectral", cache=cache, out=out, **QUICK)["skipped"] == 0
    assert not (tmp_path / "s.skipped.csv").exists()


def test_what_is_empty_is_an_error_in_any_case(esc, refuses):
    rows = pd.read_csv(esc / "meta" / "esc50.csv")
    for lost, words in (
        (rows[rows.fold == 2], ["10 of 20", "fold 2"]),
        (rows[rows.category == "tone"], ["10 of 20", "class tone"]),
        (rows[(rows.category == "tone") & (rows.fold == 1)], ["5 of 20", "class tone outside of fold 2"]),
        (rows, ["20 of 20", esc / "audio"]),
    ):
        for name in lost.filename:
            (esc / "audio" / name).rename(esc / name)
        refuses("evaluate", "esc50", esc, "spectral", "--max-skipped=1", words=[esc, lost.filename.iloc[0], *words])
        for name in lost.filename:
            (esc / name).rename(esc / "audio" / name)
    for share in ("1.1", "-0.1", "nan"):
        refuses("evaluate", "esc50", esc, "spectral", f"--max-skipped={share}", words=["max_skipped", share])


def test_a_selection_misses_them_too(esc, small_table, tmp_path, refuses):
    (esc / "audio" / "12.wav").unlink()
    (esc / "audio" / "13.wav").write_bytes((esc / "audio" / "15.wav").read_bytes()[:9000])  # noticed later
    grid: dict[str, Any] = {"sample": {"method": "random", "size": 9}, "reduce": {"size": 2}, "layers": [0]}
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump(grid))
    command = ("select", small_table, "esc50", esc, tmp_path / "s", f"--config={tmp_path / 'grid.yaml'}", "--workers=1")
    refuses(*command, words=[esc, "1 of 20", "12.wav", tmp_path / "s.skipped.csv"])
    refuses(*command, "--max-skipped=0.05", words=[esc, "2 of 20", "max_skipped=0.1"])
    assert cli.main([*map(str, command), "--max-skipped=0.1"]) == 0
    assert list(listed(tmp_path / "s.skipped.csv")) == ["audio/12.wav", "audio/13.wav"]
    assert yaml.safe_load((tmp_path / "s" / "select.json").read_text())["skipped"] == 2


def test_a_run_misses_them_before_anything_is_made_and_its_report_shows_them(esc, tmp_path, refuses):
    (esc / "audio" / "12.wav").unlink()
    out, experiment = tmp_path / "run", tmp_path / "experiment.yaml"
    training = {"student": "sea-64", "filters": [2, 2], "n_mels": 16, "epochs": 1, "device": "cpu"}
    task = {"task": "esc50", "data": str(esc), "resamples": 0, "workers": 1}
    for allowed in (0, 0.05):
        sections = {
            "extract": {"source": str(esc / "audio"), "validate": 0.4, "sample_rate": 8000},
            "reduce": {"size": 3},
            "distill": training,
            "evaluate": {**task, "max_skipped": allowed},
        }
        experiment.write_text(yaml.safe_dump(sections))
        if not allowed:
            refuses("run", experiment, f"--out={out}", words=[esc, "1 of 20", "12.wav", "max_skipped=0.05"])
            assert not (out / "table").exists()
            assert list(listed(tmp_path / "run.skipped.csv")) == ["audio/12.wav"]
    assert cli.main(["run", str(experiment), f"--out={out}"]) == 0
    html = (out / "report.html").read_text()
    assert "teacher 1, reduced 1, student 1" in html
    assert "audio/12.wav" in html
