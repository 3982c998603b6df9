"""How good a generative model's samples are, judged by numbers rather than by eye."""

import torch

from hierphase.checks import check_shape, positive_integer
from hierphase.diffusion.datasets import ImageData
from hierphase.networks.classifiers import ConvClassifier, class_probabilities


def nearest_distance(images: torch.Tensor, references: torch.Tensor) -> torch.Tensor:
    """Euclidean distance of each image to the nearest reference: (n, ...), (k, ...) -> (n,)."""
    parts = images.flatten(1).split(256)
    return torch.cat([torch.cdist(part, references.flatten(1)).amin(dim=1) for part in parts])


def frechet_distance(first: torch.Tensor, second: torch.Tensor) -> float:
    r"""Fréchet distance of two sets of features, each taken for a Gaussian (Heusel et al. 2017).

    .. math::
        \lVert\mu_1 - \mu_2\rVert^2 + \mathrm{tr}\big(S_1 + S_2 - 2 (S_1 S_2)^{1/2}\big)

    with means :math:`\mu` and covariances S. With :math:`S = R^T R` the last trace is the sum of
    the singular values of :math:`R_1 R_2^T`.

    Args:
        first: (n, features), n > features, or the covariance is singular and the distance biased.
        second: (k, features), likewise.

    Raises:
        ValueError: sets of other shapes, or fewer than two rows.
    """
    check_shape("first features", first, "n k")
    check_shape("second features", second, "m", first.shape[1])
    positive_integer("number of features' rows", min(len(first), len(second)), minimum=2)
    means = [features.double().mean(dim=0) for features in (first, second)]
    roots = [
        torch.linalg.qr((features.double() - mean) / (len(features) - 1) ** 0.5, mode="r").R
        for features, mean in zip((first, second), means, strict=True)
    ]
    cross = torch.linalg.matrix_norm(roots[0] @ roots[1].mT, "nuc")
    shift = (means[0] - means[1]).square().sum()
    return (shift + sum(root.square().sum() for root in roots) - 2 * cross).item()


@torch.no_grad()
def sample_quality(
    samples: torch.Tensor, data: ImageData, classifier: ConvClassifier
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
        ``frechet``: Fréchet distance of the samples to the held-out images in the classifier's
        features (0 is best; features other than the usual Inception network's, so not to be
        compared with other papers); ``frechet_train``: that of as many training images, the mark
        that no sample can be expected to pass.
    """

    def features(images):
        return torch.cat([classifier.features(batch) for batch in images.split(256)])

    def distance(images):
        return nearest_distance(images, data.train_images).median().item()

    n, reference = len(samples), features(data.test_images)
    probabilities = class_probabilities(classifier, samples)
    held_out = class_probabilities(classifier, data.test_images)
    shares = probabilities.argmax(dim=1).bincount(minlength=len(data.class_names)) / n
    return {
        "confident": (probabilities.amax(dim=1) > 0.9).float().mean().item(),
        "confident_held_out": (held_out.amax(dim=1) > 0.9).float().mean().item(),
        "rarest_class": shares.min().item(),
        "commonest_class": shares.max().item(),
        "distance": distance(samples),
        "distance_held_out": distance(data.test_images[:n]),
        "frechet": frechet_distance(features(samples), reference),
        "frechet_train": frechet_distance(features(data.train_images[:n]), reference),
    }
