"""How good a generative model's samples are, judged by numbers rather than by eye."""

import torch
from torch import nn

from hierphase.classifiers import class_probabilities
from hierphase.datasets import ImageData


def nearest_distance(images: torch.Tensor, references: torch.Tensor) -> torch.Tensor:
    """Euclidean distance of each image to the nearest reference: (n, ...), (k, ...) -> (n,)."""
    return torch.cdist(images.flatten(1), references.flatten(1)).amin(dim=1)


def sample_quality(
    samples: torch.Tensor, data: ImageData, classifier: nn.Module
) -> dict[str, float]:
    """Whether samples look like the data, cover its classes, and are not copies of it.

    Args:
        samples: (n, channels, height, width) unconditional samples.
        data: the images that the generative model was trained on, and those held out.
        classifier: a trained classifier of the same images.

    Returns:
        ``confident``: share of samples whose most likely class has probability over 0.9;
        ``confident_held_out``: the same share of the held-out images, the mark to compare with;
        ``rarest_class`` and ``commonest_class``: smallest and largest share of a predicted class;
        ``distance``: median distance of a sample to the nearest training image, and
        ``distance_held_out``: that of a held-out image. Much smaller distances than for held-out
        images would mean that the model repeats what it was trained on.
    """
    probabilities = class_probabilities(classifier, samples)
    held_out = class_probabilities(classifier, data.test_images)
    counts = probabilities.argmax(dim=1).bincount(minlength=len(data.class_names))
    shares = counts / len(samples)
    return {
        "confident": (probabilities.amax(dim=1) > 0.9).float().mean().item(),
        "confident_held_out": (held_out.amax(dim=1) > 0.9).float().mean().item(),
        "rarest_class": shares.min().item(),
        "commonest_class": shares.max().item(),
        "distance": nearest_distance(samples, data.train_images).median().item(),
        "distance_held_out": nearest_distance(data.test_images, data.train_images).median().item(),
    }
