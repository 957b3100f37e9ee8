"""Resuming: whatever ends a training, the same command ends in the same student."""

import json
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import TINY, kill_when
from safetensors.numpy import load_file

from edgesea import cli
from edgesea.artifact import atomic_path
from edgesea.distill import distill

Train = Callable[..., dict[str, Any]]


@pytest.fixture
def train(small_table: Path, small_reduction: Path, tmp_path: Path) -> Train:
    """Train a student in `tmp_path`."""

    def run(name: str, **options: Any) -> dict[str, Any]:
        return distill(small_table, small_reduction, tmp_path / name, **{**TINY, **options})

    return run


@pytest.fixture
def words(small_table: Path, small_reduction: Path, tmp_path: Path) -> Callable[..., list[str]]:
    """The same as words of a command."""

    def make(name: str, **options: Any) -> list[str]:
        named = [f"--{name}={value}" for name, value in {**TINY, **options}.items()]
        return ["distill", str(small_table), str(small_reduction), str(tmp_path / name), *named]

    return make


def epochs_done(folder: Path) -> int:
    path = folder / "metrics.csv"
    return len(path.read_text().splitlines()) - 1 if path.exists() else 0


def assert_same_training(actual: Path, expected: Path) -> None:
    one, two = (load_file(folder / "model.safetensors") for folder in (actual, expected))
    assert {name for name in one | two if not np.array_equal(one[name], two[name])} == set()
    assert (actual / "metrics.csv").read_text() == (expected / "metrics.csv").read_text()
    results = [json.loads((folder / "results.json").read_text()) for folder in (actual, expected)]
    assert {**results[0], "student": 0} == {**results[1], "student": 0}


# Plateau: five epochs have passed without improvement at epoch 14; killed at 11 the count must survive.
@pytest.mark.parametrize(("schedule", "epoch", "mask"), [("plateau", 11, 0.0), ("onecycle", 4, 0.2)])
def test_a_killed_training_ends_as_if_it_had_not_been_killed(
    train: Train, words: Callable[..., list[str]], tmp_path: Path, schedule: str, epoch: int, mask: float
) -> None:
    train("uninterrupted", schedule=schedule, mask=mask)
    killed, command = tmp_path / "killed", words("killed", schedule=schedule, mask=mask)
    status = kill_when([sys.executable, "-m", "edgesea.cli", *command], lambda: epochs_done(killed) >= epoch)
    assert status == -signal.SIGKILL
    assert epoch <= epochs_done(killed) < 18
    assert not (killed / "results.json").exists()
    assert cli.main(command) == 0
    assert_same_training(killed, tmp_path / "uninterrupted")


def test_ctrl_c_ends_with_130_and_the_same_command_resumes(
    words: Callable[..., list[str]], small_student: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "edgesea.cli", *words("s")]
    assert kill_when(command, lambda: epochs_done(tmp_path / "s") >= 2, signal.SIGINT) == 130
    assert 2 <= epochs_done(tmp_path / "s") < 18
    assert cli.main(words("s")) == 0
    assert_same_training(tmp_path / "s", small_student)


class Killed(BaseException):
    """Stands for the end of the process at one exact point."""


@pytest.mark.parametrize("epoch", [1, 5])
def test_killed_between_the_two_checkpoints_of_an_epoch(
    train: Train, small_student: Path, tmp_path: Path, epoch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While ``last.ckpt`` is half written, that of the epoch before is still there (after epoch 1: best.ckpt)."""
    out, written = tmp_path / "s", 0

    def interrupted_write(path: Path):  # type: ignore[no-untyped-def]
        nonlocal written
        written += path.name == "last.ckpt"
        if written == epoch:
            path.with_name(f".{path.name}.123.tmp").write_bytes(b"half a checkpoint")
            raise Killed
        return atomic_path(path)

    with monkeypatch.context() as patch:
        patch.setattr("edgesea.distill.trainer.atomic_path", interrupted_write)
        with pytest.raises(Killed):
            train("s")
    assert (out / "checkpoints" / "last.ckpt").exists() == (epoch > 1)
    assert (out / "checkpoints" / "best.ckpt").exists()
    train("s")
    assert_same_training(out, small_student)


def test_checkpoints_do_not_pass_through_another_file_system(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lightning's own writer makes a file in the system's temporary folder, and copies it if that is elsewhere."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "does not exist"))
    train("s", epochs=1)
    names = sorted(path.name for path in (tmp_path / "s" / "checkpoints").iterdir())
    assert names == ["best.ckpt", "last.ckpt"]


@pytest.mark.parametrize("remains", [0, 5000])
def test_a_damaged_last_checkpoint_falls_back_to_the_best(
    train: Train, tmp_path: Path, remains: int, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("expected", "damaged"):
        train(name, epochs=4)
    damaged = tmp_path / "damaged"
    (damaged / "results.json").unlink()
    last = damaged / "checkpoints" / "last.ckpt"
    last.write_bytes(last.read_bytes()[:remains])
    train("damaged", epochs=4)
    assert "last.ckpt: cannot be read" in caplog.text
    assert_same_training(damaged, tmp_path / "expected")


def test_killed_after_early_stopping_it_does_not_train_another_epoch(train: Train, tmp_path: Path) -> None:
    for name in ("expected", "killed"):
        train(name, patience=3, keep="last")
    assert epochs_done(tmp_path / "expected") < 18
    killed = tmp_path / "killed"
    for name in ("results.json", "model.safetensors", "config.json"):
        (killed / name).unlink()
    train("killed", patience=3, keep="last")
    assert_same_training(killed, tmp_path / "expected")
