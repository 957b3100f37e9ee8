"""Writing parts of a table and reading them back."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from edgesea.artifact import write_json
from edgesea.errors import EdgeseaError
from edgesea.table.clips import Piece
from edgesea.table.manifest import ClipEntry
from edgesea.table.reader import Table, part_path, part_skipped, stack
from edgesea.table.writer import PartWriter, TableWriter, write_part

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
            piece = Piece(clip, offset, pcm[offset : offset + 8 if index == 1 else None], starts[rows], levels[rows])
            writer.add(piece, embeddings[rows])
        written.append((name, pcm, embeddings))
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
    assert len(list(table.chunk_ids())) == (14 if request.param == 1 else 2)
    return table, written


# --- parts


def test_what_was_written_is_read(written_table):
    table, written = written_table
    names, starts, audio, embeddings, levels = [], [], [], [], []
    for chunk in table.chunks():
        names += chunk.names[chunk.clip].tolist()
        starts += chunk.start.tolist()
        levels += chunk.level.tolist()
        audio += list(table.audio(chunk, np.arange(len(chunk.clip))))
        embeddings += list(table.embeddings(chunk.part, chunk.group))
    expected = [(name, 4 * k, pcm[4 * k :][:8], row, k) for name, pcm, rows in written for k, row in enumerate(rows)]
    assert names == [name for name, *_ in expected]
    assert starts == [start for _, start, *_ in expected]
    np.testing.assert_array_equal(audio, [samples for *_, samples, _, _ in expected])
    np.testing.assert_array_equal(embeddings, [row for *_, row, _ in expected])
    assert levels == [level for *_, level in expected]


def test_labels_are_read_back_also_where_a_part_has_none(written_table):
    """As parts that were written before there were labels."""
    table, _ = written_table
    path = part_path(table.path, "clips", 1)
    old = pq.ParquetFile(path)
    groups = [old.read_row_group(group).drop_columns("label") for group in range(old.num_row_groups)]
    with pq.ParquetWriter(path, groups[0].schema) as writer:
        for group in groups:
            writer.write_table(group)
    chunks = list(Table(table.path).chunks())
    assert [label for c in chunks for label in c.labels[c.offsets == 0]] == [None, "1", "0"] * 2 + [None] * 6
    assert all(len(chunk.labels) == len(chunk.names) for chunk in chunks)


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


def test_windows_before_the_clip_begin_with_zeros(tmp_path):
    clip = ClipEntry("a", Path("a"), None, None, "train", None)
    piece = Piece(clip, 0, np.arange(1, 13, dtype=np.int16), np.array([-4, 0, 4, 8]), np.zeros(4, np.float32))
    with write_part(tmp_path, 0, SIZE, "float32") as writer:
        writer.add(piece, np.zeros((4, SIZE), np.float32))
    table = Table(tmp_path, {**INFO, "parts": 1})
    (chunk,) = table.chunks()
    assert table.audio(chunk, np.array([0, 3, 1])).tolist() == [
        [0, 0, 0, 0, 1, 2, 3, 4],
        [9, 10, 11, 12, 0, 0, 0, 0],
        [1, 2, 3, 4, 5, 6, 7, 8],
    ]


def test_a_part_may_be_empty_and_remembers_what_it_left_out(tmp_path):
    with write_part(tmp_path, 0, SIZE, "float16") as writer:
        writer.skip("only.wav\n", "damaged")
    assert part_skipped(tmp_path, 0) == [("only.wav\n", "damaged")]
    assert part_skipped(tmp_path, 1) is None
    table = Table(tmp_path, {**INFO, "parts": 1})
    assert list(table.chunks()) == []
    assert stack(list(table.iter_embeddings()), SIZE).shape == (0, SIZE)


@pytest.mark.parametrize("flush", [1, 1 << 25])
def test_a_part_appears_as_a_whole_or_not_at_all(tmp_path, monkeypatch, flush):
    monkeypatch.setattr("edgesea.table.writer.FLUSH_BYTES", flush)

    def write(interrupt: bool) -> None:
        with write_part(tmp_path, 0, SIZE, "float32") as writer:
            fill(writer, 0)
            assert part_skipped(tmp_path, 0) is None
            assert not list(tmp_path.rglob("*.parquet"))
            if interrupt:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(interrupt=True)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    write(interrupt=False)
    names = [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()]
    assert sorted(names) == ["clips/part-00000.parquet", "windows/part-00000.parquet"]


# --- damage


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


def read_all(table: Table) -> None:
    for chunk in table.chunks():
        table.audio(chunk, chunk.select(None))
        table.embeddings(chunk.part, chunk.group)


@pytest.mark.parametrize("kind", ["clips", "windows"])
@pytest.mark.parametrize("damage", ["inside", "text", "gone"])
def test_missing_and_damaged_parts_are_named(tmp_path, kind, damage):
    make_table(tmp_path)
    path = part_path(tmp_path, kind, 1)
    if damage == "inside":
        column = pq.read_metadata(path).row_group(0).column(pq.read_metadata(path).num_columns - 1)  # pcm, embedding
        content = bytearray(path.read_bytes())
        middle = column.data_page_offset + column.total_compressed_size // 2
        content[middle - 20 : middle + 20] = bytes(255 - byte for byte in content[middle - 20 : middle + 20])
        path.write_bytes(content)
    elif damage == "text":
        path.write_bytes(b"text")
    else:
        path.unlink()
    with pytest.raises(EdgeseaError, match=rf"{kind}/part-00001\.parquet.*clips/part-00001\.parquet"):
        read_all(Table(tmp_path))


def test_a_place_without_a_table_is_named(tmp_path):
    with pytest.raises(EdgeseaError, match="gone"):
        Table(tmp_path / "gone")
    make_table(tmp_path / "table")
    (tmp_path / "table" / "table.json").unlink()
    with pytest.raises(EdgeseaError, match="unfinished"):
        Table(tmp_path / "table")


# --- which plan a folder belongs to


def plan_with(center: bool) -> dict[str, object]:
    return {**INFO, "parts": 1, "center": center}


def names(out: Path) -> list[str]:
    return sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())


def write_one(out: Path, stored: bool) -> None:
    with write_part(out, 0, SIZE, "float32") as writer:
        if stored:
            fill(writer, 0)
        writer.skip("bad.wav", "damaged")


@pytest.mark.parametrize("center", [True, False], ids=["same plan", "other plan"])
def test_a_plan_by_which_nothing_was_stored_gives_way(tmp_path, center):
    TableWriter(tmp_path, plan_with(True), "test")
    write_one(tmp_path, stored=False)
    (tmp_path / "skipped.csv").touch()
    TableWriter(tmp_path, plan_with(center), "test")
    assert json.loads((tmp_path / "plan.json").read_text()) == plan_with(center)
    assert names(tmp_path) == ["plan.json"]  # no part of one plan is taken for one of another


@pytest.mark.parametrize("state", ["a part", "a damaged part", "a finished table"])
def test_a_plan_by_which_something_was_stored_binds(tmp_path, state):
    TableWriter(tmp_path, plan_with(True), "test")
    write_one(tmp_path, stored=state != "a finished table")
    if state == "a damaged part":
        (tmp_path / "clips" / "part-00000.parquet").write_bytes(b"damaged")
    elif state == "a finished table":
        (tmp_path / "table.json").write_text("{}")
    before = names(tmp_path)
    with pytest.raises(EdgeseaError, match=r"center: True .*False"):
        TableWriter(tmp_path, plan_with(False), "test")
    TableWriter(tmp_path, plan_with(True), "test")
    assert names(tmp_path) == before


def test_a_call_whose_plan_was_replaced_stops(tmp_path):
    def write() -> None:
        with TableWriter(tmp_path, plan_with(True), "test").part(0) as part:
            fill(part, 0)
            TableWriter(tmp_path, plan_with(False), "test")

    with pytest.raises(EdgeseaError, match="another"):
        write()
    assert names(tmp_path) == ["plan.json"]
