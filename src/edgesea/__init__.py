"""edgesea: turn a large audio-embedding model into a tiny one, specialised for your recordings."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from edgesea.errors import EdgeseaError, EdgeseaWarning

if TYPE_CHECKING:
    from edgesea.embed.engine import get_embedding
    from edgesea.embed.files import process_file, process_files
    from edgesea.embed.stream import Stream
    from edgesea.hub import from_pretrained, push_to_hub
    from edgesea.models import load_student, load_teacher

__all__ = [
    "EdgeseaError",
    "EdgeseaWarning",
    "Stream",
    "from_pretrained",
    "get_embedding",
    "load_student",
    "load_teacher",
    "process_file",
    "process_files",
    "push_to_hub",
]

_LAZY = {
    "Stream": "edgesea.embed.stream",
    "from_pretrained": "edgesea.hub",
    "get_embedding": "edgesea.embed.engine",
    "load_student": "edgesea.models",
    "load_teacher": "edgesea.models",
    "process_file": "edgesea.embed.files",
    "process_files": "edgesea.embed.files",
    "push_to_hub": "edgesea.hub",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'edgesea' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
