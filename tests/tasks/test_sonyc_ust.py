from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from edgesea.errors import EdgeseaError
from edgesea.tasks.features import Bags
from edgesea.tasks.metrics import sonyc_ust_scores
from edgesea.tasks.options import TaggingOptions
from edgesea.tasks.score import score
from edgesea.tasks.sonyc_ust import SonycUst

TAXONOMY = """
fine:
    1: {1: small, 2: big, X: unsure}
    2: {1: bark}
coarse: {1: engine, 2: dog}
"""
FINE = ["1-1_small", "1-2_big", "1-X_unsure", "2-1_bark"]
COARSE = ["1_engine", "2_dog"]
QUICK = TaggingOptions(num_hidden_layers=0, num_epochs=60, patience=0, members=1, learning_rate=0.02)


def write(folder: Path, rows: list[dict[str, object]]) -> Path:
    """A data set of rows that name the tags present; annotator 0 and the split train where they do not say."""
    table = []
    for row in rows:
        present = {tag for tag in FINE + COARSE if tag.split("_")[0] in str(row.get("tags", "")).split()}
        present |= {COARSE[int(tag[0]) - 1] for tag in present}
        given = row.get("given", True)
        own = {f"{tag}_presence": int(tag in present) if given else -1 for tag in FINE + COARSE}
        table.append(
            {"split": row.get("split", "train"), "sensor_id": row.get("sensor", 0), "audio_filename": row["name"]}
            | {"annotator_id": row.get("annotator", 0), **own}
        )
    folder.mkdir(exist_ok=True)
    pd.DataFrame(table).to_csv(folder / "annotations.csv", index=False)
    (folder / "dcase-ust-taxonomy.yaml").write_text(TAXONOMY)
    return folder


def test_what_is_loaded_is_what_is_trained_on_and_judged(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [
        {"name": "crowd.wav", "annotator": 3, "tags": "1-1"},
        {"name": "only_team.wav", "annotator": -3, "tags": "1-1"},
        {"name": "unlabelled.wav", "annotator": 4, "given": False},
        {"name": "verified.wav", "split": "validate", "tags": "2-1"},
        {"name": "crowd_validate.wav", "split": "validate", "annotator": 7, "tags": "2-1"},
        {"name": "test.wav", "split": "test", "tags": "2-1"},
    ]
    data = write(tmp_path / "data", rows)

    def names(options: TaggingOptions) -> list[str]:
        return [path.name for path in SonycUst.load(data, options).paths]

    assert names(TaggingOptions()) == ["crowd.wav", "verified.wav"]
    assert names(TaggingOptions(label_mode="fine", monitor="validate")) == ["crowd.wav", "verified.wav"]
    assert names(TaggingOptions(eval_split="test")) == ["crowd.wav", "test.wav"]
    assert names(TaggingOptions(eval_split="test", monitor="validate")) == ["crowd.wav", "test.wav", "verified.wav"]
    assert SonycUst.load(data, TaggingOptions()).paths[0] == data / "audio" / "crowd.wav"
    split = tmp_path / "split.csv"
    split.write_text("audio_filename,split\ntest.wav,validate\ncrowd.wav,train\n")
    assert names(TaggingOptions(split_path=split)) == ["crowd.wav", "test.wav"]
    with pytest.raises(EdgeseaError, match="split test with coarse labels"):
        SonycUst.load(write(tmp_path / "other", rows[:-1]), TaggingOptions(eval_split="test"))
    with pytest.raises(EdgeseaError, match="split train with fine labels"):
        SonycUst.load(write(tmp_path / "other", rows[1:]), TaggingOptions(label_mode="fine"))


def test_fine_tags_of_an_uncertain_class_are_not_given(tmp_path: Path) -> None:
    rows = [
        {"name": "a.wav", "annotator": 1, "tags": "1-1 2-1"},
        {"name": "b.wav", "annotator": 1, "tags": "1-X"},
        {"name": "b.wav", "annotator": 2, "tags": "1-2"},
        {"name": "c.wav", "split": "validate", "tags": ""},
    ]
    data = write(tmp_path, rows)
    targets = SonycUst.load(data, TaggingOptions(label_mode="fine")).targets()
    assert targets.labels.tolist() == [[1, 0, 1], [0, 1, 0], [0, 0, 0]]
    assert targets.given.tolist() == [[True, True, True], [False, False, True], [True, True, True]]
    targets = SonycUst.load(data, TaggingOptions()).targets()
    assert targets.labels.tolist() == [[1, 1], [1, 0], [0, 0]]
    assert targets.given.all()


def made_of(folder: Path, options: TaggingOptions, train: int = 120, judged: int = 40) -> tuple[SonycUst, Bags]:
    """Clips of two windows that tell their tags, among them uncertain ones; all judged clips are verified."""
    rng = np.random.default_rng(0)
    present = rng.random((train + judged, 4)) < (0.4, 0.3, 0.15, 0.4)
    codes = [tag.split("_")[0] for tag in FINE]
    rows: list[dict[str, object]] = [
        {
            "name": f"{index:03d}.wav",
            "split": "train" if index < train else "validate",
            "annotator": 5 if index < train else 0,
            "tags": " ".join(np.array(codes)[own]),
            "sensor": index % 4,
        }
        for index, own in enumerate(present)
    ]
    task = SonycUst.load(write(folder, rows), options)
    clear = np.c_[present[:, :2], present[:, 3]] * 3.0
    windows = np.repeat(clear, 2, axis=0) + rng.standard_normal((2 * len(rows), 3))
    return task, Bags(windows.astype(np.float32), np.full(len(rows), 2))


def test_tags_are_learnt_and_scored_on_verified_clips(tmp_path: Path) -> None:
    task, bags = made_of(tmp_path, QUICK)
    result = task.score(bags, 0, resamples=50)
    assert (result["label_mode"], result["train_clips"], result["clips"]) == ("coarse", 120, 40)
    assert result["micro_auprc"] > 0.9
    assert set(result["class_auprc"]) == {"engine", "dog"}
    for name, (low, high) in result["confidence"].items():
        assert 0 < low < result[name] < high <= 1
    assert task.score(bags, 0, resamples=50) == result
    assert "confidence" not in task.score(bags, 0)


@pytest.mark.parametrize("mode", ["coarse", "fine"])
def test_what_is_written_has_the_scores_that_are_returned(tmp_path: Path, mode: str) -> None:
    task, bags = made_of(tmp_path, replace(QUICK, label_mode=mode))
    path = tmp_path / "new" / "predictions.csv"
    result = task.score(bags, 0, predictions=path)
    columns = list(pd.read_csv(path).columns)
    assert columns == ["audio_filename", *FINE, *COARSE]
    levels = {mode: result} | ({"coarse": result["coarse"]} if mode == "fine" else {})
    for level, own in levels.items():
        official = sonyc_ust_scores(path, tmp_path / "annotations.csv", tmp_path / "dcase-ust-taxonomy.yaml", level)  # type: ignore[arg-type]
        for name in ("micro_auprc", "macro_auprc", "micro_f1", "class_auprc"):
            assert own[name] == official[name]


def test_fine_tags_tell_the_coarse_ones(tmp_path: Path) -> None:
    task, bags = made_of(tmp_path, replace(QUICK, label_mode="fine"))
    path = tmp_path / "predictions.csv"
    result = task.score(bags, 0, predictions=path)
    assert result["micro_auprc"] > 0.8
    assert result["coarse"]["micro_auprc"] > 0.75
    written = pd.read_csv(path)
    assert np.array_equal(written["1_engine"], written[["1-1_small", "1-2_big"]].max(axis=1))
    assert (written["1-X_unsure"] == 0).all()


def test_failed_clips_are_not_trained_on_and_score_zero(tmp_path: Path) -> None:
    task, bags = made_of(tmp_path, QUICK)
    whole = task.score(bags, 0)
    counts = bags.counts.copy()
    counts[[3, *range(130, 160)]] = 0
    kept = np.repeat(counts > 0, bags.counts)
    partial = task.score(Bags(bags.rows[kept], counts), 0, predictions=tmp_path / "p.csv")
    assert (partial["train_clips"], partial["clips"]) == (119, 40)
    assert partial["micro_f1"] < whole["micro_f1"]
    assert (pd.read_csv(tmp_path / "p.csv")[COARSE].iloc[10:] == 0).all(axis=None)
    counts[120:] = 0
    with pytest.raises(EdgeseaError, match="no test clip could be embedded"):
        task.score(Bags(bags.rows[np.repeat(counts > 0, bags.counts)], counts), 0)
    counts[:120] = 0
    with pytest.raises(EdgeseaError, match="no training clip could be embedded"):
        task.score(Bags(bags.rows[np.repeat(counts > 0, bags.counts)], counts), 0)


def test_a_grid_of_hidden_layers_overrides_the_options(tmp_path: Path) -> None:
    task, bags = made_of(tmp_path, QUICK)
    deep = replace(QUICK, num_hidden_layers=1, hidden_layer_size=8)
    other = SonycUst(task.folder, task.taxonomy, task.annotations, deep)
    assert task.score(bags, 0, hidden=(8,)) == other.score(bags, 0) != task.score(bags, 0)
    assert other.score(bags, 0, hidden=()) == task.score(bags, 0)


def test_clips_without_all_labels_are_left_out_and_said_to_be(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    task, bags = made_of(tmp_path, QUICK)
    rows = pd.read_csv(tmp_path / "annotations.csv")
    rows.loc[[125, 130], "2_dog_presence"] = -1
    rows.to_csv(tmp_path / "annotations.csv", index=False)
    whole, task = bags, SonycUst.load(tmp_path, QUICK)
    assert "2 verified clips without all coarse labels are left out" in caplog.text
    bags = whole.take(np.setdiff1d(np.arange(160), [125, 130]))
    result = task.score(bags, 0, predictions=tmp_path / "p.csv")
    assert result["clips"] == 38
    again = score(tmp_path / "p.csv", resamples=0)
    assert again["coarse"]["micro_auprc"] == result["micro_auprc"]
    assert "fine" not in again  # which a coarse classifier does not predict
    other = pd.read_csv(tmp_path / "p.csv")
    other.loc[len(other)] = other.loc[0].to_dict() | {"audio_filename": "125.wav"}  # predicted, and not judged
    other.to_csv(tmp_path / "more.csv", index=False)
    assert score(tmp_path / "more.csv", resamples=0)["coarse"] == again["coarse"]


def test_predictions_for_other_splits_are_scored_with_them(tmp_path: Path) -> None:
    split = tmp_path / "split.csv"
    pd.DataFrame({"sensor_id": [0, 1, 2], "split": ["validate", "train", "train"]}).to_csv(split, index=False)
    _, bags = made_of(tmp_path, QUICK)
    rows = pd.read_csv(tmp_path / "annotations.csv")
    rows["annotator_id"] = 0
    rows.to_csv(tmp_path / "annotations.csv", index=False)
    task = SonycUst.load(tmp_path, replace(QUICK, split_path=split))
    assert len(task.paths) == 120
    kept = np.flatnonzero(np.arange(160) % 4 < 3)
    result = task.score(bags.take(kept), 0, predictions=tmp_path / "p.csv")
    assert (result["train_clips"], result["clips"]) == (80, 40)
    again = score(tmp_path / "p.csv", split_path=split, resamples=0)["coarse"]
    assert {name: again[name] for name in ("micro_auprc", "macro_auprc", "lwlrap")} == {
        name: result[name] for name in ("micro_auprc", "macro_auprc", "lwlrap")
    }
    with pytest.raises(EdgeseaError, match=r"p\.csv: .*121\.wav"):
        score(tmp_path / "p.csv", resamples=0)
