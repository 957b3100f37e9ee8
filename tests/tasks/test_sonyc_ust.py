from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from edgesea.errors import EdgeseaError
from edgesea.tasks.annotations import read_taxonomy
from edgesea.tasks.features import Bags
from edgesea.tasks.options import TaggingOptions
from edgesea.tasks.score import score
from edgesea.tasks.sonyc_ust import SonycUst, read_predictions, write_predictions

TEXT = "fine: {1: {1: small, 2: big, X: unsure}, 2: {1: bark}}\ncoarse: {1: engine, 2: dog}\n"
FINE = ["1-1_small", "1-2_big", "1-X_unsure", "2-1_bark"]
COARSE = ["1_engine", "2_dog"]
QUICK = TaggingOptions(num_hidden_layers=0, num_epochs=60, patience=0, members=1, learning_rate=0.02)


def write(folder: Path, *rows: tuple[str, str, int, str]) -> Path:
    """A data set of rows: split, clip, annotator, numbers of the fine tags that are present (or ?: no label given)."""
    table = []
    for index, (split, clip, annotator, tags) in enumerate(rows):
        present = [int(tag[:3] in tags) for tag in FINE]
        labels = [*present, max(present[:3]), present[3]] if tags != "?" else [-1] * 6
        table.append([split, index % 4, clip, annotator, *labels])
    columns = ["split", "sensor_id", "audio_filename", "annotator_id", *(f"{tag}_presence" for tag in FINE + COARSE)]
    folder.mkdir(exist_ok=True)
    pd.DataFrame(table, columns=columns).to_csv(folder / "annotations.csv", index=False)
    (folder / "dcase-ust-taxonomy.yaml").write_text(TEXT)
    return folder


def write_tags(folder):
    """Of the clips of `make_esc50`, noises are engines and tones dogs; the last eight are verified."""
    splits = [("train", 5) if index < 12 else ("validate", 0) for index in range(20)]
    rows = enumerate(splits)
    return write(folder, *((split, f"{n:02d}.wav", by, ("1-1", "2-1")[n % 2]) for n, (split, by) in rows))


def test_what_is_loaded_is_what_is_trained_on_and_tested(tmp_path):
    rows = [
        *[("train", "crowd.wav", 3, "1-1"), ("train", "only_team.wav", -3, "1-1"), ("train", "unlabelled.wav", 4, "?")],
        *[("validate", "verified.wav", 0, "2-1"), ("validate", "crowd_validate.wav", 7, "2-1")],
        ("test", "test.wav", 0, "2-1"),
    ]
    data, split = write(tmp_path / "data", *rows), tmp_path / "split.csv"
    split.write_text("audio_filename,split\ntest.wav,validate\ncrowd.wav,train\n")
    for options, names in (
        (TaggingOptions(), ["crowd", "verified"]),
        (TaggingOptions(label_mode="fine", monitor="validate"), ["crowd", "verified"]),
        (TaggingOptions(eval_split="test"), ["crowd", "test"]),
        (TaggingOptions(eval_split="test", monitor="validate"), ["crowd", "test", "verified"]),
        (TaggingOptions(split_path=split), ["crowd", "test"]),
    ):
        assert SonycUst.load(data, options).paths == [data / "audio" / f"{name}.wav" for name in names]
    for left, options, word in ((rows[:-1], TaggingOptions(eval_split="test"), "test"), (rows[1:], QUICK, "train")):
        with pytest.raises(EdgeseaError, match=rf"annotations\.csv.*split {word}"):
            SonycUst.load(write(tmp_path / "other", *left), options)


def test_fine_tags_of_an_uncertain_class_are_not_given(tmp_path):
    rows = [("train", "a.wav", 1, "1-1 2-1"), ("train", "b.wav", 1, "1-X"), ("validate", "c.wav", 0, "")]
    data = write(tmp_path, *rows)
    targets = SonycUst.load(data, TaggingOptions(label_mode="fine")).targets()
    assert targets.labels.tolist() == [[1, 0, 1], [0, 0, 0], [0, 0, 0]]
    assert targets.given.tolist() == [[True, True, True], [False, False, True], [True, True, True]]
    targets = SonycUst.load(data, TaggingOptions()).targets()
    assert targets.labels.tolist() == [[1, 1], [1, 0], [0, 0]]
    assert targets.given.all()


def made_of(folder: Path, options: TaggingOptions = QUICK, verified: bool = False) -> tuple[SonycUst, Bags]:
    """120 training and 40 test clips of two windows that contain their tags, among them uncertain ones."""
    rng = np.random.default_rng(0)
    present = rng.random((160, 4)) < (0.4, 0.3, 0.15, 0.4)
    rows = []
    for index, tags in enumerate(present):
        split, annotator = ("train", 0 if verified else 5) if index < 120 else ("validate", 0)
        rows.append((split, f"{index:03d}.wav", annotator, " ".join(np.array([tag[:3] for tag in FINE])[tags])))
    data = write(folder, *rows)
    windows = np.repeat(np.c_[present[:, :2], present[:, 3]] * 3.0, 2, axis=0) + rng.standard_normal((320, 3))
    return SonycUst.load(data, options), Bags(windows.astype(np.float32), np.full(160, 2))


@pytest.mark.parametrize(("mode", "target"), [("coarse", "clip"), ("fine", "mil")])
def test_what_is_written_has_the_scores_that_are_returned(tmp_path, mode, target):
    task, bags = made_of(tmp_path, replace(QUICK, label_mode=mode, target_mode=target))
    path = tmp_path / "new" / "predictions.csv"
    result = task.score(bags, 0, resamples=30, predictions=path)
    assert (result["label_mode"], result["train_clips"], result["clips"]) == (mode, 120, 40)
    assert result["micro_auprc"] > 0.8
    written = pd.read_csv(path)
    assert list(written.columns) == ["audio_filename", *FINE, *COARSE]
    official = score(path, data=tmp_path, resamples=30)
    assert result | official[mode] == result
    means = task.score(Bags(bags.means(), np.ones(160, np.int64)), 0, resamples=30)
    assert (means == result) is (target == "clip")
    if mode == "fine":
        assert np.array_equal(written["1_engine"], written[["1-1_small", "1-2_big"]].max(axis=1))
        assert (written["1-X_unsure"] == 0).all()
        assert result["coarse"] == official["coarse"]


def test_splits_and_tags_that_lose_their_clips_are_named(tmp_path):
    task, _ = made_of(tmp_path, replace(QUICK, label_mode="fine"))
    clips, barks = np.arange(160), task.annotations.fine[:, 3] == 1
    for usable, words in (
        (clips >= 0, []),
        (clips % 9 > 0, []),
        (clips >= 120, ["split train"]),
        (clips < 120, ["split validate"]),
        (~barks | (clips < 120), ["tag 2-1_bark in the split validate"]),
        (~barks, [f"tag 2-1_bark in the split {split}" for split in ("train", "validate")]),
    ):
        assert task.emptied(usable) == words


def test_clips_without_windows_are_left_out(tmp_path):
    task, bags = made_of(tmp_path)
    path, usable = tmp_path / "p.csv", np.arange(160) % 9 > 0
    rows = bags.rows[np.repeat(usable, 2)]
    result = task.score(Bags(rows, usable * 2), 0, predictions=path)
    part = replace(task, annotations=task.annotations.take(usable))
    assert result == part.score(Bags(rows, np.full(usable.sum(), 2)), 0)
    assert (result["train_clips"], result["clips"]) == (106, 36)
    with pytest.raises(EdgeseaError, match=r"p\.csv: 4 of 40 .*126\.wav.* max_skipped=0\.1 "):
        score(path, resamples=0)
    official = score(path, resamples=0, max_skipped=0.1)["coarse"]
    assert (official.pop("skipped"), result | official) == (4, result)


def test_clips_without_all_labels_are_left_out(tmp_path, caplog):
    _, bags = made_of(tmp_path)
    rows = pd.read_csv(tmp_path / "annotations.csv")
    rows.loc[[125, 130], "2_dog_presence"] = -1
    rows.to_csv(tmp_path / "annotations.csv", index=False)
    task, path = SonycUst.load(tmp_path, QUICK), tmp_path / "p.csv"
    assert "2 verified clips without all coarse labels" in caplog.text
    result = task.score(bags.take(np.setdiff1d(np.arange(160), [125, 130])), 0, predictions=path)
    again = score(path, resamples=0)
    assert (result["clips"], result["micro_auprc"]) == (38, again["coarse"]["micro_auprc"])
    assert "fine" not in again  # a coarse classifier does not predict it


def test_predictions_for_other_splits_are_scored_with_them(tmp_path):
    _, bags = made_of(tmp_path, verified=True)
    split, path = tmp_path / "split.csv", tmp_path / "p.csv"
    split.write_text("sensor_id,split\n0,validate\n1,train\n2,train\n")
    task = SonycUst.load(tmp_path, replace(QUICK, split_path=split))
    result = task.score(bags.take(np.flatnonzero(np.arange(160) % 4 < 3)), 0, predictions=path)
    assert (result["train_clips"], result["clips"]) == (80, 40)
    assert result | score(path, split_path=split, resamples=0)["coarse"] == result
    with pytest.raises(EdgeseaError, match=r"p\.csv: 000\.wav"):
        score(path, resamples=0)


def test_predictions_are_read_back_to_the_last_bit(shared_data, tmp_path):
    taxonomy, path = read_taxonomy(shared_data / "sonyc_ust" / "dcase-ust-taxonomy.yaml"), tmp_path / "p.csv"
    rng = np.random.default_rng(0)
    values = rng.random((8, 8)) * 10.0 ** rng.integers(-300, 1, (8, 8))
    values[0] = 0.0, -0.0, 1.0, 5e-324, np.nextafter(1, 0), 0.1 + 0.2, 1e-3, 1e-5
    names = np.array(["a,b.wav", 'say "hi".wav', "0012", "1", "NA", "é 音.wav", "-1", "true"])
    fine, coarse = (
        pd.DataFrame(rng.random((8, 29)), names, taxonomy.fine),
        pd.DataFrame(values, names, taxonomy.coarse),
    )
    write_predictions(path, {"fine": fine, "coarse": coarse})
    found = read_predictions(path, taxonomy)["coarse"]
    assert found.index.tolist() == names.tolist()
    assert np.ascontiguousarray(found.to_numpy()).tobytes() == values.tobytes()


def test_columns_of_incomplete_tags_may_be_missing_and_then_score_zero(tmp_path):
    taxonomy = read_taxonomy(write(tmp_path) / "dcase-ust-taxonomy.yaml")
    (tmp_path / "p.csv").write_text("audio_filename,2-1_bark,1-2_big,1-1_small\na,0.1,0.2,0.3\n")
    scores = read_predictions(tmp_path / "p.csv", taxonomy)["fine"]
    assert scores.loc["a"].tolist() == [0.3, 0.2, 0.0, 0.1]
