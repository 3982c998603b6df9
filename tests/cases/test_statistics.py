"""What statistics refuse, a line each: no NaN, infinity or wrong number without a word."""

import numpy as np
import pytest
import torch
from torch import nn

from hierphase.analysis import bootstrap, finite_size_scaling, transition
from hierphase.analysis.frequency_bands import band_similarity
from hierphase.analysis.gaussian_field import power_law_covariance
from hierphase.analysis.gaussian_mixture import GaussianMixture
from hierphase.analysis.patch_correlations import grid_covariance, patch_changes
from hierphase.analysis.representations import activations, fit_standardisers, layer_similarity
from hierphase.analysis.sample_complexity import conditional_validity
from hierphase.analysis.two_mode_mixture import TwoModeMixture

NAN, INF = np.nan, np.inf
TIMES = np.linspace(0, 1, 6)
FALL = (np.random.default_rng(0).random((6, 300)) > TIMES[:, None]) * 1.0
ONES = np.ones((6, 300))
EARLY, LATE = 1 - 0.5 * TIMES[:, None] * ONES, 1.2 - TIMES[:, None] * ONES
X0, SAMPLES = torch.randn(4, 1, 8, 8), torch.randn(2, 4, 1, 8, 8)


def changed(array, value, place=(2, 0)):
    """``array`` with one number replaced."""
    array = array.clone() if isinstance(array, torch.Tensor) else np.array(array, dtype=float)
    array[place] = value
    return array


LOCATE = [transition.transition_time, transition.fitted_transition, transition.steepest_transition]


@pytest.mark.parametrize("locate", LOCATE)
@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"kept": 2 * FALL}, "kept flags must be between 0 and 1, got 2.0"),
        ({"kept": changed(FALL, -1e-3)}, "kept flags must be between 0 and 1, got -0.001"),
        ({"kept": changed(FALL, INF)}, "kept flags must be between 0 and 1, got inf"),
        ({"kept": changed(FALL, NAN)}, "kept flags must be between 0 and 1, got nan"),
        ({"kept": ONES}, "does not cross|never falls: .1.0, 1.0"),
        ({"kept": TIMES[:, None] * ONES}, "does not cross|never falls: .0.0, 0.2"),
        ({"times": TIMES[::-1]}, r"times must increase, \d or more, got \[1.0"),
        ({"times": TIMES // 0.5}, r"times must increase, \d or more, got \[0.0, 0.0"),
        ({"times": changed(TIMES, NAN, 2)}, "times must increase, .* nan"),
        ({"times": changed(TIMES, INF, 5)}, "times must be finite, got inf"),
        ({"times": [], "kept": []}, r"times must increase, \d or more, got \[\]"),
        ({"times": TIMES[:, None]}, "times must increase"),
        ({"chance": NAN}, "chance must be between 0 and 1, got nan"),
        ({"chance": "tenth"}, "chance must be a number between 0 and 1, got 'tenth'"),
        ({"n_resamples": None}, "n_resamples must be an integer, got None"),
        ({"n_resamples": 0}, "n_resamples must be at least 1, got 0"),
        ({"n_resamples": 10.0}, "n_resamples must be an integer, got 10.0"),
        ({"where": 2 * ONES}, "where must be between 0 and 1, got 2.0"),
        ({"where": changed(ONES, NAN)}, "where must be between 0 and 1, got nan"),
    ],
)
def test_transitions(locate, given, message):
    with pytest.raises(ValueError, match=message):
        locate(**{"times": TIMES, "kept": FALL, "chance": 0.1, "n_resamples": 5} | given)


@pytest.mark.parametrize("of_layers", [transition.layer_crossing, transition.largest_gaps])
@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"times": TIMES[::-1]}, "times must increase"),
        ({"times": 0 * TIMES}, "times must increase"),
        ({"times": changed(TIMES, NAN, 2)}, "times must increase"),
        ({"times": changed(TIMES, INF, 5)}, "times must be finite, got inf"),
        ({"early": changed(EARLY, INF)}, "values must be finite"),
        ({"late": changed(LATE, NAN)}, "values must be finite"),
        ({"times": [], "early": [], "late": []}, "times must increase"),
        ({"n_resamples": None}, "n_resamples must be an integer, got None"),
        ({"confidence": 1.0}, "confidence must be between 0 and 1, got 1.0"),
    ],
)
def test_layers(of_layers, given, message):
    with pytest.raises(ValueError, match=message):
        of_layers(**{"times": TIMES, "early": EARLY, "late": LATE, "n_resamples": 5} | given)


def test_what_is_right_is_taken():
    for locate in LOCATE:
        locate(TIMES, FALL.astype(bool), 0.1, n_resamples=5)
    assert transition.layer_crossing(TIMES, EARLY, LATE, n_resamples=5).value > 0
    assert bootstrap.mean_curve(FALL, where=ONES / 2, n_resamples=5).value[-1] == 0


NET = nn.Sequential(nn.Conv2d(1, 3, 3), nn.Flatten(), nn.Linear(108, 5))
SCALES = fit_standardisers(NET, [X0], ["0", "2"])
BROKEN = nn.Sequential(nn.Conv2d(1, 3, 3), nn.Flatten(), nn.Linear(108, 5))
nn.init.constant_(BROKEN[2].bias, NAN)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"x0": X0.double(), "samples": SAMPLES.double()}, "cannot take images, torch.float64"),
        ({"x0": X0.half(), "samples": SAMPLES.half()}, "cannot take images, torch.float16"),
        ({"samples": SAMPLES.double()}, "cannot take images, torch.float64"),
        ({"x0": X0.numpy(), "samples": SAMPLES.numpy()}, "images must be a tensor, got ndarray"),
        ({"x0": X0.repeat(1, 3, 1, 1), "samples": SAMPLES.repeat(1, 1, 3, 1, 1)}, r"\(4, 3, 8, 8"),
        ({"x0": changed(X0, NAN, (1, 0))}, "output of module '0', and so images .* got nan"),
        ({"samples": changed(SAMPLES, INF, (1, 2))}, "output of module '0', .* must be finite"),
        ({"model": BROKEN}, "output of module '2', and so images and weights, .* got nan"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"batch_size": 1.5}, "batch_size must be an integer, got 1.5"),
        ({"x0": X0[:0], "samples": SAMPLES[:, :0]}, "and one image, got .* and 0"),
        ({"scales": {}}, "at least one name"),
        ({"scales": {"0": SCALES["2"]}}, r"activations must be of shape \(n, 5, ...\), got \(4, 3"),
    ],
)
def test_representations(given, message):
    right = {"model": NET, "x0": X0, "samples": SAMPLES, "scales": SCALES}
    assert layer_similarity(**right).cosine.isfinite().all()
    with pytest.raises(ValueError, match=message):
        layer_similarity(**right | given)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: transition.unrelated_agreement([], []), r"classes must be of shape \(n,\), got"),
        (lambda: transition.unrelated_agreement([1], []), r"classes must be of shape \(n,\), got"),
        (lambda: transition.unrelated_agreement([1.0], [NAN]), "classes must be finite, got nan"),
        (lambda: transition.crossing_time([1, 0.5, 0], [1, 0.5, 0], 0.3), "times must increase"),
        (lambda: transition.crossing_time([0, NAN, 1], [1, 0.5, 0], 0.3), "times must increase"),
        (lambda: transition.crossing_time([0.5], [1], 0.3), "times must increase, 2 or more"),
        (lambda: transition.crossing_time([0, 1], [1, 0.5, 0], 0.3), r"curves must be of shape"),
        (lambda: bootstrap.mean_curve(FALL, n_resamples=None), "n_resamples must be an integer"),
        (lambda: bootstrap.median_curve(changed(FALL, INF)), "values must be finite"),
        (lambda: bootstrap.mode_curve(changed(FALL, NAN)), "values must be finite"),
        (lambda: bootstrap.mean_curve([]), r"values must be of shape \(n_times, n\), got \(0,\)"),
        (lambda: conditional_validity([[1.0]], [[INF]]), "candidates must be finite, got inf"),
        (lambda: conditional_validity([[-1.0]], [[1]]), "not be negative or NaN, got -1.0"),
        (lambda: conditional_validity([[NAN]], [[1]]), "not be negative or NaN, got nan"),
        (lambda: finite_size_scaling.power_law([2, 2], [1, 2]), "x must hold two different"),
        (lambda: finite_size_scaling.power_law([1, INF], [1, 2]), "x must be finite, got inf"),
        (lambda: finite_size_scaling.power_law([1, 2], [1, NAN]), "y must be finite, got nan"),
        (
            lambda: finite_size_scaling.collapse_spread([0, 1], [[1, -1]], [4], 1, 1, 1),
            "y must be positive for a power law, got -1",
        ),
        (
            lambda: finite_size_scaling.collapse_spread([1, 0], [[1, 1]], [4], 1, 1, 1),
            "x must increase",
        ),
        (
            lambda: finite_size_scaling.collapse_spread([0, 1], [[1, 1]], [4], NAN, 1, 1),
            "nu must be finite, got nan",
        ),
        (lambda: band_similarity(changed(X0, NAN), SAMPLES, X0[0], 2), "x0 must be finite"),
        (lambda: band_similarity(X0, changed(SAMPLES, INF, 1), X0[0], 2), "samples must be finite"),
        (lambda: patch_changes(X0.numpy(), changed(SAMPLES, NAN, 1).numpy(), 2), "samples must be"),
        (lambda: grid_covariance(changed(np.ones((2, 3, 2, 2)), NAN, 1)), "fields must be finite"),
        (lambda: GaussianMixture([[0.0, NAN]], [np.eye(2)]), "means must be finite, got nan"),
        (lambda: GaussianMixture([[0.0, 0]], [np.diag([1, INF])]), "covariances must be finite"),
        (lambda: GaussianMixture([[0.0, 0]], [-np.eye(2)]), "has the negative variance -1"),
        (lambda: power_law_covariance(4, INF), "exponent must be at least 0, got inf"),
        (lambda: TwoModeMixture(r=INF), "r must be positive, got inf"),
        (lambda: TwoModeMixture(exponent=INF), "exponent must be at least 0, got inf"),
        (lambda: activations(NET, X0, ["0"], batch_size=-1), "batch_size must be at least 1"),
    ],
)
def test_arrays(call, message):
    with pytest.raises(ValueError, match=message):
        call()
