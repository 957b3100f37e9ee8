"""What both kinds of sources have in common: which kind it is, resuming, what follows, and what is refused."""

import json
import sys
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from conftest import TINY, kill_when, write_noise
from stored import content, stamps

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
    (folder / "9.h5").write_text("not a shard")
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
    assert content(tmp_path / "2") == content(tmp_path / "4") == first


@pytest.mark.parametrize("kind", list(MAKERS))
def test_a_killed_import_resumes(tmp_path, kind):
    options = make_shards(tmp_path / "in", 8, 80) if kind == "shards" else make_pairs(tmp_path / "in", 200)
    options["part_clips"] = 5
    code = (
        "from pathlib import Path; from edgesea.table.importing import import_table; "
        f"import_table(Path({str(tmp_path / 'in')!r}), Path({str(tmp_path / 'killed')!r}), **{options!r})"
    )
    kill_when([sys.executable, "-c", code], (tmp_path / "killed" / "clips" / "part-00002.parquet").exists)
    with pytest.raises(EdgeseaError, match="unfinished"):
        Table(tmp_path / "killed")
    complete = {path: path.stat().st_mtime_ns for path in (tmp_path / "killed" / "clips").glob("part-*")}
    for out in ("killed", "whole"):
        import_table(tmp_path / "in", tmp_path / out, **options)
    whole = content(tmp_path / "whole")
    assert content(tmp_path / "killed") == whole
    assert 3 <= len(complete) < len([name for name in whole if name.startswith("clips/")])
    assert {path: path.stat().st_mtime_ns for path in complete} == complete  # not written again


def test_a_finished_table_is_left_alone_and_a_deleted_part_is_made_again(source, tmp_path):
    folder, options = source
    first = import_table(folder, tmp_path / "table", **options)
    before, written = stamps(tmp_path / "table"), content(tmp_path / "table")
    time.sleep(0.01)
    second = import_table(folder, tmp_path / "table", **options, workers=1)
    assert stamps(tmp_path / "table") == before
    assert second == {**first, "windows_per_second": 0, "clipped": 0}
    (tmp_path / "table" / "clips" / "part-00001.parquet").unlink()
    import_table(folder, tmp_path / "table", **options)
    assert content(tmp_path / "table") == written


@pytest.mark.parametrize("kind", list(MAKERS))
def test_other_options_or_input_for_the_same_folder_are_refused(tmp_path, kind):
    folder, table = tmp_path / "in", tmp_path / "table"
    options = MAKERS[kind](folder)
    import_table(folder, table, **options)
    others = {"dtype": "float32", "sample_rate": 4000, "teacher": "openl3/env-mel256-512", "part_clips": 7}
    for option, value in others.items():
        with pytest.raises(EdgeseaError, match=f"{option}.*{value} here"):
            import_table(folder, table, **{**options, option: value})
    with pytest.raises(EdgeseaError, match="manifest_sha256"):
        import_table(folder, table, **options, validate=0.5)
    if kind == "shards":
        with h5py.File(folder / "0.h5", "a") as file:
            file["more"] = np.zeros(3)
    else:
        np.savez(folder / "c00.npz", embedding=np.zeros((4, 16)), timestamps=np.arange(4) * 0.25)
    with pytest.raises(EdgeseaError, match="manifest_sha256"):
        import_table(folder, table, **options)


def test_an_extracted_table_and_other_files_are_left_alone(source, tmp_path):
    folder, options = source
    write_noise(tmp_path / "audio" / "a.wav")
    extract(tmp_path / "audio", tmp_path / "table")
    with pytest.raises(EdgeseaError, match=r"teacher\.id: spectral there"):
        import_table(folder, tmp_path / "table", **options)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("precious")
    for place in (tmp_path / "mine", folder):
        with pytest.raises(EdgeseaError, match=f"{place}: not empty"):
            import_table(folder, place, **options)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.tex"]


def test_the_table_may_lie_in_the_folder_that_is_imported(source):
    folder, options = source
    first = import_table(folder, folder / "table", **options)
    assert import_table(folder, folder / "table", **options)["clips"] == first["clips"]


# --- what is refused


def test_bad_input(tmp_path, refuses):
    shards, pairs, both, empty = (tmp_path / name for name in ("shards", "pairs", "both", "empty"))
    make_shards(shards)
    make_pairs(pairs)
    make_shards(both / "a")
    make_pairs(both / "b")
    write_noise(empty / "a.wav")
    np.savez(empty / ".hidden.npz", embedding=np.zeros((1, 2)))
    (tmp_path / "x.txt").write_text("text")
    (tmp_path / "lonely").mkdir()
    np.savez(tmp_path / "lonely" / "a.npz", embedding=np.zeros((1, 2)))
    rate = "--audio_rate=8000"
    for source, options, words in [
        (tmp_path / "gone", [], ["gone"]),
        (tmp_path / "x.txt", [], ["x.txt"]),
        (tmp_path / "lonely", [], ["lonely", "no audio"]),
        (empty, [], [empty, ".h5", "x.npz", "edgesea extract"]),
        (both, [rate], ["a/0.h5", "b/c00.npz"]),
        (pairs, ["--part_clips=0"], ["part_clips", 0]),
        (pairs, ["--workers=-1"], ["workers", -1]),
        (pairs, ["--sample_rate=-8000"], ["sample_rate", -8000]),
        (pairs, ["--max_skipped=-0.1"], ["max_skipped", -0.1]),
        (pairs, ["--level_rate=-1.0"], ["level_rate", -1.0]),
        (pairs, ["--hop=0.5"], ["c00.npz", "hop", 0.25, 0.5]),
        (pairs, ["--hop=-0.5"], ["hop", -0.5]),
        (pairs, ["--window=-1.0"], ["window", -1.0]),
        (pairs, ["--suffix=emb"], ["x_emb.npz"]),
        (pairs, ["--validate=fold=5"], ["fold=5", "manifest"]),
        (pairs, [rate], ["audio_rate", 8000]),
        (shards, [], ["audio_rate"]),
        (shards, ["--audio_rate=-8000"], ["audio_rate", -8000]),
        (shards, [rate, "--window=0.5"], ["0.h5", "window=0.5", "audio_rate=8000"]),
        (shards, [rate, "--hop=0.5"], ["hop", 0.5]),
        (shards, [rate, "--suffix=emb"], ["suffix", "emb"]),
        (shards, [rate, "--validate=fold=5"], ["0.h5", "fold"]),
        (shards, [rate, "--validate=half"], ["validate", "half"]),
        (shards, [rate, "--validate=1.5"], ["validate", 1.5]),
        (shards, [rate, "--audio_key=sound"], ["0.h5", "sound", "l3_embedding"]),
    ]:
        refuses("import", source, tmp_path / "table", *options, words=words)
        assert not (tmp_path / "table").exists()
    for columns in ({"loudness": "spl"}, {"path": "name"}, {"level": "spl"}):
        with pytest.raises(EdgeseaError, match="|".join([*columns, *columns.values()])):
            import_table(shards, tmp_path / "table", audio_rate=8000, columns=columns)


def test_too_many_skipped_clips_end_the_import_and_are_listed(tmp_path):
    options = make_pairs(tmp_path / "in")
    for path in sorted((tmp_path / "in").glob("*.npz"))[:6]:
        path.unlink()
    with pytest.raises(EdgeseaError, match=r"7 of 12 .*c00\.wav.*max_skipped"):
        import_table(tmp_path / "in", tmp_path / "table", **options)
    assert len((tmp_path / "table" / "skipped.csv").read_text().splitlines()) == 8
    assert import_table(tmp_path / "in", tmp_path / "table", **options, max_skipped=0.6)["clips"] == 5
