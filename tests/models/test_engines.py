"""Engines: which one is chosen, what is refused, and that many calls at once give what one gives."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import edgesea
from edgesea.errors import EdgeseaError
from edgesea.models.engine import choose_engine, low_precision

NOISE = np.random.default_rng(0).uniform(-0.5, 0.5, (40, 8000)).astype(np.float32)
AVAILABLE = low_precision("openvino", "cpu")


@pytest.mark.parametrize(
    ("asked", "device", "student", "chosen"),
    [
        (("auto", "float32"), "cpu", False, "openvino"),
        (("auto", "float32"), "cpu", True, "onnx"),
        (("auto", "bfloat16"), "cpu", True, "openvino"),
        (("auto", "float32"), "mps", False, "torch"),
        (("auto", "float16"), "cuda:1", True, "torch"),
        (("torch", "bfloat16"), "cpu", False, "torch"),
    ],
)
def test_auto_is_the_fastest_engine_that_does_it(asked, device, student, chosen):
    assert choose_engine(*asked, device, student) == chosen


@pytest.mark.parametrize(
    ("asked", "device", "value"),
    [
        (("tensorflow", "float32"), "cpu", "tensorflow"),
        (("auto", "int8"), "cpu", "int8"),
        (("onnx", "float32"), "cuda", "cuda"),
        (("openvino", "float32"), "mps", "mps"),
        (("onnx", "bfloat16"), "cpu", "bfloat16"),
        (("torch", "float16"), "cpu", "float16"),
    ],
)
def test_what_an_engine_cannot_do_is_refused(asked, device, value):
    with pytest.raises(EdgeseaError, match=value):
        choose_engine(*asked, device, student=True)


def test_a_precision_that_the_processor_lacks_is_refused(random_student):
    lacking = "float16" if AVAILABLE == "bfloat16" else "bfloat16"
    with pytest.raises(EdgeseaError, match=lacking):
        edgesea.load_student(random_student, "cpu", "openvino", lacking)


@pytest.mark.parametrize("engine", ["onnx", "openvino"])
def test_calls_at_once_and_any_threads_give_the_same_numbers(random_student, engine):
    expected = edgesea.load_student(random_student, "cpu", engine, threads=1).embed(NOISE)
    student = edgesea.load_student(random_student, "cpu", engine, threads=3)
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(student.embed, [NOISE] * 8):
            np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("engine", ["torch", "openvino"])
def test_bfloat16_is_close(random_student, engine):
    if engine == "openvino" and AVAILABLE != "bfloat16":
        pytest.skip("the processor does not compute in bfloat16")
    exact = edgesea.load_student(random_student, "cpu", "onnx").embed(NOISE)
    student = edgesea.load_student(random_student, "cpu", engine, "bfloat16")
    found = student.embed(NOISE)
    assert (student.precision, found.dtype) == ("bfloat16", np.float32)
    assert 0 < np.abs(found - exact).max() < 0.05 * np.abs(exact).max()


def test_a_compiled_network_gets_batches_of_one_size(random_student):
    student, sizes = edgesea.load_student(random_student, "cpu", "torch"), []
    expected = student.embed(NOISE)

    def compiled(spectrogram):
        sizes.append(len(spectrogram))
        return student.embed_spectrogram(spectrogram)

    student.compiled = compiled
    for count in (8, 40, 3):
        np.testing.assert_allclose(student.embed(NOISE[:count]), expected[:count], rtol=0, atol=1e-5)
    assert sizes == [8, 40, 40]


def test_a_signal_is_handled_after_another_thread_dropped_a_model_of_openvino(random_student):
    code = """if True:
        import os, signal, sys, threading, edgesea
        models = [edgesea.load_student(sys.argv[1], "cpu", "openvino")]
        thread = threading.Thread(target=models.clear)
        thread.start()
        thread.join()
        signal.signal(signal.SIGUSR1, lambda *_: print("handled"))
        os.kill(os.getpid(), signal.SIGUSR1)
    """
    done = subprocess.run([sys.executable, "-c", code, random_student], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "handled\n"), done.stderr
