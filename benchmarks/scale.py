"""A million clips: when does the work start, is memory flat, and what does a part cost besides its work?

    python benchmarks/scale.py [--clips 1000000] [--folder /tmp/scale] [--only sample resume]
    python benchmarks/scale.py --speedup path/to/mn04_as_mAP_432.pt

Makes a million small recordings of a city (50 sensors, a year), a manifest that lists them, and a table of 20 million
windows as `extract` would write it (16 dimensions, no audio), part by part with the product's own writer; the same with
a tenth of the clips. Then times how long each command takes, in a process of its own, until its work starts: the first
batch of windows reaches the teacher, the first stratum is chosen, the first embeddings are fitted on. `warm` is the
second of two starts, `cold` one after the kernel's cache was dropped (needs root). `processor` is the time that the
process and the kernel worked for it, which other work on the machine does not lengthen by much. What a part costs is
the time of 300 parts of a clip, less that of a part of 300 clips. `--speedup` compares `extract` with two Dask workers
of a thread and with one. Prints tables and writes benchmarks/results/scale.json. `--folder` is left for another time.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "scale.json"
SENSORS, WINDOWS, SIZE, PART, RATE = 50, 20, 16, 128, 8000
TEACHER = f"callable:scale_teacher:embed@{RATE}"
TEACHER_FILE = """
def embed(windows):
    if windows.any():  # at first it is tried with silence
        import scale
        scale.started()
    return windows[:, :16]
"""
YAML = (
    "extract: {{source: {manifest}, teacher: '{teacher}', workers: 1}}\nsample: {{size: 100000}}\nreduce: {{size: 8}}\n"
)


def started() -> None:
    """Tell the parent when, and how large this process has become, and end."""
    if os.environ.get("SCALE_PROBE"):
        peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
        found = {"at": time.time(), "megabytes": int(peak.split()[1]) / 1024, "processor": time.process_time()}
        os.write(1, f"{json.dumps(found)}\n".encode())  # at once, by whichever thread is the first
        os._exit(0)


# --- a city


def names(clips: int) -> list[tuple[str, str, str]]:
    """Path, sensor and time of all clips, sorted by path."""
    each, first = clips // SENSORS, datetime(2019, 1, 1)
    times = [first + timedelta(days=365) * number / each for number in range(each)]
    stamps = [(f"{time:%Y%m%dT%H%M%S}", time.isoformat(timespec="seconds")) for time in times]
    return [(f"s{s:02d}/{name}.wav", f"s{s:02d}", iso) for s in range(SENSORS) for name, iso in stamps]


def wav() -> bytes:
    """The shortest recording there is: 32 samples."""
    samples = np.arange(32, dtype="<i2").tobytes()
    head = b"RIFF" + (36 + len(samples)).to_bytes(4, "little") + b"WAVEfmt \x10\0\0\0\1\0\1\0"
    rates = RATE.to_bytes(4, "little") + (2 * RATE).to_bytes(4, "little")
    return head + rates + b"\2\0\x10\0data" + len(samples).to_bytes(4, "little") + samples


def make_recordings(folder: Path, clips: int) -> None:
    """Write recordings and their manifest."""
    content, rows = wav(), names(clips)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "scale_teacher.py").write_text(TEACHER_FILE)
    for sensor in range(SENSORS):
        (folder / f"s{sensor:02d}").mkdir()
    for path, *_ in rows:
        file = os.open(folder / path, os.O_WRONLY | os.O_CREAT)
        os.write(file, content)
        os.close(file)
    text = "".join(f"{','.join(row)}\n" for row in [("path", "sensor", "time"), *rows])
    (folder / "manifest.csv").write_text(text)


def make_parts(table: Path, rows: list[tuple[str, str, str]], parts: range) -> int:
    """Write some parts of a table; returns how many."""
    from edgesea.artifact import digest, read_json
    from edgesea.table.clips import ClipEntry, Piece
    from edgesea.table.manifest import hash_split
    from edgesea.table.writer import write_part

    plan = digest(read_json(table / "plan.json"))
    starts, silence = np.arange(WINDOWS) * RATE // 2, np.zeros(0, np.int16)
    for part in parts:
        rng = np.random.default_rng(part)
        with write_part(table, part, SIZE, "float16", plan) as writer:
            for name, sensor, time_of in rows[part * PART : (part + 1) * PART]:
                entry = ClipEntry(name, Path(name), sensor, time_of, hash_split(name, 0.1), None)
                levels = rng.normal(60, 8, WINDOWS).astype(np.float32)
                writer.add(Piece(entry, 0, silence, starts, levels), rng.standard_normal((WINDOWS, SIZE), np.float32))
    return len(parts)


def make(folder: Path, clips: int) -> None:
    """Recordings, and a table of them."""
    print(f"making {clips} clips in {folder}", flush=True)
    make_recordings(folder, clips)
    start("extract", folder)  # writes the plan, and begins with the first part
    (folder / "begun").rename(folder / "table")
    rows = names(clips)
    parts = -(-clips // PART)
    runs = [range(first, min(first + 200, parts)) for first in range(0, parts, 200)]
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        assert sum(pool.map(partial(make_parts, folder / "table", rows), runs)) == parts
    (folder / "run.yaml").write_text(YAML.format(manifest=folder / "manifest.csv", teacher=TEACHER))
    start("finish", folder)
    (folder / "made").touch()


# --- what starts


def extract(folder: Path, table: str = "begun") -> None:
    from edgesea.extract import extract

    shutil.rmtree(folder / "begun", ignore_errors=True)
    extract(folder / "manifest.csv", folder / table, teacher=TEACHER, workers=1, batch_size=1)


def resume(folder: Path) -> None:
    """Only the last part is missing."""
    last = max((folder / "table" / "clips").glob("part-*.parquet"))
    last.rename(f"{last}.saved")
    shutil.copy(folder / "table" / "table.json", folder / "table" / "table.json.saved")
    extract(folder, "table")


def finish(folder: Path) -> None:
    """All parts are there: `skipped.csv` and `table.json` are written."""
    (folder / "table" / "table.json").unlink(missing_ok=True)
    extract(folder, "table")
    started()


def sample(folder: Path) -> None:
    from edgesea.sampling import methods, sample

    methods._choose = lambda *_: started()  # type: ignore[assignment,return-value]
    sample(folder / "table", folder / "subset.parquet", size=100_000)


def reduce(folder: Path) -> None:
    from edgesea.reduction import reduce, windows

    windows.Windows.__iter__ = lambda *_: started()  # type: ignore[assignment,method-assign,return-value]
    reduce(folder / "table", folder / "phi", size=8)


def distill(folder: Path) -> None:
    """Until the windows of both splits are known, and the first of them are read."""
    from edgesea.distill import data
    from edgesea.reduction.base import Reduction
    from edgesea.table.reader import Table

    table = Table(folder / "table")
    phi: Any = type("Phi", (Reduction,), {"output_size": 8})
    data.WindowSource(table, phi, "train")
    data.WindowSource(table, phi, "validate")
    started()


def dry_run(folder: Path) -> None:
    """Of a new run: the whole command."""
    from edgesea.pipeline import run

    run(folder / "run.yaml", out=folder / "run", dry_run=True)
    started()


def status(folder: Path) -> None:
    """Of a run that is at its table: the whole command."""
    from edgesea.artifact import write_json
    from edgesea.pipeline.stages import FORMAT, STAMPS
    from edgesea.submit.status import status

    if not (run := folder / "looked-at").exists():
        stamp = {"plan": {}, "accepted": {}, "finished": False, "seconds": 1.0, "began": time.time()}
        write_json(run / STAMPS, {"format": FORMAT, "stages": {"extract": stamp}})
        (run / "table").symlink_to(folder / "table")
    assert status(run)["stages"]["extract"]["done"]
    started()


STARTS: dict[str, Callable[[Path], None]] = {
    one.__name__: one for one in (extract, resume, finish, sample, reduce, distill, dry_run, status)
}


def start(what: str, folder: Path) -> dict[str, float]:
    """Seconds until the work starts, and megabytes of memory by then."""
    environment = {**os.environ, "SCALE_PROBE": "1", "PYTHONPATH": f"{HERE.parent / 'src'}:{HERE}:{folder}"}
    command = [sys.executable, "-c", f"import scale; scale.STARTS[{what!r}](scale.Path({str(folder)!r}))"]
    began = time.time()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    for saved in (folder / "table").rglob("*.saved"):
        saved.rename(saved.with_suffix(""))
    if done.returncode:
        raise SystemExit(f"{what}: {done.stderr[-3000:]}")
    found = json.loads(next(line for line in done.stdout.splitlines() if "megabytes" in line))
    seconds = {"seconds": round(found["at"] - began, 2), "processor": round(found["processor"], 2)}
    return {**seconds, "megabytes": round(found["megabytes"])}


def drop_caches() -> bool:
    """Whether the kernel has forgotten all files."""
    os.sync()
    try:
        Path("/proc/sys/vm/drop_caches").write_text("3")
    except OSError:
        return False
    return True


def measure(folders: list[Path], only: list[str]) -> dict[str, Any]:
    """All starts, with a tenth of the clips and with all."""
    found: dict[str, Any] = {}
    print("| | tenth: s | MB | all, warm: s | processor, s | MB | all, cold: s |\n|---|---|---|---|---|---|---|")
    for what in only:
        small, _, large = start(what, folders[0]), start(what, folders[1]), start(what, folders[1])
        cold = start(what, folders[1])["seconds"] if drop_caches() else None
        found[what] = {"tenth": small, "all": large, "cold_seconds": cold}
        cells = [small["seconds"], small["megabytes"], large["seconds"], large["processor"], large["megabytes"], cold]
        print("|", " | ".join(map(str, [what, *cells])), "|", flush=True)
    return found


def part_overhead(place: Path) -> dict[str, float]:
    """Milliseconds that a part costs besides its work."""
    from edgesea.extract import extract

    make_recordings(place / "few", 300)
    sys.path.insert(0, str(place / "few"))
    seconds: dict[int, list[float]] = {1: [], 300: []}
    for number in range(4):  # the first warms up
        for clips in seconds:
            began, out = time.perf_counter(), place / f"parts{clips}-{number}"
            extract(place / "few" / "manifest.csv", out, teacher=TEACHER, workers=1, part_clips=clips)
            seconds[clips].append(time.perf_counter() - began)
    many, one = (median(some[1:]) for some in seconds.values())
    return {"parts": 300, "ms": round(1000 * (many - one) / 299, 2)}


def speed_up(place: Path, weights: Path, pairs: int = 3, clips: int = 240) -> dict[str, Any]:
    """How much faster `extract` is by two workers than by one, in turn: the whole command, and without all starts.

    The second command finds workers that have loaded the model; its windows a second are those from the first part on.
    Each worker has one processor, as in a job of SLURM with `--cpus 1`: without that, one alone would use more of two,
    since it decodes and embeds in two threads.
    """
    import soundfile
    from faults import cluster

    rng = np.random.default_rng(0)
    (place / "rec").mkdir()
    for number in range(clips):
        soundfile.write(place / "rec" / f"{number:03d}.wav", 0.1 * rng.standard_normal(320_000), 32_000)
    options = ["--teacher=efficientat/mn04", f"--weights={weights.resolve()}", "--workers=1", "--part-clips=8"]
    found: dict[str, list[float]] = {f"{what}, {n}": [] for n in (1, 2) for what in ("seconds", "windows/s")}
    environment = {**os.environ, "PYTHONPATH": str(HERE.parent / "src")}
    for _ in range(pairs):
        for workers in (1, 2):
            with cluster(place, workers) as dask:
                for number, worker in enumerate(dask.workers):
                    subprocess.run(["taskset", "-acp", str(number), str(worker.pid)], check=True, capture_output=True)
                command = ["-m", "edgesea", "extract", "rec", "out", *options, f"--cluster={dask.address}"]
                for what in ("seconds", "windows/s"):
                    began = time.perf_counter()
                    call = [sys.executable, *command]
                    done = subprocess.run(call, cwd=place, check=True, env=environment, stdout=subprocess.PIPE)
                    seconds, rate = time.perf_counter() - began, json.loads(done.stdout)["windows_per_second"]
                    found[f"{what}, {workers}"].append(round(seconds if what == "seconds" else rate, 2))
                    shutil.rmtree(place / "out")
    whole, work = (median(found[f"seconds, {n}"]) for n in (1, 2)), (median(found[f"windows/s, {n}"]) for n in (2, 1))
    ratios = {"whole command": round(next(whole) / next(whole), 2), "without starts": round(next(work) / next(work), 2)}
    return {"clips": clips, **found, "speed_up": ratios}


def record(**found: Any) -> None:
    """Add what was measured to the results."""
    before = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    RESULTS.write_text(json.dumps({**before, **found}, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, help="default: a temporary one")
    parser.add_argument("--only", nargs="+", choices=[*STARTS, "parts"], default=[])
    parser.add_argument("--speedup", type=Path, metavar="WEIGHTS", help="of EfficientAT mn04; nothing else is measured")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="scale-") as name:
        place = given.folder or Path(name)
        if given.speedup:
            found = speed_up(Path(name), given.speedup)
            print(found["speed_up"])
            return record(speed_up=found)
        if not given.only or "parts" in given.only:
            overhead = part_overhead(Path(name))
            print(f"{overhead['ms']} ms for a part")
            record(part=overhead)
        sizes = given.clips // 10, given.clips
        folders = [place / f"{clips}" for clips in sizes]
        for folder, clips in zip(folders, sizes, strict=True):
            if not (folder / "made").exists():
                make(folder, clips)
        starts = measure(folders, [name for name in given.only or STARTS if name != "parts"])
        before = json.loads(RESULTS.read_text())["starts"] if given.only and RESULTS.exists() else {}
        record(clips=given.clips, starts=before | starts)


if __name__ == "__main__":
    main()
