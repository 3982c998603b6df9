"""Training of the small models that come with the book: denoisers and classifiers.

Every random number of step k comes from a generator derived from (seed, k), so a training that
was killed continues from its last checkpoint to the very weights of an undisturbed one.
"""

import csv
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from accelerate import Accelerator
from diffusers import DDPMPipeline, ModelMixin, UNet2DModel
from diffusers.training_utils import EMAModel
from torch import nn
from torch.nn import functional
from tqdm import tqdm

from hierphase.checkpoints import CHECKPOINT, load_checkpoint, save_checkpoint
from hierphase.checks import positive_integer
from hierphase.classifiers import ConvClassifier, class_probabilities
from hierphase.datasets import digits, fashion_mnist
from hierphase.early_stopping import BestWeights
from hierphase.mixtures import TwoModeMixture
from hierphase.pipeline import ForwardBackwardPipeline
from hierphase.processes import ddpm_scheduler
from hierphase.quality import sample_quality
from hierphase.results import book_directory
from hierphase.rhm import RandomHierarchyModel
from hierphase.seeds import derived_generator
from hierphase.tree_data import TreeData
from hierphase.tree_denoisers import TreeTransformer, TreeUNet
from hierphase.tree_networks import TreeClassifier

LOG = "training.csv"
QUALITY = "quality.json"
WARM_UP_STEPS = 100
N_RULE_DRAWS = 6
N_VALIDATION = 1000  # the last of the held-out data, on which training decides when it was best


class Data(Protocol):
    """What a training needs of its data; :class:`~hierphase.datasets.ImageData` is an example."""

    test_images: torch.Tensor
    test_labels: torch.Tensor

    def batch(self, n: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Up to n training data (n, ...) and labels (n,), drawn with ``generator``."""


@dataclass(frozen=True)
class Training:
    """What one training consists of; the loop of :func:`train` is the same for all.

    Attributes:
        about: what is trained, one line for the model card.
        data: gives the data.
        model: gives the untrained network.
        loss: (model, images, labels, generator) -> scalar; all randomness from the generator.
        finish: (model, data, directory, seed) -> quality numbers; also saves the trained model.
            The numbers go into the model card and ``quality.json``.
        steps: optimiser steps, unless the caller asks for another number.
        batch_size: images per step.
        learning_rate: highest rate; linear warm-up, then half a cosine to zero.
        ema_decay: decay per step of the averaged weights, which are the ones that are saved.
        checkpoint_every: steps between checkpoints.
        muon: use Muon for the matrices inside the network and AdamW for the rest, instead of AdamW
            for everything.
        keep_best: end on the averaged weights with the lowest loss on the last 1000 held-out data,
            among those of all checkpoints and the end, instead of the last ones (early stopping).
        needs: trainings whose saved models ``finish`` uses.
    """

    about: str
    data: Callable[[], Data]
    model: Callable[[], ModelMixin]
    loss: Callable[[nn.Module, torch.Tensor, torch.Tensor, torch.Generator], torch.Tensor]
    finish: Callable[[ModelMixin, Data, Path, int], dict[str, float]]
    steps: int
    batch_size: int
    learning_rate: float
    ema_decay: float = 0.999
    checkpoint_every: int = 250
    muon: bool = False
    keep_best: bool = False
    needs: tuple[str, ...] = ()


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


SCHEDULE = ddpm_scheduler()


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
        raise ValueError(f"unknown training {name!r}; there are {', '.join(sorted(TRAININGS))}")
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
        seconds = _optimise(training, run, model, data, output)
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


def _optimise(training, run, model, data, output) -> float:
    """Train ``model`` in place, ending on its averaged weights; returns the seconds it took."""
    accelerator = Accelerator()
    wrapped, *optimizers = accelerator.prepare(model, *_optimizers(model, training.muon))
    ema = EMAModel(model.parameters(), decay=training.ema_decay, foreach=True)
    best = BestWeights(_validation_loss(training, run, data, accelerator.device))
    first, seconds = load_checkpoint(output, run, model, optimizers, ema, best)
    steps = run["steps"]
    begun = time.perf_counter() - seconds
    with _log(output / LOG, first) as log:
        progress = tqdm(
            range(first, steps), initial=first, total=steps, desc=run["name"], disable=None
        )
        for step in progress:
            generator = derived_generator(run["seed"], step + 1)
            batch = data.batch(training.batch_size, generator)
            images, labels = (part.to(accelerator.device) for part in batch)
            rate = training.learning_rate * _schedule(step, steps)
            loss = training.loss(wrapped, images, labels, generator)
            accelerator.backward(loss)
            accelerator.clip_grad_norm_(model.parameters(), 1.0)
            for optimizer in optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = rate
                optimizer.step()
                optimizer.zero_grad()
            ema.step(model.parameters())
            done, seconds = step + 1, time.perf_counter() - begun
            if done % max(1, steps // 200) == 0:
                csv.writer(log).writerow([done, f"{loss:.5f}", f"{rate:.3e}", f"{seconds:.1f}"])
                progress.set_postfix(loss=f"{loss:.4f}")
            checkpoint = done % training.checkpoint_every == 0
            if training.keep_best and (checkpoint or done == steps):
                best.offer(model, ema)
            if checkpoint:
                log.flush()
                save_checkpoint(output, run, done, seconds, model, optimizers, ema, best)
    if training.keep_best:
        best.copy_to(model)
    else:
        ema.copy_to(model.parameters())
    return seconds


def _validation_loss(training, run, data, device) -> Callable[[nn.Module], float]:
    """Loss on the last held-out data, with the same random numbers at every call."""

    def loss(model):
        images, labels = (
            part[-N_VALIDATION:].to(device) for part in (data.test_images, data.test_labels)
        )
        return training.loss(model, images, labels, derived_generator(run["seed"], 0)).item()

    return loss


def _optimizers(model: nn.Module, muon: bool) -> list[torch.optim.Optimizer]:
    """AdamW; or Muon (Jordan et al. 2024) for the matrices of all linear layers but the last.

    Muon's steps are scaled to the size of AdamW's, so that one learning rate serves both.
    """
    if not muon:
        return [torch.optim.AdamW(model.parameters(), weight_decay=0.01)]
    *inner, _ = [module.weight for module in model.modules() if isinstance(module, nn.Linear)]
    ids = {id(parameter) for parameter in inner}
    rest = [parameter for parameter in model.parameters() if id(parameter) not in ids]
    return [
        torch.optim.Muon(inner, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(rest, weight_decay=0.01),
    ]


def initialise(model: nn.Module, generator: torch.Generator) -> None:
    """PyTorch's default initial weights, drawn from ``generator`` instead of the global one.

    Convolutions and linear layers: uniform within 1/sqrt(fan_in), weights and biases. Everything
    else keeps its constant start (normalisations: one and zero).
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            bound = 1 / math.sqrt(module.weight[0].numel())
            for parameter in module.parameters(recurse=False):
                nn.init.uniform_(parameter, -bound, bound, generator=generator)


def _schedule(step: int, steps: int) -> float:
    """Factor of the learning rate: linear warm-up, then half a cosine from 1 to 0."""
    return min(1.0, (step + 1) / WARM_UP_STEPS) * 0.5 * (1 + math.cos(math.pi * step / steps))


def _log(path: Path, first: int):
    """Open the log to go on after step ``first``, without the lines of steps to be redone."""
    rows = list(csv.reader(path.open(newline=""))) if first and path.is_file() else []
    file = path.open("w", newline="")
    writer = csv.writer(file)
    writer.writerow(["step", "loss", "learning_rate", "seconds"])
    writer.writerows(row for row in rows[1:] if int(row[0]) <= first)
    return file


def denoising_loss(model, images, labels, generator) -> torch.Tensor:
    """Mean squared error of the predicted noise at uniform t (Ho et al. 2020, L_simple).

    Args:
        model: predicts the noise, ``model(x_t, t).sample``.
        images: (n, ...) clean images.
        labels: not used; the model is unconditional.
        generator: source of t and of the noise, on the CPU.
    """
    times = torch.randint(SCHEDULE.config.num_train_timesteps, (len(images),), generator=generator)
    noise = torch.randn(images.shape, generator=generator).to(images.device)
    times = times.to(images.device)
    noisy = SCHEDULE.add_noise(images, noise, times)
    return functional.mse_loss(model(noisy, times).sample, noise)


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
    mirrored = torch.rand(len(images), 1, 1, 1, generator=generator).to(images.device) < 0.5
    images = torch.where(mirrored, images.flip(-1), images)
    return classification_loss(model, images, labels, generator)


def _finish_denoiser(classifier_name: str, n_samples: int = 1000, num_inference_steps: int = 50):
    """A ``finish`` that saves UNet and schedule and judges unconditional samples."""

    def finish(model, data, directory, seed):
        # Half precision halves the files; what is judged is what was stored.
        DDPMPipeline(model.half(), ddpm_scheduler()).save_pretrained(directory)
        model = model.float()
        pipeline = ForwardBackwardPipeline(model, ddpm_scheduler())
        shape = data.train_images.shape[1:]
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
                name: denoising_loss(model, images[:n], None, derived_generator(seed, 0)).item()
                for name, images in parts.items()
            }
        return losses | sample_quality(samples, data, classifier)

    return finish


def _finish_classifier(model, data, directory, seed):
    """Save a classifier and measure its accuracy."""
    model.save_pretrained(directory)
    return _accuracy(model, data)


def _accuracy(model, data):
    predicted = class_probabilities(model, data.test_images).argmax(dim=1)
    return {"accuracy_held_out": (predicted == data.test_labels).float().mean().item()}


def _finish_small_classifier(model, data, directory, seed):
    """Save a classifier in half precision and measure the accuracy of what was stored."""
    model.half().save_pretrained(directory)
    return _accuracy(model.float(), data)


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


def tree_classification_loss(model, images, labels, generator) -> torch.Tensor:
    """Cross-entropy of the classes; nothing is random.

    Args:
        model: gives logits.
        images: (n, v, d) encoded leaves.
        labels: (n,).
        generator: not used.
    """
    return functional.cross_entropy(model(images), labels)


def _tree_classifier(
    about: str, data: Data, v: int, s: int, L: int, n_classes: int, steps: int = 4000
) -> Training:
    """Training of a :class:`TreeClassifier` on fresh examples."""
    return Training(
        about=f"{about} Trained on fresh examples: none is seen twice.",
        data=lambda: data,
        model=lambda: TreeClassifier(v, s, L, n_classes, width=64),
        loss=tree_classification_loss,
        finish=_finish_small_classifier,
        steps=steps,
        batch_size=256,
        learning_rate=5e-3,
        muon=True,
    )


#: The classifiers of exactly solvable data by name, those of several draws of the rules of a Random
#: Hierarchy Model first, then those of data without a hierarchy.
TREE_CLASSIFIERS = {
    **{
        f"rhm-cnn-{seed}" if seed else "rhm-cnn": _tree_classifier(
            "Classifier of data of the Random Hierarchy Model, "
            f"`RandomHierarchyModel(v=16, m=4, s=2, L=7, seed={seed})`.",
            TreeData(RandomHierarchyModel(16, 4, 2, 7, seed=seed)),
            v=16, s=2, L=7, n_classes=16,
        )
        for seed in range(N_RULE_DRAWS)
    },
    "flat-cnn": _tree_classifier(
        "Classifier of data of a Random Hierarchy Model of depth 1, `RandomHierarchyModel(v=8, "
        "m=256, s=16, L=1, n_classes=16)`: each class has 256 strings of 16 leaves without parts.",
        TreeData(RandomHierarchyModel(8, 256, 16, 1, n_classes=16)),
        v=8, s=2, L=4, n_classes=16,
    ),
    "shuffled-cnn": _tree_classifier(
        "A network that could learn nothing, for comparison: trained on the data of `rhm-cnn` with "
        "the leaf at every position taken from another datum.",
        TreeData(RandomHierarchyModel(16, 4, 2, 7), shuffled=True),
        v=16, s=2, L=7, n_classes=16,
    ),
    "mixture-cnn": _tree_classifier(
        "Classifier of `TwoModeMixture(d=1024, r=0.25)`, a mixture of two Gaussians.",
        TwoModeMixture(),
        v=1, s=4, L=5, n_classes=2, steps=500,
    ),
}  # fmt: skip


def _finish_tree_denoiser(model, data, directory, seed):
    """Save a denoiser of the tree, and measure its loss on training and on held-out data."""
    # Half precision halves the file; what is judged is what was stored.
    model.half().save_pretrained(directory)
    model = model.float()
    parts = {
        "loss": data.batch(N_VALIDATION, derived_generator(seed, 0))[0],
        "loss_held_out": data.test_images[:N_VALIDATION],
    }
    generators = [derived_generator(seed, 0, i) for i in range(20)]
    with torch.no_grad():
        return {
            name: sum(denoising_loss(model, x, None, g).item() for g in generators) / 20
            for name, x in parts.items()
        }


def tree_denoiser_name(architecture: str, P: int | None, draw: int = 0) -> str:
    """Name in :data:`TRAININGS` of the denoiser trained on P data of a draw of the rules."""
    name = f"rhm-{architecture}-{'fresh' if P is None else P}"
    return f"{name}-rules-{draw}" if draw else name


def tree_rhm(draw: int) -> RandomHierarchyModel:
    """The small tree of the denoisers, with the ``draw``-th draw of its rules."""
    return RandomHierarchyModel(v=8, m=3, s=2, L=4, seed=draw)


def _tree_denoiser(architecture: str, P: int | None, draw: int) -> Training:
    """Training of a denoiser on P data of a small tree, or on fresh ones (None)."""
    rhm = tree_rhm(draw)
    return Training(
        about=f"Denoiser of data of `{rhm}`, trained on "
        f"{'fresh examples' if P is None else f'{P} examples'}. Below, `loss` and `loss_held_out` "
        "are the noise-prediction errors on training and held-out data.",
        data=lambda: TreeData(rhm, P=P),
        model=TREE_DENOISERS[architecture],
        loss=denoising_loss,
        finish=_finish_tree_denoiser,
        steps=2000 if P is not None and P < 500 else 4000,  # with few data it overfits before
        batch_size=512 if architecture == "unet" else 256,
        learning_rate=1e-2 if architecture == "unet" else 3e-3,
        ema_decay=0.99,
        checkpoint_every=100,
        muon=True,
        keep_best=True,
    )


#: Architectures of denoisers of the tree.
TREE_DENOISERS = {"unet": TreeUNet, "transformer": TreeTransformer}

#: Training set sizes of the denoisers of the tree; None is fresh data without end.
TREE_SIZES = (*(2**k for k in range(2, 15)), None)

#: Trainings of the denoisers of the tree, by name, for two draws of its rules.
TREE_TRAININGS = {
    tree_denoiser_name(architecture, P, draw): _tree_denoiser(architecture, P, draw)
    for architecture in TREE_DENOISERS
    for P in TREE_SIZES
    for draw in range(2)
}

#: What ``hierphase train`` can train, by name.
TRAININGS = {
    "digits": Training(
        about="Unconditional DDPM (noise prediction) of scikit-learn's 8x8 digits, trained on the "
        "1347 training images of `hierphase.datasets.digits`. Below, `loss` and `loss_held_out` "
        "are the noise-prediction errors on training and held-out images; the other numbers judge "
        "samples drawn in 50 steps and are explained in `hierphase.quality.sample_quality`.",
        data=digits,
        model=_digits_unet,
        loss=denoising_loss,
        finish=_finish_denoiser("digits-classifier"),
        steps=6000,
        batch_size=64,
        learning_rate=1e-3,
        needs=("digits-classifier",),
    ),
    "digits-classifier": Training(
        about="Classifier of scikit-learn's 8x8 digits, trained on the 1347 training images of "
        "`hierphase.datasets.digits`, shifted by up to one pixel.",
        data=digits,
        model=ConvClassifier,
        loss=classification_loss,
        finish=_finish_classifier,
        steps=1500,
        batch_size=64,
        learning_rate=2e-3,
        ema_decay=0.99,
    ),
    "fashion-mnist": Training(
        about="Unconditional DDPM (noise prediction) of Fashion-MNIST, trained on the 60,000 "
        "training images of `hierphase.datasets.fashion_mnist`. Below, `loss` and `loss_held_out` "
        "are the noise-prediction errors on training and held-out images; the other numbers judge "
        "samples drawn in 50 steps and are explained in `hierphase.quality.sample_quality`.",
        data=fashion_mnist,
        model=_fashion_unet,
        loss=denoising_loss,
        finish=_finish_denoiser("fashion-mnist-classifier"),
        steps=4000,
        batch_size=64,
        learning_rate=1e-3,
        needs=("fashion-mnist-classifier",),
    ),
    "fashion-mnist-classifier": Training(
        about="Classifier of Fashion-MNIST, trained on the 60,000 training images of "
        "`hierphase.datasets.fashion_mnist`, shifted by up to one pixel and mirrored at random.",
        data=fashion_mnist,
        model=ConvClassifier,
        loss=mirrored_classification_loss,
        finish=_finish_classifier,
        steps=4500,
        batch_size=128,
        learning_rate=3e-3,
        ema_decay=0.99,
    ),
    **TREE_CLASSIFIERS,
    **TREE_TRAININGS,
}
