"""Training of the small models that come with the book, by name, and their model cards.

The loop is in :mod:`hierphase.networks.training`, the networks of trees in
:mod:`hierphase.networks.rhm_catalogue`.
"""

import json
from functools import partial
from pathlib import Path

import torch
from diffusers import DDPMPipeline, UNet2DModel
from torch.nn import functional

from hierphase.checks import positive_integer, unknown
from hierphase.diffusion.datasets import cifar10, digits, fashion_mnist, mnist
from hierphase.diffusion.forward_backward import ForwardBackwardPipeline
from hierphase.networks.checkpoints import CHECKPOINT
from hierphase.networks.classifiers import ConvClassifier, accuracy
from hierphase.networks.rhm_catalogue import TREE_CLASSIFIERS, TREE_TRAININGS
from hierphase.networks.sample_quality import sample_quality
from hierphase.networks.training import LOG, Training, denoising_loss, initialise, optimise
from hierphase.rhm.corruption import ddpm_scheduler
from hierphase.runs.results import book_directory
from hierphase.seeds import derived_generator

QUALITY = "quality.json"


def model_directory(name: str) -> Path:
    """Directory of the trained model ``name`` of the book.

    Raises:
        FileNotFoundError: it has not been trained; the message names the command that does it.
    """
    directory = book_directory() / "models" / name
    if not (directory / "README.md").is_file():
        raise FileNotFoundError(
            f"no trained model {directory}; train it with: hierphase train {name}"
        )
    return directory


def train(
    name: str, output: Path | str | None = None, steps: int | None = None, seed: int = 0
) -> Path:
    """Train one of :data:`TRAININGS` and save it, with a model card, in diffusers' layout.

    A checkpoint and the log ``training.csv`` (step, loss, learning rate, seconds) grow in the
    output directory; an interrupted training continues from them when called again.

    Args:
        name: key of :data:`TRAININGS`.
        output: directory of the model; by default ``models/<name>`` of the book.
        steps: optimiser steps; by default those of the training.
        seed: non-negative; fixes initial weights, batches and noise.

    Returns:
        The output directory.

    Raises:
        ValueError: unknown name, non-positive steps, negative seed, or a checkpoint in the output
            directory that was begun with another name, number of steps or seed.
        FileNotFoundError: a model that the training needs is missing.
        KeyboardInterrupt: interrupted; its message says what is kept.
    """
    if name not in TRAININGS:
        raise ValueError(unknown("training", name, list(TRAININGS)))
    training = TRAININGS[name]
    steps = positive_integer("steps", training.steps if steps is None else steps)
    seed = positive_integer("seed", seed, minimum=0)
    for needed in training.needs:
        model_directory(needed)
    output = book_directory() / "models" / name if output is None else Path(output)
    output.mkdir(parents=True, exist_ok=True)

    data = training.data()
    model = training.model()
    initialise(model, derived_generator(seed, 0))
    run = {"name": name, "steps": steps, "seed": seed}
    try:
        seconds = optimise(training, run, model, data, output)
    except KeyboardInterrupt:
        checkpoint = output / CHECKPOINT
        kept = (
            f"the same command goes on from {checkpoint}"
            if checkpoint.is_file()
            else "nothing is kept, as it came before the first checkpoint"
        )
        raise KeyboardInterrupt(f"training {name} was interrupted; {kept}") from None
    model = model.to("cpu").eval()
    quality = training.finish(model, data, output, seed)
    (output / QUALITY).write_text(json.dumps(quality, indent=1) + "\n")
    _write_card(output, training, run, model, seconds, quality)
    (output / CHECKPOINT).unlink(missing_ok=True)
    return output


def classification_loss(model, images, labels, generator) -> torch.Tensor:
    """Cross-entropy of images shifted by up to one pixel (the same shift for the whole batch).

    Args:
        model: gives logits.
        images: (n, channels, height, width); the border that a shift opens is filled with -1.
        labels: (n,).
        generator: source of the shift, on the CPU.
    """
    down, right = torch.randint(3, (2,), generator=generator).tolist()
    height, width = images.shape[-2:]
    padded = functional.pad(images, (1, 1, 1, 1), value=-1.0)
    shifted = padded[..., down : down + height, right : right + width]
    return functional.cross_entropy(model(shifted), labels)


def mirrored_classification_loss(model, images, labels, generator) -> torch.Tensor:
    """:func:`classification_loss` of images that are mirrored left to right with probability 1/2.

    Args: as there.
    """
    return classification_loss(model, _mirrored(images, generator), labels, generator)


def mirrored_patch_denoising_loss(model, images, labels, generator) -> torch.Tensor:
    """Denoising loss of images mirrored with probability 1/2, 2x2 pixels to one of 4x the channels.

    Args: as for :func:`~hierphase.networks.training.denoising_loss`; the model sees
        ``pixel_unshuffle(images, 2)``, (n, 4 channels, height/2, width/2).
    """
    patches = functional.pixel_unshuffle(_mirrored(images, generator), 2)
    return denoising_loss(model, patches, labels, generator)


def _mirrored(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    mirrored = torch.rand(len(images), 1, 1, 1, generator=generator).to(images.device) < 0.5
    return torch.where(mirrored, images.flip(-1), images)


def _finish_denoiser(
    classifier_name: str, patch: int = 1, n_samples: int = 1000, num_inference_steps: int = 50
):
    """A ``finish`` that saves UNet and schedule and judges unconditional samples.

    ``patch``: pixels of a side of the squares that the model sees as channels of one pixel.
    """

    def finish(model, data, directory, seed):
        # Half precision halves the files; what is judged is what was stored.
        DDPMPipeline(model.half(), ddpm_scheduler()).save_pretrained(directory)
        model = model.float()
        pipeline = ForwardBackwardPipeline(model, ddpm_scheduler())
        shape = functional.pixel_unshuffle(data.train_images[0], patch).shape
        samples = pipeline(
            torch.zeros(n_samples, *shape),
            [pipeline.scheduler.config.num_train_timesteps],
            num_inference_steps=num_inference_steps,
            generator=[derived_generator(seed, 0, i) for i in range(n_samples)],
        ).samples[0]
        classifier = ConvClassifier.from_pretrained(model_directory(classifier_name))
        parts = {"loss": data.train_images, "loss_held_out": data.test_images}
        n = min(2000, *(len(images) for images in parts.values()))
        with torch.no_grad():
            losses = {
                name: denoising_loss(
                    model,
                    functional.pixel_unshuffle(images[:n], patch),
                    None,
                    derived_generator(seed, 0),
                ).item()
                for name, images in parts.items()
            }
        samples = functional.pixel_shuffle(samples, patch)
        return losses | sample_quality(samples, data, classifier)

    return finish


def _finish_classifier(model, data, directory, seed):
    """Save a classifier and measure its accuracy."""
    model.save_pretrained(directory)
    return {"accuracy_held_out": accuracy(model, data.test_images, data.test_labels)}


def _write_card(directory, training, run, model, seconds, quality) -> None:
    """The model card: what it is, how it was made, how good it is."""
    parameters = sum(p.numel() for p in model.parameters())
    lines = [
        f"# {run['name']}",
        "",
        f"{training.about}",
        "",
        f"- parameters: {parameters:,} (safetensors)",
        f"- training: {run['steps']} steps of {training.batch_size} examples, "
        f"{'Muon and AdamW' if training.muon else 'AdamW'}, learning rate "
        f"up to {training.learning_rate:g}, averaged weights (decay {training.ema_decay:g}"
        f"{', the best on held-out data' if training.keep_best else ''}), seed {run['seed']}",
        f"- wall time: {seconds / 60:.1f} minutes with {torch.get_num_threads()} CPU threads",
        f"- made by: `hierphase train {run['name']}`; the loss against the step is in `{LOG}`",
        "",
        "| quality | value |",
        "| --- | --- |",
        *(f"| {name} | {value:.4f} |" for name, value in quality.items()),
        "",
    ]
    (directory / "README.md").write_text("\n".join(lines))


def _digits_unet() -> UNet2DModel:
    """Two resolutions (8x8, 4x4), self-attention at the lower one; 0.7 M parameters."""
    return UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        layers_per_block=1,
        block_out_channels=(32, 64),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=16,
        norm_num_groups=8,
    )


def _fashion_unet() -> UNet2DModel:
    """Three resolutions (28x28 to 7x7), self-attention at the lowest; 2.2 M parameters.

    Narrow where there are many pixels: two cores have to train it and to run the experiment.
    """
    return UNet2DModel(
        sample_size=28,
        in_channels=1,
        out_channels=1,
        layers_per_block=1,
        block_out_channels=(16, 32, 128),
        down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        attention_head_dim=32,
        norm_num_groups=8,
    )


def _patch_unet(size: int, channels: tuple[int, int]) -> UNet2DModel:
    """Two resolutions of 2x2 patches of a colour image, self-attention at the lower one.

    Args:
        size: pixels of a side of the image.
        channels: of the two resolutions.
    """
    return UNet2DModel(
        sample_size=size // 2,
        in_channels=12,
        out_channels=12,
        layers_per_block=2,
        block_out_channels=channels,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=24,
        norm_num_groups=12,
    )


def _image_denoiser(
    what: str, data, model, classifier: str, steps: int, loss=denoising_loss, patch: int = 1
) -> Training:
    """Training of an unconditional denoiser of images.

    Args:
        what: the images, and those it learns from, in words.
        data: gives them.
        model: gives the untrained network.
        classifier: training of the judge of samples.
        steps: of 64 images.
        loss: of the network.
        patch: pixels of a side of the squares that the network sees as channels of one pixel.
    """
    return Training(
        about=f"Unconditional DDPM (noise prediction) of {what}. Below, `loss` and `loss_held_out` "
        "are the noise-prediction errors on training and held-out images; the other numbers judge "
        "samples drawn in 50 steps and are explained in "
        "`hierphase.networks.sample_quality.sample_quality`.",
        data=data,
        model=model,
        loss=loss,
        finish=_finish_denoiser(classifier, patch),
        steps=steps,
        batch_size=64,
        learning_rate=1e-3,
        needs=(classifier,),
    )


def _cifar10_denoiser(size: int, channels: tuple[int, int], steps: int) -> Training:
    """Training of a denoiser of 2x2 patches of CIFAR-10."""
    return _image_denoiser(
        f"CIFAR-10 at {size}x{size} pixels (means over squares), trained on the 50,000 training "
        "images of `hierphase.diffusion.datasets.cifar10`, mirrored at random. It sees "
        "`pixel_unshuffle(images, 2)`, 12 channels",
        partial(cifar10, size),
        lambda: _patch_unet(size, channels),
        f"cifar10-{size}-classifier",
        steps,
        mirrored_patch_denoising_loss,
        patch=2,
    )


def _image_classifier(about: str, data, loss, in_channels: int = 1) -> Training:
    """Training of a :class:`ConvClassifier`, the same for all images of some size."""
    return Training(
        about=about,
        data=data,
        model=lambda: ConvClassifier(in_channels),
        loss=loss,
        finish=_finish_classifier,
        steps=4500,
        batch_size=128,
        learning_rate=3e-3,
        ema_decay=0.99,
    )


#: What ``hierphase train`` can train, by name.
TRAININGS = {
    "digits": _image_denoiser(
        "scikit-learn's 8x8 digits, trained on the 1347 training images of "
        "`hierphase.diffusion.datasets.digits`",
        digits,
        _digits_unet,
        "digits-classifier",
        steps=6000,
    ),
    "digits-classifier": Training(
        about="Classifier of scikit-learn's 8x8 digits, trained on the 1347 training images of "
        "`hierphase.diffusion.datasets.digits`, shifted by up to one pixel.",
        data=digits,
        model=ConvClassifier,
        loss=classification_loss,
        finish=_finish_classifier,
        steps=1500,
        batch_size=64,
        learning_rate=2e-3,
        ema_decay=0.99,
    ),
    **{
        name: _image_denoiser(
            f"{title}, trained on the 60,000 training images of "
            f"`hierphase.diffusion.datasets.{data.__name__}`",
            data,
            _fashion_unet,
            f"{name}-classifier",
            steps=4000,
        )
        for name, title, data in (
            ("fashion-mnist", "Fashion-MNIST", fashion_mnist),
            ("mnist", "MNIST", mnist),
        )
    },
    "fashion-mnist-classifier": _image_classifier(
        "Classifier of Fashion-MNIST, trained on the 60,000 training images of "
        "`hierphase.diffusion.datasets.fashion_mnist`, shifted by up to one pixel and mirrored at "
        "random.",
        fashion_mnist,
        mirrored_classification_loss,
    ),
    "mnist-classifier": _image_classifier(
        "Classifier of MNIST, trained on the 60,000 training images of "
        "`hierphase.diffusion.datasets.mnist`, shifted by up to one pixel.",
        mnist,
        classification_loss,
    ),
    **{
        f"cifar10-{size}-classifier": _image_classifier(
            f"Classifier of CIFAR-10 at {size}x{size} pixels (means over squares), trained on the "
            "50,000 training images of `hierphase.diffusion.datasets.cifar10`, shifted by up to "
            "one pixel and mirrored at random.",
            partial(cifar10, size),
            mirrored_classification_loss,
            in_channels=3,
        )
        for size in (8, 16, 32)
    },
    "cifar10-8": _cifar10_denoiser(8, (48, 96), steps=12_000),
    "cifar10-16": _cifar10_denoiser(16, (72, 144), steps=40_000),
    "cifar10-32": _cifar10_denoiser(32, (72, 144), steps=60_000),
    **TREE_CLASSIFIERS,
    **TREE_TRAININGS,
}
