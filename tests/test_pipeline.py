import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import kill_when, make_esc50
from stored import stamps

from edgesea import cli
from edgesea.errors import EdgeseaError
from edgesea.pipeline import read_config, run
from edgesea.reduction import load_reduction
from edgesea.sampling.subset import Subset

ARTIFACTS = ("table", "subset.parquet", "reduction", "student", "evaluate")
EXPERIMENT = """
extract:
  source: ${EDGESEA_DATA}/meta/esc50.csv
  root: ${EDGESEA_DATA}/audio
  columns: {path: filename}
  validate: fold=2
  part_clips: 6
  workers: 1
  device: cpu
sample: {size: 15}
reduce: {size: 3}
distill: {filters: [4, 4, 8, 8], n_mels: 16, epochs: 6, epoch_size: 8, batch_size: 4, device: cpu}
evaluate: {task: esc50, data: "${EDGESEA_DATA}", workers: 1, device: cpu}
"""


def experiment(path: Path, data: Path, changes: Mapping[str, Mapping[str, Any]] | None = None) -> Path:
    """Write the experiment on `data`, with changed options, as YAML."""
    sections = yaml.safe_load(EXPERIMENT.replace("${EDGESEA_DATA}", str(data)))
    for section, options in (changes or {}).items():
        sections[section] = {**sections.get(section, {}), **options}
    path.write_text(yaml.safe_dump(sections))
    return path


def times(out: Path) -> dict[str, dict[str, int]]:
    """When each file of each artifact was written."""
    files = {name: [out / name, *(out / name).rglob("*")] for name in ARTIFACTS}
    return {name: {str(path): path.stat().st_mtime_ns for path in files[name] if path.is_file()} for name in files}


def redone(before: dict[str, dict[str, int]], out: Path) -> list[str]:
    """The artifacts of which no file is as it was."""
    after = times(out)
    for name in ARTIFACTS:
        assert after[name] == before[name] or not set(after[name].items()) & set(before[name].items())
    return [name for name in ARTIFACTS if after[name] != before[name]]


def scores(out: Path) -> dict[str, Any]:
    """results.json without what may differ between two runs of the same experiment: paths and speed."""
    results = json.loads((out / "results.json").read_text())
    evaluated = {name: {**result, "model": "", "reduction": ""} for name, result in results["evaluate"].items()}
    dropped = ("table", "subset", "reduction", "student", "windows_per_second", "hours_per_hour")
    stages = {name: results[name] for name in ("extract", "sample", "reduce", "distill")}
    kept = {name: {k: v for k, v in stage.items() if k not in dropped} for name, stage in stages.items()}
    return {**kept, "evaluate": evaluated}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_esc50(tmp_path_factory.mktemp("pipeline") / "esc50")


@pytest.fixture(scope="module")
def finished(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pipeline")
    run(experiment(folder / "tiny.yaml", data), out=folder / "run")
    return folder / "run"


@pytest.fixture
def again(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished run."""
    shutil.copytree(finished, tmp_path / "run")
    return tmp_path / "run"


def test_a_run_holds_every_artifact_and_the_scores(finished: Path) -> None:
    results = json.loads((finished / "results.json").read_text())
    assert list(results["evaluate"]) == ["teacher", "reduced", "student"]
    for system, size in (("teacher", 512), ("reduced", 3), ("student", 3)):
        assert 0 <= results["evaluate"][system]["accuracy"] <= 1
        assert results["evaluate"][system]["embedding_size"] == size
        assert json.loads((finished / "evaluate" / f"{system}.json").read_text()) == results["evaluate"][system]
    assert results["evaluate"]["teacher"]["accuracy"] > 0.9
    assert results["distill"]["r2"] <= 1
    assert results["extract"]["windows_by_split"] == {"train": 20, "validate": 20}
    assert (results["sample"]["windows"], results["reduce"]["windows"]) == (15, 15)
    assert len(Subset.load(finished / "subset.parquet")) == 15
    assert set(results["seconds"]) == {"extract", "sample", "reduce", "distill", "evaluate"}
    assert results["versions"]["edgesea"]
    assert (finished / "report.html").is_file()


def test_the_configuration_of_a_run_repeats_it(finished: Path) -> None:
    config = yaml.safe_load((finished / "config.yaml").read_text())
    assert config["extract"]["teacher"] == "spectral"  # defaults are written out
    before = times(finished)
    run(finished / "config.yaml", out=finished)
    assert redone(before, finished) == []


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"reduce": {"size": 2}}, ["reduction", "student", "evaluate"]),
        ({"evaluate": {"seed": 1}}, ["evaluate"]),
        ({"distill": {"epochs": 2}}, ["student", "evaluate"]),
        ({"sample": {"size": 9}}, ["subset.parquet", "reduction", "student", "evaluate"]),
        ({"extract": {"workers": 2}, "evaluate": {"workers": 3}, "distill": {"device": "auto"}}, []),
    ],
)
def test_what_depends_on_a_change_is_done_again(
    again: Path, data: Path, tmp_path: Path, changes: dict[str, dict[str, Any]], expected: list[str]
) -> None:
    before = times(again)
    run(experiment(tmp_path / "tiny.yaml", data, changes), out=again)
    assert redone(before, again) == expected


@pytest.mark.parametrize("source", ["manifest", "folder"])
def test_a_changed_recording_is_extracted_again(data: Path, tmp_path: Path, source: str) -> None:
    """But not for the sake of a run that lies below its source."""
    copy = tmp_path / "data"
    out = copy / "audio" / "run"
    shutil.copytree(data, copy)
    changes: dict[str, dict[str, Any]] = {"distill": {"epochs": 1}, "evaluate": {"folds": [2]}}
    if source == "folder":
        changes["extract"] = {"source": str(copy / "audio"), "root": None, "columns": None, "validate": 0.3}
    path = experiment(tmp_path / "tiny.yaml", copy, changes)
    run(path, out=out)
    before = times(out)
    run(path, out=out)
    assert redone(before, out) == []
    os.utime(copy / "audio" / "07.wav")
    run(path, out=out)
    assert redone(before, out) == list(ARTIFACTS)


def test_an_artifact_half_deleted_is_not_taken_for_finished(
    again: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed while it removes the artifacts of old options, then started again with the old options."""
    expected = scores(again)
    changed = experiment(tmp_path / "changed.yaml", data, {"reduce": {"size": 2}})

    def killed_rmtree(path: Path) -> None:
        (path / "reduction.safetensors").unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", killed_rmtree)
        with pytest.raises(KeyboardInterrupt):
            run(changed, out=again)
    run(experiment(tmp_path / "tiny.yaml", data), out=again)
    assert load_reduction(again / "reduction").output_size == 3
    assert scores(again) == expected


def test_a_failing_stage_leaves_what_is_finished_and_without_evaluate_the_run_ends_with_the_student(
    data: Path, tmp_path: Path
) -> None:
    path, out = experiment(tmp_path / "tiny.yaml", data, {"reduce": {"size": 1000}}), tmp_path / "run"
    with pytest.raises(EdgeseaError, match="1000"):
        run(path, out=out)
    table = (out / "table" / "table.json").stat().st_mtime_ns
    sections = yaml.safe_load(experiment(path, data, {"distill": {"epochs": 1}}).read_text())
    del sections["evaluate"], sections["sample"]  # without a section, a stage has its defaults
    path.write_text(yaml.safe_dump(sections))
    results = run(path, out=out)
    assert (out / "table" / "table.json").stat().st_mtime_ns == table
    assert "evaluate" not in results
    assert results["sample"]["windows"] == 20
    assert (out / "student" / "model.safetensors").is_file()
    assert not (out / "evaluate").exists()


@pytest.mark.parametrize("stage", ["extract", "distill"])
def test_a_killed_run_ends_as_if_it_had_not_been_killed(finished: Path, data: Path, tmp_path: Path, stage: str) -> None:
    path, out = experiment(tmp_path / "tiny.yaml", data), tmp_path / "run"
    begun = {"extract": out / "table/clips/part-00000.parquet", "distill": out / "student/metrics.csv"}[stage]
    command = ["run", str(path), "--out", str(out)]
    assert kill_when([sys.executable, "-m", "edgesea", *command], begun.exists) == -signal.SIGKILL
    assert not json.loads((out / "stages.json").read_text())["stages"].get("distill", {}).get("finished")
    assert cli.main(command) == 0
    assert scores(out) == scores(finished)


def test_environment_variables_are_filled_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "e.yaml"
    path.write_text("extract: {source: $PLACE/x, root: '${EDGESEA_DATA}/audio', teacher: 'onnx:$$x'}")
    monkeypatch.setenv("PLACE", "/somewhere")
    monkeypatch.delenv("EDGESEA_DATA", raising=False)
    options = read_config(path)["extract"]
    assert (options["source"], options["teacher"]) == (Path("/somewhere/x"), "onnx:$x")
    assert options["root"] == Path("data/audio")  # its default is ./data
    monkeypatch.setenv("EDGESEA_DATA", "/elsewhere")
    assert read_config(path)["extract"]["root"] == Path("/elsewhere/audio")


def test_another_classifier_uses_the_same_embeddings(again: Path, data: Path, tmp_path: Path) -> None:
    for name in ("mlp", "svm"):  # the first embeds again, since the run has moved
        before = stamps(again / "cache")
        changed = experiment(tmp_path / "mine.yaml", data, {"evaluate": {"probe": {"classifier": name}}})
        assert run(changed, out=again)["evaluate"]["student"]["probe"]["classifier"] == name
    assert stamps(again / "cache") == before


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("extract: {source: a}\nreduced: {size: 3}", ["reduced", "reduce"]),
        ("extract: {source: a}\nreduce: {sise: 3}", ["reduce", "sise", "size"]),
        ("extract: {source: a}\nreduce: {table: x}", ["reduce", "table"]),
        ("extract: {source: a}\nreduce: {size: 1.5}", ["reduce", "size", 1.5]),
        ("extract: {source: a}\nreduce: {size: null}", ["reduce", "size", "null"]),
        ("extract: {source: a}\nsample: {method: magic}", ["sample", "method", "magic", "random"]),
        ("extract: {source: a}\nevaluate: {task: esc50, data: gone}", ["gone", "esc50"]),
        ("extract: {source: a}\nevaluate: {task: esc50, data: DATA, folds: [7]}", ["folds", 7]),
        ("extract: {source: a}\nevaluate: {task: esc50, data: DATA, seed: -1}", ["seed", -1]),
        ("extract: {source: a}\nevaluate: {task: esc50, data: DATA, tagging: {members: 1}}", ["esc50", "probe"]),
        ("extract: {source: a}\nevaluate: {task: esc50, data: DATA, probe: {depth: 1}}", ["evaluate", "depth"]),
        ("extract: {teacher: spectral}", ["extract", "source"]),
        ("sample: {size: 3}", ["extract"]),
        ("extract: [a]", ["extract", "mapping"]),
        ("extract: {source: a}\nreduce: 0", ["reduce", "mapping"]),
        ("", ["bad.yaml", "mapping"]),
        ("extract: {source: a", ["bad.yaml", "YAML"]),
        (b"\xff\xfe\x00binary\x80", ["bad.yaml", "YAML"]),
        (None, ["bad.yaml", "No such file"]),
    ],
)
def test_bad_input(
    data: Path, tmp_path: Path, refuses: Callable[..., None], text: str | bytes | None, words: list[object]
) -> None:
    path = tmp_path / "bad.yaml"
    if text is not None:
        path.write_bytes(text.replace("DATA", str(data)).encode() if isinstance(text, str) else text)
    refuses("run", path, f"--out={tmp_path / 'run'}", words=words)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("kind", ["files", "another stages.json", "file"])
def test_a_place_that_holds_something_else_is_refused_and_left_alone(
    data: Path, tmp_path: Path, refuses: Callable[..., None], kind: str
) -> None:
    out = tmp_path / "mine"
    if kind == "file":
        out.write_text("precious")
    else:
        (out / "table").mkdir(parents=True)
        (out / "table" / "thesis.txt").write_text("precious")
        if kind == "another stages.json":
            (out / "stages.json").write_text('{"stages": ["of", "grief"]}')
    before = stamps(tmp_path)
    refuses("run", experiment(tmp_path.with_suffix(".yaml"), data), f"--out={out}", words=[out])
    assert stamps(tmp_path) == before
