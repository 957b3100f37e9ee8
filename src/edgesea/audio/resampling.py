"""Resampling of a stream of mono chunks: by soxr, or with the filter of edgel3 and openl3."""

from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any, Literal, get_args

import numpy as np
import soxr
from numpy.typing import NDArray

from edgesea.errors import EdgeseaError, needs

Float32 = NDArray[np.float32]
Resampling = Literal["soxr", "resampy"]

# edgel3 and openl3 require a resampy before 0.3; their filter, `kaiser_best`, is another one since.
ZEROS, PRECISION, BETA, ROLLOFF = 64, 9, 14.769656459379492, 0.9475937167399596


@needs("resampy", "compat")
def checked_resampling(value: str) -> Resampling:
    """`value`, if it names a resampler that is installed."""
    if value == "resampy":
        import resampy  # noqa: F401
    elif value != "soxr":
        raise EdgeseaError(f"resampler must be {' or '.join(get_args(Resampling))}, not {value!r}")
    return value  # type: ignore[return-value]


class Resampler:
    """Streaming resampler from one rate to another (Hz); the chunks' sizes do not change the result."""

    def __init__(self, source: int, target: int, resampling: Resampling = "soxr") -> None:
        self._stream: Any = None
        if source != target and resampling == "soxr":
            self._stream = soxr.ResampleStream(source, target, 1, dtype="float32")
        elif source != target:
            self._stream = _ResampyStream(source, target)

    def feed(self, chunk: Float32, last: bool = False) -> Float32:
        """Resample the next chunk (samples,); `last` also returns what the filter holds back."""
        if self._stream is None:
            return chunk
        return np.asarray(self._stream.resample_chunk(np.ascontiguousarray(chunk), last))


class _ResampyStream:
    """What `resampy.resample` of edgel3 and openl3 gives of a whole signal, in double precision, chunk by chunk."""

    def __init__(self, source: int, target: int) -> None:
        self._ratio = target / source
        scale = min(1.0, self._ratio)
        if (step := int(scale * 2**PRECISION)) == 0:
            raise EdgeseaError(f"resampy cannot resample from {source} to {target} Hz; choose resampler=soxr")
        half = scale * _half_filter()
        self._filter = half, np.diff(half, append=half[-1]), 2**PRECISION, scale
        self._reach = len(half) // step + 2  # samples on either side that the filter reaches
        self._held, self._first = np.zeros(0), 0  # samples that later results need, and where they begin
        self._count, self._time = 0, 0.0  # results so far, and where the next one lies, with resampy's rounding

    def resample_chunk(self, chunk: Float32, last: bool) -> Float32:
        from resampy.interpn import resample_f_s

        self._held = np.concatenate([self._held, chunk])
        length = self._first + len(self._held)
        count = int((length if last else length - self._reach) * self._ratio) - self._count
        if count <= 0:
            return np.zeros(0, np.float32)
        times = np.full(count + 1, 1.0 / self._ratio)
        times[0] = self._time
        times = np.add.accumulate(times)
        result = np.zeros(count)
        resample_f_s(self._held, times[:-1] - self._first, *self._filter, result)
        self._count, self._time = self._count + count, times[-1]
        passed = max(0, int(self._time) - self._reach - self._first)
        self._held, self._first = self._held[passed:], self._first + passed
        return result.astype(np.float32)


@cache
def _half_filter() -> NDArray[np.float64]:
    from resampy.filters import sinc_window

    return np.asarray(sinc_window(ZEROS, PRECISION, lambda size: np.kaiser(size, BETA), ROLLOFF)[0])


def resample_stream(
    chunks: Iterable[Float32], source: int, target: int, resampling: Resampling = "soxr"
) -> Iterator[Float32]:
    resampler = Resampler(source, target, resampling)
    for chunk in chunks:
        yield resampler.feed(chunk)
    yield resampler.feed(np.zeros(0, np.float32), last=True)
