"""Small denoisers of clothes that differ in what they are trained for, or in their shape.

    python benchmarks/small_networks.py [NAME ...] [--steps N] [--seeds N] [--images N] [--write]

Blocks, width and attention differ alone; levels-1 and levels-3 differ in width as well, local and
the transformer in more. All see Fashion-MNIST in 2x2 patches, 14x14 of them (levels-3: pixels), for
the same number of steps and images, not at the same cost, and have a sampler of their own process
that draws from the posterior. Each is trained as `hierphase train` does, in runs/small-NAME-SEED
(or goes on there), judged, and put through the image experiment on the same images and noise.

Prints a table of all that are done, with the half-way ln SNR and by how much it is off the first
one's of the same seed (paired over images), which --write leaves as variants.csv beside the model
fashion-mnist of the book, with the rows that are there of other networks. Five minutes of one core
each.
"""

import argparse
import json
from functools import partial
from pathlib import Path

import diffusers
import numpy as np
import pandas as pd
import torch
from diffusers import (
    ConfigMixin,
    DPMSolverMultistepScheduler,
    EDMDPMSolverMultistepScheduler,
    ModelMixin,
    UNet2DModel,
)
from diffusers.configuration_utils import register_to_config
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from diffusers.models.unets.unet_2d import UNet2DOutput
from torch import nn
from torch.nn import functional

from hierphase.analysis import bootstrap, transition
from hierphase.diffusion.datasets import DATASETS
from hierphase.diffusion.forward_backward import ForwardBackwardPipeline
from hierphase.experiments import registry
from hierphase.networks import objectives
from hierphase.networks.catalogue import TRAININGS, model_directory, train
from hierphase.networks.objectives import SCHEDULE
from hierphase.networks.sample_quality import is_weak, sample_quality
from hierphase.networks.training import CARD, QUALITY, Training
from hierphase.parametrisation import Parametrisation
from hierphase.seeds import derived_generator

SDE = {"algorithm_type": "sde-dpmsolver++"}
NOISE = DPMSolverMultistepScheduler.from_config(SCHEDULE.config, **SDE, use_karras_sigmas=True)
EDM = EDMDPMSolverMultistepScheduler(**SDE)
FLOW = DPMSolverMultistepScheduler(**SDE, use_flow_sigmas=True, prediction_type="flow_prediction")


def process_loss(scheduler, times, model, images, labels, generator):
    """Mean squared error of what the denoiser of a scheduler predicts, at random times."""
    process, t = Parametrisation(scheduler), times(len(images), generator)
    alpha, sigma = (x.float().view(-1, 1, 1, 1) for x in process.level(t))
    x_t = alpha * images + sigma * torch.randn(images.shape, generator=generator)
    target = process.prediction(x_t, images, alpha, sigma)
    return functional.mse_loss(model(x_t, t).sample, target)


def log_normal(n, generator):
    """Times of EDM, ln(sigma) / 4, with ln sigma of mean -1.2 and deviation 1.2 (Karras 2022)."""
    return (torch.randn(n, generator=generator) * 1.2 - 1.2) / 4


def uniform(n, generator):
    """Times of flow matching, 1 to T."""
    return 1 + torch.rand(n, generator=generator) * (SCHEDULE.config.num_train_timesteps - 1)


#: What a network is trained for -> its scheduler and loss.
KINDS = {
    "noise": (NOISE, objectives.denoising_loss),
    "edm": (EDM, partial(process_loss, EDM, log_normal)),
    "flow": (FLOW, partial(process_loss, FLOW, uniform)),
}


class PatchTransformer(ModelMixin, ConfigMixin):
    """Every patch a token, with its place and the time added; attention over all of them."""

    @register_to_config
    def __init__(self, sample_size=14, in_channels=4, width=48, depth=4, heads=3):
        super().__init__()
        self.time = nn.Sequential(Timesteps(width, True, 0), TimestepEmbedding(width, width))
        self.enter, self.leave = nn.Linear(in_channels, width), nn.Linear(width, in_channels)
        self.place = nn.Embedding(sample_size**2, width)
        nn.init.zeros_(self.place.weight)  # the rest is drawn by `networks.training.initialise`
        blocks = [BasicTransformerBlock(width, heads, width // heads) for _ in range(depth)]
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x, timestep):
        """What is predicted of x (n, channels, height, width), as ``sample``."""
        t = torch.as_tensor(timestep, device=x.device).float().expand(len(x))
        tokens = self.enter(x.flatten(2).mT) + self.place.weight + self.time(t)[:, None]
        for block in self.blocks:
            tokens = block(tokens)
        return UNet2DOutput(self.leave(tokens).mT.reshape(x.shape))


class PatchNorm(nn.LayerNorm):
    """Over the channels of each place: no statistics of the image."""

    def forward(self, x):
        """Of x (n, channels, height, width), like it."""
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class LocalUNet(ModelMixin, ConfigMixin):
    """One level of a U-Net that sees no further than three patches, 7x7 of them.

    Three convolutions are 3x3, the first and those of the way down; all others and the
    normalisations see one patch, and there is no attention.
    """

    @register_to_config
    def __init__(self, sample_size=14, in_channels=4, width=48):
        super().__init__()
        self.inside = unet((width,), attention=False, middle=None)
        for path, part in [*self.inside.named_modules()]:
            parent, _, name = path.rpartition(".")
            place = self.inside.get_submodule(parent)
            if isinstance(part, nn.GroupNorm):
                setattr(place, name, PatchNorm(part.num_channels))
            elif isinstance(part, nn.Conv2d) and path.startswith(("up_blocks", "conv_out")):
                setattr(place, name, nn.Conv2d(part.in_channels, part.out_channels, 1))

    def forward(self, x, timestep):
        """What is predicted of x (n, channels, height, width), as ``sample``."""
        return self.inside(x, timestep)


for own in (PatchTransformer, LocalUNet):
    setattr(diffusers, own.__name__, own)  # where folders of models look for their class


def unet(channels=(16, 32), blocks=1, attention=True, middle="UNetMidBlock2D"):
    """A U-Net with these channels at each level, and attention at the lowest and in the middle."""
    plain, last, patch = len(channels) - attention, attention * 1, 1 if len(channels) > 2 else 2
    return UNet2DModel(
        sample_size=28 // patch, in_channels=patch**2, out_channels=patch**2,
        layers_per_block=blocks, block_out_channels=channels, mid_block_type=middle,
        down_block_types=("DownBlock2D",) * plain + ("AttnDownBlock2D",) * last,
        up_block_types=("AttnUpBlock2D",) * last + ("UpBlock2D",) * plain,
        add_attention=attention, norm_num_groups=8, attention_head_dim=16,
    )  # fmt: skip


#: Name -> the network and what it is trained for; the first is what the others are compared with.
VARIANTS = {
    "unet": (unet, "noise"),
    "edm": (unet, "edm"),
    "flow": (unet, "flow"),
    "levels-1": (partial(unet, (24,)), "noise"),
    "levels-3": (partial(unet, (8, 16, 32)), "noise"),
    **{f"blocks-{n}": (partial(unet, blocks=n), "noise") for n in (2, 3, 4)},
    "narrow": (partial(unet, (8, 16)), "noise"),
    "wide": (partial(unet, (32, 64)), "noise"),
    "no-attention": (partial(unet, attention=False), "noise"),
    "local": (LocalUNet, "noise"),
    "transformer": (PatchTransformer, "noise"),
}
PLACE = {name: i for i, name in enumerate(VARIANTS)}


@torch.no_grad()
def report(scheduler, model, data, seed, n_samples=500, **judges):
    """How good samples are, drawn by the network's own sampler in 100 steps."""
    size, channels = model.config.sample_size, model.config.in_channels
    nothing = torch.zeros(n_samples, channels, size, size)
    own = [derived_generator(seed, i) for i in range(n_samples)]
    pipeline = ForwardBackwardPipeline(model, scheduler)
    samples = pipeline(nothing, None, 100, own, ln_snr=[-torch.inf]).samples[0]
    samples = functional.pixel_shuffle(samples, 28 // size)
    return sample_quality(samples, data, **judges)


def training(name: str, steps: int) -> Training:
    """The training of one of them."""
    model, kind = VARIANTS[name]
    scheduler, loss = KINDS[kind]
    return Training(
        about=f"Small denoiser of clothes, {name} of benchmarks/small_networks.py.",
        data=DATASETS["fashion-mnist"], model=model, loss=loss, report=partial(report, scheduler),
        judges={"classifier": "fashion-mnist-classifier"}, steps=steps, batch_size=64,
        learning_rate=1e-3, vary=() if name == "levels-3" else (objectives.in_patches,),
    )  # fmt: skip


def measured(name: str, seed: int, steps: int, n_per_class: int) -> tuple[dict, np.ndarray]:
    """Quality of a network, and its half-way ln SNR of all images and of resamples of them."""
    folder = Path("runs") / f"small-{name}-{seed}"
    TRAININGS[f"small-{name}"] = training(name, steps)
    if not (folder / CARD).is_file():
        train(f"small-{name}", folder, steps, seed)
    KINDS[VARIANTS[name][1]][0].save_pretrained(folder / "scheduler")
    changes = {"model": str(folder.absolute()), "sampler": "own", "n_per_class": n_per_class}
    changes |= {"n_times": 12, "n_shown": 0}
    result = registry.run_sweep("imagenet-transition", "fashion-mnist", changes, folder / "images")
    classes = result.top_class.isel(rank=0).transpose("time", "image").values
    kept = np.vstack(bootstrap.means_and_resamples(classes == classes[0]))[:, 1:-1]
    middle = (1 + transition.unrelated_agreement(classes[0], classes[-1])) / 2
    quality = json.loads((folder / QUALITY).read_text())
    size = TRAININGS[f"small-{name}"].model().num_parameters()
    shown = ["confident", "confident_held_out", "frechet", "frechet_train"]
    found = {"name": name, "seed": seed, "parameters": size, "weak": is_weak(quality)}
    half = -transition.crossing_time(-result.ln_snr.values[1:-1], kept, middle)
    return found | {key: quality[key] for key in shown}, half


def interval(draws: np.ndarray) -> list[float]:
    """The first of them, and between which 95% of the others lie; NaN where too many lack it."""
    found = bootstrap.estimate_if_found(draws[0], draws[1:], 0.95)
    return [found.value, found.low, found.high] if found else [np.nan] * 3


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*", default=[*VARIANTS])
    for option, default in (("--steps", 1500), ("--seeds", 3), ("--images", 10)):
        parser.add_argument(option, type=int, default=default)
    parser.add_argument("--write", action="store_true")
    asked, rows, firsts = parser.parse_args(), [], {}
    for seed in range(asked.seeds):
        for name in dict.fromkeys([next(iter(VARIANTS)), *asked.names]):
            found, half = measured(name, seed, asked.steps, asked.images)
            firsts.setdefault(seed, half)
            found |= dict(zip(("half", "low", "high"), interval(half), strict=True))
            moved = interval(half - firsts[seed])
            rows.append(found | dict(zip(("moved", "moved_low", "moved_high"), moved, strict=True)))
            print(pd.DataFrame(rows).to_string(), flush=True)
            if asked.write:
                path = model_directory("fashion-mnist") / "variants.csv"
                table = pd.DataFrame(rows)
                if path.is_file():  # of networks that are not asked for
                    table = pd.concat([table, pd.read_csv(path)]).drop_duplicates(["name", "seed"])
                table = table.sort_values(["seed", "name"], key=lambda x: x.replace(PLACE))
                table.to_csv(path, index=False, float_format="%.5g")
