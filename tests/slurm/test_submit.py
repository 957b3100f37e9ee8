"""`submit`, `status` and `cancel` on a real SLURM."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import make_esc50
from slow_model import SLOW
from slurm.cluster import Slurm, running, wait_for

from edgesea import cli
from edgesea.artifact import read_json, write_json
from edgesea.errors import EdgeseaError
from edgesea.pipeline import STAGES, read_stamps
from edgesea.submit import cancel, submit
from edgesea.submit.status import status

MADE = ["extract", "sample", "reduce", "distill", "evaluate"]  # the stages of the experiment
RANKS = {"waiting": 0, "queued": 1, "running": 2, "ending": 2, "finished": 3}


@pytest.fixture
def experiment(tmp_path: Path) -> Callable[..., Path]:
    """Writes an experiment of ten parts, with further options of extract and of the cluster."""
    data = make_esc50(tmp_path / "esc50")

    def write(extract: dict[str, Any] | None = None, **cluster: Any) -> Path:
        source = {"source": str(data / "meta/esc50.csv"), "root": str(data / "audio"), "validate": "fold=2"}
        source |= {"columns": {"path": "filename"}, "sample_rate": 8000, "part_clips": 2, "workers": 1, "device": "cpu"}
        source |= extract or {}
        training: dict[str, Any] = {"student": "sea-64", "filters": [4, 4, 8, 8], "n_mels": 16}
        training |= {"epochs": 4, "epoch_size": 8, "batch_size": 4}
        sections = {"extract": source, "sample": {"size": 15}, "reduce": {"size": 3}, "distill": training}
        sections["evaluate"] = {"task": "esc50", "data": str(data), "workers": 1}
        sections["cluster"] = {"time": "10", "memory": "1G", **cluster}
        (tmp_path / "small.yaml").write_text(yaml.safe_dump(sections))
        return tmp_path / "small.yaml"

    return write


def truth(on_slurm: Slurm, run: Path) -> dict[str, tuple[int, int]]:
    """How far each stage is, and how many of its parts or epochs are there, by scontrol and the files."""
    submitted = read_json(run / "jobs" / "jobs.json")
    states = {name: on_slurm.job(submitted[name]["id"])["JobState"] for name in MADE}
    stamps = read_stamps(run)
    finished = [name for name in MADE if stamps.get(name, {}).get("finished")]
    found = {}
    for name, state in states.items():
        needs = set(STAGES[name].inputs.values()) <= set(finished)
        rank = 3 if name in finished else {"PENDING": int(needs), "COMPLETED": 3}.get(state, 2)
        found[name] = rank, (STAGES[name].progress(run / STAGES[name].artifact) or (0,))[0]
    return found


def test_a_whole_run_with_two_nodes_ends_and_its_status_is_true_at_each_look(on_slurm, experiment, tmp_path):
    run, looks, seen = tmp_path / "a run%j", 0, set()
    config = experiment(stages={"distill": {"nodes": 2}})
    ids = submit(config, out=run)["jobs"]
    assert list(ids) == MADE
    before = truth(on_slurm, run)
    while looks < 10 or on_slurm.job(ids["evaluate"])["JobState"] in ("PENDING", "RUNNING"):
        look, after = status(run)["stages"], truth(on_slurm, run)
        for name, stage in look.items():
            assert before[name][0] <= RANKS[stage["state"]] <= after[name][0], (name, stage, before, after)
            assert before[name][1] <= stage.get("done", 0) <= after[name][1], (name, stage, before, after)
            if stage["state"] == "running":
                assert stage["node"] == "n[1-2]" if name == "distill" else stage["node"] in ("n1", "n2")
            seen.add((name, stage["state"]))
        before, looks = after, looks + 1
        time.sleep(1)
    assert {on_slurm.ended(id) for id in ids.values()} == {"COMPLETED"}
    assert {("extract", "running"), ("distill", "running"), ("evaluate", "waiting")} <= seen
    assert set(read_json(run / "results.json")["evaluate"]) == {"teacher", "reduced", "student"}
    assert (run / "report.html").is_file()
    assert "nothing to do" in submit(config, out=run)["text"]


def test_a_failed_stage_shows_its_log_and_those_after_it_are_cancelled(on_slurm, experiment, tmp_path, capsys):
    config, run = experiment({"teacher": "callable:no_such_module:f@8000"}), tmp_path / "run"
    ids = submit(config, out=run)["jobs"]
    assert on_slurm.ended(ids["extract"]) == "FAILED"
    assert {on_slurm.ended(ids[name]) for name in MADE[1:]} == {"CANCELLED"}
    stages = status(run)["stages"]
    assert [stage["state"] for stage in stages.values()] == ["failed", *4 * ["cancelled"]]
    assert cli.main(["status", str(run)]) == 0
    assert "no_such_module" in capsys.readouterr().out
    other = on_slurm.call("sbatch", "--parsable", "--output=/dev/null", "--wrap", "sleep 100").strip()
    file = run / "jobs" / "jobs.json"
    write_json(file, {name: {**job, "id": other} for name, job in read_json(file).items()})  # as another cluster has it
    assert not cancel(run)["cancelled"]
    on_slurm.call("scancel", other)


def test_a_requeued_run_resumes_and_a_cancelled_one_can_be_submitted_again(on_slurm, experiment, tmp_path):
    config, run = experiment({"teacher": SLOW, "hop": 1.0}), tmp_path / "run"
    first = submit(config, out=run)["jobs"]["extract"]
    with pytest.raises(EdgeseaError, match=f"extract \\({first}\\)"):
        submit(config, out=run)

    def parts() -> int:
        return int(status(run)["stages"]["extract"].get("done", 0))

    def looks(state: str, *keys: str) -> bool:
        stage = status(run)["stages"]["extract"]
        return stage["state"] == state and all(key in stage for key in keys)

    wait_for(lambda: parts() >= 3)
    on_slurm.call("scancel", "--batch", "--signal=USR1", first)  # as SLURM does before the time limit
    wait_for(lambda: looks("requeued"))
    wait_for(lambda: looks("running", "rate"))
    look = status(run)["stages"]["extract"]
    assert look["detail"] == "restart 1"
    assert look["rate"] < 1.0  # a part takes a second: those of before do not count
    cancelled = cancel(run)["cancelled"]
    assert len(cancelled) == 5
    assert {stage["state"] for stage in status(run)["stages"].values()} == {"cancelled"}
    there = {path: path.stat().st_mtime_ns for path in (run / "table" / "clips").iterdir()}
    submit(config, out=run)
    assert not status(run)["workers"]
    wait_for(lambda: parts() > len(there) or not looks("queued"))
    cancel(run)
    assert {path: path.stat().st_mtime_ns for path in there} == there


def test_a_job_that_gets_nowhere_is_not_queued_for_ever(on_slurm, experiment, tmp_path):
    config, run = experiment({"teacher": SLOW, "part_clips": 20, "batch_size": 1}), tmp_path / "run"
    job, seen = submit(config, out=run)["jobs"]["extract"], [0.0]

    def begun() -> bool:
        seen.append(read_stamps(run).get("extract", {}).get("began", 0.0))
        return seen[-1] > seen[-2]

    for _ in range(2):
        wait_for(begun)
        on_slurm.call("scancel", "--batch", "--signal=USR1", job)
    assert on_slurm.ended(job) == "FAILED"
    assert "--time" in (run / "jobs" / f"extract-{job}.log").read_text()


def test_what_slurm_refuses_is_shown_and_nothing_stays_in_the_queue(on_slurm, experiment, tmp_path):
    config = experiment(stages={"reduce": {"partition": "nowhere"}})
    with pytest.raises(EdgeseaError, match="nowhere"):
        submit(config, out=tmp_path / "run")
    wait_for(lambda: not on_slurm.call("squeue", "--noheader"))
    assert not (tmp_path / "run" / "jobs" / "jobs.json").exists()


def test_without_a_controller_the_files_say_what_they_can(on_slurm, experiment, tmp_path, monkeypatch):
    run = tmp_path / "run"
    with running() as other:
        monkeypatch.setenv("SLURM_CONF", other.env["SLURM_CONF"])
        submit(experiment({"teacher": SLOW}), out=run)
        wait_for(lambda: status(run)["stages"]["extract"].get("done", 0))
        other.stop("slurmctld")
        look = status(run)
        other.start("slurmctld", "slurmctld", "-D")
        assert look["problem"]
        assert [stage["state"] for stage in look["stages"].values()] == ["running", *4 * ["unknown"]]
        assert f"on {os.uname().nodename}" in look["stages"]["extract"]["detail"]


@pytest.mark.slow
def test_workers_are_jobs_of_the_run(on_slurm, experiment, tmp_path):
    run = tmp_path / "run"
    submit(experiment({"teacher": SLOW}, cluster="slurm", min_jobs=2, max_jobs=2), out=run)
    wait_for(lambda: status(run)["workers"] == {"running": 2} and status(run)["stages"]["extract"].get("done"))
    assert len(cancel(run)["cancelled"]) == 7
    assert not on_slurm.call("squeue", "--noheader")


@pytest.mark.slow
def test_a_job_is_requeued_in_time(on_slurm, experiment, tmp_path):
    hurry = {"time": "1", "directives": ["signal=B:USR1@30"]}
    config, run = experiment({"teacher": SLOW, "part_clips": 1}, stages={"extract": hurry}), tmp_path / "run"
    ids = submit(config, out=run)["jobs"]
    assert on_slurm.ended(ids["evaluate"]) == "COMPLETED"
    assert int(on_slurm.job(ids["extract"])["Restarts"]) > 0
    assert (run / "results.json").is_file()
