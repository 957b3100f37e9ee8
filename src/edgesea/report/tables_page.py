"""Tables of scores, ours beside published ones, laid out from single scores and rendered as Markdown and as HTML."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from edgesea.report.html import MISSING, element, integer, join, note, page, table

NONE = "-"  # of Markdown: what is not known
PUBLISHED = "published"
NAMED = ("folder", "reduction", "judged by")  # options that are named however many there are
FEW = 3  # other options are, if they are no more than this


@dataclass(frozen=True)
class Entry:
    """One score, and where it belongs.

    Attributes
    ----------
    row : tuple of str
        Cells that name its row.
    order : tuple
        Where the row stands.
    column : str
        Key of its column.
    value : float
        The score, 0 ... 1.
    confidence : tuple of float, optional
        Interval of it.
    options : mapping of str to str
        All that decides the score but the seeds. Scores of one row and column that differ in any of them are not
        repetitions of each other, and get rows of their own.
    seeds : tuple of str
        Those with which the system was made.
    judged_with : str, optional
        Seed of the classifier, if it is known. An equal score of equal seeds is the same score, read twice.
    published : str, optional
        Name of its row in the file of published figures; None if no published figure may stand beside it.
    """

    row: tuple[str, ...]
    order: tuple[Any, ...]
    column: str
    value: float
    confidence: tuple[float, float] | None = None
    options: Mapping[str, str] = field(default_factory=dict)
    seeds: tuple[str, ...] = ()
    judged_with: str | None = None
    published: str | None = None


class Place(NamedTuple):
    """A row that is shown even if there is no score for it."""

    row: tuple[str, ...]
    order: tuple[Any, ...]
    published: str


@dataclass(frozen=True)
class Sheet:
    """What a table is to hold.

    Attributes
    ----------
    heading, about : str
        Its name, and what it shows.
    head : tuple of str
        Titles of the cells that name a row.
    columns : mapping of str to str
        Key and title of each column of scores.
    entries : sequence of Entry
        The scores.
    places : sequence of Place
        Rows shown in any case.
    published : mapping of (row, column) to float
        Published figures.
    beside : bool
        Whether there are columns for them.
    in_percent : bool
        Whether scores are shown in percent.
    shared : tuple of str
        Options that are named below the table if all scores share them.
    resampled : str
        What the confidence intervals are from resampling of.
    missing : tuple of str
        What is missing, and the command that makes it.
    left_out : tuple of str
        What was read and belongs in the table, but cannot be shown, and why.
    words : int
        How many of the leading cells are words; the others are numbers.
    """

    heading: str
    about: str
    head: tuple[str, ...]
    columns: Mapping[str, str]
    entries: Sequence[Entry]
    places: Sequence[Place] = ()
    published: Mapping[tuple[str, str], float] = field(default_factory=dict)
    beside: bool = False
    in_percent: bool = False
    shared: tuple[str, ...] = ()
    resampled: str = "the judged clips"
    missing: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    words: int = 1


class Laid(NamedTuple):
    """A table ready to be written: titles, cells (None: not known), how many columns hold words, and remarks."""

    head: list[str]
    rows: list[list[str | None]]
    words: int
    notes: list[str]


class Differing(NamedTuple):
    """Names of options in which scores differ: those with several values, and those that not all scores tell."""

    values: list[str]
    untold: list[str]

    def key(self, entry: Entry) -> tuple[str | None, ...]:
        """What a score shares with those that it may be averaged with."""
        return tuple(entry.options.get(name) for name in (*self.values, *self.untold))

    def text(self, entry: Entry) -> str:
        """The options of a score, for a cell; of many that others do not tell, the number."""
        own = [name for name in self.untold if name in entry.options]
        many = len(own) > FEW
        shown = [name for name in own if name in NAMED or not many]
        said = [f"{name} {entry.options[name]}" for name in (*self.values, *shown) if name in entry.options]
        return ", ".join([*said, f"{len(own) - len(shown)} options that others do not tell"] if many else said)


def differing(entries: Iterable[Entry]) -> Differing:
    """Find the options in which scores differ.

    Several values count anywhere in the table; what is told of some scores of a row and column, but not of others,
    counts too: unknown is not equal.
    """
    values: dict[str, set[str]] = {}
    told: dict[tuple[Any, ...], list[set[str]]] = {}
    for entry in entries:
        for name, value in entry.options.items():
            values.setdefault(name, set()).add(value)
        told.setdefault((entry.row, entry.column), []).append(set(entry.options))
    partly = {name for own in told.values() for name in own[0].union(*own) - own[0].intersection(*own)}
    several = {name for name, found in values.items() if len(found) > 1}
    return Differing(sorted(several), sorted(partly - several))


def lay_out(sheet: Sheet) -> Laid:
    """Sort scores into rows and columns.

    Parameters
    ----------
    sheet : Sheet
        The scores. Each combination of options has a row of its own, and is named where they differ.

    Returns
    -------
    Laid
    """
    options = differing(sheet.entries)
    lines, apart = _lines(sheet, options), any(options)
    titles = [own for title in sheet.columns.values() for own in ([title, PUBLISHED] if sheet.beside else [title])]
    head = _with_options(sheet, sheet.head, ["options that differ"] if apart else [])
    rows = []
    for line in lines:
        cells: list[str | None] = _with_options(sheet, line.row, [line.options] if apart else [])
        for column in sheet.columns:
            cells.append(cell([entry for entry in line.entries if entry.column == column], sheet.in_percent))
            if sheet.beside:
                figure = sheet.published.get((line.published or "", column))
                cells.append(None if figure is None else number(figure, sheet.in_percent))
        rows.append([value or None for value in cells])
    return Laid([*head, *titles], rows, sheet.words + apart, _notes(sheet, lines, options))


class _Line(NamedTuple):
    """A row before its scores are written out."""

    order: tuple[Any, ...]
    row: tuple[str, ...]
    options: str
    published: str | None
    entries: list[Entry]


def _lines(sheet: Sheet, options: Differing) -> list[_Line]:
    """The rows, sorted: one for each combination of a name and options, and the places that none of them takes."""
    groups: dict[tuple[Any, ...], list[Entry]] = {}
    for entry in sheet.entries:
        groups.setdefault((entry.row, options.key(entry)), []).append(entry)
    lines = [
        _Line(
            own[0].order,
            own[0].row,
            options.text(own[0]),
            next((e.published for e in own if e.published), None),
            _once(own),
        )
        for own in groups.values()
    ]
    taken = {line.published for line in lines}
    lines += [_Line(own.order, own.row, "", own.published, []) for own in sheet.places if own.published not in taken]
    return sorted(lines, key=lambda line: line[:3])


def _with_options(sheet: Sheet, cells: Sequence[str], options: Sequence[str]) -> list[Any]:
    """Cells that name a row, with its options behind the words and before the numbers."""
    return [*cells[: sheet.words], *options, *cells[sheet.words :]]


def _once(entries: Iterable[Entry]) -> list[Entry]:
    """The scores without those that were read twice, say from a run and from a file of the same evaluation."""
    kept: dict[tuple[Any, ...], set[str | None]] = {}
    result = []
    for entry in sorted(entries, key=lambda entry: entry.judged_with is None):
        seen = kept.setdefault((entry.column, entry.value, entry.seeds), set())
        if entry.judged_with not in seen and (entry.judged_with is not None or not seen):
            result.append(entry)
        seen.add(entry.judged_with)
    return result


def number(value: float, in_percent: bool) -> str:
    """A score as text, without a unit."""
    return f"{100 * value:.1f}" if in_percent else f"{value:.3f}"


def cell(entries: Sequence[Entry], in_percent: bool) -> str | None:
    """One score with its interval; of several, their mean, range and number; None if there is none."""
    if not entries:
        return None
    values = [entry.value for entry in entries]
    mean = number(sum(values) / len(values), in_percent)
    if len(values) > 1:
        return f"{mean} ({number(min(values), in_percent)} to {number(max(values), in_percent)}, {len(values)} runs)"
    interval = entries[0].confidence
    return (
        mean if interval is None else f"{mean} [{number(interval[0], in_percent)}, {number(interval[1], in_percent)}]"
    )


def _notes(sheet: Sheet, lines: Sequence[_Line], options: Differing) -> list[str]:
    """What is said below a table."""
    notes = []
    cells = [[own for own in line.entries if own.column == column] for line in lines for column in sheet.columns]
    if any(len(group) == 1 and group[0].confidence for group in cells):
        notes.append(f"[low, high]: 95 % confidence interval, from resampling {sheet.resampled}.")
    if any(len(group) > 1 for group in cells):
        notes.append("Runs that differ in nothing but their seeds: mean (lowest to highest, how many).")
    common = [said for name in sheet.shared if name not in options.values and (said := _common(name, sheet.entries))]
    if common:
        notes.append(f"Same for all scores: {', '.join(common)}.")
    if any(options):
        notes.append("Scores that differ in an option have rows of their own and are not to be compared directly.")
    if sheet.beside:
        notes.append(f"{PUBLISHED}: as the user's file gives them; edgesea has not verified them.")
    notes += [f"Not shown: {text}" for text in sheet.left_out]
    return notes + [f"Missing: {text}" for text in sheet.missing]


def _common(name: str, entries: Sequence[Entry]) -> str:
    """An option that is the same for all, and how many scores do not tell; an option may be one column's alone."""
    column = name.rpartition(": ")[0]
    own = [entry for entry in entries if not column or entry.column == column]
    told = [entry.options[name] for entry in own if name in entry.options]
    if not told:
        return ""
    rest = f" ({len(own) - len(told)} of {len(own)} do not tell)" if len(told) < len(own) else ""
    return f"{name} {told[0]}{rest}"


def to_markdown(title: str, about: str, sheets: Sequence[Sheet]) -> str:
    """All tables as Markdown (tables of GitHub's kind)."""
    parts = [f"# {title}", about]
    for sheet in sheets:
        parts += [f"## {sheet.heading}", sheet.about]
        laid = lay_out(sheet)
        if laid.rows:
            rule = ["---" if index < laid.words else "---:" for index in range(len(laid.head))]
            lines = [laid.head, rule, *([NONE if value is None else value for value in row] for row in laid.rows)]
            parts.append("\n".join(f"| {' | '.join(_escaped(value) for value in line)} |" for line in lines))
        parts.append("\n".join(f"* {_escaped(text)}" for text in laid.notes))
    return "\n\n".join(part for part in parts if part) + "\n"


def _escaped(value: str) -> str:
    clean = " ".join(value.encode("utf-8", "replace").decode("utf-8").split())
    for character in "\\|<*`":
        clean = clean.replace(character, f"\\{character}")
    return clean


def to_html(title: str, about: str, sheets: Sequence[Sheet]) -> str:
    """All tables as one page that needs no network."""
    sections = []
    for sheet in sheets:
        laid = lay_out(sheet)
        shown = [[MISSING if value is None else value for value in row] for row in laid.rows]
        body = table(laid.head, shown, words=laid.words, class_="wide") if shown else ""
        sections.append((sheet.heading, join([element("p", sheet.about), body, *(note(text) for text in laid.notes)])))
    return page(title, about, sections)


def count(value: int | None) -> str:
    """A number of parameters or dimensions as text; empty if it is not known."""
    return "" if value is None else integer(value)
