import gzip
import math
import shutil
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from conftest import write_noise
from stored import as_pcm, clips_of, content, skipped, windows_of

from edgesea.audio.framing import Framing
from edgesea.audio.io import load_audio
from edgesea.audio.level import a_weighted_level
from edgesea.embed.files import embed
from edgesea.errors import EdgeseaError
from edgesea.extract import extract
from edgesea.table.importing import import_table
from edgesea.table.pairs import load_embeddings
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


def store(path: Path, rows: np.ndarray, **more: np.ndarray) -> Path:
    """Write an array as the ending of `path` says."""
    if path.name.endswith(".gz"):
        with gzip.open(path, "wb") as file:
            np.save(file, rows)
    elif path.suffix == ".npy":
        np.save(path, rows)
    else:
        (np.savez_compressed if "compressed" in path.name else np.savez)(path, embedding=rows, **more)
    return path


# --- files of embeddings


@pytest.mark.parametrize("ending", [".npz", "_compressed.npz", ".npy", ".npy.gz"])
@pytest.mark.parametrize("dtype", ["<f2", "<f8", ">f4"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_embeddings_are_read_as_they_were_written(tmp_path, ending, dtype, order):
    rows = np.array(rows_for("a", 7), dtype, order=order)
    found, stamps = load_embeddings(store(tmp_path / f"x{ending}", rows, timestamps=np.arange(7) * 0.1))
    np.testing.assert_array_equal(found, rows)
    np.testing.assert_array_equal(stamps, np.arange(7) * 0.1 if ending.endswith("npz") else None)


@pytest.mark.parametrize("array", [np.zeros(5), np.zeros((1, 7, 5)), np.zeros((0, 5)), np.zeros((7, 5), int)])
def test_other_arrays_are_refused(tmp_path, array):
    with pytest.raises(EdgeseaError, match=r"^x\.npy: .*\("):
        load_embeddings(store(tmp_path / "x.npy", array))


@pytest.mark.parametrize(
    "stamps",
    [np.arange(6), np.r_[:6, 9], -np.arange(7), np.zeros(7), np.r_[0, np.nan, 2:7], np.zeros((7, 2)), list("abcdefg")],
)
def test_timestamps_that_tell_no_hop_are_refused(tmp_path, stamps):
    with pytest.raises(EdgeseaError, match=r"^x\.npz: .*timestamps"):
        load_embeddings(store(tmp_path / "x.npz", rows_for("a", 7), timestamps=np.array(stamps)))


class Trap:
    """What would leave a file behind if it were unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str, ...]]:
        return open, ("unpickled", "w")


@pytest.mark.parametrize("ending", [".npy", ".npy.gz", ".npz", "timestamps.npz"])
def test_nothing_is_unpickled(tmp_path, monkeypatch, ending):
    monkeypatch.chdir(tmp_path)
    trap = np.array([[Trap()]], object)
    more = {"timestamps": trap} if ending == "timestamps.npz" else {}
    path = store(tmp_path / f"x{ending}", rows_for("a", 7) if more else trap, **more)
    with pytest.raises(EdgeseaError, match=f"^{path.name}: "):
        load_embeddings(path)
    assert not (tmp_path / "unpickled").exists()


@pytest.mark.parametrize("ending", [".npz", "_compressed.npz", ".npy", ".npy.gz"])
def test_damage_anywhere_is_an_error_or_harmless(tmp_path, ending):
    """Each file is cut and altered at many places; whatever is read, nothing but EdgeseaError may be raised."""
    rng = np.random.default_rng(0)
    path = store(tmp_path / f"x{ending}", rows_for("a", 40, 8), timestamps=np.arange(40) * 0.1)
    whole = path.read_bytes()
    cut = [whole[:length] for length in range(0, len(whole), max(1, len(whole) // 60))]
    altered = []
    for place in [*range(150), *rng.integers(0, len(whole), 150), *range(len(whole) - 150, len(whole))]:
        altered.append(bytearray(whole))
        altered[-1][place] ^= int(rng.integers(1, 256))
    refused = []
    for contents in (*cut, *altered):
        path.unlink()  # not written over: what is mapped into memory would change
        path.write_bytes(contents)
        try:
            load_embeddings(path)
        except EdgeseaError as error:
            refused.append(str(error))
    assert len(refused) >= len(cut)
    assert all(reason.startswith(f"{path.name}: ") for reason in refused)


# --- what is stored


@pytest.mark.parametrize("hop", [0.1, 0.25, 0.5, 1.0])
@pytest.mark.parametrize("center", [True, False])
def test_embeddings_of_openl3_are_imported_with_their_framing(tmp_path, hop, center):
    rng, expected = np.random.default_rng(0), {}
    for index in range(10):
        rate, name = int(rng.choice([8000, 16000, 22050, 44100])), f"clip{index}"
        samples = int(rng.integers(0.2 * rate, 5 * rate))
        expected[f"{name}.wav"] = write_pair(tmp_path / "in", name, samples, hop, center, rate)
    result = import_table(tmp_path / "in", tmp_path / "table", center=center, part_clips=4)
    assert (result["clips"], result["skipped"]) == (10, 0)
    framing = Framing(1.0, hop, center)
    assert Table(tmp_path / "table").framing == framing
    found = windows_of(tmp_path / "table")
    assert found.keys() == expected.keys()
    for clip, (starts, levels, embeddings, audio) in found.items():
        count = len(starts)
        assert count in (len(expected[clip]), len(expected[clip]) - 1)
        np.testing.assert_array_equal(embeddings, expected[clip][:count].astype(np.float16))
        pcm = as_pcm(load_audio(tmp_path / "in" / clip, 8000))
        np.testing.assert_array_equal(audio, framing.at(8000).cut(pcm)[:count])
        np.testing.assert_array_equal(starts, np.arange(count) * round(hop * 8000) - (4000 if center else 0))
        own, rate = soundfile.read(tmp_path / "in" / clip, dtype="float32")
        windows = framing.at(rate).cut(own)[:count]
        np.testing.assert_allclose(levels[: len(windows)], a_weighted_level(windows, rate)[:count], atol=1e-3)


@pytest.mark.parametrize(("center", "suffix"), [(True, "emb"), (False, ".emb")])
def test_what_embed_wrote_is_what_extract_gives(noise_folder, tmp_path, center, suffix):
    """Round trip with a real model; the hop is a whole number of samples at all rates."""
    options: dict[str, Any] = {"center": center, "dtype": "float32", "validate": 0.3, "teacher": "spectral"}
    extract(noise_folder, tmp_path / "extracted", hop=0.5, **options)
    embed([noise_folder], model="spectral", hop=0.5, center=center, suffix=suffix)
    import_table(noise_folder, tmp_path / "imported", suffix=suffix, **options)
    one, other = (windows_of(tmp_path / name) for name in ("extracted", "imported"))
    assert one.keys() == other.keys()
    for clip in one:  # the teacher hears 16 kHz, the files have 8: the level is that of the same sound
        for first, second, tolerance in zip(one[clip], other[clip], (0, 0.2, 2e-3, 0), strict=True):
            np.testing.assert_allclose(first, second, atol=tolerance, rtol=0)
    assert Table(tmp_path / "extracted").counts == Table(tmp_path / "imported").counts


@pytest.mark.parametrize("ending", [".npy", ".npy.gz"])
def test_embeddings_without_timestamps_need_the_hop(tmp_path, ending):
    """A long clip, which takes several rows."""
    rows = write_pair(tmp_path / "in", "a", 8000 * 100, hop=0.5)
    (tmp_path / "in" / "a.npz").unlink()
    store(tmp_path / "in" / f"a{ending}", rows)
    with pytest.raises(EdgeseaError, match=rf"hop.*a{ending}"):
        import_table(tmp_path / "in", tmp_path / "table")
    import_table(tmp_path / "in", tmp_path / "table", hop=0.5)
    np.testing.assert_array_equal(windows_of(tmp_path / "table")["a.wav"][2], rows.astype(np.float16))
    assert Table(tmp_path / "table").framing == Framing(1.0, 0.5, True)
    assert len(clips_of(tmp_path / "table")) == math.ceil(len(rows) / 64) == 4


def test_timestamps_in_the_middle_of_windows_tell_that_clips_are_not_centred(tmp_path):
    rows = write_pair(tmp_path / "in", "a", 20000, hop=0.5, center=False)
    np.savez(tmp_path / "in" / "a.npz", embedding=rows, timestamps=0.5 + np.arange(len(rows)) * 0.5)
    import_table(tmp_path / "in", tmp_path / "table")
    assert Table(tmp_path / "table").framing == Framing(1.0, 0.5, False)
    for options in ({"center": True}, {"window": 0.96}):
        with pytest.raises(EdgeseaError, match=r"a\.npz: timestamps begin at 0\.5 s.*window"):
            import_table(tmp_path / "in", tmp_path / "other", **options)


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("hop", [1 / 30, 1024 / 22050, 0.0333, 0.1, 0.033333])
def test_windows_do_not_drift_where_the_hop_is_not_a_whole_number_of_samples(tmp_path, hop, kind):
    """In ten minutes, 1/30 s rounded to samples at 8 kHz would be 0.75 s late, rounded to six digits 6 ms early."""
    write_noise(tmp_path / "in" / "long.wav", 600.0)
    count = Framing(0.1, hop, True).at(8000).count(600 * 8000)
    rows = rows_for("long", count)
    np.savez(tmp_path / "in" / "long.npz", embedding=rows, timestamps=(np.arange(count) * hop).astype(kind))
    assert import_table(tmp_path / "in", tmp_path / "table", window=0.1)["windows"] == count
    late = windows_of(tmp_path / "table")["long.wav"][0] + 400 - np.arange(count) * hop * 8000
    # Stamps in single precision do not tell a hop that is neither simple nor has six digits to the last sample.
    tolerance = 1.0 if kind == np.float64 or hop != 1024 / 22050 else 1.5
    assert -tolerance - 1e-6 < late.min() <= late.max() < tolerance
    assert kind == np.float32 or Table(tmp_path / "table").framing.hop == hop


def test_long_clips_are_read_in_bounded_memory(tmp_path):
    """The audio would take 115 MB as floats, the embeddings as much."""
    noise = np.random.default_rng(0).integers(-3000, 3000, 16000 * 60, np.int16)
    (tmp_path / "in").mkdir()
    soundfile.write(tmp_path / "in" / "long.wav", np.tile(noise, 30), 16000)
    np.save(tmp_path / "in" / "long.npy", np.ones((1800, 16000), np.float32))
    tracemalloc.start()
    try:
        assert import_table(tmp_path / "in", tmp_path / "table", hop=1.0, center=False)["windows"] == 1800
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 100e6


def test_two_files_of_one_name_have_embeddings_of_their_own(tmp_path):
    """As `embed` names them: x.npz for the first, x.wav.npz for the second."""
    write_noise(tmp_path / "in" / "x.flac", 2.0, seed=1)
    write_noise(tmp_path / "in" / "x.wav", 3.0, seed=2)
    embed([tmp_path / "in"], model="spectral", hop=0.5)
    assert import_table(tmp_path / "in", tmp_path / "table")["skipped"] == 0
    assert {clip: len(found[0]) for clip, found in windows_of(tmp_path / "table").items()} == {"x.flac": 4, "x.wav": 6}


# --- numbers of windows that differ


@pytest.mark.parametrize("seconds", [3, 33, 100])
def test_where_the_numbers_differ_by_one_the_smaller_counts(tmp_path, seconds):
    """At 33 s the last of three rows of the clip has a single window, which may fall away."""
    for name, more in (("equal", 0), ("fewer", -1), ("more", 1)):
        write_pair(tmp_path / "in", name, seconds * 8000 - 4000, hop=0.5, more=more)
    assert import_table(tmp_path / "in", tmp_path / "table", center=True)["skipped"] == 0
    count = openl3_count(seconds * 8000 - 4000, 8000, 0.5, True)
    found = windows_of(tmp_path / "table")
    for clip, (_, _, embeddings, audio) in found.items():
        assert len(embeddings) == (count - 1 if clip == "fewer.wav" else count)
        np.testing.assert_array_equal(embeddings, rows_for(clip[:-4], len(embeddings)).astype(np.float16))
        pcm = as_pcm(load_audio(tmp_path / "in" / clip, 8000))
        np.testing.assert_array_equal(audio, Framing(1.0, 0.5, True).at(8000).cut(pcm)[: len(audio)])
    clips = clips_of(tmp_path / "table")
    last = clips[clips["clip"] == "fewer.wav"].iloc[-1]
    assert last["offset"] + len(last["pcm"]) // 2 == (count - 2) * 4000 + 4000  # where its last window ends


@pytest.mark.parametrize("more", [-4, 4])
@pytest.mark.parametrize("name", ["b.wav", "b.mp3"])
def test_other_numbers_of_embeddings_are_skipped_with_both(tmp_path, name, more):
    """An MP3's header is trusted to 5 %, so that pieces have been written before; they are taken back."""
    write_pair(tmp_path / "in", "a", 16000)
    soundfile.write(tmp_path / "in" / name, np.random.default_rng(0).uniform(-0.1, 0.1, 8000 * 100), 8000)
    count = openl3_count(soundfile.info(tmp_path / "in" / name).frames, 8000, 0.5, True)
    store(tmp_path / "in" / "b.npz", rows_for("b", count + more), timestamps=np.arange(count + more) * 0.5)
    import_table(tmp_path / "in", tmp_path / "table")
    assert all(word in skipped(tmp_path / "table")[name] for word in ("b.npz", f"{count + more} ", f"{count} windows"))
    assert list(windows_of(tmp_path / "table")) == ["a.wav"]


@pytest.mark.parametrize("hop", [0.1, 0.5, 1.0])
def test_clips_that_are_not_centred_are_not_silently_taken_for_centred(tmp_path, hop):
    """openl3's timestamps begin at 0 in either case; a hop of half a window makes a difference of a single window."""
    for name in ("a", "bb"):
        write_pair(tmp_path / "in", name, 8000 * 4, hop, center=False)
    with pytest.raises(EdgeseaError, match=r"2 of 2 clips.*center=False"):
        import_table(tmp_path / "in", tmp_path / "table")
    assert import_table(tmp_path / "in", tmp_path / "other", center=False)["skipped"] == 0
    # Nothing was stored, so the folder is free for the options that the message names.
    assert import_table(tmp_path / "in", tmp_path / "table", center=False)["skipped"] == 0
    assert content(tmp_path / "table") == content(tmp_path / "other")


# --- what cannot be used


def test_what_has_no_counterpart_is_listed(tmp_path):
    for name in ("a", "b", "c", "d"):
        write_pair(tmp_path / "in", name, 16000)
    (tmp_path / "in" / "a.npz").unlink()
    (tmp_path / "in" / "deep").mkdir()
    shutil.move(tmp_path / "in" / "b.wav", tmp_path / "in" / "deep" / "b.wav")
    shutil.copy(tmp_path / "in" / "c.wav", tmp_path / "in" / "c.wave")
    import_table(tmp_path / "in", tmp_path / "table", max_skipped=0.8)
    words = {"a.wav": "a.npz, a.npy", "b.npz": "without audio", "c.wave": "c.wav", "deep/b.wav": "b.npz"}
    found = skipped(tmp_path / "table")
    assert found.keys() == words.keys()
    assert all(word in found[clip] for clip, word in words.items())
    assert set(windows_of(tmp_path / "table")) == {"c.wav", "d.wav"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"timestamps": np.arange(4) * 0.1}, ["b.npz", "0.1, 0.2", "0.5, 1"]),
        ({"timestamps": np.arange(4) * 0.5 + 0.5}, ["b.npz", "0.5, 1, 1.5"]),
        ({"embedding": np.zeros((4, 4))}, ["b.npz", "4 dimensions", "a.npz", "6"]),
        ({"embedding": np.full((4, SIZE), np.nan)}, ["b.npz", "NaN"]),
        ({"embedding": np.full((4, SIZE), 1e300)}, ["b.npz", "Inf"]),
        ({"timestamps": None}, ["b.npz", "hop"]),
        ("b.npz", ["b.npz", "damaged"]),
        ("b.wav", ["cannot be decoded"]),
    ],
)
def test_pairs_that_cannot_be_used_are_skipped(tmp_path, change, words):
    for name in ("a", "b", "c"):
        rows = write_pair(tmp_path / "in", name, 16000)
    if isinstance(change, str):
        (tmp_path / "in" / change).write_text("text")
    else:
        arrays = {"embedding": rows, "timestamps": np.arange(4) * 0.5, **change}
        np.savez(tmp_path / "in" / "b.npz", **{name: array for name, array in arrays.items() if array is not None})
    import_table(tmp_path / "in", tmp_path / "table")
    ((clip, reason),) = skipped(tmp_path / "table").items()
    assert clip == "b.wav"
    assert all(word in reason for word in words), reason


def test_the_first_file_that_can_be_read_settles_the_framing(tmp_path):
    for name, hop in (("b", 0.5), ("c", 0.25), ("d", 0.25)):
        write_pair(tmp_path / "in", name, 16000, hop=hop)
    (tmp_path / "in" / "b.npz").write_text("text")
    assert import_table(tmp_path / "in", tmp_path / "table")["clips"] == 2
    assert Table(tmp_path / "table").framing.hop == 0.25
    for name in ("c", "d"):
        (tmp_path / "in" / f"{name}.npz").unlink()
    with pytest.raises(EdgeseaError, match=r"in/b\.npz"):
        import_table(tmp_path / "in", tmp_path / "other")
