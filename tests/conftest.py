"""Shared fixtures: real data where it is present, and small synthetic tables."""

import os

# Before numpy is loaded: two test processes share two cores, where one thread each is faster than two that wait for
# each other, and results are compared bit by bit with those of processes that have one thread.
os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"

import shutil
import signal
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from time import sleep
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pytest
import soundfile
import torch

if TYPE_CHECKING:
    from playwright.sync_api import Browser
    from slurm.cluster import Slurm

torch.set_num_threads(1)

REPOSITORY = Path(__file__).parents[1]
T = TypeVar("T")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Names that are not UTF-8 in what a test prints would end the worker that has to pass them on."""
    report = yield
    report.sections = [(name, text.encode("utf-8", "replace").decode()) for name, text in report.sections]
    return report


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder with the real data of the project; the test is skipped where it is absent."""
    folder = Path(os.environ.get("EDGESEA_TEST_DATA") or REPOSITORY.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"no real data: {folder} does not exist (set EDGESEA_TEST_DATA)")
    return folder


@pytest.fixture(scope="session")
def slurm() -> "Iterator[Slurm]":
    """A real SLURM with two nodes; where it is not installed the test is skipped, but fails in CI."""
    from slurm.cluster import missing, running

    if programs := missing():
        reason = f"no SLURM here ({', '.join(programs)} missing); install it with tools/debian.sh"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    with running() as cluster:
        yield cluster


@pytest.fixture(scope="session")
def chromium() -> "Iterator[Browser]":
    """A headless Chromium; where it is not installed the test is skipped, but fails in CI."""
    if not (path := shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")):
        reason = "no Chromium here; install it with tools/debian.sh"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def on_slurm(slurm: "Slurm", monkeypatch: pytest.MonkeyPatch) -> "Slurm":
    """The same, as the SLURM of this process, whose jobs have this edgesea and the models of the tests."""
    modules = (REPOSITORY / "src", REPOSITORY / "tests", REPOSITORY / "tests" / "slurm")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, modules)))
    monkeypatch.setenv("SLURM_CONF", slurm.env["SLURM_CONF"])
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{slurm.env['PATH']}")
    return slurm


@pytest.fixture
def refuses(capsys: pytest.CaptureFixture[str]) -> Callable[..., None]:
    """Check that a command ends with an exit code, one error and no traceback, and that the error names `words`."""
    from edgesea import cli

    def check(*arguments: object, words: Sequence[object], code: int = 1) -> None:
        capsys.readouterr()
        assert cli.main([str(argument) for argument in arguments]) == code
        error = capsys.readouterr().err
        assert "Traceback" not in error
        assert [str(word) for word in words if str(word) not in error] == [], error

    return check


def write_noise(path: Path, seconds: float = 3.0, rate: int = 8000, seed: int = 0, channels: int = 1) -> Path:
    """Write a wav of amplitude-modulated noise, different for each seed."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * rate)) / rate
    tone = np.sin(2 * np.pi * rng.uniform(100, rate / 4) * time) * (1 + np.sin(2 * np.pi * rng.uniform(1, 6) * time))
    samples = 0.1 * tone[:, None] + 0.05 * rng.standard_normal((len(time), channels))
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples.astype(np.float32), rate)
    return path


def load_audio(path: Path, rate: int) -> np.ndarray:
    """A whole file, decoded and resampled as the stages do it in chunks: (samples,) float32."""
    from edgesea.audio.io import AudioFile
    from edgesea.audio.resampling import resample_stream

    with AudioFile(path) as file:
        return np.concatenate(list(resample_stream(file.chunks(), file.sample_rate, rate)))


def cut_windows(framing: Any, audio: np.ndarray) -> np.ndarray:
    """All windows (count, window) of a whole clip, by the definition."""
    count = framing.count(len(audio))
    padded = np.pad(audio, (framing.pad, framing.start(count) + framing.window))
    return np.stack([padded[framing.start(index) + framing.pad :][: framing.window] for index in range(count)])


def peak_memory(function: Callable[[], T]) -> tuple[T, int]:
    """What a function returns, and how many bytes Python and numpy held at most meanwhile."""
    tracemalloc.start()
    try:
        return function(), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def make_student(folder: Path, seed: int = 0, provenance: Mapping[str, object] = {}, name: str = "") -> Path:
    """Save a student with random weights, a small one or that of the name."""
    from edgesea.models.student_config import StudentConfig
    from edgesea.models.student_files import save_student
    from edgesea.models.student_torch import Student

    torch.manual_seed(seed)
    small = StudentConfig(embedding_size=5, filters=(4, 6), n_mels=16)
    save_student(Student(StudentConfig.named(name) if name else small), folder, provenance, "card")
    return folder


@pytest.fixture(scope="session")
def random_student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a student of `make_student`."""
    return make_student(tmp_path_factory.mktemp("random") / "student")


@pytest.fixture
def noise_folder(tmp_path: Path) -> Path:
    """Twelve clips of 2 to 5 s."""
    folder = tmp_path / "audio"
    for index in range(12):
        write_noise(folder / f"clip{index:02d}.wav", 2.0 + index % 4, seed=index)
    return folder


@pytest.fixture(scope="session")
def small_table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A spectral table of 18 clips (90 windows) from three sensors on two days: 12 train, 4 validate, 2 test.

    It is cut small: four parts, most with several row groups.
    """
    from edgesea.extract import extract

    folder = tmp_path_factory.mktemp("small")
    rows = ["path,sensor,time,split"]
    for index in range(18):
        write_noise(folder / "audio" / f"clip{index:02d}.wav", 3.0, seed=index)
        split = "validate" if index in (4, 7, 10, 13) else "test" if index in (5, 11) else "train"
        rows.append(f"audio/clip{index:02d}.wav,s{index % 3},2020-05-0{1 + index // 9}T12:00:00,{split}")
    (folder / "manifest.csv").write_text("\n".join(rows) + "\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("edgesea.table.writer.FLUSH_BYTES", 100_000)  # two clips or so
        options: dict[str, Any] = {"sample_rate": 8000, "dtype": "float32", "workers": 1}
        extract(folder / "manifest.csv", folder / "table", part_clips=5, **options)
    return folder / "table"


@pytest.fixture(scope="session")
def small_reduction(small_table: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """PCA of `small_table` to four dimensions."""
    from edgesea.reduction import reduce

    folder = tmp_path_factory.mktemp("small") / "reduction"
    reduce(small_table, folder, size=4, whiten=True)
    return folder


@pytest.fixture(scope="session")
def train_only_table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A spectral float16 table of three clips (six windows), all of them for training."""
    from edgesea.extract import extract

    folder = tmp_path_factory.mktemp("train_only")
    for index in range(3):
        write_noise(folder / "audio" / f"clip{index}.wav", 2.0, seed=index)
    extract(folder / "audio", folder / "table", validate=0.0, hop=1.0, workers=1)
    return folder / "table"


def make_esc50(folder: Path, clips: int = 20) -> Path:
    """Write clips of 1.5 s in the layout of ESC-50: tones and noises in two folds."""
    rng = np.random.default_rng(0)
    (folder / "meta").mkdir(parents=True)
    (folder / "audio").mkdir()
    rows = ["filename,fold,category"]
    for index in range(clips):
        tone = np.sin(2 * np.pi * rng.uniform(300, 3000) * np.arange(12000) / 8000)
        samples = 0.2 * (tone if index % 2 else rng.standard_normal(12000)) + 0.01 * rng.standard_normal(12000)
        soundfile.write(folder / "audio" / f"{index:02d}.wav", samples, 8000)
        rows.append(f"{index:02d}.wav,{1 + index // 2 % 2},{'tone' if index % 2 else 'noise'}")
    (folder / "meta" / "esc50.csv").write_text("\n".join(rows) + "\n")
    return folder


@pytest.fixture(scope="session")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on ESC-50's layout; its manifest has sensors, times, odd names and a clip that is not there."""
    from edgesea.pipeline import checked_sections, run_stages

    folder = make_esc50(tmp_path_factory.mktemp("run") / "task", 12)
    labels = folder / "meta/esc50.csv"
    labels.write_text(
        labels.read_text("utf-8").replace("tone", "hum & <i>$buzz$</i>").replace("noise", "hiss"), "utf-8"
    )
    clips = ["path,sensor,time,split,kind", "audio/<b>x</b>.wav,2,2024-05-01T09:00,train,"]
    for number in range(12):
        split, kind = ("train", "train", "validate")[number % 3], ("hiss", "hum & <i>$buzz$</i>")[number % 2]
        time = f"2024-05-0{1 + number % 2}T08:00"
        clips.append(f"audio/{number:02d}.wav,{('<s1>', '2')[number // 6]},{time},{split},{kind}")
    (folder / "manifest.csv").write_text("\n".join(clips) + "\n", "utf-8")
    source = {"source": str(folder / "manifest.csv"), "columns": {"label": "kind"}, "hop": 0.25, "device": "cpu"}
    source["sample_rate"] = 8000
    training = {"student": "sea-64", "filters": [2, 2, 2, 4], "epochs": 2, "batch_size": 16, "device": "cpu"}
    sections = {"extract": source, "sample": {"size": 20}, "reduce": {"size": 4}, "distill": training}
    sections["evaluate"] = {"task": "esc50", "data": str(folder), "device": "cpu", "workers": 1, "resamples": 20}
    run_stages(checked_sections(sections, "test"), folder.parent / "run")
    return folder.parent / "run"


def kill_when(command: list[str], ready: Callable[[], bool], sent: int = signal.SIGKILL) -> int:
    """Run a command in a process of its own, send it a signal as soon as `ready()`, and return how it ended.

    It fails if the command ends before.
    """

    def prepare() -> None:
        os.nice(5)  # this process must notice in time that it is ready
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # shells start background jobs with Ctrl-C ignored

    process = subprocess.Popen(
        command,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY / "src")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=prepare,
    )
    try:
        while not ready():
            assert process.poll() is None, process.communicate()[0]
            sleep(0.002)
        process.send_signal(sent)
        process.communicate(timeout=60)
    finally:
        process.kill()
    return process.returncode


# A student that trains in seconds. With patience=0 its learning rate falls after epoch 14, with the rate and order of
# `small_table`; onecycle sweeps the rate over all epochs.
TINY = {
    "student": "sea-64", "filters": [4, 4, 8, 8], "n_mels": 16,
    "epochs": 18, "epoch_size": 16, "batch_size": 8, "lr": 0.03, "mask": 0.0, "schedule": "plateau", "patience": 0,
    "precision": "32-true",
}  # fmt: skip


@pytest.fixture(scope="session")
def small_student(small_table: Path, small_reduction: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The student of `TINY`, trained without interruption."""
    from edgesea.distill import distill

    folder = tmp_path_factory.mktemp("small") / "student"
    distill(small_table, small_reduction, folder, **TINY)  # type: ignore[arg-type]
    return folder
