"""Moments of what a sampler makes of Gaussian data, without sampling.

With the exact denoiser of N(mu, C) every step is affine, so that x̂0 = A mu + B x_0 + C z + sum_j
D_j z_j, z_j the noises that the scheduler draws. Rows of one batch in which one of these is 1 and
all others are 0 give the coefficients, and these give mean, variance and covariance with x_0.
"""

from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from types import SimpleNamespace
from unittest.mock import patch

import torch

from hierphase.diffusion.forward_backward import ForwardBackwardPipeline
from hierphase.diffusion.samplers import SamplerRun
from hierphase.parametrisation import Parametrisation


class GaussianDenoiser:
    """Exact for N(mu, diag(variance)), in the parametrisation of its scheduler.

    ``levels``: of the calls to come, where the times do not say them (rounded ones).
    """

    def __init__(self, scheduler, mu, variance):
        self.parametrisation, self.mu, self.variance = Parametrisation(scheduler), mu, variance
        self.levels = []

    def __call__(self, x_t, t):
        alpha, sigma = self.levels.pop(0) if self.levels else self.parametrisation.level(t)
        a, s = float(alpha), float(sigma)
        gain = a * self.variance / (a**2 * self.variance + s**2)
        x_0 = self.mu + gain * (x_t - a * self.mu)
        return SimpleNamespace(sample=self.parametrisation.prediction(x_t, x_0, alpha, sigma))


@contextmanager
def unit_noises(scheduler):
    """The k-th noise that is drawn is 1 in row 2 + k and 0 in all others."""
    n_drawn = 0

    def drawn(shape, generator=None, device=None, dtype=None, layout=None):
        nonlocal n_drawn
        noise = torch.zeros(shape)
        noise[2 + n_drawn] = 1
        n_drawn += 1
        return noise

    places = ["hierphase.diffusion.forward_backward.randn_tensor"]
    module = import_module(type(scheduler).__module__)
    if hasattr(module, "randn_tensor"):
        places.append(f"{module.__name__}.randn_tensor")
    checked = patch.object(SamplerRun, "check")  # with noise of its own
    with patch(places[0], drawn), patch(places[-1], drawn), checked:
        yield


@dataclass
class Moments:
    """Of x̂0 at each start; each (n_starts, d)."""

    mean: torch.Tensor
    variance: torch.Tensor
    covariance: torch.Tensor  # with x_0
    rho2: torch.Tensor  # squared correlation of x_t and x_0


def moments(scheduler, n, mu, variance, exact_levels=False, **call):
    """Those of data N(mu, variance), two tensors (d,), after one way there and back."""
    denoiser = GaussianDenoiser(scheduler, mu, variance)
    pipeline = ForwardBackwardPipeline(denoiser, scheduler)
    run = SamplerRun(scheduler, n)
    call |= {"num_inference_steps": n, "exact_bits": False, "batch_size": 10**6}
    starts = next(len(call[name]) for name in ("ln_snr", "timesteps") if name in call)
    pipeline(torch.zeros(1, len(mu)), **call)  # the trial, with its own noise
    parts = []
    for i in range(starts):
        one = {name: [call[name][i]] for name in ("ln_snr", "timesteps") if name in call}
        x0 = torch.zeros(2 * n + 4, len(mu))
        x0[1] = 1
        if exact_levels:
            k = int((run.ln_snr - call["ln_snr"][i]).abs().argmin())
            denoiser.levels = [run.denoiser_level(call) for call in run.calls_from(k)]
        with unit_noises(scheduler):
            output = pipeline(x0, **(call | one))
        offset, *responses = output.samples[0].double()
        b, *noise = torch.stack(responses) - offset
        signal = output.ln_snr.exp() * variance
        spread = b**2 * variance + torch.stack(noise).square().sum(0)
        parts.append([offset + b * mu, spread, b * variance, signal / (signal + 1)])
    return Moments(*(torch.stack(part) for part in zip(*parts, strict=True)))
