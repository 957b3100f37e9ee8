import os
import shutil
import time
from pathlib import Path

import pytest
import yaml
from conftest import make_esc50

from edgesea import cli
from edgesea.artifact import locked, read_json, write_json
from edgesea.submit import submit
from edgesea.submit.status import status

NAMES = ["extract", "sample", "reduce", "distill", "evaluate"]


@pytest.fixture
def run(small_run: Path, tmp_path: Path) -> Path:
    """A copy of a finished run that nobody has submitted."""
    shutil.copytree(small_run, tmp_path / "run")
    return tmp_path / "run"


def change(run: Path, name: str, **stamp: object) -> None:
    """Change what is recorded of a stage."""
    found = read_json(run / "stages.json")
    found["stages"][name].update(stamp)
    write_json(run / "stages.json", found)


def test_a_finished_run(run, capsys):
    look = status(run)
    assert [(name, stage["state"]) for name, stage in look["stages"].items()] == [(name, "finished") for name in NAMES]
    assert (look["stages"]["extract"]["done"], look["stages"]["distill"]["done"]) == (1, 2)
    assert cli.main(["status", str(run)]) == 0
    table = capsys.readouterr().out.splitlines()
    assert len({line.index("finished") for line in table[1:]}) == 1


def test_rate_and_time_left_are_those_since_the_stage_was_resumed(run):
    """7 800 parts, of which 1 000 were there before, and 200 came in the last 100 seconds."""
    clips = run / "table" / "clips"
    for number in range(1, 1200):
        (clips / f"part-{number:05d}.parquet").touch()
    plan = read_json(run / "table" / "plan.json")
    write_json(run / "table" / "plan.json", {**plan, "parts": 7800})
    now = time.time()
    os.utime(clips, (now, now))
    change(run, "extract", finished=False, began=now - 100, had=1000)
    with locked(run):
        look = status(run)
    stage = look["stages"]["extract"]
    assert (stage["state"], stage["done"], stage["total"]) == ("running", 1200, 7800)
    assert stage["rate"] == pytest.approx(2, rel=0.01)
    assert stage["left"] == pytest.approx(3300, rel=0.01)
    assert "2.0 parts/s  0:5" in look["text"]


def test_a_process_that_is_gone_does_not_run(run):
    change(run, "distill", finished=False, began=time.time())
    (run / ".lock").write_text(f"process {2**22 + 1} on {os.uname().nodename} since 2020-01-01 00:00:00: edgesea run")
    assert status(run)["stages"]["distill"]["state"] == "interrupted"
    with locked(run):
        assert status(run)["stages"]["distill"]["state"] == "running"


def test_a_folder_without_a_run_is_refused(tmp_path, refuses):
    for command in ("status", "cancel"):
        refuses(command, tmp_path, words=[tmp_path])


def test_scripts_without_slurm(tmp_path, capsys, refuses):
    data, config, run = make_esc50(tmp_path / "esc50"), tmp_path / "it's.yaml", tmp_path / "it's a 100% run"
    sections = {"extract": {"source": str(data)}, "evaluate": {"task": "esc50", "data": str(data)}}
    sections["cluster"] = {"account": "a1", "directives": ["qos=low"], "stages": {"distill": {"gpus": 2, "nodes": 3}}}
    config.write_text(yaml.safe_dump(sections))
    assert cli.main(["submit", str(config), "--out", str(run), "--dry-run", "--time", "4:00:00"]) == 0
    scripts = capsys.readouterr().out.split("#!/bin/bash\n")[1:]
    assert [name in script for name, script in zip(NAMES, scripts, strict=True)] == 5 * [True]
    for line in ("--account=a1", "--time=4:00:00", "--qos=low", "--requeue", "--signal=B:USR1@120"):
        assert all(f"#SBATCH {line}\n" in script for script in scripts)
    training = ["nodes=3", "ntasks-per-node=2", "gres=gpu:2"]
    assert [all(f"--{option}\n" in script for option in training) for script in scripts] == [*3 * [False], True, False]
    assert not run.exists()
    refuses("submit", config, "--out", run, "--stage", "export", words=["export", *NAMES])
    refuses("submit", config, "--out", run, "--stage", "reduce", words=["reduce needs extract"])
    config.write_text(yaml.safe_dump({**sections, "sample": {"sizes": 3}}))
    refuses("submit", config, "--out", run, words=[config, "sizes"])


def test_without_sbatch(tmp_path, monkeypatch, refuses):
    data, config = make_esc50(tmp_path / "esc50"), tmp_path / "small.yaml"
    config.write_text(yaml.safe_dump({"extract": {"source": str(data)}}))
    monkeypatch.setenv("PATH", str(tmp_path))
    refuses("submit", config, "--out", tmp_path / "run", words=["sbatch"])
    assert submit(config, out=tmp_path / "run", dry_run=True)["text"]
