from pathlib import Path

from edgesea.summary import summary


def test_the_summary_shows_scores_fit_size_and_places() -> None:
    systems = {name: {"embedding_size": 8, "accuracy": 0.51234} for name in ("teacher", "reduced", "student")}
    text = summary({"evaluate": systems, "distill": {"r2": 0.25, "parameters": 2048}}, Path("runs/x"))
    assert text.count("0.512") == 3
    for part in ("accuracy", "0.250", "2,048 (8 KiB float32, 2 KiB int8)", "runs/x/report.html", "runs/x/student"):
        assert part in text


def test_a_score_without_a_value_is_a_dash() -> None:
    text = summary({"distill": {"r2": None, "parameters": 2048}}, Path("run"))
    assert "R2 (validation clips)   -" in text
