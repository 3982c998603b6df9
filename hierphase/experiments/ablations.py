"""The transition on trees of any structure, exactly: where it is, how wide, what changes together.

One code, :func:`read_off`, reads the same numbers off belief propagation and off mean field.
"""

import contextlib
import math
from functools import partial

import numpy as np
import torch
import xarray as xr
from scipy.interpolate import CubicSpline, PchipInterpolator
from scipy.optimize import brentq

from hierphase.analysis.transition import crossing_time
from hierphase.experiments.trees import TreeDraws, jackknife, model, of_sizes
from hierphase.rhm import meanfield
from hierphase.rhm.belief_propagation import BeliefPropagation
from hierphase.rhm.corruption import NOISES, log_likelihood
from hierphase.rhm.model import RandomHierarchyModel
from hierphase.seeds import derived_generator

#: What is read off the curves of a tree, see :func:`read_off`.
QUANTITIES = "half width_75_25 lead crossing deficit leaf leaf_slope chi_max chi_epsilon".split()
_PARTS = ("", "_low", "_high", "_theory", "_draws")
_POPULATION = 1 << 14  # beliefs, where mean field has to follow many
_STEP = 1e-4  # of noise, relative, for slopes
# Noises are dense around half-way and reach far: so many widths, in the logit of u.
_OFFSETS = 0.6 * np.sinh(np.linspace(-4, 4, 49))

# "v,m" by s, and depths, up to about 2000 leaves.
_SETS = {
    2: "6,2 8,2 8,3 12,3 16,2 16,4 16,6 24,6 32,4 32,6 32,8 32,12 64,8 64,16 "
    "6,4 8,5 16,10 32,20 16,1 32,1",  # these without a transition
    3: "6,4 6,8 8,4 8,16 12,6 16,8 16,32 6,16 8,1 8,2",
    4: "6,4 6,16 8,8 10,20 10,3",
}
_DEPTHS = {2: (7, 9, 11), 3: (4, 5, 7), 4: (3, 4, 5)}
_MAPPED = [
    (*map(int, pair.split(",")), s, L)
    for s, pairs in _SETS.items()
    for pair in pairs.split()
    for L in _DEPTHS[s]
]
_MAP = of_sizes(*_MAPPED, (32, 8, 2, 14))
_RULES = [{}, {"zipf": 0.5}, {"zipf": 1.0}, {"zipf": 2.0}, {"n_classes": 4}, {"n_classes": 128}]
_KINDS = [
    {"v": 32, "m": 8, "s": 2, "L": L, "noise": noise} | kind
    for L in (6, 8)
    for kind in (*_RULES, {"m": [4, 12] * (L // 2)})
    for noise in NOISES
]
_SIZES = {"n_rules": 8, "n_leaves": 1 << 14, "seed": 0}
_NEAR_HALF = slice(16, 33, 2)  # of the noises, within a width of half-way
# m = v/4 and v/8 for the growth of the spread, m = 2 where averages mean little, and s = 3.
_DRAWN = of_sizes(
    (8, 2, 2, 6), (16, 4, 2, 6), (32, 8, 2, 6), (64, 16, 2, 6), (16, 2, 2, 6), (32, 4, 2, 6),
    (64, 8, 2, 6), (8, 4, 3, 4), (16, 8, 3, 4), (16, 6, 2, 6), (16, 4, 2, 8),
)  # fmt: skip


class TreeMap(TreeDraws):
    """The transition of many trees, for several draws of the rules of each.

    Args:
        parameters: ``trees``, each the arguments of
            :class:`~hierphase.rhm.model.RandomHierarchyModel` and ``noise``, one of
            :data:`~hierphase.rhm.corruption.NOISES`, by default epsilon; ``n_rules`` draws of the
            rules of each tree, the units; of each draw as many data as have ``n_leaves`` leaves, at
            least four; ``seed``.

    Raises:
        ValueError: sizes without unambiguous rules, an unknown noise, or a bad size.
    """

    presets = {"map": _SIZES | {"trees": _MAP}, "kinds": _SIZES | {"trees": _KINDS}}
    padded = ("slope", "variance", *(name + part for name in QUANTITIES for part in _PARTS))

    def prepare(self) -> xr.Dataset:
        """The noises ``u`` (structure, position), and what mean field says there."""
        theory = [theory_curves(*model(tree), self.p.seed) for tree in self.p.trees]
        return xr.concat(theory, "structure")

    def measure_unit(self, i: int, prepared: xr.Dataset) -> xr.Dataset:
        """One draw of the rules of one tree.

        Args:
            i: trees first, their draws in turn.
            prepared: what :meth:`prepare` gave.

        Returns:
            As :func:`exact_curves`.
        """
        tree, draw = divmod(i, self.p.n_rules)
        rhm, noise, seed = self.drawn(tree, draw)
        return exact_curves(rhm, noise, prepared.u[tree].values, self.p.n_leaves, seed)

    def finish(self, merged: xr.Dataset) -> xr.Dataset:
        """What is read off each tree's curves, the means over its draws, beside mean field.

        Returns:
            Along ``structure``, coordinates v, m (a mean over levels), s, L, n_classes, zipf and
            noise: :data:`QUANTITIES`, with 95% intervals ``_low`` and ``_high`` over the draws
            (jackknife), ``_theory``, and as ``_draws`` (structure, draw) those of each draw alone;
            the curves ``known`` (structure, draw, position, of) and ``epsilon``, the noise.
        """
        draws = self.by_draw(merged)
        theory, n = self.prepare(), self.p.n_rules
        found = []  # (structure, part, quantity), parts also of each draw alone
        for i, tree in enumerate(self.p.trees):
            rhm, curves = model(tree)[0], draws.isel(structure=i)
            intervals = jackknife(partial(read_off, rhm=rhm), curves).values()
            here = theory.isel(structure=i).assign(epsilon=curves.epsilon.mean("draw"))
            alone = (read_off(curves.isel(draw=k), rhm) for k in range(n))
            found.append([*intervals, read_off(here, rhm), *alone])
        result = draws[["epsilon", "known"]].astype(np.float32)
        for name, numbers in zip(QUANTITIES, np.array(found).T, strict=True):
            for part, values in zip(_PARTS, (*numbers[:4], numbers[4:].T), strict=True):
                result[name + part] = ("structure", "draw")[: values.ndim], values
        return result


class RuleDraws(TreeMap):
    """Half-way noise of the class for single draws of the rules, beside what is predicted of each.

    Args:
        parameters: as of :class:`TreeMap`; all noise is that of the epsilon-process.
    """

    presets = {"rule-draws": {"n_rules": 32, "n_leaves": 1 << 14, "seed": 0, "trees": _DRAWN}}
    padded = ("slope",)

    def measure_unit(self, i, prepared):
        """One draw: ``half``, of two independent samples of data, and ``half_quenched``."""
        tree, draw = divmod(i, self.p.n_rules)
        (rhm, noise, _), u = self.drawn(tree, draw), prepared.u[tree].values[_NEAR_HALF]
        seeds = (derived_generator(self.p.seed, draw, sample).initial_seed() for sample in (1, 2))
        samples = [exact_curves(rhm, noise, u, self.p.n_leaves, own) for own in seeds]
        middle = (1 + 1 / rhm.n_classes) / 2
        halves = [crossing_time(curves.epsilon, curves.known[:, 2], middle) for curves in samples]
        predicted = meanfield.quenched_half_epsilon(rhm)
        return xr.Dataset({"half": ("sample", halves), "half_quenched": predicted})

    def finish(self, merged):
        """All draws (structure, draw); ``half_error``, the standard error of ``half``."""
        found = self.by_draw(merged)
        error = abs(found.half.diff("sample")).isel(sample=0) / 2
        return found.assign(half=found.half.mean("sample"), half_error=error)


def exact_curves(rhm: RandomHierarchyModel, noise: str, noises, n_leaves: int, seed: int):
    r"""What belief propagation knows of data of one draw of the rules, against noise.

    In the epsilon-process the posterior is that of the tree times
    :math:`\exp(h \sum_i 1[x_i = x_i^0])`, h the log-odds of a leaf. So the susceptibility is a
    slope, :math:`\chi = \partial_h \langle P \rangle / \langle P (1 - P) \rangle`, P the
    probability of a leaf's true symbol.

    Args:
        rhm: the model.
        noise: one of :data:`~hierphase.rhm.corruption.NOISES`.
        noises: (position,) its levels u in (0, 1); what is drawn is the same at all.
        n_leaves: of all data together, at least four of which are drawn.
        seed: of the data and the noise.

    Returns:
        Data set along ``position``: ``epsilon``, that of the epsilon-process of equal mean belief
        in the true leaf; ``known`` (position, of), the mean probability of the true symbol of the
        leaves, of level 1 and of the class; ``slope`` (NaN for other noises) and ``variance``, the
        two parts of the susceptibility.
    """
    levels, infer = rhm.sample(max(n_leaves // rhm.d, 4), seed=seed), BeliefPropagation(rhm)

    def of_truth(u):
        """What is known at three levels, the variance of a leaf, the belief in it, its log-odds."""
        generator = torch.Generator().manual_seed(seed % 2**63)
        beliefs = log_likelihood(noise, levels[0], rhm.v, u, generator, T=20_000)
        posterior, truth = infer(beliefs, log=True), levels[0][..., None]
        leaf, belief = (x.gather(2, truth) for x in (posterior.marginals[0], beliefs.softmax(-1)))
        known, belief = posterior.probability_of(levels).mean(0)[[0, 1, -1]], belief.mean()
        return [*known, (leaf * (1 - leaf)).mean(), belief, belief.logit()]

    steps = (-_STEP, _STEP) if noise == "epsilon" else (0,)
    found = [[of_truth(u + step * u * (1 - u)) for step in steps] for u in noises]
    found = xr.DataArray(np.array(found), dims=("position", "step", "of"))
    mean, change = found.mean("step"), found[:, -1] - found[:, 0]
    curves = xr.Dataset({"known": mean[:, :3], "variance": mean[:, 3]})
    curves["slope"] = change[:, 0] / change[:, 5]  # 0 / 0 of a single step
    return curves.assign(epsilon=(1 - mean[:, 4]) / (1 - 1 / rhm.v))


def in_theory(rhm: RandomHierarchyModel, noise: str, u: float, seed: int):
    """What mean field says at one noise; of many beliefs, unless all of a level are equal.

    Args:
        rhm: the model; its rules are not used.
        noise: one of :data:`~hierphase.rhm.corruption.NOISES`.
        u: its level in (0, 1).
        seed: of the noise, and of the rules and the siblings that beliefs meet.

    Returns:
        ``epsilon``, as of :func:`exact_curves`, and (L+1,) the mean probability of the true symbol
        of each level, from the leaves to the class.
    """
    sizes, leaves = (rhm.v, rhm.m, rhm.s, rhm.L), torch.zeros(_POPULATION, 1, dtype=torch.long)
    if noise == "epsilon" and not rhm.zipf:
        return u, meanfield.profile(u, *sizes, rhm.n_classes)
    generator = torch.Generator().manual_seed(seed)
    beliefs = log_likelihood(noise, leaves, rhm.v, u, generator, T=20_000).softmax(-1)
    population = beliefs[:, 0, 0].numpy()
    known = meanfield.population_profile(population, *sizes, seed, rhm.n_classes, rhm.zipf)
    return (1 - population.mean()) / (1 - 1 / rhm.v), known


def theory_curves(rhm: RandomHierarchyModel, noise: str, seed: int) -> xr.Dataset:
    """What mean field says of the same.

    Args:
        rhm, noise, seed: as of :func:`in_theory`.

    Returns:
        As :func:`exact_curves`, without ``epsilon``; and ``u``, the noises, around the fall of the
        class. The susceptibility is NaN for trees that are not alike at all levels, too.
    """

    def known(u):
        return in_theory(rhm, noise, u, seed)[1]

    def above(u, share):
        return known(u)[-1] - share - (1 - share) / rhm.n_classes

    ends = 1e-6, 1 - 1e-9
    early, half, late = (brentq(above, *ends, args=share, xtol=1e-6) for share in (0.75, 0.5, 0.25))
    logit = math.log(half / (1 - half)) + _OFFSETS * (late - early) / (half * (1 - half))
    noises = (1 / (1 + np.exp(-logit))).clip(1e-5, 1 - 1e-9)
    alike = isinstance(rhm.m, int) and rhm.n_classes == rhm.v and not rhm.zipf
    chi = np.full(len(noises), math.nan)
    for i, u in enumerate(noises if alike and noise == "epsilon" else ()):
        with contextlib.suppress(ValueError):  # so little noise that beliefs round to 1
            chi[i] = meanfield.susceptibility(u, rhm.v, rhm.m, rhm.s, rhm.L)
    curves = {"u": ("position", noises), "slope": ("position", chi)}
    curves["known"] = ("position", "of"), [known(u)[[0, 1, -1]] for u in noises]
    return xr.Dataset(curves | {"variance": ("position", np.ones(len(noises)))})


def read_off(curves: xr.Dataset, rhm: RandomHierarchyModel) -> np.ndarray:
    """Where and how the class of a tree is lost, K being what is known beyond chance.

    Args:
        curves: as from :func:`exact_curves`.
        rhm: the model.

    Returns:
        :data:`QUANTITIES`, in units of the noise epsilon: ``half``, where K of the class is .5;
        ``width_75_25``, of its fall from .75 to .25; ``lead`` and ``deficit``, by how much K of the
        class is at most above that of level 1 before half-way, and below it after, and
        ``crossing``, where it comes to be the smaller (NaN where it never does); ``leaf`` and
        ``leaf_slope``, K of the leaves at half-way and its slope; ``chi_max``, the largest
        susceptibility, and where, ``chi_epsilon``.
    """
    # where nothing is known any more, noises may differ by rounding alone
    epsilon, order = np.unique(curves.epsilon.values.round(12), return_index=True)
    chance = 1 / np.array([rhm.v, rhm.n_symbols(1), rhm.n_classes])
    kept = (curves.known.values - chance) / (1 - chance)
    known, places = np.arange(len(epsilon)), np.linspace(0, len(epsilon) - 1, 4000)
    fine = np.interp(places, known, epsilon)
    leaf, level_1, top = PchipInterpolator(epsilon, np.nan_to_num(kept[order]))(fine).T
    # a spline has its maximum between the noises, monotone pieces would have it at one of them
    of_noises = (curves.slope / curves.variance).values[order]
    chi = CubicSpline(known, np.nan_to_num(of_noises))(places)
    early, half, late = (crossing_time(fine, top, share) for share in (0.75, 0.5, 0.25))
    before, after = fine < half, fine > half
    ahead, peak = top - level_1, chi.argmax()
    crossing = crossing_time(fine, ahead, 0) if ahead[before].max() > 0 else math.nan
    slope = np.interp(half, fine, np.gradient(leaf, fine))
    of_chi = (chi[peak], fine[peak]) if np.isfinite(of_noises).any() else (math.nan, math.nan)
    gaps = ahead[before].max(), crossing, -ahead[after].min()
    return np.array([half, late - early, *gaps, np.interp(half, fine, leaf), slope, *of_chi])
