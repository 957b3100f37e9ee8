"""Does a Google Sheet slow the training down by less than 1 %, and does it stay within the quota?

    python benchmarks/tracking.py [--runs 20] [--epochs 200]

Trains the same small student again and again, in epochs of about 0.1 s, watched by a Google Sheet (gspread, and a local
server in another process in place of Google's). Within a training, segments of some epochs of which the sheet is told
alternate, in random order, with segments of which it is not. What a segment takes, of the processor (all threads of the
process) and on the clock, is compared with its neighbour; the median of these differences, with a bootstrap interval,
is what the sheet costs, however much others use the machine. So that little time will do, it is written once a second
in this experiment; what it costs at its real pace follows from the number of updates. Writes
benchmarks/results/tracking.json.
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
import json, sys, sheets_server; from sheets_server import SheetsServer
sheets_server.QUOTA = 10**9; server = SheetsServer(); print(server.server_port, flush=True)
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


PACE, REAL = 1.0, SheetRow.pause  # seconds between two updates: in this experiment, and otherwise
SEGMENT = 20  # epochs


def most(calls: list[float]) -> int:
    """The most calls in any minute."""
    return max((sum(start <= call < start + 60 for call in calls) for start in calls), default=0)


class Meter:
    """Switches the sheet on and off between segments of a training, and takes their times."""

    def __init__(self, seed: int) -> None:
        self.rng, self.record, self.send = np.random.default_rng(seed), trainer.log_history, SheetRow.send
        self.pairs: list[dict[bool, tuple[float, ...]]] = []  # sheet or not: seconds of processor, clock; updates
        trainer.log_history = self.told
        SheetRow.send = lambda tracker, ended: self._sent(tracker, ended)  # type: ignore[method-assign]

    def begin(self, is_real: bool) -> None:
        """A training begins; a real one is told of all its epochs."""
        self.is_real, SheetRow.pause = is_real, REAL if is_real else PACE
        self.marks: list[tuple[float, float]] = []
        self.updates: list[tuple[float, float]] = []
        self.tracker: SheetRow | None = None
        self.is_on, self.first = True, bool(self.rng.integers(2))

    def _sent(self, tracker: SheetRow, ended: bool) -> None:
        self.tracker, began = tracker, time.perf_counter()
        self.send(tracker, ended)
        self.updates.append((began, time.perf_counter()))

    def told(self, history: Any) -> Any:
        """An epoch has ended."""
        self.marks.append((time.process_time(), time.perf_counter()))
        if self.is_real:
            return self.record(history)
        segment, epoch = divmod(len(self.marks) - 1, SEGMENT)
        if segment and not epoch:  # the first segment is for the start
            pair, second = divmod(segment - 1, 2)
            if pair and not second:
                self._take(len(self.marks) - 1)
                self.first = bool(self.rng.integers(2))
            self.is_on = self.first != bool(second)
        if self.is_on:
            return self.record(history)
        if self.tracker:
            self.tracker.changed.clear()
        return None

    def _take(self, end: int) -> None:
        """The pair that ends at a mark, unless an update of the one segment reached into the other."""
        found = {}
        for is_on, last in ((self.first, end - SEGMENT), (not self.first, end)):
            (cpu, begin), (cpu_end, stop) = self.marks[last - SEGMENT], self.marks[last]
            overlap = [(a, b) for a, b in self.updates if b > begin and a < stop]
            if any(not is_on or a < begin or b > stop for a, b in overlap):
                return
            found[is_on] = cpu_end - cpu, stop - begin, len(overlap)
        self.pairs.append(found)


def interval(values: list[float], rng: np.random.Generator) -> list[float]:
    """The median, and its 95 % bootstrap interval."""
    medians = np.median(rng.choice(values, (10_000, len(values))), axis=1)
    return [round(float(one), 5) for one in (np.median(values), *np.percentile(medians, (2.5, 97.5)))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=200)
    given = parser.parse_args()
    meter, counts = Meter(0), []
    with tempfile.TemporaryDirectory() as name, google(Path(name)) as (ask, track):
        folder, rng = Path(name), np.random.default_rng(0)
        (folder / "audio").mkdir()
        for index in range(12):
            soundfile.write(folder / "audio" / f"{index}.wav", 0.1 * rng.standard_normal(80000), 8000)
        extract(folder / "audio", folder / "table", sample_rate=8000, validate=0.2, workers=1)
        reduce(folder / "table", folder / "phi", size=4)
        options: Any = {"student": "sea-64", "filters": [4, 4, 8, 8], "n_mels": 16}
        options |= {"batch_size": 8, "patience": 0, "epoch_size": 40}
        options |= {"epochs": given.epochs, "device": "cpu"}
        for number in range(-1, given.runs):
            meter.begin(is_real=number < 0)
            with using(track):
                distill(folder / "table", folder / "phi", folder / f"{number}", **options)
            reads, writes, rows = ask(TAB)
            if number < 0:
                assert rows[-1]["Latest Epoch"] == given.epochs
                seconds = round(meter.marks[-1][1] - meter.marks[0][1])
                counts = [len(reads), len(writes), most(reads), most(writes), seconds]
            print(f"run {number + 1}: {len(meter.pairs)} pairs of segments", flush=True)
    updates = sum(pair[True][2] for pair in meter.pairs) / sum(pair[True][1] for pair in meter.pairs)  # a second
    usual = [statistics.median(pair[False][part] for pair in meter.pairs) for part in (0, 1)]
    result: dict[str, Any] = {
        "cores": os.cpu_count(), "load": os.getloadavg()[0], "python": platform.python_version(),
        "pairs of segments": len(meter.pairs), "epochs of a segment": SEGMENT,
        "processor seconds of an epoch": round(usual[0] / SEGMENT, 3),
        "clock seconds of an epoch": round(usual[1] / SEGMENT, 3),
        "updates a second": {"here": round(updates, 3), "real": round(1 / REAL, 3)},
    }  # fmt: skip
    for part, what in enumerate(("processor", "clock")):
        slower = interval([pair[True][part] / pair[False][part] - 1 for pair in meter.pairs], rng)
        cost = [one * usual[part] / usual[1] / updates for one in slower]  # s of an update
        shares = {"here": slower, "at the real pace": [round(one / (updates * REAL), 5) for one in slower]}
        if what == "processor":  # where nobody else computes, an epoch takes no longer than its processor time
            shares["at the real pace, with a processor of its own"] = [round(one / REAL, 5) for one in cost]
        result[f"{what}: slower by (median, 95 %)"] = shares
        result[f"{what}: ms of an update"] = [round(1000 * one, 1) for one in cost]
    result["reads, writes, most in a minute of each, seconds, of a run at the real pace"] = counts
    RESULTS.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
