import numpy as np
import pytest

from hierphase.transition import bootstrap_means, crossing_time, mean_curve, transition_time

TIMES = np.linspace(0, 1, 21)


def kept_flags(n, seed, center=0.4, chance=0.1):
    """Flags whose probability is known: a logistic fall from 1 to chance around ``center``."""
    probability = chance + (1 - chance) / (1 + np.exp((TIMES - center) / 0.04))
    return np.random.default_rng(seed).random((len(TIMES), n)) < probability[:, None]


def test_mean_curve_of_flags_is_their_frequency_with_a_binomial_band():
    kept = kept_flags(400, seed=0)
    curve = mean_curve(kept)
    np.testing.assert_allclose(curve.value, kept.sum(axis=1) / 400)
    width = 2 * 1.96 * np.sqrt(curve.value * (1 - curve.value) / 400)
    np.testing.assert_allclose(curve.high - curve.low, width, atol=0.015)
    assert (curve.low <= curve.value).all() and (curve.value <= curve.high).all()
    wider = mean_curve(kept, confidence=0.99)
    assert (wider.high - wider.low).sum() > 1.2 * (curve.high - curve.low).sum()


def test_bootstrap_resamples_images_with_their_whole_curve():
    flags = np.random.default_rng(0).random(30) < 0.5
    means = bootstrap_means(np.stack([flags, ~flags]), 100, seed=1)
    np.testing.assert_allclose(means.sum(axis=1), 1)  # each image brings both its values
    np.testing.assert_allclose(means * 30, np.round(means * 30), atol=1e-9)
    assert means[:, 0].std() > 0.05
    assert (means == bootstrap_means(np.stack([flags, ~flags]), 100, seed=1)).all()


def test_crossing_is_exact_for_straight_lines_and_nan_without_crossing():
    times = np.array([0.0, 1.0, 3.0])
    curves = np.array([[1, 0.8, 0.2], [1, 0.5, 0.0], [1, 0.9, 0.7], [0.4, 1.0, 0.0], [1, 0.4, 0.9]])
    expected = [2.0, 1.0, np.nan, np.nan, 1 / 1.2]
    np.testing.assert_allclose(crossing_time(times, curves, 0.5), expected)


def test_interval_covers_the_true_transition_about_as_often_as_it_says():
    covered = 0
    for seed in range(200):
        t_star = transition_time(TIMES, kept_flags(100, seed), chance=0.1, n_resamples=200)
        covered += t_star.low <= 0.4 <= t_star.high
    assert 180 <= covered <= 199  # 95% of 200, give or take three standard deviations


def test_transition_is_half_way_to_chance():
    kept = kept_flags(4000, seed=1, center=0.6, chance=0.5)
    for scale in (1, 1000):
        found = transition_time(scale * TIMES, kept, chance=0.5, n_resamples=50).value
        assert found == pytest.approx(0.6 * scale, abs=0.01 * scale)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"times": TIMES[:-1]}, r"got \(20,\) times for kept flags of shape \(21, 50\)"),
        ({"times": TIMES[::-1]}, "times must increase, got"),
        ({"chance": 1.0}, r"chance must be in \[0, 1\), got 1.0"),
        ({"confidence": 95}, "confidence must be between 0 and 1, got 95"),
        ({"kept": np.ones((21, 50))}, "does not cross 0.55 safely between times 0 and 1"),
        ({"kept": np.ones(21)}, r"need values of shape \(n_times, n\), got \(21,\)"),
        ({"kept": np.full((21, 2), np.nan)}, "hold 42 NaN"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    call = {"times": TIMES, "kept": kept_flags(50, seed=0), "chance": 0.1} | arguments
    with pytest.raises(ValueError, match=message):
        transition_time(**call)
