"""Engines that compute a network on the CPU, and the models that they make of it.

A batch is cut into small ones of a fixed size, and each of these is computed by one thread. So no thread waits in a
loop for others, which would slow down everything else on the machine, and the numbers do not depend on how many there
are. This is also the fastest way (docs/benchmarks.md).
"""

import ctypes
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from queue import SimpleQueue
from typing import Any, Literal, get_args

import numpy as np

from edgesea.audio.logmel_numpy import FrontEnd
from edgesea.errors import EdgeseaError, needs
from edgesea.models.base import Float32, check_windows
from edgesea.models.litert import litert_run
from edgesea.parallel import thread_count

Engine = Literal["auto", "torch", "onnx", "openvino"]
Precision = Literal["float32", "float16", "bfloat16"]
Run = Callable[[Float32], Float32]
MOST, VALUES = 16, 1 << 18  # windows, and values of their spectrograms, that a thread computes at once
# What OpenVINO calls them, as a capability of a processor and as an option
OPENVINO_NAMES = {"float32": ("FP32", "f32"), "float16": ("FP16", "f16"), "bfloat16": ("BF16", "bf16")}


def choose_engine(engine: Engine, precision: Precision, device: str, student: bool) -> Engine:
    """What `auto` stands for on a device; EdgeseaError for an engine that does not run there, or not so precisely."""
    for name, value, known in (("engine", engine, Engine), ("precision", precision, Precision)):
        if value not in get_args(known):
            raise EdgeseaError(f"unknown {name} {value!r}; choose {', '.join(get_args(known))}")
    if engine == "auto" and device != "cpu":
        engine = "torch"
    elif engine == "auto":  # in float32 openvino is no faster for students, and takes longer to load
        engine = "openvino" if precision != "float32" or (find_spec("openvino") and not student) else "onnx"
    if engine != "torch" and device != "cpu":
        raise EdgeseaError(f"engine {engine} runs on the CPU, not on {device}; choose engine=torch or device=cpu")
    if engine == "onnx" and precision != "float32":
        raise EdgeseaError(f"engine onnx computes in float32 alone, not in {precision}; choose engine=openvino")
    if engine == "torch" and device == "cpu" and precision == "float16":
        raise EdgeseaError("engine torch computes in float16 on a GPU alone; choose a device, or precision=bfloat16")
    return engine


def low_precision(engine: Engine, device: str) -> Precision | None:
    """The precision below float32 in which an engine is faster on this hardware; None if there is none."""
    if engine == "torch":
        return "float16" if device.startswith("cuda") else None
    if engine == "onnx":
        return None
    _, known = _openvino()
    lower: tuple[Precision, ...] = ("bfloat16", "float16")
    return next((precision for precision in lower if OPENVINO_NAMES[precision][0] in known), None)


def _onnxruntime_run(graph: bytes, precision: Precision, threads: int) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    return lambda rows: np.asarray(session.run(None, {given.name: rows})[0])


@needs("openvino", "openvino")
def _openvino() -> tuple[Any, list[str]]:
    """OpenVINO, and the capabilities that it has on this processor."""
    import openvino

    core = openvino.Core()
    with _same_signal_stack():
        return core, core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")  # loads what computes on CPUs


@contextmanager
def _same_signal_stack() -> Iterator[None]:
    """Keep the stack on which this thread handles signals: OpenVINO sets one, and frees it although it is still set."""
    if sys.platform != "linux":
        yield
        return
    libc, before = ctypes.CDLL(None), ctypes.create_string_buffer(64)  # more than a stack_t
    libc.sigaltstack(None, before)
    try:
        yield
    finally:
        libc.sigaltstack(before, None)


@needs("openvino", "openvino")
def _openvino_run(graph: bytes, precision: Precision, threads: int) -> Run:
    import openvino

    core, known = _openvino()
    capability, hint = OPENVINO_NAMES[precision]
    if capability not in known:
        raise EdgeseaError(f"precision {precision}: the processor does not compute in it; choose precision=float32")
    options: dict[str, Any] = {"NUM_STREAMS": threads, "INFERENCE_NUM_THREADS": threads, "ENABLE_CPU_PINNING": False}
    options["INFERENCE_PRECISION_HINT"] = hint
    compiled = core.compile_model(core.read_model(graph), "CPU", options)
    requests: SimpleQueue[Any] = SimpleQueue()
    for _ in range(threads):
        requests.put(compiled.create_infer_request())

    def run(rows: Float32) -> Float32:
        request = requests.get()
        try:
            # An array given to `infer` is copied to a tensor that is given its shape, which can lock up two threads
            request.set_input_tensor(openvino.Tensor(rows, shared_memory=True))
            request.infer()
            return np.array(request.get_output_tensor().data, np.float32)
        finally:
            requests.put(request)

    return run


ENGINES: dict[str, Callable[[bytes, Precision, int], Run]] = {"onnx": _onnxruntime_run, "openvino": _openvino_run}
LITERT = "litert"  # computes .tflite files, and nothing else


@dataclass
class EngineModel:
    """A model (see `base.LogMelModel`) on the CPU: a front end in numpy, and a network that an engine computes.

    It can be pickled, for other processes.
    """

    id: str  # name under which it was loaded
    digest: str  # sha256 of its weights
    sample_rate: int  # Hz
    window: float | None  # length in seconds of the windows it accepts; None: any
    embedding_size: int  # dimensions D
    parameter_count: int
    front_end: FrontEnd
    graph: bytes = field(repr=False)  # from spectrograms to embeddings; ONNX, or of `LITERT` the .tflite file
    engine: str
    precision: Precision = "float32"
    threads: int = field(default_factory=thread_count)
    facts: dict[str, Any] = field(default_factory=dict)  # what a .tflite file says of itself

    def __post_init__(self) -> None:
        if self.engine == LITERT:
            self._run = litert_run(self.graph, self.facts, self.id, self.threads)
        else:
            self._run = ENGINES[self.engine](self.graph, self.precision, self.threads)
        self._pool = ThreadPoolExecutor(self.threads, thread_name_prefix="edgesea-engine")

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_run", "_pool")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state
        self.__post_init__()

    def embed(self, windows: Float32) -> Float32:
        """Embeddings (B, D) float32 of windows (B, W) in [-1, 1] at ``sample_rate``."""
        windows = np.asarray(windows, np.float32)
        check_windows(self, windows)
        return self.embed_log_mel(self.front_end(windows))

    def embed_log_mel(self, log_mel: Float32) -> Float32:
        """Embeddings (B, D) float32 of log-mel spectrograms (B, bands, frames) float32, as `front_end` gives them."""
        result = np.zeros((len(log_mel), self.embedding_size), np.float32)
        size = max(1, min(MOST, VALUES // log_mel[0].size)) if len(log_mel) else 1

        def run(first: int) -> None:
            part = slice(first, first + size)
            result[part] = self._run(np.ascontiguousarray(log_mel[part]))

        list(self._pool.map(run, range(0, len(log_mel), size)))
        # onnxruntime's maxima pass over NaN, and would make an embedding of a window that is not all numbers
        result[np.isnan(log_mel).any((1, 2))] = np.nan
        return result
