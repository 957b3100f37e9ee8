"""What edgel3's own tests state (test_core.py, test_cli.py, test_models.py of ksangeeta2429/edgel3), for SEA models.

The sections and docstrings name edgel3's tests. The audio is made here, with the same properties as edgel3's files.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

import edgesea
from edgesea import EdgeseaError, EdgeseaWarning, cli, get_embedding, process_file
from edgesea.audio.framing import SampleFraming
from edgesea.models.base import EmbeddingModel
from edgesea.models.student_config import StudentConfig

SIZES = (512, 256, 128, 64)


def chirp(rate: int, seconds: float) -> np.ndarray:
    """A tone that rises from 50 Hz to 3 kHz, with a little noise (a spectrum of a pure tone is mostly rounding)."""
    time = np.arange(round(rate * seconds)) / rate
    rng = np.random.default_rng(0)
    noise = np.interp(time, np.arange(round(8000 * seconds)) / 8000, rng.standard_normal(round(8000 * seconds)))
    return 0.5 * np.sin(2 * np.pi * (50 * time + 2950 / seconds * time**2 / 2)) + 0.01 * noise


@pytest.fixture(scope="module")
def audio_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
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
def weights(shared_data: Path) -> Path:
    return shared_data / "edgel3" / "edgel3_sea_ust_audio_emb_64.h5.gz"


@pytest.fixture(scope="module", params=["onnx", "torch"])
def model(request: pytest.FixtureRequest, weights: Path) -> EmbeddingModel:
    return edgesea.load_student(weights, "cpu", request.param)


@pytest.fixture
def cache(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of downloads, with SEA-64 in it, so that its id needs no network."""
    folder = tmp_path / "cache"
    folder.mkdir()
    shutil.copy(weights, folder)
    monkeypatch.setenv("EDGESEA_CACHE", str(folder))
    return folder


def load(path: Path) -> tuple[np.ndarray, np.ndarray]:
    with np.load(path) as file:
        assert {"embedding", "timestamps"} <= set(file.files)
        return file["embedding"], file["timestamps"]


# --- test_core.py: test_get_embedding


def test_edgel3_itself_gives_these_numbers(shared_data: Path, model: EmbeddingModel) -> None:
    with np.load(shared_data / "edgel3" / "chirp_8k_reference.npz") as reference:
        assert (int(reference["sr"]), float(reference["hop_size"]), bool(reference["center"])) == (8000, 0.1, True)
        embedding, timestamps = get_embedding(reference["audio"], 8000, model, hop_size=0.1, center=True)
        assert (embedding.dtype, timestamps.dtype) == (np.float32, np.float64)
        np.testing.assert_array_equal(timestamps, reference["timestamps"])
        np.testing.assert_allclose(embedding, reference["embedding"], rtol=1e-4, atol=1e-3)


def test_timestamps_are_a_hop_apart_and_embeddings_are_numbers(audio_folder: Path, model: EmbeddingModel) -> None:
    audio, sr = soundfile.read(audio_folder / "chirp_mono.wav")
    embedding, timestamps = get_embedding(audio, sr, model, center=True, hop_size=0.1)
    np.testing.assert_allclose(np.diff(timestamps), 0.1, atol=1e-5)
    assert embedding.shape == (16, 64)
    assert np.isfinite(embedding).all()
    assert np.ptp(embedding, 0).max() > 0.1


def test_a_model_may_be_loaded_and_passed_in(audio_folder: Path, weights: Path, cache: Path) -> None:
    audio, sr = soundfile.read(audio_folder / "chirp_mono.wav")
    expected, stamps = get_embedding(audio, sr, edgesea.load_student(weights, "cpu"))
    for model in (weights, str(weights), "edgel3/sea-64"):
        embedding, timestamps = get_embedding(audio, sr, model)
        np.testing.assert_allclose(embedding, expected, atol=1e-5)
        np.testing.assert_array_equal(timestamps, stamps)
    embedding, _ = get_embedding(audio, sr)  # the default
    np.testing.assert_allclose(embedding, expected, atol=1e-5)


@pytest.mark.parametrize("name", ["chirp_stereo", "chirp_44k"])
def test_stereo_and_other_rates_give_about_the_same(audio_folder: Path, model: EmbeddingModel, name: str) -> None:
    """edgel3 announces this, but only looks for NaN."""
    expected, stamps = get_embedding(*soundfile.read(audio_folder / "chirp_mono.wav"), model)
    embedding, timestamps = get_embedding(*soundfile.read(audio_folder / f"{name}.wav"), model)
    np.testing.assert_array_equal(timestamps, stamps)
    cosine = (embedding * expected).sum(1) / np.linalg.norm(embedding, axis=1) / np.linalg.norm(expected, axis=1)
    assert cosine.min() > (0.9999 if name == "chirp_stereo" else 0.99)


def test_empty_audio_is_an_error(audio_folder: Path, model: EmbeddingModel) -> None:
    with pytest.raises(EdgeseaError, match="audio is empty"):
        get_embedding(*soundfile.read(audio_folder / "empty.wav"), model)


def test_short_audio_gives_a_warning_and_one_embedding(audio_folder: Path, model: EmbeddingModel) -> None:
    audio, sr = soundfile.read(audio_folder / "short.wav")
    with pytest.warns(EdgeseaWarning, match=r"lasts 0\.5 s, less than a window of 1 s; filled up with zeros"):
        embedding, timestamps = get_embedding(audio, sr, model, center=False)
    assert embedding.shape == (1, 64)
    np.testing.assert_array_equal(timestamps, [0.0])
    assert np.isfinite(embedding).all()
    short = chirp(8000, 0.5)  # at another rate the resampler's filter would ring into the zeros
    with pytest.warns(EdgeseaWarning):
        embedding, _ = get_embedding(short, 8000, model, center=False)
    padded, _ = get_embedding(np.pad(short, (0, 4000)), 8000, model, center=False)
    np.testing.assert_allclose(embedding, padded, atol=1e-3)


def test_silence_gives_a_warning_and_embeddings(audio_folder: Path, model: EmbeddingModel) -> None:
    with pytest.warns(EdgeseaWarning, match="silent: all samples are zero"):
        embedding, _ = get_embedding(*soundfile.read(audio_folder / "silence.wav"), model, center=True)
    assert embedding.shape == (16, 64)
    assert np.isfinite(embedding).all()


@pytest.mark.parametrize(("center", "hop_size", "count"), [(True, 0.1, 6), (False, 0.1, 1), (False, 0.2, 1)])
def test_centring_and_hop_set_the_number_of_windows(
    audio_folder: Path, model: EmbeddingModel, center: bool, hop_size: float, count: int
) -> None:
    audio, sr = soundfile.read(audio_folder / "chirp_1s.wav")
    assert count == 1 + int((len(audio) + (sr // 2 if center else 0) - sr) / int(hop_size * sr))
    embedding, timestamps = get_embedding(audio, sr, model, center=center, hop_size=hop_size)
    assert embedding.shape == (count, 64)
    np.testing.assert_allclose(timestamps, hop_size * np.arange(count))


def test_a_hop_is_rounded_to_samples_and_not_cut_off(model: EmbeddingModel) -> None:
    """edgel3 takes int(0.29 * 8000) = 2319 samples, because 0.29 * 8000 is 2319.9999999999995, and drifts away."""
    audio = chirp(8000, 30.0)
    embedding, timestamps = get_embedding(audio, 8000, model, hop_size=0.29, center=False)
    at = round(float(timestamps[100]) * 8000)
    assert at == 232_000
    alone, _ = get_embedding(audio[at : at + 8000], 8000, model, center=False)
    np.testing.assert_allclose(embedding[100], alone[0], atol=1e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "invalid"}, "unknown teacher 'invalid'"),
        ({"model": 64}, "model must be a loaded student or teacher"),
        ({"model": "edgel3/sea-40"}, "unknown student 'edgel3/sea-40'"),  # emb_dim, sparsity: 40
        ({"model": "edgel3/sea--64"}, "unknown student"),
        ({"model": "edgel3/invalid"}, "unknown student"),
        ({"center": "invalid"}, "center must be True or False, not 'invalid'"),
        ({"hop_size": -1}, "hop_size must be a positive number of seconds, not -1"),
        ({"hop_size": 0}, "hop_size must be a positive number of seconds, not 0"),
        ({"hop_size": "a"}, "hop_size must be a positive number"),
        ({"batch_size": -1}, "batch_size must be a whole number of at least 1"),  # openl3's command line
        ({"batch_size": "invalid"}, "batch_size must be a whole number of at least 1"),
        ({"audio": np.ones((10, 10, 10))}, r"audio must have shape \(n,\) or \(n, channels\)"),
    ],
)
def test_invalid_arguments_are_errors(weights: Path, options: dict[str, object], message: str) -> None:
    """There is no `verbose`, no `retrain_type` and no `sparsity`: nothing is printed, and SEA models are not pruned."""
    with pytest.raises(EdgeseaError, match=message):
        get_embedding(**{"audio": chirp(8000, 1.0), "sr": 8000, "model": weights, **options})  # type: ignore[call-overload]
    assert issubclass(EdgeseaError, ValueError)


# --- test_core.py: test_get_output_path, test_process_file


@pytest.mark.parametrize(
    ("output_dir", "suffix", "name"),
    [
        ("out", "embedding", "out/audio_embedding.npz"),
        (None, "embedding", "in/audio_embedding.npz"),
        (None, None, "in/audio.npz"),
        (None, "", "in/audio.npz"),
        ("out", None, "out/audio.npz"),
        ("out", ".l3", "out/audio.l3.npz"),
    ],
)
def test_the_result_is_beside_the_audio_or_in_the_folder_given(
    audio_folder: Path, weights: Path, tmp_path: Path, output_dir: str | None, suffix: str | None, name: str
) -> None:
    """edgel3 needs the folder to be there; here it is made."""
    (tmp_path / "in").mkdir()
    shutil.copy(audio_folder / "chirp_1s.wav", tmp_path / "in" / "audio.wav")
    folder = None if output_dir is None else tmp_path / output_dir
    assert process_file(tmp_path / "in" / "audio.wav", folder, suffix, weights) == tmp_path / name
    embedding, timestamps = load(tmp_path / name)
    assert (embedding.shape, timestamps.shape) == ((6, 64), (6,))
    assert len(list(tmp_path.rglob("*.npz"))) == 1


def test_a_file_gives_what_its_samples_give(audio_folder: Path, model: EmbeddingModel, tmp_path: Path) -> None:
    for name in ("chirp_mono", "chirp_stereo", "chirp_44k"):
        path = process_file(str(audio_folder / f"{name}.wav"), str(tmp_path), model=model, hop_size=0.25, center=False)
        expected, stamps = get_embedding(
            *soundfile.read(audio_folder / f"{name}.wav"), model, hop_size=0.25, center=False
        )
        embedding, timestamps = load(path)
        np.testing.assert_allclose(embedding, expected, atol=1e-5)
        np.testing.assert_array_equal(timestamps, stamps)


def test_files_that_cannot_be_opened_are_errors(audio_folder: Path, weights: Path, tmp_path: Path) -> None:
    (tmp_path / "invalid.wav").write_text("This is not an audio file.")
    for path, message in (
        (tmp_path / "invalid.wav", "cannot be decoded: Format not recognised"),
        (Path("/fake/directory/asdf.wav"), "/fake/directory/asdf.wav: no such file"),
        (audio_folder / "empty.wav", "holds no samples"),
    ):
        with pytest.raises(EdgeseaError, match=message):
            process_file(path, tmp_path, model=weights)
    assert not list(tmp_path.glob("*.npz"))


def test_short_and_silent_files_give_warnings(audio_folder: Path, weights: Path, tmp_path: Path) -> None:
    with pytest.warns(EdgeseaWarning, match=r"short\.wav: lasts 0\.5 s"):
        process_file(audio_folder / "short.wav", tmp_path, model=weights)
    with pytest.warns(EdgeseaWarning, match=r"silence\.wav: silent"):
        process_file(audio_folder / "silence.wav", tmp_path, model=weights)


# --- test_core.py: test_center_audio, test_pad_audio


@pytest.mark.parametrize(("window", "pad"), [(50, 25), (49, 24)])
def test_centring_puts_half_a_window_of_zeros_before_the_audio(window: int, pad: int) -> None:
    first = SampleFraming(window, 25, window // 2).cut(np.ones(100, np.float32))[0]
    np.testing.assert_array_equal(first, np.r_[np.zeros(pad), np.ones(window - pad)])


@pytest.mark.parametrize(("samples", "padded"), [(10, 50), (90, 100), (100, 100)])
def test_zeros_at_the_end_let_every_sample_be_embedded(samples: int, padded: int) -> None:
    windows = SampleFraming(50, 25, 0).cut(np.ones(samples, np.float32))
    assert 50 + 25 * (len(windows) - 1) == padded
    joined = np.r_[windows[0], windows[1:, 25:].reshape(-1)]
    np.testing.assert_array_equal(joined, np.r_[np.ones(samples), np.zeros(padded - samples)])


# --- test_models.py


@pytest.mark.parametrize("size", SIZES)
def test_models_are_named_by_their_size(size: int) -> None:
    from edgesea.models.download import GIT_BLOBS
    from edgesea.models.student_files import PUBLISHED

    assert PUBLISHED[f"edgel3/sea-{size}"] == f"edgel3_sea_ust_audio_emb_{size}.h5.gz"
    assert f"edgel3_sea_ust_audio_emb_{size}.h5.gz" in GIT_BLOBS
    assert StudentConfig.named(f"sea-{size}").embedding_size == size


def test_a_model_is_loaded_by_its_name(cache: Path) -> None:
    model = edgesea.load_student("edgel3/sea-64", "cpu")
    assert (model.id, model.embedding_size, model.sample_rate, model.window) == ("edgel3/sea-64", 64, 8000, 1.0)
    assert model.embed(np.zeros((2, 8000), np.float32)).shape == (2, 64)
    (cache / "edgel3_sea_ust_audio_emb_64.h5.gz").write_bytes(b"damaged")
    with pytest.raises(EdgeseaError, match="not the published file: git blob id"):
        edgesea.load_student("edgel3/sea-64", "cpu")


# --- test_cli.py. edgel3's command ends with an ImportError since Python 3.10 (it imports Iterable from collections),
# so there is nothing to compare with; this is what its tests state.


def printed(capsys: pytest.CaptureFixture[str], *words: object, code: int = 0) -> dict[str, object]:
    """What `edgesea embed WORDS` reports; the `code` is 1 if one of several files failed."""
    capsys.readouterr()
    assert cli.main(["embed", *map(str, words)]) == code
    result = json.loads(capsys.readouterr().out)
    assert isinstance(result, dict)
    return result


@pytest.mark.parametrize("value", ["-5", "-1.0", "0", "hello", "None"])
def test_hop_is_a_positive_number(audio_folder: Path, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    """test_positive_float."""
    try:
        code = cli.main(["embed", str(audio_folder), "spectral", f"--hop={value}"])
    except SystemExit as end:  # no number at all
        code = int(end.code or 0)
    assert code in (1, 2)
    assert "hop" in capsys.readouterr().err


def test_inputs_are_files_and_folders(
    audio_folder: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """test_get_file_list; but edgel3 embeds a file that is named twice twice, and takes files that are no audio."""
    folder = tmp_path / "in"
    shutil.copytree(audio_folder, folder)
    (folder / "notes.txt").write_text("no audio")
    (folder / "below").mkdir()
    shutil.copy(folder / "chirp_1s.wav", folder / "below" / "deep.wav")
    two = [folder / "chirp_44k.wav", folder / "chirp_1s.wav"]
    assert printed(capsys, *two, weights)["files"] == 2
    assert sorted(path.name for path in folder.rglob("*.npz")) == ["chirp_1s.npz", "chirp_44k.npz"]
    result = printed(capsys, folder, two[0], weights, "--recursive=false", "--out", tmp_path / "flat", code=1)
    assert result["files"] == 6
    assert list(result["failed"]) == [str(folder / "empty.wav")]  # type: ignore[call-overload]
    assert len(list((tmp_path / "flat").rglob("*.npz"))) == 6
    assert printed(capsys, folder, weights, "--out", tmp_path / "deep", code=1)["files"] == 7  # the default
    assert (tmp_path / "deep" / "below" / "deep.npz").is_file()
    assert cli.main(["embed", "/fake/path/to/file", str(weights)]) == 1
    assert capsys.readouterr().err == "edgesea: error: /fake/path/to/file: no such file or folder\n"


def test_a_folder_without_audio_is_an_error(weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """test_run; edgel3 ends with code 255 and prints it to stdout."""
    assert cli.main(["embed", str(tmp_path), str(weights)]) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith(f"edgesea: error: {tmp_path}: no audio file found")
    assert captured.out == ""


def test_the_command_embeds_a_file(
    audio_folder: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """test_run, test_main."""
    path, expected = audio_folder / "chirp_44k.wav", tmp_path / "chirp_44k_s.npz"
    assert printed(capsys, path, weights, "-o", tmp_path, "-x", "s", "-t", 0.5, "-n") == {
        "files": 1, "present": 0, "failed": {}, "windows": 3,
    }  # fmt: skip
    embedding, timestamps = load(expected)
    by_function, _ = get_embedding(*soundfile.read(path), weights, hop_size=0.5, center=False)
    np.testing.assert_allclose(embedding, by_function, atol=1e-5)
    np.testing.assert_array_equal(timestamps, [0.0, 0.5, 1.0])
    written = expected.stat().st_mtime_ns
    assert printed(capsys, path, weights, "-o", tmp_path, "-xs", "-t0.5", "-n")["present"] == 1
    assert expected.stat().st_mtime_ns == written
    assert cli.main(["embed", str(path), str(weights), "-o", str(tmp_path), "-x", "s"]) == 1  # another hop
    assert (
        "chirp_44k_s.npz: exists, made of other input (center: False there, True here; hop: 0.5 there, 0.1 here)"
        in (capsys.readouterr().err)
    )
    assert printed(capsys, path, weights, "-o", tmp_path, "-x", "s", "--overwrite")["files"] == 1
    load(expected)


def test_quiet_says_nothing_but_errors(audio_folder: Path, weights: Path, tmp_path: Path) -> None:
    """test_script_main, in a process of its own."""
    command = [sys.executable, "-m", "edgesea.cli", "embed", audio_folder, weights, "-o", tmp_path]
    environment = {"PYTHONPATH": str(Path(edgesea.__file__).parents[1]), "PATH": "", "OMP_NUM_THREADS": "1"}
    loud = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert loud.returncode == 1
    assert json.loads(loud.stdout)["files"] == 6
    for remark in ("empty.wav: holds no samples", "short.wav: lasts 0.5 s", "silence.wav: silent"):
        assert remark in loud.stderr
    quiet = subprocess.run([*command, "-q", "-ow"], capture_output=True, text=True, env=environment, check=False)
    assert quiet.returncode == 1
    assert quiet.stdout == ""
    assert quiet.stderr == f"{audio_folder}/empty.wav: holds no samples\n"
