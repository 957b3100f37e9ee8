"""How many windows a second, against a TensorFlow graph of the same network as edgel3 builds it?

    python -m venv /tmp/tf && /tmp/tf/bin/pip install tensorflow-cpu soundfile
    python benchmarks/throughput.py ../shared/data/edgel3/edgel3_sea_ust_audio_emb_64.h5.gz --peer /tmp/tf/bin/python

SEA-64 embeds a synthetic recording (10 minutes at 8 kHz) with a hop of 0.1 s, from the wav file to the array of
embeddings. Each case runs in a process of its own with `--threads` threads, embeds the first seconds to warm up, and
then the recording; loading libraries and weights does not count. The cases take turns, `--repeats` times, and the
fastest run of each counts, for other work on the machine only slows it down.

The peer has what edgel3's model has: kapre's spectrogram, a convolution with 513 real and one with 513 imaginary
kernels of 1024 taps, the product with the mel matrix, decibels, Keras layers, and `predict` with its batches of 32; its
embeddings must be ours to 1e-3. The bar is 5 times its speed.

`--hours 3` also embeds a long recording with `edgesea embed` (hop 1 s), once whole and once in pieces of ten minutes,
and gives the peak memory of that process and the largest difference; the bar is 500 MB. Prints Markdown and writes
benchmarks/results/throughput.json.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

RESULTS = Path(__file__).parent / "results" / "throughput.json"
CASES = {"onnx": "edgesea, onnx", "torch": "edgesea, torch", "tensorflow": "TensorFlow, as edgel3 builds it"}
RATE, HOP, WARM_UP = 8000, 0.1, 20.0
TOLERANCE = 1e-3


def write_recording(path: Path, seconds: float) -> None:
    """Noise with swelling bands, tones and pauses; int16, in blocks of a minute."""
    import soundfile

    rng = np.random.default_rng(0)
    with soundfile.SoundFile(path, "w", RATE, 1, "PCM_16") as file:
        for start in np.arange(0, seconds, 60.0):
            t = start + np.arange(round(min(60.0, seconds - start) * RATE)) / RATE
            swell = 0.5 + 0.5 * np.sin(2 * np.pi * t / 7.3)
            tone = np.sin(2 * np.pi * (400 + 300 * np.sin(2 * np.pi * t / 31)) * t) * (np.sin(2 * np.pi * t / 3.1) > 0)
            file.write(0.2 * swell * rng.standard_normal(len(t)) + 0.2 * tone * (t % 17 > 2))


def embed_ours(weights: Path, backend: str, threads: int, batch_size: int) -> "Any":
    """A function that embeds a file; loads the model first."""
    from edgesea import load_student
    from edgesea.audio.framing import Framing
    from edgesea.embed.engine import embed_files

    if backend == "torch":
        import torch

        torch.set_num_threads(threads)
    model = load_student(weights, "cpu", backend, threads if backend == "onnx" else None)

    def embed(path: Path) -> np.ndarray:
        (result,) = embed_files(model, [path], Framing(1.0, HOP, True), batch_size)
        assert result.embedding is not None, result.error
        return result.embedding

    return embed


def save_peer_weights(weights: Path, path: Path) -> None:
    """The network for the peer: kernels (height, width, inputs, outputs), biases, normalisations and mel matrix."""
    from edgesea.audio.mel import mel_filters
    from edgesea.models.student_config import convolutions
    from edgesea.models.student_files import read_student

    file = read_student(weights)
    norms = ["input_norm"]
    arrays = {"mel": mel_filters(RATE, 1024, 64, RATE / 2, "htk").T}
    for index, (name, norm, _, _) in enumerate(convolutions(file.config)):
        arrays[f"kernel{index}"] = file.arrays[f"{name}.weight"].transpose(2, 3, 1, 0)
        arrays[f"bias{index}"] = file.arrays[f"{name}.bias"]
        norms.append(norm)
    for index, norm in enumerate(norms):
        keys = ("weight", "bias", "running_mean", "running_var")
        arrays[f"norm{index}"] = np.stack([file.arrays[f"{norm}.{key}"] for key in keys])
    np.savez(path, **arrays)


def peer_model(arrays: "Any") -> "Any":
    """The network in Keras, with the layers and operations of edgel3 and kapre."""
    import keras
    import tensorflow as tf

    taps = np.arange(1024)
    angles = 2 * np.pi * taps[:, None] * np.arange(513) / 1024
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * taps[:, None] / 1024)
    real, imaginary = (tf.constant((hann * f(angles))[:, None, None], tf.float32) for f in (np.cos, np.sin))
    mel = tf.constant(arrays["mel"], tf.float32)

    class Melspectrogram(keras.layers.Layer):  # type: ignore[misc]
        def call(self, audio: Any) -> Any:  # (batch, 1, samples)
            x = tf.transpose(audio, [0, 2, 1])[..., None]
            parts = [tf.nn.conv2d(x, kernels, [1, 160, 1, 1], "SAME") for kernels in (real, imaginary)]
            power = tf.transpose(parts[0] ** 2 + parts[1] ** 2, [0, 3, 1, 2])  # (batch, bins, frames, 1)
            bands = tf.tensordot(tf.transpose(power, [0, 3, 2, 1]), mel, 1)
            bands = tf.sqrt(tf.transpose(bands, [0, 3, 2, 1]))
            levels = 10 * tf.math.log(tf.maximum(bands, 1e-10)) / np.log(10.0).astype(np.float32)
            levels -= tf.reduce_max(levels, [1, 2, 3], keepdims=True)
            return tf.maximum(levels, -80.0)

    layers = keras.layers
    norms = [layers.BatchNormalization(epsilon=1e-3) for _ in range(9)]
    filters = (32, 64, 128, 64)
    convolutions = [layers.Conv2D(filters[i // 2], 3, padding="same") for i in range(8)]
    given = keras.Input((1, RATE))
    x = norms[0](Melspectrogram()(given))
    for index, convolution in enumerate(convolutions):
        if index and index % 2 == 0:
            x = layers.MaxPooling2D(2, strides=2)(x)
        x = layers.Activation("relu")(norms[index + 1](convolution(x)))
    model = keras.Model(given, layers.Flatten()(layers.MaxPooling2D((8, 6), padding="same")(x)))
    for index, norm in enumerate(norms):
        norm.set_weights(list(arrays[f"norm{index}"]))
    for index, convolution in enumerate(convolutions):
        convolution.set_weights([arrays[f"kernel{index}"], arrays[f"bias{index}"]])
    return model


def embed_peer(weights: Path, threads: int) -> "Any":
    """A function that embeds a file as edgel3 does: all windows in one array, then `predict`."""
    import soundfile
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)
    with np.load(weights) as arrays:
        model = peer_model(arrays)

    def embed(path: Path) -> np.ndarray:
        audio, _ = soundfile.read(path, dtype="float32")
        hop = round(HOP * RATE)
        audio = np.pad(audio, (RATE // 2, 0))
        audio = np.pad(audio, (0, -(len(audio) - RATE) % hop))
        windows = np.lib.stride_tricks.sliding_window_view(audio, RATE)[::hop]
        return model.predict(windows[:, None], batch_size=32, verbose=0)

    return embed


def run_case(arguments: argparse.Namespace) -> None:
    """Measure one case in this process; prints JSON."""
    weights, folder = arguments.weights, arguments.folder
    if arguments.case == "tensorflow":
        embed = embed_peer(folder / "peer.npz", arguments.threads)
    else:
        embed = embed_ours(weights, arguments.case, arguments.threads, arguments.batch_size)
    embed(folder / "short.wav")
    began = time.perf_counter()
    embedding = embed(folder / "recording.wav")
    seconds = time.perf_counter() - began
    if arguments.save:
        np.save(folder / f"{arguments.case}.npy", embedding)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": seconds, "windows": len(embedding), "megabytes": memory}))


def call_case(case: str, python: str, arguments: argparse.Namespace, folder: Path, save: bool) -> dict[str, float]:
    """Measure one case in a process of its own."""
    command = [python, __file__, str(arguments.weights), "--case", case, "--folder", str(folder)]
    command += ["--threads", str(arguments.threads), "--batch-size", str(arguments.batch_size)] + ["--save"] * save
    environment = {**os.environ, "OMP_NUM_THREADS": str(arguments.threads), "TF_CPP_MIN_LOG_LEVEL": "2"}
    if case == "tensorflow":
        environment.pop("PYTHONPATH", None)
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        sys.exit(f"{case}: exit {done.returncode}\n{done.stderr[-2000:]}")
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def compare(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """All cases in turns; prints the table."""
    write_recording(folder / "recording.wav", 60 * arguments.minutes)
    write_recording(folder / "short.wav", WARM_UP)
    save_peer_weights(arguments.weights, folder / "peer.npz")
    pythons = {case: arguments.peer if case == "tensorflow" else sys.executable for case in CASES}
    pythons = {case: python for case, python in pythons.items() if python}
    found: dict[str, list[dict[str, float]]] = {case: [] for case in pythons}
    for repeat in range(arguments.repeats):
        for case, python in pythons.items():
            found[case].append(call_case(case, python, arguments, folder, repeat == 0))
            print(f"{case}: {found[case][-1]['seconds']:.1f} s", file=sys.stderr, flush=True)
    embeddings = {case: np.load(folder / f"{case}.npy") for case in pythons}
    rows = []
    for case, runs in found.items():
        seconds = min(run["seconds"] for run in runs)
        rows.append(
            {
                "case": CASES[case],
                "seconds": seconds,
                "all_seconds": [run["seconds"] for run in runs],
                "windows_per_second": runs[0]["windows"] / seconds,
                "times_real_time": 60 * arguments.minutes / seconds,
                "peak_megabytes": max(run["megabytes"] for run in runs),
                "largest_difference": float(np.abs(embeddings[case] - embeddings["onnx"]).max()),
            }
        )
    slowest = rows[-1]["seconds"]
    print(f"\n{arguments.minutes:g} minutes, {len(embeddings['onnx'])} windows, {arguments.threads} threads\n")
    print(
        "| case | windows/s | times real time | peak MB | difference from onnx | speed-up |\n|---|---|---|---|---|---|"
    )
    for row in rows:
        row["speed_up"] = slowest / row["seconds"]
        print(
            f"| {row['case']} | {row['windows_per_second']:.0f} | {row['times_real_time']:.0f} | "
            f"{row['peak_megabytes']:.0f} | {row['largest_difference']:.1e} | {row['speed_up']:.2f} |"
        )
        if row["largest_difference"] > TOLERANCE:
            sys.exit(f"{row['case']}: not the same network")
    return {"minutes": arguments.minutes, "threads": arguments.threads, "hop": HOP, "rows": rows}


def embed_long(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Embed a long recording with the command line, whole and in pieces."""
    import soundfile

    (folder / "pieces").mkdir()
    write_recording(folder / "long.wav", 3600 * arguments.hours)
    with soundfile.SoundFile(folder / "long.wav") as file:
        for index, block in enumerate(file.blocks(600 * RATE, dtype="int16")):
            soundfile.write(folder / "pieces" / f"{index:04}.wav", block, RATE, subtype="PCM_16")

    def command(given: Path) -> float:
        words = [str(given), str(arguments.weights), "--hop", "1.0", "--no-center", "--backend", "onnx"]
        code = "import sys; from edgesea.cli import main; sys.exit(main(sys.argv[1:]))"
        environment = {**os.environ, "OMP_NUM_THREADS": str(arguments.threads)}
        began = time.perf_counter()
        subprocess.run(
            [sys.executable, "-c", code, "embed", *words], check=True, env=environment, stdout=subprocess.DEVNULL
        )
        return time.perf_counter() - began

    # The peak of all child processes so far: those with TensorFlow must not have run yet.
    seconds = command(folder / "long.wav")
    megabytes = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    command(folder / "pieces")
    with np.load(folder / "long.npz") as file:
        whole = file["embedding"]
    pieces = [np.load(path)["embedding"] for path in sorted((folder / "pieces").glob("*.npz"))]
    difference = float(np.abs(np.concatenate(pieces) - whole).max())
    print(
        f"{arguments.hours:g} hours, {len(whole)} windows: {seconds:.0f} s, peak {megabytes:.0f} MB, "
        f"largest difference from its {len(pieces)} pieces {difference:.1e} (values up to {whole.max():.1f})\n"
    )
    return {
        "hours": arguments.hours,
        "windows": len(whole),
        "seconds": seconds,
        "peak_megabytes": megabytes,
        "largest_difference_from_pieces": difference,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--peer", help="a Python with tensorflow and soundfile")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--hours", type=float, default=0.0, help="length of the long recording")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--case", choices=CASES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--save", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case:
        run_case(arguments)
        return
    with tempfile.TemporaryDirectory() as name:
        long = embed_long(arguments, Path(name)) if arguments.hours else None
        results = compare(arguments, Path(name))
    results |= {"long": long, "machine": f"{platform.machine()}, {os.cpu_count()} cores"}
    RESULTS.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
