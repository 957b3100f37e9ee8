"""How work is done elsewhere: in processes of this machine, by jobs of SLURM and other workers of Dask."""

import logging
import os
import shlex
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, TypeVar

from edgesea.cluster.slurm import ACT, call
from edgesea.errors import EdgeseaError, needs

if TYPE_CHECKING:
    from edgesea.cluster import Cluster

log = logging.getLogger(__name__)
T = TypeVar("T")

AHEAD = 128  # calls at least that are handed out before their turn comes
NOTICE = 30.0  # seconds after which it is looked whether there are workers
ALONE = "1h"  # without any, a scheduler that others have started is given up, unless Dask's configuration says when
# A worker that has not been heard of for a minute is given up, and a call is tried again where up to ten workers died.
SCHEDULER = {"distributed.scheduler.worker-ttl": "60s", "distributed.scheduler.allowed-failures": 10}
# Loggers of Dask, which say nothing: what matters to a user is an EdgeseaError.
NOISE = ("distributed", "distributed.client", "distributed.scheduler", "dask_jobqueue", "tornado.application")
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")  # which Dask would set to 1
KEYS = "EDGESEA_KEYS"  # variable of a job: the folder with the keys of TLS
JOB_NAME = "EDGESEA_JOB_NAME"  # environment variable: the name of the jobs that workers are


# --- processes


def in_processes(function: Callable[..., T], calls: list[tuple[Any, ...]], jobs: int, folder: str) -> Iterator[T]:
    """The results of a function by processes of this machine, which stay for the next call with the same folder."""
    from joblib import Parallel, delayed, parallel_config

    jobs = max(1, min(jobs, len(calls)))
    threads = max(1, (os.cpu_count() or 1) // jobs)
    os.environ["TQDM_DISABLE"] = "1"  # for the processes; here tqdm is loaded already
    gpus = _gpus() if "torch" in sys.modules else []  # otherwise the work needs none
    start = {"initializer": _begin, "initargs": (folder, os.getpid(), gpus)} if jobs > 1 else {}
    try:
        with parallel_config("loky", n_jobs=jobs, inner_max_num_threads=threads if jobs > 1 else None, **start):
            yield from Parallel(return_as="generator")(delayed(_called)(function, each) for each in calls)
    except BrokenProcessPool as error:
        reason = "a process was killed, probably for lack of memory"
        raise EdgeseaError(f"{reason}; choose fewer workers and run it again: it resumes") from error
    finally:
        os.environ.pop("TQDM_DISABLE", None)


def _begin(folder: str, parent: int, gpus: list[str]) -> None:
    """In a process: take a GPU, leave Ctrl-C to the parent, end when that is killed (loky would wait), be silent."""
    from tqdm import tqdm

    for number in count():
        with suppress(FileExistsError):
            Path(folder, str(number)).touch(exist_ok=False)
            break
    if gpus:
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
    if not may_have_gpu():
        return []
    import torch

    visible, number = os.environ.get("CUDA_VISIBLE_DEVICES"), torch.cuda.device_count()
    return visible.split(",")[:number] if visible else list(map(str, range(number)))


def may_have_gpu() -> bool:
    """Whether to ask torch for GPUs, which takes two seconds to load: on Linux, only where there is a driver."""
    devices = ("nvidiactl", "nvidia0", "nvmap", "kfd", "dxg")  # NVIDIA, Jetson, AMD, Windows' own in WSL
    return not sys.platform.startswith("linux") or any(Path("/dev", device).exists() for device in devices)


def count_gpus(device: str) -> int:
    """How many processes a stage with this option `device` is spread over: one for each GPU."""
    with suppress(ModuleNotFoundError):  # without torch, nothing runs on one
        return max(1, len(_gpus())) if device in ("auto", "cuda") else 1
    return 1


def _called(function: Callable[..., T], arguments: tuple[Any, ...]) -> T | list[Any]:
    """In another process: call a function."""
    result = function(*arguments)
    return list(result) if isinstance(result, Iterator) else result


# --- Dask


@contextmanager
def connected(options: "Cluster") -> Iterator[Any]:
    """A client of the scheduler at an address, or of one in this process whose workers are jobs of SLURM."""
    with needs("distributed", "cluster"):
        from distributed import Client  # before dask, which comes with it
    import dask

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
def _slurm(options: "Cluster") -> Iterator[Any]:
    """A scheduler in this process, and as many jobs of SLURM as there is work for."""
    handler = signal.getsignal(signal.SIGINT)
    with needs("dask_jobqueue", "cluster"):
        from dask_jobqueue import SLURMCluster
    import dask

    if signal.getsignal(signal.SIGINT) is not handler:  # its import makes an end with code 0 of Ctrl-C
        signal.signal(signal.SIGINT, handler)
    name = os.environ.get(JOB_NAME, "edgesea-worker")
    logs = Path(os.environ.get("EDGESEA_JOB_LOGS", "slurm-logs")).absolute()
    logs.mkdir(parents=True, exist_ok=True)
    log_file = str(logs).replace("%", "%%") + f"/{name}-%j.log"
    asked = [*options.job_options(), *(["--gres=gpu:1"] if options.gpus else []), f"--output={shlex.quote(log_file)}"]
    threads = [f"export {each}=${{{each}:-{options.cpus}}}" for each in THREADS]
    with TemporaryDirectory(prefix=".keys-", dir=logs) as keys:
        os.environ[KEYS] = keys  # its name may hold spaces, which the script would not survive
        cluster = SLURMCluster(
            memory="1GB",  # which is asked neither of SLURM nor of the worker: see below
            cores=1,  # a worker does one call at a time, in which there are threads
            processes=1,
            job_cpu=options.cpus,
            job_name=name,
            job_extra_directives=asked,
            job_directives_skip=["--mem=", " -t "],
            job_script_prologue=[
                *dask.config.get("jobqueue.slurm.job-script-prologue", []),
                *threads,
                f"{KEYS}={shlex.quote(keys)}",
                "IFS=",
            ],
            worker_extra_args=["--memory-limit", "0", "--no-dashboard"],  # SLURM guards the memory
            local_directory=shlex.quote(os.environ.get("TMPDIR", "/tmp")),
            death_timeout=60,
            interface=options.interface,
            python=shlex.quote(sys.executable),
            scheduler_options={"dashboard_address": ":0"},
            security=True,  # others on the network can neither listen nor send work; workers find the key in a file
            shared_temp_directory=f"${KEYS}",
        )
        try:
            call("sbatch", "--test-only", patience=ACT, text=cluster.job_script())  # SLURM's reason, if it refuses
            most = options.max_jobs or max(2, options.min_jobs)
            cluster.adapt(minimum_jobs=options.min_jobs, maximum_jobs=most)
            log.info("work goes to %d to %d jobs of SLURM; their logs: %s", options.min_jobs, most, logs)
            yield cluster
        finally:
            with suppress(AssertionError):  # of a job that could not be submitted
                cluster.close()
            for key in ("_job_ca_file", "_job_cert", "_job_key"):  # they would complain that their folder is gone
                getattr(cluster, key).close()


def _jobs_in_vain(cluster: Any) -> set[Any]:
    """The jobs of SLURM that workers were asked for, if all have ended; empty if one runs or waits, or none knows."""
    jobs = {worker.job_id for worker in cluster.workers.values()}
    with suppress(EdgeseaError):
        live = call("squeue", "--noheader", "--format=%i", f"--user={os.getuid()}").split()
        return set() if jobs & set(live) else jobs
    return set()


def on_dask(client: Any, function: Callable[..., T], calls: Iterable[tuple[Any, ...]], ahead: int) -> Iterator[T]:
    """The results of a function by Dask's workers; so many calls at least are handed out before their turn comes."""
    ahead = max(ahead, 2 * sum(client.nthreads().values()))
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
    from dask import config
    from dask.utils import parse_timedelta
    from distributed import CancelledError, KilledWorker, wait
    from distributed.comm import CommClosedError

    lost = "the Dask scheduler is gone; start it and run the same command again: it resumes"
    alone = parse_timedelta(config.get("distributed.scheduler.no-workers-timeout") or ALONE)
    seen, waited, in_vain = time.monotonic(), False, set[Any]()
    while not future.done():
        try:
            wait([future], timeout=NOTICE)
        except TimeoutError:
            if client.status != "running":
                raise EdgeseaError(lost) from None
            if client.nthreads():
                seen = time.monotonic()
                continue
            if not waited:
                log.warning("no worker has come yet; for jobs of SLURM, squeue and their logs say why")
            waited = True
            before, in_vain = in_vain, _jobs_in_vain(client.cluster) if client.cluster else set()
            if in_vain and in_vain == before:  # they have not been replaced
                raise EdgeseaError("the jobs of SLURM ended before they were of use; their logs say why") from None
            if not client.cluster and time.monotonic() - seen > alone:
                text = f"the Dask scheduler has had no worker for {alone:.0f} s"
                raise EdgeseaError(f"{text}; start some and run the same command again: it resumes") from None
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
