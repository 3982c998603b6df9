import numpy as np
import pytest
import torch

from hierphase.analysis.representations import activations
from hierphase.analysis.transition import largest_gaps, layer_crossing
from hierphase.experiments import registry
from hierphase.experiments.representations import PRESETS, ProbeExperiment
from hierphase.networks import catalogue
from hierphase.networks.rhm_classifier import TreeClassifier
from hierphase.rhm.corruption import ddpm_scheduler
from hierphase.rhm.dataset import TreeData, encode
from hierphase.rhm.model import RandomHierarchyModel

CHAPTER = "probe-curves"
SMALL = {"n_blocks": 3, "block": 5, "noise": [0.0, 0.5, 1.0]}


def parameters(preset="tree", **changes):
    """Parameters of a preset, small."""
    return registry.all_parameters(CHAPTER, preset, SMALL | {"n_decoding": 0} | changes)


@pytest.fixture(scope="module")
def small():
    """(experiment, prepared, measured) on two networks."""
    experiment = ProbeExperiment(parameters(networks=["rhm-cnn", "rhm-cnn-1"]))
    prepared = experiment.prepare()
    return experiment, prepared, experiment.measure(0, len(experiment), prepared)


def test_shards_give_the_bits_of_the_whole(small):
    experiment, prepared, whole = small
    assert len(experiment) == 6
    parts = [experiment.measure(*bounds, prepared) for bounds in ((0, 2), (2, 5), (5, 6))]
    for name, variable in whole.items():
        together = np.concatenate([part[name].values for part in parts])
        assert np.array_equal(together, variable.values), name


def test_without_noise_all_is_kept_and_with_all_noise_what_chance_keeps(small):
    _, _, measured = small
    clean, _, pure = (measured.isel(noise=i) for i in range(3))
    np.testing.assert_allclose(clean.similarity, 1, atol=1e-5)
    assert (clean.class_kept == 1).all() and (clean.kept == 1).all()
    assert abs(pure.similarity.mean("unit")).max() < 0.35  # 30 pairs of unrelated data
    # Symbols are nearly uniform a priori, where those that rules produce more often are kept more.
    np.testing.assert_allclose(pure.kept.mean("unit"), 1 / 16, atol=0.04)
    np.testing.assert_allclose(pure.kept.sel(level=7), 1 / 16, rtol=1e-5)


def test_similarity_is_the_cosine_of_activations_standardised_by_hand(small):
    experiment, prepared, _ = small
    network, world = experiment.networks[0]
    data = world.data.test_images[:4000]
    name = "layers.1.relu"
    reference = activations(network, data, [name])[name]
    row = prepared.isel(network=0, channel=prepared.layer.values == name)
    mean, std = reference.mean((0, 2)), reference.std((0, 2), correction=0)
    np.testing.assert_allclose(row["mean"], mean, atol=1e-4)
    np.testing.assert_allclose(row["std"], std, atol=1e-4)


def test_the_book_has_networks_that_know_their_data():
    for name in PRESETS["tree"]["networks"]:
        network = TreeClassifier.from_pretrained(catalogue.model_directory(name)).eval()
        seed = int(name.rpartition("-")[2]) if name != "rhm-cnn" else 0
        levels = RandomHierarchyModel(16, 4, 2, 7, seed=seed).sample(2000, seed=99)
        with torch.no_grad():
            predicted = network(encode(levels[0], 16)).argmax(1)
        assert (predicted == levels[-1][:, 0]).float().mean() > 0.99


def of_mixture(preset, n, times):
    """Times, cosine of n data, and what is kept of their class from 0 for chance to 1."""
    _, world = ProbeExperiment(parameters(preset, noise=list(times))).networks[0]
    generator, starts = torch.Generator().manual_seed(8), world.starts(n, 0, 0)
    kept = np.stack([world.draw(starts, t, generator)[1].numpy() for t in times])
    return np.array(times), kept[..., 0], 2 * kept[..., 1] - 1


def test_levels_of_white_gaussians_are_those_of_theory():
    """x̂0 = g x_0 + noise in every dimension, with g = abar, and mu flips with probability (1-K)/2.

    The class has the log-odds of a Gaussian channel: K = E tanh(x/2), x of mean q/2 and variance q.
    """
    times, cosine, kept = of_mixture("mixture", 400, [0, 300, 500, 600, 700, 999])
    abar = ddpm_scheduler().alphas_cumprod.numpy()[times]
    q = 4 * abar * 1024 * 0.25**2  # squared distance of the modes of x_t, whose variance is 1
    normal = np.random.default_rng(0).standard_normal(100_000)
    expected = [np.tanh((odds / 2 + np.sqrt(odds) * normal) / 2).mean() for odds in q]
    np.testing.assert_allclose(kept.mean(1), expected, atol=0.05)
    np.testing.assert_allclose(
        cosine.mean(1), (abar + 0.25**2 * np.array(expected)) / (1 + 0.25**2), atol=0.01
    )


def test_curves_of_class_and_data_cross_in_coloured_gaussians_and_not_in_white_ones():
    """The null of the crossing: classes, and no hierarchy."""
    for preset, crosses in (("coloured", True), ("mixture", False)):
        curves = of_mixture(preset, 3000, [50, 200, 350, 450, 550, 650, 999])
        lead, deficit = largest_gaps(*curves)
        assert lead.low > 0.15, preset
        assert deficit.low > 0.05 if crosses else deficit.high < 0.05, preset
        assert (layer_crossing(*curves) is not None) == crosses, preset


def test_curves_of_layers_cross_on_the_tree_and_in_none_of_five_controls():
    found = {}
    for preset in ("tree", "untrained", "shuffled", "tree-shuffled", "depth-1", "mixture"):
        small = {"n_blocks": 16, "block": 16, "n_decoding": 0}
        if preset in ("tree", "untrained"):
            small["networks"] = ["rhm-cnn"]
        experiment = ProbeExperiment(registry.all_parameters(CHAPTER, preset, small))
        measured = experiment.measure(0, len(experiment), experiment.prepare())
        relus = [name for name in experiment.layers if name.endswith("relu")]
        early, late = (
            measured.similarity.sel(layer=name).transpose("noise", "unit").values
            for name in (relus[0], relus[-1])
        )
        noise = measured.noise.values
        found[preset] = (*largest_gaps(noise, early, late), layer_crossing(noise, early, late))
    lead, deficit, crossing = found.pop("tree")
    assert lead.low > 0 and deficit.low > 0.1 and 0.65 < crossing.value < 0.85
    for preset, (lead, deficit, _) in found.items():
        assert min(lead.low, deficit.low) < 0.01, preset  # one of both may be nothing
    assert found["mixture"][0].low > 0.5 and found["untrained"][1].low > 0.1


def test_decoding_is_a_staircase():
    experiment = ProbeExperiment(parameters(networks=["rhm-cnn"], n_decoding=300))
    measured = experiment.measure(0, 1, experiment.prepare())
    table = experiment.finish(measured).decoding[0].values
    assert table.shape == (9, 8)
    assert (table.diagonal() > 0.95).all()  # layer l reads level l
    assert (table.diagonal(1)[:6] < 0.92).all()  # one layer earlier a part of it
    assert (table.diagonal(2)[:5] < 0.7).all() and (table.diagonal(-2) < 0.9).all()


def test_data_of_the_experiment_are_not_those_of_the_training():
    experiment = ProbeExperiment(parameters(networks=["rhm-cnn"]))
    _, world = experiment.networks[0]
    rhm = world.data.rhm
    own = world.starts(50, 0, 0)[1]
    for seed in (0, 1):
        others = TreeData(rhm).sample(2000, seed)[0]
        assert not (own[:, None] == others[None]).all(-1).any()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"process": "mask"}, "unknown value of process 'mask'.*epsilon, gaussian"),
        ({"noise": [0.5, 0.5]}, r"noise must increase, 1 or more, got \[0.5, 0.5\]"),
        ({"noise": [0.5, 1.5]}, r"noise must be a number, 0 to 1, got \[0.5, 1.5\]"),
        ({"process": "gaussian", "noise": [10, 1000]}, r"0 to 999, got \[10, 1000\]"),
        ({"networks": []}, r"networks must be of shape \(n,\), got \(0,\)"),
        ({"networks": ["rhm-cn"]}, "value of networks 'rhm-cn'.*rhm-cnn"),
        ({"networks": ["mixture-cnn"]}, "mixture-cnn takes the process gaussian.*got epsilon"),
        ({"networks": ["coloured-cnn"]}, "coloured-cnn takes the process gaussian.*got epsilon"),
        ({"block": 0}, "block must be at least 1, got 0"),
    ],
)
def test_bad_parameters_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        ProbeExperiment(PRESETS["tree"] | changes)
    with pytest.raises(ValueError, match=r"lack \['seed'\] and have unknown \['sed'\]"):
        ProbeExperiment({name if name != "seed" else "sed": 0 for name in PRESETS["tree"]})


def test_networks_of_different_depths_do_not_share_an_experiment():
    experiment = ProbeExperiment(parameters(networks=["rhm-cnn", "flat-cnn"]))
    with pytest.raises(ValueError, match="same number of layers and levels"):
        experiment.prepare()
