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


def networks(model: nn.Module, shape: tuple[int, ...], flops: float, top: float, train: bool) -> dict[str, object]:
    """The convolutions alone, in several ways; with `train` also backward."""
    found: dict[str, object] = {}
    body = nn.Sequential(model.input_norm, model.features, model.pool if hasattr(model, "pool") else model.head)
    body = body.cuda().train(train)
    inputs = torch.randn(shape, device="cuda")

    def forward(network: nn.Module, dtype: torch.dtype | None, layout: torch.memory_format) -> None:
        given = inputs.contiguous(memory_format=layout)
        with torch.set_grad_enabled(train), torch.autocast("cuda", dtype or torch.bfloat16, enabled=dtype is not None):
            output = network(given)
        if train:
            output.float().square().mean().backward()

    ways = {
        "float32": (None, torch.contiguous_format, False),
        "bf16": (torch.bfloat16, torch.contiguous_format, False),
        "bf16 channels_last": (torch.bfloat16, torch.channels_last, False),
        "bf16 channels_last compiled": (torch.bfloat16, torch.channels_last, True),
    }
    for name, (dtype, layout, compiled) in ways.items():
        body = body.to(memory_format=layout)
        network = torch.compile(body) if compiled else body
        try:
            found[name] = rate(shape[0] / seconds(lambda n=network, d=dtype, m=layout: forward(n, d, m)), flops, top)
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
        teacher = load_teacher("openl3/env-mel256-512", weights, device="cuda")
        audio = torch.randn(BATCH, 48000, device="cuda")
        with torch.inference_mode():
            say("front end", round(BATCH / seconds(lambda: teacher.log_mel(audio)), 1))
            embedded = rate(BATCH / seconds(lambda: teacher(audio)), 2 * OPENL3_MACS, top)
        say("teacher as loaded", embedded)
        say("teacher, network alone", networks(teacher, (BATCH, 1, 256, 199), 2 * OPENL3_MACS, top, False))
        for jobs, threads in ((1, cores), (8, max(1, cores // 8))):
            source, out = place / "audio", place / f"table-{jobs}"
            options = {"teacher": "openl3/env-mel256-512", "weights": weights, "part_clips": 16}
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
            ways = networks(Student(config), (BATCH, 1, 64, 50), flops, top, True)
            say(f"{name}, forward and backward", ways)
            times = []
            for epochs in (1, 5):
                began = time.perf_counter()
                out = place / f"{name}-{epochs}"
                options = {"student": name, "batch_size": BATCH, "epochs": epochs, "patience": 0, "precision": "auto"}
                distill(place / "table-1", place / "phi", out, **options, device="cuda")
                times.append(time.perf_counter() - began)
            trained = 4 * 0.9 * clips * 19
            say(f"distill {name}", rate(trained / (times[1] - times[0]), flops, top))
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
