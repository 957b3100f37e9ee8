import subprocess
import sys
import tempfile
import tracemalloc
import warnings
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from conftest import write_noise

import edgesea
from edgesea import EdgeseaError, EdgeseaWarning, get_embedding
from edgesea.audio.framing import Framing
from edgesea.models.foreign import FunctionModel


def mean_and_rms(windows: np.ndarray) -> np.ndarray:
    """A model that is quick, and hears the level."""
    return np.stack([windows.mean(1), np.sqrt(np.square(windows).mean(1))], 1)


QUICK = FunctionModel("quick", mean_and_rms, 8000, embedding_size=2)


def noise(samples: int, seed: int = 0, channels: int | None = None) -> np.ndarray:
    shape = samples if channels is None else (samples, channels)
    return np.random.default_rng(seed).uniform(-0.5, 0.5, shape)


@pytest.mark.parametrize("center", [True, False])
@pytest.mark.parametrize("samples", [8000, 8001, 100_000])
def test_embeddings_are_those_of_the_windows(center: bool, samples: int) -> None:
    audio = noise(samples).astype(np.float32)
    embedding, timestamps = get_embedding(audio, 8000, QUICK, hop_size=0.3, center=center, batch_size=7)
    expected = mean_and_rms(Framing(1.0, 0.3, center).at(8000).cut(audio))
    assert (embedding.dtype, timestamps.dtype) == (np.float32, np.float64)
    np.testing.assert_allclose(embedding, expected, rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(timestamps, 0.3 * np.arange(len(expected)))


@pytest.mark.parametrize(("rate", "channels", "seconds"), [(8000, 1, 3.0), (44100, 2, 25.3), (22050, 3, 12.0)])
def test_samples_and_their_file_give_the_same_bits(tmp_path: Path, rate: int, channels: int, seconds: float) -> None:
    path = write_noise(tmp_path / "a.wav", seconds, rate, channels=channels)
    with np.load(edgesea.process_file(path, model="spectral")) as file:
        for dtype in ("float64", "float32", "int16", "int32"):
            audio, sr = soundfile.read(path, dtype=dtype)
            embedding, timestamps = get_embedding(audio, sr, "spectral")
            np.testing.assert_array_equal(embedding, file["embedding"])
            np.testing.assert_array_equal(timestamps, file["timestamps"])


def test_integers_are_samples_of_their_full_scale() -> None:
    audio = noise(8000)
    expected, _ = get_embedding(audio, 8000, QUICK)
    for dtype, scale, offset, error in (("int8", 127, 0, 1e-2), ("uint8", 127, 128, 1e-2), ("int32", 2**31, 0, 1e-6)):
        samples = np.round(audio * scale + offset).astype(dtype)
        np.testing.assert_allclose(get_embedding(samples, 8000, QUICK)[0], expected, atol=error)
    with pytest.warns(EdgeseaWarning, match="silent"):
        get_embedding(np.full(8000, 128, np.uint8), 8000, QUICK)


def test_a_list_gives_what_each_array_gives_alone() -> None:
    rates = [8000, 44100, 16000, 48000]
    audio = [noise(rate * (index + 1), index, index or None) for index, rate in enumerate(rates)]
    embeddings, timestamps = get_embedding(audio, rates, QUICK, batch_size=5)
    assert [len(embedding) for embedding in embeddings] == [6, 16, 26, 36]
    for index, (signal, rate) in enumerate(zip(audio, rates, strict=True)):
        alone = get_embedding(signal, rate, QUICK)
        np.testing.assert_allclose(embeddings[index], alone[0], rtol=1e-6)
        np.testing.assert_array_equal(timestamps[index], alone[1])
    same_rate, _ = get_embedding((audio[0], audio[0][:, None]), 8000, QUICK)
    np.testing.assert_array_equal(same_rate[0], same_rate[1])
    assert get_embedding([], 8000, QUICK) == ([], [])


def test_the_arrays_of_a_list_share_batches() -> None:
    sizes = []

    def record(windows: np.ndarray) -> np.ndarray:
        sizes.append(len(windows))
        return mean_and_rms(windows)

    model = FunctionModel("record", record, 8000, embedding_size=2)
    get_embedding([noise(8000 * seconds) for seconds in (1, 2, 30, 1, 1)], 8000, model, hop_size=1.0, batch_size=4)
    assert sizes == [4] * 10  # 2 + 3 + 31 + 2 + 2 windows


def read_only(audio: np.ndarray) -> np.ndarray:
    audio = audio.copy()
    audio.setflags(write=False)
    return audio


def mapped(audio: np.ndarray) -> np.ndarray:
    with tempfile.NamedTemporaryFile() as file:
        audio.tofile(file.name)
        return np.memmap(file.name, audio.dtype, "r", shape=audio.shape)


class Lazy:
    """An array in the making, as those of h5py and zarr."""

    def __array__(self, dtype: object = None, copy: object = None) -> np.ndarray:
        return noise(8000)


@pytest.mark.parametrize(
    "make",
    [
        read_only,
        mapped,
        lambda audio: audio.astype(">f8"),
        lambda audio: audio.astype(np.longdouble),
        lambda audio: np.repeat(audio, 2)[::2],
        lambda audio: audio[::-1].copy()[::-1],
        lambda audio: np.asfortranarray(np.stack([audio, audio], 1)),
        lambda audio: np.ma.array(audio),
        lambda audio: np.ma.array(audio, mask=np.zeros(8000, bool)),
        lambda audio: np.matrix(audio).T,
        lambda audio: Lazy(),
        torch.from_numpy,
        lambda audio: torch.from_numpy(audio).requires_grad_(),
        lambda audio: torch.from_numpy(np.stack([audio, audio], 1)).T.contiguous().T,
    ],
)
def test_arrays_of_any_kind_are_understood(make: Callable[[np.ndarray], Any]) -> None:
    audio = noise(8000)
    np.testing.assert_array_equal(get_embedding(make(audio), 8000, QUICK)[0], get_embedding(audio, 8000, QUICK)[0])


@pytest.mark.parametrize("dtype", ["<f2", ">f2", "<i2", ">i2", ">i4", "i1", "u1", ">f4"])
def test_samples_of_any_type_are_scaled(dtype: str) -> None:
    audio = noise(8000)
    kind, scale = np.dtype(dtype).kind, 2.0 ** (8 * np.dtype(dtype).itemsize - 1)
    samples = (
        audio.astype(dtype) if kind == "f" else np.round(audio * scale + (scale if kind == "u" else 0)).astype(dtype)
    )
    found, _ = get_embedding(samples, 8000, QUICK)
    np.testing.assert_allclose(found, get_embedding(audio, 8000, QUICK)[0], atol=5e-3)
    assert get_embedding(samples, 8000, QUICK, center=False)[0][0, 1] > 0.25  # root mean square of 0.29


@pytest.mark.parametrize(
    "options",
    [
        {"sr": 8000.0},
        {"sr": np.int64(8000)},
        {"sr": np.uint16(8000)},
        {"sr": np.float32(8000)},
        {"sr": Fraction(8000)},
        {"sr": np.array(8000)},  # as np.load gives it
        {"sr": [8000]},
        {"sr": (8000,)},
        {"sr": np.array([8000])},
        {"hop_size": np.float64(0.1)},
        {"hop_size": np.array(0.1)},
        {"hop_size": Fraction(1, 10)},
        {"center": np.bool_(True)},
        {"center": 1},
        {"batch_size": np.int32(32)},
        {"batch_size": 10**30},
    ],
)
def test_numbers_of_any_type_are_understood(options: dict[str, Any]) -> None:
    audio = noise(8000)
    expected, times = get_embedding(audio, 8000, QUICK)
    embedding, timestamps = get_embedding(audio, **{"sr": 8000, "model": QUICK, **options})
    np.testing.assert_array_equal(embedding, expected)
    np.testing.assert_array_equal(timestamps, times)


@pytest.mark.parametrize(
    ("audio", "sr", "message"),
    [
        (np.zeros(0), 8000, "audio is empty"),
        (np.zeros((0, 2)), 8000, "audio is empty"),
        (np.ones((10, 10, 10)), 8000, r"audio must have shape \(n,\) or \(n, channels\), not \(10, 10, 10\)"),
        (np.float32(1.0), 8000, r"audio must have shape \(n,\) or \(n, channels\), not \(\)"),
        (np.ones((2, 8000)), 8000, r"audio has shape \(2, 8000\): more channels than samples; give its transpose"),
        (np.array(["a"]), 8000, r"audio must be floats in \[-1, 1\] or int8, .* not <U1"),
        (np.ones(8000, complex), 8000, "audio must be floats"),
        (np.ones(8000, bool), 8000, "audio must be floats"),
        (np.ones(8000, np.int64), 8000, "audio must be floats .* not int64"),
        (np.ones(8000, "M8[s]"), 8000, r"audio must be floats .* not datetime64\[s\]"),
        (np.ones(8000, [("left", "f4")]), 8000, "audio must be floats .* not .*left"),
        (np.array([np.ones(8000), None], object), 8000, "audio must be floats .* not object"),
        (np.array([None] * 8000), 8000, "audio must be floats .* not object"),
        (np.ma.array(np.ones(8000), mask=[False] * 7999 + [True]), 8000, "audio masks samples, but no window may have"),
        ([np.ones(8000), np.ma.masked_all(8000)], 8000, r"audio\[1\] masks samples"),
        (torch.ones(8000, dtype=torch.bfloat16), 8000, "audio must be an array of samples, not Tensor: .*BFloat16"),
        (torch.ones(8000, device="meta"), 8000, "audio must be an array of samples, not Tensor: .*meta"),
        (torch.ones(8000).to_sparse(), 8000, "audio must be an array of samples, not Tensor: "),
        (np.full(8000, 1e300), 8000, "audio holds NaN or Inf samples"),
        (np.full(8000, np.longdouble("1e4000")), 8000, "audio holds NaN or Inf samples"),
        (np.full((8000, 2), 3e38, np.float32), 8000, "audio holds NaN or Inf samples"),
        ([[0.1, 0.2], [0.3]], 8000, r"audio\[0\] must be an array of samples, or a list of arrays, not list"),
        ([[0.1, 0.2], [0.3, 0.4]], 8000, r"audio\[0\] must be an array of samples, or a list of arrays, not list"),
        ([np.ones(8000), None], 8000, r"audio\[1\] must be an array of samples, or a list of arrays, not NoneType"),
        ((x for x in np.ones(3)), 8000, "audio must be an array of samples, or a list of arrays, not generator"),
        ({"array": np.ones(8000)}, 8000, "audio must be an array of samples, or a list of arrays, not dict"),
        (b"0000", 8000, "audio must be an array of samples, or a list of arrays, not bytes"),
        ("a.wav", 8000, "audio must be an array of samples, or a list of arrays, not str"),
        (None, 8000, "audio must be an array of samples, or a list of arrays, not NoneType"),
        ([0.1, 0.2], 8000, r"audio\[0\] must be an array of samples, or a list of arrays, not float"),
        ([np.ones(8000), np.zeros(0)], 8000, r"audio\[1\] is empty"),
        (np.r_[np.ones(90_000), np.nan], 8000, "audio holds NaN or Inf samples"),
        ([np.ones(8000), np.full(8000, np.inf)], 8000, r"audio\[1\] holds NaN or Inf samples"),
        (np.ones(8000), 0, "sr must be a whole number from 500 to 1000000 Hz, not 0"),
        (np.ones(8000), -8000, "sr must be a whole number"),
        (np.ones(8000), "8000", "sr must be a whole number from 500 to 1000000 Hz, not '8000'"),
        (np.ones(8000), None, "sr must be a whole number"),
        (np.ones(8000), True, "sr must be a whole number"),
        (np.ones(8000), 8000.5, "sr must be a whole number"),
        (np.ones(8000), float("nan"), "sr must be a whole number"),
        (np.ones(8000), float("inf"), "sr must be a whole number"),
        (np.ones(8000), 10**400, "sr must be a whole number"),
        (np.ones(8000), 8000 + 0j, "sr must be a whole number"),
        (np.ones(8000), np.array(True), r"sr must be a whole number .* not array\(True\)"),
        (np.ones(8000), np.array("8000"), "sr must be a whole number"),
        (np.ones(8000), np.array([[8000]]), "sr must be a whole number"),
        (np.ones(8000), torch.tensor(8000), r"sr must be a whole number .* not tensor\(8000\)"),
        ([np.ones(8000)] * 2, [[8000], [8000, 1]], r"sr must be a whole number .* not \[8000\]"),
        ([np.ones(8000)] * 2, np.array([8000, 44100.5]), "sr must be a whole number"),
        ([np.ones(8000)], [8000, 8000], "sr has 2 rates for 1 arrays; give one, or one for each"),
        ([np.ones(8000)] * 2, [8000, None], "sr must be a whole number from .*, not None"),
    ],
)
def test_unusable_audio_is_an_error(audio: object, sr: object, message: str) -> None:
    with pytest.raises(EdgeseaError, match=message):
        get_embedding(audio, sr, QUICK)  # type: ignore[call-overload]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hop_size": 0}, "hop_size must be a positive number of seconds, not 0"),
        ({"hop_size": -1}, "hop_size must be a positive number"),
        ({"hop_size": "a"}, "hop_size must be a positive number of seconds, not 'a'"),
        ({"hop_size": None}, "hop_size must be a positive number"),
        ({"hop_size": float("nan")}, "hop_size must be a positive number"),
        ({"hop_size": float("inf")}, "hop_size must be a positive number"),
        ({"hop_size": True}, "hop_size must be a positive number of seconds, not True"),
        ({"hop_size": 10**400}, "hop_size must be a positive number"),
        ({"hop_size": Fraction(1, 10**400)}, "hop_size must be a positive number"),
        ({"hop_size": 0.1 + 0j}, "hop_size must be a positive number"),
        ({"hop_size": [0.1]}, "hop_size must be a positive number"),
        ({"hop_size": np.array([0.1, 0.2])}, "hop_size must be a positive number"),
        ({"hop_size": 1e300}, "hop must be at most"),
        ({"hop_size": 1e-6}, "shorter than a sample at 8000 Hz"),
        ({"hop_size": 5e-324}, "shorter than a sample at 8000 Hz"),
        ({"center": np.array([True, False])}, "center must be True or False"),
        ({"center": 1.0}, "center must be True or False, not 1.0"),
        ({"batch_size": 2.0}, "batch_size must be a whole number of at least 1, not 2.0"),
        ({"batch_size": "8"}, "batch_size must be a whole number"),
        ({"batch_size": np.array([1, 2])}, "batch_size must be a whole number"),
        ({"model": type(QUICK)}, "model must be a loaded student .* not type"),
        ({"center": "invalid"}, "center must be True or False, not 'invalid'"),
        ({"center": 2}, "center must be True or False, not 2"),
        ({"center": None}, "center must be True or False"),
        ({"batch_size": 0}, "batch_size must be a whole number of at least 1, not 0"),
        ({"batch_size": 1.5}, "batch_size must be a whole number"),
        ({"batch_size": True}, "batch_size must be a whole number"),
        ({"model": "invalid"}, "unknown teacher 'invalid'"),
        ({"model": "edgel3/sea-65"}, "unknown student 'edgel3/sea-65'; published: edgel3/sea-512, "),
        ({"model": 64}, "model must be a loaded student or teacher, or a path or id of one, not int"),
        ({"model": None}, "model must be a loaded student .* not NoneType"),
    ],
)
def test_invalid_options_are_errors(options: dict[str, object], message: str) -> None:
    with pytest.raises(EdgeseaError, match=message):
        get_embedding(np.ones(8000), 8000, **{"model": QUICK, **options})  # type: ignore[call-overload]


def test_embeddings_that_are_no_numbers_are_an_error() -> None:
    broken = FunctionModel("broken", lambda windows: mean_and_rms(windows) * np.float32(np.nan), 8000)
    with pytest.raises(EdgeseaError, match="broken gave NaN or Inf"):
        get_embedding(noise(8000), 8000, broken)


def test_a_process_ends_when_a_model_fails() -> None:
    """Its traceback must not keep alive the threads that have windows for the model."""
    code = """if True:
        import numpy as np, edgesea
        from edgesea.models.foreign import FunctionModel
        def fail(windows):
            raise KeyboardInterrupt
        edgesea.get_embedding(np.ones(8000 * 600), 8000, FunctionModel("f", fail, 8000, embedding_size=2))
    """
    environment = {"PYTHONPATH": str(Path(edgesea.__file__).parents[1]), "PATH": ""}
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment, timeout=60)
    assert b"KeyboardInterrupt" in ended.stderr


def test_short_and_silent_audio_is_embedded_with_a_warning_at_the_call() -> None:
    with pytest.warns(EdgeseaWarning) as found:
        get_embedding([noise(8000), noise(4410), np.zeros(8000)], [8000, 44100, 8000], QUICK)
    assert [str(warning.message) for warning in found] == [
        "audio[1]: lasts 0.1 s, less than a window of 1 s; filled up with zeros",
        "audio[2]: silent: all samples are zero",
    ]
    assert {warning.filename for warning in found} == {__file__}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        get_embedding(noise(8000), 8000, QUICK)


def test_long_audio_is_not_copied() -> None:
    """Ten minutes in double precision would take 211 MB, and in single precision 106 MB."""
    audio = np.tile(np.random.default_rng(0).integers(-3000, 3000, 44100 * 60, np.int16), 10)
    tracemalloc.start()
    try:
        embedding, _ = get_embedding(audio, 44100, QUICK, hop_size=1.0)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(embedding) == 601
    assert peak < 40e6


def test_importing_is_quick_and_inference_needs_no_torch(shared_data: Path) -> None:
    code = """if True:
        import sys, time
        begin = time.perf_counter()
        import edgesea
        edgesea.get_embedding, edgesea.process_file, edgesea.EdgeseaWarning, edgesea.load_student
        assert time.perf_counter() - begin < 2.0  # a loaded machine; 0.2 s otherwise
        import numpy as np
        embedding, _ = edgesea.get_embedding(np.random.default_rng(0).uniform(-1, 1, 16000), 16000, sys.argv[1])
        assert embedding.shape == (6, 64)
        heavy = {"torch", "sklearn", "scipy", "pandas", "pyarrow", "matplotlib"} & set(sys.modules)
        assert not heavy, heavy
    """
    weights = str(shared_data / "edgel3" / "edgel3_sea_ust_audio_emb_64.h5.gz")
    environment = {"PYTHONPATH": str(Path(edgesea.__file__).parents[1]), "PATH": ""}
    subprocess.run([sys.executable, "-c", code, weights], check=True, env=environment)


def test_a_path_is_never_looked_for_on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(EdgeseaError, match="no student here"):
        get_embedding(np.ones(8000), 8000, model=Path("runs/student"))
