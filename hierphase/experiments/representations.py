"""What the layers of a CNN keep of x_0 in exactly denoised data, on a tree and where there is none.

x̂0 is drawn from the exact posterior, so that everything seen is due to the data and the network
that looks at them, nothing to a denoiser that had to be trained.
"""

import hashlib
from dataclasses import replace
from functools import cached_property
from typing import Protocol

import numpy as np
import torch
import xarray as xr

from hierphase.analysis.linear_probe import linear_decoding
from hierphase.analysis.representations import (
    Standardiser,
    activations,
    fit_standardisers,
    layer_similarity,
)
from hierphase.analysis.two_mode_mixture import TwoModeMixture
from hierphase.checks import all_names, fraction, positive_integer, unknown
from hierphase.networks.catalogue import model_directory
from hierphase.networks.classifiers import accuracy, class_probabilities
from hierphase.networks.rhm_catalogue import N_RULE_DRAWS, TREE_CLASSIFIERS
from hierphase.networks.rhm_classifier import TreeClassifier
from hierphase.networks.training import initialise
from hierphase.rhm.belief_propagation import BeliefPropagation
from hierphase.rhm.corruption import EpsilonProcess, GaussianProcess, ddpm_scheduler, encode
from hierphase.rhm.dataset import TreeData
from hierphase.seeds import derived_generator

N_STATISTICS = 4000  # held-out data from which activations are standardised
_FIRST_SEED = 2  # of the data that are noised; TreeData trains and tests with 0 and 1

_RHM_CNNS = [name for name in TREE_CLASSIFIERS if name.startswith("rhm-cnn")][:N_RULE_DRAWS]
_EPSILONS = [
    0.1, 0.3, 0.5, 0.6, 0.65, 0.7, 0.72, 0.74, 0.76, 0.78, 0.8, 0.82, 0.84, 0.86, 0.88, 0.9, 0.93,
    0.96, 1.0,
]  # fmt: skip
_TREE = {
    "networks": _RHM_CNNS,
    "trained": True,
    "shuffled": False,
    "process": "epsilon",
    "noise": _EPSILONS,
    "n_blocks": 32,
    "block": 8,
    "n_decoding": 0,
    "seed": 0,
}

_CONTROL = _TREE | {"block": 128}
_MIXTURE = _CONTROL | {"process": "gaussian", "noise": [*range(50, 1000, 50), 999]}

#: Preset -> the parameters of :class:`ProbeExperiment`.
PRESETS = {
    "tree": _TREE | {"n_decoding": 3000},
    "tree-gaussian": _TREE
    | {"process": "gaussian", "noise": [40, *range(80, 281, 20), 320, 360, 400, 500, 600]},
    "mixture": _MIXTURE | {"networks": ["mixture-cnn"]},
    "coloured": _MIXTURE | {"networks": ["coloured-cnn"], "block": 512},
    "coloured-untrained": _MIXTURE | {"networks": ["coloured-cnn"], "trained": False},
    "depth-1": _CONTROL | {"networks": ["flat-cnn"]},
    "shuffled": _CONTROL | {"networks": ["shuffled-cnn"]},
    "tree-shuffled": _CONTROL | {"networks": ["rhm-cnn"], "shuffled": True},
    "untrained": _TREE | {"trained": False, "n_decoding": 3000},
}


class World(Protocol):
    """Data that a network was trained on, and their exact denoising."""

    levels: list[int]  # of the tree, those for which ``denoised`` says what is kept

    def starts(self, n: int, seed: int) -> list[torch.Tensor]:
        """n starting data: x_0, and whatever else ``denoised`` needs, a row a datum."""

    def denoised(
        self, starts: list[torch.Tensor], noise: float, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """x̂0 (n, channels, d) and, for each level, the probability (n, level) of keeping it."""


class _TreeWorld:
    """Data of a Random Hierarchy Model, or their leaves shuffled between data."""

    def __init__(self, data: TreeData, process: str):
        self.data, self.process = data, process
        self.bp, v = BeliefPropagation(data.rhm), data.rhm.v
        self.epsilon, self.gaussian = EpsilonProcess(v), GaussianProcess(ddpm_scheduler(), v)
        self.levels = [0] if data.shuffled else list(range(data.rhm.L + 1))

    def starts(self, n, seed):
        levels = self.data.sample(n, seed)
        return [encode(levels[0], self.data.rhm.v), *levels]

    def denoised(self, starts, noise, generator):
        x_0, *levels = starts
        if self.process == "epsilon":
            beliefs, log = self.epsilon.beliefs(levels[0], noise), False
        else:
            x_t = self.gaussian.corrupt(levels[0], int(noise), generator)
            beliefs, log = self.gaussian.log_beliefs(x_t, int(noise)), True
        if self.data.shuffled:
            # Leaves are independent: only their shares at each position go with the beliefs.
            beliefs = beliefs.softmax(-1) if log else beliefs
            posterior = self._shares * beliefs
            posterior = posterior / posterior.sum(-1, keepdim=True)
            leaves = torch.multinomial(posterior.flatten(0, 1), 1, generator=generator)
            kept = (posterior * x_0.mT).sum(-1).mean(1, keepdim=True)
            return encode(leaves.view(x_0.shape[0], -1), x_0.shape[1]), kept
        posterior = self.bp(beliefs, log=log)
        leaves = posterior.sample(1, generator)[0][0]
        return encode(leaves, x_0.shape[1]), posterior.probability_of(levels)

    @cached_property
    def _shares(self) -> torch.Tensor:
        """Share of every symbol at every position, (1, d, v)."""
        rhm = self.data.rhm
        return self.bp(torch.ones(1, rhm.d, rhm.v)).marginals[0]


class _MixtureWorld:
    """Data of a mixture of two Gaussians; level 1 is the mode, level 0 the numbers themselves.

    Of these, which are not kept exactly, it is the cosine of x̂0 and x_0 that counts.
    """

    def __init__(self, data: TwoModeMixture, process: str):
        self.levels = [0, 1]
        self.data, self.scheduler = data, ddpm_scheduler()

    def starts(self, n, seed):
        return list(self.data.batch(n, derived_generator(seed)))

    def denoised(self, starts, noise, generator):
        x_0, labels = starts
        alpha_bar = float(self.scheduler.alphas_cumprod[int(noise)])
        z = torch.randn(x_0.shape, generator=generator)
        x_t = alpha_bar**0.5 * x_0 + (1 - alpha_bar) ** 0.5 * z
        up = self.data.class_posterior(x_t, alpha_bar)[:, 1]
        sample, _ = self.data.denoised(x_t, alpha_bar, generator)
        cosine = torch.cosine_similarity(x_0, sample, -1)[:, 0]
        return sample, torch.stack([cosine, torch.where(labels == 1, up, 1 - up)], 1)


class ProbeExperiment:
    """Exact forward-backward experiments, seen by the layers of networks.

    What a sweep calls an image is here a block of data of one network, of which only means are
    kept: image i is block i % n_blocks of network i // n_blocks.

    Args:
        parameters: those of a preset:
            ``networks`` trained networks of the book, each with the data it was trained on;
            ``trained`` False puts initial weights in their place; ``shuffled`` True takes the leaf
            at every position from another datum; ``process`` that corrupts,
            "epsilon" or "gaussian" (the mixture knows only that); ``noise`` the levels, epsilon or
            the time index t of 1000; ``n_blocks`` blocks of ``block`` data for each network;
            ``n_decoding`` data for the linear decoding of every level from every layer, 0 for
            none; ``seed``.

    Raises:
        ValueError: a missing, unknown or bad parameter.
        FileNotFoundError: a network that has not been trained.
    """

    def __init__(self, parameters: dict):
        all_names(parameters, PRESETS["tree"].keys())
        for name, minimum in {"n_blocks": 1, "block": 1, "seed": 0, "n_decoding": 0}.items():
            positive_integer(name, parameters[name], minimum)
        process = parameters["process"]
        if process not in ("epsilon", "gaussian"):
            raise ValueError(f"process must be epsilon or gaussian, got {process!r}")
        if not parameters["noise"] or sorted(set(parameters["noise"])) != parameters["noise"]:
            raise ValueError(f"noise must be increasing levels, got {parameters['noise']}")
        for level in parameters["noise"]:
            if process == "epsilon":
                fraction("epsilon", level)
            elif positive_integer("each time in noise", level, minimum=0) > 999:
                raise ValueError(f"each time in noise must be at most 999, got {level}")
        if not parameters["networks"]:
            raise ValueError("networks must name at least one network")
        for name in parameters["networks"]:
            if name not in TREE_CLASSIFIERS:
                raise ValueError(unknown("network", name, list(TREE_CLASSIFIERS)))
            if isinstance(TREE_CLASSIFIERS[name].data(), TwoModeMixture) and (
                process == "epsilon" or parameters["shuffled"]
            ):
                raise ValueError(
                    f"the data of {name} take the process gaussian and cannot be shuffled, got "
                    f"{process} and shuffled={parameters['shuffled']}"
                )
        self.parameters = parameters

    def __len__(self) -> int:
        return len(self.parameters["networks"]) * self.parameters["n_blocks"]

    def fingerprint(self) -> str:
        """SHA-256 of the files of the networks."""
        digest = hashlib.sha256()
        for name in self.parameters["networks"]:
            for file in sorted(model_directory(name).glob("*.safetensors")):
                digest.update(file.read_bytes())
        return digest.hexdigest()

    @cached_property
    def networks(self) -> list[tuple[TreeClassifier, World]]:
        """Each network with its world."""
        pairs = []
        for i, name in enumerate(self.parameters["networks"]):
            network = TreeClassifier.from_pretrained(model_directory(name)).eval()
            if not self.parameters["trained"]:
                initialise(network, derived_generator(self.parameters["seed"], i))
            data = TREE_CLASSIFIERS[name].data()
            if self.parameters["shuffled"]:
                data = replace(data, shuffled=True)
            world = _MixtureWorld if isinstance(data, TwoModeMixture) else _TreeWorld
            pairs.append((network, world(data, self.parameters["process"])))
        layouts = {(network.config.L, tuple(world.levels)) for network, world in pairs}
        if len(layouts) > 1:
            raise ValueError(
                f"networks must have the same number of layers and levels, got {sorted(layouts)}"
            )
        return pairs

    @cached_property
    def layers(self) -> list[str]:
        """The modules that are compared, every layer before and after its ReLU, and the logits."""
        n_layers = self.networks[0][0].config.L
        parts = [f"layers.{i}.{part}" for i in range(n_layers) for part in ("convolution", "relu")]
        return [*parts, "logits"]

    def prepare(self) -> xr.Dataset:
        """Statistics of the activations over held-out data, (network, layer, channel)."""
        scales = []
        for network, world in self.networks:
            data = world.data.test_images[:N_STATISTICS]
            scales.append(fit_standardisers(network, data.split(500), self.layers))
        n_channels = max(len(scale.mean) for scale in scales[0].values())

        def table(quantity):
            values = np.full((len(scales), len(self.layers), n_channels), np.nan, np.float32)
            for i, of_network in enumerate(scales):
                for k, scale in enumerate(of_network.values()):
                    channels = getattr(scale, quantity)
                    values[i, k, : len(channels)] = channels
            return ("network", "layer", "channel"), values

        return xr.Dataset({"mean": table("mean"), "std": table("std")})

    def measure(self, start: int, stop: int, prepared: xr.Dataset) -> xr.Dataset:
        """The experiment on blocks start..stop - 1.

        Args:
            start: first block.
            stop: one past the last.
            prepared: what :meth:`prepare` gave.

        Returns:
            Means over the data of each block, along ``noise`` and ``image``: ``similarity`` (also
            ``layer``), the cosine of :class:`~hierphase.analysis.representations.LayerSimilarity`;
            ``kept`` (also ``level``), the exact probability of keeping the symbols of a level;
            ``class_kept``, whether the network gives x̂0 the class of x_0.
        """
        blocks = [self._block(i, prepared) for i in range(start, stop)]
        return xr.concat(blocks, "image").assign_coords(image=np.arange(start, stop))

    def _block(self, image: int, prepared: xr.Dataset) -> xr.Dataset:
        i, block = divmod(image, self.parameters["n_blocks"])
        network, world = self.networks[i]
        seed, noise = self.parameters["seed"], self.parameters["noise"]
        size = self.parameters["block"]
        starts = world.starts(size, _derived_seed(seed, i, block))
        generator = derived_generator(seed, i, block)
        samples, kept = zip(
            *(world.denoised(starts, level, generator) for level in noise), strict=True
        )
        samples = torch.stack(samples)
        scales = {}
        for k, name in enumerate(self.layers):
            moments = [torch.from_numpy(prepared[part].values[i, k]) for part in ("mean", "std")]
            scales[name] = Standardiser(*(part[~part.isnan()] for part in moments))
        similarity = layer_similarity(network, starts[0], samples, scales)
        before = class_probabilities(network, starts[0]).argmax(1)
        after = torch.stack([class_probabilities(network, x).argmax(1) for x in samples])
        return xr.Dataset(
            {
                "similarity": (("layer", "noise"), similarity.cosine.mean(2).numpy()),
                "kept": (("noise", "level"), torch.stack(kept).mean(1).numpy()),
                "class_kept": ("noise", (after == before).float().mean(1).numpy()),
            },
            coords={"layer": self.layers, "level": world.levels, "noise": noise},
        )

    def finish(self, merged: xr.Dataset) -> xr.Dataset:
        """Add what belongs to the networks: their held-out accuracy, and the linear decoding.

        Args:
            merged: all blocks.

        Returns:
            Also ``accuracy`` (network) and, if asked for, ``decoding`` (network, read, level): the
            share of symbols of each level that are read from the leaves, from each layer after
            its ReLU, and from the logits.
        """
        accuracies, decoding = [], []
        n = self.parameters["n_decoding"]
        read = ["leaves", *(name for name in self.layers if not name.endswith("convolution"))]
        for i, (network, world) in enumerate(self.networks):
            data = world.data
            accuracies.append(accuracy(network, data.test_images, data.test_labels))
            if n:
                x_0, *levels = world.starts(n, _derived_seed(self.parameters["seed"], i))
                seen = {"leaves": x_0} | activations(network, x_0, read[1:])
                decoding.append(
                    [[linear_decoding(seen[name], level) for level in levels] for name in read]
                )
        merged = merged.assign(accuracy=("network", accuracies))
        merged = merged.assign_coords(network=self.parameters["networks"])
        if not n:
            return merged
        merged = merged.assign(decoding=(("network", "read", "level"), np.array(decoding)))
        return merged.assign_coords(read=read)


def _derived_seed(*numbers: int) -> int:
    """Seed of starting data that depends on ``numbers``; never one that TreeData uses itself."""
    generator = derived_generator(_FIRST_SEED, *numbers)
    return int(torch.randint(_FIRST_SEED, 2**32, (), generator=generator))
