"""The page of a reduction that was made outside a run."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgesea.artifact import read_json, write_json
from edgesea.errors import EdgeseaError
from edgesea.reduction import load_reduction, reduce
from edgesea.reduction.quality import quality as kept
from edgesea.report import data, reduction_page
from edgesea.report.data import WindowSample, sample_windows, summarise
from edgesea.report.html import Html
from edgesea.report.reduction import reduction_section
from edgesea.report.reduction_plots import map_plot, overlap_plot
from edgesea.sampling import sample
from edgesea.table.reader import Table

CURVE = [{"neighbors": k, "overlap": 0.5 + k / 100, "chance": k / 999} for k in (1, 5, 10, 20, 50)]
KEPT = {
    "windows": 1500,
    "compared_windows": 1000,
    "neighbors": 10,
    "explained_variance": 0.8125,
    "trustworthiness": 0.9876,
    "continuity": 0.9765,
    "knn_overlap": 0.6,
    "knn_overlap_chance": 10 / 999,
    "knn_overlap_curve": CURVE,
    "distance_correlation": 0.9123,
    "distance_correlation_chance": 0.0789,
    "distance_rank_correlation": None,
}


class Halves:
    """A reduction without components."""

    method, input_size = "halves", 512

    def __init__(self, output_size: int) -> None:
        self.output_size, self.calls = output_size, 0

    def transform(self, rows: Any) -> Any:
        self.calls += 1
        return np.asarray(rows[:, : self.output_size] / 2, np.float32)


def made_sample(count: int, **groups: list[str]) -> WindowSample:
    rng = np.random.default_rng(0)
    columns = {name: groups.get(name, [""] * count) for name in ("sensors", "splits", "labels")}
    level = rng.uniform(-60, 0, count).astype(np.float32)
    return WindowSample(
        rng.standard_normal((count, 2)).astype(np.float32), level, **columns, validation=None, validation_windows=0
    )


def legend(svg: Html) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]*)</text>", svg)


def test_the_page_stands_alone(small_table: Path, tmp_path: Path) -> None:
    sample(small_table, tmp_path / "s.parquet", size=30, seed=7)
    reduce(small_table, tmp_path / "phi", subset=tmp_path / "s.parquet", size=4)
    path = reduction_page(tmp_path / "phi", small_table, tmp_path / "s.parquet")
    assert path == tmp_path / "phi" / "report.html"
    html = path.read_text("utf-8")
    assert re.findall("<h2>(.*?)</h2>", html) == ["Reduction"]
    assert not re.search(r"https?://|<script|<link|<img|@import|url\((?!#)|\bon\w+=", html)
    assert "reduced from 512 to 4 dimensions. The 30 windows of the subset were chosen by the method random" in html
    assert "Cumulative explained variance" in html
    assert "Windows by their first two reduced dimensions" in html
    assert reduction_page(tmp_path / "phi", small_table).read_text("utf-8").count("chosen by the method") == 0


def test_one_dimension_has_no_map(small_table: Path, tmp_path: Path) -> None:
    reduce(small_table, tmp_path / "phi", size=1)
    html = reduction_page(tmp_path / "phi", small_table).read_text("utf-8")
    assert "Windows by their first two" not in html
    assert "Cumulative explained variance" in html


def test_what_was_kept_is_shown(small_table: Path, tmp_path: Path) -> None:
    reduce(small_table, tmp_path / "phi", size=4)
    info = read_json(tmp_path / "phi" / "reduction.json")
    write_json(tmp_path / "phi" / "reduction.json", {**info, "kept": {**KEPT, "split": "validate"}})
    html = reduction_page(tmp_path / "phi", small_table).read_text("utf-8")
    assert "<dt>trustworthiness</dt><dd>0.988</dd>" in html
    assert "<dt>10 nearest neighbours kept</dt><dd>60.0\u00a0%<small> chance 1.0\u00a0%</small></dd>" in html
    assert "<dt>distance correlation</dt><dd>0.912<small> chance 0.079</small></dd>" in html
    assert "among 1\u202f000 windows (split validate) that the reduction was not fitted on" in html
    assert "Share of the nearest neighbours that the reduction keeps, against their number" in html


def test_what_was_measured_is_what_is_shown(small_table: Path, tmp_path: Path) -> None:
    """The keys that `kept` writes are those that the page reads."""
    reduce(small_table, tmp_path / "phi", size=4)
    rows = np.concatenate(list(Table(small_table).iter_embeddings("train")))
    measured = kept(load_reduction(tmp_path / "phi"), rows[:20], rows[20:])
    assert set(measured) <= set(KEPT)
    html = reduction_section({"method": "pca", "kept": measured}, None, "dB")
    assert f'<td class="number">{measured["continuity"]:.3f}</td>' in html


def test_methods_without_components_have_no_curve_of_variance(small_table: Path) -> None:
    table, phi = Table(small_table), Halves(3)
    found = sample_windows(table, summarise(table, None), phi)
    assert found is not None
    assert (found.validation, found.validation_windows, phi.calls) == (None, 0, 1)
    info = {"method": "halves", "input_size": 512, "output_size": 3, "windows": 60, "kept": KEPT}
    html = reduction_section(info, found, "dB")
    assert "Cumulative explained variance" not in html
    assert "variance kept" not in html
    assert html.count("<svg") == 2
    assert sample_windows(table, summarise(table, None), Halves(1)) is None


def test_the_map_shows_the_windows_of_the_table(small_table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = Table(small_table)
    monkeypatch.setattr(data, "SAMPLE", 25)
    found = sample_windows(table, summarise(table, None), Halves(2))
    assert found is not None
    rows = {}
    for chunk in table.chunks():
        for window, row in enumerate(table.embeddings(chunk.part, chunk.group)[:, :2].astype(np.float32) / 2):
            rows[tuple(row.tolist())] = (chunk.level[window], chunk.splits[chunk.clip[window]])
    assert len(found.points) == 25
    for point, level, split in zip(found.points, found.level, found.splits, strict=True):
        assert rows[tuple(point.tolist())] == (level, split)


def test_the_kernels_variance_is_not_that_of_the_embeddings() -> None:
    info = {"method": "kernel_pca", "output_size": 2, "feature_variance": 0.7, "explained_variance_ratio": [0.4, 0.3]}
    html = reduction_section(info, None, "dB")
    assert "<dt>kernel's variance kept</dt><dd>70.0\u00a0%</dd>".replace("'", "&#x27;") in html
    assert "variance of the kernel&#x27;s features" in html
    assert '<td class="number">&gt; 2</td>' in html  # 80 % takes more components than were computed


def test_too_few_windows_outside_are_a_remark() -> None:
    few = {**dict.fromkeys(KEPT), "windows": 3, "compared_windows": 3, "neighbors": 10, "knn_overlap_curve": []}
    html = reduction_section({"method": "pca", "kept": few}, None, "dB")
    assert "Too few windows that it was not fitted on (3)" in html
    assert "<svg" not in html
    assert reduction_section({}, None, "dB") == ""


def test_the_overlap_is_drawn_with_its_chance() -> None:
    svg = overlap_plot(CURVE)
    assert {"reduced", "chance", "1", "5", "10", "20", "50", "kept (%)"} <= set(legend(svg))
    assert overlap_plot([]) == ""


def test_labels_go_before_sensors_and_sensors_before_splits() -> None:
    groups = {"splits": ["train", "test"] * 5, "sensors": ["s1", "s2"] * 5, "labels": ["dog", ""] * 5}
    assert "coloured by label and by level" in map_plot(made_sample(10, **groups), "dB")
    assert {"dog", "unknown", "by label", "by level"} <= set(legend(map_plot(made_sample(10, **groups), "dB")))
    groups["labels"] = [""] * 10
    assert "coloured by sensor and by level" in map_plot(made_sample(10, **groups), "dB")
    groups["sensors"] = [""] * 10
    assert "coloured by split and by level" in map_plot(made_sample(10, **groups), "dB")


@pytest.mark.parametrize(("labels", "shown", "others"), [(6, 6, False), (12, 12, False), (13, 11, True)])
def test_rare_labels_are_others(labels: int, shown: int, others: bool) -> None:
    names = [f"l{label}" for label in range(labels) for _ in range(1 + label)]
    texts = legend(map_plot(made_sample(len(names), labels=names), "dB"))
    assert sum(text in set(names) for text in texts) == shown
    assert ("others" in texts) == others
    assert f"l{labels - 1}" in texts
    assert ("l0" in texts) != others


def test_windows_whose_level_is_unknown_have_a_map() -> None:
    points = np.array([[0, 1], [2, 3], [4, 4]], np.float32)
    levels, splits = np.full(3, np.nan, np.float32), ["train", "train", "test"]
    assert "by split and by level" in map_plot(WindowSample(points, levels, [""] * 3, splits, [""] * 3, None, 0), "dB")


def test_a_table_of_other_embeddings_is_refused(small_table: Path, tmp_path: Path) -> None:
    reduce(small_table, tmp_path / "phi", size=2)
    info = read_json(small_table / "table.json")
    info["teacher"]["embedding_size"] = 100
    write_json(tmp_path / "table" / "table.json", info)
    with pytest.raises(EdgeseaError, match=r"embeddings of 512 dimensions, and those of .* have 100; give the"):
        reduction_page(tmp_path / "phi", tmp_path / "table")
    with pytest.raises(EdgeseaError, match="make one: edgesea reduce"):
        reduction_page(tmp_path / "none", small_table)
