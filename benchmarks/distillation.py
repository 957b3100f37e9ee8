"""How much of what forward and backward passes alone would reach does `distill` reach?

    python benchmarks/distillation.py [--students small sea-64] [--threads 1 2] [--repeats 7] [--source /older/src]

Alone: the same network, batch size, threads and precision, on spectrograms that are in memory, without an optimizer.
`distill`: the time of its later epochs, from the difference between two runs; the table stays in memory after the first
one. Both take turns in one process; wall seconds depend on what else the machine does, processor seconds do not. Noise
and the teacher `spectral`: speed depends on neither. Prints a table and writes benchmarks/results/distillation.json.
"""

import argparse
import json
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from itertools import product
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "distillation.json"
BATCH, SIZE = 64, 64
STUDENTS: dict[str, dict[str, Any]] = {  # options of `distill`, and batches that take a few seconds on one core
    "small": {"student": "sea-64", "filters": [8, 16, 32, 64], "batches": 32},
    "sea-64": {"student": "sea-64", "batches": 4},
    "sea-512": {"student": "sea-512", "batches": 1},
    "edge-3": {"student": "edge-3", "batches": 16},
    "edge-10": {"student": "edge-10", "batches": 8},
    "edge-25": {"student": "edge-25", "batches": 4},
}


def prepare(folder: Path) -> None:
    """A table of 2 100 windows, 20 of which validate, and a reduction."""
    import soundfile

    from edgesea.extract import extract
    from edgesea.reduction import reduce

    rng, rows = np.random.default_rng(0), ["path,split"]
    for number in range(104):
        soundfile.write(folder / f"{number:03}.wav", 0.1 * rng.standard_normal(20 * 16000), 16000)
        rows.append(f"{number:03}.wav,{'train' if number else 'validate'}")
    (folder / "manifest.csv").write_text("\n".join(rows) + "\n")
    extract(folder / "manifest.csv", folder / "table", hop=1.0)
    reduce(folder / "table", folder / "reduction", size=SIZE)


def now() -> np.ndarray:
    """Wall and processor seconds."""
    return np.array([perf_counter(), process_time()])


def timed(work: Callable[[], Any]) -> np.ndarray:
    began = now()
    work()
    return now() - began


def alone(name: str, bfloat16: bool) -> Callable[[], None]:
    """Forward and backward passes over cached spectrograms."""
    import torch
    from torch.nn import functional

    from edgesea.models.student_config import StudentConfig
    from edgesea.models.student_torch import Student

    filters = STUDENTS[name].get("filters")
    student = Student(StudentConfig.named(STUDENTS[name]["student"], filters=filters, embedding_size=SIZE))
    for module in student.train().features:
        if isinstance(module, torch.nn.Conv2d):
            module.bias.requires_grad_(False)  # as in training: a normalisation follows
    noise = 0.1 * torch.randn(4, BATCH, student.config.sample_rate)
    batches = [(student.log_mel(windows), torch.randn(BATCH, SIZE)) for windows in noise]

    def work() -> None:
        for step in range(STUDENTS[name]["batches"]):
            spectrograms, targets = batches[step % len(batches)]
            with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
                output = student.embed_spectrogram(student.input_norm(spectrograms[:, None]))
            functional.mse_loss(output.float(), targets).backward()
            student.zero_grad(set_to_none=True)

    return work


def measure(name: str, threads: int, precision: str, repeats: int, folder: Path) -> dict[str, Any]:
    """Measure one student in this process."""
    import torch

    from edgesea.distill import distill
    from edgesea.distill.module import Distiller

    torch.set_num_threads(threads)
    logging.disable()
    options = {key: value for key, value in STUDENTS[name].items() if key != "batches"}
    options |= {"batch_size": BATCH, "epoch_size": BATCH * STUDENTS[name]["batches"], "precision": precision}
    work, times = alone(name, precision == "bf16-mixed"), list[Any]()
    work()
    begin, end = Distiller.train_dataloader, Distiller.on_validation_epoch_start

    def epoch_begins(self: Distiller) -> Any:
        times.append([timed(work), -now()])
        return begin(self)

    def epoch_ends(self: Distiller) -> None:
        if self.trainer.state.fn == "fit":
            times[-1][1] += now()
        end(self)

    Distiller.train_dataloader, Distiller.on_validation_epoch_start = epoch_begins, epoch_ends  # type: ignore[method-assign]
    with tempfile.TemporaryDirectory() as out:
        distill(
            folder / "table", folder / "reduction", Path(out), epochs=repeats + 1, patience=0, device="cpu", **options
        )
    windows = BATCH * STUDENTS[name]["batches"]
    seconds, used = np.array(times[1:]).transpose(2, 1, 0)  # (alone, distill) x repeats
    rates = {"alone": windows / seconds[0].min(), "distill": windows / seconds[1].min()}
    rates["first epoch"] = windows / times[0][1][0]
    shares = [float(np.median(each[0] / each[1])) for each in (seconds, used)]
    found = {"student": name, "threads": threads, "precision": precision, **rates}
    return found | {"share": shares[0], "share of processor time": shares[1]}


def call(source: Path, threads: int, *words: object) -> str:
    """Run this script in a process with a source tree; what it prints last."""
    env = {**os.environ, "PYTHONPATH": str(source), "CUDA_VISIBLE_DEVICES": "", "OMP_WAIT_POLICY": "PASSIVE"}
    command = [sys.executable, __file__, *map(str, words)]
    done = subprocess.run(
        command, env={**env, "OMP_NUM_THREADS": str(threads)}, stdout=subprocess.PIPE, text=True, check=True
    )
    return done.stdout.splitlines()[-1] if done.stdout else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--students", nargs="+", choices=STUDENTS, default=list(STUDENTS))
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--precisions", nargs="+", default=["32-true", "bf16-mixed"])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--source", type=Path, default=ROOT / "src", help="another source tree to measure")
    parser.add_argument("--case", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case:
        name, threads, precision = arguments.case
        print(json.dumps(measure(name, int(threads), precision, arguments.repeats, arguments.folder)))
        return
    if arguments.folder:
        prepare(arguments.folder)
        return
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        call(arguments.source, 1, "--folder", folder)
        for case in product(arguments.students, map(str, arguments.threads), arguments.precisions):
            words = ("--case", *case, "--folder", folder, "--repeats", arguments.repeats)
            rows.append(json.loads(call(arguments.source, int(case[1]), *words)))
            print(" | ".join(str(round(x, 3) if isinstance(x, float) else x) for x in rows[-1].values()), flush=True)
    RESULTS.write_text(json.dumps({"cores": os.cpu_count(), "batch": BATCH, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
