import numpy as np
import pytest

from hierphase.analysis import bootstrap


def test_function_of_mean_is_that_of_all_images_with_an_interval():
    values = np.random.default_rng(0).normal([4.0, 2.0], 0.3, size=(400, 2))

    def ratio(means):
        return means[..., 0] / means[..., 1]

    estimate = bootstrap.function_of_mean(ratio, values, n_resamples=2000)
    assert estimate.value == pytest.approx(values[:, 0].mean() / values[:, 1].mean())
    # the error of a ratio, by propagation
    expected = 2 * 0.3 / 20 * np.sqrt(1 / 4**2 + 1 / 2**2)
    assert (estimate.high - estimate.low) / (2 * 1.96) == pytest.approx(expected, rel=0.1)
    again = bootstrap.function_of_mean(ratio, values, n_resamples=2000)
    assert again == estimate


def test_function_of_mean_agrees_with_the_mean_curve():
    values = np.random.default_rng(1).random((50, 3))
    ours = bootstrap.function_of_mean(lambda means: means, values, n_resamples=300)
    curve = bootstrap.mean_curve(values.T, n_resamples=300)
    np.testing.assert_allclose([ours.low, ours.high], [curve.low, curve.high])


@pytest.mark.parametrize(
    ("values", "confidence", "message"),
    [
        (np.zeros((0, 2)), 0.95, r"got \(0, 2\)"),
        (3.0, 0.95, r"got \(\)"),
        (np.ones((2, 2)), 1.5, "got 1.5"),
    ],
)
def test_bad_arguments_are_refused(values, confidence, message):
    with pytest.raises(ValueError, match=message):
        bootstrap.function_of_mean(np.exp, values, confidence)


def test_difference_takes_each_end_from_those_that_make_it():
    rng = np.random.default_rng(0)  # two skewed estimates of which many draws are known
    draws = rng.gamma(9, size=200_000) / 3, rng.gamma(16, size=200_000) / 8
    a, b = (bootstrap.percentile_estimate(float(x.mean()), x) for x in draws)
    ends = np.quantile(draws[0] - draws[1], [0.025, 0.975])
    np.testing.assert_allclose(((a - b).low, (a - b).high), ends, atol=0.03)
    assert (a - b).value == pytest.approx(1, abs=0.01)
