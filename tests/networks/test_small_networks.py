"""Small denoisers of benchmarks/small_networks.py: each learns, and is sampled in its process."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import small_networks

from hierphase.diffusion.forward_backward import ForwardBackwardPipeline
from hierphase.networks.training import initialise
from hierphase.parametrisation import Parametrisation
from hierphase.seeds import derived_generator


@pytest.mark.parametrize("name", small_networks.VARIANTS)
def test_a_variant_learns_and_is_sampled(name):
    training, generator = small_networks.training(name, 8), derived_generator(0)
    images = torch.randn(16, 1, 28, 28, generator=generator).clamp(-1, 1)
    for vary in training.vary:
        images = vary(images, generator)
    model = training.model()
    initialise(model, derived_generator(1))
    optimizer, losses = torch.optim.AdamW(model.parameters(), 2e-3), []
    for _ in range(8):
        loss = training.loss(model, images, None, derived_generator(2))  # the same times and noise
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    scheduler = small_networks.KINDS[small_networks.VARIANTS[name][1]][0]
    pipeline = ForwardBackwardPipeline(model.eval(), scheduler)
    found = pipeline(images[:2], None, 20, derived_generator(3), ln_snr=[-torch.inf, 0.0]).samples
    assert found.shape == (2, 2, *images.shape[1:]) and found.isfinite().all()


@pytest.mark.parametrize("kind", ["edm", "flow"])
def test_the_exact_denoiser_is_where_the_loss_is_least(kind):
    """Of Gaussian data: any multiple of what it predicts has a larger loss."""
    scheduler, loss = small_networks.KINDS[kind]
    process, variance = Parametrisation(scheduler), 0.5
    images = variance**0.5 * torch.randn(20_000, 1, 2, 2, generator=derived_generator(0))

    def exact(scale):
        def predict(x_t, t):
            alpha, sigma = (x.float().view(-1, 1, 1, 1) for x in process.level(t))
            mean = alpha * variance / (alpha**2 * variance + sigma**2) * x_t
            return SimpleNamespace(sample=scale * process.prediction(x_t, mean, alpha, sigma))

        return predict

    losses = [loss(exact(x), images, None, derived_generator(1)).item() for x in (0.5, 1.0, 1.5)]
    assert losses[1] < min(losses[0], losses[2])
    curvature = (losses[0] + losses[2]) / 2 - losses[1]
    assert abs(losses[0] - losses[2]) < 0.2 * curvature  # the least of the parabola is at 1


def test_what_is_local_sees_a_quarter_of_the_image():
    """By the gradient of one output: on how many patches of the input it depends."""
    seen = {}
    for name in ("unet", "local"):
        model = small_networks.VARIANTS[name][0]().eval()
        initialise(model, derived_generator(1))
        x = torch.randn(1, 4, 14, 14, generator=derived_generator(2)).requires_grad_()
        model(x, torch.tensor([500])).sample[0, :, 7, 7].sum().backward()
        seen[name] = int((x.grad.abs().sum(1) > 0).sum())
    assert seen == {"unet": 14 * 14, "local": 7 * 7}
