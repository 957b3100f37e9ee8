import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import REPOSITORY, kill_when, make_esc50

from edgesea.artifact import read_json
from edgesea.errors import EdgeseaError
from edgesea.extract import extract
from edgesea.reduction import load_reduction
from edgesea.sampling.subset import Subset
from edgesea.select import _classifiers, _expand, select
from edgesea.tasks.evaluate import evaluate
from edgesea.tasks.options import ProbeOptions

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


def test_classifiers_are_layers_times_units() -> None:
    assert _classifiers([0, 1, 2], [128, 256]) == [(), (128,), (256,), (128, 128), (256, 256)]


def test_a_grid_is_every_combination_once() -> None:
    found = _expand("reduce", {"method": ["pca", "identity", "umap"], "size": [2, 3], "n_neighbors": [5, 10]})
    said = [(own["method"], own.get("size"), own.get("n_neighbors")) for own in found]
    # n_neighbors does not concern pca, nor anything identity.
    umap = [("umap", size, neighbors) for size in (2, 3) for neighbors in (5, 10)]
    assert said == [("pca", 2, None), ("pca", 3, None), ("identity", None, None), *umap]
    found = _expand("sample", {"method": ["random", "dpp"], "ridge": [0, 0.5]})
    assert [(own["method"], own.get("ridge")) for own in found] == [("random", None), ("dpp", 0.0), ("dpp", 0.5)]
    assert _expand("sample", {})[0]["method"] == "random"


def test_each_trial_has_the_score_that_evaluate_gives(finished: Path, data: Path) -> None:
    result = read_json(finished / "select.json")
    assert [(t["sample"]["method"], t["reduce"]["method"], t["dimensions"]) for t in result["trials"]] == [
        (method, *phi) for method in ("random", "dpp_div") for phi in (("pca", 2), ("pca", 4), ("identity", 512))
    ]
    for trial in result["trials"]:
        scores = []
        for probe in (ProbeOptions(), ProbeOptions("mlp", hidden_layer_size=8)):
            phi = finished / trial["folder"]
            scores.append(evaluate("esc50", data, "spectral", reduction=phi, probe=probe, hop=0.5)["accuracy"])
        assert trial["by_seed"]["0"] == max(scores)
        assert [own["score"] for own in trial["scores"]] == scores
        assert trial["score"] == np.mean(list(trial["by_seed"].values()))
        assert trial["score_std"] == pytest.approx(np.std(list(trial["by_seed"].values()), ddof=1))
        best = int(np.argmax(scores))
        assert trial["classifier"] == [{"layers": 0, "units": None}, {"layers": 1, "units": 8}][best]
        assert trial["standard_error"] == pytest.approx(np.sqrt(max(scores) * (1 - max(scores)) / 24))
    whole = evaluate("esc50", data, "spectral", hop=0.5)["accuracy"]
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


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"folds": [1, 9]}, ["folds", 9]),
        ({"hold_out": [1]}, ["hold_out", 2]),
        ({"hold_out": [1, 2]}, ["hold_out"]),
        ({"hold_out": [1], "folds": [1, 2]}, ["folds", 1]),
        ({"seed": -1}, ["seed", -1]),
        ({"seed": 2**32 - 9, "repeats": 10}, ["seed", 2**32 - 9]),
        ({"repeats": 0}, ["repeats", 0]),
        ({"layers": [-1]}, ["layers", -1]),
        ({"units": [0]}, ["units", 0]),
        ({"sample": {"size": 0}}, ["sample", "size", 0]),
        ({"sample": {"foo": 1}}, ["sample", "foo"]),
        ({"sample": {"method": "kmeans", "clusters": [3, 0]}}, ["sample", "clusters", 0]),
        ({"sample": {"method": ["random", "magic"]}}, ["sample", "magic"]),
        ({"sample": {"max_candidates": 0, "method": "dpp"}}, ["sample", "max_candidates", 0]),
        ({"sample": {"sensors": 2}}, ["sensors", "positions"]),
        ({"sample": {"sensors": 2, "positions": "nowhere.csv"}}, ["nowhere.csv"]),
        ({"sample": {"time_zone": "Mars/North"}}, ["Mars/North"]),
        ({"reduce": {"size": ["many"]}}, ["reduce", "size", "many"]),
        ({"reduce": {"size": []}}, ["reduce", "size"]),
        ({"reduce": {"size": 1000}}, ["reduce", "size", 1000, 512]),
        ({"reduce": {"seed": [1, 2]}}, ["reduce", "seed", "repeats"]),
    ],
)
def test_bad_input(
    data: Path,
    table: Path,
    tmp_path: Path,
    refuses: Callable[..., None],
    options: dict[str, Any],
    words: list[object],
) -> None:
    (tmp_path / "select.yaml").write_text(json.dumps(options))
    out = tmp_path / "s"
    refuses("select", table, "esc50", data, out, f"--config={tmp_path / 'select.yaml'}", words=words)
    assert not out.exists()


def copy_of(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "s", copy_function=shutil.copy2))


def test_an_edited_file_of_positions_is_another_sampling(data: Path, small_table: Path, tmp_path: Path) -> None:
    positions = tmp_path / "positions.csv"
    sampling = {"size": 12, "sensors": 2, "positions": str(positions)}
    grid = {**GRID, "sample": sampling, "reduce": {"size": 2}, "layers": [0], "workers": 1}
    for places in ("s0,0,0\ns1,0,0\ns2,50,90\n", "s0,50,90\ns1,0,0\ns2,0,0\n"):
        positions.write_text("sensor,latitude,longitude\n" + places)
        select(small_table, "esc50", data, tmp_path / "s", **grid)
        select(small_table, "esc50", data, tmp_path / "s", **grid)
        alone = "s2" if places.startswith("s0,0") else "s0"
        # Of the two that stand at the same place, a k-DPP takes only one.
        assert alone in Subset.load(tmp_path / "s/subset.parquet").info["sensors"]
    assert len(state(tmp_path / "s")) == 2


def test_combinations_that_lack_a_seed_are_not_chosen(
    finished: Path, data: Path, table: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = copy_of(finished, tmp_path)
    before = read_json(folder / "select.json")
    best = before["trials"][before["winner"]]
    sampled = [path for path in folder.glob("subsets/*") if path.name != Path(best["subset"]).name]
    (damaged,) = (p for p in sampled if (i := Subset.load(p).info)["method"] == best["sample"]["method"] and i["seed"])
    damaged.write_bytes(b"damaged")
    for path in folder.glob("trials/*/trial.json"):
        own = read_json(path)
        if own["seed"] == 1 and own["sample"] == best["sample"]:
            path.unlink()
    result = select(table, "esc50", data, folder, repeats=2, **GRID)
    assert result["left_out"] == 3
    assert result["winner"]["sample"]["method"] != best["sample"]["method"]
    entries = read_json(folder / "select.json")["trials"]
    assert [len(own["by_seed"]) for own in entries] == [1 + own["complete"] for own in entries]
    assert sum(own["complete"] for own in entries) == 3
    assert any("3 combinations lack a seed" in text for text in caplog.messages)
    grid = {**GRID, "sample": {**GRID["sample"], "method": best["sample"]["method"]}}
    with pytest.raises(EdgeseaError, match="no combination could be run with all 2 seeds"):
        select(table, "esc50", data, folder, repeats=2, **grid)


def test_the_winner_replaces_an_older_one_as_a_whole(finished: Path, data: Path, table: Path, tmp_path: Path) -> None:
    folder = copy_of(finished, tmp_path)
    (folder / "reduction" / "old.txt").write_text("of another winner")
    (folder / ".reduction.tmp").mkdir()  # killed while it copied
    shutil.rmtree(folder / "subsets")
    subset = (folder / "subset.parquet").read_bytes()
    best = read_json(folder / "select.json")
    trial = folder / best["trials"][best["winner"]]["folder"]
    (trial / "reduction.safetensors").write_bytes(b"damaged")
    select(table, "esc50", data, folder, repeats=2, **GRID)
    expected = {path.name: path.read_bytes() for path in (finished / trial.relative_to(folder)).iterdir()}
    del expected["trial.json"]
    assert {path.name: path.read_bytes() for path in (folder / "reduction").iterdir()} == expected
    assert (folder / "subset.parquet").read_bytes() == subset
    assert not list(folder.glob(".reduction*"))


def test_damaged_results_are_made_again(finished: Path, data: Path, table: Path, tmp_path: Path) -> None:
    folder = copy_of(finished, tmp_path)
    before = read_json(folder / "select.json")
    first, second, third = sorted(folder.glob("trials/*/trial.json"))[:3]
    first.write_text("{}")
    second.write_bytes(second.read_bytes()[:40])
    third.write_text("[]")
    kept = {
        key: value for key, value in state(folder).items() if key not in {p.parent.name for p in (first, second, third)}
    }
    select(table, "esc50", data, folder, repeats=2, **GRID)
    assert {key: value for key, value in state(folder).items() if key in kept} == kept
    after = read_json(folder / "select.json")
    for own in (*before["trials"], *after["trials"]):
        own["seconds"] = 0
    assert after["trials"] == before["trials"]


def test_a_larger_grid_of_classifiers_is_only_judged(finished: Path, data: Path, table: Path, tmp_path: Path) -> None:
    folder = copy_of(finished, tmp_path)
    before = read_json(folder / "select.json")["trials"]
    reductions = {path: path.stat().st_mtime_ns for path in folder.glob("trials/*/reduction*")}
    assert len(reductions) == 24
    select(table, "esc50", data, folder, repeats=2, **{**GRID, "layers": [2, 0, 1]})
    assert {path: path.stat().st_mtime_ns for path in folder.glob("trials/*/reduction*")} == reductions
    larger = read_json(folder / "select.json")["trials"]
    for old, new in zip(before, larger, strict=True):
        assert [own["layers"] for own in new["scores"]] == [2, 0, 1]
        assert new["scores"][1:] == old["scores"]
        assert new["by_seed"]["0"] == max(own["score"] for own in new["scores"])
        assert new["score"] >= old["score"]
    judged = state(folder)
    select(table, "esc50", data, folder, repeats=2, **{**GRID, "layers": [0]})
    assert state(folder) == judged
    for old, new in zip(larger, read_json(folder / "select.json")["trials"], strict=True):
        assert new["scores"] == [old["scores"][1]]
        assert new["by_seed"]["0"] == old["scores"][1]["score"]


def processes_of(parent: int) -> list[int]:
    """Ids of the worker processes of a process."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if int((path / "stat").read_text().rpartition(")")[2].split()[1]) == parent:
                command = (path / "cmdline").read_bytes()
                found += [int(path.name)] if b"popen_loky" in command else []
        except (OSError, ValueError):
            continue
    return found


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
@pytest.mark.parametrize("killed", ["a worker", "the parent", "all by Ctrl-C"])
def test_a_killed_process_is_explained_and_leaves_no_others(
    data: Path, table: Path, tmp_path: Path, killed: str
) -> None:
    folder = tmp_path / "s"
    options = ["--sample", '{"size": 30}', "--reduce", '{"size": [2, 3, 4, 5]}', "--layers", "[2]", "--repeats", "40"]
    command = [sys.executable, "-m", "edgesea.cli", "select", str(table), "esc50", str(data), str(folder), *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY / "src")}
    with (tmp_path / "err").open("w") as err:
        process = subprocess.Popen(
            command,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=err,
            # Shells start background jobs with Ctrl-C ignored.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
    try:
        while len(state(folder)) < 2:
            assert process.poll() is None, (tmp_path / "err").read_text()
            time.sleep(0.01)
        workers = processes_of(process.pid)
        assert len(workers) == 2
        for one in {"a worker": workers[:1], "the parent": [process.pid]}.get(killed, [process.pid, *workers]):
            os.kill(one, signal.SIGINT if "Ctrl-C" in killed else signal.SIGKILL)
        process.wait(60)
    finally:
        process.kill()
    text = (tmp_path / "err").read_text()
    assert "Traceback" not in text
    assert "leaked" not in text
    if killed == "a worker":
        assert process.returncode == 1
        assert "a process was killed, probably for lack of memory; choose fewer workers" in text
    if killed == "all by Ctrl-C":
        assert process.returncode == 130
        assert "Training interrupted" not in text  # a trial cut short would have a score of its own
    until = time.monotonic() + 15
    while any(Path(f"/proc/{worker}").exists() for worker in workers):
        assert time.monotonic() < until, "a worker has outlived its parent"
        time.sleep(0.05)
    done = state(folder)
    grid = {**GRID, "sample": {"size": 30}, "reduce": {"size": [2]}, "layers": [2], "units": None}
    select(table, "esc50", data, folder, repeats=2, **grid)  # the same selection goes on
    assert {key: value for key, value in state(folder).items() if key in done} == done
