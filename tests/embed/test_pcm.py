"""Streams give what whole files give."""

import io
import json
import os
import signal
import subprocess
import sys
import threading
from importlib.metadata import version
from pathlib import Path
from time import sleep

import numpy as np
import pytest
import soundfile
from conftest import REPOSITORY
from quick_model import BY_NAME, QUICK, moments, of_file

from edgesea.audio.framing import Framing
from edgesea.embed.pcm import embed_pcm, stream
from edgesea.embed.results import read_provenance
from edgesea.embed.signals import ONE_REQUEST
from edgesea.embed.sinks import row_type
from edgesea.errors import EdgeseaError
from edgesea.models.foreign import FunctionModel


class Dribble(io.RawIOBase):
    """A pipe that gives a few bytes at a time, not at the borders of frames."""

    def __init__(self, data: bytes, size: int) -> None:
        self._file, self._size = io.BytesIO(data), size

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        return self._file.read(self._size)


class Terminal(io.BytesIO):
    def isatty(self) -> bool:
        return True


def pcm(encoding: str, channels: int, seconds: float = 3.0) -> tuple[bytes, np.ndarray]:
    """Raw PCM at 16 kHz, and the mono signal that it is."""
    audio = np.random.default_rng(0).uniform(-1, 1, (round(16000 * seconds), channels))
    if encoding == "s16le":
        samples = (audio * 32767).astype("<i2")
        return samples.tobytes(), (samples / 32768).mean(1).astype(np.float32)
    return audio.astype("<f4").tobytes(), audio.mean(1).astype(np.float32)


@pytest.mark.parametrize("size", [1001, 7, 10**6])
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("encoding", ["s16le", "f32le"])
def test_raw_pcm_gives_what_a_file_gives(tmp_path, encoding, channels, size):
    data, mono = pcm(encoding, channels, 1.5)
    soundfile.write(tmp_path / "a.wav", mono, 16000, subtype="FLOAT")
    expected = of_file(QUICK, tmp_path / "a.wav")
    text, table = io.StringIO(), io.StringIO()
    report = embed_pcm(Dribble(data, size), QUICK, 16000, channels, encoding, out=text)
    assert report == {"windows": len(expected), "seconds": 1.5, "interrupted": False}
    rows = [json.loads(line) for line in text.getvalue().splitlines()]
    np.testing.assert_allclose([row["embedding"] for row in rows], expected, atol=1e-5)
    assert [row["timestamp"] for row in rows] == [round(0.1 * k, 6) for k in range(len(expected))]
    embed_pcm(io.BytesIO(data), QUICK, 16000, channels, encoding, out=table, lines="csv")
    header, *lines = table.getvalue().splitlines()
    assert header == "timestamp,e0,e1,e2"
    values = np.array([line.split(",") for line in lines], np.float32)
    np.testing.assert_allclose(values[:, 1:], expected, atol=1e-5)
    embed_pcm(io.BytesIO(data), QUICK, 16000, channels, encoding, out=tmp_path / "new" / "a.npz")
    with np.load(tmp_path / "new" / "a.npz") as file:
        assert sorted(file.files) == ["embedding", "provenance", "timestamps"]
        np.testing.assert_array_equal(file["embedding"], values[:, 1:])  # no digit is lost in text
        np.testing.assert_array_equal(file["timestamps"], 0.1 * np.arange(len(expected)))


def test_half_a_frame_at_the_end_is_left_out(caplog):
    data, _ = pcm("s16le", 2)
    text = io.StringIO()
    report = embed_pcm(io.BytesIO(data[:-1]), QUICK, 16000, 2, out=text)
    assert report["seconds"] == 3.0 - 1 / 16000
    assert "the last 3 bytes are no whole frame of 4" in caplog.text


def test_wrong_options_for_raw_pcm_are_named_before_anything_is_read(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "there.npz").touch()
    for options, message in [
        ({"encoding": "mp3"}, "unknown encoding 'mp3'; choose s16le, f32le"),
        ({"channels": 0}, "channels must be a whole number of at least 1, not 0"),
        ({"channels": 129}, "channels must be 1 to 128, not 129"),
        ({"channels": "2"}, "channels must be a whole number of at least 1, not '2'"),
        ({"lines": "xml"}, "unknown lines 'xml'; choose json, csv"),
        ({"out": tmp_path / "a.csv"}, r"a\.csv: out must end in \.npz"),
        ({"out": tmp_path / "file" / "a.npz"}, "file: a file, where a folder is needed"),
        ({"out": tmp_path / "there.npz"}, r"there\.npz: exists; choose another name, or overwrite"),
        ({"sample_rate": 3}, "sample_rate must be a whole number from 500 to 1000000 Hz, not 3"),
    ]:
        file = io.BytesIO(pcm("s16le", 1)[0])
        with pytest.raises(EdgeseaError, match=message):
            embed_pcm(file, QUICK, **{"sample_rate": 16000, **options})
        assert file.tell() == 0
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["file", "there.npz"]


def test_the_file_tells_what_it_was_made_of(tmp_path):
    data, _ = pcm("f32le", 2, 1.5)
    (tmp_path / "a.raw").write_bytes(data)
    for name in ("a.raw", None):
        file = io.BytesIO(data) if name is None else (tmp_path / name).open("rb")
        with file:
            embed_pcm(file, QUICK, 16000.0, np.int64(2), "f32le", 0.25, 0, out=tmp_path / "a.npz", overwrite=True)
        provenance = read_provenance(tmp_path / "a.npz")
        assert provenance.pop("edgesea") == version("edgesea")
        assert provenance == {
            "model": "quick",
            "digest": "",
            "hop": 0.25,
            "center": False,
            "source": str(tmp_path / name) if name else "raw PCM",
            "sample_rate": 16000,
            "channels": 2,
            "encoding": "f32le",
        }


def test_a_terminal_is_no_input():
    with pytest.raises(EdgeseaError, match="the input is a terminal"):
        embed_pcm(Terminal(), QUICK, 16000)


def test_input_without_samples_is_an_error(tmp_path):
    with pytest.raises(EdgeseaError, match="holds no samples"):
        embed_pcm(io.BytesIO(b""), QUICK, 16000, out=tmp_path / "a.npz")
    assert not (tmp_path / "a.npz").exists()


def test_what_came_before_an_error_is_kept(tmp_path):
    samples = np.zeros(40000, "<f4")
    samples[-1] = np.nan
    with pytest.raises(EdgeseaError, match=r"the first at 5\.000 s of the stream"):
        embed_pcm(io.BytesIO(samples.tobytes()), QUICK, 8000, encoding="f32le", out=tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz") as file:
        assert 30 < len(file["embedding"]) < 46


def test_ctrl_c_while_it_computes_leaves_the_windows_before(tmp_path):
    calls = 0

    def tired(windows: np.ndarray) -> np.ndarray:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise KeyboardInterrupt
        return moments(windows)

    data, _ = pcm("s16le", 1, 10.0)
    model = FunctionModel("tired", tired, 16000, embedding_size=3)
    report = embed_pcm(Dribble(data, 32000), model, 16000, out=tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz") as file:  # of 1, 2 and 3 s
        assert report == {"windows": 26, "seconds": 4.0, "interrupted": True}
        np.testing.assert_array_equal(file["timestamps"], 0.1 * np.arange(26))


# --- a process at the end of a pipe

LISTEN = f"""
import logging, sys
from importlib.metadata import version
from pathlib import Path
from edgesea.embed.pcm import embed_pcm, stream
from edgesea.embed.signals import ONE_REQUEST
from edgesea.embed.sinks import row_type
logging.basicConfig()
out = Path(sys.argv[1]) if sys.argv[1:] else None
report = embed_pcm(sys.stdin.buffer, {BY_NAME!r}, 8000, out=out)
print(sorted(report.items()), file=sys.stderr)
"""


def listen(*arguments: str) -> "subprocess.Popen[bytes]":
    path = os.pathsep.join(str(REPOSITORY / name) for name in ("src", "tests"))
    return subprocess.Popen(
        [sys.executable, "-c", LISTEN, *arguments],
        env={**os.environ, "PYTHONPATH": path},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def test_lines_come_while_the_recorder_goes_on_and_ctrl_c_ends_them():
    process = listen()
    try:
        assert process.stdin is not None
        process.stdin.write(np.zeros(8000 + 40, "<i2").tobytes())
        process.stdin.flush()
        first = [json.loads(process.stdout.readline()) for _ in range(6)]  # type: ignore[union-attr]
        assert [line["timestamp"] for line in first] == [0.0, 0.1, 0.2, 0.3, 0.4, 0.5]
        sleep(0.2)  # until it waits for more
        process.send_signal(signal.SIGINT)
        rest, messages = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0
    assert [json.loads(line)["timestamp"] for line in rest.splitlines()] == [0.6]  # padded at the end
    assert messages.decode().strip() == "[('interrupted', True), ('seconds', 1.005), ('windows', 7)]"


# --- the command, and signals

COMMAND = [sys.executable, "-m", "edgesea.cli", "stream", "--model", BY_NAME, "--sample_rate", "8000"]
SLOW = """
import time
from importlib.metadata import version
from pathlib import Path
from quick_model import moments

def slow(windows):
    if len(windows) > 1:
        Path(__file__).with_name("begun").touch()
        time.sleep(PAUSE)
    return moments(windows)
"""  # the call with one window is that of loading it


def command(*options: str, folder: Path | None = None, wrap: tuple[str, ...] = ()) -> "subprocess.Popen[bytes]":
    """The command as the leader of a session of its own, with modules from another folder."""
    path = os.pathsep.join([*(str(REPOSITORY / name) for name in ("src", "tests")), *([str(folder)] if folder else [])])
    return subprocess.Popen(
        [*wrap, *COMMAND, *options],
        env={**os.environ, "PYTHONPATH": path},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def hear(process: "subprocess.Popen[bytes]", seconds: float) -> None:
    assert process.stdin is not None
    process.stdin.write(np.zeros(round(8000 * seconds), "<i2").tobytes())
    process.stdin.flush()


def wait_for_rows(path: Path, count: int) -> None:
    """Until so many windows are out of the process; a row of the quick model has 20 bytes."""
    rows = path.with_name(f"{path.name}.rows")
    for _ in range(3000):
        if rows.exists() and rows.stat().st_size >= 20 * count:
            return
        sleep(0.01)
    raise AssertionError(f"{rows}: no {count} windows after 30 s")


def windows_in(path: Path) -> int:
    with np.load(path) as file:
        np.testing.assert_array_equal(file["timestamps"], 0.1 * np.arange(len(file["embedding"])))
        return len(file["timestamps"])


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_end_it_and_the_file_holds_all_that_was_heard(tmp_path, sent):
    path = tmp_path / "a.npz"
    process = command("--out", str(path))
    try:
        hear(process, 30.0)
        wait_for_rows(path, 295)  # the others need what comes after them
        process.send_signal(sent)
        output, messages = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0, messages
    expected = Framing(1.0, 0.1, True).at(8000).count(240000)
    assert json.loads(output) == {"windows": expected, "seconds": 30.0, "interrupted": True}
    assert windows_in(path) == expected
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.npz"]


def test_a_signal_before_anything_was_heard_leaves_nothing(tmp_path):
    process = command("--out", str(tmp_path / "a.npz"))
    try:
        wait_for_rows(tmp_path / "a.npz", 0)
        sleep(0.3)  # until it waits
        process.terminate()
        output, messages = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0, messages
    assert json.loads(output) == {"windows": 0, "seconds": 0.0, "interrupted": True}
    assert list(tmp_path.iterdir()) == []


def compute(folder: Path, pause: float) -> "subprocess.Popen[bytes]":
    """The command as it computes, for `pause` seconds at a time."""
    (folder / "slow_model.py").write_text(SLOW.replace("PAUSE", str(pause)))
    process = command("--model", "callable:slow_model:slow@8000", "--out", str(folder / "out" / "a.npz"), folder=folder)
    hear(process, 3.0)  # 48 kB, which are read at once
    while not (folder / "begun").exists():
        assert process.poll() is None, process.communicate()[1]
        sleep(0.01)
    return process


def test_a_signal_while_it_computes_lets_it_finish_what_it_has_read(tmp_path):
    process = compute(tmp_path, 0.5)
    try:
        process.terminate()
        sleep(0.2)
        process.terminate()  # still the same request
        output, messages = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0, messages
    expected = Framing(1.0, 0.1, True).at(8000).count(24000)
    assert json.loads(output) == {"windows": expected, "seconds": 3.0, "interrupted": True}
    assert windows_in(tmp_path / "out" / "a.npz") == expected


def test_a_second_signal_kills_it_and_the_rows_are_left(tmp_path):
    process = compute(tmp_path, 30.0)
    try:
        process.terminate()
        sleep(ONE_REQUEST + 0.5)
        assert process.poll() is None
        process.terminate()
        process.communicate(timeout=10)
    finally:
        process.kill()
    assert process.returncode == -signal.SIGTERM
    assert [entry.name for entry in (tmp_path / "out").iterdir()] == ["a.npz.rows"]


def test_timeout_which_sends_its_signal_twice_ends_it_in_good_order(tmp_path):
    path = tmp_path / "a.npz"
    process = command("--out", str(path), wrap=("timeout", "100"))
    try:
        hear(process, 2.0)
        wait_for_rows(path, 15)
        process.terminate()  # as if its time were over
        process.communicate(timeout=60)
    finally:
        process.kill()
    assert windows_in(path) == Framing(1.0, 0.1, True).at(8000).count(16000)
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.npz"]


def test_nohup_keeps_it_listening(tmp_path):
    path = tmp_path / "a.npz"
    process = command("--out", str(path), wrap=("nohup",))
    try:
        hear(process, 2.0)
        wait_for_rows(path, 15)
        process.send_signal(signal.SIGHUP)
        hear(process, 2.0)
        wait_for_rows(path, 35)
        output, messages = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0, messages
    assert json.loads(output)["interrupted"] is False
    assert windows_in(path) == Framing(1.0, 0.1, True).at(8000).count(32000)


def test_a_process_that_is_killed_leaves_what_it_has_heard(tmp_path):
    path = tmp_path / "a.npz"
    process = command("--out", str(path))
    try:
        hear(process, 2.0)
        wait_for_rows(path, 16)
    finally:
        process.kill()
        process.wait()
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.npz.rows"]
    rows = np.fromfile(tmp_path / "a.npz.rows", row_type(3))
    np.testing.assert_array_equal(rows["timestamp"], 0.1 * np.arange(16))


def test_only_the_command_installs_handlers_and_gives_them_back(monkeypatch, tmp_path):
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    seen = {}
    nothing = Path("/dev/null").open("rb")  # noqa: SIM115

    class Input(io.BytesIO):
        name = "<stdin>"

        def fileno(self) -> int:
            return nothing.fileno()  # always ready to be read

        def read1(self, size: int = -1) -> bytes:
            seen.update({number: signal.getsignal(number) for number in before})
            return super().read1(size)

    data, _ = pcm("s16le", 1)
    embed_pcm(Input(data), QUICK, 16000, out=io.StringIO())
    assert seen == before
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(Input(data)))
    stream(BY_NAME, sample_rate=16000, out=tmp_path / "a.npz")
    assert all(seen[number] != before[number] for number in before)
    assert {number: signal.getsignal(number) for number in before} == before
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(Input(data)))
    thread = threading.Thread(target=stream, args=(BY_NAME,), kwargs={"sample_rate": 16000, "out": tmp_path / "b.npz"})
    thread.start()  # which cannot have handlers
    thread.join()
    assert seen == before
    assert (tmp_path / "b.npz").exists()
    nothing.close()


@pytest.mark.parametrize("kind", ["WAV", "AIFF", "FLAC", "OGG", "AU", "RF64"])
def test_a_file_with_a_header_is_not_taken_for_raw_pcm(kind):
    file = io.BytesIO()
    soundfile.write(file, np.zeros(16000), 16000, format=kind)
    file.seek(0)
    with pytest.raises(EdgeseaError, match=r"no raw PCM, but a file with a header .*edgesea embed FILE"):
        embed_pcm(file, QUICK, 16000, out=io.StringIO())


def test_closed_outputs_are_no_trap(tmp_path):
    (tmp_path / "a.raw").write_bytes(pcm("s16le", 1)[0])
    soundfile.write(tmp_path / "a.wav", np.full(16000, 0.1), 16000)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(REPOSITORY / "src"), str(REPOSITORY / "tests")])}
    command = f"{sys.executable} -m edgesea.cli"

    def run(words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            f"{command} {words}", shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True
        )

    done = run(f"stream {BY_NAME} --sample_rate 16000 < a.raw >&-")
    assert done.stderr == (
        "edgesea: error: there is no standard output for the lines; name a file, as --out embeddings.npz\n"
    )
    assert run(f"embed a.wav {BY_NAME} 2>&-").returncode == 0
    assert (tmp_path / "a.npz").exists()


def test_a_process_without_standard_input_says_so(monkeypatch):
    monkeypatch.setattr("sys.stdin", None)  # as Python has it after <&-
    with pytest.raises(EdgeseaError, match="there is no standard input"):
        stream(BY_NAME, sample_rate=16000)


def test_a_closed_pipe_ends_it_without_a_word():
    process = listen()
    try:
        assert process.stdin is not None
        assert process.stdout is not None
        data = np.zeros(80000, "<i2").tobytes()
        process.stdin.write(data)
        process.stdin.flush()
        process.stdout.readline()
        process.stdout.close()
        with pytest.raises(BrokenPipeError):  # it goes, and reads no more
            process.stdin.writelines([data] * 1000)
        process.stdin = None
        messages = process.stderr.read().decode()  # type: ignore[union-attr]
        assert process.wait(60) == 0
    finally:
        process.kill()
    assert messages.startswith("[('interrupted', True)")
    assert len(messages.splitlines()) == 1
