import errno
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from conftest import REPOSITORY

from edgesea.artifact import (
    BLOCK,
    BLOCKS,
    Digests,
    atomic_path,
    check_file,
    check_vacant,
    claimed,
    file_content,
    file_state,
    locked,
    move_aside,
    read_json,
    walk,
    write_json,
)
from edgesea.errors import EdgeseaError


@pytest.mark.parametrize("name", ["a.txt", "x" * 255, "é" * 127, "🎤" * 63, "caf\udce9.txt"])
def test_a_file_of_any_name_appears_when_it_is_complete(tmp_path, name):
    path = tmp_path / "new" / "folder" / name
    with atomic_path(path) as temporary:
        temporary.write_text("complete")
        assert temporary.name.startswith(".")  # pandas and pyarrow pass over such names
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


def test_two_writers_of_one_file_do_not_meet(tmp_path):
    with atomic_path(tmp_path / "a") as first, atomic_path(tmp_path / "a") as second:
        first.write_text("first")
        second.write_text("second")
    assert (tmp_path / "a").read_text() == "first"  # closed last
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), errno.ENOSPC),
        (OSError(errno.ENOSPC, "No space left on device", "source.wav"), errno.ENOSPC),  # shutil names the source
        (OSError("a library's text"), errno.EIO),
    ],
)
def test_an_error_of_the_disk_names_the_file_that_was_to_be_written(tmp_path, error, code):
    with pytest.raises(OSError, match="part-0") as raised, atomic_path(tmp_path / "part-0"):
        raise error
    assert (raised.value.errno, raised.value.filename) == (code, str(tmp_path / "part-0"))


def test_json_is_read_back_without_nan(tmp_path):
    value = {"a": [1, 2.5, math.nan, -math.inf], "b": {"ü": None}, "c": Path("x/caf\udce9"), 3: (1, 2)}
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json") == {
        "a": [1, 2.5, None, None],
        "b": {"ü": None},
        "c": "x/caf\udce9",
        "3": [1, 2],
    }
    assert json.loads((tmp_path / "a.json").read_text("utf-8"))["b"] == {"ü": None}


def test_no_file_can_have_a_name_that_is_too_long(tmp_path):
    assert file_state(tmp_path / ("x" * 300)) is None


@pytest.mark.parametrize("content", [None, b"", b"{", b"\xff\xfe"])
def test_json_that_cannot_be_read_is_named(tmp_path, content):
    if content is not None:
        (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(EdgeseaError, match=r"a\.json"):
        read_json(tmp_path / "a.json")


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


def claim(folder: Path, plan: dict[str, Any], **options: Any) -> None:
    with claimed(folder, plan, "student", **options):
        assert (folder / ".lock").exists()


def test_a_folder_is_claimed_by_one_plan(tmp_path):
    folder, plan = tmp_path / "new" / "folder", {"lr": 0.1, "teacher": {"id": "a", "sha256": "0" * 40 + "1" * 40}}
    claim(folder, plan)
    claim(folder, {**plan, "versions": {"torch": "2"}, "edgesea": "9"})  # versions make no other artifact
    assert read_json(folder / "plan.json") == plan
    other = {"lr": 0.2, "teacher": {"id": "a", "sha256": "0" * 40 + "2" * 40}}
    with pytest.raises(EdgeseaError) as raised:
        claim(folder, other)
    for word in (folder, "student", "lr: 0.1 there, 0.2 here", f"{'0' * 28}...{'1' * 28} there"):
        assert str(word) in str(raised.value)
    assert [path.name for path in folder.iterdir()] == ["plan.json"]
    assert read_json(folder / "plan.json") == plan
    claim(folder, other, is_begun=lambda: False)
    assert read_json(folder / "plan.json") == other


def test_a_folder_with_other_things_is_not_claimed(tmp_path):
    (tmp_path / ".plan.json.0.tmp").touch()  # of a process that was killed
    check_vacant(tmp_path, "no table")
    (tmp_path / "photo.jpg").touch()
    check_vacant(tmp_path, "no table", besides=("photo.jpg",))
    with pytest.raises(EdgeseaError, match="not empty and no student"):
        claim(tmp_path, {})
    assert not (tmp_path / ".lock").exists()
    with pytest.raises(EdgeseaError, match=r"photo\.jpg: a file"):
        check_vacant(tmp_path / "photo.jpg" / "below", "no table")


def test_a_file_is_not_written_over_a_folder_or_below_a_file(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("nowhere")
    check_file(tmp_path / "new" / "a.json")
    check_file(Path("a.json"))
    wrong = {tmp_path: tmp_path, tmp_path / "file" / "a": tmp_path / "file", tmp_path / "link" / "a": tmp_path / "link"}
    for path, named in wrong.items():
        with pytest.raises(EdgeseaError, match=str(named)):
            check_file(path)


LOCK = "import sys; from edgesea.artifact import locked; from pathlib import Path\nwith locked(Path(sys.argv[1])): "


@contextmanager
def process(body: str, folder: Path, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """Another process that locks the folder and then executes `body`."""
    inherited = {**os.environ, "PYTHONPATH": str(REPOSITORY / "src"), **environment}
    with subprocess.Popen([sys.executable, "-c", LOCK + body, folder], env=inherited, stderr=-1, text=True) as other:
        try:
            yield other
        finally:
            other.kill()


def test_two_processes_do_not_write_into_one_folder(tmp_path):
    with locked(tmp_path):
        with process("pass", tmp_path) as other:
            assert other.wait(60) == 1
            error = other.stderr.read()
            assert all(word in error for word in (str(tmp_path), f"process {os.getpid()} on ", "--wait"))
        with process("pass", tmp_path, LOCAL_RANK="1") as other:  # processes that train together share it
            assert other.wait(60) == 0
    with ExitStack() as stack:
        with locked(tmp_path):
            waiting = stack.enter_context(process("print()", tmp_path, EDGESEA_WAIT="1"))
            time.sleep(1)
            assert waiting.poll() is None
        assert waiting.wait(60) == 0
    assert list(tmp_path.iterdir()) == []


def test_the_lock_of_a_killed_process_is_free_and_what_it_left_is_removed(tmp_path):
    (tmp_path / "sub").mkdir()
    other_temporary = tmp_path / "notes.tmp"
    other_temporary.touch()
    with process("import time; time.sleep(60)", tmp_path) as killed:
        while not (tmp_path / ".lock").exists() or not (tmp_path / ".lock").read_text():
            assert killed.poll() is None
            time.sleep(0.01)
        left = [tmp_path / f".a.{'0' * 32}.tmp", tmp_path / "sub" / f".b.{'a' * 32}.tmp"]
        for path in left:
            path.touch()
        with pytest.raises(EdgeseaError, match=str(killed.pid)), locked(tmp_path):
            pass
        assert all(path.exists() for path in left)
        killed.kill()
        killed.wait()
    with locked(tmp_path):
        assert not any(path.exists() for path in left)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes.tmp", "sub"]


def test_a_new_folder_is_locked_and_removed_if_nothing_was_written(tmp_path):
    with locked(tmp_path / "new"):
        assert (tmp_path / "new" / ".lock").exists()
    assert not (tmp_path / "new").exists()


def test_what_is_moved_aside_never_replaces_anything(tmp_path):
    (tmp_path / "table.old-1").touch()
    for number in (2, 3):
        (tmp_path / "table").mkdir()
        (tmp_path / "table" / "a").touch()
        assert move_aside(tmp_path / "table") == tmp_path / f"table.old-{number}"
    (tmp_path / "a.parquet").touch()
    assert move_aside(tmp_path / "a.parquet").name == "a.parquet.old-1"
    assert [path.name for path in tmp_path.rglob("*") if path.name in ("a", ".lock")] == ["a", "a"]
    with locked(tmp_path / "table"), pytest.raises(EdgeseaError, match=str(os.getpid())):
        move_aside(tmp_path / "table")


def test_contents_are_read_again_only_where_a_file_was_touched(tmp_path, monkeypatch):
    files = [tmp_path / name for name in ("a", "large", "gone")]
    files[0].write_bytes(b"content")
    files[1].write_bytes(bytes(BLOCK * BLOCKS * 3))
    for path in files[:2]:
        os.utime(path, (1e9, 1e9))
    first, read = Digests(tmp_path), []
    before = first.of(files)
    assert before[2] == ""
    first.save()
    monkeypatch.setattr("edgesea.artifact.file_content", lambda path: read.append(path.name) or file_content(path))
    assert Digests(tmp_path).of(files) == before
    assert read == []
    os.utime(files[0])
    with files[1].open("r+b") as file:  # its end, without a change of size
        file.seek(-1, os.SEEK_END)
        file.write(b"x")
    os.utime(files[1], (2e9, 2e9))
    again = Digests(tmp_path)
    after = again.of(files)
    assert (after[0] == before[0], after[1] == before[1], sorted(read)) == (True, False, ["a", "large"])
    assert again.changed == [str(files[1])]
