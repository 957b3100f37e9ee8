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
        ({"oversample": "mlsmote", "sensor_factor": True}, "leave out the factors"),
    ],
)
def test_options_that_make_no_classifier_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(EdgeseaError, match=message):
        TaggingOptions(**options)


def test_options_at_their_limits_are_fine() -> None:
    TaggingOptions(num_hidden_layers=0, patience=0, l2_reg=0, thresh_type="percentile_99", oversample="lssmote")
    assert ProbeOptions("mlp", num_hidden_layers=2, hidden_layer_size=8).hidden == (8, 8)
    assert ProbeOptions("mlp", num_hidden_layers=0).hidden == ()
    with pytest.raises(EdgeseaError, match="probe: 1 hidden layers of 0 units are no network"):
        ProbeOptions(hidden_layer_size=0)
