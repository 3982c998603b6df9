"""The exact denoiser of the Random Hierarchy Model, behind the interface of a diffusers model."""

import torch
from diffusers import SchedulerMixin
from diffusers.models.unets.unet_2d import UNet2DOutput

from hierphase.parametrisation import Parametrisation
from hierphase.rhm.belief_propagation import BeliefPropagation
from hierphase.rhm.model import check_tensor


class BayesDenoiser:
    r"""Bayes-optimal denoiser, the score of the model's own data at every noise level.

    The leaf marginals of belief propagation are :math:`E[x_0 \mid x_t]`. The predicted noise is

    .. math:: \frac{x_t - \alpha E[x_0 \mid x_t]}{\sigma}

    With it, the reverse process of any diffusers scheduler draws (in the limit of small steps) from
    the exact posterior :math:`p(x_0 \mid x_t)`, or, where it is deterministic, from its law
    :math:`p(x_0)` alone.

    Args:
        bp: inference on the model.
        scheduler: the one that will call the denoiser; its
            :class:`~hierphase.parametrisation.Parametrisation` is that of the answers.

    Raises:
        ValueError: the scheduler has no known noise levels, or another prediction type.

    Example:
        >>> import torch
        >>> from hierphase import BayesDenoiser, BeliefPropagation, RandomHierarchyModel
        >>> from hierphase.rhm.corruption import ddpm_scheduler
        >>> rhm = RandomHierarchyModel(v=8, m=2, s=2, L=3)
        >>> denoiser = BayesDenoiser(BeliefPropagation(rhm), ddpm_scheduler())
        >>> denoiser(torch.randn(2, 8, 8), 999).sample.shape  # the noise in x_t, (n, v, d)
        torch.Size([2, 8, 8])
    """

    def __init__(self, bp: BeliefPropagation, scheduler: SchedulerMixin):
        self.bp = bp
        self.parametrisation = Parametrisation(scheduler)

    def __call__(self, x_t: torch.Tensor, t) -> UNet2DOutput:
        """Predict the noise (or what ``prediction_type`` says) in x_t, (n, v, d), as ``sample``.

        Args:
            x_t: (n, v, d) float32 or float64.
            t: as the scheduler gives it, a number or a tensor, scalar or (n,).

        Raises:
            ValueError: wrong shape, dtype, or t out of range.
        """
        check_tensor("x_t", x_t, "float32 or float64", "n", self.bp.rhm.v, self.bp.rhm.d)
        alpha, sigma = (x.reshape(-1, 1, 1).to(x_t.device) for x in self.parametrisation.level(t))
        log_beliefs = (x_t * (alpha / sigma**2).to(x_t.dtype)).mT
        x_0 = self.bp(log_beliefs, log=True).marginals[0].mT
        return UNet2DOutput(sample=self.parametrisation.prediction(x_t, x_0, alpha, sigma))
