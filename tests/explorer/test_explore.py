"""The Parquet file against the table, and the page as people use it, in Chromium."""

import base64
import io
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import soundfile
from conftest import make_student

from edgesea import cli, load_student
from edgesea.explorer import explore
from edgesea.explorer.sound import Blocks
from edgesea.explorer.windows import nearest
from edgesea.reduction import load_reduction
from edgesea.sampling.subset import Subset
from edgesea.table.reader import Table


@pytest.fixture(scope="module")
def explored(small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is written of a run; its labels and sensors are such as HTML would mistake."""
    out = tmp_path_factory.mktemp("explored") / "a b"
    found = explore(small_run, out, layout="pca", neighbors=3)
    assert found["html"] == str(out / "explore.html")
    assert f"'{out}/explore.parquet' --x x --y y" in found["text"]
    return out


def page_data(folder: Path) -> dict[str, Any]:
    html = (folder / "explore.html").read_text("utf-8")
    found = re.search('<script type="application/json" id="data">(.*?)</script>', html)
    assert found
    return json.loads(found[1])


def unpacked(text: str, dtype: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), dtype)


def test_the_columns_are_those_of_the_table(small_run, explored):
    frame, table = pd.read_parquet(explored / "explore.parquet"), Table(small_run / "table")
    phi, model = load_reduction(small_run / "reduction"), load_student(small_run / "student", "cpu")
    subset, first = Subset.load(small_run / "subset.parquet"), 0
    members = set(zip(subset.part.tolist(), subset.window.tolist(), strict=True))
    for chunk in table.chunks():
        rows = np.arange(len(chunk.clip))
        some = frame.iloc[first : first + len(rows)]
        first += len(rows)
        pcm, scales = table.audio(chunk, rows)
        for sound, window in zip(some["audio"], pcm, strict=True):
            found, rate = soundfile.read(io.BytesIO(sound), dtype="int16")
            assert rate == table.sample_rate
            np.testing.assert_array_equal(found, window)
        error = np.square(model.embed(pcm * scales) - phi.transform(table.embeddings(chunk.part, chunk.group))).mean(1)
        np.testing.assert_allclose(some["error"], error, rtol=1e-3)
        assert list(some["clip"]) == list(chunk.names[chunk.clip])
        assert list(some["label"]) == list(chunk.labels[chunk.clip])
        np.testing.assert_allclose(some["start"], chunk.start / table.sample_rate)
        assert list(some["subset"]) == [(chunk.part, chunk.first_window + row) in members for row in rows]
        wall = pd.to_datetime(pd.Series(chunk.times[chunk.clip])) + pd.to_timedelta(some["start"].to_numpy(), "s")
        np.testing.assert_array_equal(some["time"], wall)
    assert first == len(frame) == table.info["windows"]
    for row, lists in enumerate(frame["neighbors"]):
        assert not set(frame["clip"][lists["ids"]]) & {frame["clip"][row]}
        assert np.all(np.diff(lists["distances"]) >= 0)


def test_neighbours_are_the_nearest_that_lie_apart():
    rng = np.random.default_rng(0)
    rows, places = rng.standard_normal((40, 5)).astype(np.float32), np.column_stack([np.arange(40) // 8, np.arange(40)])
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    for apart in (np.inf, 2.0):
        numbers, distances = nearest(rows, places, rows, places, 4, apart)
        far = 1 - unit @ unit.T
        same = (places[:, None, 0] == places[:, 0]) & (np.abs(places[:, None, 1] - places[:, 1]) < apart)
        far[same] = 9
        np.testing.assert_array_equal(numbers, np.argsort(far, axis=1)[:, :4])
        np.testing.assert_allclose(distances, np.sort(far, axis=1)[:, :4], atol=1e-6)
    alone, _ = nearest(rows[:8], places[:8], rows[:8], places[:8], 4, np.inf)
    assert (alone == -1).all()


def test_windows_are_found_again_in_the_sound_of_the_page():
    rate, rng, blocks = 8000, np.random.default_rng(0), None
    clips = {name: np.cumsum(rng.standard_normal(rate * 9)).astype(np.float32) for name in ("a", "b", "c")}
    clips = {name: 0.001 * (clip - np.convolve(clip, np.ones(32) / 32, "same")) for name, clip in clips.items()}
    wanted = [(name, start) for name in clips for start in (*range(0, 5 * rate, rate // 4), 7 * rate)]
    blocks = Blocks(rate, rate, 27.0)
    for name, start in wanted:
        blocks.add(name, start, clips[name][start : start + rate])
    files = [soundfile.read(io.BytesIO(file))[0] for file in blocks.files()]
    assert len(files) > 1
    assert sum(map(len, files)) < 25 * rate  # overlapping windows share samples
    for (name, start), (file, first) in zip(wanted, blocks.places, strict=True):
        assert np.corrcoef(files[file][first : first + rate], clips[name][start : start + rate])[0, 1] > 0.9


def test_of_a_large_table_there_are_samples(small_table, tmp_path, monkeypatch):
    shown = explore(small_table, tmp_path / "out", layout="pca", max_windows=60, max_shown=30, seed=3)
    frame, data = pd.read_parquet(tmp_path / "out" / "explore.parquet"), page_data(tmp_path / "out")
    assert (shown["windows"], shown["shown"], len(frame), data["count"]) == (60, 30, 60, 30)
    assert "A random sample (seed 3) of 30 of 90 windows" in (tmp_path / "out" / "explore.html").read_text("utf-8")
    assert set(frame.columns) == {
        "clip",
        "start",
        "time",
        "hour",
        "sensor",
        "level",
        "split",
        "x",
        "y",
        "audio",
        "neighbors",
    }
    x, y = unpacked(data["x"], "<f4"), unpacked(data["y"], "<f4")
    places = frame[["x", "y"]].to_numpy().tolist()
    rows = [places.index(list(map(float, point))) for point in zip(x, y, strict=True)]
    assert rows == sorted(rows)
    near = unpacked(data["nearest"]["teacher"], "<u2").reshape(30, -1)
    np.testing.assert_array_equal(np.asarray(rows)[near[0]], frame["neighbors"][rows[0]]["ids"])
    monkeypatch.setattr("edgesea.explorer.windows.LONGEST", 20.0)  # s of sound
    assert explore(small_table, tmp_path / "less", layout="pca")["shown"] == 20


def until(page: Any, condition: str, argument: object = None) -> None:
    """Wait for a condition in a page that allows no `eval`, which Playwright's waiting needs."""
    for _ in range(600):
        if page.evaluate(condition, argument):
            return
        page.wait_for_timeout(50)
    raise AssertionError(condition)


def test_the_page_in_a_browser(explored, chromium):
    context = chromium.new_context(viewport={"width": 1200, "height": 800})
    context.add_init_script("""window.sounds = []; const Real = AudioContext;
        window.AudioContext = class extends Real { constructor() { super(); sounds.push(this); } };""")
    page, problems, asked = context.new_page(), list[str](), list[str]()
    page.on("console", lambda message: problems.append(message.text))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto((explored / "explore.html").as_uri())
    until(page, "performance.getEntriesByName('map drawn').length")
    assert len(asked) == 1

    coloured = """() => { const map = document.querySelector('#map');
        const all = map.getContext('2d').getImageData(0, 0, map.width, map.height).data, found = [];
        for (let i = 0; i < all.length; i += 4)
          if (Math.max(all[i], all[i + 1], all[i + 2]) - Math.min(all[i], all[i + 1], all[i + 2]) > 70)
            found.push([i / 4 % map.width, Math.floor(i / 4 / map.width)]);
        return found; }"""
    points = page.evaluate(coloured)
    assert len(points) > 100
    assert page.inner_text("#legend").split("\n") == ["hiss", "hum & <i>$buzz$</i>"]

    box = page.locator("#map").bounding_box()
    page.mouse.click(box["x"] + points[0][0], box["y"] + points[0][1])
    until(page, "sounds.length && sounds[0].state === 'running' && sounds[0].currentTime > 0.05")
    until(page, "document.querySelector('#spectrogram').getAttribute('aria-label').includes('kHz')")
    assert page.inner_text("#name") != "No window selected"
    assert page.locator("#teacher button").count() == page.locator("#student button").count() == 3
    errors = [float(text) for text in page.locator("#worst small").all_inner_texts()]
    assert len(errors) > 10
    assert errors == sorted(errors, reverse=True)
    page.locator("#student button").nth(1).focus()
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.closest('ol').id") == "student"
    page.locator("#worst button").first.click()
    assert page.inner_text("#said").startswith(
        f"Error of the student: {page.locator('#worst small').first.inner_text()}"
    )

    total = page_data(explored)["count"]
    page.get_by_role("button", name="hiss", exact=True).click()
    shown = int(page.inner_text("#count").split()[0])
    assert 0 < shown < total
    assert "hiss" in page.locator("#worst button").first.inner_text()
    page.get_by_role("button", name="hiss", exact=True).click()
    page.keyboard.press("/")
    page.keyboard.type("HUM <i> <s1>")
    until(page, f"parseInt(document.querySelector('#count').textContent) < {shown}")
    assert page.inner_text("#count") != f"0 of {total} windows"
    page.fill("#find", "")
    for name in page.locator("#colour option").all_inner_texts():
        page.select_option("#colour", name)
    for hidden in ("true", "false"):  # as when a window is made very small, and large again
        page.locator("#map").evaluate(f"map => {{ map.parentElement.hidden = {hidden}; }}")
        page.wait_for_timeout(100)
    assert len(page.evaluate(coloured)) > 100

    page.locator("#map").focus()
    before = page.inner_text("#name")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert page.inner_text("#name") != before
    page.keyboard.press("Enter")
    until(page, "document.querySelector('#play').textContent === 'Stop'")
    page.keyboard.press("Escape")
    assert page.inner_text("#play") == "Play"
    pixels = "document.querySelector('#map').toDataURL()"
    for key in ("+", "-", "Shift+ArrowLeft", "0"):
        before = page.evaluate(pixels)
        page.keyboard.press(key)
        until(page, f"before => {pixels} !== before", before)
    page.mouse.move(box["x"] + 300, box["y"] + 200)
    before = page.evaluate(pixels)
    page.mouse.wheel(0, -300)
    until(page, f"before => {pixels} !== before", before)
    page.emulate_media(color_scheme="dark")
    until(page, """document.querySelector('#map').getContext('2d').getImageData(1, 1, 1, 1).data[0] < 60""")
    unnamed = page.evaluate("""[...document.querySelectorAll('button, input, select, canvas[role]')].filter((e) =>
        !(e.textContent || e.getAttribute('aria-label') || e.labels?.length)).length""")
    assert (problems, unnamed, len(asked)) == ([], 0, 1)
    context.close()


def test_umap_and_names(small_table, tmp_path):
    pytest.importorskip("umap")
    code = "import edgesea; edgesea.explore(*__import__('sys').argv[1:]); assert callable(edgesea.explore)"
    subprocess.run([sys.executable, "-c", code, small_table, tmp_path / "out"], check=True)
    assert ", by UMAP of spectral" in (tmp_path / "out" / "explore.html").read_text("utf-8")


def test_errors_name_what_is_wrong(small_run, small_table, small_reduction, tmp_path, refuses):
    empty = tmp_path / "empty"
    empty.mkdir()
    refuses("explore", empty, "--out", tmp_path / "out", words=[empty, "edgesea extract"])
    refuses("explore", small_table, "--out", tmp_path / "out", "--max-shown", 70000, words=["max_shown", 65535, 70000])
    (tmp_path / "file").write_text("")
    refuses("explore", small_table, "--out", tmp_path / "file", words=[tmp_path / "file", "a file"])
    other = small_run / "subset.parquet"
    refuses("explore", small_table, "--out", tmp_path / "out", "--subset", other, words=[other, "edgesea sample"])
    student = make_student(tmp_path / "student")
    options = ("--student", student, "--reduction", small_reduction)
    refuses("explore", small_table, "--out", tmp_path / "out", *options, words=[small_reduction, "4", "5"])
    assert not (tmp_path / "out").exists()


def test_the_command_writes_into_a_table(small_table, tmp_path, capsys):
    shutil.copytree(small_table, tmp_path / "table")
    assert cli.main(["explore", str(tmp_path / "table"), "--layout", "pca"]) == 0
    assert "spotlight" in capsys.readouterr().out
    assert (tmp_path / "table" / "explore" / "explore.html").is_file()
