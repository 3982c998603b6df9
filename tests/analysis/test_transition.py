import numpy as np
import pytest
import xarray as xr

from hierphase.analysis.bootstrap import mean_curve, means_and_resamples, median_curve, mode_curve
from hierphase.analysis.transition import (
    crossing_time,
    fitted_transition,
    largest_gaps,
    layer_crossing,
    steepest_transition,
    transition_time,
    unrelated_agreement,
    width_from_draws,
)

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
    _, means = means_and_resamples(np.stack([flags, ~flags]), None, 100, seed=1)
    np.testing.assert_allclose(means.sum(axis=1), 1)  # each image brings both its values
    np.testing.assert_allclose(means * 30, np.round(means * 30), atol=1e-9)
    assert means[:, 0].std() > 0.05
    _, again = means_and_resamples(np.stack([flags, ~flags]), None, 100, seed=1)
    assert (means == again).all()


def test_bootstrap_of_groups_varies_between_and_within_them():
    """The variance of a mean over groups is that of their means over their number."""
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(40), 10)
    values = (rng.normal(size=40)[groups] + rng.normal(size=400))[None]

    def resampled(n_resamples, groups):
        return means_and_resamples(values, None, n_resamples, 1, groups)[1][:, 0]

    means = resampled(4000, groups)
    of_groups = values.reshape(40, 10).mean(axis=1)
    within = values.reshape(40, 10).var(axis=1).mean() / 400
    assert means.std() == pytest.approx(np.sqrt(of_groups.var() / 40 + within), rel=0.05)
    assert means.std() > 2 * resampled(4000, None).std()
    assert means.mean() == pytest.approx(values.mean(), abs=4 * means.std() / 4000**0.5)
    assert (resampled(10, groups * 7) == resampled(10, groups)).all()
    with pytest.raises(ValueError, match=r"groups must be of shape \(400,\), got \(3,\)"):
        resampled(10, groups[:3])


def test_gaps_are_the_largest_lead_and_deficit():
    rng = np.random.default_rng(0)
    early = 1 - TIMES[:, None] + rng.normal(0, 0.02, (21, 200))
    late = np.where(TIMES < 0.4, 1, 0)[:, None] + rng.normal(0, 0.02, (21, 200))
    lead, deficit = largest_gaps(TIMES, early, late)
    assert lead.value == pytest.approx(0.35, abs=0.01) and lead.low < 0.35 < lead.high
    assert deficit.value == pytest.approx(0.6, abs=0.01)
    nothing = largest_gaps(TIMES, early, early + rng.normal(0, 0.5, (21, 200)))
    assert all(gap.low < 0 < gap.high for gap in nothing)  # though the largest of 21 is not zero
    lead, deficit = largest_gaps(TIMES, early, early - 0.1)
    assert lead.value == pytest.approx(-0.1) and deficit.value == pytest.approx(0.1)
    with pytest.raises(
        ValueError, match=r"of the early layer must be of shape \(20, n\), got \(21, 200\)"
    ):
        largest_gaps(TIMES[1:], early, late)


def test_only_what_counts_enters_the_mean():
    kept = kept_flags(500, seed=3)
    where = np.random.default_rng(4).random(kept.shape) < 0.5
    curve = mean_curve(kept, where=where)
    expected = [row[flags].mean() for row, flags in zip(kept, where, strict=True)]
    np.testing.assert_allclose(curve.value, expected)
    everything = mean_curve(kept)
    np.testing.assert_allclose(mean_curve(kept, where=np.ones_like(where)).high, everything.high)
    width = (curve.high - curve.low)[8] / (everything.high - everything.low)[8]
    assert width == pytest.approx(np.sqrt(2), rel=0.2)  # half as many images
    t_star = transition_time(TIMES, kept, 0.1, where=where)
    assert t_star.low < 0.4 < t_star.high
    with pytest.raises(ValueError, match=r"too few images count at some time: .* of 500"):
        mean_curve(kept, where=where & (TIMES[:, None] < 0.9))
    with pytest.raises(ValueError, match=r"where must be of shape \(21, 500\), got \(500,\)"):
        mean_curve(kept, where=where[0])


def test_unrelated_images_agree_by_their_shares():
    even = np.repeat(np.arange(10), 5)
    assert unrelated_agreement(even, np.array([3, 3, 7])) == pytest.approx(0.1)
    assert unrelated_agreement(np.array([0, 0, 1]), np.array([0, 2])) == pytest.approx(1 / 3)
    before, after = xr.DataArray([0, 0, 1], dims="image"), xr.DataArray([0, 2], dims="image")
    assert unrelated_agreement(before, after) == pytest.approx(1 / 3)


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


def test_fit_and_steepest_drop_find_place_and_width():
    kept = kept_flags(4000, seed=2, center=0.43)
    fit = fitted_transition(TIMES, kept, chance=0.1, n_resamples=50)
    assert fit.t_star.value == pytest.approx(0.43, abs=0.005)
    assert fit.t_star.low < 0.43 < fit.t_star.high
    assert fit.width.value == pytest.approx(2 * np.log(9) * 0.04, rel=0.1)  # from 90% to 10%
    steepest = steepest_transition(TIMES, kept, chance=0.1)
    assert steepest.t_star.value == pytest.approx(0.43, abs=0.02)
    assert steepest.t_star.low < steepest.t_star.high
    assert steepest.width.value == pytest.approx(4 * 0.04, rel=0.25)  # of the tangent


def test_a_step_is_narrow_and_a_slow_fall_wide():
    step = np.repeat((TIMES < 0.52)[:, None], 50, axis=1)
    assert fitted_transition(TIMES, step, 0, n_resamples=20).width.value < 0.06
    assert steepest_transition(TIMES, step, 0).width.value == pytest.approx(0.05)
    assert steepest_transition(TIMES, step, 0).t_star.value == pytest.approx(0.525)
    slow = np.random.default_rng(0).random((21, 2000)) < 1 - TIMES[:, None]
    assert steepest_transition(TIMES, slow, 0, n_resamples=20).width.value > 0.5


def test_median_and_mode_of_a_skewed_distribution():
    rng = np.random.default_rng(0)
    values = 1 - rng.gamma(2.0, 0.15, size=(2, 4000)).clip(max=2)  # mode 0.85, mean 0.7
    median, mode, mean = (curve(values) for curve in (median_curve, mode_curve, mean_curve))
    np.testing.assert_allclose(median.value, np.median(values, axis=1))
    np.testing.assert_allclose(median.value, 1 - 0.15 * 1.678, atol=0.02)
    np.testing.assert_allclose(mode.value, 0.85, atol=0.04)
    np.testing.assert_allclose(mean.value, 0.7, atol=0.02)
    for curve in (median, mode):
        assert (curve.low <= curve.value + 0.01).all() and (curve.value <= curve.high + 0.01).all()
        assert (curve.high - curve.low < 0.1).all() and (curve.high > curve.low).all()
    with pytest.raises(ValueError, match=r"similarities in \[-1, 1\], got .* to 2"):
        mode_curve(np.array([[0.0, 2.0]]))


def test_layers_cross_only_where_they_do():
    rng = np.random.default_rng(1)
    noise = rng.normal(scale=0.1, size=(2, 21, 300))
    early = 1 - 0.6 * TIMES[:, None] + noise[0]
    late = np.where(TIMES < 0.5, 1 - 0.2 * TIMES, 1.75 - 1.7 * TIMES)[:, None] + noise[1]
    early[0] = late[0] = 1
    found = layer_crossing(TIMES, early, late)
    assert found.value == pytest.approx(0.75 / 1.1, abs=0.02)
    assert found.low < 0.75 / 1.1 < found.high
    assert layer_crossing(TIMES, late, early) is None
    assert layer_crossing(TIMES, early, early + 0.1) is None


def test_layers_that_begin_level_cross_after_the_lead():
    """Which is above at little noise is chance; here the late one is below by a rounding error."""
    times = np.linspace(0, 1, 21)
    gap = np.interp(times, [0, 0.1, 0.5, 0.7, 1], [0, -1e-6, 0.2, 0, -0.3])[:, None]
    early = np.repeat((1 - times)[:, None], 8, axis=1)
    found = layer_crossing(times, early, early + gap)
    np.testing.assert_allclose((found.low, found.value, found.high), 0.7, atol=1e-9)
    assert layer_crossing(times, early, early - abs(gap)) is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"times": TIMES[:-1]}, r"kept flags must be of shape \(20, n\), got \(21, 50\)"),
        ({"times": TIMES[::-1]}, r"times must increase, \d or more, got"),
        ({"chance": 1.0}, "chance must be below 1, got 1.0"),
        ({"confidence": 95}, "confidence must be between 0 and 1, got 95"),
        ({"kept": np.ones((21, 50))}, "does not cross 0.55 safely: .* beyond 0 to 1"),
        ({"kept": np.ones(21)}, r"kept flags must be of shape \(21, n\), got \(21,\)"),
        ({"kept": np.full((21, 2), np.nan)}, "kept flags must be between 0 and 1, got nan"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    call = {"times": TIMES, "kept": kept_flags(50, seed=0), "chance": 0.1} | arguments
    for locate in (transition_time, fitted_transition, steepest_transition):
        if locate is steepest_transition and "does not cross" in message:
            continue  # it needs no crossing
        with pytest.raises(ValueError, match=message):
            locate(**call)


@pytest.mark.parametrize("width, chance", [(2.0, 0.0), (4.0, 0.1), (4.0, 0.5)])
def test_the_width_of_single_images_is_not_that_of_their_middles(width, chance):
    """Also in the plateau, where a class is kept by chance."""
    random, ln_snr = np.random.default_rng(0), np.linspace(-14, 14, 57)
    middles, scale = random.normal(scale=2.0, size=8000), width / (2 * np.log(9))
    keeps = 1 / (1 + np.exp((middles - ln_snr[:, None]) / scale))
    kept = random.random(keeps.shape) < chance + (1 - chance) * keeps
    found = width_from_draws(ln_snr, kept, np.full(8000, chance))
    spacing = 2 * np.log(9) * 0.5**2 / (12 * scale)  # of the levels, as the docstring says
    assert found.low - 0.01 < width + spacing < found.high + 0.01
    assert 0.01 < found.high - found.low < 0.5 / (1 - chance)


@pytest.mark.parametrize(("kept", "chance", "message"), [
    (np.full((3, 2), 5.0), np.zeros(2), r"kept flags must be between 0 and 1, got 5.0"),
    (np.ones((3, 2)), np.array([0.1, np.nan]), r"chance must be between 0 and 1, got nan"),
])  # fmt: skip
def test_widths_of_no_shares_are_refused(kept, chance, message):
    with pytest.raises(ValueError, match=message):
        width_from_draws([-1.0, 0.0, 1.0], kept, chance)
