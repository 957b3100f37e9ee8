"""The pages of a reduction and of a model selection."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgesea.artifact import read_json, write_json
from edgesea.errors import EdgeseaError
from edgesea.reduction import reduce
from edgesea.report import report
from edgesea.report.data import label
from edgesea.sampling import sample

MISSING = "\u2013"


def rows(html: str) -> list[list[str]]:
    found = re.findall("<tr>(.*?)</tr>", html, re.DOTALL)
    return [[re.sub("<[^>]*>", "", cell) for cell in re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row)] for row in found]


def texts(html: str) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]*)</text>", html)


def words(html: str) -> str:
    """Text of a page with single spaces."""
    return re.sub(r"\s+([.,;])", r"\1", " ".join(re.sub("<[^>]*>", " ", html).split()))


def page(folder: Path, table: Path | None = None) -> str:
    return Path(report(folder, table=table)["report"]).read_text("utf-8")


# ----------------------------------------------------------------- a reduction


def test_a_reduction_has_a_page(small_table: Path, tmp_path: Path) -> None:
    sample(small_table, tmp_path / "s.parquet", size=30, seed=7)
    reduce(small_table, tmp_path / "phi", subset=tmp_path / "s.parquet", size=4)
    html = page(tmp_path / "phi", small_table)
    assert html.count("<svg") == 1
    assert not re.search(r"<script|<link|<img|@import|https?://(?!www\.w3\.org)", html)
    assert "reduced from 512 to 4 dimensions. The 30 windows of the subset were chosen by the method random" in words(
        html
    )
    assert {"by sensor", "by level", "s0", "s1", "s2"} <= set(texts(html))
    info = read_json(tmp_path / "phi/reduction.json")
    assert ["variance recovered by a linear map", f"{info['kept']['explained_variance']:.3f}", ""] in rows(html)
    plain = page(tmp_path / "phi")
    assert (plain.count("<svg"), "--table TABLE" in plain) == (0, True)


def test_what_is_known_of_a_reduction_is_shown(tmp_path: Path) -> None:
    kept = {
        "compared_windows": 1000,
        "split": "validate",
        "neighbors": 10,
        "knn_overlap": 0.6,
        "knn_overlap_chance": 0.01,
    }
    subset = {"method": "dpp", "candidates": 12345, "split": "train", "frame": "week", "seed": 3, "frames": 1040}
    info = {"method": "kernel_pca", "input_size": 512, "output_size": 2, "windows": 60, "feature_variance": 0.7}
    info |= {"explained_variance_ratio": [0.4, 0.3], "provenance": {"subset": {**subset, "mean_core": 0.934}}}
    write_json(tmp_path / "reduction.json", {**info, "kept": kept})
    text = words(page(tmp_path)).replace("\u202f", " ").replace("\u00a0", " ")
    for part in (
        "10 nearest neighbours preserved 60.0 % 1.0 %",
        "1 000 windows of the split validate.",
        "kernel&#39;s variance preserved 70.0 %",
        "the windows fitted on: 50 %: 2.",
        "by the method dpp from 12 345 windows (split train, equal shares of 1 040 strata: sensor and week",
        "The k-DPPs chose 93 % of them; the rest were drawn uniformly.",
    ):
        assert part in text
    write_json(tmp_path / "reduction.json", {**info, "kept": {**kept, "knn_overlap": None}})
    assert "too few to compare" in page(tmp_path)


def test_a_table_of_other_embeddings_is_refused(
    small_table: Path, tmp_path: Path, refuses: Callable[..., None]
) -> None:
    write_json(tmp_path / "reduction.json", {"method": "pca", "input_size": 100, "output_size": 2, "windows": 3})
    refuses("report", tmp_path, f"--table={small_table}", words=[tmp_path, 100, small_table, 512])


# ----------------------------------------------------------------- a selection


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
    return page(folder)


def test_trials_are_listed_by_score(tmp_path: Path) -> None:
    html = rendered(tmp_path)
    head, *body = rows(html)
    names = {"random", "dpp", "all windows", "pca", "identity", "teacher, 512 dimensions", "chosen", "accuracy (%)"}
    assert names | {"8", "64", "512", "dimensions"} <= set(texts(html))
    assert head[:5] == ["", "sampling", "reduction", "dimensions", "accuracy"]
    assert [row[4] for row in body] == [f"{score}\u00a0%" for score in (90.0, 85.3, 84.4, 75.2, 70.1)]
    assert body[0][:4] == ["", "all windows", "identity", "512"]
    assert body[1][:7] == ["★", "dpp", "pca", "64", "85.3\u00a0%", "2.0", "1.0"]
    assert body[1][7:] == ["97\u00a0%", "0.987", "61\u00a0%", "1.5 s"]
    assert body[2][6] == MISSING


def test_the_winner_is_named_with_its_uncertainty(tmp_path: Path) -> None:
    text = words(rendered(tmp_path)).replace("\u00a0", " ")
    assert "Chosen among 5 trials on esc50: pca, 64 dimensions, dpp with accuracy 85.3 % ± 2.0; the unreduced" in text
    assert (
        "teacher with 512 dimensions has 88.0 %. 2 other trials are within its standard error; the smallest has 64"
        in text
    )
    assert "No other trial is within its standard error." in words(rendered(tmp_path, trials=TRIALS[:3]))


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


def test_unfinished_trials_and_unknown_metrics_are_shown(tmp_path: Path) -> None:
    trials = [trial("umap", "dpp", 4, 0.9, complete=False), trial("pca", "dpp", 4, 0.25, standard_error=None)]
    html = rendered(tmp_path, trials=trials, metric="mean_rank", winner=1, reference=None)
    head, *body = rows(html)
    assert "mean rank" in head
    assert [row[:3:2] for row in body] == [["★", "pca"], [MISSING, "umap"]]
    assert "mean rank 0.250." in words(html)
    assert "not all seeds could be run" in words(html)


def test_names_are_escaped(tmp_path: Path) -> None:
    html = rendered(tmp_path, trials=[trial("<b>pca</b>", "<i>", 8, 0.5)], task="<u>", winner=0)
    assert not re.search("<b>|<i>|<u>", html)
    assert "&lt;b&gt;pca&lt;/b&gt;" in html
    assert label("sonycnode-b827eb0fedda.sonyc", 13) == "sonycn….sonyc"
    assert label("a\nb\udce9") == "a?b?"


@pytest.mark.parametrize(
    "content",
    [
        [],
        {**SELECTION, "winner": 9},
        {**SELECTION, "trials": [trial("pca", "spl", 8, 0.5) | {"score": "high"}]},
    ],
)
def test_damaged_selections_are_refused(tmp_path: Path, content: Any) -> None:
    write_json(tmp_path / "select.json", content)
    with pytest.raises(EdgeseaError, match=re.escape(str(tmp_path / "select.json"))):
        report(tmp_path)
