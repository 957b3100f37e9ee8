"""What a student hears of a recording that a table stores in 16 bits, against what its teacher heard of it.

    python benchmarks/storage.py --data ../shared/data --clips 100

Real clips (ESC-10, at 8 kHz) are brought to four peak levels as a float recording has them, and stored with a scale of
their own, as now, or at full scale and clipped, as before. Reported are the errors of the log-mel spectrogram (dB, of
80) and of the embedding (of edgel3/sea-64; relative L2 norm of a window), and the bytes of a sample in the table.
Prints a Markdown table and writes results/storage.json.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

import edgesea
from edgesea.audio.io import AudioFile
from edgesea.audio.resampling import resample_stream
from edgesea.models.engine import EngineModel
from edgesea.table.clips import to_pcm

Audio = NDArray[np.float32]
LEVELS = {"+12 dB": 12, "0 dBFS": 0, "-40 dBFS": -40, "-70 dBFS": -70}  # of the peak
RATE, QUIET = 8000, 50


def as_before(audio: Audio) -> tuple[NDArray[np.int16], float]:
    return np.rint(audio * 32767).clip(-32768, 32767).astype(np.int16), 1 / 32767


STORES: dict[str, Callable[[Audio], tuple[NDArray[np.int16], float]]] = {"before": as_before, "now": to_pcm}


def heard(student: EngineModel, audio: Audio) -> tuple[Audio, Audio]:
    """Spectrograms and embeddings of the windows, a second long, every half."""
    starts = np.arange(0, len(audio) - RATE + 1, RATE // 2)
    log_mel = student.front_end.at(audio, starts, RATE)
    return log_mel, student.embed_log_mel(log_mel)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with esc10 and edgel3")
    parser.add_argument("--clips", type=int, default=100)
    arguments = parser.parse_args()
    student = edgesea.load_student(arguments.data / "edgel3" / "edgel3_sea_ust_audio_emb_64.h5.gz", "cpu", "onnx")
    paths = sorted((arguments.data / "esc10" / "audio").glob("*.ogg"))
    paths = paths[:: len(paths) // arguments.clips][: arguments.clips]
    results = []
    for level, decibels in LEVELS.items():
        errors: dict[str, list[NDArray[np.floating]]] = {store: [] for store in STORES}
        for path in paths:
            with AudioFile(path) as file:
                audio = np.concatenate(list(resample_stream(file.chunks(), file.sample_rate, RATE)))
            audio *= np.float32(10 ** (decibels / 20) / np.abs(audio).max())
            log_mel, embedding = heard(student, audio)
            peaks = [np.abs(audio[start : start + RATE]).max() for start in range(0, len(audio) - RATE + 1, RATE // 2)]
            loudest = 20 * np.log10(np.array(peaks) / np.abs(audio).max() + 1e-12)
            for store, pack in STORES.items():
                pcm, scale = pack(audio)
                log_mel_, embedding_ = heard(student, pcm * np.float32(scale))
                off = np.abs(log_mel_ - log_mel)
                norm = np.linalg.norm(embedding, axis=1)
                relative = np.linalg.norm(embedding_ - embedding, axis=1) / np.where(norm > 0, norm, 1)
                size = len(pa.compress(pcm.tobytes(), "zstd", asbytes=True)) / len(pcm)
                row = [off.mean((1, 2)), relative, np.full(len(off), size), loudest > -QUIET]
                errors[store].append(np.stack(row))
        for store, found in errors.items():
            decibel, relative, size, usual = np.concatenate(found, 1).astype(float)
            result = {"peak": level, "stored": store, "log_mel_mean": float(decibel.mean())}
            for name, rows in (("median", relative), ("95 %", relative), ("usual 95 %", relative[usual > 0])):
                result[f"embedding {name}"] = float(np.quantile(rows, 0.5 if name == "median" else 0.95))
            results.append({**result, "bytes": float(size.mean()), "usual": float(usual.mean())})
    print("| peak | stored | log-mel off by (dB), mean | embedding off by, median | 95 % | 95 %, not quiet | bytes |")
    print("|---|---|---|---|---|---|---|")
    for row in results:
        values = [value if isinstance(value, str) else f"{value:.2g}" for value in row.values()]
        print(f"| {' | '.join(values[:-1])} |")
    print(f"{results[0]['usual']:.0%} of the windows are not quiet: their peaks lie within {QUIET} dB of their clip's")
    out = Path(__file__).parent / "results" / "storage.json"
    out.write_text(json.dumps({"clips": len(paths), "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
