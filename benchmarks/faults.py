"""Is anything lost, or anything else made, when processes, nodes, disks and files fail?

    python benchmarks/faults.py [--rounds 5] [--only "worker killed" ...] [--seed 0]

Each round breaks something at a random moment, lets the command end or runs it again, and compares what it has made,
byte by byte, with what an undisturbed command on one machine makes:

* a worker, all workers, or the scheduler of a Dask cluster is killed (SIGKILL) while `extract` works there;
* a worker hangs (SIGSTOP): its part goes to another one;
* the trainer is killed in `distill`;
* a part of a finished table is cut off at a random byte: `extract` notices it, and makes this part anew;
* a bit of a part changes: `reduce` refuses it by name, and after the remedy that it names the table is as before;
* the disk is full while `extract` writes (a small tmpfs; needs root).

Parts that were there before must not have been written again, and no traceback may be printed. Prints the counts and
writes benchmarks/results/faults.json.
"""

import argparse
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from kill_and_race import COMMANDS, TABLE, Trial, start, wait

from edgesea.table.reader import CLIPS, WINDOWS, part_path

RESULTS = Path(__file__).parent / "results" / "faults.json"
PARTS = 16
SLOW = """
import time
import numpy as np
def embed(windows):
    time.sleep(0.3)  # so that there is a middle to be killed in
    return np.abs(np.fft.rfft(windows))[:, 1:33].astype(np.float32)
"""
COMMANDS["slow"] = [
    *("extract", "../rec", "out", "--teacher=callable:slow_teacher:embed@8000"),
    *("--part_clips=1", "--validate=0.5", "--workers=1"),
]
TTL = "20s"  # after which a worker that says nothing is given up; a minute where edgesea starts the scheduler itself


class Cluster:
    """A Dask scheduler and workers of one thread, as processes."""

    def __init__(self, place: Path, workers: int = 2) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
        self.place = place
        self.scheduler = self.run("scheduler", "--host", self.address, "--no-dashboard", "--no-show")
        self.workers = [self.add_worker() for _ in range(workers)]

    def run(self, *arguments: str) -> "subprocess.Popen[bytes]":
        paths = os.pathsep.join([str(Path(__file__).parents[1] / "src"), str(self.place)])
        extra = {"PYTHONPATH": paths, "DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL": TTL}
        log = (self.place / "cluster.log").open("ab")
        command = [sys.executable, "-m", "dask", *arguments]
        return subprocess.Popen(command, env={**os.environ, **extra}, stdout=log, stderr=log, cwd=self.place)

    def add_worker(self) -> "subprocess.Popen[bytes]":
        size = ("--nthreads=1", "--no-nanny", "--no-dashboard", "--memory-limit=0", "--death-timeout=30")
        return self.run("worker", self.address, *size)

    def stop(self) -> None:
        for process in (*self.workers, self.scheduler):
            process.kill()
            process.wait()


@contextmanager
def cluster(place: Path, workers: int = 2) -> Iterator[Cluster]:
    found = Cluster(place, workers)
    try:
        yield found
    finally:
        found.stop()


class Faults(Trial):
    """Counts for one kind of fault."""

    def parts(self, folder: Path) -> dict[Path, int]:
        """The parts that are complete, and when they were written."""
        files = (folder / "out" / CLIPS).glob("part-*.parquet")
        return {path: path.stat().st_mtime_ns for path in files}

    def until(self, child: int, folder: Path, parts: int) -> bool:
        """Wait until so many parts are there; whether the command is still at work."""
        while len(self.parts(folder)) < parts:
            if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                return False
            time.sleep(0.02)
        return True

    def lost(self, before: dict[Path, int], folder: Path, besides: Path | None = None) -> None:
        after = self.parts(folder)
        lost = [path for path, written in before.items() if after.get(path) != written and path != besides]
        self.counts["parts lost"] += len(lost)

    def on_dask(self, breaks: Callable[[Cluster], object]) -> None:
        """Break something of a cluster while `extract` works there."""
        folder = self.new_folder()
        with cluster(self.place) as dask:
            child = start([*COMMANDS["slow"], f"--cluster={dask.address}"], folder)
            self.counts["broken in the middle"] += self.until(child, folder, self.rng.randrange(1, PARTS - 3))
            before = self.parts(folder)
            breaks(dask)
            code = wait(child)
        self.counts["went on by itself"] += code == 0
        if code:
            with cluster(self.place) as dask:
                code = wait(start([*COMMANDS["slow"], f"--cluster={dask.address}"], folder))
        self.counts["wrong exits"] += code != 0
        self.lost(before, folder)
        self.check("slow", folder)

    def worker_killed(self) -> None:
        self.on_dask(lambda dask: self.rng.choice(dask.workers).kill())

    def all_workers_killed(self) -> None:
        def breaks(dask: Cluster) -> None:
            for worker in dask.workers:
                worker.kill()
            dask.workers.append(dask.add_worker())

        self.on_dask(breaks)

    def scheduler_killed(self) -> None:
        self.on_dask(lambda dask: dask.scheduler.kill())

    def worker_hangs(self) -> None:
        self.on_dask(lambda dask: self.rng.choice(dask.workers).send_signal(signal.SIGSTOP))

    def trainer_killed(self) -> None:
        self.kill("distill", 1)

    def copy(self) -> tuple[Path, int, str]:
        """A copy of a finished table, and a file of it."""
        folder = self.new_folder()
        shutil.copytree(self.place / "extract", folder, ignore=shutil.ignore_patterns("log"))
        return folder, self.rng.randrange(len(self.parts(folder))), self.rng.choice((CLIPS, WINDOWS))

    def part_cut_off(self) -> None:
        folder, part, kind = self.copy()
        before, path = self.parts(folder), part_path(folder / "out", kind, part)
        os.truncate(path, self.rng.randrange(path.stat().st_size))
        self.counts["wrong exits"] += wait(start(COMMANDS["extract"], folder)) != 0
        self.counts["noticed"] += "it is made anew" in (folder / "log").read_text()
        self.lost(before, folder, part_path(folder / "out", CLIPS, part))
        self.check("extract", folder)

    def bit_changed(self) -> None:
        """Of the embeddings, which `reduce` reads; none of the footer or of a page's header."""
        folder, part, _ = self.copy()
        path = part_path(folder / "out", WINDOWS, part)
        column = pq.read_metadata(path).row_group(0).column(3)
        assert column.path_in_schema.startswith("embedding")
        content = bytearray(path.read_bytes())
        end = column.total_compressed_size + (column.dictionary_page_offset or column.data_page_offset)
        content[self.rng.randrange(end - column.total_compressed_size // 2, end)] ^= 1 << self.rng.randrange(8)
        path.write_bytes(content)
        code = wait(start(["reduce", "out", "phi", "--size=4"], folder))
        log = (folder / "log").read_text()
        clips = part_path(Path("out"), CLIPS, part)
        self.counts["noticed"] += code == 1 and f"delete {clips}" in log
        (folder / clips).unlink()
        self.counts["wrong exits"] += wait(start(COMMANDS["extract"], folder)) != 0
        self.check("extract", folder)

    def disk_full(self) -> None:
        folder = self.new_folder()
        folder.mkdir()
        size = self.rng.randrange(64, 300)
        mount = ["mount", "-t", "tmpfs", "-o", f"size={size}k", "none", str(folder)]
        subprocess.run(mount, check=True)
        try:
            log = folder.parent / f"{folder.name}.log"
            (folder / "log").symlink_to(log)  # which is not on the full disk
            code = wait(start(["extract", "../rec", "out", *TABLE], folder))
            self.counts["noticed"] += code == 1 and "No space left on device" in log.read_text()
            before = self.parts(folder)
            subprocess.run(["mount", "-o", "remount,size=64m", str(folder)], check=True)
            self.counts["wrong exits"] += wait(start(["extract", "../rec", "out", *TABLE], folder)) != 0
            self.lost(before, folder)
            self.check("extract", folder)
        finally:
            subprocess.run(["umount", str(folder)], check=True)


FAULTS = {name.replace("_", " "): getattr(Faults, name) for name in (
    "worker_killed", "all_workers_killed", "scheduler_killed", "worker_hangs",
    "trainer_killed", "part_cut_off", "bit_changed", "disk_full",
)}  # fmt: skip
WRONG = ("bytes different", "files different", "parts lost", "results lost", "tracebacks", "wrong exits")


def measure(rounds: int, only: list[str], seed: int, place: Path) -> dict[str, dict[str, int]]:
    """All rounds in a folder; the counts of each kind of fault."""
    (place / "slow_teacher.py").write_text(SLOW)
    sys.path.insert(0, str(place))
    trial = Faults(place, seed)
    trial.prepare()
    found = {}
    for name in only or FAULTS:
        trial.counts, trial.rng = Counter(), random.Random(f"{seed} {name}")
        began = time.perf_counter()
        for _ in range(rounds):
            trial.counts["rounds"] += 1
            FAULTS[name](trial)
        found[name] = {**trial.counts, **{wrong: trial.counts[wrong] for wrong in WRONG}}
        print(f"{name}: {found[name]} ({time.perf_counter() - began:.0f} s)", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=[*FAULTS], default=[])
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        found: dict[str, Any] = measure(given.rounds, given.only, given.seed, Path(name))
    total = {wrong: sum(counts[wrong] for counts in found.values()) for wrong in WRONG}
    print("in all:", total)
    if not given.only:
        RESULTS.write_text(json.dumps({"seed": given.seed, "faults": found, "in all": total}, indent=1) + "\n")


if __name__ == "__main__":
    main()
