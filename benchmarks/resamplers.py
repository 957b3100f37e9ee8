"""How far published students are from edgel3's numbers with either resampler, and OpenL3 from itself in doubles.

    pip download --no-deps --no-binary :all: 'resampy<0.3' && tar xf resampy-0.2.2.tar.gz
    python benchmarks/resamplers.py --data ../shared/data --resampy resampy-0.2.2/resampy --clips 100

edgel3 0.2 and openl3 0.4 require a resampy before 0.3, which no longer installs; its loop and its filter are read from
the unpacked source. Real clips (ESC-10) at 44.1 and 48 kHz are resampled by it as a whole, in double precision, as
edgel3 does, and embedded by edgel3/sea-64 (which is edgel3's to rounding); `get_embedding` gets them at their rate.
Reported is the relative L2 distance of a clip's windows, the median of each clip. Writes results/resamplers.json.
"""

import argparse
import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import resampy
import soundfile
import soxr
import torch
from numpy.typing import NDArray

import edgesea
from edgesea.models.teachers import OpenL3

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "models"))
Signal = NDArray[np.floating]


def load_edgel3_resample(folder: Path) -> Callable[[Signal, int, int], Signal]:
    """The body of `resampy.resample(..., filter="kaiser_best")` of version 0.2."""
    spec = importlib.util.spec_from_file_location("interpn", folder / "interpn.py")
    assert spec
    assert spec.loader
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with np.load(folder / "data" / "kaiser_best.npz") as file:
        half, precision = file["half_window"], int(file["precision"])

    def resample(audio: Signal, source: int, target: int) -> Signal:
        ratio = target / source
        window = half * min(1.0, ratio)
        result = np.zeros((int(len(audio) * ratio), 1))
        module.resample_f(audio[:, None], result, ratio, window, np.append(np.diff(window), 0.0), precision)
        return result[:, 0]

    return resample


def distances(found: Signal, expected: Signal) -> Signal:
    norm = np.linalg.norm(expected, axis=1)
    return np.linalg.norm(found - expected, axis=1)[norm > 0] / norm[norm > 0]


def openl3_in_singles(paths: list[Path]) -> dict[str, float]:
    """OpenL3 (mel256, random weights) in single precision against double precision, on the windows of clips."""
    from openl3_random import random_layers, windows, write_keras_h5

    from edgesea.models.teachers import load_openl3

    place = Path("openl3_random.h5")
    model: OpenL3 = load_openl3("env-mel256-512", write_keras_h5(place, random_layers()))
    place.unlink()
    model.eval()
    found = {}
    for name, batch in [
        ("chirp", windows()[1:2]),
        *((path.name, np.float32(mono(path, 48000)[: 4 * 48000].reshape(-1, 48000))) for path in paths),
    ]:
        with torch.inference_mode():
            exact = model.double()(torch.from_numpy(batch).double()).numpy()
            with patch("torch.float64", torch.float32):
                single = model.float()(torch.from_numpy(batch)).numpy()
        found[name] = float(distances(single, exact).max(initial=0))
    clips = [value for name, value in found.items() if name != "chirp"]
    return {"chirp": found["chirp"], "clips, median": float(np.median(clips)), "clips, largest": max(clips)}


def mono(path: Path, rate: int) -> Signal:
    audio, found = soundfile.read(path, always_2d=True)
    mean: Signal = audio.mean(1)
    return mean if rate == found else soxr.resample(mean, found, rate)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with esc10 and edgel3")
    parser.add_argument("--resampy", type=Path, required=True, help="the package's folder in resampy 0.2.2")
    parser.add_argument("--clips", type=int, default=100)
    arguments = parser.parse_args()
    student = edgesea.load_student(arguments.data / "edgel3" / "edgel3_sea_ust_audio_emb_64.h5.gz", "cpu", "onnx")
    as_edgel3 = load_edgel3_resample(arguments.resampy)
    paths = sorted((arguments.data / "esc10" / "audio").glob("*.ogg"))
    paths = paths[:: len(paths) // arguments.clips][: arguments.clips]
    results: dict[str, Any] = {"clips": len(paths)}
    print("| rate | resampler | least | median | 95 % | largest |\n|---|---|---|---|---|---|")
    for rate in (44100, 48000):
        medians: dict[str, list[float]] = {"soxr": [], "resampy": [], "resampy 0.4 itself": []}
        for path in paths:
            audio = mono(path, rate)
            expected, _ = edgesea.get_embedding(as_edgel3(audio, rate, 8000).astype(np.float32), 8000, student)
            for name, values in medians.items():
                if name in ("soxr", "resampy"):
                    found, _ = edgesea.get_embedding(audio, rate, student, resampler=name)  # type: ignore[arg-type]
                else:
                    resampled = resampy.resample(audio, rate, 8000).astype(np.float32)
                    found, _ = edgesea.get_embedding(resampled, 8000, student)
                off = distances(found[: len(expected)], expected[: len(found)])
                values += [float(np.median(off))] if len(off) else []
        for name, values in medians.items():
            values = [value for value in values if name == "resampy" or value > 0]  # 0: most of the clip is silent
            row = [min(values), *np.quantile(values, [0.5, 0.95]).tolist(), max(values)]
            results[f"{name} from {rate} Hz"] = row
            print(f"| {rate} | {name} | {' | '.join(f'{value:.2g}' for value in row)} |")
    results["OpenL3 in single precision"] = openl3_in_singles(paths[:: max(1, len(paths) // 10)])
    print(f"\nOpenL3 in single precision: {results['OpenL3 in single precision']}")
    (Path(__file__).parent / "results" / "resamplers.json").write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
