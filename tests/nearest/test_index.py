"""The search through an index is exact: what brute force in double precision finds, in its order."""

from pathlib import Path

import numpy as np
import pytest

from edgesea.artifact import write_json
from edgesea.errors import EdgeseaError
from edgesea.nearest import index
from edgesea.nearest.index import Index
from edgesea.table.clips import ClipEntry, Piece
from edgesea.table.reader import Table
from edgesea.table.writer import write_part

SIZE = 24
RATES = {"sample_rate": 8000, "framing": {"window": 1.0, "hop": 1.0, "center": False}}


def make_table(folder: Path, clips: list[np.ndarray], dtype: str) -> Table:
    """A table of clips with these embeddings, in parts of four, in pieces of at most seven windows."""
    parts = [range(first, min(first + 4, len(clips))) for first in range(0, len(clips), 4)]
    for part, numbers in enumerate(parts):
        with write_part(folder, part, SIZE, dtype) as writer:
            for number in numbers:
                entry = ClipEntry(f"{number}.wav", Path("x"), None, None, "train", None)
                for first in range(0, len(clips[number]), 7):
                    rows = clips[number][first : first + 7]
                    starts = 8000 * np.arange(first, first + len(rows))
                    pcm, levels = np.zeros(8, np.int16), np.zeros(len(rows), np.float32)
                    writer.add(Piece(entry, first * 8000, pcm, starts, levels), rows)
    count = sum(map(len, clips))
    about = {"teacher": {"embedding_size": SIZE}, "manifest_sha256": "", "part_clips": 4, "windows": count}
    info = {**about, **RATES, "dtype": dtype, "parts": len(parts), "windows_by_split": {"train": count}}
    write_json(folder / "table.json", info)
    return Table(folder)


def brute_force(clips: list[np.ndarray], query: np.ndarray, windows: bool) -> list[tuple[int, float]]:
    """Number and cosine of all clips (or windows), sorted; a cosine is computed as the index does, but at once."""
    rows, exact = np.concatenate(clips).astype(np.float64), query.astype(np.float64)
    exact /= np.linalg.norm(exact, axis=1, keepdims=True)
    with np.errstate(invalid="ignore"):
        rows /= np.sqrt(np.square(rows).sum(1, keepdims=True))
    cosines = np.nan_to_num(np.stack([(rows * vector).sum(1) for vector in exact]), nan=-np.inf)
    ends = np.cumsum(list(map(len, clips)))
    spans = [cosines[:, end - len(clip) : end] for clip, end in zip(clips, ends, strict=True)]
    scores = cosines.max(0) if windows else np.array([span.max(1).mean() for span in spans])
    order = np.argsort(-scores, kind="stable")
    return [(int(place), float(scores[place])) for place in order if scores[place] > -np.inf]


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("vectors", [1, 3, 70])
def test_nothing_nearer_is_missed(tmp_path, monkeypatch, dtype, vectors):
    monkeypatch.setattr(index, "NUMBERS", 50 * SIZE)  # several blocks; the longest clip has more than one
    monkeypatch.setattr("edgesea.table.writer.FLUSH_BYTES", 2000)
    rng = np.random.default_rng(vectors)
    clips = [rng.standard_normal((count, SIZE)).astype(dtype) for count in (3, 1, 180, 9, 1, 1, 30, 2, 5, 64)]
    clips[7] = clips[0][:2] * 2  # other rows, the same cosines
    clips[8][:] = clips[2][60]  # equal to a row of an earlier clip
    clips[3][2:4], clips[4][:], clips[5][0, 3] = 0, 0, np.nan  # these have no direction
    nearly = clips[2][60].astype(np.float64) * (1 + 1e-7 * rng.standard_normal((30, SIZE)))
    clips[6][:] = nearly.astype(dtype)
    query = np.concatenate([clips[2][60][None], rng.standard_normal((vectors - 1, SIZE))]).astype(np.float32)
    found = Index(make_table(tmp_path / "table", clips, dtype), tmp_path / "index")
    names = np.repeat(np.arange(len(clips)), list(map(len, clips)))
    for windows in (False, True):
        expected = brute_force(clips, query, windows)
        assert len(expected) == (292 if windows else 8)
        for top in (1, 4, 1000):
            hits = found.search(query, top, windows)
            places = [hit.row if windows else int(names[hit.row]) for hit in hits]
            assert list(zip(places, [hit.cosine for hit in hits], strict=True)) == expected[:top]
    best, rows = found.search(query, 1)[0], np.concatenate(clips).astype(np.float64)
    pair = rows[best.row] @ query[best.vector] / np.linalg.norm(rows[best.row]) / np.linalg.norm(query[best.vector])
    assert pair == pytest.approx(1.0, abs=1e-6)


def test_an_index_is_written_once_and_again_where_it_was_cut_off(tmp_path):
    clips = [np.random.default_rng(0).standard_normal((20, SIZE)).astype(np.float32) for _ in range(6)]
    table = make_table(tmp_path / "table", clips, "float32")
    first = Index(table, tmp_path)
    np.testing.assert_array_equal(first.rows, np.concatenate(clips))
    written = (first.folder / index.ROWS).stat().st_mtime_ns
    assert (Index(table, tmp_path).folder / index.ROWS).stat().st_mtime_ns == written
    (first.folder / index.PLACES).unlink()
    (first.folder / ".rows.npy.0123456789abcdef0123456789abcdef.tmp").touch()  # of a killed one
    assert (Index(table, tmp_path).folder / index.ROWS).stat().st_mtime_ns > written
    assert {path.name for path in first.folder.iterdir()} == {index.ROWS, index.PLACES}
    with (first.folder / index.ROWS).open("r+b") as file:
        file.truncate(1000)
    with pytest.raises(EdgeseaError, match=f"{first.folder}: damaged; delete it"):
        Index(table, tmp_path)
