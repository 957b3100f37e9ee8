"""The rows of the benchmark: what is measured, against whom, and the bars of "at the speed of the hardware"."""

import gzip
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from datetime import date, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from measuring import Bench, Line, Measured, Run, compared, cosine
from peers import ROOT, megabytes, python_of

STUDENT, TEACHER = "edgel3/edgel3_sea_ust_audio_emb_64.h5.gz", "efficientat/mn04_as_mAP_432.pt"
ENGINES = {  # name in the page: environment, engine, precision
    "torch": ("edgesea", "torch", "float32"),
    "onnx": ("edgesea", "onnx", "float32"),
    "openvino": ("openvino", "openvino", "float32"),
    "openvino bfloat16": ("openvino", "openvino", "bfloat16"),
}
Lines = Iterator[Line]


def real_clips(bench: Bench, rate: int, clips: int) -> Iterator[np.ndarray]:
    """Clips of 5 s, spread over the classes of ESC-10; noise where that is not there."""
    import soundfile
    import soxr

    files, rng = sorted((bench.data / "esc10" / "audio").glob("*.ogg")), np.random.default_rng(0)
    for index in np.linspace(0, max(len(files) - 1, 0), clips).astype(int):
        if files:
            audio, found = soundfile.read(files[index], dtype="float32")
            audio = soxr.resample(audio, found, rate)[: 5 * rate]
        else:
            audio = rng.standard_normal(5 * rate) * np.exp(-3 * rng.random())
        yield 0.5 * np.pad(audio, (0, 5 * rate - len(audio))) / max(1, np.abs(audio).max())


def write_clips(bench: Bench, rate: int, clips: int) -> str:
    """Clips as wav files in the folder `all` of the one that is returned; `first` holds one of them."""
    import soundfile

    folder = bench.folder / f"clips-{rate}"
    (folder / "first").mkdir(parents=True), (folder / "all").mkdir()
    for number, audio in enumerate(real_clips(bench, rate, clips)):
        for part in ("first", "all") if number == 0 else ("all",):
            soundfile.write(folder / part / f"{number:04}.wav", audio, rate)
    return str(folder)


def write_long(bench: Bench, path: Path, seconds: int, rate: int = 8000) -> str:
    """A recording made of clips."""
    import soundfile

    soundfile.write(path, np.concatenate(list(real_clips(bench, rate, seconds // 5))), rate)
    return str(path)


def write_recording(path: Path, seconds: float, seed: int = 0) -> str:
    """Noise with swelling bands, tones and pauses, as int16."""
    import soundfile

    t, rng = np.arange(round(seconds * 8000)) / 8000, np.random.default_rng(seed)
    tone = np.sin(2 * np.pi * (400 + 300 * np.sin(2 * np.pi * t / 31)) * t) * (np.sin(2 * np.pi * t / 3.1) > 0)
    swell = 0.5 + 0.5 * np.sin(2 * np.pi * t / 7.3)
    soundfile.write(path, 0.2 * swell * rng.standard_normal(len(t)) + 0.2 * tone * (t % 17 > 2), 8000)
    return str(path)


def extracting(bench: Bench, label: str, clips: str, **options: Any) -> Callable[[], Run]:
    """A case that extracts the clips with one of the engines, into a new folder each time."""
    environment, engine, precision = ENGINES[label]

    def run() -> Run:
        shutil.rmtree(out := bench.folder / "table", ignore_errors=True)
        given = {"engine": engine, "precision": precision, "save": str(bench.folder / f"{label}.npy"), **options}
        return bench.case("extract", environment, clips=clips, out=str(out), hop=0.5, **given)

    return run


def agreement(bench: Bench, what: str, against: str, one: str, other: str, bar: float | None) -> Line:
    """The mean-centred cosine of the embeddings that two cases have saved."""
    try:
        first, second = (np.load(bench.folder / f"{name}.npy") for name in (one, other))
        assert first.shape == second.shape, f"{first.shape} and {second.shape}"
        error = float(np.abs(first - second).max() / np.abs(second).max())
        return Line(what, against, cosine(first, second), bar, measured=f"largest difference {error:.1e} of the peak")
    except Exception as error:
        return Line(what, against, None, bar, measured=str(error))


def fastest(found: dict[str, Measured], labels: Iterable[str]) -> str:
    """The fastest of the cases that could be measured; any if none could."""
    return min(labels, key=lambda label: (bool(found[label].error), found[label].error or found[label].seconds))


def openl3(bench: Bench) -> Lines:
    """Random weights in the layout of the published files: speed does not depend on them."""
    sys.path.insert(0, str(ROOT / "tests" / "models"))
    from openl3_random import random_layers, write_keras_h5

    weights = str(write_keras_h5(bench.folder / "openl3.h5", random_layers()))
    clips, teacher = write_clips(bench, 48000, bench.size(1, 12)), "openl3/env-mel256-512"
    package = {"source": bench.source("openl3"), "clips": clips, "weights": weights, "out": str(bench.folder / "npz")}
    package |= {"hop": 0.5, "save": str(bench.folder / "openl3.npy")}
    cases = {"openl3": partial(bench.case, "openl3", "openl3", **package)}
    for label in ENGINES:
        cases[label] = extracting(bench, label, clips, teacher=teacher, weights=weights)
    stack = {"teacher": teacher, "weights": weights, "bands": 256, "frames": 199, "count": bench.size(16, 128)}
    for label in ("openvino", "openvino bfloat16"):
        _, engine, precision = ENGINES[label]
        options = {**stack, "engine": engine, "precision": precision}
        cases[f"{label}, convolutions"] = partial(bench.case, "convolutions", "openvino", **options)
    found = bench.turns(cases)
    whole, peer = [label for label in ENGINES if "bfloat16" not in label], found["openl3"]
    bars = {fastest(found, whole): 1.1, "openvino bfloat16": 4.0}
    for label in ENGINES:
        name = f"extract, OpenL3 mel256, {label}"
        yield compared(name, "openl3 on TensorFlow", found[label], peer, bars.get(label), "windows/s")
    for label in ("openvino", "openvino bfloat16"):
        bare = found[f"{label}, convolutions"]
        name = f"extract, OpenL3 mel256, {label}"
        yield compared(name, "its convolutions alone", found[label], bare, 0.9, "windows/s")
    name = "mean-centred cosine, OpenL3 (random weights, ESC-10)"
    yield agreement(bench, name, "openl3 on TensorFlow", whole[0], "openl3", 0.9999)
    yield agreement(bench, f"{name}, openvino bfloat16", "float32", "openvino bfloat16", whole[0], 0.999)


def efficientat(bench: Bench) -> Lines:
    """mn04 with its weights, on windows of 1 s."""
    clips, weights = write_clips(bench, 32000, bench.size(2, 120)), bench.given(TEACHER)
    package = {"source": bench.source("EfficientAT"), "weights": weights, "clips": clips, "hop": 0.5}
    cases: dict[str, Callable[[], Run]] = {}
    for batch in (64, 1):
        given = {**package, "batch": batch, "save": str(bench.folder / f"eat-{batch}.npy")}
        cases[f"EfficientAT, {batch}"] = partial(bench.case, "efficientat", "EfficientAT", **given)
    for label in ENGINES:
        cases[label] = extracting(bench, label, clips, teacher="efficientat/mn04", weights=weights)
    found = bench.turns(cases)
    best = fastest(found, [label for label in ENGINES if "bfloat16" not in label])  # which auto refuses, see below
    for label in ENGINES:
        bar, name = (2.0 if label == best else None), f"extract, EfficientAT mn04, {label}"
        yield compared(name, "its own code, batches of 64", found[label], found["EfficientAT, 64"], bar, "windows/s")
    name = f"extract, EfficientAT mn04, {best}"
    own = "its own code, window by window as its script"
    yield compared(name, own, found[best], found["EfficientAT, 1"], None, "windows/s")
    yield agreement(bench, "mean-centred cosine, mn04, torch", "its own code", "torch", "eat-64", 0.9999)
    low = "openvino bfloat16"
    yield agreement(bench, f"mean-centred cosine, mn04, {low}", "float32; auto wants 0.999", low, "torch", None)


def sea64(bench: Bench) -> Lines:
    """The published student with 64 outputs, a file of ten minutes, hop 0.1 s."""
    weights, source = bench.given(STUDENT), edgel3_source(bench)
    given = {"recording": write_long(bench, bench.folder / "long.wav", bench.size(10, 600)), "hop": 0.1}
    given["short"] = write_long(bench, bench.folder / "short.wav", bench.size(5, 20))
    cases = {}
    for label, (environment, engine, precision) in {
        "onnx, the light install": ("light", "onnx", "float32"),
        **ENGINES,
    }.items():
        options = {"weights": weights, "engine": engine, "precision": precision, **given}
        cases[label] = partial(bench.case, "student", environment, save=str(bench.folder / f"{label}.npy"), **options)
    cases["edgel3"] = partial(
        bench.case, "edgel3", "edgel3", source=source, save=str(bench.folder / "edgel3.npy"), **given
    )
    found = bench.turns(cases)
    ours, low = [label for label in cases if label != "edgel3"], "openvino bfloat16"
    close = agreement(bench, f"mean-centred cosine, sea-64, {low}", "float32", low, "onnx", 0.999)
    best = fastest(found, [label for label in ours if label != low or close.met])
    bars = {"onnx, the light install": 5.4, best: 10.0}
    for label in ours:
        name = f"embed, sea-64, hop 0.1 s, {label}"
        yield compared(name, "edgel3 on TensorFlow", found[label], found["edgel3"], bars.get(label), "windows/s")
    yield agreement(bench, "mean-centred cosine, sea-64, onnx", "edgel3 on TensorFlow", "onnx", "edgel3", 0.9999)
    yield close


def edge(bench: Bench) -> Lines:
    """Students for microcontrollers against that of the paper, a file of ten minutes, hop 0.1 s, with one engine."""
    from edgesea.models.student_config import StudentConfig
    from edgesea.models.student_files import save_student
    from edgesea.models.student_torch import Student

    given = {"recording": write_long(bench, bench.folder / "long.wav", bench.size(10, 600), 48000), "hop": 0.1}
    given |= {"short": write_long(bench, bench.folder / "short.wav", bench.size(5, 20), 48000), "engine": "onnx"}
    cases = {}
    for name in ("sea-64", "edge-3", "edge-10", "edge-25"):
        save_student(Student(StudentConfig.named(name, embedding_size=64)), folder := bench.folder / name, {}, "")
        places = {"weights": str(folder), "save": str(bench.folder / f"{name}.npy")}
        cases[name] = partial(bench.case, "student", "edgesea", **places, **given)
    found = bench.turns(cases)
    for name, bar in (("edge-3", None), ("edge-10", 4.0), ("edge-25", None)):
        label = f"embed, {name}, random weights, hop 0.1 s, onnx"
        yield compared(label, "sea-64, random weights", found[name], found["sea-64"], bar, "windows/s")


def edgel3_source(bench: Bench) -> str:
    """A checkout of edgel3 with the weights where it wants them."""
    source = Path(bench.source("edgel3"))
    path = source / "edgel3" / Path(STUDENT).stem
    if not path.exists():
        path.write_bytes(gzip.decompress(Path(bench.given(STUDENT)).read_bytes()))
    return str(source)


def cold(bench: Bench) -> Lines:
    """One clip of a second by a new process; the files that it reads are in the memory of the system."""
    clip, weights, source = write_recording(bench.folder / "clip.wav", 1), bench.given(STUDENT), edgel3_source(bench)

    def ours(environment: str) -> Run:
        program = str(Path(python_of(environment, bench.cache)).with_name("edgesea"))
        return bench.command([program, "embed", clip, weights, "--overwrite", "--quiet"], environment)

    def theirs() -> Run:
        run = bench.case("edgel3_file", "edgel3", out=str(bench.folder), source=source, recording=clip)
        return {"seconds": run["process"]}

    light, usual = partial(ours, "light"), partial(ours, "edgesea")
    found = bench.turns({"light": light, "usual": usual, "edgel3": theirs}, bench.size(1, 5))
    for label, name in (("usual", "all extras"), ("light", "the light install")):
        against = "edgel3's process_file, a new process"
        yield compared(f"a clip of 1 s, a new process, {name}", against, found[label], found["edgel3"], 10.0)
    light_mb, peer_mb = (megabytes(python_of(name, bench.cache)) for name in ("light", "openl3"))
    text = f"{light_mb:.0f} and {peer_mb:.0f} MB"
    yield Line("size of the light install", "what openl3 and edgel3 need", peer_mb / light_mb, measured=text)


def distillation(bench: Bench) -> Lines:
    """The steps of a training against forward and backward of the network alone, on spectrograms in memory."""
    folder = bench.folder / "sounds"
    for number in range(bench.size(4, 20)):
        (place := folder / ("train" if number else "validate")).mkdir(parents=True, exist_ok=True)
        write_recording(place / f"{number}.wav", 30, number)
    table = {"table": str(bench.folder / "train"), "phi": str(bench.folder / "phi")}
    bench.turns({"extract, spectral": partial(bench.case, "make_table", source=str(folder), **table)}, 1)

    def distil(student: str, windows: int) -> Run:
        shutil.rmtree(out := bench.folder / "student", ignore_errors=True)
        options = {"student": student, "windows": windows, "epochs": bench.size(1, 4), **table}
        return bench.case("distil", out=str(out), **options)

    for student, batches in {"sea-64": bench.size(1, 8), "sea-512": bench.size(1, 3)}.items():
        name, against = f"distill, {student}", "forward and backward alone"
        alone = partial(bench.case, "forward_backward", student=student, batches=batches)
        found = bench.turns({name: partial(distil, student, 64 * batches), f"{name}, {against}": alone})
        yield compared(name, against, *found.values(), 0.9, "windows/s")


def demo(bench: Bench) -> Lines:
    """A short demo beside a process on each core that keeps it busy, against the demo alone."""

    def run(busy: int) -> Run:
        others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(busy)]
        try:
            with tempfile.TemporaryDirectory(dir=bench.folder) as folder:
                found = bench.case("short_demo", folder=folder)
            return {"seconds": found["process"], **found["stages"]}
        finally:
            for other in others:
                other.kill()
                other.wait()

    cases = {"demo beside busy processes": partial(run, os.cpu_count() or 1), "demo alone": partial(run, 0)}
    beside, alone = bench.turns(cases, bench.size(1, 2)).values()
    stages = ", ".join(f"{name} {beside[name] / alone[name]:.2g}" for name in alone.runs[0] if name != "seconds")
    measured = f"{beside.seconds:.3g} and {alone.seconds:.3g} s ({stages})"
    yield Line(
        "a short demo, a busy process on each core", "alone", beside.seconds / alone.seconds, 2.5, True, measured
    )


def pca(bench: Bench) -> Lines:
    """64 components of standardised rows x 512 in a file, against scikit-learn."""
    rng, path, rows = np.random.default_rng(0), bench.folder / "rows.f32", bench.size(5000, 100_000, 500_000)
    mixing = np.linalg.qr(rng.standard_normal((512, 512)))[0] * np.exp(-np.arange(512) / 50)[:, None]
    scale, mean = np.exp(rng.standard_normal(512)), 3 * rng.standard_normal(512)
    with path.open("wb") as file:
        for first in range(0, rows, 8192):
            block = rng.standard_normal((min(8192, rows - first), 512)) @ mixing * scale + mean
            block.astype(np.float32).tofile(file)
    solvers = ("edgesea", "full float64", "covariance_eigh float32", "IncrementalPCA")
    cases = {
        solver: partial(bench.case, "pca", path=str(path), solver=solver, save=str(bench.folder / f"{solver}.npy"))
        for solver in solvers
    }
    found = bench.turns(cases)
    path.unlink()
    for solver in solvers[1:]:
        yield compared(f"PCA, {rows} x 512", f"scikit-learn, {solver}", found["edgesea"], found[solver])
    own, exact = (np.load(bench.folder / f"{solver}.npy").astype(float) for solver in ("edgesea", "full float64"))
    basis, exact = np.linalg.qr(own.T)[0], np.linalg.qr(exact.T)[0]
    sine = float(np.linalg.norm(basis - exact @ (exact.T @ basis), 2))
    yield Line("PCA, sine of the largest angle", "full SVD in double precision", sine, 1e-10, at_most=True)


def k_dpp(bench: Bench) -> Lines:
    """91 of n windows of 512 dimensions, decomposition and one sample, against DPPy."""
    for kind, n in (("factor", bench.size(200, 20_000)), ("kernel", bench.size(200, 5000, 14_000))):
        ours, peer = f"edgesea, {n}", f"DPPy, {kind}, {n}"
        cases = {ours: partial(bench.case, "k_dpp", kind="edgesea", n=n)}
        found = bench.turns({**cases, peer: partial(bench.case, "k_dpp", "dppy", kind=kind, n=n)})
        yield compared(f"k-DPP, 91 of {n}", f"DPPy, given the {kind}", found[ours], found[peer])


def scores(bench: Bench) -> Lines:
    """SONYC-UST's scores against the algorithm of the challenge's script, which loops over all thresholds."""
    clips = bench.size(50, 1000)
    cases = {kind: partial(bench.case, "scores", kind=kind, clips=clips) for kind in ("edgesea", "direct")}
    found = bench.turns(cases, 1 if bench.quick else 2)
    yield compared(f"SONYC-UST scores, {clips} clips x 8", "the direct algorithm", found["edgesea"], found["direct"])
    large = partial(bench.case, "scores", kind="edgesea", clips=bench.size(1000, 100_000))
    many = bench.turns({"edgesea, many clips": large})["edgesea, many clips"]
    if not many.error and not found["edgesea"].error:
        wrong = max(abs(found["edgesea"][name] - found["direct"][name]) for name in ("micro_auprc", "macro_auprc"))
        text = f"all clips of the large case took {many.seconds:.3g} s"
        yield Line("SONYC-UST scores, largest deviation", "the direct algorithm", wrong, 1e-12, True, text)


def year(bench: Bench) -> Lines:
    """`sample` from a fortnight of 15 sensors, its share of a year's 500 000, against reading the table and no more."""
    days, table = bench.size(1, 14, 365), bench.folder / "year"
    windows = make_table(table, days)
    chosen = str(round(500_000 * days / 365))

    def sample(method: str) -> Run:
        words = [sys.executable, "-m", "edgesea", "sample", str(table), str(bench.folder / f"{method}.parquet")]
        return bench.command([*words, "--method", method, "--size", chosen])

    cases = {"read": lambda: {"seconds": bench.case("read_table", table=str(table))["process"]}}
    cases |= {method: partial(sample, method) for method in ("random", "spl", "dpp", "dpp_div_map")}
    found = bench.turns(cases, 1 if bench.quick else 2)
    for method in [*cases][1:]:
        yield compared(f"sample, {method}, {windows} windows", "reading the table alone", found[method], found["read"])


def make_table(folder: Path, days: int) -> int:
    """A table without audio, which `sample` does not read: 15 sensors, 1 700 windows a day; a part holds a week."""
    from edgesea.artifact import write_json
    from edgesea.table.clips import ClipEntry, Piece
    from edgesea.table.writer import write_part

    rng, part, count = np.random.default_rng(0), 0, 1700
    mixing = rng.standard_normal((48, 512), np.float32) * np.exp(-np.arange(48, dtype=np.float32) / 12)[:, None]
    noise, starts = 0.05 * rng.standard_normal((4 * count, 512), np.float32), np.arange(count) * 400_000
    for sensor in range(15):
        for first in range(0, days, 7):
            with write_part(folder, part, 512, "float16") as writer:
                for day in range(first, min(first + 7, days)):
                    time = (date(2019, 1, 1) + timedelta(days=day)).isoformat() + "T00:00:00"
                    name = f"s{sensor:02d}/{time[:10]}.wav"
                    entry = ClipEntry(name, Path(name), f"s{sensor:02d}", time, "train", None)
                    begin = int(rng.integers(3 * count))
                    x = rng.standard_normal((count, 48), np.float32) @ mixing + noise[begin : begin + count]
                    levels = rng.normal(60, 8, count).astype(np.float32)
                    writer.add(Piece(entry, 0, np.zeros(0, np.int16), starts, levels), x)
            part += 1
    windows = 15 * days * count
    info = {
        "teacher": {"id": "synthetic", "sha256": None, "sample_rate": 8000, "embedding_size": 512},
        "sample_rate": 8000,
        "framing": {"window": 1.0, "hop": 50.0, "center": False},
        "dtype": "float16",
        "parts": part,
        "part_clips": 7,
        "manifest_sha256": f"synthetic {days}",
        "clips": 15 * days,
        "windows": windows,
        "windows_by_split": {"train": windows},
    }
    write_json(folder / "table.json", info)
    return windows


ROWS: dict[str, Callable[[Bench], Lines]] = {
    row.__name__: row for row in (openl3, efficientat, sea64, edge, cold, distillation, demo, pca, k_dpp, scores, year)
}
