from pathlib import Path
from typing import Any

import pytest

from edgesea.errors import EdgeseaError
from edgesea.tasks.options import ProbeOptions, TaggingOptions


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_hidden_layers": -1}, "tagging: num_hidden_layers must be at least 0, not -1"),
        ({"hidden_layer_size": 0}, "hidden_layer_size must be at least 1"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"l2_reg": float("nan")}, "l2_reg must be at least 0, not nan"),
        ({"learning_rate": 0.0}, "learning_rate must be positive"),
        ({"pca_components": 0}, "pca_components must be at least 1"),
        ({"thresh_type": "median"}, r"thresh_type must be mean or percentile_1 \.\.\. 99, not 'median'"),
        ({"thresh_type": "percentile_100"}, "thresh_type must be"),
        ({"thresh_type": "percentile_²"}, "thresh_type must be"),
        ({"oversample": "mlsmote", "sensor_factor": True}, "leave out the factors"),
        ({"optimizer": "sgd"}, "tagging: optimizer must be adam or lbfgs, not 'sgd'"),
        ({"target_mode": "Framewise"}, "target_mode must be mil or framewise or clip, not 'Framewise'"),
        ({"oversample": "smote"}, "oversample must be mlsmote or lssmote or none, not 'smote'"),
        ({"members": 2.5}, "members must be int, not 2.5"),
        ({"num_epochs": True}, "num_epochs must be int, not True"),
        ({"context": 1}, "context must be bool, not 1"),
        ({"pca_components": "8"}, "pca_components must be int or none, not '8'"),
        ({"split_path": 3}, "split_path must be Path or none, not 3"),
    ],
)
def test_options_that_make_no_classifier_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(EdgeseaError, match=message):
        TaggingOptions(**options)


def test_options_at_their_limits_are_fine() -> None:
    TaggingOptions(num_hidden_layers=0, patience=0, l2_reg=0, thresh_type="percentile_99", oversample="lssmote")
    assert ProbeOptions("mlp", num_hidden_layers=2, hidden_layer_size=8).hidden == (8, 8)
    assert ProbeOptions("mlp", num_hidden_layers=0).hidden == ()
    TaggingOptions(l2_reg=1, split_path=Path("a.csv"), pca_components=8)
    with pytest.raises(
        EdgeseaError, match="probe: classifier must be logistic or mlp or svm or random_forest, not 'knn'"
    ):
        ProbeOptions("knn")  # type: ignore[arg-type]
    with pytest.raises(EdgeseaError, match="probe: 1 hidden layers of 0 units are no network"):
        ProbeOptions(hidden_layer_size=0)
