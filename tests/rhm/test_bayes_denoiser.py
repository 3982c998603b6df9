import math

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler
from enumeration import enumerate_posterior

from hierphase.rhm.bayes_denoiser import BayesDenoiser
from hierphase.rhm.belief_propagation import BeliefPropagation
from hierphase.rhm.corruption import GaussianProcess
from hierphase.rhm.model import RandomHierarchyModel


@pytest.fixture(scope="module")
def rhm():
    return RandomHierarchyModel(v=4, m=3, s=2, L=2, seed=1)


def noisy(rhm, scheduler, t, n, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return GaussianProcess(scheduler, rhm.v).corrupt(rhm.sample(n)[0], t, generator)


def test_prediction_equals_enumeration_and_the_score(rhm):
    scheduler = DDPMScheduler()
    t = 250
    x_t = noisy(rhm, scheduler, t, 3).double().requires_grad_()
    abar = scheduler.alphas_cumprod[t].double()
    beliefs = (x_t * abar.sqrt() / (1 - abar)).mT
    trees, _, marginals, _ = enumerate_posterior(rhm, beliefs.detach().exp())
    predicted = BayesDenoiser(BeliefPropagation(rhm), scheduler)(x_t.detach(), t).sample
    x_0 = marginals[0].mT
    torch.testing.assert_close(predicted, (x_t - abar.sqrt() * x_0).detach() / (1 - abar).sqrt())
    # Independently: noise = -sqrt(1-abar) times the gradient of log p(x_t), the sum over all data.
    codes = torch.nn.functional.one_hot(trees[0], rhm.v).mT.double()  # trees, v, d
    density = -((x_t[:, None] - abar.sqrt() * codes) ** 2).sum((2, 3)) / (2 * (1 - abar))
    (score,) = torch.autograd.grad(density.logsumexp(1).sum(), x_t)
    torch.testing.assert_close(predicted, -(1 - abar).sqrt() * score)


def test_prediction_types_describe_one_and_the_same(rhm):
    predictions = {}
    for kind in ("epsilon", "sample", "v_prediction"):
        scheduler = DDPMScheduler(prediction_type=kind, clip_sample=False)
        scheduler.set_timesteps(1000)
        x_t = noisy(rhm, scheduler, 400, 5)
        output = BayesDenoiser(BeliefPropagation(rhm), scheduler)(x_t, 400).sample
        assert output.dtype == torch.float32 and output.shape == x_t.shape
        predictions[kind] = scheduler.step(
            output, 400, x_t, generator=torch.Generator()
        ).pred_original_sample
    for kind in ("sample", "v_prediction"):
        torch.testing.assert_close(predictions["epsilon"], predictions[kind], atol=1e-5, rtol=1e-4)


def test_stepwise_reversal_draws_from_the_exact_posterior():
    """1000 DDPM steps with the exact score against one-shot posterior samples, from one x_t."""
    rhm = RandomHierarchyModel(v=6, m=3, s=2, L=3, seed=2)
    scheduler = DDPMScheduler(
        beta_schedule="linear", beta_start=1e-4, beta_end=0.02, clip_sample=False
    )
    t, n = 220, 1500
    leaves = rhm.sample(1, seed=3)
    x_t = GaussianProcess(scheduler, rhm.v).corrupt(leaves[0], t, torch.Generator().manual_seed(5))
    bp = BeliefPropagation(rhm)
    denoiser = BayesDenoiser(bp, scheduler)
    scheduler.set_timesteps(1000)
    generator = torch.Generator().manual_seed(0)
    x = x_t.expand(n, -1, -1)
    for step in scheduler.timesteps[scheduler.timesteps <= t]:
        x = scheduler.step(denoiser(x, step).sample, step, x, generator=generator).prev_sample
    reversed_levels = rhm.parse(x.argmax(1))

    posterior = bp(GaussianProcess(scheduler, rhm.v).log_beliefs(x_t, t), log=True)
    drawn = posterior.sample(n, torch.Generator().manual_seed(1))
    assert (reversed_levels[-1] >= 0).float().mean() > 0.995, "denoised data must obey the rules"
    marginal = posterior.marginals
    assert 0.05 < marginal[-1].max() < 0.95 and marginal[0].amax(-1).min() < 0.9, "noise too low"
    for level in (0, rhm.L):
        for levels in (reversed_levels, [x[:, 0] for x in drawn]):
            kept = (levels[level] == leaves[level]).double()
            exact = marginal[level].gather(-1, leaves[level][..., None])[0, :, 0].double()
            error = (exact * (1 - exact) / n).sqrt().clamp(min=1 / n)
            assert (abs(kept.mean(0) - exact) < 4 * error).all()
    frequency = torch.bincount(reversed_levels[-1][:, 0].clamp(min=0), minlength=6) / n
    assert (abs(frequency - marginal[-1][0, 0]) < 4 * math.sqrt(0.25 / n)).all()


def test_a_few_large_steps_do_not_break_down(rhm):
    """DDIM in 5 steps leaves x_t that no data explain in floating point; still no NaN, no error."""
    scheduler = DDIMScheduler(clip_sample=False)
    scheduler.set_timesteps(5)
    denoiser = BayesDenoiser(BeliefPropagation(rhm), scheduler)
    x = torch.randn(50, rhm.v, rhm.d, generator=torch.Generator().manual_seed(0))
    for step in scheduler.timesteps:
        x = scheduler.step(denoiser(x, step).sample, step, x).prev_sample
    assert torch.isfinite(x).all()
    assert (rhm.parse(x.argmax(1))[-1] >= 0).float().mean() > 0.5


def test_bad_arguments_are_refused(rhm):
    bp = BeliefPropagation(rhm)
    with pytest.raises(ValueError, match="unknown prediction_type of DDPMScheduler 'flow'"):
        scheduler = DDPMScheduler()
        scheduler.register_to_config(prediction_type="flow")
        BayesDenoiser(bp, scheduler)
    with pytest.raises(ValueError, match="must have alphas_cumprod"):
        BayesDenoiser(bp, object())
    with pytest.raises(ValueError, match=r"x_t must be of shape \(n, 4, 4\), got \(2, 5, 4\)"):
        BayesDenoiser(bp, DDPMScheduler())(torch.zeros(2, 5, 4), 10)
    with pytest.raises(ValueError, match="0 to 999, got 1000"):
        BayesDenoiser(bp, DDPMScheduler())(torch.zeros(2, 4, 4), 1000)
