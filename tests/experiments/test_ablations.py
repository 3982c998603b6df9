import numpy as np
import pytest
import xarray as xr

from hierphase import run_sweep
from hierphase.experiments import ablations
from hierphase.experiments.ablations import QUANTITIES, TreeMap
from hierphase.rhm import correlations, meanfield
from hierphase.rhm.belief_propagation import BeliefPropagation
from hierphase.rhm.corruption import log_likelihood
from hierphase.rhm.model import RandomHierarchyModel
from hierphase.seeds import derived_generator

SMALL = {"n_rules": 3, "n_leaves": 512}


@pytest.mark.parametrize("kind", [{}, {"zipf": 1.0}, {"m": [2, 4, 3, 2]}])
def test_slopes_are_the_susceptibility_of_the_exact_covariances(kind):
    rhm = RandomHierarchyModel(**{"v": 8, "m": 3, "s": 2, "L": 4} | kind, seed=2)
    curves = ablations.exact_curves(rhm, "epsilon", [0.4, 0.7], 512, seed=5)
    levels = rhm.sample(32, seed=5)
    for i, epsilon in enumerate((0.4, 0.7)):
        beliefs = log_likelihood("epsilon", levels[0], 8, epsilon, None)
        posterior = BeliefPropagation(rhm)(beliefs, log=True)
        covariance = correlations.posterior_covariance(posterior, levels[0]).mean(0)
        chi = covariance.sum() / covariance[0]
        ours = curves.slope[i] / curves.variance[i]
        assert ours.item() == pytest.approx(chi, rel=1e-5)
        known = posterior.probability_of(levels).mean(0)[[0, 1, 4]]
        np.testing.assert_allclose(curves.known[i], known, atol=1e-6)
        assert curves.epsilon[i].item() == pytest.approx(epsilon)


def curves_of(half, width):
    """Of a logistic class and level 1, a straight leaf, and a chi with a peak."""
    epsilon = np.linspace(0.01, 0.99, 400)
    top = 1 / (1 + np.exp(2 * np.log(3) * (epsilon - half) / width))
    known = np.transpose([1 - epsilon, 0.9 * top + 0.05, top]) * (1 - 1 / 8) + 1 / 8
    chi = 1 + 5 * np.exp(-(((epsilon - half - 0.03) / 0.1) ** 2))
    curves = {"known": (("position", "of"), known), "epsilon": ("position", epsilon)}
    curves |= {"slope": ("position", chi), "variance": ("position", np.ones(400))}
    return xr.Dataset(curves)


def test_what_is_read_off_known_curves():
    found = dict(
        zip(
            QUANTITIES,
            ablations.read_off(curves_of(0.6, 0.08), RandomHierarchyModel(8, 2, 2, 4)),
            strict=True,
        )
    )
    assert found["half"] == pytest.approx(0.6, abs=1e-4)
    assert found["width_75_25"] == pytest.approx(0.08, abs=2e-4)
    assert found["crossing"] == pytest.approx(0.6, abs=1e-3)  # of top and .9 top + .05
    assert found["lead"] == pytest.approx(0.05, abs=1e-3) == found["deficit"]
    assert (found["leaf"], found["leaf_slope"]) == pytest.approx((0.4, -1), abs=1e-3)
    assert (found["chi_max"], found["chi_epsilon"]) == pytest.approx((6, 0.63), abs=2e-3)
    few = curves_of(0.6, 0.08).isel(position=slice(None, None, 27))  # none at the peak
    chi = ablations.read_off(few, RandomHierarchyModel(8, 2, 2, 4))[-2:]
    np.testing.assert_allclose(chi, (6, 0.63), rtol=0.01)


def test_the_map_equals_mean_field_and_known_values(tmp_path):
    trees = [{"v": 32, "m": 12, "s": 2, "L": 9}, {"v": 8, "m": 1, "s": 2, "L": 6}]
    result = run_sweep(
        "ablations", "map", {"trees": trees, "n_rules": 4, "n_leaves": 4096}, tmp_path
    )
    one = result.isel(structure=0)
    assert one.half.item() == pytest.approx(one.half_theory.item(), abs=0.01)
    assert one.chi_epsilon_theory.item() == pytest.approx(0.507, abs=0.005)
    assert one.chi_epsilon_low < one.chi_epsilon < one.chi_epsilon_high
    assert one.half_low < one.half < one.half_high
    assert result.half_draws.dims == ("structure", "draw")
    assert result.half[1] > 0.9  # one rule a symbol: any part tells the class
    assert list(result.m.values) == [12, 1]


def test_draws_and_shards_do_not_matter_to_one_another(tmp_path):
    trees = [
        {"v": 6, "m": [2, 3, 2], "s": 2, "L": 3, "noise": "Gaussian"},
        {"v": 6, "m": 2, "s": 2, "L": 3, "zipf": 1.0, "noise": "uniform"},
        {"v": 6, "m": 2, "s": 2, "L": 3, "n_classes": 3, "noise": "masking"},
    ]
    both = [
        run_sweep(
            "ablations", "map", SMALL | {"trees": trees}, tmp_path / str(size), shard_size=size
        )
        for size in (1, 7)
    ]
    xr.testing.assert_identical(both[0].drop_attrs(), both[1].drop_attrs())
    assert both[0].chi_max.isnull().all() and both[0].half.notnull().all()
    assert list(both[0].noise.values) == ["Gaussian", "uniform", "masking"]
    assert both[0].m[0] == pytest.approx(7 / 3)


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"v": 8, "m": 2, "s": 2}, "must say v, m, s and L, at most .*, got"),
        ({"v": 8, "m": 2, "s": 2, "L": 3, "zip": 1}, "at most .*'zipf'.*, got .*'zip'"),
        ({"v": 8, "m": 2, "s": 2, "L": 3, "noise": "white"}, "white"),
        ({"v": 8, "m": 9, "s": 2, "L": 3}, "m=9 rules need 72 different tuples"),
        ("v=8", "v=8"),
    ],
)
def test_trees_that_cannot_be_are_refused(tree, message):
    with pytest.raises(ValueError, match=message):
        TreeMap(TreeMap.presets["map"] | {"trees": [tree]})


def test_half_way_of_single_draws_and_its_prediction(tmp_path):
    trees = [dict(v=8, m=3, s=2, L=3), dict(v=8, m=2, s=2, L=4, n_classes=5)]
    changes = {"trees": trees, "n_rules": 4, "n_leaves": 4096, "seed": 7}
    found = run_sweep("bp-theory", "rule-draws", changes, tmp_path)
    assert found.half.dims == found.half_quenched.dims == ("structure", "draw")
    assert found.n_classes.values.tolist() == [8, 5] and found.L.values.tolist() == [3, 4]
    for i, tree in enumerate(trees):
        for draw in range(4):
            seed = derived_generator(7, draw).initial_seed()
            rhm = RandomHierarchyModel(**tree, seed=seed)
            one = found.isel(structure=i, draw=draw)
            assert one.half_quenched == meanfield.quenched_half_epsilon(rhm)
            levels = rhm.sample(4000, seed=1)  # other data
            beliefs = log_likelihood("epsilon", levels[0], 8, one.half.item(), None)
            known = BeliefPropagation(rhm)(beliefs, log=True).probability_of(levels)[:, -1]
            assert known.mean() == pytest.approx((1 + 1 / rhm.n_classes) / 2, abs=0.03)
    assert 0 < found.half_error.mean() < 0.01
