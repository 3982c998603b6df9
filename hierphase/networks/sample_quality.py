"""How good a generative model's samples are, judged by numbers rather than by eye."""

import torch
from torch import nn

from hierphase.diffusion.datasets import ImageData

CONFIDENT = 0.9  # probability of the most likely class
QUANTILES = {"": 0.5, "_5": 0.05, "_1": 0.01}  # of the distances to the nearest training images


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
    """
    sets = [features.double() for features in (first, second)]
    means = [x.mean(dim=0) for x in sets]
    centred = [(x - mean) / (len(x) - 1) ** 0.5 for x, mean in zip(sets, means, strict=True)]
    roots = [torch.linalg.qr(x, mode="r").R for x in centred]
    cross = torch.linalg.matrix_norm(roots[0] @ roots[1].mT, "nuc")
    shift = (means[0] - means[1]).square().sum()
    return (shift + sum(root.square().sum() for root in roots) - 2 * cross).item()


def manifold_share(points: torch.Tensor, references: torch.Tensor, k: int = 3) -> float:
    """Share of points that lie on the manifold of the references (Kynkäänniemi et al. 2019).

    The manifold is the union of balls around the references, each as large as the distance to its
    k-th nearest other reference. With samples as points and real images as references, in some
    network's features, this is the precision; the other way round the recall.

    Args:
        points: (n, features).
        references: (m, features), m > k; as many as points, if shares are to be compared.
        k: a positive integer.
    """
    points, references = points.double(), references.double()
    radii = torch.cdist(references, references).kthvalue(k + 1, dim=1).values  # 1: itself
    return (torch.cdist(points, references) <= radii).any(dim=1).double().mean().item()


@torch.no_grad()
def sample_quality(samples: torch.Tensor, data: ImageData, **judges: nn.Module) -> dict[str, float]:
    """Whether samples look like the data, cover its classes, and are not copies of it.

    Every mark beside a number is the same number of other real images: no sample can be expected
    to pass those of training images (``..._train``).

    Args:
        samples: (n, channels, height, width) unconditional samples.
        data: the images that the generative model was trained on, and those held out.
        judges: name -> trained classifier of the same images: its ``features`` of images give
            (n, features), of which its ``logits`` make the logits.

    Returns:
        ``distance``, ``distance_5``, ``distance_1``: median, 5% and 1% quantile of the Euclidean
        distance of a sample to the nearest training image, or its mirror image;
        ``distance_held_out``, ...: those of as many held-out images. Much smaller ones would mean
        that the model repeats what it was trained on.

        And of each judge, its name in front of the names below, unless it is ``classifier``:

        ``confident``: share of samples whose most likely class has probability over 0.9;
        ``confident_held_out``: the same share of the held-out images;
        ``rarest_class`` and ``commonest_class``: smallest and largest share of a predicted class;
        ``frechet``: Fréchet distance of the samples to the held-out images in the judge's features
        (0 is best; features other than the usual Inception network's, so not to be compared with
        other papers); ``frechet_train``: that of as many training images;
        ``precision``: share of samples on the manifold of as many held-out images;
        ``recall``: share of these on the manifold of the samples (:func:`manifold_share`);
        ``precision_train``, ``recall_train``: those of as many training images.
    """
    train, n = data.train_images, min(len(samples), len(data.test_images))
    sought, quality = torch.cat([train, train.flip(-1)]), {}
    for kind, images in (("", samples), ("_held_out", data.test_images[:n])):
        nearest = nearest_distance(images, sought)
        for name, quantile in QUANTILES.items():
            quality[f"distance{name}{kind}"] = nearest.quantile(quantile).item()
    for name, judge in judges.items():
        sets = data.test_images, train[: len(samples)], samples
        held_out, real, drawn = (torch.cat([*map(judge.features, x.split(32))]) for x in sets)
        probabilities, mark = (judge.logits(x).softmax(dim=1) for x in (drawn, held_out))
        shares = probabilities.argmax(dim=1).bincount(minlength=probabilities.shape[1])
        found = {
            "confident": (probabilities.amax(dim=1) > CONFIDENT).float().mean().item(),
            "confident_held_out": (mark.amax(dim=1) > CONFIDENT).float().mean().item(),
            "rarest_class": shares.min().item() / len(samples),
            "commonest_class": shares.max().item() / len(samples),
        }
        for kind, images in (("", drawn), ("_train", real)):
            found[f"frechet{kind}"] = frechet_distance(images, held_out)
            found[f"precision{kind}"] = manifold_share(images[:n], held_out[:n])
            found[f"recall{kind}"] = manifold_share(held_out[:n], images[:n])
        prefix = "" if name == "classifier" else f"{name}_"
        quality |= {prefix + key: value for key, value in found.items()}
    return quality


def is_weak(quality: dict[str, float]) -> bool:
    """Whether a denoiser is too weak for what is measured with it to be evidence.

    It is where, to any judge, its samples reach less than half of the held-out images' confidence,
    or are ten times as far from them, by Fréchet distance, as the training images are.

    Args:
        quality: as from :func:`sample_quality`.
    """
    names = [name.removesuffix("confident") for name in quality if name.endswith("confident")]
    return any(
        quality[f"{judge}confident"] < quality[f"{judge}confident_held_out"] / 2
        or quality[f"{judge}frechet"] >= 10 * quality[f"{judge}frechet_train"]
        for judge in names
    )
