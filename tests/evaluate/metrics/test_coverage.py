"""How often the 95 % intervals of macro F1 contain the true value, in a simulated world with rare and difficult classes."""

import numpy as np
import pytest

from senna.evaluate.metrics.bootstrap import FEW_SCENES, Scenes, interval, macro_interval, ratio
from senna.evaluate.metrics.classification import macro_f1

# The rarest classes are almost never found, as on driving data: a resample without them scores higher.
FREQUENCY = np.array([0.45, 0.2, 0.1, 0.08, 0.05, 0.03, 0.03, 0.02, 0.01, 0.01, 0.01, 0.005, 0.005])
RECALL = np.array([0.95, 0.8, 0.7, 0.7, 0.5, 0.3, 0.2, 0.02, 0.02, 0.02, 0.02, 0.02, 0.02])
CLASSES, FRAMES = len(FREQUENCY), 34  # frames of a scene
TRIALS, RESAMPLES = 200, 400


def draw_scenes(count: int, rng: np.random.Generator) -> np.ndarray:
    """Return confusion counts (count, C, C) of scenes, each with its own mixture of classes and its own difficulty."""
    true = rng.multinomial(FRAMES, rng.dirichlet(3 * FREQUENCY / FREQUENCY.sum(), size=count))  # (count, C)
    logits = np.log(RECALL / (1 - RECALL)) + rng.normal(0, 0.7, (count, 1))
    right = rng.binomial(true, 1 / (1 + np.exp(-logits)))
    counts = np.zeros((count, CLASSES, CLASSES))
    for label in range(CLASSES):
        shares = FREQUENCY + 0.02
        shares[label] = 0
        counts[:, label] = rng.multinomial(true[:, label] - right[:, label], shares / shares.sum())
        counts[:, label, label] = right[:, label]
    return counts


def f1_by_class(counts: np.ndarray) -> np.ndarray:
    """Return (C,) of counts (C, C)."""
    return ratio(2 * np.diagonal(counts), counts.sum(axis=0) + counts.sum(axis=1), empty=0.0)


def with_classes_of_the_resample(confusions: np.ndarray) -> np.ndarray:
    """Return macro F1 of each resample over its own classes, which is what a naive bootstrap computes."""
    correct, true = np.diagonal(confusions[..., :-1], axis1=-2, axis2=-1), confusions.sum(axis=-1)
    f1 = ratio(2 * correct, true + confusions[..., :-1].sum(axis=-2), empty=0.0)
    return ratio((f1 * (true > 0)).sum(axis=-1), (true > 0).sum(axis=-1))


def coverage(scenes: int) -> dict[str, float]:
    """Return the fraction of simulated data sets whose interval contains the value of a very large data set."""
    rng = np.random.default_rng(scenes)
    expected = f1_by_class(draw_scenes(20_000, np.random.default_rng(0)).sum(axis=0))
    hits = {"classes of the sample": 0, "all classes": 0, "naive, all classes": 0}
    sampled = Scenes([f"{number:03}" for number in range(scenes)], resamples=RESAMPLES)
    for _ in range(TRIALS):
        counts = draw_scenes(scenes, rng)
        columns = np.concatenate([counts, np.zeros((scenes, CLASSES, 1))], axis=-1)
        confusions = sampled.sums(columns.reshape(scenes, -1)).reshape(-1, CLASSES, CLASSES + 1)
        found = macro_interval(macro_f1(confusions), scenes, 0.0, 1.0)
        naive = interval(with_classes_of_the_resample(confusions))
        occurs = counts.sum(axis=(0, 2)) > 0
        hits["classes of the sample"] += found["low"] <= expected[occurs].mean() <= found["high"]
        hits["all classes"] += found["low"] <= expected.mean() <= found["high"]
        hits["naive, all classes"] += naive["low"] <= expected.mean() <= naive["high"]
    return {name: count / TRIALS for name, count in hits.items()}


@pytest.mark.parametrize(("scenes", "least", "least_of_all"), [(8, 0.92, 0.78), (40, 0.92, 0.84), (150, 0.92, 0.9)])
def test_intervals_of_macro_f1_contain_the_true_value_as_often_as_they_state(scenes, least, least_of_all, capsys):
    found = coverage(scenes)
    with capsys.disabled():
        shares = ", ".join(f"{name} {share:.0%}" for name, share in found.items())
        print(f"[coverage of the 95 % interval of macro F1, {scenes} scenes: {shares}] ", end="")
    assert found["classes of the sample"] >= least
    assert found["all classes"] >= least_of_all
    if scenes < FEW_SCENES / 5:
        assert found["naive, all classes"] < 0.6  # what made another interval necessary


def test_an_interval_of_macro_f1_contains_its_value_and_stays_within_its_limits():
    rng = np.random.default_rng(0)
    for value in (0.0, 0.3, 0.9, 1.0):
        draws = np.concatenate([[value], rng.uniform(0.5, 1.0, 100)])
        found = macro_interval(draws, 5, 0.0, 1.0)
        assert 0.0 <= found["low"] <= value <= found["high"] <= 1.0
    assert macro_interval(np.array([0.4]), 1, 0.0, 1.0) == {"value": 0.4, "low": None, "high": None}
