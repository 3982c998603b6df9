"""One run of a stock scheduler of diffusers: its steps as noise levels, begun at any of them.

All kinds of schedulers are used alike, since each says its own levels: what ``add_noise`` (or
``scale_noise``) makes of x_0 = 1, z = 0 is alpha, of x_0 = 0, z = 1 it is sigma. The time that they
share is ln SNR = 2 ln(alpha / sigma). What a scheduler does is not read off its flags: it is tried
on data whose way back is known.
"""

import inspect
import warnings
from copy import copy, deepcopy

import torch
from diffusers import DDPMScheduler, SchedulerMixin
from torch.overrides import TorchFunctionMode

from hierphase.checks import check_known
from hierphase.parametrisation import Parametrisation

#: What no trial finds out -> parts of the names of schedulers.
REFUSED = {
    "is for distilled networks or flow maps": "LCM TCD SCM CMStochastic Piflow HeliosDMD FlowMap",
    "takes its noise from a Brownian tree, not from generators": "DPMSolverSDE CosineDPM",
}
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
        options: of :data:`STEP_OPTIONS`, for every step.

    Raises:
        ValueError: the scheduler cannot be used, does not know an option, or does not go from
            noise to data.

    Attributes:
        timesteps: (n_steps,) as the denoiser is given them.
        levels: (n_steps, 2) float64, alpha and sigma of the state x_t = alpha x_0 + sigma z that
            each step begins with.
        ln_snr: (n_steps,) float64.
    """

    def __init__(self, scheduler, num_inference_steps=None, timesteps=None, **options):
        check_scheduler(scheduler)
        self.name = type(scheduler).__name__
        taken = inspect.signature(scheduler.step).parameters
        for option in options:
            check_known(f"option of {self.name}.step", option, {*STEP_OPTIONS} & {*taken})
        self.options, self.scheduler = options, deepcopy(scheduler)
        given = {} if timesteps is None else {"timesteps": timesteps}
        self.scheduler.set_timesteps(num_inference_steps, **given)
        self.parametrisation = Parametrisation(scheduler)
        # The calls of the denoiser that steps begin with. PNDM's second step takes two.
        self.pndm = self.name == "PNDMScheduler"
        calls = range(len(self.scheduler.timesteps))[:: getattr(scheduler, "order", 1)]
        self.calls = [call for call in calls if not (self.pndm and call == 1)]
        self.timesteps = self.scheduler.timesteps[self.calls]
        levels = torch.tensor([self._level(call) for call in self.calls]).double()
        self.levels, self._scales = levels.split([2, 1], 1)
        self.ln_snr = 2 * (self.levels[:, 0] / self.levels[:, 1]).log()
        self._check_levels()

    def __str__(self):
        return f"{self.name} with {len(self.calls)} steps"

    def _level(self, call: int) -> list[float]:
        """alpha and sigma of the state, and by what it is multiplied for the denoiser."""
        t, level = self.scheduler.timesteps[call : call + 1], []
        for x_0, z in torch.eye(2)[:, :, None, None]:
            scheduler = _begun(copy(self.scheduler), call)
            if hasattr(scheduler, "add_noise"):
                level.append(float(scheduler.add_noise(x_0, z, t)))
            else:
                level.append(float(scheduler.scale_noise(x_0, t, z)))
        return [*level, float(_given(scheduler, torch.ones(1, 1), t[0]))]

    def denoiser_level(self, call: int) -> torch.Tensor:
        """(2,) alpha and sigma of what the denoiser is given; more precise than a rounded time."""
        if call in self.calls:
            step = self.calls.index(call)
            return self._scales[step] * self.levels[step]
        return torch.stack(self.parametrisation.level(self.scheduler.timesteps[call]))

    def _check_levels(self) -> None:
        """Raise a ValueError unless noise falls, and the denoiser is told of the same noise."""
        told = torch.stack(self.parametrisation.level(self.timesteps), 1)
        off = (told - self.levels * self._scales).abs().amax(1)
        stuck = self.ln_snr.diff(append=torch.tensor([torch.inf])) <= 0
        for wrong, reason in (
            (stuck, "does not lead to less noise; take fewer steps"),
            (off > 0.05, "has another level than the denoiser is told"),
        ):
            for k in wrong.nonzero()[:1, 0].tolist():
                raise ValueError(f"{self}: {self._step(k)} {reason}, or {ADVICE}")

    def _step(self, k: int) -> str:
        return f"step {k + 1}, t = {float(self.timesteps[k]):.4g} (ln SNR {self.ln_snr[k]:.3g})"

    def check_pure(self) -> None:
        """Raise a ValueError unless the first step can begin with noise alone."""
        snr = float(self.ln_snr[0].exp())
        if snr > _MAX_PURE_SNR:
            raise ValueError(
                f"{self} cannot begin with pure noise: {self._step(0)} has SNR {snr:.2g}; take "
                "another number of steps or timestep_spacing 'trailing'"
            )

    def check(self, k: int, largest: float) -> None:
        """Try the run on data whose way back is known, with their exact denoisers.

        Data at +-``largest``, taken to the level of step k, must have the level of each step on
        the way, and come back. This finds steps that lead elsewhere than to the next one, noise
        that is left over, cropping, and numbers that are not finite.

        Args:
            k: first step.
            largest: max |x_0| of the data to come.

        Raises:
            ValueError: they do not.

        Warns:
            UserWarning: Gaussian data of variance 1/4 come back with one that differs by over 5%.
        """
        kind = self.scheduler.config.get("variance_type") or ""
        learned = learns_variance(self.scheduler)
        only_end = learned or kind.startswith("fixed_large")  # other noise on the way
        trained = getattr(self.scheduler, "alphas_cumprod", torch.ones(1))[0]
        floor = float((1 / trained - 1) ** 0.5)  # where solvers end at the first trained time
        data = torch.tensor([largest, -largest])
        for call, mean, variance in self._way_back(k, data, 0.0):
            (alpha, sigma), tolerance = (1.0, 0.0), 1.05 * floor + 1e-3 * (1 + largest)
            where = "the end"
            if call is not None:
                step = self.calls.index(call)
                (alpha, sigma), where = self.levels[step].tolist(), self._step(step)
                tolerance = 0.003 * sigma + 1e-4 * largest
            off, sd = float((mean - alpha * data).abs().max()), float(variance.max() ** 0.5)
            right = off <= tolerance and abs(sd - sigma) <= tolerance
            if not right and not (only_end and call is not None):
                raise ValueError(
                    f"{self} does not lead x_0 = {largest:.3g} back: at {where} the mean is off by "
                    f"{off:.2g} and the noise has standard deviation {sd:.3g} instead of "
                    f"{sigma:.3g}; {ADVICE} with other steps, or clip_sample=False"
                )
        if not learned:  # those variances are the network's
            free = copy(self)
            free.scheduler = deepcopy(self.scheduler)
            free.scheduler.register_to_config(clip_sample=False, thresholding=False)
            *_, (_, _, variance) = free._way_back(k, torch.zeros(1), DATA_VARIANCE)
            error = float(variance) / DATA_VARIANCE - 1
            if abs(error) > _MAX_VARIANCE_ERROR:
                warnings.warn(
                    f"{self} changes the variance of Gaussian data of variance {DATA_VARIANCE} by "
                    f"{error:+.1%}: take more steps, or a solver of second order",
                    stacklevel=4,
                )

    def _way_back(self, k: int, mean: torch.Tensor, variance: float):
        """What comes of Gaussian data, with their exact denoiser: mean and variance, each step.

        Every step is affine, so that a batch says both exactly in which row 0 is the mean of x_t
        and in each other row one source of variance is added: x_0, z, or a noise that is drawn.
        """
        trajectory, noises = Trajectory(self, k), _UnitNoises()
        alpha, sigma = self.levels[k].float()
        x = (alpha * mean).repeat(3 + 2 * len(self.scheduler.timesteps), 1)
        x[1] += alpha * variance**0.5
        x[2] += sigma
        while trajectory.calls:
            call, y = trajectory.calls[0], trajectory.given(x)
            alpha, sigma = self.denoiser_level(call)
            gain = float(alpha * variance / (alpha**2 * variance + sigma**2))
            x_0 = mean + gain * (y - float(alpha) * mean)
            predicted = self.parametrisation.prediction(y, x_0, alpha, sigma)
            if learns_variance(self.scheduler):
                kind = self.scheduler.config.variance_type
                least = torch.full_like(predicted, _LEAST_VARIANCE[kind])
                predicted = torch.cat([predicted, least], 1)
            with noises:
                x = trajectory.step(predicted, x, None)
            following = trajectory.calls[0] if trajectory.calls else None
            if following is None or following in self.calls:
                yield following, x[0], (x[1:] - x[0]).double().square().sum(0)


class _UnitNoises(TorchFunctionMode):
    """Makes the j-th noise that is drawn 1 in row 3 + j and 0 in all others."""

    def __init__(self):
        super().__init__()
        self.n_drawn = 0

    def __torch_function__(self, function, types, args=(), kwargs=None):
        """Of any other function, what it would have returned."""
        drawn = function(*args, **(kwargs or {}))
        if function is torch.randn:
            drawn = torch.zeros_like(drawn)
            drawn[3 + self.n_drawn] = 1
            self.n_drawn += 1
        return drawn


class Trajectory:
    """The way from step k of a run to the data, for rows that go it together.

    Args:
        run: the scheduler with its steps.
        k: where to begin.
    """

    def __init__(self, run: SamplerRun, k: int):
        self._run, self._n_taken = run, 0
        # Of its own: solvers of higher order remember earlier predictions.
        self.scheduler = _begun(deepcopy(run.scheduler), run.calls[k])
        self.calls = list(range(run.calls[k], len(run.scheduler.timesteps)))  # to come
        if run.pndm:
            self.calls = run.calls[k : k + 2] + run.calls[k + 1 :]

    @property
    def t(self) -> torch.Tensor:
        """Time of the next call of the denoiser, a scalar."""
        return self.scheduler.timesteps[self.calls[0]]

    @property
    def times(self) -> list[float]:
        """Of all calls to come."""
        return self.scheduler.timesteps[self.calls].tolist()

    def given(self, x: torch.Tensor) -> torch.Tensor:
        """What the denoiser is given of the state x."""
        return _given(self.scheduler, x, self.t)

    def step(self, predicted: torch.Tensor, x: torch.Tensor, generator) -> torch.Tensor:
        """The state after the next step from the state x."""
        call, options = self.calls.pop(0), dict(self._run.options)
        taken = inspect.signature(self.scheduler.step).parameters
        if "generator" in taken:
            options["generator"] = generator
        if "prev_timestep" in taken:  # UnCLIP would go on to t - 1
            following = self.scheduler.timesteps[self.calls[:1]].tolist()
            options["prev_timestep"] = following[0] if following else -1
        if self._run.name == "LMSDiscreteScheduler":  # it counts steps that were never taken
            options["order"] = min(self._n_taken + 1, 4)
        self._n_taken += 1
        return self.scheduler.step(
            predicted, self.scheduler.timesteps[call], x, **options
        ).prev_sample


def check_scheduler(scheduler) -> None:
    """Raise a ValueError where it is plain that a scheduler cannot be used."""
    name = type(scheduler).__name__
    if not isinstance(scheduler, SchedulerMixin) or not hasattr(scheduler, "step"):
        raise ValueError(f"scheduler must be one of diffusers with a step(), got {name}; {ADVICE}")
    parameters = inspect.signature(scheduler.step).parameters.values()
    needed = [p.name for p in parameters if p.default is p.empty and p.kind is not p.VAR_KEYWORD]
    config, reasons = scheduler.config, []
    if len(needed) > 3:
        reasons.append(f"needs {', '.join(needed[3:])} in its steps")
    if not (hasattr(scheduler, "add_noise") or hasattr(scheduler, "scale_noise")):
        reasons.append("has neither add_noise nor scale_noise")
    reasons += [
        why for why, parts in REFUSED.items() if any(part in name for part in parts.split())
    ]
    if "sde" in str(config.get("algorithm_type")) and config.get("solver_order", 1) > 2:
        reasons.append("does not converge as an SDE solver of order above 2")
    if config.get("stochastic_sampling"):
        reasons.append("loses half of the variance with stochastic_sampling")
    if name == "PNDMScheduler" and not config.skip_prk_steps:
        reasons.append("cannot begin in the middle without skip_prk_steps=True")
    if reasons:
        raise ValueError(f"scheduler {name} {' and '.join(reasons)}; {ADVICE}")
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
