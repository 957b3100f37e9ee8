import numpy as np

from edgesea.tasks.classifier import fixed_epochs, make_probe, tag_probabilities


def problem(rows: int = 150, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    tags = rng.integers(0, 2, (rows, 3))
    return tags @ rng.standard_normal((3, 4)) * 2 + rng.standard_normal((rows, 4)), tags


def test_probabilities_are_the_mean_of_networks_with_consecutive_seeds() -> None:
    features, tags = problem()
    train, test = features[:100], features[100:]
    together = tag_probabilities(train, tags[:100], test, seed=4, members=2)
    single = [tag_probabilities(train, tags[:100], test, seed=seed, members=1) for seed in (4, 5)]
    np.testing.assert_allclose(together, np.mean(single, 0), atol=1e-12)
    assert together.shape == (50, 3)
    assert not np.allclose(single[0], single[1])
    assert ((together >= 0) & (together <= 1)).all()


def test_probes_do_not_depend_on_the_scale_of_the_features() -> None:
    features, tags = problem()
    for kind in ("logistic", "mlp"):
        with fixed_epochs():
            one, other = (
                make_probe(kind, 0).fit(x[:100], tags[:100, 0]).predict(x[100:])  # type: ignore[arg-type]
                for x in (features, features * [1e3, 1e-3, 1, 1] + 50)
            )
        assert (one == other).mean() > 0.95
        assert (one == tags[100:, 0]).mean() > 0.7
