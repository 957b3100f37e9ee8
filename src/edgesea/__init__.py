"""edgesea: turn a large audio-embedding model into a tiny one, specialised for your recordings."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from edgesea.errors import EdgeseaError, EdgeseaWarning

if TYPE_CHECKING:
    from edgesea.embed.engine import Stream as Stream
    from edgesea.embed.engine import get_embedding as get_embedding
    from edgesea.embed.files import process_file as process_file
    from edgesea.embed.files import process_files as process_files
    from edgesea.explorer import explore as explore
    from edgesea.hub import from_pretrained as from_pretrained
    from edgesea.hub import push_to_hub as push_to_hub
    from edgesea.models import load_model as load_model
    from edgesea.models import load_student as load_student
    from edgesea.models import load_teacher as load_teacher
    from edgesea.nearest import search as search
    from edgesea.pipeline import run as run

_LAZY = {
    "Stream": "edgesea.embed.engine",
    "explore": "edgesea.explorer",
    "from_pretrained": "edgesea.hub",
    "get_embedding": "edgesea.embed.engine",
    "load_model": "edgesea.models",
    "load_student": "edgesea.models",
    "load_teacher": "edgesea.models",
    "process_file": "edgesea.embed.files",
    "process_files": "edgesea.embed.files",
    "push_to_hub": "edgesea.hub",
    "run": "edgesea.pipeline",
    "search": "edgesea.nearest",
}
__all__ = ["EdgeseaError", "EdgeseaWarning", *_LAZY]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'edgesea' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
