from typing import Any

import pytest

from edgesea.errors import EdgeseaError
from edgesea.tasks.options import ProbeOptions, TaggingOptions, check_seed


@pytest.mark.parametrize(
    ("group", "options", "name"),
    [
        (TaggingOptions, {"num_hidden_layers": -1}, "num_hidden_layers"),
        (TaggingOptions, {"l2_reg": float("nan")}, "l2_reg"),
        (TaggingOptions, {"learning_rate": -1.0}, "learning_rate"),
        (TaggingOptions, {"pca_components": 0}, "pca_components"),
        (TaggingOptions, {"thresh_type": "percentile_100"}, "thresh_type"),
        (TaggingOptions, {"thresh_type": "percentile_²"}, "thresh_type"),
        (TaggingOptions, {"optimizer": "sgd"}, "optimizer"),
        (TaggingOptions, {"oversample": "smote"}, "oversample"),
        (TaggingOptions, {"oversample": "mlsmote", "sensor_factor": True}, "factors"),
        (ProbeOptions, {"classifier": "knn"}, "classifier"),
        (ProbeOptions, {"hidden_layer_size": 0}, "hidden_layer_size"),
    ],
)
def test_bad_options_are_refused_by_name_and_value(group: Any, options: dict[str, Any], name: str) -> None:
    with pytest.raises(EdgeseaError) as error:
        group(**options)
    assert name in str(error.value)
    assert len(options) > 1 or repr(options[name]) in str(error.value)


def test_options_at_their_limits_are_fine() -> None:
    TaggingOptions(num_hidden_layers=0, patience=0, l2_reg=0, thresh_type="percentile_99", oversample="lssmote")
    ProbeOptions("mlp", num_hidden_layers=0, hidden_layer_size=1)
    check_seed(2**32 - 5, members=5)
    with pytest.raises(EdgeseaError, match=str(2**32 - 4)):
        check_seed(2**32 - 4, members=5)
