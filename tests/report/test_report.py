"""The pages of a run (a tiny real one, and hand-written scores), of a reduction and of a model selection."""

import re
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from edgesea.artifact import plain, read_json, write_json
from edgesea.reduction import load_reduction, reduce
from edgesea.report import data, report
from edgesea.report.data import Counts, sample_windows, summarise
from edgesea.report.pages import MISSING, duration, integer, percent
from edgesea.sampling import sample
from edgesea.sampling.subset import Subset
from edgesea.table.reader import Table
from edgesea.tasks.options import ProbeOptions, TaggingOptions

NO_NETWORK = re.compile(r"<script|<link|<img|@import|url\((?!#)|\bon\w+=|https?://(?!www\.w3\.org)", re.IGNORECASE)


def rows(html: str) -> list[list[str]]:
    """Cells of all tables, with a bar for each tag."""
    found = (re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row, re.DOTALL) for row in re.findall("(?s)<tr>(.*?)</tr>", html))
    return [[re.sub("(<[^>]*>)+", "|", cell) for cell in row] for row in found]


def texts(html: str) -> list[str]:
    """What is written in the figures."""
    return re.findall(r"<text[^>]*>([^<]*)</text>", html)


def words(html: str) -> str:
    """Text of a page with single, plain spaces."""
    return re.sub(r"\s+([.,;])", r"\1", " ".join(re.sub("<[^>]*>", " ", html).split()))


def page(folder: Path, table: Path | None = None) -> str:
    assert report(folder, table=table) == {"report": str(folder / "report.html")}
    return (folder / "report.html").read_text("utf-8")


@pytest.fixture
def run(small_run: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(small_run, tmp_path / "run"))


def change(path: Path, change: Callable[[Any], Any]) -> None:
    change(content := read_json(path))
    write_json(path, content)


def test_the_page_works_offline_and_a_second_call_writes_the_same_bytes(small_run):
    html = (small_run / "report.html").read_text("utf-8")
    assert re.findall("<h2>(.*?)</h2>", html) == ["Result", "Data", "Reduction", "Training", "Task", "Provenance"]
    assert html.count("<svg") == 8
    assert not NO_NETWORK.search(html)
    assert "default-src 'none'" in html
    assert ["audio/&lt;b&gt;x&lt;/b&gt;.wav", "cannot be decoded: No such file or directory"] in rows(html)
    assert {"hum &amp; &lt;i&gt;$buzz$&lt;/i&gt;", "&lt;s1&gt;"} <= set(texts(html))
    assert not re.search("<b>|<i>|<s1>", html)
    assert page(small_run) == html


def test_scores_are_those_of_the_results(small_run):
    html = (small_run / "report.html").read_text("utf-8")
    results = read_json(small_run / "results.json")
    for system, scores in results["evaluate"].items():
        low, high = (100 * end for end in scores["confidence"]["accuracy"])
        cell = f"{percent(scores['accuracy'], 1)}|{low:.1f}\u2013{high:.1f}|"
        if system != "teacher":
            cell += f"{percent(scores['accuracy'] / results['evaluate']['teacher']['accuracy'])} of teacher|"
        assert [f"|{system}|", integer(scores["embedding_size"]), cell] in rows(html)
    assert f"<dd>{integer(results['distill']['parameters'])}</dd>" in html
    assert f"<dd>{results['distill']['r2']:.3f}</dd>".replace("-", "\u2212") in html
    assert ["extract", duration(results["seconds"]["extract"])] in rows(html)
    assert ["torch", results["versions"]["torch"]] in rows(html)
    assert ["train", "8", "24", "66.7\u00a0%", "6.0 s"] in rows(html)
    assert "The 20 windows of the subset were chosen by the method random from 24 windows (split train" in html
    assert {"hiss", "0", "20", "windows in the subset", "2024-05-01", "by label", "by level"} <= set(texts(html))


@pytest.mark.parametrize(("artifacts", "plots"), [(["table"], 5), (["subset.parquet", "reduction", "student"], 6)])
def test_deleted_artifacts_are_left_out(run, artifacts, plots):
    for path in (run / artifact for artifact in artifacts):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    html = page(run)
    assert (html.count("<h2>"), html.count("<svg")) == (6, plots)


def test_missing_values_and_results_of_an_older_edgesea_are_shown(run):
    results, reduction = read_json(run / "results.json"), read_json(run / "reduction/reduction.json")
    student, classes = results["evaluate"]["student"], ("hiss", "hum & <i>$buzz$</i>")
    for name in ("probe", "confusion", "class_accuracy", "fold_accuracy", "skipped", "seed", "versions"):
        del student[name]
    student |= {"accuracy": None, "accuracy_by_class": dict(zip(classes, (None, 0.5), strict=True)), "confidence": None}
    results["distill"]["r2_per_dimension"] = [None, -7.0, 0.5, 0.9]
    results["reduce"]["explained_variance_validate"] = None
    write_json(run / "results.json", results)
    (run / "stages.json").unlink()  # else the results were those of another run
    curve = [{"neighbors": 5, "overlap": 0.5, "chance": 0.25}]
    reduction["kept"] |= {"explained_variance": 0.25, "knn_overlap_curve": curve}
    write_json(run / "reduction/reduction.json", reduction)
    html = page(run)
    assert "exceeds 0.5 in\n1 of 4" in html
    assert ["variance recovered by a linear map", "0.250", ""] in rows(html)
    assert ["5 nearest neighbours preserved", "50.0\u00a0%", "25.0\u00a0%"] in rows(html)
    assert ["|student|", "4", MISSING] in rows(html)
    assert ">nan" not in html


def test_bad_input(run, small_table, tmp_path, refuses):
    refuses("report", tmp_path / "nowhere", words=[tmp_path / "nowhere", "results.json"])
    refuses("report", run / "student", words=[run / "student"])
    refuses("report", run / "reduction", f"--table={tmp_path}", words=[tmp_path])
    change(run / "reduction/reduction.json", lambda info: info.update(input_size=100))
    refuses("report", run / "reduction", f"--table={small_table}", words=[run / "reduction", "do not match"])
    (run / "student/metrics.csv").write_text("epoch,lr\n1,x\n", "utf-8")
    refuses("report", run, words=[run / "student/metrics.csv", "x"])
    change(run / "stages.json", lambda stamps: stamps["stages"]["extract"]["result"].update(windows=1))
    # A killed second run leaves the results of the first.
    refuses("report", run, words=[run, "unfinished run (extract)"])
    change(run / "stages.json", lambda stamps: stamps["stages"]["distill"].update(finished=False))
    refuses("report", run, words=[run, "unfinished run", "distill"])
    for content in ([], {"parameters": 3}):
        write_json(run / "results.json", content)
        refuses("report", run, words=[run / "results.json"])
    (run / "results.json").unlink()
    refuses("report", run, words=[run, "results.json"])
    selection = tmp_path / "select.json"
    for damaged in ([], {**SELECTION, "winner": 9}, {**SELECTION, "trials": [trial("pca", "spl", 8, "high")]}):
        write_json(selection, damaged)
        refuses("report", tmp_path, words=[selection])


@pytest.mark.parametrize(
    ("freq", "periods", "expected", "columns"), [("MS", 24, "day", 24), ("D", 100, "week", 16), ("MS", 240, "year", 21)]
)
def test_days_become_weeks_months_or_years(freq, periods, expected, columns):
    days = [str(day) for day in pd.date_range("2024-01-01", periods=periods, freq=freq).date]
    days += [""] * (expected != "day")
    keys = [("train", sensor, day) for day in days for sensor in ("s", "")]
    index = pd.MultiIndex.from_tuples(keys, names=["split", "sensor", "day"])
    grid, period = Counts(None, pd.DataFrame({"windows": 1}, index), None, []).by_period("windows")
    assert (grid.to_numpy().sum(), period, len(grid.columns)) == (len(keys), expected, columns)


def test_windows_are_counted_and_the_map_shows_a_bounded_sample(small_run, monkeypatch):
    table, phi = Table(small_run / "table"), load_reduction(small_run / "reduction")
    counts = summarise(table, Subset.load(small_run / "subset.parquet"))
    assert counts.strata.groupby("split").sum().to_numpy().tolist() == [[8, 24, 20], [4, 12, 0]]
    assert (counts.known("sensor"), counts.known("day")) == (["2", "<s1>"], ["2024-05-01", "2024-05-02"])
    assert counts.levels.sum().to_dict() == {"table": 36, "subset": 20}
    known = {}
    for chunk in table.chunks():
        x, clips = phi.transform(table.embeddings(chunk.part, chunk.group))[:, 0], chunk.clip
        columns = (chunk.level, chunk.splits[clips], chunk.sensors[clips], chunk.labels[clips])
        known |= dict(zip(x.round(3).tolist(), zip(*columns, strict=True), strict=True))
    for limit, expected in ((2000, 36), (7, 7)):
        monkeypatch.setattr(data, "SAMPLE", limit)
        found = sample_windows(counts, phi)
        assert found is not None
        assert len(found) == found.x.nunique() == expected
        for row in found.round({"x": 3}).itertuples():
            assert known[row.x] == (row.level, row.split, row.sensor, row.label)


COUNTS = np.array([[18, 2, 0], [5, 10, 5], [0, 1, 9]])
CLASSES = ["<b>dog</b>", "$cat$", "a hen with a name that is far too long for any axis"]


def single_label(found: Any = COUNTS, **more: Any) -> dict[str, Any]:
    counts = np.asarray(found)
    recalls = np.diag(counts) / counts.sum(1)
    matrix = {"classes": CLASSES, "columns": [*CLASSES, "(none)"][: counts.shape[1]], "counts": counts.tolist()}
    scores = {"accuracy": np.trace(counts) / counts.sum(), "class_accuracy": recalls.mean(), "confusion": matrix}
    scores |= {"accuracy_by_fold": {"1": 0.5, "2": 0.75}, "accuracy_by_class": dict(zip(CLASSES, recalls, strict=True))}
    sizes = {"clips": int(counts.sum()), "embedding_size": 8}
    return {"task": "esc50", "probe": asdict(ProbeOptions()), **scores, **sizes, **more}


def tags(**options: Any) -> dict[str, Any]:
    own = TaggingOptions(**options)
    scores = {"micro_auprc": 0.8, "macro_auprc": None, "micro_f1": 0.7, "lwlrap": 0.9}
    found = {"task": "sonyc_ust", "tagging": plain(own), "label_mode": own.label_mode, **scores}
    found["confidence"] = {"micro_auprc": [0.7654, 0.8345], "macro_auprc": None, "lwlrap": [float("nan")] * 2}
    found |= {"class_auprc": {"engine": 0.5, "dog": None}, "train_clips": 13538, "clips": 538, "embedding_size": 8}
    return {**found, "coarse": {**scores, "micro_auprc": 0.888}} if own.label_mode == "fine" else found


def shown(folder: Path, **systems: dict[str, Any]) -> str:
    """The page of a run that has nothing but results.json."""
    write_json(folder / "results.json", {"config": {}, "extract": {}, "distill": {}, "evaluate": systems})
    return page(folder)


def test_the_protocol_is_described(tmp_path):
    options = {"members": 5, "context": True, "eval_split": "validate", "monitor": "validate"}
    html = shown(tmp_path, student=tags(**options, split_path=Path("to/mine.csv")))
    for part in ("(from mine.csv)", "AutoPool", "the mean of 5 networks", "where and when a clip", "are optimistic"):
        assert part in html
    probe, chosen = asdict(ProbeOptions("svm", "statistics")), {"1": {"C": 0.001, "<i>": None}}
    (tmp_path / "evaluate").mkdir()
    for system, clip in (("teacher", "a"), ("student", "a"), ("student", "<u>")):
        (tmp_path / "evaluate" / f"{system}.skipped.csv").write_text(f"clip,reason\naudio/{clip}.wav,<script>\n")
    systems = {
        name: single_label(probe=probe, chosen=chosen, skipped=n) for name, n in {"teacher": 0, "student": 1}.items()
    }
    html = shown(tmp_path, **systems)
    for part in ("a support vector machine", "median of", "C 0.001, &lt;i&gt; None", "teacher 0, student 1"):
        assert part in html
    assert "2 clips were" in html
    assert ["audio/&lt;u&gt;.wav", "&lt;script&gt;"] in rows(html)
    assert not re.search("<i>|<u>|<script|optimistic", html)
    nothing = dict.fromkeys(("accuracy", "confidence", "confusion", "skipped"))
    html = shown(tmp_path, student={"task": "esc50", "clips": 4, "embedding_size": 8, **nothing})
    assert ("Task esc50: 4 clips evaluated." in html, "<svg" in html) == (True, False)
    assert "no section evaluate" in shown(tmp_path)


def test_matrices_and_the_most_frequent_confusions_are_shown(tmp_path):
    student = single_label([[9, 3, 0, 50], [0, 4, 3, 0], [1, 0, 7, 0]])  # the last column is not a class
    html = shown(tmp_path, teacher=single_label(), reduced=single_label(), student=student)
    assert texts(html).count("predicted") == 2  # not of the reduced
    assert {"$cat$ (20)", "18", "(none)"} <= set(texts(html))
    assert not any(CLASSES[2] in text for text in texts(html))  # shortened
    dog, cat, hen = "&lt;b&gt;dog&lt;/b&gt;", *CLASSES[1:]
    pairs = [
        [cat, hen, "3", "42.9\u00a0%", "5"],
        [dog, cat, "3", "4.8\u00a0%", "2"],
        [hen, dog, "1", "12.5\u00a0%", "0"],
    ]
    assert [row for row in rows(html) if row[0] in (dog, cat, hen)] == pairs
    assert ["student", "62.5", "17.7", "50.0", "75.0"] in rows(html)


def test_tags_show_what_is_known_of_them(tmp_path):
    html = shown(tmp_path, teacher=tags(), student=tags())
    same = "100\u00a0% of teacher|"
    micro = f"0.800|0.765\u20130.835|{same}"
    assert ["|student|", "8", micro, MISSING, f"0.700|{same}", f"0.900|{same}"] in rows(html)
    assert {"engine", "dog", "AUPRC"} <= set(texts(html))
    assert "micro AUPRC on sonyc_ust (coarse tags) (0.800 of 0.800)" in html
    fine = shown(tmp_path, student=tags(label_mode="fine"))
    assert ["|student|", "0.888", MISSING, "0.700", "0.900"] in rows(fine)


def test_a_reduction_has_a_page(small_table, tmp_path):
    sample(small_table, tmp_path / "s.parquet", size=30, seed=7)
    reduce(small_table, tmp_path / "phi", subset=tmp_path / "s.parquet", size=4)
    html = page(tmp_path / "phi", small_table)
    assert html.count("<svg") == 1
    assert not NO_NETWORK.search(html)
    chosen = "The 30 windows of the subset were chosen by the method random"
    assert f"reduced from 512 to 4 dimensions. {chosen}" in words(html)
    assert {"by sensor", "by level", "s0", "s1", "s2"} <= set(texts(html))
    variance = read_json(tmp_path / "phi/reduction.json")["kept"]["explained_variance"]
    assert ["variance recovered by a linear map", f"{variance:.3f}", ""] in rows(html)
    without = page(tmp_path / "phi")
    assert (without.count("<svg"), "--table TABLE" in without) == (0, True)


def test_what_is_known_of_a_reduction_is_shown(tmp_path):
    kept = {"compared_windows": 1000, "split": "validate", "neighbors": 10}
    overlap = {"knn_overlap": 0.6, "knn_overlap_chance": 0.01}
    subset = {"method": "dpp", "candidates": 12345, "split": "train", "frame": "week", "seed": 3, "frames": 1040}
    info = {"method": "kernel_pca", "input_size": 512, "output_size": 2, "windows": 60, "feature_variance": 0.7}
    info |= {"explained_variance_ratio": [0.4, 0.3], "provenance": {"subset": {**subset, "mean_core": 0.934}}}
    write_json(tmp_path / "reduction.json", {**info, "kept": kept | overlap})
    text = words(page(tmp_path))
    assert "10 nearest neighbours preserved 60.0 % 1.0 %" in text
    assert "1 000 windows of the split validate." in text
    assert "kernel&#39;s variance preserved 70.0 %" in text
    assert "the windows fitted on: 50 %: 2." in text
    assert "method dpp from 12 345 windows (split train, equal shares of 1 040 strata: sensor and week" in text
    assert "The k-DPPs chose 93 % of them; the rest were drawn uniformly." in text
    write_json(tmp_path / "reduction.json", {**info, "kept": kept | {"knn_overlap": None}})
    assert "too few to compare" in page(tmp_path)


def trial(reduction: str, sampling: str | None, size: int, score: Any, **more: Any) -> dict[str, Any]:
    chosen = None if sampling is None else {"method": sampling, "size": 1000, "seed": 0}
    stages = {"sample": chosen, "reduce": {"method": reduction, "size": size, "whiten": False}, "kept": None}
    scores = {"dimensions": size, "score": score, "score_std": 0.01, "standard_error": 0.02, "seconds": 1.5}
    return {**stages, **scores, "classifier": {"layers": 1, "units": 128}, **more}


TRIALS = [
    trial("pca", "random", 8, 0.701),
    trial("pca", "dpp", 8, 0.752),
    trial("pca", "dpp", 64, 0.853, kept={"trustworthiness": 0.987, "knn_overlap": 0.61, "distance_correlation": 0.95}),
    trial("pca", "random", 64, 0.844, score_std=None),
    trial("identity", None, 512, 0.9),
]
TEACHER = {"score": 0.88, "dimensions": 512}
SELECTION = {"task": "esc50", "metric": "accuracy", "trials": TRIALS, "reference": TEACHER, "winner": 2}


def selected(folder: Path, **changes: Any) -> str:
    write_json(folder / "select.json", {**SELECTION, **changes})
    return page(folder)


def test_trials_are_listed_by_score_and_the_winner_is_named_with_its_uncertainty(tmp_path):
    html = selected(tmp_path)
    head, *body = rows(html)
    names = {"random", "dpp", "all windows", "pca", "identity", "teacher, 512 dimensions", "chosen", "accuracy (%)"}
    assert names | {"8", "64", "512", "dimensions"} <= set(texts(html))
    assert head[:5] == ["", "sampling", "reduction", "dimensions", "accuracy"]
    assert [row[4] for row in body] == [f"{score}\u00a0%" for score in (90.0, 85.3, 84.4, 75.2, 70.1)]
    assert body[0][:4] == ["", "all windows", "identity", "512"]
    assert body[1][:7] == ["★", "dpp", "pca", "64", "85.3\u00a0%", "2.0", "1.0"]
    assert body[1][7:] == ["97\u00a0%", "0.987", "61\u00a0%", "1.5 s"]
    assert body[2][6] == MISSING
    winner = "Chosen among 5 trials on esc50: pca, 64 dimensions, dpp with accuracy 85.3 % ± 2.0; the unreduced teacher"
    ties = "with 512 dimensions has 88.0 %. 2 other trials are within its standard error; the smallest has 64"
    assert f"{winner} {ties}" in words(html)
    assert "No other trial is within its standard error." in words(selected(tmp_path, trials=TRIALS[:3]))


def test_options_that_differ_and_unfinished_trials_are_shown(tmp_path):
    trials = [trial("pca", "<i>", 8, 0.5), trial("pca", "<i>", 8, 0.6), trial("umap", "<i>", 8, 0.7, complete=False)]
    trials[0]["classifier"]["units"], trials[1]["sample"]["size"] = "a\nb", 500
    trials[1]["reduce"]["whiten"], trials[2]["reduce"]["neighbors"] = True, 15
    trials[1]["standard_error"] = None
    html = selected(tmp_path, trials=trials, metric="mean_rank", winner=1, reference=None)
    head, *body = rows(html)
    assert head[:6] == ["", "sampling", "reduction", "classifier", "dimensions", "mean rank"]
    assert body[0][:4] == ["★", "&lt;i&gt; size 500", "pca whiten True", "units 128"]
    assert body[1][:4] == ["", "&lt;i&gt; size 1000", "pca whiten False", "units a?b"]
    assert body[2][:4] == [MISSING, "&lt;i&gt; size 1000", "umap whiten False", "units 128"]
    assert "mean rank 0.600." in words(html)
    assert "not all seeds could be run" in words(html)
    assert "<i>" not in html
