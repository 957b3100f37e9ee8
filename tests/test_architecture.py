"""The house keeps to its plan: imports point one way, no circles, no long files."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from conftest import REPOSITORY

SOURCE = REPOSITORY / "src" / "edgesea"
LEVELS = (  # a room imports only rooms of the lines above its own, or of its own
    ("errors",),
    ("artifact", "parallel", "config", "cluster", "tracking", "audio"),
    ("models",),
    ("embed", "hear", "mteb"),
    ("table",),
    ("extract", "sampling"),
    ("reduction",),
    ("nearest", "tasks"),
    ("export",),
    ("distill",),
    ("report", "explorer"),
    ("pipeline", "hub"),
    ("select", "submit"),
    ("demo", "cli", "__main__"),
)
LEVEL = {room: level for level, rooms in enumerate(LEVELS) for room in rooms}
PATHS = sorted(path for path in SOURCE.rglob("*.py") if path != SOURCE / "__init__.py")


def module(path: Path) -> str:
    return ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module(path) for path in PATHS}


def imports(path: Path) -> set[str]:
    """Modules of edgesea that a module imports when it runs; for type checking alone does not count."""
    tree = ast.parse(path.read_text("utf-8"))
    typing = {
        node
        for own in ast.walk(tree)
        if isinstance(own, ast.If) and "TYPE_CHECKING" in ast.dump(own.test)
        for node in ast.walk(own)
    }
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node not in typing and (node.module or "").startswith("edgesea."):
            name = str(node.module).removeprefix("edgesea.")
            found |= {f"{name}.{own.name}" if f"{name}.{own.name}" in MODULES else name for own in node.names}
    return found - {module(path)}


@pytest.mark.parametrize("path", PATHS, ids=module)
def test_imports_point_one_way(path: Path) -> None:
    room = module(path).partition(".")[0]
    wrong = [name for name in imports(path) if LEVEL[name.partition(".")[0]] > LEVEL[room]]
    assert not wrong


def test_there_is_no_circle() -> None:
    TopologicalSorter({module(path): imports(path) for path in PATHS}).prepare()
    rooms: dict[str, set[str]] = {}
    for path in PATHS:
        room = module(path).partition(".")[0]
        rooms.setdefault(room, set()).update({name.partition(".")[0] for name in imports(path)} - {room})
    TopologicalSorter(rooms).prepare()


def test_no_room_is_crowded() -> None:
    assert not [path for path in PATHS if len(path.read_text("utf-8").splitlines()) > 400]
    assert len(list(SOURCE.glob("*.py"))) <= 12
