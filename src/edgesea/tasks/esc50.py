"""ESC-50 and ESC-10 (Piczak, 2015): 5 s of one of fifty (ten) classes a clip, five official folds."""

from pathlib import Path

from edgesea.tasks.fold_table import Layout, read_folds
from edgesea.tasks.folds import FoldTask

LAYOUT = Layout(
    task="esc50",
    table="meta/esc50.csv",
    audio="audio/{file}",
    file="filename",
    fold="fold",
    label="category",
    recording="src_file",
)


def load_esc50(data: Path) -> FoldTask:
    """Read ``meta/esc50.csv`` and ``audio/`` below `data`; see `read_folds` for the errors."""
    return read_folds(data, LAYOUT)
