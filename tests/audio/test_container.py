import importlib.util
import sys
from contextlib import suppress

import numpy as np
import pytest
import soundfile
from conftest import REPOSITORY, load_audio
from quick_model import BY_NAME as QUICK

from edgesea.audio import container
from edgesea.audio.io import AudioFile, find_audio
from edgesea.embed.files import embed
from edgesea.errors import EdgeseaError
from edgesea.extract import extract

spec = importlib.util.spec_from_file_location("decoders", REPOSITORY / "benchmarks" / "decoders.py")
decoders = importlib.util.module_from_spec(spec)
sys.modules["decoders"] = decoders
spec.loader.exec_module(decoders)


def test_what_is_there_is_used_whatever_headers_say(tmp_path):
    rows = decoders.survey(tmp_path, large=False)
    assert len(rows) >= 240
    assert not [row for row in rows if not row["right"]]


def test_what_is_cut_short_is_refused_unless_it_is_asked_for(tmp_path):
    for case in decoders.cases(tmp_path):
        if case.damage in ("cut at 55%", "size twice too large"):
            path = tmp_path / f"cut.{case.container}"
            path.write_bytes(case.content)
            with pytest.raises(EdgeseaError, match=f"{path.name}: (truncated|damaged).* at [0-9.]+ s"):
                load_audio(path, 8000)


def test_a_size_that_wrapped_at_4_gib(tmp_path):
    case = decoders.wrapped(tmp_path)
    (stream,), unread = container.streams(tmp_path / "case.large")
    assert (stream.end - stream.start) / 2 / decoders.RATE == case.there
    assert unread == 0


def test_the_samples_of_a_repaired_file_are_those_of_the_whole_one(tmp_path):
    whole = dict.fromkeys(decoders.CONTAINERS)
    unknown_delay = ("without a length", "begun in a frame")  # what the encoder put before is then not left out
    for case in decoders.cases(tmp_path):
        if case.damage in unknown_delay:
            continue
        path = tmp_path / f"case.{case.container}"
        path.write_bytes(case.content)
        samples = np.zeros(0, np.float32)
        with suppress(EdgeseaError), AudioFile(path, "use") as file:
            samples = np.concatenate(list(file.chunks()))
        if case.damage == "healthy":
            whole[case.container] = samples
        count = min(len(samples), len(whole[case.container])) - 1200  # an encoder ends otherwise where a stream is cut
        np.testing.assert_array_equal(samples[: max(0, count)], whole[case.container][: max(0, count)], case.damage)


@pytest.mark.parametrize("name", list(decoders.CONTAINERS))
def test_bytes_at_random_are_decoded_or_refused(tmp_path, name):
    rng, healthy, path = np.random.default_rng(0), decoders.encode(tmp_path, name), tmp_path / "random"
    for _ in range(40):
        content = bytearray(healthy[: rng.choice([len(healthy), rng.integers(len(healthy)), rng.integers(200)])])
        for _ in range(min(len(content), rng.integers(4))):
            content[rng.integers(min(len(content), rng.choice([100, len(healthy)])))] = rng.integers(256)
        path.write_bytes(content + rng.bytes(rng.choice([0, 0, 3000])))
        with suppress(EdgeseaError), AudioFile(path, rng.choice(["use", "skip"])) as file:
            assert sum(map(len, file.chunks())) > 0


def test_joined_recordings_of_two_rates(tmp_path):
    for rate in (8000, 16000):
        soundfile.write(tmp_path / f"{rate}.wav", decoders.tone()[: 2 * rate], rate)
    path = tmp_path / "joined.wav"
    path.write_bytes((tmp_path / "16000.wav").read_bytes() + (tmp_path / "8000.wav").read_bytes())
    assert len(load_audio(path, 16000)) == 64000


def test_a_resource_fork_beside_an_mp3_does_not_disturb(tmp_path):
    soundfile.write(tmp_path / "x.mp3", decoders.tone(), 16000, format="MP3")
    fork = b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X        \x00\x02" + bytes(300)
    (tmp_path / "._x.mp3").write_bytes(fork)
    assert len(load_audio(tmp_path / "x.mp3", 16000)) == pytest.approx(48000, abs=1152)
    assert [path.name for path in find_audio(tmp_path)] == ["x.mp3"]


@pytest.mark.parametrize(
    ("ending", "codec"), [("m4a", "aac"), ("webm", "libopus"), ("mp4", "aac"), ("wv", "wavpack"), ("aac", "aac")]
)
def test_other_formats_are_decoded_by_pyav(tmp_path, ending, codec):
    av = pytest.importorskip("av", reason="edgesea[codecs] is not installed")
    samples, path = np.tile(np.float32(0.5 * np.sin(2 * np.pi * np.arange(48000) / 48)), 3), tmp_path / f"x.{ending}"
    with av.open(str(path), "w", format="adts" if ending == "aac" else None) as file:
        stream = file.add_stream(codec, rate=48000)
        frame = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
        frame.sample_rate = 48000
        size = stream.codec_context.frame_size or 1024
        fitting = av.AudioResampler(stream.format, stream.layout, 48000, frame_size=size)
        for part in [*fitting.resample(frame), *fitting.resample(None), None]:
            file.mux(stream.encode(part))
    audio = load_audio(path, 8000)
    assert len(audio) / 8000 == pytest.approx(3, abs=0.05)
    assert np.abs(np.fft.rfft(audio[8000:16000])).argmax() == 1000
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(EdgeseaError, match=path.name):
        load_audio(path, 8000)


def test_what_a_folder_holds_besides_audio_is_counted(tmp_path, caplog, monkeypatch):
    for name in ("a.wav", "b.AIFC", "c.snd", "notes.txt", "d.xyz", "e.xyz", ".hidden", "._a.wav", "plain"):
        (tmp_path / name).write_bytes(b"x")
    assert [path.name for path in find_audio(tmp_path)] == ["a.wav", "b.AIFC", "c.snd"]
    find_audio(tmp_path)
    assert caplog.text.count("5 file(s) left out: 2 .xyz, 1 ") == 1


def test_commands_skip_or_use_truncated_recordings(tmp_path, caplog):
    folder = tmp_path / "in"
    folder.mkdir()
    for name, seconds in (("whole.wav", 6), ("cut.wav", 12)):
        soundfile.write(folder / name, np.tile(decoders.tone(), 4)[: seconds * decoders.RATE], decoders.RATE)
    (folder / "cut.wav").write_bytes((folder / "cut.wav").read_bytes()[: 44 + 8 * 2 * decoders.RATE])
    for truncated, windows, skipped in (("skip", 6, 1), ("use", 14, 0)):
        result = extract(folder, tmp_path / truncated, hop=1.0, validate=0, truncated=truncated)
        assert (result["windows"], result["skipped"]) == (windows, skipped)
        done = embed(
            [folder], model=QUICK, out=tmp_path / f"npz-{truncated}", hop=1.0, center=False, truncated=truncated
        )
        assert (done["windows"], len(done["failed"])) == (windows, skipped)
    assert caplog.text.count("cut.wav: truncated at 8.0 s of 12.0 s") >= 4
