"""Size of the house: files, lines, lines of code and of docstrings, room by room. Call: python benchmarks/stats.py."""

import ast
import sys
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parents[1]


def counted(path: Path) -> tuple[int, int, int]:
    """Lines of a module, of which code, and docstrings; the others are blank or comments."""
    text = path.read_text("utf-8")
    lines = text.splitlines()
    prose = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and ast.get_docstring(
            node, clean=False
        ):
            prose |= set(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
    others = [line.strip() for number, line in enumerate(lines, 1) if number not in prose]
    return len(lines), sum(bool(line) and not line.startswith("#") for line in others), len(prose)


def main() -> None:
    source = ROOT / "src" / "edgesea"
    paths = sorted(source.rglob("*.py"))
    rooms: dict[str, list[tuple[int, int, int]]] = defaultdict(list)
    for path in paths:
        room = path.relative_to(source).parts[0]
        rooms["(root)" if room.endswith(".py") else room].append(counted(path))
    rows = [(room, len(files), *map(sum, zip(*files, strict=True))) for room, files in sorted(rooms.items())]
    print(f"{'room':12}{'files':>7}{'lines':>8}{'code':>8}{'docstrings':>12}{'longest':>9}")
    for room, *numbers in rows:
        print(f"{room:12}{numbers[0]:7}{numbers[1]:8}{numbers[2]:8}{numbers[3]:12}{max(f[0] for f in rooms[room]):9}")
    files, lines, code, prose = (sum(row[column] for row in rows) for column in (1, 2, 3, 4))
    pages = [path for path in source.rglob("*") if path.suffix in (".jinja", ".css", ".csv", ".yaml")]
    print(f"{'all':12}{files:7}{lines:8}{code:8}{prose:12}{max(f[0] for r in rooms.values() for f in r):9}")
    page_lines = sum(len(path.read_text("utf-8").splitlines()) for path in pages)
    print(f"docstrings {prose / lines:.0%}; templates and data {page_lines} lines")
    tests = list((ROOT / "tests").rglob("*.py"))
    total = sum(len(path.read_text("utf-8").splitlines()) for path in tests)
    print(f"tests {len(tests)} files, {total} lines, {total / lines:.2f} for a line of source")
    sys.exit(any(len(path.read_text("utf-8").splitlines()) > 400 for path in paths))


if __name__ == "__main__":
    main()
