"""``embed``, `process_file` and `process_files`: which results are written, skipped and refused."""

import json
import os
import warnings
from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import make_student, write_noise
from quick_model import BY_NAME, QUICK, of_file

from edgesea import EdgeseaError, EdgeseaWarning, get_embedding, load_student, process_file, process_files
from edgesea.embed.files import embed


def load(path: Path) -> tuple[np.ndarray, np.ndarray]:
    with np.load(path) as file:
        assert sorted(file.files) == ["embedding", "provenance", "timestamps"]
        return file["embedding"], file["timestamps"]


def test_workers_batches_and_functions_do_not_change_the_result(noise_folder, tmp_path):
    paths = sorted(noise_folder.glob("*.wav"))
    embed([noise_folder], model=BY_NAME, out=tmp_path / "a", workers=1)
    embed([noise_folder], model=BY_NAME, out=tmp_path / "b", workers=4, batch_size=3)
    results = process_files([*paths, paths[0]], str(tmp_path / "c"), "many", QUICK, batch_size=7, workers=3)
    assert results == [tmp_path / "c" / f"{path.stem}_many.npz" for path in [*paths, paths[0]]]
    for path in paths:
        for found in ("a/{}.npz", "b/{}.npz", "c/{}_many.npz"):
            embedding, timestamps = load(tmp_path / found.format(path.stem))
            np.testing.assert_array_equal(embedding, of_file(QUICK, path))
            np.testing.assert_array_equal(timestamps, 0.1 * np.arange(len(embedding)))


def test_results_keep_their_place_below_the_folder(tmp_path):
    for place in ("x/a.wav", "y/a.wav", "a.wav", "a.flac"):
        write_noise(tmp_path / "in" / place)
    (tmp_path / "in" / ".hidden.wav").write_text("no audio")
    assert embed([tmp_path / "in"], model=BY_NAME, out=tmp_path / "out", suffix="quick")["files"] == 4
    results = [path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.npz")]
    assert sorted(results) == ["a.flac_quick.npz", "a.wav_quick.npz", "x/a_quick.npz", "y/a_quick.npz"]
    assert embed([tmp_path / "in"], model=BY_NAME, out=tmp_path / "flat", recursive=False)["files"] == 2


def test_a_recording_has_one_result_however_it_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first, second = write_noise(Path("x/a.wav"), 2.0), write_noise(Path("x/a.flac"), 4.0)
    for order in ([first, second.absolute()], [second, first]):
        results = process_files([*order, tmp_path / "x" / ".." / "x" / "a.wav"], model=BY_NAME)
        assert {path.name: len(load(path)[0]) for path in results} == {"a.wav.npz": 16, "a.flac.npz": 36}
    assert embed([first, second, Path("x"), Path("x/../x")], model=BY_NAME)["present"] == 2
    with pytest.raises(EdgeseaError, match=r"a\.wav and .*a\.wav would both give"):
        process_files([first, write_noise(Path("y/a.wav"))], "out", model=QUICK)


@pytest.mark.parametrize("name", ["n" * 246 + ".wav", "é" * 122 + ".wav", "a\nb,c.wav", "caf\udce9.wav"])
def test_odd_names_are_no_obstacle(tmp_path, name):
    path = tmp_path / name
    os.rename(write_noise(tmp_path / "a.wav"), path)  # noqa: PTH104
    for key in ("files", "present"):
        assert embed([tmp_path], model=BY_NAME)[key] == 1
    load(path.with_suffix(".npz"))


def test_a_result_of_an_older_version_is_recognised(tmp_path):
    path = write_noise(tmp_path / "a.wav")
    result = process_file(path, model=QUICK)
    with np.load(result) as file:
        made_of = json.loads(file["provenance"].item())
    assert made_of.keys() == {
        "source",
        "bytes",
        "model",
        "digest",
        "hop",
        "center",
        "resampler",
        "precision",
        "edgesea",
    }
    old = {**made_of, "edgesea": "0.0.1", "modified_ns": 17, "sha256_of_ends": "ab12"}
    del old["bytes"], old["resampler"], old["precision"]
    np.savez(result, embedding=np.zeros((1, 3)), timestamps=np.zeros(1), provenance=np.array(json.dumps(old)))
    assert process_file(path, model=QUICK) == result
    assert load(result)[0].shape == (1, 3)


def test_a_result_of_other_options_or_audio_is_neither_taken_nor_replaced_unasked(tmp_path):
    paths = [write_noise(tmp_path / "a.wav"), write_noise(tmp_path / "b.wav")]
    embed([paths[0]], model=BY_NAME)
    old = (tmp_path / "a.npz").read_bytes()
    for options, difference in (
        ({"hop": 0.2}, "hop: 0.1 there, 0.2 here"),
        ({"center": False}, "center: True there, False here"),
        ({"model": BY_NAME.replace("8000", "16000")}, f"model: {BY_NAME} there"),
    ):
        report = embed(paths, **{"model": BY_NAME, "overwrite": False, **options})
        assert report["failed"][str(paths[0])].startswith(
            f"{tmp_path}/a.npz: exists, made of other input ({difference}"
        )
        assert report["files"] == 1
        (tmp_path / "b.npz").unlink()
    longer = write_noise(tmp_path / "y" / "a.wav", 4.0)
    with pytest.raises(EdgeseaError, match=r"a\.npz.*bytes"):
        process_file(longer, tmp_path, model=BY_NAME)
    assert (tmp_path / "a.npz").read_bytes() == old
    assert len(load(process_file(longer, tmp_path, model=BY_NAME, overwrite=True))[0]) == 36


def test_a_student_is_known_by_its_weights_and_not_by_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path, folder = write_noise(Path("a.wav")), make_student(Path("student"))
    made = process_file(path, model="student").stat().st_mtime_ns
    for name in ("./student", str(tmp_path / "student"), folder, load_student("student", engine="torch")):
        assert process_file(path, model=name).stat().st_mtime_ns == made
    make_student(folder, seed=1)  # trained into the same folder
    with pytest.raises(EdgeseaError, match=r"a\.npz.*digest"):
        process_file(path, model="student")


def test_what_is_not_a_result_is_neither_taken_nor_replaced_unasked(noise_folder):
    for index, content in enumerate((b"text", b"", b"PK\x03\x04 cut short")):
        (noise_folder / f"clip0{index}.npz").write_bytes(content)
    np.savez(noise_folder / "clip03.npz", embedding=np.zeros((1, 2)), timestamps=np.zeros(1))  # openl3's
    (noise_folder / "clip04.npz").mkdir()
    failed = embed([noise_folder], model=BY_NAME)["failed"]
    assert list(failed) == [str(noise_folder / f"clip0{index}.wav") for index in range(5)]
    assert all(f"clip0{index}.npz" in reason for index, reason in enumerate(failed.values()))
    assert (noise_folder / "clip00.npz").read_bytes() == b"text"
    assert list(embed([noise_folder], model=BY_NAME, overwrite=True)["failed"]) == [str(noise_folder / "clip04.wav")]
    load(noise_folder / "clip00.npz")


def test_a_bad_file_does_not_end_the_others(tmp_path, caplog):
    """Not one that cannot be decoded, nor one whose result cannot be written."""
    for name in ("a.wav", "x/b.wav", "n" * 250 + ".wav"):
        write_noise(tmp_path / "in" / name)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "x").write_text("in the way")
    (tmp_path / "in" / "text.wav").write_text("no audio")
    (tmp_path / "in" / "link.wav").symlink_to("nowhere.wav")
    soundfile.write(tmp_path / "in" / "nan.wav", np.full(8000, np.nan, np.float32), 8000, subtype="FLOAT")
    os.mkfifo(tmp_path / "pipe.wav")  # reading it would wait for a writer
    report = embed([tmp_path / "in", tmp_path / "pipe.wav"], model=BY_NAME, out=tmp_path / "out", suffix="embedding")
    assert report["files"] == 1
    reasons = {Path(path).name[:5]: reason for path, reason in report["failed"].items()}
    words = {"b.wav": "out/x", "nan.w": "NaN", "nnnnn": "too long", "pipe.": "pipe", "text.": "cannot be decoded"}
    assert reasons.keys() == words.keys()
    assert all(words[name] in reason for name, reason in reasons.items())
    assert "in/link.wav" in caplog.text


def test_process_files_embeds_the_good_ones_before_it_fails(tmp_path):
    (tmp_path / "bad.wav").write_text("no audio")
    good = [write_noise(tmp_path / f"{name}.wav") for name in "ab"]
    with pytest.raises(EdgeseaError, match=r"^1 of 3 .*bad\.wav"):
        process_files([good[0], tmp_path / "bad.wav", good[1]], model=QUICK)
    assert all(path.with_suffix(".npz").exists() for path in good)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["empty"], ["empty", ".flac"]),
        (["bad.wav"], ["bad.wav", "cannot be decoded"]),
        (["student", "a.wav", f"--model={BY_NAME}"], ["student", "model"]),
        (["a.wav", "student", "--weights=gone.pt"], ["student", "weights"]),
        (["a.wav", "--hop=0"], ["hop", "0"]),
        (["a.wav", "--batch_size=0"], ["batch_size", "0"]),
        (["a.wav", "--suffix=x/y"], ["suffix", "x/y"]),
    ],
)
def test_bad_input(tmp_path, monkeypatch, refuses, options, words):
    monkeypatch.chdir(tmp_path)
    write_noise(Path("a.wav"))
    Path("empty").mkdir()
    Path("bad.wav").write_text("no audio")
    make_student(Path("student"))
    refuses("embed", *options, *([] if "student" in options else [f"--model={BY_NAME}"]), words=words)
    assert not list(tmp_path.glob("*.npz"))


def test_process_file_checks_its_arguments(tmp_path):
    path = write_noise(tmp_path / "a.wav")
    for name, value in (("center", "yes"), ("overwrite", "no"), ("suffix", "a\0"), ("model", 64), ("path", tmp_path)):
        with pytest.raises(EdgeseaError, match=f"{name}|{tmp_path}"):
            process_file(**{"path": path, "model": QUICK, name: value})
    with pytest.raises(EdgeseaError, match="list"):
        process_files(str(path), model=QUICK)


@pytest.mark.parametrize(
    ("audio", "rate", "reasons"),
    [
        (np.zeros(400), 8000, ["lasts 0.05 s", "silent"]),
        (np.full(7999, 0.1), 8000, ["lasts 1 s, less than a window of 1 s"]),
        (np.full(8000, 0.1), 8000, []),
        (np.r_[np.zeros(479_999), 0.5], 48000, []),
    ],
)
def test_short_and_silent_files_get_a_warning(tmp_path, caplog, audio, rate, reasons):
    path = tmp_path / "a.wav"
    soundfile.write(path, audio, rate)
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        process_files([path], model=QUICK)
        get_embedding([audio], rate, QUICK)
    texts = [str(item.message) for item in found]
    expected = [f"{name}: {reason}" for name in (path, "audio[0]") for reason in reasons]
    assert all(text.startswith(start) for text, start in zip(texts, expected, strict=True))
    assert all(item.category is EdgeseaWarning and item.filename == __file__ for item in found)
    embed([path], model=BY_NAME, overwrite=True, quiet=True)
    assert not caplog.records
    embed([path], model=BY_NAME, overwrite=True)
    assert [record.getMessage() for record in caplog.records] == texts[: len(reasons)]
