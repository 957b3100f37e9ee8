"""HTML from small functions: everything that is not `Html` already is escaped on the way in."""

import html
from collections.abc import Iterable, Sequence
from importlib.resources import files

# Nothing may be fetched or executed, whatever a file name or an option contains.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
MISSING = "\u2013"


class Html(str):
    """Text that is HTML already and is not escaped again."""

    __slots__ = ()


def text(value: object) -> Html:
    """HTML of any value; what cannot be encoded (odd bytes of file names) becomes ``?``."""
    if isinstance(value, Html):
        return value
    if value is None:
        return Html(MISSING)
    return Html(html.escape(str(value).encode("utf-8", "replace").decode("utf-8")))


def join(parts: Iterable[object], separator: str = "\n") -> Html:
    """The parts' HTML, one after the other."""
    return Html(separator.join(text(part) for part in parts))


def element(name: str, *content: object, **attributes: object) -> Html:
    """``<name key="value">content</name>``; a trailing underscore of a key is dropped, as in ``class_``."""
    pairs = "".join(
        f' {key.rstrip("_")}="{text(value)}"' for key, value in attributes.items() if value not in (None, "")
    )
    return Html(f"<{name}{pairs}>{join(content, '')}</{name}>")


def page(title: str, summary: object, sections: Sequence[tuple[str, Html]]) -> Html:
    """A whole document.

    Parameters
    ----------
    title : str
        Of the document.
    summary : object
        One paragraph below the title.
    sections : sequence of (heading, body)
        In order; empty bodies are left out.

    Returns
    -------
    Html
    """
    shown = [(heading, heading.lower().replace(" ", "-"), body) for heading, body in sections if body]
    links = [element("a", heading, href=f"#{anchor}") for heading, anchor, _ in shown]
    bodies = [element("section", element("h2", heading), body, id=anchor) for heading, anchor, body in shown]
    style = Html(files(__package__).joinpath("style.css").read_text("utf-8"))
    head = [
        Html('<meta charset="utf-8">'),
        Html(f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'),
        Html('<meta name="viewport" content="width=device-width, initial-scale=1">'),
        Html('<meta name="color-scheme" content="light dark">'),
        element("title", f"{title}, edgesea"),
        element("style", style),
    ]
    nav = element("nav", join(links, " ")) if len(links) > 1 else ""
    header = element("header", element("h1", title), element("p", summary), nav)
    body = element("body", element("main", header, join(bodies)))
    return Html(f'<!DOCTYPE html>\n<html lang="en">\n<head>\n{join(head)}\n</head>\n{body}\n</html>\n')


def table(
    head: Sequence[object], rows: Sequence[Sequence[object]], *, caption: object = "", words: int = 1, class_: str = ""
) -> Html:
    """A table.

    Parameters
    ----------
    head : sequence
        Column titles.
    rows : sequence of sequences
        Cells; the first of each row is its title.
    caption : object
        Shown below.
    words : int
        Leading columns that hold words; the others hold numbers, aligned to the right.
    class_ : str
        CSS classes.

    Returns
    -------
    Html
    """

    def cells(name: str, values: Sequence[object]) -> Html:
        kinds = [name if index else "th" for index in range(len(values))]
        return join(
            (
                element(kind, value, class_="" if index < words else "number", scope=_scope(name, kind))
                for index, (kind, value) in enumerate(zip(kinds, values, strict=True))
            ),
            "",
        )

    body = join(element("tr", cells("td", row)) for row in rows)
    inner = element("table", element("thead", element("tr", cells("th", head))), element("tbody", body), class_=class_)
    note = element("p", caption, class_="note") if caption else ""
    return element("div", inner, note, class_="table")


def _scope(row: str, cell: str) -> str:
    return "" if cell == "td" else "col" if row == "th" else "row"


def tiles(items: Iterable[tuple[object, object]]) -> Html:
    """Single numbers with a name each."""
    return element(
        "dl", join(element("div", element("dt", name), element("dd", value)) for name, value in items), class_="tiles"
    )


def figure(svg: Html, caption: object) -> Html:
    """A plot with a caption."""
    return element("figure", svg, element("figcaption", caption)) if svg else Html("")


def note(*content: object) -> Html:
    """A short remark."""
    return element("p", *content, class_="note")


def integer(value: object) -> str:
    """Digits in groups of three, as ``12 345``."""
    return MISSING if value is None else f"{int(float(str(value))):,}".replace(",", "\u202f")


def decimal(value: object, digits: int = 3) -> str:
    """A number with so many digits after the point."""
    return MISSING if value is None else f"{float(str(value)):.{digits}f}".replace("-", "\u2212")


def percent(value: object, digits: int = 0) -> str:
    """A share as ``12 %``."""
    return MISSING if value is None else f"{decimal(100 * float(str(value)), digits)}\u00a0%"
