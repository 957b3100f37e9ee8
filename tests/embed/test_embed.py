import importlib
import os
import sys
import tracemalloc
import warnings
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from conftest import write_noise

from edgesea import EdgeseaWarning
from edgesea.audio.framing import Framing
from edgesea.audio.io import load_audio
from edgesea.embed.engine import embed_files
from edgesea.embed.files import embed, process_file, process_files
from edgesea.embed.results import read_provenance, result_paths, write_embedding
from edgesea.errors import EdgeseaError
from edgesea.models import load_student, load_teacher
from edgesea.models.foreign import FunctionModel
from edgesea.models.student_config import StudentConfig
from edgesea.models.student_files import save_student
from edgesea.models.student_torch import Student


def mean_and_rms(windows: np.ndarray) -> np.ndarray:
    """A model that is quick."""
    return np.stack([windows.mean(1), np.sqrt(np.square(windows).mean(1))], 1)


QUICK = "callable:test_embed:mean_and_rms@8000"


def load(path: Path) -> tuple[np.ndarray, np.ndarray]:
    with np.load(path) as file:
        assert sorted(file.files) == ["embedding", "provenance", "timestamps"]
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
    assert sorted(results) == ["a.flac_quick.npz", "a.wav_quick.npz", "x/a_quick.npz", "y/a_quick.npz"]


def test_no_result_is_written_over_another(tmp_path):
    clips = [write_noise(tmp_path / place / "a.wav") for place in "xyz"]
    with pytest.raises(EdgeseaError, match=r"y/a\.wav and .*x/a\.wav would both give .*out/a\.wav\.npz"):
        embed(clips, QUICK, out=tmp_path / "out")
    report = embed([clips[0], clips[0], tmp_path / "x", tmp_path / "y" / ".." / "x"], QUICK)  # named four times
    assert (report["files"], report["windows"]) == (1, 26)
    assert [path.name for path in (tmp_path / "x").glob("*.npz")] == ["a.npz"]


def test_names_do_not_depend_on_the_order_of_the_files(tmp_path):
    paths = [write_noise(tmp_path / name, seconds) for name, seconds in (("b.flac", 2.0), ("b.wav", 4.0), ("c.wav", 1))]
    for order in (paths, paths[::-1]):
        names = {path: target.name for path, target in result_paths(order, tmp_path / "out", "x").items()}
        assert names == dict(zip(paths, ("b.flac_x.npz", "b.wav_x.npz", "c_x.npz"), strict=True))
    with pytest.raises(EdgeseaError, match=r"b\.wav\.ogg and .*b\.wav would both give .*b\.wav\.npz"):
        result_paths([*paths, write_noise(tmp_path / "b.wav.ogg")], None)


def test_a_recording_has_one_result_however_it_is_spelled(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first, second = write_noise(Path("x/a.wav"), 2.0), write_noise(Path("x/a.flac"), 4.0)
    results = process_files([first, second.absolute(), tmp_path / "x" / ".." / "x" / "a.wav"], model=QUICK)
    assert [path.name for path in results] == ["a.wav.npz", "a.flac.npz", "a.wav.npz"]
    assert [len(load(path)[0]) for path in results] == [16, 36, 16]
    for order in ([Path(), Path("x"), first], [first, Path("x"), Path()]):
        targets = {path.name: target for path, target in result_paths(order, "out").items()}
        assert targets == {"a.wav": Path("out/x/a.wav.npz"), "a.flac": Path("out/x/a.flac.npz")}


def test_a_model_is_the_same_by_another_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = write_noise(Path("a.wav"))
    save_student(Student(StudentConfig(3, (4, 4))), Path("student"), {}, "card")
    made = process_file(path, model="student").stat().st_mtime_ns
    for name in ("./student", str(tmp_path / "student"), Path("student"), load_student("student", backend="torch")):
        assert process_file(path, model=name).stat().st_mtime_ns == made


def test_models_without_a_digest_are_told_apart_by_name_and_version(tmp_path):
    path = write_noise(tmp_path / "a.wav")
    process_file(path, model="spectral")
    old = {**read_provenance(tmp_path / "a.npz"), "edgesea": "0.0.1"}
    write_embedding(tmp_path / "a.npz", *load(tmp_path / "a.npz"), old)
    with pytest.raises(EdgeseaError, match=r"made of other input \(edgesea: 0\.0\.1 there, "):
        process_file(path, model="spectral")


def test_present_results_are_kept(noise_folder):
    first = embed([noise_folder], QUICK)
    assert (first["files"], first["present"]) == (12, 0)
    before = {path: path.stat().st_mtime_ns for path in noise_folder.glob("*.npz")}
    (noise_folder / "clip00.npz").unlink()
    second = embed([noise_folder], QUICK)
    assert (second["files"], second["present"]) == (1, 11)
    after = {path: path.stat().st_mtime_ns for path in noise_folder.glob("*.npz")}
    assert [path.name for path in before if before[path] != after[path]] == ["clip00.npz"]
    assert embed([noise_folder], QUICK, overwrite=True)["files"] == 12


@pytest.mark.parametrize(
    ("options", "difference"),
    [
        ({"hop": 0.2}, "hop: 0.1 there, 0.2 here"),
        ({"center": False}, "center: True there, False here"),
        ({"model": QUICK.replace("8000", "16000")}, f"model: {QUICK} there, {QUICK.replace('8000', '16000')} here"),
    ],
)
def test_a_result_made_with_other_options_is_neither_taken_nor_replaced_unasked(tmp_path, options, difference):
    paths = [write_noise(tmp_path / "a.wav"), write_noise(tmp_path / "b.wav")]
    embed([paths[0]], QUICK)
    old = (tmp_path / "a.npz").read_bytes()
    report = embed(paths, **{"model": QUICK, **options})
    assert report["files"] == 1
    reason = f"{tmp_path}/a.npz: exists, made of other input ({difference}); choose another folder or suffix"
    assert report["failed"][str(paths[0])].startswith(reason)
    assert (tmp_path / "a.npz").read_bytes() == old
    embed(paths, **{"model": QUICK, **options}, overwrite=True)
    assert (tmp_path / "a.npz").read_bytes() != old


def test_the_weights_of_a_model_tell_it_from_another_of_its_name(tmp_path):
    """Two students that are trained into one folder one after the other have one path."""
    path = write_noise(tmp_path / "a.wav")
    for seed in range(2):
        torch.manual_seed(seed)
        save_student(Student(StudentConfig(3, (4, 4))), tmp_path / "student", {}, "card")
        if seed == 0:
            assert load(process_file(path, model=tmp_path / "student"))[0].shape == (26, 3)
    with pytest.raises(EdgeseaError, match=r"a\.npz: exists, made of other input \(digest: \w+"):
        process_file(path, model=tmp_path / "student")


def test_a_result_of_another_recording_is_neither_taken_nor_replaced_unasked(tmp_path):
    """Of two of one name in one folder, and of one that has changed since."""
    first, second = write_noise(tmp_path / "x" / "a.wav", 2.0), write_noise(tmp_path / "y" / "a.wav", 4.0)
    target = process_file(first, tmp_path / "out", model=QUICK)
    with pytest.raises(EdgeseaError, match=r"out/a\.npz: exists, made of other input \(bytes: "):
        process_file(second, tmp_path / "out", model=QUICK)
    with pytest.raises(EdgeseaError, match=r"y/a\.wav and .*x/a\.wav would both give"):
        process_files([first, second], tmp_path / "out", model=QUICK)
    write_noise(first, 3.0)
    with pytest.raises(EdgeseaError, match="modified_ns: "):
        process_file(first, tmp_path / "out", model=QUICK)
    assert len(load(target)[0]) == 16
    assert len(load(process_file(first, tmp_path / "out", model=QUICK, overwrite=True))[0]) == 26


def test_recordings_of_one_name_size_and_time_are_told_apart(tmp_path):
    """As recorders on one schedule make them."""
    rng = np.random.default_rng(0)
    for place in "xy":
        (tmp_path / place).mkdir()
        soundfile.write(tmp_path / place / "a.wav", rng.uniform(-0.5, 0.5, 8000 * 30), 8000)
        os.utime(tmp_path / place / "a.wav", (1.7e9, 1.7e9))
    process_file(tmp_path / "x" / "a.wav", tmp_path / "out", model=QUICK)
    with pytest.raises(EdgeseaError, match=r"out/a\.npz: exists, made of other input \(sha256_of_ends: "):
        process_file(tmp_path / "y" / "a.wav", tmp_path / "out", model=QUICK)


def test_a_result_that_comes_into_being_meanwhile_is_not_replaced(tmp_path):
    path = write_noise(tmp_path / "a.wav")

    def slow(windows: np.ndarray) -> np.ndarray:
        if len(windows) > 1:  # not the trial
            (tmp_path / "a.npz").write_bytes(b"of another process")
        return mean_and_rms(windows)

    with pytest.raises(EdgeseaError, match=r"a\.npz: not a complete file of edgesea's embeddings; choose another"):
        process_file(path, model=FunctionModel("slow", slow, 8000))
    assert (tmp_path / "a.npz").read_bytes() == b"of another process"


def test_a_function_that_was_changed_is_another_model(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    path = write_noise(tmp_path / "a.wav")
    for factor in (1, 2):
        (tmp_path / "changing.py").write_text(f"def f(windows):\n    return {factor} * windows[:, :2]\n" + "#" * factor)
        sys.modules.pop("changing", None)
        importlib.invalidate_caches()
        if factor == 1:
            process_file(path, model="callable:changing:f@8000")
    with pytest.raises(EdgeseaError, match=r"made of other input \(digest: "):
        process_file(path, model="callable:changing:f@8000")


def test_a_model_among_the_recordings_is_an_error_and_nothing_is_embedded(tmp_path):
    path = write_noise(tmp_path / "a.wav")
    save_student(Student(StudentConfig(3, (4, 4))), tmp_path / "student", {}, "card")
    (tmp_path / "sea.h5.gz").touch()
    for model in ("student", "sea.h5.gz"):
        with pytest.raises(
            EdgeseaError, match=f"{model}: a model, where a recording was expected; the model comes last"
        ):
            embed([tmp_path / model, path], QUICK)
    assert not list(tmp_path.glob("*.npz"))
    with pytest.raises(EdgeseaError, match="student: a student; weights are a teacher's"):
        embed([path], str(tmp_path / "student"), weights=tmp_path / "gone")


def test_what_cannot_be_read_is_told_of(tmp_path, caplog):
    write_noise(tmp_path / "in" / "a.wav")
    os.mkfifo(tmp_path / "pipe.wav")  # reading it would wait for a writer
    (tmp_path / "in" / "b.wav").symlink_to("nowhere.wav")
    report = embed([tmp_path / "in", tmp_path / "pipe.wav"], QUICK, out=tmp_path / "out")
    assert report["files"] == 1
    assert "is a pipe or a device; raw PCM is read with embed --stdin" in report["failed"][str(tmp_path / "pipe.wav")]
    assert f"{tmp_path}/in/b.wav: left out: a link that leads nowhere" in [r.getMessage() for r in caplog.records]


@pytest.mark.parametrize("content", [b"", b"kept", b"PK\x03\x04 cut short"])
def test_what_is_no_result_is_neither_taken_nor_replaced_unasked(noise_folder, content):
    (noise_folder / "clip01.npz").write_bytes(content)
    np.savez(noise_folder / "clip02.npz", embedding=np.zeros((1, 2)), timestamps=np.zeros(1))  # openl3's
    (noise_folder / "clip03.npz").mkdir()
    report = embed([noise_folder], QUICK)
    assert report["files"] == 9
    assert [Path(path).name for path in report["failed"]] == ["clip01.wav", "clip02.wav", "clip03.wav"]
    no_result, _, folder = report["failed"].values()
    assert "clip01.npz: not a complete file of edgesea's embeddings; choose another folder or suffix, or" in no_result
    assert "clip03.npz: a folder, where a file is to be written" in folder
    assert (noise_folder / "clip01.npz").read_bytes() == content
    again = embed([noise_folder], QUICK, overwrite=True)
    assert again["files"] == 11
    assert [Path(path).name for path in again["failed"]] == ["clip03.wav"]
    load(noise_folder / "clip01.npz")


def test_a_result_that_cannot_be_written_does_not_end_the_others(tmp_path):
    """Its name is too long for the file system, or a file stands where its folder is needed."""
    for name in ("a.wav", "x/b.wav", "n" * 250 + ".wav"):
        write_noise(tmp_path / "in" / name)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "x").write_text("in the way")
    report = embed([tmp_path / "in"], QUICK, out=tmp_path / "out", suffix="embedding")
    assert report["files"] == 1
    reasons = {Path(path).name[:5]: reason for path, reason in report["failed"].items()}
    assert sorted(reasons) == ["b.wav", "nnnnn"]
    assert "out/x: a file, where a folder is needed" in reasons["b.wav"]
    assert "File name too long" in reasons["nnnnn"]


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
    framing, model = Framing(1.0, 0.5, center=True), FunctionModel("quick", mean_and_rms, 16000, embedding_size=2)
    tracemalloc.start()
    try:
        (result,) = embed_files(model, [tmp_path / "long.wav"], framing)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(result.embedding) == framing.at(16000).count(30 * 60 * 16000)
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
    made = process_file(path, model=QUICK).stat().st_mtime_ns
    assert process_file(path, model=QUICK).stat().st_mtime_ns == made
    assert process_file(path, model=QUICK, overwrite=True).stat().st_mtime_ns != made


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
    assert [path.name for path in results] == ["a.wav.npz", "a.flac.npz"]
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
        ("gone.wav", "gone.wav: no such file or folder"),
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
        ({"overwrite": "no"}, "overwrite must be True or False, not 'no'"),
        ({"output_dir": 5}, "expected the path of a folder for the results, not 5"),
        ({"suffix": "a\0"}, "suffix must be a part of a file's name"),
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
