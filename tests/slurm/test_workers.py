"""A stage whose workers are jobs of a real SLURM."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from conftest import write_noise
from slurm.cluster import Slurm, wait_for

from edgesea.artifact import read_json
from edgesea.cluster import Cluster, elsewhere, results, using
from edgesea.errors import EdgeseaError
from edgesea.extract import extract

TEACHER = """
import time
def embed(windows):
    time.sleep(0.15)
    return windows[:, :300].reshape(-1, 3, 100).std(2)
"""
OPTIONS = {"teacher": "callable:slow_teacher_of_test:embed@8000", "part_clips": 2}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with clips and a slow teacher."""
    (place := tmp_path / 'it\'s "100 %j"').mkdir()
    monkeypatch.chdir(place)
    monkeypatch.syspath_prepend(place)
    (place / "slow_teacher_of_test.py").write_text(TEACHER)
    for index in range(40):
        write_noise(place / "audio" / f"{index:02d}.wav", 1.0, seed=index)
    return place


def started(*words: str) -> "subprocess.Popen[str]":
    """An extraction on SLURM by the command line."""
    options = [f"--{name}={value}" for name, value in OPTIONS.items()]
    command = [sys.executable, "-m", "edgesea", "extract", "audio", "there", *options, "--cluster", "slurm", *words]
    return subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # shells ignore Ctrl-C in background jobs
    )  # fmt: skip


def jobs(slurm: Slurm, state: str = "all") -> list[str]:
    return slurm.call("squeue", "--noheader", "--format=%i", "--name=edgesea-worker", f"--states={state}").split()


def parts(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.glob("*/part-*.parquet")}


def test_a_cancelled_worker_job_is_replaced_and_the_bytes_are_those_of_here(on_slurm, folder):
    process = started("--min-jobs", "2", "--max-jobs", "2")
    wait_for(lambda: len(jobs(on_slurm, "running")) == 2 and len(parts(folder / "there")) > 4)
    first = jobs(on_slurm, "running")
    on_slurm.call("scancel", first[0])
    error = process.communicate(timeout=120)[1]
    assert process.returncode == 0, error
    assert "distributed" not in error
    extract(folder / "audio", folder / "here", **OPTIONS)
    assert parts(folder / "there") == parts(folder / "here")
    assert len(parts(folder / "here")) == 40
    for name in ("table.json", "skipped.csv"):
        assert (folder / "there" / name).read_bytes() == (folder / "here" / name).read_bytes()
    wait_for(lambda: not jobs(on_slurm, "running,pending"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_command_that_is_stopped_takes_its_jobs_with_it(on_slurm, folder, number):
    process = started("--max-jobs", "1")
    wait_for(lambda: parts(folder / "there"))
    process.send_signal(number)
    error = process.communicate(timeout=60)[1]
    assert (process.returncode, "Traceback" in error) == (128 + number, False), error
    wait_for(lambda: not jobs(on_slurm, "running,pending"))


def test_jobs_that_slurm_refuses_end_the_command_with_its_reason(on_slurm, folder):
    process = started("--partition", "nosuch")
    error = process.communicate(timeout=60)[1]
    assert (process.returncode, "nosuch" in error, "Traceback" in error) == (1, True, False), error


def test_jobs_that_end_before_they_are_of_use_are_noticed(on_slurm, folder, monkeypatch):
    monkeypatch.setattr(elsewhere, "NOTICE", 1.0)
    stop = threading.Thread(target=lambda: (wait_for(lambda: jobs(on_slurm, "pending")), cancel_all(on_slurm)))
    stop.start()
    with pytest.raises(EdgeseaError), using(Cluster("slurm", directives=["begin=now+3hours"], max_jobs=1)):
        list(results(read_json, [(folder / "a",)]))
    stop.join()


def cancel_all(slurm: Slurm) -> None:
    slurm.call("scancel", *jobs(slurm, "pending"))
