"""What edgel3's own tests state (test_core.py, test_cli.py, test_models.py of ksangeeta2429/edgel3), for SEA models.

The audio is made here, with the same properties as edgel3's files.
"""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

import edgesea
from edgesea import EdgeseaError, cli, get_embedding, process_file
from edgesea.audio.resampling import Resampler


def chirp(rate: int, seconds: float) -> np.ndarray:
    """A tone that rises from 50 Hz to 3 kHz, with a little noise (a spectrum of a pure tone is mostly rounding)."""
    time = np.arange(round(rate * seconds)) / rate
    rng = np.random.default_rng(0)
    noise = np.interp(time, np.arange(round(8000 * seconds)) / 8000, rng.standard_normal(round(8000 * seconds)))
    return 0.5 * np.sin(2 * np.pi * (50 * time + 2950 / seconds * time**2 / 2)) + 0.01 * noise


@pytest.fixture(scope="module")
def audio_folder(tmp_path_factory) -> Path:
    """The seven files of edgel3's tests/data/audio."""
    folder = tmp_path_factory.mktemp("audio")
    mono = chirp(48000, 2.0)
    for name, rate, samples in (
        ("chirp_mono", 48000, mono),
        ("chirp_stereo", 48000, np.stack([mono, mono], 1)),
        ("chirp_44k", 44100, chirp(44100, 2.0)),
        ("chirp_1s", 48000, chirp(48000, 1.0)),
        ("empty", 48000, np.zeros(0)),
        ("short", 48000, chirp(48000, 0.5)),
        ("silence", 48000, np.zeros(96000)),
    ):
        soundfile.write(folder / f"{name}.wav", samples, rate)
    return folder


@pytest.fixture(scope="module")
def weights(shared_data) -> Path:
    return shared_data / "edgel3" / "edgel3_sea_ust_audio_emb_64.h5.gz"


@pytest.fixture(scope="module", params=["onnx", "torch"])
def model(request, weights):
    return edgesea.load_student(weights, "cpu", request.param)


def load(path) -> tuple[np.ndarray, np.ndarray]:
    with np.load(path) as file:
        assert {"embedding", "timestamps"} <= set(file.files)
        return file["embedding"], file["timestamps"]


def test_edgel3_itself_gives_these_numbers(shared_data, model):
    with np.load(shared_data / "edgel3" / "chirp_8k_reference.npz") as reference:
        assert (int(reference["sr"]), float(reference["hop_size"]), bool(reference["center"])) == (8000, 0.1, True)
        embedding, timestamps = get_embedding(reference["audio"], 8000, model, hop_size=0.1, center=True)
        assert (embedding.dtype, timestamps.dtype) == (np.float32, np.float64)
        np.testing.assert_array_equal(timestamps, reference["timestamps"])
        np.testing.assert_allclose(embedding, reference["embedding"], rtol=1e-4, atol=1e-3)


def test_a_model_may_be_loaded_and_passed_in(audio_folder, weights, tmp_path, monkeypatch):
    download = Path(shutil.copy(weights, tmp_path))
    monkeypatch.setenv("EDGESEA_CACHE", str(tmp_path))  # so that the id needs no network
    audio, sr = soundfile.read(audio_folder / "chirp_mono.wav")
    expected, _ = get_embedding(audio, sr, edgesea.load_student(weights, "cpu"))
    for model in ([weights], [str(weights)], ["edgel3/sea-64"], []):  # the last is the default
        np.testing.assert_allclose(get_embedding(audio, sr, *model)[0], expected, atol=1e-5)
    model = edgesea.load_student("edgel3/sea-64", "cpu")
    assert (model.id, model.embedding_size, model.sample_rate, model.window) == ("edgel3/sea-64", 64, 8000, 1.0)
    download.write_bytes(b"damaged")
    with pytest.raises(EdgeseaError, match=r"emb_64\.h5\.gz"):
        edgesea.load_student("edgel3/sea-64", "cpu")


# test_cli.py. edgel3's command ends with an ImportError since Python 3.10, so there is nothing to compare with.


def test_inputs_are_files_and_folders(audio_folder, weights, tmp_path, capsys, caplog):
    """test_get_file_list, test_script_main; but edgel3 embeds a file named twice twice, and what is no audio."""
    caplog.set_level("INFO", "edgesea")  # and back at the end: quiet changes it
    folder = tmp_path / "in"
    shutil.copytree(audio_folder, folder)
    (folder / "notes.txt").write_text("no audio")
    (folder / "below").mkdir()
    shutil.copy(folder / "chirp_1s.wav", folder / "below" / "deep.wav")
    two = [str(folder / "chirp_44k.wav"), str(folder / "chirp_1s.wav")]
    assert cli.main(["embed", *two, str(weights)]) == 0
    assert json.loads(capsys.readouterr().out)["files"] == 2
    assert sorted(path.name for path in folder.rglob("*.npz")) == ["chirp_1s.npz", "chirp_44k.npz"]
    command = ["embed", str(folder), two[0], str(weights), "--out", str(tmp_path / "deep")]
    assert cli.main(command) == 1
    result = json.loads(capsys.readouterr().out)
    assert (result["files"], list(result["failed"])) == (7, [str(folder / "empty.wav")])
    assert (tmp_path / "deep" / "below" / "deep.npz").is_file()
    for words in ("empty.wav: holds no samples", "short.wav: lasts 0.5 s", "silence.wav: silent"):
        assert words in caplog.text
    caplog.clear()
    assert cli.main([*command, "-q", "-ow"]) == 1
    assert capsys.readouterr() == ("", "")
    assert caplog.messages == [f"{folder}/empty.wav: holds no samples"]


@pytest.mark.parametrize(
    "words",
    [
        "-o {} --suffix suffix --no-centering --hop-size 0.5 --quiet",  # edgel3
        "--output-dir {} -x suffix -n -t 0.5 -q -ow -ab 16",  # openl3
        "--overwrite --no-audio-centering --audio-hop-size=0.5 --audio-batch-size 16 -o {} --suffix suffix",
        "--hop 0.5 --batch_size 16 --out {} --suffix=suffix",
    ],
)
def test_options_have_the_names_and_defaults_of_edgel3_and_openl3(
    audio_folder, weights, tmp_path, words, capsys, caplog
):
    """test_parse_args, test_run."""
    caplog.set_level("INFO", "edgesea")  # and back at the end: quiet changes it
    path = audio_folder / "chirp_44k.wav"
    assert cli.main(["embed", str(path), str(weights), *words.format(tmp_path).split()]) == 0
    assert (capsys.readouterr().out == "") is ("-q" in words)
    embedding, timestamps = load(tmp_path / "chirp_44k_suffix.npz")
    center = "-n" not in words
    expected, _ = get_embedding(*soundfile.read(path), weights, hop_size=0.5, center=center)
    np.testing.assert_allclose(embedding, expected, atol=1e-5)
    np.testing.assert_array_equal(timestamps, 0.5 * np.arange(len(expected)))


# --- its resampler


def test_recordings_at_other_rates_have_the_numbers_of_edgel3_if_they_are_resampled_as_it_does(
    audio_folder, model, tmp_path
):
    """tests/audio/test_resampling.py has resampy's samples."""
    pytest.importorskip("resampy")
    path = audio_folder / "chirp_44k.wav"
    audio, sr = soundfile.read(path, dtype="float32")
    resampled = Resampler(sr, 8000, "resampy").feed(audio, last=True)
    assert len(resampled) == int(len(audio) * 8000 / sr)
    expected, stamps = get_embedding(resampled, 8000, model)
    embedding, timestamps = get_embedding(audio, sr, model, resampler="resampy")
    np.testing.assert_array_equal(timestamps, stamps)
    np.testing.assert_allclose(embedding, expected, rtol=1e-3, atol=1e-3)
    result = process_file(path, tmp_path, "as", model, resampler="resampy")
    np.testing.assert_allclose(load(result)[0], expected, rtol=1e-3, atol=1e-3)
    assert np.abs(get_embedding(audio, sr, model)[0] - expected).max() > 0.01  # soxr
    with pytest.raises(EdgeseaError, match="resampler"):  # not taken for that of the other
        process_file(path, tmp_path, "as", model)


def test_resamplers_that_are_not_there_are_named(audio_folder, weights, monkeypatch):
    audio, sr = soundfile.read(audio_folder / "chirp_44k.wav")
    with pytest.raises(EdgeseaError, match="sox"):
        get_embedding(audio, sr, weights, resampler="sox")
    monkeypatch.setitem(sys.modules, "resampy", None)
    with pytest.raises(EdgeseaError, match=r"edgesea\[compat\]"):
        get_embedding(audio, sr, weights, resampler="resampy")
