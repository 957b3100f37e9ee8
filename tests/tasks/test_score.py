import json
from pathlib import Path

import pandas as pd
import pytest

from edgesea import cli
from edgesea.errors import EdgeseaError
from edgesea.tasks.metrics import sonyc_ust_scores
from edgesea.tasks.score import score

TAXONOMY = "dcase-ust-taxonomy.yaml"


@pytest.fixture
def ust(shared_data: Path) -> Path:
    return shared_data / "sonyc_ust"


@pytest.mark.parametrize("number", [0, 3])
def test_published_scores_are_met_on_the_command_line(
    ust: Path, tmp_path: Path, number: int, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--data", str(ust / "validate_ground_truth_coarse.csv"), "--ties", "published", "--resamples", "0"]
    out = tmp_path / "scores.json"
    assert cli.main(["evaluate", str(ust / f"predictions_{number}.csv"), *arguments, "--out", str(out)]) == 0
    result = json.loads(capsys.readouterr().out)
    published = json.loads((ust / f"published_scores_{number}.json").read_text())["coarse"]
    assert result["coarse"]["micro_f1"] == pytest.approx(published["micro_f1"], abs=1e-12)
    for name in ("micro_auprc", "macro_auprc"):
        assert result["coarse"][name] == pytest.approx(published[name], abs=2e-4)
    assert result["coarse"]["class_auprc"] == pytest.approx(published["class_auprc"], abs=1e-3)
    assert "fine" not in result  # its labels are not in the table
    assert result["coarse"]["clips"] == 538
    assert json.loads(out.read_text()) == result


def test_both_levels_are_scored_as_far_as_there_are_labels_and_predictions(ust: Path, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / TAXONOMY).write_bytes((ust / TAXONOMY).read_bytes())
    rows = pd.read_csv(ust / "annotations_eval.csv").head(40)
    names = [name.removesuffix("_presence") for name in rows if name.endswith("_presence")]
    fine, coarse = [name for name in names if "-" in name.split("_")[0]], [name for name in names if name[1] == "_"]
    for index, name in enumerate(fine):
        rows[f"{name}_presence"] = [int((row * 7 + index) % 5 == 0) for row in range(len(rows))]
    for name in coarse:
        own = [f"{tag}_presence" for tag in fine if tag.split("-")[0] == name.split("_")[0]]
        rows[f"{name}_presence"] = rows[own].max(axis=1)
    rows.to_csv(folder / "annotations.csv", index=False)
    predictions = rows[["audio_filename"]].join(
        rows[[f"{name}_presence" for name in names]].rename(columns=lambda name: name.removesuffix("_presence")) * 0.9
    )
    predictions.sample(frac=1, random_state=0).to_csv(folder / "mine.csv", index=False)
    result = score(folder / "mine.csv", resamples=20)  # the data is beside the predictions
    for level in ("coarse", "fine"):
        own = sonyc_ust_scores(folder / "mine.csv", folder / "annotations.csv", folder / TAXONOMY, level)  # type: ignore[arg-type]
        assert {name: result[level][name] for name in own} == own
        assert own["micro_f1"] == 1
        assert result[level]["confidence"]["micro_f1"] == (1, 1)
    only = pd.read_csv(folder / "mine.csv").drop(columns=fine)
    only.to_csv(folder / "coarse.csv", index=False)
    assert set(score(folder / "coarse.csv", resamples=0)) == {"coarse", "ties"}
    for nothing in (only.drop(columns=coarse), only * [1, *[0] * 8]):
        nothing.to_csv(folder / "none.csv", index=False)
        with pytest.raises(EdgeseaError, match=r"no tag of 1_engine, .* has a column with scores above 0"):
            score(folder / "none.csv")
    with pytest.raises(EdgeseaError, match="test"):
        score(folder / "mine.csv", split="test")


def test_bad_files_are_named_with_their_rows(ust: Path, tmp_path: Path) -> None:
    with pytest.raises(EdgeseaError, match=r"annotations\.csv: no such file; give the folder of SONYC-UST"):
        score(ust / "predictions_0.csv", resamples=0)
    truth = ust / "validate_ground_truth_coarse.csv"
    good = pd.read_csv(ust / "predictions_0.csv", dtype=str)

    def refused(rows: pd.DataFrame, message: str) -> None:
        rows.to_csv(tmp_path / "bad.csv", index=False)
        with pytest.raises(EdgeseaError, match=message):
            score(tmp_path / "bad.csv", data=truth, resamples=0)

    refused(good.iloc[2:], "00_000066.wav")
    extra = pd.concat([good, good.head(1).assign(audio_filename="new.wav")])
    refused(extra, "new.wav")
    refused(pd.concat([good, good.head(1)]), "00_000066.wav")
    refused(good.drop(columns="3_non-machinery-impact"), "3_non-machinery-impact")
    for value in ("1.5", "-0.1", "nan", "", "loud"):
        changed = good.copy()
        changed.loc[3, "8_dog"] = value
        refused(changed, r"bad\.csv.*8_dog|8_dog.*bad\.csv|line 5|5")
