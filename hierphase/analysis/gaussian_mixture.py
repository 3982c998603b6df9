"""Classes without a hierarchy: Gaussians for each class, denoised exactly.

The null of the image experiment. Fitted to a data set it has the mean image and the covariance of
every class, or of clusters within classes, and nothing between these and pixels. No network is
needed: the reverse process with the exact score draws from p(x_0 | x_t), and that draw is here one
of the Gaussians from its posterior, then an image from that Gaussian given x_t.
"""

import math

import numpy as np
import scipy.linalg
import torch
from sklearn.cluster import KMeans
from torch import Tensor

from hierphase.checks import check_finite, check_shape, fractions, positive_integer
from hierphase.seeds import drawn

_CHUNK = 1 << 22  # numbers at a time, of some rows along the axes of all components
_FLOOR = 0.01  # of the mean variance of a pixel within components, where the rank is low


class GaussianMixture:
    """x_0 = mean of a component of its class + Gaussian noise with its covariance.

    All classes are equally likely. Everything is computed along the axes of the covariances, where
    numbers are independent given the component; in all other directions, if there are any, the
    variance is one number. Always in float64: in float32, sums of squares over thousands of pixels,
    divided by a small variance, which are logarithms of posteriors, are not known to 1.

    Args:
        means: (K, ...) of the components, of d numbers each.
        covariances: (K, d, d), or (1, d, d) that all share; symmetric, and eigenvalues that are
            zero up to rounding count as zero. Of low rank: a tuple of variances (K, q), orthonormal
            axes (K, d, q) and the rest (K,), positive, as in the attributes; or 1 for K.
        owners: (K,) the class of each, 0 to C - 1, in order; None: one component a class.
        weights: (K,) of the components of a class, in proportion, positive; None: equal.

    Raises:
        ValueError: shapes that do not fit, NaN or infinity, owners that are not in order or miss a
            class, a weight that is not positive, or a covariance that is not symmetric or has a
            negative eigenvalue.

    Attributes:
        means: (K, ...).
        variances: (K, q) eigenvalues of the covariances; q is d, or the rank of a fit.
        axes: (K, d, q), or (1, d, q) that all share: their eigenvectors, as columns.
        rest: (K,) variance in all directions that are in no axis; 0 where there are none.
        owners: (K,).
        log_weights: (K,) log P(component | class).
        n_classes: C.

    Example:
        >>> import torch
        >>> from hierphase.analysis.gaussian_mixture import GaussianMixture
        >>> mixture = GaussianMixture([[-1.0, 0.0], [1.0, 0.0]], [[[0.1, 0], [0, 0.1]]])
        >>> x_t = torch.tensor([[0.5, 0.2]])
        >>> mixture.class_posterior(x_t, alpha_bar=0.5)
        tensor([[0.2166, 0.7834]])
    """

    def __init__(self, means, covariances, owners=None, weights=None):
        self.means = torch.from_numpy(np.asarray(means, dtype=float))
        check_finite("means", self.means)
        K, d = len(self.means), self.means[0].numel()
        full = not isinstance(covariances, tuple)
        variances, axes, rest = _principal_axes(covariances, K, d) if full else covariances
        self.variances, self.rest = variances.expand(K, -1), rest.expand(K)
        self.axes = axes.mT.contiguous().mT  # all axes of all components: the rows of one matrix
        self._means_along = (self.means.flatten(1)[:, None] @ self.axes)[:, 0]  # own axes, (K, q)
        self.owners = torch.arange(K) if owners is None else torch.as_tensor(owners)
        weights = torch.ones(K) if weights is None else torch.as_tensor(weights)
        check_shape("owners", self.owners, K)
        check_finite("weights", weights, K)
        self.n_classes = int(self.owners.max()) + 1
        if not torch.equal(self.owners.unique_consecutive(), torch.arange(self.n_classes)):
            raise ValueError(f"owners must be 0, 1, ... in order, got {self.owners.tolist()}")
        if not (weights > 0).all():
            raise ValueError(f"weights must be positive, got {weights.min():g}")
        self.log_weights = (weights / self.owners.bincount(weights.double())[self.owners]).log()

    @classmethod
    def fitted(cls, images: Tensor, labels: Tensor, clusters=1, rank=None, shared=False, seed=0):
        """The mixture with the mean and the covariance of every class, or of clusters within it.

        With a rank, covariances are those of probabilistic principal components (Tipping and
        Bishop, J. R. Stat. Soc. B 61, 611): the largest eigenvalues, and in all other directions
        the mean of the others. No variance then is below a hundredth of that of a pixel around the
        mean of its component (mean over pixels and images): what clusters get that have no more
        images than the rank.

        Args:
            images: (n, ...), float32, some of each class.
            labels: (n,) classes 0 to C - 1.
            clusters: of each class, by k-means; each a component, weighted by its images. Fewer,
                with a warning, where a class has not as many different images.
            rank: number of axes of each covariance, below d; None for all.
            shared: one covariance for all components, that of images around their means.
            seed: of k-means.

        Raises:
            ValueError: a class with fewer images than clusters, or a rank out of range.
        """
        parts, owners = [], []
        for c in range(int(labels.max()) + 1):
            own = images[labels == c]
            if len(own) < positive_integer("clusters", clusters):
                raise ValueError(f"class {c} has {len(own)} images, clusters must be no more")
            k_means = KMeans(clusters, n_init=1, random_state=seed)
            found = torch.from_numpy(k_means.fit_predict(own.flatten(1).numpy()))
            parts += [own[found == k].double() for k in found.unique()]
            owners += [c] * (len(parts) - len(owners))
        means, weights = torch.stack([part.mean(dim=0) for part in parts]), list(map(len, parts))
        if shared:
            parts = [torch.cat([part - mean for part, mean in zip(parts, means, strict=True)])]
        parts = [part.flatten(1) for part in parts]
        if rank is None:
            covariances = [torch.cov(part.T, correction=0) for part in parts]
            return cls(means, torch.stack(covariances), owners, weights)
        positive_integer("rank", rank, 1, means[0].numel() - 1)
        parts = [part - part.mean(dim=0) for part in parts]
        floor = _FLOOR * sum(part.square().sum() for part in parts) / images.numel()
        found = zip(*(_principal(part, rank, floor) for part in parts), strict=True)
        variances, axes, rest = map(torch.stack, found)
        return cls(means, (variances, axes.mT, rest), owners, weights)

    def draw(self, classes: Tensor, generator, dtype=torch.float64) -> Tensor:
        """x_0 of given classes (n,): (n, ...), float32.

        Args:
            classes: (n,).
            generator: one, or a list of n.
            dtype: of the random numbers.
        """
        nothing = torch.zeros(len(classes), *self.means.shape[1:], dtype=dtype)
        noise = drawn(torch.randn, nothing.shape, generator, dtype=dtype)
        components = classes
        if len(self.owners) > self.n_classes:
            place = classes + drawn(torch.rand, classes.shape, generator, dtype=torch.float64)
            components = torch.searchsorted(self.log_weights.exp().cumsum(0), place, right=True)
        return self._given_component(nothing, 0.0, components, noise).float()

    def round_trips(self, x0: Tensor, classes: Tensor, alpha_bars: Tensor, generators: list):
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
        posterior = self._log_joint(x_t, alpha_bar).softmax(dim=0)
        of_class = posterior.new_zeros(self.n_classes, len(x_t))
        return of_class.index_add(0, self.owners, posterior).to(x_t.dtype).T

    def log_evidence(self, x_t: Tensor, alpha_bar) -> Tensor:
        """log p(x_t), in nats: (n,) float64.

        Args:
            x_t: (n, ...), as for :meth:`class_posterior`.
            alpha_bar: likewise; with 1 it is the likelihood of data.
        """
        scale = self.means[0].numel() / 2 * math.log(2 * math.pi) + math.log(self.n_classes)
        return self._log_joint(x_t, alpha_bar).logsumexp(dim=0) - scale

    def denoised(self, x_t: Tensor, alpha_bar, generator) -> tuple[Tensor, Tensor]:
        """One draw from p(x_0 | x_t) for each row.

        Args:
            x_t: (n, ...), as for :meth:`class_posterior`.
            alpha_bar: likewise.
            generator: source of the draws.

        Returns:
            x̂_0 (n, ...), and the class (n,) of each.
        """
        # in this layout: multinomial draws in the order of the memory
        posterior = self._log_joint(x_t, alpha_bar).softmax(dim=0).to(x_t.dtype).T
        components = self._draw_components(posterior, generator)
        noise = torch.randn(x_t.shape, generator=generator, dtype=x_t.dtype)
        return self._given_component(x_t, alpha_bar, components, noise), self.owners[components]

    def _draw_components(self, posterior, generator):
        return torch.multinomial(posterior, 1, generator=generator)[:, 0]

    def _log_joint(self, x_t, alpha_bar):
        """log p(x_t, component | class of the component), (K, n), up to the constant of pi."""
        rows, alpha_bar = _rows(x_t, alpha_bar)
        means, n_axes = self.means.flatten(1), self.variances.shape[1]
        outside, logs = means.shape[1] - n_axes, []
        size = max(1, _CHUNK // self.variances.numel())
        for x, level in zip(rows.split(size), alpha_bar.split(size), strict=True):
            signal, variance = level.sqrt(), noisy(self.variances, level[..., None])
            along = (x @ self.axes.mT.flatten(0, 1).T).unflatten(1, (-1, n_axes))
            squares = (along - signal[..., None] * self._means_along).square()
            log = -(squares / variance + variance.log()).sum(dim=2) / 2
            if outside:
                variance = noisy(self.rest, level)
                square = x.square().sum(1, keepdim=True) - 2 * signal * (x @ means.T)
                square += level * means.square().sum(dim=1) - squares.sum(dim=2)
                log -= (square / variance + outside * variance.log()) / 2
            logs.append(log + self.log_weights)
        return torch.cat(logs).T.contiguous()

    def _given_component(self, x_t, alpha_bar, components, noise):
        """A draw from p(x_0 | x_t, component): Gaussian along each axis, as prior and noise are.

        Of variance lambda, it has the mean g (x_t - sqrt(abar) mean) around that of the component,
        with g = sqrt(abar) lambda / (abar lambda + 1 - abar), and the variance
        lambda (1 - abar) / (abar lambda + 1 - abar).
        """
        (rows, alpha_bar), (noise, _) = _rows(x_t, alpha_bar), _rows(noise, 0.0)
        x_0 = torch.empty_like(rows)
        for k in components.unique().tolist():
            axes, mean = self.axes[k % len(self.axes)], self.means[k].flatten()
            own = components == k
            level = alpha_bar[own]
            # noise is brought to the axes too: which eigenvectors were found has no consequence
            pair = rows[own] - level.sqrt() * mean, noise[own]
            along = [part @ axes for part in pair]
            inside = _filtered(self.variances[k], level, *along)
            inside -= _filtered(self.rest[k], level, *along)
            x_0[own] = mean + _filtered(self.rest[k], level, *pair) + inside @ axes.T
        return x_0.view(x_t.shape).to(x_t.dtype)


def _filtered(variance, alpha_bar, signal, noise):
    """What a component of this variance in x_0 makes of that of x_t, and of noise."""
    share = variance / noisy(variance, alpha_bar)
    return alpha_bar.sqrt() * share * signal + ((1 - alpha_bar) * share).sqrt() * noise


def noisy(variance, alpha_bar):
    """Variance in x_t; never zero, as without noise and variance."""
    return (alpha_bar * variance + 1 - alpha_bar).clamp(min=torch.finfo(torch.float64).tiny)


def _principal_axes(covariances, K, d):
    """Variances, axes and the rest, of which there is nothing, of full covariances."""
    covariances = torch.from_numpy(np.asarray(covariances, dtype=float))
    check_finite("covariances", covariances, K if len(covariances) > 1 else 1, d, d)
    if not torch.allclose(covariances, covariances.mT):
        most = (covariances - covariances.mT).abs().max()
        raise ValueError(f"a covariance must be symmetric, got differences up to {most:g}")
    variances, axes = torch.linalg.eigh(covariances)
    # The square root of what is zero up to rounding would be far above rounding.
    rounding = variances.abs().amax(1, keepdim=True) * d * torch.finfo(torch.float64).eps
    if (variances < -rounding).any():
        raise ValueError(f"a covariance has the negative variance {variances.min():g}")
    variances[variances < rounding] = 0
    return variances, axes, variances.new_zeros(1)


def _principal(rows, rank, floor):
    """Variances (rank,), axes (rank, d) and variance of the rest, of rows (n, d) around 0."""
    n, d = rows.shape
    gram = rows.T @ rows if d < n else rows @ rows.T
    q = min(rank, len(gram))
    values, vectors = scipy.linalg.eigh(gram / n, subset_by_index=(len(gram) - q, len(gram) - 1))
    # the largest first: of axes without variance only the span means anything
    values, vectors = (torch.from_numpy(part[..., ::-1].copy()) for part in (values, vectors))
    if d >= n:
        vectors = torch.linalg.qr(rows.T @ vectors).Q
    rest = ((gram.trace() / n - values.sum()) / (d - q)).clamp(min=floor)
    variances, axes = rest.repeat(rank), rows.new_zeros(rank, d)
    variances[:q], axes[:q] = values.clamp(min=rest), vectors.T  # axes of zeros change nothing
    return variances, axes, rest


def _rows(x, alpha_bar):
    """``x`` as float64 (n, d), and abar of each row, (n, 1)."""
    alpha_bar = torch.as_tensor(fractions("alpha_bar", alpha_bar))
    return x.flatten(1).double(), alpha_bar.expand(len(x))[:, None]
