import numpy as np
import pytest
import torch

from hierphase.experiments import registry
from hierphase.rhm import correlations
from hierphase.rhm.belief_propagation import BeliefPropagation
from hierphase.rhm.corruption import EpsilonProcess
from hierphase.rhm.model import RandomHierarchyModel
from hierphase.seeds import derived_generator

TREE = {
    "v": 8, "m": 3, "depths": [2, 4], "offsets": [0.05, 0.9], "L": 3, "n_times": 4, "n_rules": 3,
    "n_data": 2, "n_draws": 2,
}  # fmt: skip
DIGITS = {"n_per_class": 1, "n_times": 2, "num_inference_steps": 4, "n_trajectories": 3}


CHAPTER = {"tree": "correlations", "digits": "image-correlations"}


def experiment(preset, **changes):
    kind, _ = registry.find(CHAPTER[preset], preset)
    return kind(registry.all_parameters(CHAPTER[preset], preset, changes))


@pytest.mark.parametrize(("preset", "changes"), [("tree", TREE), ("digits", DIGITS)])
def test_a_sweep_gives_the_bits_of_one_measurement(preset, changes, tmp_path):
    result = registry.run_sweep(CHAPTER[preset], preset, changes, tmp_path, shard_size=2)
    one = experiment(preset, **changes)
    whole = one.finish(one.measure(0, len(one), one.prepare()))
    assert result.sizes == whole.sizes
    for name, variable in whole.variables.items():
        assert np.array_equal(
            result[name].values, variable.values, equal_nan=variable.dtype.kind == "f"
        ), name


def test_tree_covariance_is_that_of_the_posteriors():
    one = experiment("tree", **TREE)
    measured = one.measure_unit(1, one.prepare())
    epsilon = measured.epsilon.values
    assert len(epsilon) == 3 and epsilon.max() <= 1  # eps* + 0.9 is none, eps* - 0.9 too
    seed = derived_generator(0, 1).initial_seed()
    rhm = RandomHierarchyModel(8, 3, 2, 4, seed=seed)
    levels = rhm.sample(2, seed=seed)
    posterior = BeliefPropagation(rhm)(EpsilonProcess(8).beliefs(levels[0], epsilon[1]).double())
    expected = correlations.posterior_covariance(posterior, levels[0]).mean(0)
    ours = measured.covariance.sel(depth=4).isel(epsilon=1)
    np.testing.assert_allclose(ours, expected, rtol=1e-6, atol=1e-6)
    assert measured.covariance.sel(depth=2)[:, 3:].isnull().all()


def test_noise_and_time_of_the_drawn_processes():
    one = experiment("tree", **TREE | {"n_data": 40, "n_draws": 20, "n_rules": 1})
    measured = one.finish(one.measure_unit(0, one.prepare()))
    masking = measured.sel(process="masking")
    np.testing.assert_allclose(masking.noise, masking.t, atol=0.02)  # erased: no belief at all
    assert (np.diff(measured.t, axis=1) > 0).all() and (np.diff(measured.noise, axis=1) > 0).all()
    assert (np.diff(measured.noisy_class_known, axis=1) < 0.01).all()
    assert (measured.noisy_covariance.sel(part="given x_t").isel(noisy_distance=0) >= 0).all()


def test_seeds_give_other_rules_and_equal_seeds_the_same():
    first, again, other = (
        experiment("tree", **TREE | {"seed": seed}).measure(0, 2, None).covariance.values
        for seed in (0, 0, 1)
    )
    assert np.array_equal(first, again, equal_nan=True)
    assert len({row[..., 0].tobytes() for row in (*first, *other)}) == 4


def test_changes_of_images_by_hand():
    one = experiment("digits", **DIGITS)
    prepared, x_0 = one.prepare(), one.world.starts(range(2))[0]
    same = x_0.expand(2, 3, *x_0.shape)
    still = one.changes(x_0, same, prepared)
    assert (still.covariance == 0).all() and (still["mean"] == 0).all()
    assert (still.top_class == still.first_class).all()

    moved = same.clone()
    moved[0, 0, 1, 0, :2, :2] += 1.0  # one patch of one trajectory, by half the range of pixels
    measured = one.changes(x_0, moved, prepared).isel(time=0)
    pixels, flags = (measured.sel(field=name) for name in ("patches", "changed"))
    for field in (pixels, flags):
        assert field.covariance[1, 0] == pytest.approx(1 / 3)  # variance of 1, 0, 0
        assert (field.covariance[1, 1:] == 0).all() and (field.covariance[0] == 0).all()
        assert field["mean"][1] == pytest.approx(1 / 3 / 16)


def test_more_trajectories_leave_the_first_as_they_were():
    few, more = (experiment("digits", **DIGITS | {"n_trajectories": n}) for n in (2, 3))
    first, second = (e.measure(0, 2, e.prepare()).top_class for e in (few, more))
    assert torch.equal(torch.from_numpy(first.values), torch.from_numpy(second.values[..., :2]))


def test_controls_beside_the_images():
    one = experiment("digits", **DIGITS)
    measured = one.measure(0, 10, one.prepare())
    result = one.finish(measured)
    assert result.world.values.tolist() == ["images", "same covariance", "power law"]
    images = result.sel(world="images")
    for name in measured:
        assert (images[name] == measured[name]).all(), name
    assert result.alpha_bar[-1] == 0 and result.covariance.notnull().all()

    # Of two independent draws a pixel differs by twice its variance; a patch's root mean square
    # change has no more than this mean square.
    pixels = one.world.held_out.flatten(1).double().numpy()
    assert result.pixel_variance == pytest.approx(pixels.var(axis=0).mean())
    pure = result.sel(field="patches", time=1)
    for world in ("same covariance", "power law"):
        change = float(pure["mean"].sel(world=world).mean())
        variance = float(pure.covariance.sel(world=world).isel(distance=0).mean()) / 16
        assert change**2 + variance == pytest.approx(2 * pixels.var(axis=0).mean(), rel=0.25)


def test_a_folder_has_no_controls():
    one = experiment("digits", **DIGITS)
    one.world = one.world._replace(held_out=None)
    merged = object()
    assert one.finish(merged) is merged


def test_the_stored_results_are_of_the_presets():
    """What the chapter draws is all in the file: it asks for no data set."""
    tree, images = (
        registry.result(chapter, preset)
        for chapter, preset in (("correlations", "tree"), ("image-correlations", "fashion-mnist"))
    )
    assert tree.sizes["unit"] == len(experiment("tree"))
    assert images.sizes["image"] == 40
    assert images.world.values.tolist() == ["images", "same covariance", "power law"]
    assert images.covariance.notnull().all()


@pytest.mark.parametrize(
    ("preset", "changes", "message"),
    [
        ("tree", {"m": 17, "v": 32}, r"no transition for \(v, m, s\) = \(32, 17, 2\)"),
        ("tree", {"n_draws": 1}, "n_draws must be at least 2, got 1"),
        ("digits", {"n_trajectories": 1}, "n_trajectories must be at least 2, got 1"),
        ("digits", {"threshold": 1.5}, "threshold must be between 0 and 1, got 1.5"),
    ],
)
def test_bad_parameters_are_refused(preset, changes, message):
    with pytest.raises(ValueError, match=message):
        experiment(preset, **changes)


def test_patches_have_to_match_the_map_of_the_features():
    one = experiment("digits", **DIGITS | {"patch_size": 4})
    with pytest.raises(ValueError, match=r"'stages.1' .* \(n, channels, 2, 2\), got .*, 4, 4\)"):
        one.check()
