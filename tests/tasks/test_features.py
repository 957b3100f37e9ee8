import os
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import make_esc50
from sklearn.preprocessing import StandardScaler

from edgesea.audio.framing import Framing
from edgesea.models import load_model
from edgesea.tasks.features import Bags, context_encoder, window_embeddings
from edgesea.tasks.folds import FoldTask

#                  latitude longitude hour day week
CLIPS = np.array([[40.70, -74.00, 0, 0, 1], [40.75, -73.98, 23, 6, 52], [40.80, -73.99, 12, 3, 26.0]])
HOUR, DAY, WEEK = 2, 2 + 24, 2 + 24 + 7


def test_bags_hold_clips_of_some_or_no_windows():
    bags = Bags(np.arange(10, dtype=np.float32).reshape(5, 2), np.array([2, 0, 3]), np.arange(15.0).reshape(3, 5))
    assert np.array_equal(bags.means(), [[1, 2], [np.nan, np.nan], [6, 7]], equal_nan=True)
    assert (bags.usable.tolist(), bags.owner.tolist()) == ([True, False, True], [0, 0, 2, 2, 2])
    assert np.isnan(Bags(np.zeros((0, 3), np.float32), np.zeros(2, np.int64)).means()).all()
    taken = bags.take(np.array([2, 0, 2, 1]))
    assert taken.counts.tolist() == [3, 2, 3, 0]
    assert taken.rows[:, 0].tolist() == [4, 6, 8, 0, 2, 4, 6, 8]
    assert np.asarray(taken.context)[:, 0].tolist() == [10, 0, 10, 5]
    assert len(bags.take(np.zeros(0, np.int64))) == 0


def test_each_part_of_the_context_has_its_place():
    # 512 dimensions of OpenL3 and the context make the 597 inputs that the challenge's baseline documents.
    code = context_encoder(CLIPS, standardize=True)(CLIPS)
    assert (code.shape, code.dtype) == ((3, 597 - 512), np.float32)
    wanted = [{HOUR, DAY, WEEK}, {HOUR + 23, DAY + 6, WEEK + 51}, {HOUR + 12, DAY + 3, WEEK + 25}]
    assert [set((2 + np.flatnonzero(row[2:])).tolist()) for row in code] == wanted
    np.testing.assert_allclose(code[:, :2], StandardScaler().fit_transform(CLIPS[:, :2]), atol=1e-5)
    odd = CLIPS.copy()
    odd[0, 4], odd[1, 2:], odd[1, 0] = 53, np.nan, np.nan
    code = context_encoder(odd, standardize=True)(odd)
    assert [np.flatnonzero(row[2:]).tolist() for row in code[:2]] == [[0, 24], []]
    np.testing.assert_allclose(code[:, 0], [-1, 0, 1], rtol=1e-5)
    raw = context_encoder(odd, standardize=False)(odd)
    np.testing.assert_allclose(raw[:, 0], [40.7, 40.75, 40.8], rtol=1e-6)
    # A single place, or none, is not scaled.
    place, nowhere = np.repeat(CLIPS[:1], 7, axis=0), np.full((3, 5), np.nan)
    encode = context_encoder(place, standardize=True)
    np.testing.assert_allclose(encode(place)[:, :2], 0.0, atol=1e-6)
    assert np.abs(encode(CLIPS)[:, :2]).max() < 1
    assert not context_encoder(nowhere, standardize=True)(nowhere).any()


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    return FoldTask.load("esc50", make_esc50(tmp_path / "esc50", clips=4)).paths


def embeddings(paths: list[Path], cache: Path | None, model: Any = None) -> tuple[Any, Any, dict[Path, str]]:
    model = model or load_model("spectral")
    bags, failed = window_embeddings(lambda: model, paths, Framing(1.0, 0.5, False), 2, 1, cache)
    return bags.rows, bags.counts, failed


def test_clips_that_failed_are_tried_again_and_others_are_read_from_the_cache(paths, tmp_path, monkeypatch):
    whole, cache = embeddings(paths, None), tmp_path / "cache"
    paths[3].write_bytes(b"no audio")
    # A share that is away for a moment: the same file, which cannot be opened.
    monkeypatch.setattr("edgesea.tasks.features.file_state", lambda path: (1, 1))
    shutil.move(paths[1], tmp_path / "away")
    _, counts, failed = embeddings(paths, cache)
    assert (counts.tolist(), set(failed)) == ([2, 0, 2, 0], {paths[1], paths[3]})
    shutil.move(tmp_path / "away", paths[1])
    paths[0].unlink()  # has been embedded
    embedding, counts, failed = embeddings(paths, cache)
    assert (counts.tolist(), set(failed)) == ([2, 2, 2, 0], {paths[3]})
    assert np.array_equal(embedding, whole[0][:6])
    before = [path.stat().st_mtime_ns for path in cache.iterdir()]
    assert set(embeddings(paths, cache)[2]) == {paths[3]}
    assert [path.stat().st_mtime_ns for path in cache.iterdir()] == before


def test_what_was_embedded_before_a_process_was_killed_is_stored(paths, tmp_path, monkeypatch):
    whole, model = embeddings(paths, None), load_model("spectral")
    calls = iter([model.embed_log_mel] * 2)

    def failing(rows: Any) -> Any:
        if embed := next(calls, None):
            return embed(rows)
        for _ in range(1000):  # batches are embedded beside each other
            if any((tmp_path / "cache").glob("*.npz")):
                break
            time.sleep(0.01)
        monkeypatch.setattr("edgesea.tasks.features._write_cache", lambda *_: None)  # nothing is stored at the end
        raise KeyboardInterrupt

    model.embed_log_mel = failing
    with pytest.raises(KeyboardInterrupt):
        embeddings(paths, tmp_path / "cache", model)
    monkeypatch.undo()
    status = paths[0].stat()  # the first file's audio goes, but not its size and time
    paths[0].write_bytes(bytes(status.st_size))
    os.utime(paths[0], ns=(status.st_atime_ns, status.st_mtime_ns))
    embedding, _, failed = embeddings(paths, tmp_path / "cache")
    assert (np.array_equal(embedding, whole[0]), failed) == (True, {})
