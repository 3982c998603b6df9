import itertools

import numpy as np
import pytest
from scipy.special import entr

from hierphase import run_sweep
from hierphase.experiments import registry
from hierphase.experiments.levels import LevelEntropy
from hierphase.rhm.correlations import leaf_covariance
from hierphase.rhm.corruption import ddpm_scheduler, log_likelihood
from hierphase.rhm.model import RandomHierarchyModel
from hierphase.seeds import derived_generator

TREE = {"v": 3, "m": 2, "s": 2, "L": 2, "n_classes": 2}


def all_data(rhm):
    """Leaves, level 1 and class of all data, equally likely."""
    data = []
    for root in range(rhm.n_classes):
        for top in rhm.rules[1][root].tolist():
            for choice in itertools.product(range(rhm.m), repeat=2):
                data.append((rhm.rules[0][top, choice].flatten().tolist(), top, [root]))
    return [np.array(part) for part in zip(*data, strict=True)]


def marginal_entropies(weights, levels, v=3):
    """(level,) mean over nodes of the entropy of a symbol, of data with these weights."""
    found = []
    for symbols in levels:
        of_node = [np.bincount(x, weights, minlength=v) / weights.sum() for x in symbols.T]
        found.append(entr(of_node).sum(1).mean())
    return found


@pytest.mark.parametrize("noise", ["epsilon", "masking", "Gaussian"])
def test_entropies_are_sums_over_all_data(noise, tmp_path):
    sizes = {"trees": [TREE], "noise": noise, "noises": [0.3, 0.6], "n_rules": 2, "n_data": 12}
    found = run_sweep("speciation", "tree", sizes, tmp_path).isel(structure=0)
    expected = np.zeros((2, 2, 3))
    variances, gaps = np.zeros((2, 2)), np.zeros(2)
    for draw in (0, 1):
        seed = derived_generator(0, draw).initial_seed()
        rhm = RandomHierarchyModel(**TREE, seed=seed)
        levels, data = rhm.sample(12, seed=seed), all_data(rhm)
        codes = np.eye(3)[data[0]]
        for k, u in enumerate((0.3, 0.6)):
            generator = derived_generator(0, draw, 1)
            log = log_likelihood(noise, levels[0], 3, u, generator, T=20_000).numpy()
            joint = np.exp(log[:, np.arange(4), data[0]].sum(2))
            for weights, truth, own in zip(joint, levels[0], levels[2][:, 0].tolist(), strict=True):
                of_classes = [weights[data[2][:, 0] == c].sum() for c in (own, 1 - own)]
                if noise != "masking":  # in which classes are excluded
                    gaps[k] += np.log(of_classes[0] / of_classes[1]) / 24
                for given, p in enumerate((weights, weights * (data[2][:, 0] == own))):
                    expected[given, k] += np.array(marginal_entropies(p, data)) / 24
                    mean = np.einsum("x,xiv->iv", p / p.sum(), codes)
                    variances[given, k] += ((np.eye(3)[truth] - mean) ** 2).sum() / 24
    np.testing.assert_allclose(found.entropy, expected[0], atol=1e-6)
    np.testing.assert_allclose(found.given_class, expected[1], atol=1e-6)
    np.testing.assert_allclose(found.mmse, variances[0], atol=1e-5)
    np.testing.assert_allclose(found.mmse_given_class, variances[1], atol=1e-5)
    assert (found.given_class.isel(level=2) == 0).all()
    if noise != "masking":
        np.testing.assert_allclose(found.gap, gaps, rtol=1e-5)
        np.testing.assert_allclose(found.lead, found.gap - found.gap_spread, atol=1e-5)
    np.testing.assert_allclose(found.information, expected[0] - expected[1], atol=1e-6)
    np.testing.assert_allclose(found.class_entropy.mean("draw"), expected[0][:, 2], atol=1e-6)
    np.testing.assert_allclose(
        found.class_mmse.mean("draw"), variances[0] - variances[1], atol=1e-5
    )


def test_what_the_class_tells_is_its_entropy_rate(tmp_path):
    """dI(class; x)/dSNR = (mmse - mmse given the class)/2, two computations of one curve."""
    noises = [k / 200 for k in range(8, 61)]
    trees = [{"v": 8, "m": 3, "s": 2, "L": 4}]
    sizes = {"trees": trees, "noises": noises, "n_rules": 4, "n_data": 400}
    found = run_sweep("speciation", "tree-gaussian", sizes, tmp_path).isel(structure=0)
    alpha_bar = ddpm_scheduler(20_000).alphas_cumprod[[round(u * 20_000) for u in noises]].double()
    snr = (alpha_bar / (1 - alpha_bar)).numpy()
    rate = (found.mmse - found.mmse_given_class).values / 2
    falls = -np.array([np.trapezoid(rate[k:], snr[k:]) for k in range(len(snr))])
    entropy = found.entropy.isel(level=4).values
    np.testing.assert_allclose(entropy[-1] - entropy, falls, atol=0.05)
    assert entropy[-1] - entropy[0] > 1


def test_largest_variance_and_gap_lie_on_either_side_of_the_class():
    """The times of the stored result; SNR = 1/variance is computed here from its definition."""
    found = registry.result("speciation", "tree-gaussian")
    alpha_bar = ddpm_scheduler().alphas_cumprod.double().numpy()
    for i in range(3):
        sizes = [int(found[name][i]) for name in "vmsL"]
        covariance = leaf_covariance(RandomHierarchyModel(*sizes, seed=0))
        largest = np.linalg.eigvalsh(covariance)[-1]
        entropy, lead = (
            found[name].isel(structure=i).values for name in ("entropy_high", "lead_low")
        )
        times = found.noise.values
        spectral = (alpha_bar / (1 - alpha_bar) > 1 / largest).sum() / 1000
        decided = np.interp(np.log(sizes[0]) / 2, entropy[:, sizes[3]], times)  # not later
        assert spectral + 0.02 < decided
        assert (lead[times < decided] > 0).all()


def test_limits_and_sizes(tmp_path):
    trees = [{"v": 4, "m": 2, "s": 2, "L": 2}, {"v": 4, "m": 2, "s": 2, "L": 3}]
    noises = [0.001, 0.999]
    changes = {"trees": trees, "noises": noises, "n_rules": 2, "n_data": 16}
    found = run_sweep("speciation", "tree", changes, tmp_path)
    assert found.entropy.dims == ("structure", "noise", "level")
    assert found.noise.values.tolist() == noises and found.L.values.tolist() == [2, 3]
    assert found.entropy[:, 0].max() < 0.05
    np.testing.assert_allclose(
        [found.entropy[0, 1, 2], found.entropy[1, 1, 3]], np.log(4), atol=0.01
    )
    assert np.isnan(found.entropy[0, 0, 3]) and np.isfinite(found.entropy[1]).all()
    assert (found.given_class <= found.entropy + 1e-3).where(found.entropy.notnull(), True).all()


def test_refusals():
    with pytest.raises(ValueError, match=r"noises must be a number, 1e-06 to 0.999999, got"):
        LevelEntropy(registry.all_parameters("speciation", "tree", {"noises": [0.0, 0.5]}))
    with pytest.raises(ValueError, match="unknown value of noise 'gaussian'"):
        LevelEntropy(registry.all_parameters("speciation", "tree", {"noise": "gaussian"}))
