import errno
import json
import math
from pathlib import Path

import pytest

from edgesea.artifact import WriteError, atomic_path, check_vacant, claim, disk_error, read_json, walk, write_json
from edgesea.errors import EdgeseaError


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


def test_a_folder_is_claimed_once_for_a_plan(tmp_path):
    plan = {"lr": 0.1, "filters": [4, 8], "teacher": {"id": "spectral", "sha256": None}}
    claim(tmp_path / "new" / "folder", plan, "student")
    assert read_json(tmp_path / "new" / "folder" / "plan.json") == plan
    stamp = (tmp_path / "new" / "folder" / "plan.json").stat().st_mtime_ns
    (tmp_path / "new" / "folder" / "part").touch()
    claim(tmp_path / "new" / "folder", plan, "student")
    assert (tmp_path / "new" / "folder" / "plan.json").stat().st_mtime_ns == stamp


def test_a_folder_of_another_plan_is_refused_with_what_differs(tmp_path):
    there = {"lr": 0.1, "teacher": {"id": "a", "sha256": "0" * 32 + "1" * 32}, "size": 4, "old": True}
    here = {"lr": 0.2, "teacher": {"id": "a", "sha256": "0" * 32 + "2" * 32}, "size": 4, "new": [1]}
    claim(tmp_path / "folder", there, "student")
    with pytest.raises(EdgeseaError) as raised:
        claim(tmp_path / "folder", here, "student")
    assert str(raised.value) == (
        f"{tmp_path}/folder: holds a student made from other input or options (lr: 0.1 there, 0.2 here; "
        "new: None there, [1] here; old: True there, None here; "
        f"teacher.sha256: {'0' * 28}...{'1' * 28} there, {'0' * 28}...{'2' * 28} here); "
        "choose another folder or delete it"
    )
    assert read_json(tmp_path / "folder" / "plan.json") == there


@pytest.mark.parametrize("content", ["[1]", "null"])
def test_a_plan_that_is_none_is_refused(tmp_path, content):
    (tmp_path / "plan.json").write_text(content)
    with pytest.raises(EdgeseaError, match=r"plan\.json: .* there, \{'lr': 1\} here"):
        claim(tmp_path, {"lr": 1}, "student")


def test_what_is_no_artifact_is_not_claimed(tmp_path):
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(EdgeseaError, match="not empty and no student; choose another folder"):
        claim(tmp_path, {}, "student")
    with pytest.raises(EdgeseaError, match=r"thesis\.txt: a file, where a folder is needed"):
        claim(tmp_path / "thesis.txt", {}, "student")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_what_a_killed_process_left_behind_does_not_keep_a_folder(tmp_path):
    (tmp_path / ".plan.json.0123.tmp").touch()
    claim(tmp_path, {"lr": 1}, "student")
    assert read_json(tmp_path / "plan.json") == {"lr": 1}


@pytest.mark.parametrize(
    "error",
    [
        OSError("Error writing bytes to file. Detail: [errno 28] No space left on device"),
        OSError(errno.ENOSPC, "Error writing bytes to file. Detail: [errno 28] No space left on device"),
        OSError(errno.ENOSPC, "No space left on device", "source", None, "copy"),
        OSError("No space left on device"),
    ],
)
def test_a_full_disk_is_told_with_the_file_that_could_not_be_written(tmp_path, error):
    with pytest.raises(WriteError) as raised, atomic_path(tmp_path / "outer"), atomic_path(tmp_path / "a.txt"):
        raise error
    assert (raised.value.errno, raised.value.strerror) == (errno.ENOSPC, "No space left on device")
    assert raised.value.filename == str(tmp_path / "a.txt")
    assert raised.value.__cause__ is error
    assert list(tmp_path.iterdir()) == []


def test_a_broken_disk_is_told_with_the_file_unless_another_was_read(tmp_path):
    with pytest.raises(OSError, match=r"Input/output error: '.*/a\.txt'"), atomic_path(tmp_path / "a.txt"):
        raise OSError(errno.EIO, "Input/output error")
    with pytest.raises(OSError, match=r"Input/output error: '.*/a\.txt'"), atomic_path(tmp_path / "a.txt") as temporary:
        raise OSError(errno.EIO, "Input/output error", str(temporary))
    for error in (
        OSError(errno.EIO, "Input/output error", "source.wav"),
        OSError("damaged"),
        FileNotFoundError(2, "x"),
    ):
        with pytest.raises(OSError) as raised, atomic_path(tmp_path / "a.txt"):
            raise error
        assert raised.value is error


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("Error while serializing: I/O error: No space left on device (os error 28)", errno.ENOSPC),
        ("I/O error: Permission denied (os error 13)", errno.EACCES),
        ("I/O error", errno.EIO),
    ],
)
def test_what_a_library_says_of_a_disk_becomes_the_systems_error(text, number):
    error = disk_error(text, Path("a"))
    assert (error.errno, error.filename) == (number, "a")


def test_a_vacant_folder_is_checked_without_being_made(tmp_path):
    check_vacant(tmp_path / "new" / "folder", "no table")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "note").touch()
    (tmp_path / "link").symlink_to("nowhere")
    for place in ("note", "note/folder", "note/deep/folder", "link"):
        top = tmp_path / place.split("/")[0]
        with pytest.raises(EdgeseaError, match=f"^{top}: a file, where a folder is needed"):
            check_vacant(tmp_path / place, "no table")
    with pytest.raises(EdgeseaError, match="not empty and no table"):
        check_vacant(tmp_path, "no table", besides=["note"])
    check_vacant(tmp_path, "no table", besides=["note", "link"])
