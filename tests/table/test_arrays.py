import gzip
import io
import pickle
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest

from edgesea.errors import EdgeseaError
from edgesea.table.importing.arrays import EmbeddingFile

ROWS = np.random.default_rng(0).standard_normal((7, 5))


def npy(array: np.ndarray, pickled: bool = False) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, allow_pickle=pickled)
    return buffer.getvalue()


def archive(path: Path, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        for name, content in members.items():
            file.writestr(f"{name}.npy", content)
    return path


@pytest.mark.parametrize("ending", [".npz", "compressed.npz", ".npy", ".npy.gz"])
@pytest.mark.parametrize("dtype", ["<f2", "<f4", "<f8", ">f4"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_rows_are_read_as_they_were_written(tmp_path, ending, dtype, order):
    rows, path = np.array(ROWS, dtype, order=order), tmp_path / f"x{ending}"
    if ending == ".npy":
        np.save(path, rows)
    elif ending == ".npy.gz":
        path.write_bytes(gzip.compress(npy(rows)))
    else:
        save = np.savez_compressed if ending.startswith("compressed") else np.savez
        save(path, embedding=rows, timestamps=np.arange(7) * 0.1)
    with EmbeddingFile(path) as file:
        assert (file.count, file.size) == (7, 5)
        blocks = [file.read(count) for count in (1, 4, 2)]
        stamps = file.timestamps
    assert all(block.dtype == np.float32 for block in blocks)
    np.testing.assert_array_equal(np.concatenate(blocks), rows.astype(np.float32))
    if ending.endswith(".npz"):
        np.testing.assert_array_equal(stamps, np.arange(7) * 0.1)
    else:
        assert stamps is None


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (ROWS[0], r"the embeddings have the shape \(5,\), where \(windows, dimensions\) is needed"),
        (ROWS[None], r"the shape \(1, 7, 5\)"),
        (ROWS[:0], r"the shape \(0, 5\)"),
        (np.array(1.0), r"the shape \(\)"),
        (ROWS.astype(np.int8), "the embeddings are int8, where floating-point numbers are needed"),
        (ROWS.astype(complex), "the embeddings are complex128"),
        (np.zeros(3, [("a", "f4")]), r"the embeddings are \[\('a', '<f4'\)\]"),
    ],
)
def test_other_arrays_are_refused(tmp_path, array, reason):
    (tmp_path / "x.npy").write_bytes(npy(array))
    with pytest.raises(EdgeseaError, match=f"^x.npy: .*{reason}"):
        EmbeddingFile(tmp_path / "x.npy")


class Trap:
    """What would leave a file behind if it were unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str, ...]]:
        return open, ("unpickled", "w")


@pytest.mark.parametrize("ending", [".npy", ".npy.gz", ".npz", "timestamps.npz"])
def test_nothing_is_unpickled(tmp_path, monkeypatch, ending):
    monkeypatch.chdir(tmp_path)
    content = npy(np.array([[Trap()]], object), pickled=True)
    path = tmp_path / f"x{ending}"
    if ending == ".npy":
        path.write_bytes(content)
    elif ending == ".npy.gz":
        path.write_bytes(gzip.compress(content))
    elif ending == ".npz":
        archive(path, embedding=content)
    else:
        archive(path, embedding=npy(ROWS), timestamps=content)
    with pytest.raises(EdgeseaError, match="holds Python objects, which only unpickling could read"):
        EmbeddingFile(path)
    assert not (tmp_path / "unpickled").exists()


@pytest.mark.parametrize(
    ("stamps", "reason"),
    [
        (np.arange(6) * 0.1, "6 timestamps for 7 embeddings"),
        (np.array([0, 1, 2, 3, 4, 5, 9.0]), "the timestamps are not evenly spaced"),
        (np.arange(7) * -0.1, "the timestamps are not evenly spaced"),
        (np.zeros(7), "the timestamps are not evenly spaced"),
        (np.array([0, 1, np.nan, 3, 4, 5, 6]), "the timestamps hold NaN or Inf"),
        (np.zeros((7, 2)), r"the timestamps are float64 of shape \(7, 2\)"),
        (np.array(list("abcdefg")), "the timestamps are <U1"),
    ],
)
def test_timestamps_that_tell_no_hop_are_refused(tmp_path, stamps, reason):
    np.savez(tmp_path / "x.npz", embedding=ROWS, timestamps=stamps)
    with pytest.raises(EdgeseaError, match=f"x.npz: {reason}"):
        EmbeddingFile(tmp_path / "x.npz")


def test_files_of_another_kind_are_named_so(tmp_path):
    np.savez(tmp_path / "cut.npz", embedding=ROWS)
    (tmp_path / "cut.npz").write_bytes((tmp_path / "cut.npz").read_bytes()[:-30])
    (tmp_path / "pickle.npy").write_bytes(pickle.dumps(ROWS))
    (tmp_path / "plain.npy.gz").write_bytes(npy(ROWS))
    (tmp_path / "text.npy.gz").write_bytes(gzip.compress(b"no array at all"))
    (tmp_path / "empty.npy").touch()
    for name in ("cut.npz", "pickle.npy", "plain.npy.gz", "text.npy.gz", "empty.npy"):
        what = r"no \.npz file" if name.endswith("npz") else r"no file in numpy's format \(\.npy\)"
        with pytest.raises(EdgeseaError, match=rf"^{name}: damaged, or {what}$"):
            EmbeddingFile(tmp_path / name)


def test_an_archive_without_embeddings_says_what_it_has(tmp_path):
    np.savez(tmp_path / "x.npz", features=ROWS, labels=ROWS)
    with pytest.raises(EdgeseaError, match="no array 'embedding'; it has features, labels"):
        EmbeddingFile(tmp_path / "x.npz")


@pytest.mark.parametrize("value", [np.nan, -np.inf, 1e300])
def test_numbers_that_are_none_are_refused(tmp_path, value):
    rows = ROWS.copy()
    rows[5, 1] = value
    np.save(tmp_path / "x.npy", rows)
    with EmbeddingFile(tmp_path / "x.npy") as file:
        np.testing.assert_array_equal(file.read(5), rows[:5].astype(np.float32))
        with pytest.raises(EdgeseaError, match=r"x\.npy: the embeddings hold NaN or Inf"):
            file.read(2)


@pytest.mark.parametrize("ending", [".npz", "compressed.npz", ".npy", ".npy.gz"])
def test_damage_anywhere_is_an_error_or_harmless(tmp_path, ending):
    """Each file is cut and altered at many places; whatever is read, nothing but EdgeseaError may be raised."""
    rng = np.random.default_rng(0)
    rows, path = rng.standard_normal((40, 8)).astype(np.float32), tmp_path / f"x{ending}"
    if ending == ".npy":
        np.save(path, rows)
    elif ending == ".npy.gz":
        path.write_bytes(gzip.compress(npy(rows)))
    else:
        save = np.savez_compressed if ending.startswith("compressed") else np.savez
        save(path, embedding=rows, timestamps=np.arange(40) * 0.1)
    whole = path.read_bytes()
    cut = [whole[:length] for length in range(0, len(whole), max(1, len(whole) // 60))]
    altered = []
    for place in [*range(150), *rng.integers(0, len(whole), 150), *range(len(whole) - 150, len(whole))]:
        content = bytearray(whole)
        content[place] ^= int(rng.integers(1, 256))
        altered.append(bytes(content))
    refused = []
    for content in (*cut, *altered):
        path.write_bytes(content)
        try:
            with EmbeddingFile(path) as file:
                if file.count * file.size < 1e6:
                    file.read(file.count)
        except EdgeseaError as error:
            refused.append(str(error))
    assert len(refused) >= len(cut)
    assert all(reason.startswith(f"{path.name}: ") for reason in refused)


def test_long_files_are_read_in_bounded_memory(tmp_path):
    rows = np.tile(ROWS.astype(np.float32), (40000, 20))  # 112 MB
    np.savez_compressed(tmp_path / "x.npz", embedding=rows)
    expected, shape = rows.sum(dtype=np.float64), rows.shape
    del rows
    tracemalloc.start()
    try:
        with EmbeddingFile(tmp_path / "x.npz") as file:
            assert (file.count, file.size) == shape
            total = sum(file.read(64).sum(dtype=np.float64) for _ in range(shape[0] // 64))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert total == pytest.approx(expected)
    assert peak < 5e6
