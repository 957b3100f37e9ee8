"""Students without torch: the front end in numpy, the network in onnxruntime."""

import os
from typing import Any

import numpy as np

from edgesea.audio.io import checked_count
from edgesea.audio.logmel_numpy import OverlappingLogMel
from edgesea.errors import EdgeseaError
from edgesea.models.base import Float32, check_windows
from edgesea.models.config import array_shapes
from edgesea.models.onnx_graph import INPUT, student_graph
from edgesea.models.student_files import StudentFile
from edgesea.models.weights import check_shapes

BATCH = 16  # windows at once: as fast as more; 64 would take 180 MB more in the largest student


class OnnxStudent:
    """A student on the CPU; `student.Student` computes the same numbers with torch.

    It can be pickled, and thereby handed to another process. There it has as many threads as `threads` said, or if that
    was None, as the environment of that process says.

    Parameters
    ----------
    file : StudentFile
        What `student_files.read_student` read.
    threads : int, optional
        Threads of the network; default: the environment's ``OMP_NUM_THREADS``, or else all cores.

    Attributes
    ----------
    front_end : OverlappingLogMel
        Its log-mel spectrogram.

    Raises
    ------
    EdgeseaError
        If the arrays do not fit the architecture, or onnxruntime is missing.
    """

    def __init__(self, file: StudentFile, threads: int | None = None) -> None:
        config = file.config
        shapes = {name: array.shape for name, array in file.arrays.items()}
        check_shapes(shapes, array_shapes(config), file.path)
        self.config, self.id, self.digest = config, file.id, file.digest
        self.sample_rate = config.sample_rate
        self.window: float | None = config.window
        self.embedding_size = config.embedding_size
        self.front_end = OverlappingLogMel(config.front_end())
        self._graph, self._threads = student_graph(config, file.arrays), threads
        self._session = _session(self._graph, threads)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_session"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._session = _session(self._graph, self._threads)

    def embed(self, windows: Float32) -> Float32:
        """Embeddings of a batch of windows.

        Parameters
        ----------
        windows : ndarray, (B, W) float
            Audio in [-1, 1] at ``sample_rate``.

        Returns
        -------
        ndarray, (B, D) float32

        Raises
        ------
        EdgeseaError
            If the shape is not (B, W) with the W of the model.
        """
        windows = np.asarray(windows, np.float32)
        check_windows(self, windows)
        parts = [self.embed_log_mel(self.front_end(windows[i : i + BATCH])) for i in range(0, len(windows), BATCH)]
        return np.concatenate(parts) if parts else np.zeros((0, self.embedding_size), np.float32)

    def embed_log_mel(self, log_mel: Float32) -> Float32:
        """Embeddings (B, D) float32 of log-mel spectrograms (B, bands, frames) float32, as `front_end` gives them."""
        result = np.zeros((len(log_mel), self.embedding_size), np.float32)
        for first in range(0, len(log_mel), BATCH):
            part = slice(first, first + BATCH)
            result[part] = self._session.run(None, {INPUT: np.ascontiguousarray(log_mel[part])})[0]
        # onnxruntime's maxima pass over NaN, and would make an embedding of a window that is not all numbers
        result[np.isnan(log_mel).any((1, 2))] = np.nan
        return result


def _session(graph: bytes, threads: int | None) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise EdgeseaError("onnxruntime is not installed; it comes with: pip install edgesea") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = _threads(threads)
    options.log_severity_level = 3  # errors
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def _threads(given: int | None) -> int:
    """Number of threads; 0: all cores."""
    if given is not None:
        return checked_count("threads", given)
    found = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return min(int(found), 4 * (os.cpu_count() or 1)) if found.isdecimal() else 0
