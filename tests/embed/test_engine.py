"""Files embedded in batches that reach over them, with frames that overlapping windows share."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from conftest import write_noise

import edgesea
from edgesea.audio.framing import Framing, piece_windows
from edgesea.audio.io import load_audio
from edgesea.embed.engine import embed_files, input_of
from edgesea.errors import EdgeseaError
from edgesea.models.config import StudentConfig
from edgesea.models.function import FunctionModel
from edgesea.models.student import Student
from edgesea.models.student_files import save_student


def first_and_last(windows: np.ndarray) -> np.ndarray:
    return windows[:, [0, -1]]


def recording_model(sizes: list[int]) -> FunctionModel:
    def embed(windows: np.ndarray) -> np.ndarray:
        sizes.append(len(windows))
        return first_and_last(windows)

    return FunctionModel("recording", embed, 8000, embedding_size=2)


def expected_windows(path: Path, framing: Framing) -> np.ndarray:
    return framing.at(8000).cut(load_audio(path, 8000)).copy()


def test_batches_reach_over_files(noise_folder):
    sizes: list[int] = []
    paths = sorted(noise_folder.glob("*.wav"))
    framing = Framing(1.0, 0.4)
    results = list(embed_files(recording_model(sizes), paths, framing, batch_size=8))
    expected = [first_and_last(expected_windows(path, framing)) for path in paths]
    assert [result.path for result in results] == paths
    for result, rows in zip(results, expected, strict=True):
        np.testing.assert_array_equal(result.embedding, rows)
    total = sum(map(len, expected))
    assert sizes == [8] * (total // 8) + [total % 8] * bool(total % 8)


def test_a_result_comes_as_soon_as_its_windows_are_embedded(noise_folder):
    sizes: list[int] = []
    paths = sorted(noise_folder.glob("*.wav"))
    results = embed_files(recording_model(sizes), paths, Framing(1.0, 0.4), batch_size=4)
    assert next(results).path == paths[0]
    assert sum(sizes) <= 12  # its 4 windows, and at most two batches of the files after it


def test_a_bad_file_spoils_no_other(noise_folder):
    """It shares batches with its neighbours; one breaks off after its first windows, one has a loud window."""
    paths = sorted(noise_folder.glob("*.wav"))
    flac = noise_folder / "clip04.flac"
    soundfile.write(flac, np.random.default_rng(0).uniform(-0.1, 0.1, 8000 * 40), 8000)
    content = flac.read_bytes()
    flac.write_bytes(content[: len(content) // 2])
    loud = load_audio(paths[7], 8000)
    loud[-100] = 0.99
    soundfile.write(paths[7], loud, 8000)
    paths[4] = flac

    def refuse_loud(windows: np.ndarray) -> np.ndarray:
        if windows.max() > 0.9:
            raise RuntimeError("too loud")
        return first_and_last(windows)

    model = FunctionModel("shy", refuse_loud, 8000, embedding_size=2)
    framing = Framing(1.0, 0.4)
    results = list(embed_files(model, paths, framing, batch_size=16))
    assert [index for index, result in enumerate(results) if result.embedding is None] == [4, 7]
    assert results[4].error.startswith(("damaged after", "truncated"))
    assert results[7].error.startswith("shy: failed on windows")
    for path, result in zip(paths, results, strict=True):
        if result.embedding is not None:
            np.testing.assert_array_equal(result.embedding, first_and_last(expected_windows(path, framing)))


@pytest.fixture(scope="module")
def student_folder(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("student")
    save_student(Student(StudentConfig(embedding_size=5, filters=(4, 6), n_mels=16)), folder, {}, "card")
    return folder


@pytest.mark.parametrize("backend", ["torch", "onnx"])
@pytest.mark.parametrize("hop", [0.1, 0.25, 0.333, 1.0, 2.5])
@pytest.mark.parametrize("center", [True, False])
def test_a_student_gives_what_it_gives_for_each_window(student_folder, tmp_path, backend, hop, center):
    student = edgesea.load_student(student_folder, "cpu", backend)
    paths = [write_noise(tmp_path / f"{i}.wav", seconds, rate, i) for i, (seconds, rate) in enumerate(
        [(0.3, 8000), (12.3, 44100), (1.0, 8000), (3.21, 22050)]
    )]  # fmt: skip
    framing = Framing(1.0, hop, center)
    for path, result in zip(paths, embed_files(student, paths, framing, batch_size=16), strict=True):
        expected = student.embed(expected_windows(path, framing))
        assert result.embedding is not None
        np.testing.assert_allclose(result.embedding, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("backend", ["torch", "onnx"])
def test_windows_of_another_length_are_refused(student_folder, tmp_path, backend):
    student = edgesea.load_student(student_folder, "cpu", backend)
    path = write_noise(tmp_path / "a.wav")
    with pytest.raises(EdgeseaError, match=r"windows must last 1\.0 s, not 0\.5 s"):
        list(embed_files(student, [path], Framing(0.5, 0.1)))


def test_another_device_than_the_cpu_gets_the_windows_themselves(student_folder):
    student = edgesea.load_student(student_folder, "cpu", backend="torch")
    assert input_of(student)[1] == student.embed_log_mel
    assert input_of(student.to("meta")) == (piece_windows, student.embed)
