"""Files embedded in batches that reach over them, with frames that overlapping windows share."""

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import cut_windows, load_audio, write_noise

import edgesea
from edgesea.audio.framing import Framing, PieceCutter
from edgesea.embed.engine import Failure, cut_rows, embed_files, embed_sources
from edgesea.errors import EdgeseaError
from edgesea.models.foreign import FunctionModel


def first_and_last(windows: np.ndarray) -> np.ndarray:
    return windows[:, [0, -1]]


def recording_model(sizes: list[int]) -> FunctionModel:
    """It also notes how many windows come together."""
    return FunctionModel("recording", lambda rows: sizes.append(len(rows)) or first_and_last(rows), 8000, None, 2)


def expected_windows(path: Path, framing: Framing) -> np.ndarray:
    return cut_windows(framing.at(8000), load_audio(path, 8000))


def test_batches_reach_over_files_and_a_result_comes_as_soon_as_its_windows_are_embedded(noise_folder):
    sizes: list[int] = []
    paths = sorted(noise_folder.glob("*.wav"))
    framing = Framing(1.0, 0.4)
    results = embed_files(recording_model(sizes), paths, framing, batch_size=8)
    first = next(results)
    assert sum(sizes) <= 24  # of 90: its 4 windows, and those of the files after it
    for result, path in zip([first, *results], paths, strict=True):
        assert result.path == path
        np.testing.assert_array_equal(result.embedding, first_and_last(expected_windows(path, framing)))
    assert sizes == [8] * 11 + [2]


def test_a_bad_file_spoils_no_other(noise_folder):
    """It shares batches with its neighbours; one breaks off after its first windows, one has a loud window."""
    paths = sorted(noise_folder.glob("*.wav"))
    paths[4] = write_noise(noise_folder / "clip04.flac", 40.0)
    os.truncate(paths[4], paths[4].stat().st_size // 2)
    loud = load_audio(paths[7], 8000)
    loud[-100] = 0.99
    soundfile.write(paths[7], loud, 8000)

    def refuse_loud(windows: np.ndarray) -> np.ndarray:
        if windows.max() > 0.9:
            raise RuntimeError("too loud")
        return first_and_last(windows)

    framing = Framing(1.0, 0.4)
    results = embed_files(FunctionModel("shy", refuse_loud, 8000, embedding_size=2), paths, framing, batch_size=16)
    for index, (path, result) in enumerate(zip(paths, results, strict=True)):
        if index in (4, 7):
            assert result.embedding is None
            assert result.error.startswith("shy: " if index == 7 else ("damaged", "truncated"))
        else:
            np.testing.assert_array_equal(result.embedding, first_and_last(expected_windows(path, framing)))


@pytest.mark.parametrize("engine", ["torch", "onnx", "openvino"])
@pytest.mark.parametrize("hop", [0.1, 0.333, 2.5])
@pytest.mark.parametrize("center", [True, False])
def test_a_student_gives_what_it_gives_for_each_window(random_student, tmp_path, engine, hop, center):
    student = edgesea.load_student(random_student, "cpu", engine)
    cases = [(0.3, 8000), (12.3, 44100), (1.0, 8000), (3.21, 22050)]
    paths = [write_noise(tmp_path / f"{index}.wav", *case, index) for index, case in enumerate(cases)]
    framing = Framing(1.0, hop, center)
    for path, result in zip(paths, embed_files(student, paths, framing, batch_size=16), strict=True):
        expected = student.embed(expected_windows(path, framing))
        assert result.embedding is not None
        np.testing.assert_allclose(result.embedding, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_torch_gets_the_windows_themselves(random_student):
    student = edgesea.load_student(random_student, "cpu", engine="torch")
    framing = Framing(1.0, 0.1).at(8000)
    (piece,) = PieceCutter(framing, 1).feed(np.zeros(8001, np.float32))
    assert cut_rows(student, piece, framing).shape == (1, 8000)


def read_numbers(name: str) -> Iterator[tuple[str, np.ndarray]]:
    """Pieces of one, two ... rows of that number; a name that ends with x fails in the end."""
    for count in range(1, int(name[0]) + 1):
        yield f"{name}-{count}", np.full((count, 4), float(name[0]), np.float32)
    if name.endswith("x"):
        raise EdgeseaError("broken")


def test_pieces_of_any_sources_come_in_order_and_a_failure_last():
    sizes: list[int] = []
    names = ["3", "2x", "1", "4", "2", "9x", "1"]
    found = list(embed_sources(recording_model(sizes), names, read_numbers, batch_size=4, workers=3))
    assert [item[:2] for item in found if item[0] == "2x"] == [("2x", "2x-1"), ("2x", "broken")]  # two rows waited
    assert [item.source for item in found if isinstance(item, Failure)] == ["2x", "9x"]
    pieces = [item for item in found if not isinstance(item, Failure)]
    expected = [piece for name in names if "x" not in name for piece, _ in read_numbers(name)]
    assert [piece for source, piece, _ in pieces if "x" not in source] == expected
    for source, piece, embedding in pieces:
        np.testing.assert_array_equal(embedding, np.full((int(piece[-1]), 2), float(source[0])))


def test_rows_that_are_embeddings_already_are_only_checked():
    def read(value: float) -> Iterator[tuple[int, np.ndarray]]:
        yield 0, np.zeros((3, 2), np.float16)
        yield 1, np.full((1, 5), value, np.float32)

    found = list(embed_sources(None, [1, np.inf, 2], read, batch_size=8, workers=1))
    bad = (np.inf, "the embeddings hold NaN or Inf")
    assert [item[:2] for item in found] == [(1, 0), (1, 1), (np.inf, 0), bad, (2, 0), (2, 1)]
    assert (found[0][2].dtype, found[0][2].shape) == (np.float16, (3, 2))


def test_an_error_of_the_model_that_is_not_a_users_ends_all_with_no_thread_left(monkeypatch):
    model, before = recording_model([]), threading.active_count()
    monkeypatch.setattr(model, "embed", lambda windows: {}["bug"])
    with pytest.raises(KeyError):
        list(embed_sources(model, ["9"] * 50, read_numbers, batch_size=4, workers=2))
    assert threading.active_count() == before
