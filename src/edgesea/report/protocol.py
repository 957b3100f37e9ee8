"""How a task was judged, in words: from the options that stand with its scores."""

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from edgesea.report.html import Html, element, integer, join

CLASSIFIERS = {"logistic": "logistic regression", "svm": "a support vector machine", "random_forest": "a random forest"}
FEATURES = {
    "mean": "the mean embedding of a clip",
    "statistics": "mean, standard deviation, minimum, maximum and median of a clip's windows",
    "framewise": "each window, averaged over the clip",
}
POOLING = {
    "mil": "the windows of a clip are pooled by AutoPool",
    "framewise": "each window is judged by itself, and a clip by the {aggregation} over its windows",
    "clip": "a clip is judged by its mean embedding",
}


def level(scores: Mapping[str, Any]) -> str:
    """``coarse tags`` or ``fine tags``; empty for a task without tags."""
    mode = scores.get("label_mode")
    return f"{mode} tags" if mode else ""


def protocol(scores: Mapping[str, Any], folds: Sequence[int] | None) -> Html:
    """What was judged, and by which classifier.

    Parameters
    ----------
    scores : mapping
        Of one system, as `edgesea.tasks.evaluate.evaluate` returns them.
    folds : sequence of int or None
        Folds that were asked for; None: all.

    Returns
    -------
    Html
        Sentences.
    """
    tagging, probe = scores.get("tagging"), scores.get("probe")
    clips = f"Task {scores.get('task')}: {integer(scores.get('clips'))} clips"
    if isinstance(tagging, Mapping):
        return join([f"{clips} {_judged(scores, tagging)}", _tagger(tagging), *_flattery(tagging)], " ")
    if isinstance(probe, Mapping):
        which = f"of {_named(folds)} alone, tested" if folds else "of the official folds, each tested"
        return join([f"{clips} {which} with a classifier trained on all other folds: {_probe(probe)}."])
    return join([f"{clips} judged."])


def _named(folds: Sequence[int]) -> str:
    return f"fold{'s' if len(folds) > 1 else ''} {', '.join(map(str, folds))}"


def _probe(options: Mapping[str, Any]) -> str:
    kind = str(options.get("classifier"))
    network = "a network" if options.get("search") else f"a network with {_layers(options)}"
    own = network if kind == "mlp" else CLASSIFIERS.get(kind, kind)
    seen = FEATURES.get(str(options.get("features")), options.get("features"))
    search = (
        ", its parameters chosen by leaving out each of the training folds in turn" if options.get("search") else ""
    )
    return f"{own} on {seen}{search}"


def _layers(options: Mapping[str, Any]) -> str:
    count, units = options.get("num_hidden_layers"), options.get("hidden_layer_size")
    return f"{count} hidden layer{'s' if count != 1 else ''} of {units} units" if count else "no hidden layer"


def _judged(scores: Mapping[str, Any], options: Mapping[str, Any]) -> str:
    """Clips, tags, and where the clips come from."""
    source = f" (of {PurePath(str(options['split_path'])).name})" if options.get("split_path") else ""
    trained = f"{integer(scores.get('train_clips'))} training clips"
    split = f"the split {options.get('eval_split')}{source}"
    return f"of {split} that are verified, judged by their {level(scores)}, which were learned from {trained}."


def _tagger(options: Mapping[str, Any]) -> str:
    members = options.get("members") or 1
    own = f"a network with {_layers(options)}"
    if members > 1:
        own = f"{members} networks with {_layers(options)} each, whose probabilities are averaged"
    mode = str(options.get("target_mode"))
    pooling = POOLING.get(mode, mode).format(aggregation=options.get("aggregation"))
    context = " It is also told where and when a clip was recorded." if options.get("context") else ""
    return f"The classifier is {own}; {pooling}.{context}"


def _flattery(options: Mapping[str, Any]) -> list[Html]:
    """A warning if the clips that are judged also chose when training ends."""
    patience = options.get("patience", 1)
    if options.get("monitor") != "validate" or options.get("eval_split") != "validate" or not patience:
        return []
    return [element("strong", "Training stopped by the loss on the very clips that are judged, so the scores flatter.")]
