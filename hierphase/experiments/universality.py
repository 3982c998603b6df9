"""One denoiser, many samplers: what is kept of the same data and noise on each way back.

Samplers that draw noise on the way draw from the posterior; deterministic ones are functions of
x_t, which keep more. Trees have the exact denoiser of each process; a network that was trained on
one process is read as that of any other by an exact change of variables.
"""

from functools import cached_property, partial

import diffusers
import numpy as np
import torch
import xarray as xr
from diffusers.models.unets.unet_2d import UNet2DOutput
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from hierphase.analysis.gaussian_mixture import GaussianMixture
from hierphase.diffusion.model_folders import load_denoiser, model_files
from hierphase.diffusion.samplers import SamplerRun
from hierphase.experiments import trees, worlds
from hierphase.experiments.base import Experiment
from hierphase.networks.classifiers import load_classifier
from hierphase.parametrisation import Parametrisation
from hierphase.rhm.bayes_denoiser import BayesDenoiser
from hierphase.rhm.belief_propagation import BeliefPropagation
from hierphase.rhm.corruption import ddpm_scheduler, encode
from hierphase.seeds import derived_generator

_WHOLE = {"clip_sample": False}  # as all others
_DDIM = diffusers.DDIMScheduler, _WHOLE | {"timestep_spacing": "leading"}
_EDM, _EXPLODING = diffusers.EDMDPMSolverMultistepScheduler, {"sigma_min": 0.01}  # as trained
#: Name of a sampler -> class, settings, options of its steps, and its noise over that of draws from
#: the posterior: 0 for functions of x_t.
SAMPLERS = {
    "DDPM": (diffusers.DDPMScheduler, _WHOLE, {}, 1),
    "DDIM, eta 0": (*_DDIM, {"eta": 0.0}, 0),
    "DDIM, eta .5": (*_DDIM, {"eta": 0.5}, 0.5),
    "DDIM, eta 1": (*_DDIM, {"eta": 1.0}, 1),
    "DPM++ 2M": (*worlds.SAMPLERS["dpm++-2m"], {}, 0),
    "SDE-DPM++ 2M": (*worlds.SAMPLERS["sde-dpm++-2m-karras"], {}, 1),
    "Heun": (diffusers.HeunDiscreteScheduler, {}, {}, 0),
    "Euler ancestral": (diffusers.EulerAncestralDiscreteScheduler, {}, {}, 1),
    "EDM Euler": (diffusers.EDMEulerScheduler, _EXPLODING, {}, 0),
    "EDM DPM++ 2M": (_EDM, _EXPLODING, {}, 0),
    "EDM SDE-DPM++ 2M": (_EDM, _EXPLODING | {"algorithm_type": "sde-dpmsolver++"}, {}, 1),
    "flow Euler": (diffusers.FlowMatchEulerDiscreteScheduler, {}, {}, 0),
    "flow Heun": (diffusers.FlowMatchHeunDiscreteScheduler, {}, {}, 0),
}
#: Steps that bring the variance of Gaussian data of variance 1/4 to 1%. For flow Heun that is 8, of
#: which too few are near the levels in question. Of DDPM there are 1000, of which DDIM's steps have
#: to be a divisor.
FEW = {"SDE-DPM++ 2M": [100], "EDM SDE-DPM++ 2M": [100], "Heun": [35], "EDM DPM++ 2M": [50]}
FEW |= {"flow Heun": [32]}
MANY = {"DDPM": [1000], "DDIM, eta 0": [500]}
OF_MIXTURE = {name: FEW[name] for name in ("EDM SDE-DPM++ 2M", "EDM DPM++ 2M")}


def sampler_run(name: str, n_steps: int) -> SamplerRun:
    """The run of one of :data:`SAMPLERS`; of trained times, those of the book's networks."""
    kind, settings, options, _ = SAMPLERS[name]
    own = ddpm_scheduler().config if hasattr(kind(), "alphas_cumprod") else {}
    return SamplerRun(kind.from_config(own, **settings), n_steps, **options)


def way_back(run: SamplerRun, k: int, model, x_t, generator) -> torch.Tensor:
    """x̂0 of x_t (n, ...), from step k of a run, which is not tried first.

    Args:
        run: of a sampler.
        k: its first step.
        model: gives ``model(x, t).sample``, what the sampler asks for.
        x_t: alpha x_0 + sigma z, of the level of step k unless a mistake is made on purpose.
        generator: of the noise on the way.
    """
    way, predicted = run.way_back(k, x_t, generator), None
    try:
        while True:
            _, t, x = way.send(predicted)
            predicted = model(x, t).sample
    except StopIteration as end:
        return end.value


def reread(model, scheduler):
    """A model of the noise in the book's process, as a scheduler of another process asks for it.

    Divided by its root mean square, x_t of any process depends on sigma / alpha alone, and so does
    the noise in it: an exact change of variables. Levels beyond those of training are given the
    first or last of its times.
    """
    asked, alpha_bar = Parametrisation(scheduler), ddpm_scheduler().alphas_cumprod.double()
    known = (1 / alpha_bar - 1).log() / 2

    def predict(x_t, t):
        alpha, sigma = asked.level(t)
        time = np.interp((sigma / alpha).log(), known, np.arange(len(known)))
        z = model(x_t / torch.hypot(alpha, sigma).float(), torch.tensor(time).float()).sample
        x_0 = (x_t - sigma.float() * z) / alpha.float()
        return UNet2DOutput(asked.prediction(x_t, x_0, alpha, sigma))

    return predict


def exact_noise(mixture: GaussianMixture):
    """A model of the noise for data of a mixture: minus sigma times the gradient of log p(x_t)."""
    process = Parametrisation(ddpm_scheduler())

    @torch.enable_grad()
    def predict(x_t, t):
        x, (alpha, sigma) = x_t.double().requires_grad_(), process.level(t)
        (score,) = torch.autograd.grad(mixture.log_evidence(x, alpha**2).sum(), x)
        return UNet2DOutput((-sigma * score).to(x_t))

    return predict


class Samplers(Experiment):
    """Samplers on the same data and noise.

    A subclass gives ``begin(i)``: of unit i x_0 (n, ...), what makes a model of a scheduler, and
    what is measured of x̂0, ln SNR and z.

    Args:
        parameters: among others ``samplers``, of each of :data:`SAMPLERS` some numbers of steps of
            the whole way; levels ``ln_snr``, each taken at the nearest step; ``n_units``; ``seed``.

    Raises:
        ValueError: as of the base, or an unknown sampler.
    """

    units = ("n_units",)
    choices = {"samplers": SAMPLERS}

    @torch.no_grad()
    def measure_unit(self, i: int, prepared: xr.Dataset) -> xr.Dataset:
        """All samplers from all levels.

        Args:
            i: the unit.
            prepared: not used.

        Returns:
            Along ``run`` (``sampler``, ``steps``) and ``noise``: ``ln_snr``, that was taken,
            and what is measured, each also along ``part``.
        """
        (x_0, model_of, measure), found = self.begin(i), []
        runs = [(name, n) for name, numbers in self.p.samplers.items() for n in numbers]
        for name, n in runs:
            run = sampler_run(name, n)
            for j, level in enumerate(self.p.ln_snr):
                k = int((run.ln_snr - level).abs().argmin())
                draws = [derived_generator(self.p.seed, i, j, stream) for stream in (0, 1)]
                z = torch.randn(x_0.shape, generator=draws[0])
                alpha, sigma = run.levels[k].float()
                x_t = alpha * x_0 + sigma * z
                back = way_back(run, k, model_of(run.scheduler), x_t, draws[1])
                found.append(measure(back, run.ln_snr[k], z) | {"ln_snr": run.ln_snr[k]})
        shape, measured = (len(runs), len(self.p.ln_snr)), {}
        for name in found[0]:
            x = torch.stack([one[name] for one in found]).unflatten(0, shape).numpy()
            measured[name] = ("run", "noise", "part")[: x.ndim], x
        names, numbers = zip(*runs, strict=True)
        return xr.Dataset(measured, {"sampler": ("run", [*names]), "steps": ("run", [*numbers])})


class TreeSamplers(Samplers):
    """With the exact denoiser of a tree, beside belief propagation at the same x_t.

    A unit is a draw of the rules, a part a level. ``kept`` is the share of symbols of x̂0 that are
    those of x_0, ``exact`` their probability given x_t, ``best`` the share that is the likeliest.

    Args:
        parameters: as of the base; ``tree``, the arguments of
            :class:`~hierphase.rhm.model.RandomHierarchyModel`; ``n_data`` of each draw.
    """

    presets = {
        "tree": {
            "tree": {"v": 16, "m": 4, "s": 2, "L": 6}, "n_data": 128, "n_units": 6, "seed": 0,
            "samplers": {key: [10, 25, 50, 100, 250, 500] for key in SAMPLERS},
            "ln_snr": [2.4, 2.0, 1.7, 1.4, 1.1, 0.8, 0.2],
        }
    }  # fmt: skip

    def begin(self, i: int) -> tuple:
        """As :class:`Samplers` says."""
        seed = derived_generator(self.p.seed, i).initial_seed()
        rhm, _ = trees.model(self.p.tree, seed)
        levels, infer = rhm.sample(self.p.n_data, seed=seed), BeliefPropagation(rhm)
        x_0 = encode(levels[0], rhm.v)

        def same(found):
            return torch.stack([x.double().mean() for x in map(torch.eq, found, levels)])

        def measure(back, ln_snr, z):
            seen = ln_snr.exp() * x_0 + (ln_snr / 2).exp() * z  # SNR times x_0 + z / sqrt(SNR)
            posterior = infer(seen.float().mT, log=True)
            return {
                "kept": same(rhm.parse(back.argmax(1))),
                "exact": posterior.probability_of(levels).double().mean(0),
                "best": same([marginal.argmax(-1) for marginal in posterior.marginals]),
            }

        return x_0, partial(BayesDenoiser, infer), measure


class ImageSamplers(Samplers):
    """With one network, or the exact denoiser of a flat mixture that is fitted to the images.

    A unit is one held-out image of each class, or one drawn from each of the mixture's, a part is
    the class. ``kept`` says whether the classifier sees the class that it sees in x_0.

    Args:
        parameters: as of the base; ``images``, a data set; ``model`` and ``classifier`` of the
            book, or ``flat-mixture``.
    """

    presets = {
        flat + images + ending: {
            "images": images, "model": worlds.FLAT_MIXTURE if flat else images, "seed": 0,
            "classifier": f"{images}-classifier", "samplers": samplers, "n_units": 20,
            "ln_snr": [middle + x for x in (2.0, 1.0, 0.0, -1.0, -2.0)],
        }
        for images, middle in (("fashion-mnist", -2.6), ("cifar10-16", 1.3), ("digits", -0.8))
        for flat, ending, samplers in (
            ("", "", FEW), ("", "-all-steps", MANY), ("flat-", "", OF_MIXTURE)
        )
    }  # fmt: skip

    def files(self):
        """Those of the network, if there is one, and of the classifier."""
        paths = {key: worlds.stored_model(self.parameters[key]) for key in ("model", "classifier")}
        return {key: model_files(path) for key, path in paths.items() if path}

    @cached_property
    def world(self) -> tuple:
        """The data, a model of the noise, what draws from it, and the judge."""
        data = worlds.DATASETS[self.p.images]()
        judge = load_classifier(worlds.stored_model(self.p.classifier)).eval()
        if path := worlds.stored_model(self.p.model, self.p.images):
            return data, load_denoiser(path).model, None, judge
        mixture = GaussianMixture.fitted(data.train_images, data.train_labels)
        return data, exact_noise(mixture), mixture, judge

    def begin(self, i: int) -> tuple:
        """As :class:`Samplers` says."""
        data, model, mixture, judge = self.world
        classes, shown, side = torch.arange(len(data.class_names)), data.test_images, 1
        if mixture is None:
            side = shown.shape[-1] // model.config.sample_size
            x_0 = torch.stack([shown[data.test_labels == c][i] for c in classes])
        else:
            x_0 = mixture.draw(classes, derived_generator(self.p.seed, i))
        before = judge(x_0).argmax(1)

        def measure(back, ln_snr, z):
            return {"kept": (judge(pixel_shuffle(back, side)).argmax(1) == before).byte()}

        return pixel_unshuffle(x_0, side), partial(reread, model), measure
