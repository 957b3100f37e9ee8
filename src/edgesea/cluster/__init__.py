"""Where the work of the data-parallel stages is done: here, in processes, in jobs of SLURM, on any Dask cluster.

A stage asks for the `results` of a function for many tuples of arguments, in order, and does not know where they come
from: that is said around it, with `using`. It changes no result.
"""

import getpass
import logging
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

from edgesea.config import checked_options
from edgesea.errors import EdgeseaError, needs

log = logging.getLogger(__name__)
T = TypeVar("T")

AHEAD = 128  # calls at least that are handed out before their turn comes
NOTICE = 30.0  # seconds after which it is looked whether there are workers
# A worker that has not been heard of for a minute is given up, and a call is tried again where up to ten workers died.
SCHEDULER = {"distributed.scheduler.worker-ttl": "60s", "distributed.scheduler.allowed-failures": 10}
# Loggers of Dask, which say nothing: what matters to a user is an EdgeseaError.
NOISE = ("distributed", "distributed.client", "distributed.scheduler", "dask_jobqueue", "tornado.application")
JOB_NAME = "EDGESEA_JOB_NAME"  # environment variable: the name of the jobs that workers are


@dataclass(frozen=True)
class Cluster:
    """Where extract, sample, reduce, embed, select and the embeddings of evaluate are computed; of submit, all stages.

    Parameters
    ----------
    cluster : str
        local, slurm (workers are jobs), or the address of a Dask scheduler, e.g. tcp://node1:8786. Folders and files
        must have the same names there.
    partition : str, optional
        Of a job of SLURM: queue that it waits in.
    account : str, optional
        Whom it is charged to.
    time : str, optional
        Its time limit, e.g. 4:00:00. Work that is lost at the limit is done again by the next job.
    memory : str, optional
        Its memory, e.g. 8G.
    cpus : int
        Processors of a job.
    gpus : int
        GPUs: of a job that distils; of others there is a job for each.
    nodes : int
        Nodes of a job that distils, with one process for each GPU, or one if there is none.
    min_jobs : int
        Of slurm: jobs at least, as long as there is work.
    max_jobs : int, optional
        Of slurm: jobs at most; default: 2. Of local: processes; default: one for each GPU.
    directives : list of str
        Further options of `sbatch`, without the dashes: qos=low constraint=a100.
    interface : str, optional
        Network interface by which workers reach this machine, e.g. ib0.
    stages : dict, optional
        The same options for single stages, which count more there: {extract: {partition: gpu, gpus: 1}}.
    """

    cluster: str = "local"
    partition: str | None = None
    account: str | None = None
    time: str | None = None
    memory: str | None = None
    cpus: int = 1
    gpus: int = 0
    nodes: int = 1
    min_jobs: int = 0
    max_jobs: int | None = None
    directives: list[str] = field(default_factory=list)
    interface: str | None = None
    stages: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.cluster not in ("local", "slurm") and ":" not in self.cluster:
            raise EdgeseaError(
                f"cluster must be local, slurm or an address such as tcp://HOST:8786, not {self.cluster}"
            )
        least = {"cpus": 1, "gpus": 0, "nodes": 1, "min_jobs": 0, "max_jobs": max(1, self.min_jobs)}
        for name, number in least.items():
            if (value := getattr(self, name)) is not None and value < number:
                raise EdgeseaError(f"{name} must be at least {number}, not {value}")

    def changed(self) -> dict[str, Any]:
        """The options that are not the default."""
        return {key: value for key, value in asdict(self).items() if value != getattr(Cluster(), key)}

    @property
    def processes(self) -> int:
        """Of a job that distils: one for each GPU, or for each node if there is none."""
        return self.nodes * max(1, self.gpus)

    def job_options(self) -> list[str]:
        """What `sbatch` and `srun` are told of a job, except for its size."""
        named = {"partition": self.partition, "account": self.account, "time": self.time, "mem": self.memory}
        given = [f"{name}={value}" for name, value in named.items() if value is not None]
        return [f"--{each.lstrip('-')}" for each in (*given, *self.directives)]

    def for_stage(self, name: str) -> "Cluster":
        """The options for a stage."""
        return replace(self, **{**self.stages.get(name, {}), "stages": {}})


def read_cluster(given: Any, source: str, stages: Iterable[str] = ()) -> Cluster:
    """The options of a YAML file's section ``cluster``: a mapping, or only where; EdgeseaError names `source`."""
    options = {"cluster": given} if isinstance(given, str) else given or {}
    found = Cluster(**checked_options(Cluster, options, source))
    for name, own in found.stages.items():
        if name not in stages:
            raise EdgeseaError(f"{source}: stages: {name} is none of {', '.join(stages)}")
        checked = checked_options(Cluster, own, f"{source}: stages: {name}", fixed=("stages",))
        found.stages[name] = {key: checked[key] for key in own}
    return found


class Place:
    """Where work is done between the begin and the end of `using`."""

    def __init__(self, options: Cluster, stack: ExitStack) -> None:
        self.options, self._stack, self._client = options, stack, None

    def client(self) -> Any:
        """A client of Dask's scheduler, which is started, or connected to, when there is work for the first time."""
        if self._client is None:
            self._client = self._stack.enter_context(_connected(self.options))
        return self._client


_PLACE: ContextVar[Place] = ContextVar("place", default=Place(Cluster(), ExitStack()))  # noqa: B039


@contextmanager
def using(options: Cluster) -> Iterator[None]:
    """In this block, data-parallel stages do their work where `options` say."""
    with ExitStack() as stack:
        token = _PLACE.set(Place(options, stack))
        try:
            yield
        finally:
            _PLACE.reset(token)


def current() -> Cluster:
    """The options of the innermost `using`."""
    return _PLACE.get().options


def results(function: Callable[..., T], calls: Iterable[tuple[Any, ...]], jobs: int = 1) -> Iterator[T]:
    """Yield `function`'s result for each tuple of arguments, in order.

    `function` must be importable where the work is done, or a partial of one that is. `jobs` processes do it, unless
    there is more to say of that (`max_jobs`, another cluster); with one, it is done here, one call after the other. An
    iterator that it returns is a list when it comes from elsewhere.
    """
    place = _PLACE.get()
    if place.options.cluster != "local":
        return _on_dask(place, function, calls)
    if is_here(jobs):
        return (function(*arguments) for arguments in calls)
    return _in_processes(function, list(calls), place.options.max_jobs or jobs)


def is_here(jobs: int = 1) -> bool:
    """Whether `results` does its work in this process."""
    options = current()
    return options.cluster == "local" and (options.max_jobs or jobs) == 1


def run_on_nodes(arguments: list[str]) -> None:
    """Run a command of edgesea in the processes of a job that distils: of the job that this is in, or of a new one."""
    options = current()
    size = {"nodes": options.nodes, "ntasks-per-node": max(1, options.gpus), "cpus-per-task": options.cpus}
    size |= {"gpus-per-node": options.gpus} if options.gpus else {}
    job = [] if "SLURM_JOB_ID" in os.environ else options.job_options()
    command = ["srun", "--kill-on-bad-exit=1", *(f"--{key}={value}" for key, value in size.items()), *job]
    try:
        process = subprocess.Popen([*command, sys.executable, "-m", "edgesea", *arguments])
    except FileNotFoundError:
        raise EdgeseaError("srun: not found; several nodes need SLURM: run it where that is installed") from None
    try:
        code = process.wait()
    except BaseException as error:
        process.send_signal(getattr(error, "signal", signal.SIGINT))  # srun hands it on to all processes
        process.wait()
        raise
    if code:
        raise EdgeseaError(f"edgesea {arguments[0]} ended with code {code} on {options.nodes} nodes; see above")


class Stopped(KeyboardInterrupt):
    """The process is to end, by a signal other than Ctrl-C: SLURM's warning of the time limit, or SIGTERM."""

    def __init__(self, number: int, _: Any = None) -> None:
        super().__init__(signal.Signals(number).name)
        self.signal = number


def stop_in_order() -> None:
    """Let SIGTERM, and in a job of SLURM SIGUSR1, end this process as Ctrl-C does (see `Stopped`)."""
    signals = (signal.SIGTERM, *([signal.SIGUSR1] if "SLURM_JOB_ID" in os.environ else []))

    def stop(number: int, _: Any) -> None:
        for each in signals:  # SLURM also terminates a job that has just been requeued
            signal.signal(each, signal.SIG_IGN)
        raise Stopped(number)

    for number in signals:
        signal.signal(number, stop)


def requeue() -> bool:
    """Have SLURM queue this job again, whose command then resumes; whether it will."""
    if not (job := os.environ.get("SLURM_JOB_ID")):
        return False
    try:
        done = subprocess.run(["scontrol", "requeue", job], timeout=30, check=False, capture_output=True, text=True)
        problem = done.returncode and done.stderr
    except (OSError, subprocess.TimeoutExpired) as error:
        problem = str(error)
    if problem:
        log.error("job %s is not requeued (%s); submit it again", job, problem.strip())
    return not problem


# --- processes


def _in_processes(function: Callable[..., T], calls: list[tuple[Any, ...]], jobs: int) -> Iterator[T]:
    from joblib import Parallel, delayed, parallel_config

    jobs = max(1, min(jobs, len(calls)))
    threads = max(1, (os.cpu_count() or 1) // jobs)
    os.environ["TQDM_DISABLE"] = "1"  # for the processes; here tqdm is loaded already
    with TemporaryDirectory(prefix="edgesea-") as folder:
        start = {"initializer": _begin, "initargs": (folder, os.getpid())} if jobs > 1 else {}
        try:
            with parallel_config("loky", n_jobs=jobs, inner_max_num_threads=threads if jobs > 1 else None, **start):
                yield from Parallel(return_as="generator")(delayed(_called)(function, each) for each in calls)
        except BrokenProcessPool as error:
            reason = "a process was killed, probably for lack of memory"
            raise EdgeseaError(f"{reason}; choose fewer workers and run it again: it resumes") from error
        finally:
            del os.environ["TQDM_DISABLE"]


def _begin(folder: str, parent: int) -> None:
    """In a process: take a GPU, leave Ctrl-C to the parent, end when that is killed (loky would wait), be silent."""
    from tqdm import tqdm

    for number in count():
        with suppress(FileExistsError):
            Path(folder, str(number)).touch(exist_ok=False)
            break
    if gpus := _gpus():
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus[number % len(gpus)]
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    tqdm.set_lock(threading.RLock())  # its own leaves a semaphore behind when the process is killed
    logging.disable(logging.WARNING)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _gpus() -> list[str]:
    """The GPUs that this process may use, by the names that CUDA_VISIBLE_DEVICES knows them by."""
    import torch

    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return visible.split(",") if visible else [str(number) for number in range(torch.cuda.device_count())]


def count_gpus(device: str) -> int:
    """How many processes a stage with this option `device` is spread over: one for each GPU."""
    try:
        return max(1, len(_gpus())) if device in ("auto", "cuda") else 1
    except ModuleNotFoundError:  # there is no torch, and nothing that a GPU is used by
        return 1


def _called(function: Callable[..., T], arguments: tuple[Any, ...]) -> T | list[Any]:
    """In another process: call a function."""
    result = function(*arguments)
    return list(result) if isinstance(result, Iterator) else result


# --- Dask


@contextmanager
def _connected(options: Cluster) -> Iterator[Any]:
    """A client of the scheduler at an address, or of one in this process whose workers are jobs of SLURM."""
    with needs("distributed", "cluster"):
        import dask
        from distributed import Client
    for name in NOISE:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    with ExitStack() as stack:
        stack.enter_context(dask.config.set(SCHEDULER))
        where: Any = stack.enter_context(_slurm(options)) if options.cluster == "slurm" else options.cluster
        try:
            client = stack.enter_context(Client(where))
        except (OSError, ValueError) as error:
            raise EdgeseaError(f"{options.cluster}: no Dask scheduler answers there ({error}); start one") from error
        client.forward_logging("edgesea", logging.getLogger("edgesea").getEffectiveLevel())
        yield client


@contextmanager
def _slurm(options: Cluster) -> Iterator[Any]:
    """A scheduler in this process, and as many jobs of SLURM as there is work for."""
    with needs("dask_jobqueue", "cluster"):
        from dask_jobqueue import SLURMCluster
    gpu = ["--gres=gpu:1"] if options.gpus else []
    logs = Path(os.environ.get("EDGESEA_JOB_LOGS", "slurm-logs")).absolute()
    cluster = SLURMCluster(
        memory="1GB",  # which is asked neither of SLURM nor of the worker: see below
        cores=1,  # a worker does one call at a time, in which there are threads
        processes=1,
        job_cpu=options.cpus,
        job_name=os.environ.get(JOB_NAME, "edgesea-worker"),
        job_extra_directives=[*options.job_options(), *gpu],
        job_directives_skip=["--mem=", " -t "],
        worker_extra_args=["--memory-limit", "0", "--no-dashboard"],  # SLURM guards the memory
        log_directory=str(logs),
        local_directory=shlex.quote(os.environ.get("TMPDIR", "/tmp")),
        death_timeout=60,
        interface=options.interface,
        python=shlex.quote(sys.executable),
        scheduler_options={"dashboard_address": ":0"},
    )
    try:
        _check_job(cluster.job_script())
        most = options.max_jobs or max(2, options.min_jobs)
        cluster.adapt(minimum_jobs=options.min_jobs, maximum_jobs=most)
        log.info("work goes to %d to %d jobs of SLURM; their logs: %s", options.min_jobs, most, logs)
        yield cluster
    finally:
        with suppress(AssertionError):  # of a job that could not be submitted
            cluster.close()


def _check_job(script: str) -> None:
    """EdgeseaError, with SLURM's reason, for a job that it would refuse."""
    try:
        done = subprocess.run(["sbatch", "--test-only"], input=script, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise EdgeseaError("sbatch: not found; --cluster slurm works where SLURM is installed") from None
    if done.returncode:
        reason = " ".join(line.removeprefix("sbatch: ").removeprefix("error: ") for line in done.stderr.splitlines())
        raise EdgeseaError(f"SLURM refuses the jobs of workers: {reason}; change the options of the cluster")


def _jobs_in_vain(cluster: Any) -> set[Any]:
    """The jobs of SLURM that workers were asked for, if all have ended; empty if one runs or waits."""
    queue = ["squeue", "--noheader", "--format=%i", f"--user={getpass.getuser()}"]
    done = subprocess.run(queue, capture_output=True, text=True, check=False)
    jobs = {worker.job_id for worker in cluster.workers.values()}
    return set() if done.returncode or jobs & set(done.stdout.split()) else jobs


def _on_dask(place: Place, function: Callable[..., T], calls: Iterable[tuple[Any, ...]]) -> Iterator[T]:
    client = place.client()
    ahead = max(AHEAD, 2 * (place.options.max_jobs or 0), 2 * sum(client.nthreads().values()))
    waiting: deque[Any] = deque()
    call = partial(_called_in, str(Path.cwd()), function)
    try:
        for arguments in calls:
            waiting.append(client.submit(call, arguments, pure=False))
            if len(waiting) == ahead:
                yield _awaited(client, waiting.popleft())
        while waiting:
            yield _awaited(client, waiting.popleft())
    finally:
        if waiting and client.status == "running":
            client.cancel(list(waiting))


def _awaited(client: Any, future: Any) -> Any:
    """The result of a future, however long it takes; EdgeseaError if the scheduler or all its workers are gone."""
    from distributed import CancelledError, KilledWorker, wait
    from distributed.comm import CommClosedError

    lost = "the Dask scheduler is gone; start it and run the same command again: it resumes"
    waited, in_vain = False, set[Any]()
    while not future.done():
        try:
            wait([future], timeout=NOTICE)
        except TimeoutError:
            if client.status != "running":
                raise EdgeseaError(lost) from None
            if client.nthreads():
                continue
            if not waited:
                log.warning("no worker has come yet; for jobs of SLURM, squeue and their logs say why")
            before, in_vain = in_vain, _jobs_in_vain(client.cluster) if client.cluster else set()
            if in_vain and in_vain == before:  # they have not been replaced
                raise EdgeseaError("the jobs of SLURM ended before they were of use; their logs say why") from None
            waited = True
        except (CancelledError, CommClosedError):
            break
    try:
        return future.result()
    except KilledWorker as error:
        raise EdgeseaError(f"workers died of the same work, probably for lack of memory: {error}") from error
    except (CancelledError, CommClosedError) as error:
        raise EdgeseaError(lost) from error


def _called_in(folder: str, function: Callable[..., T], arguments: tuple[Any, ...]) -> T | list[Any]:
    """On a worker: call a function in the folder that names of files and modules are relative to."""
    with suppress(OSError):  # it may not be there, which matters to relative names alone
        os.chdir(folder)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    return _called(function, arguments)
