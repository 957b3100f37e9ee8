"""Does a Google Sheet slow the training down, and does it stay within the quota?

    python benchmarks/tracking.py [--pairs 6] [--epochs 200]

Trains the same small student, in epochs of about 0.1 s, without a tracker and with a Google Sheet (gspread, and a local
server in another process in place of Google's), by turns. Compared are the times from the first to the last epoch of
both runs of a pair: on the clock, and of the processor (all threads of the process). On a machine that others use, both
vary by more than the tracker takes; so the processor time of its thread, and of the calls that tell it of an epoch, are
measured, too: with one core, that is what the training would lose. Writes benchmarks/results/tracking.json.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"
sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "tracking"))

import numpy as np
import pytest
import soundfile
from sheets_server import SheetsServer

from edgesea.distill import distill, trainer
from edgesea.extract import extract
from edgesea.reduction import reduce
from edgesea.tracking import Track, using
from edgesea.tracking.sheets import SheetRow

RESULTS = Path(__file__).parent / "results" / "tracking.json"
TAB = "embedding_approx_mse"
SERVE = """
import json, sys; from sheets_server import SheetsServer
server = SheetsServer(); print(server.server_port, flush=True)
for line in sys.stdin:
    print(json.dumps([server.reads, server.writes, server.rows(line.strip())]), flush=True)
    server.reads, server.writes = [], []
"""


@contextmanager
def google(folder: Path) -> Any:
    """A server in another process; yields what asks it, and a tracker that writes to it."""
    path = os.pathsep.join(sys.path)
    command = [sys.executable, "-c", SERVE]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": path}
    )

    class Remote(SheetsServer):
        def __init__(self, port: int) -> None:
            self.server_port = port

    def ask(words: str) -> Any:
        process.stdin.write(f"{words}\n")
        process.stdin.flush()
        return json.loads(process.stdout.readline())

    try:
        server = Remote(int(process.stdout.readline()))
        with pytest.MonkeyPatch.context() as patch:
            server.redirect(patch)
            patch.setenv("EDGESEA_CACHE", str(folder / "cache"))
            yield ask, Track(["sheets"], sheet="book", credentials=server.credentials(folder))
    finally:
        process.kill()


def most(calls: list[float]) -> int:
    """The most calls in any minute."""
    return max((sum(start <= call < start + 60 for call in calls) for start in calls), default=0)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--pairs", type=int, default=6)
    parser.add_argument("--epochs", type=int, default=200)
    given = parser.parse_args()
    marks: list[tuple[float, float]] = []
    told: list[float] = []
    record = trainer.log_history

    def marked(history: Any) -> None:
        began = time.thread_time()
        record(history)
        told.append(time.thread_time() - began)
        marks.append((time.perf_counter(), time.process_time()))

    def measured(tracker: SheetRow, news: Any) -> None:
        began = time.thread_time()
        send(tracker, news)
        spent.append(time.thread_time() - began)

    spent: list[float] = []
    send, SheetRow.send = SheetRow.send, measured
    trainer.log_history = marked
    with tempfile.TemporaryDirectory() as name, google(Path(name)) as (ask, track):
        folder, rng = Path(name), np.random.default_rng(0)
        (folder / "audio").mkdir()
        for index in range(12):
            soundfile.write(folder / "audio" / f"{index}.wav", 0.1 * rng.standard_normal(80000), 8000)
        extract(folder / "audio", folder / "table", validate=0.2, workers=1)
        reduce(folder / "table", folder / "phi", size=4)
        options: Any = {"filters": [4, 4, 8, 8], "n_mels": 16, "batch_size": 8, "patience": 0, "epoch_size": 40}

        def train(name: str, watcher: Track) -> tuple[float, float]:
            marks.clear()
            with using(watcher):
                distill(folder / "table", folder / "phi", folder / name, **options, epochs=given.epochs, device="cpu")
            return marks[-1][0] - marks[0][0], marks[-1][1] - marks[0][1]

        train("warm-up", track)
        ask(TAB)
        pairs, counts, calls = [], [], 0.0
        spent.clear()
        for number in range(given.pairs):
            order = [("none", Track()), ("sheets", track)][:: 1 if number % 2 else -1]
            pair = {}
            for kind, watcher in order:
                told.clear()
                pair[kind] = train(f"{kind}-{number}", watcher)
                calls += sum(told[1:]) if watcher.track else 0.0  # after the start
            reads, writes, rows = ask(TAB)
            assert rows[-1]["Latest Epoch"] == given.epochs
            pairs.append(pair)
            counts.append((len(reads), len(writes), most(reads), most(writes)))
            print(f"{number + 1}: {pair}, {counts[-1]}", flush=True)
    clock, processor = ([pair["sheets"][part] / pair["none"][part] - 1 for pair in pairs] for part in (0, 1))
    epoch = statistics.median(pair["none"][0] for pair in pairs) / given.epochs
    total = sum(pair["sheets"][1] for pair in pairs)
    result = {
        "cores": os.cpu_count(), "load": os.getloadavg()[0], "python": platform.python_version(),
        "epochs": given.epochs, "seconds an epoch": round(epoch, 3), "pairs": given.pairs,
        "slower by, on the clock": [round(one, 4) for one in sorted(clock)],
        "slower by, on the clock, median": round(statistics.median(clock), 4),
        "slower by, of the processor": [round(one, 4) for one in sorted(processor)],
        "slower by, of the processor, median": round(statistics.median(processor), 4),
        "processor time of the tracker's thread, share of the training's": round(sum(spent) / total, 5),
        "processor time of telling it, share of the training's": round(calls / total, 6),
        "reads, writes, and the most of each in a minute, of each run": counts,
    }  # fmt: skip
    RESULTS.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
