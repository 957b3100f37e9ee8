"""Students in C on an emulated Cortex-M7: flash, RAM, stack, instructions, and whether numbers are those of here.

    EDGESEA_DATA=path/to/data python benchmarks/device.py runs/students

Takes the students of fold 5 that `students.py folds` has left in that folder, and the published sea-64; needs gcc,
make, gcc-arm-none-eabi and qemu-system-arm. Of 20 clips of that fold the loudest second goes through the front end in C
and numpy, through the network in C and LiteRT, and as one recording of 20 s through the program here and in QEMU.
Prints Markdown, and writes benchmarks/results/device.json.
"""

import argparse
import ctypes
import json
import os
import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr

from edgesea.audio.logmel_numpy import OverlappingLogMel
from edgesea.export import export
from edgesea.models import load_student
from edgesea.models.student_config import StudentConfig

RESULTS = Path(__file__).parent / "results" / "device.json"
DATA = Path(os.environ.get("EDGESEA_DATA", "data"))
ENGINE = ("edgesea.c", "network.c", "frontend.c", "edgesea_model.c")
WINDOWS, SIZES = 20, ("edge-3", "edge-10", "edge-25")


def loud_seconds(rate: int) -> np.ndarray:
    """(20, rate) int16: of each clip the loudest second."""
    found = []
    for path in sorted((DATA / "esc10" / "audio").glob("5-*.ogg"))[:: 80 // WINDOWS]:
        audio = soxr.resample(*soundfile.read(path), rate)[: 4 * rate].reshape(-1, rate)
        found.append(audio[np.square(audio).sum(1).argmax()])
    return np.round(np.clip(found, -1, 1 - 2**-15) * 32768).astype(np.int16)


def pointer(array: np.ndarray) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


def front_end_and_network(folder: Path, windows: np.ndarray) -> dict[str, Any]:
    """How far the front end in C is from that of training, and whether the network is that of LiteRT bit for bit."""
    sources = [folder / name for name in ENGINE]
    subprocess.run(
        ["gcc", "-std=c99", "-O2", "-ffp-contract=off", "-shared", "-fPIC", "-o", folder / "lib.so", *sources],
        check=True,
    )
    library, model = ctypes.CDLL(str(folder / "lib.so")), load_student(folder / "student.tflite", "cpu")
    library.edgesea_quantized.argtypes, library.edgesea_quantized.restype = [ctypes.c_float], ctypes.c_int8
    facts = model.facts
    config = StudentConfig(**facts["architecture"])
    settings = config.front_end()
    _, before, after = settings.layout(windows.shape[1])
    padded, exact = np.pad(windows, ((0, 0), (before, after))), OverlappingLogMel(settings)(windows / np.float32(32768))
    levels = np.empty((len(windows), config.frames(), settings.bands), np.float32)
    for index in np.ndindex(levels.shape[:2]):
        frame = np.ascontiguousarray(padded[index[0], index[1] * settings.hop_length :][: settings.n_fft])
        library.edgesea_levels(pointer(frame), pointer(level := np.empty(settings.bands, np.float32)))
        levels[index] = level
    if settings.levels == "sea":
        levels = np.maximum(levels - levels.max((1, 2), keepdims=True), np.float32(-80))
    integers, others = (
        np.vectorize(library.edgesea_quantized, otypes=[np.int8])(rows) for rows in (levels, exact.transpose(0, 2, 1))
    )
    found = np.empty((len(windows), config.embedding_size), np.int8)
    for rows, embedding in zip(integers, found, strict=True):
        library.edgesea_network_begin()
        for row in np.ascontiguousarray(rows):
            library.edgesea_network_row(pointer(row))
        library.edgesea_network_end(pointer(embedding))
    steps = np.linspace(-200, 60, 260_001, dtype=np.float32)  # a level for each integer
    of_steps = np.array([library.edgesea_quantized(ctypes.c_float(step)) for step in steps])
    middle = {value: steps[of_steps == value].mean(dtype=np.float64) for value in np.unique(integers)}
    log_mel = np.vectorize(middle.get, otypes=[np.float32])(integers).transpose(0, 2, 1)
    reference = model.embed_log_mel(np.ascontiguousarray(log_mel))
    macros = dict(re.findall(r"#define EDGESEA_(\w+) (.+)", (folder / "edgesea_model.h").read_text()))
    scale, zero = np.float32(macros["OUTPUT_SCALE"].rstrip("f")), int(macros["OUTPUT_ZERO"].strip("()"))
    text = re.search(r"edgesea_units\[\d+\] = \{(.*?)\}", (folder / "edgesea_model.c").read_text(), re.S)
    units = np.array([float(one.rstrip("f")) for one in text[1].replace(",", " ").split()], np.float32)
    again = scale * (found.astype(np.float32) - zero) * units
    return {
        "front_end_db": float(np.abs(levels - exact.transpose(0, 2, 1)).max()),
        "inputs_that_differ": float((integers != others).mean()),
        "largest_step": int(np.abs(integers.astype(int) - others).max()),
        "network_is_that_of_litert": bool(np.allclose(again, reference, rtol=1e-6, atol=0)),
    }


def on_chip(folder: Path, core: str = "cortex-m7") -> dict[str, Any]:
    """What the program prints of itself in QEMU, and whether its embeddings are those of this computer."""
    make = ["make", "-s", "-C", str(folder)]
    subprocess.run([*make, "host"], check=True)
    here = subprocess.run([folder / "edgesea-host", "--bits", folder / "a.wav"], capture_output=True, text=True).stdout
    command = [*make, "run", f"WAV={folder}/a.wav", "BITS=1", f"CPU={core}"]
    there = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    printed = {key: int(value) for key, value in re.findall(r"^([a-zA-Z ]+): (\d+)", there, re.M)}
    printed["at each push"] = int(re.search(r"each push: (\d+)", there)[1])
    return {**printed, "same_bits": bool(here) and here in there}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path)
    runs, results = parser.parse_args().runs, {}
    students = {name: str(runs / "students" / f"folds-{name}-5-0" / "student") for name in SIZES}
    students["sea-64"] = str(DATA / "edgel3" / "edgel3_sea_ust_audio_emb_64.h5.gz")
    table = {"calibration": runs / "esc10-5" / "table", "windows": 128, "any_table": True}
    print(
        "| student | flash | static RAM | stack | instructions a window | front end | inputs that differ | same bits |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for name, student in students.items():
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary) / "c"
            made = export(student, folder, format="c", **table)
            windows = loud_seconds(8000 if name == "sea-64" else 16000)
            soundfile.write(folder / "a.wav", windows.ravel(), windows.shape[1], "PCM_16")
            row = {**on_chip(folder), **front_end_and_network(folder, windows), "cosine": made["agreement"]["cosine"]}
            if name == "edge-10":
                row["cortex-m3"] = on_chip(folder, "cortex-m3")
        results[name] = row
        same = row["same_bits"] and row["network_is_that_of_litert"]
        count, share = f"{row['instructions a window'] / 1e6:.1f} M", f"{row['inputs_that_differ']:.3%}"
        sizes = [str(row[key]) for key in ("flash", "static RAM", "stack")]
        cells = [name, *sizes, count, f"{row['front_end_db']:.3f} dB"]
        print(f"| {' | '.join([*cells, share, 'yes' if same else 'NO'])} |", flush=True)
        RESULTS.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
