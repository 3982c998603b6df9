"""Again and again: noise a datum and draw it back from the posterior, step after step.

A step leaves the law of the data as it is and is reversible, so the chain is stationary from its
first datum on, and all pairs of its steps count. On trees and flat mixtures posteriors are exact;
images have a trained denoiser.
"""

import numpy as np
import torch
import xarray as xr

from hierphase.analysis.transition import crossing_time
from hierphase.checks import increasing, within
from hierphase.experiments.images import PRESETS, ImageExperiment
from hierphase.experiments.trees import TreeDraws, coordinates, jackknife, of_sizes
from hierphase.rhm.belief_propagation import BeliefPropagation
from hierphase.rhm.corruption import NOISES, log_likelihood
from hierphase.seeds import derived_generator

_TREE = {
    "trees": of_sizes((16, 4, 2, 6), (32, 8, 2, 6)),
    "noise": "masking", "rates": [0.15, 0.2, 0.27, 0.3, 0.35, 0.4, 0.46, 0.53, 0.64, 0.75],
    "n_rules": 12, "n_chains": 128, "n_steps": 100, "seed": 0,
}  # fmt: skip
_GAUSSIAN_RATES = [0.1, 0.11, 0.115, 0.12, 0.13, 0.14, 0.15, 0.16, 0.18, 0.2, 0.25]
_DEPTHS = {
    "trees": of_sizes(*((16, 4, 2, L) for L in (2, 3, 4, 5))),
    "rates": [0.15, 0.25, 0.35, 0.45, 0.55, 0.7], "n_chains": 256, "n_steps": 40,
}  # fmt: skip


class UTurns(TreeDraws):
    """Chains of corrupt-and-redraw steps on trees, for several draws of the rules of each.

    Args:
        parameters: ``trees``, each the arguments of
            :class:`~hierphase.rhm.model.RandomHierarchyModel`; ``noise``, "masking", "uniform" or
            "Gaussian", and its ``rates``, the fraction t/T of each; ``n_rules`` draws of the rules,
            of each ``n_chains`` chains of ``n_steps`` steps; ``seed``.

    Raises:
        ValueError: sizes without unambiguous rules, rates outside (0, 1), or a bad size.
    """

    presets = {
        "tree": _TREE,
        "depths": _TREE | _DEPTHS,
        "tree-gaussian": _TREE | {"noise": "Gaussian", "rates": _GAUSSIAN_RATES},
    }
    units = ("trees", "rates", "n_rules")
    least = TreeDraws.least | {"n_chains": 2}
    choices = {"noise": NOISES[1:]}  # the epsilon-process draws none
    between = ("rates",)
    padded = ("kept", "hops", "shared", "relaxation", "relaxation_low", "relaxation_high")

    def measure_unit(self, i: int, prepared: xr.Dataset) -> xr.Dataset:
        """The chains of one draw of the rules.

        Args:
            i: trees first, then rates, then draws in turn.
            prepared: not used.

        Returns:
            ``kept`` (step, level), the share of symbols that are those of as many steps before, 0
            for independent data, NaN above the class; ``hops``, how uneven the changes of class are
            over pairs of classes: the covariance over pairs of their numbers in the two halves of
            the chains, each relative to its mean (NaN where there are none); ``shared``, the
            covariance of these numbers with that of the pairs of top rules, one of each class, that
            have a symbol in common at a place, in units of its standard deviation.
        """
        pair, draw = divmod(i, self.p.n_rules)
        tree, rate = divmod(pair, len(self.p.rates))
        (rhm, _, seed), generator = self.drawn(tree, draw), derived_generator(self.p.seed, i, 1)
        infer, chain = BeliefPropagation(rhm), [rhm.sample(self.p.n_chains, seed=seed)]
        for _ in range(self.p.n_steps):
            seen = (self.p.noise, chain[-1][0], rhm.v, self.p.rates[rate], generator)
            posterior = infer(log_likelihood(*seen), log=True)
            chain.append([drawn[0] for drawn in posterior.sample(1, generator)])
        kept, n = np.full((len(chain), self.depth + 1), np.nan), len(chain)
        for level, shares in enumerate(infer(torch.ones(1, rhm.d, rhm.v)).marginals):
            steps = torch.stack([levels[level] for levels in chain])
            chance = shares.double().square().sum(-1).mean()
            same = [(steps[k:] == steps[: n - k]).double().mean() for k in range(n)]
            kept[:, level] = (torch.stack(same) - chance) / (1 - chance)
        classes, top = torch.stack([levels[-1][:, 0] for levels in chain]), rhm.rules[-1]
        pairs = rhm.n_classes * classes[:-1] + classes[1:]
        away = ~torch.eye(rhm.n_classes, dtype=torch.bool).flatten()
        halves = (pairs[:, k::2].flatten().bincount(minlength=len(away)) for k in (0, 1))
        uneven = [found[away] / found[away].double().mean() - 1 for found in halves]
        alike = (top[:, None, :, None] == top[:, None]).any(-1).double().sum((2, 3)).flatten()[away]
        of_both = torch.stack([*uneven, alike / alike.std(correction=0)]).cov(correction=0)
        hops = {"hops": of_both[0, 1].item(), "shared": of_both[:2, 2].mean().item()}
        return xr.Dataset({"kept": (("step", "level"), kept)} | hops)

    def finish(self, merged: xr.Dataset) -> xr.Dataset:
        """All draws (structure, rate, draw), and ``relaxation`` (structure, rate, level).

        That is the number of steps in which ``kept``, its mean over draws, falls to 1/e (NaN where
        it does not), with 95% intervals ``_low``, not below 0, and ``_high`` over the draws
        (jackknife).
        """
        merged = merged.drop_vars("unit", errors="ignore").coarsen(unit=self.p.n_rules)
        draws = merged.construct(unit=("pair", "draw")).coarsen(pair=len(self.p.rates))
        draws = draws.construct(pair=("structure", "rate")).assign_coords(rate=self.p.rates)
        kept = draws.kept.transpose("draw", "structure", "rate", "level", "step")
        for end, x in jackknife(lambda mean: relaxation(mean.values), kept).items():
            draws["relaxation" + end] = ("structure", "rate", "level"), np.maximum(x, 0)
        draws["kept"] = draws.kept.astype(np.float32)
        return draws.assign_coords(coordinates([x | {"noise": self.p.noise} for x in self.p.trees]))


class ImageUTurns(ImageExperiment):
    """Many small turns of each image, and single ones from several times.

    Args:
        parameters: those of :class:`~hierphase.experiments.images.ImageExperiment`, but for
            ``n_shown`` and ``n_times``: ``turns`` of the chain after which it is looked at, and
            ``times`` t/T of single turns, the first of which is that of the chain.

    Raises:
        ValueError: as for the image experiment, or turns or times, in (0, 1), that do not increase.
    """

    presets = {
        name: {key: x for key, x in PRESETS[name].items() if key not in ("n_times", "n_shown")}
        | {"n_per_class": 30, "layers": ["stages.0", "logits"], "batch_size": 16}
        | {"turns": [1, 2, 4, 8, 12, 16, 20], "times": [0.25, 0.4, 0.45, 0.5, 0.55]}
        for name in ("fashion-mnist", "flat-fashion-mnist")
    }
    least = {}  # n_shown, of which none may be shown, is not among the parameters
    between = ("times",)
    unit_dimensions = ("image",)

    def __init__(self, parameters: dict):
        super().__init__(parameters)
        increasing("turns", within("turns", self.p.turns, 1, torch.inf, integer=True), 1)

    def times(self) -> torch.Tensor:
        """(n,) times of single turns, 0 to T."""
        T = self.world.scheduler.config.num_train_timesteps
        return (T * torch.tensor(self.p.times, dtype=torch.float64)).round().long()

    def measure(self, start: int, stop: int, prepared: xr.Dataset) -> xr.Dataset:
        """Turns of images start..stop - 1.

        Arguments are those of :meth:`hierphase.experiments.base.Experiment.measure`.

        Returns:
            Along ``time`` and ``image``: ``top_class`` that the classifier sees; ``change``, the
            mean squared change of a pixel since x_0; ``norm``, the mean square of a pixel about the
            mean image; ``similarity`` to x_0 (also ``layer``). First are x_0 and the chain
            after ``turns``, then single turns: ``turns`` counts them, ``time`` is t/T of each
            (also ``ln_snr``).
        """
        x_0, single = self.round_trips(start, stop, self.times())
        x, turns = self.world.starts(range(start, stop)), self.p.turns
        chain, own = [x_0], self.generators(range(start, stop), 1)
        for n in range(1, turns[-1] + 1):
            back = self.world.denoised(x, single.ln_snr[:1].tolist(), own)
            x = [back.samples[0], x[1] if back.classes is None else back.classes[0]]
            chain += [x[0].to(self.device)] * (n in turns)
        samples = torch.cat([torch.stack(chain), single.samples])
        level = torch.tensor([torch.inf, *[single.ln_snr[0]] * len(turns), *single.ln_snr])
        seen = self.compared(x_0, samples, level, prepared)
        measured = seen[["similarity"]].assign(top_class=seen.top_class[..., 0])
        mean_image = torch.from_numpy(prepared.mean_image.values).to(self.device)
        for name, origin in {"change": x_0, "norm": mean_image}.items():
            measured[name] = ("time", "image"), (samples - origin).square().flatten(2).mean(2).cpu()
        turns = "time", [0, *turns, *[1] * len(single.ln_snr)]
        return measured.assign_coords(turns=turns, image=range(start, stop))

    def finish(self, merged: xr.Dataset) -> xr.Dataset:
        """All images; of ``norm`` their mean (time), and its standard error ``norm_error``."""
        norm, n = merged.norm, len(self)
        return merged.assign(norm=norm.mean("image"), norm_error=norm.std("image") / n**0.5)


def relaxation(kept: np.ndarray) -> np.ndarray:
    """Steps in which what is kept falls to 1/e, its logarithm interpolated between steps.

    Args:
        kept: (..., steps + 1), from 1 at step 0 on.

    Returns:
        (...), NaN where it does not fall so far.
    """
    return crossing_time(np.arange(kept.shape[-1]), np.log(np.maximum(kept, 1e-12)), -1)
