"""Correlated changes, measured: on real images with a trained denoiser, on the tree exactly."""

import numpy as np
import torch
import xarray as xr

from hierphase.analysis.gaussian_field import GaussianField, power_law_covariance, spectral_exponent
from hierphase.analysis.patch_correlations import grid_covariance, grid_distances, patch_changes
from hierphase.analysis.representations import activations, from_dataset
from hierphase.checks import check_shape, fraction, positive_integer
from hierphase.experiments.base import Experiment
from hierphase.experiments.images import CLASSIFIED, PRESETS, ImageExperiment, filled
from hierphase.rhm import corruption, meanfield
from hierphase.rhm.belief_propagation import BeliefPropagation
from hierphase.rhm.correlations import posterior_covariance, tree_covariance
from hierphase.rhm.model import RandomHierarchyModel
from hierphase.seeds import derived_generator

_TREE = {
    "v": 32, "m": 8, "s": 2, "depths": [5, 6, 7, 8, 9, 10, 11],
    "offsets": [0.0025, 0.005, 0.01, 0.015, 0.02, 0.03, 0.04, 0.055, 0.075, 0.1, 0.14, 0.2],
    "L": 9, "n_times": 25, "n_rules": 32, "n_data": 12, "n_draws": 4, "seed": 0,
}  # fmt: skip
_DRAWN = ("masking", "Gaussian")  # processes whose noise is drawn
# Of all presets on images, beside the parameters of the image experiment.
_REPEATED = {"n_per_class": 4, "n_times": 12, "n_shown": 0, "n_trajectories": 16, "threshold": 0.15}


class TreeCorrelations(Experiment):
    """Exact correlations on the tree, for many draws of the rules, the units.

    The epsilon-process draws no noise, so its correlations are those of one posterior. Masking and
    Gaussian noise are drawn anew for every trajectory, so theirs have two parts: the covariance
    given x_t, averaged over x_t, and the covariance of the means given x_t.

    Args:
        parameters: ``v``, ``m``, ``s``; ``depths`` of the trees for the epsilon-process, at
            eps* and at eps* -/+ each of ``offsets`` (as far as they lie in (0, 1]); ``L``, the
            depth for masking and Gaussian noise, at ``n_times`` times; ``n_rules`` draws of the
            rules, ``n_data`` data of each, ``n_draws`` of the noise of each datum; ``seed``.

    Raises:
        ValueError: sizes without a transition, or a size that is no positive integer.
    """

    presets = {"tree": _TREE}
    units = ("n_rules",)
    least = {"n_draws": 2}
    padded = ("covariance",)

    def __init__(self, parameters: dict):
        super().__init__(parameters)
        self._sizes, offsets = (self.p.v, self.p.m, self.p.s), np.array(self.p.offsets)
        positive_integer("the smallest of depths", min(self.p.depths, default=0))
        critical = meanfield.critical_epsilon(*self._sizes)
        if critical is None:
            raise ValueError(f"there is no transition for (v, m, s) = {self._sizes}")
        noises = np.sort(np.concatenate([critical - offsets, [critical], critical + offsets]))
        self._noises = noises[(noises > 0) & (noises <= 1)]

    def measure_unit(self, i: int, prepared: xr.Dataset) -> xr.Dataset:
        """The correlations for one draw of the rules.

        Args:
            i: the draw.
            prepared: not used.

        Returns:
            Sums of C_ij over the ordered pairs of leaves at each tree distance, mean over data
            (NaN at distances beyond the depth): ``covariance`` (depth, epsilon, distance) of the
            epsilon-process; ``noisy_covariance`` (process, step, part, noisy_distance) of the
            others, in its two parts. ``class_known`` (depth, epsilon) and ``noisy_class_known``
            (process, step): P(true class). ``noise`` (process, step): the epsilon of equal mean
            belief in the true leaf.
        """
        depths, L, n_data, n_draws = self.p.depths, self.p.L, self.p.n_data, self.p.n_draws
        seed = derived_generator(self.p.seed, i).initial_seed()
        process, shape = corruption.EpsilonProcess(self.p.v), (len(depths), len(self._noises))
        covariance = np.full((*shape, max(depths) + 1), np.nan, np.float32)
        known = np.empty(shape, np.float32)
        for d, depth in enumerate(depths):
            rhm = RandomHierarchyModel(*self._sizes, depth, seed=seed)
            levels = rhm.sample(n_data, seed=seed)
            for e, epsilon in enumerate(self._noises):
                posterior = BeliefPropagation(rhm)(process.beliefs(levels[0], epsilon).double())
                covariance[d, e, : depth + 1] = posterior_covariance(posterior, levels[0]).mean(0)
                known[d, e] = posterior.probability_of(levels)[:, -1].mean()

        rhm = RandomHierarchyModel(*self._sizes, L, seed=seed)
        repeated = [symbols.repeat(n_draws, 1) for symbols in rhm.sample(n_data, seed=seed)]
        noisy = np.empty((2, self.p.n_times, 2, L + 1), np.float32)
        noisy_known, equal_noise = np.empty((2, 2, self.p.n_times), np.float32)
        for (p, k), t in np.ndenumerate(self._times()):
            noise, generator = _DRAWN[p], derived_generator(self.p.seed, i, p, k)
            log_beliefs = corruption.log_likelihood(noise, repeated[0], rhm.v, t, generator)
            posterior = BeliefPropagation(rhm)(log_beliefs, log=True)
            kept = posterior.marginals[0].gather(-1, repeated[0][..., None])[..., 0]
            means = (1 - 2 * kept).unflatten(0, (n_draws, n_data)).numpy()
            parts = posterior_covariance(posterior, repeated[0]), tree_covariance(means, rhm.s)
            noisy[p, k] = [part.mean(axis=0) for part in parts]
            noisy_known[p, k] = posterior.probability_of(repeated)[:, -1].mean()
            belief = log_beliefs.softmax(-1).gather(-1, repeated[0][..., None]).mean()
            equal_noise[p, k] = (1 - belief) / (1 - 1 / rhm.v)
        of_epsilon, of_step = ("depth", "epsilon"), ("process", "step")
        coordinates = {"depth": depths, "epsilon": self._noises, "process": [*_DRAWN]}
        coordinates["part"] = ["given x_t", "of the means"]
        measured = {
            "covariance": ((*of_epsilon, "distance"), covariance),
            "class_known": (of_epsilon, known),
            "noisy_covariance": ((*of_step, "part", "noisy_distance"), noisy),
            "noisy_class_known": (of_step, noisy_known),
            "noise": (of_step, equal_noise),
        }
        return xr.Dataset(measured, coordinates)

    def finish(self, merged: xr.Dataset) -> xr.Dataset:
        """All draws, and ``t`` (process, step): t/T."""
        return merged.assign(t=(("process", "step"), self._times()))

    def _times(self) -> np.ndarray:
        """(2, n_times) t/T: of masking evenly, of the Gaussian process by its SNR."""
        n_times, process = self.p.n_times, corruption.GaussianProcess(corruption.ddpm_scheduler())
        snr = process.snr(torch.arange(process.scheduler.config.num_train_timesteps)).numpy()
        steps = [abs(np.log(snr / wanted)).argmin() for wanted in np.geomspace(18, 1.2, n_times)]
        return np.stack([np.linspace(0.05, 0.95, n_times), np.array(steps) / len(snr)])


class ImageCorrelations(ImageExperiment):
    """Many trajectories of each image, and how their changes are correlated from patch to patch.

    Three fields are measured on one grid of patches: ``patches``, the root mean square change of
    the pixels; ``changed``, whether that exceeds a threshold; and ``features``, the root mean
    square change of the standardised activations of a layer whose map is the same grid. Noise x_t
    and reverse noise are drawn anew for every trajectory.

    Args:
        parameters: those of :class:`~hierphase.experiments.images.ImageExperiment`, the first of
            whose ``layers`` is the one of the features; ``n_trajectories`` of each image and time;
            ``patch_size`` in pixels; ``threshold`` of a change, as a fraction of the pixels' range.

    Raises:
        ValueError: as for the image experiment, fewer than two trajectories, or a threshold
            outside [0, 1].
    """

    presets = {
        name: PRESETS[name] | _REPEATED | {"layers": [at, "logits"], "patch_size": k}
        for name, at, k in (("fashion-mnist", "stages.2", 4), ("digits", "stages.1", 2))
    }
    unit_dimensions = ("image",)
    least = ImageExperiment.least | {"n_trajectories": 2}

    def __init__(self, parameters: dict):
        super().__init__(parameters)
        fraction("threshold", self.p.threshold)

    def check(self) -> None:
        """As of the images: also that the grid of the patches is that of the layer of features."""
        super().check()
        x, layer = self.world.starts(range(1))[0], self.p.layers[0]
        grid = patch_changes(x.numpy(), x[None].numpy(), self.p.patch_size).shape[2:]
        features = activations(self.classifier, x.to(self.device), [layer])[layer]
        check_shape(f"layer {layer!r} beside a grid of patches", features, "n channels", *grid)

    def measure(self, start: int, stop: int, prepared: xr.Dataset) -> xr.Dataset:
        """The experiment on images start..stop - 1.

        Arguments are those of :meth:`hierphase.experiments.base.Experiment.measure`.

        Returns:
            ``covariance`` (field, time, image, distance): the sum of C_ij over all ordered pairs
            of patches at that distance; ``n_pairs`` (distance); ``mean`` (field, time, image), the
            mean change; ``top_class`` (time, image, trajectory) of x̂0(t), ``first_class`` (image)
            of x_0. Coordinates ``time`` (fractions t/T, without 0; also ``ln_snr``) and
            ``distance`` (in patches).
        """
        times, n_trajectories = self.times()[1:], self.p.n_trajectories
        repeated = times.repeat_interleave(n_trajectories)
        x0, denoised = self.round_trips(start, stop, repeated)
        samples = denoised.samples.cpu().unflatten(0, (len(times), n_trajectories))
        changes = self.changes(*filled(x0.cpu(), samples), prepared)
        changes = changes.assign_coords(self.levels(denoised.ln_snr[::n_trajectories]))
        return changes.isel(image=slice(stop - start)).assign_coords(image=range(start, stop))

    def finish(self, merged: xr.Dataset) -> xr.Dataset:
        """All images together, beside two controls without hierarchy, Gaussian fields.

        As many draws of each as there are images go through the same measurement; their denoiser
        is exact. "same covariance" has the mean and covariance of the held-out images, "power law"
        is isotropic with their spectrum and the mean of their pixels' variances.

        Args:
            merged: what :meth:`measure` gives for all images.

        Returns:
            The same with a dimension ``world`` ("images" and the controls), and what the controls
            are made of: ``spectral_exponent``, ``pixel_variance`` and, along ``time``,
            ``alpha_bar``. A folder of images gets no controls, as its covariance may not fit into
            memory.
        """
        held_out = self.world.held_out
        if held_out is None:
            return merged
        pixels, (colours, side) = held_out.flatten(1).double().numpy(), held_out.shape[1:3]
        exponent, variance = spectral_exponent(held_out.flatten(0, 1)), pixels.var(axis=0).mean()
        isotropic = np.kron(np.eye(colours), power_law_covariance(side, exponent, variance))
        fields = {
            "same covariance": GaussianField(held_out.double().mean(dim=0), np.cov(pixels.T)),
            "power law": GaussianField(np.zeros(held_out.shape[1:]), isotropic),
        }
        alpha_bar = torch.from_numpy(merged.ln_snr.values).sigmoid().float()
        repeated = alpha_bar.repeat_interleave(self.p.n_trajectories)
        classes, seed = torch.zeros(len(self), dtype=torch.long), self.p.seed
        prepared, worlds = self.prepare(), [merged]
        for i, field in enumerate(fields.values()):
            # four numbers, of which the images use (seed, class, number, 0) at most
            generators = [derived_generator(seed, i, k, 1) for k in range(len(self))]
            x0 = field.draw(classes, generators)
            samples, _ = field.round_trips(x0, classes, repeated, generators)
            changes = self.changes(x0, samples.unflatten(0, (len(alpha_bar), -1)), prepared)
            worlds.append(changes.assign_coords(merged[["image", "time", "ln_snr"]].coords))
        merged = xr.concat(worlds, "world", data_vars="all", coords="minimal", join="exact")
        names = {"world": ["images", *fields], "alpha_bar": ("time", alpha_bar.numpy())}
        merged = merged.assign_coords(names)
        return merged.assign(spectral_exponent=exponent, pixel_variance=variance)

    def changes(self, x0: torch.Tensor, samples: torch.Tensor, prepared: xr.Dataset) -> xr.Dataset:
        """What :meth:`measure` gives, for trajectories from anywhere.

        Args:
            x0: (n, channels, height, width).
            samples: (n_times, K, n, ...) like x0: K trajectories of each, for all times of the
                experiment but 0.
            prepared: what :meth:`~hierphase.experiments.images.ImageExperiment.prepare` gave.
        """
        layers = [self.p.layers[i] for i in (0, -1)]
        std = from_dataset(prepared)[layers[0]].std.numpy()[:, None, None]

        @torch.no_grad()
        def seen(x):
            found = activations(self.classifier, x.to(self.device), layers, CLASSIFIED)
            feature_map, logits = (x.cpu().numpy() for x in found.values())
            return feature_map / std, logits.argmax(1).astype(np.int16)

        (before, first_class), covariances, means, classes = seen(x0), [], [], []
        for trajectories in samples:
            shape = trajectories.shape[:2]
            patches = patch_changes(x0.numpy(), trajectories.numpy(), self.p.patch_size)
            found = seen(trajectories.flatten(0, 1))
            after, top_class = (x.reshape(*shape, *x.shape[1:]) for x in found)
            fields = [patches, patches > 2 * self.p.threshold, patch_changes(before, after, 1)]
            covariances.append([grid_covariance(field) for field in fields])
            means.append([field.mean(axis=(0, 2, 3)) for field in fields])
            classes.append(top_class.T)
        distances, n_pairs, _ = grid_distances(*patches.shape[2:])
        of_field = ("field", "time", "image")
        covariance, mean = (np.swapaxes(x, 0, 1).astype(np.float32) for x in (covariances, means))
        measured = {
            "covariance": ((*of_field, "distance"), covariance),
            "mean": (of_field, mean),
            "n_pairs": ("distance", n_pairs),
            "top_class": (("time", "image", "trajectory"), np.stack(classes)),
            "first_class": ("image", first_class),
        }
        names = ["patches", "changed", "features"]
        return xr.Dataset(measured, {"field": names, "distance": distances})
