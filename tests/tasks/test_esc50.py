import csv
from pathlib import Path

import numpy as np
import pytest

from edgesea.audio.framing import Framing
from edgesea.embed.engine import embed_files
from edgesea.errors import EdgeseaError
from edgesea.models import load_model
from edgesea.tasks.bags import Bags
from edgesea.tasks.esc50 import load_esc50
from edgesea.tasks.features import window_embeddings
from edgesea.tasks.folds import FoldTask


def write_metadata(folder: Path, rows: list[dict[str, object]]) -> Path:
    (folder / "meta").mkdir(parents=True, exist_ok=True)
    with (folder / "meta" / "esc50.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return folder


def test_the_real_metadata_is_read(shared_data: Path) -> None:
    task = load_esc50(shared_data / "esc10")
    assert task.name == "esc50"
    assert len(task.paths) == 400
    assert all(path.is_file() for path in task.paths)
    assert sorted(set(task.folds.tolist())) == [1, 2, 3, 4, 5]
    assert {name: (task.labels == name).sum() for name in set(task.labels)} == dict.fromkeys(set(task.labels), 40)
    for path, fold in zip(task.paths, task.folds, strict=True):  # the names begin with the fold
        assert path.name.startswith(f"{fold}-")


def test_a_real_clip_moved_to_another_fold_is_found(shared_data: Path, tmp_path: Path) -> None:
    with (shared_data / "esc10" / "meta" / "esc50.csv").open(newline="") as file:
        rows: list[dict[str, object]] = list(csv.DictReader(file))
    lines_of: dict[object, list[int]] = {}
    for line, row in enumerate(rows, start=2):
        lines_of.setdefault(row["src_file"], []).append(line)
    recording, lines = next((name, lines) for name, lines in lines_of.items() if len(lines) == 2)
    home = rows[lines[0] - 2]["fold"]
    away = int(str(home)) % 5 + 1
    rows[lines[1] - 2]["fold"] = away
    expected = rf"{recording} \(src_file\).*: fold {home} \(line {lines[0]}\), fold {away} \(line {lines[1]}\);"
    with pytest.raises(EdgeseaError, match=expected):
        load_esc50(write_metadata(tmp_path, rows))


def test_a_teacher_knows_real_clips(shared_data: Path) -> None:
    """Two clips of each class in each of three folds, each clip a window: 0.99 of all 400 are recognised."""
    whole = load_esc50(shared_data / "esc10")
    place = [
        np.flatnonzero((whole.folds == fold) & (whole.labels == name))[:2]
        for fold in (1, 2, 3)
        for name in sorted(set(whole.labels))
    ]
    chosen = np.concatenate(place)
    task = FoldTask("esc50", [whole.paths[clip] for clip in chosen], whole.labels[chosen], whole.folds[chosen])
    model = load_model("efficientat/mn04", shared_data / "efficientat" / "mn04_as_mAP_432.pt")
    blocks = [
        file.embedding[:1] for file in embed_files(model, task.paths, Framing(5.0, 5.0)) if file.embedding is not None
    ]
    result = task.score(Bags(np.concatenate(blocks), np.ones(60, np.int64)))
    assert result["accuracy"] > 0.9
    assert np.trace(result["confusion"]["counts"]) == round(result["accuracy"] * 60)


def test_metadata_is_read_by_column_name(tmp_path: Path) -> None:
    task = load_esc50(write_metadata(tmp_path, [{"fold": 2, "category": "rain", "x": 1, "filename": "b.wav"}]))
    assert (task.paths, task.labels.tolist(), task.folds.tolist()) == ([tmp_path / "audio" / "b.wav"], ["rain"], [2])


def test_missing_or_bad_metadata_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(
        EdgeseaError, match=r"esc50\.csv: no such file; the task esc50 needs meta/esc50\.csv and audio/"
    ):
        load_esc50(tmp_path)
    write_metadata(tmp_path, [{"filename": "a.wav", "category": "rain"}])
    with pytest.raises(EdgeseaError, match=r"no column fold; it has filename, category"):
        load_esc50(tmp_path)
    (tmp_path / "meta" / "esc50.csv").write_text("filename,fold,category\n")
    with pytest.raises(EdgeseaError, match="no rows in it"):
        load_esc50(tmp_path)
    (tmp_path / "meta" / "esc50.csv").write_bytes(b"filename,fold,category\na.wav,1,\xff\n")
    with pytest.raises(EdgeseaError, match="not a CSV table"):
        load_esc50(tmp_path)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("b.wav,one,rain", "line 3, fold: 'one'; it must be a whole number from 1"),
        ("b.wav,0,rain", "line 3, fold: '0'; it must be a whole number from 1"),
        ("b.wav,-1,rain", "line 3, fold: '-1'; it must be a whole number from 1"),
        ("b.wav,1.5,rain", "line 3, fold: '1.5'; it must be a whole number from 1"),
        (f"b.wav,{10**20},rain", f"line 3, fold: '{10**20}'; it must be a whole number from 1"),
        ("b.wav,,rain", "line 3, fold: ''; it must be a whole number from 1"),
        ('b.wav,1," "', "line 3, category: ' '; it must be given"),
        ("b.wav,1", "there are 3 columns, but line 3 has 2 values"),
        (",1,rain", "line 3, filename: ''; it must be given"),
    ],
)
def test_a_bad_row_is_refused_by_its_line(tmp_path: Path, row: str, message: str) -> None:
    (tmp_path / "meta").mkdir()
    (tmp_path / "meta" / "esc50.csv").write_text(f"filename,fold,category\na.wav,1,rain\n{row}\nc.wav,2,rain\n")
    with pytest.raises(EdgeseaError) as caught:
        load_esc50(tmp_path)
    assert str(caught.value) == f"{tmp_path / 'meta' / 'esc50.csv'}: {message}"


@pytest.mark.slow
def test_a_logistic_probe_on_whole_clips_of_esc10_is_right_97_times_in_a_hundred(shared_data: Path) -> None:
    task = load_esc50(shared_data / "esc10")
    teacher = load_model("efficientat/mn04", shared_data / "efficientat" / "mn04_as_mAP_432.pt")
    bags, failed = window_embeddings(teacher, task.paths, Framing(5.0, 5.0), 16, 2, None)
    assert failed == {}
    result = task.score(bags)
    assert result["accuracy"] >= 0.97
    assert list(result["accuracy_by_fold"]) == ["1", "2", "3", "4", "5"]
