"""What ``hierphase train`` can train, by name: denoisers and classifiers of images and of trees.

What an entry says and how it runs is in :mod:`hierphase.networks.training`; the entries of trees
are in :mod:`hierphase.networks.rhm_catalogue`.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from diffusers import UNet2DModel

from hierphase.checks import check_known, positive_integer
from hierphase.diffusion.datasets import DATASETS
from hierphase.networks import objectives
from hierphase.networks.classifiers import ConvClassifier, cifar10_features, linear_head
from hierphase.networks.objectives import in_patches, mirrored, shifted
from hierphase.networks.rhm_catalogue import TREE_CLASSIFIERS, TREE_TRAININGS
from hierphase.networks.training import Training, model_directory, run
from hierphase.runs.results import book_directory


def train(name: str, output=None, steps: int | None = None, seed: int = 0) -> Path:
    """Train one of :data:`TRAININGS` and save it, with a model card, in diffusers' layout.

    A checkpoint and the log ``training.csv`` (step, loss, learning rate, seconds) are renewed in
    the output directory; an interrupted training continues from it when called again.

    Args:
        name: key of :data:`TRAININGS`.
        output: directory of the model; by default ``models/<name>`` of the book.
        steps: optimiser steps; by default those of the training.
        seed: non-negative; fixes initial weights, batches and noise.

    Returns:
        The output directory.

    Raises:
        ValueError: unknown name, non-positive steps, negative seed, a checkpoint in the output
            directory that is damaged or was begun with another name, number of steps or seed, or a
            directory that holds something else.
        FileNotFoundError: a model that the training needs is missing.
        KeyboardInterrupt: interrupted; its message says how it goes on.
        WriteError: a file cannot be written; likewise.
    """
    check_known("training", name, TRAININGS)
    training = TRAININGS[name]
    steps = positive_integer("steps", training.steps if steps is None else steps)
    seed = positive_integer("seed", seed, minimum=0)
    for judge in training.judges.values():
        model_directory(judge)
    output = book_directory() / "models" / name if output is None else Path(output)
    run(training, name, output, steps, seed)
    return output


def _image_classifier(name: str, *vary, in_channels: int = 1, **changes) -> Training:
    """Training of a :class:`ConvClassifier`, the same for all images of some size."""
    about = f"Classifier of the images {name} of `hierphase.diffusion.datasets`."
    what = {"about": about, "data": DATASETS[name], "model": partial(ConvClassifier, in_channels)}
    how = {"steps": 4500, "batch_size": 128, "learning_rate": 3e-3, "vary": vary}
    return Training(**what | how | changes, ema_decay=0.99, half=False)


def _image_denoiser(name: str, model: Callable[[], UNet2DModel], steps: int, *vary) -> Training:
    """Training of an unconditional denoiser, whose samples classifiers of its images judge."""
    second = {"witness": "cifar10-witness"} if name.startswith("cifar10") else {}
    about = (
        f"Unconditional DDPM (noise prediction) of the images {name} of "
        "`hierphase.diffusion.datasets`. Below, `loss` and `loss_held_out` are the errors of that "
        "prediction on training and held-out images; the other numbers judge samples drawn in "
        "100 steps of SDE-DPM++ 2M, see `hierphase.networks.sample_quality.sample_quality`."
    )
    goal = {"loss": objectives.denoising_loss, "report": objectives.image_denoiser_report}
    how = {"vary": vary, "judges": {"classifier": f"{name}-classifier"} | second}
    return Training(about, DATASETS[name], model, steps, 64, 1e-3, **goal, **how)


def _unet(channels, n_channels=1, layers=1, **options) -> UNet2DModel:
    """A U-Net of a few resolutions, each half the one before, with self-attention at the lowest.

    Args:
        channels: of each resolution: few where there are many pixels, two cores have to train it.
        n_channels: of what it sees.
        layers: residual blocks of a resolution.
        options: more of ``UNet2DModel``.
    """
    plain = len(channels) - 1
    down = ("DownBlock2D",) * plain + ("AttnDownBlock2D",)
    up = ("AttnUpBlock2D",) + ("UpBlock2D",) * plain
    blocks = {"block_out_channels": channels, "down_block_types": down, "up_block_types": up}
    sizes = {"in_channels": n_channels, "out_channels": n_channels, "layers_per_block": layers}
    return UNet2DModel(**blocks, **sizes, **{"norm_num_groups": 8} | options)


_UNET_8 = partial(_unet, (32, 64), sample_size=8, attention_head_dim=16)
_UNET_28 = partial(_unet, (16, 32, 128), sample_size=28, attention_head_dim=32)  # 2.2 M parameters


def _patch_denoiser(size: int, channels: tuple[int, int], steps: int) -> Training:
    """Training of a denoiser of 2x2 patches of CIFAR-10."""
    options = {"sample_size": size // 2, "attention_head_dim": 24, "norm_num_groups": 12}
    unet = partial(_unet, channels, n_channels=12, layers=2, **options)
    return _image_denoiser(f"cifar10-{size}", unet, steps, mirrored, in_patches)


_HEAD = "Linear head of the ImageNet network of `hierphase.networks.classifiers`, for CIFAR-10."
_OF_FEATURES = {"about": _HEAD, "data": cifar10_features, "model": linear_head}
_FEW_IMAGES = {"steps": 1500, "batch_size": 64, "learning_rate": 2e-3}
#: What ``hierphase train`` can train, by name.
TRAININGS = {
    "digits": _image_denoiser("digits", _UNET_8, 6000),
    "digits-classifier": _image_classifier("digits", shifted, **_FEW_IMAGES),
    "fashion-mnist": _image_denoiser("fashion-mnist", _UNET_28, 4000),
    "mnist": _image_denoiser("mnist", _UNET_28, 4000),
    "fashion-mnist-classifier": _image_classifier("fashion-mnist", mirrored, shifted),
    "mnist-classifier": _image_classifier("mnist", shifted),
    "cifar10-8-classifier": _image_classifier("cifar10-8", mirrored, shifted, in_channels=3),
    "cifar10-16-classifier": _image_classifier("cifar10-16", mirrored, shifted, in_channels=3),
    "cifar10-32-classifier": _image_classifier("cifar10-32", mirrored, shifted, in_channels=3),
    "cifar10-witness": _image_classifier("cifar10-32", **_OF_FEATURES),
    "cifar10-8": _patch_denoiser(8, (48, 96), 12_000),
    "cifar10-16": _patch_denoiser(16, (72, 144), 40_000),
    "cifar10-32": _patch_denoiser(32, (72, 144), 60_000),
    **TREE_CLASSIFIERS,
    **TREE_TRAININGS,
}
