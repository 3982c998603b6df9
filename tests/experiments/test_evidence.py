import dataclasses
import json

import numpy as np
import pytest
import torch
import xarray as xr

from hierphase.experiments import evidence, judges, sources
from hierphase.experiments.evidence import Evidence, Signs
from hierphase.runs import results
from hierphase.seeds import derived_generator

FEW = {
    "n_redraws": 2, "n_judged": 0, "judge_steps": 20, "n_images": 40, "n_noises": 4,
    "n_reversals": 700, "num_inference_steps": 4,
}  # fmt: skip
#: World -> sign -> what science.md has (sections 8 and 9), and how far one redraw may be from it.
KNOWN = {
    "tree-1": {"half-snr": (-1.26, 0.25), "width-snr": (1.75, 0.3), "splice-loss": (0.6, 0.08)},
    "tree-2": {
        "half-snr": (-1.39, 0.2), "width-snr": (1.16, 0.2), "splice-loss": (0.6, 0.08),
        "coupling-near": (0.17, 0.12), "ladder-4": (0.3, 0.15),
        "splice-rise": (0.13, 0.1),
    },
    "tree-2-rough": {"width-snr": (1.24, 0.25)},
    "fields-digits": {"coupling-near": (0, 0.12), "energy-ratio": (1, 0.15)},
}  # fmt: skip


def measured(world, **changes):
    one = Evidence(evidence.PRESETS["laws"] | FEW | {"worlds": [world]} | changes)
    return one.measure_unit(0, one.prepare())


@pytest.mark.parametrize("world", KNOWN)
def test_signs_of_known_worlds_are_the_known_ones(world):
    value = measured(world).value.sel(judge="exact")
    for sign, (expected, tolerance) in KNOWN[world].items():
        assert abs(value.sel(sign=sign) - expected) < tolerance, (sign, value.sel(sign=sign))
    assert abs(value.sel(sign="auc-pixels-end") - 0.5) < 0.1  # x̂0 of pure noise knows no x_0


def test_the_width_of_equidistant_gaussians_is_the_universal_one():
    law = sources.GaussianMixture(np.eye(10).reshape(10, 1, 2, 5), [1e-4 * np.eye(10)])
    found = evidence.all_signs(
        source := sources.of_law(law), judges.exact_judge(source),
        FEW | {"n_levels": 17, "n_images": 100, "n_reversals": 20}, derived_generator(0),
    )  # fmt: skip
    assert abs(found["width-snr"].value - 2.57) < 0.25
    assert "coupling-near" not in found


def test_a_network_denoises_and_another_judges():
    names = ["value", "low", "high"]
    changes = {"n_judged": 1, "n_images": 10, "n_noises": 2, "n_levels": 5, "n_reversals": 40}
    found = measured("digits", **changes)
    assert found[names].sel(judge="exact").to_array().isnull().all()
    seen = found.sel(judge="cnn").dropna("sign")
    assert {"judge-accuracy", "splice-loss"} <= {*seen.sign.values}
    assert (seen.low <= seen.value).all() and (seen.value <= seen.high).all()
    predicted = -0.58  # of the largest variance of all training images, of which some are drawn
    assert abs(seen.value.sel(sign="predicted-snr") - predicted) < 0.1
    again = measured("digits", **changes)
    assert again.identical(found)


def test_a_judge_learns_the_classes_of_a_tree():
    source = sources.open_source("tree-1", 0, 0, 1)
    judge = judges.trained_judge(source, 150, 0)
    x_0, labels = source.starts(200, derived_generator(9))
    assert (judge.verdict(x_0).argmax(1) == labels).float().mean() > 0.95


def test_fits_are_given_images_of_their_own_or_real_ones():
    own, real = (sources.open_source(f"flat-digits{end}", 1, 0, 1) for end in ("", sources.REAL))
    images, labels = real.starts(50, derived_generator(0))
    data = sources.worlds.DATASETS["digits"]()
    assert torch.equal(images, data.test_images[50:100])  # another part in every redraw
    assert torch.equal(labels, data.test_labels[50:100])
    drawn, _ = own.starts(50, derived_generator(0))
    assert not any(torch.equal(x, y) for x in drawn for y in data.train_images)


def test_a_network_learns_what_a_fit_draws_and_denoises_it(monkeypatch):
    exact = sources.open_source("fields-digits", 1, 0, 10)
    short = dataclasses.replace(sources.TRAININGS["digits"], steps=150)
    monkeypatch.setitem(sources.TRAININGS, "digits", short)
    source = sources.open_source("fields-digits-learnt", 1, 0, 10)
    x_0, labels = source.starts(64, derived_generator(0))
    assert torch.equal(x_0, exact.starts(64, derived_generator(0))[0])
    assert source.law is None  # only a network judges it, as it does a data set
    levels = torch.tensor([1.0, -torch.inf])
    back = source.back(x_0, labels, levels, derived_generator(1))
    noise = 1 / levels[0].exp()
    assert (back.samples[0] - x_0).square().mean() < 0.7 * noise  # it has learnt something
    monkeypatch.delattr(sources, "run")
    again = source.back(x_0, labels, levels, derived_generator(1))
    assert torch.equal(again.samples, back.samples)  # of one training


def test_what_is_fitted_to_a_learnt_world_is_fitted_to_its_draws(monkeypatch):
    monkeypatch.delattr(sources, "run")  # no network is needed
    law = sources.open_source("fields-digits", 0, 0, 1).law
    again = sources.open_source("fields-fields-digits-learnt", 0, 0, 1).law
    assert (law.means - again.means).abs().max() < 0.05  # errors of 5000 draws of a class
    assert again.variances.sum() == pytest.approx(law.variances.sum().item(), rel=0.01)


@pytest.mark.parametrize(
    ("world", "message"),
    [
        ("tree-4", "unknown world 'tree-4'.*tree-3"),
        ("flat-tree-4", "unknown world 'tree-4'"),
        ("clusters-20-digit", "unknown world 'digit'.*did you mean 'digits'"),
        ("flat-tree-3-real", "unknown world 'tree-3'"),
        ("digits-real", "unknown world 'digits-real'"),
        ("digits-learnt", "unknown world 'digits-learnt'"),
        ("flat-tree-3-learnt", "unknown world 'tree-3'"),
        ("fields-flat-digit-learnt", "unknown world 'digit'.*did you mean 'digits'"),
        (3, "unknown world '3'"),
    ],
)
def test_unknown_worlds_are_refused(world, message):
    with pytest.raises(ValueError, match=message):
        sources.check_world(world)
    with pytest.raises(ValueError, match=message):
        Evidence(evidence.PRESETS["laws"] | {"worlds": ["tree-1", world]})


def test_the_key_of_real_images_is_that_of_their_denoiser():
    digits, law = (Evidence(evidence.PRESETS[preset]) for preset in ("digits", "laws"))
    names = [path.name for path in digits.files()["digits"].values()]
    assert "diffusion_pytorch_model.safetensors" in names
    assert law.files() == {}
    absent = Evidence(evidence.PRESETS["digits"] | {"worlds": ["cifar10-32"]})
    with pytest.raises(FileNotFoundError, match="hierphase train cifar10-32"):
        absent.fingerprint()


def test_a_judge_sees_one_square_after_the_other():
    image = torch.arange(64.0).view(1, 1, 8, 8)
    seen = judges.in_squares(image)[0, 0].tolist()
    assert seen[:8] == [0, 1, 8, 9, 2, 3, 10, 11]  # the first two squares, side by side
    assert seen[16:18] == [4, 5] and seen[32:34] == [32, 33]  # quarters likewise
    framed = judges.in_squares(torch.ones(1, 1, 28, 28))
    assert framed.shape == (1, 1, 256) and framed.min() == -1 and framed.max() == 1


def redraws(values, n_worlds):
    """What units give: one sign that takes these values, with intervals of +- 1."""
    value = np.full((len(values), len(evidence.SIGNS), 2), np.nan)
    value[:, 0, 0] = values
    parts = {"value": value, "low": value - 1, "high": value + 1}
    coordinates = {"sign": list(evidence.SIGNS), "judge": list(evidence.JUDGES)}
    dataset = xr.Dataset({k: (("unit", "sign", "judge"), v) for k, v in parts.items()}, coordinates)
    changes = {"worlds": ["tree-1", "tree-2"][:n_worlds], "n_redraws": len(values) // n_worlds}
    one = Evidence(evidence.PRESETS["laws"] | changes)
    return one.finish(dataset)


def test_many_redraws_give_the_interval_and_few_take_their_own():
    many = redraws([1.0, 2, 3, 4, 5, 7, 7, 7, 7, 7], 2).isel(sign=0, judge=0)
    np.testing.assert_allclose(many.value, [3, 7])
    half = 2.776 * np.std([1, 2, 3, 4, 5], ddof=1) / 5**0.5  # Student's t of 4
    np.testing.assert_allclose(many.high - many.value, [half, 0], atol=1e-3)
    few = redraws([1.0, 5], 1).isel(sign=0, judge=0, world=0)
    np.testing.assert_allclose([few.value, few.high], [3, 3 + (1 / 2) ** 0.5])
    whole = redraws([1.0, 5], 1)
    assert np.isnan(whole.value.values[0, 1:]).all()
    Evidence.check_finite(whole, {})  # what there is nothing to measure of is declared


def test_the_table_joins_results_and_compares_resolutions(tmp_path, monkeypatch):
    (tmp_path / "index.md").touch()
    monkeypatch.setenv("HIERPHASE_BOOK", str(tmp_path))
    widths = {"laws": {"tree-3": 0.8, "tree-3-half": 1.0}, "digits": {"digits": 3}}
    for preset, worlds in widths.items():
        table = redraws([1.0] * len(worlds), len(worlds)).assign_coords(world=list(worlds))
        for part, shift in (("value", 0), ("low", -0.3), ("high", 0.3)):
            place = {"sign": "width-snr", "judge": "exact"}
            table[part].loc[place] = np.add(list(worlds.values()), shift)
        results.save(table, "evidence", preset, {}, tmp_path / "results")
    one = Signs({"sources": ["laws", "digits"]})
    table = one.finish(one.measure(0, 1, one.prepare()))
    assert table.world.values.tolist() == ["tree-3", "tree-3-half", "digits"]
    gain = table.sel(sign="width-resolution", judge="exact")
    np.testing.assert_allclose(gain.value, [0.2, np.nan, np.nan])
    np.testing.assert_allclose(gain.high - gain.value, [0.3 * 2**0.5, np.nan, np.nan])
    reasons = json.loads(table.attrs["reasons"])
    assert list(reasons) == table.sign.values.tolist()
    assert reasons["judge-accuracy"] == "not judged" and "half" in reasons["width-resolution"]
    assert reasons["splice-loss"] == "not judged; K < 1/2"
    Signs.check_finite(table, {})
