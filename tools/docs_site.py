"""Hooks of the documentation site, called by mkdocs: what is generated when it is built, and what must not be in it."""

import json
import re
import runpy
from pathlib import Path

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

from edgesea import cli

PICTURE = re.compile(r'<picture>\s*<source [^>]*srcset="([^"]+)">\s*<img alt="([^"]*)" src="([^"]+)">\s*</picture>')
FETCHED = re.compile(r'<(?:script|link|img|iframe|source|audio|video)\b[^>]*\b(?:src|srcset|href)="(?:https?:)?//')
MERMAID = re.compile(r"^```mermaid\n.*?^```\n", re.MULTILINE | re.DOTALL)  # drawn by GitHub; its script is 3 MB
COMMON = "**Options of every command**:"
NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
TO_NOTEBOOK = re.compile(r"\]\((?:\.\./)?((?:notebooks/)?\w+)\.ipynb\)")


def on_files(files, config, **_):
    """Add the notebooks, and the picture of the rooms, which stands for what GitHub draws from text."""
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        files.append(File.generated(config, f"notebooks/{path.stem}.md", content=notebook(path)))
    drawn = runpy.run_path(str(Path(__file__).with_name("pictures.py")))
    for theme in drawn["THEMES"]:
        files.append(File.generated(config, f"rooms-{theme}.svg", content=str(drawn["rooms"](theme))))


def on_page_markdown(markdown, page, **_):
    """Put in the options of all commands; a picture for light and dark follows the reader's choice on the site."""
    if page.file.src_uri == "commands.md":
        markdown = markdown.replace("<!-- commands -->", commands())
    if page.file.src_uri == "contributing.md":
        root = Path(__file__).parents[1]
        markdown = (root / "CONTRIBUTING.md").read_text("utf-8").replace("](docs/", "](") + markdown
        markdown = markdown.replace("<!-- packages -->", (root / "benchmarks/results/packages.md").read_text("utf-8"))
    markdown = TO_NOTEBOOK.sub(r"](\1.md)", markdown)
    markdown = MERMAID.sub("![The rooms](rooms-light.svg#only-light)![The rooms](rooms-dark.svg#only-dark)\n", markdown)
    return PICTURE.sub(r"![\2](\3#only-light)![\2](\1#only-dark)", markdown)


def on_post_page(output, page, **_):
    """A page must be whole without a network."""
    if found := FETCHED.search(output):
        raise PluginError(f"{page.file.src_uri}: fetches something from elsewhere: {found.group()}")
    return output


def notebook(path: Path) -> str:
    """A notebook as Markdown: its texts, its code, and what the code shows."""
    found = []
    for cell in json.loads(path.read_text("utf-8"))["cells"]:
        source = "".join(cell["source"])
        found.append(source.replace("](../docs/", "](../") if cell["cell_type"] == "markdown" else _code(source))
        for output in cell.get("outputs", []):
            given = output.get("data") or {"text/plain": output["text"]}
            data = {kind: "".join(text) for kind, text in given.items()}
            if table := re.search("<table[^>]*(>.*</table>)", data.get("text/html", ""), re.DOTALL):
                found.append(f"<table{table[1]}")
            elif image := data.get("image/png"):
                found.append(f"![The plot](data:image/png;base64,{image.strip()})")
            else:
                found.append(_code(data["text/plain"], "text"))
    return "\n\n".join(found)


def _code(text: str, language: str = "python") -> str:
    return f"```{language}\n{text.rstrip()}\n```"


def commands() -> str:
    """The help of all commands as Markdown, and once the options that they share."""
    shared = re.sub(r"^\*\*(.+)\*\*:$", r"## \1", COMMON + _help("run")[1], flags=re.MULTILINE)
    return "\n\n".join([f"## edgesea {name}\n{_help(name)[0]}" for name in cli.COMMANDS] + [shared])


def _help(command: str) -> tuple[str, str]:
    """Of one command, and of all."""
    text = cli._app([command], cli.Attempt()).generate_docs(usage_name="edgesea").replace(" -m mkdocs", "")
    text = re.sub(r"(?<!`)``([^`]+)``(?!`)", r"`\1`", text.partition(f"\n## edgesea {command}\n")[2])
    own, _, shared = text.partition(COMMON)
    return own, shared
