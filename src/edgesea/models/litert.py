"""Students in .tflite files of `edgesea export`, computed by LiteRT."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesea.errors import EdgeseaError, explained, needs
from edgesea.models.student_config import StudentConfig

Float32 = NDArray[np.float32]
METADATA = "edgesea"  # name of what a file says of itself, in JSON
AXES = ("frames", "bands")  # of the input, (B, frames, bands, 1)


@needs("ai_edge_litert", "export")
def read_tflite(content: bytes, path: Path | str) -> tuple[StudentConfig, dict[str, Any]]:
    """A student's architecture, and what its .tflite file says of itself: gain, offset, int8, reversed axes ..."""
    from ai_edge_litert.schema_py_generated import Model

    with explained(f"{path}: not a .tflite file, or damaged; export the student again"):
        if not Model.ModelBufferHasIdentifier(content, 0):
            raise ValueError("it does not begin as one")
        model = Model.GetRootAs(content)
        found = [model.Metadata(index) for index in range(model.MetadataLength())]
        texts = [model.Buffers(one.Buffer()).DataAsNumpy() for one in found if one.Name() == METADATA.encode()]
        facts: dict[str, Any] = json.loads(texts[0].tobytes()) if texts else {}
    if not {"architecture", "gain", "offset", "int8", "reversed"} <= facts.keys():
        raise EdgeseaError(f"{path}: no student of edgesea is in this file; write one: edgesea export")
    with explained(f"{path}: damaged, or of another edgesea; export the student again"):
        return StudentConfig(**facts["architecture"]), facts


@needs("ai_edge_litert", "export")
def litert_run(
    content: bytes, facts: Mapping[str, Any], path: Path | str, threads: int
) -> Callable[[Float32], Float32]:
    """What computes embeddings (B, D) of spectrograms (B, bands, frames) in dB.

    In int8 by kernels that round as the C library does; the default ones (XNNPACK) round differently.
    """
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    mismatch = f"{path}: its tensors and its metadata do not belong together; export the student again"
    with explained(mismatch):
        gain, offset = np.float32(facts["gain"]), np.float32(facts["offset"])
        back = tuple(-2 + AXES.index(axis) for axis in facts["reversed"])
    kernels = OpResolverType.BUILTIN_REF if facts["int8"] else OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    idle: SimpleQueue[Any] = SimpleQueue()
    for _ in range(threads):
        with explained(f"{path}: LiteRT cannot read it; export the student again"):
            idle.put(Interpreter(model_content=content, num_threads=1, experimental_op_resolver_type=kernels))

    def run(rows: Float32) -> Float32:
        interpreter = idle.get()
        try:
            values = np.flip((rows * gain + offset).swapaxes(1, 2), back)[..., None]
            with explained(mismatch):
                (given,), (made,) = interpreter.get_input_details(), interpreter.get_output_details()
                if facts["int8"]:
                    scale, zero = given["quantization"]
                    values = np.clip(np.rint(np.nan_to_num(values) / scale) + zero, -128, 127).astype(np.int8)
                if tuple(given["shape"]) != values.shape:
                    interpreter.resize_tensor_input(given["index"], values.shape)
                interpreter.allocate_tensors()
                interpreter.set_tensor(given["index"], np.ascontiguousarray(values))
            interpreter.invoke()
            return np.asarray(interpreter.get_tensor(made["index"]), np.float32)
        finally:
            idle.put(interpreter)

    return run
