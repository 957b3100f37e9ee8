"""Manifests as people have them: which clips there are, what is known of them, and what is refused."""

import hashlib
from pathlib import Path

import pandas as pd
import pytest

from edgesea.errors import EdgeseaError
from edgesea.table.manifest import hash_split, manifest_digest, read_manifest


def write_csv(folder: Path, text: str) -> Path:
    path = folder / "manifest.csv"
    path.write_text(text)
    return path


def test_a_folder_gives_its_audio_sorted_by_name_and_its_subfolders_may_be_splits(tmp_path):
    for name in ("train.wav", "test/c.FLAC", "train/b.ogg", ".hidden.wav", "notes.txt", "validate/.deep/d.mp3"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "folder.wav").mkdir()
    entries = read_manifest(tmp_path, validate=0.0)
    splits = {"test/c.FLAC": "test", "train/b.ogg": "train", "train.wav": "train", "validate/.deep/d.mp3": "validate"}
    assert [(entry.clip, entry.split) for entry in entries] == sorted(splits.items())
    assert all(entry.path == tmp_path / entry.clip for entry in entries)
    assert {(entry.sensor, entry.time, entry.level) for entry in entries} == {(None, None, None)}


def test_the_hash_split_never_changes():
    """Published splits depend on it; it is a function of the name alone."""
    names = [f"clip{index:03d}.wav" for index in range(30)]
    assert [name[4:7] for name in names if hash_split(name, 0.1) == "validate"] == ["000", "027", "029"]
    golden = ["000", "001", "003", "016", "020", "022", "025", "027", "029"]
    assert [name[4:7] for name in names if hash_split(name, 0.3) == "validate"] == golden


def test_a_split_in_the_manifest_goes_before_share_and_condition(tmp_path):
    text = "path,fold,split\na.wav,5,test\nb.wav,1,validate\nc.wav,5,\nd.wav,1,train\ne.wav,15,\n"
    source = write_csv(tmp_path, text)
    by_fold = [entry.split for entry in read_manifest(source, validate="fold = 5")]
    assert by_fold == ["test", "validate", "validate", "train", "train"]
    assert [entry.split for entry in read_manifest(source, validate=0.0)] == ["test", "validate", *["train"] * 3]


def test_the_digest_is_that_of_everything_but_labels(tmp_path):
    texts = ("path,sensor\na.wav,s\n", "path,sensor,label\na.wav,s,dog\n", "path,sensor\na.wav,t\n")
    plain, labelled, other = (manifest_digest(read_manifest(write_csv(tmp_path, text))) for text in texts)
    entry = ("a.wav", "s", None, "train", None, -1)  # as before there were labels
    assert labelled == plain == hashlib.sha256(repr(entry).encode()).hexdigest() != other


def test_what_spreadsheets_write(tmp_path):
    """A byte order mark, a comma at the end of each line, an empty line; and no number or date is interpreted."""
    (tmp_path / "manifest.csv").write_bytes(b"\xef\xbb\xbfpath,sensor,label,\r\n a.wav,007,NA,\r\n\r\n")
    (entry,) = read_manifest(tmp_path / "manifest.csv")
    assert (entry.clip, entry.sensor, entry.label) == ("a.wav", "007", "NA")


def test_parquet_manifests_may_hold_dates_lists_and_numbers(tmp_path):
    times = [pd.Timestamp("2020-05-01T12:30:00"), pd.NaT]
    columns = {"time": times, "level": [[50.0, 60.0], None], "sensor": pd.array([3, None], "Int64"), "fold": [1, 5]}
    pd.DataFrame({"path": ["a.wav", "b.wav"], **columns}).to_parquet(tmp_path / "manifest.parquet")
    first, second = read_manifest(tmp_path / "manifest.parquet", columns={"label": "fold"}, validate="fold=5")
    assert (first.sensor, first.time, first.level) == ("3", "2020-05-01T12:30:00", (50.0, 60.0))
    assert (first.label, first.split) == ("1", "train")
    assert (second.sensor, second.time, second.level, second.split) == (None, None, None, "validate")


@pytest.mark.parametrize(
    ("source", "root", "columns", "condition"),
    [
        ("esc10/meta/esc50.csv", "esc10/audio", {"path": "filename", "label": "category"}, "fold=5"),
        ("urbansound8k/metadata/UrbanSound8K.csv", "", {"path": "slice_file_name", "label": "class"}, "fold=10"),
        ("sonyc_ust/annotations_eval.csv", "", {"path": "audio_filename", "sensor": "sensor_id"}, 0.1),
    ],
)
def test_published_manifests_can_be_used_as_they_are(shared_data, source, root, columns, condition):
    entries = read_manifest(shared_data / source, shared_data / root, columns, condition)
    frame = pd.read_csv(shared_data / source).drop_duplicates(columns["path"]).sort_values(columns["path"])
    assert [entry.clip for entry in entries] == frame[columns["path"]].tolist()
    known = [entry.label or entry.sensor for entry in entries]
    assert known == frame[columns.get("label", "sensor_id")].astype(str).tolist()
    by_fold = frame["fold"] == int(condition[5:]) if isinstance(condition, str) else frame["split"] == "validate"
    assert [entry.split == "validate" for entry in entries] == by_fold.tolist()


def test_paths_are_relative_to_the_root_and_each_counts_once(tmp_path):
    source = write_csv(tmp_path, f"path\nb/x.wav\n{tmp_path}/a/y.wav\n/elsewhere/z.wav\n./b/x.wav\n")
    assert [entry.clip for entry in read_manifest(source)] == ["/elsewhere/z.wav", "a/y.wav", "b/x.wav"]
    inner = read_manifest(source, root=tmp_path / "a")
    assert [entry.clip for entry in inner] == ["/elsewhere/z.wav", "b/x.wav", "y.wav"]
    assert inner[1].path == tmp_path / "a" / "b" / "x.wav"


def test_levels_are_numbers_or_lists(tmp_path):
    for text, level in {"65.5": (65.5,), "[50, 60]": (50.0, 60.0), "50 60;70": (50.0, 60.0, 70.0), "[]": None}.items():
        assert read_manifest(write_csv(tmp_path, f'path,level\na.wav,"{text}"\n'))[0].level == level
    for text in ("loud", "[50, null]", "[50", "{}", "50 inf", '[""a""]'):
        with pytest.raises(EdgeseaError, match=r"manifest\.csv: line 2: a\.wav: level"):
            read_manifest(write_csv(tmp_path, f'path,level\na.wav,"{text}"\n'))
