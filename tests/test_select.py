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
from conftest import REPOSITORY, make_esc50

from edgesea.artifact import read_json
from edgesea.errors import EdgeseaError
from edgesea.extract import extract
from edgesea.reduction import load_reduction
from edgesea.sampling.subset import Subset
from edgesea.select import _classifiers, _expand, select
from edgesea.tasks.evaluate import evaluate
from edgesea.tasks.options import ProbeOptions

Run = Callable[..., dict[str, Any]]
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
def run(data: Path, table: Path) -> Run:
    """`select` with the options of GRID and others."""
    return lambda folder, **options: select(table, "esc50", data, folder, **{"repeats": 2, **GRID, **options})


@pytest.fixture(scope="module")
def finished(run: Run, data: Path) -> Path:
    run(data.parent / "selection")
    return data.parent / "selection"


@pytest.fixture
def folder(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished selection."""
    return Path(shutil.copytree(finished, tmp_path / "s", copy_function=shutil.copy2))


def state(folder: Path, names: str = "trial.json") -> dict[Path, tuple[int, bytes]]:
    paths = folder.glob(f"trials/*/{names}")
    return {path.relative_to(folder): (path.stat().st_mtime_ns, path.read_bytes()) for path in paths}


def trials(folder: Path) -> list[dict[str, Any]]:
    """What select.json lists, without the seconds that it took."""
    return [{**trial, "seconds": 0} for trial in read_json(folder / "select.json")["trials"]]


def test_a_grid_is_every_combination_once():
    assert _classifiers([0, 1, 2], [128, 256]) == [(0, None), (1, 128), (1, 256), (2, 128), (2, 256)]
    found = _expand("reduce", {"method": ["pca", "identity", "umap"], "size": [2, 3], "n_neighbors": [5, 10]})
    # n_neighbors does not concern pca, nor anything identity.
    umap = [("umap", size, neighbors) for size in (2, 3) for neighbors in (5, 10)]
    expected = [("pca", 2, None), ("pca", 3, None), ("identity", None, None), *umap]
    assert [(phi["method"], phi.get("size"), phi.get("n_neighbors")) for phi in found] == expected
    found = _expand("sample", {"method": ["random", "dpp"], "ridge": [0, 0.5]})
    assert [(one["method"], one.get("ridge")) for one in found] == [("random", None), ("dpp", 0.0), ("dpp", 0.5)]
    assert _expand("sample", {})[0]["method"] == "random"


def test_each_trial_has_the_score_that_evaluate_gives_and_the_best_wins(finished, data):
    result = read_json(finished / "select.json")
    assert [(t["sample"]["method"], t["reduce"]["method"], t["dimensions"]) for t in result["trials"]] == [
        (method, *phi) for method in ("random", "dpp_div") for phi in (("pca", 2), ("pca", 4), ("identity", 512))
    ]
    for trial in result["trials"]:
        phi, probes = finished / trial["folder"], (ProbeOptions(), ProbeOptions("mlp", hidden_layer_size=8))
        scores = [evaluate("esc50", data, "spectral", reduction=phi, probe=p, hop=0.5)["accuracy"] for p in probes]
        assert [each["score"] for each in trial["scores"]] == scores
        best, by_seed = max(scores), list(trial["by_seed"].values())
        assert (by_seed[0], trial["score"]) == (best, np.mean(by_seed))
        assert trial["score_std"] == pytest.approx(np.std(by_seed, ddof=1))
        assert trial["classifier"] == [{"layers": 0, "units": None}, {"layers": 1, "units": 8}][scores.index(best)]
        assert trial["standard_error"] == pytest.approx(np.sqrt(best * (1 - best) / 24))
    assert result["reference"]["score"] >= evaluate("esc50", data, "spectral", hop=0.5)["accuracy"]
    assert result["reference"]["dimensions"] == 512
    winner = result["trials"][result["winner"]]
    # Of equally good ones the smallest.
    assert winner == max(result["trials"], key=lambda trial: (trial["score"], -trial["dimensions"]))
    assert load_reduction(finished / "reduction").output_size == winner["dimensions"]
    assert Subset.load(finished / "subset.parquet").info["method"] == winner["sample"]["method"]


def test_a_second_call_runs_only_what_is_new(folder, run):
    before, first, reductions = state(folder), trials(folder), state(folder, "reduction*")
    assert (len(before), len(reductions)) == (12, 24)
    run(folder)
    assert state(folder) == before
    result = run(folder, reduce={"method": ["pca", "random_projection", "identity"], "size": [2, 4]})
    assert result["trials"] == 10
    after = state(folder)
    assert len(after) == 20
    assert before.items() <= after.items()
    with pytest.raises(EdgeseaError, match=r"framing.hop: 0.5 there, 0.25 here"):
        run(folder, hop=0.25)
    # More classifiers need no other reductions.
    run(folder, layers=[2, 0, 1])
    larger, scored = trials(folder), state(folder)
    for old, new in zip(first, larger, strict=True):
        assert [each["layers"] for each in new["scores"]] == [2, 0, 1]
        assert new["scores"][1:] == old["scores"]
        assert new["by_seed"]["0"] == max(each["score"] for each in new["scores"])
    run(folder, layers=[0])
    assert state(folder) == scored
    assert reductions.items() <= state(folder, "reduction*").items()
    for old, new in zip(larger, trials(folder), strict=True):
        assert new["scores"] == [old["scores"][1]]
        assert new["by_seed"]["0"] == old["scores"][1]["score"]


def test_damaged_and_missing_results_are_made_again(folder, run):
    before, whole = trials(folder), state(folder)
    paths = sorted(folder.glob("trials/*/trial.json"))[:4]
    for path, text in zip(paths, ("{}", "[]", paths[2].read_text()[:40], ""), strict=True):
        path.write_text(text)
    paths[3].unlink()  # killed while it fitted or scored
    (paths[3].parent / "reduction.json").unlink()
    others = {path: whole[path] for path in state(folder) if folder / path not in paths}
    run(folder)
    assert others.items() <= state(folder).items()
    assert trials(folder) == before


def test_folds_held_out_take_no_part(data, table, tmp_path):
    other = Path(shutil.copytree(data, tmp_path / "esc50", copy_function=shutil.copy2))
    lines = (other / "meta/esc50.csv").read_text().splitlines()
    third = [line.replace(",1,", ",3,") if index % 3 == 1 else line for index, line in enumerate(lines)]
    (other / "meta/esc50.csv").write_text("\n".join(third) + "\n")
    grid = {**GRID, "reduce": {"size": 2}, "sample": {"size": 20}, "workers": 1, "layers": [0]}
    first = select(table, "esc50", other, tmp_path / "a", hold_out=[3], **grid)
    for name, fold, _ in (line.split(",") for line in third[1:]):
        if fold == "3":
            (other / "audio" / name).unlink()
    assert select(table, "esc50", other, tmp_path / "b", hold_out=[3], **grid)["winner"] == first["winner"]
    with pytest.raises(EdgeseaError, match=r"folds \[9\] do not exist"):
        select(table, "esc50", other, tmp_path / "c", hold_out=[9], **grid)


def test_a_trial_that_cannot_run_is_left_out(run, tmp_path):
    grid: dict[str, Any] = {"reduce": {"size": 8}, "layers": [0], "workers": 1, "repeats": 1}
    result = run(tmp_path / "s", **grid, sample={"size": [4, 30]})
    assert (result["trials"], result["left_out"]) == (1, 1)
    (reason,) = read_json(tmp_path / "s/select.json")["errors"].values()
    assert "span" in reason
    with pytest.raises(EdgeseaError, match="span"):
        run(tmp_path / "t", **grid, sample={"size": 4})


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
        ({"sample": {"foo": 1}}, ["sample", "foo"]),
        ({"sample": {"method": "kmeans", "clusters": [3, 0]}}, ["clusters", 0]),
        ({"sample": {"method": ["random", "magic"]}}, ["sample", "magic"]),
        ({"sample": {"sensors": 2}}, ["sensors", "positions"]),
        ({"sample": {"sensors": 2, "positions": "nowhere.csv"}}, ["nowhere.csv"]),
        ({"sample": {"time_zone": "Mars/North"}}, ["Mars/North"]),
        ({"reduce": {"size": []}}, ["reduce", "size"]),
        ({"reduce": {"size": 1000}}, ["reduce", "size", 1000, 512]),
        ({"reduce": {"seed": [1, 2]}}, ["reduce", "seed"]),
    ],
)
def test_bad_input(data, table, tmp_path, refuses, options, words):
    (tmp_path / "select.yaml").write_text(json.dumps(options))
    out = tmp_path / "s"
    refuses("select", table, "esc50", data, out, f"--config={tmp_path / 'select.yaml'}", words=words)
    assert not out.exists()


def test_an_edited_file_of_positions_is_another_sampling(data, small_table, tmp_path):
    positions = tmp_path / "positions.csv"
    sampling = {"size": 12, "sensors": 2, "positions": str(positions)}
    grid = {**GRID, "sample": sampling, "reduce": {"size": 2}, "layers": [0], "workers": 1}
    # Of the two that stand at the same place, a k-DPP takes only one.
    for alone, places in (("s2", "s0,0,0\ns1,0,0\ns2,50,90\n"), ("s0", "s0,50,90\ns1,0,0\ns2,0,0\n")):
        positions.write_text("sensor,latitude,longitude\n" + places)
        for _ in range(2):
            select(small_table, "esc50", data, tmp_path / "s", **grid)
        assert alone in Subset.load(tmp_path / "s/subset.parquet").info["sensors"]
    assert len(state(tmp_path / "s")) == 2


def test_combinations_that_lack_a_seed_are_not_chosen(folder, run):
    before = read_json(folder / "select.json")
    best = before["trials"][before["winner"]]
    sampling = best["sample"]
    infos = {path: Subset.load(path).info for path in folder.glob("subsets/*")}
    (second,) = (path for path, info in infos.items() if (info["method"], info["seed"]) == (sampling["method"], 1))
    second.write_bytes(b"damaged")
    for path in folder.glob("trials/*/trial.json"):
        trial = read_json(path)
        if (trial["seed"], trial["sample"]) == (1, sampling):
            shutil.rmtree(path.parent)
    result = run(folder)
    assert result["left_out"] == 3
    assert result["winner"]["sample"]["method"] != sampling["method"]
    complete = [(trial["complete"], len(trial["by_seed"])) for trial in trials(folder)]
    assert sorted(complete) == [(False, 1)] * 3 + [(True, 2)] * 3
    with pytest.raises(EdgeseaError, match="all 2 seeds"):
        run(folder, sample={**GRID["sample"], "method": sampling["method"]})


def test_the_winner_replaces_an_older_one_as_a_whole(folder, finished, run):
    (folder / "reduction" / "old.txt").write_text("of another winner")
    shutil.rmtree(folder / "subsets")
    best = read_json(folder / "select.json")
    trial = best["trials"][best["winner"]]["folder"]
    (folder / trial / "reduction.safetensors").write_bytes(b"damaged")
    run(folder)
    expected = {path.name: path.read_bytes() for path in (finished / trial).glob("reduction*")}
    assert {path.name: path.read_bytes() for path in (folder / "reduction").iterdir()} == expected
    assert (folder / "subset.parquet").read_bytes() == (finished / "subset.parquet").read_bytes()


def processes_of(parent: int) -> list[int]:
    """Ids of the worker processes of a process."""
    children = [
        int(pid) for file in Path(f"/proc/{parent}/task").glob("*/children") for pid in file.read_text().split()
    ]
    return [pid for pid in children if b"popen_loky" in Path(f"/proc/{pid}/cmdline").read_bytes()]


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
@pytest.mark.parametrize(("killed", "code"), [("a worker", 1), ("the parent", -signal.SIGKILL), ("all by Ctrl-C", 130)])
def test_a_killed_process_is_explained_leaves_no_others_and_resumes(data, table, run, tmp_path, killed, code):
    folder = tmp_path / "s"
    options = ["--sample", '{"size": 30}', "--reduce", '{"size": [2, 3, 4, 5]}', "--layers", "[2]", "--repeats", "40"]
    command = [sys.executable, "-m", "edgesea", "select", str(table), "esc50", str(data), str(folder), *options]
    process = subprocess.Popen(
        command,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY / "src")},
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # shells ignore Ctrl-C in background jobs
    )
    try:
        while len(state(folder)) < 2:
            assert process.poll() is None, process.communicate()[1]
            time.sleep(0.01)
        workers = processes_of(process.pid)
        assert len(workers) == 2
        for pid in {"a worker": workers[:1], "the parent": [process.pid]}.get(killed, [process.pid, *workers]):
            os.kill(pid, signal.SIGINT if "Ctrl-C" in killed else signal.SIGKILL)
        text = process.communicate(timeout=60)[1]  # until the last worker has closed it
    finally:
        process.kill()
    assert process.returncode == code
    # A trial cut short would have a score of its own; when the parent is killed, joblib tidies up after it, aloud.
    bad = ("Traceback", "Training interrupted", *(["leaked"] if killed != "the parent" else []))
    assert not [word for word in bad if word in text]
    assert ("choose fewer workers" in text) == (killed == "a worker")
    assert not any(Path(f"/proc/{worker}/fd/2").exists() for worker in workers)
    done = state(folder)
    run(folder, sample={"size": 30}, reduce={"size": [2]}, layers=[2], units=None)
    assert done.items() <= state(folder).items()
