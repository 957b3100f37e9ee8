"""YAML: options of stages, checked by the same signatures from which the command line is made."""

import inspect
import os
import string
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

from edgesea.artifact import atomic_path
from edgesea.errors import EdgeseaError


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file that holds a mapping; ${EDGESEA_DATA} (default: data) and other variables are filled in."""
    import yaml

    try:
        text = path.read_text("utf-8")
        found = yaml.safe_load(string.Template(text).safe_substitute({"EDGESEA_DATA": "data", **os.environ}))
    except OSError as error:
        raise EdgeseaError(f"{path}: {error.strerror or error}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise EdgeseaError(f"{path}: not YAML: {error}") from error
    if not isinstance(found, dict):
        raise EdgeseaError(f"{path}: must hold a mapping")
    return found


def write_yaml(path: Path, value: Mapping[str, Any]) -> None:
    """Write options as YAML, atomically."""
    import yaml

    with atomic_path(path) as temporary:
        temporary.write_text(yaml.safe_dump(plain(value), sort_keys=False, allow_unicode=True), "utf-8")


def plain(value: Any) -> Any:
    """A value for YAML: groups of options become mappings, paths text."""
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    return str(value) if isinstance(value, Path) else value


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
