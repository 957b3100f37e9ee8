"""Where the embeddings of a stream go."""

import errno
import os
import subprocess
import sys
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from conftest import REPOSITORY

from edgesea.embed.results import read_provenance
from edgesea.embed.sinks import LineSink, NpzSink, row_type
from edgesea.errors import EdgeseaError

SIZE = 3


def windows(count: int, first: int = 0) -> tuple[np.ndarray, np.ndarray]:
    stamps = 0.1 * np.arange(first, first + count)
    embedding = np.random.default_rng(first).standard_normal((count, SIZE)).astype(np.float32)
    return embedding, stamps


# --- lines


class Gone(StringIO):
    """A text file of a caller's making, whose reader has gone."""

    def write(self, text: str) -> int:
        raise BrokenPipeError


def test_a_reader_that_has_gone_is_told_of_whatever_the_file_is() -> None:
    with pytest.raises(BrokenPipeError):
        LineSink(Gone(), "json").write(*windows(1))


def test_a_pipe_that_was_closed_is_told_of_once() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    file = os.fdopen(writer, "w")
    with pytest.raises(BrokenPipeError):
        LineSink(file, "csv").write(*windows(5))
    file.close()  # without what was buffered


# --- a file at the end


def test_windows_are_in_the_file_in_the_end_and_on_the_disk_before(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.npz"
    sink = NpzSink(path, SIZE, {"model": "m"})
    parts = [windows(4), windows(0), windows(2, 4)]
    expected = [np.concatenate(column) for column in zip(*parts, strict=True)]
    for part in parts:
        sink.write(*part)
    rows = np.fromfile(sink.rows, row_type(SIZE))  # what a killed process leaves
    np.testing.assert_array_equal(rows["embedding"], expected[0])
    np.testing.assert_array_equal(rows["timestamp"], expected[1])
    assert not path.exists()
    sink.close()
    assert [entry.name for entry in path.parent.iterdir()] == ["a.npz"]
    with np.load(path) as file:
        assert file["embedding"].dtype == np.float32
        np.testing.assert_array_equal(file["embedding"], expected[0])
        np.testing.assert_array_equal(file["timestamps"], expected[1])
    assert read_provenance(path) == {"model": "m"}


def test_without_windows_there_is_no_file(tmp_path: Path) -> None:
    sink = NpzSink(tmp_path / "a.npz", SIZE, {})
    sink.write(*windows(0))
    sink.close()
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_is_not_replaced_unless_that_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    path.write_bytes(b"old")
    with pytest.raises(EdgeseaError, match=r"a\.npz: exists; choose another name, or overwrite"):
        NpzSink(path, SIZE, {})
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.npz"]
    sink = NpzSink(path, SIZE, {}, overwrite=True)
    sink.write(*windows(2))
    assert path.read_bytes() == b"old"
    sink.close()
    with np.load(path) as file:
        assert len(file["embedding"]) == 2


def test_a_stream_that_goes_on_keeps_its_rows(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    first = NpzSink(path, SIZE, {})
    first.write(*windows(3))
    for overwrite, message in ((False, "killed, or goes on"), (True, "another stream is writing it")):
        with pytest.raises(EdgeseaError, match=rf"a\.npz\.rows: .*{message}"):
            NpzSink(path, SIZE, {}, overwrite)
    first.close()
    with np.load(path) as file:
        np.testing.assert_array_equal(file["embedding"], windows(3)[0])
    NpzSink(path, SIZE, {}, overwrite=True).close()


def test_rows_that_are_there_are_named_with_how_they_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    first = NpzSink(path, SIZE, {})
    first.write(*windows(7))
    with first.rows.open("ab") as file:
        file.write(b"half a row")  # what a power cut may leave
    with pytest.raises(
        EdgeseaError, match=r"a\.npz\.rows: the windows of a stream that was killed, or goes on"
    ) as caught:
        NpzSink(path, SIZE, {})
    command = str(caught.value).partition("read them with ")[2].partition(" and delete it")[0]
    rows = eval(command, {"numpy": np})
    np.testing.assert_array_equal(rows["embedding"], windows(7)[0])
    first._file.close()  # as the system does when it kills a process
    NpzSink(path, SIZE, {}, overwrite=True).close()
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_came_into_being_meanwhile_is_not_replaced_and_the_rows_are_kept(tmp_path: Path, caplog) -> None:
    path = tmp_path / "a.npz"
    sink = NpzSink(path, SIZE, {})
    sink.write(*windows(3))
    path.write_bytes(b"another's")
    with pytest.raises(EdgeseaError, match=r"a\.npz: exists"):
        sink.close()
    assert path.read_bytes() == b"another's"
    assert (
        f"{path} is not written, but its 3 windows are kept in {sink.rows}; read them with numpy.fromfile"
        in caplog.text
    )
    assert len(np.fromfile(sink.rows, row_type(SIZE))) == 3


def test_what_cannot_be_written_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder.npz").mkdir()
    for path, message in [
        (tmp_path / "a.csv", r"a\.csv: out must end in \.npz"),
        (tmp_path / "file" / "a.npz", "file: a file, where a folder is needed"),
        (tmp_path / "folder.npz", r"folder\.npz: a folder, where a file is to be written"),
        (tmp_path / f"{251 * 'a'}.npz", "cannot be written: File name too long"),
        (Path("/proc/a.npz"), "cannot be written: "),
        (Path("/proc/new/a.npz"), "cannot be written: "),
    ]:
        with pytest.raises(EdgeseaError, match=message):
            NpzSink(path, SIZE, {})
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["file", "folder.npz"]


MANY = """
import resource, sys
import numpy as np
from pathlib import Path
from edgesea.embed.sinks import NpzSink

sink = NpzSink(Path(sys.argv[1]), 512, {})
embedding = np.ones((1000, 512), np.float32)
sink.write(embedding, np.zeros(1000))
data = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmData"))
resource.setrlimit(resource.RLIMIT_DATA, ((data + 50_000) << 10,) * 2)
for first in range(100):
    sink.write(embedding, np.arange(1000.0))
sink.close()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not limit the memory of a process like this")
def test_memory_does_not_grow_with_the_windows(tmp_path: Path) -> None:
    """200 MB of windows, and 50 MB more than for the first of them (numpy.savez copies 16 MB at a time)."""
    path = tmp_path / "a.npz"
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY / "src"), "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", MANY, str(path)], check=True, env=environment)
    with np.load(path) as file:
        assert file["embedding"].shape == (101_000, 512)


FULL = """
import resource, sys
import numpy as np
from pathlib import Path
from edgesea.embed.sinks import NpzSink

sink = NpzSink(Path(sys.argv[1]), 3, {})
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))  # no file may be larger
try:
    for first in range(0, 140, 7):
        sink.write(np.ones((7, 3), np.float32), np.arange(first, first + 7.0))
except OSError as error:
    print(error.filename, error.errno, sink.windows)
    sink.close()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows does not limit the size of files")
def test_of_a_disk_that_is_full_the_rows_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY / "src"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(path)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stdout.split() == [f"{path}.rows", str(errno.EFBIG), "49"]  # rows of 20 bytes, seven at a time
    assert f"{path} is not written, but its 49 windows are kept in {path}.rows" in done.stderr
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.npz.rows"]
    rows = np.fromfile(f"{path}.rows", row_type(3))
    np.testing.assert_array_equal(rows["timestamp"][:49], np.arange(49.0))
