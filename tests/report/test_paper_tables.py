"""The paper's tables: from tiny real runs, and from results.json files whose scores are made up."""

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import TINY, make_esc50

from edgesea.artifact import read_json, write_json
from edgesea.errors import EdgeseaError
from edgesea.pipeline import read_config, run_stages
from edgesea.reduction import reduce
from edgesea.report.paper_tables import tables
from edgesea.report.tables_published import read_published
from edgesea.select import select
from edgesea.tasks.evaluate import evaluate

Rows = list[dict[str, str]]
SIZES = {"teacher": 512, "reduced": 64, "student": 64}
TAGGING = {"label_mode": "coarse", "eval_split": "validate", "target_mode": "mil", "members": 5}


def parsed(text: str) -> dict[str, Rows]:
    """The tables of a Markdown text, by heading: rows as mappings from the column's title."""
    found: dict[str, Rows] = {}
    for section in re.split(r"^## ", text, flags=re.M)[1:]:
        heading = section.splitlines()[0]
        lines = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("|")]
        assert all(len(line) == len(lines[0]) for line in lines)
        found[heading] = [dict(zip(lines[0], line, strict=True)) for line in lines[2:]]
    return found


def made(folder: Path, *paths: Path, **options: Any) -> dict[str, Rows]:
    return parsed(tables(list(paths), out=folder / "out", **options)["text"])


def of(rows: Rows, system: str) -> dict[str, str]:
    """The only row of a system."""
    (row,) = [row for row in rows if row["system"] == system]
    return row


# ----------------------------------------------------------------- real runs


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_esc50(tmp_path_factory.mktemp("tables") / "esc50")


def run(folder: Path, data: Path, **changes: Mapping[str, Any]) -> Path:
    """A run of seconds on `data`."""
    sections: dict[str, dict[str, Any]] = {
        "extract": {"source": str(data / "audio"), "validate": 0.3, "workers": 1, "device": "cpu"},
        "sample": {"size": 15},
        "reduce": {"size": 3},
        "distill": {**TINY, "epochs": 2, "device": "cpu"},
        "evaluate": {"task": "esc50", "data": str(data), "resamples": 20, "workers": 1, "device": "cpu"},
    }
    for stage, options in changes.items():
        sections[stage] |= options
    folder.mkdir(parents=True)
    (folder.parent / f"{folder.name}.yaml").write_text(yaml.safe_dump(sections))
    run_stages(read_config(folder.parent / f"{folder.name}.yaml"), folder)
    return folder


@pytest.fixture(scope="module")
def first(data: Path) -> Path:
    return run(data.parent / "runs" / "first", data)


@pytest.fixture(scope="module")
def again(data: Path) -> Path:
    """The same with another seed of the training."""
    return run(data.parent / "runs" / "again", data, distill={"seed": 1})


@pytest.fixture(scope="module")
def longer(data: Path) -> Path:
    """The same with longer training."""
    return run(data.parent / "runs" / "longer", data, distill={"epochs": 3})


NAME = "sea-64 with filters 4-4-8-8, n_mels 16, 3 dimensions, in domain"
TASK = "esc50 (2 classes)"


def scores(run: Path, system: str) -> tuple[float, list[float]]:
    own = read_json(run / "results.json")["evaluate"][system]
    return 100 * own["accuracy"], [100 * value for value in own["confidence"]["accuracy"]]


def test_a_real_run_gives_its_scores_with_intervals(first: Path, tmp_path: Path) -> None:
    found = made(tmp_path, first)
    assert list(found) == ["Table 2", "Table 3", "Table 4", f"As table 4: {TASK}"]
    for system, name in (("teacher", "teacher (spectral)"), ("student", NAME)):
        value, (low, high) = scores(first, system)
        assert of(found["Table 3"], name)[TASK] == f"{value:.1f} [{low:.1f}, {high:.1f}]"
    row = of(found["Table 3"], NAME)
    assert (row["dimensions"], row["UrbanSound8K"], row["ESC-50"]) == ("3", "-", "-")
    parameters = read_json(first / "results.json")["distill"]["parameters"]
    assert row["parameters"].replace(" ", "") == str(parameters)
    assert of(found["Table 3"], "Student 3 (sea-64)")[TASK] == "-"  # a changed student is none of the paper's
    grid = found[f"As table 4: {TASK}"]
    assert [(row["sampling"], row["system"]) for row in grid] == [("random", "reduced"), ("random", "student")]
    assert [row["3 dimensions"].split()[0] for row in grid] == [
        f"{scores(first, s)[0]:.1f}" for s in ("reduced", "student")
    ]
    assert found["Table 4"] == []


def test_runs_that_differ_in_seeds_only_give_mean_and_range(first: Path, again: Path, tmp_path: Path) -> None:
    found = made(tmp_path, first, again)["Table 3"]
    values = [scores(path, "student")[0] for path in (first, again)]
    expected = f"{sum(values) / 2:.1f} ({min(values):.1f} to {max(values):.1f}, 2 runs)"
    assert of(found, NAME)[TASK] == expected
    # the teacher does not depend on the training's seed, so its score was read twice and not measured twice
    assert of(found, "teacher (spectral)")[TASK].startswith(f"{scores(first, 'teacher')[0]:.1f} [")
    assert "options that differ" not in found[0]


def test_runs_that_differ_in_more_are_not_averaged(first: Path, again: Path, longer: Path, tmp_path: Path) -> None:
    found = made(tmp_path, first, again, longer)["Table 3"]
    rows = [row for row in found if row["system"] == NAME]
    assert [row["options that differ"] for row in rows] == ["distill.epochs 2", "distill.epochs 3"]
    assert rows[0][TASK].endswith("2 runs)")
    assert rows[1][TASK].startswith(f"{scores(longer, 'student')[0]:.1f} [")
    assert made(tmp_path, longer, again, first) == made(tmp_path, first, again, longer)


def test_a_run_is_read_once(first: Path, tmp_path: Path) -> None:
    once = made(tmp_path, first)
    link = tmp_path / "link"
    link.symlink_to(first)
    assert made(tmp_path, first, first / "results.json", link, first / "evaluate" / "student.json") == once


def test_a_student_judged_alone_is_told_by_its_run(first: Path, data: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"resamples": 0, "workers": 1, "device": "cpu", "folds": [2]}
    result = evaluate("esc50", data, str(first / "student"), out=tmp_path / "alone.json", **options)
    found = made(tmp_path, first, tmp_path / "alone.json")["Table 3"]
    one, both = (row for row in found if row["system"] == NAME)  # in domain, wherever it was judged
    assert one["options that differ"] == f"{TASK}: clips 10, {TASK}: folds 2"
    assert one[TASK] == f"{100 * result['accuracy']:.1f}"
    assert one["parameters"] == both["parameters"]
    assert both["options that differ"] == f"{TASK}: clips 20, {TASK}: folds 1-2"


def test_a_student_judged_alone_on_other_data_is_out_of_domain(first: Path, data: Path, tmp_path: Path) -> None:
    other = make_esc50(tmp_path / "other")
    options: dict[str, Any] = {"resamples": 0, "workers": 1, "device": "cpu"}
    evaluate("esc50", other, str(first / "student"), out=tmp_path / "other.json", **options)
    link = tmp_path / "link"
    link.symlink_to(data)
    evaluate("esc50", link, str(first / "student"), out=tmp_path / "link.json", **options)
    found = made(tmp_path, tmp_path / "other.json", tmp_path / "link.json")["Table 3"]
    assert of(found, NAME.removesuffix(", in domain"))["options that differ"] == f"{TASK}: data {other}"
    assert of(found, NAME)["options that differ"] == f"{TASK}: data {link}"


def judged(path: Path, data: Path, reduction: Path) -> Path:
    """A reduction evaluated alone."""
    options: dict[str, Any] = {"resamples": 0, "workers": 1, "device": "cpu"}
    evaluate("esc50", data, "spectral", reduction=reduction, out=path, **options)
    return path


def test_a_reduction_of_a_run_judged_alone_is_the_same_score(first: Path, data: Path, tmp_path: Path) -> None:
    found = made(tmp_path, first, judged(tmp_path / "alone.json", data, first / "reduction"))
    assert found == made(tmp_path, first)


def test_a_reduction_of_no_run_has_a_place(first: Path, data: Path, tmp_path: Path) -> None:
    subset = first / "subset.parquet"
    for name, own in (("drawn", subset), ("whole", None)):
        reduce(first / "table", tmp_path / name, subset=own, size=2)
        judged(tmp_path / f"{name}.json", data, tmp_path / name)
    found = made(tmp_path, tmp_path / "drawn.json", tmp_path / "whole.json")
    rows = found[f"As table 4: {TASK}"]
    assert [(row["sampling"], row["system"]) for row in rows] == [("random", "reduced"), ("all windows", "reduced")]
    for row, name in zip(rows, ("drawn", "whole"), strict=True):
        assert row["2 dimensions"] == f"{100 * read_json(tmp_path / f'{name}.json')['accuracy']:.1f}"
    assert all(row["system"].startswith(("teacher", "Student")) for row in found["Table 3"])

    # its files tell of another reduction, and are then gone: how it was made is not known
    shutil.rmtree(tmp_path / "drawn")
    reduce(first / "table", tmp_path / "drawn", subset=subset, size=3)
    scores = read_json(tmp_path / "drawn.json")
    write_json(tmp_path / "far.json", {**scores, "reduction": "/far/phi"})  # which may be made in another way
    for _ in range(2):
        rows = made(tmp_path, tmp_path / "drawn.json", tmp_path / "whole.json", tmp_path / "far.json")["Table 3"]
        own = [row for row in rows if row["system"] == "reduced, 2 dimensions (spectral)"]
        assert [row["options that differ"] for row in own] == ["reduction /far/phi", f"reduction {tmp_path / 'drawn'}"]
        assert {row[TASK] for row in own} == {f"{100 * scores['accuracy']:.1f}"}
        shutil.rmtree(tmp_path / "drawn", ignore_errors=True)


def test_reductions_of_other_seeds_are_repetitions(first: Path, data: Path, tmp_path: Path) -> None:
    paths = []
    for seed in (0, 1):
        out = tmp_path / str(seed)
        reduce(first / "table", out, subset=first / "subset.parquet", size=2, method="random_projection", seed=seed)
        paths.append(judged(tmp_path / f"{seed}.json", data, out))
    (row,) = made(tmp_path, *paths)[f"As table 4: {TASK}"]
    assert row["2 dimensions"].endswith(", 2 runs)")


def test_a_teacher_judged_again_is_the_same_score(first: Path, data: Path, tmp_path: Path) -> None:
    evaluate("esc50", data, "spectral", out=tmp_path / "t.json", resamples=20, workers=1, device="cpu")
    assert made(tmp_path, first, tmp_path / "t.json")["Table 3"] == made(tmp_path, first)["Table 3"]


def test_a_student_of_no_run_is_told_by_its_folder(small_student: Path, data: Path, tmp_path: Path) -> None:
    evaluate("esc50", data, str(small_student), out=tmp_path / "own.json", resamples=0, workers=1, device="cpu")
    copy = Path(shutil.copytree(small_student, tmp_path / "copy"))
    evaluate("esc50", data, str(copy), out=tmp_path / "copy.json", resamples=0, workers=1, device="cpu")
    found = made(tmp_path, tmp_path / "own.json", tmp_path / "copy.json")["Table 3"]
    for path in (small_student, copy):  # two whose making is not known are not averaged
        row = of(found, f"student {path}")
        assert row["parameters"].replace(" ", "") == str(read_json(path / "results.json")["parameters"])


def test_a_selection_fills_the_table_of_samplings(first: Path, data: Path, tmp_path: Path) -> None:
    grid: dict[str, Any] = {
        "sample": {"method": ["random", "dpp_div"], "size": 12},
        "reduce": {"method": ["pca"], "size": [2, 3]},
        "layers": [0],
        "units": [8],
        "repeats": 2,
        "workers": 1,
    }
    select(first / "table", "esc50", data, tmp_path / "selection", **grid)
    # select does not know how many classes there are
    rows = made(tmp_path, tmp_path / "selection")["As table 4: esc50"]
    assert [(row["sampling"], row["system"]) for row in rows] == [("random", "reduced"), ("dpp_div", "reduced")]
    trials = read_json(tmp_path / "selection" / "select.json")["trials"]
    for trial in trials:
        (row,) = [row for row in rows if row["sampling"] == trial["sample"]["method"]]
        assert row[f"{trial['dimensions']} dimensions"].startswith(f"{100 * trial['score']:.1f} (")
        assert row[f"{trial['dimensions']} dimensions"].endswith(", 2 runs)")
    both = made(tmp_path, tmp_path / "selection", first)  # whose best of a grid of classifiers is another measure
    apart = [row for task in ("esc50", TASK) for row in both[f"As table 4: {task}"] if row["system"] == "reduced"]
    assert len(apart) == 3
    text = tables([tmp_path / "selection"], out=tmp_path / "out")["text"]
    assert "judged by edgesea select, best of 1 classifiers" in text
    (tmp_path / "selection" / "select.json").unlink()
    with pytest.raises(EdgeseaError, match="unfinished selection"):
        made(tmp_path, tmp_path / "selection")


# ----------------------------------------------------------------- made-up scores


def written(
    folder: Path,
    *,
    sonyc: bool = True,
    seed: int = 0,
    version: str = "1.0",
    result: Mapping[str, Any] | None = None,
    **changes: Any,
) -> Path:
    """A run directory with nothing but results.json: its scores are 0.8, 0.7 and 0.6 (accuracy: 0.05 more)."""
    config: dict[str, dict[str, Any]] = {
        "extract": {"source": "/far/sonyc_ust/annotations.csv", "teacher": "openl3/env-mel256-512", "hop": 1.0},
        "sample": {"method": "random", "size": 100, "seed": seed},
        "reduce": {"method": "pca", "size": 64, "seed": seed},
        "distill": {"student": "sea-64", "filters": None, "n_mels": 64, "n_fft": 1024, "hop_length": 160, "seed": seed},
        "evaluate": {"task": "sonyc_ust" if sonyc else "urbansound8k", "data": "/far/other", "seed": seed},
    }
    for name, value in changes.items():
        stage, option = name.split("__")
        config[stage][option] = value
    size = config["reduce"]["size"]
    common: dict[str, Any] = {**config["evaluate"], "center": False, "hop": 1.0, "window": 1.0, "clips": 538}
    common["versions"] = {"edgesea": version, "numpy": "2.4"}
    systems = {}
    for system, score in (("teacher", 0.8), ("reduced", 0.7), ("student", 0.6)):
        scores = {"micro_auprc": score, "macro_auprc": score - 0.2, "tagging": TAGGING, "label_mode": "coarse"}
        if not sonyc:
            scores = {
                "accuracy": score + 0.05,
                "fold_accuracy": score,
                "probe": {"classifier": "logistic"},
                "accuracy_by_fold": {"1": score, "2": score},
            }
        model = config["extract"]["teacher"] if system != "student" else str(folder / "student")
        dimensions = 512 if system == "teacher" else size
        systems[system] = {**common, "model": model, "embedding_size": dimensions, **scores, **(result or {})}
    write_json(
        folder / "results.json",
        {
            "extract": {"clips": 9, "windows": 90},
            "distill": {"parameters": 398306},
            "evaluate": systems,
            "config": config,
            "versions": {"edgesea": version, "numpy": "2.4"},
        },
    )
    return folder


def alone(path: Path, **changes: Any) -> Path:
    """What `edgesea evaluate --out` writes of a published student."""
    own = {"task": "sonyc_ust", "model": "edgel3/sea-64", "tagging": TAGGING, "data": "/far/a", "reduction": None}
    own |= {"window": 1.0, "hop": 1.0, "center": False, "seed": 0, "label_mode": "coarse", "micro_auprc": 0.6}
    own |= {"macro_auprc": 0.4, "clips": 538, "embedding_size": 64, "versions": {"edgesea": "1.0", "numpy": "2.4"}}
    write_json(path, {**own, **changes})
    return path


def test_students_of_the_paper_are_named_and_in_its_order(tmp_path: Path) -> None:
    runs = [
        written(tmp_path / size, distill__student=f"sea-{size}", reduce__size=int(size))
        for size in ("64", "256", "512", "128")
    ]
    rows = made(tmp_path, *runs)["Table 2"]
    names = ["teacher (openl3/env-mel256-512)", *(f"Student {i} (sea-{512 >> i})" for i in range(4))]
    assert [row["system"] for row in rows] == names
    assert [row["dimensions"] for row in rows] == ["512", "512", "256", "128", "64"]
    assert [(row["micro AUPRC"], row["macro AUPRC"]) for row in rows] == [("0.800", "0.600"), *[("0.600", "0.400")] * 4]
    assert "options that differ" not in rows[0]
    grid = made(tmp_path, *runs)["Table 4"]
    assert list(grid[0]) == [
        "sampling",
        "system",
        "64 dimensions",
        "128 dimensions",
        "256 dimensions",
        "512 dimensions",
    ]
    assert [set(row.values()) for row in grid] == [{"random", "reduced", "0.700"}, {"random", "student", "0.600"}]


def test_a_changed_student_is_none_of_the_papers(tmp_path: Path) -> None:
    rows = made(tmp_path, written(tmp_path / "a", distill__n_mels=32), written(tmp_path / "b", reduce__size=32))[
        "Table 2"
    ]
    assert [row["system"] for row in rows[1:]] == [
        *(f"Student {i} (sea-{512 >> i})" for i in range(4)),
        "sea-64 with n_mels 32",
        "sea-64 with 32 dimensions",
    ]
    assert of(rows, "Student 3 (sea-64)")["micro AUPRC"] == "-"


def test_intervals_are_shown_and_scores_may_be_missing(tmp_path: Path) -> None:
    own = {"macro_auprc": None, "confidence": {"micro_auprc": [0.51, 0.73], "macro_auprc": [0.1, 0.2]}}
    row = of(made(tmp_path, written(tmp_path / "run", result=own))["Table 2"], "Student 3 (sea-64)")
    assert (row["micro AUPRC"], row["macro AUPRC"]) == ("0.600 [0.510, 0.730]", "-")


@pytest.mark.parametrize(
    ("change", "differs"),
    [
        ({"result": {"tagging": {**TAGGING, "label_mode": "fine"}, "label_mode": "fine"}}, "label_mode fine"),
        ({"result": {"tagging": {**TAGGING, "eval_split": "test"}}}, "eval_split test"),
        ({"result": {"tagging": {**TAGGING, "members": 1}}}, "members 1"),
        ({"result": {"clips": 100}}, "clips 100"),
        ({"version": "2.0"}, "edgesea 2.0"),
        ({"result": {"versions": {"edgesea": "1.0", "numpy": "3.0"}}}, "numpy 3.0"),
        ({"result": {"center": True}}, "center yes"),
        ({"evaluate__data": "/far/else"}, "data /far/else"),
    ],
)
def test_scores_of_other_protocols_or_versions_stand_apart(
    tmp_path: Path, change: dict[str, Any], differs: str
) -> None:
    found = tables([written(tmp_path / "a"), written(tmp_path / "b", **change)], out=tmp_path / "out")
    for heading, name in (("Table 2", "Student 3 (sea-64)"), ("Table 2", "teacher (openl3/env-mel256-512)")):
        rows = [row for row in parsed(found["text"])[heading] if row["system"] == name]
        assert len(rows) == 2
        assert differs in rows[1]["options that differ"] or differs in rows[0]["options that differ"]
        assert [row["micro AUPRC"] for row in rows] == ["0.800" if "teacher" in name else "0.600"] * 2
    assert len(parsed(found["text"])["Table 4"]) == 4
    assert "not to be compared directly" in found["text"]


@pytest.mark.parametrize(
    ("change", "differs"),
    [
        ({"center": True}, ["center no", "center yes"]),
        ({"data": "/far/b"}, ["data /far/a", "data /far/b"]),
        ({"versions": {"edgesea": "1.0", "numpy": "3.0"}}, ["numpy 2.4", "numpy 3.0"]),
    ],
)
def test_evaluations_of_other_data_framings_or_versions_are_not_averaged(
    tmp_path: Path, change: dict[str, Any], differs: list[str]
) -> None:
    paths = [alone(tmp_path / "a.json"), alone(tmp_path / "b.json", micro_auprc=0.8, **change)]
    rows = [row for row in made(tmp_path, *paths)["Table 2"] if row["micro AUPRC"] != "-"]
    assert [row["options that differ"] for row in rows] == differs
    assert [row["micro AUPRC"] for row in rows] == ["0.600", "0.800"]


def test_evaluations_of_other_seeds_are_averaged(tmp_path: Path) -> None:
    paths = [alone(tmp_path / "a.json"), alone(tmp_path / "b.json", micro_auprc=0.8, seed=1)]
    paths.append(alone(tmp_path / "c.json", seed=2))  # as good as the first, but a repetition
    paths.append(alone(tmp_path / "d.json", seed=1, micro_auprc=0.8))  # the second once more
    (row,) = [row for row in made(tmp_path, *paths)["Table 2"] if row["micro AUPRC"] != "-"]
    assert row["micro AUPRC"] == "0.667 (0.600 to 0.800, 3 runs)"


def test_systems_judged_with_other_versions_say_so(tmp_path: Path) -> None:
    versions = {"edgesea": "1.0", "numpy": "3.0"}
    teacher = alone(tmp_path / "t.json", model="openl3/env-mel256-512", embedding_size=512, versions=versions)
    rows = made(tmp_path, teacher, alone(tmp_path / "s.json"))["Table 2"]
    found = {row["system"]: row["options that differ"] for row in rows if row["micro AUPRC"] != "-"}
    assert list(found.values()) == ["numpy 3.0", "numpy 2.4"]


def test_runs_whose_scores_do_not_tell_their_data_are_told_by_their_options(tmp_path: Path) -> None:
    older = written(tmp_path / "older", evaluate__center=False)
    results = read_json(older / "results.json")
    for result in results["evaluate"].values():
        for name in ("data", "center", "seed", "versions"):
            del result[name]
    write_json(older / "results.json", results)
    newer = written(tmp_path / "newer", evaluate__center=False)
    assert made(tmp_path, older, newer) == made(tmp_path, newer)


def test_selections_on_other_clips_are_not_averaged(tmp_path: Path) -> None:
    trial = {"sample": {"method": "random", "size": 100}, "reduce": {"method": "pca", "size": 64}, "dimensions": 64}
    trial |= {"score": 0.9, "by_seed": {"0": 0.9}, "scores": [{}], "classifier": {"layers": 1}}
    for name, clips in (("a", "1" * 64), ("b", "2" * 64)):
        (tmp_path / name).mkdir()
        content = {"task": "sonyc_ust", "metric": "micro_auprc", "trials": [trial], "winner": 0}
        write_json(tmp_path / name / "select.json", content)
        write_json(tmp_path / name / "plan.json", {"clips": clips, "teacher": {"id": "spectral"}, "table": "3" * 64})
    rows = made(tmp_path, tmp_path / "a", tmp_path / "b")["Table 4"]
    assert [row["options that differ"] for row in rows] == ["data clips 11111111", "data clips 22222222"]


def test_scores_of_a_selection_are_not_those_of_a_run(tmp_path: Path) -> None:
    trial = {"sample": {"method": "random", "size": 100}, "reduce": {"method": "pca", "size": 64}, "dimensions": 64}
    trial |= {"score": 0.9, "by_seed": {"0": 0.9}, "scores": [{}, {}], "classifier": {"layers": 1}}
    (tmp_path / "selection").mkdir()
    content = {"task": "sonyc_ust", "metric": "micro_auprc", "trials": [trial], "winner": 0}
    write_json(tmp_path / "selection" / "select.json", content)
    rows = made(tmp_path, written(tmp_path / "run"), tmp_path / "selection")["Table 4"]
    found = {row["64 dimensions"]: row["options that differ"] for row in rows if row["system"] == "reduced"}
    assert set(found) == {"0.700", "0.900"}
    assert "judged by edgesea select, best of 2 classifiers" in found["0.900"]
    assert len(found["0.700"]) < 100


def test_unknown_is_not_equal(tmp_path: Path) -> None:
    """A student of no run may have been made in any way, even if it is one of the paper's."""
    student = tmp_path / "by_hand"
    architecture = {"filters": [32, 64, 128, 64], "embedding_size": 64, "n_mels": 64, "n_fft": 1024, "hop_length": 160}
    write_json(student / "config.json", {"architecture": {**architecture, "fmax": None, "head": "linear"}})
    write_json(student / "results.json", {"parameters": 398306})
    result = read_json(written(tmp_path / "run") / "results.json")["evaluate"]["student"]
    write_json(tmp_path / "hand.json", {**result, "model": str(student), "micro_auprc": 0.65})
    rows = made(tmp_path, tmp_path / "run", tmp_path / "hand.json")["Table 2"]
    found = {row["micro AUPRC"]: row["options that differ"] for row in rows if row["system"] == "Student 3 (sea-64)"}
    assert set(found) == {"0.600", "0.650"}
    assert found["0.650"] == f"folder {student}"
    assert re.fullmatch(r"\d+ options that others do not tell", found["0.600"])


def test_folds_and_data_sets_are_told_apart(tmp_path: Path) -> None:
    one_fold = {"accuracy_by_fold": {"1": 0.5}, "accuracy": 0.5, "fold_accuracy": 0.5}
    esc10 = {"task": "esc50", "confusion": {"classes": list("abcdefghij")}, "accuracy": 0.3}
    esc50 = {"task": "esc50", "accuracy_by_class": {str(number): 1.0 for number in range(50)}, "accuracy": 0.4}
    runs = [
        written(tmp_path / "a", sonyc=False),
        written(tmp_path / "b", sonyc=False, seed=1, result=one_fold),
        written(tmp_path / "c", sonyc=False, result=esc10),
        written(tmp_path / "d", sonyc=False, result=esc50),
    ]
    rows = [row for row in made(tmp_path, *runs)["Table 3"] if row["system"] == "Student 3 (sea-64)"]
    assert [(row["options that differ"], row["UrbanSound8K"], row["ESC-50"], row["ESC-10"]) for row in rows] == [
        ("-", "-", "40.0", "30.0"),
        ("urbansound8k: folds 1", "50.0", "-", "-"),
        ("urbansound8k: folds 1-2", "60.0", "-", "-"),
    ]
    rows = made(tmp_path, runs[0], *runs[2:])["Table 3"]  # without the second, the paper's layout
    row = of(rows, "Student 3 (sea-64)")
    assert (row["UrbanSound8K"], row["ESC-50"], row["ESC-10"]) == ("60.0", "40.0", "30.0")


def test_a_student_of_the_tasks_own_clips_is_not_out_of_domain(tmp_path: Path) -> None:
    inside = written(tmp_path / "in", sonyc=False, evaluate__data="/far/sonyc_ust")
    found = made(tmp_path, written(tmp_path / "out_of", sonyc=False), inside)["Table 3"]
    assert of(found, "Student 3 (sea-64)")["UrbanSound8K"] == of(found, "Student 3 (sea-64), in domain")["UrbanSound8K"]


@pytest.mark.parametrize(
    ("source", "root", "inside"),
    [
        ("/far/us8k/audio", None, True),
        ("/far/us8k", None, True),
        ("/far", None, True),  # a folder, of which all files are taken
        ("/near/mine.csv", "/far/us8k/audio", True),
        ("/far/us8k/metadata/UrbanSound8K.csv", "/near/copy", True),
        ("/far/mine.csv", None, False),  # whose clips may be any
        ("/far/us8k_other", None, False),
    ],
)
def test_a_student_judged_alone_is_in_domain_where_its_run_says_so(
    tmp_path: Path, source: str, root: str | None, inside: bool
) -> None:
    run = written(tmp_path / "run", extract__source=source, extract__root=root)
    told = {"task": "urbansound8k", "data": "/far/us8k", "fold_accuracy": 0.5, "model": str(run / "student")}
    rows = made(tmp_path, alone(tmp_path / "s.json", **told))["Table 3"]
    assert of(rows, "Student 3 (sea-64)" + (", in domain" if inside else ""))["UrbanSound8K"] == "50.0"


def test_urbansound8k_is_the_mean_of_its_folds(tmp_path: Path) -> None:
    uneven = {"accuracy": 0.7, "fold_accuracy": 0.6, "confidence": {"accuracy": [0, 1], "fold_accuracy": [0.55, 0.65]}}
    esc50 = {"task": "esc50", "accuracy_by_class": {str(number): 1.0 for number in range(50)}, **uneven}
    runs = [written(tmp_path / "a", sonyc=False, result=uneven), written(tmp_path / "b", sonyc=False, result=esc50)]
    result = tables(runs, out=tmp_path / "out")
    row = of(parsed(result["text"])["Table 3"], "Student 3 (sea-64)")
    assert (row["UrbanSound8K"], row["ESC-50"]) == ("60.0 [55.0, 65.0]", "70.0 [0.0, 100.0]")
    caption = result["text"].split("## Table 3\n")[1].split("|")[0]
    assert "of UrbanSound8K the mean of the folds' accuracies" in caption
    assert "of the others the share of all clips" in caption
    # of the samplings it is another measure, and says so
    assert {row["64 dimensions"].split()[0] for row in parsed(result["text"])["As table 4: urbansound8k"]} == {"70.0"}
    assert "the share of all clips" in result["text"].split("## As table 4: urbansound8k\n")[1].split("|")[0]


def test_scores_without_a_place_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    scores = {"task": "urbansound8k", "accuracy": 0.5}  # by an edgesea that knew no mean of the folds
    result = tables([written(tmp_path / "run"), alone(tmp_path / "old.json", **scores)], out=tmp_path / "out")
    (line,) = result["left_out"]
    assert line.startswith("Table 3: Student 3 (edgel3/sea-64, published weights) of ")
    assert "old.json: no fold_accuracy (it has micro_auprc, macro_auprc, accuracy)" in line
    assert f"* Not shown: {line.removeprefix('Table 3: ')}" in result["text"]
    assert f"not shown: {line}" in caplog.text
    none = {"micro_auprc": None, "macro_auprc": None}  # no clip with any of the tags
    (line,) = tables([alone(tmp_path / "none.json", **none)], out=tmp_path / "out")["left_out"]
    assert "none.json: no micro_auprc or macro_auprc (it has no score)" in line
    assert tables([tmp_path / "run"], out=tmp_path / "out")["left_out"] == []


def test_a_selection_by_a_score_of_no_table_is_named(tmp_path: Path) -> None:
    trial = {"reduce": {"method": "pca", "size": 64}, "dimensions": 64, "score": 0.9, "by_seed": {"0": 0.9}}
    content = {"task": "sonyc_ust", "metric": "micro_f1", "trials": [trial], "winner": 0}
    write_json(tmp_path / "selection" / "select.json", content)
    (line,) = tables([tmp_path / "selection"], out=tmp_path / "out")["left_out"]
    assert line.startswith("Table 4: reduced, 64 dimensions")
    assert "no micro_auprc (it has micro_f1)" in line


def test_a_reduction_without_a_sampling_stands_between_teacher_and_students(tmp_path: Path) -> None:
    gone = {"model": "openl3/env-mel256-512", "reduction": "/far/phi"}
    paths = [alone(tmp_path / "a.json", **gone), alone(tmp_path / "b.json", reduction="/far/phi", embedding_size=32)]
    found = made(tmp_path, *paths, written(tmp_path / "run"))
    assert [row["system"] for row in found["Table 2"]][:4] == [
        "teacher (openl3/env-mel256-512)",
        "reduced, 64 dimensions (openl3/env-mel256-512)",
        "reduced, 32 dimensions (edgel3/sea-64)",
        "Student 0 (sea-512)",
    ]
    assert len(found["Table 4"]) == 2  # the run's


def test_a_runs_reduction_of_another_models_embeddings_is_not_the_runs(tmp_path: Path) -> None:
    run = written(tmp_path / "run")
    other = alone(tmp_path / "o.json", model="openl3/music-mel256-512", reduction=str(run / "reduction"))
    found = made(tmp_path, run, other)
    row = of(found["Table 2"], "reduced, 64 dimensions (openl3/music-mel256-512)")
    assert row["micro AUPRC"] == "0.600"
    assert {row["64 dimensions"] for row in found["Table 4"]} == {"0.700", "0.600"}
    assert len(found["Table 4"]) == 2


def test_footnotes_say_what_was_resampled(tmp_path: Path) -> None:
    sonyc = {"confidence": {"micro_auprc": [0.5, 0.7]}}
    folds = {"confidence": {"fold_accuracy": [0.5, 0.7], "accuracy": [0.5, 0.7]}}
    runs = [written(tmp_path / "a", result=sonyc), written(tmp_path / "b", sonyc=False, result=folds)]
    text = tables(runs, out=tmp_path / "out")["text"]
    clips, recordings = "resampling the judged clips.", "resampling the recordings that the judged clips were cut from"
    expected = {"Table 2": clips, "Table 3": recordings, "Table 4": clips, "As table 4: urbansound8k": recordings}
    for heading, said in expected.items():
        (line,) = [own for own in text.split(f"## {heading}\n")[1].split("\n## ")[0].splitlines() if "95 %" in own]
        assert said in line
        assert ("or the clips where those are not known" in line) == (said == recordings)


def test_fine_classifiers_give_coarse_scores_too(tmp_path: Path) -> None:
    fine = {"label_mode": "fine", "tagging": {**TAGGING, "label_mode": "fine"}, "coarse": {"micro_auprc": 0.9}}
    rows = made(tmp_path, written(tmp_path / "fine", result=fine))["Table 2"]
    found = {row["options that differ"]: row["micro AUPRC"] for row in rows if row["system"] == "Student 3 (sea-64)"}
    assert found == {"label_mode fine": "0.600", "label_mode coarse, by fine tags": "0.900"}


def test_samplings_are_rows_in_a_fixed_order(tmp_path: Path) -> None:
    runs = [written(tmp_path / name, sample__method=name) for name in ("dpp", "kmeans", "random", "spl")]
    found = made(tmp_path, *runs)
    assert [row["sampling"] for row in found["Table 4"]][::2] == ["random", "spl", "dpp", "kmeans"]
    # among students, another sampling is another recipe
    rows = [row for row in found["Table 2"] if row["system"] == "Student 3 (sea-64)"]
    assert [row["options that differ"] for row in rows] == [
        f"sample.method {name}" for name in ("dpp", "kmeans", "random", "spl")
    ]
    (teacher,) = [row for row in found["Table 2"] if row["system"].startswith("teacher")]
    assert teacher["options that differ"] == "-"


def test_published_students_get_their_row_and_parameters(tmp_path: Path) -> None:
    counts = {"sea-512": "4688066", "sea-256": "1173602", "sea-128": "583010", "sea-64": "398306"}
    paths = []
    for kind in counts:
        paths.append(tmp_path / f"{kind}.json")
        own = {
            "task": "sonyc_ust",
            "model": f"edgel3/{kind}",
            "micro_auprc": 0.7,
            "macro_auprc": 0.5,
            "label_mode": "coarse",
        }
        write_json(paths[-1], {**own, "embedding_size": int(kind[4:])})
    rows = made(tmp_path, *paths)["Table 2"]
    for number, (kind, parameters) in enumerate(counts.items()):
        row = of(rows, f"Student {number} (edgel3/{kind}, published weights)")
        assert row["parameters"].replace(" ", "") == parameters
        assert (row["dimensions"], row["micro AUPRC"], row["macro AUPRC"]) == (kind[4:], "0.700", "0.500")
    assert rows[0]["system"] == "teacher"
    assert len(rows) == 5  # no second, empty row of a student


# ----------------------------------------------------------------- published figures


def figures(path: Path, *lines: str, head: str = "table,row,column,value") -> Path:
    path.write_text("\n".join([head, *lines]) + "\n")
    return path


def test_published_figures_stand_beside_ours(tmp_path: Path) -> None:
    given = figures(
        tmp_path / "paper.csv",
        "2,teacher,micro_auprc,0.11",
        "2,sea-64,macro_auprc,0.22",
        "2,sea-128,micro_auprc,0.33",
        "3,sea-64,esc10,0.444",
        "4,random,student-64,0.55",
        "4,dpp,reduced-128,0.66",
    )
    runs = [written(tmp_path / "a"), written(tmp_path / "b", sonyc=False), written(tmp_path / "c", distill__n_mels=32)]
    text = tables(runs, out=tmp_path / "out", published=given)["text"]
    two, three, four = (cells(text, heading) for heading in ("Table 2", "Table 3", "Table 4"))
    assert two[0] == ["system", "dimensions", "parameters", "micro AUPRC", "published", "macro AUPRC", "published"]
    shown = {row[0]: row[3:] for row in two[1:]}
    assert shown["teacher (openl3/env-mel256-512)"] == ["0.800", "0.110", "0.600", "-"]
    assert shown["Student 3 (sea-64)"] == ["0.600", "-", "0.400", "0.220"]
    assert shown["Student 2 (sea-128)"] == ["-", "0.330", "-", "-"]
    assert shown["sea-64 with n_mels 32"] == ["0.600", "-", "0.400", "-"]  # not the paper's
    assert three[0][3:] == ["UrbanSound8K", "published", "ESC-50", "published", "ESC-10", "published"]
    assert {row[0]: row[3:] for row in three[1:]}["Student 3 (sea-64)"] == ["60.0", "-", "-", "-", "-", "44.4"]
    assert four[0][2:] == ["options that differ", "64 dimensions", "published", "128 dimensions", "published"]
    assert [[row[0], row[1], *row[3:]] for row in four[1:]] == [
        ["random", "reduced", "0.700", "-", "-", "-"],
        ["random", "student", "0.600", "0.550", "-", "-"],
        ["random", "student", "0.600", "-", "-", "-"],
        ["dpp", "reduced", "-", "-", "-", "0.660"],
    ]
    assert "edgesea has not verified them" in text
    assert "published |" not in tables(runs, out=tmp_path / "out")["text"]


def cells(text: str, heading: str) -> list[list[str]]:
    """The cells of a table with its head, without the rule between them."""
    section = text.split(f"## {heading}\n")[1].split("\n## ")[0]
    lines = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("|")]
    return [lines[0], *lines[2:]]


def test_a_teacher_that_the_paper_has_not_gets_no_published_figure(tmp_path: Path) -> None:
    given = figures(tmp_path / "paper.csv", "2,teacher,micro_auprc,0.11")
    text = tables([written(tmp_path / "a", extract__teacher="spectral")], out=tmp_path / "out", published=given)["text"]
    shown = {row[0]: row[3:5] for row in cells(text, "Table 2")[1:]}
    assert shown["teacher (spectral)"] == ["0.800", "-"]
    assert shown["teacher"] == ["-", "0.110"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1,teacher,micro_auprc,0.5", "line 2: unknown table '1'; known: 2, 3, 4"),
        ("2,sea-32,micro_auprc,0.5", "table 2 has no row 'sea-32'; its rows: teacher, sea-512"),
        ("2,teacher,accuracy,0.5", "table 2 has no column 'accuracy'; its columns: micro_auprc, macro_auprc"),
        ("3,teacher,esc2,0.5", "table 3 has no column 'esc2'; its columns: urbansound8k, esc50, esc10"),
        ("4,random,64,0.5", "table 4 has no column '64'; its columns: reduced-N and student-N"),
        ("4,random,student-0,0.5", "table 4 has no column 'student-0'"),
        ("4,magic,student-64,0.5", "table 4 has no row 'magic'; its rows: random, spl"),
        ("2,teacher,micro_auprc,72.5", r"value must lie in 0 \.\.\. 1, not 72\.5; write 72\.5 % as 0\.725"),
        ("2,teacher,micro_auprc,nan", r"value must lie in 0 \.\.\. 1, not nan"),
        ("2,teacher,micro_auprc,high", "line 2: value must be a number, not 'high'"),
        ("2,teacher,micro_auprc", "line 2: value must be a number, not ''"),
        ("2,teacher,micro_auprc,0.1\n2,teacher,micro_auprc,0.2", "line 3: table 2 has teacher, micro_auprc twice"),
    ],
)
def test_published_figures_without_a_place_are_refused(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(EdgeseaError, match=message):
        read_published(figures(tmp_path / "paper.csv", line))


def test_a_file_of_published_figures_needs_its_columns(tmp_path: Path) -> None:
    with pytest.raises(EdgeseaError, match=r"paper\.csv: no column value; needed: table, row, column, value"):
        read_published(figures(tmp_path / "paper.csv", head="table,row,column"))
    with pytest.raises(EdgeseaError, match=r"none\.csv: No such file"):
        read_published(tmp_path / "none.csv")
    (tmp_path / "bom.csv").write_text("\ufefftable, row,column,value,page\n", "utf-8")
    with pytest.raises(EdgeseaError, match="no column row"):
        read_published(tmp_path / "bom.csv")
    spreadsheet = figures(
        tmp_path / "paper.csv", "2, teacher ,micro_auprc, 0.5,7", head="\ufefftable,row,column,value,page"
    )
    assert read_published(spreadsheet) == {("2", "teacher", "micro_auprc"): 0.5}


# ----------------------------------------------------------------- what is missing, and what is wrong


def test_what_is_missing_is_told_with_the_command_that_makes_it(tmp_path: Path) -> None:
    result = tables([written(tmp_path / "a")], out=tmp_path / "out")
    two, us8k, esc50 = result["missing"]
    assert two.startswith("Table 2: Student 0 (sea-512), Student 1 (sea-256), Student 2 (sea-128): edgesea run")
    assert us8k.startswith("Table 3: UrbanSound8K: edgesea evaluate urbansound8k DATA RUN/student --out FILE.json")
    assert esc50.startswith("Table 3: ESC-50: edgesea evaluate esc50 DATA")
    for text in result["missing"]:
        assert text.partition(": ")[2] in result["text"]
    (four,) = [
        text
        for text in tables([written(tmp_path / "b", sonyc=False)], out=tmp_path / "out")["missing"]
        if "Table 4" in text
    ]
    assert "edgesea select TABLE sonyc_ust DATA OUT" in four


def test_without_any_score_it_says_how_to_make_them(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    results = read_json(written(tmp_path / "run") / "results.json")
    write_json(tmp_path / "run" / "results.json", {**results, "evaluate": None})
    for runs in ([], [tmp_path / "run"]):
        with pytest.raises(EdgeseaError, match=r"no scores for any table\. To make them:") as error:
            tables(runs, out=tmp_path / "out")
        assert "Table 2: the teacher: any edgesea run with evaluate.task sonyc_ust" in str(error.value)
        assert "edgesea evaluate sonyc_ust DATA edgel3/sea-64 --out FILE.json" in str(error.value)
    assert "run: has no scores of a task" in caplog.text
    assert not list(tmp_path.glob("out*"))
    tables([tmp_path / "run", written(tmp_path / "other")], out=tmp_path / "out")


def test_what_is_no_run_is_refused(first: Path, tmp_path: Path) -> None:
    with pytest.raises(EdgeseaError, match="none: no such folder"):
        tables([tmp_path / "none"])
    with pytest.raises(EdgeseaError, match=r"none\.json: no such file"):
        tables([tmp_path / "none.json"])
    with pytest.raises(EdgeseaError, match="no run directory"):
        tables([tmp_path])
    with pytest.raises(EdgeseaError, match="student: no run directory"):
        tables([first / "student"])
    contents: list[Any] = [{}, [], {"task": "esc50", "model": "spectral", "embedding_size": 3}]
    for content in contents:
        write_json(tmp_path / "other.json", content)
        with pytest.raises(EdgeseaError, match=r"other\.json: neither a run, nor a selection"):
            tables([tmp_path / "other.json"])
    (tmp_path / "other.json").write_text("{")
    with pytest.raises(EdgeseaError, match=r"other\.json: not JSON"):
        tables([tmp_path / "other.json"])


def test_errors_say_what_is_wrong_and_not_that_a_file_is_damaged(first: Path, tmp_path: Path) -> None:
    shutil.copy(first / "stages.json", tmp_path / "stages.json")
    write_json(tmp_path / "score.json", {"coarse": {"micro_auprc": 0.5}, "ties": "threshold", "clips": 538})
    (tmp_path / "predictions.csv").write_text("audio_filename,1_engine\n")
    expected = {
        tmp_path: r"unfinished run \(no results\.json\)",
        tmp_path / "frist": r"no such folder \(it has no results\.json\); make one: edgesea run",
        tmp_path / "score.json": r"from `edgesea score`, which does not know which system made the predictions",
        tmp_path / "predictions.csv": r"a CSV file; needed is a run directory, .*, or what `edgesea evaluate --out`",
    }
    for path, message in expected.items():
        with pytest.raises(EdgeseaError, match=f"^{re.escape(str(path))}: {message}") as error:
            tables([path], out=tmp_path / "out")
        assert "damaged" not in str(error.value)


def test_unfinished_runs_are_refused(first: Path, tmp_path: Path) -> None:
    shutil.copy(first / "stages.json", tmp_path / "stages.json")
    with pytest.raises(EdgeseaError, match=r"unfinished run \(no results\.json\)"):
        tables([tmp_path])
    shutil.copy(first / "results.json", tmp_path / "results.json")
    stamps = json.loads((first / "stages.json").read_text())
    stamps["stages"]["evaluate"]["finished"] = False
    write_json(tmp_path / "stages.json", stamps)
    with pytest.raises(EdgeseaError, match=r"unfinished run \(evaluate\)"):
        tables([tmp_path])


@pytest.mark.parametrize(
    "change",
    [
        {"evaluate": {"student": {"task": "esc50"}}},
        {"evaluate": {"student": {"task": "esc50", "model": "m", "embedding_size": "big", "accuracy": 1}}},
        {"config": {"evaluate": {}}},
        {"evaluate": {"student": 3}},
        {"evaluate": []},
    ],
)
def test_damaged_results_are_named(tmp_path: Path, change: dict[str, Any]) -> None:
    results = read_json(written(tmp_path / "run") / "results.json")
    write_json(tmp_path / "run" / "results.json", {**results, **change})
    with pytest.raises(EdgeseaError, match=r"run: damaged, or of another version of edgesea|no scores for any table"):
        tables([tmp_path / "run"], out=tmp_path / "out")


# ----------------------------------------------------------------- the files


def test_both_files_hold_the_same_cells(first: Path, tmp_path: Path) -> None:
    runs = [first, written(tmp_path / "a"), written(tmp_path / "b", version="2.0")]
    given = figures(tmp_path / "paper.csv", "2,sea-64,micro_auprc,0.5")
    result = tables(runs, out=tmp_path / "new" / "out.md", published=given)
    assert result["markdown"] == str(tmp_path / "new" / "out.md")
    assert result["html"] == str(tmp_path / "new" / "out.html")
    assert (tmp_path / "new" / "out.md").read_text("utf-8") == result["text"]
    html = (tmp_path / "new" / "out.html").read_text("utf-8")
    assert not re.search(r"https?://|<script|<link|<img|@import|url\((?!#)|\bon\w+=", html)
    headings = ["Table 2", "Table 3", "Table 4", f"As table 4: {TASK}"]
    assert re.findall("<h2>(.*?)</h2>", html) == headings
    for heading in headings:
        section = html.split(f"<h2>{heading}</h2>")[1].split("</section>")[0]
        rows = [
            re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in re.findall(r"<tr>(.*?)</tr>", section, re.DOTALL)
        ]
        plain = [[cell.replace("\u202f", " ").replace("\u2013", "-") for cell in row] for row in rows]
        assert plain == cells(result["text"], heading)
        for line in result["text"].split(f"## {heading}\n")[1].split("\n## ")[0].splitlines():
            if line.startswith("* "):
                assert line[2:].replace("<", "&lt;") in section.replace("&quot;", '"').replace("&#x27;", "'")


def test_names_are_escaped(tmp_path: Path) -> None:
    odd = {"task": "sonyc_ust", "model": "a|b <i>c</i>\n*d*", "micro_auprc": 0.5, "embedding_size": 8}
    write_json(tmp_path / "odd.json", odd)
    result = tables([tmp_path / "odd.json"], out=tmp_path / "out")
    assert r"| student a\|b \<i>c\</i> \*d\* | 8 |" in result["text"]
    html = (tmp_path / "out.html").read_text("utf-8")
    assert "<i>" not in html
    assert "&lt;i&gt;c&lt;/i&gt;" in html


def test_places_that_cannot_be_written_are_named(tmp_path: Path) -> None:
    run = written(tmp_path / "run")
    (tmp_path / "file").write_text("")
    with pytest.raises(EdgeseaError, match="file: a file, where a folder is needed"):
        tables([run], out=tmp_path / "file" / "tables")
    with pytest.raises(EdgeseaError, match="has no name of a file"):
        tables([run], out=Path("/"))
