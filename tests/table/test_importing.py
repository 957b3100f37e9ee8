"""What both kinds of sources have in common: which kind it is, resuming, and what follows."""

import json
import sys
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from conftest import TINY, kill_when, write_noise

import edgesea
from edgesea.distill import distill
from edgesea.errors import EdgeseaError
from edgesea.extract import extract
from edgesea.reduction import reduce
from edgesea.sampling import sample
from edgesea.table.importing import import_table
from edgesea.table.reader import Table


def make_shards(folder: Path, shards: int = 3, rows: int = 40, size: int = 16, rate: int = 8000) -> dict[str, Any]:
    """Shards of noise; returns the options that importing them needs."""
    folder.mkdir(parents=True)
    for index in range(shards):
        rng = np.random.default_rng(index)
        with h5py.File(folder / f"{index}.h5", "w") as file:
            noise = rng.standard_normal((rows, rate)) * rng.uniform(100, 3000, (rows, 1))
            file.create_dataset("audio", data=noise.astype(np.int16), compression="gzip", chunks=(8, rate))
            embedding = rng.standard_normal((rows, size)).astype(np.float32)
            embedding[5, 0] = np.nan
            file.create_dataset("l3_embedding", data=embedding, compression="gzip")
    (folder / "9.h5").write_text("no shard")
    return {"audio_rate": rate, "part_clips": 25}


def make_pairs(folder: Path, clips: int = 12) -> dict[str, Any]:
    """Audio with embeddings as openl3 writes them, one clip without; returns the options that importing needs."""
    for index in range(clips):
        samples = 8000 * (1 + index % 5)
        write_noise(folder / f"c{index:02d}.wav", samples / 8000, seed=index)
        count = 1 + -(-(samples - 4000) // 2000)
        rows = np.random.default_rng(index).standard_normal((count, 16)).astype(np.float32)
        np.savez(folder / f"c{index:02d}.npz", embedding=rows, timestamps=np.arange(count) * 0.25)
    (folder / "c03.npz").unlink()
    return {"part_clips": 3}


MAKERS = {"shards": make_shards, "pairs": make_pairs}


@pytest.fixture(params=list(MAKERS))
def source(request, tmp_path) -> tuple[Path, dict[str, Any]]:
    """A folder of either kind, and the options for it."""
    return tmp_path / "in", MAKERS[request.param](tmp_path / "in")


def content(table: Path) -> dict[str, bytes]:
    return {path.relative_to(table).as_posix(): path.read_bytes() for path in table.rglob("*") if path.is_file()}


# --- what follows


def test_an_imported_table_goes_through_all_stages(source, tmp_path):
    folder, options = source
    import_table(folder, tmp_path / "table", **options, validate=0.4)
    table = Table(tmp_path / "table")
    assert min(table.counts["train"], table.counts["validate"]) > 5
    sample(tmp_path / "table", tmp_path / "subset.parquet", size=20)
    reduce(tmp_path / "table", tmp_path / "phi", subset=tmp_path / "subset.parquet", size=4)
    result = distill(tmp_path / "table", tmp_path / "phi", tmp_path / "student", **{**TINY, "epochs": 1})
    assert np.isfinite(result["mse"])
    config = json.loads((tmp_path / "student" / "config.json").read_text())
    assert "imported" in json.dumps(config)
    student = edgesea.load_student(tmp_path / "student")
    assert student.embed(np.zeros((2, 8000), np.float32)).shape == (2, 4)


# --- resuming


def test_workers_do_not_change_a_byte(source, tmp_path):
    folder, options = source
    for workers in (1, 2, 4):
        import_table(folder, tmp_path / str(workers), **options, workers=workers)
    first = content(tmp_path / "1")
    assert len([name for name in first if name.startswith("clips/")]) >= 4
    assert content(tmp_path / "2") == first
    assert content(tmp_path / "4") == first


@pytest.mark.parametrize("kind", list(MAKERS))
def test_a_killed_import_goes_on(tmp_path, kind):
    options = make_shards(tmp_path / "in", 8, 80) if kind == "shards" else make_pairs(tmp_path / "in", 200)
    options["part_clips"] = 5
    code = (
        "from pathlib import Path; from edgesea.table.importing import import_table; "
        f"import_table(Path({str(tmp_path / 'in')!r}), Path({str(tmp_path / 'killed')!r}), **{options!r})"
    )
    third = tmp_path / "killed" / "clips" / "part-00002.parquet"
    kill_when([sys.executable, "-c", code], third.exists)
    killed = {name for name in content(tmp_path / "killed") if name.endswith(".parquet")}
    assert "table.json" not in content(tmp_path / "killed")
    with pytest.raises(EdgeseaError, match="killed: unfinished table"):
        Table(tmp_path / "killed")
    complete = {name for name in killed if name.startswith("clips/")}
    stamps = {name: (tmp_path / "killed" / name).stat().st_mtime_ns for name in complete}
    for out in ("killed", "whole"):
        import_table(tmp_path / "in", tmp_path / out, **options)
    whole = content(tmp_path / "whole")
    assert content(tmp_path / "killed") == whole
    assert 3 <= len(complete) < len([name for name in whole if name.startswith("clips/")])
    for name, stamp in stamps.items():
        assert (tmp_path / "killed" / name).stat().st_mtime_ns == stamp  # not written again


def test_a_finished_table_is_left_alone(source, tmp_path):
    folder, options = source
    first = import_table(folder, tmp_path / "table", **options)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "table").rglob("*")}
    time.sleep(0.01)
    second = import_table(folder, tmp_path / "table", **options, workers=1)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "table").rglob("*")} == before
    assert second["windows_per_second"] == 0
    assert {key: second[key] for key in ("clips", "windows", "skipped")} == {
        key: first[key] for key in ("clips", "windows", "skipped")
    }


def test_a_deleted_part_is_made_again(source, tmp_path):
    folder, options = source
    import_table(folder, tmp_path / "table", **options)
    before = content(tmp_path / "table")
    (tmp_path / "table" / "clips" / "part-00001.parquet").unlink()
    import_table(folder, tmp_path / "table", **options)
    assert content(tmp_path / "table") == before


@pytest.mark.parametrize("kind", list(MAKERS))
@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("dtype", "float32", "dtype: float16 there, float32 here"),
        ("sample_rate", 4000, "sample_rate: 8000 there, 4000 here"),
        ("teacher", "openl3/env-mel256-512", r"teacher\.id: imported there, openl3/env-mel256-512 here"),
        ("validate", 0.5, "manifest_sha256: "),
        ("part_clips", 7, "part_clips: .* there, 7 here"),
    ],
)
def test_other_options_for_the_same_folder_are_refused(tmp_path, kind, option, value, message):
    options = MAKERS[kind](tmp_path / "in")
    import_table(tmp_path / "in", tmp_path / "table", **options)
    with pytest.raises(EdgeseaError, match=f"table: holds a table made from other input or options .*{message}"):
        import_table(tmp_path / "in", tmp_path / "table", **{**options, option: value})


@pytest.mark.parametrize("name", ["0.h5", "c00.npz", "c00.wav"])
def test_other_input_for_the_same_folder_is_refused(tmp_path, name):
    options = make_shards(tmp_path / "in") if name.endswith(".h5") else make_pairs(tmp_path / "in")
    import_table(tmp_path / "in", tmp_path / "table", **options)
    if name == "0.h5":
        with h5py.File(tmp_path / "in" / name, "a") as file:
            file["more"] = np.zeros(3)
    elif name == "c00.npz":
        np.savez(tmp_path / "in" / name, embedding=np.zeros((4, 16)), timestamps=np.arange(4) * 0.25)
    else:
        write_noise(tmp_path / "in" / name, 9.0)
    with pytest.raises(EdgeseaError, match=r"manifest_sha256: \w{28}\.\.\.\w{28} there"):
        import_table(tmp_path / "in", tmp_path / "table", **options)


def test_a_table_that_was_extracted_is_refused(tmp_path):
    options = make_pairs(tmp_path / "in")
    extract(tmp_path / "in", tmp_path / "table", teacher="spectral")
    with pytest.raises(EdgeseaError, match=r"framing\.center: False there, True here.*teacher\.id: spectral there"):
        import_table(tmp_path / "in", tmp_path / "table", **options)


def test_the_table_may_lie_in_the_folder_that_is_imported(source):
    folder, options = source
    first = import_table(folder, folder / "table", **options)
    assert import_table(folder, folder / "table", **options)["clips"] == first["clips"]


# --- what is refused


def test_a_folder_of_both_kinds_is_refused(tmp_path):
    make_shards(tmp_path / "in" / "a")
    make_pairs(tmp_path / "in" / "b")
    with pytest.raises(EdgeseaError, match=r"in: holds both HDF5 shards \(a/0\.h5\) and .* \(b/c00\.npz\); move one"):
        import_table(tmp_path / "in", tmp_path / "table", audio_rate=8000)


@pytest.mark.parametrize("what", ["nothing", "audio", "hidden"])
def test_a_folder_of_neither_kind_is_refused(tmp_path, what):
    (tmp_path / "in").mkdir()
    if what == "audio":
        write_noise(tmp_path / "in" / "a.wav")
    elif what == "hidden":
        (tmp_path / "in" / ".a.h5").write_text("")
        np.savez(tmp_path / "in" / ".a.npz", embedding=np.zeros((1, 2)))
    message = r"in: neither HDF5 shards \(\.h5 \.hdf5\) nor embeddings \(x\.npz x\.npy x\.npy\.gz\); to embed audio"
    with pytest.raises(EdgeseaError, match=message):
        import_table(tmp_path / "in", tmp_path / "table")
    assert not (tmp_path / "table").exists()


def test_embeddings_without_any_audio_are_refused(tmp_path):
    (tmp_path / "in").mkdir()
    np.savez(tmp_path / "in" / "a.npz", embedding=np.zeros((1, 2)))
    with pytest.raises(EdgeseaError, match="in: no audio file found"):
        import_table(tmp_path / "in", tmp_path / "table")


def test_paths_that_are_no_source_are_refused(tmp_path):
    with pytest.raises(EdgeseaError, match="gone: no such file or folder"):
        import_table(tmp_path / "gone", tmp_path / "table")
    (tmp_path / "x.txt").write_text("text")
    with pytest.raises(EdgeseaError, match=r"x\.txt: neither a folder, nor a shard .* nor a manifest"):
        import_table(tmp_path / "x.txt", tmp_path / "table")


def test_an_output_folder_with_other_things_in_it_is_refused(source, tmp_path):
    folder, options = source
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("precious")
    with pytest.raises(EdgeseaError, match="mine: not empty and no table; choose another folder"):
        import_table(folder, tmp_path / "mine", **options)
    with pytest.raises(EdgeseaError, match="in: not empty and no table"):
        import_table(folder, folder, **options)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("part_clips", 0, "part_clips must be positive, not 0"),
        ("workers", -1, "workers must be positive, not -1"),
        ("sample_rate", -8000, "sample_rate must lie between 500 and 1000000 Hz, not -8000"),
        ("sample_rate", 100_000_000, "sample_rate must lie between 500 and 1000000 Hz, not 100000000"),
        ("max_skipped", -0.1, r"max_skipped must lie between 0 and 1, not -0\.1"),
    ],
)
def test_impossible_numbers_are_refused(source, tmp_path, option, value, message):
    folder, options = source
    with pytest.raises(EdgeseaError, match=message):
        import_table(folder, tmp_path / "table", **{**options, option: value})
    assert not (tmp_path / "table").exists()


def test_too_many_skipped_clips_end_the_import_and_are_listed(tmp_path):
    options = make_pairs(tmp_path / "in")
    for path in sorted((tmp_path / "in").glob("*.npz"))[:6]:
        path.unlink()
    with pytest.raises(EdgeseaError, match=r"7 of 12 clips cannot be used \(first: c00\.wav: no embeddings .*raise"):
        import_table(tmp_path / "in", tmp_path / "table", **options)
    assert len((tmp_path / "table" / "skipped.csv").read_text().splitlines()) == 8
    assert import_table(tmp_path / "in", tmp_path / "table", **options, max_skipped=0.6)["clips"] == 5
