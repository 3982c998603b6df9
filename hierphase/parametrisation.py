r"""What a denoiser is given, :math:`x_t = \alpha x_0 + \sigma z`, and what it predicts.

Every kind of diffusion model that diffusers runs (variance preserving, variance exploding, EDM,
flow matching) is one choice of alpha and sigma, and of the number that stands for x_0. An exact
denoiser has to speak the one of its scheduler.
"""

import numpy as np
import torch

from hierphase.checks import check_known, within

PREDICTIONS = ("epsilon", "sample", "v_prediction", "flow_prediction")


class Parametrisation:
    """That of the denoiser which a scheduler calls.

    Args:
        scheduler: a diffusers scheduler.

    Raises:
        ValueError: its noise levels or its kind of prediction are not known here.
    """

    def __init__(self, scheduler):
        self._scheduler, config = scheduler, getattr(scheduler, "config", {})
        trained = hasattr(scheduler, "alphas_cumprod")
        self._edm = hasattr(scheduler, "precondition_outputs")
        self._log_sigma = self._edm or config.get("timestep_type") == "continuous"
        matching = hasattr(scheduler, "scale_noise") and not trained
        self._flow = matching or config.get("use_flow_sigmas", False)
        self.prediction_type = "flow_prediction" if matching else config.get("prediction_type")
        counted, name = "num_train_timesteps" in config, type(scheduler).__name__
        if not self._edm and not (counted and (trained or matching)):
            raise ValueError(f"scheduler must have alphas_cumprod, EDM or flows; got {name}")
        check_known(f"prediction_type of {name}", str(self.prediction_type), PREDICTIONS)

    def level(self, t) -> tuple[torch.Tensor, torch.Tensor]:
        """alpha and sigma of what the denoiser is given at time t.

        Args:
            t: as the scheduler gives it, a number or a tensor: a trained time 0..T - 1 (between
                two of them ln sigma/alpha is interpolated), T times the sigma of flow matching,
                or ln(sigma) / 4 (EDM).

        Returns:
            Two float64 tensors of the shape of t.

        Raises:
            ValueError: t is not a number in that range.
        """
        config = self._scheduler.config
        low, high = (-99, 99) if self._log_sigma else (0, config.num_train_timesteps - 1)
        high += self._flow
        time = within("t", t, low, high).double().cpu()
        if self._flow:
            sigma = time / config.num_train_timesteps
            return 1 - sigma, sigma
        if self._log_sigma:
            ratio = (4 * time).exp()
        else:
            logs = (1 / self._scheduler.alphas_cumprod.double().cpu() - 1).log() / 2
            ratio = torch.as_tensor(np.interp(time, np.arange(len(logs)), logs)).exp()
        alpha, sigma = (1 + ratio**2) ** -0.5, (1 + ratio**-2) ** -0.5
        if self._edm:  # scaled by c_in = (sigma^2 + sigma_data^2)^(-1/2)
            alpha = (ratio**2 + config.sigma_data**2) ** -0.5
            sigma = ratio * alpha
        return alpha, sigma

    def prediction(self, x_t: torch.Tensor, x_0: torch.Tensor, alpha, sigma) -> torch.Tensor:
        r"""What a denoiser predicts that takes x_0 for the mean of the data given x_t.

        This is :math:`z = (x_t - \alpha x_0) / \sigma` (``epsilon``), :math:`x_0` (``sample``),
        :math:`\alpha z - \sigma x_0` (``v_prediction``), :math:`z - x_0` (``flow_prediction``), or,
        of EDM, F with :math:`x_0 = c_\mathrm{skip} x + c_\mathrm{out} F` (Karras et al. 2022, table
        1).

        Args:
            x_t: what the denoiser is given.
            x_0: of the same shape.
            alpha: of :meth:`level`, a tensor that broadcasts with x_t.
            sigma: likewise.

        Returns:
            Of the shape and type of x_t.
        """
        if self.prediction_type == "sample" and not self._edm:
            return x_0
        a, s = alpha.to(x_t), sigma.to(x_t)
        if self._edm:
            x, ratio = x_t / a, (sigma / alpha).to(x_t)
            outputs = self._scheduler.precondition_outputs
            skip, out = outputs(1, 0, ratio), outputs(0, 1, ratio)
            return (x_0 - skip * x) / out
        z = (x_t - a * x_0) / s
        if self.prediction_type == "v_prediction":
            return a * z - s * x_0
        return z - x_0 if self.prediction_type == "flow_prediction" else z
