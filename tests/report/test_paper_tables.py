"""The paper's tables: from tiny real runs, and from results.json files whose scores are made up."""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from edgesea.artifact import read_json, write_json
from edgesea.report.paper_tables import PUBLISHED, read_published, tables
from edgesea.select import select
from edgesea.tasks.evaluate import evaluate

Rows = list[dict[str, str]]
TAGGING = {"label_mode": "coarse", "eval_split": "validate", "target_mode": "mil", "members": 5}
COMMON = ("engine", "human-voice", "alert-signal", "machinery-impact", "non-machinery-impact")
QUIET: dict[str, Any] = {"resamples": 0, "workers": 1, "device": "cpu"}


def cells(text: str, heading: str) -> list[list[str]]:
    """A table of a Markdown text with its head, without the rule between them."""
    section = text.split(f"## {heading}\n")[1].split("\n## ")[0]
    lines = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("|")]
    return [lines[0], *lines[2:]]


def made(folder: Path, heading: str, *paths: Path, **options: Any) -> Rows:
    """Rows of a table with a score of ours, as mappings from the column's title."""
    head, *rows = cells(tables(list(paths), out=folder / "out", **options)["text"], heading)
    ours = [place for place, name in enumerate(head) if "AUPRC" in name or "(%)" in name]
    return [dict(zip(head, row, strict=True)) for row in rows if any(row[place] != "-" for place in ours)]


def of(rows: Rows, system: str) -> dict[str, str]:
    (row,) = [row for row in rows if row["system"] == system]
    return row


NAME = "sea-64 with filters [2, 2, 2, 4], 4 dimensions"
TASK = "esc50, 2 classes (%)"
GRID = "As table 4: esc50, 2 classes"


@pytest.fixture
def data(small_run: Path) -> Path:
    """The task of `small_run`."""
    return small_run.parent / "task"


def test_a_score_is_read_once(small_run, data, tmp_path):
    rows, scores = made(tmp_path, "Table 3", small_run), read_json(small_run / "results.json")["evaluate"]
    for name, system in ((NAME, "student"), ("teacher (spectral)", "teacher")):
        low, high = (100 * end for end in scores[system]["confidence"]["accuracy"])
        assert of(rows, name)[TASK] == f"{100 * scores[system]['accuracy']:.1f} [{low:.1f}, {high:.1f}]"
    grid = made(tmp_path, GRID, small_run)
    assert [(row["sampling"], row["system"]) for row in grid] == [("random", "reduced (spectral)"), ("random", NAME)]
    (tmp_path / "link").symlink_to(small_run)
    evaluate("esc50", data, "spectral", out=tmp_path / "t.json", resamples=20, workers=1, device="cpu")
    again = [
        small_run / "results.json",
        small_run / "evaluate" / "student.json",
        tmp_path / "link",
        tmp_path / "t.json",
    ]
    assert made(tmp_path, "Table 3", small_run, *again) == rows


def test_systems_evaluated_alone_are_known_by_their_run_or_file(small_run, data, tmp_path):
    evaluate("esc50", data, str(small_run / "student"), out=tmp_path / "s.json", folds=[2], **QUIET)
    rows = made(tmp_path, "Table 3", small_run, tmp_path / "s.json")
    options = [tuple(row[f"esc50, 2 classes: {name}"] for name in ("clips", "folds")) for row in rows]
    found = [one for one, row in zip(options, rows, strict=True) if row["system"] == NAME]
    assert found == [("12", "1, 2"), ("6", "2")]
    evaluate("esc50", data, "spectral", reduction=small_run / "reduction", out=tmp_path / "r.json", **QUIET)
    assert [row["system"] for row in made(tmp_path, GRID, tmp_path / "r.json")] == ["reduced (spectral)"]
    copy = shutil.copytree(small_run / "student", tmp_path / "copy")  # of which nothing is known but its architecture
    evaluate("esc50", data, str(copy), out=tmp_path / "c.json", **QUIET)
    parameters = f"{read_json(small_run / 'results.json')['distill']['parameters']:,}".replace(",", " ")
    assert of(made(tmp_path, "Table 3", tmp_path / "c.json"), f"student {copy}")["parameters"] == parameters


def test_a_selection_fills_the_table_of_samplings(small_run, data, tmp_path):
    samples, reductions = {"method": ["random", "dpp_div"], "size": 12}, {"method": ["pca"], "size": [2, 3]}
    options: dict[str, Any] = {"layers": [0], "units": [8], "repeats": 2, "workers": 1}
    select(small_run / "table", "esc50", data, tmp_path / "selection", sample=samples, reduce=reductions, **options)
    # It does not know the number of classes.
    rows = made(tmp_path, "As table 4: esc50", tmp_path / "selection", small_run)
    assert len(rows) == 4
    for trial in read_json(tmp_path / "selection" / "select.json")["trials"]:
        name = (trial["sample"]["method"], str(trial["dimensions"]))
        (row,) = [row for row in rows if (row["sampling"], row["dimensions"]) == name]
        assert row["system"] == "reduced, best of 1 classifiers of edgesea select"
        assert row["accuracy (%)"].startswith(f"{100 * trial['score']:.1f} (")
        assert row["accuracy (%)"].endswith(", 2 runs)")


VERSIONS = {"edgesea": "1.0", "numpy": "2.4"}
PROTOCOL: dict[str, Any] = {"seed": 0, "center": False, "hop": 1.0, "window": 1.0, "clips": 538, "versions": VERSIONS}


def tagged(value: float) -> dict[str, Any]:
    areas = {name: value + place / 100 for place, name in enumerate(COMMON)}
    scores = {"micro_auprc": value, "macro_auprc": value - 0.2, "class_auprc": areas}
    return {**scores, "tagging": TAGGING, "label_mode": "coarse"}


def written(folder: Path, *, task: str = "sonyc_ust", result: Any = None, **changes: Any) -> Path:
    """A run directory with nothing but results.json: its scores are 0.8, 0.7 and 0.6 (accuracy: 0.05 more)."""
    config: dict[str, dict[str, Any]] = {
        "extract": {"source": "/far/sonyc_ust/annotations.csv", "teacher": "openl3/env-mel256-512", "hop": 1.0},
        "sample": {"method": "random", "size": 100, "seed": 0},
        "reduce": {"method": "pca", "size": 64, "seed": 0},
        "distill": {"student": "sea-64", "filters": None, "n_mels": 64, "n_fft": 1024, "hop_length": 160, "seed": 0},
        "evaluate": {"task": task, "data": "/far/other", "seed": 0},
    }
    for name, value in changes.items():
        stage, option = name.split("__")
        config[stage][option] = value
    teacher, size, systems = config["extract"]["teacher"], config["reduce"]["size"], {}
    for system, value in (("teacher", 0.8), ("reduced", 0.7), ("student", 0.6)):
        folds = {"accuracy": value + 0.05, "fold_accuracy": value, "accuracy_by_fold": {"1": value, "2": value}}
        model = str(folder / "student") if system == "student" else teacher
        names = {"model": model, "embedding_size": 512 if system == "teacher" else size}
        scores = tagged(value) if task == "sonyc_ust" else folds
        systems[system] = {**PROTOCOL, "task": task, **names, **scores, **(result or {})}
    results = {"extract": {"clips": 9, "windows": 90}, "distill": {"parameters": 398306}, "evaluate": systems}
    write_json(folder / "results.json", {**results, "config": config, "versions": VERSIONS})
    return folder


def alone(path: Path, **changes: Any) -> Path:
    """What `edgesea evaluate --out` writes of a published student."""
    names = {"task": "sonyc_ust", "model": "edgel3/sea-64", "reduction": None, "data": "/far/a", "embedding_size": 64}
    write_json(path, {**names, **PROTOCOL, **tagged(0.6), **changes})
    return path


def test_the_papers_figures_stand_beside_ours(tmp_path):
    sizes = ("64", "256", "512", "128")
    runs = [written(tmp_path / size, distill__student=f"sea-{size}", reduce__size=int(size)) for size in sizes]
    runs.append(written(tmp_path / "us8k", task="urbansound8k", result={"confidence": {"fold_accuracy": [0.5, 0.7]}}))
    text = tables(runs, out=tmp_path / "out")["text"]
    models = cells(text, "Table 1")
    assert models[1] == ["teacher (L3)", "256x199", "-", "4.69", "-", "18.80", "-", "12.74"]
    assert models[5] == ["Student 3 (sea-64)", "64x50", "0.40", "0.40", "1.60", "1.60", "0.41", "0.41"]
    sonyc = cells(text, "Table 2")
    assert sonyc[0][3:6] == ["micro AUPRC", "published (AVC, Table 2)", "published (SEA, Table 2)"]
    assert sonyc[1] == ["teacher (openl3/env-mel256-512)", *["512", "-", "0.800", "0.810", "-", "0.600", "0.567", "-"]]
    assert [row[0] for row in sonyc[2:]] == [f"Student {i} (sea-{512 >> i})" for i in range(4)]
    assert sonyc[5][1:] == ["64", "398 306", "0.600", "0.784", "0.784", "0.400", "0.543", "0.559"]
    (other,) = [row for row in cells(text, "Table 3") if row[0] == "Student 3 (sea-64)"]
    assert other[3:] == ["60.0 [50.0, 70.0]", "64.8", "-", "44.0", "0.600", "0.784"]
    reduced, student = (row[1:] for row in cells(text, "Table 4") if row[2] == "64" and row[0] == "random")
    assert reduced == ["reduced (openl3/env-mel256-512)", *["64", "0.700", "0.782", "0.500", "0.574", "0.720", "0.686"]]
    assert student == ["Student 3 (sea-64)", "64", "0.600", "-", "0.400", "-", "0.620", "-"]
    assert ["dpp", "reduced", "128", "-", "0.796", "-", "0.578", "-", "0.706"] in cells(text, "Table 4")
    assert len(read_published(PUBLISHED)) == 89
    assert "* Table 3: edgesea evaluate esc50 DATA" in text


def test_other_published_figures_may_be_given(tmp_path):
    lines = "2,teacher,micro_auprc,0.11\n2,sea-64,macro_auprc,0.22\n3,sea-64,esc10,0.444\n4,dpp,reduced-128,0.66\n"
    (tmp_path / "own.csv").write_text(f"\ufefftable, row,column,value\n{lines}", "utf-8")
    runs = [written(tmp_path / "a", extract__teacher="spectral"), written(tmp_path / "b", distill__n_mels=32)]
    text = tables(runs, out=tmp_path / "out", published=tmp_path / "own.csv")["text"]
    shown = {row[0]: row[-4:] for row in cells(text, "Table 2")[1:]}
    assert shown["teacher (spectral)"] == ["0.800", "-", "0.600", "-"]  # the paper has another teacher
    assert shown["Student 3 (sea-64)"] == ["0.600", "-", "0.400", "0.220"]
    assert shown["sea-64 with n_mels 32"] == ["0.600", "-", "0.400", "-"]  # not the paper's
    assert any("44.4" in row for row in cells(text, "Table 3"))
    assert "0.660" in cells(text, "Table 4")[-1]


@pytest.mark.parametrize(
    ("change", "column", "values"),
    [
        ({"seed": 1, "micro_auprc": 0.7}, None, ["0.650 (0.600 to 0.700, 2 runs)"]),
        ({}, None, ["0.600"]),  # the same score, read twice
        ({"center": True, "micro_auprc": 0.7}, "center", ["False", "True"]),
        ({"data": "/far/b"}, "data", ["/far/a", "/far/b"]),
        ({"versions": {"edgesea": "1.0", "numpy": "3.0"}}, "numpy", ["2.4", "3.0"]),
        ({"clips": None}, "clips", ["538", "None"]),
    ],
)
def test_what_is_averaged(tmp_path, change, column, values):
    rows = made(tmp_path, "Table 2", alone(tmp_path / "a.json"), alone(tmp_path / "b.json", **change))
    assert [row[column or "micro AUPRC"] for row in rows] == values
    assert {row["system"] for row in rows} == {"Student 3 (edgel3/sea-64, published weights)"}
    assert rows[0]["parameters"] == "398 306"


def test_tasks_levels_and_domains_are_told_apart(tmp_path):
    fine = {"label_mode": "fine", "tagging": {**TAGGING, "label_mode": "fine"}, "coarse": {"micro_auprc": 0.9}}
    rows = made(tmp_path, "Table 2", written(tmp_path / "fine", result=fine))
    found = {row["label_mode"]: row["micro AUPRC"] for row in rows if row["system"] == "Student 3 (sea-64)"}
    assert found == {"fine": "0.600", "coarse, by fine tags": "0.900"}
    esc10 = {"task": "esc50", "confusion": {"classes": list("abcdefghij")}, "accuracy": 0.3}
    esc50 = {"task": "esc50", "accuracy_by_class": {str(number): 1.0 for number in range(50)}, "accuracy": 0.4}
    runs = [written(tmp_path / str(size), task="esc50", result=result) for size, result in ((10, esc10), (50, esc50))]
    rows = made(tmp_path, "Table 3", *runs)
    student = of(rows, "Student 3 (sea-64)")
    assert (student["ESC-50 (%)"], student["ESC-10 (%)"]) == ("40.0", "30.0")


def test_both_files_hold_the_same_rows_and_escape_names(tmp_path):
    odd = {"task": "sonyc_ust", "model": "a|b <i>c</i>\n*d*", "embedding_size": 8, "micro_auprc": 0.5}
    write_json(tmp_path / "odd.json", odd)
    result = tables([written(tmp_path / "a"), tmp_path / "odd.json"], out=tmp_path / "new" / "out.md")
    assert [result["markdown"], result["html"]] == [str(tmp_path / f"new/out.{end}") for end in ("md", "html")]
    text, html = (Path(result[name]).read_text("utf-8") for name in ("markdown", "html"))
    assert text == result["text"]
    assert r"| student a\|b \<i>c\</i> \*d\* |" in text
    assert "student a|b &lt;i&gt;c&lt;/i&gt;" in html
    assert not re.search(r"https?://|<script|<link|<img|@import|<i>", html)
    for heading in ("Table 1", "Table 2", "Table 3", "Table 4"):
        section = html.split(f"<h2>{heading}</h2>")[1].split("</section>")[0]
        assert section.count("<tr>") == len(cells(text, heading))


def test_bad_published_figures(tmp_path, refuses):
    path, run = tmp_path / "paper.csv", written(tmp_path / "run")
    refuses("tables", run, f"--published={path}", words=[path])
    for line, words in (
        ("5,teacher,micro_auprc,0.5", [2, 5]),
        ("2,sea-32,micro_auprc,0.5", [2, "sea-32"]),
        ("4,random,student-0,0.5", [2, "student-0"]),
        ("2,teacher,micro_auprc,72.5", [2, "72.5"]),
        ("2,teacher,micro_auprc", [2, "value"]),
        ("2,teacher,micro_auprc,0.1\n2,teacher,micro_auprc,0.2", [3, "twice"]),
    ):
        path.write_text(f"table,row,column,value\n{line}\n")
        refuses("tables", run, f"--published={path}", words=[path, *words])


def test_bad_input(tmp_path, refuses):
    run = written(tmp_path / "run")
    results = read_json(run / "results.json")
    write_json(tmp_path / "none" / "results.json", {**results, "evaluate": None})
    (tmp_path / "empty").mkdir()
    write_json(tmp_path / "empty.json", {})
    write_json(tmp_path / "list.json", [])
    write_json(tmp_path / "unfinished" / "stages.json", {"stages": {}})
    (tmp_path / "other.csv").write_text("audio_filename,1_engine\n")
    for name in ("none", "empty", "nowhere", "nowhere.json", "empty.json", "list.json", "unfinished", "other.csv"):
        refuses("tables", tmp_path / name, words=[tmp_path / name])
    refuses("tables", tmp_path / "none", words=["Table 2", "edgesea evaluate sonyc_ust DATA edgel3/sea-64"])
    for student in (3, {"task": "esc50"}):
        write_json(tmp_path / "bad" / "results.json", {**results, "evaluate": {"student": student}})
        refuses("tables", tmp_path / "bad", words=[tmp_path / "bad"])
    refuses("tables", run, f"--out={run}/results.json/tables", words=[run / "results.json"])
