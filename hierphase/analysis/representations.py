"""What a network sees: activations of named modules, standardised, compared layer by layer."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
import xarray as xr

from hierphase.checks import check_finite, check_known, check_shape, positive_integer


@torch.no_grad()
def activations(model, images, names: Sequence[str], batch_size=256) -> dict[str, torch.Tensor]:
    """Outputs of several named modules, recorded in one pass of the model over the images.

    Args:
        model: any network called as ``model(images)``; its hooks are removed again in all cases.
        images: (n, channels, height, width).
        names: modules as in ``model.named_modules()``, e.g. ``["stages.0", "logits"]``.
        batch_size: images per call of the model.

    Returns:
        For each name its output, (n, channels, height, width) for a map or (n, features).

    Raises:
        ValueError: an unknown name, no name or no image, images that the model cannot take, or a
            module that did not run exactly once per call, or whose output is not one tensor with a
            row per image, or not finite.
    """
    batch_size = positive_integer("batch_size", batch_size)
    if not isinstance(images, torch.Tensor):
        raise ValueError(f"images must be a tensor, got {type(images).__name__}")
    modules = dict(model.named_modules())
    for name in names:
        check_known("module of the model", name, list(filter(None, modules)))
    if len(names) == 0 or len(images) == 0:
        raise ValueError(f"need at least one name and one image, got {names} and {len(images)}")
    recorded = {name: [] for name in names}

    def record(name, module, inputs, output):
        recorded[name].append(output)

    with ExitStack() as hooks:
        for name in recorded:
            hooks.enter_context(modules[name].register_forward_hook(partial(record, name)))
        for batch in images.split(batch_size):
            try:
                model(batch)
            except RuntimeError as error:
                found = f"{images.dtype} of shape {tuple(batch.shape)}"
                raise ValueError(f"the model cannot take images, {found}: {error}") from error
    for name, outputs in recorded.items():
        rows = [len(output) for output in outputs if isinstance(output, torch.Tensor)]
        if rows != [len(batch) for batch in images.split(batch_size)]:
            raise ValueError(f"module {name!r} does not give one tensor with a row per image")
        for output in outputs:
            check_finite(f"the output of module {name!r}, and so images and weights,", output)
    return {name: torch.cat(outputs) for name, outputs in recorded.items()}


class Standardiser(NamedTuple):
    """Mean and standard deviation of one layer over a reference set.

    Per channel for maps (over images and positions), per feature for vectors; a constant channel
    is only centred.

    Attributes:
        mean: (channels,).
        std: (channels,), the standard deviation.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __call__(self, layer: torch.Tensor, uncentred: bool = False) -> torch.Tensor:
        """Standardised and flattened: (n, channels, ...) -> (n, features).

        Args:
            layer: activations.
            uncentred: divide by the root mean square instead of the standard deviation, as the
                script behind the paper does. It damps channels of large mean.

        Raises:
            ValueError: not of as many channels as the statistics.
        """
        check_shape("activations", layer, "n", len(self.mean), "...")
        scale = torch.hypot(self.mean, self.std) if uncentred else self.std
        scale = torch.where(self.std > 0, scale, 1.0)
        return ((layer.movedim(1, -1) - self.mean) / scale).movedim(-1, 1).flatten(1)


Scales = Mapping[str, Standardiser]


class Moments:
    """Mean and variance per channel of activations that come batch by batch.

    Welford's update (Chan et al.'s, for batches) in float64: no activations are kept, and large
    means do not cancel small variances.
    """

    def __init__(self):
        self.count, self.mean, self.squares = 0, 0.0, 0.0

    def update(self, layer: torch.Tensor) -> None:
        """Add activations (n, channels, ...)."""
        channels = layer.movedim(1, 0).flatten(1).double()
        count, mean = channels.shape[1], channels.mean(dim=1)
        squares = (channels - mean[:, None]).square().sum(dim=1)
        shift, total = mean - self.mean, self.count + count
        self.squares = self.squares + squares + shift.square() * (self.count * count / total)
        self.mean, self.count = self.mean + shift * (count / total), total

    def standardiser(self) -> Standardiser:
        """The statistics so far, in float32.

        Raises:
            ValueError: fewer than two numbers per channel.
        """
        if self.count < 2:
            raise ValueError(f"need at least 2 activations per channel, got {self.count}")
        return Standardiser(self.mean.float(), (self.squares / self.count).sqrt().float())


def fit_standardisers(model, batches: Iterable[torch.Tensor], names) -> dict[str, Standardiser]:
    """Statistics of several layers over a reference set, in one pass, batch by batch.

    Args:
        model: the network.
        batches: batches (n, channels, height, width) of the reference images.
        names: modules, as for :func:`activations`.

    Returns:
        name -> :class:`Standardiser`.

    Raises:
        ValueError: as :func:`activations`, or fewer than two numbers per channel in all.
    """
    moments = {name: Moments() for name in names}
    for batch in batches:
        for name, layer in activations(model, batch, names).items():
            moments[name].update(layer)
    return {name: moment.standardiser() for name, moment in moments.items()}


def as_dataset(scales: Scales) -> xr.Dataset:
    """``mean`` and ``std`` of all layers along ``channel``; its coordinate ``layer`` says whose."""
    parts = {"layer": np.repeat(list(scales), [len(scale.mean) for scale in scales.values()])}
    for part in ("mean", "std"):
        parts[part] = torch.cat([getattr(scale, part) for scale in scales.values()]).cpu().numpy()
    return xr.Dataset({name: ("channel", x) for name, x in parts.items()}).set_coords("layer")


def from_dataset(statistics: xr.Dataset, device=None) -> dict[str, Standardiser]:
    """What :func:`as_dataset` was made from, on a device."""
    channels = Counter(statistics.layer.values.tolist())
    whole = (torch.tensor(statistics[part].values, device=device) for part in ("mean", "std"))
    parts = (part.split(list(channels.values())) for part in whole)
    return dict(zip(channels, map(Standardiser, *parts), strict=True))


class LayerSimilarity(NamedTuple):
    """How similar x_0 and x̂0(t) are in each layer.

    Attributes:
        cosine: (n_layers, n_times, n) cosine similarity, in [-1, 1].
        uncentred: the same with ``uncentred`` scales of :class:`Standardiser`.
        distance: (n_layers, n_times, n) root mean square difference of the standardised
            activations (L2 distance over the square root of the number of features): 0 for equal,
            about sqrt(2) for unrelated images.
    """

    cosine: torch.Tensor
    uncentred: torch.Tensor
    distance: torch.Tensor


def layer_similarity(model, x0, samples, scales: Scales, batch_size: int = 64) -> LayerSimilarity:
    """Similarity of the activations of x_0 and x̂0(t), layer by layer.

    The activations of each layer are standardised with their statistics over reference images,
    flattened, and compared by the cosine of their angle (Sclocchi et al. 2025, image experiment)
    and by their distance. Only one batch of activations is in memory at a time.

    Args:
        model: the network whose layers are compared.
        x0: (n, channels, height, width) starting images.
        samples: (n_times, n, channels, height, width) x̂0(t), in the order of ``x0``.
        scales: layer -> statistics, from :func:`fit_standardisers`; these layers are compared.
        batch_size: images per call of the model.

    Returns:
        A :class:`LayerSimilarity`, its layers in the order of ``scales``.

    Raises:
        ValueError: ``samples`` are not made from ``x0`` by shape, or as :func:`activations`.

    Example:
        >>> import torch
        >>> from hierphase import layer_similarity
        >>> from hierphase.analysis.representations import fit_standardisers
        >>> network = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.ReLU())
        >>> images = torch.randn(10, 1, 8, 8)
        >>> scales = fit_standardisers(network, [images], names=["0", "1"])
        >>> samples = torch.stack([images, -images])
        >>> same = layer_similarity(network, images, samples, scales).cosine
        >>> same.shape  # layers, times, images
        torch.Size([2, 2, 10])
        >>> round(float(same[0, 0].mean()), 2)  # an image and itself
        1.0
    """
    check_shape("samples", samples, "n_times", *x0.shape)
    batch_size = positive_integer("batch_size", batch_size)

    def standardised(images):
        layers = activations(model, images, list(scales), batch_size)
        return [(s(layers[name]), s(layers[name], uncentred=True)) for name, s in scales.items()]

    cosine, uncentred, distance = torch.empty(3, len(scales), *samples.shape[:2])
    for rows in torch.arange(len(x0)).split(batch_size):
        before = standardised(x0[rows])
        for k, images in enumerate(samples[:, rows]):
            after = standardised(images)
            for i, ((a, a_rms), (b, b_rms)) in enumerate(zip(before, after, strict=True)):
                cosine[i, k, rows] = torch.cosine_similarity(a, b).cpu()
                uncentred[i, k, rows] = torch.cosine_similarity(a_rms, b_rms).cpu()
                distance[i, k, rows] = (a - b).square().mean(dim=1).sqrt().cpu()
    return LayerSimilarity(cosine, uncentred, distance)
