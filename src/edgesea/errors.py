"""The one exception that means "the user can fix this", the one warning, and what is logged once."""

import errno
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache

log = logging.getLogger(__name__)
FULL = (errno.ENOSPC, errno.EDQUOT)  # errors of a full disk


class EdgeseaError(ValueError):
    """A problem in the input, the options or the files; its message names the value and the remedy.

    The command line shows that message without a traceback.
    """


class EdgeseaWarning(UserWarning):
    """Audio that can be embedded, but probably is not what was meant."""


@lru_cache(10_000)
def say(message: str, level: int = logging.INFO) -> None:
    """Log what is found out about a file; once, however often it is read."""
    log.log(level, message)


def error_of(function: Callable[..., object], *arguments: object) -> str | None:
    """Call a function; returns the text of its EdgeseaError."""
    try:
        function(*arguments)
    except EdgeseaError as error:
        return str(error)
    return None


@contextmanager
def explained(problem: str) -> Iterator[None]:
    """In this block, of others' code or files, exceptions (but of a full disk) become EdgeseaErrors with `problem`."""
    try:
        yield
    except Exception as error:
        if getattr(error, "errno", None) in FULL:
            raise
        raise EdgeseaError(f"{problem} ({type(error).__name__}: {' '.join(str(error).split())})") from error


def missing_extra(package: str, extra: str) -> EdgeseaError:
    """Error for a distribution (`package`) that is not installed, which an extra of edgesea brings."""
    return EdgeseaError(f"{package} is not installed; it comes with: pip install 'edgesea[{extra}]'")


@contextmanager
def needs(package: str, extra: str) -> Iterator[None]:
    """In this block, or in the function that it decorates, a failing import of `package` names the extra."""
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != package:
            raise
        raise missing_extra(package, extra) from error
