"""UrbanSound8K (Salamon, Jacoby and Bello, 2014): up to 4 s of one of ten classes a clip, ten official folds.

The folds differ in size; the data set's authors ask for the mean of their accuracies (``fold_accuracy``).
"""

from pathlib import Path

from edgesea.tasks.fold_table import Layout, read_folds
from edgesea.tasks.folds import FoldTask

LAYOUT = Layout(
    task="urbansound8k",
    table="metadata/UrbanSound8K.csv",
    audio="audio/fold{fold}/{file}",
    file="slice_file_name",
    fold="fold",
    label="class",
    recording="fsID",
)


def load_urbansound8k(data: Path) -> FoldTask:
    """Read ``metadata/UrbanSound8K.csv`` and ``audio/fold1 ...`` below `data`; see `read_folds` for the errors."""
    return read_folds(data, LAYOUT)
