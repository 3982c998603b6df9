"""What a network sees: activations of named modules, standardised, compared layer by layer."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn


@torch.no_grad()
def activations(
    model: nn.Module, images: torch.Tensor, names: Sequence[str], batch_size: int = 256
) -> dict[str, torch.Tensor]:
    """Outputs of several named modules, recorded in one pass of the model over the images.

    Args:
        model: any network called as ``model(images)``; its hooks are removed again in all cases.
        images: (n, channels, height, width).
        names: modules as in ``model.named_modules()``, e.g. ``["stages.0", "logits"]``.
        batch_size: images per call of the model.

    Returns:
        For each name its output, (n, channels, height, width) for a map or (n, features).

    Raises:
        ValueError: an unknown name, no name or no image, or a module that did not run exactly once
            per call or whose output is not one tensor with a row per image.
    """
    modules = dict(model.named_modules())
    if unknown := [name for name in names if name not in modules]:
        raise ValueError(
            f"the model has no modules {unknown}; it has {', '.join(filter(None, modules))}"
        )
    if len(names) == 0 or len(images) == 0:
        raise ValueError(f"need at least one name and one image, got {names} and {len(images)}")
    recorded = {name: [] for name in names}

    def recorder(name):
        def hook(module, inputs, output):
            recorded[name].append(output)

        return hook

    handles = [modules[name].register_forward_hook(recorder(name)) for name in recorded]
    try:
        for batch in images.split(batch_size):
            model(batch)
    finally:
        for handle in handles:
            handle.remove()
    for name, outputs in recorded.items():
        rows = [len(output) for output in outputs if isinstance(output, torch.Tensor)]
        if rows != [len(batch) for batch in images.split(batch_size)]:
            raise ValueError(f"module {name!r} does not give one tensor with a row per image")
    return {name: torch.cat(outputs) for name, outputs in recorded.items()}


@dataclass(frozen=True)
class Standardiser:
    """Mean and standard deviation of one layer over a reference set.

    Per channel for maps (over images and positions), per feature for vectors; a constant channel
    is only centred.

    Attributes:
        mean: (channels,).
        std: (channels,), with the standard deviation's usual centring. (The script behind the
            paper divides by the root mean square instead.)
    """

    mean: torch.Tensor
    std: torch.Tensor

    @classmethod
    def fit(cls, reference: torch.Tensor) -> "Standardiser":
        """Statistics of activations (n, channels, ...) of a reference set of n >= 2 images.

        Raises:
            ValueError: fewer than two images or no channel dimension.
        """
        if reference.ndim < 2 or len(reference) < 2:
            raise ValueError(
                "need activations (n, channels, ...) of at least 2 reference images, got shape "
                f"{tuple(reference.shape)}"
            )
        channels = reference.movedim(1, 0).flatten(1)
        return cls(channels.mean(dim=1), channels.std(dim=1, correction=0))

    def __call__(self, layer: torch.Tensor) -> torch.Tensor:
        """Standardised and flattened: (n, channels, ...) -> (n, features)."""
        shape = (-1, *[1] * (layer.ndim - 2))
        scale = torch.where(self.std > 0, self.std, 1.0)
        return ((layer - self.mean.view(shape)) / scale.view(shape)).flatten(1)


def layer_similarity(
    model: nn.Module,
    x0: torch.Tensor,
    samples: torch.Tensor,
    names: Sequence[str],
    reference: torch.Tensor,
) -> torch.Tensor:
    """Cosine similarity of the activations of x_0 and x̂0(t), layer by layer.

    The activations of each layer are standardised with their statistics over the reference images,
    flattened, and compared by the cosine of their angle (Sclocchi et al. 2025, image experiment).

    Args:
        model: the network whose layers are compared.
        x0: (n, channels, height, width) starting images.
        samples: (n_times, n, channels, height, width) x̂0(t), in the order of ``x0``.
        names: modules to compare.
        reference: (k, channels, height, width) images that fix the statistics.

    Returns:
        (n_layers, n_times, n) similarities in [-1, 1].

    Raises:
        ValueError: ``samples`` are not made from ``x0`` by shape, or a name is unknown.
    """
    if samples.ndim != x0.ndim + 1 or samples.shape[1:] != x0.shape:
        raise ValueError(
            f"samples must be of shape (n_times, *{tuple(x0.shape)}), got {tuple(samples.shape)}"
        )
    scales = {
        name: Standardiser.fit(layer)
        for name, layer in activations(model, reference, names).items()
    }
    before = activations(model, x0, names)
    after = [activations(model, images, names) for images in samples]
    return torch.stack(
        [
            torch.stack(
                [
                    torch.cosine_similarity(scale(before[name]), scale(layers[name]))
                    for layers in after
                ]
            )
            for name, scale in scales.items()
        ]
    )
