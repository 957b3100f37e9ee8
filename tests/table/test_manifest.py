"""Manifests as people have them: which clips there are, what is known of them, and what is refused."""

import hashlib
import logging
import pickle
import unicodedata
from itertools import product
from pathlib import Path

import pandas as pd
import pytest

from edgesea.errors import EdgeseaError
from edgesea.table.clips import cut_parts
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


def test_a_manifest_is_a_sequence_that_can_be_cut_and_sent(tmp_path):
    text = "path,time,level\n" + "".join(f"{name}.wav,2019-01-0{n}T00:00:00,{n}\n" for n, name in enumerate("cbad", 1))
    manifest = read_manifest(write_csv(tmp_path, text))
    entries = [*manifest]
    assert [entry.clip[0] for entry in entries] == [*"abcd"]
    assert entries[-1] == manifest[-1] == manifest[3] == pickle.loads(pickle.dumps(manifest[2:]))[1]
    assert [[*part] for part in cut_parts(manifest, 3)] == [entries[:3], entries[3:]]


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
    ("source", "pattern", "last"),
    [
        ("esc10", "audio/{r.filename}", 5),
        ("esc10/meta/esc50.csv", "audio/{r.filename}", 5),
        ("urbansound8k", "audio/fold{r.fold}/{r.slice_file_name}", 2),
    ],
)
def test_published_data_sets_are_taken_as_they_are(shared_data, source, pattern, last):
    """Their metadata are found and understood; a share means whole folds, the last ones."""
    place = shared_data / source
    table = place if place.is_file() else next(place.glob("met*/*.csv"))
    rows = [*pd.read_csv(table).rename(columns={"class": "category"}).itertuples()]
    entries = [*read_manifest(place)]
    splits = {True: "validate", False: "train"}
    known = sorted((pattern.format(r=row), splits[row.fold == last], row.category) for row in rows)
    assert [(entry.clip, entry.split, entry.label) for entry in entries] == known
    assert all(entry.path.is_file() for entry in entries)
    assert [*read_manifest(place, validate=f"fold={last}")] == entries
    assert {entry.split for entry in read_manifest(place, validate=0)} == {"train"}


@pytest.mark.parametrize("place", ["", "metadata/UrbanSound8K.csv"])
def test_columns_may_be_made_of_others(shared_data, place):
    data, columns = shared_data / "urbansound8k", {"path": "fold{fold}/{slice_file_name}", "label": "{classID} {class}"}
    for root in (None, data / "audio"):
        entries = read_manifest(data / place, root, columns, "fold=2")
        assert (entries[0].clip, entries[0].label) == ("fold1/101415-3-0-2.ogg", "3 dog_bark")
        assert all(entry.path.is_file() and (entry.split == "train") == ("fold1" in entry.clip) for entry in entries)


def test_sonyc_ust_is_taken_as_it_is(shared_data, tmp_path, caplog):
    """Its clips have a row for each annotator; what is not annotated is counted."""
    rows = pd.read_csv(shared_data / "sonyc_ust/annotations_eval.csv")[:20]
    rows = pd.concat([rows, rows[:5].assign(annotator_id=7)])
    (tmp_path / "audio").mkdir()
    for name in [*rows.audio_filename, "more.wav"]:
        (tmp_path / "audio" / name).touch()
    rows.to_csv(tmp_path / "annotations.csv", index=False)
    entries = read_manifest(tmp_path)
    assert [entry.clip for entry in entries] == sorted({f"audio/{name}" for name in rows.audio_filename})
    assert {(entry.sensor, entry.split) for entry in entries} == {
        *zip(rows.sensor_id.astype(str), rows.split, strict=True)
    }
    for word in ("left out: 1", "split train"):  # all of these validate, as published
        assert word in caplog.text
    (tmp_path / "audio").rename(tmp_path.parent / f"{tmp_path.name}.elsewhere")
    entries = read_manifest(tmp_path, tmp_path.parent / f"{tmp_path.name}.elsewhere", {"path": "audio_filename"})
    assert all(entry.path.is_file() for entry in entries)
    (tmp_path.parent / f"{tmp_path.name}.elsewhere").rename(tmp_path / "audio")
    pd.DataFrame({"audio_filename": ["a"]}).to_csv(tmp_path / "annotations.csv")  # of something else
    assert len(read_manifest(tmp_path)) == 21


def test_paths_are_relative_to_the_root_and_each_counts_once(tmp_path):
    source = write_csv(tmp_path, f"path\nb/x.wav\n{tmp_path}/a/y.wav\n/elsewhere/z.wav\n./b/x.wav\n")
    assert [entry.clip for entry in read_manifest(source)] == ["/elsewhere/z.wav", "a/y.wav", "b/x.wav"]
    inner = read_manifest(source, root=tmp_path / "a")
    assert [entry.clip for entry in inner] == ["/elsewhere/z.wav", "b/x.wav", "y.wav"]
    assert inner[1].path == tmp_path / "a" / "b" / "x.wav"


@pytest.fixture
def recordings(tmp_path, monkeypatch):
    """A folder with three recordings, one with an accent as macOS writes it; and links to it and to one of them."""
    for index, name in enumerate(("a.wav", "b.wav", unicodedata.normalize("NFD", "é.wav"))):
        (tmp_path / "rec" / "in").mkdir(parents=True, exist_ok=True)
        (tmp_path / "rec" / "in" / name).write_text(name * (index + 1))
    (tmp_path / "link").symlink_to("rec")
    (tmp_path / "rec" / "z.wav").symlink_to("in/a.wav")
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    "spelling",
    ["./in//a.wav", r"in\a.wav", "in/../in/a.wav", "../rec/in/a.wav", "{}/rec/in/a.wav", "{}/link/in/a.wav",
     "~/rec/in/a.wav", r"~\rec\in\a.wav", "${{HOME}}/rec/in/a.wav", "file://{}/rec/%69n/a.wav", "z.wav", " in/a.wav"],
)  # fmt: skip
def test_a_recording_is_one_clip_however_it_is_spelt(recordings, spelling, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    spelt = spelling.format(recordings)
    for other, label in ((f"{spelt},,7", "7"), (f"{spelt},train,7.0", "7")):
        text = f"path,split,label\nin/a.wav,train,\n{other}\n{other}\nin/b.wav,validate,\n"
        source = write_csv(recordings / "rec", text)
        first, second = read_manifest(source)
        assert (first.clip, first.split, first.label, second.clip) == ("in/a.wav", "train", label, "in/b.wav")
        assert first.path.is_file()
    assert "names of the same recordings: 2" in caplog.text
    source = write_csv(recordings / "rec", f"path,split\nin/b.wav,train\nin/a.wav,train\n{spelt},validate\n")
    with pytest.raises(EdgeseaError) as caught:
        read_manifest(source)
    assert all(word in str(caught.value) for word in (str(source), "line 3", "line 4", "train", "validate"))
    source = write_csv(recordings / "rec", f"path,sensor\n{spelt},x\nin/b.wav,x\n")
    known = read_manifest(source)
    monkeypatch.chdir(recordings)
    for again in (read_manifest(Path("rec/manifest.csv")), read_manifest(Path("~/link/manifest.csv"), Path("~/rec"))):
        assert [(entry.clip, entry.split) for entry in again] == [(entry.clip, entry.split) for entry in known]
        assert all(entry.path.is_file() for entry in again)


def test_accents_have_more_than_one_form(recordings):
    entries = read_manifest(write_csv(recordings, "path\nrec\\in\\é.wav\nrec/in/a.wav\n"))
    assert all(entry.path.is_file() for entry in entries)


def test_folders_with_links_have_each_recording_once(recordings):
    """As git-annex and DVC make them; a link between splits is refused."""
    assert [entry.clip for entry in read_manifest(recordings / "rec")][:2] == ["in/a.wav", "in/b.wav"]
    for split in ("train", "validate"):
        (recordings / "sets" / split).mkdir(parents=True)
        (recordings / "sets" / split / "x.wav").symlink_to(recordings / "rec/in/a.wav")
    with pytest.raises(EdgeseaError) as caught:
        read_manifest(recordings / "sets")
    assert all(word in str(caught.value) for word in ("train/x.wav", "validate/x.wav"))


@pytest.mark.parametrize(
    ("row", "word"),
    [(r"C:\rec\in\a.wav", "Windows"), ("rec/in/a.wav", "root"), ("in/A.WAV", "a.wav"), ("gone.wav", "gone.wav")],
)
def test_paths_that_lead_nowhere_are_counted_and_explained(recordings, row, word, caplog, monkeypatch):
    monkeypatch.chdir(recordings)
    assert len(read_manifest(write_csv(recordings / "rec", f"path\nin/b.wav\n{row}\n"))) == 2
    assert all(part in caplog.text for part in ("no file: 1", "line 3", word))


# --- splits


@pytest.mark.parametrize(
    ("text", "validate", "words"),
    [
        ("path,fold\na.wav,1\nb.wav,2.0\nc.wav,\n", "fold=5", ["fold=5", "1, 2"]),
        ("path,fol\na.wav,5\n", "fold=5", ["'fold'", "fol"]),
        ("path,fold\na.wav,5\nb.wav,5\n", "fold=5", ["train", "2 validate"]),
        ("path,split\na.wav,test\nb.wav,validation\n", 0.1, ["train", "1 test", "1 validate"]),
        ("path,split\na.wav,train\n,validate\n", 0.1, ["line 3", "path"]),
        ("path,split\na.wav,train\nb.wav,trian\n", 0.1, ["line 3", "trian"]),
        ("rec/a.wav\nrec/b.wav\n", 0.1, ["'path'", "rec/a.wav"]),
        ("name,fold\na.wav,1\n", 0.1, ["'path'", "name", "columns"]),
    ],
)
def test_what_would_be_found_out_too_late_is_refused_at_once(tmp_path, text, validate, words):
    source = write_csv(tmp_path, text)
    with pytest.raises(EdgeseaError) as caught:
        read_manifest(source, validate=validate)
    assert all(word in str(caught.value) for word in (str(source), *words))


def test_conditions_hold_whatever_wrote_the_numbers(tmp_path):
    frame = pd.DataFrame({"path": ["a.wav", "b.wav", "c.wav"], "Fold": [1, 5, None]})
    frame.to_csv(tmp_path / "m.csv")
    frame.to_parquet(tmp_path / "m.parquet")
    for name, condition in product(("m.csv", "m.parquet"), ("fold=5", "fold = 5.0")):
        splits = [entry.split for entry in read_manifest(tmp_path / name, validate=condition)]
        assert splits == ["train", "validate", "train"]


def test_few_clips_train_rather_than_validate(tmp_path, caplog):
    (tmp_path / "clip000.wav").touch()  # its name is among those that validate
    assert [entry.split for entry in read_manifest(tmp_path)] == ["train"]
    assert "validate" in caplog.text
    (tmp_path / "clip027.wav").touch()  # so is this
    assert sorted(entry.split for entry in read_manifest(tmp_path)) == ["train", "validate"]


def test_columns_may_be_left_out_and_cells_unknown(tmp_path):
    text = "path,sensor,time,split,level,label\na.wav,NA,NA,n/a,None,x\na.wav,NA,NaN,Training,,y\n"
    source = write_csv(tmp_path, text)
    with pytest.raises(EdgeseaError, match=r"line 2.*line 3"):
        read_manifest(source)
    (entry,) = read_manifest(source, columns={"label": ""})
    assert (entry.sensor, entry.time, entry.split, entry.level, entry.label) == ("NA", None, "train", None, None)


def test_levels_are_numbers_or_lists(tmp_path):
    for text, level in {"65.5": (65.5,), "[50, 60]": (50.0, 60.0), "50 60;70": (50.0, 60.0, 70.0), "[]": None}.items():
        assert read_manifest(write_csv(tmp_path, f'path,level\na.wav,"{text}"\n'))[0].level == level
    for text in ("loud", "[50, null]", "[50", "{}", "50 inf", '[""a""]'):
        with pytest.raises(EdgeseaError, match=r"manifest\.csv: line 2: a\.wav: level"):
            read_manifest(write_csv(tmp_path, f'path,level\na.wav,"{text}"\n'))
