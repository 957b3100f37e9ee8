"""temp"""

from pathlib import Path
from typing import Any


def report(run: Path) -> dict[str, Any]:
    """Temp.

    Parameters
    ----------
    run : Path
        Run.
    """
    return {}
