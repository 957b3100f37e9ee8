"""YAML: options of stages, checked by the same signatures from which the command line is made; where the cache is."""

import codecs
import difflib
import inspect
import os
import re
import string
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from edgesea.artifact import atomic_path, plain
from edgesea.errors import EdgeseaError

# Until a text has been parsed, characters of Unicode's private use stand for what YAML does not allow: bytes that are
# not UTF-8, and the values of environment variables, whose characters have no meaning in YAML.
BYTES = {0xDC00 + byte: 0xF700 + byte for byte in range(128, 256)}
BEGIN, END = "\uf6fe", "\uf6ff"
VARIABLE = re.compile(f"{BEGIN}(.*?){END}")
HOME = re.compile(r"(^|:)~(?=/|$)")  # also in ids such as onnx:~/teacher.onnx
HINTS = {
    "\\t": "; indent with spaces, not with tabs",
    "escape character": "; write a Windows path in single quotes, or in none",
}
SWITCH = {"on": "true", "off": "false"}
FLOAT = re.compile(r"^[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$")
# Plain words as in YAML 1.2: 010 is ten, 1e-3 a number, no and on are words, and 12:30 is neither.
WORDS = (
    ("null", re.compile(r"^(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""]),
    ("bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")),
    ("int", re.compile(r"^[-+]?[0-9]+$"), list("-+0123456789")),
    ("float", FLOAT, list("-+.0123456789")),
    ("float", re.compile(r"^(?:[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"), list("-+.")),
    ("merge", re.compile(r"^<<$"), ["<"]),
)


@cache
def _loader() -> type[Any]:
    """A loader of YAML that refuses a key which is there twice."""
    import yaml

    class Loader(yaml.SafeLoader):
        yaml_implicit_resolvers = {}  # noqa: RUF012

        def compose_mapping_node(self, anchor: Any) -> Any:
            node, lines = super().compose_mapping_node(anchor), dict[str, int]()
            for key, _ in node.value:
                line, name = key.start_mark.line + 1, str(key.value)
                if name in lines and name != "<<":
                    raise EdgeseaError(f"{name} is there twice, in lines {lines[name]} and {line}; delete one of them")
                lines[name] = line
            return node

        def construct_scalar(self, node: Any) -> Any:
            try:
                text = VARIABLE.sub(lambda found: _variables()[found[1]], str(super().construct_scalar(node)))
            except KeyError as error:
                line = node.start_mark.line + 1
                raise EdgeseaError(f"environment variable {error}, in line {line}, is not set") from None
            return text.translate({new: old for old, new in BYTES.items()})

        def construct_whole(self, node: Any) -> int:
            return int(self.construct_scalar(node))

    for kind, pattern, first in WORDS:
        Loader.add_implicit_resolver(f"tag:yaml.org,2002:{kind}", pattern, first)
    Loader.add_constructor("tag:yaml.org,2002:int", Loader.construct_whole)
    return Loader


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file that holds a mapping; ${EDGESEA_DATA} (default: data) and other variables are filled in."""
    import yaml

    content = path.read_bytes()
    try:
        if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            text = content.decode("utf-16")
        else:
            text = content.decode("utf-8-sig", "surrogateescape").translate(BYTES)
        found = yaml.load(string.Template.pattern.sub(_mark, text), _loader())
    except yaml.MarkedYAMLError as error:
        line = f" in line {error.problem_mark.line + 1}" if error.problem_mark else ""
        hint = next((hint for sign, hint in HINTS.items() if sign in str(error.problem)), "")
        problem = ", ".join(filter(None, (error.context, error.problem)))
        raise EdgeseaError(f"{path}: not YAML{line}: {problem}{hint}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise EdgeseaError(f"{path}: not YAML: {' '.join(str(error).split())}") from error
    except EdgeseaError as error:
        raise EdgeseaError(f"{path}: {error}") from None
    if not isinstance(found, dict):
        shown = "nothing" if found is None else repr(found)[:40]
        raise EdgeseaError(f"{path}: must hold a mapping (NAME: VALUE), not {shown}")
    return found


def parsed(value: Any) -> Any:
    """A value of the command line: a list or mapping, if it is text that looks like one in YAML, e.g. {path: file}."""
    import yaml

    if not isinstance(value, str) or not value.startswith(("[", "{")):
        return value
    try:
        return yaml.load(value, _loader())
    except yaml.YAMLError as error:
        raise EdgeseaError(f"{value}: not YAML: {' '.join(str(error).split())}") from error


def _variables() -> dict[str, str]:
    return {"EDGESEA_DATA": "data", **os.environ}


def _mark(found: re.Match[str]) -> str:
    """What stands for $$, $NAME or ${NAME} until the text has been parsed; $NAME may also stand for itself."""
    name = found["braced"] or found["named"]
    if name and (found["braced"] or name in _variables()):
        return BEGIN + name + END
    return "$" if found["escaped"] else found[0]


def cache_folder() -> Path:
    """Where what was downloaded or is to be sent is on this machine: ``EDGESEA_CACHE``, or the system's folder."""
    import pooch

    return Path(os.environ.get("EDGESEA_CACHE") or pooch.os_cache("edgesea")).expanduser()


def as_yaml(options: Mapping[str, Any]) -> str:
    import yaml

    class Dumper(yaml.SafeDumper):
        pass

    Dumper.add_implicit_resolver("tag:yaml.org,2002:float", FLOAT, list("-+.0123456789"))
    return str(yaml.dump(plain(options), Dumper=Dumper, sort_keys=False, allow_unicode=True)).replace("$", "$$")


def write_yaml(path: Path, options: Mapping[str, Any]) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(as_yaml(options), "utf-8")


def checked_options(
    stage: Callable[..., Any], options: Any, source: str, *, fixed: Collection[str] = ()
) -> dict[str, Any]:
    """All options of a stage with their defaults, in the types of its signature, but those in `fixed`.

    EdgeseaError, beginning with `source`, names an option that is unknown, or whose value does not fit.
    """
    from cyclopts import App, CycloptsError
    from cyclopts.config import Dict

    if not isinstance(options, Mapping):
        raise EdgeseaError(f"{source}: must be a mapping of options (NAME: VALUE), not {options!r}")
    names = inspect.signature(stage).parameters
    known = [name for name in names if name not in fixed]
    if unknown := [name for name in options if name not in known]:
        raise EdgeseaError(f"{source}: unknown option {nearest(unknown, known)}")
    app = App(config=[Dict(dict(options), source=source), tidy])
    app.default(stage)
    placeholders = [f"--{name}=0" for name, one in names.items() if name in fixed and one.default is one.empty]
    try:
        _, bound, _ = app.parse_args(placeholders, exit_on_error=False, print_error=False)
    except (CycloptsError, EdgeseaError) as error:
        text = " ".join(str(error).split()).replace(f" from {source}", "")
        raise EdgeseaError(f"{source}: {text}") from error
    bound.apply_defaults()
    return {name: value for name, value in bound.arguments.items() if name in known}


def changed(options: Any) -> dict[str, Any]:
    """The options of a dataclass that are not the default."""
    default = asdict(type(options)())
    return {key: value for key, value in asdict(options).items() if value != default[key]}


def changed_sections(**groups: Any) -> dict[str, dict[str, Any]]:
    """Sections of a YAML file with the options of dataclasses that are not the default; none without such options."""
    return {name: found for name, options in groups.items() if (found := changed(options))}


def nearest(unknown: Iterable[object], known: Collection[str]) -> str:
    """The names that are not known, each with the one that it is most like, and those that are known."""
    found = []
    for name in map(str, unknown):
        like = difflib.get_close_matches(name.lower().replace("-", "_"), known, 1)
        found.append(f"{name} (did you mean {like[0]}?)" if like else name)
    return f"{', '.join(found)}; known: {', '.join(known)}"


def tidy(app: Any, commands: tuple[str, ...], arguments: Any) -> None:
    """A hook of cyclopts, which would round 1.5 to a whole number, and take ~ for the name of a folder."""
    for argument in arguments:
        for index, token in enumerate(argument.tokens):
            if argument.hint is int and FLOAT.match(token.value) and not float(token.value).is_integer():
                raise EdgeseaError(f"{argument.name} must be a whole number, not {token.value}")
            value = HOME.sub(lambda found: found[1] + os.path.expanduser("~"), token.value)  # noqa: PTH111
            if "$" in value and argument.hint in (Path, list[Path], list[Path] | None) and not os.path.lexists(value):
                value = os.path.expandvars(value)
            value = SWITCH.get(value.lower(), value) if argument.hint is bool else value
            if value != token.value:
                argument.tokens[index] = token.evolve(value=value)
