import tracemalloc
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest

from edgesea.audio.level import a_weighted_level
from edgesea.errors import EdgeseaError
from edgesea.table.importing import import_table
from edgesea.table.reader import Table

SIZE = 12


def audio_rows(rows: int, rate: int = 8000, seed: int = 0, seconds: float = 1.0) -> np.ndarray:
    """Noise of different loudness in each row, int16."""
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal((rows, round(seconds * rate))) * rng.uniform(50, 5000, (rows, 1))
    return np.clip(np.rint(noise), -32767, 32767).astype(np.int16)


def embedding_rows(rows: int, seed: int = 0, size: int = SIZE) -> np.ndarray:
    return np.random.default_rng(100 + seed).standard_normal((rows, size)).astype(np.float32)


def write_shard(path: Path, audio: np.ndarray, embedding: np.ndarray, **more: Any) -> Path:
    """As an earlier pipeline wrote them: gzip, in chunks that h5py chooses."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file.create_dataset("audio", data=audio, compression="gzip")
        file.create_dataset("l3_embedding", data=embedding, compression="gzip")
        for name, values in more.items():
            file[name] = values
    return path


def stored(table: Path) -> pd.DataFrame:
    """One row for each window: clip, pcm, start, level, embedding, ..."""
    frames = []
    for part in sorted((table / "clips").iterdir()):
        clips = pd.read_parquet(part)
        windows = pd.read_parquet(table / "windows" / part.name)
        frames.append(windows.join(clips, on="clip", lsuffix="_row"))
    frame = pd.concat(frames, ignore_index=True)
    frame["pcm"] = [np.frombuffer(pcm, "<i2") for pcm in frame["pcm"]]
    return frame


def skipped(table: Path) -> dict[str, str]:
    frame = pd.read_csv(table / "skipped.csv")
    return dict(zip(frame["clip"], frame["reason"], strict=True))


# --- what is stored


def test_rows_become_clips_of_one_window(tmp_path):
    audio, embedding = [audio_rows(5, seed=seed) for seed in (0, 1)], [embedding_rows(5, seed) for seed in (0, 1)]
    for index, name in enumerate(("a.h5", "deep/b.hdf5")):
        write_shard(tmp_path / "in" / name, audio[index], embedding[index])
    result = import_table(tmp_path / "in", tmp_path / "table", audio_rate=8000, teacher="openl3/env-mel256-512")
    assert (result["clips"], result["windows"], result["skipped"], result["clipped"]) == (10, 10, 0, 0)
    rows = stored(tmp_path / "table")
    assert rows["clip"].tolist() == [f"{name}#{row:06d}" for name in ("a.h5", "deep/b.hdf5") for row in range(5)]
    np.testing.assert_array_equal(np.stack(rows["pcm"]), np.concatenate(audio))
    np.testing.assert_array_equal(np.stack(rows["embedding"]), np.concatenate(embedding).astype(np.float16))
    expected = a_weighted_level(np.concatenate(audio).astype(np.float32) / 32767, 8000)
    np.testing.assert_allclose(rows["level"], expected, atol=1e-4)
    assert np.ptp(expected) > 10
    assert not rows["start"].any()
    assert not rows["offset"].any()


def test_the_table_describes_itself_and_claims_no_weights(tmp_path):
    write_shard(tmp_path / "in" / "a.h5", audio_rows(5, 48000, seconds=0.96), embedding_rows(5))
    import_table(tmp_path / "in", tmp_path / "table", audio_rate=48000, dtype="float32")
    info = Table(tmp_path / "table").info
    assert info["teacher"] == {"id": "imported", "sha256": None, "sample_rate": None, "embedding_size": SIZE}
    assert info["framing"] == {"window": 0.96, "hop": 0.96, "center": False}
    assert (info["sample_rate"], info["dtype"], info["parts"], info["windows"]) == (8000, "float32", 1, 5)
    assert info["level"] == {"unit": "dB(A) re full scale", "rate": None}
    assert info["windows"] == sum(info["windows_by_split"].values())
    assert Table(tmp_path / "table").sample_framing.window == 7680
    np.testing.assert_array_equal(np.stack(stored(tmp_path / "table")["embedding"]), embedding_rows(5))


@pytest.mark.parametrize("kind", ["int16", "float16", "float32", "float64"])
@pytest.mark.parametrize("shape", ["(N, n)", "(N, 1, n)", "(N, n, 1)"])
def test_dtypes_and_shapes_that_pipelines_write(tmp_path, kind, shape):
    audio, embedding = audio_rows(3), embedding_rows(3)
    given = audio if kind == "int16" else (audio / 32767).astype(kind)
    place = {"(N, n)": (), "(N, 1, n)": 1, "(N, n, 1)": 2}[shape]
    write_shard(tmp_path / "a.h5", np.expand_dims(given, place), np.expand_dims(embedding, place))
    import_table(tmp_path / "a.h5", tmp_path / "table", audio_rate=8000)
    rows = stored(tmp_path / "table")
    tolerance = 12 if kind == "float16" else 0  # 11 bits of at most 20000
    np.testing.assert_allclose(np.stack(rows["pcm"]), audio, atol=tolerance, rtol=0)
    np.testing.assert_array_equal(np.stack(rows["embedding"]), embedding.astype(np.float16))


@pytest.mark.parametrize("rate", [48000, 44100, 22050, 8000, 4000])
def test_resampled_tones_keep_frequency_and_amplitude(tmp_path, rate):
    time = np.arange(rate) / rate
    tones = np.stack([0.5 * np.sin(2 * np.pi * hertz * time) for hertz in (300, 1000, 1700)])
    write_shard(tmp_path / "a.h5", tones.astype(np.float32), embedding_rows(3))
    import_table(tmp_path / "a.h5", tmp_path / "table", audio_rate=rate)
    for pcm, hertz in zip(stored(tmp_path / "table")["pcm"], (300, 1000, 1700), strict=True):
        assert len(pcm) == 8000
        spectrum = np.abs(np.fft.rfft(pcm / 32767 * np.hanning(8000)))
        assert np.argmax(spectrum) == hertz
        inside = pcm[500:-500] / 32767
        np.testing.assert_allclose(np.sqrt(2 * np.mean(inside**2)), 0.5, rtol=0.01)


def test_levels_are_those_of_the_audio_before_it_is_resampled(tmp_path):
    """5 kHz is heard by a teacher, but does not survive at 8 kHz."""
    tone = 0.5 * np.sin(2 * np.pi * 5000 * np.arange(48000) / 48000)
    write_shard(tmp_path / "a.h5", tone[None].astype(np.float32), embedding_rows(1))
    import_table(tmp_path / "a.h5", tmp_path / "table", audio_rate=48000)
    (row,) = stored(tmp_path / "table").itertuples()
    assert row.level == pytest.approx(20 * np.log10(0.5) + 0.5, abs=0.1)  # A(5 kHz) = +0.5 dB, IEC 61672-1
    assert np.abs(row.pcm[500:-500]).max() < 50


def test_audio_beyond_full_scale_is_clipped_and_counted(tmp_path):
    audio = np.full((2, 8000), 0.5, np.float32)
    audio[1, 100:107], audio[1, 200] = 1.5, -3.0
    write_shard(tmp_path / "a.h5", audio, embedding_rows(2))
    assert import_table(tmp_path / "a.h5", tmp_path / "table", audio_rate=8000)["clipped"] == 8
    first, second = stored(tmp_path / "table")["pcm"]
    assert (first == 16384).all()
    assert (second[100:107] == 32767).all()
    assert second[200] == -32768


def test_what_other_data_sets_say_of_the_rows(tmp_path):
    write_shard(
        tmp_path / "a.h5",
        audio_rows(4),
        embedding_rows(4),
        sensor_id=np.array([3, 3, 17, 4]),
        timestamp=np.array([1556712000.0, 1556712001.5, np.nan, 0.0]),
        spl=np.array([50.0, 60.5, 70.0, 80.0]),
        part=np.array([b"train", b"validate", b"test", b""]),
        **{"class": np.array(["dog", "", "jackhammer", "dog"], h5py.string_dtype())},
    )
    columns = {"sensor": "sensor_id", "time": "timestamp", "level": "spl", "split": "part", "label": "class"}
    import_table(tmp_path / "a.h5", tmp_path / "table", audio_rate=8000, columns=columns, validate=0.0)
    rows = stored(tmp_path / "table").astype(object).replace({float("nan"): None})
    assert rows["sensor"].tolist() == ["3", "3", "17", "4"]
    times = [None if time is None else datetime.fromisoformat(time) for time in rows["time"]]
    day = datetime(2019, 5, 1, 12, 0, 0, tzinfo=UTC)
    assert times == [day, day.replace(second=1, microsecond=500000), None, datetime(1970, 1, 1, tzinfo=UTC)]
    assert rows["level"].tolist() == [50.0, 60.5, 70.0, 80.0]
    assert rows["split"].tolist() == ["train", "validate", "test", "train"]
    assert rows["label"].tolist() == ["dog", None, "jackhammer", "dog"]
    assert Table(tmp_path / "table").info["level"]["unit"] == "dB SPL"


def test_several_readings_of_the_level_are_averaged_as_energies(tmp_path):
    readings = np.array([[50.0, 60.0, 70.0], [80.0, 80.0, 80.0]])
    write_shard(tmp_path / "a.h5", audio_rows(2), embedding_rows(2), spl=readings)
    import_table(tmp_path / "a.h5", tmp_path / "table", audio_rate=8000, columns={"level": "spl"})
    expected = 10 * np.log10(np.mean(10 ** (readings / 10), axis=1))
    np.testing.assert_allclose(stored(tmp_path / "table")["level"], expected, atol=1e-4)


def test_rows_validate_by_a_condition_a_folder_or_a_share(tmp_path):
    write_shard(tmp_path / "fold" / "a.h5", audio_rows(4), embedding_rows(4), fold=np.array([1, 5, 2, 5]))
    import_table(tmp_path / "fold", tmp_path / "by_fold", audio_rate=8000, validate="fold=5")
    assert stored(tmp_path / "by_fold")["split"].tolist() == ["train", "validate", "train", "validate"]

    for name in ("train", "validate", "test"):
        write_shard(tmp_path / "folders" / name / "a.h5", audio_rows(2), embedding_rows(2))
    import_table(tmp_path / "folders", tmp_path / "by_folder", audio_rate=8000)
    assert Table(tmp_path / "by_folder").counts == {"test": 2, "train": 2, "validate": 2}

    write_shard(tmp_path / "many" / "a.h5", audio_rows(400), embedding_rows(400))
    import_table(tmp_path / "many", tmp_path / "by_share", audio_rate=8000, validate=0.25)
    assert 70 <= Table(tmp_path / "by_share").counts["validate"] <= 130  # 100 +- 3.5 standard deviations


def test_shards_are_read_in_bounded_memory(tmp_path):
    """The audio would take 192 MB, and 384 MB as floats."""
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:  # chunks that are not written take no room and read as zeros
        file.create_dataset("audio", (6000, 16000), np.int16, chunks=(64, 16000), fillvalue=1)
        file["l3_embedding"] = embedding_rows(6000)
    tracemalloc.start()
    try:
        assert import_table(path, tmp_path / "table", audio_rate=16000)["windows"] == 6000
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 60e6


# --- what cannot be used


@pytest.mark.parametrize(("where", "value"), [("audio", np.nan), ("audio", np.inf), ("embedding", np.nan)])
def test_rows_with_nan_or_inf_are_skipped(tmp_path, where, value):
    audio, embedding = (audio_rows(5) / 32767).astype(np.float32), embedding_rows(5)
    {"audio": audio, "embedding": embedding}[where][3, 7] = value
    write_shard(tmp_path / "a.h5", audio, embedding)
    result = import_table(tmp_path / "a.h5", tmp_path / "table", audio_rate=8000)
    assert (result["clips"], result["skipped"]) == (4, 1)
    assert skipped(tmp_path / "table") == {"a.h5#000003": f"the {where} holds NaN or Inf"}
    np.testing.assert_array_equal(
        np.stack(stored(tmp_path / "table")["embedding"]), embedding[[0, 1, 2, 4]].astype(np.float16)
    )


@pytest.mark.parametrize(
    ("column", "values", "reason"),
    [
        ("level", [50.0, np.nan, 50.0], "level .*nan.* is no number"),
        ("split", [b"train", b"valid", b"train"], "split 'valid' is none of train, validate, test"),
        ("time", [b"2019-05-01T13:45:00", b"yesterday", b""], "time 'yesterday' is neither ISO 8601 nor seconds since"),
        ("time", [1.5e9, 1.5e18, 1.5e9], "time '1500000000000000000' is neither ISO 8601 nor seconds"),
    ],
)
def test_rows_with_impossible_values_are_skipped(tmp_path, column, values, reason):
    write_shard(tmp_path / "a.h5", audio_rows(3), embedding_rows(3), about=np.array(values))
    import_table(tmp_path / "a.h5", tmp_path / "table", audio_rate=8000, columns={column: "about"})
    assert stored(tmp_path / "table")["clip"].tolist() == ["a.h5#000000", "a.h5#000002"]
    assert list(skipped(tmp_path / "table")) == ["a.h5#000001"]
    assert pd.Series(skipped(tmp_path / "table")).str.match(reason).all()


def bad_shard(path: Path, how: str) -> None:
    if how == "truncated":
        write_shard(path, audio_rows(50), embedding_rows(50))
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif how == "text":
        path.write_text("no HDF5")
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "lacking":
        with h5py.File(path, "w") as file:
            file["audio"] = audio_rows(3)
            file["labels"] = np.zeros(3)
    elif how == "unequal":
        write_shard(path, audio_rows(3), embedding_rows(4))
    elif how == "rowless":
        write_shard(path, audio_rows(0), embedding_rows(0))
    elif how == "int32":
        write_shard(path, audio_rows(3).astype(np.int32), embedding_rows(3))
    elif how == "integers":
        write_shard(path, audio_rows(3), embedding_rows(3).astype(np.int16))
    elif how == "flat":
        with h5py.File(path, "w") as file:
            file["audio"], file["l3_embedding"] = np.zeros(3), np.zeros((3, SIZE))
    elif how == "stereo":
        write_shard(path, np.zeros((3, 2, 8000), np.int16), embedding_rows(3))
    elif how == "group":
        with h5py.File(path, "w") as file:
            file["audio/left"], file["l3_embedding"] = audio_rows(3), embedding_rows(3)
    elif how == "scalar":
        with h5py.File(path, "w") as file:
            file["audio"], file["l3_embedding"] = 1.0, 1.0


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("truncated", "cannot be read: .*truncated file"),
        ("text", "cannot be read: .*file signature not found"),
        ("empty", "cannot be read: "),
        ("lacking", "no data set 'l3_embedding'; it has audio, labels: give embedding_key"),
        ("unequal", "unequal numbers of rows: 3 in audio, 4 in l3_embedding"),
        ("rowless", r"/audio has the shape \(0, 8000\), where"),
        ("int32", "/audio is int32, where int16 or floating-point numbers are needed"),
        ("integers", "/l3_embedding is int16, where floating-point numbers are needed"),
        ("flat", r"/audio has the shape \(3,\), where"),
        ("stereo", r"/audio has the shape \(3, 2, 8000\), where"),
        ("group", "no data set 'audio'; it has audio, l3_embedding"),
        ("scalar", r"/audio has the shape \(\), where"),
    ],
)
def test_shards_that_cannot_be_used_are_listed(tmp_path, how, reason):
    (tmp_path / "in").mkdir()
    bad_shard(tmp_path / "in" / "b.h5", how)
    for seed, name in enumerate(("a.h5", "c.h5")):
        write_shard(tmp_path / "in" / name, audio_rows(3, seed=seed), embedding_rows(3, seed))
    result = import_table(tmp_path / "in", tmp_path / "table", audio_rate=8000)
    assert (result["clips"], result["skipped"]) == (6, 1)
    assert list(skipped(tmp_path / "table")) == ["b.h5"]
    assert pd.Series(skipped(tmp_path / "table")).str.match(reason).all()


def test_rows_in_a_damaged_chunk_are_skipped(tmp_path):
    """The file opens, but what it compressed does not."""
    audio, embedding = audio_rows(192), embedding_rows(192)
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        data = file.create_dataset("audio", data=audio, chunks=(64, 8000), compression="gzip")
        file["l3_embedding"] = embedding
        offset = data.id.get_chunk_info(1).byte_offset
    content = bytearray(path.read_bytes())
    content[offset : offset + 2000] = bytes(2000)
    path.write_bytes(content)
    result = import_table(path, tmp_path / "table", audio_rate=8000)
    assert (result["clips"], result["skipped"]) == (128, 64)
    assert list(skipped(tmp_path / "table")) == [f"a.h5#{row:06d}" for row in range(64, 128)]
    kept = np.r_[:64, 128:192]
    np.testing.assert_array_equal(np.stack(stored(tmp_path / "table")["pcm"]), audio[kept])
    np.testing.assert_array_equal(np.stack(stored(tmp_path / "table")["embedding"]), embedding[kept].astype(np.float16))


def test_too_many_bad_shards_end_the_import(tmp_path):
    write_shard(tmp_path / "in" / "a.h5", audio_rows(100), embedding_rows(100))
    for name in ("b.h5", "c.h5"):
        (tmp_path / "in" / name).write_text("no HDF5")
    with pytest.raises(EdgeseaError, match=r"2 of 3 shards cannot be used \(first: .*b\.h5: .*raise max_skipped"):
        import_table(tmp_path / "in", tmp_path / "table", audio_rate=8000)
    assert not (tmp_path / "table").exists()
    assert import_table(tmp_path / "in", tmp_path / "table", audio_rate=8000, max_skipped=0.7)["skipped"] == 2


@pytest.mark.parametrize(
    ("audio", "embedding", "message"),
    [
        (audio_rows(2), embedding_rows(2, size=6), r"a\.h5 has 12 dimensions, .*b\.h5 has 6"),
        (audio_rows(2, 16000), embedding_rows(2), r"a\.h5 has 8000 samples a row, .*b\.h5 has 16000"),
    ],
)
def test_shards_that_do_not_fit_together_are_both_named(tmp_path, audio, embedding, message):
    write_shard(tmp_path / "in" / "a.h5", audio_rows(2), embedding_rows(2))
    write_shard(tmp_path / "in" / "b.h5", audio, embedding)
    with pytest.raises(EdgeseaError, match=message):
        import_table(tmp_path / "in", tmp_path / "table", audio_rate=8000)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "audio_rate: needed in Hz, because HDF5 shards do not tell"),
        ({"audio_rate": -8000}, "audio_rate must lie between 500 and 1000000 Hz, not -8000"),
        ({"audio_rate": 8000, "window": 0.5}, r"rows of 8000 samples last 1 s at audio_rate=8000, not window=0\.5"),
        ({"audio_rate": 8000, "hop": 0.5}, r"hop=0\.5 is of no use for HDF5 shards"),
        ({"audio_rate": 8000, "center": True}, "center=True is of no use"),
        ({"audio_rate": 8000, "suffix": "emb"}, "suffix=emb is of no use"),
        ({"audio_rate": 8000, "columns": {"loudness": "spl"}}, "columns: unknown loudness; known for shards: sensor,"),
        ({"audio_rate": 8000, "columns": {"path": "name"}}, "columns: unknown path"),
        ({"audio_rate": 8000, "columns": {"level": "spl"}}, "1 of 1 shards .*no data set 'spl'; it has audio"),
        (
            {"audio_rate": 8000, "validate": "fold=5"},
            "no data set 'fold'; it has .*: give another name in columns or validate.*mend them or the options",
        ),
        ({"audio_rate": 8000, "validate": "half"}, "validate: 'half' is neither a share nor a condition"),
        ({"audio_rate": 8000, "validate": 1.5}, r"validate: the share must lie in \[0, 1\), not 1.5"),
        (
            {"audio_rate": 8000, "audio_key": "sound"},
            "1 of 1 shards .*no data set 'sound'; it has audio, l3_embedding: give audio_key",
        ),
        ({"audio_rate": 8000, "sample_rate": -1}, "sample_rate must lie between 500 and 1000000 Hz, not -1"),
    ],
)
def test_options_that_do_not_fit_shards_are_refused(tmp_path, options, message):
    write_shard(tmp_path / "in" / "a.h5", audio_rows(2), embedding_rows(2))
    with pytest.raises(EdgeseaError, match=message):
        import_table(tmp_path / "in", tmp_path / "table", **options)
    assert not (tmp_path / "table").exists()


def test_embeddings_too_large_for_half_precision_are_refused(tmp_path):
    embedding = embedding_rows(3)
    embedding[1, 2] = 7e4
    write_shard(tmp_path / "a.h5", audio_rows(3), embedding)
    with pytest.raises(EdgeseaError, match=r"gave 70000 for a window of a\.h5#000001, too .*choose dtype=float32"):
        import_table(tmp_path / "a.h5", tmp_path / "table", audio_rate=8000)
    import_table(tmp_path / "a.h5", tmp_path / "single", audio_rate=8000, dtype="float32")
    np.testing.assert_array_equal(np.stack(stored(tmp_path / "single")["embedding"]), embedding)
