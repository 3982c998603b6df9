"""Samples of the forward-backward experiment against reverse processes written out."""

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DEISMultistepScheduler,
    DPMSolverMultistepScheduler,
    DPMSolverSinglestepScheduler,
    UniPCMultistepScheduler,
)
from forward_backward_reference import IMAGES, UNET, VARIANCE_UNET, generators, stream

from hierphase.diffusion.forward_backward import ForwardBackwardPipeline


class GaussianDenoiser:
    """Exact noise prediction for data drawn from N(0, std^2)."""

    def __init__(self, std, scheduler):
        self.std, self.scheduler = std, scheduler

    def __call__(self, x_t, t):
        alpha = self.scheduler.alphas_cumprod[t]
        noise = (1 - alpha).sqrt() * x_t / (alpha * self.std**2 + 1 - alpha)
        return type("Output", (), {"sample": noise})


def plain_loop(model, scheduler, x0, t, steps, generator, start_below=False):
    """One image, one time, one step after the other, as the convention says."""
    scheduler = type(scheduler).from_config(scheduler.config)
    noise = torch.randn(x0.shape, generator=generator)
    scheduler.set_timesteps(steps)
    grid = [int(g) for g in scheduler.timesteps]
    path = [g for g in grid if g < t]
    if t == 1000:
        x = noise
    else:
        alpha = scheduler.alphas_cumprod[t]
        x = alpha.sqrt() * x0 + (1 - alpha).sqrt() * noise
        path = path if start_below else [t, *path]
        if isinstance(scheduler, ANYWHERE):
            scheduler.set_timesteps(timesteps=path)
    learned = isinstance(scheduler, DDPMScheduler) and scheduler.variance_type == "learned_range"
    random = not isinstance(scheduler, UniPCMultistepScheduler | DEISMultistepScheduler)
    for step in path:
        predicted = model(x, torch.tensor(step)).sample
        predicted = predicted if learned else predicted[:, :1]
        given = {"generator": generator} if random else {}
        x = scheduler.step(predicted, step, x, **given).prev_sample
    return x


ANYWHERE = (DDPMScheduler, DPMSolverMultistepScheduler, DPMSolverSinglestepScheduler)
BETWEEN = [0, 100, 333, 1000, 333]  # between the 20 steps of these, and on the grid of the others
DDIM = [0, 100, 350, 1000, 350]
OTHERS = [0, 94, 329, 1000, 329]
CASES = {
    "ddpm": (DDPMScheduler(timestep_spacing="linspace"), BETWEEN),
    "ddpm-leading": (DDPMScheduler(timestep_spacing="leading"), BETWEEN),
    "ddpm-sample": (DDPMScheduler(prediction_type="sample"), BETWEEN),
    "ddpm-v": (DDPMScheduler(prediction_type="v_prediction"), BETWEEN),
    "ddim": (DDIMScheduler(), DDIM),
    "ddim-sample": (DDIMScheduler(prediction_type="sample"), DDIM),
    "ddim-v": (DDIMScheduler(prediction_type="v_prediction"), DDIM),
    "dpm": (DPMSolverMultistepScheduler(), BETWEEN),
    "dpm-third": (DPMSolverMultistepScheduler(solver_order=3, prediction_type="sample"), BETWEEN),
    "dpm-v": (DPMSolverMultistepScheduler(prediction_type="v_prediction"), BETWEEN),
    "dpm-sde": (DPMSolverMultistepScheduler(algorithm_type="sde-dpmsolver++"), BETWEEN),
    "unipc": (UniPCMultistepScheduler(timestep_spacing="leading"), OTHERS),
    "deis": (DEISMultistepScheduler(timestep_spacing="leading"), OTHERS),
    "singlestep": (DPMSolverSinglestepScheduler(), BETWEEN),
}
LEARNED_CASES = {
    "range": (DDPMScheduler(variance_type="learned_range"), BETWEEN),
    "range-v": (
        DDPMScheduler(variance_type="learned_range", prediction_type="v_prediction"),
        BETWEEN,
    ),
    "fixed": (DDPMScheduler(), BETWEEN),
    "ddim": (DDIMScheduler(), DDIM),
    "dpm": (DPMSolverMultistepScheduler(variance_type="learned_range"), BETWEEN),
}


def compare_with_plain_loop(model, image, scheduler, times, start_below=False):
    samples = ForwardBackwardPipeline(model, scheduler)(
        image,
        times,
        num_inference_steps=20,
        generator=generators(1),
        batch_size=1,  # rows alone, as in the plain loop: batched convolutions round differently
        start_below=start_below,
    ).samples
    assert samples.shape == (len(times), 1, 1, 8, 8)
    assert samples.dtype == torch.float32
    assert torch.equal(samples[0], image)  # t = 0
    for k, t in enumerate(times[1:], 1):
        with torch.no_grad():
            expected = plain_loop(
                model, scheduler, image, t, 20, stream(0, t, times[:k].count(t)), start_below
            )
        torch.testing.assert_close(samples[k], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_follows_a_plain_loop_with_the_same_noise(case):
    compare_with_plain_loop(UNET, IMAGES[:1], *CASES[case])


@pytest.mark.parametrize("case", LEARNED_CASES)
def test_learned_variance_follows_a_plain_loop(case):
    compare_with_plain_loop(VARIANCE_UNET, IMAGES[:1], *LEARNED_CASES[case])


@pytest.mark.parametrize("case", ["ddpm", "ddim", "dpm-sde", "unipc"])
def test_start_below_follows_a_plain_loop_from_the_next_step(case):
    scheduler, _ = CASES[case]  # at any time, since the first step is a respaced one
    compare_with_plain_loop(UNET, IMAGES[:1], scheduler, [0, 94, 100, 333, 1000], True)


def test_full_resolution_takes_every_step():
    scheduler = DDPMScheduler(num_train_timesteps=30)
    seen = []
    hook = UNET.register_forward_pre_hook(lambda module, inputs: seen.append(int(inputs[1])))
    ForwardBackwardPipeline(UNET, scheduler)(IMAGES, [7, 12], num_inference_steps=30)
    hook.remove()
    assert seen == list(range(12, -1, -1))


def test_start_below_reads_as_the_published_code():
    """Step k of a respaced process: noise at its index k, denoising from its index k - 1."""
    scheduler = DDPMScheduler(timestep_spacing="linspace")
    scheduler.set_timesteps(20)
    respaced = scheduler.timesteps.tolist()[::-1]
    seen = []
    hook = UNET.register_forward_pre_hook(
        lambda module, inputs: seen.append((int(inputs[1]), inputs[0].clone()))
    )
    ForwardBackwardPipeline(UNET, scheduler)(
        IMAGES[:1], [respaced[7]], 20, generators(1), start_below=True
    )
    hook.remove()
    assert [t for t, _ in seen] == respaced[6::-1]
    noise = torch.randn(IMAGES[:1].shape, generator=stream(0, respaced[7], 0))
    alpha = scheduler.alphas_cumprod[respaced[7]]
    noised = alpha.sqrt() * IMAGES[0] + (1 - alpha).sqrt() * noise[0]
    torch.testing.assert_close(seen[0][1][0], noised)


def test_learned_variance_is_between_the_two_fixed_ones():
    """Ancestral steps written out; log variance from log beta~ (at -1) to log beta (at 1)."""
    scheduler = DDPMScheduler(variance_type="learned_range", clip_sample=False)
    scheduler.set_timesteps(10)
    path = [333, *(g for g in scheduler.timesteps.tolist() if g < 333)]
    samples = ForwardBackwardPipeline(VARIANCE_UNET, scheduler)(
        IMAGES[:1], [333], 10, generators(1), batch_size=1
    ).samples
    abar = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)
    abar = [abar[t] for t in path] + [torch.ones((), dtype=torch.float64)]
    generator = stream(0, 333, 0)
    noise = torch.randn(1, 1, 8, 8, generator=generator)
    x = abar[0].sqrt() * IMAGES[:1] + (1 - abar[0]).sqrt() * noise
    for k, t in enumerate(path):
        with torch.no_grad():
            epsilon, share = VARIANCE_UNET(x.float(), torch.tensor(t)).sample.double().chunk(2, 1)
        alpha = abar[k] / abar[k + 1]
        x = (x - (1 - alpha) / (1 - abar[k]).sqrt() * epsilon) / alpha.sqrt()
        if t > 0:
            small = (1 - alpha) * (1 - abar[k + 1]) / (1 - abar[k])
            share = (share + 1) / 2
            log_variance = share * (1 - alpha).log() + (1 - share) * small.log()
            x = x + (log_variance / 2).exp() * torch.randn(1, 1, 8, 8, generator=generator)
    torch.testing.assert_close(samples[0], x.float(), rtol=1e-4, atol=1e-4)


def test_multistep_solver_is_of_higher_order_from_midway():
    """The exact probability flow of N(0, std^2) scales x_t: an answer that no solver knows."""
    std, t, x0 = 0.5, 600, torch.randn(4, 6, generator=torch.Generator().manual_seed(5))
    errors = {}
    for kind in (DDIMScheduler, DPMSolverMultistepScheduler):
        options = {"clip_sample": False} if kind is DDIMScheduler else {}
        scheduler = kind(**options)
        pipeline = ForwardBackwardPipeline(GaussianDenoiser(std, scheduler), scheduler)
        samples = pipeline(x0, [t], 200, generators(4)).samples[0]
        noise = [torch.randn(1, 6, generator=stream(i, t, 0)) for i in range(4)]
        alpha = scheduler.alphas_cumprod[t]
        x_t = alpha.sqrt() * x0 + (1 - alpha).sqrt() * torch.cat(noise)
        exact = x_t * std / (alpha * std**2 + 1 - alpha).sqrt()
        errors[kind] = (samples - exact).norm() / exact.norm()
    assert errors[DDIMScheduler] < 0.03
    assert errors[DPMSolverMultistepScheduler] < errors[DDIMScheduler] / 20
