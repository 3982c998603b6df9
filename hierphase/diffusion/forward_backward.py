r"""The forward-backward experiment: noise x_0 up to time t, then denoise it back to x̂0(t).

Noise levels. What samplers of all kinds share is :math:`\ln \mathrm{SNR} = 2 \ln(\alpha/\sigma)`
of the state :math:`x_t = \alpha x_0 + \sigma z`, so that a run can start at the
beginning of any of its steps. Where a process was trained at times t = 0 to T
(``num_train_timesteps``), these name levels too: for 0 < t < T the first denoising step is taken at
the very time t that x_t was noised to, followed by every respaced step below t. t = 0 is no noise
at all and returns x_0 itself; t = T is pure noise, denoised from the first respaced step.

The paper's published code noises at time t as well, but takes its first denoising step at the
next respaced time below t, as if x_t were that much less noisy: ``start_below=True``.
"""

import inspect
import math
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

import torch
from diffusers import DiffusionPipeline
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import randn_tensor

from hierphase.checks import check_finite, check_known, check_shape, positive_integer, within
from hierphase.diffusion.samplers import SamplerRun, check_scheduler, learns_variance
from hierphase.seeds import checked_generators, derived_generator

#: Rows of a call of the model on a CPU, where more are no faster.
ROWS_PER_CALL = 32
AUTOCAST_DTYPES = ("None", "torch.bfloat16", "torch.float16")


@dataclass
class ForwardBackwardOutput(BaseOutput):
    """What :class:`ForwardBackwardPipeline` returns.

    Attributes:
        samples: (n_times, n, ...) x̂0(t) of every image, in the order of the times asked.
        timesteps: (n_times,) float64 time that x_t was noised to, as the scheduler counts;
            0 where there is no noise, and T where ``timesteps`` asked for pure noise.
        ln_snr: (n_times,) float64 level of x_t; inf where there is no noise, -inf for pure noise.
        noise: (n_times, n, ...) z of x_t = alpha x_0 + sigma z; 0 where there is no noise.
    """

    samples: torch.Tensor
    timesteps: torch.Tensor
    ln_snr: torch.Tensor
    noise: torch.Tensor


class _Start(NamedTuple):
    """Where a way back starts: with x_t = alpha x_0 + sigma z, at step k of a run."""

    run: SamplerRun
    k: int
    alpha: float
    sigma: float
    t: float
    key: tuple[int, ...]  # of the random stream

    @property
    def ln_snr(self) -> float:
        alpha, sigma = torch.tensor([self.alpha, self.sigma]).double().log()
        return 2 * float(alpha - sigma)


class ForwardBackwardPipeline(DiffusionPipeline):
    """Noises samples up to given times and denoises them back, all times in one sweep.

    The sweep goes from the largest time down; each (image, time) row joins it when its own t is
    reached, so that every call of the model serves all rows that are under way.

    Args:
        model: predicts what the scheduler needs (noise, sample, v, flow, or F of EDM):
            ``model(x_t, t).sample`` for a batch x_t and a scalar tensor t. A diffusers
            ``UNet2DModel`` or a :class:`~hierphase.rhm.bayes_denoiser.BayesDenoiser`. Of a model
            with twice the channels (learned variance) the second half serves a ``DDPMScheduler``
            whose ``variance_type`` is ``learned`` or ``learned_range`` and is left out otherwise.
        scheduler: of a process that is variance preserving (``DDPMScheduler``: ancestral sampling;
            ``DDIMScheduler``, ``DPMSolverMultistepScheduler`` and others), variance exploding as
            ``EulerDiscreteScheduler`` and its kin state it, EDM, or flow matching. One that does
            not denoise what it says is refused when it is run (see
            :meth:`hierphase.diffusion.samplers.SamplerRun.check`).

    Raises:
        ValueError: a scheduler that cannot be used.

    Example:
        >>> from hierphase import BayesDenoiser, BeliefPropagation, ForwardBackwardPipeline
        >>> from hierphase import RandomHierarchyModel
        >>> from hierphase.rhm.corruption import ddpm_scheduler, encode
        >>> rhm, scheduler = RandomHierarchyModel(v=8, m=2, s=2, L=2), ddpm_scheduler()
        >>> pipeline = ForwardBackwardPipeline(
        ...     BayesDenoiser(BeliefPropagation(rhm), scheduler), scheduler
        ... )
        >>> x_0 = encode(rhm.sample(6)[0], v=8)
        >>> times = [0, 300, 1000]
        >>> samples = pipeline(x_0, times, num_inference_steps=100).samples
        >>> samples.shape  # x_0 denoised from each of the times
        torch.Size([3, 6, 8, 4])
        >>> kept = (samples.argmax(2) == x_0.argmax(1)).float().mean((1, 2))
        >>> float(kept[0])  # without noise nothing changes
        1.0
    """

    def __init__(self, model, scheduler):
        super().__init__()
        check_scheduler(scheduler)
        self.register_modules(model=model, scheduler=scheduler)
        self.set_progress_bar_config(disable=None)  # shown on a terminal only

    @torch.no_grad()
    def __call__(
        self,
        x0: torch.Tensor,
        timesteps: Sequence[float] | None = None,
        num_inference_steps: int = 250,
        generator: torch.Generator | list[torch.Generator] | None = None,
        batch_size: int = 64,
        start_below: bool = False,
        autocast_dtype: torch.dtype | None = None,
        *,
        ln_snr: Sequence[float] | None = None,
        exact_bits: bool = True,
        conditions: dict[str, torch.Tensor] | None = None,
        **step_options,
    ) -> ForwardBackwardOutput:
        """Run the experiment.

        Every (image, time) has a random stream of its own: one number is drawn from the image's
        generator, and the stream is derived from that number, the start, and how often this start
        came before. So an image's result depends neither on the other images nor on the other
        times of the call.

        Args:
            x0: (n, ...) samples to start from, float32.
            timesteps: reversal times in [0, T], any order, repetitions allowed (each is another
                draw). A scheduler whose ``set_timesteps`` does not take ``timesteps``, or whose
                noise levels are not those of training (Karras' and others), can only start at its
                own steps: with these, use ``ln_snr``. Respaced times are also the cheapest: a
                time between them takes its first step alone.
            num_inference_steps: denoising steps that the whole way from noise to data would take.
            generator: one for all images (each takes one number from it, in order), or a list
                with one per image; None seeds one from the operating system.
            batch_size: most rows per call of the model.
            start_below: take the first denoising step at the next respaced time below t, as the
                paper's published code does, instead of at t.
            autocast_dtype: ``torch.bfloat16`` or ``torch.float16`` runs the model under
                ``torch.autocast``; x_t and the scheduler stay float32.
            ln_snr: instead of ``timesteps``, levels to start from, each at the nearest step of the
                run; inf is no noise, -inf pure noise.
            exact_bits: give the model always the same number of rows (filled up by repetition), so
                that results are equal bit for bit however images and times are split over calls:
                32 rows on a CPU (``batch_size``, if that is less), ``batch_size`` elsewhere.
                False computes only the rows at hand, ``batch_size`` at a time; other sums then
                change the last bits (around 1e-6 a call on a CPU).
            conditions: what else the model takes, name -> (n, ...), a row an image, or (1, ...):
                ``class_labels``, or ``encoder_hidden_states`` of a text. The model is then called
                as ``model(x_t, timestep=t, **conditions)``, with t (rows,).
            step_options: ``eta`` and ``use_clipped_model_output`` of the scheduler's ``step``.

        Returns:
            :class:`ForwardBackwardOutput` with ``samples`` of shape (n_times, n, ...), float32.

        Raises:
            ValueError: a wrong type, shape or range, a number of generators or of rows of a
                condition other than n, a scheduler that cannot start at these times or does not
                lead back from them, or a model output of another shape or that is not finite.
        """
        if getattr(x0, "dtype", None) != torch.float32:
            raise ValueError(f"x0 must be a float32 tensor, got {getattr(x0, 'dtype', type(x0))}")
        check_finite("x0", x0, "n", "channels", "...")
        batch_size = positive_integer("batch_size", batch_size)
        check_known("autocast_dtype", str(autocast_dtype), AUTOCAST_DTYPES)
        if isinstance(self.model, torch.nn.Module):
            x0 = x0.to(next(self.model.parameters(), x0).device)
        conditions = {k: torch.as_tensor(v).to(x0.device) for k, v in (conditions or {}).items()}
        for name, rows in conditions.items():
            if len(rows) not in (1, len(x0)):
                raise ValueError(f"condition {name} needs {len(x0)} rows, or 1, got {len(rows)}")
        starts = self._starts(timesteps, ln_snr, num_inference_steps, start_below, step_options)
        noisiest = min(starts, key=lambda start: start.ln_snr)
        if noisiest.sigma > 0:
            noisiest.run.check(noisiest.k, max(1.0, float(x0.abs().max())))
        if exact_bits and x0.device.type == "cpu":
            batch_size = min(batch_size, ROWS_PER_CALL)

        # The forward process: x_t of the rows of every start, and the way that leads back.
        samples, ways, asked = [x0] * len(starts), {}, {}
        noise = [torch.zeros_like(x0)] * len(starts)
        generators = _row_generators(generator, len(x0), [start.key for start in starts])
        for i, (start, own) in enumerate(zip(starts, generators, strict=True)):
            if start.sigma > 0:
                noise[i] = randn_tensor(x0.shape, generator=own, device=x0.device)
                x_t = start.alpha * x0 + start.sigma * noise[i]
                ways[i] = start.run.way_back(start.k, x_t, own)
                asked[i] = next(ways[i])

        # The backward process: one sweep over the calls of all starts, from the largest t down.
        n_calls = sum(len(starts[i].run.calls_from(starts[i].k)) for i in ways)
        with self.progress_bar(total=n_calls) as progress:
            while asked:
                t = max(t for _, t, _ in asked.values())
                under_way = [i for i in asked if asked[i][1] == t]
                # The model is shared by all rows under way ...
                given = torch.cat([asked.pop(i)[2] for i in under_way])
                batches = torch.arange(len(given), device=x0.device).split(batch_size)
                like = t.to(x0.device), batch_size if exact_bits else 1, autocast_dtype, conditions
                predicted = torch.cat([self._predicted(given, rows, *like) for rows in batches])
                _check_computed("the model's output", predicted, len(x0), t, autocast_dtype)
                # ... and those of each start go on to the next of their own steps.
                for i, own in zip(under_way, predicted.split(len(x0)), strict=True):
                    try:
                        asked[i] = ways[i].send(own)
                    except StopIteration as end:
                        samples[i] = end.value
                progress.update(len(under_way))
        _check_computed("x̂0", torch.cat(samples), len(x0), 0, autocast_dtype)
        times = torch.tensor([(start.t, start.ln_snr) for start in starts], dtype=torch.float64)
        return ForwardBackwardOutput(torch.stack(samples), *times.mT.clone(), torch.stack(noise))

    def rows_by_call(self, ln_snr, num_inference_steps: int) -> Counter:
        """How many levels are under way at each call of the model: rows of it for one image."""
        starts = self._starts(None, ln_snr, num_inference_steps, False, {})
        return Counter(call for s in starts if s.sigma > 0 for call in s.run.calls_from(s.k))

    def _starts(self, timesteps, ln_snr, num_inference_steps, start_below, options):
        """Where each of the times or levels starts."""
        if (timesteps is None) == (ln_snr is None):
            raise ValueError(f"give timesteps or ln_snr, got {timesteps!r} and {ln_snr!r}")
        T = self.scheduler.config.get("num_train_timesteps", torch.inf)
        most = T if hasattr(self.scheduler, "alphas_cumprod") else None
        n_steps = positive_integer("num_inference_steps", num_inference_steps, 1, most)
        run = SamplerRun(self.scheduler, n_steps, **options)
        if timesteps is not None:
            times = within("timesteps", timesteps, 0, T).double()
            check_shape("timesteps", times, "n")
            return [self._at_time(run, t, T, start_below) for t in times.tolist()]
        if start_below:
            raise ValueError("start_below goes with timesteps, not with ln_snr")
        levels = within("ln_snr", ln_snr, -torch.inf, torch.inf).double()
        check_shape("ln_snr", levels, "n")
        return [_at_level(run, level) for level in levels.tolist()]

    def _at_time(self, run: SamplerRun, t: float, T: float, start_below: bool) -> _Start:
        """The start at reversal time t."""
        if t in (0, T):
            return _at_level(run, torch.inf if t == 0 else -torch.inf)._replace(t=t, key=(int(t),))
        grid = run.timesteps.tolist()
        key = (int(t), int(t % 1 * 2**32)) if t % 1 else (int(t),)
        below = [step for step in grid if step < t]
        alpha, sigma = (float(level) for level in run.parametrisation.level(t))
        if start_below:
            if not below:
                raise ValueError(f"no respaced step is below t = {t:g}; the smallest is {grid[-1]}")
            if abs(run.levels[0].norm() - 1) > 1e-3:
                raise ValueError(f"start_below is for variance-preserving schedulers, not {run}")
            return _Start(run, grid.index(below[0]), alpha, sigma, t, key)
        k = 0
        if grid.count(t) == 1:
            k = grid.index(t)
        elif "timesteps" in inspect.signature(self.scheduler.set_timesteps).parameters:
            with suppress(ValueError):  # not with Karras' and other levels
                steps = [int(t), *map(int, below)]
                run = SamplerRun(self.scheduler, timesteps=steps, **run.options)
        start = _Start(run, k, *run.levels[k].tolist(), t, key)
        if not abs(start.ln_snr - 2 * math.log(alpha / sigma)) < 0.02:
            raise ValueError(f"time {t:g} is no step of {run}: take one of {grid[::-1]}, or ln_snr")
        return start

    def _predicted(self, x, rows, t, n_rows, autocast_dtype, conditions):
        """What the model predicts for rows of x, in a call of at least ``n_rows``."""
        filled = rows[torch.arange(max(n_rows, len(rows)), device=x.device) % len(rows)]
        options = {name: own[filled % len(own)] for name, own in conditions.items()}
        with torch.autocast(x.device.type, autocast_dtype, enabled=autocast_dtype is not None):
            if options:
                predicted = self.model(x[filled], timestep=t.expand(len(filled)), **options).sample
            else:
                predicted = self.model(x[filled], t).sample
        predicted = predicted[: len(rows)].to(x.dtype)
        channels, learned = x.shape[1], learns_variance(self.scheduler)
        if predicted.shape[1] == 2 * channels and not learned:
            predicted = predicted[:, :channels]
        what = f"the model's output for {type(self.scheduler).__name__}"
        check_shape(what, predicted, len(rows), (1 + learned) * channels, *x.shape[2:])
        return predicted


def _at_level(run: SamplerRun, ln_snr: float) -> _Start:
    """The start at the step of the run that is nearest to a level."""
    if ln_snr == torch.inf:
        return _Start(run, len(run.calls), 1.0, 0.0, 0.0, (len(run.calls), 1))
    k = int((run.ln_snr - ln_snr).abs().argmin()) if ln_snr > -torch.inf else 0
    (alpha, sigma), t = run.levels[k].tolist(), float(run.timesteps[k])
    if ln_snr == -torch.inf:
        run.check_pure()
        return _Start(run, 0, 0.0, math.hypot(alpha, sigma), t, (0, 2))
    return _Start(run, k, alpha, sigma, t, (k, 1))


def _check_computed(what: str, x: torch.Tensor, n: int, t, dtype) -> None:
    """Raise a ValueError that names the first image with a number that is not finite."""
    bad = (~x.flatten(1).isfinite().all(1)).nonzero().flatten().tolist()
    if bad:
        where = f"image {bad[0] % n} of {n} at t = {float(t):.4g} in {dtype or x.dtype}"
        cause = "its range: use float32" if dtype is torch.float16 else "damaged weights, or x_0"
        raise ValueError(f"{what} is not finite for {where}; likely cause: {cause}")


def _row_generators(generator, n: int, starts: list[tuple]) -> list[list[torch.Generator]]:
    """For each start one generator an image, from the image's own and earlier equal starts."""
    generator = checked_generators(generator, n)
    of_images = generator if isinstance(generator, list) else [generator] * n
    keys = [int(torch.randint(2**63 - 1, (), generator=g, device=g.device)) for g in of_images]
    seen, rows = Counter(), []
    for start in starts:
        rows.append([derived_generator(key, start[0], seen[start], *start[1:]) for key in keys])
        seen[start] += 1
    return rows
