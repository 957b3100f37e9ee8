"""What one GPU does: extraction with OpenL3 and distillation, end to end and as bare networks, beside its bf16 peak.

Peak is what a large bf16 matrix product reaches on the same card in the same run. Random weights, noise: speed depends
on neither. Writes JSON to standard output.

    python benchmarks/gpu.py [--clips 1500] > benchmarks/results/gpu.json
"""

import argparse
import json
import os
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import soundfile
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "models"))
from openl3_random import random_layers, write_keras_h5

from edgesea.audio.framing import Framing
from edgesea.cluster import Cluster, using
from edgesea.distill import distill
from edgesea.extract import extract
from edgesea.models import load_teacher
from edgesea.models.student_config import StudentConfig
from edgesea.models.student_torch import Student
from edgesea.reduction import reduce
from edgesea.table.clips import clip_pieces
from edgesea.table.manifest import read_manifest

BATCH = 256
OPENL3_MACS, STUDENT_MACS = 10.2e9, {"sea-512": 636.5e6, "sea-64": 122.4e6}


def seconds(function, repeats: int = 5) -> float:
    """Median time of a call on the GPU."""
    for _ in range(2):
        function()
    times = []
    for _ in range(repeats):
        torch.cuda.synchronize()
        began = time.perf_counter()
        function()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return float(np.median(times))


def peak() -> float:
    """Floating-point operations a second of a bf16 product of 8192 x 8192 matrices."""
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    return 2 * 8192**3 / seconds(lambda: a @ b, 10)


def rate(windows: float, flops: float, top: float) -> dict[str, float]:
    return {"windows_per_second": round(windows, 1), "share_of_peak": round(windows * flops / top, 4)}


def teacher_rates(weights: Path, precision: str, top: float) -> dict[str, object]:
    """A teacher as it is used: its front end, its network, and both with the copies to the card and back."""
    teacher = load_teacher("openl3/env-mel256-512", weights, "cuda", precision=precision)
    windows = np.random.default_rng(0).standard_normal((BATCH, 48000), np.float32)
    audio, flops = torch.from_numpy(windows).cuda(), 2 * OPENL3_MACS
    with torch.inference_mode():
        spectrogram = teacher.spectrogram(audio).to(getattr(torch, precision))
        front_end = seconds(lambda: teacher.spectrogram(audio))
        network = seconds(lambda: (teacher.compiled or teacher.embed_spectrogram)(spectrogram))
    found: dict[str, object] = {"front end, windows/s": round(BATCH / front_end, 1)}
    found |= {"network": rate(BATCH / network, flops, top), "compiled": teacher.compiled is not None}
    return {**found, "whole": rate(BATCH / seconds(lambda: teacher.embed(windows)), flops, top)}


def training_rates(student: Student, flops: float, top: float) -> dict[str, object]:
    """Forward and backward of a student's network alone, in several ways."""
    found: dict[str, object] = {}
    inputs = torch.randn(BATCH, 1, 64, 50, device="cuda")
    body = nn.Sequential(student.input_norm, student.features, student.head).cuda().train()

    def step(network: nn.Module, dtype: torch.dtype | None, layout: torch.memory_format) -> None:
        with torch.autocast("cuda", dtype or torch.bfloat16, enabled=dtype is not None):
            output = network(inputs.contiguous(memory_format=layout))
        output.float().square().mean().backward()

    for name, dtype, layout in (
        ("float32", None, torch.contiguous_format),
        ("bf16 channels_last", torch.bfloat16, torch.channels_last),
        ("bf16 channels_last compiled", torch.bfloat16, torch.channels_last),
    ):
        network = torch.compile(body) if "compiled" in name else body
        body.to(memory_format=layout)
        try:
            found[name] = rate(BATCH / seconds(partial(step, network, dtype, layout)), flops, top)
        except Exception as error:  # what is not there is part of the answer
            found[name] = f"{type(error).__name__}: {str(error)[:200]}"
    return found


def write_clips(folder: Path, clips: int) -> None:
    """Ten seconds of noise each, at 48 kHz, 16 bits."""
    noise = (np.random.default_rng(0).standard_normal(48000 * 11) * 3000).astype(np.int16)
    folder.mkdir()

    def write(number: int) -> None:
        soundfile.write(folder / f"{number:05d}.wav", np.roll(noise, 997 * number)[: 48000 * 10], 48000)

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(write, range(clips)))


def decoding(folder: Path, threads: int, files: int) -> float:
    """Windows a second that threads decode, resample and cut."""
    entries = read_manifest(folder, None, None, 0.1)[:files]
    framing = Framing(1.0, 0.5, False)

    def windows(entry) -> int:
        return sum(len(rows) for _, rows in clip_pieces(entry, framing, 8000, 48000, None))

    began = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        return sum(pool.map(windows, entries)) / (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--clips", type=int, default=1500)
    clips, cores = parser.parse_args().clips, os.cpu_count() or 1
    torch.set_float32_matmul_precision("high")
    top = peak()
    found = {"device": torch.cuda.get_device_name(), "cores": cores, "torch": torch.__version__, "bf16_peak": top}

    def say(name: str, value: object) -> None:
        found[name] = value
        print(name, json.dumps(value), file=sys.stderr, flush=True)

    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        weights = write_keras_h5(place / "openl3.h5", random_layers())
        write_clips(place / "audio", clips)
        say("decoding, 1 thread", round(decoding(place / "audio", 1, 60), 1))
        say(f"decoding, {cores} threads", round(decoding(place / "audio", cores, clips), 1))
        for precision in ("float32", "float16"):
            say(f"teacher, {precision}", teacher_rates(weights, precision, top))
        for jobs, threads in ((1, cores), (8, max(1, cores // 8))):
            source, out = place / "audio", place / f"table-{jobs}"
            options = {"teacher": "openl3/env-mel256-512", "weights": weights, "part_clips": 16, "precision": "auto"}
            options["sample_rate"] = 8000
            began = time.perf_counter()
            with using(Cluster(max_jobs=jobs)):
                result = extract(source, out, **options, batch_size=BATCH, workers=threads, device="cuda")
            whole = result["windows"] / (time.perf_counter() - began)
            times = sorted(path.stat().st_mtime for path in (out / "clips").iterdir())
            first, last = len(times) // 4, len(times) * 9 // 10  # when all processes are at work
            steady = result["windows"] / len(times) * (last - first) / (times[last] - times[first])
            say(f"extract, {jobs} processes", {**rate(steady, 2 * OPENL3_MACS, top), "with start": round(whole, 1)})
        reduce(place / "table-1", place / "phi", size=64)
        distill(place / "table-1", place / "phi", place / "warm", epochs=1, batch_size=BATCH, device="cuda")
        for name in ("sea-512", "sea-64"):
            flops = 6 * STUDENT_MACS[name]  # forward, and twice as much backward
            config = StudentConfig.named(name, embedding_size=64, sample_rate=8000, window=1.0)
            say(f"{name}, forward and backward", training_rates(Student(config), flops, top))
            options = {"student": name, "batch_size": BATCH, "epochs": 5, "patience": 0, "precision": "auto"}
            speed = distill(place / "table-1", place / "phi", place / name, **options, device="cuda")["speed"]
            reached = rate(speed["windows_per_second"], flops, top)
            say(f"distill {name}", {**reached, "share of its steps": round(speed["share"], 3)})
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
