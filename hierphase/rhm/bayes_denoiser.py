"""The exact denoiser of the Random Hierarchy Model, behind the interface of a diffusers model."""

import torch
from diffusers import SchedulerMixin
from diffusers.models.unets.unet_2d import UNet2DOutput

from hierphase.rhm.belief_propagation import BeliefPropagation
from hierphase.rhm.corruption import GaussianProcess


class BayesDenoiser:
    """Bayes-optimal denoiser: the score of the model's own data at every noise level.

    E[x_0 | x_t] are the leaf marginals of belief propagation; the predicted noise is
    (x_t - sqrt(abar) E[x_0 | x_t]) / sqrt(1 - abar). With it, the reverse process of any diffusers
    scheduler draws (in the limit of small steps) from the exact posterior p(x_0 | x_t).

    Args:
        bp: inference on the model.
        scheduler: gives ``alphas_cumprod`` and ``prediction_type`` (epsilon, sample or
            v_prediction); the one that will call the denoiser.

    Raises:
        ValueError: the scheduler has no ``alphas_cumprod``, or another prediction type.
    """

    def __init__(self, bp: BeliefPropagation, scheduler: SchedulerMixin):
        self.bp = bp
        self.process = GaussianProcess(scheduler, v=bp.rhm.v)
        self.prediction_type = scheduler.config.prediction_type
        if self.prediction_type not in ("epsilon", "sample", "v_prediction"):
            raise ValueError(
                "prediction_type must be epsilon, sample or v_prediction, got "
                f"{self.prediction_type!r}"
            )

    def __call__(self, x_t: torch.Tensor, t) -> UNet2DOutput:
        """Predict the noise (or what ``prediction_type`` says) in x_t, (n, v, d), as ``sample``.

        Args:
            x_t: (n, v, d) float32 or float64.
            t: time index 0..T-1, an integer or an integer tensor, scalar or (n,).

        Raises:
            ValueError: wrong shape, dtype, or t out of range.
        """
        posterior = self.bp(self.process.log_beliefs(x_t, t), log=True)
        x_0 = posterior.marginals[0].mT
        if self.prediction_type == "sample":
            return UNet2DOutput(sample=x_0)
        epsilon = self.process.noise(x_t, x_0, t)
        if self.prediction_type == "epsilon":
            return UNet2DOutput(sample=epsilon)
        alpha_bar = self.process.alpha_bar(t).reshape(-1, 1, 1).to(x_t.device)
        signal, noise = alpha_bar.sqrt().to(x_t.dtype), (1 - alpha_bar).sqrt().to(x_t.dtype)
        return UNet2DOutput(sample=signal * epsilon - noise * x_0)
