import json
import os
import shutil
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from conftest import kill_when, make_esc50
from stored import stamps

from edgesea import cli
from edgesea.artifact import digest, locked
from edgesea.errors import EdgeseaError
from edgesea.pipeline import STAGES, run
from edgesea.reduction import load_reduction
from edgesea.sampling.subset import Subset

ARTIFACTS = ("table", "subset.parquet", "reduction", "student", "evaluate")
EXPERIMENT = """
extract:
  source: ${EDGESEA_DATA}/meta/esc50.csv
  root: ${EDGESEA_DATA}/audio
  columns: {path: filename}
  validate: fold=2
  sample_rate: 8000
  part_clips: 6
  workers: 1
  device: cpu
sample: {size: 15}
reduce: {size: 3}
distill: {student: sea-64, filters: [4, 4, 8, 8], n_mels: 16, epochs: 6, epoch_size: 8, batch_size: 4, device: cpu}
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
    dropped = ("table", "subset", "reduction", "student", "windows_per_second", "hours_per_hour", "speed")
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


def test_a_run_holds_every_artifact_and_the_scores(finished):
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


def test_the_configuration_of_a_run_repeats_it(finished):
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
def test_what_depends_on_a_change_is_done_again(again, data, tmp_path, changes, expected):
    before = times(again)
    run(experiment(tmp_path / "tiny.yaml", data, changes), out=again)
    assert redone(before, again) == expected


def test_a_changed_further_table_trains_again(again, data, tmp_path, train_only_table):
    other = shutil.copytree(train_only_table, tmp_path / "other")
    also = experiment(tmp_path / "tiny.yaml", data, {"distill": {"also": [str(other)], "epochs": 1}})
    before = times(again)
    run(also, out=again)
    assert redone(before, again) == ["student", "evaluate"]
    assert run(also, out=again, dry_run=True)["distill"] == "up to date"
    (other / "table.json").write_text((other / "table.json").read_text() + "\n")
    found = run(also, out=again, dry_run=True)
    assert "table.json" in found["distill"], found
    assert found["reduce"] == "up to date"


@pytest.mark.parametrize("source", ["manifest", "folder"])
def test_a_changed_recording_is_extracted_again_and_a_copied_one_is_not(data, tmp_path, source, caplog):
    """Nor is anything for the sake of a run that lies below its source."""
    copy = tmp_path / "data"
    out = copy / "audio" / "run"
    shutil.copytree(data, copy)
    changes: dict[str, dict[str, Any]] = {"distill": {"epochs": 1}, "evaluate": {"folds": [2]}}
    if source == "folder":
        changes["extract"] = {"source": str(copy / "audio"), "root": None, "columns": None, "validate": 0.3}
    run(experiment(tmp_path / "tiny.yaml", copy, changes), out=out)
    before = times(out)
    copy = copy.rename(tmp_path / "moved")
    out, before = (
        copy / "audio" / "run",
        {name: {k.replace("/data/", "/moved/"): v for k, v in files.items()} for name, files in before.items()},
    )
    for path in (*(copy / "audio").glob("*.wav"), *(copy / "meta").iterdir()):
        os.utime(path)
    if source == "folder":
        changes["extract"]["source"] = str(copy / "audio")
    path = experiment(tmp_path / "tiny.yaml", copy, changes)
    run(path, out=out)
    assert redone(before, out) == []
    with (copy / "audio" / "07.wav").open("r+b") as file:  # without a change of size
        file.seek(-9, os.SEEK_END)
        file.write(b"x")
    os.utime(copy / "audio" / "07.wav", (1, 1))
    with caplog.at_level("INFO", "edgesea"):
        run(path, out=out)
    assert redone(before, out) == list(ARTIFACTS)
    assert "07.wav" in caplog.text


def slow(out: Path, stage: str, seconds: float = 3600.0) -> None:
    """As if a stage had taken long."""
    found = json.loads((out / "stages.json").read_text())
    found["stages"][stage]["seconds"] = seconds
    (out / "stages.json").write_text(json.dumps(found))


def test_what_took_long_is_moved_aside_and_a_dry_run_says_so(again, data, tmp_path, capsys, caplog):
    for stage in ("reduce", "distill"):
        slow(again, stage)
    path, before = experiment(tmp_path / "tiny.yaml", data, {"reduce": {"size": 2}}), stamps(again)
    assert cli.main(["run", str(path), f"--out={again}", "--dry-run"]) == 0
    steps = json.loads(capsys.readouterr().out)
    assert stamps(again) == before
    assert "start" in run(path, out=tmp_path / "new", dry_run=True)["extract"]
    assert not (tmp_path / "new").exists()
    assert steps["extract"] == steps["sample"] == "up to date"
    assert all(word in steps["reduce"] for word in ("redo", "size: 3 there, 2 here", "moved aside"))
    assert all(word in steps["distill"] for word in ("redo", "another reduction", "moved aside"))
    assert "moved aside" not in steps["evaluate"]
    reduction = (again / "reduction" / "reduction.safetensors").read_bytes()
    run(path, out=again)
    assert (again / "reduction.old-1" / "reduction.safetensors").read_bytes() == reduction
    assert "reduction.old-1" in caplog.text
    assert (again / "student.old-1" / "model.safetensors").exists()
    assert not list(again.glob("evaluate.old*"))
    assert load_reduction(again / "reduction").output_size == 2


def test_a_wrong_value_costs_no_artifact(again, data, tmp_path):
    slow(again, "reduce")
    before = times(again)
    for wrong in ({"extract": {"teacher": "spectrl"}}, {"reduce": {"method": "pcb"}}):
        with pytest.raises(EdgeseaError, match=r"spectrl|pcb"):
            run(experiment(tmp_path / "tiny.yaml", data, wrong), out=again)
    run(experiment(tmp_path / "tiny.yaml", data), out=again)
    assert redone(before, again) == []


def test_what_is_unfinished_but_took_long_and_what_is_not_known_is_moved_aside(again, data, tmp_path):
    found = json.loads((again / "stages.json").read_text())["stages"]
    found["extract"] = {key: found["extract"][key] for key in ("plan", "accepted")} | {
        "finished": False,
        "seconds": 0.0,
    }
    found["extract"]["began"] = (again / "table" / "table.json").stat().st_mtime - 90  # and then killed
    del found["sample"]["plan"]  # as recorded by an older edgesea
    (again / "stages.json").write_text(json.dumps({"format": "edgesea run", "stages": found}))
    run(experiment(tmp_path / "tiny.yaml", data, {"extract": {"hop": 0.4}}), out=again)
    assert sorted(path.name for path in again.glob("*.old-*")) == ["subset.parquet.old-1", "table.old-1"]
    assert (again / "table.old-1" / "table.json").exists()


def test_an_option_that_an_older_edgesea_did_not_have_had_its_default(again, data, tmp_path):
    found = json.loads((again / "stages.json").read_text())
    for stage, option in (("extract", "center"), ("distill", "mask"), ("evaluate", "seed")):
        del found["stages"][stage]["plan"][option]
    del found["stages"]["evaluate"]["plan"]["probe"]["search"]
    (again / "stages.json").write_text(json.dumps(found))
    path = experiment(tmp_path / "tiny.yaml", data)
    # What reads the table is known by what is recorded of the table.
    for stage, plan in ((stage, one["plan"]) for stage, one in found["stages"].items()):
        plan["needs"] = {
            STAGES[need].artifact: digest(found["stages"][need]["plan"])[:12] for need in STAGES[stage].inputs.values()
        }
    (again / "stages.json").write_text(json.dumps(found))
    assert set(run(path, out=again, dry_run=True).values()) == {str(again), "up to date"}


def test_seconds_add_up_over_processes(again, data, tmp_path):
    slow(again, "extract", 100.0)
    (again / "table" / "clips" / "part-00001.parquet").unlink()
    before, path = stamps(again), experiment(tmp_path / "tiny.yaml", data)
    seconds = run(path, out=again)["seconds"]
    assert 100 <= seconds["extract"] < 160
    assert seconds["sample"] < 60
    other = again / "table" / "clips" / "part-00000.parquet"
    assert stamps(again)[other] == before[other]  # the missing part is made, and nothing else
    assert (again / "table" / "clips" / "part-00001.parquet").exists()


def test_another_share_of_skipped_clips_deletes_nothing(data, tmp_path, refuses):
    copy, out = tmp_path / "data", tmp_path / "run"
    shutil.copytree(data, copy)
    (copy / "audio" / "07.wav").write_text("no audio")
    sections = {"distill": {"epochs": 1}, "evaluate": {"folds": [2]}}
    allowed, strict = (
        experiment(tmp_path / f"{share}.yaml", copy, {**sections, "extract": {"max_skipped": share}})
        for share in (0.5, 0.0)
    )
    for path in (allowed, strict):
        sections = yaml.safe_load(path.read_text())
        del sections["evaluate"]
        path.write_text(yaml.safe_dump(sections))
    refuses("run", strict, f"--out={out}", words=["1 of 20", "07.wav", "max_skipped"])
    parts = {path: time for path, time in stamps(out).items() if path.suffix == ".parquet"}
    for path, code in ((allowed, 0), (strict, 1), (allowed, 0)):
        assert cli.main(["run", str(path), f"--out={out}"]) == code
        assert parts.items() <= stamps(out).items()


@pytest.mark.parametrize("name", ["reduction", "subset.parquet", "student/model.safetensors"])
def test_what_was_deleted_is_made_again_and_nothing_else(again, data, tmp_path, name):
    before, path = (again / name).read_bytes() if "." in name else b"", again / name
    other = stamps(again / "table")
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    run(experiment(tmp_path / "tiny.yaml", data), out=again)
    assert path.exists()
    assert not before or path.read_bytes() == before
    assert stamps(again / "table") == other


def test_the_same_options_in_other_words_change_nothing(again, data, tmp_path):
    before = times(again)
    sections = yaml.safe_load((again / "config.yaml").read_text())  # all defaults are written out
    manifest = pd.read_csv(data / "meta" / "esc50.csv").iloc[::-1]
    manifest.assign(remark="none").to_csv(tmp_path / "mine.csv", index=False)
    sections["extract"]["source"] = str(tmp_path / "mine.csv")
    sections = {name: dict(reversed(list(options.items()))) for name, options in reversed(list(sections.items()))}
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(sections, sort_keys=False))
    run(tmp_path / "tiny.yaml", out=again)
    assert redone(before, again) == []
    manifest.assign(fold=3 - manifest.fold).to_csv(tmp_path / "mine.csv", index=False)
    assert "clips: other split" in run(tmp_path / "tiny.yaml", out=again, dry_run=True)["extract"]


def test_a_run_that_is_in_use_is_refused(again, data, tmp_path, refuses):
    path, before = experiment(tmp_path / "tiny.yaml", data, {"extract": {"hop": 0.4}}), stamps(again)
    with locked(again):
        refuses("run", path, f"--out={again}", words=[again, os.getpid(), "--wait"])
        assert "redo" in run(path, out=again, dry_run=True)["extract"]
    with locked(again / "table"):  # by `edgesea extract`, for instance
        refuses("run", path, f"--out={again}", words=[again / "table", os.getpid()])
    assert stamps(again / "table").items() <= before.items()
    assert not list(again.rglob(".lock"))


def test_a_failing_stage_leaves_what_is_finished_and_without_evaluate_the_run_ends_with_the_student(data, tmp_path):
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
def test_a_killed_run_ends_as_if_it_had_not_been_killed(finished, data, tmp_path, stage):
    path, out = experiment(tmp_path / "tiny.yaml", data), tmp_path / "run"
    begun = {"extract": out / "table/clips/part-00000.parquet", "distill": out / "student/metrics.csv"}[stage]
    command = ["run", str(path), "--out", str(out)]
    assert kill_when([sys.executable, "-m", "edgesea", *command], begun.exists) == -signal.SIGKILL
    assert not json.loads((out / "stages.json").read_text())["stages"].get("distill", {}).get("finished")
    assert cli.main(command) == 0
    assert scores(out) == scores(finished)


def test_another_classifier_uses_the_same_embeddings(again, data, tmp_path):
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
        ("extract: {source: a}\nexport: {format: c, hop: 0.125}", ["multiple of 0.01 s", "0.12, not 0.125"]),
        ("extract: {source: a}\nexport: {format: c, board: stm32h7x}", ["did you mean stm32h743"]),
        (
            "extract: {source: a}\ndistill: {student: sea-512}\nexport: {format: c, board: nrf52840}",
            ["does not fit on nrf52840", "KiB of flash", "edge-10"],
        ),
        ("extract: [a]", ["extract", "mapping"]),
        ("extract: {source: a}\nreduce: 0", ["reduce", "mapping"]),
        ("", ["bad.yaml", "mapping"]),
        ("extract: {source: a", ["bad.yaml", "YAML"]),
        (b"\x00binary\x80", ["bad.yaml", "YAML"]),
        (None, ["bad.yaml", "No such file"]),
    ],
)
def test_bad_input(data, tmp_path, refuses, text, words):
    path = tmp_path / "bad.yaml"
    if text is not None:
        path.write_bytes(text.replace("DATA", str(data)).encode() if isinstance(text, str) else text)
    refuses("run", path, f"--out={tmp_path / 'run'}", words=words)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("kind", ["files", "another stages.json", "file"])
def test_a_place_that_holds_something_else_is_refused_and_left_alone(data, tmp_path, refuses, kind):
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


def test_an_exported_student_is_scored_in_int8(again, data, tmp_path, capsys):
    changes: dict[str, Any] = {"sample": {"size": 16}, "distill": {"epochs": 1}, "export": {"least": 0.01}}
    found = run(path := experiment(tmp_path / "tiny.yaml", data, changes), out=again)
    assert found["export"]["scores"] == json.loads((again / "export" / "int8.json").read_text())
    assert abs(found["export"]["scores"]["accuracy"] - found["evaluate"]["student"]["accuracy"]) <= 0.25
    assert found["export"]["flash"] == (again / "export" / "student.tflite").stat().st_size
    assert "cosine to the student" in (again / "report.html").read_text()
    assert {name: step for name, step in run(path, out=again, dry_run=True).items() if step != "up to date"} == {
        "dry_run": str(again)
    }
    changes["evaluate"] = {"seed": 1}
    todo = run(experiment(path, data, changes), out=again, dry_run=True)
    assert "another evaluate" in todo["export"]
    changes["export"] = {"format": "c", "least": 0.01}
    assert cli.main(["run", str(experiment(path, data, changes)), f"--out={again}"]) == 0
    assert "KiB flash" in capsys.readouterr().out
    assert "EDGESEA_TAGS 2\n" in (again / "export" / "edgesea_model.h").read_text()
