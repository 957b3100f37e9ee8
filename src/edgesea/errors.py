"""The one exception that means "the user can fix this", and the one warning."""


class EdgeseaError(ValueError):
    """A problem in the input, the options or the files; its message names the value and the remedy.

    The command line shows that message without a traceback.
    """


class EdgeseaWarning(UserWarning):
    """Audio that can be embedded, but probably is not what was meant."""


def missing_extra(package: str, extra: str) -> EdgeseaError:
    """Error for a module of an extra that is not installed.

    Parameters
    ----------
    package : str
        The distribution whose import failed.
    extra : str
        The extra of edgesea that installs it.

    Returns
    -------
    EdgeseaError
        To be raised by the caller (``raise missing_extra(...) from error``).
    """
    return EdgeseaError(f"{package} is not installed; it comes with: pip install 'edgesea[{extra}]'")
