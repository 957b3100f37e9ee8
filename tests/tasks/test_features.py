import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import make_esc50

from edgesea.audio.framing import Framing
from edgesea.models import load_model
from edgesea.tasks.esc50 import load_esc50
from edgesea.tasks.features import window_embeddings

FRAMING = Framing(1.0, 0.5, False)


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    return load_esc50(make_esc50(tmp_path / "esc50", clips=4)).paths


def embeddings(paths: list[Path], cache: Path | None) -> tuple[Any, Any, dict[str, str]]:
    bags, failed = window_embeddings(load_model("spectral"), paths, FRAMING, 8, 1, cache)
    return bags.rows, bags.counts, failed


def times(cache: Path) -> list[int]:
    return [path.stat().st_mtime_ns for path in cache.iterdir()]


def test_what_is_kept_is_read_again(paths: list[Path], tmp_path: Path) -> None:
    first = embeddings(paths, None)
    assert first[1].tolist() == [2, 2, 2, 2]
    embeddings(paths, tmp_path / "cache")
    before = times(tmp_path / "cache")
    second = embeddings(paths, tmp_path / "cache")
    assert np.array_equal(first[0], second[0])
    assert np.array_equal(first[1], second[1])
    assert times(tmp_path / "cache") == before


@pytest.mark.parametrize("damage", ["truncated", "empty", "flipped", "other arrays", "other sizes", "no archive"])
def test_a_damaged_cache_is_made_again(
    paths: list[Path], tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    first = embeddings(paths, tmp_path / "cache")
    (stored,) = (tmp_path / "cache").iterdir()
    content = stored.read_bytes()
    if damage in ("truncated", "empty"):
        stored.write_bytes(content[: len(content) // 2 if damage == "truncated" else 0])
    elif damage == "flipped":
        middle = len(content) // 2
        stored.write_bytes(content[:middle] + bytes([content[middle] ^ 255]) + content[middle + 1 :])
    else:
        with stored.open("wb") as file:
            if damage == "no archive":
                np.save(file, first[0])
            else:
                np.savez(
                    file, **({"x": first[0]} if damage == "other arrays" else {"embedding": first[0], "counts": [2]})
                )
    again = embeddings(paths, tmp_path / "cache")
    assert np.array_equal(first[0], again[0])
    assert "damaged" in caplog.text
    caplog.clear()
    embeddings(paths, tmp_path / "cache")
    assert caplog.text == ""


def test_clips_that_failed_are_tried_again(paths: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = embeddings(paths, None)
    paths[3].write_bytes(b"no audio")
    # A share that is away for a moment: the same file, which cannot be opened.
    away = tmp_path / "away"
    monkeypatch.setattr("edgesea.tasks.features.file_state", lambda path: (1, 1))
    shutil.move(paths[1], away)
    _, counts, failed = embeddings(paths, tmp_path / "cache")
    assert counts.tolist() == [2, 0, 2, 0]
    assert set(failed) == {"01.wav", "03.wav"}
    shutil.move(away, paths[1])
    paths[0].unlink()  # need not be there: it has been embedded
    embedding, counts, failed = embeddings(paths, tmp_path / "cache")
    assert counts.tolist() == [2, 2, 2, 0]
    assert set(failed) == {"03.wav"}
    assert np.array_equal(embedding, whole[0][:6])
    before = times(tmp_path / "cache")
    assert set(embeddings(paths, tmp_path / "cache")[2]) == {"03.wav"}
    assert times(tmp_path / "cache") == before


def test_what_was_embedded_before_an_interruption_is_kept(paths: list[Path], tmp_path: Path) -> None:
    whole, model, calls = embeddings(paths, None), load_model("spectral"), 0
    embed = model.embed

    def failing(windows: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise KeyboardInterrupt
        return embed(windows)

    model.embed = failing  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        window_embeddings(model, paths, FRAMING, 4, 1, tmp_path / "cache")
    status = paths[0].stat()  # its audio is gone, but its size and time are the same
    paths[0].write_bytes(bytes(status.st_size))
    os.utime(paths[0], ns=(status.st_atime_ns, status.st_mtime_ns))
    again = embeddings(paths, tmp_path / "cache")
    assert np.array_equal(again[0], whole[0])
    assert again[2] == {}


def test_what_is_embedded_is_kept_now_and_then(
    paths: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = []
    monkeypatch.setattr("edgesea.tasks.features.KEEP_AFTER", -1.0)
    monkeypatch.setattr(
        "edgesea.tasks.features._write_cache", lambda path, blocks: written.append(list(map(len, blocks)))
    )
    window_embeddings(load_model("spectral"), paths, FRAMING, 2, 1, tmp_path / "cache")
    assert written[:2] == [[2, 0, 0, 0], [2, 2, 0, 0]]
    assert written[-1] == [2, 2, 2, 2]
