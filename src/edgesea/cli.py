"""The command line: one command for each stage, generated from the stages' signatures and docstrings."""

import json
import logging
import os
import sys
from collections import deque
from collections.abc import Callable
from functools import wraps
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any

from edgesea.errors import EdgeseaError, missing_extra
from edgesea.report.summary import summary

TRAIN = (
    "torch",
    "lightning",
    "pyarrow",
    "scipy",
    "sklearn",
    "pandas",
    "matplotlib",
    "joblib",
    "threadpoolctl",
)  # modules of the extra `train`
LISTS = ("embed", "tables")  # commands that begin with a list
WITHOUT_VALUE = ("-h", "--help", "--print_config")
STAGES = {
    "extract": "extract",
    "sample": "sampling",
    "reduce": "reduction",
    "distill": "distill",
    "embed": "embed.files",
    "stream": "embed.pcm",
    "evaluate": "tasks.evaluate",
    "score": "tasks.score",
    "run": "pipeline",
    "select": "select",
    "report": "report",
    "tables": "report.paper_tables",
    "demo": "demo",
    "import": "table.importing",
}  # commands and their modules
FUNCTIONS = {"import": "import_table"}  # the name is a keyword of the language
EMBED_OPTIONS = {
    "-o": "--out",
    "--output-dir": "--out",
    "-x": "--suffix",
    "-t": "--hop",
    "--hop-size": "--hop",
    "--audio-hop-size": "--hop",
    "-ab": "--batch_size",
    "--audio-batch-size": "--batch_size",
    "-n": "--center=false",
    "--no-centering": "--center=false",
    "--no-audio-centering": "--center=false",
    "-ow": "--overwrite",
    "-q": "--quiet",
    "--batch-size": "--batch_size",
    "--sample-rate": "--sample_rate",
}  # the names that options of `embed` have in edgel3 and openl3
EMBED_SWITCHES = ("--overwrite", "--quiet", "--recursive", "--stdin")  # options of `embed` that may lack a value
MODEL_OPTIONS = (
    "--model-type",
    "--emb-dim",
    "--retrain-type",
    "--sparsity",
    "--model-sparsity",
    "--input-repr",
    "--content-type",
    "--audio-embedding-size",
    "--embedding-size",
)  # that choose a model in edgel3 and openl3
RESUMED = ("extract", "import", "distill", "embed", "run", "select", "demo")  # commands that go on where they ended


def _commands() -> dict[str, Callable[..., Any]]:
    """The commands by name; one whose libraries are not installed tells so when it is called."""
    commands: dict[str, Callable[..., Any]] = {}
    for name, module in STAGES.items():
        try:
            function = getattr(import_module(f"edgesea.{module}"), FUNCTIONS.get(name, name))
        except ModuleNotFoundError as error:
            function = _unavailable(_package(error))
        commands[name] = _with_page(function) if name == "reduce" else function
    return commands


def _package(error: ModuleNotFoundError) -> str:
    """The library of the extra `train` that is missing; the error is raised again if it is about anything else."""
    package = (error.name or "").partition(".")[0]
    if package not in TRAIN:
        raise error
    return package


def _unavailable(package: str) -> Callable[..., Any]:
    def unavailable() -> None:
        raise missing_extra(package, "train")

    unavailable.__doc__ = f"Not available: {missing_extra(package, 'train')}."
    return unavailable


def _with_page(reduce: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """`reduce` and its page: a run has a report of its own, and a selection reduces too often to draw each time."""
    if reduce.__name__ == "unavailable":
        return reduce

    @wraps(reduce)
    def command(table: Path, out: Path, **options: Any) -> dict[str, Any]:
        from edgesea.report import reduction_page

        result = reduce(table, out, **options)
        try:
            return {**result, "report": str(reduction_page(out, table, options.get("subset")))}
        except Exception as error:  # the reduction must not be lost for the sake of a plot
            logging.getLogger(__name__).warning("the reduction is finished, but its page is not: %s", error)
            return result

    return command


def main(arguments: list[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    arguments : list of str, optional
        Default: those of the process.

    Returns
    -------
    int
        0; 1 for an error in input, options or files, also of one of many files to embed; 130 if interrupted. (argparse
        exits with 2 for a wrong call.)
    """
    from jsonargparse import auto_cli, set_parsing_settings

    if sys.stderr is None:  # closed, as that of a service may be; libraries write to it
        sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        arguments = _translated(arguments)
    except EdgeseaError as error:
        return _fail(str(error))
    quiet = arguments[:1] in (["embed"], ["stream"]) and "--quiet=true" in arguments
    arguments = _normalised(arguments)
    again = _again(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    started_by_trainer = bool(int(os.environ.get("LOCAL_RANK") or 0))  # to train on another device
    level = logging.ERROR if quiet else logging.WARNING if started_by_trainer else logging.INFO
    logging.getLogger("edgesea").setLevel(level)
    set_parsing_settings(docstring_parse_style=_numpydoc())
    try:
        commands = _commands()
        wanted = commands.get(arguments[0]) if arguments else None
        if wanted is not None and wanted.__name__ == "unavailable":
            wanted()  # before its options are found unknown
        result = auto_cli(
            commands,  # type: ignore[arg-type]
            args=arguments,
            prog="edgesea",
            as_positional=True,
            description="Make a big audio-embedding model small, specialised for your recordings.",
        )
        if isinstance(result, dict) and not started_by_trainer and not quiet:
            print(_shown(result))
        some_failed = arguments[:1] == ["embed"] and isinstance(result, dict) and result["failed"]
        return 1 if some_failed else 0
    except EdgeseaError as error:
        return _fail(str(error))
    except ModuleNotFoundError as error:
        return _fail(str(missing_extra(_package(error), "train")))
    except RuntimeError as error:
        if "out of memory" not in str(error):  # what torch says of a GPU
            raise
        return _fail(f"{str(error).splitlines()[0]} Choose a smaller batch_size.")
    except KeyboardInterrupt:
        print(f"edgesea: interrupted; {again}", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (OSError, MemoryError) as error:
        return _fail(_system_error(error, again))


def _translated(arguments: list[str]) -> list[str]:
    """The arguments of `embed` and `stream` with their own names for options that are named as in edgel3 and openl3."""
    if arguments[:1] not in (["embed"], ["stream"]):
        return arguments
    end = arguments.index("--") if "--" in arguments else len(arguments)
    translated = arguments[:1]
    words = deque(arguments[1:end])
    while words:
        word = words.popleft()
        if word[:2] in ("-n", "-q") and len(word) > 2 and word[2] != "=":  # several short options in one word
            words.extendleft((f"-{word[2:]}", word[:2]))
            continue
        option, equals, value = _parted(word)
        if translated[-1] in EMBED_SWITCHES and word.lower() in ("true", "false"):
            translated[-1] += f"={word.lower()}"
            continue
        if option in MODEL_OPTIONS:
            raise EdgeseaError(
                f"{option}: here a model is named as a whole, after the recordings: edgel3/sea-512 ... edgel3/sea-64, "
                "openl3/env-mel256-512, or a student's folder"
            )
        name = EMBED_OPTIONS.get(option, option)
        if name in EMBED_SWITCHES:
            value = value.lower()
            if option != name and not equals:  # takes no value in edgel3 and openl3
                equals, value = "=", "true"
        translated.append(name + equals + value)
    return [f"{word}=true" if word in EMBED_SWITCHES else word for word in translated] + arguments[end:]


def _parted(word: str) -> tuple[str, str, str]:
    """An option, "=" and the value that is joined to it (``--hop=0.5``, ``-t0.5``); the last two are empty without."""
    short = next((name for name in (word[:3], word[:2]) if name in EMBED_OPTIONS), word)
    if word != short and word[len(short)] != "=":
        return short, "=", word[len(short) :]
    option, equals, value = word.partition("=")
    return option, equals, value


def _normalised(arguments: list[str]) -> list[str]:
    """The arguments as jsonargparse wants them.

    The words of a list (`embed A B`, `tables A B`) are one argument, and the last of `embed` may be the model.
    `evaluate` of predictions that are there already, and `embed` of standard input, are other commands.
    """
    command, words, options = arguments[0] if arguments else "", list[str](), list[str]()
    rest = iter(arguments[1:])
    for word in rest:
        if word == "--":
            words += rest
        elif not word.startswith("-"):
            words.append(word)
        else:
            options.append(word)
            if "=" not in word and word not in WITHOUT_VALUE:
                options += islice(rest, 1)
    if command == "evaluate" and words and words[0].lower().endswith(".csv"):
        return ["score", *words, *options]
    if command == "stream" or (command == "embed" and "--stdin=true" in options):
        options = [word for word in options if word.partition("=")[0] not in ("--stdin", "--quiet")]
        return ["stream", *words[1:], *(["--model", words[0]] if words else []), *options]
    options = [word for word in options if word != "--stdin=false"]
    named = any(word.partition("=")[0] == "--model" for word in options)
    if command == "embed" and len(words) > 1 and not named and _is_model(words[-1]):
        options += ["--model", words.pop()]
    if command not in LISTS or not words:
        return arguments
    if not (words[0].startswith("[") and words[0].endswith("]")) or Path(words[0]).exists():
        words = [json.dumps(words)]
    return [command, *words, *options]


def _is_model(word: str) -> bool:
    """Whether the last word of `embed` is a model, and not one more recording or folder of recordings."""
    from edgesea.audio.io import audio_suffixes
    from edgesea.models.student_files import is_student

    path = Path(word)
    if path.exists():
        return is_student(path)
    return path.suffix.lower() not in audio_suffixes()


def _shown(result: dict[str, Any]) -> str:
    """What a command says at its end."""
    if "run" in result:
        return summary(result, Path(result["run"]))
    if "markdown" in result:
        return f"{result['text']}\n{result['markdown']}\n{result['html']}"
    return json.dumps(_brief(result), indent=2)


def _fail(message: str) -> int:
    print(f"edgesea: error: {message}", file=sys.stderr)
    return 1


def _again(arguments: list[str]) -> str:
    """What becomes of a command that ended before its time and is given again."""
    command = next((word for word in arguments if not word.startswith("-")), "")
    anew = command not in RESUMED or "--overwrite=true" in arguments
    return "run it again" if anew else "the same command goes on from here"


def _system_error(error: OSError | MemoryError, again: str) -> str:
    import errno

    if isinstance(error, MemoryError):
        return "out of memory; choose smaller parts, batches or fewer workers"
    full = error.errno in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error)
    name = f"{error.filename}: " if error.filename else ""
    text = f"{name}{error.strerror or error}"
    return f"{text}; free some space, then {again}" if full else text


def _numpydoc() -> Any:
    from docstring_parser import DocstringStyle

    return DocstringStyle.NUMPYDOC


def _brief(result: dict[str, Any]) -> dict[str, Any]:
    """The result without lists too long to read on a terminal."""
    return {
        key: _brief(value) if isinstance(value, dict) else value
        for key, value in result.items()
        if not (isinstance(value, list) and (len(value) > 8 or any(isinstance(item, dict) for item in value)))
    }


if __name__ == "__main__":
    sys.exit(main())
