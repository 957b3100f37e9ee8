import itertools
import json
import os
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.dataset
import pytest
import soundfile
from conftest import write_noise

import edgesea.extract
from edgesea.audio.framing import Framing
from edgesea.audio.io import load_audio
from edgesea.audio.level import a_weighted_level
from edgesea.errors import EdgeseaError
from edgesea.extract import extract
from edgesea.models import load_teacher
from edgesea.table.manifest import ClipEntry
from edgesea.table.reader import Table

CALLS = itertools.count()


def mean_and_rms(windows: np.ndarray) -> np.ndarray:
    """A teacher that is quick."""
    return np.stack([windows.mean(1), np.sqrt(np.square(windows).mean(1))], 1)


def hanging(windows: np.ndarray) -> np.ndarray:
    """Where the test asks for it, never returns from its fifth call (the first is a trial)."""
    if os.environ.get("EDGESEA_TEST_HANG") and next(CALLS) == 4:
        time.sleep(3600)
    return mean_and_rms(windows)


def nan_when_loud(windows: np.ndarray) -> np.ndarray:
    result = mean_and_rms(windows)
    result[result[:, 1] > 0.5] = np.nan
    return result


def huge(windows: np.ndarray) -> np.ndarray:
    return 1e6 * mean_and_rms(windows)


QUICK = "callable:test_extract:mean_and_rms@8000"


def parts(table: Path) -> dict[str, bytes]:
    """Content of everything that does not depend on versions, by name."""
    return {path.relative_to(table).as_posix(): path.read_bytes() for path in table.rglob("*") if path.is_file()}


def clips_of(table: Path) -> pd.DataFrame:
    """Rows of clips, with the windows of each."""
    frames = []
    for part in sorted((table / "clips").iterdir()):
        clips = pd.read_parquet(part)
        windows = pd.read_parquet(table / "windows" / part.name)
        clips["windows"] = [windows[windows["clip"] == row] for row in range(len(clips))]
        frames.append(clips)
    return pd.concat(frames, ignore_index=True)


@pytest.fixture(scope="module")
def audio_folder(tmp_path_factory) -> Path:
    """Seven clips of 0.5 to 5.3 s at several rates."""
    folder = tmp_path_factory.mktemp("extract") / "audio"
    for index, (seconds, rate) in enumerate(
        [(3, 8000), (5.3, 44100), (0.5, 8000), (1, 48000), (2.01, 22050), (4, 16000)]
    ):
        write_noise(folder / f"clip{index}.wav", seconds, rate, seed=index, channels=1 + index % 2)
    write_noise(folder / "deep" / "er" / "clip.flac", 2.5, 8000, seed=9)
    return folder


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "centred"])
def extracted(request, audio_folder, tmp_path_factory) -> tuple[Path, Framing]:
    """A table of four parts and its framing."""
    out = tmp_path_factory.mktemp("table") / "table"
    extract(audio_folder, out, teacher="spectral", hop=0.4, center=request.param, part_clips=2, batch_size=5)
    return out, Framing(1.0, 0.4, request.param)


# --- what a table holds


def test_audio_is_that_of_the_files(extracted, audio_folder):
    rows = clips_of(extracted[0])
    assert sorted(rows["clip"]) == sorted(p.relative_to(audio_folder).as_posix() for p in audio_folder.rglob("*.*"))
    for row in rows.itertuples():
        audio = load_audio(audio_folder / row.clip, 8000)
        expected = np.clip(np.rint(audio * 32767), -32768, 32767).astype(np.int16)
        stored = np.frombuffer(row.pcm, "<i2")
        assert row.offset == 0
        np.testing.assert_array_equal(stored[: len(expected)], expected)
        assert not stored[len(expected) :].any()


def test_windows_follow_the_framing(extracted, audio_folder):
    path, framing = extracted
    table = Table(path)
    seen = []
    for chunk in table.chunks():
        audio = table.audio(chunk, np.arange(len(chunk.clip)))
        for index, name in enumerate(chunk.names):
            samples = np.rint(load_audio(audio_folder / name, 8000) * 32767).clip(-32768, 32767).astype(np.int16)
            rows = chunk.clip == index
            np.testing.assert_array_equal(audio[rows], framing.at(8000).cut(samples))
            starts = np.arange(rows.sum()) * 3200 - (4000 if framing.center else 0)
            np.testing.assert_array_equal(chunk.start[rows], starts)
            seen.append(name)
    assert len(seen) == table.info["clips"] == 7


def test_embeddings_and_levels_are_those_of_the_windows(extracted, audio_folder):
    path, framing = extracted
    teacher = load_teacher("spectral")
    for row in clips_of(path).itertuples():
        windows = framing.at(16000).cut(load_audio(audio_folder / row.clip, 16000)).copy()
        stored = np.stack(row.windows["embedding"])
        assert stored.dtype == np.float16
        np.testing.assert_allclose(stored, teacher.embed(windows), rtol=2**-10, atol=1e-3)
        np.testing.assert_allclose(row.windows["level"], a_weighted_level(windows, 16000), atol=1e-4)


def test_embeddings_can_be_stored_in_single_precision(audio_folder, tmp_path):
    extract(audio_folder, tmp_path / "table", dtype="float32")
    row = next(clips_of(tmp_path / "table").itertuples())
    stored = np.stack(row.windows["embedding"])
    windows = Framing(1.0, 0.5).at(16000).cut(load_audio(audio_folder / row.clip, 16000)).copy()
    assert stored.dtype == np.float32
    np.testing.assert_allclose(stored, load_teacher("spectral").embed(windows), rtol=1e-5, atol=1e-4)


def test_the_table_describes_itself(extracted):
    path, framing = extracted
    info = json.loads((path / "table.json").read_text())
    assert info["teacher"] == {"id": "spectral", "sha256": "", "sample_rate": 16000, "embedding_size": 512}
    assert info["framing"] == {"window": 1.0, "hop": 0.4, "center": framing.center}
    assert (info["sample_rate"], info["dtype"], info["parts"]) == (8000, "float16", 4)
    assert info["level"]["unit"] == "dB(A) re full scale"
    assert info["windows"] == sum(info["windows_by_split"].values()) == len(pd.read_parquet(path / "windows"))
    assert {"edgesea", "numpy", "soxr", "torch"} <= info["versions"].keys()
    assert (path / "skipped.csv").read_text() == "clip,reason\n"


def test_other_tools_read_the_table(extracted):
    path, _ = extracted
    assert len(pd.read_parquet(path / "clips", columns=["clip", "split"])) == 7
    dataset = pyarrow.dataset.dataset(path / "windows", format="parquet")
    assert dataset.schema.names == ["clip", "start", "level", "embedding"]
    assert dataset.schema.field("embedding").type == pyarrow.list_(pyarrow.float16(), 512)
    assert dataset.count_rows() == Table(path).info["windows"]


def test_a_long_clip_takes_several_rows(tmp_path):
    path = write_noise(tmp_path / "audio" / "long.wav", 180.0)
    extract(path.parent, tmp_path / "table", teacher=QUICK, dtype="float32")
    rows = clips_of(tmp_path / "table")
    assert rows["clip"].tolist() == ["long.wav"] * 6  # 359 windows, 64 of them in a row
    assert rows["offset"].tolist() == [row * 64 * 4000 for row in range(6)]
    table = Table(tmp_path / "table")
    (chunk,) = table.chunks()
    np.testing.assert_array_equal(chunk.start, np.arange(359) * 4000)
    windows = Framing(1.0, 0.5).at(8000).cut(load_audio(path, 8000))
    pcm = np.rint(windows * 32767).clip(-32768, 32767)
    np.testing.assert_array_equal(table.audio(chunk, np.arange(359)), pcm)
    np.testing.assert_allclose(table.embeddings(0, 0), mean_and_rms(windows), atol=1e-6)


def test_windows_of_teacher_and_student_stay_together(tmp_path):
    """A hop of 0.1 s is 1102.5 samples at 11 025 Hz. The audio is a ramp, so a window's mean tells where it lies."""
    ramp = np.linspace(0.0, 0.9, 60 * 16000, dtype=np.float32)
    soundfile.write(tmp_path / "ramp.wav", ramp, 16000, subtype="FLOAT")
    (tmp_path / "manifest.csv").write_text("path\nramp.wav\n")
    teacher = "callable:test_extract:mean_and_rms@16000"
    extract(tmp_path / "manifest.csv", tmp_path / "table", teacher=teacher, sample_rate=11025, hop=0.1, dtype="float32")
    table = Table(tmp_path / "table")
    (chunk,) = table.chunks()
    inside = np.arange(5, len(chunk.clip) - 15)
    heard = table.audio(chunk, inside).mean(1) / 32767 / 0.9 * 60  # seconds
    taught = table.embeddings(0, 0)[inside, 0] / 0.9 * 60
    assert np.abs(heard - taught).max() < 2e-3


# --- which clips, and what is known of them


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_a_manifest_with_columns_of_its_own(tmp_path, ending):
    for index in range(3):
        write_noise(tmp_path / "audio" / f"{index}.wav", 2.0, seed=index)
    frame = pd.DataFrame(
        {
            "filename": ["0.wav", "1.wav", "2.wav"],
            "where": ["roof", None, "door"],
            "when": ["2019-05-01T13:45:00", "2019-05-01", None],
            "fold": [1, 5, 2],
        }
    )
    manifest = tmp_path / f"meta.{ending}"
    frame.to_csv(manifest, index=False) if ending == "csv" else frame.to_parquet(manifest)
    columns = {"path": "filename", "sensor": "where", "time": "when"}
    extract(manifest, tmp_path / "table", teacher=QUICK, root=tmp_path / "audio", columns=columns, validate="fold=5")
    clips = pd.read_parquet(tmp_path / "table" / "clips").astype(object).replace({float("nan"): None})
    assert clips["clip"].tolist() == ["0.wav", "1.wav", "2.wav"]
    assert clips["sensor"].tolist() == ["roof", None, "door"]
    assert clips["time"].tolist() == ["2019-05-01T13:45:00", "2019-05-01", None]
    assert clips["split"].tolist() == ["train", "validate", "train"]
    assert Table(tmp_path / "table").counts == {"train": 6, "validate": 3}


def test_duplicate_names_in_different_folders_are_different_clips(tmp_path):
    for seed, place in enumerate(("a/clip.wav", "b/clip.wav", "clip.wav")):
        write_noise(tmp_path / "audio" / place, 2.0, seed=seed)
    assert extract(tmp_path / "audio", tmp_path / "table", teacher=QUICK)["clips"] == 3
    clips = pd.read_parquet(tmp_path / "table" / "clips")
    assert clips["clip"].tolist() == ["a/clip.wav", "b/clip.wav", "clip.wav"]
    assert clips["pcm"].nunique() == 3


def test_measured_levels_are_averaged_over_the_windows(tmp_path):
    write_noise(tmp_path / "list.wav", 3.0)
    write_noise(tmp_path / "number.wav", 2.0)
    (tmp_path / "manifest.csv").write_text('path,level\nlist.wav,"[50, 60, 70, 80, 90, 90]"\nnumber.wav,65.5\n')
    extract(tmp_path / "manifest.csv", tmp_path / "table", teacher=QUICK, hop=1.0, level_rate=2.0)
    levels = pd.read_parquet(tmp_path / "table" / "windows")["level"]
    halves = [10 * np.log10((1e5 + 1e6) / 2), 10 * np.log10((1e7 + 1e8) / 2), 90.0]
    np.testing.assert_allclose(levels, [*halves, 65.5, 65.5], atol=1e-4)
    assert Table(tmp_path / "table").info["level"] == {"unit": "dB SPL", "rate": 2.0}


def test_measured_and_computed_levels_are_not_mixed(tmp_path):
    for name in ("a.wav", "b.wav"):
        write_noise(tmp_path / name)
    (tmp_path / "manifest.csv").write_text("path,level\na.wav,60\nb.wav,\n")
    assert extract(tmp_path / "manifest.csv", tmp_path / "table", teacher=QUICK)["skipped"] == 1
    assert 'b.wav,"no level in the manifest' in (tmp_path / "table" / "skipped.csv").read_text()


# --- resuming


def test_workers_do_not_change_a_byte(noise_folder, tmp_path):
    (noise_folder / "clip04.wav").write_text("no audio")
    for workers in (1, 2, 4):
        extract(noise_folder, tmp_path / str(workers), part_clips=3, batch_size=7, workers=workers)
    first = parts(tmp_path / "1")
    assert len([name for name in first if name.startswith("clips/")]) == 4
    assert parts(tmp_path / "2") == first
    assert parts(tmp_path / "4") == first


def test_a_killed_extraction_goes_on(tmp_path):
    for index in range(20):
        write_noise(tmp_path / "audio" / f"{index:02d}.wav", 1.0, seed=index)
    teacher = "callable:test_extract:hanging@8000"
    command = [sys.executable, "-m", "edgesea.cli", "extract", str(tmp_path / "audio"), str(tmp_path / "killed")]
    command += ["--teacher", teacher, "--part_clips", "2"]
    here = Path(__file__).parent
    path = os.pathsep.join([str(here), str(here.parent / "src")])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "EDGESEA_TEST_HANG": "1"}
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            third = tmp_path / "killed" / "clips" / "part-00002.parquet"
            deadline = time.monotonic() + 300
            while not third.exists():
                assert process.poll() is None, (tmp_path / "log").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.02)
        finally:
            process.kill()
            process.wait()
    killed = parts(tmp_path / "killed")
    assert len([name for name in killed if name.endswith(".parquet")]) == 6  # three of ten parts
    assert any(name.endswith(".tmp") for name in killed)
    assert "table.json" not in killed
    with pytest.raises(EdgeseaError, match="killed: unfinished table; finish it by running the same command"):
        Table(tmp_path / "killed")
    stamps = {name: (tmp_path / "killed" / name).stat().st_mtime_ns for name in killed}

    for out in ("killed", "whole"):
        extract(tmp_path / "audio", tmp_path / out, teacher=teacher, part_clips=2)
    assert parts(tmp_path / "killed") == parts(tmp_path / "whole")
    for name in killed:
        if name.endswith(".parquet"):
            assert (tmp_path / "killed" / name).stat().st_mtime_ns == stamps[name]  # not written again


def test_a_finished_table_is_left_alone(noise_folder, tmp_path):
    table = tmp_path / "table"
    first = extract(noise_folder, table, teacher=QUICK, part_clips=5)
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in table.rglob("*") if path.is_file()}
    second = extract(noise_folder, table, teacher=QUICK, part_clips=5, workers=1, max_skipped=0.0)
    assert {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in table.rglob("*") if path.is_file()} == before
    assert second["windows_per_second"] == 0
    assert {key: second[key] for key in ("clips", "windows")} == {key: first[key] for key in ("clips", "windows")}


def test_a_deleted_part_is_made_again(noise_folder, tmp_path):
    extract(noise_folder, tmp_path / "table", teacher=QUICK, part_clips=5)
    before = parts(tmp_path / "table")
    (tmp_path / "table" / "clips" / "part-00001.parquet").unlink()
    extract(noise_folder, tmp_path / "table", teacher=QUICK, part_clips=5)
    assert parts(tmp_path / "table") == before


def test_a_damaged_part_is_named(noise_folder, tmp_path):
    extract(noise_folder, tmp_path / "table", teacher=QUICK, part_clips=5)
    (tmp_path / "table" / "clips" / "part-00001.parquet").write_bytes(b"PAR1")
    with pytest.raises(EdgeseaError, match=r"clips/part-00001\.parquet: cannot be read: .*; delete it"):
        extract(noise_folder, tmp_path / "table", teacher=QUICK, part_clips=5)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("hop", 0.25, r"framing\.hop: 0\.5 there, 0\.25 here"),
        ("sample_rate", 16000, "sample_rate: 8000 there, 16000 here"),
        ("dtype", "float32", "dtype: float16 there, float32 here"),
        ("part_clips", 3, "part_clips: 128 there, 3 here"),
        ("teacher", "spectral", r"teacher\.id: callable:test_extract:mean_and_rms@8000 there, spectral here"),
    ],
)
def test_other_options_for_the_same_folder_are_refused(noise_folder, tmp_path, option, value, message):
    extract(noise_folder, tmp_path / "table", teacher=QUICK)
    with pytest.raises(EdgeseaError, match=f"table: holds a table made from other input or options .*{message}"):
        extract(noise_folder, tmp_path / "table", **{"teacher": QUICK, option: value})


def test_other_input_for_the_same_folder_is_refused(noise_folder, tmp_path):
    extract(noise_folder, tmp_path / "table", teacher=QUICK)
    write_noise(noise_folder / "clip00.wav", 9.0)
    with pytest.raises(EdgeseaError, match="manifest_sha256"):
        extract(noise_folder, tmp_path / "table", teacher=QUICK)


def test_a_folder_with_other_things_in_it_is_refused(noise_folder, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("precious")
    with pytest.raises(EdgeseaError, match="mine: not empty and no table; choose another folder"):
        extract(noise_folder, tmp_path / "mine", teacher=QUICK)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.tex"]


# --- clips and teachers that fail


def test_a_clip_that_turns_bad_near_its_end_is_left_out_wholly(tmp_path):
    def make(folder: str, bad: bool, names: Sequence[str]) -> Path:
        for seed, name in enumerate(names):
            write_noise(tmp_path / folder / name, 3.0, seed=seed)
        audio = np.random.default_rng(5).uniform(-0.1, 0.1, 8000 * 100).astype(np.float32)  # 199 windows: four pieces
        if bad:
            audio[-100] = np.nan
        soundfile.write(tmp_path / folder / "b.wav", audio, 8000, subtype="FLOAT")
        return tmp_path / folder

    report = extract(make("bad", True, ["a.wav", "c.wav"]), tmp_path / "table", teacher=QUICK, batch_size=16)
    assert (report["clips"], report["skipped"], report["windows"]) == (2, 1, 10)
    assert (tmp_path / "table" / "skipped.csv").read_text() == "clip,reason\nb.wav,holds NaN or Inf samples\n"
    rows = clips_of(tmp_path / "table")
    assert rows["clip"].tolist() == ["a.wav", "c.wav"]
    for row in rows.itertuples():
        windows = Framing(1.0, 0.5).at(8000).cut(load_audio(tmp_path / "bad" / row.clip, 8000))
        np.testing.assert_allclose(np.stack(row.windows["embedding"]), mean_and_rms(windows), atol=1e-3)
    assert not list((tmp_path / "table").rglob("*.tmp"))
    whole = extract(make("good", False, ["a.wav", "c.wav"]), tmp_path / "whole", teacher=QUICK, batch_size=16)
    assert whole["windows"] == 10 + 199


@pytest.mark.parametrize("batch_size", [4, 1000])
@pytest.mark.parametrize("seconds", [3, 100])
def test_a_teacher_that_gives_nan_ends_the_extraction(tmp_path, batch_size, seconds):
    """It is no fault of the clip, which must not be skipped for it."""
    for name, amplitude in (("a.wav", 0.1), ("b.wav", 0.9), ("c.wav", 0.1)):
        audio = np.full(8000 * seconds, 0.1, np.float32)
        audio[-8000:] = amplitude
        soundfile.write(_new(tmp_path / "audio" / name), audio, 8000)
    teacher = "callable:test_extract:nan_when_loud@8000"
    with pytest.raises(EdgeseaError, match=f"teacher {teacher} gave NaN or Inf for a window of b.wav"):
        extract(tmp_path / "audio", tmp_path / "table", teacher=teacher, batch_size=batch_size)
    assert [path.name for path in (tmp_path / "table").rglob("*") if path.is_file()] == ["plan.json"]


def test_embeddings_too_large_for_their_dtype_are_refused(tmp_path):
    soundfile.write(_new(tmp_path / "audio" / "a.wav"), np.full(8000, 0.9, np.float32), 8000)
    teacher = "callable:test_extract:huge@8000"
    with pytest.raises(EdgeseaError, match=r"gave 89\d+ for a window of a.wav, too large for dtype=float16; choose"):
        extract(tmp_path / "audio", tmp_path / "table", teacher=teacher)
    extract(tmp_path / "audio", tmp_path / "single", teacher=teacher, dtype="float32")


def _new(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def test_long_clips_are_cut_in_bounded_memory(tmp_path):
    """Half an hour would take 115 MB at the teacher's rate."""
    noise = np.random.default_rng(0).integers(-3000, 3000, 8000 * 60, np.int16)
    soundfile.write(tmp_path / "long.wav", np.tile(noise, 30), 8000)
    entry = ClipEntry("long.wav", tmp_path / "long.wav", None, None, "train", None)
    rates = edgesea.table.pieces.Rates(Framing(1.0, 1.0), 8000, 16000, 1.0, False)
    tracemalloc.start()
    try:
        count = sum(len(piece.starts) for piece in edgesea.table.pieces.clip_pieces(entry, rates))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert count == 1800
    assert peak < 60e6
