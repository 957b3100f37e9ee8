"""How a row of the benchmark is measured: cases in processes of their own, in turns, and what their figures say."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from peers import ROOT, python_of, source_of

from edgesea.parallel import SLEEP

CASES = Path(__file__).with_name("cases.py")
TIMEOUT = 900.0  # seconds of a case
Run = dict[str, Any]  # what a case gives: seconds, windows, megabytes ...


@dataclass
class Measured:
    """All runs of a case, or why there are none."""

    runs: list[Run] = field(default_factory=list)
    error: str = ""

    @property
    def seconds(self) -> float:
        """Of the fastest run: other work on the machine only slows down."""
        if self.error:
            raise RuntimeError(self.error)
        return min(float(run["seconds"]) for run in self.runs)

    @property
    def spread(self) -> float:
        """How much longer the median run took than the fastest one."""
        return float(np.median([run["seconds"] for run in self.runs])) / self.seconds - 1

    @property
    def rate(self) -> float:
        """Windows a second."""
        return float(self.runs[0]["windows"]) / self.seconds

    def __getitem__(self, name: str) -> Any:
        if self.error:
            raise RuntimeError(self.error)
        return self.runs[0][name]


@dataclass
class Line:
    """A line of the page: a ratio, and the bar that it has to meet (at least, or at most); or why there is none."""

    what: str
    against: str = ""
    ratio: float | None = None
    bar: float | None = None
    at_most: bool = False
    measured: str = ""
    spread: float = 0.0
    committed: float | None = None  # ratio of the committed results

    @property
    def met(self) -> bool | None:
        """None: there is no bar."""
        if self.ratio is None:
            return False
        return None if self.bar is None else self.ratio <= self.bar if self.at_most else self.ratio >= self.bar

    @property
    def change(self) -> float | None:
        """The ratio against the committed one; below 1 is worse."""
        if not self.ratio or not self.committed:
            return None
        return self.committed / self.ratio if self.at_most else self.ratio / self.committed


def compared(what: str, against: str, ours: Measured, peer: Measured, bar: float | None = None, unit: str = "") -> Line:
    """How many times as fast ours is; a case that failed is the text of the line."""
    try:
        ratio = peer.seconds / ours.seconds
        if unit:
            ratio, measured = ours.rate / peer.rate, f"{ours.rate:.3g} and {peer.rate:.3g} {unit}"
        else:
            measured = f"{ours.seconds:.3g} and {peer.seconds:.3g} s"
        if all("megabytes" in each.runs[0] for each in (ours, peer)):
            measured += f", {ours['megabytes']:.0f} and {peer['megabytes']:.0f} MB"
        return Line(what, against, ratio, bar, measured=measured, spread=max(ours.spread, peer.spread))
    except Exception as error:
        return Line(what, against, None, bar, measured=str(error))


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """The mean cosine of rows, both centred by the mean of the second: the common part says nothing."""
    a, b = (rows.astype(np.float64) - b.mean(0, dtype=np.float64) for rows in (a, b))
    return float(np.mean((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)))


@dataclass
class Bench:
    """Where and how much is measured."""

    folder: Path  # for what the cases write
    cache: Path
    data: Path
    sources: Path | None
    threads: int
    repeats: int
    extent: int = 1  # 0: tiny, to see whether it runs; 2: large
    found: dict[str, Measured] = field(default_factory=dict)  # all cases so far

    @property
    def quick(self) -> bool:
        return self.extent == 0

    def size(self, quick: int, usual: int, full: int = 0) -> int:
        return (quick, usual, full or usual)[self.extent]

    def source(self, name: str) -> str:
        return str(source_of(name, self.cache, self.sources))

    def given(self, name: str) -> str:
        """A file of the project's data."""
        if not (self.data / name).exists():
            raise FileNotFoundError(f"{self.data / name} is missing; name the folder of the data with --data")
        return str((self.data / name).resolve())

    def environ(self, environment: str) -> dict[str, str]:
        """Variables of a process: as many threads as there are to be, and ours is the source of this tree."""
        found = {**os.environ, "OMP_NUM_THREADS": str(self.threads), "TF_CPP_MIN_LOG_LEVEL": "3"}
        found |= {"TF_USE_LEGACY_KERAS": "1", "CUDA_VISIBLE_DEVICES": "", "TQDM_DISABLE": "1"}
        found.pop("PYTHONPATH", None)
        if environment in ("edgesea", "openvino", "light"):
            found |= {"PYTHONPATH": str(ROOT / "src"), **SLEEP}  # which our commands set
        return found

    def command(self, words: list[str], environment: str = "edgesea", folder: Path | None = None) -> Run:
        """Run a command; its seconds, from start to end, and its last line."""
        began = perf_counter()
        options: dict[str, Any] = {"capture_output": True, "text": True, "timeout": TIMEOUT, "check": False}
        done = subprocess.run(words, env=self.environ(environment), cwd=folder or self.folder, **options)
        seconds = perf_counter() - began
        if done.returncode:
            lines = [line for line in done.stderr.splitlines() if line.strip()] or ["no message"]
            raise RuntimeError(f"exit {done.returncode}: {lines[-1][:300]}")
        return {"seconds": seconds, "output": (done.stdout.splitlines() or [""])[-1]}

    def case(self, name: str, environment: str = "edgesea", **options: Any) -> Run:
        """Run a case of cases.py in an environment; `process` is the seconds from the start of it to its end."""
        words = [python_of(environment, self.cache), str(CASES), name]
        done = self.command([*words, json.dumps({**options, "threads": self.threads})], environment)
        result: Run = json.loads(done["output"])
        return {**result, "process": done["seconds"]}

    def figures(self) -> dict[str, Any]:
        """Of all cases so far, for the results: all seconds, the least processor time, the largest peak of memory."""
        kinds: dict[str, Callable[[list[float]], Any]] = {"seconds": list, "cpu": min, "windows": max, "megabytes": max}
        runs = {label: measured.runs for label, measured in self.found.items() if measured.runs}
        return {
            label: {key: kind([round(run[key], 4) for run in found]) for key, kind in kinds.items() if key in found[0]}
            for label, found in runs.items()
        }

    def turns(self, cases: Mapping[str, Callable[[], Run]], repeats: int = 0) -> dict[str, Measured]:
        """Run all cases, again and again in turns; one that fails is not run again."""
        found = {label: Measured() for label in cases}
        self.found |= found
        for _ in range(repeats or self.repeats):
            for label, run in cases.items():
                if found[label].error:
                    continue
                try:
                    found[label].runs.append(run())
                    print(f"  {label}: {found[label].runs[-1]['seconds']:.3g} s", file=sys.stderr, flush=True)
                except Exception as error:  # what cannot be measured is part of the answer
                    found[label].error = f"{label}: {type(error).__name__}: {error}"[:400]
                    print(f"  {found[label].error}", file=sys.stderr, flush=True)
        return found
