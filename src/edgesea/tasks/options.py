"""Options of the downstream classifiers, under the names that the field uses."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

from edgesea.errors import EdgeseaError

Classifier = Literal["logistic", "mlp", "svm", "random_forest"]
Features = Literal["mean", "statistics", "framewise"]
LEAST = {
    "num_hidden_layers": 0, "hidden_layer_size": 1, "learning_rate": 0, "l2_reg": 0, "batch_size": 1, "num_epochs": 1,
    "patience": 0, "pca_components": 1, "cooccurrence_loss_factor": 0, "oversample_iters": 1, "members": 1,
}  # fmt: skip


def _check(options: Any, group: str) -> None:
    for name, hint in get_type_hints(type(options)).items():
        value = getattr(options, name)
        choices = [one for part in (hint, *get_args(hint)) for one in get_args(part) if isinstance(one, str)]
        if choices and value not in (None, *choices):
            raise EdgeseaError(f"{group}: {name} must be one of {', '.join(choices)}, not {value!r}")
        if name in LEAST and value is not None and not value >= LEAST[name]:
            raise EdgeseaError(f"{group}: {name} must be at least {LEAST[name]}, not {value!r}")


@dataclass(frozen=True)
class ProbeOptions:
    """How the classes of clips are learned in a task with folds (esc50, urbansound8k).

    Attributes
    ----------
    classifier : {"logistic", "mlp", "svm", "random_forest"}
        From scikit-learn; all but the forest behind standardisation.
    features : {"mean", "statistics", "framewise"}
        What is classified: the mean of a clip's windows; their mean, standard deviation, minimum, maximum and median;
        or each window, and then the mean of their probabilities (of svm: decision values).
    search : bool
        Choose among a small grid of hyperparameters by leaving out each of the training folds in turn, or, of a single
        one, a fifth of its recordings.
    num_hidden_layers : int
        Of mlp, unless a search chooses it.
    hidden_layer_size : int
        Units in each hidden layer of mlp, unless a search chooses it.
    """

    classifier: Classifier = "logistic"
    features: Features = "mean"
    search: bool = False
    num_hidden_layers: int = 1
    hidden_layer_size: int = 128

    def __post_init__(self) -> None:
        _check(self, "probe")


@dataclass(frozen=True)
class TaggingOptions:
    """How tags are learned and evaluated (sonyc_ust).

    Attributes
    ----------
    label_mode : {"coarse", "fine"}
        Tags to learn. fine: coarse scores are those of the likeliest fine tag; where only the incomplete tag X of a
        coarse class was noted, the loss leaves its fine tags out.
    split_path : Path, optional
        CSV file with other splits: columns split (train, validate, test) and audio_filename or sensor_id.
    eval_split : {"validate", "test"}
        Split whose verified clips are tested.
    target_mode : {"mil", "framewise", "clip"}
        mil: one target for the windows of a clip, pooled by AutoPool. framewise: each window is a training example
        with the clip's target. clip: the mean embedding of a clip is one.
    aggregation : {"mean", "max", "softmax"}
        Of framewise: how the windows' probabilities become the clip's.
    num_hidden_layers : int
        0 is logistic regression.
    hidden_layer_size : int
        Units in each hidden layer.
    learning_rate : float
        Of adam.
    l2_reg : float
        Weight of the squared weights in the loss.
    batch_size : int
        Clips (framewise: windows) in a training step.
    num_epochs : int
        At most; of lbfgs, iterations.
    patience : int
        Epochs without a lower loss on the monitored clips after which training ends; the best epoch is kept.
        0: all epochs are trained and the last is kept.
    monitor : {"train", "validate"}
        Clips whose loss patience looks at. train: a tenth of the training clips (whole sensors where there are ten),
        which are not trained on. validate: the verified validation clips, as in the challenge's baseline; scores of
        the same clips are then too good.
    sensor_factor : bool
        Predict the sensor too, and give the prediction to the output layer.
    proximity_factor : bool
        Predict whether each fine tag is near or far too, and give the prediction to the output layer.
    standardize : bool
        Scale embeddings and coordinates to zero mean and unit variance.
    pca_components : int, optional
        Whiten the embeddings with a PCA to so many dimensions.
    cooccurrence_loss_factor : float
        Weight of the graph Laplacian loss, which pulls together tags that occur together; 0: none.
    oversample : {"mlsmote", "lssmote"}, optional
        Add synthetic clips of rare tags (MLSMOTE), or of rare sets of tags (label-set SMOTE).
    oversample_iters : int
        Rounds of oversampling.
    thresh_type : str
        Imbalance above which a tag counts as rare: mean, or percentile_1 ... percentile_99 of all.
    context : bool
        Also give the classifier latitude, longitude, hour, weekday and week.
    optimizer : {"adam", "lbfgs"}
        lbfgs takes all training clips in each step.
    members : int
        Networks with different seeds whose probabilities are averaged: a single one's scores vary by chance.
    """

    label_mode: Literal["coarse", "fine"] = "coarse"
    split_path: Path | None = None
    eval_split: Literal["validate", "test"] = "validate"
    target_mode: Literal["mil", "framewise", "clip"] = "mil"
    aggregation: Literal["mean", "max", "softmax"] = "mean"
    num_hidden_layers: int = 1
    hidden_layer_size: int = 128
    learning_rate: float = 1e-3
    l2_reg: float = 1e-5
    batch_size: int = 64
    num_epochs: int = 100
    patience: int = 20
    monitor: Literal["train", "validate"] = "train"
    sensor_factor: bool = False
    proximity_factor: bool = False
    standardize: bool = True
    pca_components: int | None = None
    cooccurrence_loss_factor: float = 0.0
    oversample: Literal["mlsmote", "lssmote"] | None = None
    oversample_iters: int = 1
    thresh_type: str = "mean"
    context: bool = False
    optimizer: Literal["adam", "lbfgs"] = "adam"
    members: int = 5

    def __post_init__(self) -> None:
        _check(self, "tagging")
        if not re.fullmatch("mean|percentile_[1-9][0-9]?", self.thresh_type):
            raise EdgeseaError(f"tagging: thresh_type must be mean or percentile_1 ... 99, not {self.thresh_type!r}")
        if self.oversample and (self.sensor_factor or self.proximity_factor):
            raise EdgeseaError("tagging: oversample makes clips without sensor or proximity; leave out the factors")


def check_seed(seed: int, members: int) -> None:
    last = 2**32 - members
    if not 0 <= seed <= last:
        raise EdgeseaError(f"seed must lie in 0 ... {last}, not {seed}")
