import itertools
import operator

import numpy as np
import pytest

from hierphase import run_sweep
from hierphase.analysis.gaussian_mixture import GaussianMixture
from hierphase.diffusion.datasets import DATASETS
from hierphase.experiments import registry
from hierphase.experiments.u_turns import UTurns, relaxation
from hierphase.rhm.model import RandomHierarchyModel
from hierphase.seeds import derived_generator

TREE = {"v": 3, "m": 2, "s": 2, "L": 2, "n_classes": 3}


def kernel(rhm, rate):
    """All data (leaves, and levels), and P(x -> x') of a step, by enumeration of all masks."""
    data = []
    for root in range(rhm.n_classes):
        for top in rhm.rules[1][root].tolist():
            for choice in itertools.product(range(rhm.m), repeat=rhm.s):
                leaves = rhm.rules[0][top, choice].flatten().tolist()
                data.append((leaves, top, [root]))
    leaves = np.array([x[0] for x in data])
    step = np.zeros((len(data), len(data)))
    for mask in itertools.product((False, True), repeat=rhm.d):
        seen = ~np.array(mask)
        chance = rate ** sum(mask) * (1 - rate) ** (rhm.d - sum(mask))
        agree = (leaves[:, None, seen] == leaves[None, :, seen]).all(2)
        step += chance * agree / agree.sum(1, keepdims=True)
    return [np.array([x[level] for x in data]) for level in range(3)], step


def exact_kept(levels, step, n):
    """(level,) what is kept after n steps beyond chance."""
    after, found = np.linalg.matrix_power(step, n) / len(step), []
    for symbols in levels:
        same = (symbols[:, None] == symbols[None]).mean(2)
        chance = np.mean([(np.bincount(x) / len(x)) @ (np.bincount(x) / len(x)) for x in symbols.T])
        found.append(((after * same).sum() - chance) / (1 - chance))
    return np.array(found)


def shared_entries(rhm, a, b):
    """In how many pairs of top rules, of a and of b, some place holds the same symbol."""
    pairs = itertools.product(rhm.rules[-1][a].tolist(), rhm.rules[-1][b].tolist())
    return sum(any(map(operator.eq, *pair)) for pair in pairs)


def test_chains_are_those_of_the_enumerated_kernel(tmp_path):
    changes = {"trees": [TREE], "rates": [0.3, 0.6], "n_rules": 2, "n_chains": 1500, "n_steps": 12}
    found = run_sweep("u-turns", "tree", changes, tmp_path)
    assert found.kept.dims == ("structure", "rate", "draw", "step", "level")
    for draw in (0, 1):
        rhm = RandomHierarchyModel(**TREE, seed=derived_generator(0, draw).initial_seed())
        for i, rate in enumerate((0.3, 0.6)):
            levels, step = kernel(rhm, rate)
            np.testing.assert_allclose(step.sum(1), 1)
            np.testing.assert_allclose(step, step.T, atol=1e-12)  # reversible: equally likely data
            assert np.linalg.eigvalsh(step).min() > -1e-12  # and positive
            exact = np.array([exact_kept(levels, step, n) for n in range(13)])
            ours = found.kept.isel(structure=0, rate=i, draw=draw)
            np.testing.assert_allclose(ours, exact, atol=0.07)
            bound = exact[1] ** np.arange(13)[:, None]
            assert (exact >= bound - 1e-12).all()  # K_n >= K_1^n
            moved = np.array(
                [
                    [
                        step[np.ix_(a == levels[2][:, 0], b == levels[2][:, 0])].sum()
                        for b in range(3)
                    ]
                    for a in range(3)
                ]
            )[~np.eye(3, dtype=bool)]
            uneven = np.mean((moved / moved.mean() - 1) ** 2)
            assert found.hops[0, i, draw] == pytest.approx(uneven, abs=0.02 + 0.2 * uneven)
            alike = [shared_entries(rhm, a, b) for a in range(3) for b in range(3) if a != b]
            shared = np.mean((moved / moved.mean() - 1) * alike) / np.std(alike)
            assert found.shared[0, i, draw] == pytest.approx(shared, abs=0.05)
    assert found.noise.item() == "masking"
    assert (found.relaxation_low >= 0).all()  # of two draws, whose intervals are wide


def test_relaxation_is_the_time_of_an_exponential():
    steps = np.arange(30)
    kept = np.exp(-steps / np.array([0.4, 3.7, 50.0])[:, None])
    np.testing.assert_allclose(relaxation(kept), [0.4, 3.7, np.nan])


def test_known_times_of_relaxation(tmp_path):
    """science.md, section 8: (16, 4, 2, 6) at masking rates .53 and .75, and middle levels last."""
    tree = {"v": 16, "m": 4, "s": 2, "L": 6}
    changes = {"trees": [tree], "rates": [0.3, 0.53, 0.75], "n_rules": 4, "n_chains": 48}
    found = run_sweep("u-turns", "tree", changes | {"n_steps": 40}, tmp_path).isel(structure=0)
    assert found.v.item() == 16 and found.rate.values.tolist() == [0.3, 0.53, 0.75]
    middle = [2.18, 2.05, 1.93, 1.76, 1.50, 1.16, 0.80]
    np.testing.assert_allclose(found.relaxation[1], middle, rtol=0.25)
    assert found.relaxation[2, 0] == pytest.approx(0.89, rel=0.1)
    assert found.relaxation[2, 6] == pytest.approx(0.26, rel=0.15)
    assert (found.relaxation[2].diff("level") < 0).all()
    slow = found.kept[0, :, 20].mean("draw").values
    assert slow[[2, 3, 4]].min() > max(slow[0], slow[6])
    assert (found.relaxation_low <= found.relaxation).where(found.relaxation.notnull(), True).all()


def test_refusals():
    def made(**changes):
        return UTurns(registry.all_parameters("u-turns", "tree", changes))

    with pytest.raises(ValueError, match=r"rates must be a number, 1e-06 to 0.999999, got"):
        made(rates=[0.5, 1.0])
    with pytest.raises(ValueError, match="rates must increase, 1 or more, got"):
        made(rates=[0.5, 0.5])
    with pytest.raises(ValueError, match="unknown value of noise 'epsilon'"):
        made(noise="epsilon")
    with pytest.raises(ValueError, match="n_chains must be at least 2, got 1"):
        made(n_chains=1)


DIGITS = {
    "images": "digits", "classifier": "digits-classifier", "n_per_class": 3,
    "num_inference_steps": 100, "turns": [1, 3], "times": [0.1, 0.5],
}  # fmt: skip


def test_turns_that_are_no_whole_numbers_are_refused():
    one = registry.find("u-turns", "fashion-mnist")[0]
    with pytest.raises(ValueError, match=r"turns must be integer, 1 to inf, got \[1, 2\.5\]"):
        one(one.presets["fashion-mnist"] | {"turns": [1, 2.5]})


def test_turns_of_images_do_not_depend_on_shards(tmp_path):
    changes = DIGITS | {"model": "digits", "n_per_class": 1}
    found = run_sweep("u-turns", "fashion-mnist", changes, tmp_path, shard_size=6)
    assert found.turns.values.tolist() == [0, 1, 3, 1, 1] and found.sizes["image"] == 10
    assert found.time.values == pytest.approx([0, 0.1, 0.1, 0.1, 0.5], abs=0.03)
    assert (found.change[0] == 0).all() and (found.change[1:] > 0).all()
    np.testing.assert_allclose(found.similarity[:, 0], 1, atol=1e-5)
    one = registry.find("u-turns", "fashion-mnist")[0]
    one = one(registry.all_parameters("u-turns", "fashion-mnist", changes))
    whole = one.measure(0, 10, one.prepare())
    for name in ("top_class", "change", "similarity"):
        np.testing.assert_array_equal(found[name], whole[name], name)


def test_a_flat_mixture_forgets_along_each_axis_as_it_should(tmp_path):
    """Where noise hides no class, an axis of variance x keeps rho^n of x after n turns."""
    changes = DIGITS | {"model": "flat-mixture", "n_per_class": 30, "turns": [1, 2, 6]}
    changes = {key: x for key, x in changes.items() if key != "num_inference_steps"}
    changes["times"] = [0.04, 0.1]
    found = run_sweep("u-turns", "flat-fashion-mnist", changes, tmp_path)
    data = DATASETS["digits"]()
    law = GaussianMixture.fitted(data.train_images, data.train_labels)
    snr = np.exp(found.ln_snr.values[1:, None, None])
    rho = snr * law.variances.numpy() / (1 + snr * law.variances.numpy())
    kept = rho ** found.turns.values[1:, None, None]
    exact = 2 * (law.variances.numpy() * (1 - kept)).mean((1, 2))
    np.testing.assert_allclose(found.change.mean("image")[1:], exact, rtol=0.05)
    np.testing.assert_allclose(found.norm, found.norm[0], rtol=0.1)


def test_times_of_images_are_refused():
    with pytest.raises(ValueError, match="times must increase, 1 or more"):
        registry.all_parameters("u-turns", "fashion-mnist", {"times": [0.5, 0.3]})
    with pytest.raises(ValueError, match=r"turns must be integer, 1 to inf, got \[0, 1\]"):
        registry.all_parameters("u-turns", "fashion-mnist", {"turns": [0, 1]})
