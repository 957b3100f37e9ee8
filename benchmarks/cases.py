"""What the benchmark times, ours and peers', each in a process: `python benchmarks/cases.py CASE OPTIONS` prints JSON.

A case loads its libraries and weights and does a little of the work to warm up, and then the work that is timed. It may
run in an environment of its own, so it imports what it needs inside, and nothing of this folder.
"""

import collections
import contextlib
import importlib
import io
import json
import os
import resource
import sys
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

Run = dict[str, Any]
RATES = {"openl3": 48000, "EfficientAT": 32000}


def timed(work: Callable[[], Any], **more: Any) -> Run:
    """Seconds of a call, and the peak memory of this process so far."""
    began, used = time.perf_counter(), time.process_time()
    work()
    seconds, cpu = time.perf_counter() - began, time.process_time() - used
    scale = 2**20 if sys.platform == "darwin" else 1024
    return {
        "seconds": seconds,
        "cpu": cpu,
        "megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / scale,
        **more,
    }


def windows_of(path: Path, rate: int, window: int, hop: int) -> np.ndarray:
    """Windows (n, window) of a file that has this rate already; the last one is filled up with zeros."""
    import soundfile

    audio, found = soundfile.read(path, dtype="float32")
    assert found == rate, path
    audio = np.pad(audio, (0, -(len(audio) - window) % hop))
    return np.lib.stride_tricks.sliding_window_view(audio, window)[::hop]


def embeddings_of(table: Path) -> Iterator[np.ndarray]:
    """The embeddings of a table, part by part, with pyarrow alone."""
    from pyarrow import parquet

    for path in sorted(Path(table, "windows").glob("*.parquet")):
        column = parquet.read_table(path, columns=["embedding"])["embedding"].combine_chunks()
        yield column.flatten().to_numpy().reshape(len(column), -1)


# --- ours


def extract(clips: str, out: str, threads: int, hop: float, save: str, **options: Any) -> Run:
    """`edgesea extract`, from wav files to a table; its libraries, model and graph are loaded before."""
    import torch

    from edgesea.extract import extract

    torch.set_num_threads(threads)
    options |= {"hop": hop, "dtype": "float32", "device": "cpu", "validate": 0.0, "workers": threads}
    result = extract(Path(clips, "first"), Path(out, "first"), **options)
    run = timed(lambda: result.update(extract(Path(clips, "all"), Path(out, "all"), **options)))
    np.save(save, np.concatenate(list(embeddings_of(Path(out, "all")))))
    seconds = result["windows"] / result["windows_per_second"]
    return {**run, "seconds": seconds, "windows": result["windows"]}


def convolutions(
    teacher: str, weights: str, engine: str, precision: str, bands: int, frames: int, count: int, threads: int
) -> Run:
    """A teacher's network alone, as its engine computes it, on spectrograms in memory."""
    from edgesea import load_teacher

    model = load_teacher(teacher, weights, "cpu", engine, precision)
    rows = np.random.default_rng(0).uniform(-80, 0, (count, bands, frames)).astype(np.float32)

    def embed(count: int) -> None:
        for first in range(0, count, 64):  # the batches of `extract`
            model.embed_log_mel(rows[first : min(first + 64, count)])

    embed(16)
    return timed(lambda: embed(count), windows=count)


def student(weights: str, recording: str, short: str, hop: float, threads: int, save: str, **options: Any) -> Run:
    """A recording by a student, from the file to the array of embeddings."""
    from edgesea import load_student
    from edgesea.audio.framing import Framing
    from edgesea.embed.engine import embed_files

    model = load_student(weights, "cpu", threads=threads, **options)

    def embed(path: str) -> np.ndarray:
        (result,) = embed_files(model, [Path(path)], Framing(1.0, hop, True))
        assert result.embedding is not None, result.error
        np.save(save, result.embedding)
        return result.embedding

    embed(short)
    run = timed(lambda: embed(recording))
    return {**run, "windows": len(np.load(save))}


def make_table(source: str, table: str, phi: str, threads: int) -> Run:
    """A table of 64 dimensions, and what reduces it."""
    from edgesea.extract import extract
    from edgesea.reduction import reduce

    result: dict[str, Any] = {}
    run = timed(lambda: result.update(extract(Path(source), Path(table), sample_rate=8000)))
    reduce(Path(table), Path(phi), size=64)
    return {**run, "windows": result["windows"]}


def distil(table: str, phi: str, out: str, student: str, windows: int, epochs: int, threads: int) -> Run:
    """A training: its own count of windows a second, with waiting for the table, without validation and start."""
    import torch

    from edgesea.distill import distill

    torch.set_num_threads(threads)
    options = {"student": student, "epochs": epochs, "epoch_size": windows, "patience": 0, "device": "cpu"}
    run: Run = {}
    run |= timed(lambda: run.update(distill(Path(table), Path(phi), Path(out), **options)))
    return {**run, "seconds": epochs * windows / run["speed"]["windows_per_second"], "windows": epochs * windows}


def forward_backward(student: str, batches: int, threads: int) -> Run:
    """Forward and backward of a student's network, on spectrograms in memory, and nothing else."""
    import torch

    from edgesea.models.student_config import StudentConfig
    from edgesea.models.student_torch import Student

    torch.set_num_threads(threads)
    network = Student(StudentConfig.named(student, embedding_size=64, sample_rate=8000, window=1.0)).train()
    for module in network.features:
        if isinstance(module, torch.nn.Conv2d):
            module.bias.requires_grad_(False)  # as in training: a normalisation follows
    spectrograms, targets = torch.randn(64, 1, 64, 50), torch.randn(64, 64)

    def steps(count: int) -> None:
        for _ in range(count):
            embedding = network.head(network.features(network.input_norm(spectrograms)))
            torch.nn.functional.mse_loss(embedding, targets).backward()

    steps(2)
    return timed(lambda: steps(batches), windows=64 * batches)


def short_demo(folder: str, threads: int) -> Run:
    """The demo with a smaller city and fewer epochs; the seconds of each stage."""
    from edgesea.demo import STUDENT, TAGGING
    from edgesea.demo.city import make_city
    from edgesea.pipeline import checked_sections, run_stages

    stages: dict[str, float] = {}
    city = Path(folder, "city")
    options: dict[str, dict[str, Any]] = {
        "extract": {"source": city / "manifest.csv", "teacher": "spectral", "hop": 0.5, "part_clips": 16},
        "sample": {"size": 500},
        "reduce": {"method": "pca", "size": 32},
        "distill": {**STUDENT, "epochs": 3, "precision": "auto"},
        "evaluate": {"task": "sonyc_ust", "data": city, "hop": 1.0, "tagging": TAGGING},
    }

    def stage(name: str) -> None:
        run_stages(checked_sections(options, "demo"), Path(folder, "run"), only=name)

    stages["city"] = timed(lambda: make_city(city, sensors=4, days=1, annotated=0.8))["seconds"]
    for name in options:
        stages[name] = timed(lambda name=name: stage(name))["seconds"]
    return {"stages": stages}


# --- peers


def openl3(source: str, weights: str, clips: str, out: str, threads: int, hop: float, save: str) -> Run:
    """The openl3 package, from wav files to npz files."""
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)
    sys.path.insert(0, source)
    from openl3 import process_audio_file
    from openl3.models import load_audio_embedding_model_from_path

    model = load_audio_embedding_model_from_path(weights, "mel256", 512)
    files = [sorted(map(str, Path(clips, part).glob("*.wav"))) for part in ("first", "all")]
    options = {"output_dir": out, "model": model, "center": False, "hop_size": hop, "overwrite": True, "verbose": False}
    Path(out).mkdir(parents=True, exist_ok=True)
    process_audio_file(files[0], **options)
    run = timed(lambda: process_audio_file(files[1], **options))
    embedding = np.concatenate([np.load(Path(out, Path(file).stem + ".npz"))["embedding"] for file in files[1]])
    np.save(save, embedding)
    return {**run, "windows": len(embedding)}


def efficientat(source: str, weights: str, clips: str, hop: float, batch: int, threads: int, save: str) -> Run:
    """EfficientAT's own preprocessing and network, as windowed_inference.py does, or in larger batches."""
    import torch

    torch.set_num_threads(threads)
    os.chdir(source)  # which reads its labels there
    sys.path.insert(0, source)
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):  # which torchvision expects of its shared library
        library.define(f"{name}(Tensor boxes, Tensor scores, float threshold) -> Tensor")
    with contextlib.redirect_stdout(io.StringIO()):
        from models.mn.model import get_model
        from models.preprocess import AugmentMelSTFT

        model, mel = get_model(width_mult=0.4).eval(), AugmentMelSTFT().eval()
    model.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    rate = RATES["EfficientAT"]
    found: list[np.ndarray] = []

    def embed(files: list[Path]) -> None:
        found.clear()
        waiting: list[np.ndarray] = []
        for number, file in enumerate(files):
            waiting += list(windows_of(file, rate, rate, round(hop * rate)))
            while len(waiting) >= batch or (waiting and number == len(files) - 1):
                part, waiting = np.stack(waiting[:batch]), waiting[batch:]
                with torch.no_grad():
                    found.append(model(mel(torch.from_numpy(part))[:, None])[1].reshape(len(part), -1).numpy())

    embed(sorted(Path(clips, "first").glob("*.wav")))
    run = timed(lambda: embed(sorted(Path(clips, "all").glob("*.wav"))))
    np.save(save, embedding := np.concatenate(found))
    return {**run, "windows": len(embedding)}


def edgel3_package(source: str) -> Any:
    """The edgel3 package on a Keras 2 of today: what it was written for had other addresses, and Python 3.7."""
    import tf_keras

    collections.Iterable = collections.abc.Iterable  # type: ignore[attr-defined]
    engine = types.ModuleType("keras.engine")
    engine.Layer, engine.InputSpec = tf_keras.layers.Layer, tf_keras.layers.InputSpec  # type: ignore[attr-defined]
    sys.modules |= {"keras": tf_keras, "keras.engine": engine}
    for name in ("backend", "layers", "models", "regularizers", "utils"):
        sys.modules[f"keras.{name}"] = getattr(tf_keras, name)
    sys.modules["keras.utils.conv_utils"] = importlib.import_module("tf_keras.src.utils.conv_utils")
    sys.path.insert(0, source)
    return importlib.import_module("edgel3")


def edgel3(source: str, recording: str, short: str, hop: float, threads: int, save: str) -> Run:
    """A recording by edgel3's SEA-64."""
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)
    package = edgel3_package(source)
    import soundfile

    model = package.models.load_embedding_model("sea", 64, "ft", 95.45)

    def embed(path: str) -> None:
        audio, rate = soundfile.read(path)
        np.save(save, package.get_embedding(audio, rate, model, "sea", 64, hop_size=hop, verbose=0)[0])

    embed(short)
    run = timed(lambda: embed(recording))
    return {**run, "windows": len(np.load(save))}


def edgel3_file(source: str, recording: str, out: str, threads: int) -> Run:
    """What edgel3's command does for a file; the command itself takes SEA's files for those of 48 kHz, and fails."""
    package = edgel3_package(source)
    return timed(lambda: package.process_file(recording, out, model_type="sea", emb_dim=64, verbose=False))


# --- numbers


def _blocks(path: str) -> Iterator[np.ndarray]:
    with Path(path).open("rb") as file:
        while len(rows := np.fromfile(file, np.float32, 8192 * 512)):
            yield rows.reshape(-1, 512)


def pca(path: str, solver: str, save: str, threads: int) -> Run:
    """64 components of standardised rows of 512 dimensions, from an open file; ours, or scikit-learn's."""
    from sklearn import decomposition
    from sklearn.preprocessing import StandardScaler

    from edgesea.reduction.pca import PCA

    def components() -> np.ndarray:
        if solver == "edgesea":
            phi = PCA(64)
            phi.fit(_blocks(path))
            return phi.components
        if solver == "IncrementalPCA":
            scaler, incremental = StandardScaler(), decomposition.IncrementalPCA(64)
            for rows in _blocks(path):
                scaler.partial_fit(rows)
            for rows in _blocks(path):
                incremental.partial_fit(scaler.transform(rows))
            return incremental.components_
        name, dtype = solver.split()
        x = np.fromfile(path, np.float32).reshape(-1, 512).astype(dtype, copy=False)
        x = StandardScaler(copy=False).fit_transform(x)
        return decomposition.PCA(64, svd_solver=name, copy=False).fit(x).components_

    return timed(lambda: np.save(save, components()), windows=Path(path).stat().st_size // 2048)


def k_dpp(kind: str, n: int, threads: int) -> Run:
    """Decomposition and one sample of 91 of n unit vectors, whose spectrum is that of embeddings; ours, or DPPy's.

    DPPy takes the n x n kernel, or the factor of it, from which it works in the dual as edgesea does, without a ridge.
    """
    rows = np.random.default_rng(0).standard_normal((n, 512)) * np.exp(-np.arange(512) / 60)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    if kind == "edgesea":
        from edgesea.sampling.dpp import KDPP
    else:
        from dppy.finite_dpps import FiniteDPP

    def given(rows: np.ndarray) -> np.ndarray:
        return rows @ rows.T if kind == "kernel" else rows.T if kind == "factor" else rows

    def sample(matrix: np.ndarray) -> None:
        if kind == "edgesea":
            chosen = KDPP(matrix, 91).sample(np.random.default_rng(0))
        else:
            name = "L" if kind == "kernel" else "L_gram_factor"
            chosen = FiniteDPP("likelihood", **{name: matrix}).sample_exact_k_dpp(size=91, random_state=0)
        assert len(set(map(int, chosen))) == 91

    sample(given(rows[:100]))
    matrix = given(rows)
    return timed(lambda: sample(matrix), windows=n)


def scores(clips: int, kind: str, threads: int) -> Run:
    """The challenge's scores of eight tags, a tenth of them positive; or by the algorithm of the challenge's script."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "tasks"))
    from direct_metrics import direct_scores

    from edgesea.tasks.metrics import tagging_scores

    rng, names = np.random.default_rng(0), [f"tag-{number}" for number in range(8)]
    labels = (rng.random((clips, 8)) < 0.1).astype(np.int8)
    found = rng.random((clips, 8)) ** np.where(labels, 1.0, 3.0)
    result: dict[str, Any] = {}
    work = tagging_scores if kind == "edgesea" else direct_scores
    work(labels[:20], found[:20], names)
    run = timed(lambda: result.update(work(labels, found, names)))
    result = result.get("threshold", result)
    return {**run, **{name: result[name] for name in ("micro_auprc", "macro_auprc")}}


def read_table(table: str, threads: int) -> Run:
    """Every embedding of a table read once: what disk and format allow."""
    return timed(lambda: [None for rows in embeddings_of(Path(table)) if not len(rows)])


if __name__ == "__main__":
    print(json.dumps(globals()[sys.argv[1]](**json.loads(sys.argv[2]))))
