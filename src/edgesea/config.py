"""YAML: options of stages, checked by the same signatures from which the command line is made."""

import inspect
import os
import string
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from edgesea.artifact import atomic_path, plain
from edgesea.errors import EdgeseaError


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file that holds a mapping; ${EDGESEA_DATA} (default: data) and other variables are filled in."""
    import yaml

    try:
        text = path.read_text("utf-8")
        found = yaml.safe_load(string.Template(text).safe_substitute({"EDGESEA_DATA": "data", **os.environ}))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise EdgeseaError(f"{path}: not YAML: {error}") from error
    if not isinstance(found, dict):
        raise EdgeseaError(f"{path}: must hold a mapping")
    return found


def as_yaml(options: Mapping[str, Any]) -> str:
    """Options as YAML."""
    import yaml

    return str(yaml.safe_dump(plain(options), sort_keys=False, allow_unicode=True))


def write_yaml(path: Path, options: Mapping[str, Any]) -> None:
    """Write options as YAML, atomically."""
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
        raise EdgeseaError(f"{source}: must be a mapping of options, not {options!r}")
    names = inspect.signature(stage).parameters
    known = [name for name in names if name not in fixed]
    if unknown := [str(name) for name in options if name not in known]:
        raise EdgeseaError(f"{source}: unknown option {', '.join(unknown)}; known: {', '.join(known)}")
    app = App(config=[Dict(dict(options), source=source), refuse_fractions])
    app.default(stage)
    placeholders = [f"--{name}=0" for name in names if name in fixed]  # the caller sets them
    try:
        _, bound, _ = app.parse_args(placeholders, exit_on_error=False, print_error=False)
    except (CycloptsError, EdgeseaError) as error:
        text = " ".join(str(error).split()).replace(f" from {source}", "")
        raise EdgeseaError(f"{source}: {text}") from error
    bound.apply_defaults()
    return {name: value for name, value in bound.arguments.items() if name in known}


def refuse_fractions(app: Any, commands: tuple[str, ...], arguments: Any) -> None:
    """A hook of cyclopts, which would round 1.5 to a whole number."""
    for argument in arguments:
        for token in argument.tokens if argument.hint is int else ():
            if "." in token.value:
                raise EdgeseaError(f"{argument.name} must be a whole number, not {token.value}")
