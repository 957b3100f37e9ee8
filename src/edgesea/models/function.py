"""Any function from windows to embeddings as a model: the base of the foreign models, and ``callable:`` itself."""

import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from edgesea.errors import EdgeseaError
from edgesea.models.base import Float32, check_windows, window_of
from edgesea.models.weights import file_digest


@dataclass
class FunctionModel:
    """A model (see `base.EmbeddingModel`) that calls a function.

    Attributes
    ----------
    id : str
        Name under which it was loaded.
    function : callable
        Maps windows (B, W) float32 in [-1, 1] to embeddings (B, D), an array or something numpy can make one of.
    sample_rate : int
        Rate in Hz of the windows.
    window : float or None
        Length in seconds of the windows it accepts; None if any.
    embedding_size : int
        D; 0: find it by calling the function with one window of silence (1 s if any length is accepted).
    digest : str
        sha256 of its weights ("" if unknown).

    Raises
    ------
    EdgeseaError
        If the size has to be found and the call fails.
    """

    id: str
    function: Callable[[Float32], Any]
    sample_rate: int
    window: float | None = None
    embedding_size: int = 0
    digest: str = ""

    def __post_init__(self) -> None:
        if self.sample_rate <= 0:
            raise EdgeseaError(f"{self.id}: the sample rate must be positive, not {self.sample_rate} Hz")
        if self.embedding_size:
            return
        silence = np.zeros((1, round(window_of(self) * self.sample_rate)), np.float32)
        self.embedding_size = self._call(silence, "a trial window of silence").shape[1]

    def embed(self, windows: Float32) -> Float32:
        """Embeddings (B, D) float32 of windows (B, W).

        Raises
        ------
        EdgeseaError
            If the shape of the windows, or of what the function returns, is wrong.
        """
        windows = np.ascontiguousarray(windows, np.float32)
        check_windows(self, windows)
        if not len(windows):
            return np.zeros((0, self.embedding_size), np.float32)
        result = self._call(windows, "windows")
        if result.shape[1] != self.embedding_size:
            raise EdgeseaError(
                f"{self.id}: returned embeddings of {result.shape[1]} dimensions instead of {self.embedding_size}"
            )
        return result

    def _call(self, windows: Float32, what: str) -> Float32:
        try:
            result = np.asarray(self.function(windows))
        except EdgeseaError:
            raise
        except Exception as error:  # foreign code may raise anything
            raise EdgeseaError(
                f"{self.id}: failed on {what} {windows.shape}: {type(error).__name__}: {error}"
            ) from error
        if result.ndim != 2 or result.shape[0] != windows.shape[0] or result.dtype.kind not in "fiu":
            raise EdgeseaError(
                f"{self.id}: must return numbers of shape ({windows.shape[0]}, D) for windows {windows.shape}, "
                f"not {result.dtype} of shape {result.shape}"
            )
        return result.astype(np.float32, copy=False)


def load_callable(spec: str) -> FunctionModel:
    """Load a Python function as a model.

    Parameters
    ----------
    spec : str
        ``callable:package.module:function@RATE`` (the first part may be left out); RATE in Hz. The function maps
        windows (B, W) float32 to embeddings (B, D); it is called once with 1 s of silence to learn D. The model's
        digest is that of the module's file.

    Raises
    ------
    EdgeseaError
        If the text is not of this form, the function cannot be imported, or it does not return such an array.
    """
    text = spec.removeprefix("callable:")
    target, rate = split_rate(text)
    module_name, _, name = target.partition(":")
    if not module_name or not name or rate is None:
        raise EdgeseaError(f"{spec!r}: a callable is named as callable:package.module:function@RATE (RATE in Hz)")
    try:
        function = attrgetter(name)(import_module(module_name, f"callable:{text}"))
    except AttributeError as error:
        raise EdgeseaError(f"callable:{text}: module {module_name} has no {name!r}") from error
    if not callable(function):
        raise EdgeseaError(f"callable:{text}: {name!r} is a {type(function).__name__}, not a function")
    source = Path(getattr(sys.modules[module_name], "__file__", None) or "")
    return FunctionModel(f"callable:{text}", function, rate, digest=file_digest(source) if source.is_file() else "")


def split_rate(text: str) -> tuple[str, int | None]:
    """Cut ``NAME@RATE`` into the name and the rate in Hz; the rate is None if the text does not end like this."""
    name, at, rate = text.rpartition("@")
    if at and rate.isascii() and rate.isdigit():
        return name, int(rate)
    return text, None


def import_module(name: str, model_id: str) -> ModuleType:
    """Import a module that a user named.

    Raises
    ------
    EdgeseaError
        If it is not found or fails when imported.
    """
    try:
        return importlib.import_module(name)
    except Exception as error:  # foreign code may raise anything when it is imported
        raise EdgeseaError(
            f"{model_id}: cannot import {name} ({type(error).__name__}: {error}); install its package, "
            "or add its folder to PYTHONPATH"
        ) from error
