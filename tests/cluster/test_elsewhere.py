"""Work that is done by processes or by Dask's workers gives the bytes that it gives here, whatever befalls them."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import make_esc50, make_student, write_noise
from dask import config
from slurm.cluster import wait_for

from edgesea import cli
from edgesea.artifact import read_json
from edgesea.cluster import Cluster, elsewhere, read_cluster, results, using
from edgesea.embed.files import embed
from edgesea.errors import EdgeseaError
from edgesea.extract import extract
from edgesea.pipeline import read_config
from edgesea.reduction import reduce
from edgesea.sampling import sample
from edgesea.tasks.evaluate import evaluate

PYTHON = {**os.environ, "OMP_NUM_THREADS": "1"}
# Kills the process of a worker once, where it is asked to, and is slow where it is asked to be.
TEACHER = """
import os, signal, time
from contextlib import suppress
from pathlib import Path

def embed(windows):
    if os.getpid() != int(Path("driver").read_text()):
        with suppress(FileNotFoundError):
            Path("die").unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.1 * Path("slow").exists())
    return windows[:, :300].reshape(-1, 3, 100).std(2)
"""


@contextmanager
def dask(folder: Path, workers: int = 2) -> Iterator[tuple[str, "subprocess.Popen[bytes]", "subprocess.Popen[bytes]"]]:
    """A scheduler's address and process, and the process of its workers of one thread each."""
    file, own = folder / "scheduler.json", ["--local-directory", str(folder), "--nthreads", "1", "--no-dashboard"]
    start = [sys.executable, "-m", "distributed.cli.dask_scheduler"]
    place = ["--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(file)]
    with (folder / "log").open("ab") as log:
        processes = [subprocess.Popen([*start, *place], env=PYTHON, stdout=log, stderr=log, start_new_session=True)]
        worker = [sys.executable, "-m", "distributed.cli.dask_worker", "--scheduler-file", str(file)]
        worker += [*own, "--nworkers", str(workers), "--memory-limit", "0", "--death-timeout", "20"]
        processes.append(subprocess.Popen(worker, env=PYTHON, stdout=log, stderr=log, start_new_session=True))
    try:
        wait_for(file.exists)
        yield json.loads(file.read_text())["address"], *processes
    finally:
        for process in reversed(processes):  # a worker has a process that starts it again
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with dask(tmp_path_factory.mktemp("dask")) as (address, *_):
        yield address


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips of three sensors on two days, a task, a student, a teacher."""
    folder = tmp_path_factory.mktemp("inputs")
    rows = ["path,sensor,time,split"]
    for index in range(18):
        write_noise(folder / "audio" / f"{index:02d}.wav", 2.0, seed=index)
        split = "validate" if index % 5 == 4 else "train"
        rows.append(f"audio/{index:02d}.wav,s{index % 3},2020-05-0{1 + index // 9}T12:00:00,{split}")
    (folder / "manifest.csv").write_text("\n".join(rows) + "\n")
    make_esc50(folder / "esc50")
    make_student(folder / "student")
    (folder / "teacher_of_test.py").write_text(TEACHER)
    return folder


@pytest.fixture
def here(inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with the teacher, of this process."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(inputs)
    monkeypatch.setitem(PYTHON, "PYTHONPATH", f"{inputs}:{os.environ.get('PYTHONPATH', '')}")
    (tmp_path / "teacher_of_test.py").write_text(TEACHER)
    (tmp_path / "driver").write_text(str(os.getpid()))
    return tmp_path


def make_all(inputs: Path, out: Path) -> dict[str, bytes]:
    """The files of all stages, each of which hands out several calls."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (
            ("table.reader.RUN", 2),
            ("sampling.strata.TOGETHER", 1),
            ("reduction.windows.CHUNKS", 2),
            ("embed.files.GROUP", 4),
            ("tasks.features.GROUP", 3),
        ):
            patch.setattr(f"edgesea.{name}", value)
        extract(inputs / "manifest.csv", out / "table", part_clips=3, batch_size=7, workers=1)
        sample(out / "table", out / "subset", method="dpp_div", size=25)
        for method in ("pca", "kernel_pca"):
            reduce(out / "table", out / method, subset=out / "subset", method=method, size=3, landmarks=12)
        embed([inputs / "audio"], model=str(inputs / "student"), out=out / "npz", batch_size=7, quiet=True)
        evaluate("esc50", inputs / "esc50", str(inputs / "student"), out=out / "scores.json", resamples=0)
    return files_of(out)


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("[!.]*.*") if path.is_file()}


@pytest.fixture(scope="module")
def expected(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return make_all(inputs, tmp_path_factory.mktemp("expected"))


@pytest.mark.parametrize("place", ["processes", "dask"])
def test_all_stages_give_the_same_bytes(inputs, expected, address, tmp_path, place):
    options = Cluster(max_jobs=2) if place == "processes" else Cluster(address)
    with using(options):
        found = make_all(inputs, tmp_path)
    assert found.keys() == expected.keys()
    assert [name for name, content in found.items() if content != expected[name]] == []
    assert sum(name.endswith(".npz") for name in found) == 18


NAME = "callable:teacher_of_test:embed@8000"


def table(inputs: Path, out: Path, options: Cluster) -> dict[str, bytes]:
    with using(options):
        extract(inputs / "audio", out, teacher=NAME, part_clips=2)
    return files_of(out)


def embeddings(inputs: Path, out: Path, options: Cluster) -> dict[str, bytes]:
    with using(options):
        embed([inputs / "audio"], model=NAME, out=out, batch_size=7, quiet=True)
    return files_of(out)


@pytest.mark.parametrize("make", [table, embeddings])
def test_a_worker_that_is_killed_loses_nothing(inputs, here, address, make):
    expected = make(inputs, here / "here", Cluster())
    (here / "die").touch()
    assert make(inputs, here / "there", Cluster(address)) == expected
    assert not (here / "die").exists()


def test_an_error_of_the_user_arrives_as_it_is(tmp_path, address):
    for options in (Cluster(), Cluster(max_jobs=2), Cluster(address)):
        with using(options), pytest.raises(EdgeseaError, match=r"nothing\.json"):
            list(results(read_json, [(tmp_path / "nothing.json",)] * 3))


def test_more_calls_than_are_handed_out_at_once_come_in_order(address):
    with using(Cluster(address)):
        assert list(results(divmod, ((number, 7) for number in range(300)))) == [divmod(n, 7) for n in range(300)]
        assert list(results(iter, [((1, 2),)])) == [[1, 2]]
        assert list(results(divmod, [])) == []


def test_a_scheduler_that_is_killed_ends_the_command_which_resumes(inputs, here):
    (here / "slow").touch()
    options = ["--teacher", NAME, "--part_clips", "2"]
    with dask(here, 1) as (address, scheduler, _):
        command = [sys.executable, "-m", "edgesea", "extract", str(inputs / "audio"), "there", *options]
        (here / "driver").write_text("0")
        process = subprocess.Popen([*command, "--cluster", address], stderr=subprocess.PIPE, text=True, env=PYTHON)
        wait_for(lambda: any(here.glob("there/clips/part*")))
        scheduler.kill()
        error = process.communicate()[1]
    assert (process.returncode, "Traceback" in error, "scheduler" in error) == (1, False, True), error
    (here / "slow").unlink()
    assert table(inputs, here / "there", Cluster()) == table(inputs, here / "here", Cluster())


def test_a_scheduler_that_has_lost_all_workers_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(elsewhere, "NOTICE", 0.2)
    with dask(tmp_path, 1) as (address, _, workers), using(Cluster(address)):
        assert list(results(divmod, [(7, 2)])) == [(3, 1)]
        os.killpg(workers.pid, signal.SIGKILL)
        given_up = config.set({"distributed.scheduler.no-workers-timeout": "1s"})
        with given_up, pytest.raises(EdgeseaError, match=r"no worker.* 1 s"):
            list(results(divmod, [(7, 2)]))


# --- options


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"cluster": "slrum"}, "slrum"),
        ({"cpus": 0}, "cpus"),
        ({"min_jobs": 3, "max_jobs": 2}, "max_jobs"),
        ({"max_jobs": 0}, "max_jobs"),
        ({"partitoin": "gpu"}, "partition"),
        ({"stages": {"extarct": {}}}, "extarct"),
        ({"stages": {"extract": {"cups": 1}}}, "cpus"),
        ({"stages": {"extract": {"stages": {}}}}, "stages"),
        ([1], "mapping"),
    ],
)
def test_bad_options_are_named(options, word):
    with pytest.raises(EdgeseaError, match=f"a.yaml.*{word}"):
        read_cluster(options, "a.yaml", ["extract"])


def test_options_of_a_stage_count_more_and_those_of_the_command_line_most(tmp_path):
    stages = "{extract: {partition: gpu, gpus: 1}}"
    (tmp_path / "a.yaml").write_text(
        f"cluster: {{cluster: slurm, cpus: 2, stages: {stages}}}\nextract: {{source: x}}\n"
    )
    found = read_config(tmp_path / "a.yaml")[1]
    assert found.for_stage("extract") == Cluster("slurm", partition="gpu", gpus=1, cpus=2)
    assert found.for_stage("sample") == Cluster("slurm", cpus=2)
    with using(Cluster(cpus=8)):
        assert read_config(tmp_path / "a.yaml")[1].for_stage("sample") == Cluster("slurm", cpus=8)
    assert read_cluster("slurm", "a.yaml") == Cluster("slurm")


def test_a_configuration_of_one_command_has_a_cluster(inputs, tmp_path, refuses):
    (tmp_path / "a.yaml").write_text("cluster: {cluster: tcp://127.0.0.1:9}\nhop: 1.0\n")
    words = ["extract", inputs / "audio", tmp_path / "out", "--config", tmp_path / "a.yaml"]
    with config.set({"distributed.comm.timeouts.connect": "0.5s"}):
        refuses(*words, words=["tcp://127.0.0.1:9"])
    assert cli.main([*map(str, words), "--cluster", "local"]) == 0
