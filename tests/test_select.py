import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import kill_when, make_esc50

from edgesea.errors import EdgeseaError
from edgesea.evaluate import evaluate
from edgesea.extract import extract
from edgesea.files import read_json
from edgesea.reduction import load_reduction
from edgesea.sampling.subset import Subset
from edgesea.select import _classifiers, _expand, select
from edgesea.trials import Options

GRID: dict[str, Any] = {
    "sample": {"method": ["random", "dpp_div"], "size": 30},
    "reduce": {"method": ["pca", "identity"], "size": [2, 4]},
    "layers": [0, 1],
    "units": [8],
    "hop": 0.5,
    "workers": 2,
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_esc50(tmp_path_factory.mktemp("select") / "esc50", clips=24)


@pytest.fixture(scope="module")
def table(data: Path) -> Path:
    extract(data / "audio", data.parent / "table", validate=0.2, workers=1)
    return data.parent / "table"


@pytest.fixture(scope="module")
def finished(data: Path, table: Path) -> Path:
    select(table, "esc50", data, data.parent / "selection", repeats=2, **GRID)
    return data.parent / "selection"


def expand(stage: str, grid: Options) -> list[Options]:
    from edgesea.reduction import used_options as used_by_reduce
    from edgesea.sampling import used_options as used_by_sample

    used = used_by_sample if stage == "sample" else lambda own: used_by_reduce(own["method"], own)
    return _expand(stage, grid, used)


def test_a_grid_is_every_combination_once() -> None:
    found = expand("reduce", {"method": ["pca", "identity", "umap"], "size": [2, 3], "n_neighbors": [5, 10]})
    said = [(own["method"], own.get("size"), own.get("n_neighbors")) for own in found]
    # n_neighbors does not concern pca, nor anything identity.
    umap = [("umap", size, neighbors) for size in (2, 3) for neighbors in (5, 10)]
    assert said == [("pca", 2, None), ("pca", 3, None), ("identity", None, None), *umap]
    found = expand("sample", {"method": ["random", "dpp"], "ridge": [0, 0.5]})
    assert [(own["method"], own.get("ridge")) for own in found] == [("random", None), ("dpp", 0.0), ("dpp", 0.5)]
    assert expand("sample", {})[0]["method"] == "random"


@pytest.mark.parametrize(
    ("stage", "grid", "message"),
    [
        ("sample", {"methud": "random"}, "select: sample: unknown option methud; known: method, size"),
        ("sample", {"method": ["random", "magic"]}, "select: sample: .*magic"),
        ("reduce", {"size": ["many"]}, "select: reduce: .*many"),
        ("reduce", {"size": []}, "reduce: an option has an empty list of values"),
        ("reduce", {"seed": [1, 2]}, "reduce: seed is set by select itself .see repeats"),
    ],
)
def test_bad_grids_are_refused_before_anything_runs(stage: str, grid: Options, message: str) -> None:
    with pytest.raises(EdgeseaError, match=message):
        expand(stage, grid)


def test_classifiers_are_layers_times_units() -> None:
    assert _classifiers([0, 1, 2], [128, 256]) == [(), (128,), (256,), (128, 128), (256, 256)]
    for layers, units in (([], [1]), ([1], []), ([-1], [1]), ([1], [0])):
        with pytest.raises(EdgeseaError, match="are no classifiers"):
            _classifiers(layers, units)


def test_each_trial_has_the_score_that_evaluate_gives(finished: Path, data: Path) -> None:
    result = read_json(finished / "select.json")
    assert [(t["sample"]["method"], t["reduce"]["method"], t["dimensions"]) for t in result["trials"]] == [
        (method, *phi) for method in ("random", "dpp_div") for phi in (("pca", 2), ("pca", 4), ("identity", 512))
    ]
    for trial in result["trials"]:
        scores = []
        for kind, own in (("logistic", {}), ("mlp", {"hidden_layers": 1, "hidden_size": 8})):
            phi = finished / trial["folder"]
            scores.append(
                evaluate("esc50", data, "spectral", reduction=phi, classifier=kind, hop=0.5, **own)["accuracy"]  # type: ignore[arg-type]
            )
        assert trial["by_seed"]["0"] == max(scores)
        assert [own["score"] for own in trial["scores"]] == scores
        assert trial["score"] == np.mean(list(trial["by_seed"].values()))
        assert trial["score_std"] == pytest.approx(np.std(list(trial["by_seed"].values()), ddof=1))
        best = int(np.argmax(scores))
        assert trial["classifier"] == [{"layers": 0, "units": None}, {"layers": 1, "units": 8}][best]
        assert trial["standard_error"] == pytest.approx(np.sqrt(max(scores) * (1 - max(scores)) / 24))
    whole = evaluate("esc50", data, "spectral", classifier="logistic", hop=0.5)["accuracy"]
    assert result["reference"]["score"] >= whole
    assert result["reference"]["dimensions"] == 512


def test_the_winner_is_kept_for_distill(finished: Path) -> None:
    result = read_json(finished / "select.json")
    best = result["trials"][result["winner"]]
    assert best["score"] == max(trial["score"] for trial in result["trials"])
    equal = [trial["dimensions"] for trial in result["trials"] if trial["score"] == best["score"]]
    assert best["dimensions"] == min(equal)
    for name in ("reduction.json",):
        assert (finished / "reduction" / name).read_bytes() == (finished / best["folder"] / name).read_bytes()
    assert load_reduction(finished / "reduction").output_size == best["dimensions"]
    assert Subset.load(finished / "subset.parquet").info["method"] == best["sample"]["method"]
    assert "<svg" in (finished / "report.html").read_text("utf-8")


def state(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {
        path.parent.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.glob("trials/*/trial.json")
    }


def test_a_second_call_runs_only_what_is_new(finished: Path, data: Path, table: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(finished, tmp_path / "s", copy_function=shutil.copy2))
    before = state(folder)
    assert len(before) == 12
    select(table, "esc50", data, folder, repeats=2, **GRID)
    assert state(folder) == before
    larger = {**GRID, "reduce": {"method": ["pca", "random_projection", "identity"], "size": [2, 4]}}
    result = select(table, "esc50", data, folder, repeats=2, **larger)
    assert result["trials"] == 10
    after = state(folder)
    assert len(after) == 20
    assert {key: after[key] for key in before} == before
    with pytest.raises(EdgeseaError, match=r"holds a selection made from other input or options \(framing.hop: 0.5"):
        select(table, "esc50", data, folder, **{**GRID, "hop": 0.25})


def test_killed_in_the_middle_it_goes_on(finished: Path, data: Path, table: Path, tmp_path: Path) -> None:
    folder = tmp_path / "s"
    config = {key: value for key, value in GRID.items() if key in ("sample", "reduce", "layers", "units")}
    options = [text for key, value in config.items() for text in (f"--{key}", json.dumps(value))]
    arguments = [str(table), "esc50", str(data), str(folder), "--repeats", "2", "--workers", "1", *options]
    kill_when([sys.executable, "-m", "edgesea.cli", "select", *arguments], lambda: len(state(folder)) >= 2)
    done = state(folder)
    assert 2 <= len(done) < 12
    select(table, "esc50", data, folder, repeats=2, **GRID)
    assert {key: value for key, value in state(folder).items() if key in done} == done

    def timeless(path: Path) -> list[dict[str, Any]]:
        return [{**trial, "seconds": 0} for trial in read_json(path / "select.json")["trials"]]

    assert timeless(folder) == timeless(finished)


def test_folds_held_out_take_no_part(data: Path, table: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(data, tmp_path / "esc50", copy_function=shutil.copy2))
    lines = (other / "meta/esc50.csv").read_text().splitlines()
    third = [line.replace(",1,", ",3,") if index % 3 == 1 else line for index, line in enumerate(lines)]
    (other / "meta/esc50.csv").write_text("\n".join(third) + "\n")
    grid = {**GRID, "reduce": {"size": 2}, "sample": {"size": 20}, "workers": 1, "layers": [0]}
    first = select(table, "esc50", other, tmp_path / "a", hold_out=[3], **grid)
    for line in third[1:]:
        name, fold, _ = line.split(",")
        if fold == "3":
            (other / "audio" / name).unlink()
    assert select(table, "esc50", other, tmp_path / "b", hold_out=[3], **grid)["winner"] == first["winner"]
    with pytest.raises(EdgeseaError, match=r"folds \[9\] do not exist"):
        select(table, "esc50", other, tmp_path / "c", hold_out=[9], **grid)


def test_a_trial_that_cannot_run_is_left_out(data: Path, table: Path, tmp_path: Path) -> None:
    grid = {**GRID, "sample": {"size": [4, 30]}, "reduce": {"size": 8}, "layers": [0], "workers": 1}
    result = select(table, "esc50", data, tmp_path / "s", **grid)
    assert (result["trials"], result["left_out"]) == (1, 1)
    (reason,) = read_json(tmp_path / "s/select.json")["errors"].values()
    assert "span" in reason
    with pytest.raises(EdgeseaError, match=r"no trial could be run; the first: .*span"):
        select(table, "esc50", data, tmp_path / "t", **{**grid, "sample": {"size": 4}})


def test_errors_before_the_work(data: Path, table: Path, tmp_path: Path) -> None:
    with pytest.raises(EdgeseaError, match="reduce: size 1000: the embeddings have 512 dimensions"):
        select(table, "esc50", data, tmp_path / "s", reduce={"size": [2, 1000]})
    with pytest.raises(EdgeseaError, match=r"teacher .* has 8000 dimensions and the table 512; give the"):
        select(table, "esc50", data, tmp_path / "s", teacher="callable:numpy:abs@8000")
    with pytest.raises(EdgeseaError, match="repeats must be at least 1, not 0"):
        select(table, "esc50", data, tmp_path / "s", repeats=0)
    with pytest.raises(EdgeseaError, match="no table here"):
        select(tmp_path, "esc50", data, tmp_path / "s")
    assert not (tmp_path / "s").exists()
