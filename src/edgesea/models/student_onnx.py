"""Students without torch: the front end in numpy, the network as an ONNX graph in onnxruntime."""

import os
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesea.audio.logmel_numpy import OverlappingLogMel
from edgesea.models.base import Float32, check_windows, file_digest
from edgesea.models.student_config import StudentConfig, convolutions
from edgesea.models.student_files import Arrays, StudentFile

BATCH = 16  # windows at once: as fast as more; 64 would take 180 MB more in the largest student
EPSILON = 1e-3  # of all batch normalisations
OPSET, IR_VERSION = 17, 8  # old enough for every onnxruntime since 1.15
INPUT, OUTPUT = "log_mel", "embedding"


class OnnxStudent:
    """A student on the CPU, with the numbers of `student_torch.Student`; it can be pickled, for other processes."""

    def __init__(self, file: StudentFile, threads: int | None = None) -> None:
        config, self.id, self.digest = file.config, file.id, file_digest(file.path)
        self.config, self.sample_rate, self.embedding_size = config, config.sample_rate, config.embedding_size
        self.window: float | None = config.window
        self.front_end = OverlappingLogMel(config.front_end())
        self._graph, self._threads = student_graph(config, file.arrays), threads

    @cached_property
    def _session(self) -> Any:
        import onnxruntime

        environment = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._threads or (int(environment) if environment.isdecimal() else 0)  # 0: all
        options.log_severity_level = 3  # errors
        return onnxruntime.InferenceSession(self._graph, options, providers=["CPUExecutionProvider"])

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_session"}

    def embed(self, windows: Float32) -> Float32:
        """Embeddings (B, D) float32 of windows (B, W) in [-1, 1] at ``sample_rate``."""
        windows = np.asarray(windows, np.float32)
        check_windows(self, windows)
        return self.embed_log_mel(self.front_end(windows))

    def embed_log_mel(self, log_mel: Float32) -> Float32:
        """Embeddings (B, D) float32 of log-mel spectrograms (B, bands, frames) float32, as `front_end` gives them."""
        result = np.zeros((len(log_mel), self.embedding_size), np.float32)
        for first in range(0, len(log_mel), BATCH):
            part = slice(first, first + BATCH)
            result[part] = self._session.run(None, {INPUT: np.ascontiguousarray(log_mel[part])})[0]
        # onnxruntime's maxima pass over NaN, and would make an embedding of a window that is not all numbers
        result[np.isnan(log_mel).any((1, 2))] = np.nan
        return result


def student_graph(config: StudentConfig, arrays: Arrays) -> bytes:
    """An ONNX model: ``log_mel`` (B, bands, frames) float32 in dB -> ``embedding`` (B, D) float32, for any B."""
    from onnx import TensorProto, helper, numpy_helper

    nodes: list[Any] = []
    constants: list[Any] = []

    def add(kind: str, *inputs: str | NDArray[Any], result: str = "", **attributes: Any) -> str:
        """A node with the name of its result; arrays among its inputs become constants."""
        names = []
        for value in inputs:
            if not isinstance(value, str):
                constants.append(numpy_helper.from_array(np.ascontiguousarray(value), f"constant{len(constants)}"))
            names.append(value if isinstance(value, str) else constants[-1].name)
        nodes.append(helper.make_node(kind, names, [result or f"{kind.lower()}{len(nodes)}"], **attributes))
        return str(nodes[-1].output[0])

    # Not folded into the first convolution: its padding is zeros after this normalisation, not before.
    scale, shift = _scale_and_shift(arrays, "input_norm")
    now = add("Unsqueeze", INPUT, np.array([1]))
    now = add("Add", add("Mul", now, scale.astype(np.float32)), shift.astype(np.float32))
    for index, (name, norm, _, _) in enumerate(convolutions(config)):
        if index and index % 2 == 0:
            now = add("MaxPool", now, kernel_shape=[2, 2], strides=[2, 2])
        scale, shift = _scale_and_shift(arrays, norm)  # folded into the convolution, in double precision
        kernel = (arrays[f"{name}.weight"] * scale[:, None, None, None]).astype(np.float32)
        bias = (arrays[f"{name}.bias"] * scale + shift).astype(np.float32)
        now = add("Relu", add("Conv", now, kernel, bias, kernel_shape=[3, 3], pads=[1, 1, 1, 1]))
    if config.head == "relu_max":
        add("Flatten", add("GlobalMaxPool", now), result=OUTPUT)
    else:
        pooled = [add("Flatten", add(kind, now)) for kind in ("GlobalMaxPool", "GlobalAveragePool")]
        weight, bias = (arrays[f"head.linear.{key}"].astype(np.float32) for key in ("weight", "bias"))
        add("Gemm", add("Concat", *pooled, axis=1), weight, bias, transB=1, result=OUTPUT)
    given = helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["B", config.n_mels, config.frames()])
    wanted = helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["B", config.embedding_size])
    made = helper.make_graph(nodes, "student", [given], [wanted], constants)
    opset = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(made, opset_imports=opset, ir_version=IR_VERSION, producer_name="edgesea")
    return bytes(model.SerializeToString())


def _scale_and_shift(arrays: Arrays, norm: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    weight, bias, mean, variance = (
        np.asarray(arrays[f"{norm}.{key}"], np.float64) for key in ("weight", "bias", "running_mean", "running_var")
    )
    scale = weight / np.sqrt(variance + EPSILON)
    return scale, bias - scale * mean
