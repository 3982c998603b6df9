"""One run of a stock scheduler of diffusers: its steps as noise levels, begun at any of them.

All kinds of schedulers are used alike, since each says its own levels: what ``add_noise`` (or
``scale_noise``) makes of x_0 = 1, z = 0 is alpha, of x_0 = 0, z = 1 it is sigma. The time that they
share is ln SNR = 2 ln(alpha / sigma). What a scheduler does is not read off its flags: it is tried
on data whose way back is known.
"""

import inspect
import warnings
from collections.abc import Generator
from copy import copy, deepcopy

import torch
from diffusers import DDPMScheduler, SchedulerMixin
from torch.overrides import TorchFunctionMode

from hierphase.checks import check_known
from hierphase.parametrisation import Parametrisation

#: Parts of the names of schedulers for distilled networks and flow maps, which no trial finds out.
DISTILLED = ("LCM", "TCD", "SCM", "CMStochastic", "Piflow", "HeliosDMD", "FlowMap")
NOISING = {"add_noise", "scale_noise"}
STEP_OPTIONS = ("eta", "use_clipped_model_output")
ADVICE = "take DPMSolverMultistepScheduler, DDPMScheduler or DDIMScheduler"
DATA_VARIANCE = 0.25  # of the Gaussian data whose variance is watched
_MAX_VARIANCE_ERROR, _MAX_PURE_SNR = 0.05, 0.01
_LEAST_VARIANCE = {"learned_range": -1.0, "learned": 0.0}  # as a network would answer it


class SamplerRun:
    """A scheduler with its steps set.

    Args:
        scheduler: of diffusers; it is copied.
        num_inference_steps: from noise to data; None where ``timesteps`` are given.
        timesteps: the steps themselves, for schedulers that take them.
        options: ``eta`` or ``use_clipped_model_output``, for every step.

    Raises:
        ValueError: the scheduler cannot be used, does not know an option, or tells the denoiser
            other levels than its own.

    Attributes:
        calls: of the denoiser, those that steps begin with.
        timesteps: (n_steps,) as the denoiser is given them.
        levels: (n_steps, 2) float64, alpha and sigma of the state x_t = alpha x_0 + sigma z that
            each step begins with.
        ln_snr: (n_steps,) float64.
    """

    def __init__(self, scheduler, num_inference_steps=None, timesteps=None, **options):
        check_scheduler(scheduler)
        self.name, self.options = type(scheduler).__name__, options
        taken = inspect.signature(scheduler.step).parameters
        for option in options:
            check_known(f"option of {self.name}.step", option, {*STEP_OPTIONS} & {*taken})
        self.scheduler, self.parametrisation = deepcopy(scheduler), Parametrisation(scheduler)
        given = {} if timesteps is None else {"timesteps": timesteps}
        self.scheduler.set_timesteps(num_inference_steps, **given)
        calls = range(len(self.scheduler.timesteps))[:: getattr(scheduler, "order", 1)]
        self._pndm = self.name == "PNDMScheduler"  # its second step takes two calls
        self.calls = [call for call in calls if not (self._pndm and call == 1)]
        self.timesteps = self.scheduler.timesteps[self.calls]
        levels = torch.tensor([self._level(call) for call in self.calls]).double()
        self.levels, self._scales = levels.split([2, 1], 1)
        self.ln_snr = 2 * (self.levels[:, 0] / self.levels[:, 1]).log()
        told = torch.stack(self.parametrisation.level(self.timesteps), 1)
        off = (told - self.levels * self._scales).abs().amax(1)
        if off.max() > 0.05:
            raise ValueError(f"{self}: {self.step_name(off.argmax())} tells another level")

    def __str__(self):
        return f"{self.name} with {len(self.calls)} steps"

    def step_name(self, k: int) -> str:
        """Step k, in words; its end after the last."""
        if k == len(self.calls):
            return "its end"
        return f"step {int(k) + 1}, t = {self.timesteps[k]:.4g} (ln SNR {self.ln_snr[k]:.3g})"

    def _level(self, call: int) -> list[float]:
        """alpha and sigma of the state, and by what it is multiplied for the denoiser."""
        t, level = self.scheduler.timesteps[call : call + 1], []
        for x_0, z in torch.eye(2)[:, :, None, None]:
            scheduler = _begun(copy(self.scheduler), call)
            known = hasattr(scheduler, "add_noise")
            x = scheduler.add_noise(x_0, z, t) if known else scheduler.scale_noise(x_0, t, z)
            level.append(float(x))
        return [*level, float(_given(scheduler, torch.ones(1, 1), t[0]))]

    def denoiser_level(self, call: int) -> torch.Tensor:
        """(2,) alpha and sigma of what the denoiser is given; more precise than a rounded time."""
        if call in self.calls:
            k = self.calls.index(call)
            return self._scales[k] * self.levels[k]
        return torch.stack(self.parametrisation.level(self.scheduler.timesteps[call]))

    def calls_from(self, k: int) -> list[int]:
        """All calls of the denoiser on the way from step k to the data."""
        if self._pndm:
            return self.calls[k : k + 2] + self.calls[k + 1 :]
        return list(range(self.calls[k], len(self.scheduler.timesteps)))

    def way_back(self, k: int, x: torch.Tensor, generator) -> Generator:
        """The way from step k to the data, for rows that go it together.

        Args:
            k: first step.
            x: (n, ...) their states.
            generator: of the noise: one, a list of n, or None.

        Yields:
            The call, its time, and what the denoiser is given; what it predicts must be sent.

        Returns:
            x̂0, like x.
        """
        # Of its own: solvers of higher order remember earlier predictions.
        scheduler, calls = _begun(deepcopy(self.scheduler), self.calls[k]), self.calls_from(k)
        taken = inspect.signature(scheduler.step).parameters
        options = self.options | ({"generator": generator} if "generator" in taken else {})
        for i, call in enumerate(calls):
            t = scheduler.timesteps[call]
            predicted = yield call, t, _given(scheduler, x, t)
            if "prev_timestep" in taken:  # UnCLIP would go on to t - 1
                later = scheduler.timesteps[calls[i + 1 :]].tolist()
                options["prev_timestep"] = later[0] if later else -1
            if self.name == "LMSDiscreteScheduler":  # it counts steps that were never taken
                options["order"] = min(i + 1, 4)
            x = scheduler.step(predicted, t, x, **options).prev_sample
        return x

    def check_pure(self) -> None:
        """Raise a ValueError unless the first step can begin with noise alone."""
        if self.ln_snr[0].exp() > _MAX_PURE_SNR:
            remedy = "take another number of steps or timestep_spacing 'trailing'"
            raise ValueError(f"{self}: {self.step_name(0)} is no pure noise; {remedy}")

    def check(self, k: int, largest: float) -> None:
        """Try the run on data whose way back is known, with their exact denoisers.

        Data at +-``largest``, taken to the level of step k, must have the level of each step on
        the way, and come back. This finds steps that lead elsewhere than to the next one, noise
        that is left over, cropping, and numbers that are not finite.

        Args:
            k: first step.
            largest: the largest absolute value of x_0 in the data to come.

        Raises:
            ValueError: they do not.

        Warns:
            UserWarning: Gaussian data of variance 1/4 come back with one that differs by over 5%.
        """
        kind, learned = self.scheduler.config.get("variance_type"), learns_variance(self.scheduler)
        only_end = learned or str(kind).startswith("fixed_large")  # other noise on the way
        trained = getattr(self.scheduler, "alphas_cumprod", torch.ones(1))[0]
        floor = float((1 / trained - 1) ** 0.5)  # where solvers end at the first trained time
        data, end = torch.tensor([[largest], [-largest]]), len(self.calls)
        for j, mean, parts in self._moments(k, data, 0.0):
            (alpha, sigma), tolerance = (1.0, 0.0), 1.05 * floor + 1e-3 * (1 + largest)
            if j < end:
                alpha, sigma = self.denoiser_level(self.calls[j]).tolist()
                tolerance = 0.003 * sigma + 1e-4 * alpha * largest
            off, sd = float((mean - alpha * data).abs().max()), float(parts.sum(0).max() ** 0.5)
            right = off <= tolerance and abs(sd - sigma) <= tolerance
            if not right and (j == end or not only_end):
                where = f"x_0 = {largest:.3g} back: at {self.step_name(j)}"
                found = f"mean is off by {off:.2g} and the noise has standard deviation {sd:.3g}"
                remedy = f"instead of {sigma:.3g}; {ADVICE} with other steps, or clip_sample=False"
                raise ValueError(f"{self} does not lead {where} the {found} {remedy}")
        error = self.variance_error(k)
        if abs(error) > _MAX_VARIANCE_ERROR and not learned:  # that variance is the network's
            changed = f"{self} changes the variance of Gaussian data by {error:+.1%}"
            warnings.warn(f"{changed}: take more steps, or a solver of second order", stacklevel=4)

    def variance_error(self, k: int) -> float:
        """Relative error of the variance that data of variance 1/4 have after the way from step k.

        Exact, for Gaussian data of mean zero. Clipping does not touch them: x̂0 of the rows that
        tell it lie between -1/2 and 1/2.
        """
        parts = self._moments(k, torch.zeros(1, 1), DATA_VARIANCE)[-1][2]
        return float(parts.sum()) / DATA_VARIANCE - 1

    @property
    def draws_noise(self) -> bool:
        """Whether noise is drawn on the way that x̂0 depends on; else it is a function of x_t."""
        return bool(self._moments(0, torch.zeros(1, 1), DATA_VARIANCE)[-1][2][2:].any())

    def _moments(self, k: int, mean: torch.Tensor, variance: float) -> list[tuple]:
        """Of Gaussian data: of each step from k on mean and variance of what the denoiser is given.

        The variance in its parts: from x_0, from z, and from each noise that is drawn.

        Every step is affine, so that a batch says both exactly in which row 0 is the mean and in
        each other row one source of variance is added: x_0, z, or a noise that is drawn. The last
        are of x̂0.
        """
        alpha, sigma = self.levels[k].float()
        x = (alpha * mean).repeat(3 + 2 * len(self.scheduler.timesteps), 1, 1)
        x[1] += alpha * variance**0.5
        x[2] += sigma
        way, predicted, given = self.way_back(k, x, None), None, {}
        with _UnitNoises():
            try:
                while True:
                    call, _, y = way.send(predicted)
                    given[call] = y
                    alpha, sigma = self.denoiser_level(call)
                    gain = float(alpha * variance / (alpha**2 * variance + sigma**2))
                    x_0 = mean + gain * (y - float(alpha) * mean)
                    predicted = self.parametrisation.prediction(y, x_0, alpha, sigma)
                    if learns_variance(self.scheduler):
                        least = _LEAST_VARIANCE[self.scheduler.config.variance_type]
                        predicted = torch.cat([predicted, torch.full_like(predicted, least)], 1)
            except StopIteration as end:
                given[None] = end.value
        steps = [(j, given[call]) for j, call in enumerate([*self.calls, None]) if call in given]
        return [(j, y[0], (y[1:] - y[0]).double().square()) for j, y in steps]


class _UnitNoises(TorchFunctionMode):
    """Makes the j-th noise that is drawn 1 in row 3 + j and 0 in all others."""

    n_drawn = 0

    def __torch_function__(self, function, types, args=(), kwargs=None):
        """Of any other function, what it would have returned."""
        drawn = function(*args, **(kwargs or {}))
        if function is torch.randn:
            drawn.zero_()[3 + self.n_drawn] = 1
            self.n_drawn += 1
        return drawn


def check_scheduler(scheduler) -> None:
    """Raise a ValueError where it is plain that a scheduler cannot be used."""
    name = type(scheduler).__name__
    if not isinstance(scheduler, SchedulerMixin) or not hasattr(scheduler, "step"):
        raise ValueError(f"scheduler must be one of diffusers with a step(), got {name}; {ADVICE}")
    parameters = inspect.signature(scheduler.step).parameters.values()
    needed = [p.name for p in parameters if p.default is p.empty and p.kind is not p.VAR_KEYWORD]
    config = scheduler.config
    sde = "sde" in str(config.get("algorithm_type")) and config.get("solver_order", 1) > 2
    for reason, applies in {
        f"needs {', '.join(needed[3:])} in its steps": len(needed) > 3,
        "has neither add_noise nor scale_noise": not NOISING & {*dir(scheduler)},
        "is for distilled networks or flow maps": any(part in name for part in DISTILLED),
        "does not converge as an SDE solver of order above 2": sde,
        "loses half of the variance with stochastic_sampling": config.get("stochastic_sampling"),
        "needs skip_prk_steps=True": config.get("skip_prk_steps") is False,
    }.items():
        if applies:
            raise ValueError(f"scheduler {name} {reason}; {ADVICE}")
    Parametrisation(scheduler)


def learns_variance(scheduler) -> bool:
    """Whether a scheduler takes the second half of the model's channels for the variance."""
    kind = scheduler.config.get("variance_type")
    return isinstance(scheduler, DDPMScheduler) and kind in _LEAST_VARIANCE


def _begun(scheduler, call: int):
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(call)
    return scheduler


def _given(scheduler, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    return scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
