"""How the page of `edgesea explore` behaves in Chromium: size, time to open, pauses when it is moved and zoomed.

Call: python benchmarks/explore.py [WINDOWS]; it writes benchmarks/results/explore.json. The windows are noise, none of
which overlap: the most that a page can hold.
"""

import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from playwright.sync_api import Page, sync_playwright

from edgesea.artifact import write_json
from edgesea.explorer import explore
from edgesea.table.clips import ClipEntry, Piece
from edgesea.table.writer import write_part

RATE, SECONDS, SIZE, CLIPS = 16000, 10, 64, 250  # of each clip; dimensions; clips of a part
WATCH = """() => {
  window.gaps = [];
  window.tasks = [];
  let last = performance.now();
  const seen = (list) => tasks.push(...list.getEntries().map((entry) => entry.duration));
  new PerformanceObserver(seen).observe({ type: "longtask" });
  const tick = (now) => { gaps.push(now - last); last = now; requestAnimationFrame(tick); };
  requestAnimationFrame(tick);
}"""


def write_table(folder: Path, windows: int) -> Path:
    """A table of clips of ten seconds of noise, whose embeddings lie in twelve clusters."""
    rng = np.random.default_rng(0)
    centres, clips = 3 * rng.standard_normal((12, SIZE)), windows // SECONDS
    noise = (8000 * rng.standard_normal(RATE * (SECONDS + 60))).clip(-32767, 32767).astype(np.int16)
    for part in range(-(-clips // CLIPS)):
        with write_part(folder, part, SIZE, "float32") as writer:
            for clip in range(part * CLIPS, min(clips, (part + 1) * CLIPS)):
                kind, begin = clip % 12, int(rng.integers(RATE * 60))
                about = {"sensor": f"s{clip % 7}", "time": f"2024-05-{1 + clip % 28:02d}T{clip % 24:02d}:00"}
                entry = ClipEntry(f"{clip:05d}.wav", f"{clip:05d}.wav", split="train", label=f"kind {kind}", **about)
                levels = rng.normal(-40, 8, SECONDS).astype(np.float32)
                pcm, starts = noise[begin : begin + RATE * SECONDS], np.arange(SECONDS) * RATE
                embeddings = (centres[kind] + rng.standard_normal((SECONDS, SIZE))).astype(np.float32)
                writer.add(Piece(entry, 0, pcm, starts, levels), embeddings)
    info = {"parts": -(-clips // CLIPS), "sample_rate": RATE, "framing": {"window": 1.0, "hop": 1.0, "center": False}}
    info |= {"teacher": {"id": "noise", "embedding_size": SIZE}, "dtype": "float32", "manifest_sha256": ""}
    write_json(folder / "table.json", {**info, "windows": windows, "windows_by_split": {"train": windows}})
    return folder


def opened(page: Page, path: Path) -> dict[str, float]:
    """Open the page; seconds until the map is drawn, and until all of the file is read."""
    page.goto(path.as_uri())
    drawn = page.evaluate("performance.getEntriesByName('map drawn')[0].startTime")
    return {"drawn": drawn / 1000, "loaded": page.evaluate("performance.getEntries()[0].loadEventEnd") / 1000}


def moved(page: Page) -> dict[str, float]:
    """Move and zoom the map with the mouse for some seconds; the longest time between two frames, and task, in ms."""
    page.evaluate(WATCH)
    box = page.locator("#map").bounding_box()
    assert box
    middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(*middle)
    for turn in range(30):
        page.mouse.wheel(0, -120 if turn % 10 < 5 else 120)
        page.wait_for_timeout(30)
    page.mouse.down()
    for turn in range(90):
        page.mouse.move(middle[0] + 200 * np.sin(turn / 7), middle[1] + 150 * np.cos(turn / 9))
        page.wait_for_timeout(16)
    page.mouse.up()
    gaps, tasks = page.evaluate("[gaps, tasks]")
    return {"frame_median": statistics.median(gaps), "frame_longest": max(gaps), "task_longest": max(tasks, default=0)}


def main() -> None:
    windows = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        table, begun = write_table(Path(folder) / "table", windows), time.perf_counter()
        path = Path(explore(table, layout="pca")["html"])
        seconds = time.perf_counter() - begun
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        opens, moves = [], []
        for _ in range(5):
            page = browser.new_page(viewport={"width": 1400, "height": 900})
            opens.append(opened(page, path))
            moves.append(moved(page))
            page.close()
        found = {
            "windows": windows,
            "megabytes": path.stat().st_size / 1e6,
            "write_seconds": seconds,
            "open_seconds": {key: statistics.median(one[key] for one in opens) for key in opens[0]},
            "milliseconds": {key: max(one[key] for one in moves) for key in moves[0]},
            "chromium": browser.version,
            "processors": os.cpu_count(),
            "load": os.getloadavg()[0],
        }
    found = json.loads(json.dumps(found), parse_float=lambda text: float(f"{float(text):.4g}"))
    write_json(Path(__file__).parent / "results" / "explore.json", found)
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
