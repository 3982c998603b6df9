"""Trees denoised step by step, by every family of schedulers, against belief propagation."""

import pytest
import torch
from diffusers import (
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EDMDPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    UniPCMultistepScheduler,
)

from hierphase.diffusion.forward_backward import ForwardBackwardPipeline
from hierphase.rhm.bayes_denoiser import BayesDenoiser
from hierphase.rhm.belief_propagation import BeliefPropagation
from hierphase.rhm.corruption import encode
from hierphase.rhm.model import RandomHierarchyModel
from hierphase.seeds import derived_generator

RHM = RandomHierarchyModel(8, 3, 2, 5, seed=1)
BP = BeliefPropagation(RHM)
N, LEVELS = 600, [2.0, 1.0, 0.0, -1.0]
LINEAR = {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02}
SDE = {"algorithm_type": "sde-dpmsolver++"}
FLOW = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}


def reversed_trees(scheduler, n):
    """x_0 and x̂0 of all levels, level by level of noise, and ln SNR of these."""
    pipeline = ForwardBackwardPipeline(BayesDenoiser(BP, scheduler), scheduler)
    levels = RHM.sample(N, seed=3)
    output = pipeline(
        encode(levels[0], RHM.v), None, n, [derived_generator(0, i) for i in range(N)], 4096,
        ln_snr=LEVELS, exact_bits=False,
    )  # fmt: skip
    return levels, [RHM.parse(x.argmax(1)) for x in output.samples], output.ln_snr


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("scheduler", "n"),
    [
        (DDPMScheduler(clip_sample=False, **LINEAR), 100),
        (DPMSolverMultistepScheduler(use_karras_sigmas=True, **SDE, **LINEAR), 60),
        (EulerAncestralDiscreteScheduler(**LINEAR), 100),
        (EDMDPMSolverMultistepScheduler(**SDE), 60),
        (DPMSolverMultistepScheduler(**SDE, **FLOW), 60),
    ],
)
def test_stochastic_samplers_draw_from_the_posterior(scheduler, n):
    levels, found, ln_snr = reversed_trees(scheduler, n)
    for j, alpha_bar in enumerate(ln_snr.sigmoid().tolist()):
        noise = torch.randn(N, RHM.v, RHM.d, generator=torch.Generator().manual_seed(j))
        x_t = alpha_bar**0.5 * encode(levels[0], RHM.v) + (1 - alpha_bar) ** 0.5 * noise
        beliefs = (x_t * alpha_bar**0.5 / (1 - alpha_bar)).mT
        exact = BP(beliefs, log=True).probability_of(levels)
        for level in range(RHM.L + 1):
            kept = (found[j][level] == levels[level]).double().mean(1)
            difference = kept - exact[:, level]
            error = (kept.var() / N + exact[:, level].var() / N) ** 0.5
            assert abs(difference.mean()) < 4 * error + 0.015, (j, level, difference.mean())


@pytest.mark.parametrize(
    ("scheduler", "n"),
    [(UniPCMultistepScheduler(**LINEAR), 60), (FlowMatchHeunDiscreteScheduler(), 40)],
)
def test_flows_draw_valid_trees_that_remember_more(scheduler, n):
    """Deterministic: the law of the data is right, what is kept of x_0 is another experiment."""
    levels, found, ln_snr = reversed_trees(scheduler, n)
    alpha_bar = ln_snr.sigmoid().tolist()
    for trees in found:
        assert (trees[-1] >= 0).double().mean() > 0.99
        share = torch.bincount(trees[-1].flatten(), minlength=RHM.v) / N
        assert (share - 1 / RHM.v).abs().max() < 0.06
    noise = torch.randn(N, RHM.v, RHM.d, generator=torch.Generator().manual_seed(0))
    x_t = alpha_bar[1] ** 0.5 * encode(levels[0], RHM.v) + (1 - alpha_bar[1]) ** 0.5 * noise
    beliefs = (x_t * alpha_bar[1] ** 0.5 / (1 - alpha_bar[1])).mT
    drawn = BP(beliefs, log=True).probability_of(levels)[:, -1].mean()
    assert (found[1][-1] == levels[-1]).double().mean() > drawn + 0.05
