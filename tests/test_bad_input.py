"""Bad input through the command line: exit code 1 and one line that says what is wrong, or a row in skipped.csv."""

import csv
import gc
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
from conftest import write_noise

from edgesea.artifact import atomic_path
from edgesea.cli import main
from edgesea.table.reader import Table

QUICK = "callable:test_bad_input:mean_and_rms@8000"


def mean_and_rms(windows: np.ndarray) -> np.ndarray:
    """A teacher that is quick."""
    return np.stack([windows.mean(1), np.sqrt(np.square(windows).mean(1))], 1)


@pytest.fixture
def cli(capfd):
    """Run a command: (exit code, standard output, error messages without the log)."""

    def run(*arguments: object) -> tuple[int, str, str]:
        code = main([str(argument) for argument in arguments])
        out, err = capfd.readouterr()
        assert "Traceback" not in err
        return code, out, "\n".join(line for line in err.splitlines() if line.startswith("edgesea: error: "))

    return run


@pytest.fixture
def refused(cli):
    """Run `extract` and return its error message."""

    def run(*arguments: object, teacher: str = QUICK) -> str:
        code, out, message = cli("extract", *arguments, "--teacher", teacher)
        assert (code, out) == (1, "")
        assert message.startswith("edgesea: error: ")
        return message.removeprefix("edgesea: error: ")

    return run


@pytest.fixture
def extracted(cli, tmp_path):
    """Run `extract` and return its clips' names and what it skipped, as {clip: reason}."""

    def run(source: Path, *arguments: object, teacher: str = QUICK) -> tuple[list[str], dict[str, str]]:
        out = tmp_path / "table"
        code, text, message = cli("extract", source, out, "--teacher", teacher, "--max_skipped", "0.99", *arguments)
        assert (code, message) == (0, "")
        clips = pd.read_parquet(out / "clips")["clip"].tolist()
        with (out / "skipped.csv").open(newline="", encoding="utf-8") as file:
            header, *rows = csv.reader(file)
        assert header == ["clip", "reason"]
        report = json.loads(text)
        assert (report["clips"], report["skipped"]) == (len(set(clips)), len(rows))
        return clips, dict(rows)

    return run


@pytest.fixture
def good(tmp_path) -> Path:
    """A folder with one good clip."""
    write_noise(tmp_path / "audio" / "good.wav")
    return tmp_path / "audio"


# --- clips that are skipped, and why


def make_text(path: Path) -> None:
    path.write_text("this is no audio\n" * 50)


def make_truncated(path: Path) -> None:
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 160000).astype(np.float32)
    soundfile.write(path, noise, 8000)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def make_with(value: float):
    def make(path: Path) -> None:
        audio = np.zeros(16000, np.float32)
        audio[9000] = value
        soundfile.write(path, audio, 8000, subtype="FLOAT")

    return make


def make_samples(count: int):
    return lambda path: soundfile.write(path, np.full(count, 0.1, np.float32), 8000)


@pytest.mark.parametrize(
    ("name", "make", "reason"),
    [
        ("text.wav", make_text, "cannot be decoded: Format not recognised"),
        ("text.mp3", make_text, "cannot be decoded: Format not recognised"),
        ("empty.wav", Path.touch, "cannot be decoded: Format not recognised"),
        ("cut.wav", make_truncated, "truncated: the header announces 320000 bytes, 159978 are there"),
        ("cut.flac", make_truncated, "damaged after 0.0 s: flac decoder lost sync"),
        ("cut.mp3", make_truncated, "truncated: the header announces 160000 samples, "),
        ("nan.wav", make_with(np.nan), "holds NaN or Inf samples"),
        ("inf.wav", make_with(np.inf), "holds NaN or Inf samples"),
        ("none.wav", make_samples(0), "holds no samples"),
        ("none.ogg", make_samples(0), "holds no samples"),
        (
            "fast.wav",
            lambda path: soundfile.write(path, np.zeros(9, np.int16), 2**31 - 1),
            "implausible sample rate of",
        ),
    ],
)
def test_bad_clips_are_skipped_with_the_reason(good, extracted, name, make, reason):
    make(good / name)
    clips, skipped = extracted(good)
    assert clips == ["good.wav"]
    assert list(skipped) == [name]
    assert skipped[name].startswith(reason)


# --- clips that are unusual and good


def read_rows(tmp_path: Path) -> pd.DataFrame:
    return pd.read_parquet(tmp_path / "table" / "windows")


@pytest.mark.parametrize("ending", ["wav", "flac", "ogg", "mp3", "aiff"])
def test_formats(tmp_path, extracted, ending):
    write_noise(tmp_path / "audio" / f"a.{ending}", 2.0)
    assert extracted(tmp_path / "audio") == ([f"a.{ending}"], {})
    assert len(read_rows(tmp_path)) == 3


def test_a_single_sample_gives_one_window(tmp_path, extracted):
    (tmp_path / "audio").mkdir()
    make_samples(1)(tmp_path / "audio" / "one.wav")
    soundfile.write(tmp_path / "audio" / "fast.wav", np.full(1, 0.1, np.float32), 192000)
    assert extracted(tmp_path / "audio", teacher="spectral") == (["fast.wav", "one.wav"], {})
    assert len(read_rows(tmp_path)) == 2


def test_digital_silence_is_a_clip_like_others(tmp_path, extracted):
    (tmp_path / "audio").mkdir()
    soundfile.write(tmp_path / "audio" / "silence.wav", np.zeros(16000, np.float32), 8000)
    assert extracted(tmp_path / "audio", teacher="spectral") == (["silence.wav"], {})
    rows = read_rows(tmp_path)
    assert rows["level"].tolist() == [-120.0] * 3
    assert np.isfinite(np.stack(rows["embedding"])).all()


def test_eight_channels_at_192_khz(tmp_path, extracted):
    write_noise(tmp_path / "audio" / "array.wav", 2.0, rate=192000, channels=8)
    assert extracted(tmp_path / "audio") == (["array.wav"], {})
    (row,) = pd.read_parquet(tmp_path / "table" / "clips")["pcm"]
    assert len(row) == 2 * 16000


@pytest.mark.parametrize(
    "name",
    [
        "Straße bei Nacht 🎤.wav",
        "é" * 123 + ".wav",
        "n" * 246 + ".wav",
        'new\nline,"comma".wav',
        " blank.wav",
        "a%20b#c.wav",
    ],
)
def test_odd_names(tmp_path, extracted, name):
    write_noise(tmp_path / "audio" / name)
    make_text(tmp_path / "audio" / f"x{name[1:]}")
    assert extracted(tmp_path / "audio") == ([name], {f"x{name[1:]}": "cannot be decoded: Format not recognised"})


def test_names_that_are_no_utf8(tmp_path, extracted):
    write_noise(tmp_path / "audio" / "a.wav")
    make_text(tmp_path / "audio" / "b.wav")
    folder = os.fsencode(tmp_path / "audio")
    for old, new in ((b"a.wav", b"caf\xe9.wav"), (b"b.wav", b"\xff.wav")):
        os.rename(os.path.join(folder, old), os.path.join(folder, new))  # noqa: PTH104, PTH118
    clips, skipped = extracted(tmp_path / "audio")
    assert clips == [r"caf\xe9.wav"]
    assert skipped == {r"\xff.wav": "cannot be decoded: Format not recognised"}


def test_a_manifest_may_name_what_is_not_there(good, extracted):
    (good / "folder.wav").mkdir()
    names = ["good.wav", "gone.wav", "folder.wav", "n" * 300 + ".wav", "good.wav/x.wav"]
    (good / "manifest.csv").write_text("\n".join(["path", *names]) + "\n")
    clips, skipped = extracted(good / "manifest.csv")
    assert clips == ["good.wav"]
    assert skipped["gone.wav"] == skipped["good.wav/x.wav"] == "cannot be decoded: no such file"
    assert skipped["folder.wav"] == "cannot be decoded: is a folder"
    assert "File name too long" in skipped["n" * 300 + ".wav"]


# --- what ends the command


def test_input_that_is_not_there(tmp_path, refused):
    assert refused(tmp_path / "gone", tmp_path / "table") == f"{tmp_path}/gone: no such file or folder"
    (tmp_path / "empty").mkdir()
    assert refused(tmp_path / "empty", tmp_path / "table").startswith(f"{tmp_path}/empty: no audio file found")
    assert not (tmp_path / "table").exists()


def test_nothing_but_broken_files(tmp_path, cli, refused):
    (tmp_path / "audio").mkdir()
    for index in range(3):
        make_text(tmp_path / "audio" / f"{index}.wav")
    message = refused(tmp_path / "audio", tmp_path / "table", "--max_skipped", "1")
    assert message.startswith("3 of 3 clips cannot be used (first: 0.wav: cannot be decoded: Format not recognised)")
    assert len((tmp_path / "table" / "skipped.csv").read_text().splitlines()) == 4
    assert message.endswith("; repair them or the options")  # raising max_skipped would not help
    assert not (tmp_path / "table" / "table.json").exists()
    write_noise(tmp_path / "audio" / "1.wav")
    (tmp_path / "audio" / "2.wav").unlink()
    assert cli("extract", tmp_path / "audio", tmp_path / "table", "--teacher", QUICK)[0] == 0
    assert Table(tmp_path / "table").info["skipped"] == 1


def test_too_many_broken_files_can_be_accepted_later(good, tmp_path, cli, refused):
    for index in range(3):
        make_text(good / f"{index}.wav")
    message = refused(good, tmp_path / "table")
    assert message.startswith("3 of 4 clips cannot be used")
    assert message.endswith("repair them or raise max_skipped (0.5)")
    assert cli("extract", good, tmp_path / "table", "--teacher", QUICK, "--max_skipped", "0.75")[0] == 0
    assert Table(tmp_path / "table").info["skipped"] == 3


def test_a_manifest_without_paths(good, tmp_path, refused):
    (good / "manifest.csv").write_text("file,split\ngood.wav,train\n")
    message = refused(good / "manifest.csv", tmp_path / "table")
    assert message == f"{good}/manifest.csv: no column 'path'; it has file, split"


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("hop", "0", "hop must be a positive number of seconds, not 0.0"),
        ("hop", "-1", "hop must be a positive number of seconds, not -1.0"),
        ("hop", ".nan", "hop must be a positive number of seconds, not nan"),
        ("hop", "1e-5", "window 1.0 s or hop 1e-05 s is shorter than a sample at 8000 Hz"),
        ("window", "0", "window must be a positive number of seconds, not 0.0"),
        ("sample_rate", "0", "sample_rate must be a whole number from 500 to 1000000 Hz, not 0"),
        ("sample_rate", "100000000", "sample_rate must be a whole number from 500 to 1000000 Hz, not 100000000"),
        ("part_clips", "0", "part_clips must be a whole number of at least 1, not 0"),
        ("batch_size", "0", "batch_size must be a whole number of at least 1, not 0"),
        ("workers", "0", "workers must be a whole number of at least 1, not 0"),
        ("level_rate", "0", "level_rate must be a positive number of readings per second, not 0.0"),
        ("validate", "1.5", "validate: the share must lie in [0, 1), not 1.5"),
        ("validate", "half", "validate: 'half' is neither a share nor a condition column=value"),
    ],
)
def test_options_that_make_no_sense(good, tmp_path, refused, option, value, message):
    assert refused(good, tmp_path / "table", f"--{option}={value}") == message
    assert not (tmp_path / "table").exists()


def test_teachers_that_are_not_there(good, tmp_path, refused):
    assert refused(good, tmp_path / "table", teacher="vggish").startswith("unknown teacher 'vggish'; known: spectral, ")
    message = refused(good, tmp_path / "table", "--weights", tmp_path / "gone.pt", teacher="efficientat/mn04")
    assert message == f"{tmp_path}/gone.pt: no such weight file (of teacher efficientat/mn04)"
    assert "no module" in refused(good, tmp_path / "table", teacher="callable:no.such.module:f@8000").lower()
    assert not (tmp_path / "table").exists()


def test_weights_of_another_model(shared_data, good, tmp_path, refused):
    weights = shared_data / "efficientat" / "mn04_as_mAP_432.pt"
    message = refused(good, tmp_path / "table", "--weights", weights, teacher="efficientat/mn10")
    assert message.startswith(f"{weights}: these are the weights of another model: ")


def test_a_teacher_with_windows_of_its_own(tmp_path, good, refused, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parent / "models")
    from openl3_random import random_layers, write_keras_h5

    weights = write_keras_h5(tmp_path / "random.h5", random_layers())
    options = ("--weights", weights, "--window", "0.5")
    message = refused(good, tmp_path / "table", *options, teacher="openl3/env-mel128-512")
    assert message == "teacher openl3/env-mel128-512 embeds windows of 1.0 s, not 0.5 s"


def test_the_output_is_a_file(good, tmp_path, refused):
    (tmp_path / "table").write_text("precious")
    assert (
        refused(good, tmp_path / "table") == f"{tmp_path}/table: a file, where a folder is needed; choose another name"
    )
    message = refused(good, tmp_path / "table" / "inside" / "more")
    assert message == f"{tmp_path}/table: a file, where a folder is needed; choose another name"
    assert (tmp_path / "table").read_text() == "precious"


# --- disks


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A file system of its own, with 256 KB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "none", folder], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"cannot mount a small disk: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


def remount(folder: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", folder], check=True)


def files(table: Path) -> dict[str, bytes]:
    return {path.relative_to(table).as_posix(): path.read_bytes() for path in table.rglob("*") if path.is_file()}


@pytest.mark.parametrize("part_clips", [1, 100], ids=["after some parts", "in the only part"])
def test_a_full_disk_is_no_loss(noise_folder, small_disk, tmp_path, cli, refused, part_clips):
    options = ("--part_clips", part_clips)
    message = refused(noise_folder, small_disk / "table", *options)
    assert "No space left on device" in message
    assert message.endswith("; free some space, then the same command goes on from here")
    left = files(small_disk / "table")
    assert not [name for name in left if name.endswith(".tmp")]
    assert "table.json" not in left
    assert ("clips/part-00001.parquet" in left) == (part_clips == 1)
    remount(small_disk, "size=64m")
    assert cli("extract", noise_folder, small_disk / "table", "--teacher", QUICK, *options)[0] == 0
    assert cli("extract", noise_folder, tmp_path / "table", "--teacher", QUICK, *options)[0] == 0
    assert files(small_disk / "table") == files(tmp_path / "table")


def test_a_full_disk_is_not_the_fault_of_the_clip_that_is_written(good, small_disk, cli, refused, monkeypatch):
    monkeypatch.setattr("edgesea.table.writer.FLUSH_BYTES", 1)  # as if the clip were hours long
    write_noise(good / "long.wav", 60.0)
    assert "No space left on device" in refused(good, small_disk / "table")
    remount(small_disk, "size=64m")
    assert cli("extract", good, small_disk / "table", "--teacher", QUICK)[0] == 0
    assert Table(small_disk / "table").info["skipped"] == 0


def test_a_disk_that_is_full_from_the_start(good, small_disk, cli, refused):
    (small_disk / "table").mkdir()
    with pytest.raises(OSError, match="No space left"):
        (small_disk / "filler").write_bytes(bytes(300 * 1024))
    assert "No space left on device" in refused(good, small_disk / "table")
    assert files(small_disk / "table") == {}
    (small_disk / "filler").unlink()
    assert cli("extract", good, small_disk / "table", "--teacher", QUICK)[0] == 0


def fill(disk: Path, left: int) -> None:
    """Leave so many bytes of a small disk."""
    free = shutil.disk_usage(disk).free
    (disk / "filler").write_bytes(bytes(max(0, free - left)))


@pytest.mark.parametrize("command", ["sample", "reduce", "import"])
def test_a_full_disk_is_told_with_the_file_by_every_stage(tmp_path, small_table, small_disk, cli, command):
    fill(small_disk, 8192)
    if command == "sample":
        words, file = ["sample", small_table, small_disk / "out", "--size", 2000], "out"
        with (small_disk / "filler").open("ab") as rest:
            rest.write(bytes(shutil.disk_usage(small_disk).free))
    elif command == "reduce":
        words, file = ["reduce", small_table, small_disk / "out", "--size", "4"], "out/reduction.safetensors"
    else:
        write_noise(tmp_path / "in" / "a.wav", 10.0)
        np.savez(tmp_path / "in" / "a.npz", embedding=np.ones((39, 4)), timestamps=np.arange(39) * 0.25)
        words, file = ["import", tmp_path / "in", small_disk / "out"], "out/windows/part-00000.parquet"
    code, out, message = cli(*words)
    assert (code, out) == (1, "")
    again = "the same command goes on from here" if command == "import" else "run it again"
    file = re.escape(file).replace("windows", "(windows|clips)")
    assert re.fullmatch(
        rf"edgesea: error: {small_disk}/{file}: No space left on device; free some space, then {again}", message
    )
    (small_disk / "filler").unlink()
    assert cli(*words)[0] == 0


def test_a_full_disk_is_not_the_fault_of_what_is_copied(tmp_path, small_disk):
    (tmp_path / "source").write_bytes(bytes(1 << 20))
    with pytest.raises(OSError, match=f"No space left on device: '{small_disk}/copy'"):
        copy(tmp_path / "source", small_disk / "copy")


def copy(source: Path, target: Path) -> None:
    with atomic_path(target) as temporary:
        shutil.copyfile(source, temporary)


def test_a_student_does_not_fit_on_a_full_disk(small_student, small_disk):
    from edgesea import load_student
    from edgesea.models.student_files import save_student

    fill(small_disk, 4096)
    with pytest.raises(OSError, match=f"No space left on device: '{small_disk}/student/model.safetensors'"):
        save_student(load_student(small_student, backend="torch"), small_disk / "student", {}, "card")


def test_a_disk_that_cannot_be_written(good, small_disk, refused):
    remount(small_disk, "ro")
    assert refused(good, small_disk / "table") == f"{small_disk}/table: Read-only file system"


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written(good, tmp_path, refused):
    (tmp_path / "locked").mkdir(mode=0o500)
    assert refused(good, tmp_path / "locked" / "table") == f"{tmp_path}/locked/table: Permission denied"


# --- embed


def test_embed_says_what_is_wrong(tmp_path, cli):
    make_text(tmp_path / "bad.wav")
    for arguments, message in (
        ([tmp_path / "gone.wav", "spectral"], f"{tmp_path}/gone.wav: no such file or folder"),
        ([tmp_path / "bad.wav", "vggish"], "unknown teacher 'vggish'; known: "),
        (
            [tmp_path / "bad.wav", tmp_path / "student"],
            f"{tmp_path}/student: no student here (no such file or folder); expected a folder with config.json",
        ),
        ([tmp_path / "bad.wav", "edgel3/sea-1"], "unknown student 'edgel3/sea-1'; published: "),
        (
            [tmp_path / "bad.wav", "spectral"],
            f"none of 1 files could be embedded (first: {tmp_path}/bad.wav: cannot be",
        ),
        ([tmp_path / "bad.wav", "spectral", "--hop", "0"], "hop must be a positive number of seconds, not 0.0"),
    ):
        inputs, *rest = arguments
        code, out, error = cli("embed", json.dumps([str(inputs)]), *rest)
        assert (code, out) == (1, "")
        assert error.startswith(f"edgesea: error: {message}")


def test_a_full_disk_while_training_is_named(small_disk):
    import torch

    from edgesea.distill.trainer import AtomicCheckpoints

    with pytest.raises(OSError, match="No space left on device") as error:
        AtomicCheckpoints().save_checkpoint({"weights": torch.zeros(100_000)}, small_disk / "epoch-0001.ckpt")
    assert error.value.filename == str(small_disk / "epoch-0001.ckpt")
    assert not list(small_disk.iterdir())
    del error
    gc.collect()  # torch's writer holds the file open, and the disk could not be unmounted
