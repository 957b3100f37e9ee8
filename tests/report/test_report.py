"""The report of a tiny real run: a dozen noisy clips of two classes, two sensors and two days."""

import csv
import re
import shutil
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import yaml

from edgesea.artifact import read_json, write_json
from edgesea.errors import EdgeseaError
from edgesea.models.student_config import StudentConfig, macs
from edgesea.pipeline import read_config, run_stages
from edgesea.reduction import load_reduction
from edgesea.report import data, report
from edgesea.report.data import sample_windows, summarise
from edgesea.report.data_plots import _periods
from edgesea.report.html import Html, element, integer, percent, table, text
from edgesea.report.reduction import subset_sentence
from edgesea.report.run import read_run
from edgesea.report.svg import drawing, inline, label

ODD_NAME, ODD_CLASS, ODD_SENSOR = "audio/<b>x</b>.wav", "hum & <i>$buzz$</i>", "<s1>"
CLIPS = 12
CITED = re.compile(r"https?://", re.IGNORECASE)


def _make_task(folder: Path) -> None:
    """ESC-50's layout, with a manifest beside it that knows sensors and times and names a clip that is not there."""
    rng = np.random.default_rng(0)
    (folder / "audio").mkdir(parents=True)
    (folder / "meta").mkdir()
    rows = [("path", "sensor", "time", "split", "kind")]
    labels = [("filename", "fold", "category")]
    for number in range(CLIPS):
        noise = rng.normal(size=16000 * 2)
        sound = np.cumsum(noise) / 100.0 if number % 2 else noise / 8.0
        soundfile.write(folder / "audio" / f"{number}.wav", np.clip(0.05 * (1 + number) * sound, -1, 1), 16000)
        split = "validate" if number % 3 == 2 else "train"
        time, kind = f"2024-05-0{1 + number % 2}T08:00", ("hiss", ODD_CLASS)[number % 2]
        rows.append((f"audio/{number}.wav", (ODD_SENSOR, "2")[number // 6], time, split, kind))
        labels.append((f"{number}.wav", str(1 + number // 6), kind))
    rows.append((ODD_NAME, "2", "2024-05-01T09:00", "train", ""))
    for path, content in ((folder / "manifest.csv", rows), (folder / "meta/esc50.csv", labels)):
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(content)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    _make_task(folder / "task")
    sections: dict[str, dict[str, Any]] = {
        "extract": {"source": str(folder / "task/manifest.csv"), "hop": 0.25, "device": "cpu"},
        "sample": {"size": 20},
        "reduce": {"size": 4},
        "distill": {"filters": [2, 2, 2, 4], "epochs": 2, "batch_size": 16, "device": "cpu"},
        "evaluate": {"task": "esc50", "data": str(folder / "task"), "device": "cpu"},
    }
    sections["extract"]["columns"] = {"label": "kind"}
    (folder / "config.yaml").write_text(yaml.safe_dump(sections), "utf-8")
    run_stages(read_config(folder / "config.yaml"), folder / "run")
    return folder / "run"


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


def _change_json(path: Path, change: Callable[[Any], Any]) -> None:
    content = read_json(path)
    change(content)
    write_json(path, content)


def _has_overlap(run: Path) -> int:
    """Whether enough windows lie outside the subset for the plot of neighbours."""
    kept = read_json(run / "reduction" / "reduction.json").get("kept") or {}
    return int(bool(kept.get("knn_overlap_curve")))


def test_the_pipeline_writes_the_report(finished: Path) -> None:
    html = (finished / "report.html").read_text("utf-8")
    headings = re.findall("<h2>(.*?)</h2>", html)
    assert headings == ["Result", "Data", "Reduction", "Training", "Task", "Provenance"]
    assert html.count("<svg") == 9 + _has_overlap(finished)
    assert len(html) < 1_500_000


def test_page_needs_nothing_from_outside(finished: Path) -> None:
    html = (finished / "report.html").read_text("utf-8")
    assert not CITED.search(html)
    assert not re.search(r"<script|<link|<img|@import|url\((?!#)|\bon\w+=", html)
    assert "default-src 'none'" in html


def test_scores_are_those_of_the_results(finished: Path) -> None:
    html = (finished / "report.html").read_text("utf-8")
    results = read_json(finished / "results.json")
    for system in ("teacher", "reduced", "student"):
        assert f'<td class="number">{percent(results["evaluate"][system]["accuracy"], 1)}' in html
        assert f'<span class="system {system}">' in html
        low, high = (100 * end for end in results["evaluate"][system]["confidence"]["accuracy"])
        assert f"<small>{low:.1f}\u2013{high:.1f}</small>" in html
    share = percent(results["evaluate"]["student"]["accuracy"] / results["evaluate"]["teacher"]["accuracy"])
    assert f"<small>{share} of teacher</small>" in html
    assert f"<dd>{integer(results['distill']['parameters'])}</dd>" in html
    assert f"<dd>{results['distill']['r2']:.3f}</dd>".replace("-", "\u2212") in html
    assert results["versions"]["torch"] in html
    assert "sha256" in html


def test_names_from_files_are_escaped(finished: Path) -> None:
    html = (finished / "report.html").read_text("utf-8")
    assert "audio/&lt;b&gt;x&lt;/b&gt;.wav" in html
    assert "hum &amp; &lt;i&gt;$buzz$&lt;/i&gt;" in html
    assert "&lt;s1&gt;" in html
    assert not re.search("<b>|<i>|<s1>", html)


def test_second_call_writes_the_same_bytes(run: Path) -> None:
    first = (run / "report.html").read_bytes()
    (run / "report.html").unlink()
    assert report(run) == {"report": str(run / "report.html")}
    assert (run / "report.html").read_bytes() == first


def test_run_without_a_task(run: Path) -> None:
    _change_json(run / "results.json", lambda results: results.pop("evaluate"))
    shutil.rmtree(run / "evaluate")
    report(run)
    html = (run / "report.html").read_text("utf-8")
    assert "no section evaluate" in html
    assert "of the variance of its target" in html
    assert "<h2>Task</h2>" not in html


@pytest.mark.parametrize(("artifacts", "plots"), [(["table"], 6), (["subset.parquet", "reduction", "student"], 6)])
def test_deleted_artifacts_are_left_out(run: Path, artifacts: list[str], plots: int) -> None:
    plots += _has_overlap(run)
    for path in (run / artifact for artifact in artifacts):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    report(run)
    html = (run / "report.html").read_text("utf-8")
    assert len(re.findall("<h2>", html)) == 6
    assert html.count("<svg") == plots


def test_scores_that_are_missing_do_not_matter(run: Path) -> None:
    def change(results: dict[str, Any]) -> None:
        results["evaluate"]["student"]["accuracy"] = None
        results["evaluate"]["student"]["accuracy_by_class"] = {"hiss": None, ODD_CLASS: 0.5}
        results["distill"]["r2_per_dimension"] = [None, -7.0, 0.5, 0.9]
        results["reduce"]["explained_variance_validate"] = None

    _change_json(run / "results.json", change)
    (run / "stages.json").unlink()  # else the results were those of another run
    report(run)
    assert "exceeds 0.5 in 1 of 4" in (run / "report.html").read_text("utf-8")


def test_unfinished_runs_are_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(EdgeseaError, match="no such folder"):
        report(tmp_path / "nowhere")
    with pytest.raises(EdgeseaError, match="no run directory"):
        report(run / "student")
    _change_json(run / "stages.json", lambda stamps: stamps["stages"]["distill"].update(finished=False))
    with pytest.raises(EdgeseaError, match=r"unfinished run \(distill\); finish it by running the same `edgesea run`"):
        report(run)
    (run / "results.json").unlink()
    with pytest.raises(EdgeseaError, match="unfinished run"):
        report(run)


def test_results_of_an_earlier_run_are_refused(run: Path) -> None:
    """What a killed second run leaves: its first stages are new, results.json is old."""
    _change_json(run / "stages.json", lambda stamps: stamps["stages"]["extract"]["result"].update(windows=1))
    with pytest.raises(EdgeseaError, match=r"unfinished run \(extract\)"):
        report(run)


def test_damaged_files_are_named(run: Path) -> None:
    (run / "student/metrics.csv").write_text("epoch,lr\n1,x\n", "utf-8")
    with pytest.raises(EdgeseaError, match=r"metrics\.csv: damaged"):
        report(run)
    (run / "results.json").write_text("[]", "utf-8")
    with pytest.raises(EdgeseaError, match=r"results.json: not what edgesea wrote"):
        report(run)


def test_summary_counts_windows_and_subset(finished: Path) -> None:
    files = read_run(finished)
    assert files.table is not None
    assert files.subset is not None
    counts = summarise(files.table, files.subset)
    assert dict(counts.clips) == {"train": 8, "validate": 4}
    assert dict(counts.windows) == files.table.counts
    assert counts.sensors == ["2", ODD_SENSOR]
    assert counts.days == ["2024-05-01", "2024-05-02"]
    assert sum(chosen for _, chosen in counts.frames.values()) == len(files.subset) == 20
    assert counts.levels.total() == counts.windows.total()
    assert counts.chosen_levels.total() == 20
    assert sum(chunk[3] for chunk in counts.chunks) == files.table.counts["validate"]


def test_validation_curve_ends_at_what_reduce_reports(finished: Path) -> None:
    files = read_run(finished)
    assert files.table is not None
    sample = sample_windows(files.table, summarise(files.table, None), load_reduction(finished / "reduction"))
    assert sample is not None
    assert sample.validation is not None
    assert sample.validation_windows == files.table.counts["validate"]
    np.testing.assert_allclose(sample.validation[-1], files.stage("reduce")["explained_variance_validate"], rtol=1e-12)
    assert len(sample.points) == len(sample.level) == len(sample.sensors) == sum(files.table.counts.values())
    assert set(sample.labels) == {"hiss", ODD_CLASS}


def test_sample_is_bounded(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = read_run(finished)
    assert files.table is not None
    monkeypatch.setattr(data, "SAMPLE", 7)
    sample = sample_windows(files.table, summarise(files.table, None), load_reduction(finished / "reduction"))
    assert sample is not None
    assert (sample.points.shape, sample.validation_windows) == ((7, 2), 7)


def test_draw_covers_blocks_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "SAMPLE", 500)
    blocks = data._draw([300, 0, 700], np.random.default_rng(0))
    assert sum(map(len, blocks)) == 500
    assert len(blocks[1]) == 0
    assert 120 < len(blocks[0]) < 180
    for block, size in zip(blocks, (300, 0, 700), strict=True):
        assert len(set(block.tolist())) == len(block)
        assert all(0 <= row < size for row in block)
    assert data._draw([], np.random.default_rng(0)) == []


def test_the_subset_is_described(finished: Path) -> None:
    html = (finished / "report.html").read_text("utf-8")
    assert "The 20 windows of the subset were chosen by the method random from 40 windows (split train" in html
    info = {"method": "dpp", "candidates": 12345, "split": "train", "frame": "week", "seed": 3}
    info |= {"mean_core": 0.934, "frames": 1040}
    assert subset_sentence(info, 1000) == (
        "The 1\u202f000 windows of the subset were chosen by the method dpp from 12\u202f345 windows (split train, "
        "equally many of each of 1\u202f040 frames: sensor and week, seed 3). "
        "The k-DPPs chose 93\u00a0% of them, the rest were drawn uniformly."
    )
    assert subset_sentence({**info, "mean_core": 1.0}, 1000).endswith("The k-DPPs chose 100\u00a0% of them.")
    assert "(split all)." in subset_sentence({"method": "spl", "split": "all", "frame": "none"}, None)


def test_days_become_weeks_months_or_years() -> None:
    frames = {("s", f"20{year}-{month:02d}-01"): [1, 1] for year in (10, 11) for month in range(1, 13)}
    assert _periods(frames)[1] == "day"
    many = {("s", (date(2024, 1, 1) + timedelta(day)).isoformat()): [1, 1] for day in range(100)}
    names, unit = _periods(many)
    assert (unit, names["2024-01-08"], len(set(names.values()))) == ("week", "2024-W02", 15)
    decades = {("s", f"{year}-{month:02d}-01"): [1, 1] for year in range(2000, 2020) for month in range(1, 13)}
    assert _periods(decades)[1] == "year"


@pytest.mark.parametrize(("name", "millions"), [("sea-512", 636.5), ("sea-256", 159.6), ("sea-128", 131.3)])
def test_macs_of_the_published_students(name: str, millions: float) -> None:
    config = StudentConfig.named(name, head="relu_max")
    assert round(macs(config) / 1e6, 1) == millions


def test_html_escapes_all_but_html() -> None:
    assert element("p", "a<b", Html("<i>c</i>"), title='"x"') == '<p title="&quot;x&quot;">a&lt;b<i>c</i></p>'
    assert text("caf\udce9") == "caf?"
    assert "<td>&lt;script&gt;</td>" in table(["a", "b"], [["x", "<script>"]], words=2)
    assert integer(1234567) == "1\u202f234\u202f567"


def test_svg_takes_colours_and_fonts_from_the_page() -> None:
    with drawing("test", 2.0, 1.0) as figure:
        axes = figure.subplots()
        axes.set_title("<t> $1$ 日本")
        svg = inline(figure, 'a "test"')
    assert svg.startswith('<svg class="plot" role="img" aria-label="a &quot;test&quot;"')
    assert "var(--ink)" in svg
    assert "&lt;t&gt; $1$ 日本" in svg
    assert not re.search("#0a0b|font-family|DejaVu|<style|<metadata|http|<g id", svg)


def test_labels_keep_both_ends() -> None:
    assert label("sonycnode-b827eb0fedda.sonyc", 13) == "sonycn….sonyc"
    assert label("a\nb\udce9") == "a?b?"
