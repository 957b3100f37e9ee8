"""Writing parts of a table and reading them back."""

import json
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from stored import content, embeddings_of

from edgesea.artifact import write_json
from edgesea.embed.engine import Failure
from edgesea.errors import EdgeseaError
from edgesea.table.clips import ClipEntry, Piece
from edgesea.table.reader import Table, part_info, part_path
from edgesea.table.writer import PartWriter, make_part, write_part, write_table

SIZE = 3
INFO = {
    "parts": 2,
    "sample_rate": 8,
    "teacher": {"id": "made", "embedding_size": SIZE},
    "framing": {"window": 1.0, "hop": 0.5, "center": False},
    "dtype": "float32",
}
Written = list[tuple[str, np.ndarray, np.ndarray]]


def fill(writer: PartWriter, seed: int) -> Written:
    """Write six clips of one to four windows of 8 samples (hop 4, the second clip in two rows), and return them."""
    rng = np.random.default_rng(seed)
    written = []
    for index in range(6):
        count = 1 + index % 4
        pcm = rng.integers(-32768, 32768, 4 * (count - 1) + 8).astype(np.int16)
        embeddings = rng.standard_normal((count, SIZE)).astype(np.float32)
        name, split, label = f"{seed}-{index}", ("train", "train", "validate")[index % 3], (None, "1", "0")[index % 3]
        clip = ClipEntry(name, Path(name), f"s{index % 2}", None, split, None, label)
        starts, levels = np.arange(count) * 4, np.arange(count, dtype=np.float32)
        for rows in (slice(0, 1), slice(1, 2)) if index == 1 else (slice(None),):
            offset = int(starts[rows][0])
            stored = pcm[offset : offset + 8 if index == 1 else None]
            writer.add(Piece(clip, offset, stored, starts[rows], levels[rows], 2.0**-index), embeddings[rows])
        written.append((name, pcm * np.float32(2.0**-index), embeddings))
    return written


def make_table(path: Path, dtype: str = "float32") -> tuple[Table, Written]:
    written = []
    for part in range(2):
        with write_part(path, part, SIZE, dtype) as writer:
            written += fill(writer, part)
            writer.skip(f"bad{part}\n", "damaged, wholly")
    counts = {"windows": 26, "windows_by_split": {"train": 16, "validate": 10}}
    write_json(path / "table.json", {**INFO, "dtype": dtype, **counts})
    return Table(path), written


@pytest.fixture(params=[1, 1 << 25], ids=["many row groups", "one row group"])
def written_table(request, monkeypatch, tmp_path):
    monkeypatch.setattr("edgesea.table.writer.FLUSH_BYTES", request.param)
    table, written = make_table(tmp_path / "table")
    assert len(list(table.chunks())) == (14 if request.param == 1 else 2)
    return table, written


def test_what_was_written_is_read(written_table):
    table, written = written_table
    found = []
    for chunk in table.chunks():
        audio, embeddings = (
            np.multiply(*table.audio(chunk, chunk.select(None))),
            table.embeddings(chunk.part, chunk.group),
        )
        found += zip(chunk.names[chunk.clip], chunk.start, audio, embeddings, chunk.level, strict=True)
    expected = [
        (name, 4 * k, heard[4 * k :][:8], row, k) for name, heard, rows in written for k, row in enumerate(rows)
    ]
    for one, other in zip(zip(*found, strict=True), zip(*expected, strict=True), strict=True):
        np.testing.assert_array_equal(one, other)
    for split, count in (("train", 16), ("validate", 10), ("test", 0), (None, 26)):
        chosen = [rows for name, _, rows in written if split is None or (name[-1] in "25") == (split == "validate")]
        rows = embeddings_of(table, split)
        assert len(rows) == count
        np.testing.assert_array_equal(rows, np.concatenate(chosen)[:count])
    for part in range(2):  # `clip` is the row in the part's whole clips file, so that other tools can join the two
        clips, windows = (pq.read_table(part_path(table.path, kind, part))["clip"] for kind in ("clips", "windows"))
        chunks = [chunk for chunk in table.chunks() if chunk.part == part]
        assert clips.take(windows).to_pylist() == [name for c in chunks for name in c.names[c.clip]]
        assert [c.first_window for c in chunks] == np.cumsum([0, *[len(c.clip) for c in chunks]])[:-1].tolist()
        info = part_info(table.path, part)
        assert (info.part, info.skipped) == (part, [(f"bad{part}\n", "damaged, wholly")])
    assert list(table.windows_by_split()) == [
        (c.part, c.group, dict(Counter(c.splits[c.clip].tolist()))) for c in table.chunks()
    ]


def test_parts_of_earlier_tables_are_read(tmp_path):
    """They have no labels, and no scales but one for all."""
    table, _ = make_table(tmp_path)
    path = part_path(tmp_path, "clips", 1)
    counts = list(table.windows_by_split())
    pq.write_table(pq.read_table(path).drop_columns(["label", "scale"]).replace_schema_metadata(None), path)
    assert list(table.windows_by_split()) == counts
    assert [set(table.audio(chunk, chunk.select(None))[1].ravel()) for chunk in table.chunks()] == [
        {2.0**-index for index in range(6)},
        {np.float32(1 / 32767)},
    ]
    labels = [label for chunk in table.chunks() for label in chunk.labels[chunk.offsets == 0]]
    assert labels == [None, "1", "0"] * 2 + [None] * 6


@pytest.mark.parametrize("flush", [1, 1 << 25])
def test_a_part_appears_as_a_whole_or_not_at_all(tmp_path, monkeypatch, flush):
    monkeypatch.setattr("edgesea.table.writer.FLUSH_BYTES", flush)
    for error, expected in ((KeyboardInterrupt, []), (None, ["clips", "windows"])):
        with suppress(KeyboardInterrupt), write_part(tmp_path, 0, SIZE, "float32") as writer:
            fill(writer, 0)
            assert part_info(tmp_path, 0) is None
            if error:
                raise error
        names = [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()]
        assert sorted(names) == [f"{kind}/part-00000.parquet" for kind in expected]


@pytest.mark.parametrize(
    ("change", "word"),
    [("[1]", ""), ("{", "not JSON"), ({"parts": None}, "parts"), ({"windows_by_split": None}, "windows_by_split")],
)
def test_a_damaged_description_is_named(tmp_path, change, word):
    table, _ = make_table(tmp_path)
    if isinstance(change, dict):
        change = json.dumps({name: value for name, value in table.info.items() if name not in change})
    (tmp_path / "table.json").write_text(change)
    with pytest.raises(EdgeseaError, match=rf"table\.json.*{word}"):
        Table(tmp_path)


@pytest.mark.parametrize("kind", ["clips", "windows"])
@pytest.mark.parametrize("damage", ["bit", "inside", "text", "gone"])
def test_missing_and_damaged_parts_are_named(tmp_path, kind, damage):
    make_table(tmp_path)
    path = part_path(tmp_path, kind, 1)
    column = pq.read_metadata(path).row_group(0).column(pq.read_metadata(path).num_columns - 1)  # pcm, embedding
    content = bytearray(path.read_bytes())
    middle = column.data_page_offset + column.total_compressed_size // 2
    for byte in range(middle - 20, middle + 20 if damage == "inside" else middle - 19):
        content[byte] ^= 1
    path.unlink()
    if damage != "gone":
        path.write_bytes(b"text" if damage == "text" else content)

    def read() -> None:
        for chunk in (table := Table(tmp_path)).chunks():
            table.audio(chunk, chunk.select(None))
            table.embeddings(chunk.part, chunk.group)

    with pytest.raises(EdgeseaError, match=rf"{kind}/part-00001\.parquet.*clips/part-00001\.parquet"):
        read()


def write(out: Path, center: bool, usable: bool = True, parts: int = 1) -> dict[str, Any]:
    """Write a table of a clip in each part, which can be used or not."""
    clips = [ClipEntry(f"{part}.wav", f"{part}.wav", None, None, "train", None) for part in range(parts)]

    def embed(sources: Iterator[ClipEntry]) -> Iterator[Any]:
        for clip in sources:
            piece = Piece(clip, 0, np.full(8, int(clip.clip[0]), np.int16), np.zeros(1, np.int64), np.zeros(1))
            rows = np.full((1, SIZE), int(clip.clip[0]), np.float32)
            yield (clip, piece, rows) if usable else Failure(clip, "damaged")

    plan = {**INFO, "parts": parts, "center": center}
    return write_table(out, plan, [[clip] for clip in clips], embed, parts, 0.5, "test")


def test_a_part_that_is_there_is_not_made_again(tmp_path):
    """On a cluster: by another worker, after the one was killed that made it and had not said so."""
    write(tmp_path, center=False)
    plan = {**INFO, "parts": 1, "center": False}
    assert make_part(tmp_path, plan, lambda sources: pytest.fail("embedded"), 0, []) == (1, set())
    part_path(tmp_path, "windows", 0).unlink()
    (tmp_path / "clips" / f".part.{'0' * 32}.tmp").touch()  # left by a worker that was killed
    write(tmp_path, center=False)
    assert not list(tmp_path.glob("*/.*.tmp"))


def test_a_plan_binds_as_soon_as_a_clip_is_stored(tmp_path):
    with pytest.raises(EdgeseaError, match=r"1 of 1 .*0\.wav: damaged"):
        write(tmp_path, center=True, usable=False)
    assert write(tmp_path, center=False)["clips"] == 1  # what the first calls left does not hinder this one
    with pytest.raises(EdgeseaError, match=r"center: False .*True"):
        write(tmp_path, center=True)
    (tmp_path / "table.json").unlink()
    part_path(tmp_path, "clips", 0).write_bytes(b"damaged")
    with pytest.raises(EdgeseaError, match=r"center: False .*True"):
        write(tmp_path, center=True)


@pytest.mark.parametrize("kind", ["clips", "windows"])
@pytest.mark.parametrize("damage", ["cut", "empty", "gone", "renamed", "of another table"])
def test_a_damaged_part_is_made_anew(tmp_path, caplog, kind, damage):
    write(tmp_path / "other", center=False, parts=3)
    write(tmp_path / "table", center=True, parts=3)
    table = tmp_path / "table"
    before, path = content(table), part_path(table, kind, 1)
    times = {path: path.stat().st_mtime_ns for path in table.glob("*/part-*")}
    whole = path.read_bytes()
    path.unlink()
    if damage == "renamed":
        part_path(table, kind, 2).rename(path)
    elif damage == "of another table":
        shutil.copy(part_path(tmp_path / "other", kind, 1 if kind == "clips" else 2), path)
    elif damage != "gone":
        path.write_bytes(whole[: len(whole) - 5] if damage == "cut" else b"")
    if (kind, damage) != ("clips", "of another table"):
        with pytest.raises(EdgeseaError, match=r"part-0000[12]\.parquet"):
            list(Table(table).chunks())
    write(table, center=True, parts=3)
    assert content(table) == before
    assert times[part_path(table, "clips", 0)] == part_path(table, "clips", 0).stat().st_mtime_ns
    assert ("part-00001.parquet" in caplog.text) == ((kind, damage) != ("clips", "gone"))
