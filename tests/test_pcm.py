"""Streams give what whole files give."""

import io
import json
import os
import signal
import subprocess
import sys
from time import sleep

import numpy as np
import pytest
import soundfile
from conftest import REPOSITORY
from quick_model import BY_NAME, QUICK, moments, of_file

from edgesea.audio.windows import Framing
from edgesea.errors import EdgeseaError
from edgesea.models.function import FunctionModel
from edgesea.pcm import embed_pcm


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
        assert sorted(file.files) == ["embedding", "timestamps"]
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
    for options, message in [
        ({"encoding": "mp3"}, "unknown encoding 'mp3'; choose s16le, f32le"),
        ({"channels": 0}, "channels must be 1 to 128, not 0"),
        ({"lines": "xml"}, "unknown lines 'xml'; choose json, csv"),
        ({"out": tmp_path / "a.csv"}, r"a\.csv: out must end in \.npz"),
        ({"out": tmp_path / "file" / "a.npz"}, "file: a file, where a folder is needed"),
        ({"sample_rate": 3}, "sample_rate must be from 500 to 1000000 Hz, not 3"),
    ]:
        file = io.BytesIO(pcm("s16le", 1)[0])
        with pytest.raises(EdgeseaError, match=message):
            embed_pcm(file, QUICK, **{"sample_rate": 16000, **options})
        assert file.tell() == 0


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
from pathlib import Path
from edgesea.pcm import embed_pcm
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


def test_ctrl_c_leaves_the_table_of_what_was_heard(tmp_path):
    process = listen(str(tmp_path / "a.npz"))
    try:
        assert process.stdin is not None
        for _ in range(3):  # more than a pipe holds, so it has read some when the last is written
            process.stdin.write(np.zeros(80000, "<i2").tobytes())
            process.stdin.flush()
        sleep(1.0)
        process.send_signal(signal.SIGINT)
        _, messages = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0, messages
    with np.load(tmp_path / "a.npz") as file:
        assert len(file["embedding"]) == Framing(1.0, 0.1, True).at(8000).count(240000)


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
