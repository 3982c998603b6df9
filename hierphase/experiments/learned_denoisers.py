"""Denoisers trained on P data of a tree against the exact one: losses, levels kept, levels valid.

One unit of the sweep is one denoiser. The exact one, belief propagation, is an entry like the
others and goes through the same code.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
import xarray as xr

from hierphase.analysis.calibration import calibration
from hierphase.checks import positive_integer
from hierphase.diffusion.forward_backward import ForwardBackwardPipeline
from hierphase.diffusion.model_folders import load_model, model_files
from hierphase.experiments.base import Experiment
from hierphase.networks import rhm_catalogue
from hierphase.networks.catalogue import model_directory
from hierphase.networks.objectives import SAMPLER, SCHEDULE
from hierphase.rhm.bayes_denoiser import BayesDenoiser
from hierphase.rhm.belief_propagation import BeliefPropagation
from hierphase.rhm.corruption import GaussianProcess, encode
from hierphase.rhm.dataset import TreeData
from hierphase.seeds import derived_generator

# Independent streams of the experiment's seed.
_LOSS, _TRAIN_LOSS, _KEPT, _GENERATED, _CALIBRATION = range(5)
#: ln SNR of the levels at which denoisers are tested for calibration.
CALIBRATED_AT = (1.5, 0.0)

_OF_UNETS = [list(rhm_catalogue.TREE_SIZES), [*(2**k for k in range(3, 12)), 8192]]
_TREE = {
    "sizes": {"unet": _OF_UNETS, "transformer": [[128, 512, 2048, 8192]]},
    "n_loss_data": 1000, "n_loss_times": 40, "n_data": 256, "n_times": 13, "last_time": 360,
    "n_samples": 1000, "num_inference_steps": 100, "batch_size": 512, "seed": 0,
}  # fmt: skip
_FEW = {"n_loss_times": 10, "n_samples": 400}
#: Preset -> the parameters of :class:`DenoiserExperiment`.
PRESETS = {"tree": _TREE} | {
    name: _TREE | _FEW | {"sizes": {name: [sizes] * n_draws}}
    for sizes in [list(rhm_catalogue.OTHER_SIZES)]
    for name, n_draws in rhm_catalogue.TREE_DRAWS.items()
    if "-" in name
}


class DenoiserExperiment(Experiment):
    """Every denoiser on held-out data of its own rules.

    Args:
        parameters: those of a preset: ``sizes`` for each architecture one list for each draw of the
            rules, of the training set sizes (None for fresh data); ``n_loss_data`` held-out data
            and ``n_loss_times`` times, evenly from 0 to T-1, for the losses; ``n_data`` held-out
            data that are noised up to ``n_times`` times, evenly from 0 to ``last_time``, and
            denoised; ``n_samples`` data generated from pure noise; ``num_inference_steps`` of the
            whole way, at least 20; ``batch_size`` rows per model call; ``seed`` of all noise.

    Raises:
        ValueError: a missing, unknown or bad parameter.
        FileNotFoundError: a denoiser that has not been trained; the message names the command.

    Attributes:
        entries: all denoisers, belief propagation for each draw of the rules, then the trained
            ones. Of each the architecture, "bayes" or a key of
            :data:`~hierphase.networks.rhm_catalogue.TREE_DENOISERS`, the size P of the training set
            (None for fresh data, and for "bayes"), and the draw, the seed of the rules.
        times: (n_times,) reversal times, 0 to ``last_time``.
        loss_times: (n_loss_times,) times of the losses, 0 to T - 1.
    """

    presets = PRESETS
    least = {"num_inference_steps": 20}  # fewer have none near the levels of the calibration
    most = Experiment.most | {"last_time": 1000, "n_loss_times": 1000, "num_inference_steps": 1000}
    choices = {"sizes": rhm_catalogue.TREE_DENOISERS}
    padded = ("P",)

    def __init__(self, parameters: dict):
        super().__init__(parameters)
        trees = {rhm_catalogue.TREE_DENOISERS[name][1:] for name in self.p.sizes}
        if len(trees) > 1:
            got = f"got {trees}, m and L, of {[*self.p.sizes]}"
            raise ValueError(f"sizes must be of one tree, {got}")
        positive_integer("n_times", self.p.n_times, 1, self.p.last_time + 1)
        self.times = np.linspace(0, self.p.last_time, self.p.n_times).round().astype(int)
        self.T = SCHEDULE.config.num_train_timesteps
        self.loss_times = np.linspace(0, self.T - 1, self.p.n_loss_times).round().astype(int)
        n_draws = max(map(len, self.p.sizes.values()), default=1)
        self.entries = [("bayes", None, draw) for draw in range(n_draws)]
        for name, draws in self.p.sizes.items():
            self.entries += [(name, P, draw) for draw, Ps in enumerate(draws) for P in Ps]

    def __len__(self) -> int:
        return len(self.entries)

    def files(self) -> dict[str, dict[str, Path]]:
        """Those of all trained denoisers."""
        names = [rhm_catalogue.tree_denoiser_name(*x) for x in self.entries if x[0] != "bayes"]
        return {f"files of {name}": model_files(model_directory(name)) for name in names}

    @torch.no_grad()
    def measure_unit(self, i: int, prepared: xr.Dataset) -> xr.Dataset:
        """The experiment on one denoiser.

        Args:
            i: of ``entries``.
            prepared: not used.

        Returns:
            ``architecture``, ``draw`` and ``P`` (NaN for fresh data and for "bayes"). Along
            ``loss_time``: ``loss`` and ``train_loss``, mean squared error of the predicted noise on
            held-out and on training data (fresh ones where there is no training set),
            ``bayes_loss`` and ``bayes_train_loss``, those of belief propagation on the same x_t;
            ``gap``, held-out loss above Bayes', ``distance``, the mean squared difference of the
            two predictions, which has the same expectation, and the standard errors of both. Along
            ``time``, ``datum`` and ``level``: ``kept``, how many symbols of x̂0(t) are those of
            x_0. Along ``sample`` and ``level``, of generated data: ``valid``, how many nodes can be
            parsed, and ``candidates``, how many have children that all can. Along ``sample``:
            ``nearest``, Hamming distance to the nearest training datum; ``nearest_held_out``
            (datum) the same of held-out data; -1 without a training set. Along ``ln_snr`` and
            ``part``: ``calibration``, its value, low and high on ``n_loss_data`` held-out data
            (:func:`~hierphase.analysis.calibration.calibration`).
        """
        architecture, P, draw = self.entries[i]
        rhm = rhm_catalogue.tree_rhm(draw, *[*self.p.sizes][:1])
        data = TreeData(rhm, P=P)
        model = bayes = BayesDenoiser(BeliefPropagation(rhm), SCHEDULE)
        if architecture != "bayes":
            name = rhm_catalogue.tree_denoiser_name(architecture, P, draw)
            model = load_model(model_directory(name), rhm_catalogue.TREE_DENOISERS[architecture][0])
        measured = self._losses(model, bayes, data) | self._kept(model, data)
        measured |= self._generated(model, data) | self._calibration(model, data)
        measured |= {"architecture": architecture, "draw": draw, "P": float(P or np.nan)}
        times = {"time": self.times / self.T, "loss_time": self.loss_times / self.T}
        axes = {"level": np.arange(rhm.L + 1), "ln_snr": [*CALIBRATED_AT]}
        return xr.Dataset(measured, times | axes | {"part": ["value", "low", "high"]})

    def finish(self, merged: xr.Dataset) -> xr.Dataset:
        """All denoisers; ``architecture``, ``draw`` and ``P`` are their coordinates."""
        return merged.set_coords(["architecture", "draw", "P"])

    def _losses(self, model, bayes, data: TreeData) -> dict:
        n, seed = self.p.n_loss_data, self.p.seed
        process = GaussianProcess(SCHEDULE, data.rhm.v)
        train = data.batch(n, derived_generator(seed, _TRAIN_LOSS))[0].argmax(1)
        errors = [], []  # of both sets, (pair, datum) at each time
        for t in self.loss_times.tolist():
            for stream, leaves in ((_LOSS, data.test_levels[0][:n]), (_TRAIN_LOSS, train)):
                x_t = process.corrupt(leaves, t, derived_generator(seed, stream, t))
                noise = process.noise(x_t, encode(leaves, data.rhm.v), t)
                predicted, best = model(x_t, t).sample, bayes(x_t, t).sample
                pairs = (predicted, noise), (best, noise), (predicted, best)
                squares = [(a - b).square().mean((1, 2)) for a, b in pairs]
                errors[stream].append(torch.stack(squares).double().numpy())
        names = ("loss", "bayes_loss", "distance", "train_loss", "bayes_train_loss")
        of_pairs = (pair for of_set in errors for pair in np.stack(of_set, axis=1))
        rows = dict(zip(names, of_pairs, strict=False))  # the distance on training data is not kept
        rows["gap"] = rows["loss"] - rows["bayes_loss"]
        measured = {name: row.mean(1) for name, row in rows.items()}
        measured |= {f"{k}_error": rows[k].std(1, ddof=1) / n**0.5 for k in ("gap", "distance")}
        return {name: ("loss_time", row.astype(np.float32)) for name, row in measured.items()}

    def _kept(self, model, data: TreeData) -> dict:
        levels = [level[: self.p.n_data] for level in data.test_levels]
        samples = self._denoised(model, encode(levels[0], data.rhm.v), self.times, _KEPT)
        kept = [_counts(map(torch.eq, data.rhm.parse(x.argmax(1)), levels)) for x in samples]
        return {"kept": (("time", "datum", "level"), np.stack(kept))}

    def _generated(self, model, data: TreeData) -> dict:
        rhm, n = data.rhm, self.p.n_samples
        nothing = torch.zeros(n, rhm.v, rhm.d)
        leaves = self._denoised(model, nothing, [self.T], _GENERATED)[0].argmax(1)
        valid = [level >= 0 for level in rhm.parse(leaves)]
        siblings = [level.unflatten(1, (-1, rhm.s)).all(-1) for level in valid[:-1]]
        held_out = data.test_levels[0][: self.p.n_data]
        return {
            "valid": (("sample", "level"), _counts(valid)),
            "candidates": (("sample", "level"), _counts([valid[0], *siblings])),
            "nearest": ("sample", nearest_distance(leaves, data)),
            "nearest_held_out": ("datum", nearest_distance(held_out, data)),
        }

    def _calibration(self, model, data: TreeData) -> dict:
        x_0 = encode(data.test_levels[0][: self.p.n_loss_data], data.rhm.v)
        own = [derived_generator(self.p.seed, _CALIBRATION, i) for i in range(len(x_0))]
        pipeline, steps = ForwardBackwardPipeline(model, SAMPLER), self.p.num_inference_steps
        found = calibration(pipeline, x_0, CALIBRATED_AT, steps, own)
        parts = [[one.value, one.low, one.high] for one in found]
        return {"calibration": (("ln_snr", "part"), np.array(parts, np.float32))}

    def _denoised(self, model, x_0, times, stream: int) -> torch.Tensor:
        own = [derived_generator(self.p.seed, stream, i) for i in range(len(x_0))]
        pipeline, steps = ForwardBackwardPipeline(model, SCHEDULE), self.p.num_inference_steps
        return pipeline(x_0, list(times), steps, own, self.p.batch_size).samples


def nearest_distance(leaves: torch.Tensor, data: TreeData) -> np.ndarray:
    """Smallest number of leaves that differ from a training datum.

    Args:
        leaves: (n, d).
        data: with its training set of P data.

    Returns:
        (n,) int8; -1 where there is no training set.
    """
    if data.P is None:
        return np.full(len(leaves), -1, np.int8)
    different = torch.cdist(leaves.float(), data.train_levels[0].float(), p=0)
    return different.amin(1).to(torch.int8).numpy()


def _counts(levels: Iterable[torch.Tensor]) -> np.ndarray:
    """(n, L+1) uint8, how many nodes of each level are True."""
    return torch.stack([level.sum(1) for level in levels], -1).byte().numpy()
