"""Who says what class an image has: the posterior of an exact law, or a trained network."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import torch
from torch.nn import functional

from hierphase.experiments.sources import Source, noised
from hierphase.networks.classifiers import class_probabilities
from hierphase.networks.rhm_classifier import TreeClassifier
from hierphase.networks.training import Training, initialise, optimise
from hierphase.seeds import derived_generator

CLEAN = torch.tensor(6.0)  # ln SNR at which a posterior judges spliced images
#: Most pixels a side that a network judges.
JUDGED_SIZE = 16


class Judge(NamedTuple):
    """Who says what class an image has.

    ``verdict(images)`` gives (n, C), the probability of each class, or one for the likeliest;
    ``way_back(x_0, labels, ln_snr, generator)`` the same (k, n, C) of what comes back from noise,
    and the levels taken; ``network`` is the judge itself, if it is one.
    """

    verdict: Callable
    way_back: Callable
    network: torch.nn.Module | None = None


def exact_judge(source: Source) -> Judge:
    """The posterior of the class under a law: no x̂0 has to be drawn."""

    def seen(images, level, generator):
        return source.law.class_posterior(noised(images, level, generator), float(level.sigmoid()))

    def way_back(x_0, labels, ln_snr, generator):
        return torch.stack([seen(x_0, level, generator) for level in ln_snr]), ln_snr

    return Judge(lambda images: seen(images, CLEAN, derived_generator(0)), way_back)


def trained_judge(source: Source, steps: int, seed: int) -> Judge:
    """A convolutional network that learns the classes of a world, by the recipe for all.

    Its filters are squares that do not overlap, as in the networks of trees: others do not learn
    the classes of a tree of three levels from as many images.

    Args:
        source: the world.
        steps: of 128 images.
        seed: of weights, images and their order.
    """
    generator = derived_generator(seed)
    _, channels, n_pixels = in_squares(source.learnt(1, generator)[0]).shape
    depth = (n_pixels.bit_length() - 1) // 2
    network = TreeClassifier(channels, 4, depth, source.n_classes, width=256)
    initialise(network, generator)
    learnt = SimpleNamespace(batch=source.learnt)
    how = {"ema_decay": 0.99, "checkpoint_every": steps, "vary": (in_squares,)}
    training = Training("", learnt, TreeClassifier, steps, 128, 2e-3, **how)
    with tempfile.TemporaryDirectory() as folder:
        run = {"name": "judge", "steps": steps, "seed": seed}
        optimise(training, run, network, learnt, Path(folder))
    network.eval()

    def verdict(images):
        likely = class_probabilities(network, in_squares(images)).argmax(dim=1)
        return functional.one_hot(likely, source.n_classes).float()

    def way_back(x_0, labels, ln_snr, generator):
        back = source.back(x_0, labels, ln_snr, generator)
        return torch.stack([verdict(x) for x in back.samples]), back.ln_snr

    return Judge(verdict, way_back, network)


def in_squares(images: torch.Tensor, generator=None) -> torch.Tensor:
    """What a :func:`trained_judge` sees: pixels (n, channels, 4^k), each square after the other.

    Images are framed, and squares averaged of those with more than :data:`JUDGED_SIZE` a side;
    nothing is random.
    """
    images = in_frame(images)
    side = min(images.shape[-1], JUDGED_SIZE)
    images, k = functional.adaptive_avg_pool2d(images, side), side.bit_length() - 1
    halves = images.view(*images.shape[:2], *[2] * (2 * k))
    order = [axis for level in range(2, k + 2) for axis in (level, level + k)]
    return halves.permute(0, 1, *order).flatten(2)


def in_frame(images: torch.Tensor) -> torch.Tensor:
    """Images with a frame of -1 that makes their side the next power of two."""
    frame = (1 << (images.shape[-1] - 1).bit_length()) - images.shape[-1]
    return functional.pad(images, (frame // 2,) * 4, value=-1.0)
