"""`Stream` gives what whole files give, and the command ``stream`` prints it as it comes."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import soundfile
import soxr
from conftest import REPOSITORY, cut_windows, load_audio, make_student, peak_memory
from hypothesis import given, settings
from hypothesis import strategies as st
from quick_model import BY_NAME, QUICK, moments, of_file

from edgesea import Stream, get_embedding, load_student
from edgesea.audio.framing import Framing
from edgesea.errors import EdgeseaError
from edgesea.models.foreign import FunctionModel


def feed_all(stream: Stream, chunks) -> tuple[np.ndarray, np.ndarray]:
    parts = []
    for chunk in chunks:
        memory = np.array(chunk)
        parts.append(stream.feed(memory))
        memory[...] = 1  # it may be used for the next chunk
    parts.append(stream.finish())
    embedding, timestamps = (np.concatenate(column) for column in zip(*parts, strict=True))
    return embedding, timestamps


@pytest.mark.parametrize("engine", ["onnx", "torch", "openvino"])
@pytest.mark.parametrize("rate", [8000, 22050, 48000])
def test_chunks_of_any_size_give_what_the_file_gives(shared_data, engine, tmp_path, rate):
    student = load_student(shared_data / "edgel3" / "edgel3_sea_ust_audio_emb_64.h5.gz", "cpu", engine)
    clip = sorted((shared_data / "esc10" / "audio").iterdir())[3]
    audio = load_audio(clip, rate)[: int(1.6 * rate)]
    soundfile.write(tmp_path / "clip.wav", audio, rate, subtype="FLOAT")
    expected = of_file(student, tmp_path / "clip.wav")
    for size in (7, 160, 4800, 48000):
        chunks = np.split(audio, range(size, len(audio), size))
        embedding, timestamps = feed_all(Stream(student, sample_rate=rate), chunks)
        assert (embedding.dtype, timestamps.dtype) == (np.float32, np.float64)
        # torch rounds otherwise for one window
        np.testing.assert_allclose(embedding, expected, rtol=0, atol=1e-5 * max(1, np.abs(expected).max()))
        np.testing.assert_array_equal(timestamps, 0.1 * np.arange(12))


def test_a_student_for_microcontrollers_gives_the_same_bits_and_computes_each_frame_once(tmp_path, monkeypatch):
    """The first window has 97 frames, each further one ten more."""
    student = load_student(make_student(tmp_path / "student", name="edge-3"), "cpu", "onnx")
    audio = np.random.default_rng(0).uniform(-0.5, 0.5, 4 * 16000).astype(np.float32)
    transformed, rfft = [], np.fft.rfft
    monkeypatch.setattr(np.fft, "rfft", lambda frames: transformed.append(len(frames)) or rfft(frames))
    expected, _ = get_embedding(audio, 16000, student)
    for size in (100, 1600, 3333):
        transformed.clear()
        stream = Stream(student)
        found, _ = feed_all(stream, np.split(audio, range(size, len(audio), size)))
        np.testing.assert_array_equal(found, expected)
        assert sum(transformed) == 97 + 10 * (len(expected) - 1)


@settings(derandomize=True, deadline=None, max_examples=40)
@given(st.data(), st.sampled_from([0.05, 0.1, 0.3333, 1.0, 1.5]), st.booleans(), st.sampled_from([1, 3, 64]))
def test_any_chunks_of_any_signal_give_the_windows_of_the_whole(data, hop, center, batch_size):
    rate = data.draw(st.sampled_from([8000, 11025, 16000, 22050, 44100, 48000]))
    length, channels = data.draw(st.integers(1, 3 * rate)), data.draw(st.integers(1, 3))
    kind, full = data.draw(st.sampled_from([("float32", 1), ("float64", 1), ("int16", 32768)]))
    audio = (np.random.default_rng(length).uniform(-1, 1, (length, channels)) * (full - (full > 1))).astype(kind)
    whole = (audio / np.float32(full)).astype(np.float32).mean(1, dtype=np.float32)
    cuts = data.draw(st.lists(st.integers(0, length), max_size=20))
    single = data.draw(st.integers(0, length))
    cuts += range(single, min(single + 300, length))  # and a run of single samples
    chunks = np.split(audio, sorted(cuts))
    embedding, timestamps = feed_all(Stream(QUICK, hop, center, rate, batch_size), chunks)
    windows = cut_windows(Framing(1.0, hop, center).at(8000), soxr.resample(whole, rate, 8000))
    np.testing.assert_allclose(embedding, moments(windows), atol=1e-6)
    np.testing.assert_array_equal(timestamps, hop * np.arange(len(windows)))


def test_a_chunk_of_many_windows_is_embedded_in_batches():
    sizes = []
    counting = FunctionModel("counting", lambda windows: sizes.append(len(windows)) or moments(windows), 8000, 1.0, 3)
    embedding, _ = feed_all(Stream(counting, batch_size=16), [np.ones(8000 * 60, np.float32)])
    assert (len(embedding), max(sizes)) == (596, 16)
    assert len(sizes) <= 596 / 16 + 8


def test_an_ended_stream_begins_anew_after_reset():
    for chunks in ([], [[]], [np.zeros((0, 16), np.float32)]):  # without samples there are no windows
        assert [part.shape for part in feed_all(Stream(QUICK), chunks)] == [(0, 3), (0,)]
    audio = np.random.default_rng(0).uniform(-1, 1, (30000, 2)).astype(np.float32)
    with Stream(QUICK, sample_rate=22050) as stream:
        first = feed_all(stream, np.split(audio, 30))
        for call in (lambda: stream.feed(audio), stream.finish):
            with pytest.raises(EdgeseaError, match="ended"):
                call()
        stream.reset()
        stream.feed(audio[:9999, 0])
        stream.reset()
        np.testing.assert_equal(feed_all(stream, np.split(audio, 30)), first)
        stream.reset()
    with pytest.raises(EdgeseaError, match="ended"):
        stream.feed(audio)


@pytest.mark.parametrize(
    ("chunk", "words"),
    [
        (np.zeros((2, 4800), np.float32), "(2, 4800)"),
        (np.zeros((2, 3, 4), np.float32), "(2, 3, 4)"),
        (np.zeros(10, np.uint16), "uint16"),
        ([1, 2, 3], "int64"),
        ([[0.5, 0.5], [0.5]], "list"),
        (np.ma.masked_array([0.1, 0.2], [False, True]), "masks"),
        (np.array([0.0, np.nan]), "NaN or Inf samples, the first at 1.500 s"),
        (np.zeros((10, 3), np.float32), "3 channels"),
    ],
)
def test_a_bad_chunk_is_refused_and_another_one_may_follow(chunk, words):
    audio = np.random.default_rng(0).uniform(-1, 1, 32000).astype(np.float32)
    stream = Stream(QUICK, sample_rate=16000)
    parts = [stream.feed(audio[:23999])]
    with pytest.raises(EdgeseaError) as error:
        stream.feed(chunk)
    assert words in str(error.value)
    parts += [stream.feed(audio[23999:]), stream.finish()]
    expected = feed_all(Stream(QUICK, sample_rate=16000), [audio])[0]
    np.testing.assert_allclose(np.concatenate([part[0] for part in parts]), expected, atol=1e-7)


def test_bad_options_are_named():
    for options in ({"hop_size": 1e-5}, {"sample_rate": 44.1}, {"sample_rate": "8000"}, {"batch_size": 0}):
        with pytest.raises(EdgeseaError, match=str(*options.values())):
            Stream(QUICK, **options)


def test_a_stream_whose_model_fails_has_ended():
    stream = Stream(FunctionModel("broken", lambda windows: windows[:, :2] * np.nan, 8000))
    for call, words in ((lambda: stream.feed(np.zeros(8000)), r"broken gave NaN or Inf"), (stream.finish, "ended")):
        with pytest.raises(EdgeseaError, match=words):
            call()


def test_memory_does_not_grow_with_the_stream():
    """Ten minutes would take 106 MB; what is measured is the buffers of Python and numpy."""
    chunk = np.random.default_rng(0).integers(-3000, 3000, 44100, np.int16)
    stream = Stream(QUICK, 1.0, True, 44100)
    count, peak = peak_memory(lambda: sum(len(stream.feed(chunk)[0]) for _ in range(600)))
    assert count + len(stream.finish()[0]) == 601
    assert peak < 2e6


@contextmanager
def command(*options: str) -> "Iterator[subprocess.Popen[bytes]]":
    process = subprocess.Popen(
        [sys.executable, "-m", "edgesea", "stream", f"--model={BY_NAME}", "--sample_rate=8000", *options],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(str(REPOSITORY / name) for name in ("src", "tests"))},
        **dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE),
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize(("encoding", "channels"), [("s16le", 2), ("f32le", 1)])
def test_raw_pcm_gives_what_a_file_gives(tmp_path, encoding, channels):
    audio = np.random.default_rng(0).uniform(-1, 1, (12000, channels)).astype("<f4")
    samples, subtype = ((audio * 32767).astype("<i2"), "PCM_16") if encoding == "s16le" else (audio, "FLOAT")
    soundfile.write(tmp_path / "a.wav", samples, 8000, subtype)
    expected = of_file(QUICK, tmp_path / "a.wav")
    options = f"--encoding={encoding}", f"--channels={channels}"
    with command(*options) as process:
        text, messages = process.communicate(samples.tobytes() + b"x")  # half a sample at the end is left out
    rows = [json.loads(line) for line in text.splitlines()]
    assert (process.returncode, messages) == (0, b"")
    assert [row["timestamp"] for row in rows] == [round(0.1 * k, 6) for k in range(len(expected))]
    embedding = np.array([row["embedding"] for row in rows], np.float32)
    np.testing.assert_allclose(embedding, expected, atol=1e-5)
    with command(*options, "--lines=csv") as process:
        header, *lines = process.communicate(samples.tobytes())[0].decode().splitlines()
    assert header == "timestamp,e0,e1,e2"
    np.testing.assert_array_equal(np.array([line.split(",") for line in lines], np.float32)[:, 1:], embedding)


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_lines_come_while_it_listens_and_a_signal_ends_them(sent):
    with command() as process:
        process.stdin.write(np.zeros(8000 + 40, "<i2").tobytes())
        process.stdin.flush()
        first = [json.loads(process.stdout.readline())["timestamp"] for _ in range(6)]
        assert first == [0.0, 0.1, 0.2, 0.3, 0.4, 0.5]
        process.send_signal(sent)
        process.send_signal(sent)  # as timeout(1) does
        process.wait(60)  # though its input is still open
        rest, messages = process.communicate()
    assert (process.returncode, messages) == (0, b"")
    assert [json.loads(line)["timestamp"] for line in rest.splitlines()] == [0.6]  # padded at the end


def test_a_reader_that_goes_ends_it_without_a_word():
    with command() as process:
        data = np.zeros(80000, "<i2").tobytes()
        process.stdin.write(data)
        process.stdin.flush()
        process.stdout.readline()
        process.stdout.close()
        with pytest.raises(BrokenPipeError):  # it goes, and reads no more
            process.stdin.writelines([data] * 1000)
        process.stdin = None
        assert process.stderr.read() == b""
        assert process.wait(60) == 0


@pytest.mark.parametrize(
    ("options", "data", "words"),
    [
        ([], b"", ["no samples"]),
        ([], b"RIFF" + bytes(100), ["RIFF", "edgesea embed"]),
        (["--encoding=f32le"], np.array([0, np.nan], "<f4").tobytes(), ["NaN"]),
        (["--hop=0"], b"", ["hop", "0"]),
        (["--channels=0"], b"", ["channels", "0"]),
    ],
)
def test_bad_input(options, data, words):
    with command(*options) as process:
        lines, messages = process.communicate(data)
    assert (process.returncode, lines) == (1, b"")
    assert b"Traceback" not in messages
    assert [word for word in words if word not in messages.decode()] == []


def test_closed_streams_are_errors(refuses, monkeypatch):
    monkeypatch.setattr("sys.stdin", None)  # as Python has it after <&-
    refuses("stream", f"--model={BY_NAME}", "--sample_rate=8000", words=["pipe"])
