from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler

from hierphase import (
    BayesDenoiser,
    BeliefPropagation,
    ForwardBackwardPipeline,
    RandomHierarchyModel,
    calibration,
)
from hierphase.rhm.corruption import GaussianProcess, ddpm_scheduler, encode

UNCLIPPED = DDPMScheduler.from_config(ddpm_scheduler().config, clip_sample=False)


class Shrunk(torch.nn.Module):
    """The exact denoiser of N(0, 1) numbers, whose prediction of the noise is scaled."""

    def __init__(self, factor):
        super().__init__()
        self.alpha_bar, self.factor = ddpm_scheduler().alphas_cumprod, factor

    def forward(self, x_t, timestep):
        sigma = (1 - self.alpha_bar[int(timestep)]) ** 0.5
        return SimpleNamespace(sample=self.factor * sigma * x_t)


def of_gaussians(factor, n=400, level=0.0):
    pipeline = ForwardBackwardPipeline(Shrunk(factor), UNCLIPPED)
    x_0 = torch.randn(n, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    own = torch.Generator().manual_seed(1)
    (found,) = calibration(pipeline, x_0, [level], 1000, own)
    return found


def test_exact_denoisers_are_calibrated_and_others_are_not():
    exact = of_gaussians(1.0)
    assert exact.low < 0.02 and exact.high > -0.02
    assert of_gaussians(0.8).high < 0 or of_gaussians(0.8).low > 0
    assert of_gaussians(1.2).value * of_gaussians(0.8).value < 0


def test_the_value_is_that_of_theory_for_the_prior():
    """x̂0 that ignores x_t: independent of it, E = -SNR for data of variance 1."""
    pipeline = ForwardBackwardPipeline(Shrunk(1.0), UNCLIPPED)
    x_0 = torch.randn(2000, 1, 4, 4, generator=torch.Generator().manual_seed(0))

    class Prior:
        def __call__(self, images, timesteps, steps, generator, ln_snr):
            found = pipeline(images, None, 1000, generator, ln_snr=ln_snr)
            fresh = torch.randn(found.samples.shape, generator=torch.Generator().manual_seed(5))
            return SimpleNamespace(ln_snr=found.ln_snr, noise=found.noise, samples=fresh)

    (found,) = calibration(Prior(), x_0, [-1.0], 100, torch.Generator().manual_seed(1))
    assert found.value == pytest.approx(-np.exp(-1.0), abs=0.02)


def test_a_tempered_posterior_of_the_tree_is_seen_and_the_exact_one_is_not():
    rhm, scheduler = RandomHierarchyModel(8, 3, 2, 3), ddpm_scheduler()
    bayes, process = BayesDenoiser(BeliefPropagation(rhm), scheduler), GaussianProcess(scheduler, 8)
    x_0 = encode(rhm.sample(500, seed=3)[0], 8)

    class Tempered(torch.nn.Module):
        def forward(self, x_t, timestep):
            beliefs = process.log_beliefs(x_t, timestep) * 0.7
            mean = BeliefPropagation(rhm)(beliefs, log=True).marginals[0].mT
            return SimpleNamespace(sample=process.noise(x_t, mean, timestep))

    found = [
        calibration(ForwardBackwardPipeline(model, scheduler), x_0, [-0.5], 1000,
                    torch.Generator().manual_seed(0))[0]
        for model in (bayes, Tempered())
    ]  # fmt: skip
    assert found[0].low < 2e-3 and found[0].high > -2e-3
    assert found[1].high < -2e-3


def test_refusals():
    pipeline = ForwardBackwardPipeline(Shrunk(1.0), UNCLIPPED)
    x_0 = torch.zeros(3, 1, 4, 4)
    with pytest.raises(ValueError, match="ln_snr must be finite, got inf"):
        calibration(pipeline, x_0, [float("inf")])
    with pytest.raises(ValueError, match=r"ln_snr must be of shape \(k,\), got \(0,\)"):
        calibration(pipeline, x_0, [])
    with pytest.raises(ValueError, match=r"ln_snr is off by 2.8, levels taken are \[9.* more ste"):
        calibration(pipeline, x_0, [12.0], 1000)
    with pytest.raises(ValueError, match="the number of images must be at least 2, got 1"):
        calibration(pipeline, x_0[:1], [0.0])
