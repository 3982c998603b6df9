"""When is each level of a tree decided: the entropy of its symbols given what noise has left."""

import numpy as np
import torch
import xarray as xr

from hierphase.experiments.trees import TreeDraws, jackknife, of_sizes
from hierphase.rhm.belief_propagation import BeliefPropagation
from hierphase.rhm.corruption import NOISES, encode, log_likelihood
from hierphase.seeds import derived_generator

_TREE = {
    "trees": of_sizes((32, 8, 2, 6), (16, 4, 2, 6), (8, 4, 3, 4)),
    "noise": "epsilon", "noises": [0.001, *(k / 50 for k in range(1, 50)), 0.999],
    "n_rules": 16, "n_data": 64, "seed": 0,
}  # fmt: skip
_TIMES = [k / 100 for k in range(2, 41)]
_PARTS = ("entropy", "given_class", "mmse", "mmse_given_class", "gap", "gap_spread")
_MEANS = (*_PARTS, "information", "lead")


class LevelEntropy(TreeDraws):
    """Entropies of all levels of trees, exactly, for several draws of the rules.

    Args:
        parameters: ``trees``, each the arguments of
            :class:`~hierphase.rhm.model.RandomHierarchyModel`; ``noise`` by name, and its levels
            ``noises``, epsilon or t/T; ``n_rules`` draws of the rules of each tree, of each
            ``n_data`` data; ``seed``.

    Raises:
        ValueError: sizes without unambiguous rules, noises outside (0, 1), or a bad size.
    """

    presets = {
        "tree": _TREE,
        "tree-gaussian": _TREE | {"noise": "Gaussian", "noises": _TIMES},
        "tree-masking": _TREE | {"noise": "masking"},
    }
    choices = {"noise": NOISES}
    between = ("noises",)
    padded = tuple(name + end for name in _MEANS for end in ("", "_low", "_high"))

    def measure_unit(self, i: int, prepared: xr.Dataset) -> xr.Dataset:
        """One draw of the rules of one tree.

        Args:
            i: trees first, their draws in turn.
            prepared: not used.

        Returns:
            Means over data and the nodes of a level (noise, level), NaN above the class:
            ``entropy`` of the posterior of a node in nats; ``given_class`` the same where the class
            is known too. ``mmse`` (noise), the posterior variance of the code of all leaves
            together; ``mmse_given_class``; ``gap``, by how much the log-likelihood of the own class
            is above that of another (of e^690 at most), and ``gap_spread``, its standard deviation
            over data and other classes.
        """
        tree, draw = divmod(i, self.p.n_rules)
        rhm, _, seed = self.drawn(tree, draw)
        levels, n = rhm.sample(self.p.n_data, seed=seed), len(self.p.noises)
        x_0, labels = encode(levels[0], rhm.v).mT, levels[-1][:, 0]
        every = [(torch.arange(len(x_0)), rhm)]
        known = [((labels == c).nonzero()[:, 0], rhm.of_class(c)) for c in labels.unique().tolist()]
        entropy, of_data = np.full((2, n, self.depth + 1), np.nan), np.zeros((4, n))
        entropy[..., : rhm.L + 1] = 0
        for k, u in enumerate(self.p.noises):
            generator = derived_generator(self.p.seed, draw, 1)  # the same at all levels
            log = log_likelihood(self.p.noise, levels[0], rhm.v, u, generator, T=20_000)
            for given, parts in enumerate((every, known)):
                for rows, one in parts:
                    posterior = BeliefPropagation(one)(log[rows], log=True)
                    marginals, share = posterior.marginals, len(rows) / len(x_0)
                    entropies = [share * torch.special.entr(p).sum(-1).mean() for p in marginals]
                    entropy[given, k, : rhm.L + 1] += entropies
                    missed = (x_0[rows] - marginals[0]).square().sum((1, 2)).mean()
                    of_data[given, k] += share * missed
                if not given:
                    likelihood = posterior.messages[-1][:, 0].clamp(min=1e-300).log()
                    gap = likelihood.gather(1, levels[-1]) - likelihood
                    gap = gap[torch.arange(rhm.n_classes) != levels[-1]]
                    of_data[2:, k] = gap.mean(), gap.std()
        measured = {name: (("noise", "level"), entropy[i]) for i, name in enumerate(_PARTS[:2])}
        measured |= {name: ("noise", of_data[i]) for i, name in enumerate(_PARTS[2:])}
        return xr.Dataset(measured)

    def finish(self, merged: xr.Dataset) -> xr.Dataset:
        """Means over draws (structure, noise, ...), with 95% intervals ``_low`` and ``_high``.

        Also of ``information``, what the class and a node say of each other (nats), and of
        ``lead``, the gap less its spread. Of each draw (structure, draw, noise) ``class_entropy``,
        that of the class, and ``class_mmse``, by how much knowing the class lessens the variance.
        """
        draws = self.by_draw(merged)
        draws["information"] = draws.entropy - draws.given_class
        draws["lead"] = draws.gap - draws.gap_spread
        found = xr.Dataset({"class_entropy": draws.entropy.isel(level=draws.L)})
        found["class_mmse"] = draws.mmse - draws.mmse_given_class
        for name in _MEANS:
            for end, x in jackknife(lambda mean: mean, draws[name]).items():
                found[name + end] = x
        return found.astype(np.float32).assign_coords(noise=self.p.noises)
