"""Importing: resuming and what is refused, for both kinds of sources; and audio with embeddings beside it."""

import math
import shutil
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import soundfile
from conftest import cut_windows, kill_when, load_audio, peak_memory, write_noise
from stored import (
    SIZE,
    assert_stored,
    audio_rows,
    clips_of,
    content,
    embedding_rows,
    rows_for,
    skipped,
    stamps,
    store,
    windows_of,
    write_shard,
)

from edgesea.audio.framing import Framing
from edgesea.audio.level import a_weighted_level
from edgesea.embed.files import embed
from edgesea.errors import EdgeseaError
from edgesea.extract import extract
from edgesea.table.importing import import_table, load_embeddings
from edgesea.table.reader import Table


def make_shards(folder: Path, shards: int = 3, rows: int = 40) -> dict[str, Any]:
    """Shards of noise, one damaged; returns the options that importing them needs."""
    for index in range(shards):
        embedding = embedding_rows(rows, index)
        embedding[5, 0] = np.nan
        write_shard(folder / f"{index}.h5", audio_rows(rows, seed=index), embedding)
    (folder / "9.h5").write_text("not a shard")
    return {"audio_rate": 8000, "part_clips": 25}


def openl3_count(samples: int, rate: int, hop: float, center: bool) -> int:
    """Number of embeddings that openl3 makes: resampled, half a second in front, zeros up to the last hop."""
    length = math.ceil(samples * 48000 / rate) + (24000 if center else 0)
    return 1 + math.ceil(max(0, length - 48000) / int(hop * 48000))


def write_pair(
    folder: Path, name: str, samples: int, hop: float = 0.5, center: bool = True, rate: int = 8000, more: int = 0
) -> np.ndarray:
    """Write audio and, beside it, what openl3 would write; returns the embeddings."""
    write_noise(folder / f"{name}.wav", samples / rate, rate, seed=len(name))
    rows = rows_for(name, openl3_count(samples, rate, hop, center) + more)
    store(folder / f"{name}.npz", rows, timestamps=np.arange(len(rows)) * hop)
    return rows


def make_pairs(folder: Path, clips: int = 12) -> dict[str, Any]:
    """Audio with embeddings as openl3 writes them, one clip without; returns the options that importing needs."""
    for index in range(clips):
        write_pair(folder, f"c{index:02d}", 8000 * (1 + index % 5), hop=0.25)
    (folder / "c03.npz").unlink()
    return {"part_clips": 3}


# --- both kinds of sources


@pytest.mark.parametrize("kind", ["shards", "pairs"])
def test_workers_and_a_kill_do_not_change_a_byte(tmp_path, kind):
    options = make_shards(tmp_path / "in", 4, 80) if kind == "shards" else make_pairs(tmp_path / "in", 100)
    options["part_clips"] = 5
    source, killed = tmp_path / "in", tmp_path / "killed"
    results = [import_table(source, tmp_path / str(n), **options, workers=n) for n in (1, 2, 4)]
    whole = content(tmp_path / "1")
    assert content(tmp_path / "2") == content(tmp_path / "4") == whole
    code = "from pathlib import Path; from edgesea.table.importing import import_table; "
    code += f"import_table(Path({str(source)!r}), Path({str(killed)!r}), **{options!r})"
    kill_when([sys.executable, "-c", code], (killed / "clips" / "part-00002.parquet").exists)
    complete = {path: path.stat().st_mtime_ns for path in (killed / "clips").glob("part-*")}
    assert 3 <= len(complete) < len([name for name in whole if name.startswith("clips/")])
    import_table(source, killed, **options)
    assert content(killed) == whole
    assert {path: path.stat().st_mtime_ns for path in complete} == complete  # not written again
    before = stamps(tmp_path / "1")
    assert import_table(source, tmp_path / "1", **options) == {**results[0], "windows_per_second": 0}
    assert stamps(tmp_path / "1") == before


def test_bad_input(tmp_path, refuses):
    shards, pairs, both, empty, other = (tmp_path / name for name in ("shards", "pairs", "both", "empty", "other"))
    make_shards(shards)
    import_table(pairs, pairs / "table", **make_pairs(pairs))  # a table may lie in the folder that is imported
    make_shards(both / "a")
    make_pairs(both / "b")
    write_noise(empty / "a.wav")
    store(empty / ".hidden.npz", np.zeros((1, 2)))
    (tmp_path / "lonely").mkdir()
    store(tmp_path / "lonely" / "a.npz", np.zeros((1, 2)))
    write_noise(tmp_path / "text" / "a.wav")
    (tmp_path / "text" / "a.npz").write_text("text")
    for name, size in (("a", 12), ("b", 6)):
        write_shard(other / f"{name}.h5", audio_rows(2), embedding_rows(2, size=size))
    rate = "--audio_rate=8000"
    for source, options, words in [
        (tmp_path / "gone", [], ["gone"]),
        (pairs / "c00.wav", [], ["c00.wav"]),
        (tmp_path / "lonely", [], ["lonely", "no audio"]),
        (tmp_path / "text", [], ["text/a.npz"]),
        (empty, [], [empty, ".h5", "x.npz", "edgesea extract"]),
        (both, [rate], ["a/0.h5", "b/c00.npz"]),
        *((pairs, [f"--{name}=-1"], [name, -1]) for name in ("part_clips", "workers", "sample_rate", "level_rate")),
        *((pairs, [f"--{name}=-1"], [name, -1]) for name in ("hop", "window", "max_skipped")),
        (pairs, ["--hop=0.5"], ["c00.npz", "hop", 0.25, 0.5]),
        (pairs, ["--suffix=emb"], ["x_emb.npz"]),
        (pairs, ["--validate=fold=5"], ["fold=5", "manifest"]),
        (pairs, [rate], ["audio_rate", 8000]),
        (shards, [], ["audio_rate"]),
        (other, [rate], ["a.h5 has 12", "b.h5 has 6", 8000]),
        (shards, ["--audio_rate=-8000"], ["audio_rate", -8000]),
        (shards, [rate, "--window=0.5"], ["0.h5", "window=0.5", "audio_rate=8000"]),
        (shards, [rate, "--hop=0.5"], ["hop", 0.5]),
        (shards, [rate, "--suffix=emb"], ["suffix", "emb"]),
        (shards, [rate, "--validate=fold=5"], ["0.h5", "fold"]),
        (shards, [rate, "--validate=1.5"], ["validate", 1.5]),
        (shards, [rate, "--audio_key=sound"], ["0.h5", "sound", "l3_embedding"]),
        (shards, [rate, "--columns.level=spl"], ["0.h5", "spl"]),
        (shards, [rate, "--columns.path=name"], ["columns", "path"]),
    ]:
        refuses("import", source, tmp_path / "table", *options, words=words)
        assert not (tmp_path / "table").exists()
    same = pairs / "table"
    for option, value in {"dtype": "float32", "sample_rate": 4000, "teacher": "other"}.items():
        refuses("import", pairs, same, "--part_clips=3", f"--{option}={value}", words=[option, f"{value} here"])
    refuses("import", pairs, pairs, words=[f"{pairs}: not empty"])
    store(pairs / "c00.npz", np.zeros((4, 16)), timestamps=np.arange(4) * 0.25)
    refuses("import", pairs, same, "--part_clips=3", words=["manifest_sha256"])


# --- what is stored of them


@pytest.mark.parametrize("hop", [0.1, 0.5, 1.0])
@pytest.mark.parametrize("center", [True, False])
def test_embeddings_of_openl3_are_imported_with_their_framing(tmp_path, hop, center):
    rng, expected, framing = np.random.default_rng(0), {}, Framing(1.0, hop, center)
    for index in range(6):
        rate, name = int(rng.choice([8000, 16000, 22050, 44100])), f"clip{index}"
        samples = int(rng.integers(0.2 * rate, 5 * rate))
        expected[f"{name}.wav"] = write_pair(tmp_path / "in", name, samples, hop, center, rate)
    result = import_table(tmp_path / "in", tmp_path / "table", center=center, sample_rate=8000, part_clips=4)
    assert result["skipped"] == 0
    assert Table(tmp_path / "table").framing == framing
    found = windows_of(tmp_path / "table")
    assert found.keys() == expected.keys()
    for clip, (starts, levels, embeddings, audio) in found.items():
        count = len(starts)
        assert count in (len(expected[clip]), len(expected[clip]) - 1)
        np.testing.assert_array_equal(embeddings, expected[clip][:count].astype(np.float16))
        assert_stored(audio, cut_windows(framing.at(8000), load_audio(tmp_path / "in" / clip, 8000))[:count])
        np.testing.assert_array_equal(starts, np.arange(count) * round(hop * 8000) - (4000 if center else 0))
        own, rate = soundfile.read(tmp_path / "in" / clip, dtype="float32")
        windows = cut_windows(framing.at(rate), own)[:count]
        np.testing.assert_allclose(levels[: len(windows)], a_weighted_level(windows, rate), atol=1e-3)


@pytest.mark.parametrize(("center", "suffix"), [(True, "emb"), (False, ".emb")])
def test_what_embed_wrote_is_what_extract_gives(tmp_path, center, suffix):
    """Round trip with a real model; two files of one name have embeddings of their own: x.npz and x.wav.npz."""
    audio = tmp_path / "audio"
    for seed, name in enumerate(["x.wav", "x.flac", "y.wav"]):
        write_noise(audio / name, 2.0 + seed, seed=seed)
    options: dict[str, Any] = {"center": center, "dtype": "float32", "validate": 0.3, "teacher": "spectral"}
    extract(audio, tmp_path / "extracted", hop=0.5, **options)
    embed([audio], model="spectral", hop=0.5, center=center, suffix=suffix)
    import_table(audio, tmp_path / "imported", suffix=suffix, **options)
    one, other = (windows_of(tmp_path / name) for name in ("extracted", "imported"))
    assert one.keys() == other.keys() == {"x.wav", "x.flac", "y.wav"}
    for clip in one:  # the teacher hears 16 kHz, the files have 8: the level is that of the same sound
        for first, second, tolerance in zip(one[clip], other[clip], (0, 0.2, 2e-3, 0), strict=True):
            np.testing.assert_allclose(first, second, atol=tolerance, rtol=0)
    assert Table(tmp_path / "extracted").counts == Table(tmp_path / "imported").counts


@pytest.mark.parametrize("ending", [".npy", ".npy.gz"])
def test_embeddings_without_timestamps_need_the_hop(tmp_path, ending):
    """A long clip, which takes several rows."""
    source, table = tmp_path / "in", tmp_path / "table"
    rows = write_pair(source, "a", 8000 * 100, hop=0.5)
    (source / "a.npz").unlink()
    store(source / f"a{ending}", rows)
    with pytest.raises(EdgeseaError, match=rf"hop.*a{ending}"):
        import_table(source, table)
    import_table(source, table, hop=0.5)
    np.testing.assert_array_equal(windows_of(table)["a.wav"][2], rows.astype(np.float16))
    assert Table(table).framing == Framing(1.0, 0.5, True)
    assert len(clips_of(table)) == math.ceil(len(rows) / 64) == 4


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("hop", [1 / 30, 1024 / 22050, 0.0333, 0.1])
def test_windows_do_not_drift_where_the_hop_is_not_a_whole_number_of_samples(tmp_path, hop, kind):
    """In ten minutes, 1/30 s rounded to samples at 8 kHz would be 0.75 s late, rounded to six digits 6 ms early."""
    write_noise(tmp_path / "in" / "long.wav", 600.0)
    count = Framing(0.1, hop, True).at(8000).count(600 * 8000)
    store(tmp_path / "in" / "long.npz", rows_for("long", count), timestamps=(np.arange(count) * hop).astype(kind))
    assert import_table(tmp_path / "in", tmp_path / "table", window=0.1, sample_rate=8000)["windows"] == count
    late = windows_of(tmp_path / "table")["long.wav"][0] + 400 - np.arange(count) * hop * 8000
    # Stamps in single precision do not tell a hop that is neither simple nor has six digits to the last sample.
    tolerance = 1.0 if kind == np.float64 or hop != 1024 / 22050 else 1.5
    assert -tolerance - 1e-6 < late.min() <= late.max() < tolerance
    assert kind == np.float32 or Table(tmp_path / "table").framing.hop == hop


@pytest.mark.parametrize("kind", ["shards", "pairs"])
def test_long_inputs_are_read_in_bounded_memory(tmp_path, kind):
    """The audio would take 384 MB as floats in a shard; in a pair 115 MB, and the embeddings as much."""
    (tmp_path / "in").mkdir()
    if kind == "shards":
        with h5py.File(tmp_path / "in" / "a.h5", "w") as file:  # chunks that are not written take no room
            file.create_dataset("audio", (6000, 16000), np.int16, chunks=(64, 16000), fillvalue=1)
            file["l3_embedding"] = embedding_rows(6000)
    else:
        noise = np.random.default_rng(0).integers(-3000, 3000, 16000 * 60, np.int16)
        soundfile.write(tmp_path / "in" / "a.wav", np.tile(noise, 30), 16000)
        np.save(tmp_path / "in" / "a.npy", np.ones((1800, 16000), np.float32))
    options = {"audio_rate": 16000} if kind == "shards" else {"hop": 1.0, "center": False}
    result, peak = peak_memory(lambda: import_table(tmp_path / "in", tmp_path / "table", **options))
    assert result["windows"] == (6000 if kind == "shards" else 1800)
    assert peak < (60e6 if kind == "shards" else 100e6)


# --- what does not fit


@pytest.mark.parametrize("seconds", [3, 33, 100])
def test_where_the_numbers_differ_by_one_the_smaller_counts(tmp_path, seconds):
    """At 33 s the last of three rows of the clip has a single window, which may fall away."""
    for name, more in (("equal", 0), ("fewer", -1), ("more", 1)):
        write_pair(tmp_path / "in", name, seconds * 8000 - 4000, hop=0.5, more=more)
    assert import_table(tmp_path / "in", tmp_path / "table", center=True, sample_rate=8000)["skipped"] == 0
    count = openl3_count(seconds * 8000 - 4000, 8000, 0.5, True)
    for clip, (*_, embeddings, audio) in windows_of(tmp_path / "table").items():
        assert len(audio) == (count - 1 if clip == "fewer.wav" else count)
        np.testing.assert_array_equal(embeddings, rows_for(clip[:-4], len(audio)).astype(np.float16))
    clips = clips_of(tmp_path / "table")
    last = clips[clips["clip"] == "fewer.wav"].iloc[-1]
    assert last["offset"] + len(last["pcm"]) // 2 == (count - 2) * 4000 + 4000  # where its last window ends


@pytest.mark.parametrize("more", [-4, 4])
def test_an_mp3_that_does_not_fit_is_taken_back(tmp_path, more):
    """Its header is trusted to 5 %, so that pieces have been written before."""
    write_pair(tmp_path / "in", "a", 16000)
    path = tmp_path / "in" / "b.mp3"
    soundfile.write(path, np.random.default_rng(0).uniform(-0.1, 0.1, 8000 * 100), 8000)
    count = openl3_count(soundfile.info(path).frames, 8000, 0.5, True)
    store(path.with_suffix(".npz"), rows_for("b", count + more), timestamps=np.arange(count + more) * 0.5)
    import_table(tmp_path / "in", tmp_path / "table")
    words = ("b.npz", f"{count + more} ", f"{count} windows")
    assert all(word in skipped(tmp_path / "table")[path.name] for word in words)
    assert list(windows_of(tmp_path / "table")) == ["a.wav"]


@pytest.mark.parametrize("hop", [0.1, 0.5, 1.0])
def test_clips_that_are_not_centred_are_not_silently_taken_for_centred(tmp_path, hop):
    """openl3's timestamps begin at 0 in either case; a hop of half a window makes a difference of a single window."""
    source = tmp_path / "in"
    rows = [write_pair(source, name, 8000 * 4, hop, center=False) for name in ("bb", "a")][-1]
    with pytest.raises(EdgeseaError, match=r"2 of 2 clips.*center=False"):
        import_table(source, tmp_path / "table")
    # Nothing was stored, so the folder is free for the options that the message names.
    assert import_table(source, tmp_path / "table", center=False)["skipped"] == 0
    store(source / "a.npz", rows, timestamps=0.5 + np.arange(len(rows)) * hop)  # middles of windows
    import_table(source, tmp_path / "middles", max_skipped=0.5)
    assert Table(tmp_path / "middles").framing == Framing(1.0, hop, False)
    for options in ({"center": True}, {"window": 0.96}):
        with pytest.raises(EdgeseaError, match=r"a\.npz: timestamps 0\.5, .*window"):
            import_table(source, tmp_path / "other", **options)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"timestamps": np.arange(4) * 0.1}, ["b.npz", "0.1, 0.2", "0.5, 1"]),
        ({"timestamps": np.arange(4) * 0.5 + 0.5}, ["b.npz", "0.5, 1, 1.5"]),
        ({"embedding": np.zeros((4, 4))}, ["b.npz", "4 dimensions", "a.npz", "6"]),
        ({"embedding": np.full((4, SIZE), np.nan)}, ["NaN"]),
        ({"embedding": np.full((4, SIZE), 1e300)}, ["Inf"]),
        ({"timestamps": None}, ["b.npz", "hop"]),
        ({"embedding": np.zeros((8, SIZE)), "timestamps": np.arange(8) * 0.5}, ["b.npz", "8 embed", "4 windows"]),
        ("b.npz", ["b.npz", "damaged"]),
        ("b.wav", ["cannot be decoded"]),
    ],
)
def test_pairs_that_cannot_be_used_are_listed(tmp_path, change, words):
    """So is what has no counterpart."""
    source = tmp_path / "in"
    for name in ("a", "b", "c", "d", "deep/e"):
        rows = write_pair(source, name, 16000)
    (source / "d.npz").unlink()
    shutil.move(source / "deep" / "e.npz", source)
    shutil.copy(source / "c.wav", source / "c.wave")
    if isinstance(change, str):
        (source / change).write_text("text")
    else:
        arrays = {"embedding": rows, "timestamps": np.arange(4) * 0.5, **change}
        np.savez(source / "b.npz", **{name: array for name, array in arrays.items() if array is not None})
    import_table(source, tmp_path / "table", max_skipped=0.8)
    found = skipped(tmp_path / "table")
    expected = {"c.wave": ["c.wav"], "d.wav": ["d.npz"], "deep/e.wav": ["e.npz"], "e.npz": ["without audio"]}
    expected["b.wav"] = words
    assert found.keys() == expected.keys()
    assert all(word in found[clip] for clip, words in expected.items() for word in words), found
    assert list(windows_of(tmp_path / "table")) == ["a.wav", "c.wav"]


def test_the_first_file_that_can_be_read_settles_the_framing(tmp_path):
    for name, hop in (("b", 0.5), ("c", 0.25), ("d", 0.25)):
        write_pair(tmp_path / "in", name, 16000, hop=hop)
    (tmp_path / "in" / "b.npz").write_text("text")
    assert import_table(tmp_path / "in", tmp_path / "table")["clips"] == 2
    assert Table(tmp_path / "table").framing.hop == 0.25


# --- files of embeddings


@pytest.mark.parametrize("ending", [".npz", "_compressed.npz", ".npy", ".npy.gz"])
@pytest.mark.parametrize("dtype", ["<f2", ">f4"])
def test_embeddings_are_read_as_they_were_written_and_damage_is_an_error(tmp_path, ending, dtype):
    """The file is cut and altered at many places; whatever is read, nothing but EdgeseaError may be raised."""
    rng = np.random.default_rng(0)
    rows = np.array(rows_for("a", 40), dtype, order="F")
    path = store(tmp_path / f"x{ending}", rows, timestamps=np.arange(40) * 0.1)
    found, times = load_embeddings(path)
    np.testing.assert_array_equal(found, rows)
    np.testing.assert_array_equal(times, np.arange(40) * 0.1 if ending.endswith("npz") else None)
    whole, refused = path.read_bytes(), []
    damaged = [whole[:length] for length in range(0, len(whole), max(1, len(whole) // 40))]
    for place in [*range(150), *rng.integers(0, len(whole), 50), *range(len(whole) - 150, len(whole))]:
        damaged.append(whole[:place] + bytes([whole[place] ^ int(rng.integers(1, 256))]) + whole[place + 1 :])
    for contents in damaged:
        path.unlink()  # not written over: what is mapped into memory would change
        path.write_bytes(contents)
        try:
            load_embeddings(path)
        except EdgeseaError as error:
            refused.append(str(error))
    assert len(refused) >= 40
    assert all(reason.startswith(f"{path.name}: ") for reason in refused)


class Trap:
    """What would leave a file behind if it were unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str, ...]]:
        return open, ("unpickled", "w")


TRAP = np.array([[Trap()]], object)
SEVEN = rows_for("a", 7)


@pytest.mark.parametrize(
    ("name", "rows", "times"),
    [
        *(("x.npy", np.zeros(shape, dtype), None) for shape, dtype in ((5, "f"), ((1, 7, 5), "f"), ((7, 5), "i"))),
        *(("x.npz", SEVEN, times) for times in (np.arange(6), np.r_[:6, 9], -np.arange(7), ["a"] * 7)),
        *((name, TRAP, None) for name in ("x.npy", "x.npy.gz", "x.npz")),
        ("x.npz", SEVEN, TRAP),
    ],
)  # fmt: skip
def test_other_arrays_and_timestamps_are_refused_and_nothing_is_unpickled(tmp_path, monkeypatch, name, rows, times):
    monkeypatch.chdir(tmp_path)
    store(tmp_path / name, rows, **({} if times is None else {"timestamps": np.array(times)}))
    with pytest.raises(EdgeseaError, match=f"^{name}: "):
        load_embeddings(tmp_path / name)
    assert not (tmp_path / "unpickled").exists()
