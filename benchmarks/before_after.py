"""Is it as fast as it was? The same work by two source trees, which take turns, each time in a new process.

    python benchmarks/before_after.py /path/to/older/src [/path/to/newer/src] --data ../shared/data --pairs 5

Each process does a small piece of the work to load and warm up, and then the work that is measured: seconds, and
processor seconds of all its threads, which other work on the machine disturbs less. The ratio is that of the medians,
before / after: above 1 is faster now. Prints Markdown and writes benchmarks/results/before_after.json.
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "before_after.json"
STUDENT, TEACHER = "edgel3/edgel3_sea_ust_audio_emb_64.h5.gz", "efficientat/mn04_as_mAP_432.pt"
Work = Callable[[int], Any]  # does the warm-up (0) or the work that is measured (1)


def find(*addresses: str) -> Any:
    """The first of these ``module:name`` that the tree has."""
    for address in addresses:
        module, _, name = address.partition(":")
        try:
            return getattr(import_module(module), name)
        except (ImportError, AttributeError):
            continue
    raise SystemExit(f"none of {addresses} in {os.environ['PYTHONPATH']}")


def extraction(folder: Path, data: Path, clips: str = "noise", **teacher: Any) -> Work:
    options = {"workers": 1, "device": "cpu", **teacher, **({"weights": data / TEACHER} if teacher else {})}
    sources, extract = (folder / clips / "first", folder / clips), find("edgesea.extract:extract")
    return lambda step: extract(sources[step], folder / "out" / str(step), **options)


def embedding(folder: Path, data: Path) -> Work:
    process_file = find("edgesea:process_file", "edgesea.embed.files:process_file", "edgesea.embed:process_file")
    model = find("edgesea.models:load_model", "edgesea.models.inference:load_model")(str(data / STUDENT))
    files = (folder / "noise" / "first" / "0.wav", folder / "long.wav")
    return lambda step: process_file(files[step], folder / "out", model=model, hop_size=0.1)


def pca(folder: Path, data: Path) -> Work:
    phi_class, rng = find("edgesea.reduction.pca:PCA"), np.random.default_rng(0)
    block = (rng.standard_normal((8192, 512)) @ rng.standard_normal((512, 512)) + 3).astype(np.float32)
    return lambda step: phi_class(64).fit([block] * (1, 61)[step])


def k_dpp(folder: Path, data: Path) -> Work:
    k_dpp_class, rng = find("edgesea.sampling.dpp:KDPP"), np.random.default_rng(0)
    rows = rng.standard_normal((20_000, 512)) * np.exp(-np.arange(512) / 60)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return lambda step: k_dpp_class(rows[:: (20, 1)[step]], 91).sample(np.random.default_rng(0))


def scores(folder: Path, data: Path) -> Work:
    tagging_scores, rng = find("edgesea.tasks.metrics:tagging_scores"), np.random.default_rng(0)
    labels = (rng.random((100_000, 23)) < 0.1).astype(np.int8)
    found, names = rng.random(labels.shape) ** np.where(labels, 1.0, 3.0), [str(tag) for tag in range(23)]
    return lambda step: tagging_scores(labels[: (1000, 100_000)[step]], found[: (1000, 100_000)[step]], names)


def distillation(folder: Path, data: Path) -> Work:
    distill, inputs = find("edgesea.distill:distill"), (folder / "table", folder / "reduction")
    options = {"epochs": 1, "batch_size": 32, "device": "cpu"}
    return lambda step: distill(*inputs, folder / "out" / str(step), epoch_size=(32, 512)[step], **options)


def decoding(folder: Path, data: Path, ending: str = "wav") -> Work:
    audio_file, files = find("edgesea.audio.io:AudioFile"), sorted((folder / ending).iterdir())

    def decode(step: int) -> None:
        for path in files[: (1, None)[step]]:
            with audio_file(path) as file:
                for _ in file.chunks():
                    pass

    return decode


CASES: dict[str, Callable[[Path, Path], Work]] = {
    "extraction, spectral, 40 clips of 30 s": extraction,
    "extraction, mn04, 20 clips of ESC-10": partial(extraction, clips="esc10", teacher="efficientat/mn04"),
    "embed, sea-64, 10 minutes, hop 0.1 s": embedding,
    "PCA, 500 000 x 512": pca,
    "k-DPP, 91 of 20 000 x 512": k_dpp,
    "SONYC-UST scores, 100 000 x 23": scores,
    "distillation, sea-64, 512 windows": distillation,
    "decoding, WAV, 400 files of 30 s": decoding,
    "decoding, FLAC, 100 files of 30 s": partial(decoding, ending="flac"),
}


def prepare(folder: Path, data: Path) -> dict[str, float]:
    """Write the audio, and with the tree of this process a table and a reduction for distillation."""
    import soundfile

    rng = np.random.default_rng(0)
    for name, seconds in {"long": 600, **{f"noise/{'first/' * (n < 2)}{n}": 30 for n in range(40)}}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(folder / f"{name}.wav", 0.1 * rng.standard_normal(seconds * 8000), 8000)
    for ending, count in (("wav", 400), ("flac", 100)):
        (folder / ending).mkdir()
        samples = 0.1 * rng.standard_normal(30 * 48000)
        for number in range(count):
            soundfile.write(folder / ending / f"{number}.{ending}", samples, 48000)
    (folder / "esc10" / "first").mkdir(parents=True)
    for number, path in enumerate(sorted((data / "esc10" / "audio").iterdir())[:20]):
        shutil.copy(path, folder / "esc10" / ("." if number else "first") / path.name)
    find("edgesea.extract:extract")(folder / "noise", folder / "table", hop=1.0, workers=1)
    find("edgesea.reduction:reduce")(folder / "table", folder / "reduction", size=64)
    return {}


def measure(case: str, folder: Path, data: Path) -> dict[str, float]:
    """Run a case in this process."""
    work = CASES[case](folder, data)
    work(0)
    began, used = perf_counter(), process_time()
    work(1)
    return {"seconds": perf_counter() - began, "cpu_seconds": process_time() - used}


def child(case: str, source: Path, folder: Path, data: Path) -> dict[str, float]:
    """Run one case, or `prepare`, in a process with this tree."""
    command = [sys.executable, __file__, str(source), "--case", case, "--folder", str(folder), "--data", str(data)]
    environment = {**os.environ, "PYTHONPATH": str(source), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{case} with {source}:\n{done.stderr[-2000:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path, nargs="?", default=ROOT / "src")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="the project's real data")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--only", default="", help="cases with this word in their names")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.case:
        run = (
            prepare(given.folder, given.data)
            if given.case == "prepare"
            else measure(given.case, given.folder, given.data)
        )
        print(json.dumps(run))
        return
    results: dict[str, Any] = {"cores": os.cpu_count(), "python": platform.python_version(), "pairs": given.pairs}
    print("| work | before, s | after, s | ratio | ratio of processor time |\n|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder, sides = Path(name), {"before": given.before.resolve(), "after": given.after.resolve()}
        child("prepare", sides["before"], folder, given.data.resolve())
        for case in filter(lambda name: given.only in name, CASES):
            runs: dict[str, list[dict[str, float]]] = {side: [] for side in sides}
            for pair in range(given.pairs):
                for side in ("before", "after") if pair % 2 == 0 else ("after", "before"):
                    runs[side].append(child(case, sides[side], folder, given.data.resolve()))
                    shutil.rmtree(folder / "out", ignore_errors=True)
            wall, cpu = (
                [median(run[key] for run in runs[side]) for side in sides] for key in ("seconds", "cpu_seconds")
            )
            results[case] = {"ratio": wall[0] / wall[1], "cpu_ratio": cpu[0] / cpu[1], **runs}
            print(
                f"| {case} | {wall[0]:.2f} | {wall[1]:.2f} | {wall[0] / wall[1]:.2f} | {cpu[0] / cpu[1]:.2f} |",
                flush=True,
            )
            RESULTS.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
