from pathlib import Path
from typing import Any

from edgesea.report.summary import interval, shown_scores, summary

FITTED = {"r2": 0.25, "parameters": 2048, "flash_float32": 8192, "flash_int8": 3072}


def lines(scores: dict[str, Any]) -> list[str]:
    systems = {name: {"embedding_size": 8, **scores} for name in ("teacher", "reduced", "student")}
    return summary({"evaluate": systems, "distill": FITTED}, Path("runs/x")).splitlines()


def test_the_summary_shows_scores_fit_size_and_places_in_aligned_columns():
    scores = {"micro_auprc": 0.8371, "macro_auprc": 0.6, "micro_f1": 0.7, "lwlrap": 0.9}
    confidence = {name: [value - 0.04, value + 0.03] for name, value in scores.items()}
    head, teacher, _, student, *facts = lines({**scores, "confidence": confidence})
    assert student.split() == ["student", "8", "0.837", "(0.80-0.87)", "0.600", "0.700", "0.900"]
    assert "(" not in teacher
    for name, value in (("micro_auprc", "0.837"), ("macro_auprc", "0.600"), ("lwlrap", "0.900")):
        assert {line.index(value) + len(value) for line in (teacher, student)} == {head.index(name) + len(name)}
    for part in ("0.250", "2,048 (8 KiB float32, 3 KiB int8)", "runs/x/report.html", "runs/x/student"):
        assert part in "\n".join(facts)


def test_intervals_that_do_not_exist_are_left_out():
    for confidence in (None, {}, {"accuracy": None}, {"accuracy": [None, None]}, {"accuracy": [float("nan")] * 2}):
        assert interval({"confidence": confidence}, "accuracy") is None
    assert lines({"accuracy": None, "confidence": None})[1].endswith("   -")


def test_means_that_are_the_accuracy_itself_are_not_repeated():
    even = {"accuracy": 0.7, "class_accuracy": 0.7 + 1e-16, "fold_accuracy": 0.7}
    assert shown_scores({"teacher": even, "student": even}) == ["accuracy"]
    assert shown_scores({"teacher": even, "student": {**even, "fold_accuracy": 0.8}}) == ["accuracy", "fold_accuracy"]
    assert shown_scores({"student": {"class_accuracy": 0.5}}) == ["class_accuracy"]
    assert shown_scores({}) == []
