import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist

from hierphase.experiments import registry
from hierphase.experiments.learned_denoisers import DenoiserExperiment, nearest_distance
from hierphase.networks import catalogue, objectives, rhm_catalogue
from hierphase.rhm.dataset import TreeData
from hierphase.rhm.model import RandomHierarchyModel

SMALL = {
    "sizes": {"unet": [[64, 512]], "transformer": [[512]]},
    "n_loss_data": 300,
    "n_loss_times": 13,
    "n_data": 20,
    "n_times": 4,
    "n_samples": 30,
    "num_inference_steps": 25,
}


def parameters(**changes):
    return registry.all_parameters("learned-denoisers", "tree", SMALL | changes)


@pytest.fixture(scope="module")
def small():
    """(experiment, measured) for belief propagation and three trained networks."""
    experiment = DenoiserExperiment(parameters())
    return experiment, experiment.measure(0, 4, experiment.prepare())


def test_entries_and_coordinates(small):
    experiment, measured = small
    assert len(experiment) == 4
    assert measured.architecture.values.tolist() == ["bayes", "unet", "unet", "transformer"]
    np.testing.assert_array_equal(measured.P, [np.nan, 64, 512, 512])
    assert measured.time.values.tolist() == [0, 0.12, 0.24, 0.36]
    both = DenoiserExperiment(parameters(sizes={"unet": [[64], [512, None]]})).entries
    assert both == [
        ("bayes", None, 0), ("bayes", None, 1), ("unet", 64, 0), ("unet", 512, 1),
        ("unet", None, 1),
    ]  # fmt: skip
    names = [rhm_catalogue.tree_denoiser_name(*entry) for entry in both]
    assert names[2] == "rhm-unet-64" and names[4] == "rhm-unet-fresh-rules-1"


def test_other_trees_are_those_of_their_names():
    experiment = DenoiserExperiment(registry.all_parameters("learned-denoisers", "unet-m2-L3"))
    assert len(experiment) == 2 * (1 + 6)  # draws of the rules
    for entry in experiment.entries[2:]:
        name = rhm_catalogue.tree_denoiser_name(*entry)
        rhm = catalogue.TRAININGS[name].data().rhm
        assert (rhm.v, rhm.m, rhm.s, rhm.L) == (8, 2, 2, 3)
        own = RandomHierarchyModel(8, 2, 2, 3, seed=entry[2])
        assert all(map(torch.equal, rhm.rules, own.rules)), name
    one = DenoiserExperiment(parameters(sizes={"unet-m4-L3": [[]]}, n_samples=50))
    assert one.measure(0, 1, one.prepare()).level.values.tolist() == [0, 1, 2, 3]
    mixed = {"unet": [[64]], "unet-m2-L4": [[64]]}
    with pytest.raises(ValueError, match="sizes must be of one tree, got"):
        DenoiserExperiment(parameters(sizes=mixed))


def test_the_exact_denoiser_is_calibrated_but_for_the_solver(small):
    _, measured = small
    value, low, high = measured.calibration.transpose("part", "unit", "ln_snr").values
    assert measured.ln_snr.values.tolist() == [1.5, 0.0]
    assert (low < value).all() and (value < high).all()
    assert (np.abs(value[0]) < 0.015).all()  # of 25 steps
    assert (value[1:] != value[0]).all()


def test_shards_give_the_bits_of_the_whole(small):
    experiment, whole = small
    part = experiment.measure(2, 3, experiment.prepare())
    assert part.identical(whole.isel(unit=[2]))


def test_loss_above_bayes_is_the_distance_of_the_predictions(small):
    _, measured = small
    exact, trained = measured.isel(unit=0), measured.isel(unit=slice(1, None))
    assert (exact.gap == 0).all() and (exact.distance == 0).all()
    np.testing.assert_array_equal(exact.loss, exact.bayes_loss)
    relevant = (trained.distance > 1e-4).values
    assert relevant.sum() > 6
    error = np.hypot(trained.gap_error, trained.distance_error).values[relevant]
    z = (trained.gap - trained.distance).values[relevant] / error
    assert (np.abs(z) < 4).all() and (trained.gap.values[relevant] > 0).mean() > 0.8
    np.testing.assert_allclose(trained.loss - trained.bayes_loss, trained.gap, atol=1e-6)
    assert trained.distance.mean("loss_time").values.argmax() == 0  # P = 64


def test_losses_are_those_of_training_at_these_times(small):
    """The loss of the experiment against the loss function of the training, averaged over t."""
    experiment, _ = small
    name = rhm_catalogue.tree_denoiser_name(*experiment.entries[2])
    network, *_ = rhm_catalogue.TREE_DENOISERS["unet"]
    model = network.from_pretrained(catalogue.model_directory(name)).float()
    data = TreeData(rhm_catalogue.tree_rhm(0))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        expected = objectives.denoising_loss(model, data.test_images, None, generator).item()
    fine = DenoiserExperiment(parameters(sizes={"unet": [[512]]}, n_loss_times=200))
    measured = fine.measure(1, 2, fine.prepare())
    assert float(measured.loss.mean()) == pytest.approx(expected, rel=0.06)


def test_nothing_changes_without_noise_and_the_exact_denoiser_obeys_all_rules(small):
    _, measured = small
    nodes = 2 ** (4 - measured.level)
    assert (measured.kept.isel(time=0) == nodes).all()
    assert (measured.kept <= nodes).all()
    few, many, exact = (measured.isel(unit=i) for i in (1, 2, 0))
    assert few.kept.isel(level=4).sum() < many.kept.isel(level=4).sum()
    assert (exact.valid == nodes).mean() > 0.98
    assert (measured.valid <= measured.candidates).all()
    for level in (0, 1):  # leaves are always there
        assert (measured.candidates.sel(level=level) == nodes.sel(level=level)).all()
    assert few.valid.isel(level=4).mean() < many.valid.isel(level=4).mean() + 0.1


def test_nearest_distance_is_the_hamming_distance():
    rhm = RandomHierarchyModel(8, 3, 2, 4)
    data, leaves = TreeData(rhm, P=150), rhm.sample(90, seed=5)[0]
    leaves[3] = data.train_levels[0][77]
    expected = cdist(leaves, data.train_levels[0], "hamming").min(1) * 16
    np.testing.assert_allclose(nearest_distance(leaves, data), expected)
    assert nearest_distance(leaves, data)[3] == 0
    assert (nearest_distance(leaves, TreeData(rhm)) == -1).all()


def test_refusals():
    with pytest.raises(ValueError, match=r"lack \['seed'\] and have unknown \['sead'\]"):
        wrong = parameters()
        wrong["sead"] = wrong.pop("seed")
        DenoiserExperiment(wrong)
    with pytest.raises(ValueError, match=r"unknown value of sizes 'mlp'.*unet, transformer"):
        DenoiserExperiment(parameters(sizes={"mlp": [[64]]}))
    with pytest.raises(ValueError, match="n_samples must be at least 1, got 0"):
        DenoiserExperiment(parameters(n_samples=0))
    with pytest.raises(FileNotFoundError, match="hierphase train rhm-unet-3"):
        DenoiserExperiment(parameters(sizes={"unet": [[3]]})).fingerprint()
