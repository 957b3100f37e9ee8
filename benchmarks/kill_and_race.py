"""Is anything lost, or anything else made, when processes are killed or meet in one folder?

    python benchmarks/kill_and_race.py [--kills 100] [--races 20] [--seed 0]

Kills: `extract`, `distill` and `run` are killed (SIGKILL) at random times of their lives and started again, until they
have finished; then they are begun anew in another folder, until there were enough kills. Races: two processes start at
about the same time on one folder: the same command twice, or `run` and the `extract` of its table, half of them with
--wait. In the end every artifact must have the bytes of that of an undisturbed process; what was finished before a kill
must be there, and parts of a table must not have been written again; nothing but plain errors may have been printed.
Processes are forked from one that has imported everything, so that their lives are work and not imports. Prints the
counts and writes benchmarks/results/kill_and_race.json.
"""

import argparse
import json
import os
import platform
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import soundfile
import torch  # noqa: F401

from edgesea import cli
from edgesea.distill import distill, trainer  # noqa: F401
from edgesea.extract import extract  # noqa: F401

RESULTS = Path(__file__).parent / "results" / "kill_and_race.json"
TABLE = ["--sample_rate=8000", "--part_clips=2", "--validate=0.5", "--workers=1"]
TINY = {"student": "sea-64", "filters": [2, 2, 2, 4], "n_mels": 16}
TINY |= {"epochs": 6, "epoch_size": 48, "batch_size": 8, "patience": 0}
STUDENT = ["--filters", "2", "2", "2", "4", *(f"--{name}={value}" for name, value in TINY.items() if name != "filters")]
EXPERIMENT = f"""
extract: {{source: ../rec, sample_rate: 8000, part_clips: 2, validate: 0.5, workers: 1}}
sample: {{size: 40}}
reduce: {{size: 4}}
distill: {json.dumps(TINY)}
"""
COMMANDS = {  # run in a folder of their own; what they read is beside it
    "extract": ["extract", "../rec", "out", *TABLE],
    "distill": ["distill", "../inputs/table", "../inputs/phi", "out", *STUDENT],
    "run": ["run", "../experiment.yaml", "--out=out"],
}
RACES = [("extract", "extract"), ("distill", "distill"), ("run", "run"), ("run", "table")]
UNLIKE = ("stages.json", "results.json", "report.html", "digests.json")  # of a run: times and speeds
FINISHED = ("part-*.parquet", "subset.parquet", "model.safetensors", "reduction.safetensors")


def start(command: list[str], folder: Path) -> int:
    """Fork a process that runs a command in a folder; its output is appended to the file log in it."""
    folder.mkdir(parents=True, exist_ok=True)
    if child := os.fork():
        return child
    code = 70
    try:
        os.chdir(folder)
        log = os.open("log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        os.dup2(log, 1)
        os.dup2(log, 2)
        sys.argv = ["edgesea", *command]
        code = cli.main(command)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def wait(child: int) -> int:
    """How a process ended: its exit code, or minus the signal."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def content(folder: Path) -> dict[str, bytes]:
    """All files that are to be as those of an undisturbed process."""
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    compared = {name: path for name, path in files.items() if "checkpoints/" not in name and name not in UNLIKE}
    return {name: path.read_bytes() for name, path in compared.items()}


def finished(folder: Path) -> dict[str, Any]:
    """The finished results in a folder: when a part of a table (its clips are the last) was written, else its bytes."""
    found = {path for pattern in FINISHED for path in folder.rglob(pattern)}
    found -= {path for path in found if not (path.parents[1] / "clips" / path.name).exists() and "part" in path.name}
    return {str(p): p.stat().st_mtime_ns if p.name.startswith("part") else p.read_bytes() for p in found}


class Trial:
    """A place to work in, and what has been counted."""

    def __init__(self, place: Path, seed: int) -> None:
        self.place, self.rng, self.counts = place, random.Random(seed), Counter[str]()
        self.folders, self.lives, self.expected = 0, dict[str, float](), dict[str, dict[str, bytes]]()

    def prepare(self) -> None:
        """Write recordings, and run every command undisturbed."""
        rng = np.random.default_rng(0)
        (self.place / "rec").mkdir(parents=True)
        for index in range(16):
            noise = rng.standard_normal(24000) * rng.uniform(0.01, 0.2)
            soundfile.write(self.place / "rec" / f"{index:02d}.wav", noise, 8000)
        (self.place / "experiment.yaml").write_text(EXPERIMENT)
        inputs = self.place / "inputs"
        for command in (["extract", "../rec", "table", *TABLE], ["reduce", "table", "phi", "--size=4"]):
            assert wait(start(command, inputs)) == 0, (inputs / "log").read_text()
        for name, command in COMMANDS.items():
            began = time.perf_counter()
            assert wait(start(command, self.place / name)) == 0, (self.place / name / "log").read_text()
            self.lives[name] = time.perf_counter() - began
            self.expected[name] = content(self.place / name / "out")

    def new_folder(self) -> Path:
        self.folders += 1
        return self.place / f"work{self.folders}"

    def check(self, name: str, folder: Path) -> None:
        """Compare a finished folder with the undisturbed one."""
        found, expected = content(folder / "out"), self.expected[name]
        wrong = [file for file in found.keys() | expected.keys() if found.get(file) != expected.get(file)]
        self.counts["artifacts compared"] += 1
        self.counts["files different"] += len(wrong)
        sizes = [(len(found.get(file, b"")), len(expected.get(file, b""))) for file in wrong]
        self.counts["bytes different"] += sum(max(pair) for pair in sizes)
        log = (folder / "log").read_text(errors="replace")
        self.counts["tracebacks"] += log.count("Traceback")
        if wrong or "Traceback" in log:
            print(f"{name} in {folder}: {wrong}\n{log[-3000:]}", flush=True)

    def kill(self, name: str, kills: int) -> None:
        """Kill a command that often, and compare what it makes whenever it comes to its end."""
        done, folder, before = 0, self.new_folder(), dict[str, Any]()
        while True:
            child = start(COMMANDS[name], folder)
            if done < kills:
                time.sleep(self.rng.uniform(0, 0.6 * self.lives[name]))
                os.kill(child, signal.SIGKILL)
            code = wait(child)
            after = finished(folder)
            lost = [path for path, state in before.items() if after.get(path) != state]
            self.counts["results lost"] += len(lost)
            if lost:
                print("lost:", *lost, flush=True)
            before = after
            if code == -signal.SIGKILL:
                done += 1
                self.counts[f"kills during {name}"] += 1
                continue
            self.counts["wrong exits"] += code != 0
            self.check(name, folder)
            if done >= kills:
                return
            folder, before = self.new_folder(), {}

    def race(self, number: int) -> None:
        """Two processes in one folder: one may be refused, but must say by whom, and the result is as ever."""
        one, other = RACES[number % len(RACES)]
        folder, waits = self.new_folder(), number // len(RACES) % 2 == 1
        table = ["extract", "../rec", "out/table", *TABLE]
        commands = [COMMANDS[one], table if other == "table" else COMMANDS[other]]
        children = []
        for command in commands:
            children.append(start([*command, *(["--wait"] if waits else [])], folder))
            time.sleep(self.rng.uniform(0, 0.5) * self.lives[one] * (other == "table" or self.rng.random() < 0.5))
        codes = [wait(child) for child in children]
        refused = (folder / "log").read_text(errors="replace").count("in use by process")
        self.counts["races"] += 1
        self.counts["refused"] += refused
        self.counts["wrong exits"] += sum(code not in (0, 1) for code in codes) + (sum(codes) != refused)
        if any(codes) and wait(start(COMMANDS[one], folder)):  # `run` may have been refused its table
            self.counts["wrong exits"] += 1
        self.check(one, folder)


def measure(kills: int, races: int, seed: int, place: Path) -> dict[str, Any]:
    """All trials in a folder; returns the counts."""
    trial = Trial(place, seed)
    trial.prepare()
    for index, name in enumerate(COMMANDS):
        trial.kill(name, (kills + index) // len(COMMANDS))
    for number in range(races):
        trial.race(number)
    names = ("bytes different", "files different", "results lost", "tracebacks", "wrong exits")
    return {**trial.counts, **{name: trial.counts[name] for name in names}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--races", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as name:
        counts = measure(given.kills, given.races, given.seed, Path(name))
    for what, count in counts.items():
        print(f"{count:6d} {what}")
    about = {"seed": given.seed, "python": platform.python_version(), "seconds": round(time.perf_counter() - began)}
    RESULTS.write_text(json.dumps({**counts, **about}, indent=2) + "\n")


if __name__ == "__main__":
    main()
