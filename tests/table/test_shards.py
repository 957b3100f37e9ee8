from datetime import datetime
from pathlib import Path

import h5py
import numpy as np
import pytest
from stored import audio_rows, clips_of, embedding_rows, skipped, windows_of, write_shard

from edgesea.audio.level import a_weighted_level
from edgesea.errors import EdgeseaError
from edgesea.table.importing import import_table
from edgesea.table.reader import Table


def stored(table: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Levels, embeddings and audio of all windows."""
    _, levels, embeddings, audio = (np.concatenate(column) for column in zip(*windows_of(table).values(), strict=True))
    return levels, embeddings, audio


@pytest.mark.parametrize("kind", ["int16", "float16", "float64"])
@pytest.mark.parametrize("place", [(), 1, 2], ids=["(N, n)", "(N, 1, n)", "(N, n, 1)"])
def test_rows_of_any_dtype_and_shape_become_clips_of_one_window(tmp_path, kind, place):
    audio, embedding, names = audio_rows(10), embedding_rows(10), ("a.h5", "deep/b.hdf5")
    given = audio if kind == "int16" else (audio / 32768).astype(kind)
    heard = given.astype(np.float32) / (32768 if kind == "int16" else 1)
    for name, rows in zip(names, (slice(0, 5), slice(5, 10)), strict=True):
        data = np.expand_dims(given[rows], place), np.expand_dims(embedding[rows], place)
        write_shard(tmp_path / "in" / name, *data)
    result = import_table(tmp_path / "in", tmp_path / "table", audio_rate=8000, sample_rate=8000)
    assert (result["clips"], result["windows"], result["skipped"]) == (10, 10, 0)
    assert list(windows_of(tmp_path / "table")) == [f"{name}#{row:06d}" for name in names for row in range(5)]
    levels, embeddings, found = stored(tmp_path / "table")
    np.testing.assert_array_equal(found, heard)  # whatever it is, 16 bits hold it
    np.testing.assert_array_equal(embeddings, embedding.astype(np.float16))
    np.testing.assert_allclose(levels, a_weighted_level(heard, 8000), atol=1e-4)
    info = Table(tmp_path / "table").info
    assert info["teacher"] == {"id": "imported", "sha256": None, "sample_rate": None, "embedding_size": 12}
    assert info["level"] == {"unit": "dB(A) re full scale", "rate": None}


def test_audio_is_resampled_and_its_level_that_of_before(tmp_path):
    """Tones keep frequency and amplitude; 5 kHz is heard by a teacher, but does not survive at 8 kHz."""
    times = np.arange(48000) / 48000
    tones = [scale * np.sin(2 * np.pi * hertz * times) for hertz, scale in ((1000, 0.5), (5000, 0.5), (50, 2))]
    write_shard(tmp_path / "a.h5", np.array(tones, np.float32), embedding_rows(3))
    import_table(tmp_path / "a.h5", tmp_path / "table", audio_rate=48000, sample_rate=8000)
    levels, _, audio = stored(tmp_path / "table")
    assert np.argmax(np.abs(np.fft.rfft(audio[0] * np.hanning(8000)))) == 1000
    assert np.sqrt(2 * np.mean(audio[0, 500:-500] ** 2)) == pytest.approx(0.5, rel=0.01)
    np.testing.assert_allclose(levels[:2], 20 * np.log10(0.5) + np.array([0, 0.5]), atol=0.1)  # A(5 kHz) = +0.5 dB
    assert np.abs(audio[1, 500:-500]).max() < 0.0015
    assert np.abs(audio[2, 500:-500]).max() == pytest.approx(2, rel=0.01)  # beyond full scale, but not clipped


def test_what_other_data_sets_say_of_the_rows(tmp_path):
    readings = np.array([[50.0, 60.0], [60.5, 60.5], [70.0, 80.0], [80.0, 80.0]])
    about = {
        "sensor": [3, 3, 17, 4],
        "time": [1556712000.0, 1556712001.5, np.nan, 0.0],
        "level": readings,
        "split": [b"train", b"validate", b"test", b""],
        "label": np.array(["dog", "", "jackhammer", "dog"], h5py.string_dtype()),
    }
    data = {f"the_{name}": values for name, values in about.items()}
    write_shard(tmp_path / "a.h5", audio_rows(4), embedding_rows(4), fold=[1, 1, 1, 5], **data)
    options = {"columns": {name: f"the_{name}" for name in about}, "validate": "fold=5", "audio_rate": 8000}
    import_table(tmp_path / "a.h5", tmp_path / "table", **options)
    rows = clips_of(tmp_path / "table")
    times = [None if time is None else datetime.fromisoformat(time).timestamp() for time in rows["time"]]
    assert times == [1556712000.0, 1556712001.5, None, 0.0]
    assert rows["time"][0] == "2019-05-01T12:00:00+00:00"
    assert rows["sensor"].tolist() == ["3", "3", "17", "4"]
    assert rows["split"].tolist() == ["train", "validate", "test", "validate"]
    assert rows["label"].tolist() == ["dog", None, "jackhammer", "dog"]
    expected = 10 * np.log10(np.mean(10 ** (readings / 10), axis=1))
    np.testing.assert_allclose(stored(tmp_path / "table")[0], expected, atol=1e-4)
    assert Table(tmp_path / "table").info["level"]["unit"] == "dB SPL"
    with pytest.raises(EdgeseaError, match=r"fold=6.* 1, 5"):
        import_table(tmp_path / "a.h5", tmp_path / "new", **{**options, "validate": "fold=6"})


# --- what cannot be used


def test_rows_that_cannot_be_used_are_skipped(tmp_path):
    """Also those of a damaged chunk, in a file that opens."""
    audio, embedding, path = (audio_rows(192) / 32768).astype(np.float32), embedding_rows(192), tmp_path / "a.h5"
    level, split, time = np.full(192, 50.0), np.full(192, b"train", "S9"), np.full(192, b"2019-05-01", "S10")
    audio[1, 7], audio[2, 7], embedding[3, 7] = np.nan, np.inf, np.nan
    level[4], split[5], time[6] = np.nan, b"eval", b"yesterday"
    with h5py.File(path, "w") as file:
        data = file.create_dataset("audio", data=audio, chunks=(64, 8000), compression="gzip")
        file.update({"l3_embedding": embedding, "level": level, "split": split, "time": time})
        offset = data.id.get_chunk_info(1).byte_offset
    with path.open("r+b") as raw:
        raw.seek(offset)
        raw.write(bytes(2000))
    columns = {name: name for name in ("level", "split", "time")}
    import_table(path, tmp_path / "table", audio_rate=8000, sample_rate=8000, columns=columns)
    lost = skipped(tmp_path / "table")
    assert list(lost) == [f"a.h5#{row:06d}" for row in (*range(1, 7), *range(64, 128))]
    words = ["audio", "audio", "embedding", "level", "'eval'", "'yesterday'", *["cannot be read"] * 64]
    assert all(word in reason for word, reason in zip(words, lost.values(), strict=True))
    _, embeddings, found = stored(tmp_path / "table")
    usable = np.r_[0, 7:64, 128:192]
    np.testing.assert_array_equal(found, audio[usable])
    np.testing.assert_array_equal(embeddings, embedding[usable].astype(np.float16))


AUDIO, EMBEDDING = audio_rows(3), embedding_rows(3)
BAD = {
    "lacking": ({"audio": AUDIO, "labels": 0}, ["l3_embedding", "audio, labels"]),
    "unequal": ({"audio": AUDIO, "l3_embedding": embedding_rows(4)}, ["3", "4 rows"]),
    "rowless": ({"audio": AUDIO[:0], "l3_embedding": EMBEDDING[:0]}, ["/audio", "(0, 8000)"]),
    "int32": ({"audio": AUDIO.astype(np.int32), "l3_embedding": EMBEDDING}, ["/audio", "int32"]),
    "integers": ({"audio": AUDIO, "l3_embedding": EMBEDDING.astype(np.int16)}, ["/l3_embedding", "int16"]),
    "stereo": ({"audio": np.zeros((3, 2, 8), np.int16), "l3_embedding": EMBEDDING}, ["/audio", "(3, 2, 8)"]),
    "scalar": ({"audio": 1.0, "l3_embedding": 1.0}, ["cannot be read"]),
}


def test_shards_that_cannot_be_used_are_listed(tmp_path):
    folder = tmp_path / "in"
    for seed in range(10):
        write_shard(folder / f"good{seed}.h5", audio_rows(3, seed=seed), embedding_rows(3, seed))
    (folder / "text.h5").write_text("text")
    (folder / "cut.h5").write_bytes((folder / "good0.h5").read_bytes()[:9000])
    for name, (data, _) in BAD.items():
        with h5py.File(folder / f"{name}.h5", "w") as file:
            file.update(data)
    result = import_table(folder, tmp_path / "table", audio_rate=8000, sample_rate=8000)
    assert (result["clips"], result["skipped"]) == (30, 9)
    found = skipped(tmp_path / "table")
    expected = {name: words for name, (_, words) in BAD.items()} | {"text": ["cannot"], "cut": ["cannot"]}
    assert all(word in found[f"{name}.h5"] for name, words in expected.items() for word in words), found
    with pytest.raises(EdgeseaError, match=r"9 of 19 shards .*cut\.h5.*max_skipped"):
        import_table(folder, tmp_path / "other", audio_rate=8000, max_skipped=0.4)
