"""Classes without a hierarchy: one Gaussian for each class, denoised exactly.

The null of the image experiment. Fitted to a data set it has the mean image and the covariance of
every class, and nothing between a class and its pixels. No network is needed: the reverse process
with the exact score draws from p(x_0 | x_t), and that draw is here a class from its posterior, then
an image from the Gaussian of that class given x_t.
"""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class FlatMixture:
    """x_0 = mean of its class + Gaussian noise with the covariance of its class, in float64.

    All classes are equally likely. Everything is computed along the eigenvectors of the
    covariances.

    Attributes:
        means: (C, d) of the classes.
        variances: (C, d) eigenvalues of their covariances, not negative.
        axes: (C, d, d) the eigenvectors, as columns.
        shape: of an image of d numbers.
    """

    means: torch.Tensor
    variances: torch.Tensor
    axes: torch.Tensor
    shape: tuple[int, ...]

    @classmethod
    def fitted(cls, images: torch.Tensor, labels: torch.Tensor) -> "FlatMixture":
        """The mixture with the mean and the full covariance of every class.

        Args:
            images: (n, ...), some of each class.
            labels: (n,) classes 0 to C - 1.
        """
        rows = images.flatten(1).double()
        classes = [rows[labels == c] for c in range(int(labels.max()) + 1)]
        covariances = torch.stack([torch.cov(of_class.T, correction=0) for of_class in classes])
        variances, axes = torch.linalg.eigh(covariances)
        means = torch.stack([of_class.mean(dim=0) for of_class in classes])
        return cls(means, variances.clamp(min=0), axes, tuple(images.shape[1:]))

    def draw(self, classes: torch.Tensor, generators: list[torch.Generator]) -> torch.Tensor:
        """x_0 of given classes (n,), with one generator each: (n, ...), float32."""
        nothing = torch.zeros(1, self.means.shape[1], dtype=torch.float64)
        rows = [
            self._given_class(nothing, nothing[:, 0], own[None], generator)
            for own, generator in zip(classes, generators, strict=True)
        ]
        return torch.cat(rows).float().view(-1, *self.shape)

    def round_trips(
        self,
        x0: torch.Tensor,
        classes: torch.Tensor,
        alpha_bars: torch.Tensor,
        generators: list[torch.Generator],
    ) -> tuple[torch.Tensor, torch.Tensor]:
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
        drawn, noisy = classes.repeat(len(alpha_bars), 1), alpha_bars < 1
        alpha_bar = alpha_bars[noisy].double()
        for i, generator in enumerate(generators):
            signal = alpha_bar.sqrt()[:, None] * x0[i].flatten()
            noise = torch.randn(signal.shape, generator=generator, dtype=torch.float64)
            x_t = signal + (1 - alpha_bar).sqrt()[:, None] * noise
            back, drawn[noisy, i] = self.denoised(x_t, alpha_bar, generator)
            samples[noisy, i] = back.float().view(-1, *self.shape)
        return samples, drawn

    def class_posterior(self, x_t: torch.Tensor, alpha_bar: torch.Tensor) -> torch.Tensor:
        """P(class | x_t), (n, C).

        Args:
            x_t: (n, d), sqrt(abar) x_0 + sqrt(1 - abar) times standard normal noise.
            alpha_bar: (n,) abar_t of each row, in [0, 1).
        """
        alpha_bar = alpha_bar[:, None]
        along = (x_t - alpha_bar.sqrt() * self.means[:, None]) @ self.axes  # (C, n, d)
        variance = alpha_bar * self.variances[:, None] + 1 - alpha_bar
        return (-(along.square() / variance + variance.log()).sum(dim=2) / 2).softmax(dim=0).T

    def denoised(
        self, x_t: torch.Tensor, alpha_bar: torch.Tensor, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """One draw from p(x_0 | x_t) for each row.

        Args:
            x_t: (n, d), as for :meth:`class_posterior`.
            alpha_bar: (n,), likewise.
            generator: source of the draws.

        Returns:
            x̂_0 (n, d), and the class (n,) of each.
        """
        posterior = self.class_posterior(x_t, alpha_bar)
        classes = torch.multinomial(posterior, 1, generator=generator)[:, 0]
        return self._given_class(x_t, alpha_bar, classes, generator), classes

    def _given_class(self, x_t, alpha_bar, classes, generator):
        """A draw from p(x_0 | x_t, class), (n, d): Gaussian, as prior and noise are."""
        noise = torch.randn(x_t.shape, generator=generator, dtype=torch.float64)
        mean, axes, alpha_bar = self.means[classes], self.axes[classes], alpha_bar[:, None]
        gain = self.variances[classes] / (alpha_bar * self.variances[classes] + 1 - alpha_bar)
        signal = alpha_bar.sqrt()
        residual = torch.einsum("nij,ni->nj", axes, x_t - signal * mean)
        # noise is brought to the axes too: which eigenvectors were found is then of no consequence
        spread = (gain * (1 - alpha_bar)).sqrt() * torch.einsum("nij,ni->nj", axes, noise)
        return mean + torch.einsum("nij,nj->ni", axes, signal * gain * residual + spread)
