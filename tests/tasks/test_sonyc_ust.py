from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from edgesea.errors import EdgeseaError
from edgesea.tasks.sonyc_ust import SonycUst

TAXONOMY = "coarse:\n    1: engine\n    2: dog\nfine: {}\n"
COLUMNS = ["split", "audio_filename", "annotator_id", "1_engine_presence", "2_dog_presence"]


def write(folder: Path, *rows: tuple[object, ...], columns: list[str] = COLUMNS) -> Path:
    pd.DataFrame(rows, columns=columns).to_csv(folder / "annotations.csv", index=False)
    (folder / "dcase-ust-taxonomy.yaml").write_text(TAXONOMY)
    return folder


def labels(task: SonycUst) -> dict[str, list[int]]:
    return {path.name: row for path, row in zip(task.paths, task.labels.tolist(), strict=True)}


def test_one_volunteer_is_enough(tmp_path: Path) -> None:
    task = SonycUst.load(
        write(
            tmp_path,
            ("train", "b.wav", 12, 0, 0),
            ("train", "a.wav", 12, 0, 0),
            ("train", "a.wav", 7, 1, 0),
            ("train", "a.wav", 9, 0, 0),
        )
    )
    assert labels(task) == {"a.wav": [1, 0], "b.wav": [0, 0]}
    assert task.tags == ["1_engine", "2_dog"]
    assert task.splits.tolist() == ["train", "train"]
    assert task.verified.tolist() == [False, False]
    assert task.paths[0] == tmp_path / "audio" / "a.wav"


def test_the_verified_annotation_wins(tmp_path: Path) -> None:
    task = SonycUst.load(
        write(tmp_path, ("validate", "a.wav", 3, 1, 1), ("validate", "a.wav", 0, 0, 1), ("validate", "a.wav", 5, 1, 0))
    )
    assert labels(task) == {"a.wav": [0, 1]}
    assert task.verified.tolist() == [True]


def test_single_team_members_are_ignored(tmp_path: Path) -> None:
    task = SonycUst.load(
        write(
            tmp_path,
            ("train", "a.wav", -1, 1, 1),
            ("train", "a.wav", 4, 0, 1),
            ("train", "only_team.wav", -2, 1, 1),
        )
    )
    assert labels(task) == {"a.wav": [0, 1]}


def test_clips_whose_labels_were_not_given_are_skipped(tmp_path: Path) -> None:
    task = SonycUst.load(
        write(tmp_path, ("train", "a.wav", 4, 1, 0), ("train", "b.wav", 4, -1, 0), ("test", "c.wav", 0, -1, -1))
    )
    assert labels(task) == {"a.wav": [1, 0]}


def test_the_real_columns_without_labels_are_an_error(shared_data: Path, tmp_path: Path) -> None:
    real = shared_data / "sonyc_ust"
    (tmp_path / "annotations.csv").write_bytes((real / "annotations_eval.csv").read_bytes())
    (tmp_path / "dcase-ust-taxonomy.yaml").write_bytes((real / "dcase-ust-taxonomy.yaml").read_bytes())
    with pytest.raises(EdgeseaError, match="no clip with coarse labels"):
        SonycUst.load(tmp_path)
    rows = pd.read_csv(tmp_path / "annotations.csv")
    rows.loc[:2, [column for column in rows.columns if column[0].isdigit() and column[1] == "_"]] = 1
    rows.to_csv(tmp_path / "annotations.csv", index=False)
    task = SonycUst.load(tmp_path)
    assert (len(task.tags), task.labels.tolist()) == (8, [[1] * 8] * 3)
    assert task.tags[0] == "1_engine"
    assert task.tags[7] == "8_dog"


def test_missing_files_and_columns_are_named(tmp_path: Path) -> None:
    with pytest.raises(EdgeseaError, match=r"annotations\.csv: no such file; the task sonyc_ust needs it"):
        SonycUst.load(tmp_path)
    write(tmp_path, ("train", "a.wav", 0, 1), columns=COLUMNS[:4])
    with pytest.raises(EdgeseaError, match=r"annotations\.csv: no column 2_dog_presence"):
        SonycUst.load(tmp_path)
    (tmp_path / "dcase-ust-taxonomy.yaml").unlink()
    with pytest.raises(EdgeseaError, match=r"dcase-ust-taxonomy\.yaml: no such file"):
        SonycUst.load(tmp_path)


@pytest.mark.parametrize("taxonomy", ["fine: {}", "just words", "a: [", ""])
def test_another_taxonomy_is_refused_by_name(tmp_path: Path, taxonomy: str) -> None:
    write(tmp_path, ("train", "a.wav", 0, 1, 0))
    (tmp_path / "dcase-ust-taxonomy.yaml").write_text(taxonomy)
    with pytest.raises(EdgeseaError, match=r"dcase-ust-taxonomy\.yaml: not the taxonomy"):
        SonycUst.load(tmp_path)


def made_of(train: int = 120, validate: int = 40, seed: int = 0) -> tuple[SonycUst, np.ndarray]:
    """A task of two tags with features that tell them, all validation clips verified."""
    rng = np.random.default_rng(seed)
    total = train + validate
    tags = rng.integers(0, 2, (total, 2))
    splits = np.array(["train"] * train + ["validate"] * validate)
    paths = [Path(f"{i}.wav") for i in range(total)]
    features = (tags * 3.0 + rng.standard_normal((total, 2))).astype(np.float32)
    return SonycUst(paths, ["1_a", "2_b"], tags, splits, splits == "validate"), features


def test_tags_are_learnt_and_scored_on_verified_validation_clips() -> None:
    task, features = made_of()
    task.splits[-5:] = "test"
    task.verified[120:125] = False
    result = task.score(features, np.ones(160, bool), "mlp", None, 0)
    assert (result["train_clips"], result["clips"]) == (120, 30)
    assert result["micro_f1"] > 0.85
    assert result["micro_auprc"] > 0.85
    # What stands in clips that are neither trained on nor judged has no influence.
    features[-5:] = features[120:125] = 1e3
    task.labels[-5:] = task.labels[120:125] = 0
    assert task.score(features, np.ones(160, bool), "mlp", None, 0) == result


def test_failed_clips_score_zero_for_every_tag() -> None:
    task, features = made_of()
    whole = task.score(features, np.ones(160, bool), "mlp", None, 0)
    usable = np.ones(160, bool)
    usable[130:] = False
    features[~usable] = np.nan
    partial = task.score(features, usable, "mlp", None, 0)
    assert partial["clips"] == 40
    found, wanted = partial["micro_f1"], task.labels[120:].sum()
    assert found < whole["micro_f1"]
    assert found <= 2 * task.labels[120:130].sum() / (task.labels[120:130].sum() + wanted) + 1e-9
    usable[120:] = False
    nothing = task.score(features, usable, "mlp", None, 0)
    assert nothing["micro_f1"] == 0.0
    assert nothing["micro_auprc"] == 0.0


def test_options_that_do_not_apply_are_refused() -> None:
    task, features = made_of()
    usable = np.ones(160, bool)
    with pytest.raises(EdgeseaError, match="no folds"):
        task.score(features, usable, "mlp", [1], 0)
    with pytest.raises(EdgeseaError, match="needs the classifier mlp"):
        task.score(features, usable, "logistic", None, 0)
    for splits, verified in ((np.full(160, "train"), task.verified), (task.splits, np.zeros(160, bool))):
        other = SonycUst(task.paths, task.tags, task.labels, splits, verified)
        with pytest.raises(EdgeseaError, match="verified ones of the split validate"):
            other.score(features, usable, "mlp", None, 0)


def test_a_taxonomy_of_one_tag_can_be_scored() -> None:
    task, features = made_of()
    one = SonycUst(task.paths, task.tags[:1], task.labels[:, :1], task.splits, task.verified)
    assert one.score(features, np.ones(160, bool), "mlp", None, 0)["micro_f1"] > 0.85
