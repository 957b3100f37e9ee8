import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from edgesea import cli
from edgesea.errors import EdgeseaError
from edgesea.tasks.annotations import read_taxonomy
from edgesea.tasks.metrics import tagging_scores
from edgesea.tasks.score import score
from edgesea.tasks.sonyc_ust import read_predictions

TAXONOMY = "dcase-ust-taxonomy.yaml"


@pytest.fixture
def ust(shared_data: Path) -> Path:
    return shared_data / "sonyc_ust"


@pytest.mark.parametrize("number", [0, 3])
def test_published_scores_are_met(ust, tmp_path, number):
    path, truth, out = ust / f"predictions_{number}.csv", ust / "validate_ground_truth_coarse.csv", tmp_path / "s.json"
    assert cli.main(["score", str(path), f"--data={truth}", "--ties=published", "--resamples=0", f"--out={out}"]) == 0
    result = json.loads(out.read_text())
    published = json.loads((ust / f"published_scores_{number}.json").read_text())
    for name in ("micro_f1", "micro_auprc", "macro_auprc", "class_auprc"):
        assert result["coarse"][name] == pytest.approx(published["coarse"][name], abs=1e-12)
    assert result["coarse"]["clips"] == 538
    assert "fine" not in result  # its labels are not in the table
    # Of the classes with a single fine tag, the fine truth is the coarse one.
    taxonomy, rows = read_taxonomy(ust / TAXONOMY), pd.read_csv(truth).set_index("audio_filename")
    scores = read_predictions(path, taxonomy)["fine"].loc[rows.index].to_numpy()
    labels, classes = rows.to_numpy()[:, taxonomy.parent], (taxonomy.parent, taxonomy.incomplete)
    areas = tagging_scores(labels, scores, taxonomy.names, "published", *classes)["class_auprc"]
    for name in ("non-machinery-impact", "dog"):
        assert areas[name] == pytest.approx(published["fine"]["class_auprc"][name], abs=1e-12)


def test_both_levels_are_scored_as_far_as_there_are_labels_and_predictions(ust, tmp_path):
    shutil.copy(ust / TAXONOMY, tmp_path)
    tags = read_taxonomy(ust / TAXONOMY)
    rows = pd.read_csv(ust / "annotations_eval.csv").head(40)
    labels = (np.arange(40)[:, None] * 7 + np.arange(29)) % 5 == 0
    parents = np.stack([labels[:, tags.parent == number].any(1) for number in range(8)], 1)
    names = [*tags.fine, *tags.coarse]
    rows[[f"{name}_presence" for name in names]] = np.hstack([labels, parents]).astype(int)
    rows.to_csv(tmp_path / "annotations.csv", index=False)
    predictions = pd.DataFrame(np.hstack([labels, parents]) * 0.9, rows["audio_filename"], names)
    mine, none = tmp_path / "mine.csv", tmp_path / "none.csv"
    predictions.sample(frac=1, random_state=0).to_csv(mine)
    result = score(mine, resamples=20)  # the data is beside the predictions
    for level in ("coarse", "fine"):
        assert (result[level]["micro_f1"], result[level]["confidence"]["micro_f1"]) == (1, [1, 1])
    predictions[[*tags.coarse]].to_csv(mine)
    assert set(score(mine, resamples=0)) == {"coarse", "ties"}
    for nothing in (predictions[[]], predictions * 0):
        nothing.to_csv(none)
        with pytest.raises(EdgeseaError, match=r"none\.csv"):
            score(none)


def test_bad_input(ust, tmp_path, refuses):
    truth, bad = ust / "validate_ground_truth_coarse.csv", tmp_path / "bad.csv"
    good = pd.read_csv(ust / "predictions_0.csv", dtype=str)
    refuses("score", ust / "predictions_0.csv", words=["annotations.csv", "--data"])
    refuses("score", ust / "none.csv", f"--data={truth}", words=["none.csv"])
    first = good.head(1)
    for rows, words in (
        *(
            (good.assign(**{"8_dog": good["8_dog"].mask(good.index == 3, value)}), [f"line 5, 8_dog: '{value}'"])
            for value in ("1.5", "-0.1", "NA", "", "loud", "inf", "0x1")
        ),
        (good.iloc[2:], ["00_000066.wav"]),
        (pd.concat([good, first.assign(audio_filename="new.wav")]), ["new.wav"]),
        (pd.concat([good, first]), ["00_000066.wav", "line 2", "line 540"]),
        (good.drop(columns="3_non-machinery-impact"), ["3_non-machinery-impact"]),
        (good.assign(**{"9_cat": "0"}), ["9_cat"]),
    ):
        rows.to_csv(bad, index=False)
        refuses("score", bad, f"--data={truth}", words=[bad, *words])
