import logging
from pathlib import Path

import numpy as np
import pytest
import soundfile

from edgesea.audio.framing import Framing
from edgesea.embed.engine import embed_files
from edgesea.errors import EdgeseaError
from edgesea.models import load_model
from edgesea.tasks.bags import Bags
from edgesea.tasks.options import ProbeOptions
from edgesea.tasks.urbansound8k import load_urbansound8k

HEADER = "slice_file_name,fsID,start,end,salience,fold,classID,class"


def row(recording: int, fold: int, label: str = "siren", piece: int = 0) -> str:
    number = {"siren": 8, "dog_bark": 3}[label]
    return f"{recording}-{number}-0-{piece}.wav,{recording},0.0,4.0,1,{fold},{number},{label}"


def write_table(data: Path, rows: list[str], header: str = HEADER) -> Path:
    (data / "metadata").mkdir(parents=True, exist_ok=True)
    (data / "metadata" / "UrbanSound8K.csv").write_text("\n".join([header, *rows]) + "\n")
    return data


def test_clips_lie_in_the_folders_of_their_folds(tmp_path: Path) -> None:
    task = load_urbansound8k(write_table(tmp_path, [row(7, 10), row(9, 2, "dog_bark"), row(9, 2, "dog_bark", 1)]))
    assert task.name == "urbansound8k"
    audio = tmp_path / "audio"
    assert task.paths == [audio / "fold10/7-8-0-0.wav", audio / "fold2/9-3-0-0.wav", audio / "fold2/9-3-0-1.wav"]
    assert task.labels.tolist() == ["siren", "dog_bark", "dog_bark"]
    assert task.folds.tolist() == [10, 2, 2]


def test_a_small_city_is_scored_from_its_audio(tmp_path: Path) -> None:
    """Sirens and barks of up to 2 s in three folds of different sizes, at the rates and channels they come in."""
    rng, rows = np.random.default_rng(0), []
    for index in range(24):
        fold, label, rate = 1 + index % 7 % 3, ("siren", "dog_bark")[index % 2], (8000, 16000)[index % 5 % 2]
        time = np.arange(round(rate * rng.uniform(0.3, 2.0))) / rate
        siren = np.sin(2 * np.pi * 700 * time + 20 * np.sin(2 * np.pi * 2 * time))
        bark = rng.standard_normal(len(time)) * (np.sin(2 * np.pi * 3 * time) > 0.8)
        samples = 0.3 * (siren if label == "siren" else bark) + 0.01 * rng.standard_normal(len(time))
        path = tmp_path / f"audio/fold{fold}" / row(index, fold, label).partition(",")[0]
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, samples if index % 3 else np.stack([samples, samples], 1), rate)
        rows.append(row(index, fold, label))
    task, model = load_urbansound8k(write_table(tmp_path, rows)), load_model("spectral")
    blocks = [file.embedding for file in embed_files(model, task.paths, Framing(1.0, 0.5))]
    assert all(block is not None for block in blocks)
    bags = Bags(np.concatenate(blocks), np.array([len(block) for block in blocks]))  # type: ignore[arg-type]
    assert len(set(bags.counts.tolist())) > 1
    for features in ("mean", "statistics", "framewise"):
        result = task.score(bags, ProbeOptions(features=features))  # type: ignore[arg-type]
        assert result["accuracy"] > 0.9
        assert list(result["accuracy_by_fold"]) == ["1", "2", "3"]
        assert result["clips"] == 24


def test_a_recording_in_two_folds_is_refused(tmp_path: Path) -> None:
    rows = [row(7, 1), row(9, 2), row(7, 3, "siren", 1), row(7, 1, "siren", 2), row(9, 4, "siren", 1), row(8, 1)]
    with pytest.raises(EdgeseaError) as caught:
        load_urbansound8k(write_table(tmp_path, rows))
    message = str(caught.value)
    assert message.startswith(str(tmp_path / "metadata" / "UrbanSound8K.csv"))
    assert "recording 7 (fsID) are in several folds: fold 1 (line 2, 5), fold 3 (line 4);" in message
    assert "and 1 more like it" in message


def test_of_many_clips_only_some_are_named(tmp_path: Path) -> None:
    rows = [row(7, 1, piece=piece) for piece in range(80)] + [row(7, 2, piece=80)]
    with pytest.raises(EdgeseaError, match=r": fold 1 \(line 2, 3, 4, 5, 6, \.\.\.\), fold 2 \(line 82\);"):
        load_urbansound8k(write_table(tmp_path, rows))


@pytest.mark.parametrize(
    ("fold", "places"), [(1, r"fold 1 \(line 2, 4\)"), (2, r"fold 1 \(line 2\), fold 2 \(line 4\)")]
)
def test_a_file_that_is_listed_twice_is_refused(tmp_path: Path, fold: int, places: str) -> None:
    with pytest.raises(EdgeseaError, match=rf"7-8-0-0\.wav.*: {places}; keep one"):
        load_urbansound8k(write_table(tmp_path, [row(7, 1), row(9, 2), row(7, fold)]))


def test_without_recordings_there_is_nothing_to_check(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "edgesea")
    rows = ["a.wav,1,siren", "b.wav,2,siren"]
    assert len(load_urbansound8k(write_table(tmp_path, rows, "slice_file_name,fold,class")).paths) == 2
    assert "2 of 2 clips have no fsID: it is not checked" in caplog.text
    caplog.clear()
    rows = ["a.wav,1,siren,", "b.wav,2,siren,7", "c.wav,3,siren,"]  # clips of no known recording are not of the same
    assert len(load_urbansound8k(write_table(tmp_path, rows, "slice_file_name,fold,class,fsID")).paths) == 3
    assert "2 of 3 clips have no fsID" in caplog.text
    caplog.clear()
    load_urbansound8k(write_table(tmp_path, [row(7, 1), row(9, 2)]))
    assert caplog.text == ""


def test_a_table_from_a_spreadsheet_is_read(tmp_path: Path) -> None:
    write_table(tmp_path, [])
    text = "\r\n".join([HEADER, row(7, 1), "", row(9, 2, "dog_bark")])
    (tmp_path / "metadata" / "UrbanSound8K.csv").write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert load_urbansound8k(tmp_path).labels.tolist() == ["siren", "dog_bark"]


def test_missing_data_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(EdgeseaError, match=r"8K\.csv: no such file; the task urbansound8k needs .* and audio/"):
        load_urbansound8k(tmp_path)
    with pytest.raises(EdgeseaError, match=r"line 3, fold: 'fold2'; it must be a whole number from 1"):
        load_urbansound8k(write_table(tmp_path, [row(7, 1), "a.wav,9,0,1,1,fold2,8,siren"]))
