"""Classes without a hierarchy: one Gaussian for each class, denoised exactly.

The null of the image experiment. Fitted to a data set it has the mean image and the covariance of
every class, and nothing between a class and its pixels. No network is needed: the reverse process
with the exact score draws from p(x_0 | x_t), and that draw is here a class from its posterior, then
an image from the Gaussian of that class given x_t.
"""

import numpy as np
import torch
from torch import Tensor

from hierphase.checks import check_finite, fractions
from hierphase.seeds import drawn


class GaussianMixture:
    """x_0 = mean of its class + Gaussian noise with the covariance of its class, in float64.

    All classes are equally likely. Everything is computed along the axes of the covariances, where
    numbers are independent given the class.

    Args:
        means: (C, ...) of the classes, of d numbers each.
        covariances: (C, d, d), symmetric; eigenvalues that are zero up to rounding count as zero.

    Raises:
        ValueError: shapes that do not fit, NaN or infinity, or a covariance that is not symmetric
            or has a negative eigenvalue.

    Attributes:
        means: (C, ...).
        variances: (C, d) eigenvalues of the covariances.
        axes: (C, d, d) their eigenvectors, as columns.
    """

    def __init__(self, means, covariances):
        self.means = torch.from_numpy(np.asarray(means, dtype=float))
        covariances = torch.from_numpy(np.asarray(covariances, dtype=float))
        d = self.means[0].numel()
        check_finite("means", self.means)
        check_finite("covariances", covariances, len(self.means), d, d)
        if not torch.allclose(covariances, covariances.mT):
            most = (covariances - covariances.mT).abs().max()
            raise ValueError(f"a covariance must be symmetric, got differences up to {most:g}")
        self.variances, self.axes = torch.linalg.eigh(covariances)
        # The square root of what is zero up to rounding would be far above rounding.
        rounding = self.variances.abs().amax(1, keepdim=True) * d * torch.finfo(torch.float64).eps
        if (self.variances < -rounding).any():
            raise ValueError(f"a covariance has the negative variance {self.variances.min():g}")
        self.variances[self.variances < rounding] = 0

    @classmethod
    def fitted(cls, images: Tensor, labels: Tensor) -> "GaussianMixture":
        """The mixture with the mean and the full covariance of every class.

        Args:
            images: (n, ...), some of each class.
            labels: (n,) classes 0 to C - 1.
        """
        classes = [images[labels == c].double() for c in range(int(labels.max()) + 1)]
        covariances = [torch.cov(own.flatten(1).T, correction=0) for own in classes]
        return cls(torch.stack([own.mean(dim=0) for own in classes]), torch.stack(covariances))

    def draw(self, classes: Tensor, generator, dtype=torch.float64) -> Tensor:
        """x_0 of given classes (n,): (n, ...), float32.

        Args:
            classes: (n,).
            generator: one, or a list of n.
            dtype: of the random numbers.
        """
        nothing = torch.zeros(len(classes), *self.means.shape[1:], dtype=dtype)
        noise = drawn(torch.randn, nothing.shape, generator, dtype=dtype)
        return self._given_class(nothing, 0.0, classes, noise).float()

    def round_trips(
        self, x0: Tensor, classes: Tensor, alpha_bars: Tensor, generators: list
    ) -> tuple[Tensor, Tensor]:
        """The forward-backward experiment: noise every x_0 to every level, then denoise it.

        Args:
            x0: (n, ...) images drawn from the mixture.
            classes: (n,) that they were drawn from.
            alpha_bars: (k,) abar of each level, in [0, 1]; at 1 (no noise) x_0 itself comes back.
            generators: one for each image, on which alone its result depends.

        Returns:
            x̂_0 (k, n, ...), float32, and the class (k, n) that each was drawn from.
        """
        samples = x0.repeat(len(alpha_bars), *[1] * x0.ndim)
        found, noisy = classes.repeat(len(alpha_bars), 1), alpha_bars < 1
        alpha_bar = alpha_bars[noisy].double().view(-1, *[1] * (x0.ndim - 1))
        for i, generator in enumerate(generators):
            signal = alpha_bar.sqrt() * x0[i]
            noise = torch.randn(signal.shape, generator=generator, dtype=torch.float64)
            x_t = signal + (1 - alpha_bar).sqrt() * noise
            back, found[noisy, i] = self.denoised(x_t, alpha_bar.flatten(), generator)
            samples[noisy, i] = back.float()
        return samples, found

    def class_posterior(self, x_t: Tensor, alpha_bar) -> Tensor:
        """P(class | x_t), (n, C).

        Args:
            x_t: (n, ...), sqrt(abar) x_0 + sqrt(1 - abar) times standard normal noise.
            alpha_bar: abar_t, one number or one for each row (n,), in [0, 1].
        """
        rows, alpha_bar = _rows(x_t, alpha_bar)
        logs = []
        for c, mean in enumerate(self.means.flatten(1)):
            along = self._along(rows - alpha_bar.sqrt() * mean, c)
            variance = self._noisy_variances(c, alpha_bar)
            logs.append(-(along.square() / variance + variance.log()).sum(dim=1) / 2)
        # in this layout: multinomial draws in the order of the memory
        return torch.stack(logs).softmax(dim=0).to(x_t.dtype).T

    def denoised(self, x_t: Tensor, alpha_bar, generator) -> tuple[Tensor, Tensor]:
        """One draw from p(x_0 | x_t) for each row.

        Args:
            x_t: (n, ...), as for :meth:`class_posterior`.
            alpha_bar: likewise.
            generator: source of the draws.

        Returns:
            x̂_0 (n, ...), and the class (n,) of each.
        """
        classes = self._draw_classes(self.class_posterior(x_t, alpha_bar), generator)
        noise = torch.randn(x_t.shape, generator=generator, dtype=x_t.dtype)
        return self._given_class(x_t, alpha_bar, classes, noise), classes

    def _draw_classes(self, posterior, generator):
        return torch.multinomial(posterior, 1, generator=generator)[:, 0]

    def _given_class(self, x_t, alpha_bar, classes, noise):
        """A draw from p(x_0 | x_t, class): Gaussian along each axis, as prior and noise are.

        Of variance lambda, it has the mean g (x_t - sqrt(abar) mean) around that of the class, with
        g = sqrt(abar) lambda / (abar lambda + 1 - abar), and the variance
        lambda (1 - abar) / (abar lambda + 1 - abar).
        """
        (rows, alpha_bar), (noise, _) = _rows(x_t, alpha_bar), _rows(noise, 0.0)
        x_0 = torch.empty_like(rows)
        for c in classes.unique().tolist():
            own, mean = classes == c, self.means[c].flatten()
            signal = alpha_bar[own].sqrt()
            share = self.variances[c] / self._noisy_variances(c, alpha_bar[own])
            known = signal * share * self._along(rows[own] - signal * mean, c)
            # noise is brought to the axes too: which eigenvectors were found has no consequence
            spread = ((1 - alpha_bar[own]) * share).sqrt() * self._along(noise[own], c)
            x_0[own] = mean + self._across(known + spread, c)
        return x_0.view(x_t.shape).to(x_t.dtype)

    def _noisy_variances(self, c, alpha_bar):
        """Of x_t along the axes of class c; never zero, as without noise and variance."""
        tiny = torch.finfo(torch.float64).tiny
        return (alpha_bar * self.variances[c] + 1 - alpha_bar).clamp(min=tiny)

    def _along(self, rows, c):
        """Components of rows (n, d) along the axes of class c."""
        return rows @ self.axes[c]

    def _across(self, components, c):
        """Rows (n, d) that have these components."""
        return components @ self.axes[c].T


def _rows(x, alpha_bar):
    """``x`` as float64 (n, d), and abar of each row, (n, 1)."""
    alpha_bar = torch.as_tensor(fractions("alpha_bar", alpha_bar))
    return x.flatten(1).double(), alpha_bar.expand(len(x))[:, None]
