from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    EDMEulerScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
)

from hierphase import run_sweep
from hierphase.analysis.gaussian_mixture import GaussianMixture
from hierphase.experiments.universality import SAMPLERS, exact_noise, reread, sampler_run, way_back
from hierphase.parametrisation import Parametrisation
from hierphase.rhm.bayes_denoiser import BayesDenoiser
from hierphase.rhm.belief_propagation import BeliefPropagation
from hierphase.rhm.corruption import ddpm_scheduler
from hierphase.rhm.model import RandomHierarchyModel
from hierphase.seeds import derived_generator

VARIANCE = 0.25


def gaussian(scheduler):
    """The exact denoiser of N(0, VARIANCE), as a scheduler asks for it."""
    process = Parametrisation(scheduler)

    def predict(x, t):
        alpha, sigma = (part.float() for part in process.level(t))
        x_0 = alpha * VARIANCE / (alpha**2 * VARIANCE + sigma**2) * x
        return SimpleNamespace(sample=process.prediction(x, x_0, alpha, sigma))

    return predict


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_law_of_a_sampler_is_the_one_that_the_table_says(name):
    """Correlation with x_0 on Gaussian data: rho to the power 1 + lambda^2."""
    run, noise = sampler_run(name, 500), SAMPLERS[name][3]
    x_0, z = (torch.randn(40_000, 1, generator=derived_generator(k)) for k in (0, 1))
    x_0 *= VARIANCE**0.5
    k = int((run.ln_snr - 1.0).abs().argmin())
    alpha, sigma = run.levels[k].float()
    x_t = alpha * x_0 + sigma * z
    back = way_back(run, k, gaussian(run.scheduler), x_t, derived_generator(2))
    snr = float(run.ln_snr[k].exp())
    rho = (snr * VARIANCE / (snr * VARIANCE + 1)) ** 0.5
    found = np.corrcoef(back[:, 0], x_0[:, 0])[0, 1]
    assert found == pytest.approx(rho ** (1 + noise**2), abs=0.015)
    assert float(back.var()) == pytest.approx(VARIANCE, rel=0.07)


@pytest.mark.parametrize(
    "scheduler, t",
    [
        (DDIMScheduler.from_config(ddpm_scheduler().config, prediction_type="v_prediction"), 300),
        (EulerDiscreteScheduler.from_config(ddpm_scheduler().config), 300.5),
        (EDMEulerScheduler(), -0.2),
        (FlowMatchEulerDiscreteScheduler(), 600.0),
    ],
    ids=lambda x: getattr(type(x), "__name__", ""),
)
def test_a_network_reread_is_the_exact_denoiser_of_the_other_process(scheduler, t):
    infer = BeliefPropagation(RandomHierarchyModel(4, 3, 2, 2))
    x_t, t = torch.randn(5, 4, 4, generator=derived_generator(0)), torch.tensor(t)
    own = BayesDenoiser(infer, ddpm_scheduler())
    found = reread(own, scheduler)(x_t, t).sample
    torch.testing.assert_close(
        found, BayesDenoiser(infer, scheduler)(x_t, t).sample, atol=2e-4, rtol=0
    )


def test_the_noise_of_a_mixture_is_that_of_its_posterior_means():
    means, variance = torch.tensor([[-1.0, 0.5], [1.0, 0.0]]), 0.1
    mixture = GaussianMixture(means, [0.1 * torch.eye(2)] * 2)
    x_t, t = torch.randn(6, 2, generator=derived_generator(0)), torch.tensor(400.0)
    alpha, sigma = Parametrisation(ddpm_scheduler()).level(t)
    total = alpha**2 * variance + sigma**2
    p = (-((x_t[:, None] - alpha * means) ** 2).sum(2) / 2 / total).softmax(1)
    given = means + alpha * variance / total * (x_t[:, None] - alpha * means)
    expected = (x_t - alpha * (p[..., None] * given).sum(1)) / sigma
    found = exact_noise(mixture)(x_t, t).sample
    torch.testing.assert_close(found, expected.float(), atol=1e-5, rtol=1e-5)


def test_of_a_tree_draws_are_belief_propagation_and_no_function_beats_the_best_guess(tmp_path):
    changes = {
        "tree": {"v": 6, "m": 3, "s": 2, "L": 2}, "n_data": 2000, "n_units": 1, "ln_snr": [0.5],
        "samplers": {"SDE-DPM++ 2M": [100], "flow Heun": [40], "EDM DPM++ 2M": [50]},
    }  # fmt: skip
    found = run_sweep("universality", "tree", changes, tmp_path).isel(unit=0, noise=0)
    kept, exact, best = (found[name].values for name in ("kept", "exact", "best"))
    np.testing.assert_allclose(kept[0], exact[0], atol=0.035)
    assert (kept[1:] <= best[1:] + 0.03).all() and (kept[1:] > exact[1:]).all()
    assert (best <= np.sqrt(exact) + 0.02).all()  # no function of x_t keeps more than the root
    np.testing.assert_allclose(kept[1], kept[2], atol=0.03)  # from slightly other levels


def test_samplers_of_images_share_data_and_noise(tmp_path):
    changes = {"n_units": 1, "ln_snr": [12.0, -0.8]}
    changes["samplers"] = {"Heun": [60], "EDM DPM++ 2M": [60], "flow Heun": [40]}
    found = run_sweep("universality", "digits", changes, tmp_path)
    assert found.kept.dims == ("unit", "run", "noise", "part")
    kept = found.kept.values[0]
    assert kept[:, 0].all()  # hardly any noise
    assert (kept[0, 1] == kept[1, 1]).mean() >= 0.8
    mixture = run_sweep("universality", "flat-digits", changes, tmp_path / "flat").kept.values[0]
    assert mixture[:, 0].mean() > 0.8


def test_unknown_samplers_are_refused(tmp_path):
    with pytest.raises(ValueError, match="unknown value of samplers 'DDMP'"):
        run_sweep("universality", "tree", {"samplers": {"DDMP": [5]}}, tmp_path)
