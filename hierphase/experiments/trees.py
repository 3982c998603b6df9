"""What experiments on trees share: several draws of the rules of each, and means over these."""

import numpy as np
import xarray as xr
from scipy import stats

from hierphase.checks import check_known
from hierphase.experiments.base import Experiment
from hierphase.rhm.corruption import NOISES
from hierphase.rhm.model import RandomHierarchyModel
from hierphase.seeds import derived_generator

#: What may be said of a tree, its sizes first.
PARTS = ("v", "m", "s", "L", "n_classes", "zipf", "noise")


def of_sizes(*sizes: tuple[int, int, int, int]) -> list[dict[str, int]]:
    """Trees of these (v, m, s, L), as the parameter ``trees`` takes them."""
    return [dict(zip(PARTS, of_tree, strict=False)) for of_tree in sizes]


class TreeDraws(Experiment):
    """An experiment whose units are draws of the rules: trees first, their draws in turn.

    Args:
        parameters: among others ``trees``, each the arguments of
            :class:`~hierphase.rhm.model.RandomHierarchyModel`, ``n_rules`` draws of the rules of
            each, and ``seed``.

    Raises:
        ValueError: as :func:`model`, or a bad size.

    Attributes:
        depth: L of the deepest tree.
    """

    units = ("trees", "n_rules")
    least = {"n_rules": 2}

    def __init__(self, parameters: dict):
        super().__init__(parameters)
        self.depth = max([model(tree)[0].L for tree in self.p.trees], default=0)

    def drawn(self, tree: int, draw: int) -> tuple[RandomHierarchyModel, str, int]:
        """A tree with a draw of its rules, its noise, and a seed of the draw for the data."""
        seed = derived_generator(self.p.seed, draw).initial_seed()
        return *model(self.p.trees[tree], seed), seed

    def by_draw(self, merged: xr.Dataset) -> xr.Dataset:
        """All units along ``structure``, with the sizes of the trees, and ``draw``."""
        draws = merged.drop_vars("unit", errors="ignore").coarsen(unit=self.p.n_rules)
        return draws.construct(unit=("structure", "draw")).assign_coords(coordinates(self.p.trees))


def model(tree: dict, seed: int = 0) -> tuple[RandomHierarchyModel, str]:
    """The tree and the noise that one of ``trees`` says.

    Raises:
        ValueError: an unknown key or noise, a missing size, or sizes without unambiguous rules.
    """
    if not isinstance(tree, dict) or not {*PARTS[:4]} <= tree.keys() <= {*PARTS}:
        raise ValueError(f"each of trees must say v, m, s and L, at most {PARTS}, got {tree!r}")
    arguments = {"noise": "epsilon"} | tree
    check_known("noise", noise := arguments.pop("noise"), NOISES)
    return RandomHierarchyModel(**arguments, seed=seed), noise


def jackknife(statistic, draws) -> dict:
    """A statistic of the mean over draws, and as ``_low`` and ``_high`` its 95% interval.

    By Student's t. The names are the ends of those of variables; that of the statistic is empty.

    Args:
        statistic: of a mean, an array.
        draws: an xarray with a dimension ``draw``.
    """
    n = draws.sizes["draw"]
    without = [statistic(draws.drop_isel(draw=k).mean("draw")) for k in range(n)]
    error = stats.t.ppf(0.975, n - 1) * np.std(without, axis=0) * (n - 1) ** 0.5
    value = statistic(draws.mean("draw"))
    return {"": value, "_low": value - error, "_high": value + error}


def coordinates(trees: list[dict]) -> dict:
    """Sizes of the trees along ``structure``; m is a mean over levels."""
    default = {"zipf": 0.0, "noise": "epsilon"}
    full = [{"n_classes": tree["v"]} | default | tree | {"m": np.mean(tree["m"])} for tree in trees]
    return {name: ("structure", [tree[name] for tree in full]) for name in PARTS}
