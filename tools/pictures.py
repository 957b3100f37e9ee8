"""Draw the pictures of README and docs, each in light and dark: python tools/pictures.py"""

import random
import re
from ast import literal_eval
from collections.abc import Callable
from html import escape
from math import atan2, cos, hypot, sin
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"
NAMES = ("ink", "soft", "line", "fill", "mark", "dots")
THEMES = {
    "light": dict(zip(NAMES, ("#1c2b33", "#5b6b73", "#00796b", "#e6f3f1", "#d9622b", "#8fa3ad"), strict=True)),
    "dark": dict(zip(NAMES, ("#e3ebee", "#a3b3ba", "#4db6ac", "#17332f", "#ff9e64", "#6f858f"), strict=True)),
}


class Picture:
    """Shapes in the colours of a theme."""

    def __init__(self, width: int, height: int, title: str, theme: str) -> None:
        self.colors = THEMES[theme]
        self.parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
            f'font-family="system-ui, sans-serif" font-size="15"><title>{escape(title)}</title>'
        ]

    def text(self, x: float, y: float, words: str, color: str = "ink", anchor: str = "middle", more: str = "") -> None:
        self.parts.append(
            f'<text x="{x:g}" y="{y:g}" fill="{self.colors[color]}" text-anchor="{anchor}" {more}>'
            f"{escape(words)}</text>"
        )

    def box(self, x: float, y: float, w: float, h: float, title: str = "", *lines: str, fill: str = "fill") -> None:
        """A rounded box, its title in bold above softer lines."""
        self.parts.append(
            f'<rect x="{x:g}" y="{y:g}" width="{w:g}" height="{h:g}" rx="9" fill="{self.colors.get(fill, fill)}" '
            f'stroke="{self.colors["line"]}" stroke-width="1.6"/>'
        )
        top = y + h / 2 + 5 - 9 * len(lines)
        self.text(x + w / 2, top, title, more='font-weight="600"')
        for place, line in enumerate(lines, 1):
            self.text(x + w / 2, top + 18 * place, line, "soft", more='font-size="13"')

    def line(self, *points: tuple[float, float], color: str = "line", more: str = "", head: bool = False) -> None:
        path = " ".join(f"{x:g},{y:g}" for x, y in points)
        stroke = f'fill="none" stroke="{self.colors[color]}" stroke-width="1.8"'
        self.parts.append(f'<polyline points="{path}" {stroke} {more}/>')
        if head:
            (x, y), (x2, y2) = points[-2:]
            turn = atan2(y2 - y, x2 - x)
            ends = [(x2 - 9 * cos(turn + side), y2 - 9 * sin(turn + side)) for side in (-0.45, 0.45)]
            corners = " ".join(f"{a:.1f},{b:.1f}" for a, b in [(x2, y2), *ends])
            self.parts.append(f'<polygon points="{corners}" fill="{self.colors[color]}"/>')

    def arrow(self, *points: tuple[float, float], label: str = "", color: str = "line", above: float = 8) -> None:
        self.line(*points, color=color, head=True)
        if label:
            (x, y), (x2, y2) = points[:2]
            self.text((x + x2) / 2, (y + y2) / 2 - above, label, color, more='font-size="13"')

    def dot(self, x: float, y: float, color: str = "dots", radius: float = 3) -> None:
        self.parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:g}" fill="{self.colors[color]}"/>')

    def wave(self, x: float, y: float, w: float, h: float) -> None:
        """Bars of a waveform."""
        rng = random.Random(3)
        for place in range(int(w // 5)):
            size = h * (0.15 + 0.85 * rng.random() * abs(sin(place / 3.1)))
            self.line((x + 5 * place, y - size / 2), (x + 5 * place, y + size / 2), more='stroke-linecap="round"')

    def __str__(self) -> str:
        return "\n".join([*self.parts, "</svg>", ""])


def pipeline(theme: str) -> Picture:
    """The stages, from recordings to a device."""
    p = Picture(960, 300, "From your recordings to a student on a device", theme)
    p.box(15, 30, 170, 90)
    p.wave(35, 62, 135, 40)
    p.text(100, 108, "your recordings", more='font-weight="600"')
    p.text(100, 140, "no labels needed", "soft", more='font-size="13"')
    p.arrow((185, 75), (265, 75), label="extract")
    p.box(265, 30, 180, 90, "teacher", "a large model:", "10 G multiplications")
    p.arrow((445, 75), (525, 75))
    p.box(525, 30, 180, 90, "table", "windows of 1 s and", "their embeddings")
    p.arrow((705, 75), (785, 75), label="sample")
    p.box(785, 30, 160, 90, "subset", "windows that stand", "for the others")
    p.arrow((865, 120), (865, 185))
    p.text(857, 157, "reduce", "line", "end", 'font-size="13"')
    p.box(785, 185, 160, 90, "reduction φ", "the dimensions that", "your sounds need")
    p.arrow((785, 230), (705, 230), label="distill")
    p.arrow((615, 120), (615, 185))
    p.box(525, 185, 180, 90, "student", "0.2 M parameters,", "12 M multiplications")
    p.arrow((525, 212), (445, 212), label="embed")
    p.arrow((525, 248), (445, 248), label="export")
    p.box(255, 185, 190, 42, "embeddings, scores")
    p.box(255, 233, 190, 42, "int8 C for a chip")
    p.box(45, 187, 110, 86, "in the field")
    for place in range(5):
        for x, y in ((45, -12), (155, 12)):
            p.line((x, 202 + 14 * place), (x + y, 202 + 14 * place))
    p.arrow((255, 254), (170, 254))
    return p


def sea(theme: str) -> Picture:
    """What the reduction and the student learn, in three panels."""
    p = Picture(960, 380, "Specialized embedding approximation in three steps", theme)
    rng = random.Random(7)
    for x, title, text in (
        (15, "1  What the teacher hears", "Your recordings fill a small part of its space."),
        (335, "2  What of it matters", "φ keeps the directions in which they differ."),
        (655, "3  What the student learns", "To hear x, and to say φ(teacher(x))."),
    ):
        p.text(x + 145, 24, title, more='font-weight="600" font-size="17"')
        p.text(x + 145, 366, text, "soft", more='font-size="13.5"')
    corner = (75, 275)
    for end in ((290, 275), (75, 60), (20, 330)):
        p.arrow(corner, end, color="soft")
    p.text(250, 330, "n = 384 ... 6144 dimensions", "soft", more='font-size="13"')
    cloud = []
    for _ in range(150):
        along, across = rng.gauss(0, 1), rng.gauss(0, 0.28)
        cloud.append((180 + 52 * along - 22 * across, 165 - 38 * along - 30 * across))
    for x, y in cloud:
        p.dot(x, y)
    chosen: list[tuple[float, float]] = []
    for point in cloud:  # far from those that are chosen already
        if len(chosen) < 14 and all(hypot(point[0] - x, point[1] - y) > 24 for x, y in chosen):
            chosen.append(point)
    for x, y in chosen:
        p.dot(x, y, "mark", 4.5)
    p.text(215, 80, "subset", "mark", "end", 'font-size="13"')
    p.line((345, 300), (585, 300), (625, 235), (385, 235), (345, 300))
    p.text(480, 330, "d = 32 ... 512 dimensions", "soft", more='font-size="13"')
    for x, y in chosen:
        high = (375 + 0.75 * (x - 60), 45 + 0.62 * (y - 60))
        low = (high[0] * 0.9 + 45, 268 + 0.22 * (high[1] - 110))
        p.line(high, low, color="dots", more='stroke-dasharray="2 4"')
        p.dot(*high, "mark", 4)
        p.dot(*low, "line", 4)
    p.text(625, 170, "φ", "line", more='font-size="26" font-style="italic"')
    p.wave(665, 190, 60, 46)
    p.text(692, 236, "x", more='font-style="italic"')
    p.arrow((735, 178), (763, 122))
    p.arrow((735, 202), (778, 255))
    p.box(765, 70, 95, 70, "teacher", "frozen")
    p.box(780, 240, 80, 46, "student")
    p.arrow((860, 105), (912, 105), label="φ")
    p.arrow((860, 263), (912, 263))
    p.dot(922, 105, "line", 7)
    p.dot(922, 263, "mark", 7)
    p.line((922, 116), (922, 252), color="mark", more='stroke-dasharray="4 4"')
    p.text(912, 180, "squared", "mark", "end", 'font-size="13"')
    p.text(912, 197, "distance", "mark", "end", 'font-size="13"')
    return p


def rooms(theme: str) -> Picture:
    """Which rooms of the source may import which, as the test of the architecture has it; drawn with the site."""
    source = (DOCS.parent / "tests" / "test_architecture.py").read_text("utf-8")
    levels = literal_eval(re.findall(r"^LEVELS = (\(.*?^\))", source, re.MULTILINE | re.DOTALL)[0])
    p = Picture(960, 52 * len(levels) + 20, "The rooms of the source: each imports only rooms below its own", theme)
    for place, level in enumerate(reversed(levels)):
        wide = (840 - 10 * (len(level) - 1)) / len(level)
        for column, room in enumerate(level):
            p.box(100 + column * (wide + 10), 10 + 52 * place, wide, 42, room)
    middle = 26 * len(levels) + 10
    p.arrow((60, 20), (60, 2 * middle - 20))
    p.text(50, middle, "imports", "line", more=f'transform="rotate(-90 50 {middle})"')
    return p


PICTURES: dict[str, Callable[[str], Picture]] = {"pipeline": pipeline, "sea": sea}


def main() -> None:
    for name, draw in PICTURES.items():
        for theme in THEMES:
            (DOCS / f"{name}-{theme}.svg").write_text(str(draw(theme)), "utf-8")


if __name__ == "__main__":
    main()
