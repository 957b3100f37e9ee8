"""A full disk is named with the file, nothing half-written stays, and the command resumes; on a disk of 256 KB."""

import gc
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import write_noise
from stored import content

from edgesea import load_student
from edgesea.cli import main
from edgesea.distill.trainer import AtomicCheckpoints
from edgesea.models.student_files import save_student
from edgesea.table.reader import Table

SPACE = "No space left on device"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "none", str(folder)]
    if (mounted := subprocess.run(mount, capture_output=True, text=True)).returncode:
        pytest.skip(f"cannot mount a small disk: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


def remount(folder: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", folder], check=True)


def fill(disk: Path, left: int) -> None:
    (disk / "filler").write_bytes(bytes(shutil.disk_usage(disk).free - left))


@pytest.mark.parametrize("part_clips", [1, 100], ids=["after some parts", "in the only part"])
def test_extract_resumes(noise_folder, small_disk, tmp_path, refuses, part_clips):
    write_noise(noise_folder / "long.wav", 60.0)
    command = ["extract", str(noise_folder), str(small_disk / "table"), f"--part_clips={part_clips}"]
    refuses(*command, words=[SPACE, small_disk / "table", "resumes"])
    left = content(small_disk / "table")
    assert not [name for name in left if name.endswith(".tmp") or name == "table.json"]
    assert ("clips/part-00001.parquet" in left) == (part_clips == 1)
    remount(small_disk, "size=64m")
    assert main(command) == 0
    assert Table(small_disk / "table").info["skipped"] == 0  # it is not the fault of the clip that is written
    assert main([*command[:2], str(tmp_path / "table"), command[3]]) == 0
    assert content(small_disk / "table") == content(tmp_path / "table")
    remount(small_disk, "ro")
    assert main(command) == 0  # it is finished, so nothing is to be written or locked
    refuses("extract", noise_folder, small_disk / "other", words=[small_disk / "other", "Read-only file system; write"])


@pytest.mark.parametrize(
    ("command", "options", "left", "file"),
    [
        ("extract", ["--sample_rate=8000"], 0, "out/"),
        ("sample", ["--size=2000"], 0, "out"),
        ("reduce", ["--size=4"], 8192, "out/reduction.safetensors"),
        ("import", ["--sample_rate=8000"], 8192, "out/"),
    ],
)
def test_the_file_is_named(tmp_path, small_table, small_disk, refuses, command, options, left, file):
    write_noise(tmp_path / "in" / "a.wav", 10.0)
    np.savez(tmp_path / "in" / "a.npz", embedding=np.ones((39, 4)), timestamps=np.arange(39) * 0.25)
    source = small_table if command in ("sample", "reduce") else tmp_path / "in"
    fill(small_disk, left)
    refuses(command, source, small_disk / "out", *options, words=[f"{small_disk}/{file}", SPACE, "free some space"])
    (small_disk / "filler").unlink()
    assert main([command, str(source), str(small_disk / "out"), *options]) == 0


def test_students_and_checkpoints_are_whole_or_not_there(small_student, small_disk):
    fill(small_disk, 4096)
    with pytest.raises(OSError, match=f"{SPACE}: '{small_disk}/student/model.safetensors'"):
        save_student(load_student(small_student, engine="torch"), small_disk / "student", {}, "card")
    with pytest.raises(OSError, match=f"{SPACE}: '{small_disk}/a.ckpt'"):
        AtomicCheckpoints().save_checkpoint({"weights": torch.zeros(100_000)}, small_disk / "a.ckpt")
    assert {path.name for path in small_disk.rglob("*") if path.is_file()} <= {"filler", "config.json"}
    gc.collect()  # torch's writer holds the file open, and the disk could not be unmounted
