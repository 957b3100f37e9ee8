import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from edgesea import cli
from edgesea.errors import EdgeseaError
from edgesea.tasks.score import score, sonyc_ust_scores

TAXONOMY = "dcase-ust-taxonomy.yaml"


@pytest.fixture
def ust(shared_data: Path) -> Path:
    return shared_data / "sonyc_ust"


def test_published_scores_are_met_on_the_command_line(
    ust: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    truth, out = ust / "validate_ground_truth_coarse.csv", tmp_path / "scores.json"
    options = [f"--data={truth}", "--ties=published", "--resamples=0", f"--out={out}"]
    assert cli.main(["score", str(ust / "predictions_3.csv"), *options]) == 0
    result = json.loads(capsys.readouterr().out)
    published = json.loads((ust / "published_scores_3.json").read_text())["coarse"]
    for name in ("micro_f1", "micro_auprc", "macro_auprc", "class_auprc"):
        assert result["coarse"][name] == pytest.approx(published[name], abs=1e-12)
    assert "fine" not in result  # its labels are not in the table
    assert result["coarse"]["clips"] == 538
    assert json.loads(out.read_text()) == result


def test_both_levels_are_scored_as_far_as_there_are_labels_and_predictions(ust: Path, tmp_path: Path) -> None:
    (tmp_path / TAXONOMY).write_bytes((ust / TAXONOMY).read_bytes())
    rows = pd.read_csv(ust / "annotations_eval.csv").head(40)
    names = [name.removesuffix("_presence") for name in rows if name.endswith("_presence")]
    fine, coarse = [name for name in names if name[1] == "-"], [name for name in names if name[1] == "_"]
    for index, name in enumerate(fine):
        rows[f"{name}_presence"] = [int((row * 7 + index) % 5 == 0) for row in range(len(rows))]
    for name in coarse:
        rows[f"{name}_presence"] = rows[[f"{tag}_presence" for tag in fine if tag[0] == name[0]]].max(axis=1)
    rows.to_csv(tmp_path / "annotations.csv", index=False)
    predictions = rows[[f"{name}_presence" for name in names]].set_axis(names, axis=1) * 0.9
    predictions.insert(0, "audio_filename", rows["audio_filename"])
    predictions.sample(frac=1, random_state=0).to_csv(tmp_path / "mine.csv", index=False)
    result = score(tmp_path / "mine.csv", resamples=20)  # the data is beside the predictions
    for level in ("coarse", "fine"):
        found = sonyc_ust_scores(tmp_path / "mine.csv", tmp_path / "annotations.csv", tmp_path / TAXONOMY, level)  # type: ignore[arg-type]
        assert {name: result[level][name] for name in found} == found
        assert (found["micro_f1"], result[level]["confidence"]["micro_f1"]) == (1, [1, 1])
    only = predictions.drop(columns=fine)
    only.to_csv(tmp_path / "coarse.csv", index=False)
    assert set(score(tmp_path / "coarse.csv", resamples=0)) == {"coarse", "ties"}
    for nothing in (only.drop(columns=coarse), only * [1, *[0] * 8]):
        nothing.to_csv(tmp_path / "none.csv", index=False)
        with pytest.raises(EdgeseaError, match=r"none\.csv"):
            score(tmp_path / "none.csv")


def test_bad_input(ust: Path, tmp_path: Path, refuses: Callable[..., None]) -> None:
    truth, bad = ust / "validate_ground_truth_coarse.csv", tmp_path / "bad.csv"
    good = pd.read_csv(ust / "predictions_0.csv", dtype=str)
    refuses("score", ust / "predictions_0.csv", words=["annotations.csv", "--data"])
    refuses("score", ust / "none.csv", f"--data={truth}", words=["none.csv"])
    for value in ("1.5", "-0.1", "nan", "", "loud", "inf", "0x1"):
        changed = good.copy()
        changed.loc[3, "8_dog"] = value
        changed.to_csv(bad, index=False)
        refuses("score", bad, f"--data={truth}", words=[f"{bad}: line 5, 8_dog: '{value}'"])
    first = good.head(1)
    for rows, words in (
        (good.iloc[2:], ["00_000066.wav"]),
        (pd.concat([good, first.assign(audio_filename="new.wav")]), ["new.wav"]),
        (pd.concat([good, first]), ["00_000066.wav", "line 2", "line 540"]),
        (good.drop(columns="3_non-machinery-impact"), ["3_non-machinery-impact"]),
        (good.assign(**{"9_cat": "0"}), ["9_cat"]),
    ):
        rows.to_csv(bad, index=False)
        refuses("score", bad, f"--data={truth}", words=[bad, *words])
