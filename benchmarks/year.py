"""Sampling from a year of a sensor network: 15 sensors x 365 days x 1 700 windows x 512 dimensions, 500 000 chosen.

    python benchmarks/year.py make /tmp/year                     # 9.3 million windows, 9.6 GB of float16, part by part
    python benchmarks/year.py run /tmp/year                      # all methods; seconds, windows/s, peak memory
    python benchmarks/year.py run /tmp/fortnight --scale 26      # a shorter table, projected

The table has no audio, which `sample` does not read. Each method runs as `edgesea sample` in a process of its own,
after a plain read of all embeddings with pyarrow, which is the limit that the disk and the format set.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from datetime import date, timedelta
from pathlib import Path

import numpy as np

SENSORS, WINDOWS, D, CHOSEN, RATE = 15, 1700, 512, 500_000, 8000
METHODS = ("random", "spl", "dpp_div", "dpp", "dpp_div_map", "dpp_map", "kmeans")


def make(folder: Path, days: int) -> None:
    """Write the table: a part holds a week of a sensor."""
    from tqdm import tqdm

    from edgesea.artifact import write_json
    from edgesea.table.clips import ClipEntry, Piece
    from edgesea.table.writer import write_part

    rng = np.random.default_rng(0)
    mixing = rng.standard_normal((48, D)).astype(np.float32) * np.exp(-np.arange(48) / 12)[:, None].astype(np.float32)
    noise = 0.05 * rng.standard_normal((4 * WINDOWS, D), np.float32)
    starts = np.arange(WINDOWS) * 50 * RATE
    weeks = [range(first, min(first + 7, days)) for first in range(0, days, 7)]
    part = 0
    for sensor in tqdm(range(SENSORS), unit="sensor"):
        for week in weeks:
            with write_part(folder, part, D, "float16") as writer:
                for day in week:
                    time_of = (date(2019, 1, 1) + timedelta(days=day)).isoformat() + "T00:00:00"
                    name = f"s{sensor:02d}/{time_of[:10]}.wav"
                    entry = ClipEntry(name, Path(name), f"s{sensor:02d}", time_of, "train", None)
                    first = int(rng.integers(3 * WINDOWS))
                    x = rng.standard_normal((WINDOWS, 48), np.float32) @ mixing + noise[first : first + WINDOWS]
                    levels = rng.normal(60, 8, WINDOWS).astype(np.float32)
                    writer.add(Piece(entry, 0, np.zeros(0, np.int16), starts, levels), x)
            part += 1
    windows = SENSORS * days * WINDOWS
    info = {
        "teacher": {"id": "synthetic", "sha256": None, "sample_rate": RATE, "embedding_size": D},
        "sample_rate": RATE,
        "framing": {"window": 1.0, "hop": 50.0, "center": False},
        "dtype": "float16",
        "parts": part,
        "part_clips": 7,
        "manifest_sha256": f"synthetic {days}",
        "clips": SENSORS * days,
        "windows": windows,
        "windows_by_split": {"train": windows},
    }
    write_json(folder / "table.json", info)


def read(table: Path) -> None:
    """Read every embedding once."""
    from edgesea.table.reader import Table

    source = Table(table)
    for part, group, _ in source.windows_by_split():
        source.embeddings(part, group)


def timed(command: list[str]) -> tuple[float, float]:
    """Seconds and peak megabytes of a command."""
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"failed: {' '.join(command)}")
    return time.perf_counter() - began, usage.ru_maxrss / 1024


def run(table: Path, methods: list[str], scale: float, out: Path | None) -> None:
    info = json.loads((table / "table.json").read_text())
    chosen = round(CHOSEN / scale)
    print(f"{os.cpu_count()} cores, {info['windows']} windows x {D} float16, {chosen} chosen, scale {scale:g}\n")
    print("| | s | windows/s | peak MB | s, projected to a year |\n|---|---|---|---|---|")
    found = {}
    for method in ("read", *methods):
        command = [sys.executable, __file__, "read", str(table)]
        if method != "read":
            own = ["--method", method, "--size", str(chosen)]
            command = [sys.executable, "-m", "edgesea", "sample", str(table), f"{table}.{method}.parquet", *own]
        seconds, peak = timed(command)
        found[method] = {"seconds": seconds, "megabytes": peak}
        rate = info["windows"] / seconds
        print(f"| {method} | {seconds:.1f} | {rate:.0f} | {peak:.0f} | {seconds * scale:.0f} |", flush=True)
    if out:
        out.write_text(json.dumps({"windows": info["windows"], "chosen": chosen, "found": found}, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("make", "run", "read"))
    parser.add_argument("table", type=Path)
    parser.add_argument("--days", type=int, default=365, help="of make")
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    parser.add_argument("--scale", type=float, default=1.0, help="365 / days of the table")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if arguments.action == "make":
        make(arguments.table, arguments.days)
    elif arguments.action == "read":
        read(arguments.table)
    else:
        run(arguments.table, arguments.methods, arguments.scale, arguments.json)


if __name__ == "__main__":
    main()
