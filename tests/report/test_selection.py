"""The page of a model selection."""

import re
from pathlib import Path
from typing import Any

import pytest

from edgesea.artifact import write_json
from edgesea.errors import EdgeseaError
from edgesea.report import selection_page
from edgesea.report.html import MISSING


def trial(reduction: str, sampling: str | None, size: int, score: float | None, **more: Any) -> dict[str, Any]:
    return {
        "sample": None if sampling is None else {"method": sampling, "size": 1000, "seed": 0},
        "reduce": {"method": reduction, "size": size, "whiten": False},
        "dimensions": size,
        "score": score,
        "score_std": 0.01,
        "standard_error": 0.02,
        "seconds": 1.5,
        "classifier": {"layers": 1, "units": 128},
        "kept": None,
        **more,
    }


TRIALS = [
    trial("pca", "random", 8, 0.701),
    trial("pca", "dpp", 8, 0.752),
    trial("pca", "dpp", 64, 0.853, kept={"trustworthiness": 0.987, "knn_overlap": 0.61, "distance_correlation": 0.95}),
    trial("pca", "random", 64, 0.844, score_std=None),
    trial("identity", None, 512, 0.9),
]
SELECTION = {
    "task": "esc50",
    "metric": "accuracy",
    "trials": TRIALS,
    "reference": {"score": 0.88, "dimensions": 512},
    "winner": 2,
}


def rendered(folder: Path, **changes: Any) -> str:
    write_json(folder / "select.json", {**SELECTION, **changes})
    path = selection_page(folder)
    assert path == folder / "report.html"
    return path.read_text("utf-8")


def rows(html: str) -> list[list[str]]:
    return [
        [re.sub("<[^>]*>", "", cell) for cell in re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row)]
        for row in re.findall("<tr>(.*?)</tr>", html, re.DOTALL)
    ]


def texts(html: str) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]*)</text>", html)


def test_trials_are_listed_by_score(tmp_path: Path) -> None:
    head, *body = rows(rendered(tmp_path))
    assert head[:5] == ["", "sampling", "reduction", "dimensions", "accuracy"]
    assert [row[4] for row in body] == ["90.0\u00a0%", "85.3\u00a0%", "84.4\u00a0%", "75.2\u00a0%", "70.1\u00a0%"]
    assert body[0][:4] == ["1", "all windows", "identity", "512"]
    assert body[1][:7] == ["2\u00a0★", "dpp", "pca", "64", "85.3\u00a0%", "2.0", "1.0"]
    assert body[1][7:] == ["97\u00a0%", "0.987", "61\u00a0%", "0.950", "1.5 s"]
    assert body[2][6] == MISSING


def test_the_winner_is_named_with_its_uncertainty(tmp_path: Path) -> None:
    html = rendered(tmp_path)
    assert "Chosen among 5 trials on esc50: <strong>pca, 64 dimensions, dpp</strong>" in html
    assert "accuracy 85.3\u00a0%\u00a0±\u00a02.0; the unreduced teacher with 512 dimensions has 88.0\u00a0%." in html
    assert "2 other trials are within its standard error; the smallest of them has 64 dimensions (pca, random)" in html
    alone = rendered(tmp_path, trials=TRIALS[:3])
    assert "No other trial is within its standard error." in alone


def test_the_plot_names_what_it_shows(tmp_path: Path) -> None:
    shown = texts(rendered(tmp_path))
    assert {"random", "dpp", "all windows", "pca", "identity", "teacher, 512 dimensions", "chosen"} <= set(shown)
    assert {"8", "64", "512", "dimensions", "accuracy (%)"} <= set(shown)
    without = texts(rendered(tmp_path, reference=None, winner=None))
    assert not {"teacher, 512 dimensions", "chosen"} & set(without)


def test_many_lines_get_a_panel_for_each_reduction(tmp_path: Path) -> None:
    trials = [
        trial(reduction, sampling, size, 0.5 + size / 1000)
        for reduction in ("pca", "umap", "kernel_pca", "autoencoder", "identity")
        for sampling in ("random", "spl", "dpp", "kmeans")
        for size in (8, 16)
    ]
    html = rendered(tmp_path, trials=trials)
    assert html.count("<svg") == 1
    assert texts(html).count("accuracy (%)") == 2  # two rows of panels
    assert {"pca", "umap", "kernel_pca", "autoencoder", "identity"} <= set(texts(html))
    assert len(rows(html)) == 41


def test_options_that_differ_are_shown_and_others_are_not(tmp_path: Path) -> None:
    trials = [trial("pca", "spl", 8, 0.5), trial("pca", "spl", 8, 0.6), trial("umap", "spl", 8, 0.7)]
    trials[1]["reduce"]["whiten"] = True
    trials[1]["sample"]["size"] = 500
    trials[2]["reduce"]["neighbors"] = 15
    trials[0]["classifier"]["units"] = 64
    head, *body = rows(rendered(tmp_path, trials=trials, winner=0))
    assert [row[1:4] for row in body] == [
        ["spl size 1000", "umap whiten False", "units 128"],
        ["spl size 500", "pca whiten True", "units 128"],
        ["spl size 1000", "pca whiten False", "units 64"],
    ]
    assert head[3] == "classifier"


def test_failed_trials_and_unknown_metrics_are_shown(tmp_path: Path) -> None:
    trials = [trial("umap", "dpp", 4, None), trial("pca", "dpp", 4, 0.25, score_std=None, standard_error=None)]
    html = rendered(tmp_path, trials=trials, metric="mean_rank", winner=1, reference=None)
    head, *body = rows(html)
    assert "mean rank" in head
    assert [row[2] for row in body] == ["pca", "umap"]
    assert body[1][4] == MISSING
    assert "mean rank 0.250. " in html
    nothing = rendered(tmp_path, trials=trials[:1], winner=None)
    assert "1 trials, none of which was chosen." in nothing
    assert "<svg" not in nothing
    assert "none of which was chosen" in rendered(tmp_path, trials=[], winner=None)


def test_the_page_needs_nothing_from_outside_and_escapes_names(tmp_path: Path) -> None:
    html = rendered(tmp_path, trials=[trial("<b>pca</b>", "<i>", 8, 0.5)], task="<u>", winner=0)
    assert not re.search(r"https?://|<script|<link|<img|@import|url\((?!#)|\bon\w+=", html)
    assert not re.search("<b>|<i>|<u>", html)
    assert "&lt;b&gt;pca&lt;/b&gt;" in html


@pytest.mark.parametrize(
    "content",
    [
        [],
        {},
        {**SELECTION, "winner": 9},
        {**SELECTION, "trials": [{"score": 1}]},
        {**SELECTION, "trials": [trial("pca", "spl", 8, 0.5) | {"score": "high"}]},
    ],
)
def test_damaged_selections_are_refused(tmp_path: Path, content: Any) -> None:
    write_json(tmp_path / "select.json", content)
    with pytest.raises(EdgeseaError, match=r"select\.json: not what `edgesea select` writes"):
        selection_page(tmp_path)


def test_a_folder_without_a_selection_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EdgeseaError, match=r"select\.json: no such file; make one: edgesea select"):
        selection_page(tmp_path)
