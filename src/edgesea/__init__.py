"""edgesea: turn a large audio-embedding model into a tiny one, specialised for your recordings."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from edgesea.errors import EdgeseaError

if TYPE_CHECKING:
    from edgesea.models import load_student, load_teacher

__all__ = ["EdgeseaError", "load_student", "load_teacher"]

_LAZY = {"load_student": "edgesea.models", "load_teacher": "edgesea.models"}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'edgesea' has no attribute {name!r}")
