"""Do several processes train the student of one, does each read only its share, and does a signal cost anything?

    python benchmarks/ddp.py [--stops 8] [--seed 0]

`distill` runs on a table of noise (buffer and chunks made small, so that there are lanes) in one process, in
two and in four (gloo), and, since training amplifies every rounding error, in one process with two threads. The loss
curves are compared; each process counts the chunks that it reads. Then two processes are stopped by SIGTERM or SIGUSR1,
sent to one or both of them at random times, and started again until they have finished: the student must have the bytes
of the one that was not interrupted. Prints the counts and writes benchmarks/results/ddp.json.
"""

import argparse
import csv
import json
import os
import platform
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import soundfile

RESULTS = Path(__file__).parent / "results" / "ddp.json"
CLIPS, BUFFER = 320, 200  # clips of the table, windows of the buffer
OPTIONS = ["--student=sea-64", "--filters=[8,8,16,16]", "--n-mels=32"]
OPTIONS += ["--epochs=4", "--batch-size=32", "--mask=0.1", "--device=cpu"]
READY = "ready"  # name of a file that says that training has begun


def worker(arguments: list[str]) -> int:
    """A process that trains, with a small buffer, and counts what it reads."""
    from edgesea import cli
    from edgesea.distill import data, trainer

    rank, folder = os.environ["RANK"], Path(arguments[3]).parent
    data.BUFFER_BYTES = BUFFER * 16016
    load, begin = data.WindowSource.load, trainer.StopInOrder.on_train_start
    read: dict[str, set[tuple[int, int]]] = {"train": set(), "validate": set()}

    def counted(self: Any, part: int, group: int) -> Any:
        read[self.split].add((part, group))
        return load(self, part, group)

    def begun(self: Any, *given: Any) -> None:
        begin(self, *given)
        Path(folder, f"{READY}-{rank}").touch()

    data.WindowSource.load, trainer.StopInOrder.on_train_start = counted, begun  # type: ignore[method-assign]
    code = cli.main(arguments)
    found = {split: sorted(chunks) for split, chunks in read.items()}
    Path(folder, f"reads-{rank}.json").write_text(json.dumps(found))
    return code


def start(table: Path, out: Path, world: int, threads: int = 1) -> list[subprocess.Popen[str]]:
    """Start the processes that train a student."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    out.parent.mkdir(exist_ok=True)
    for left in out.parent.glob(f"{READY}-*"):
        left.unlink()
    env = {**os.environ, "WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "LOCAL_RANK": "0"}
    env["OMP_NUM_THREADS"] = str(threads)
    command = [sys.executable, __file__, "distill", str(table), str(table.parent / "phi"), str(out), *OPTIONS]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return [subprocess.Popen(command, env={**env, "RANK": str(rank)}, **pipes) for rank in range(world)]


def end(processes: list[subprocess.Popen[str]]) -> list[str]:
    """What the processes print on standard error; the exit codes must be those of an end or of an interruption."""
    printed = [process.communicate(timeout=600)[1] for process in processes]
    if {process.returncode for process in processes} - {0, 128 + signal.SIGTERM, 128 + signal.SIGUSR1}:
        raise SystemExit("\n".join(printed))
    return printed


def curve(out: Path, name: str) -> list[float]:
    with (out / "metrics.csv").open(newline="") as file:
        return [float(row[name]) for row in csv.DictReader(file)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stops", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    rng = random.Random(given.seed)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        table = make_table(folder)
        result: dict[str, Any] = {"clips": CLIPS, "options": " ".join(OPTIONS)}
        for name, world, threads in (("1", 1, 1), ("two threads", 1, 2), ("2", 2, 1), ("4", 4, 1)):
            out = folder / name / "student"
            end(start(table, out, world, threads))
            for loss in ("train_mse", "val_mse"):
                pairs = zip(curve(folder / "1" / "student", loss), curve(out, loss), strict=True)
                if name != "1":
                    result[f"{name} against one: {loss} of each epoch"] = [float(f"{abs(x - y):.1e}") for x, y in pairs]
            reads = [json.loads((out.parent / f"reads-{rank}.json").read_text()) for rank in range(world)]
            for split in ("train", "validate") if threads == 1 else ():
                result[f"{name}: chunks read by each, {split}"] = [len(read[split]) for read in reads]
        stops, within, out = 0, 0, folder / "stopped" / "student"
        while not (out / "results.json").exists():
            processes = start(table, out, 2)
            if stops < given.stops:
                while not all((out.parent / f"{READY}-{rank}").exists() for rank in range(2)):
                    time.sleep(0.01)
                time.sleep(rng.uniform(0, 2))
                sent = rng.choice([signal.SIGTERM, signal.SIGUSR1])
                for process in rng.choice([processes[:1], processes[1:], processes]):
                    process.send_signal(sent)
                stops += 1
            within += any("batches of epoch" in text for text in end(processes))
        names = ("model.safetensors", "metrics.csv")
        same = all((out / name).read_bytes() == (folder / "2" / "student" / name).read_bytes() for name in names)
    result |= {"signals": stops, "stopped within an epoch": within, "then the same bytes": same, "seed": given.seed}
    result["python"] = platform.python_version()
    RESULTS.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


def make_table(folder: Path) -> Path:
    """A table of noise, a chunk for each clip, and a reduction of it."""
    from edgesea.extract import extract
    from edgesea.reduction import reduce
    from edgesea.table import writer

    for index in range(CLIPS):
        rng = np.random.default_rng(index)
        wave = np.sin(2 * np.pi * rng.uniform(50, 3000) * np.arange(12000) / 8000)
        (folder / "audio").mkdir(exist_ok=True)
        samples = 0.1 * wave + 0.05 * rng.standard_normal(12000)
        soundfile.write(folder / "audio" / f"{index:03d}.wav", samples.astype(np.float32), 8000)
    writer.FLUSH_BYTES = 1
    extract(folder / "audio", folder / "table", sample_rate=8000, hop=0.25, part_clips=20, workers=1, validate=0.1)
    reduce(folder / "table", folder / "phi", size=8, whiten=True)
    return folder / "table"


if __name__ == "__main__":
    sys.exit(worker(sys.argv[1:])) if sys.argv[1:2] == ["distill"] else main()
