"""Tables of mixtures: of which clips, at which levels, and that teacher and student hear the same."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import load_audio, write_noise
from quick_model import BY_NAME as QUICK
from stored import clips_of, content, skipped, windows_of

from edgesea.audio.io import AudioFile
from edgesea.audio.level import a_weighted_level
from edgesea.cluster import Cluster, using
from edgesea.errors import EdgeseaError
from edgesea.extract import extract
from edgesea.sampling import sample
from edgesea.table.mixtures import RECIPE
from edgesea.table.reader import Table, parts_done

PITCHES = np.arange(400, 3600, 100)  # Hz; a clip is a tone
TONES = "callable:test_mixtures:tones@16000"


def tones(windows: np.ndarray) -> np.ndarray:
    """Amplitudes of the tones, cosine and sine."""
    phases = 2 * np.pi * PITCHES * np.arange(windows.shape[1])[:, None] / windows.shape[1]
    return np.concatenate([windows @ np.cos(phases), windows @ np.sin(phases)], 1) * 2 / windows.shape[1]


@pytest.fixture
def tone_clips(tmp_path) -> Path:
    """Every third clip does not train; one lasts longer than what is heard of it at once, one is cut short."""
    rows = ["path,split,level"]
    for place, pitch in enumerate(PITCHES):
        name, seconds = f"{pitch}.flac", 40 if place == 1 else 2.3
        tone = (0.02 if place % 2 else 0.9) * np.sin(2 * np.pi * pitch * np.arange(seconds * 22050) / 22050)
        soundfile.write(tmp_path / name, tone, 22050)
        rows.append(f"{name},{'train' if place % 3 else ('validate', 'test')[place % 2]},50")
    (tmp_path / "400.flac").write_bytes((tmp_path / "500.flac").read_bytes()[:5000])
    rows[1] = "400.flac,train,50"
    (tmp_path / "clips.csv").write_text("\n".join(rows))
    return tmp_path / "clips.csv"


def test_mixtures_are_of_training_clips_and_the_same_for_teacher_and_student(tone_clips, tmp_path, monkeypatch):
    monkeypatch.setitem(RECIPE, "speed", [1.0, 1.0])
    options = {"sample_rate": 8000, "teacher": TONES, "dtype": "float32", "part_clips": 32, "seed": 3}
    result = extract(tone_clips, tmp_path / "domain", mixtures=600, **options)
    assert (result["clips"], result["mixtures"]) == (len(PITCHES) - 1, 600)
    (tmp_path / "table").symlink_to(tmp_path / "domain" / "mixtures")
    assert clips_of(tmp_path / "table")["clip"].tolist() == [f"mixture-{number:07d}" for number in range(600)]
    assert skipped(tmp_path / "table").keys() == {"400.flac"}
    info = Table(tmp_path / "table").info
    assert info["windows_by_split"] == {"train": 600}
    assert parts_done(tmp_path / "domain")[:2] == (3, 3)
    assert (info["parts"], info["skipped"], info["mixtures"]["count"], info["mixtures"]["seed"]) == (2, 1, 600, 3)
    found = [np.concatenate(column) for column in zip(*windows_of(tmp_path / "table").values(), strict=True)]
    starts, levels, heard, audio = found
    assert not starts.any()
    assert np.abs(audio).max() <= 1
    np.testing.assert_allclose(levels, a_weighted_level(audio, 8000), atol=0.1)
    np.testing.assert_allclose(tones(audio), heard, atol=1e-3)  # the same tones, levels and phases
    amplitudes = np.hypot(*np.split(heard, 2, axis=1))
    loudest = amplitudes.max(1, keepdims=True)
    part = amplitudes > 0.1 * loudest
    assert {*PITCHES[part.any(0)]} == {pitch for place, pitch in enumerate(PITCHES) if place % 3}
    assert [round((part.sum(1) == count).mean(), 1) for count in (1, 2, 3)] == [0.2, 0.5, 0.3]
    spread = 20 * np.log10((loudest / amplitudes)[part])
    assert 11 < spread.max() < 12.1
    assert len(np.unique(heard.round(5), axis=0)) > 590  # a tone as loud as can be may come again
    sample(tmp_path / "table", tmp_path / "subset.parquet", size=100)


def test_two_of_three_clips_are_played_slower_or_faster(tmp_path):
    for name in range(48):
        tone = np.sin(2 * np.pi * 1000 * np.arange(2 * 16000) / 16000)
        soundfile.write(tmp_path / f"{name}.wav", tone, 16000)
    extract(tmp_path, tmp_path / "table", teacher=QUICK, mixtures=480, validate=0)
    audio = np.concatenate([audio for *_, audio in windows_of(tmp_path / "table" / "mixtures").values()])
    spectra = np.abs(np.fft.rfft(audio * np.hanning(audio.shape[1])))
    pitches = spectra.argmax(1)
    assert 700 <= pitches.min() < 800 < 1250 < pitches.max() <= 1400
    assert 0.2 < (pitches == 1000).mean() < 0.5


def test_not_a_byte_depends_on_where_and_when_mixtures_are_made(tmp_path):
    for seed in range(5):
        write_noise(tmp_path / "audio" / f"{seed}.wav", 0.4 + seed, 44100, seed=seed)
    options = {"teacher": QUICK, "mixtures": 300, "validate": 0, "part_clips": 16}
    extract(tmp_path / "audio", tmp_path / "one", **options)
    with using(Cluster(max_jobs=2)):
        extract(tmp_path / "audio", tmp_path / "two", workers=2, **options)
    whole = content(tmp_path / "one")
    assert content(tmp_path / "two") == whole
    (tmp_path / "one" / "mixtures" / "clips" / "part-00001.parquet").unlink()
    extract(tmp_path / "audio", tmp_path / "one", **options)
    assert content(tmp_path / "one") == whole
    extract(tmp_path / "audio", tmp_path / "other", **options, seed=1)
    tables = [Table(tmp_path / name / "mixtures") for name in ("one", "other")]
    assert tables[0].info["manifest_sha256"] != tables[1].info["manifest_sha256"]
    assert not np.isin(*(table.embeddings(0, 0)[:, 1] for table in tables)).all()


def test_two_clips_are_needed(tmp_path, refuses):
    write_noise(tmp_path / "audio" / "a.wav")
    arguments = tmp_path / "audio", tmp_path / "table", f"--teacher={QUICK}", "--validate=0"
    refuses("extract", *arguments, "--mixtures=10", words=["train", 1])
    (tmp_path / "audio" / "b.wav").write_text("no audio")
    refuses("extract", *arguments, "--mixtures=10", words=["b.wav"])
    refuses("extract", *arguments, "--mixtures=-2", words=["mixtures", -2])
    refuses("extract", *arguments, "--mixtures=10", "--seed=-1", words=["seed", -1])


@pytest.mark.parametrize("ending", ["wav", "flac", "ogg", "mp3", "m4a"])
def test_a_recording_is_read_from_any_sample_on(tmp_path, ending):
    path, noise = tmp_path / f"a.{ending}", np.random.default_rng(0).uniform(-0.2, 0.2, 72000).astype(np.float32)
    if ending == "m4a":
        av = pytest.importorskip("av")
        with av.open(str(path), "w", format="mp4") as file:
            stream = file.add_stream("aac", 8000, layout="mono")
            frame = av.AudioFrame.from_ndarray(noise[None], "fltp", "mono")
            frame.sample_rate = 8000
            file.mux([*stream.encode(frame), *stream.encode(None)])
    else:
        soundfile.write(path, noise, 8000)
    whole = load_audio(path, 8000)
    with AudioFile(path) as file:
        found = np.concatenate(list(file.chunks(50001)))
        np.testing.assert_allclose(found, whole[50001:], atol=1e-3)
    with AudioFile(path) as file:
        some = np.concatenate(list(file.chunks(3, 20000)))
        np.testing.assert_array_equal(some, whole[3:20000])
    with AudioFile(path) as file, pytest.raises(EdgeseaError, match=r"lasts .* s, and 90\.000 s is behind its end"):
        list(file.chunks(720000))
