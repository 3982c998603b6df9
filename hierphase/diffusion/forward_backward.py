"""The forward-backward experiment: noise x_0 up to time t, then denoise it back to x̂0(t).

Index convention. Reversal time t counts the noising steps of the trained process, 0 to T
(``num_train_timesteps``). For 0 < t < T, x_t is drawn with ``alphas_cumprod[t]`` and the first
denoising step is taken at that same index t, followed by every respaced step below t. t = 0 is no
noise at all and returns x_0 itself; t = T is pure noise, denoised from the first respaced step.

The paper's published code noises at index t as well, but takes its first denoising step at the
next respaced index below t, as if x_t were that much less noisy: ``start_below=True``.
"""

import inspect
from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import dataclass
from itertools import pairwise

import torch
from diffusers import DDPMScheduler, DiffusionPipeline, SchedulerMixin
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import randn_tensor

from hierphase.checks import positive_integer
from hierphase.seeds import checked_generators, derived_generator


@dataclass
class ForwardBackwardOutput(BaseOutput):
    """What :class:`ForwardBackwardPipeline` returns.

    Attributes:
        samples: (n_times, n, ...) x̂0(t) of every image, in the order of the ``timesteps`` asked.
    """

    samples: torch.Tensor


@dataclass
class _Cohort:
    """The rows of one reversal time: they take the same steps with one scheduler."""

    scheduler: SchedulerMixin  # of their own: multistep solvers remember earlier predictions
    steps: list[int]
    rows: torch.Tensor
    generators: list[torch.Generator]


class ForwardBackwardPipeline(DiffusionPipeline):
    """Noises samples up to given times and denoises them back, all times in one sweep.

    The sweep goes from the largest time down; each (image, time) row joins it when its own t is
    reached, so that every call of the model serves all rows that are under way.

    Args:
        model: predicts the noise (or what ``scheduler.config.prediction_type`` says):
            ``model(x_t, t).sample`` for a batch x_t and a scalar tensor t. A diffusers
            ``UNet2DModel`` or a :class:`~hierphase.rhm.bayes_denoiser.BayesDenoiser`. Of a model
            with twice the channels (learned variance) the second half serves a ``DDPMScheduler``
            whose ``variance_type`` is ``learned`` or ``learned_range`` and is left out otherwise.
        scheduler: of the variance-preserving process, x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) z:
            ``DDPMScheduler`` (ancestral sampling), ``DDIMScheduler`` (eta = 0), or a higher-order
            solver, ``DPMSolverMultistepScheduler`` (also its SDE variant),
            ``DPMSolverSinglestepScheduler``, ``UniPCMultistepScheduler``,
            ``DEISMultistepScheduler``.

    Raises:
        ValueError: a scheduler of another kind.
    """

    def __init__(self, model, scheduler):
        super().__init__()
        _check_scheduler(scheduler)
        self.register_modules(model=model, scheduler=scheduler)
        self.set_progress_bar_config(disable=None)  # shown on a terminal only

    @torch.no_grad()
    def __call__(
        self,
        x0: torch.Tensor,
        timesteps: Sequence[int],
        num_inference_steps: int = 250,
        generator: torch.Generator | list[torch.Generator] | None = None,
        batch_size: int = 64,
        start_below: bool = False,
        autocast_dtype: torch.dtype | None = None,
    ) -> ForwardBackwardOutput:
        """Run the experiment.

        Every (image, time) has a random stream of its own: one number is drawn from the image's
        generator, and the stream is derived from that number, t, and how often this t came before
        in ``timesteps``. So an image's result depends neither on the other images nor on the other
        times of the call. The model is always given exactly ``batch_size`` rows (the last batch is
        filled up by repetition), which makes results equal bit for bit however images and times
        are split over calls. Another ``batch_size`` changes the last bits (around 1e-6 a call on a
        CPU), since convolutions and matrix products choose another order of summation.

        Args:
            x0: (n, ...) samples to start from, float32.
            timesteps: reversal times, integers in [0, T], any order, repetitions allowed (each is
                another draw). A scheduler whose ``set_timesteps`` does not take ``timesteps``
                (DDIM, UniPC, DEIS) can only start at respaced steps: with these, times other than
                0 and T must be among them, unless ``start_below``. Respaced times are also the
                cheapest: a time between them takes its first step alone.
            num_inference_steps: denoising steps that the whole way from T to 0 would take.
            generator: one for all images (each takes one number from it, in order), or a list
                with one per image; None seeds one from the operating system.
            batch_size: rows per call of the model; more than n * n_times would only be filled up.
            start_below: take the first denoising step at the next respaced index below t, as the
                paper's published code does, instead of at t.
            autocast_dtype: ``torch.bfloat16`` or ``torch.float16`` runs the model under
                ``torch.autocast``; x_t and the scheduler stay float32.

        Returns:
            :class:`ForwardBackwardOutput` with ``samples`` of shape (n_times, n, ...), float32.

        Raises:
            ValueError: a wrong type, shape or range, a number of generators other than n, a
                scheduler that cannot start at these times, or a model output of another shape.
        """
        n_train = self.scheduler.config.num_train_timesteps
        times = _checked_times(timesteps, n_train)
        _check_samples(x0)
        num_inference_steps = positive_integer("num_inference_steps", num_inference_steps)
        if num_inference_steps > n_train:
            raise ValueError(
                f"num_inference_steps must be at most the {n_train} steps of the scheduler, got "
                f"{num_inference_steps}"
            )
        batch_size = positive_integer("batch_size", batch_size)
        if autocast_dtype not in (None, torch.bfloat16, torch.float16):
            raise ValueError(
                "autocast_dtype must be torch.bfloat16, torch.float16 or None, got "
                f"{autocast_dtype!r}"
            )
        x0 = x0.to(self.device)
        x = x0.repeat(len(times), *[1] * (x0.ndim - 1))  # row k * n + i is image i at time k
        row_times = torch.tensor(times, device=x.device).repeat_interleave(len(x0))
        generators = _row_generators(generator, len(x0), times)

        # The forward process: x_t of every row, and the steps that lead back from it.
        cohorts = []
        for t in sorted(set(times) - {0}):
            scheduler, steps = self._started_at(t, num_inference_steps, start_below)
            rows = (row_times == t).nonzero().flatten()
            cohort = _Cohort(scheduler, steps, rows, [generators[row] for row in rows.tolist()])
            x[rows] = self._noised(x[rows], t, cohort.generators)
            cohorts.append(cohort)

        # The backward process: one sweep over the steps of all cohorts, from the largest down.
        sweep = sorted({step for cohort in cohorts for step in cohort.steps}, reverse=True)
        for step in self.progress_bar(sweep):
            under_way = [cohort for cohort in cohorts if step in cohort.steps]
            # The model is shared by all rows under way ...
            rows = torch.cat([cohort.rows for cohort in under_way])
            batches = rows.split(batch_size)
            parts = [self._predicted(x[b], step, batch_size, autocast_dtype) for b in batches]
            predicted = torch.cat(parts)
            # ... and each cohort goes on to the next of its own steps.
            sizes = [len(cohort.rows) for cohort in under_way]
            for cohort, prediction in zip(under_way, predicted.split(sizes), strict=True):
                x[cohort.rows] = _stepped(cohort, prediction, step, x[cohort.rows])
        return ForwardBackwardOutput(samples=x.reshape(len(times), *x0.shape))

    def _started_at(self, t, num_inference_steps, start_below):
        """A scheduler that starts at time t, and its steps from there, from the largest down."""
        scheduler = deepcopy(self.scheduler)
        scheduler.set_timesteps(num_inference_steps)
        _check_steps(scheduler, num_inference_steps)
        grid = [int(step) for step in scheduler.timesteps]
        steps = [step for step in grid if step < t]
        if t == scheduler.config.num_train_timesteps:
            return scheduler, steps
        if not start_below:
            steps = [t, *steps]
        if not steps:
            raise ValueError(f"no respaced step is below t = {t}; the smallest is {grid[-1]}")
        if "timesteps" in inspect.signature(scheduler.set_timesteps).parameters:
            scheduler.set_timesteps(timesteps=steps)
        elif steps[0] not in grid:
            raise ValueError(
                f"time {t} is not among the {num_inference_steps} steps of "
                f"{type(scheduler).__name__}, which cannot start between them; choose from "
                f"{grid[::-1]}"
            )
        return scheduler, steps

    def _noised(self, x, t, generators):
        """x_t of x_0, both (n_rows, ...); pure noise at t = T."""
        noise = randn_tensor(x.shape, generator=generators, device=x.device)
        if t == self.scheduler.config.num_train_timesteps:
            return noise
        alpha_bar = self.scheduler.alphas_cumprod[t].to(x)
        return alpha_bar.sqrt() * x + (1 - alpha_bar).sqrt() * noise

    def _predicted(self, x, t, batch_size, autocast_dtype):
        """What the model predicts for up to ``batch_size`` rows, in a call of exactly that many."""
        filled = x[torch.arange(batch_size, device=x.device) % len(x)]
        autocast = nullcontext()
        if autocast_dtype is not None:
            autocast = torch.autocast(x.device.type, dtype=autocast_dtype)
        with autocast:
            predicted = self.model(filled, torch.tensor(t, device=x.device)).sample
        predicted = predicted[: len(x)].to(x.dtype)
        channels = x.shape[1]
        learned = self.scheduler.config.get("variance_type") in ("learned", "learned_range")
        learned = learned and isinstance(self.scheduler, DDPMScheduler)
        if predicted.shape[1] == 2 * channels and not learned:
            predicted = predicted[:, :channels]
        expected = (len(x), (1 + learned) * channels, *x.shape[2:])
        if predicted.shape != expected:
            raise ValueError(
                f"the model returned shape {tuple(predicted.shape)} for x_t of shape "
                f"{tuple(x.shape)}; {type(self.scheduler).__name__} needs {expected}"
            )
        return predicted


def _stepped(cohort, predicted, step, x):
    """x of a cohort's rows after one step of its scheduler."""
    takes_generator = "generator" in inspect.signature(cohort.scheduler.step).parameters
    noise = {"generator": cohort.generators} if takes_generator else {}
    return cohort.scheduler.step(predicted, step, x, **noise).prev_sample


def _check_scheduler(scheduler) -> None:
    """Raise a ValueError unless the scheduler denoises x_t of the variance-preserving process."""
    name = type(scheduler).__name__
    remedy = "use DDPMScheduler, DDIMScheduler or DPMSolverMultistepScheduler"
    if not isinstance(scheduler, SchedulerMixin) or DDPMScheduler not in scheduler.compatibles:
        raise ValueError(
            f"scheduler {name} is not for the variance-preserving process (alphas_cumprod) of "
            f"DDPMScheduler; {remedy}"
        )
    if scheduler.init_noise_sigma != 1:
        raise ValueError(
            f"scheduler {name} rescales x_t (init_noise_sigma = "
            f"{float(scheduler.init_noise_sigma):.3g} instead of 1); {remedy}"
        )


def _check_steps(scheduler, num_inference_steps: int) -> None:
    """Raise a ValueError unless the respaced steps fall, at the noise levels of the process."""
    name, steps = type(scheduler).__name__, scheduler.timesteps.tolist()
    for step, following in pairwise(steps):
        if following >= step:
            raise ValueError(
                f"{name} takes step {following} after {step} (num_inference_steps = "
                f"{num_inference_steps}), but steps must fall; take fewer steps, or DDPMScheduler "
                "or DDIMScheduler"
            )
    if hasattr(scheduler, "sigmas"):
        alpha_bar = scheduler.alphas_cumprod[[int(step) for step in steps]]
        expected = ((1 - alpha_bar) / alpha_bar).sqrt()
        if not torch.allclose(scheduler.sigmas[: len(steps)], expected, rtol=1e-3):
            raise ValueError(
                f"the noise levels of {name} are not those of its alphas_cumprod; switch off its "
                "karras, exponential, beta, flow or lu spacing"
            )


def _checked_times(timesteps, n_train: int) -> list[int]:
    """The reversal times as integers, or a ValueError that names the first bad one."""
    values = torch.as_tensor(timesteps)
    if values.ndim != 1 or len(values) == 0:
        raise ValueError(f"timesteps must be a non-empty list of integers, got {timesteps!r}")
    for value in values.tolist():
        if not 0 <= value <= n_train or value != int(value):
            raise ValueError(
                f"timesteps must be integers from 0 (no noise) to {n_train} (pure noise), "
                f"got {value}"
            )
    return [int(value) for value in values.tolist()]


def _check_samples(x0) -> None:
    """Raise a ValueError unless x_0 can be noised."""
    if not isinstance(x0, torch.Tensor) or x0.dtype != torch.float32:
        raise ValueError(f"x0 must be a float32 tensor, got {getattr(x0, 'dtype', type(x0))}")
    if x0.ndim < 2 or x0.numel() == 0:
        raise ValueError(f"x0 must be of shape (n, ...) with n >= 1, got {tuple(x0.shape)}")
    if not x0.isfinite().all():
        raise ValueError(f"x0 must be finite, got {x0[~x0.isfinite()][0].item()}")


def _row_generators(generator, n: int, times: list[int]) -> list[torch.Generator]:
    """One generator per row (k, i), from image i's own, times[k] and its earlier occurrences."""
    generator = checked_generators(generator, n)
    if isinstance(generator, torch.Generator):
        generator = [generator] * n
    keys = [
        int(torch.randint(2**63 - 1, (), generator=own, device=own.device)) for own in generator
    ]
    seen, rows = Counter(), []
    for t in times:
        rows += [derived_generator(key, t, seen[t]) for key in keys]
        seen[t] += 1
    return rows
