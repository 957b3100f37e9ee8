"""Versions that go into every artifact."""

from importlib.metadata import PackageNotFoundError, version


def versions() -> dict[str, str]:
    """Versions of edgesea and of the libraries that numbers depend on, where installed."""
    found = {}
    for name in ("edgesea", "numpy", "torch", "soxr", "soundfile", "scikit-learn", "umap-learn", "pyarrow"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
