"""Whether a denoiser draws from the posterior, tested without knowing the posterior."""

import torch

from hierphase.analysis import bootstrap
from hierphase.checks import check_finite, positive_integer

FAR = 0.5  # by which a level of ln SNR may be off the one asked for; a sampler has but its steps


def calibration(pipeline, images, ln_snr, num_inference_steps=100, generator=None, **options):
    r"""Compare x̂0 with x_0 in how well each explains the x_t that it was drawn back from.

    Where the denoiser draws from p(x_0 | x_t), both are independent draws from it, and no function
    of one and x_t has another mean than of the other. Here it is the log-likelihood,

    .. math:: \log p(x_t \mid \hat x_0) - \log p(x_t \mid x_0)
        = \tfrac12 \lVert z \rVert^2
        - \tfrac12 \lVert z + \sqrt{\mathrm{SNR}}\, (x_0 - \hat x_0) \rVert^2

    with z the noise of x_t. Below zero x̂0 explains x_t less well than x_0 does (evidence counts for
    too little, a memory of other data), above it better (evidence counts for too much). A sampler's
    own error counts as well: take one whose variance is right to 1%. A denoiser that draws from the
    exact posterior of less than all of x_t passes: test what it makes, too.

    Args:
        pipeline: a :class:`~hierphase.diffusion.forward_backward.ForwardBackwardPipeline`.
        images: (n, ...) x_0 that the denoiser has not seen, float32, n > 1.
        ln_snr: levels (k,), finite; each is taken at the sampler's nearest step.
        num_inference_steps: of the whole way.
        generator: one generator, or a list of n, one an image. None draws a fresh seed.
        options: more of the pipeline's call.

    Returns:
        One :class:`~hierphase.analysis.bootstrap.Estimate` a level: the mean difference for each
        number of an image, in nats, with its 95% interval over images.

    Raises:
        ValueError: no levels, one that is not finite, further than .5 from a step of the
            sampler, a single image, or as the pipeline's call.

    Example:
        >>> import torch
        >>> from hierphase import BayesDenoiser, BeliefPropagation, ForwardBackwardPipeline
        >>> from hierphase import RandomHierarchyModel, calibration
        >>> from hierphase.rhm.corruption import ddpm_scheduler, encode
        >>> rhm, scheduler = RandomHierarchyModel(v=8, m=2, s=2, L=2), ddpm_scheduler()
        >>> exact = BayesDenoiser(BeliefPropagation(rhm), scheduler)
        >>> pipeline = ForwardBackwardPipeline(exact, scheduler)
        >>> images, generator = encode(rhm.sample(100)[0], v=8), torch.Generator().manual_seed(0)
        >>> (found,) = calibration(pipeline, images, [-1.0], generator=generator)
        >>> found.low < 0 < found.high
        True
    """
    check_finite("ln_snr", torch.as_tensor(ln_snr), "k")
    positive_integer("the number of images", len(images), minimum=2)
    found = pipeline(images, None, num_inference_steps, generator, ln_snr=ln_snr, **options)
    if (off := (found.ln_snr.cpu() - torch.as_tensor(ln_snr)).abs().max()) > FAR:
        levels = f"levels taken are {[round(x, 2) for x in found.ln_snr.tolist()]}"
        raise ValueError(f"ln_snr is off by {off:.2g}, {levels}: take others or more steps")
    gains = explained(found, images).numpy()
    return [bootstrap.function_of_mean(lambda mean: mean, gain) for gain in gains]


def explained(found, images) -> torch.Tensor:
    """What :func:`calibration` averages, (k, n) float64, of an output of the pipeline and its x_0.

    Without noise it is 0.
    """
    scale = (found.ln_snr.float() / 2).exp().nan_to_num(posinf=0.0)
    scale = scale.view(-1, *[1] * images.ndim).to(found.noise.device)
    residual = found.noise + scale * (images.to(found.noise.device) - found.samples)
    return (found.noise.square() - residual.square()).flatten(2).mean(dim=2).cpu().double() / 2
