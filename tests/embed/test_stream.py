"""Streams give what whole files give."""

import tracemalloc

import numpy as np
import pytest
import soundfile
import soxr
import torch
from conftest import write_noise
from hypothesis import given, settings
from hypothesis import strategies as st
from quick_model import BY_NAME, QUICK, moments, of_file

from edgesea.audio.framing import Framing
from edgesea.audio.io import load_audio
from edgesea.embed.memory import get_embedding
from edgesea.embed.stream import Stream, embed_chunks
from edgesea.errors import EdgeseaError
from edgesea.models import load_model, load_teacher
from edgesea.models.foreign import FunctionModel

CHUNKS = [1, 7, 160, 4800, 48000]
RATES = [8000, 16000, 22050, 44100, 48000]


def split(audio: np.ndarray, size: int) -> list[np.ndarray]:
    return [audio[first : first + size] for first in range(0, len(audio), size)]


def feed_all(stream: Stream, chunks) -> tuple[np.ndarray, np.ndarray]:
    parts = [stream.feed(chunk) for chunk in chunks] + [stream.finish()]
    embedding, timestamps = (np.concatenate(column) for column in zip(*parts, strict=True))
    return embedding, timestamps


def assert_same(found: np.ndarray, expected: np.ndarray) -> None:
    """To 1e-5, of the largest value where that is above 1: torch's network is rounded otherwise for one window."""
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * max(1, np.abs(expected).max()))


@pytest.fixture(scope="session", params=["onnx", "torch"])
def student(request, shared_data):
    path = shared_data / "edgel3" / "edgel3_sea_ust_audio_emb_64.h5.gz"
    return load_model(str(path), device="cpu", backend=request.param)


# --- the numbers of the whole file


@pytest.mark.parametrize("rate", RATES)
def test_chunks_of_any_size_give_what_the_file_gives(shared_data, student, tmp_path, rate):
    clip = sorted((shared_data / "esc10" / "audio").iterdir())[3]
    audio = load_audio(clip, rate)[: int(1.6 * rate)]
    soundfile.write(tmp_path / "clip.wav", audio, rate, subtype="FLOAT")
    expected = of_file(student, tmp_path / "clip.wav")
    assert len(expected) == 12
    for size in CHUNKS:
        embedding, timestamps = feed_all(Stream(student, sample_rate=rate), split(audio, size))
        assert (embedding.dtype, timestamps.dtype) == (np.float32, np.float64)
        assert_same(embedding, expected)
        np.testing.assert_array_equal(timestamps, 0.1 * np.arange(12))


def test_a_stream_gives_what_edgel3_gives(shared_data, student):
    with np.load(shared_data / "edgel3" / "chirp_8k_reference.npz") as reference:
        embedding, timestamps = feed_all(Stream(student, 0.1), split(reference["audio"], 250))
        np.testing.assert_allclose(embedding, reference["embedding"], rtol=1e-4, atol=1e-3)
        np.testing.assert_array_equal(timestamps, reference["timestamps"])


@pytest.mark.parametrize("center", [True, False])
@pytest.mark.parametrize("hop", [0.03, 0.25, 1.7])
def test_teachers_hops_and_centring(tmp_path, hop, center):
    teacher = load_teacher("spectral")
    path = write_noise(tmp_path / "a.wav", 4.0, rate=44100)
    chunks = split(soundfile.read(path, dtype="float32")[0], 3000)
    embedding, timestamps = feed_all(Stream(teacher, hop, center, 44100), chunks)
    expected = of_file(teacher, path, hop, center)
    assert_same(embedding, expected)
    np.testing.assert_array_equal(timestamps, hop * np.arange(len(expected)))


def test_a_big_teacher_streams_too(shared_data, tmp_path):
    teacher = load_teacher("efficientat/mn04", shared_data / "efficientat" / "mn04_as_mAP_432.pt")
    path = write_noise(tmp_path / "a.wav", 2.0, rate=48000)
    chunks = split(soundfile.read(path, dtype="float32")[0], 4800)
    embedding, _ = feed_all(Stream(teacher, 0.5, True, 48000), chunks)
    assert_same(embedding, of_file(teacher, path, 0.5))


@pytest.mark.parametrize("kind", ["int8", "uint8", "int16", "int32", "float64", "float16"])
def test_samples_of_any_type_give_what_get_embedding_gives(kind):
    rng = np.random.default_rng(0)
    shape = (30000, 2)
    if kind.startswith("float"):
        audio = rng.uniform(-1, 1, shape).astype(kind)
    else:
        limits = np.iinfo(kind)
        audio = rng.integers(limits.min, limits.max, shape, kind, endpoint=True)
    expected, stamps = get_embedding(audio, 22050, QUICK)
    embedding, timestamps = feed_all(Stream(QUICK, sample_rate=22050), split(np.asfortranarray(audio), 999))
    np.testing.assert_allclose(embedding, expected, atol=1e-6)
    np.testing.assert_array_equal(timestamps, stamps)


@st.composite
def signals(draw):
    """A signal of any kind and length, in any chunks, with the mono float32 signal that it is."""
    rate = draw(st.sampled_from([8000, 11025, 16000, 22050, 44100, 48000]))
    length, channels = draw(st.integers(1, 3 * rate)), draw(st.integers(1, 3))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    audio = rng.uniform(-1, 1, (length, channels))
    kind = draw(st.sampled_from(["float32", "float64", "int16"]))
    audio = (audio * 32767).astype(np.int16) if kind == "int16" else audio.astype(kind)
    whole = (audio / np.float32(32768) if kind == "int16" else audio).astype(np.float32).mean(1, dtype=np.float32)
    if channels == 1 and draw(st.booleans()):
        audio = audio[:, 0]
    cuts = draw(st.lists(st.integers(0, length), max_size=20))
    tiny = draw(st.integers(0, length))  # and a run of single samples
    cuts += [min(tiny + k, length) for k in range(draw(st.integers(0, 300)))]
    return rate, whole, np.split(audio, sorted(cuts))


@settings(derandomize=True, deadline=None, max_examples=60)
@given(signals(), st.sampled_from([0.05, 0.1, 0.3333, 1.0, 1.5]), st.booleans(), st.sampled_from([1, 3, 64]))
def test_any_chunks_of_any_signal_give_the_windows_of_the_whole(case, hop, center, batch_size):
    rate, whole, chunks = case
    stream = Stream(QUICK, hop, center, rate, batch_size)
    embedding, timestamps = feed_all(stream, chunks)
    windows = Framing(1.0, hop, center).at(8000).cut(soxr.resample(whole, rate, 8000))
    np.testing.assert_allclose(embedding, moments(windows), atol=1e-6)
    np.testing.assert_array_equal(timestamps, hop * np.arange(len(windows)))


def test_a_window_is_there_with_its_last_sample():
    audio = np.random.default_rng(0).uniform(-1, 1, 20000).astype(np.float32)
    for center, first in ((True, 4000), (False, 8000)):
        stream = Stream(QUICK, 0.1, center)
        assert len(stream.feed(audio[: first - 1])[0]) == 0
        assert stream.feed(audio[first - 1 : first])[1].tolist() == [0.0]
        assert len(stream.feed(audio[first : first + 799])[0]) == 0
        assert stream.feed(audio[first + 799 : first + 800])[1].tolist() == [0.1]


@pytest.mark.parametrize(
    ("rate", "target", "delay"),
    [(16000, 8000, 0.116), (44100, 8000, 0.080), (48000, 8000, 0.158), (44100, 48000, 0.021)],
)
def test_the_resampler_delays_no_more_than_is_documented(rate, target, delay):
    model = FunctionModel("quick", moments, target)
    stream = Stream(model, 0.01, False, rate)
    noise = np.random.default_rng(0).uniform(-1, 1, 3 * rate).astype(np.float32)
    late = []
    for count, chunk in enumerate(split(noise, rate // 1000), 1):
        for stamp in stream.feed(chunk)[1]:
            late.append(count * (rate // 1000) / rate - (stamp + 1.0))
    assert len(late) > 150
    assert 0 <= max(late) <= delay + 0.002


def test_a_chunk_of_many_windows_is_embedded_in_batches():
    sizes = []

    def counting(windows: np.ndarray) -> np.ndarray:
        sizes.append(len(windows))
        return moments(windows)

    audio = np.random.default_rng(0).uniform(-1, 1, 8000 * 60).astype(np.float32)
    stream = Stream(FunctionModel("counting", counting, 8000, embedding_size=3), batch_size=16)
    embedding, _ = feed_all(stream, [audio])
    assert len(embedding) == Framing(1.0, 0.1, True).at(8000).count(len(audio))
    assert max(sizes) == 16
    assert len(sizes) <= len(embedding) / 16 + 8


# --- the life of a stream


def test_memory_may_be_used_again_for_the_next_chunk():
    audio = np.random.default_rng(0).uniform(-1, 1, 20000).astype(np.float32)
    memory = np.empty(400, np.float32)
    stream = Stream(QUICK)
    parts = []
    for chunk in split(audio, 400):
        memory[:] = chunk
        parts.append(stream.feed(memory)[0])
        memory[:] = 7.0
    parts.append(stream.finish()[0])
    np.testing.assert_array_equal(np.concatenate(parts), feed_all(Stream(QUICK), [audio])[0])


def test_a_stream_without_samples_gives_nothing():
    for chunks in ([], [[]], [np.zeros((0, 2), np.float32)]):
        embedding, timestamps = feed_all(Stream(QUICK), chunks)
        assert (embedding.shape, timestamps.shape) == ((0, 3), (0,))


def test_an_ended_stream_begins_anew_after_reset():
    audio = np.random.default_rng(0).uniform(-1, 1, (30000, 2)).astype(np.float32)
    stream = Stream(QUICK, sample_rate=22050)
    first = feed_all(stream, split(audio, 1000))
    for call in (lambda: stream.feed(audio), stream.finish):
        with pytest.raises(EdgeseaError, match=r"the stream has ended; reset\(\) begins another"):
            call()
    stream.reset()
    stream.feed(audio[:9999, 0])
    stream.reset()
    for found, expected in zip(feed_all(stream, split(audio, 1000)), first, strict=True):
        np.testing.assert_array_equal(found, expected)


def test_a_stream_ends_with_its_block():
    with Stream(QUICK) as stream:
        stream.feed(np.zeros(10000, np.float32))
    with pytest.raises(EdgeseaError, match="the stream has ended"):
        stream.feed(np.zeros(1, np.float32))


def test_chunks_of_an_iterator():
    audio = np.random.default_rng(0).uniform(-1, 1, 60000).astype(np.float32)
    drawn = 0

    def chunks():
        nonlocal drawn
        for chunk in split(audio, 6000):
            drawn += 1
            yield chunk

    parts = embed_chunks(chunks(), BY_NAME, 0.5, sample_rate=16000)
    next(parts)
    assert drawn == 2  # 0.5 s and the resampler's delay are enough for the first
    embedding, timestamps = (np.concatenate(column) for column in zip(*parts, strict=True))
    expected = feed_all(Stream(QUICK, 0.5, sample_rate=16000), split(audio, 6000))
    np.testing.assert_array_equal(embedding, expected[0][-len(embedding) :])
    np.testing.assert_array_equal(timestamps, expected[1][-len(embedding) :])
    assert list(embed_chunks([], QUICK)) == []


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_chunk_that_is_not_all_numbers_is_refused_and_the_stream_goes_on(bad):
    audio = np.random.default_rng(0).uniform(-1, 1, 32000).astype(np.float32)
    stream = Stream(QUICK, sample_rate=16000)
    parts = [stream.feed(audio[:24000])]
    broken = audio[24000:].copy()
    broken[800] = bad
    with pytest.raises(EdgeseaError, match=r"NaN or Inf samples, the first at 1\.550 s of the stream"):
        stream.feed(broken)
    parts += [stream.feed(audio[24000:]), stream.finish()]
    expected = feed_all(Stream(QUICK, sample_rate=16000), [audio])[0]
    np.testing.assert_allclose(np.concatenate([part[0] for part in parts]), expected, atol=1e-7)


@pytest.mark.parametrize(
    ("chunk", "message"),
    [
        (np.zeros((2, 4800), np.float32), r"the chunk must have shape \(samples,\) or .*, not \(2, 4800\)"),
        (np.zeros((1, 100), np.float32), r"not \(1, 100\)"),
        (np.zeros((10, 0), np.float32), r"not \(10, 0\)"),
        (np.zeros((2, 3, 4), np.float32), r"not \(2, 3, 4\)"),
        (np.float32(0.5), r"not \(\)"),
        (np.zeros(10, np.uint16), "must be floats in .* or int8, uint8, int16, int32, not uint16"),
        (np.zeros(10, np.complex64), "not complex64"),
        ([1, 2, 3], "not int64"),
        (["a"], "not <U1"),
        ("audio", r"must be an array of samples, not str; see numpy\.frombuffer"),
        (bytes(10), r"must be an array of samples, not bytes; see numpy\.frombuffer"),
        (None, "not object"),
        (np.zeros(10, bool), "not bool"),
        (np.array([0.5, None]), "not object"),
        ([[0.5, 0.5], [0.5]], "must be an array of samples, not list: setting an array element with a sequence"),
        ([np.zeros(3), np.zeros(4)], "must be an array of samples, not list: "),
        (torch.zeros(3, dtype=torch.bfloat16), "must be an array of samples, not Tensor: .*BFloat16"),
        (np.ma.masked_array([0.1, 0.2], [False, True]), "the chunk masks samples, but no window may have gaps"),
        (np.ma.masked_array(np.zeros((5, 2), np.int16), True), "the chunk masks samples"),
        (np.array([0.0, 1e300]), r"NaN or Inf samples, the first at 0\.001 s"),
        (np.zeros((10, 3), np.float32), "this chunk has 3 channels, those before had 1"),
    ],
)
def test_what_is_no_chunk_is_refused(chunk, message):
    stream = Stream(QUICK)
    stream.feed(np.zeros(5, np.float32))
    with pytest.raises(EdgeseaError, match=message):
        stream.feed(chunk)
    assert len(stream.finish()[0]) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hop_size": 0.0}, "hop_size must be a positive number"),
        ({"hop_size": 1e-5}, "shorter than a sample at 8000 Hz"),
        ({"hop_size": 1e300}, r"hop must be at most 1e\+09 s, not 1e\+300"),
        ({"hop_size": 1.7e308}, r"hop must be at most 1e\+09 s"),
        ({"hop_size": "0.1"}, "hop_size must be a positive number"),
        ({"sample_rate": 0}, "sample_rate must be a whole number from 500 to 1000000 Hz, not 0"),
        ({"sample_rate": 44.1}, r"sample_rate must be a whole number from 500 to 1000000 Hz, not 44\.1"),
        ({"sample_rate": 48}, "sample_rate must be a whole number from 500 to 1000000 Hz, not 48"),
        ({"sample_rate": float("nan")}, "sample_rate must be a whole number .* not nan"),
        ({"sample_rate": float("inf")}, "sample_rate must be a whole number .* not inf"),
        ({"sample_rate": "8000"}, "sample_rate must be a whole number .* not '8000'"),
        ({"sample_rate": True}, "sample_rate must be a whole number .* not True"),
        ({"batch_size": 0}, "batch_size must be a whole number of at least 1, not 0"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(EdgeseaError, match=message):
        Stream(QUICK, **options)


def test_a_rate_may_be_a_float_as_soundfile_and_get_embedding_have_it():
    audio = np.random.default_rng(0).uniform(-1, 1, 30000).astype(np.float32)
    for rate in (22050.0, np.float64(22050), np.int32(22050)):
        found = feed_all(Stream(QUICK, sample_rate=rate), split(audio, 5000))[0]
        np.testing.assert_allclose(found, get_embedding(audio, rate, QUICK)[0], atol=1e-6)


def test_an_empty_chunk_has_as_many_channels_as_it_likes():
    stream = Stream(QUICK)
    assert len(stream.feed(np.zeros((0, 16), np.float32))[0]) == 0
    assert len(stream.feed(np.zeros((8000, 16), np.float32))[0]) > 0


def test_a_masked_array_that_masks_nothing_is_audio():
    audio = np.random.default_rng(0).uniform(-1, 1, 9000).astype(np.float32)
    found = feed_all(Stream(QUICK), [np.ma.masked_array(audio, np.zeros(9000, bool))])[0]
    np.testing.assert_array_equal(found, feed_all(Stream(QUICK), [audio])[0])


def test_chunks_that_are_none_are_named_in_an_iterator_too():
    for chunks, message in [
        (None, "chunks must be an iterable of arrays, not NoneType"),
        (0.5, "chunks must be an iterable of arrays, not float"),
        (np.zeros(100, np.float32), r"the chunk must have shape \(n,\) or \(n, channels\), not \(\)"),
        ([[[0.5, 0.5], [0.5]]], "the chunk must be an array of samples, not list"),
        ([np.ma.masked_array([0.1], [True])], "the chunk masks samples"),
    ]:
        with pytest.raises(EdgeseaError, match=message):
            list(embed_chunks(chunks, QUICK))


def test_windows_do_not_drift_where_the_hop_is_no_whole_number_of_samples():
    """Of a ramp, the model gives the time; a hop rounded to 1102 samples would be 0.11 s late at the end."""

    def middle(windows: np.ndarray) -> np.ndarray:
        return windows[:, windows.shape[1] // 2, None]

    ramp = (np.arange(240 * 22050) / (240 * 22050)).astype(np.float32)
    stream = Stream(FunctionModel("middle", middle, 22050, 1.0, 1), 0.05)
    embedding, timestamps = feed_all(stream, split(ramp, 100_000))
    inside = (timestamps > 0.5) & (timestamps < 239.4)
    np.testing.assert_allclose(240 * embedding[inside, 0], timestamps[inside], atol=1e-4)


def test_a_stream_whose_model_fails_has_ended():
    def invalid(windows: np.ndarray) -> np.ndarray:
        return np.full((len(windows), 2), np.nan, np.float32)

    stream = Stream(FunctionModel("broken", invalid, 8000))
    with pytest.raises(EdgeseaError, match=r"broken gave NaN or Inf after 0\.0 s"):
        stream.feed(np.zeros(8000, np.float32))
    with pytest.raises(EdgeseaError, match="the stream has ended"):
        stream.finish()


@pytest.mark.parametrize(("rate", "minutes", "size"), [(8000, 60, 800), (44100, 20, 44100)])
def test_memory_does_not_grow_with_the_stream(rate, minutes, size):
    """An hour would take 115 MB; what is measured is the buffers of Python and numpy."""
    chunk = np.random.default_rng(0).integers(-3000, 3000, size, np.int16)
    stream = Stream(QUICK, 1.0, True, rate)
    count = 0
    tracemalloc.start()
    try:
        for _ in range(minutes * 60 * rate // size):
            count += len(stream.feed(chunk)[0])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert count + len(stream.finish()[0]) == minutes * 60 + 1
    assert peak < 2e6
