"""What a network is trained for: the loss, how images are varied, what is reported at the end.

A loss is called as ``loss(model, images, labels, generator)``, a variation as
``vary(images, generator)``, and a report as ``report(model, data, seed, **judges)``. All their
randomness is from the generator, which is on the CPU, or from the seed.
"""

import torch
from diffusers import DPMSolverMultistepScheduler
from torch.nn import functional

from hierphase.diffusion.forward_backward import ForwardBackwardPipeline
from hierphase.networks.classifiers import accuracy
from hierphase.networks.sample_quality import sample_quality
from hierphase.rhm.corruption import ddpm_scheduler
from hierphase.seeds import derived_generator

SCHEDULE = ddpm_scheduler()
STOCHASTIC = {"algorithm_type": "sde-dpmsolver++", "use_karras_sigmas": True}
#: The book's sampler, whose variance is right to 1% by 100 steps; its noise mends what a network
#: gets wrong.
SAMPLER = DPMSolverMultistepScheduler.from_config(SCHEDULE.config, **STOCHASTIC)
N_VALIDATION = 1000  # held-out data on which a denoiser of trees is judged


def denoising_loss(model, images, labels, generator) -> torch.Tensor:
    """Mean squared error of the predicted noise at uniform t (Ho et al. 2020, L_simple).

    Args:
        model: predicts the noise, ``model(x_t, t).sample``.
        images: (n, ...) clean images.
        labels: not used; the model is unconditional.
        generator: source of t and of the noise.
    """
    times = torch.randint(SCHEDULE.config.num_train_timesteps, (len(images),), generator=generator)
    noise = torch.randn(images.shape, generator=generator).to(images.device)
    times = times.to(images.device)
    return functional.mse_loss(model(SCHEDULE.add_noise(images, noise, times), times).sample, noise)


def classification_loss(model, images, labels, generator) -> torch.Tensor:
    """Cross-entropy of the classes; nothing is random.

    Args:
        model: gives logits.
        images: (n, ...).
        labels: (n,).
        generator: not used.
    """
    return functional.cross_entropy(model(images), labels)


def mirrored(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Each image (n, channels, height, width) mirrored left to right with probability 1/2."""
    chosen = torch.rand(len(images), 1, 1, 1, generator=generator).to(images.device) < 0.5
    return torch.where(chosen, images.flip(-1), images)


def shifted(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Images (n, channels, height, width) all shifted alike, by up to one pixel; -1 comes in."""
    down, right = torch.randint(3, (2,), generator=generator).tolist()
    height, width = images.shape[-2:]
    padded = functional.pad(images, (1, 1, 1, 1), value=-1.0)
    return padded[..., down : down + height, right : right + width]


def in_patches(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Squares of 2x2 pixels as one with 4 times the channels; nothing is random."""
    return functional.pixel_unshuffle(images, 2)


def classifier_report(model, data, seed) -> dict[str, float]:
    """Accuracy on the held-out data."""
    return {"accuracy_held_out": accuracy(model, data.test_images, data.test_labels)}


@torch.no_grad()
def denoiser_report(model, data, seed) -> dict[str, float]:
    """Denoising loss on 1000 data from the training set, and on as many that were held out."""
    train, _ = data.batch(N_VALIDATION, derived_generator(seed, 0))
    parts = {"loss": train, "loss_held_out": data.test_images[:N_VALIDATION]}
    generators = [derived_generator(seed, 0, i) for i in range(20)]
    return {
        name: sum(denoising_loss(model, x, None, g).item() for g in generators) / 20
        for name, x in parts.items()
    }


@torch.no_grad()
def image_denoiser_report(model, data, seed, n_samples=1000, num_inference_steps=100, **judges):
    """Denoising losses, and how good unconditional samples are.

    Args:
        model: a ``UNet2DModel``; where it is smaller than the images it sees them in patches.
        data: :class:`~hierphase.diffusion.datasets.ImageData`.
        seed: of all noise.
        n_samples: to be drawn.
        num_inference_steps: that each takes.
        judges: name -> trained classifier of these images.

    Returns:
        Name -> number.
    """
    size, channels = model.config.sample_size, model.config.in_channels
    patch = data.train_images.shape[-1] // size
    pipeline, T = ForwardBackwardPipeline(model, SAMPLER), SCHEDULE.config.num_train_timesteps
    nothing = torch.zeros(n_samples, channels, size, size)
    generators = [derived_generator(seed, 0, i) for i in range(n_samples)]
    samples = pipeline(nothing, [T], num_inference_steps, generators).samples[0]
    parts = {"loss": data.train_images, "loss_held_out": data.test_images}
    n = min(2000, *map(len, parts.values()))
    losses = {}
    for name, images in parts.items():
        patches = functional.pixel_unshuffle(images[:n], patch)
        losses[name] = denoising_loss(model, patches, None, derived_generator(seed, 0)).item()
    return losses | sample_quality(functional.pixel_shuffle(samples, patch), data, **judges)
