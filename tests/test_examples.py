from pathlib import Path

import pytest
import yaml

from edgesea import cli
from edgesea.artifact import read_json
from edgesea.demo.city import make_city
from edgesea.pipeline import read_config

EXAMPLES = Path(__file__).parents[1] / "examples"
BASELINE = EXAMPLES / "dcase2020_baseline.yaml"
EXPERIMENTS = sorted(set(EXAMPLES.glob("*.yaml")) - {BASELINE})


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_examples_have_only_options_that_there_are(path):
    assert set(read_config(path)[0]) - {"export"} == {"extract", "sample", "reduce", "distill", "evaluate"}


@pytest.mark.parametrize("mode", ["fine", "coarse"])
def test_the_baseline_runs_on_a_city(tmp_path, monkeypatch, mode):
    """The example as it is, but for the data, a teacher that needs no weights, and fewer epochs."""
    city = make_city(tmp_path / "data" / "sonyc_ust", sensors=3, days=1, clips_per_day=8, seconds=2.0, annotated=1.0)
    example = yaml.safe_load(BASELINE.read_text())
    assert (example["model"], example["data"]) == ("openl3/env-mel256-512", "data/sonyc_ust")
    example["model"] = "spectral"
    example["tagging"] |= {"num_epochs": 5, "label_mode": mode}
    (tmp_path / "baseline.yaml").write_text(yaml.safe_dump(example))
    monkeypatch.chdir(tmp_path)
    assert cli.main(["evaluate", "--config", "baseline.yaml", "--resamples", "0"]) == 0
    written = tmp_path / "runs" / "dcase2020_baseline"
    result = read_json(written / "scores.json")
    assert result["tagging"]["context"]
    assert 0 < result["micro_auprc"] <= 1
    assert cli.main(["score", str(written / "predictions.csv"), "--data", str(city), "--resamples", "0"]) == 0
