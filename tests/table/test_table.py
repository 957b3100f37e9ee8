"""Writing parts of a table and reading them back."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from edgesea.artifact import write_json
from edgesea.errors import EdgeseaError
from edgesea.table.manifest import ClipEntry
from edgesea.table.reader import Table, part_skipped, stack
from edgesea.table.schema import part_path
from edgesea.table.writer import PartWriter

SIZE = 3


def entry(name: str, split: str = "train", sensor: str | None = None, label: str | None = None) -> ClipEntry:
    return ClipEntry(name, Path(name), sensor, None, split, None, label)


def fill(writer: PartWriter, seed: int) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """Write six clips of one to four windows of 8 samples (hop 4, the second clip in two rows), and return them."""
    rng = np.random.default_rng(seed)
    written = []
    for index in range(6):
        count = 1 + index % 4
        pcm = rng.integers(-32768, 32768, 4 * (count - 1) + 8).astype(np.int16)
        embeddings = rng.standard_normal((count, SIZE)).astype(np.float32)
        clip = entry(
            f"{seed}-{index}", "validate" if index % 3 == 2 else "train", f"s{index % 2}", (None, "1", "0")[index % 3]
        )
        if index == 1:
            writer.add(clip, 0, pcm[:8], [0], np.zeros(1, np.float32), embeddings[:1])
            writer.add(clip, 4, pcm[4:], [4], np.ones(1, np.float32), embeddings[1:])
        else:
            writer.add(clip, 0, pcm, list(range(0, 4 * count, 4)), np.arange(count, dtype=np.float32), embeddings)
        written.append((clip.clip, pcm, embeddings))
    return written


REST = {
    "dtype": "float32",
    "part_clips": 6,
    "manifest_sha256": "0",
    "windows": 26,
    "windows_by_split": {"train": 16, "validate": 10},
}


def make_table(path: Path, dtype: str = "float32") -> tuple[Table, list[tuple[str, np.ndarray, np.ndarray]]]:
    written = []
    for part in range(2):
        with PartWriter(path, part, SIZE, dtype) as writer:
            written += fill(writer, part)
            writer.skipped.append((f"bad{part}\n", "damaged, wholly"))
    framing = {"window": 1.0, "hop": 0.5, "center": False}
    info = {"parts": 2, "sample_rate": 8, "teacher": {"embedding_size": SIZE}, "framing": framing}
    write_json(path / "table.json", {**info, **REST})
    return Table(path), written


@pytest.fixture(params=[1, 1 << 25], ids=["many row groups", "one row group"])
def written_table(request, monkeypatch, tmp_path):
    monkeypatch.setattr("edgesea.table.writer.FLUSH_BYTES", request.param)
    table, written = make_table(tmp_path / "table")
    assert len(list(table.chunk_ids())) == (14 if request.param == 1 else 2)
    return table, written


def test_what_was_written_is_read(written_table):
    table, written = written_table
    names, starts, audio, embeddings, levels = [], [], [], [], []
    for chunk in table.chunks():
        names += chunk.names[chunk.clip].tolist()
        starts += chunk.start.tolist()
        levels += chunk.level.tolist()
        audio += list(table.audio(chunk, np.arange(len(chunk.clip))))
        embeddings += list(table.embeddings(chunk.part, chunk.group))
    expected = [
        (name, 4 * k, pcm[4 * k : 4 * k + 8], row, k) for name, pcm, rows in written for k, row in enumerate(rows)
    ]
    assert names == [name for name, *_ in expected]
    assert starts == [start for _, start, *_ in expected]
    np.testing.assert_array_equal(audio, [samples for *_, samples, _, _ in expected])
    np.testing.assert_array_equal(embeddings, [row for *_, row, _ in expected])
    assert levels == [level for *_, level in expected]


def test_labels_are_read_back_also_where_a_part_has_none(written_table):
    table, _ = written_table
    labels = [label for chunk in table.chunks() for label in chunk.labels[chunk.offsets == 0]]
    names = [name for chunk in table.chunks() for name in chunk.names]
    assert labels == [None, "1", "0"] * 4
    path = part_path(table.path, "clips", 1)
    old = pq.ParquetFile(path)  # what was written before there were labels
    groups = [old.read_row_group(group).drop_columns("label") for group in range(old.num_row_groups)]
    with pq.ParquetWriter(path, groups[0].schema) as writer:
        for group in groups:
            writer.write_table(group)
    chunks = list(Table(table.path).chunks())
    assert [label for chunk in chunks for label in chunk.labels[chunk.offsets == 0]] == [None, "1", "0"] * 2 + [
        None
    ] * 6
    assert all(len(chunk.labels) == len(chunk.names) for chunk in chunks)
    assert [name for chunk in chunks for name in chunk.names] == names


def test_rows_are_counted_through_the_part(written_table):
    """`clip` is the row in the part's whole clips file, so that other tools can join the two."""
    table, _ = written_table
    for part in range(2):
        clips = pq.read_table(part_path(table.path, "clips", part))["clip"].to_pylist()
        windows = pq.read_table(part_path(table.path, "windows", part))["clip"].to_pylist()
        chunks = [table.chunk(*position) for position in table.chunk_ids() if position[0] == part]
        assert [clips[row] for row in windows] == [name for c in chunks for name in c.names[c.clip]]
        assert [c.first_window for c in chunks] == np.cumsum([0, *[len(c.clip) for c in chunks]])[:-1].tolist()
        assert [c.first_clip for c in chunks] == np.cumsum([0, *[len(c.names) for c in chunks]])[:-1].tolist()


@pytest.mark.parametrize(("split", "count"), [("train", 16), ("validate", 10), ("test", 0), (None, 26)])
def test_windows_are_chosen_by_split(written_table, split, count):
    table, written = written_table
    blocks = list(table.iter_embeddings(split))
    assert all(len(block) for block in blocks)
    chosen = [rows for name, _, rows in written if split is None or (name[-1] in "25") == (split == "validate")]
    expected = np.concatenate(chosen) if split != "test" else np.zeros((0, SIZE))
    assert len(expected) == count
    np.testing.assert_array_equal(stack(blocks, SIZE), expected)


def test_half_precision_is_read_as_single(tmp_path):
    table, written = make_table(tmp_path / "table", "float16")
    table.info["dtype"] = "float16"
    assert table.embeddings(0, 0).dtype == table.embedding_dtype == np.float16
    found = stack(list(table.iter_embeddings(None)), SIZE)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, np.concatenate([rows.astype(np.float16) for *_, rows in written]))


def test_windows_before_the_clip_begin_with_zeros(tmp_path):
    pcm = np.arange(1, 13, dtype=np.int16)
    with PartWriter(tmp_path, 0, SIZE, "float32") as writer:
        writer.add(entry("a"), 0, pcm, [-4, 0, 4, 8], np.zeros(4, np.float32), np.zeros((4, SIZE), np.float32))
    framing = {"window": 1.0, "hop": 0.5, "center": True}
    table = Table(tmp_path, {"parts": 1, "sample_rate": 8, "teacher": {"embedding_size": SIZE}, "framing": framing})
    (chunk,) = table.chunks()
    assert table.audio(chunk, np.array([0, 3, 1])).tolist() == [
        [0, 0, 0, 0, 1, 2, 3, 4],
        [9, 10, 11, 12, 0, 0, 0, 0],
        [1, 2, 3, 4, 5, 6, 7, 8],
    ]


def test_a_part_remembers_what_it_left_out(tmp_path):
    make_table(tmp_path)
    assert part_skipped(tmp_path, 1) == [("bad1\n", "damaged, wholly")]
    assert part_skipped(tmp_path, 2) is None


def test_a_part_may_be_empty(tmp_path):
    with PartWriter(tmp_path, 0, SIZE, "float16") as writer:
        writer.skipped.append(("only.wav", "damaged"))
    assert part_skipped(tmp_path, 0) == [("only.wav", "damaged")]
    framing = {"window": 1.0, "hop": 0.5, "center": False}
    table = Table(tmp_path, {"parts": 1, "sample_rate": 8, "teacher": {"embedding_size": SIZE}, "framing": framing})
    assert list(table.chunks()) == []
    assert stack(list(table.iter_embeddings()), SIZE).shape == (0, SIZE)


@pytest.mark.parametrize("flush", [1, 1 << 25])
def test_a_part_that_fails_leaves_nothing(tmp_path, monkeypatch, flush):
    monkeypatch.setattr("edgesea.table.writer.FLUSH_BYTES", flush)

    def interrupted() -> None:
        with PartWriter(tmp_path, 0, SIZE, "float32") as writer:
            fill(writer, 0)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_part_appears_as_a_whole(tmp_path):
    with PartWriter(tmp_path, 0, SIZE, "float32") as writer:
        fill(writer, 0)
        assert part_skipped(tmp_path, 0) is None
        assert not list(tmp_path.rglob("*.parquet"))
    names = [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()]
    assert sorted(names) == ["clips/part-00000.parquet", "windows/part-00000.parquet"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "{}",
            "incomplete, without parts, sample_rate, teacher, framing, dtype, part_clips, manifest_sha256, windows, ",
        ),
        ("[1]", "does not describe a table"),
        ("{", "not JSON: "),
        ({"windows": None}, "incomplete, without windows"),
        ({"parts": "two"}, "parts is 'two', which describes no table"),
        ({"teacher": {"id": "a"}}, r"teacher is {'id': 'a'}, which describes no table"),
        ({"framing": {"hop": 1}}, "framing is {'hop': 1}, which describes no table"),
    ],
)
def test_a_damaged_description_is_named_with_the_remedy(tmp_path, content, message):
    table, _ = make_table(tmp_path)
    if isinstance(content, dict):
        values = {**table.info, **content}
        content = json.dumps({name: value for name, value in values.items() if value is not None})
    (tmp_path / "table.json").write_text(content)
    with pytest.raises(EdgeseaError, match=rf"table\.json: {message}.*; delete it, then run the command that made"):
        Table(tmp_path)


@pytest.mark.parametrize("kind", ["clips", "windows"])
def test_damage_inside_a_part_is_named_with_the_remedy(tmp_path, kind):
    make_table(tmp_path)
    path = part_path(tmp_path, kind, 1)
    column = pq.read_metadata(path).row_group(0).column(pq.read_metadata(path).num_columns - 1)  # pcm, embedding
    content = bytearray(path.read_bytes())
    middle = column.data_page_offset + column.total_compressed_size // 2
    content[middle - 20 : middle + 20] = bytes(255 - byte for byte in content[middle - 20 : middle + 20])
    path.write_bytes(content)
    table = Table(tmp_path)
    with pytest.raises(
        EdgeseaError, match=rf"{kind}/part-00001\.parquet: cannot be read: .*; delete (it|\S*clips/\S*), then run"
    ):
        read_all(table)


def read_all(table: Table) -> None:
    for chunk in table.chunks():
        table.audio(chunk, chunk.select(None))
        table.embeddings(chunk.part, chunk.group)


def test_a_place_without_a_table_is_named(tmp_path):
    with pytest.raises(EdgeseaError, match="gone: no table here; make one: edgesea extract"):
        Table(tmp_path / "gone")
    make_table(tmp_path / "table")
    (tmp_path / "table" / "table.json").unlink()
    with pytest.raises(EdgeseaError, match="table: unfinished table; finish it by running the same"):
        Table(tmp_path / "table")


@pytest.mark.parametrize("damage", [lambda path: path.write_bytes(b"text"), lambda path: path.unlink()])
def test_missing_and_damaged_parts_are_named(tmp_path, damage):
    table, _ = make_table(tmp_path)
    damage(part_path(tmp_path, "windows", 1))
    with pytest.raises(EdgeseaError, match=r"windows/part-00001\.parquet: cannot be read"):
        list(table.chunks())
    damage(part_path(tmp_path, "clips", 0))
    with pytest.raises(EdgeseaError, match=r"clips/part-00000\.parquet: cannot be read"):
        list(Table(tmp_path).chunks())
