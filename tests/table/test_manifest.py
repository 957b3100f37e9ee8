import hashlib
import re

import numpy as np
import pandas as pd
import pytest
from conftest import write_noise

from edgesea.errors import EdgeseaError
from edgesea.table.manifest import hash_split, manifest_digest, read_manifest


def write_csv(folder, text):
    path = folder / "manifest.csv"
    path.write_text(text)
    return path


# --- folders


def test_a_folder_gives_its_audio_sorted_by_name(tmp_path):
    for name in ("b.wav", "a/c.FLAC", "a/b.ogg", ".hidden.wav", "notes.txt", "a/.cache/d.mp3"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "folder.wav").mkdir()
    entries = read_manifest(tmp_path)
    assert [entry.clip for entry in entries] == ["a/.cache/d.mp3", "a/b.ogg", "a/c.FLAC", "b.wav"]
    assert all(entry.path == tmp_path / entry.clip for entry in entries)
    assert {(entry.sensor, entry.time, entry.level) for entry in entries} == {(None, None, None)}


def test_subfolders_named_like_splits_are_the_splits(tmp_path):
    for name in ("train/a.wav", "validate/deep/b.wav", "test/c.wav", "other/d.wav", "train.wav"):
        write_noise(tmp_path / name, 0.1)
    splits = {entry.clip: entry.split for entry in read_manifest(tmp_path, validate=0.0)}
    assert splits == {
        "train/a.wav": "train",
        "validate/deep/b.wav": "validate",
        "test/c.wav": "test",
        "other/d.wav": "train",
        "train.wav": "train",
    }


@pytest.mark.parametrize("name", [" a.wav", "a .wav", "\n.wav", "b/ c .wav", 'a"b,c.wav', "ü🎤.wav"])
def test_names_are_kept_as_they_are(tmp_path, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).touch()
    (entry,) = read_manifest(tmp_path)
    assert entry.clip == name
    assert entry.path.is_file()


def test_bytes_that_are_no_utf8_are_spelled_out(tmp_path):
    """Parquet holds UTF-8 only."""
    (tmp_path / "caf\udce9.wav").touch()
    (entry,) = read_manifest(tmp_path)
    assert entry.clip == r"caf\xe9.wav"
    assert entry.path.is_file()


@pytest.mark.parametrize("make", [lambda path: path.mkdir(), lambda path: (path.mkdir(), (path / "a.txt").touch())])
def test_a_folder_without_audio_is_refused(tmp_path, make):
    make(tmp_path / "empty")
    with pytest.raises(EdgeseaError, match=r"empty: no audio file found \(endings: .*\.wav"):
        read_manifest(tmp_path / "empty")


# --- splits


def test_the_hash_split_never_changes():
    """Published splits depend on it; it is a function of the name alone."""
    names = [f"clip{index:03d}.wav" for index in range(30)]
    assert [name[4:7] for name in names if hash_split(name, 0.1) == "validate"] == ["000", "027", "029"]
    golden = ["000", "001", "003", "016", "020", "022", "025", "027", "029"]
    assert [name[4:7] for name in names if hash_split(name, 0.3) == "validate"] == golden


def test_the_hash_split_gives_the_share():
    names = [f"sensor{index % 7}/{index}.wav" for index in range(5000)]
    for share in (0.0, 0.1, 0.25, 0.5):
        found = np.mean([hash_split(name, share) == "validate" for name in names])
        assert found == pytest.approx(share, abs=0.02)


def test_a_larger_share_keeps_the_clips_of_a_smaller_one():
    names = [f"{index}.wav" for index in range(500)]
    assert {n for n in names if hash_split(n, 0.1) == "validate"} < {
        n for n in names if hash_split(n, 0.2) == "validate"
    }


def test_a_condition_on_a_column_chooses_what_validates(tmp_path):
    source = write_csv(tmp_path, "path,fold\na.wav,1\nb.wav,5\nc.wav,15\nd.wav,5\n")
    splits = [entry.split for entry in read_manifest(source, validate="fold = 5")]
    assert splits == ["train", "validate", "train", "validate"]


def test_a_split_in_the_manifest_goes_before_share_and_condition(tmp_path):
    source = write_csv(tmp_path, "path,fold,split\na.wav,5,test\nb.wav,1,validate\nc.wav,5,\nd.wav,1,train\n")
    assert [entry.split for entry in read_manifest(source, validate="fold=5")] == [
        "test",
        "validate",
        "validate",
        "train",
    ]
    assert [entry.split for entry in read_manifest(source, validate=0.0)] == ["test", "validate", "train", "train"]


@pytest.mark.parametrize("validate", [-0.1, 1.0, float("nan"), "half"])
def test_impossible_shares_are_refused(tmp_path, validate):
    with pytest.raises(EdgeseaError, match="validate: "):
        read_manifest(write_csv(tmp_path, "path\na.wav\n"), validate=validate)


def test_conditions_need_their_column(tmp_path):
    with pytest.raises(EdgeseaError, match=r"manifest\.csv: no column 'fold'; it has path, split"):
        read_manifest(write_csv(tmp_path, "path,split\na.wav,train\n"), validate="fold=5")
    write_noise(tmp_path / "a.wav", 0.1)
    with pytest.raises(EdgeseaError, match="the condition 'fold=5' needs a manifest"):
        read_manifest(tmp_path, validate="fold=5")


# --- manifests


def test_labels_may_have_another_name_and_be_missing(tmp_path):
    source = write_csv(tmp_path, "filename,category\na.wav,dog\nb.wav,\n")
    entries = read_manifest(source, columns={"path": "filename", "label": "category"})
    assert [entry.label for entry in entries] == ["dog", None]
    assert [entry.label for entry in read_manifest(source, columns={"path": "filename"})] == [None, None]
    pd.DataFrame({"path": ["a.wav", "b.wav"], "label": [7, 8]}).to_parquet(tmp_path / "manifest.parquet")
    assert [entry.label for entry in read_manifest(tmp_path / "manifest.parquet")] == ["7", "8"]


def test_the_digest_is_that_of_everything_but_labels(tmp_path):
    def digest(text):
        return manifest_digest(read_manifest(write_csv(tmp_path, text)))

    plain = digest("path,sensor\na.wav,s\n")
    assert digest("path,sensor,label\na.wav,s,dog\n") == plain
    assert digest("path,sensor\na.wav,t\n") != plain
    # As before there were labels.
    entry = ("a.wav", "s", None, "train", None, -1)
    assert plain == hashlib.sha256(repr(entry).encode()).hexdigest()


def test_paths_are_relative_to_the_root(tmp_path):
    source = write_csv(tmp_path, f"path\nb/x.wav\n{tmp_path}/a/y.wav\n/elsewhere/z.wav\n")
    assert [entry.clip for entry in read_manifest(source)] == ["/elsewhere/z.wav", "a/y.wav", "b/x.wav"]
    inner = read_manifest(source, root=tmp_path / "a")
    assert [entry.clip for entry in inner] == ["/elsewhere/z.wav", "b/x.wav", "y.wav"]
    assert inner[1].path == tmp_path / "a" / "b" / "x.wav"


def test_a_clip_that_is_named_twice_counts_once(tmp_path):
    source = write_csv(tmp_path, "path,sensor\na.wav,first\n./a.wav,second\nb.wav,\n")
    assert [(entry.clip, entry.sensor) for entry in read_manifest(source)] == [("a.wav", "first"), ("b.wav", None)]


def test_spreadsheets_write_a_byte_order_mark(tmp_path):
    (tmp_path / "manifest.csv").write_bytes(b"\xef\xbb\xbfpath,sensor\r\na.wav,s1\r\n")
    (entry,) = read_manifest(tmp_path / "manifest.csv")
    assert (entry.clip, entry.sensor) == ("a.wav", "s1")


def test_parquet_manifests_may_hold_dates_lists_and_numbers(tmp_path):
    frame = pd.DataFrame(
        {
            "path": ["a.wav", "b.wav"],
            "sensor": [3, 4],
            "time": [pd.Timestamp("2020-05-01T12:30:00"), pd.NaT],
            "level": [[50.0, 60.0], None],
        }
    )
    frame.to_parquet(tmp_path / "manifest.parquet")
    first, second = read_manifest(tmp_path / "manifest.parquet")
    assert (first.sensor, first.time, first.level) == ("3", "2020-05-01T12:30:00", (50.0, 60.0))
    assert (second.sensor, second.time, second.level) == ("4", None, None)


@pytest.mark.parametrize(
    ("text", "level"),
    [("65.5", (65.5,)), ("[50, 60]", (50.0, 60.0)), ("50 60;70", (50.0, 60.0, 70.0)), ("", None), ("[]", None)],
)
def test_levels_are_numbers_or_lists(tmp_path, text, level):
    source = write_csv(tmp_path, f'path,level\na.wav,"{text}"\n')
    assert read_manifest(source)[0].level == level


@pytest.mark.parametrize("text", ["loud", "[50, null]", "[50", "{}", "nan", "50 inf", '[""a""]'])
def test_other_levels_are_refused(tmp_path, text):
    source = write_csv(tmp_path, f'path,level\na.wav,"{text}"\n')
    with pytest.raises(
        EdgeseaError, match=r"manifest\.csv: a\.wav: level .* is neither a number nor a list of numbers"
    ):
        read_manifest(source)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the manifest has no rows"),
        ("path\n", "the manifest has no rows"),
        ("file,split\na.wav,train\n", "no column 'path'; it has file, split"),
        ("path,split\na.wav,eval\n", "a.wav: split 'eval' is none of train, validate, test"),
        ("path,time\na.wav,yesterday\n", "a.wav: time 'yesterday' is not ISO 8601, as 2019-05-01T13:45:00"),
        ("path,sensor\n,s1\n", "a row has an empty path"),
        ("sensor,path\ns1\n", "a row has an empty path"),
    ],
)
def test_what_is_wrong_with_a_manifest_is_said(tmp_path, text, message):
    with pytest.raises(EdgeseaError, match=re.escape(f"manifest.csv: {message}")):
        read_manifest(write_csv(tmp_path, text))


def test_files_that_are_no_manifest_are_refused(tmp_path):
    wav = write_noise(tmp_path / "a.wav")
    with pytest.raises(EdgeseaError, match=r"a\.wav: not a CSV manifest"):
        read_manifest(wav)
    (tmp_path / "a.parquet").write_text("text")
    with pytest.raises(EdgeseaError, match=r"a\.parquet: not a Parquet file"):
        read_manifest(tmp_path / "a.parquet")
    with pytest.raises(EdgeseaError, match="gone: no such file or folder"):
        read_manifest(tmp_path / "gone")


def test_unknown_columns_are_refused(tmp_path):
    with pytest.raises(EdgeseaError, match="columns: unknown file; known: path, sensor, time, split, level, label"):
        read_manifest(write_csv(tmp_path, "path\na.wav\n"), columns={"file": "path"})
    with pytest.raises(EdgeseaError, match=r"manifest\.csv: no column 'place'; it has path"):
        read_manifest(write_csv(tmp_path, "path\na.wav\n"), columns={"sensor": "place"})
