"""How much of what forward and backward passes alone would reach does `distill` reach?

    python benchmarks/distillation.py [--students small sea-64 sea-512] [--threads 1 2] [--repeats 3] [--source /older/src]

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
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "distillation.json"
BATCH, SIZE = 64, 64
STUDENTS: dict[str, dict[str, Any]] = {  # options of `distill`, and batches that take a few seconds on one core
    "small": {"filters": [8, 16, 32, 64], "batches": 32},
    "sea-64": {"student": "sea-64", "batches": 6},
    "sea-512": {"student": "sea-512", "batches": 2},
}


def prepare(folder: Path) -> None:
    """A table of 2 100 windows, 20 of which validate, and a reduction."""
    import soundfile

    from edgesea.extract import extract
    from edgesea.reduction import reduce

    rng, rows = np.random.default_rng(0), ["path,split"]
    for number in range(104):
        soundfile.write(folder / f"{number:03}.wav", 0.1 * rng.standard_normal(20 * 8000), 8000)
        rows.append(f"{number:03}.wav,{'train' if number else 'validate'}")
    (folder / "manifest.csv").write_text("\n".join(rows) + "\n")
    extract(folder / "manifest.csv", folder / "table", hop=1.0)
    reduce(folder / "table", folder / "reduction", size=SIZE)


def timed(work: Callable[[], Any]) -> np.ndarray:
    """Wall and processor seconds."""
    began = perf_counter(), process_time()
    work()
    return np.array([perf_counter() - began[0], process_time() - began[1]])


def alone(name: str, bfloat16: bool) -> Callable[[], None]:
    """Forward and backward passes over cached spectrograms."""
    import torch
    from torch.nn import functional

    from edgesea.models.student_config import StudentConfig
    from edgesea.models.student_torch import Student

    filters = STUDENTS[name].get("filters")
    student = Student(StudentConfig.named(STUDENTS[name].get("student", "sea-64"), filters=filters, embedding_size=SIZE))
    for key, parameter in student.train().named_parameters():
        parameter.requires_grad_(not (key.startswith("features") and key.endswith("bias") and int(key.split(".")[1]) % 7 in (0, 3)))
    batches = [(student.log_mel(0.1 * torch.randn(BATCH, 8000)), torch.randn(BATCH, SIZE)) for _ in range(4)]

    def work() -> None:
        for step in range(STUDENTS[name]["batches"]):
            spectrograms, targets = batches[step % len(batches)]
            with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
                output = student.embed_spectrogram(student.input_norm(spectrograms[:, None]))
            functional.mse_loss(output.float(), targets).backward()
            student.zero_grad(set_to_none=True)

    return work


def case(name: str, threads: int, precision: str, repeats: int, folder: Path) -> dict[str, Any]:
    """Measure one student in this process."""
    import torch

    from edgesea.distill import distill

    torch.set_num_threads(threads)
    logging.disable()
    options = {key: value for key, value in STUDENTS[name].items() if key != "batches"}
    options |= {"batch_size": BATCH, "epoch_size": BATCH * STUDENTS[name]["batches"], "schedule": "onecycle"}
    work, found = alone(name, precision == "bf16-mixed"), []
    work()
    for repeat in range(repeats):
        with tempfile.TemporaryDirectory() as temporary:

            def run(epochs: int) -> Any:
                out = Path(temporary, str(epochs))
                inputs = folder / "table", folder / "reduction", out
                return distill(*inputs, epochs=epochs, precision=precision, device="cpu", **options)

            first = timed(lambda: run(1))
            bare = timed(work)
            three = timed(lambda: run(3)) - first
            bare = (bare + timed(work)) / 2
            found.append([bare, three / 2])
    windows = BATCH * STUDENTS[name]["batches"]
    seconds, used = np.array(found).transpose(2, 1, 0)  # (alone, distill) x repeats
    rates = {"alone": windows / seconds[0].min(), "distill": windows / seconds[1].min()}
    shares = {"share": float(np.median(seconds[0] / seconds[1])), "share_cpu": float(np.median(used[0] / used[1]))}
    return {"student": name, "threads": threads, "precision": precision, **rates, **shares, "cpu_ms": 1e3 * np.median(used, 1).tolist()[1] / windows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--students", nargs="+", choices=STUDENTS, default=list(STUDENTS))
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--precisions", nargs="+", default=["32-true", "bf16-mixed"])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--source", type=Path, default=ROOT / "src", help="another source tree to measure")
    parser.add_argument("--case", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case:
        name, threads, precision = arguments.case
        print(json.dumps(case(name, int(threads), precision, arguments.repeats, arguments.folder)))
        return
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT / 'benchmarks')!r}); from distillation import *; prepare(Path({folder!r}))"], check=True, env={**os.environ, "PYTHONPATH": str(arguments.source)})
        for name in arguments.students:
            for threads in arguments.threads:
                for precision in arguments.precisions:
                    words = ["--case", name, str(threads), precision, "--folder", folder, "--repeats", str(arguments.repeats)]
                    env = {**os.environ, "PYTHONPATH": str(arguments.source), "OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE", "CUDA_VISIBLE_DEVICES": ""}
                    done = subprocess.run([sys.executable, __file__, *words], env=env, stdout=subprocess.PIPE, text=True, check=True)
                    rows.append(json.loads(done.stdout.splitlines()[-1]))
                    print(rows[-1], flush=True)


if __name__ == "__main__":
    main()
