"""The command line: one command for each stage; options, help and aliases come from signatures and docstrings."""

import io
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from errno import EROFS
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import Annotated, Any, get_type_hints

from cyclopts import App, CycloptsError, Group, Parameter, UnknownOptionError
from cyclopts.config import Dict

from edgesea.artifact import WAIT, versions
from edgesea.cluster import Cluster, read_cluster, stop_in_order, using
from edgesea.cluster.slurm import Attempt
from edgesea.config import as_yaml, changed, changed_sections, nearest, read_yaml, tidy
from edgesea.distill.ranks import check_alone, is_silent
from edgesea.errors import FULL, EdgeseaError, missing_extra
from edgesea.parallel import sleep_when_idle
from edgesea.report import report_if_possible
from edgesea.tracking import Track, read_track
from edgesea.tracking import using as watched

COMMANDS = {
    "extract": "edgesea.extract:extract",
    "import": "edgesea.table.importing:import_table",
    "sample": "edgesea.sampling:sample",
    "reduce": "edgesea.reduction:reduce",
    "select": "edgesea.select:select",
    "distill": "edgesea.distill:distill",
    "embed": "edgesea.embed.files:embed",
    "stream": "edgesea.embed.files:stream",
    "search": "edgesea.nearest:search",
    "evaluate": "edgesea.tasks.evaluate:evaluate",
    "score": "edgesea.tasks.score:score",
    "data": "edgesea.tasks.data:data",
    "export": "edgesea.export:export",
    "run": "edgesea.pipeline:run",
    "submit": "edgesea.submit:submit",
    "status": "edgesea.submit.status:status",
    "cancel": "edgesea.submit:cancel",
    "profile": "edgesea.export.profile:profile",
    "report": "edgesea.report:report",
    "explore": "edgesea.explorer:explore",
    "tables": "edgesea.report.paper_tables:tables",
    "demo": "edgesea.demo:demo",
    "track": "edgesea.tracking:track",
}
# Commands that resume what was interrupted
RESUMED = ("extract", "import", "distill", "embed", "run", "select", "data", "demo")
# The names that options of `embed` and `stream` have in openl3 and edgel3, too.
ALIASES = {
    "out": Parameter(alias=["-o", "--output-dir"]),
    "suffix": Parameter(alias="-x"),
    "hop": Parameter(alias=["-t", "--hop-size", "--audio-hop-size"]),
    "batch_size": Parameter(alias=["-ab", "--audio-batch-size"]),
    "center": Parameter(negative=["--no-center", "--no-centering", "--no-audio-centering", "-n"]),
    "overwrite": Parameter(alias="-ow"),
    "quiet": Parameter(alias="-q"),
}


# Commands to whose help further options belong, which all accept.
SPREAD = ("extract", "import", "sample", "reduce", "select", "embed", "evaluate", "run", "submit", "demo")
WATCHED = ("distill", "evaluate", "run", "submit", "demo", "track")


def _load(name: str) -> Callable[..., Any]:
    """The function of a command, with its aliases."""
    module, _, attribute = COMMANDS[name].partition(":")
    function: Callable[..., Any] = getattr(import_module(module), attribute)
    if name in ("embed", "stream"):
        hints = get_type_hints(function, include_extras=True)
        function.__annotations__ = {
            own: Annotated[hint, ALIASES[own]] if own in ALIASES else hint for own, hint in hints.items()
        }
    return function


def _unavailable(error: ModuleNotFoundError) -> Callable[..., Any]:
    """Stands for a command whose libraries are not installed."""
    missing = _missing(error)

    def unavailable(*words: Annotated[str, Parameter(allow_leading_hyphen=True)]) -> None:
        raise missing

    unavailable.__doc__ = f"Not available: {missing}."
    return unavailable


def _missing(error: ModuleNotFoundError) -> EdgeseaError:
    package = (error.name or "").partition(".")[0]
    if package in ("", "edgesea"):
        raise error
    return missing_extra(package, "train")


def _app(arguments: list[str], attempt: Attempt) -> App:
    """The command line with the command that is asked for, or with all of them, for the help."""
    app = App(
        name="edgesea",
        help="Make a big audio-embedding model small, specialised for your recordings.",
        help_format="markdown",
        version=lambda: versions()["edgesea"],
        default_parameter=Parameter(consume_multiple=True, negative_iterable=()),
        config=[tidy],
        result_action="return_value",
        suppress_keyboard_interrupt=False,
    )
    app.meta.suppress_keyboard_interrupt = False
    app.meta.group_parameters = Group("Options of every command", sort_key=0)
    asked = [name for name in COMMANDS if name in arguments[:1]]
    places = Group("Where it is computed", sort_key=1, show=bool({*asked} & {*SPREAD}))
    watching = Group("Who watches it", sort_key=2, show=bool({*asked} & {*WATCHED}))
    for place, name in enumerate(asked or COMMANDS):
        try:
            function = _load(name)
        except ModuleNotFoundError as error:
            function = _unavailable(error)
        app.command(function, name=name, sort_key=place)

    @app.meta.default
    def launch(
        *words: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)],
        config: Path | None = None,
        print_config: bool = False,
        wait: bool = False,
        place: Annotated[Cluster, Parameter(name="*", group=places)] = Cluster(),  # noqa: B008
        watchers: Annotated[Track, Parameter(name="*", group=watching)] = Track(),  # noqa: B008
    ) -> Any:
        """Make a big audio-embedding model small, specialised for your recordings.

        Parameters
        ----------
        config
            YAML file with options of the command; those on the command line count more.
        print_config
            Print all options of the command as YAML, and do nothing else.
        wait
            Wait for another command that writes to the same folder, as EDGESEA_WAIT=1 in the environment does.
        """
        if config is not None:
            given = read_yaml(config)
            cluster = read_cluster(given.pop("cluster", None), f"{config}: cluster", COMMANDS)
            place = replace(cluster, **changed(place))
            place = place.for_stage(words[0]) if words[:1] != ("run",) else place
            watchers = replace(read_track(given.pop("track", None), f"{config}: track"), **changed(watchers))
            options = Dict(given, source=str(config), use_commands_as_keys=False)
            app.config = (options, *app.config)
        try:
            function, bound, _ = app.parse_args(words, exit_on_error=False, print_error=False)
        except UnknownOptionError as error:
            if error.token.source != str(config):
                raise
            wrong, known = error.token.keyword or "", signature(_load(words[0])).parameters
            raise EdgeseaError(f"{config}: unknown option {nearest([wrong.strip('[]')], known)}") from None
        if print_config:
            bound.apply_defaults()
            print(as_yaml({**bound.arguments, **changed_sections(cluster=place, track=watchers)}), end="")
            return None
        if words:
            check_alone(words[0])
            attempt.begin(bound.arguments.get("out"))
        if wait:
            os.environ[WAIT] = "1"
        helper = is_silent(words[0] if words else "")
        quiet = bound.arguments.get("quiet", False)
        level = logging.ERROR if quiet else logging.WARNING if helper else logging.INFO
        logging.getLogger("edgesea").setLevel(level)
        with using(place), watched(watchers):
            result = function(*bound.args, **bound.kwargs)
        if words[:1] in (("reduce",), ("select",)):
            result |= report_if_possible(bound.arguments["out"], bound.arguments["table"])
        if words[:1] == ("search",):
            from edgesea.nearest import as_text

            print(as_text(result))
        elif isinstance(result, dict) and not helper and not quiet:
            print(_shown(result))
        return result

    return app


def main(arguments: list[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    arguments : list of str, optional
        Default: those of the process.

    Returns
    -------
    int
        0; 1 for an error in input, options or files, also of one of many files to embed; 2 for a wrong call; 130 if
        interrupted.
    """
    if sys.stderr is None:  # closed, as that of a service may be; libraries write to it
        sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # of names of files that are not UTF-8
    sleep_when_idle()
    arguments = sys.argv[1:] if arguments is None else arguments
    logging.basicConfig(format="%(message)s")
    if threading.current_thread() is threading.main_thread():
        stop_in_order()
    resumed = arguments[:1] and arguments[0] in RESUMED and "--overwrite" not in arguments
    again = "run the same command again: it resumes" if resumed else "run it again"
    attempt = Attempt()
    try:
        app = _app(arguments, attempt)
        result = app.meta(arguments or ["--help"], exit_on_error=False, print_error=False)
        facts = getattr(result, "attrs", result) if arguments[:1] in (["embed"], ["search"]) else None
        return 1 if isinstance(facts, dict) and facts["failed"] else 0
    except CycloptsError as error:
        return _fail(f"{' '.join(str(error).split())} See: edgesea {arguments[0] if arguments else ''} --help", 2)
    except EdgeseaError as error:
        return _fail(str(error))
    except ModuleNotFoundError as error:
        return _fail(str(_missing(error)))
    except RuntimeError as error:
        if "out of memory" not in str(error):  # what torch says of a GPU
            raise
        return _fail(f"{str(error).splitlines()[0]} Choose a smaller batch_size.")
    except KeyboardInterrupt as error:
        stopped = getattr(error, "signal", 2)
        requeued = stopped == signal.SIGUSR1 and attempt.requeue()
        print(
            f"edgesea: interrupted ({signal.Signals(stopped).name}); {'requeued' if requeued else again}",
            file=sys.stderr,
        )
        return 128 + stopped
    except UnicodeEncodeError as error:
        return _fail(f"{error.object!r}: not UTF-8, which a library that is needed here cannot open; rename it")
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except MemoryError:
        return _fail("out of memory; choose smaller parts, batches or fewer workers")
    except OSError as error:
        text = f"{error.filename}: {error.strerror or error}" if error.filename else str(error.strerror or error)
        remedies = {EROFS: "; write to another folder", **dict.fromkeys(FULL, f"; free some space, then {again}")}
        return _fail(text + remedies.get(error.errno or 0, ""))


def _fail(message: str, code: int = 1) -> int:
    print(f"edgesea: error: {message}", file=sys.stderr)
    return code


def _shown(result: dict[str, Any]) -> str:
    """What a command prints at its end."""
    if "run" in result:
        from edgesea.report.summary import summary

        return summary(result, Path(result["run"]))
    if "text" in result:
        return "\n".join(result[key] for key in ("text", "markdown", "html") if key in result)
    return json.dumps(_brief(result), indent=2, ensure_ascii=False)


def _brief(result: dict[str, Any]) -> dict[str, Any]:
    """The result without lists too long to read on a terminal."""
    return {
        key: _brief(value) if isinstance(value, dict) else value
        for key, value in result.items()
        if not (isinstance(value, list) and (len(value) > 8 or any(isinstance(item, dict) for item in value)))
    }
