"""What there is to say of a training, and how it runs: the same for every network of the book.

Every random number of step k comes from a generator derived from (seed, k), so a training that
was killed continues from its last checkpoint to the very weights of an undisturbed one.
"""

import json
import math
import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from diffusers import DDPMPipeline, ModelMixin, UNet2DModel
from diffusers.training_utils import EMAModel
from torch import nn
from tqdm import tqdm

from hierphase.diffusion.model_folders import load_model
from hierphase.files import WriteError, check_holds_only, output_directory, write
from hierphase.networks import objectives
from hierphase.networks.checkpoints import CHECKPOINT, load_checkpoint, save_checkpoint, save_model
from hierphase.networks.classifiers import ConvClassifier, load_classifier
from hierphase.runs.results import book_directory
from hierphase.seeds import derived_generator

LOG = "training.csv"
LOG_HEADER = "step,loss,learning_rate,seconds\r\n"
QUALITY = "quality.json"
CARD = "README.md"
WARM_UP_STEPS = 100


@dataclass(frozen=True)
class Training:
    """What one training consists of; the loop is the same for all.

    Attributes:
        about: what is trained, one line for the model card.
        data: gives the data: of those to learn from ``batch(n, generator)`` draws up to n, images
            (n, ...) and labels (n,); ``test_images`` and ``test_labels`` are held out.
        model: gives the untrained network.
        steps: optimiser steps, unless the caller asks for another number.
        batch_size: images per step.
        learning_rate: highest rate; linear warm-up, then half a cosine to zero.
        loss: (model, images, labels, generator) -> scalar, see
            :mod:`~hierphase.networks.objectives`.
        report: (model, data, seed, and judges by name) -> quality numbers, for the model card and
            ``quality.json``.
        judges: name -> training of a classifier, whose saved model ``report`` is given.
        ema_decay: decay per step of the averaged weights, which are the ones that are saved.
        checkpoint_every: steps between checkpoints.
        muon: use Muon for the matrices inside the network and AdamW for the rest, instead of AdamW
            for everything.
        keep_best: end on the averaged weights with the lowest loss on the last 1000 held-out data,
            among those of all checkpoints and the end, instead of the last ones (early stopping).
        vary: (images, generator) -> images, one after the other before the loss.
        half: save the weights in half precision; what is judged is what was saved.
    """

    about: str
    data: Callable[[], Any]
    model: Callable[[], ModelMixin]
    steps: int
    batch_size: int
    learning_rate: float
    loss: Callable[..., torch.Tensor] = objectives.classification_loss
    report: Callable[..., dict[str, float]] = objectives.classifier_report
    judges: dict[str, str] = field(default_factory=dict)
    ema_decay: float = 0.999
    checkpoint_every: int = 250
    muon: bool = False
    keep_best: bool = False
    vary: tuple[Callable[[torch.Tensor, torch.Generator], torch.Tensor], ...] = ()
    half: bool = True


def model_directory(name: str) -> Path:
    """Directory of the trained model ``name`` of the book.

    Raises:
        FileNotFoundError: it has not been trained; the message names the command that does it.
    """
    directory = book_directory() / "models" / name
    if not (directory / CARD).is_file():
        remedy = f"train it with: hierphase train {name}"
        raise FileNotFoundError(f"no trained model {directory}; {remedy}")
    return directory


def run(training: Training, name: str, output: Path, steps: int, seed: int) -> None:
    """Train a network, or go on with it, and save it with its log and model card.

    Args:
        training: what to train.
        name: that it is known by.
        output: directory of the model, in diffusers' layout.
        steps: optimiser steps.
        seed: fixes initial weights, batches and noise.

    Raises:
        ValueError: a checkpoint in the output directory is of another name, steps or seed, or the
            directory holds something else.
        KeyboardInterrupt: interrupted; its message says what is kept.
        WriteError: a file cannot be written; likewise.
    """
    card = output / CARD
    own = card.is_file() and card.read_bytes().startswith(f"# {name}\n".encode())
    if not own and not (output / CHECKPOINT).is_file():
        check_holds_only(output, f"the training {name}")
    output_directory(output)
    data, model = training.data(), training.model()
    if isinstance(model, ConvClassifier):
        model.register_to_config(class_names=data.class_names)
    initialise(model, derived_generator(seed, 0))
    this = {"name": name, "steps": steps, "seed": seed}
    try:
        seconds = optimise(training, this, model, data, output)
        model = model.to("cpu").eval()
        if training.half:
            model.half()
        layout = DDPMPipeline(model, objectives.SCHEDULE) if type(model) is UNet2DModel else model
        save_model(layout, output)
        judge_saved(training, name, output, seed, data, _facts(training, this, model, seconds))
    except (KeyboardInterrupt, WriteError) as error:
        reason = error if str(error) else f"training {name} was interrupted"
        raise type(error)(f"{reason}; the same command goes on from its last checkpoint") from None
    (output / CHECKPOINT).unlink(missing_ok=True)


def judge_saved(training: Training, name: str, directory: Path, seed: int, data=None, facts=None):
    """Say how good a saved model is: write its ``quality.json`` and its card.

    Args:
        training: that made it.
        name: of the training.
        directory: of the model.
        seed: of what is random in the report.
        data: what ``training.data()`` gave, if it was called already.
        facts: lines of the card on how the model was made; by default those of the present card.

    Raises:
        ValueError: a file of the model is damaged or belongs to another training.
        WriteError: a file cannot be written.
    """
    kind = type(training.model())
    model = load_model(directory / "unet" if kind is UNet2DModel else directory, kind)
    if facts is None:
        lines = (directory / CARD).read_text().splitlines()
        facts = [line for line in lines if line.startswith("- ")]
    judges = {key: load_classifier(model_directory(of)) for key, of in training.judges.items()}
    quality = training.report(model, training.data() if data is None else data, seed, **judges)
    table = [f"| {key} | {value:.4f} |" for key, value in quality.items()]
    table = ["| quality | value |", "| --- | --- |", *table]
    card = [f"# {name}", "", training.about, "", *facts, "", *table, ""]
    write((json.dumps(quality, indent=1) + "\n").encode(), directory / QUALITY)
    write("\n".join(card).encode(), directory / CARD)


def optimise(training, run, model, data, output) -> float:
    """Train ``model`` in place, ending on its averaged weights; returns the seconds it took."""
    accelerator = Accelerator()
    wrapped, *optimizers = accelerator.prepare(model, *_optimizers(model, training.muon))

    def loss_of(network, batch, generator):
        images, labels = (part.to(accelerator.device) for part in batch)
        for vary in training.vary:
            images = vary(images, generator)
        return training.loss(network, images, labels, generator)

    @torch.no_grad()
    def held_out_loss():  # of the averages, with the same random numbers at every call
        batch = (x[-objectives.N_VALIDATION :] for x in (data.test_images, data.test_labels))
        averaged = deepcopy(model)
        ema.copy_to(averaged.parameters())
        return loss_of(averaged, batch, derived_generator(run["seed"], 0)).item()

    ema = EMAModel(model.parameters(), decay=training.ema_decay, foreach=True)
    best = EMAModel(model.parameters()) if training.keep_best else ema
    parts = [model, *optimizers, ema, best]
    reached = {"step": 0, "seconds": 0.0, "log": LOG_HEADER, "lowest": math.inf}
    reached |= load_checkpoint(output, run, parts)
    first, steps, begun = reached["step"], run["steps"], time.perf_counter() - reached["seconds"]
    progress = tqdm(range(first + 1, steps + 1), run["name"], steps, initial=first, disable=None)
    for step in progress:
        generator = derived_generator(run["seed"], step)
        # Linear warm-up, then half a cosine from 1 to 0.
        factor = min(1.0, step / WARM_UP_STEPS) * 0.5 * (1 + math.cos(math.pi * (step - 1) / steps))
        rate = training.learning_rate * factor
        loss = loss_of(wrapped, data.batch(training.batch_size, generator), generator)
        if not loss.isfinite():
            raise ValueError(f"{run['name']}: the loss of step {step} is {loss.item()}")
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
            optimizer.zero_grad()
        ema.step(model.parameters())
        reached |= {"step": step, "seconds": time.perf_counter() - begun}
        if step % max(1, steps // 200) == 0:
            reached["log"] += f"{step},{loss:.5f},{rate:.3e},{reached['seconds']:.1f}\r\n"
            progress.set_postfix(loss=f"{loss:.4f}")
        if step % training.checkpoint_every == 0 or step == steps:
            if training.keep_best and (held_out := held_out_loss()) < reached["lowest"]:
                reached["lowest"] = held_out
                best.load_state_dict(ema.state_dict())
            save_checkpoint(output, run, reached, parts)
            write(reached["log"].encode(), output / LOG)
    write(reached["log"].encode(), output / LOG)  # a kill may have come before the one above
    best.copy_to(model.parameters())
    return reached["seconds"]


def _optimizers(model: nn.Module, muon: bool) -> list[torch.optim.Optimizer]:
    """AdamW; or Muon (Jordan et al. 2024) for the matrices of all linear layers but the last.

    Muon's steps are scaled to the size of AdamW's, so that one learning rate serves both.
    """
    if not muon:
        return [torch.optim.AdamW(model.parameters(), weight_decay=0.01)]
    *inner, _ = [module.weight for module in model.modules() if isinstance(module, nn.Linear)]
    rest = [x for x in model.parameters() if all(x is not weight for weight in inner)]
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


def _facts(training, run, model, seconds) -> list[str]:
    """Lines of a model card: how the model was made."""
    settings = {name: x for name, x in vars(training).items() if isinstance(x, int | float)}
    made = {"made by": f"`hierphase train {run['name']}`"} | settings | run
    varied = [getattr(vary, "__name__", str(vary)) for vary in training.vary]  # or a partial
    size = f"{model.num_parameters():,}"
    made |= {"varied by": ", ".join(varied) or "nothing", "parameters": size}
    made["minutes"] = f"{seconds / 60:.1f}, with {torch.get_num_threads()} CPU threads"
    return [f"- {name.replace('_', ' ')}: {x}" for name, x in made.items()]
