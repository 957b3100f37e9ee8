import itertools
import json
import os
import re
import shlex
import shutil
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.dataset
import pytest
import soundfile
from conftest import REPOSITORY, cut_windows, kill_when, load_audio, write_noise
from quick_model import BY_NAME as QUICK
from quick_model import moments
from stored import assert_stored, clips_of, content, skipped, stamps, windows_of

from edgesea import cli
from edgesea.audio.framing import Framing
from edgesea.audio.io import AudioFile
from edgesea.audio.level import a_weighted_level
from edgesea.audio.resampling import resample_stream
from edgesea.errors import EdgeseaError
from edgesea.extract import extract
from edgesea.models import load_teacher
from edgesea.models.engine import low_precision
from edgesea.table.reader import Table

CALLS = itertools.count()


def hanging(windows: np.ndarray) -> np.ndarray:
    """Where the test asks for it, never returns from its fifth call (the first is a trial)."""
    if os.environ.get("EDGESEA_TEST_HANG") and next(CALLS) == 4:
        time.sleep(3600)
    return moments(windows)


def nan_when_loud(windows: np.ndarray) -> np.ndarray:
    result = moments(windows)
    result[result[:, 1] > 0.5] = np.nan
    return result


def huge(windows: np.ndarray) -> np.ndarray:
    return 1e6 * moments(windows)


@pytest.fixture(scope="module")
def audio_folder(tmp_path_factory) -> Path:
    """Seven clips of 0.5 to 5.3 s at several rates."""
    folder = tmp_path_factory.mktemp("extract") / "audio"
    kinds = [(3, 8000), (5.3, 44100), (0.5, 8000), (1, 48000), (2.01, 22050), (4, 16000)]
    for index, (seconds, rate) in enumerate(kinds):
        write_noise(folder / f"clip{index}.wav", seconds, rate, seed=index, channels=1 + index % 2)
    write_noise(folder / "deep" / "er" / "clip.flac", 2.5, 8000, seed=9)
    return folder


# --- what a table holds


@pytest.mark.parametrize(("center", "dtype"), [(False, "float16"), (True, "float32")])
def test_a_table_holds_audio_levels_and_embeddings_of_all_windows(audio_folder, tmp_path, center, dtype):
    table, framing, teacher = tmp_path / "table", Framing(1.0, 0.4, center), load_teacher("spectral")
    extract(audio_folder, table, sample_rate=8000, hop=0.4, center=center, dtype=dtype, part_clips=2, batch_size=5)
    found = windows_of(table)
    assert sorted(found) == sorted(p.relative_to(audio_folder).as_posix() for p in audio_folder.rglob("*.*"))
    for clip, (starts, levels, embeddings, audio) in found.items():
        assert_stored(audio, cut_windows(framing.at(8000), load_audio(audio_folder / clip, 8000)))
        np.testing.assert_array_equal(starts, np.arange(len(audio)) * 3200 - (4000 if center else 0))
        windows = cut_windows(framing.at(16000), load_audio(audio_folder / clip, 16000))
        assert embeddings.dtype == dtype
        np.testing.assert_allclose(embeddings, teacher.embed(windows), rtol=2**-10, atol=1e-3)
        np.testing.assert_allclose(levels, a_weighted_level(windows, 16000), atol=1e-4)
    info = json.loads((table / "table.json").read_text())
    assert info["teacher"] == {"id": "spectral", "sha256": "", "sample_rate": 16000, "embedding_size": 512}
    assert info["framing"] == {"window": 1.0, "hop": 0.4, "center": center}
    assert (info["sample_rate"], info["dtype"], info["parts"], info["clips"]) == (8000, dtype, 4, 7)
    assert info["level"] == {"unit": "dB(A) re full scale", "rate": 1.0}
    assert info["windows"] == sum(info["windows_by_split"].values()) == len(pd.read_parquet(table / "windows"))
    assert {"edgesea", "numpy", "soxr", "torch"} <= info["versions"].keys()
    assert (table / "skipped.csv").read_text() == "clip,reason\n"
    dataset = pyarrow.dataset.dataset(table / "windows", format="parquet")
    assert dataset.schema.names == ["clip", "start", "level", "embedding"]
    assert dataset.schema.field("embedding").type == pyarrow.list_(pyarrow.type_for_alias(dtype), 512)


def test_audio_may_be_resampled_as_openl3_does(tmp_path):
    pytest.importorskip("resampy")
    path = write_noise(tmp_path / "in" / "a.wav", 3.0, 44100)
    found: dict[str, np.ndarray] = {}
    for resampler in ("soxr", "resampy"):
        extract(tmp_path / "in", tmp_path / resampler, sample_rate=8000, resampler=resampler, dtype="float32")
        _, _, found[resampler], audio = windows_of(tmp_path / resampler)["a.wav"]
        info = json.loads((tmp_path / resampler / "table.json").read_text())
        assert info["framing"].get("resampler", "soxr") == resampler
        with AudioFile(path) as file:
            samples = np.concatenate(list(resample_stream(file.chunks(), 44100, 8000, resampler)))
        assert_stored(audio, cut_windows(Framing(1.0, 0.5).at(8000), samples))
    assert np.abs(found["soxr"] - found["resampy"]).max() > 0.01


# --- which clips, and what is known of them


def test_what_a_manifest_tells_of_its_clips(tmp_path):
    """Measured levels are averaged over the windows, and not mixed with others."""
    for name, seconds in (("list.wav", 3.0), ("number.wav", 2.0), ("none.wav", 2.0)):
        write_noise(tmp_path / "audio" / name, seconds)
    rows = 'list.wav,roof,2019-05-01,1,"[50, 60, 70, 80, 90, 90]"\nnumber.wav,,,5,65.5\nnone.wav,,,5,\n'
    (tmp_path / "a.csv").write_text(f"filename,sensor,when,fold,level\n{rows}")
    options = {"root": tmp_path / "audio", "columns": {"path": "filename", "time": "when"}, "validate": "fold=5"}
    extract(tmp_path / "a.csv", tmp_path / "table", teacher=QUICK, hop=1.0, level_rate=2.0, **options)
    known = clips_of(tmp_path / "table")[["clip", "sensor", "time", "split"]]
    assert known.values.tolist() == [
        ["list.wav", "roof", "2019-05-01", "train"],
        ["number.wav", None, None, "validate"],
    ]
    levels = pd.read_parquet(tmp_path / "table" / "windows")["level"]
    halves = [10 * np.log10((1e5 + 1e6) / 2), 10 * np.log10((1e7 + 1e8) / 2), 90.0]
    np.testing.assert_allclose(levels, [*halves, 65.5, 65.5], atol=1e-4)
    assert Table(tmp_path / "table").info["level"] == {"unit": "dB SPL", "rate": 2.0}
    assert "no level" in skipped(tmp_path / "table")["none.wav"]


@pytest.fixture
def published(shared_data, tmp_path) -> Path:
    """Three clips of each fold of the data sets, laid out as published; of SONYC-UST their sound is made up."""
    for name, source, table, audio in (
        ("ESC-50", "esc10", "meta/esc50.csv", "audio/{r.filename}"),
        ("UrbanSound8K", "urbansound8k", "metadata/UrbanSound8K.csv", "audio/fold{r.fold}/{r.slice_file_name}"),
        ("SONYC-UST", "sonyc_ust", "annotations_eval.csv", "audio/{r.audio_filename}"),
    ):
        rows = pd.read_csv(shared_data / source / table)
        rows["fold"] = rows.get("fold", 1 + rows.index % 4)
        rows = rows.groupby("fold").head(3)
        if name == "UrbanSound8K":  # only two of its folds are here
            rows["fold"] = rows.fold.replace(2, 10)
        if name == "SONYC-UST":  # only the clips that validate are here
            rows["split"] = rows.split.where(rows.fold > 2, "train")
        for seed, row in enumerate(rows.itertuples()):
            write_noise(tmp_path / name / audio.format(r=row).replace(".ogg", ".wav"), 1.0, seed=seed)
        path = tmp_path / name / table.replace("_eval", "")
        path.parent.mkdir(exist_ok=True)
        path.write_text(rows.to_csv(index=False).replace(".ogg", ".wav"))
    return tmp_path


def test_what_the_documentation_says_of_data_sets(published, monkeypatch):
    monkeypatch.chdir(published)
    text = (REPOSITORY / "docs/manifests.md").read_text()
    commands = [shlex.split(line) for line in re.findall(r"^    edgesea (extract [EUS].*)", text, re.MULTILINE)]
    assert len(commands) == 4
    for command in commands:
        assert cli.main([*command, f"--teacher={QUICK}"]) == 0
        clips = clips_of(Path(command[2]))
        folds = 5 if command[1] == "ESC-50" else 2
        assert len(clips) == (12 if command[1] == "SONYC-UST" else 3 * folds)
        assert (clips.split == "validate").sum() == (6 if command[1] == "SONYC-UST" else 3)
        assert clips["sensor" if command[1] == "SONYC-UST" else "label"].notna().all()
        shutil.rmtree(command[2])


def test_a_single_clip_trains(tmp_path):
    write_noise(tmp_path / "audio" / "clip000.wav")  # its name is among those that would validate
    assert extract(tmp_path / "audio", tmp_path / "table", teacher=QUICK)["windows_by_split"].keys() == {"train"}


# --- resuming


def test_workers_and_resuming_do_not_change_a_byte(noise_folder, tmp_path):
    (noise_folder / "clip04.wav").write_text("no audio")
    options = {"part_clips": 3, "batch_size": 7}
    results = [extract(noise_folder, tmp_path / str(n), **options, workers=n) for n in (1, 2, 4)]
    first = content(tmp_path / "1")
    assert len([name for name in first if name.startswith("clips/")]) == 4
    assert content(tmp_path / "2") == content(tmp_path / "4") == first
    before = stamps(tmp_path / "1")
    again = extract(noise_folder, tmp_path / "1", **options, max_skipped=0.1)  # it is finished, and left alone
    assert again == {**results[0], "windows_per_second": 0, "hours_per_hour": 0}
    assert stamps(tmp_path / "1") == before


def test_a_killed_extraction_resumes(tmp_path, monkeypatch):
    for index in range(20):
        write_noise(tmp_path / "audio" / f"{index:02d}.wav", 1.0, seed=index)
    options = {"teacher": "callable:test_extract:hanging@8000", "part_clips": 2}
    audio, killed = tmp_path / "audio", tmp_path / "killed"
    code = f"import sys; sys.path.append({str(Path(__file__).parent)!r}); from test_extract import extract, Path; "
    code += f"extract(Path({str(audio)!r}), Path({str(killed)!r}), **{options!r})"
    monkeypatch.setenv("EDGESEA_TEST_HANG", "1")

    def hangs() -> bool:
        return (killed / "clips" / "part-00002.parquet").exists() and any(killed.rglob("*.tmp"))

    kill_when([sys.executable, "-c", code], hangs)
    monkeypatch.delenv("EDGESEA_TEST_HANG")
    with pytest.raises(EdgeseaError, match="unfinished"):
        Table(tmp_path / "killed")
    complete = {path: time for path, time in stamps(killed).items() if path.suffix == ".parquet"}
    assert len(complete) == 6  # three of ten parts
    for out in ("killed", "whole"):
        extract(tmp_path / "audio", tmp_path / out, **options)
    assert content(tmp_path / "killed") == content(tmp_path / "whole")
    assert complete.items() <= stamps(killed).items()  # not written again


POSITIVE = ("hop", "window", "sample_rate", "part_clips", "batch_size", "workers", "level_rate")


def test_bad_input(noise_folder, tmp_path, refuses, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parent / "models")
    from openl3_random import random_layers, write_keras_h5

    weights = write_keras_h5(tmp_path / "random.h5", random_layers())
    (tmp_path / "file").write_text("precious")
    extract(noise_folder, tmp_path / "table", teacher=QUICK)
    for folder in ("mine", "empty"):
        (tmp_path / folder).mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("precious")
    for name, text, *words in [
        ("rowless.csv", "path\n"),
        ("pathless.csv", "file,split\na.wav,train\n", "'path'", "file, split"),
        ("split.csv", "path,split\na.wav,eval\n", "a.wav", "eval"),
        ("time.csv", "path,time\na.wav,yesterday\n", "a.wav", "yesterday"),
        ("gap.csv", "path,sensor\n,s1\n", "path"),
        ("a.parquet", "text"),
    ]:
        (tmp_path / name).write_text(text)
        refuses("extract", tmp_path / name, tmp_path / "new", words=[name, *words])
    same = f"--teacher={QUICK}"
    for source, out, options, words in [
        (noise_folder, "table", [same, "--hop=0.25"], ["framing.hop", 0.5, 0.25]),
        (noise_folder, "table", [same, "--dtype=float32"], ["dtype", "float16", "float32"]),
        (noise_folder, "table", ["--teacher=spectral"], ["teacher.id", QUICK, "spectral"]),
        (noise_folder, "mine", [], ["mine"]),
        (noise_folder, "file/inside/more", [], ["file"]),
        *((noise_folder, "new", [f"--{name}=0"], [name, 0]) for name in POSITIVE),
        (noise_folder, "new", ["--hop=nan"], ["hop", "nan"]),
        *((noise_folder, "new", [f"--max_skipped={share}"], ["max_skipped", share]) for share in (-0.1, 1.1, "nan")),
        (noise_folder, "new", ["--hop=1e-5"], ["hop", 1e-5, 16000]),
        (noise_folder, "new", ["--sample_rate=100000000"], ["sample_rate", 100000000]),
        (noise_folder, "new", ["--teacher=vggish"], ["vggish", "spectral"]),
        (noise_folder, "new", ["--teacher=callable:no.such.module:f@8000"], ["no.such.module"]),
        (noise_folder, "new", ["--teacher=efficientat/mn04", "--weights=gone.pt"], ["gone.pt", "mn04"]),
        (noise_folder, "new", ["--teacher=openl3/env-mel128-512", f"--weights={weights}", "--window=0.5"], [1.0, 0.5]),
        (noise_folder, "new", ["--validate=1.0"], ["validate", 1.0]),
        (noise_folder, "new", ["--validate=half"], ["validate", "half"]),
        (noise_folder, "new", ["--validate=fold=5"], ["fold=5", noise_folder]),
        (tmp_path / "gone", "new", [], ["gone"]),
        (tmp_path / "empty", "new", [], ["empty", ".wav"]),
        (tmp_path / "split.csv", "new", ["--validate=fold=5"], ["split.csv", "'fold'"]),
        (noise_folder / "clip00.wav", "new", [], ["clip00.wav"]),
    ]:
        refuses("extract", source, tmp_path / out, *options, words=words)
        assert not (tmp_path / "new").exists()
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.tex"]
    write_noise(noise_folder / "clip00.wav", 9.0)
    refuses("extract", noise_folder, tmp_path / "table", same, words=["manifest_sha256"])


# --- unusual clips, and clips and teachers that fail


@pytest.mark.parametrize(
    "name", ["a.flac", "a.ogg", "a.mp3", "a.aiff", "Straße 🎤.wav", "n" * 246 + ".wav", 'a\nb,".wav']
)
def test_formats_and_names(tmp_path, name):
    write_noise(tmp_path / "audio" / name, 2.0)
    (tmp_path / "audio" / f"x{name[1:]}").write_text("no audio")
    extract(tmp_path / "audio", tmp_path / "table", teacher=QUICK)
    assert {clip: len(starts) for clip, (starts, *_) in windows_of(tmp_path / "table").items()} == {name: 3}
    assert list(skipped(tmp_path / "table")) == [f"x{name[1:]}"]


def test_extreme_clips_are_clips_like_others(tmp_path, caplog):
    write_noise(tmp_path / "array.wav", 2.0, rate=192000, channels=8)
    soundfile.write(tmp_path / "one.wav", np.full(1, 0.1), 8000)
    soundfile.write(tmp_path / "loud.wav", 20 * np.sin(np.arange(8000)), 8000, subtype="FLOAT")
    soundfile.write(tmp_path / "silence.wav", np.zeros(16000), 8000)
    (tmp_path / os.fsdecode(b"caf\xe9.wav")).write_bytes((tmp_path / "one.wav").read_bytes())
    extract(tmp_path, tmp_path / "table", sample_rate=8000)
    found = windows_of(tmp_path / "table")
    counts = {clip: len(starts) for clip, (starts, *_) in found.items()}
    assert counts == {"array.wav": 3, "loud.wav": 1, r"caf\xe9.wav": 1, "one.wav": 1, "silence.wav": 3}
    assert found["silence.wav"][1].tolist() == [-120.0] * 3
    assert "1 clips exceed twice full scale (first: loud.wav)" in caplog.text
    assert_stored(found["loud.wav"][3], 20 * np.sin(np.arange(8000))[None])
    assert all(np.isfinite(embeddings).all() for _, _, embeddings, _ in found.values())


def test_clips_that_cannot_be_used_are_listed(tmp_path):
    """Also one that turns bad near its end, after three of its four pieces: it is left out as a whole."""
    for folder in ("bad", "good"):
        for seed, name in enumerate(["a.wav", "c.wav"]):
            write_noise(tmp_path / folder / name, 3.0, seed=seed)
    noise = np.random.default_rng(5).uniform(-0.1, 0.1, 8000 * 100).astype(np.float32)
    for name in ("cut.wav", "cut.flac", "cut.mp3"):
        soundfile.write(tmp_path / "bad" / name, noise, 8000)
        (tmp_path / "bad" / name).write_bytes((tmp_path / "bad" / name).read_bytes()[:50_000])
    noise[-100] = np.inf
    soundfile.write(tmp_path / "bad" / "late.wav", noise, 8000, subtype="FLOAT")
    soundfile.write(tmp_path / "bad" / "none.wav", noise[:0], 8000)
    soundfile.write(tmp_path / "bad" / "fast.wav", noise[:9], 2**31 - 1)
    (tmp_path / "bad" / "text.wav").write_text("no audio")
    (tmp_path / "bad" / "folder.wav").mkdir()
    names = [*(path.name for path in (tmp_path / "bad").iterdir()), "gone.wav", "n" * 300 + ".wav"]
    (tmp_path / "bad" / "all.csv").write_text("\n".join(["path", *names]))
    for folder, source in (("bad", "bad/all.csv"), ("good", "good")):
        extract(tmp_path / source, tmp_path / f"{folder}.table", teacher=QUICK, batch_size=16, max_skipped=0.99)
    found = skipped(tmp_path / "bad.table")
    assert found.keys() == {*names} - {"a.wav", "c.wav"}
    words = {"cut.wav": "truncated", "late.wav": "NaN or Inf", "fast.wav": "sample rate", "gone.wav": "No such file"}
    assert all(word in found[name] for name, word in words.items())
    bad, good = windows_of(tmp_path / "bad.table"), windows_of(tmp_path / "good.table")
    assert bad.keys() == good.keys() == {"a.wav", "c.wav"}
    for clip in bad:
        for one, other in zip(bad[clip], good[clip], strict=True):
            np.testing.assert_array_equal(one, other)
    assert not list((tmp_path / "bad.table").rglob("*.tmp"))


def test_too_many_unusable_clips_end_the_command_until_they_are_accepted_or_repaired(noise_folder, tmp_path, refuses):
    for path in noise_folder.iterdir():
        path.write_text("no audio")
    arguments = noise_folder, tmp_path / "table", f"--teacher={QUICK}"
    refuses("extract", *arguments, "--max_skipped=1", words=["12 of 12", "clip00.wav", "skipped.csv"])
    assert len(skipped(tmp_path / "table")) == 12
    write_noise(noise_folder / "clip05.wav")
    refuses("extract", *arguments, words=["11 of 12", "max_skipped", 0.5])
    assert extract(noise_folder, tmp_path / "table", teacher=QUICK, max_skipped=0.95)["skipped"] == 11


@pytest.mark.parametrize("batch_size", [4, 1000])
@pytest.mark.parametrize("seconds", [3, 100])
def test_a_clip_whose_embeddings_hold_nan_is_skipped(tmp_path, batch_size, seconds):
    for name, amplitude in (("a.wav", 0.1), ("b.wav", 0.9), ("c.wav", 0.1)):
        audio = np.full(8000 * seconds, 0.1, np.float32)
        audio[-8000:] = amplitude
        soundfile.write(tmp_path / name, audio, 8000)
    teacher = "callable:test_extract:nan_when_loud@8000"
    extract(tmp_path, tmp_path / "table", teacher=teacher, batch_size=batch_size)
    assert skipped(tmp_path / "table") == {"b.wav": f"{teacher} gave NaN or Inf"}
    assert [len(found[0]) for found in windows_of(tmp_path / "table").values()] == [2 * seconds - 1] * 2


def test_embeddings_too_large_for_their_dtype_are_refused(tmp_path):
    (tmp_path / "audio").mkdir()
    soundfile.write(tmp_path / "audio" / "a.wav", np.full(8000, 0.9, np.float32), 8000)
    teacher = "callable:test_extract:huge@8000"
    with pytest.raises(EdgeseaError, match=r"a\.wav.*89\d+.*float16.*dtype=float32"):
        extract(tmp_path / "audio", tmp_path / "table", teacher=teacher)
    extract(tmp_path / "audio", tmp_path / "table", teacher=teacher, dtype="float32")


# --- engine and precision


@pytest.fixture
def esc10(shared_data, tmp_path) -> Path:
    """Every 40th clip of ESC-10."""
    (tmp_path / "esc10").mkdir()
    for path in sorted((shared_data / "esc10" / "audio").iterdir())[::40]:
        (tmp_path / "esc10" / path.name).symlink_to(path.absolute())
    return tmp_path / "esc10"


@pytest.mark.skipif(low_precision("openvino", "cpu") != "bfloat16", reason="the processor does not compute in bfloat16")
def test_bfloat16_is_chosen_where_real_clips_allow_it(esc10, shared_data, tmp_path, caplog, monkeypatch):
    """Of OpenL3 with random weights, and not of mn04."""
    monkeypatch.syspath_prepend(Path(__file__).parent / "models")
    from openl3_random import random_layers, write_keras_h5

    caplog.set_level("INFO", "edgesea")
    weights = write_keras_h5(tmp_path / "random.h5", random_layers())
    mn04 = shared_data / "efficientat" / "mn04_as_mAP_432.pt"
    for teacher, file, chosen in (
        ("openl3/music-mel128-512", weights, "bfloat16"),
        ("efficientat/mn04", mn04, "float32"),
    ):
        table = tmp_path / chosen
        extract(esc10, table, teacher=teacher, weights=file, hop=5.0)
        made = Table(table).info["teacher"]
        assert (made["engine"], made["precision"]) == ("openvino", chosen)
        assert f"precision {chosen}: bfloat16 and float32" in caplog.text


def test_a_table_keeps_its_engine_and_precision(esc10, shared_data, tmp_path, refuses):
    table, weights = tmp_path / "table", shared_data / "efficientat" / "mn04_as_mAP_432.pt"
    options = {"teacher": "efficientat/mn04", "weights": weights, "hop": 1.0, "part_clips": 4}
    extract(esc10, table, engine="torch", precision="float32", **options)
    assert {"engine", "precision"}.isdisjoint(Table(table).info["teacher"])  # as of tables before there was a choice
    whole = content(table)
    (table / "clips" / "part-00001.parquet").unlink()
    extract(esc10, table, **options)
    assert content(table) == whole
    with pytest.raises(EdgeseaError, match=r"teacher\.engine: None there, onnx here"):
        extract(esc10, table, engine="onnx", **options)
    with pytest.raises(EdgeseaError, match=r"onnx.*bfloat16"):
        extract(esc10, tmp_path / "new", engine="onnx", precision="bfloat16", **options)
    with pytest.raises(EdgeseaError, match=r"spectral.*engine=auto"):
        extract(esc10, tmp_path / "new", engine="onnx")
