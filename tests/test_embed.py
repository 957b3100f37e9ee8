import os
import tracemalloc
import warnings
from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import write_noise

from edgesea import EdgeseaWarning
from edgesea.audio.io import load_audio
from edgesea.audio.windows import Framing
from edgesea.embed import embed, process_file, process_files
from edgesea.errors import EdgeseaError
from edgesea.models import load_teacher
from edgesea.models.function import FunctionModel
from edgesea.models.inference import embed_files, file_windows


def mean_and_rms(windows: np.ndarray) -> np.ndarray:
    """A model that is quick."""
    return np.stack([windows.mean(1), np.sqrt(np.square(windows).mean(1))], 1)


QUICK = "callable:test_embed:mean_and_rms@8000"


def load(path: Path) -> tuple[np.ndarray, np.ndarray]:
    with np.load(path) as file:
        assert sorted(file.files) == ["embedding", "timestamps"]
        return file["embedding"], file["timestamps"]


def test_a_file_gives_what_edgel3_gives(shared_data, tmp_path):
    folder = shared_data / "edgel3"
    with np.load(folder / "chirp_8k_reference.npz") as reference:
        assert (reference["sr"], reference["hop_size"], reference["center"]) == (8000, 0.1, True)
        soundfile.write(tmp_path / "chirp.wav", reference["audio"], 8000, subtype="FLOAT")
        model = str(folder / "edgel3_sea_ust_audio_emb_64.h5.gz")
        embed([tmp_path / "chirp.wav"], model, hop=0.1, center=True)
        embedding, timestamps = load(tmp_path / "chirp.npz")
        assert embedding.dtype == np.float32
        np.testing.assert_array_equal(timestamps, reference["timestamps"])
        np.testing.assert_allclose(embedding, reference["embedding"], rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("center", [True, False])
@pytest.mark.parametrize("seconds", [0.4, 1.0, 12.3])
def test_embeddings_are_those_of_the_windows(tmp_path, center, seconds):
    path = write_noise(tmp_path / "a.wav", seconds, rate=44100)
    embed([path], "spectral", hop=0.25, center=center, batch_size=16)
    embedding, timestamps = load(tmp_path / "a.npz")
    windows = Framing(1.0, 0.25, center).at(16000).cut(load_audio(path, 16000)).copy()
    np.testing.assert_allclose(embedding, load_teacher("spectral").embed(windows), rtol=1e-4, atol=1e-3)
    np.testing.assert_array_equal(timestamps, 0.25 * np.arange(len(windows)))


def test_workers_and_batches_do_not_change_the_result(noise_folder, tmp_path):
    for name, workers, batch_size in (("a", 1, 64), ("b", 4, 3)):
        embed([noise_folder], QUICK, out=tmp_path / name, workers=workers, batch_size=batch_size)
    for index in range(12):
        first, second = (load(tmp_path / name / f"clip{index:02d}.npz")[0] for name in "ab")
        np.testing.assert_array_equal(first, second)


def test_results_keep_their_place_below_the_folder(tmp_path):
    for place in ("x/a.wav", "y/a.wav", "a.wav", "a.flac"):
        write_noise(tmp_path / "in" / place)
    report = embed([tmp_path / "in"], QUICK, out=tmp_path / "out", suffix="quick")
    assert report["files"] == 4
    results = [path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.npz")]
    assert sorted(results) == ["a.wav_quick.npz", "a_quick.npz", "x/a_quick.npz", "y/a_quick.npz"]


def test_no_result_is_written_over_another(tmp_path):
    clips = [write_noise(tmp_path / place / "a.wav") for place in "xyz"]
    with pytest.raises(EdgeseaError, match=r"z/a\.wav and .*y/a\.wav would both give .*out/a\.wav\.npz"):
        embed(clips, QUICK, out=tmp_path / "out")
    assert embed([clips[0], clips[0], tmp_path / "x"], QUICK)["files"] == 1  # named three times


def test_present_results_are_kept_unless_asked(noise_folder):
    first = embed([noise_folder], QUICK)
    assert (first["files"], first["present"]) == (12, 0)
    (noise_folder / "clip00.npz").unlink()
    (noise_folder / "clip01.npz").write_bytes(b"kept")
    second = embed([noise_folder], QUICK)
    assert (second["files"], second["present"]) == (1, 11)
    assert (noise_folder / "clip01.npz").read_bytes() == b"kept"
    assert embed([noise_folder], QUICK, overwrite=True)["files"] == 12
    load(noise_folder / "clip01.npz")


def test_bad_files_are_reported_and_the_others_embedded(noise_folder):
    (noise_folder / "clip03.wav").write_text("no audio")
    (noise_folder / ".hidden.wav").write_text("no audio")
    soundfile.write(noise_folder / "clip05.wav", np.full(8000, np.nan, np.float32), 8000, subtype="FLOAT")
    report = embed([noise_folder], QUICK)
    assert report["files"] == 10
    assert report["failed"] == {
        str(noise_folder / "clip03.wav"): "cannot be decoded: Format not recognised",
        str(noise_folder / "clip05.wav"): "holds NaN or Inf samples",
    }
    assert not (noise_folder / "clip03.npz").exists()


@pytest.mark.parametrize("name", ["n" * 246 + ".wav", "é" * 122 + ".wav", "a\nb,c.wav", "caf\udce9.wav"])
def test_odd_names_are_no_obstacle(tmp_path, name):
    path = tmp_path / name
    os.rename(write_noise(tmp_path / "a.wav"), path)  # noqa: PTH104
    assert embed([tmp_path], QUICK)["files"] == 1
    load(path.with_suffix(".npz"))


def test_unusable_input_is_an_error(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.wav").write_text("no audio")
    with pytest.raises(EdgeseaError, match="gone: no such file or folder"):
        embed([tmp_path / "gone"], QUICK)
    with pytest.raises(EdgeseaError, match="empty: no audio file found"):
        embed([tmp_path / "empty"], QUICK)
    with pytest.raises(EdgeseaError, match=r"none of 1 files could be embedded \(first: .*bad\.wav: cannot be decoded"):
        embed([tmp_path / "bad.wav"], QUICK)
    with pytest.raises(EdgeseaError, match="hop must be a positive number"):
        embed([tmp_path / "bad.wav"], QUICK, hop=0.0)


def test_a_model_that_fails_on_long_files_does_not_block_the_next_ones(tmp_path):
    """Decoding stops where the model gave up, and the threads serve the other files."""

    def refuse_loud(windows: np.ndarray) -> np.ndarray:
        return mean_and_rms(windows)[:, : 1 if np.abs(windows).max() > 0.5 else 2]

    for index in range(6):
        audio = np.full(8000 * 60, 0.9 if index < 5 else 0.1, np.float32)
        soundfile.write(tmp_path / f"{index}.wav", audio, 8000)
    model = FunctionModel("picky", refuse_loud, 8000, embedding_size=2)
    paths = sorted(tmp_path.glob("*.wav"))
    results = list(embed_files(model, paths, Framing(1.0, 0.5), batch_size=4, workers=2))
    assert [result.embedding is None for result in results] == [True] * 5 + [False]
    assert results[0].error == "picky: returned embeddings of 1 dimensions instead of 2"


def test_embeddings_that_are_no_numbers_are_not_written(noise_folder):
    def invalid(windows: np.ndarray) -> np.ndarray:
        return np.full((len(windows), 2), np.nan, np.float32)

    model = FunctionModel("broken", invalid, 8000)
    (result,) = embed_files(model, [noise_folder / "clip00.wav"], Framing(1.0, 0.5))
    assert (result.embedding, result.error) == (None, "broken gave NaN or Inf")


def test_long_files_are_cut_in_bounded_memory(tmp_path):
    """Half an hour would take 115 MB at the model's rate, and its windows twice that."""
    noise = np.random.default_rng(0).integers(-3000, 3000, 8000 * 60, np.int16)
    soundfile.write(tmp_path / "long.wav", np.tile(noise, 30), 8000)
    framing = Framing(1.0, 0.5, center=True).at(16000)
    tracemalloc.start()
    try:
        count = sum(len(block) for block in file_windows(tmp_path / "long.wav", framing, 16000, 64))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert count == framing.count(30 * 60 * 16000)
    assert peak < 60e6


def test_process_file_returns_where_the_result_is(tmp_path):
    path = write_noise(tmp_path / "in" / "a.wav")
    assert process_file(path, model=QUICK) == tmp_path / "in" / "a.npz"
    assert process_file(str(path), tmp_path / "new" / "out", model=QUICK) == tmp_path / "new" / "out" / "a.npz"
    assert process_file(path, str(tmp_path), "x", QUICK) == tmp_path / "a_x.npz"
    assert process_file(path, tmp_path, ".x", QUICK) == tmp_path / "a.x.npz"
    assert process_file(path, tmp_path, "", QUICK) == tmp_path / "a.npz"
    for result in (tmp_path / "in" / "a.npz", tmp_path / "a_x.npz", tmp_path / "a.x.npz"):
        assert load(result)[0].shape == (26, 2)
    assert load(process_file(path, tmp_path, "wide", QUICK, hop_size=1.0, center=False))[0].shape == (3, 2)
    with pytest.raises(EdgeseaError, match="suffix must be a part of a file's name, not 'x/y'"):
        process_file(path, tmp_path, "x/y", QUICK)


def test_process_file_keeps_a_result_unless_asked(tmp_path):
    path = write_noise(tmp_path / "a.wav")
    (tmp_path / "a.npz").write_bytes(b"kept")
    assert process_file(path, model=QUICK) == tmp_path / "a.npz"
    assert (tmp_path / "a.npz").read_bytes() == b"kept"
    process_file(path, model=QUICK, overwrite=True)
    load(tmp_path / "a.npz")


def test_process_files_gives_what_process_file_gives(noise_folder, tmp_path):
    paths = sorted(noise_folder.glob("*.wav"))
    results = process_files([*paths, paths[0]], tmp_path / "out", "many", QUICK, batch_size=7, workers=3)
    assert results == [tmp_path / "out" / f"{path.stem}_many.npz" for path in [*paths, paths[0]]]
    for path, result in zip(paths, results, strict=False):
        alone = load(process_file(path, tmp_path / "alone", model=QUICK))
        np.testing.assert_array_equal(load(result)[0], alone[0])
        np.testing.assert_array_equal(load(result)[1], alone[1])


def test_process_files_does_not_mix_up_equal_names(tmp_path):
    paths = [write_noise(tmp_path / "a.wav", 2.0), write_noise(tmp_path / "a.flac", 4.0)]
    results = process_files(paths, model=QUICK)
    assert [path.name for path in results] == ["a.npz", "a.flac.npz"]
    assert [len(load(path)[0]) for path in results] == [16, 36]


def test_process_files_embeds_the_good_ones_before_it_fails(tmp_path):
    (tmp_path / "bad.wav").write_text("no audio")
    good = [write_noise(tmp_path / f"{name}.wav") for name in "ab"]
    with pytest.raises(EdgeseaError, match=r"^1 of 3 files could not be embedded: .*bad\.wav: cannot be decoded"):
        process_files([good[0], tmp_path / "bad.wav", good[1]], model=QUICK)
    assert (tmp_path / "a.npz").exists()
    assert (tmp_path / "b.npz").exists()
    with pytest.raises(EdgeseaError, match=r"^\S*bad\.wav: cannot be decoded: Format not recognised$"):
        process_file(tmp_path / "bad.wav", model=QUICK)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("gone.wav", "gone.wav: no such file"),
        ("", "is a folder; name the files in it, or embed it: edgesea embed"),
        ("empty.wav", "empty.wav: holds no samples"),
        ("nan.wav", "nan.wav: holds NaN or Inf samples"),
    ],
)
def test_process_file_says_what_is_wrong(tmp_path, path, message):
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), 8000)
    soundfile.write(tmp_path / "nan.wav", np.full(8000, np.nan, np.float32), 8000, subtype="FLOAT")
    with pytest.raises(EdgeseaError, match=message):
        process_file(tmp_path / path, model=QUICK)
    assert not list(tmp_path.glob("*.npz"))


def test_process_file_checks_its_options(tmp_path):
    path = write_noise(tmp_path / "a.wav")
    for options, message in (
        ({"hop_size": 0}, "hop_size must be a positive number"),
        ({"center": "yes"}, "center must be True or False"),
        ({"batch_size": 0}, "batch_size must be a whole number of at least 1"),
        ({"model": 64}, "model must be a loaded student or teacher"),
    ):
        with pytest.raises(EdgeseaError, match=message):
            process_file(path, **{"model": QUICK, **options})
    with pytest.raises(EdgeseaError, match="expected the path of an audio file, not 5"):
        process_file(5, model=QUICK)
    with pytest.raises(EdgeseaError, match="workers must be a whole number of at least 1"):
        process_files([path], model=QUICK, workers=0)
    with pytest.raises(EdgeseaError, match="paths must be a list of files"):
        process_files(str(path), model=QUICK)


@pytest.mark.parametrize(
    ("audio", "hop", "expected"),
    [
        (np.zeros(80_000), 0.1, ["silent: all samples are zero"]),
        (np.zeros(400), 0.1, ["lasts 0.05 s, less than a window of 1 s; filled up with zeros", "silent: all samples"]),
        (np.full(7999, 0.1), 0.1, ["lasts 1 s, less than a window of 1 s"]),
        (np.full(8000, 0.1), 0.1, []),
        (np.full(80_000, 0.1), 1.0, []),
        (np.r_[np.zeros(79_999), 0.5], 0.1, []),
    ],
)
@pytest.mark.parametrize("center", [True, False])
def test_files_that_are_short_or_silent_get_a_warning(tmp_path, caplog, audio, hop, expected, center):
    soundfile.write(tmp_path / "a.wav", audio, 8000)
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        process_file(tmp_path / "a.wav", model=QUICK, hop_size=hop, center=center)
        process_files([tmp_path / "a.wav"], model=QUICK, hop_size=hop, center=center, overwrite=True)
    texts = [str(item.message) for item in found]
    assert [text.startswith(f"{tmp_path}/a.wav: {start}") for text, start in zip(texts, 2 * expected, strict=True)] == (
        2 * [True] * len(expected)
    )
    assert all(item.category is EdgeseaWarning and item.filename == __file__ for item in found)
    embed([tmp_path / "a.wav"], QUICK, hop=hop, center=center, overwrite=True, quiet=True)
    assert not caplog.records
    embed([tmp_path / "a.wav"], QUICK, hop=hop, center=center, overwrite=True)
    assert [record.getMessage() for record in caplog.records] == texts[: len(expected)]


def test_folders_are_searched_with_or_without_those_below(tmp_path):
    for place in ("a.wav", "b.txt", "x/c.wav", "x/y/d.wav"):
        write_noise(tmp_path / "in" / place) if place.endswith("wav") else (tmp_path / "in" / place).write_text("")
    assert embed([tmp_path / "in"], QUICK, out=tmp_path / "all")["files"] == 3
    assert embed([tmp_path / "in"], QUICK, out=tmp_path / "flat", recursive=False)["files"] == 1
    assert [path.name for path in (tmp_path / "flat").rglob("*.npz")] == ["a.npz"]


@pytest.mark.parametrize("option", ["batch_size", "workers"])
def test_counts_that_would_never_end_are_errors(tmp_path, option):
    with pytest.raises(EdgeseaError, match=f"{option} must be a whole number of at least 1, not 0"):
        embed([write_noise(tmp_path / "a.wav")], QUICK, **{option: 0})
