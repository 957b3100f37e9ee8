import errno
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY

from edgesea.artifact import (
    atomic_path,
    check_file,
    check_vacant,
    claim,
    file_state,
    locked,
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
    value = {"a": [1, 2.5, math.nan, -math.inf], "b": {"ü": None}, "c": Path("x/y"), 3: (1, 2)}
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json") == {"a": [1, 2.5, None, None], "b": {"ü": None}, "c": "x/y", "3": [1, 2]}
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


def test_a_folder_is_claimed_by_one_plan(tmp_path):
    folder, plan = tmp_path / "new" / "folder", {"lr": 0.1, "teacher": {"id": "a", "sha256": "0" * 40 + "1" * 40}}
    claim(folder, plan, "student")
    claim(folder, plan, "student")
    assert read_json(folder / "plan.json") == plan
    other = {"lr": 0.2, "teacher": {"id": "a", "sha256": "0" * 40 + "2" * 40}}
    with pytest.raises(EdgeseaError) as raised:
        claim(folder, other, "student")
    for word in (folder, "student", "lr: 0.1 there, 0.2 here", f"{'0' * 28}...{'1' * 28} there"):
        assert str(word) in str(raised.value)
    assert read_json(folder / "plan.json") == plan


def test_a_folder_with_other_things_is_not_claimed(tmp_path):
    (tmp_path / ".plan.json.0.tmp").touch()  # of a process that was killed
    check_vacant(tmp_path, "no table")
    (tmp_path / "photo.jpg").touch()
    check_vacant(tmp_path, "no table", besides=("photo.jpg",))
    with pytest.raises(EdgeseaError, match="not empty and no table"):
        claim(tmp_path, {}, "table")
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


def test_two_processes_do_not_write_into_one_folder(tmp_path):
    code = f"from edgesea.artifact import locked; from pathlib import Path\nwith locked(Path({str(tmp_path)!r})): pass"
    command = [sys.executable, "-c", code]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY / "src")}
    with locked(tmp_path):
        refused = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert (refused.returncode, str(tmp_path) in refused.stderr) == (1, True)
        rank = subprocess.run(command, env={**environment, "LOCAL_RANK": "1"}, capture_output=True, text=True)
        assert rank.returncode == 0, rank.stderr  # processes that train together share it
    assert subprocess.run(command, env=environment).returncode == 0
