"""Several processes that train together, and signals that stop one or all of them in the middle of an epoch."""

import os
import signal
import socket
import subprocess
import sys
from itertools import pairwise

import pytest
import torch
from conftest import REPOSITORY, TINY
from test_distill import history, same, train, words  # noqa: F401

from edgesea.cluster import Stopped
from edgesea.distill.module import Distiller
from edgesea.distill.ranks import Place, place

SLURM = {"SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "3", "SLURM_LOCALID": "1"}
# With few bytes for its buffer, those of 20 windows, `small_table` has lanes; the other six are of `train_only_table`.
RUN = """
import os, sys
import edgesea.distill.data, edgesea.distill.module
edgesea.distill.data.BUFFER_BYTES, edgesea.distill.data.LANE_CHUNKS = 26 * 16016, 3
step = edgesea.distill.module.Distiller.training_step
def training_step(self, *batch):
    assert [len(table.lanes) for table in self.train_windows.tables] == [2, 1]
    if os.environ.get("STOP") == f"{self.train_windows.rank} {self.global_step}":
        os.kill(os.getpid(), 10)
    return step(self, *batch)
edgesea.distill.module.Distiller.training_step = training_step
from edgesea import cli
sys.exit(cli.main())
"""
RECIPE = {"loss": "both", "standardize": True, "projector": 8, "mask": 0.1, "shift": 0.1, "ema": 0.9}
MANY = {**RECIPE, "projector": 0, "lr": 0.001, "epochs": 3, "epoch_size": 48, "shares": 0.25}


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, Place()),
        ({"LOCAL_RANK": "1"}, Place(1)),  # started by Lightning
        ({"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}, Place(5, 8, 1)),
        (SLURM, Place(3, 4, 1)),
        ({**SLURM, "SLURM_STEP_NUM_TASKS": "1"}, Place()),
        ({"SLURM_NTASKS": "4", "SLURM_PROCID": "0"}, Place()),  # in a job, but not in a step
    ],
)
def test_where_a_process_stands(monkeypatch, variables, expected):
    for name in ("LOCAL_RANK", "RANK", "WORLD_SIZE", *SLURM):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert place() == expected


def test_only_distill_has_several_processes(monkeypatch, refuses, tmp_path):
    for name, value in SLURM.items():
        monkeypatch.setenv(name, value)
    refuses("sample", tmp_path, tmp_path / "s", words=["4 processes", "sample", "SLURM_STEP_NUM_TASKS"])


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("run") / "run.py"
    path.write_text(RUN)
    return path


def port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return str(one.getsockname()[1])


def run(command, **variables):
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY / "src"), **variables}
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def two_nodes(command, **variables):
    """Exit codes and what the two processes of a command print, each on a machine of its own for all they know."""
    at = {"WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port(), **variables}
    processes = [run(command, RANK=str(rank), **at) for rank in range(2)]
    try:
        printed = [process.communicate(timeout=200) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [process.returncode for process in processes], printed


@pytest.fixture(scope="module")
def torchrun_student(small_table, small_reduction, train_only_table, file, tmp_path_factory):
    """Trained by two processes that torchrun has started."""
    folder = tmp_path_factory.mktemp("torchrun") / "s"
    options = [f"--{name}={value}" for name, value in {**TINY, **MANY, "also": train_only_table}.items()]
    launch = ["-m", "torch.distributed.run", "--nproc-per-node=2", f"--master-port={port()}", str(file)]
    with run([sys.executable, *launch, "distill", str(small_table), str(small_reduction), str(folder), *options]) as p:
        out, error = p.communicate(timeout=200)
    assert p.returncode == 0, error
    assert out.count("student") == 1  # the result is printed once
    return folder


def test_two_processes_train_as_one(torchrun_student, words, train_only_table, file, tmp_path):  # noqa: F811
    with run([sys.executable, str(file), *words("one", **MANY, also=train_only_table)]) as process:
        assert process.wait(200) == 0
    one, two = history(tmp_path / "one"), history(torchrun_student)
    assert [row["train_mse"] for row in two] == pytest.approx([row["train_mse"] for row in one], abs=1e-5)
    assert [row["val_mse"] for row in two] == pytest.approx([row["val_mse"] for row in one], abs=1e-4)
    assert (torchrun_student / "plan.json").read_bytes() == (tmp_path / "one" / "plan.json").read_bytes()


def test_a_signal_to_one_process_stops_all_of_them_within_an_epoch(torchrun_student, words, request, file, tmp_path):  # noqa: F811
    also = request.getfixturevalue("train_only_table")
    command = [sys.executable, str(file), *words("killed", **MANY, also=also)]
    codes, printed = two_nodes(command, STOP="1 9")
    assert codes == [128 + signal.SIGUSR1, 0], printed
    assert "4 of 6 batches of epoch 2" in printed[0][1]
    assert printed[1] == ("", "")
    codes, printed = two_nodes(command)
    assert codes == [0, 0], printed
    assert same(tmp_path / "killed", torchrun_student)


@pytest.mark.slow
def test_what_the_first_process_refuses_ends_all_of_them(small_student, words, small_table, small_reduction, file):  # noqa: F811
    command = [sys.executable, str(file), "distill", small_table, small_reduction, small_student, "--batch-size=8"]
    codes, printed = two_nodes([str(word) for word in command])
    assert codes == [1, 0]
    assert [str(small_student) in error for _, error in printed] == [True, False]


@pytest.mark.slow
def test_processes_that_are_not_to_train_together(words, tmp_path):  # noqa: F811
    script = ["sh", "-c", f'exec {sys.executable} -m edgesea "$@$RANK"', "sh", *words("s"), "--seed=1"]
    codes, printed = two_nodes(script)
    assert codes == [1, 1]
    assert all("SLURM_STEP_NUM_TASKS" in error for _, error in printed)
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("accumulate", [1, 2])
def test_signals_at_any_batch_and_in_validation(train, train_only_table, tmp_path, monkeypatch, accumulate):  # noqa: F811
    options = {**RECIPE, "epochs": 4, "epoch_size": 48, "schedule": "onecycle", "accumulate": accumulate}
    options |= {"also": [train_only_table]} if accumulate > 1 else {}
    train("whole", **options)
    points = [
        (0, "training", 0),
        (0, "validation", 6),
        (0, "validation", 6),
        (2, "training", 3),
        (2, "training", 4),
        (3, "training", 5),
    ]
    expected, times = [(0, 1), (0, 6), (0, 6), (2, 4), (2, 5), (3, 6)], []  # epoch and steps that are stored

    def signal_in(name, number):
        step = getattr(Distiller, f"{name}_step")

        def signalling(self, *batch):
            if points and points[0] == (self.current_epoch, name, self.position):
                del points[0]
                os.kill(os.getpid(), number)
            return step(self, *batch)

        monkeypatch.setattr(Distiller, f"{name}_step", signalling)

    signal_in("training", signal.SIGUSR1)
    signal_in("validation", signal.SIGTERM)
    for reached in expected:
        with pytest.raises(Stopped):
            train("killed", **options)
        stored = torch.load(file := tmp_path / "killed" / "checkpoints" / "last.ckpt", weights_only=True)
        assert (stored["epoch"], stored["edgesea"]["position"]) == reached
        times.append(file.stat().st_mtime_ns)
    assert [one == other for one, other in pairwise(times)] == [False, True, False, False, False]  # as there is no more
    train("killed", **options)
    assert same(tmp_path / "killed", tmp_path / "whole")


def test_sizes_that_do_not_divide(refuses, words, small_table, small_reduction, tmp_path):  # noqa: F811
    refuses(*words("s", batch_size=15, accumulate=2), words=["batch_size", 15])
    refuses(*words("s", accumulate=0), words=["accumulate", 0])
