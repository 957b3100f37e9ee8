"""`distill` on two nodes, a process on each, and its requeue in the middle."""

import csv
import sys
from pathlib import Path

import pytest
from conftest import TINY
from slurm.cluster import wait_for

from edgesea.distill import distill

OPTIONS = {**TINY, "lr": 0.001, "batch_size": 16, "mask": 0.1, "epochs": 8, "epoch_size": 160}


def losses(folder: Path) -> list[float]:
    with (folder / "metrics.csv").open(newline="") as file:
        return [float(row["train_mse"]) for row in csv.DictReader(file)]


def test_two_nodes_train_as_one_process_and_resume_after_a_requeue_as_if_nothing_had_been(
    on_slurm, small_table, small_reduction, tmp_path
):
    log = tmp_path / "log"

    def start(name: str) -> str:
        options = [f"--{key}={value}" for key, value in OPTIONS.items()]
        command = [sys.executable, "-m", "edgesea", "distill", small_table, small_reduction, tmp_path / name, *options]
        step = " ".join(f"'{word}'" for word in ("srun", "--kill-on-bad-exit=1", *command))
        size = ("--nodes=2", "--ntasks-per-node=1", "--requeue", "--open-mode=append", f"--output={log}")
        return on_slurm.call("sbatch", "--parsable", *size, "--wrap", f"export OMP_NUM_THREADS=1; exec {step}").strip()

    assert on_slurm.ended(start("whole")) == "COMPLETED", log.read_text()
    assert log.read_text().count('"student"') == 1
    distill(small_table, small_reduction, tmp_path / "alone", **OPTIONS)
    assert losses(tmp_path / "whole") == pytest.approx(losses(tmp_path / "alone"), abs=1e-4)

    job, metrics = start("requeued"), tmp_path / "requeued" / "metrics.csv"
    wait_for(metrics.exists)
    on_slurm.call("scancel", "--signal=USR1", job)
    assert on_slurm.ended(job) == "COMPLETED", log.read_text()
    assert on_slurm.job(job)["Restarts"] == "1"
    assert "of 10 batches of epoch" in log.read_text()
    for name in ("model.safetensors", "metrics.csv"):
        assert (tmp_path / "requeued" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
