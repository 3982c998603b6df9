import math
from functools import partial

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler

from hierphase.analysis.finite_size_scaling import koenigs
from hierphase.rhm import meanfield
from hierphase.rhm.belief_propagation import BeliefPropagation
from hierphase.rhm.corruption import EpsilonProcess, GaussianProcess
from hierphase.rhm.model import RandomHierarchyModel

# P(true symbol | x) for (32,8,2,10): BP over many rule draws / theory, of ../shared/science.md
TABLE = {
    0.60: ((0.994, 0.998, 0.961), (0.994, 0.998, 0.961)),
    0.70: ((0.918, 0.971, 0.895), (0.918, 0.970, 0.893)),
    0.72: ((0.691, 0.891, 0.850), (0.688, 0.893, 0.849)),
    0.74: ((0.094, 0.513, 0.729), (0.078, 0.497, 0.725)),
    0.80: ((0.031, 0.067, 0.440), (0.031, 0.066, 0.442)),
}


@pytest.fixture(scope="module")
def true_symbol_probability():
    """P(true symbol) at class, level 5 and leaves: {epsilon: (draws, 3)} for 12 draws of rules."""
    result = {epsilon: [] for epsilon in TABLE}
    for seed in range(12):
        rhm = RandomHierarchyModel(32, 8, 2, 10, seed=seed)
        levels = rhm.sample(16, seed=seed)
        for epsilon in TABLE:
            posterior = BeliefPropagation(rhm)(EpsilonProcess(32).beliefs(levels[0], epsilon))
            result[epsilon].append(posterior.probability_of(levels).mean(0)[[10, 5, 0]].tolist())
    return {epsilon: np.array(values) for epsilon, values in result.items()}


@pytest.mark.parametrize("epsilon", TABLE)
def test_the_table_of_reference_values(epsilon, true_symbol_probability):
    bp, theory = TABLE[epsilon]
    profile = meanfield.profile(epsilon, 32, 8, 2, 10)
    np.testing.assert_allclose(profile[[10, 5, 0]], theory, atol=6e-4)
    ours = true_symbol_probability[epsilon]
    error = ours.std(0, ddof=1) / math.sqrt(len(ours))
    # The reference is itself a mean over 8 draws.
    assert (abs(ours.mean(0) - bp) < 4 * error * math.sqrt(1 + 12 / 8) + 1e-3).all()
    assert (abs(ours.mean(0) - profile[[10, 5, 0]]) < 4 * error + 0.03).all()


def test_profile_takes_arrays():
    profile = meanfield.profile(np.array([0.1, 0.5]), 8, 3, 3, 4)
    assert profile.shape == (5, 2)
    np.testing.assert_array_equal(profile[:, 1], meanfield.profile(0.5, 8, 3, 3, 4))


def test_limits_of_no_and_full_noise():
    np.testing.assert_allclose(meanfield.profile(0.0, 8, 3, 2, 5), 1)
    blind = meanfield.profile(1.0, 8, 3, 2, 5)
    assert blind[-1] == pytest.approx(1 / 8)
    # Below the class, frequent symbols are the better guess, and the truth is often one of them.
    prior = []
    for seed in range(40):
        rhm = RandomHierarchyModel(8, 3, 2, 5, seed=seed)
        marginals = BeliefPropagation(rhm)(torch.ones(1, 32, 8)).marginals
        prior.append([(marginals[level][0] ** 2).sum(-1).mean().item() for level in range(6)])
    np.testing.assert_allclose(blind, np.mean(prior, 0), atol=0.01)


def averaged_message(p, v, m, s, rules, seed):
    """Mean upward belief in the true parent over random rules, children believed with p."""
    rng = np.random.default_rng(seed)
    total = []
    for _ in range(rules):
        rhm = RandomHierarchyModel(v, m, s, 1, seed=int(rng.integers(2**31)))
        leaves = rhm.sample(64, seed=int(rng.integers(2**31)))
        beliefs = torch.full((64, s, v), (1 - p) / (v - 1), dtype=torch.float64)
        beliefs.scatter_(2, leaves[0][..., None], p)
        marginal = BeliefPropagation(rhm)(beliefs).marginals[1]
        total.append(marginal.gather(-1, leaves[1][..., None]).mean().item())
    return np.mean(total), np.std(total) / math.sqrt(rules)


@pytest.mark.parametrize(("v", "m", "s"), [(32, 8, 2), (12, 20, 3)])
@pytest.mark.parametrize("p", [0.2, 0.6, 0.9])
def test_upward_map_is_the_average_over_rules(v, m, s, p):
    """F averages numerator and denominator apart, so it holds up to the fluctuations it drops."""
    mean, error = averaged_message(p, v, m, s, rules=60, seed=1)
    assert mean == pytest.approx(meanfield.upward(p, v, m, s), abs=4 * error + 0.02)


@pytest.mark.parametrize(("v", "m", "s"), [(32, 8, 2), (8, 3, 3), (5, 11, 4), (16, 4, 2)])
def test_fixed_points_and_slopes(v, m, s):
    for p in (1.0, 1 / v):
        assert meanfield.upward(p, v, m, s) == pytest.approx(p, abs=1e-14)
    for p, slope in zip((1.0, 1 / v), meanfield.slopes(v, m, s), strict=True):
        assert meanfield.slope(p, v, m, s) == pytest.approx(slope, rel=1e-12)
    for p in (0.3, 0.8):
        numeric = (meanfield.upward(p + 1e-6, v, m, s) - meanfield.upward(p - 1e-6, v, m, s)) / 2e-6
        assert meanfield.slope(p, v, m, s) == pytest.approx(numeric, rel=1e-6)
    star = meanfield.fixed_point(v, m, s)
    if star is not None:
        assert 1 / v < star < 1
        assert meanfield.upward(star, v, m, s) == pytest.approx(star, abs=1e-12)
        assert meanfield.slope(star, v, m, s) > 1
        assert meanfield.upward(star + 1e-3, v, m, s) > star + 1e-3
        assert meanfield.upward(star - 1e-3, v, m, s) < star - 1e-3


def test_population_of_equal_beliefs_is_the_profile():
    p_0 = np.full(7, meanfield.leaf_belief(0.7, 16))
    np.testing.assert_allclose(
        meanfield.population_profile(p_0, 16, 4, 3, 6), meanfield.profile(0.7, 16, 4, 3, 6)
    )


def test_population_follows_bp_where_the_mean_belief_does_not():
    """Gaussian noise: leaf beliefs fluctuate, and the class goes at a far higher mean belief."""
    process = GaussianProcess(
        DDPMScheduler(beta_schedule="linear", beta_start=1e-4, beta_end=0.02), 32
    )
    known, p_0 = [], []
    for seed in range(8):
        rhm = RandomHierarchyModel(32, 8, 2, 8, seed=seed)
        levels = rhm.sample(32, seed=seed)
        x_t = process.corrupt(levels[0], 112, torch.Generator().manual_seed(seed))
        beliefs = process.beliefs(x_t, 112)
        p_0.append(beliefs.gather(-1, levels[0][..., None]).flatten())
        known.append(BeliefPropagation(rhm)(beliefs).probability_of(levels).mean(0).tolist())
    p_0 = torch.cat(p_0).numpy()
    even = meanfield.marginal(*meanfield.beliefs(p_0.mean(dtype=float), 32, 8, 2, 8), 32)
    fluctuating = meanfield.population_profile(p_0, 32, 8, 2, 8)
    known = np.mean(known, 0)
    assert 0.2 < known[-1] < 0.8
    assert (abs(fluctuating - known) < 0.5 * abs(even - known)).all()


def test_known_critical_values():
    assert meanfield.fixed_point(32, 8, 2) == pytest.approx(7 / 24, abs=1e-14)
    assert meanfield.critical_epsilon(32, 8, 2) == pytest.approx(0.7312, abs=5e-5)
    assert meanfield.length_exponent(32, 17, 2) is None
    assert meanfield.slope(7 / 24, 32, 8, 2) == pytest.approx(1.4422, abs=5e-5)
    assert meanfield.fixed_point(16, 4, 2) == pytest.approx(3 / 12, abs=1e-14)


@pytest.mark.parametrize(
    ("v", "m", "s", "reason"),
    [(32, 17, 2, "any noise loses the class"), (32, 1, 2, "no noise loses the class")],
)
def test_no_transition_without_two_attracting_phases(v, m, s, reason):
    assert max(meanfield.slopes(v, m, s)) > 1, reason
    assert meanfield.fixed_point(v, m, s) is None
    assert meanfield.critical_epsilon(v, m, s) is None


def test_susceptibility_reference_values():
    chi = [meanfield.susceptibility(epsilon, 32, 8, 2, 8) for epsilon in (0.60, 0.70, 0.73, 0.76)]
    np.testing.assert_allclose(chi, [2.11, 4.25, 6.91, 4.21], atol=6e-3)


def test_susceptibility_agrees_with_posterior_samples():
    """Against BP samples, whose reference values are 2.13 and 4.30 at epsilon 0.60 and 0.76."""
    for epsilon, reference in ((0.60, 2.13), (0.76, 4.30)):
        covariance = 0
        for seed in range(16):
            rhm = RandomHierarchyModel(32, 8, 2, 8, seed=seed)
            leaves = rhm.sample(4, seed=seed)[0]
            posterior = BeliefPropagation(rhm)(EpsilonProcess(32).beliefs(leaves, epsilon))
            drawn = posterior.sample(400, torch.Generator().manual_seed(seed))[0]
            sigma = 2.0 * (drawn != leaves) - 1
            sigma = sigma - sigma.mean(0)
            covariance = covariance + torch.einsum("kni,knj->ij", sigma, sigma)
        chi = (covariance.sum() / covariance.trace()).item()
        assert chi == pytest.approx(reference, rel=0.1)
        assert chi == pytest.approx(meanfield.susceptibility(epsilon, 32, 8, 2, 8), rel=0.1)


def test_correlation_at_distance_zero_is_the_variance():
    leaf = meanfield.profile(0.7, 32, 8, 2, 6)[0]
    correlation = meanfield.correlation(0.7, 32, 8, 2, 6)
    assert correlation[0] == pytest.approx(4 * leaf * (1 - leaf))
    assert (np.diff(correlation) < 0).all() and correlation[-1] > 0


@pytest.mark.parametrize(("v", "m", "s", "epsilon"), [(32, 8, 2, 0.7), (8, 3, 3, 0.5)])
def test_correlation_is_the_covariance_of_the_weights_of_two_leaves(v, m, s, epsilon):
    """The equations of the docstring, taken literally: P(sigma_i, sigma_j) = T W T^t."""
    p, q = meanfield.beliefs(meanfield.leaf_belief(epsilon, v), v, m, s, 5)
    correlation = meanfield.correlation(epsilon, v, m, s, 5)
    for k in range(1, 6):
        state = np.array([1.0, 0.0])
        for level in range(k - 2, -1, -1):
            state = meanfield.downward(state, p[level], v, m, s)
        kept = meanfield.marginal(p[0], state, v) if k > 1 else state
        u, c = p[k - 1], (m - q[k]) / (v**s - 1)
        one = u * (1 - u) * c
        weights = np.array(
            [[q[k] * u**s + u**2 * (1 - u ** (s - 2)) * c, one], [one, (1 - u) ** 2 * c]]
        )
        to_leaf = np.array([kept, 1 - kept])
        both = to_leaf @ (weights / weights.sum()) @ to_leaf.T
        covariance = both[0, 0] - both[0].sum() ** 2
        assert correlation[k] == pytest.approx(4 * covariance, rel=1e-9)


def test_correlation_far_below_rounding():
    """At eps* a power law, r^-a with a = 2 - 2/nu, goes on to 1e-9 of the variance."""
    critical, nu = meanfield.critical_epsilon(32, 8, 2), meanfield.length_exponent(32, 8, 2)
    assert nu == pytest.approx(1.893, abs=5e-4)
    correlation = meanfield.correlation(critical, 32, 8, 2, 45)
    slopes = -np.diff(np.log2(correlation))[5:25]
    np.testing.assert_allclose(slopes, 2 - 2 / nu, atol=2e-3)
    # off the transition it falls by (F'(1) / s)^2 and more a level, without end and without a sign
    ordered = meanfield.correlation(0.5, 32, 8, 2, 40)
    assert (ordered > 0).all() and (np.diff(ordered) < 0).all() and ordered[-1] < 1e-40


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: meanfield.upward(1.2, 8, 2, 2), "p must be between 0 and 1, got 1.2"),
        (lambda: meanfield.upward(float("nan"), 8, 2, 2), "p must be between 0 and 1, got nan"),
        (lambda: meanfield.upward(0.5, 8, 9, 2), r"need 72 different tuples"),
        (lambda: meanfield.downward(-1, 0.5, 8, 2, 2), "q must be between 0 and 1, got -1"),
        (lambda: meanfield.fixed_point(8, 0, 2), "m must be at least 1, got 0"),
        (lambda: meanfield.critical_epsilon(8, 2.5, 2), "m must be an integer, got 2.5"),
        (lambda: meanfield.slope(2, 8, 2, 2), "p must be between 0 and 1, got 2"),
        (lambda: meanfield.profile(1.5, 8, 2, 2, 3), "epsilon must be between 0 and 1, got 1.5"),
        (lambda: meanfield.profile(0.5, 8, 2, 2, 0), "L must be at least 1, got 0"),
        (
            lambda: meanfield.population_profile([0.5, 1.5], 8, 2, 2, 3),
            "p_0 must be between 0 and 1, got 1.5",
        ),
        (lambda: meanfield.population_profile([], 8, 2, 2, 3), r"\(size,\), got \(0,\)"),
        (lambda: meanfield.population_profile([0.5], 8, 2, 2, 3, -1), "seed must be .* got -1"),
        (lambda: meanfield.susceptibility(0.0, 8, 2, 2, 3), "epsilon must be above 0.*got 0.0"),
        (lambda: meanfield.susceptibility(1e-20, 8, 2, 2, 3), "must be above 0.*got 1e-20"),
        (lambda: meanfield.correlation([0.1, 0.2], 8, 2, 2, 3), r"one number, got .* \(2,\)"),
        (lambda: meanfield.profile("half", 8, 2, 2, 3), "a number between 0 and 1, got 'half'"),
    ],
)
def test_bad_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(("sizes", "epsilon"), [((32, 8, 2, 10), 0.73), ((8, 8, 3, 5), 0.6)])
def test_susceptibility_is_the_slope_of_the_leaves(sizes, epsilon):
    v = sizes[0]
    ends = epsilon + 1e-6 * np.array([-1, 1])
    p = meanfield.profile(np.append(ends, epsilon), *sizes)[0]
    slope = (p[1] - p[0]) / np.diff(np.log((1 - ends + ends / v) / (ends / v)))[0]
    chi = meanfield.susceptibility(epsilon, *sizes)
    assert slope / (p[2] * (1 - p[2])) == pytest.approx(chi, rel=1e-6)


@pytest.mark.parametrize(("sizes", "limit"), [((16, 4, 2), 9), ((8, 8, 3), 6.2)])
def test_susceptibility_stops_growing_where_nu_is_two_or_more(sizes, limit):
    critical = meanfield.critical_epsilon(*sizes)
    assert meanfield.length_exponent(*sizes) > 2
    chi = [meanfield.susceptibility(critical, *sizes, L) for L in (40, 80)]
    assert chi == pytest.approx([limit, limit], rel=0.05)


@pytest.mark.parametrize(
    "kind", [{"m": [4, 8, 12]}, {"n_classes": 4}, {"n_classes": 128}, {"zipf": 1.0}, {"zipf": 2.0}]
)
def test_trees_of_other_kinds_follow_belief_propagation(kind):
    sizes, epsilon = {"v": 32, "m": 8, "s": 2, "L": 3} | kind, 0.65
    known = []
    for seed in range(24):
        rhm = RandomHierarchyModel(**sizes, seed=seed)
        levels = rhm.sample(64, seed=seed)
        beliefs = EpsilonProcess(32).beliefs(levels[0], epsilon)
        known.append(BeliefPropagation(rhm)(beliefs).probability_of(levels).mean(0))
    known, error = torch.stack(known).mean(0), torch.stack(known).std(0) / 24**0.5
    zipf = sizes.pop("zipf", 0.0)
    population = np.full(20_000, meanfield.leaf_belief(epsilon, 32))
    theory = meanfield.population_profile(population, **sizes, zipf=zipf)
    assert (abs(known.numpy() - theory) < 0.01 + 4 * error.numpy()).all()
    if not zipf:
        np.testing.assert_allclose(meanfield.profile(epsilon, **sizes), theory, atol=1e-9)


@pytest.mark.parametrize(("v", "m", "s"), [(32, 8, 2), (8, 16, 3), (6, 16, 4)])
def test_koenigs_coordinate_turns_a_level_into_a_multiplication(v, m, s):
    fixed = meanfield.fixed_point(v, m, s)
    factor = meanfield.slope(fixed, v, m, s)

    def phi(p):
        return koenigs(p, partial(meanfield.inverse, v=v, m=m, s=s), fixed, factor)

    p = np.linspace(1 / v + 0.05, 0.95, 20)
    once = meanfield.upward(p, v, m, s)
    np.testing.assert_allclose(meanfield.inverse(once, v, m, s), p, rtol=1e-9)
    np.testing.assert_allclose(phi(once), factor * phi(p), rtol=1e-5)
    assert np.diff(phi(fixed + np.array([-1e-4, 1e-4]))) == pytest.approx(2e-4, rel=1e-3)
    with pytest.raises(ValueError, match="x must be where the inverse ends at"):
        phi(1.0)


@pytest.mark.parametrize(("v", "m", "s"), [(32, 4, 2), (64, 2, 2), (8, 4, 3), (6, 8, 4)])
def test_duality_keeps_the_exponents_and_maps_the_fixed_point(v, m, s):
    dual = v ** (s - 1) // m
    p, of_dual = (meanfield.fixed_point(v, number, s) for number in (m, dual))
    assert of_dual == pytest.approx(1 / (v * p), rel=1e-9)
    slopes = meanfield.slope(p, v, m, s), meanfield.slope(of_dual, v, dual, s)
    assert slopes[0] == pytest.approx(slopes[1], rel=1e-9)
    assert meanfield.slopes(v, m, s) == pytest.approx(meanfield.slopes(v, dual, s)[::-1], rel=1e-9)


@pytest.mark.parametrize("m, s, L", [(1, 2, 3), (3, 3, 2)])
def test_quenched_half_is_that_of_exact_inference_where_fluctuations_are_small(m, s, L):
    """Of rules that share no entry more or less than the average, F_R is F."""
    rhm = RandomHierarchyModel(24, m, s, L, seed=1)
    means = []
    for level in range(1, L + 1):
        own, every = np.zeros((2, s + 1))
        for seed in range(40):
            one = RandomHierarchyModel(24, m, s, L, seed=seed).overlaps(level)
            own, every = own + one[0] / 40, every + one[1] / 40
        means.append((own, every))
    k, p = np.arange(s + 1), 0.8
    for own, every in means:
        products = p**k * (0.2 / 23) ** (s - k)
        ours = own @ products / (every @ products)
        assert ours == pytest.approx(meanfield.upward(p, 24, m, s), abs=2e-3)
    half = meanfield.quenched_half_epsilon(rhm)
    levels = rhm.sample(2000, seed=3)
    posterior = BeliefPropagation(rhm)(EpsilonProcess(24).beliefs(levels[0], half))
    assert posterior.probability_of(levels)[:, -1].mean() == pytest.approx(12.5 / 24, abs=0.06)


def test_quenched_half_knows_which_rules_lose_their_class_late():
    """science.md, section 8: correlation .86 over draws at (16, 4, 2, 6), slope 1."""
    draws = [RandomHierarchyModel(16, 4, 2, 6, seed=seed) for seed in range(14)]
    predicted = [meanfield.quenched_half_epsilon(rhm) for rhm in draws]
    assert np.mean(predicted) == pytest.approx(0.7605, abs=0.008)
    known = []
    for rhm in draws:
        levels = rhm.sample(250, seed=9)
        posterior = BeliefPropagation(rhm)(EpsilonProcess(16).beliefs(levels[0], 0.76))
        known.append(posterior.probability_of(levels)[:, -1].mean().item())
    assert np.corrcoef(predicted, known)[0, 1] > 0.75
