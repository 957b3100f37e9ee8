import signal
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from edgesea.audio.framing import Framing
from edgesea.demo.city import make_city
from edgesea.embed.engine import embed_files
from edgesea.errors import EdgeseaError
from edgesea.models import load_model
from edgesea.tasks.annotations import read_annotations
from edgesea.tasks.bags import Bags, Targets
from edgesea.tasks.options import TaggingOptions
from edgesea.tasks.preparation import Preparation
from edgesea.tasks.tagger import tag_probabilities
from edgesea.tasks.tagger_network import auto_pool, cooccurrence_laplacian, laplacian_loss
from edgesea.tasks.tagger_training import Examples, train_network
from edgesea.tasks.taxonomy import read_taxonomy

FAST = TaggingOptions(learning_rate=0.01, num_epochs=40, patience=0, hidden_layer_size=64, members=1)


def problem(clips: int = 100, seed: int = 0) -> tuple[Bags, Targets]:
    """Clips of one to four windows that tell three tags, with noise."""
    rng = np.random.default_rng(seed)
    labels = (rng.random((clips, 3)) < 0.4).astype(np.float32)
    counts = rng.integers(1, 5, clips)
    rows = np.repeat(labels, counts, 0) @ np.random.default_rng(99).standard_normal((3, 6))
    rows = 5 + 3 * (rows + rng.standard_normal(rows.shape))
    where = rng.uniform(0, 6, (clips, 5)).astype(int).astype(float)
    return Bags(rows.astype(np.float32), counts, where), Targets(labels, np.ones(labels.shape, bool))


def test_probabilities_are_the_mean_of_networks_with_consecutive_seeds() -> None:
    train, targets = problem()
    test, wanted = problem(60, seed=1)
    together = tag_probabilities(train, targets, test, replace(FAST, members=2), 4)
    single = [tag_probabilities(train, targets, test, FAST, seed) for seed in (4, 5)]
    np.testing.assert_allclose(together, np.mean(single, 0), atol=1e-9)
    assert (together.shape, together.dtype) == ((60, 3), np.float64)
    assert ((together >= 0) & (together <= 1)).all()
    assert not np.allclose(single[0], single[1])
    assert ((together > 0.5) == wanted.labels).mean() > 0.75


@pytest.mark.parametrize("mode", ["mil", "framewise", "clip"])
@pytest.mark.parametrize("optimizer", ["adam", "lbfgs"])
def test_tags_are_learned_in_every_mode_and_the_seed_decides(mode: Any, optimizer: Any) -> None:
    options = replace(FAST, target_mode=mode, optimizer=optimizer, patience=3)
    train, targets = problem(300)
    test, wanted = problem(100, seed=1)
    torch.manual_seed(1)
    found = tag_probabilities(train, targets, test, options, 0)
    assert ((found > 0.5) == wanted.labels).mean() > 0.75
    torch.manual_seed(2)
    np.random.seed(2)  # noqa: NPY002
    np.testing.assert_array_equal(tag_probabilities(train, targets, test, options, 0), found)


def test_clips_without_windows_are_not_trained_on_and_score_zero() -> None:
    train, targets = problem(80)
    test, _ = problem(20, seed=1)
    whole = tag_probabilities(train, targets, test, FAST, 0)
    # The same clips between others that could not be embedded, whose labels say the contrary.
    counts = np.zeros(107, np.int64)
    kept = np.sort(np.random.default_rng(0).permutation(107)[:80])
    counts[kept] = train.counts
    labels = np.ones((107, 3), np.float32)
    labels[kept] = targets.labels
    gappy = Bags(train.rows, counts), Targets(labels, np.ones((107, 3), bool))
    np.testing.assert_array_equal(tag_probabilities(*gappy, test, FAST, 0), whole)
    some = test.take(np.arange(10))
    padded = Bags(some.rows, np.r_[0, some.counts, 0, 0])
    found = tag_probabilities(train, targets, padded, FAST, 0)
    assert not found[[0, 11, 12]].any()
    np.testing.assert_allclose(found[1:11], whole[:10], atol=1e-6)
    nothing = Bags(np.zeros((0, 6), np.float32), np.zeros(5, np.int64))
    assert not tag_probabilities(train, targets, nothing, FAST, 0).any()


def test_monitored_clips_end_the_training_early() -> None:
    train, targets = problem(60)
    test, wanted = problem(60, seed=1)
    options = replace(FAST, num_epochs=300, learning_rate=0.02, l2_reg=0.0)
    overfitted = tag_probabilities(train, targets, test, options, 0)
    own = tag_probabilities(train, targets, test, replace(options, patience=5), 0)
    watched = tag_probabilities(train, targets, test, replace(options, patience=5), 0, (test, wanted))

    def loss(p: np.ndarray) -> float:
        right = np.where(wanted.labels == 1, p, 1 - p)
        return float(-np.log(np.maximum(right, 1e-7)).mean())

    assert loss(watched) < loss(overfitted) / 2
    assert loss(own) < loss(overfitted) / 2
    # Without patience nothing is held out, and nothing is monitored.
    np.testing.assert_array_equal(tag_probabilities(train, targets, test, options, 0, (test, wanted)), overfitted)


def test_a_single_training_clip_is_trained_on() -> None:
    train, targets = problem(1)
    assert tag_probabilities(train, targets, train, replace(FAST, patience=3), 0).shape == (1, 3)


def test_what_is_missing_is_named_with_its_remedy() -> None:
    train, targets = problem()
    for option, message in (
        ("sensor_factor", "sensor_factor needs the column sensor_id"),
        ("proximity_factor", "proximity_factor needs the columns ..._proximity"),
        ("context", "context needs the columns latitude, longitude, hour, day and week"),
    ):
        bare = replace(train, context=None)
        with pytest.raises(EdgeseaError, match=message):
            tag_probabilities(bare, targets, bare, replace(FAST, **{option: True}), 0)
    with pytest.raises(EdgeseaError, match="monitor validate needs labelled clips"):
        tag_probabilities(train, targets, train, replace(FAST, monitor="validate"), 0)
    empty = Bags(train.rows[:0], np.zeros(100, np.int64))
    with pytest.raises(EdgeseaError, match="no training clip has embeddings"):
        tag_probabilities(empty, targets, train, FAST, 0)
    for bad in (np.nan, np.inf):
        broken = train.rows.copy()
        broken[3, 2] = bad
        with pytest.raises(EdgeseaError, match="1 of 100 training clips hold NaN or infinity"):
            tag_probabilities(train.with_rows(broken), targets, train, FAST, 0)
        with pytest.raises(EdgeseaError, match="1 of 100 test clips hold NaN or infinity"):
            tag_probabilities(train, targets, train.with_rows(broken), FAST, 0)
        with pytest.raises(EdgeseaError, match="1 of 100 monitored clips hold NaN or infinity"):
            tag_probabilities(train, targets, train, FAST, 0, (train.with_rows(broken), targets))


def test_context_is_used_and_may_hold_gaps() -> None:
    train, targets = problem(200)
    test, wanted = problem(100, seed=1)
    assert train.context is not None
    assert test.context is not None
    # The first tag depends on the hour alone.
    targets.labels[:, 0], wanted.labels[:, 0] = train.context[:, 2] >= 3, test.context[:, 2] >= 3
    with_context = tag_probabilities(train, targets, test, replace(FAST, context=True), 0)
    without = tag_probabilities(train, targets, test, FAST, 0)
    right = [((found[:, 0] > 0.5) == wanted.labels[:, 0]).mean() for found in (with_context, without)]
    assert right[0] > 0.95
    assert right[1] < 0.7
    gaps = test.context.copy()
    gaps[::3] = np.nan
    odd = tag_probabilities(train, targets, replace(test, context=gaps), replace(FAST, context=True), 0)
    assert np.isfinite(odd).all()


def test_ctrl_c_ends_the_training() -> None:
    train, targets = problem()
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        with pytest.raises(KeyboardInterrupt):
            tag_probabilities(train, targets, train, replace(FAST, num_epochs=100_000), 0)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


# --- on the synthetic city -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class City:
    """Clips of a synthetic city, embedded: those of eight sensors to train on, of four to judge."""

    bags: Bags
    coarse: Targets
    fine: Targets
    train: np.ndarray
    test: np.ndarray
    events: pd.DataFrame
    names: list[str]
    tags: tuple[str, ...]

    def probabilities(self, options: TaggingOptions, targets: Targets | None = None, seed: int = 0) -> np.ndarray:
        wanted = (targets or self.coarse).take(self.train)
        return tag_probabilities(self.bags.take(self.train), wanted, self.bags.take(self.test), options, seed)


@pytest.fixture(scope="module")
def city(tmp_path_factory: pytest.TempPathFactory) -> City:
    made = make_city(
        tmp_path_factory.mktemp("city"), sensors=12, days=2, clips_per_day=8, annotated=1.0, progress=False
    )
    taxonomy = read_taxonomy(made.taxonomy)
    found = read_annotations(made.annotations, taxonomy)
    embedded = embed_files(load_model("spectral"), [made.audio / name for name in found.clips], Framing())
    rows = [file.embedding for file in embedded if file.embedding is not None]
    bags = Bags(np.concatenate(rows), np.array([len(own) for own in rows]), found.context)
    reduced = Preparation.fit(bags, TaggingOptions(pca_components=32)).apply(bags).rows
    uncertain = np.zeros(found.coarse.shape, bool)
    uncertain[:, taxonomy.parent[taxonomy.incomplete]] = found.fine[:, taxonomy.incomplete] == 1
    complete = ~taxonomy.incomplete
    given = ~uncertain[:, taxonomy.parent[complete]]
    assert found.sensors is not None
    sensors = np.unique(found.sensors, return_inverse=True)[1]
    coarse = (found.coarse > 0).astype(np.float32)
    fine = (found.fine[:, complete] > 0).astype(np.float32) * given
    return City(
        bags.with_rows(reduced),
        Targets(coarse, np.ones(coarse.shape, bool), sensors, found.proximity),
        Targets(fine, given, sensors, found.proximity),
        np.flatnonzero(found.splits == "train"),
        np.flatnonzero(found.splits == "validate"),
        pd.read_csv(made.recipe),
        found.clips.tolist(),
        taxonomy.names,
    )


def average_precision(labels: np.ndarray, scores: np.ndarray) -> float:
    order = np.argsort(-scores.ravel(), kind="stable")
    hits = labels.ravel()[order]
    return float((hits * np.cumsum(hits) / np.arange(1, len(hits) + 1)).sum() / hits.sum())


@pytest.mark.parametrize("mode", ["mil", "framewise", "clip"])
def test_tags_of_the_city_are_found_at_sensors_not_trained_on(city: City, mode: Any) -> None:
    labels = city.coarse.labels[city.test]
    found = city.probabilities(replace(FAST, target_mode=mode, num_epochs=20))
    assert average_precision(labels, found) > labels.mean() + 0.35
    assert average_precision(labels, np.tile(city.coarse.labels[city.train].mean(0), (64, 1))) < labels.mean() + 0.25


def test_autopool_favours_the_windows_in_which_short_events_sound(city: City) -> None:
    """The mean gives the windows of an event their share of the clip; the shorter it is, the more AutoPool adds."""
    options = replace(FAST, num_epochs=60, l2_reg=1e-3)
    preparation = Preparation.fit(city.bags.take(city.train), options)
    trained = train_network(
        Examples.of(preparation.apply(city.bags.take(city.train)), city.coarse.take(city.train), None), None, options, 0
    )
    assert trained.network.alpha.min() > 1.5  # from 1 at first, from mean towards maximum
    with torch.no_grad():
        rows = torch.from_numpy(preparation.apply(city.bags).rows)
        p = trained.network(rows).tags.reshape(len(city.names), 10, -1)
        weights = torch.softmax(trained.network.alpha * p, 1).numpy()
        growing = [
            auto_pool(p, torch.full((8,), alpha)) for alpha in (0.0, 1.0, trained.network.alpha.min().item(), 20)
        ]
    assert all((more - less).min() > -1e-6 and (more - less).max() > 0.01 for less, more in pairwise(growing))
    shares, gains = [], []
    for (name, tag), events in city.events.groupby(["audio_filename", "coarse"]):
        second = np.arange(10)[:, None]
        begin, end = events.onset.to_numpy(), (events.onset + events.duration).to_numpy()
        sounding = ((second + 1 > begin) & (second < end)).any(1)
        if not sounding.all():
            shares.append(sounding.mean())
            gains.append(weights[city.names.index(name), sounding, city.tags.index(tag)].sum() / sounding.mean())
    short, long = np.array(shares) < 0.35, np.array(shares) >= 0.7
    assert short.sum() >= 10
    assert long.sum() >= 50
    short_gain, long_gain = np.array(gains)[short].mean(), np.array(gains)[long].mean()
    assert short_gain > 1.3 > long_gain > 1.05


def test_the_laplacian_loss_brings_tags_that_occur_together_closer(city: City) -> None:
    laplacian = cooccurrence_laplacian(torch.from_numpy(city.coarse.labels[city.train]))
    found = [city.probabilities(replace(FAST, cooccurrence_loss_factor=factor)) for factor in (0.0, 0.1, 1.0)]
    apart = [float(laplacian_loss(torch.from_numpy(p).float(), laplacian)) for p in found]
    assert apart[0] > 1.05 * apart[1] > 2 * apart[2]
    shared = -np.triu(laplacian.numpy(), 1)
    one, other = np.unravel_index(shared.argmax(), shared.shape)
    differences = [np.abs(p[:, one] - p[:, other]).mean() for p in found]
    assert differences[0] > differences[1] > differences[2]


def test_the_masked_loss_keeps_fine_tags_possible_where_only_the_incomplete_one_was_noted(city: City) -> None:
    """Without the mask, a network learns that these clips have none of the fine tags."""
    unmasked = replace(city.fine, given=np.ones_like(city.fine.given))
    noted = ~city.fine.given[city.test]
    assert (~city.fine.given[city.train]).any(1).sum() > 20
    assert noted.any(1).sum() > 5
    options = replace(FAST, members=2)
    masked, lowered = city.probabilities(options, city.fine), city.probabilities(options, unmasked)
    assert lowered[noted].mean() < 0.8 * masked[noted].mean()
    # It is these tags that it does this to, more than others.
    assert lowered[~noted].mean() / masked[~noted].mean() > lowered[noted].mean() / masked[noted].mean()


@pytest.mark.parametrize("option", ["context", "sensor_factor", "proximity_factor"])
def test_context_and_factors_train_and_change_predictions(city: City, option: str) -> None:
    options = replace(FAST, **{option: True})
    labels = city.coarse.labels[city.test]
    plain, found = city.probabilities(FAST), city.probabilities(options)
    assert np.abs(plain - found).mean() > 0.01
    assert average_precision(labels, found) > labels.mean() + 0.3
    train = city.bags.take(city.train)
    inputs, targets = Preparation.fit(train, options).apply(train), city.coarse.take(city.train)
    assert targets.sensors is not None
    sensors = np.unique(targets.sensors) if options.sensor_factor else None
    trained = train_network(Examples.of(inputs, targets, sensors), None, options, 0)
    assert trained.losses[-1] < 0.4 * trained.losses[0]
    outputs = trained.network(torch.from_numpy(inputs.rows))
    owner = inputs.owner
    if outputs.sensors is not None and sensors is not None:
        assert len(np.unique(targets.sensors)) == 8
        assert (sensors[outputs.sensors.argmax(1)] == targets.sensors[owner]).mean() > 0.5
    if outputs.proximity is not None:
        assert targets.proximity is not None
        known = targets.proximity.sum(2) > 0
        pooled = np.stack([own.mean(0) for own in np.split(outputs.proximity.detach().numpy(), inputs.first[1:])])
        right = (pooled.argmax(2) == targets.proximity.argmax(2))[known].mean()
        assert right > max(0.9, targets.proximity[known].mean(0).max() + 0.05)
    elif not options.sensor_factor:
        assert trained.network.kernels()[0].shape[1] == 32 + 85


@pytest.mark.parametrize("name", ["mlsmote", "lssmote"])
@pytest.mark.parametrize("mode", ["mil", "framewise", "clip"])
def test_oversampling_makes_rare_tags_likelier(city: City, name: Any, mode: Any) -> None:
    # At the minimum, which does not depend on how many steps there are in an epoch.
    options = replace(FAST, target_mode=mode, optimizer="lbfgs", num_hidden_layers=0, l2_reg=0.01, num_epochs=60)
    plain = city.probabilities(options, city.fine)
    found = city.probabilities(replace(options, oversample=name, oversample_iters=3), city.fine)
    share = (city.fine.labels * city.fine.given)[city.train].mean(0)
    rare = (share > 0) & (share < np.median(share[share > 0]))
    assert found[:, rare].mean() > 1.2 * plain[:, rare].mean()


def test_training_of_the_city_ends_early(city: City) -> None:
    targets = city.coarse
    parts = []
    for own in (city.train, city.test):
        bags = Preparation.fit(city.bags.take(city.train), FAST).apply(city.bags.take(own))
        parts.append(Examples.of(bags, targets.take(own), None))
    trained = train_network(*parts, replace(FAST, num_epochs=100, patience=10), 0)
    assert len(trained.losses) == trained.kept + 10 < 100
    assert trained.losses[-1] < trained.losses[trained.kept - 1]  # the clips trained on could be learned further
