import json
import math
from pathlib import Path

import pytest

from edgesea.errors import EdgeseaError
from edgesea.files import atomic_path, read_json, walk, write_json


def test_a_file_appears_when_it_is_complete(tmp_path):
    path = tmp_path / "new" / "folder" / "a.txt"
    with atomic_path(path) as temporary:
        temporary.write_text("complete")
        assert not path.exists()
    assert path.read_text() == "complete"
    assert list(path.parent.iterdir()) == [path]


def test_a_failure_leaves_the_old_content_and_nothing_else(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def interrupted() -> None:
        with atomic_path(path) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["x" * 255, "é" * 127, "🎤" * 63, "caf\udce9.txt"])
def test_every_name_that_the_file_system_takes_is_possible(tmp_path, name):
    with atomic_path(tmp_path / name) as temporary:
        temporary.write_text("complete")
    assert (tmp_path / name).read_text() == "complete"


def test_two_writers_of_one_file_do_not_meet(tmp_path):
    with atomic_path(tmp_path / "a") as first, atomic_path(tmp_path / "a") as second:
        assert first != second
        first.write_text("first")
        second.write_text("second")
    assert (tmp_path / "a").read_text() == "first"  # closed last
    assert len(list(tmp_path.iterdir())) == 1


def test_temporary_files_are_hidden(tmp_path):
    """pandas and pyarrow pass over names that begin with a dot."""
    with atomic_path(tmp_path / "part-00000.parquet") as temporary:
        temporary.touch()
        assert temporary.name.startswith(".")
        assert temporary.suffix == ".tmp"


def test_json_is_read_back_without_nan(tmp_path):
    value = {"a": [1, 2.5, math.nan, -math.inf], "b": {"ü": None}, "c": Path("x/y"), 3: (1, 2)}
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json") == {"a": [1, 2.5, None, None], "b": {"ü": None}, "c": "x/y", "3": [1, 2]}
    assert json.loads((tmp_path / "a.json").read_text("utf-8"))["b"] == {"ü": None}


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe"])
def test_what_is_no_json_is_named(tmp_path, content):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(EdgeseaError, match=r"a\.json: not JSON"):
        read_json(tmp_path / "a.json")


def test_missing_json_is_named(tmp_path):
    with pytest.raises(EdgeseaError, match=r"gone\.json: no such file"):
        read_json(tmp_path / "gone.json")


def test_links_to_folders_are_followed_but_each_folder_counts_once(tmp_path):
    (tmp_path / "root" / "z" / "deep").mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    for place in ("root/z", "root/z/deep", "outside"):
        (tmp_path / place / "file").touch()
    (tmp_path / "root" / "a").symlink_to("z")
    (tmp_path / "root" / "b").symlink_to(tmp_path / "outside")
    (tmp_path / "root" / "z" / "loop").symlink_to(tmp_path / "root")
    (tmp_path / "root" / "dangling").symlink_to("nowhere")
    found = [path.relative_to(tmp_path / "root").as_posix() for path in walk(tmp_path / "root")]
    assert sorted(found) == ["a/deep/file", "a/file", "b/file"]
