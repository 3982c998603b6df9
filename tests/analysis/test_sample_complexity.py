import numpy as np
import pytest

from hierphase.analysis.sample_complexity import conditional_validity, size_thresholds

SIZES = 2 ** np.arange(4, 15)


def drawn(shares, n=4000, nodes=8, seed=0):
    """(valid, candidates) of n data with the given validity (size, level)."""
    candidates = np.full((len(shares), n, shares.shape[1]), nodes)
    valid = np.random.default_rng(seed).binomial(nodes, shares[:, None], candidates.shape)
    return valid, candidates


def test_thresholds_of_known_curves_and_their_growth():
    centres = 20 * 3.0 ** np.arange(1, 5)
    shares = 0.4 + 0.6 / (1 + (centres / SIZES[:, None]) ** 2)
    share, resampled = conditional_validity(*drawn(shares))
    np.testing.assert_allclose(share, shares, atol=0.02)
    found, growth = size_thresholds(SIZES, share, resampled, chance=0.4)
    for estimate, centre in zip(found, centres, strict=True):
        assert estimate.low < estimate.value < estimate.high
        assert estimate.value == pytest.approx(centre, rel=0.08)
    assert growth.value == pytest.approx(np.log(3), abs=0.03)
    assert growth.low < growth.value < growth.high < growth.low + 0.1


def test_interval_is_that_of_repeated_experiments():
    shares = 0.4 + 0.6 / (1 + (100 / SIZES[:, None]) ** 2)
    values, widths = [], []
    for seed in range(60):
        found, _ = size_thresholds(
            SIZES, *conditional_validity(*drawn(shares, n=200, seed=seed)), chance=0.4
        )
        values.append(np.log(found[0].value))
        widths.append(np.log(found[0].high / found[0].low) / (2 * 1.96))
    assert np.mean(widths) == pytest.approx(np.std(values), rel=0.3)


def test_levels_that_are_not_reached_have_no_threshold():
    flat, steep = np.full(len(SIZES), 0.5), np.where(SIZES < 100, 0.4, 1.0)
    share, resampled = conditional_validity(*drawn(np.stack([steep, flat, steep], 1)))
    found, growth = size_thresholds(SIZES, share, resampled, chance=0.4)
    assert found[1] is None and found[0] is not None and abs(growth.value) < 0.05
    _, growth = size_thresholds(SIZES, share[:, 1:], resampled[..., 1:], chance=0.4)
    assert growth is None


def test_validity_counts_candidates_only():
    valid = np.array([[[1], [0]], [[2], [1]]])
    candidates = np.array([[[2], [0]], [[2], [2]]])
    share, resampled = conditional_validity(valid, candidates, n_resamples=50)
    assert share[:, 0].tolist() == [0.5, 0.75]
    assert np.isnan(resampled[:, 0]).any()  # resamples without the only datum that counts
    seen = resampled[:, 0][~np.isnan(resampled[:, 0])]
    assert (seen == 0.5).all() and len(seen)


def test_refusals():
    with pytest.raises(ValueError, match=r"candidates must be of shape \(2, 3\), got \(3, 2\)"):
        conditional_validity(np.zeros((2, 3)), np.zeros((3, 2)))
    with pytest.raises(ValueError, match="more valid nodes than candidates in 1 places"):
        conditional_validity([[1.0, 0.0]], [[0.0, 0.0]])
    with pytest.raises(ValueError, match=r"sizes must increase, 2 or more, got \[4.0, 2.0\]"):
        size_thresholds([4, 2], np.zeros((2, 1)), np.zeros((5, 2, 1)), 0.4)
    with pytest.raises(ValueError, match=r"shares must be of shape \(2, levels\), got \(3, 1\)"):
        size_thresholds([2, 4], np.zeros((3, 1)), np.zeros((5, 3, 1)), 0.4)
