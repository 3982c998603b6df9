"""The training loop, the same for every network of the book.

Every random number of step k comes from a generator derived from (seed, k), so a training that
was killed continues from its last checkpoint to the very weights of an undisturbed one.
"""

import csv
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from accelerate import Accelerator
from diffusers import ModelMixin
from diffusers.training_utils import EMAModel
from torch import nn
from torch.nn import functional
from tqdm import tqdm

from hierphase.networks.best_weights import BestWeights
from hierphase.networks.checkpoints import load_checkpoint, save_checkpoint
from hierphase.rhm.corruption import ddpm_scheduler
from hierphase.seeds import derived_generator

LOG = "training.csv"
WARM_UP_STEPS = 100
N_VALIDATION = 1000  # the last of the held-out data, on which training decides when it was best
SCHEDULE = ddpm_scheduler()


class Data(Protocol):
    """What a training needs of its data.

    :class:`~hierphase.diffusion.datasets.ImageData` is an example.
    """

    test_images: torch.Tensor
    test_labels: torch.Tensor

    def batch(self, n: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Up to n training data (n, ...) and labels (n,), drawn with ``generator``."""


@dataclass(frozen=True)
class Training:
    """What one training consists of; the loop is the same for all.

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


def optimise(training, run, model, data, output) -> float:
    """Train ``model`` in place, ending on its averaged weights; returns the seconds it took."""
    accelerator = Accelerator()
    wrapped, *optimizers = accelerator.prepare(model, *_optimizers(model, training.muon))
    ema = EMAModel(model.parameters(), decay=training.ema_decay, foreach=True)
    best = BestWeights(_validation_loss(training, run, data, accelerator.device))
    parts = [model, *optimizers, ema, best]
    first, seconds = load_checkpoint(output, run, parts)
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
                save_checkpoint(output, run, done, seconds, parts)
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
