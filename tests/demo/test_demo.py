import json

import pytest

from edgesea import cli


@pytest.mark.slow
def test_the_demo_runs_every_stage_and_shows_where_the_results_are(tmp_path, capsys):
    out = tmp_path / "demo"
    assert cli.main(["demo", "--out", str(out)]) == 0
    shown = capsys.readouterr().out
    results = json.loads((out / "results.json").read_text())
    for system in ("teacher", "reduced", "student"):
        scores = results["evaluate"][system]
        assert 0.5 < scores["micro_auprc"] < 0.97  # above chance (about 0.24), and not a toy
        assert f"{scores['micro_auprc']:.3f}" in shown
        assert f"{scores['macro_auprc']:.3f}" in shown
    assert results["distill"]["r2"] > 0.6
    assert str(out / "report.html") in shown
    assert (out / "report.html").stat().st_size > 10_000
    assert (out / "student" / "model.safetensors").exists()
