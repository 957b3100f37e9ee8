"""The C of an export, compiled for this computer and for a Cortex-M7 in QEMU."""

import ctypes
import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from shutil import which

import numpy as np
import pytest
import soundfile
from export.test_tflite import CONFIGS, random_student

from edgesea.audio.logmel_numpy import OverlappingLogMel
from edgesea.errors import EdgeseaError
from edgesea.export.c import c_library, fixed, hop_of
from edgesea.export.quantize import QuantizedStudent, quantize
from edgesea.export.tflite import quantized_tflite
from edgesea.models import tflite_student
from edgesea.models.student_config import StudentConfig

ENGINE = ("edgesea.c", "network.c", "frontend.c", "edgesea_model.c")
STRICT = ("-std=c99", "-Wall", "-Wextra", "-Wconversion", "-Werror", "-O2", "-ffp-contract=off")
CALLBACK = ctypes.CFUNCTYPE(None, ctypes.POINTER(ctypes.c_float), ctypes.c_uint64, ctypes.c_void_p)
HOP = 0.25


def needs(*programs: str) -> None:
    if missing := [program for program in programs if which(program) is None]:
        reason = f"{', '.join(missing)} missing; install with tools/debian.sh"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)


def written(folder: Path, *arguments, **options) -> dict[str, int]:
    """Write a student as C to a folder; what the library says that it takes."""
    contents, sizes = c_library(*arguments, **options)
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return sizes


def pointer(array: np.ndarray) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


@dataclass
class Exported:
    """A student in C, as a library of this process."""

    student: QuantizedStudent
    log_mel: np.ndarray
    folder: Path
    library: ctypes.CDLL

    def network(self, values: np.ndarray) -> np.ndarray:
        """Embeddings (B, D) in int8 of spectrograms (B, bands, frames) in int8."""
        results = np.empty((len(values), self.student.config.embedding_size), np.int8)
        for window, result in zip(values, results, strict=True):
            self.library.edgesea_network_begin()
            for row in np.ascontiguousarray(window.T):
                self.library.edgesea_network_row(pointer(row))
            self.library.edgesea_network_end(pointer(result))
        return results

    def stream(self, pcm: np.ndarray, hop: int, block: int, late: int = 0) -> dict[int, bytes]:
        """Embeddings by the first samples of their windows; nothing is computed before `late` samples have come."""
        found = {}

        def keep(embedding, start, _):
            found[start] = ctypes.string_at(embedding, 4 * self.student.config.embedding_size)

        call = CALLBACK(keep)
        assert self.library.edgesea_init(hop, call, None) == 0
        for first in range(0, len(pcm), block):
            part = pcm[first : first + block]
            self.library.edgesea_push(pointer(part), ctypes.c_size_t(len(part)))
            while first + block >= late and self.library.edgesea_run():
                pass
        return found


@pytest.fixture(scope="module", params=CONFIGS)
def exported(request, tmp_path_factory) -> Exported:
    needs("gcc")
    folder = tmp_path_factory.mktemp("c")
    config, arrays, log_mel = random_student(CONFIGS[request.param])
    student = quantize(config, arrays, [log_mel])
    written(folder, student, hop=HOP)
    sources = [str(folder / name) for name in ENGINE]
    subprocess.run(["gcc", *STRICT, "-shared", "-fPIC", "-o", folder / "lib.so", *sources], check=True)
    return Exported(student, log_mel, folder, ctypes.CDLL(str(folder / "lib.so")))


@pytest.fixture(scope="module")
def minute() -> np.ndarray:
    """60 s at 16 kHz: noise that comes and goes, tones, silence, and samples at both limits."""
    rng, time = np.random.default_rng(0), np.arange(960_000) / 16_000
    sound = 10 ** (2 + 2 * np.sin(time)) * rng.normal(0, 1, len(time)) + 3000 * np.sin(2 * np.pi * 40 * time**2)
    sound[200_000:240_000] = 0
    return sound.clip(-32768, 32767).astype(np.int16)


def test_the_network_is_that_of_the_reference_kernels(exported):
    student = exported.student
    values = student.input.quantize(np.float32(student.gain) * exported.log_mel + np.float32(student.offset))
    reference = tflite_student(quantized_tflite(student, {}), "test", 1).embed_log_mel(exported.log_mel)
    np.testing.assert_array_equal(student.output.real(exported.network(values)) * student.units, reference)


def test_levels_are_those_of_the_front_end(exported, minute):
    config = exported.student.config
    settings, samples = config.front_end(), round(config.window * config.sample_rate)
    windows = minute[: 50 * samples].reshape(50, samples)
    _, before, after = settings.layout(samples)
    padded = np.pad(windows, ((0, 0), (before, after)))
    places = np.arange(config.frames()) * settings.hop_length
    found = np.empty((len(windows), len(places), settings.bands), np.float32)
    for index in np.ndindex(found.shape[:2]):
        frame = np.ascontiguousarray(padded[index[0], places[index[1]] :][: settings.n_fft])
        exported.library.edgesea_levels(pointer(frame), pointer(level := np.empty(settings.bands, np.float32)))
        found[index] = level
    if settings.levels == "sea":
        found = np.maximum(found - found.max((1, 2), keepdims=True), -80)
    exact = OverlappingLogMel(settings)(windows.astype(np.float32) / 32768)
    np.testing.assert_allclose(found.transpose(0, 2, 1), exact, atol=0.1)


def test_a_stream_has_the_embeddings_of_its_windows(exported, minute):
    config = exported.student.config
    window, hop = round(config.window * config.sample_rate), round(HOP * config.sample_rate)
    found = exported.stream(minute, hop, 777)
    assert list(found) == list(range(0, len(minute) - window + 1, hop))
    assert len(set(found.values())) > 0.8 * len(found)
    for start in list(found)[::5]:
        assert exported.stream(minute[start : start + window], 0, window) == {0: found[start]}
    assert exported.library.edgesea_missed() == 0


def test_nothing_is_computed_before_somebody_wants_it(exported, minute):
    assert exported.library.edgesea_init(0, None, None) == 0
    exported.library.edgesea_push(pointer(minute), ctypes.c_size_t(len(minute)))
    assert exported.library.edgesea_run() == 0


def test_windows_that_were_overwritten_are_counted(exported, minute):
    config = exported.student.config
    window, hop = round(config.window * config.sample_rate), round(HOP * config.sample_rate)
    exact, late = exported.stream(minute, hop, 500), exported.stream(minute, hop, 500, late=400_000)
    assert exported.library.edgesea_missed() == len(exact) - len(late) > 50
    assert late.items() <= exact.items()
    assert min(late) >= 400_000 - window - 2 * hop


@pytest.mark.parametrize(("name", "seconds"), [("edge", 60), ("published", 10)])
def test_an_emulated_chip_computes_the_same_bits(name, seconds, minute, tmp_path):
    needs("gcc", "make", "arm-none-eabi-gcc", "qemu-system-arm")
    config, arrays, log_mel = random_student({"n_mels": 64, **CONFIGS[name]})
    tags = ('dog "bark"?', "Straße", "c")
    weights = np.random.default_rng(0).normal(size=(len(tags), config.embedding_size))
    sizes = written(tmp_path, quantize(config, arrays, [log_mel]), (tags, weights, np.arange(3.0)))
    soundfile.write(tmp_path / "a, b.wav", minute[: seconds * config.sample_rate], config.sample_rate)

    def make(*words: str) -> str:
        done = subprocess.run(["make", "-s", *words], cwd=tmp_path, capture_output=True, check=False, text=True)
        assert "warning" not in done.stderr
        return done.stdout

    make("host")
    texts = []
    for bits in ([], ["--bits"]):
        command = [tmp_path / "edgesea-host", *bits, "a, b.wav"]
        host = subprocess.run(command, cwd=tmp_path, capture_output=True, check=True, text=True).stdout
        chip = make("run", "WAV=a, b.wav", *(["BITS=1"] if bits else []))
        assert len(host.splitlines()) == seconds
        assert host in chip
        texts.append(host)
    tagged = re.findall(r"s  (.+?)  ? ?(-?[0-9.]+)\n", texts[0])
    words = [int(word, 16) for word in re.findall(r"\b[0-9a-f]{8}\b", host)]
    scores = np.array(words, np.uint32).view(np.float32).reshape(seconds, -1) @ weights.T + np.arange(3.0)
    assert [tag for tag, _ in tagged] == [tags[best] for best in scores.argmax(1)]
    np.testing.assert_allclose([float(score) for _, score in tagged], scores.max(1), atol=2e-3)
    printed = {key: int(value) for key, value in re.findall(r"^(.+?): (\d+)", chip, re.M)}
    assert 0 < printed["stack"] < 2048
    assert sizes["ram"] <= printed["static RAM"] < sizes["ram"] + 4096
    assert sizes["flash"] <= printed["flash"] < sizes["flash"] + 16384
    assert printed["instructions a window"] > 1e5
    assert "convert it: sox" in make("run", "WAV=Makefile")
    assert "name a wav file" in make("run")
    assert "qemu-none is missing" in make("run", "WAV=a, b.wav", "QEMU=qemu-none")
    soundfile.write(tmp_path / "short.wav", minute[: 2 * config.sample_rate], config.sample_rate)
    for core in ("cortex-m4", "cortex-m3"):  # the second has neither floats nor SMLAD
        assert "".join(host.splitlines(True)[:2]) in make("run", "WAV=short.wav", "BITS=1", f"CPU={core}")
    for core in ("cortex-m33", "cortex-m55", "cortex-m0plus"):
        assert f"edgesea-{core}.elf" in make("device", f"CPU={core}")


def test_factors_are_rounded_as_in_tensorflow_lite():
    assert fixed(0.5) == (2**30, 0)
    assert fixed(0.25 - 2**-40) == (2**30, 1)  # rounded up to the next power of two
    assert fixed(3.0) == (3 << 29, -2)
    assert fixed(2.0**-40) == (0, 0)


def test_what_c_cannot_do_is_refused():
    config, arrays, log_mel = random_student(CONFIGS["edge"])
    student = quantize(config, arrays, [log_mel])
    with pytest.raises(EdgeseaError, match=r"hop must be a multiple of 0\.01 s.*, such as 0\.12, not 0\.125"):
        c_library(student, hop=0.125)
    odd = StudentConfig.named("edge-3", sample_rate=22050)
    with pytest.raises(EdgeseaError, match=r"such as 0\.997732426, not 1\.0"):
        hop_of(odd, 1.0)
    assert hop_of(odd, 0.997732426) == (220, 22000)
    with pytest.raises(EdgeseaError, match=r"3 tags on 12 dimensions cannot have weights \(3, 5\)"):
        c_library(student, ("abc", np.zeros((3, 5)), np.zeros(3)))
    config, arrays, log_mel = random_student({**CONFIGS["sea"], "n_fft": 1000})
    with pytest.raises(EdgeseaError, match="power of two of samples, not n_fft=1000"):
        c_library(quantize(config, arrays, [log_mel]))
