"""A deployment of many small recordings, some of them damaged: is each of them used, or skipped with the right reason?

    python benchmarks/deployment.py [--files 20000]

Makes recordings of a second in nested folders, damages 3 % of them in ten ways, and extracts a table with the
`spectral` teacher. Prints counts, time for a file and the largest memory, checks skipped.csv line by line, and writes
benchmarks/results/deployment.json.
"""

import argparse
import csv
import json
import resource
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

import numpy as np
import soundfile

from edgesea.extract import extract

RESULTS = Path(__file__).parent / "results" / "deployment.json"
RATE, SHARE = 8000, 0.03
Samples = np.ndarray


def written(path: Path, samples: Samples, rate: int = RATE, **options: str) -> bytearray:
    soundfile.write(path, samples, rate, **options)
    return bytearray(path.read_bytes())


def cut(path: Path, samples: Samples) -> bytes:
    return bytes(written(path, samples)[: len(samples)])


def too_large(path: Path, samples: Samples) -> bytes:
    content = written(path, samples)
    content[40:44] = (4 * len(samples)).to_bytes(4, "little")
    return bytes(content)


def damaged_flac(path: Path, samples: Samples) -> bytes:
    content = written(path, np.tile(samples, 4), format="FLAC")
    content[len(content) // 2 : len(content) // 2 + 2000] = bytes(2000)
    return bytes(content)


def cut_ogg(path: Path, samples: Samples) -> bytes:
    content = written(path, np.tile(samples, 4), format="OGG")
    return bytes(content[: len(content) // 2])


def cut_mp3(path: Path, samples: Samples) -> bytes:
    content = written(path, np.tile(samples, 4), format="MP3")
    return bytes(content[: len(content) // 2])


# name: the file's ending, its content, and what its reason must say
DAMAGES: dict[str, tuple[str, Callable[[Path, Samples], bytes], str]] = {
    "empty": ("wav", lambda path, samples: b"", "recognised"),
    "text": ("wav", lambda path, samples: b"not audio\n" * 50, "recognised"),
    "header alone": ("wav", lambda path, samples: bytes(written(path, samples[:0])), "no samples"),
    "cut short": ("wav", cut, "truncated"),
    "size twice too large": ("wav", too_large, "truncated"),
    "not a number": ("wav", lambda path, samples: bytes(written(path, samples * np.nan, subtype="FLOAT")), "NaN"),
    "absurd rate": ("wav", lambda path, samples: bytes(written(path, samples, 2_000_000)), "2000000 Hz"),
    "damaged FLAC": ("flac", damaged_flac, "damaged"),
    "Ogg cut short": ("ogg", cut_ogg, "truncated"),
    "MP3 cut short": ("mp3", cut_mp3, "truncated"),
}


def build(folder: Path, files: int) -> dict[str, str]:
    """Write the recordings; returns those that are damaged, and how."""
    rng, damaged = np.random.default_rng(0), {}
    wrong = set(rng.choice(files, round(SHARE * files), replace=False).tolist())
    for number in range(files):
        samples = (0.1 * rng.standard_normal(RATE)).astype(np.float32)
        place = folder / f"sensor{number % 20:02d}" / f"day{number // 20 % 50:02d}"
        place.mkdir(parents=True, exist_ok=True)
        path = place / f"{number:05d}.wav"
        if number in wrong:
            damage = list(DAMAGES)[len(damaged) % len(DAMAGES)]
            ending, content, _ = DAMAGES[damage]
            path = path.with_suffix(f".{ending}")
            path.write_bytes(content(path, samples))
            damaged[path.relative_to(folder).as_posix()] = damage
        else:
            soundfile.write(path, samples, RATE)
    return damaged


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=20_000)
    files = parser.parse_args().files
    with tempfile.TemporaryDirectory() as temporary:
        folder, table = Path(temporary) / "recordings", Path(temporary) / "table"
        damaged = build(folder, files)
        began = perf_counter()
        result = extract(folder, table, teacher="spectral", workers=2)
        seconds = perf_counter() - began
        with (table / "skipped.csv").open(encoding="utf-8") as file:
            skipped = {row["clip"]: row["reason"] for row in csv.DictReader(file)}
    wrong = list(skipped.keys() ^ damaged.keys())
    wrong += [name for name, damage in damaged.items() if DAMAGES[damage][2] not in skipped.get(name, "")]
    counted = result["clips"] + result["skipped"]
    megabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    report = {
        "files": files,
        "clips": result["clips"],
        "skipped": result["skipped"],
        "by_damage": Counter(damaged.values()),
        "wrong": sorted(wrong),
        "ms_per_file": 1000 * seconds / files,
        "peak_memory_mb": megabytes,
    }
    RESULTS.write_text(json.dumps(report, indent=2) + "\n")
    print(f"{files} files, {counted} counted: {result['clips']} used, {result['skipped']} skipped, {len(wrong)} wrong")
    print(f"{report['ms_per_file']:.2f} ms a file, at most {megabytes:.0f} MB of memory")
    for name in wrong[:20]:
        print(f"WRONG {name}: {damaged.get(name)}: {skipped.get(name)}")
    return int(bool(wrong) or counted != files)


if __name__ == "__main__":
    sys.exit(main())
