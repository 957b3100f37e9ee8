import gzip
import math
import shutil
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import soundfile
from conftest import write_noise

from edgesea.audio.framing import Framing
from edgesea.audio.io import load_audio
from edgesea.audio.level import a_weighted_level
from edgesea.embed.files import embed
from edgesea.errors import EdgeseaError
from edgesea.extract import extract
from edgesea.table.importing import import_table
from edgesea.table.reader import Table

SIZE = 6


def openl3_count(samples: int, rate: int, hop: float, center: bool, window: float = 1.0) -> int:
    """Number of embeddings that openl3 makes: resampled, half a frame in front, zeros up to the last hop."""
    frame, step = round(window * 48000), int(hop * 48000)
    length = math.ceil(samples * 48000 / rate) + (frame // 2 if center else 0)
    padded = frame if length < frame else length + math.ceil((length - frame) / step) * step - (length - frame)
    return 1 + (padded - frame) // step


def rows_for(name: str, count: int, size: int = SIZE) -> np.ndarray:
    """Embeddings by which clip and window can be told."""
    return np.random.default_rng(list(name.encode())).standard_normal((count, size)).astype(np.float32)


def write_pair(
    folder: Path, name: str, samples: int, hop: float = 0.5, center: bool = True, rate: int = 8000, more: int = 0
) -> np.ndarray:
    """Write audio and, beside it, what openl3 would write; returns the embeddings."""
    write_noise(folder / f"{name}.wav", samples / rate, rate, seed=len(name))
    rows = rows_for(name, openl3_count(samples, rate, hop, center) + more)
    np.savez(folder / f"{name}.npz", embedding=rows, timestamps=np.arange(len(rows)) * hop)
    return rows


def windows_of(table: Path) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
    """For each clip starts, levels, embeddings, and the audio of its windows."""
    source, result = Table(table), {}
    for chunk in source.chunks():
        audio = source.audio(chunk, np.arange(len(chunk.clip)))
        embeddings = source.embeddings(chunk.part, chunk.group)
        for name in dict.fromkeys(chunk.names):
            rows = chunk.names[chunk.clip] == name
            result[str(name)] = chunk.start[rows], chunk.level[rows], embeddings[rows], audio[rows]
    return result


def skipped(table: Path) -> dict[str, str]:
    frame = pd.read_csv(table / "skipped.csv")
    return dict(zip(frame["clip"], frame["reason"], strict=True))


# --- what is stored


@pytest.mark.parametrize("hop", [0.1, 0.25, 0.5, 1.0])
@pytest.mark.parametrize("center", [True, False])
def test_embeddings_of_openl3_are_imported_with_their_framing(tmp_path, hop, center):
    rng, expected = np.random.default_rng(0), {}
    for index in range(10):
        rate = int(rng.choice([8000, 16000, 22050, 44100]))
        name = f"clip{index}"
        expected[f"{name}.wav"] = write_pair(
            tmp_path / "in", name, int(rng.integers(0.2 * rate, 5 * rate)), hop, center, rate
        )
    result = import_table(tmp_path / "in", tmp_path / "table", center=center, part_clips=4)
    assert (result["clips"], result["skipped"]) == (10, 0)
    table = Table(tmp_path / "table")
    framing = Framing(1.0, hop, center)
    assert table.framing == framing
    assert table.info["teacher"] == {"id": "imported", "sha256": None, "sample_rate": None, "embedding_size": SIZE}
    found = windows_of(tmp_path / "table")
    assert found.keys() == expected.keys()
    for clip, (starts, levels, embeddings, audio) in found.items():
        count = len(starts)
        assert count in (len(expected[clip]), len(expected[clip]) - 1)
        np.testing.assert_array_equal(embeddings, expected[clip][:count].astype(np.float16))
        samples = load_audio(tmp_path / "in" / clip, 8000)
        pcm = np.clip(np.rint(samples * 32767), -32768, 32767).astype(np.int16)
        np.testing.assert_array_equal(audio, framing.at(8000).cut(pcm)[:count])
        np.testing.assert_array_equal(starts, np.arange(count) * round(hop * 8000) - (4000 if center else 0))
        own, rate = soundfile.read(tmp_path / "in" / clip, dtype="float32")
        windows = framing.at(rate).cut(own)[:count]
        np.testing.assert_allclose(levels[: len(windows)], a_weighted_level(windows, rate)[:count], atol=1e-3)


@pytest.mark.parametrize(("center", "suffix"), [(True, "emb"), (False, ".emb")])
def test_what_embed_wrote_is_what_extract_gives(noise_folder, tmp_path, center, suffix):
    """Round trip with a real model; the hop is a whole number of samples at all rates."""
    extract(noise_folder, tmp_path / "extracted", hop=0.5, center=center, dtype="float32", validate=0.3)
    embed([noise_folder], model="spectral", hop=0.5, center=center, suffix=suffix)
    options: dict[str, Any] = {"suffix": suffix, "center": center, "dtype": "float32", "validate": 0.3}
    import_table(noise_folder, tmp_path / "imported", **options, teacher="spectral")
    one, other = (windows_of(tmp_path / name) for name in ("extracted", "imported"))
    assert one.keys() == other.keys()
    for clip in one:
        for what, (first, second) in enumerate(zip(one[clip], other[clip], strict=True)):
            if what == 1:  # the teacher hears 16 kHz, the files have 8: the level is that of the same sound
                np.testing.assert_allclose(first, second, atol=0.2)
            elif what == 2:  # embedded in other batches
                np.testing.assert_allclose(first, second, atol=2e-3)
            else:
                np.testing.assert_array_equal(first, second)
    assert Table(tmp_path / "extracted").counts == Table(tmp_path / "imported").counts


@pytest.mark.parametrize("ending", [".npy", ".npy.gz"])
def test_embeddings_without_timestamps_need_the_hop(tmp_path, ending):
    folder = tmp_path / "in"
    rows = write_pair(folder, "a", 20000, hop=0.25)
    (folder / "a.npz").unlink()
    np.save(folder / "a.npy", rows)
    if ending == ".npy.gz":
        (folder / "a.npy.gz").write_bytes(gzip.compress((folder / "a.npy").read_bytes()))
        (folder / "a.npy").unlink()
    with pytest.raises(EdgeseaError, match=r"hop: needed in seconds, because no timestamps tell it \(as those of a\."):
        import_table(folder, tmp_path / "table")
    import_table(folder, tmp_path / "table", hop=0.25)
    np.testing.assert_array_equal(windows_of(tmp_path / "table")["a.wav"][2], rows.astype(np.float16))
    assert Table(tmp_path / "table").framing == Framing(1.0, 0.25, True)


def test_timestamps_in_the_middle_of_windows_tell_that_clips_are_not_centred(tmp_path):
    rows = write_pair(tmp_path / "in", "a", 20000, hop=0.5, center=False)
    np.savez(tmp_path / "in" / "a.npz", embedding=rows, timestamps=0.5 + np.arange(len(rows)) * 0.5)
    import_table(tmp_path / "in", tmp_path / "table")
    assert Table(tmp_path / "table").framing == Framing(1.0, 0.5, False)
    assert windows_of(tmp_path / "table")["a.wav"][0][0] == 0
    with pytest.raises(EdgeseaError, match=r"a\.npz: timestamps begin at 0\.5 s; understood are 0, and without center"):
        import_table(tmp_path / "in", tmp_path / "other", center=True)
    with pytest.raises(EdgeseaError, match=r"half a window \(0\.48 s\); is window=0\.96 right"):
        import_table(tmp_path / "in", tmp_path / "other", window=0.96)


def test_timestamps_in_single_precision_tell_the_same_hop(tmp_path):
    rows = write_pair(tmp_path / "in", "a", 8000 * 40, hop=0.1)
    stamps = (np.arange(len(rows)) * 0.1).astype(np.float32)
    np.savez(tmp_path / "in" / "a.npz", embedding=rows, timestamps=stamps)
    import_table(tmp_path / "in", tmp_path / "table")
    assert Table(tmp_path / "table").framing.hop == 0.1


@pytest.mark.parametrize("ending", [".npz", ".npy", ".npy.gz", "compressed.npz"])
def test_long_clips_take_several_rows(tmp_path, ending):
    rows = write_pair(tmp_path / "in", "long", 8000 * 100, hop=0.5)
    path = tmp_path / "in" / "long.npz"
    if ending == "compressed.npz":
        np.savez_compressed(path, embedding=rows, timestamps=np.arange(len(rows)) * 0.5)
    elif ending != ".npz":
        path.unlink()
        np.save(path.with_suffix(".npy"), rows)
    if ending == ".npy.gz":
        path.with_suffix(".npy.gz").write_bytes(gzip.compress(path.with_suffix(".npy").read_bytes()))
        path.with_suffix(".npy").unlink()
    import_table(tmp_path / "in", tmp_path / "table", hop=0.5)
    (chunk,) = Table(tmp_path / "table").chunks()
    assert len(chunk.names) == math.ceil(len(rows) / 64) == 4
    np.testing.assert_array_equal(windows_of(tmp_path / "table")["long.wav"][2], rows.astype(np.float16))


def test_long_clips_are_read_in_bounded_memory(tmp_path):
    """The audio would take 115 MB as floats, the embeddings as much."""
    noise = np.random.default_rng(0).integers(-3000, 3000, 16000 * 60, np.int16)
    (tmp_path / "in").mkdir()
    soundfile.write(tmp_path / "in" / "long.wav", np.tile(noise, 30), 16000)
    rows = np.ones((1800, 16000), np.float32)
    np.savez_compressed(tmp_path / "in" / "long.npz", embedding=rows, timestamps=np.arange(1800) * 1.0)
    del rows
    tracemalloc.start()
    try:
        assert import_table(tmp_path / "in", tmp_path / "table", center=False, validate=0.0)["windows"] == 1800
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 100e6


def test_a_manifest_chooses_clips_and_tells_what_is_known(tmp_path):
    for name in ("a", "b", "c"):
        write_pair(tmp_path / "audio", name, 16000)
    text = "filename,where,fold,spl\na.wav,roof,1,50\nc.wav,door,5,60 70 80 90\n"
    (tmp_path / "meta.csv").write_text(text)
    columns = {"path": "filename", "sensor": "where", "level": "spl"}
    options: dict[str, Any] = {"root": tmp_path / "audio", "columns": columns, "validate": "fold=5", "level_rate": 2.0}
    result = import_table(tmp_path / "meta.csv", tmp_path / "table", **options)
    assert (result["clips"], result["skipped"]) == (2, 0)
    clips = pd.read_parquet(tmp_path / "table" / "clips")
    assert clips[["clip", "sensor", "split"]].values.tolist() == [
        ["a.wav", "roof", "train"],
        ["c.wav", "door", "validate"],
    ]
    levels = windows_of(tmp_path / "table")["c.wav"][1]
    assert levels[1] == pytest.approx(10 * np.log10((1e6 + 1e7) / 2))  # the second window begins with the clip
    assert Table(tmp_path / "table").info["level"] == {"unit": "dB SPL", "rate": 2.0}


def test_two_files_of_one_name_keep_their_own_embeddings(tmp_path):
    """As `embed` names them: x.npz for the first, x.wav.npz for the second."""
    write_noise(tmp_path / "in" / "x.flac", 2.0, seed=1)
    write_noise(tmp_path / "in" / "x.wav", 3.0, seed=2)
    embed([tmp_path / "in"], model="spectral", hop=0.5)
    assert import_table(tmp_path / "in", tmp_path / "table")["skipped"] == 0
    assert {clip: len(found[0]) for clip, found in windows_of(tmp_path / "table").items()} == {"x.flac": 4, "x.wav": 6}


# --- numbers of windows that differ


@pytest.mark.parametrize("seconds", [3, 32, 33, 100])
def test_where_the_numbers_differ_by_one_the_smaller_counts(tmp_path, seconds):
    """At 33 s the last of three rows of the clip has a single window, which may fall away."""
    for name, more in (("equal", 0), ("fewer", -1), ("more", 1)):
        write_pair(tmp_path / "in", name, seconds * 8000 - 4000, hop=0.5, more=more)
    result = import_table(tmp_path / "in", tmp_path / "table", center=True)
    assert result["skipped"] == 0
    found = windows_of(tmp_path / "table")
    count = openl3_count(seconds * 8000 - 4000, 8000, 0.5, True)
    assert {clip: len(rows[0]) for clip, rows in found.items()} == {
        "equal.wav": count,
        "fewer.wav": count - 1,
        "more.wav": count,
    }
    for clip, (_, _, embeddings, audio) in found.items():
        name = clip.removesuffix(".wav")
        np.testing.assert_array_equal(embeddings, rows_for(name, len(embeddings)).astype(np.float16))
        pcm = np.rint(load_audio(tmp_path / "in" / clip, 8000) * 32767).clip(-32768, 32767).astype(np.int16)
        np.testing.assert_array_equal(audio, Framing(1.0, 0.5, True).at(8000).cut(pcm)[: len(audio)])
    clips = pd.read_parquet(tmp_path / "table" / "clips")
    last = clips[clips["clip"] == "fewer.wav"].iloc[-1]
    assert last["offset"] + len(last["pcm"]) // 2 == (count - 2) * 4000 + 4000  # where its last window ends


@pytest.mark.parametrize("more", [-2, 2, 40])
@pytest.mark.parametrize("seconds", [3, 100])
def test_other_numbers_of_embeddings_are_skipped_with_both(tmp_path, seconds, more):
    for name in ("a", "c"):
        write_pair(tmp_path / "in", name, 16000, hop=0.5)
    count = len(write_pair(tmp_path / "in", "b", seconds * 8000, hop=0.5, more=more)) - more
    result = import_table(tmp_path / "in", tmp_path / "table")
    assert (result["clips"], result["skipped"]) == (2, 1)
    (reason,) = skipped(tmp_path / "table").values()
    expected = f"b.npz: {count + more} embeddings, where its audio has {count} windows of 1 s every 0.5 s (center=True)"
    assert reason.startswith(expected)


def test_a_misfit_of_an_mp3_shows_when_it_is_decoded(tmp_path):
    """Its header is trusted to 5 %, so that pieces have been written before; they are taken back."""
    write_pair(tmp_path / "in", "a", 16000, hop=0.5)
    audio = np.random.default_rng(0).uniform(-0.1, 0.1, 8000 * 100)
    soundfile.write(tmp_path / "in" / "b.mp3", audio, 8000)
    count = openl3_count(soundfile.info(tmp_path / "in" / "b.mp3").frames, 8000, 0.5, True)
    for more in (-4, 4):
        rows = rows_for("b", count + more)
        np.savez(tmp_path / "in" / "b.npz", embedding=rows, timestamps=np.arange(count + more) * 0.5)
        result = import_table(tmp_path / "in", tmp_path / str(more))
        assert (result["clips"], result["skipped"]) == (1, 1)
        reason = f"b.npz: {count + more} embeddings, where its audio has {count} windows"
        assert skipped(tmp_path / str(more))["b.mp3"].startswith(reason)
        assert list(windows_of(tmp_path / str(more))) == ["a.wav"]


@pytest.mark.parametrize("hop", [0.1, 0.5, 1.0])
def test_clips_that_are_not_centred_are_not_silently_taken_for_centred(tmp_path, hop):
    """openl3's timestamps begin at 0 in either case; a hop of half a window makes a difference of a single window."""
    for name in ("a", "bb"):
        write_pair(tmp_path / "in", name, 8000 * 4, hop, center=False)
    with pytest.raises(EdgeseaError, match=r"2 of 2 clips .*\(center=True\); they would fit center=False"):
        import_table(tmp_path / "in", tmp_path / "table")
    assert import_table(tmp_path / "in", tmp_path / "other", center=False)["skipped"] == 0
    # Nothing was stored, so the folder is free for the options that the message names.
    assert import_table(tmp_path / "in", tmp_path / "table", center=False)["skipped"] == 0
    files = [path.relative_to(tmp_path / "other") for path in (tmp_path / "other").rglob("*") if path.is_file()]
    assert all((tmp_path / "table" / file).read_bytes() == (tmp_path / "other" / file).read_bytes() for file in files)


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("hop", [1 / 30, 1024 / 22050, 0.0333, 0.1, 0.033333])
def test_windows_do_not_drift_where_the_hop_is_no_whole_number_of_samples(tmp_path, hop, kind):
    """In ten minutes, 1/30 s rounded to samples at 8 kHz would be 0.75 s late, rounded to six digits 6 ms early."""
    path = write_noise(tmp_path / "in" / "long.wav", 600.0)
    count = Framing(0.1, hop, True).at(8000).count(600 * 8000)
    rows = rows_for("long", count)
    np.savez(tmp_path / "in" / "long.npz", embedding=rows, timestamps=(np.arange(count) * hop).astype(kind))
    for rate in (8000, 11025):
        table = tmp_path / f"{rate}"
        assert import_table(tmp_path / "in", table, window=0.1, sample_rate=rate)["windows"] == count
        starts, _, embeddings, audio = windows_of(table)["long.wav"]
        np.testing.assert_array_equal(embeddings, rows.astype(np.float16))
        late = starts + round(0.1 * rate) // 2 - np.arange(count) * hop * rate
        # Stamps in single precision do not tell a hop that is neither simple nor has six digits to the last sample
        tolerance = 1.0 if kind == np.float64 or hop != 1024 / 22050 else 1.0 + 1e-7 * 600 * rate
        assert -tolerance - 1e-6 < late.min() <= late.max() < tolerance
    assert kind == np.float32 or Table(table).framing.hop == hop
    pcm = np.rint(load_audio(path, 11025) * 32767).clip(-32768, 32767).astype(np.int16)
    np.testing.assert_array_equal(audio[-50:], Table(table).framing.at(11025).cut(pcm)[-50:])


# --- what cannot be used


def test_what_has_no_counterpart_is_listed(tmp_path):
    for name in ("a", "b", "c", "d"):
        write_pair(tmp_path / "in", name, 16000)
    (tmp_path / "in" / "a.npz").unlink()
    (tmp_path / "in" / "deep").mkdir()
    shutil.move(tmp_path / "in" / "b.wav", tmp_path / "in" / "deep" / "b.wav")
    shutil.copy(tmp_path / "in" / "c.wav", tmp_path / "in" / "c.wave")
    result = import_table(tmp_path / "in", tmp_path / "table", max_skipped=0.8)
    assert (result["clips"], result["skipped"]) == (2, 4)
    assert skipped(tmp_path / "table") == {
        "a.wav": "no embeddings beside it (a.npz, a.npy, a.npy.gz)",
        "b.npz": "embeddings without audio of that name beside them",
        "c.wave": "no embeddings of its own: c.npz is taken for those of c.wav",
        "deep/b.wav": "no embeddings beside it (b.npz, b.npy, b.npy.gz)",
    }
    assert set(windows_of(tmp_path / "table")) == {"c.wav", "d.wav"}


def bad_pair(folder: Path, how: str) -> None:
    rows = write_pair(folder, "b", 16000, hop=0.5)
    stamps, path = np.arange(len(rows)) * 0.5, folder / "b.npz"
    if how == "hop":
        np.savez(path, embedding=rows, timestamps=stamps / 5)
    elif how == "first":
        np.savez(path, embedding=rows, timestamps=stamps + 0.5)
    elif how == "size":
        np.savez(path, embedding=rows[:, :4], timestamps=stamps)
    elif how == "nan":
        rows[2, 3] = np.nan
        np.savez(path, embedding=rows, timestamps=stamps)
    elif how == "object":
        np.savez(path, embedding=rows.astype(object), timestamps=stamps)
    elif how == "no timestamps":
        np.savez(path, embedding=rows)
    elif how == "npy":
        path.unlink()
        np.save(path.with_suffix(".npy"), rows)
    elif how == "text":
        path.write_text("no archive")
    elif how == "audio":
        (folder / "b.wav").write_text("no audio")


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("hop", r"b\.npz: timestamps 0, 0\.1, 0\.2 \.\.\. s, where other files have 0, 0\.5, 1 \.\.\. s"),
        ("first", r"b\.npz: timestamps 0\.5, 1, 1\.5 \.\.\. s, where"),
        ("size", r"b\.npz: 4 dimensions, where those of a\.wav have 6"),
        ("nan", r"b\.npz: the embeddings hold NaN or Inf"),
        ("object", r"b\.npz: holds Python objects, which only unpickling could read"),
        ("no timestamps", r"b\.npz: no timestamps tell its hop; give it as hop"),
        ("npy", r"b\.npy: no timestamps tell its hop; give it as hop"),
        ("text", r"b\.npz: damaged, or no \.npz file"),
        ("audio", r"cannot be decoded: Format not recognised"),
    ],
)
def test_pairs_that_cannot_be_used_are_skipped(tmp_path, how, reason):
    for name in ("a", "c"):
        write_pair(tmp_path / "in", name, 16000, hop=0.5)
    bad_pair(tmp_path / "in", how)
    assert import_table(tmp_path / "in", tmp_path / "table")["skipped"] == 1
    assert list(skipped(tmp_path / "table")) == ["b.wav"]
    assert pd.Series(skipped(tmp_path / "table")).str.match(reason).all(), skipped(tmp_path / "table")


@pytest.mark.parametrize("how", ["object", "text"])
def test_a_bad_first_file_does_not_settle_anything(tmp_path, how):
    bad_pair(tmp_path / "in", how)
    for name in ("c", "d"):
        write_pair(tmp_path / "in", name, 16000, hop=0.25)
    assert import_table(tmp_path / "in", tmp_path / "table")["clips"] == 2
    assert Table(tmp_path / "table").framing.hop == 0.25


def test_if_no_embeddings_can_be_read_the_first_reason_is_given(tmp_path):
    bad_pair(tmp_path / "in", "text")
    with pytest.raises(
        EdgeseaError, match=r"no embeddings can be read \(first: .*in/b\.npz: damaged, or no \.npz file"
    ):
        import_table(tmp_path / "in", tmp_path / "table")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"audio_rate": 8000}, "audio_rate=8000 is of no use for audio files"),
        ({"hop": 0.25}, r"a\.npz: timestamps every 0\.5 s, where hop is 0\.25 s; leave hop out"),
        ({"hop": -0.5}, r"hop must be positive, not -0\.5"),
        ({"window": -1.0}, r"window must be positive, not -1\.0"),
        ({"suffix": "emb"}, r"in: neither HDF5 shards \(\.h5 \.hdf5\) nor embeddings \(x_emb\.npz x_emb\.npy"),
        ({"columns": {"loudness": "spl"}}, "columns: unknown loudness"),
        ({"validate": "fold=5"}, "the condition 'fold=5' needs a manifest"),
        ({"level_rate": -1.0}, r"level_rate must be positive, not -1\.0"),
    ],
)
def test_options_that_do_not_fit_files_are_refused(tmp_path, options, message):
    write_pair(tmp_path / "in", "a", 16000, hop=0.5)
    with pytest.raises(EdgeseaError, match=message):
        import_table(tmp_path / "in", tmp_path / "table", **options)
    assert not (tmp_path / "table").exists()
