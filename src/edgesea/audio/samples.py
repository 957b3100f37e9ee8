"""Samples in memory: which arrays are taken for audio, and as what."""

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from edgesea.errors import EdgeseaError

Float32 = NDArray[np.float32]
Signal: TypeAlias = NDArray[Any]

FULL_SCALE = {"int8": 2**7, "uint8": 2**7, "int16": 2**15, "int32": 2**31}  # of PCM samples


def as_samples(name: str, audio: Any) -> Signal:
    """An array of samples; not copied where numpy need not.

    Parameters
    ----------
    name : str
        What an error calls it.
    audio : array-like, (n,) or (n, channels)
        Floats in [-1, 1], or PCM integers of 8, 16 or 32 bits: whatever numpy makes an array of, and tensors of torch,
        also with gradients or on a GPU.

    Returns
    -------
    ndarray, (n,) or (n, channels)
        Of any length and number of channels, also 0.

    Raises
    ------
    EdgeseaError
        If it is no array, has another shape or type, or masks samples.
    """
    if isinstance(audio, str | bytes | bytearray):
        raise EdgeseaError(f"{name} must be an array of samples, not {type(audio).__name__}; see numpy.frombuffer")
    if np.ma.is_masked(audio):
        raise EdgeseaError(f"{name} masks samples, but no window may have gaps; fill them (numpy.ma.filled)")
    try:
        signal = np.asarray(audio.detach().cpu() if hasattr(audio, "detach") else audio)
    except Exception as error:  # of numpy, and of whatever library made it: lists of several lengths, torch's bfloat16
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise EdgeseaError(f"{name} must be an array of samples, not {type(audio).__name__}: {reason}") from error
    if signal.dtype.kind != "f" and signal.dtype.name not in FULL_SCALE:
        raise EdgeseaError(f"{name} must be floats in [-1, 1] or {', '.join(FULL_SCALE)}, not {signal.dtype}")
    if signal.ndim not in (1, 2):
        raise EdgeseaError(f"{name} must have shape (n,) or (n, channels), not {signal.shape}")
    return signal


def to_mono(samples: Signal) -> Float32:
    """The mean of the channels, PCM scaled to [-1, 1].

    Parameters
    ----------
    samples : ndarray, (n,) or (n, channels)
        As `as_samples` gives them, with at least one channel.

    Returns
    -------
    ndarray, (n,) float32
        In memory of its own. NaN, Inf and values beyond single precision become NaN or Inf.
    """
    scale = FULL_SCALE.get(samples.dtype.name)
    if scale is not None:  # in double precision, for 32 bits; WAV's 8 bits are unsigned around 128
        samples = (samples - np.float64(scale if samples.dtype.kind == "u" else 0)) / scale
    with np.errstate(over="ignore", invalid="ignore"):
        mono: Float32 = samples.astype(np.float32)
        if mono.ndim == 2:
            mono = mono[:, 0] if mono.shape[1] == 1 else mono.mean(1, dtype=np.float32)
    return mono


def first_invalid(mono: Float32) -> int | None:
    """Index of the first sample of (n,) that is NaN or Inf; None if there is none."""
    finite = np.isfinite(mono)
    return None if finite.all() else int(np.argmin(finite))
