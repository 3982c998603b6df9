"""What the layers of a CNN keep of x_0 in exactly denoised data, on a tree and where there is none.

x̂0 is drawn from the exact posterior, so that everything seen is due to the data and the network
that looks at them, nothing to a denoiser that had to be trained.
"""

from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import xarray as xr

from hierphase.analysis import representations
from hierphase.analysis.linear_probe import linear_decoding
from hierphase.analysis.two_mode_mixture import TwoModeMixture
from hierphase.checks import check_shape, increasing, within
from hierphase.diffusion.model_folders import load_model, model_files
from hierphase.experiments.base import Experiment
from hierphase.networks.catalogue import model_directory
from hierphase.networks.classifiers import accuracy, class_probabilities
from hierphase.networks.rhm_catalogue import N_RULE_DRAWS, TREE_CLASSIFIERS
from hierphase.networks.training import initialise
from hierphase.rhm.belief_propagation import BeliefPropagation
from hierphase.rhm.corruption import EpsilonProcess, GaussianProcess, ddpm_scheduler, encode
from hierphase.rhm.dataset import TreeData
from hierphase.seeds import derived_generator

N_STATISTICS = 4000  # held-out data from which activations are standardised
_FIRST_SEED = 2  # of the data that are noised; TreeData trains and tests with 0 and 1

_RHM_CNNS = [name for name in TREE_CLASSIFIERS if name.startswith("rhm-cnn")][:N_RULE_DRAWS]
_EPSILONS = [0.1, 0.3, 0.5, 0.6, 0.65, *(k / 50 for k in range(35, 46)), 0.93, 0.96, 1.0]
_TREE = {
    "networks": _RHM_CNNS, "trained": True, "shuffled": False, "process": "epsilon",
    "noise": _EPSILONS, "n_blocks": 32, "block": 8, "n_decoding": 0, "seed": 0,
}  # fmt: skip

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
_EVEN = _TREE | {"noise": [k / 40 for k in range(1, 41)], "n_blocks": 16, "block": 32}
for _name in TREE_CLASSIFIERS:
    if _name.endswith("-0"):  # the first of three draws of the rules of a structure
        PRESETS[_name[4:-2]] = _EVEN | {"networks": [f"{_name[:-1]}{seed}" for seed in range(3)]}


class TreeWorld(NamedTuple):
    """A Random Hierarchy Model, solved exactly; its leaves may be shuffled between data.

    Attributes:
        data: what they are drawn from.
        process: "epsilon", or "gaussian", whose levels are times 0 to T - 1.
    """

    data: TreeData
    process: str

    @property
    def levels(self) -> range:
        """Of the tree, those for which it is known what is kept."""
        return range(1 if self.data.shuffled else self.data.rhm.L + 1)

    def starts(self, n: int, *numbers: int) -> list[torch.Tensor]:
        """x_0 (n, v, d), and all levels of the tree; ``numbers`` say which data."""
        levels = self.data.sample(n, _derived_seed(*numbers))
        return [encode(levels[0], self.data.rhm.v), *levels]

    def draw(self, starts, noise, generator) -> tuple[torch.Tensor, torch.Tensor]:
        """x̂0 drawn from the posterior, and the probability (n, level) of each true symbol."""
        (x_0, *levels), rhm, bp = starts, self.data.rhm, BeliefPropagation(self.data.rhm)
        if log := self.process == "gaussian":
            process = GaussianProcess(ddpm_scheduler(), rhm.v)
            beliefs = process.log_beliefs(process.corrupt(levels[0], noise, generator), noise)
        else:
            beliefs = EpsilonProcess(rhm.v).beliefs(levels[0], noise)
        if not self.data.shuffled:
            posterior = bp(beliefs, log=log)
            leaves = posterior.sample(1, generator)[0][0]
            return encode(leaves, rhm.v), posterior.probability_of(levels)
        # Leaves are independent: only their shares at each position go with the beliefs.
        shares = bp(torch.ones(1, rhm.d, rhm.v)).marginals[0]
        posterior = shares * (beliefs.softmax(-1) if log else beliefs)
        posterior = posterior / posterior.sum(-1, keepdim=True)
        leaves = torch.multinomial(posterior.flatten(0, 1), 1, generator=generator)
        kept = (posterior * x_0.mT).sum(-1).mean(1, keepdim=True)
        return encode(leaves.view(len(x_0), -1), rhm.v), kept


class TwoModeWorld(NamedTuple):
    """Data of a mixture of two Gaussians; level 1 is the mode, level 0 the numbers themselves.

    Of these, which are not kept exactly, it is the cosine of x̂0 and x_0 that counts. The process is
    the Gaussian one.
    """

    data: TwoModeMixture
    levels: range = range(2)

    def starts(self, n: int, *numbers: int) -> tuple[torch.Tensor, torch.Tensor]:
        """x_0 (n, 1, d) and labels; ``numbers`` say which data."""
        return self.data.batch(n, derived_generator(_derived_seed(*numbers)))

    def draw(self, starts, noise, generator) -> tuple[torch.Tensor, torch.Tensor]:
        """x̂0 drawn from the posterior; its cosine with x_0, the probability of the true mode."""
        x_0, labels = starts
        alpha_bar = float(ddpm_scheduler().alphas_cumprod[noise])
        z = torch.randn(x_0.shape, generator=generator)
        x_t = alpha_bar**0.5 * x_0 + (1 - alpha_bar) ** 0.5 * z
        kept = self.data.class_posterior(x_t, alpha_bar).gather(1, labels[:, None])
        sample, _ = self.data.denoised(x_t, alpha_bar, generator)
        return sample, torch.cat([torch.cosine_similarity(x_0, sample, -1), kept], 1)


class ProbeExperiment(Experiment):
    """Exact forward-backward experiments, seen by the layers of networks.

    A unit is a block of data of one network, of which only means are kept: unit i is block
    i % n_blocks of network i // n_blocks.

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

    presets = PRESETS
    units = ("networks", "n_blocks")
    least = {"n_decoding": 0}
    choices = {"process": ("epsilon", "gaussian"), "networks": TREE_CLASSIFIERS}

    def __init__(self, parameters: dict):
        super().__init__(parameters)
        times = self.p.process == "gaussian"
        increasing("noise", self.p.noise, 1)
        within("noise", self.p.noise, 0, 999 if times else 1, integer=times)
        check_shape("networks", self.p.networks, "n")
        for name in self.p.networks:
            tree = isinstance(TREE_CLASSIFIERS[name].data(), TreeData)
            if not tree and (self.p.shuffled or not times):
                got = f"got {self.p.process} and shuffled {self.p.shuffled}"
                raise ValueError(f"{name} takes the process gaussian and no shuffled data, {got}")

    def check(self) -> None:
        """As of the base: networks of different depths do not fit."""
        self.networks  # noqa: B018 (raises)

    def files(self) -> dict[str, dict[str, Path]]:
        """Those of the networks."""
        return {f"files of {name}": model_files(model_directory(name)) for name in self.p.networks}

    @cached_property
    def networks(self) -> list[tuple[torch.nn.Module, TreeWorld | TwoModeWorld]]:
        """Each network with its world."""
        pairs, seed = [], self.p.seed
        for i, name in enumerate(self.p.networks):
            training = TREE_CLASSIFIERS[name]
            network = load_model(model_directory(name), type(training.model()))
            if not self.p.trained:
                initialise(network, derived_generator(seed, i))
            data = replace(training.data(), shuffled=True) if self.p.shuffled else training.data()
            tree = isinstance(data, TreeData)
            world = TreeWorld(data, self.p.process) if tree else TwoModeWorld(data)
            pairs.append((network, world))
        layouts = {(len(network.probed), len(world.levels)) for network, world in pairs}
        if len(layouts) > 1:
            raise ValueError(f"networks must have the same number of layers and levels: {layouts}")
        return pairs

    @property
    def layers(self) -> list[str]:
        """The modules that are compared."""
        return self.networks[0][0].probed

    def prepare(self) -> xr.Dataset:
        """Statistics of the activations of every network over held-out data."""
        statistics = []
        for network, world in self.networks:
            batches = world.data.test_images[:N_STATISTICS].split(500)
            scales = representations.fit_standardisers(network, batches, self.layers)
            statistics.append(representations.as_dataset(scales))
        return xr.concat(statistics, "network")

    def measure_unit(self, i: int, prepared: xr.Dataset) -> xr.Dataset:
        """The experiment on one block.

        Args:
            i: the unit.
            prepared: what :meth:`prepare` gave.

        Returns:
            Means over the data of the block, along ``noise``: ``similarity`` (also ``layer``), the
            cosine of :class:`~hierphase.analysis.representations.LayerSimilarity`; ``kept`` (also
            ``level``), the exact probability of keeping the symbols of a level; ``class_kept``,
            whether the network gives x̂0 the class of x_0.
        """
        i, block = divmod(i, self.p.n_blocks)
        network, world = self.networks[i]
        starts = world.starts(self.p.block, self.p.seed, i, block)
        own = derived_generator(self.p.seed, i, block)
        draws = zip(*(world.draw(starts, noise, own) for noise in self.p.noise), strict=True)
        samples, kept = map(torch.stack, draws)
        scales = representations.from_dataset(prepared.isel(network=i))
        similarity = representations.layer_similarity(network, starts[0], samples, scales)
        before = class_probabilities(network, starts[0]).argmax(1)
        after = torch.stack([class_probabilities(network, x).argmax(1) for x in samples])
        measured = {
            "similarity": (("layer", "noise"), similarity.cosine.mean(2).numpy()),
            "kept": (("noise", "level"), kept.mean(1).numpy()),
            "class_kept": ("noise", (after == before).float().mean(1).numpy()),
        }
        names = {"layer": self.layers, "level": list(world.levels), "noise": self.p.noise}
        return xr.Dataset(measured, names)

    def finish(self, merged: xr.Dataset) -> xr.Dataset:
        """Add what belongs to the networks: their held-out accuracy, and the linear decoding.

        Args:
            merged: all blocks.

        Returns:
            Also ``accuracy`` (network) and, if asked for, ``decoding`` (network, read, level): the
            share of symbols of each level that are read from the leaves, from each layer after
            its ReLU, and from the logits.
        """
        found = [accuracy(n, w.data.test_images, w.data.test_labels) for n, w in self.networks]
        merged = merged.assign(accuracy=("network", found)).assign_coords(network=self.p.networks)
        if not self.p.n_decoding:
            return merged
        read = ["leaves", *(name for name in self.layers if not name.endswith("convolution"))]
        decoding = []
        for i, (network, world) in enumerate(self.networks):
            x_0, *levels = world.starts(self.p.n_decoding, self.p.seed, i)
            seen = {"leaves": x_0} | representations.activations(network, x_0, read[1:])
            decoding.append([[linear_decoding(seen[name], x) for x in levels] for name in read])
        merged["decoding"] = ("network", "read", "level"), np.array(decoding)
        return merged.assign_coords(read=read)


def _derived_seed(*numbers: int) -> int:
    """Seed of starting data that depends on ``numbers``; never one that TreeData uses itself."""
    generator = derived_generator(_FIRST_SEED, *numbers)
    return int(torch.randint(_FIRST_SEED, 2**32, (), generator=generator))
