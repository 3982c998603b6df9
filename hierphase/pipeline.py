"""The forward-backward experiment: noise x_0 up to time t, then denoise it back to x̂0(t).

Index convention. Reversal time t counts the noising steps of the trained process, 0 to T
(``num_train_timesteps``). For 0 < t < T, x_t is drawn with ``alphas_cumprod[t]`` and the first
denoising step is taken at that same index t, followed by every respaced step below t. t = 0 is no
noise at all and returns x_0 itself; t = T is pure noise, denoised from the first respaced step.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from diffusers import DDIMScheduler, DDPMScheduler, DiffusionPipeline
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import randn_tensor

from hierphase.checks import positive_integer
from hierphase.seeds import derived_generator

SCHEDULERS = (DDPMScheduler, DDIMScheduler)


@dataclass
class ForwardBackwardOutput(BaseOutput):
    """What :class:`ForwardBackwardPipeline` returns.

    Attributes:
        samples: (n_times, n, ...) x̂0(t) of every image, in the order of the ``timesteps`` asked.
    """

    samples: torch.Tensor


class ForwardBackwardPipeline(DiffusionPipeline):
    """Noises samples up to given times and denoises them back, all times in one sweep.

    The sweep goes from the largest time down; each (image, time) row joins it when its own t is
    reached, so that every call of the model serves all rows that are under way.

    Args:
        model: predicts the noise (or what ``scheduler.config.prediction_type`` says):
            ``model(x_t, t).sample`` for a batch x_t and a scalar tensor t. A diffusers
            ``UNet2DModel`` or a :class:`~hierphase.denoisers.BayesDenoiser`.
        scheduler: ``DDPMScheduler`` (ancestral sampling) or ``DDIMScheduler`` (eta = 0).

    Raises:
        ValueError: a scheduler of another class.
    """

    def __init__(self, model, scheduler):
        super().__init__()
        if not isinstance(scheduler, SCHEDULERS):
            raise ValueError(
                f"scheduler {type(scheduler).__name__} cannot start midway here: use "
                f"{' or '.join(kind.__name__ for kind in SCHEDULERS)}"
            )
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
    ) -> ForwardBackwardOutput:
        """Run the experiment.

        Every (image, time) has a random stream of its own: one number is drawn from the image's
        generator, and the stream is derived from that number, t, and how often this t came before
        in ``timesteps``. So an image's result depends neither on the other images nor on the other
        times of the call. The model is always given exactly ``batch_size`` rows (the last batch is
        filled up by repetition), which makes results equal bit for bit however images and times
        are split over calls; another ``batch_size`` may change the last bits by rounding.

        Args:
            x0: (n, ...) samples to start from, float32.
            timesteps: reversal times, integers in [0, T], any order, repetitions allowed (each is
                another draw). With DDIM, whose steps all have one length, times other than 0 and T
                must be among the respaced ones.
            num_inference_steps: denoising steps that the whole way from T to 0 would take.
            generator: one for all images (each takes one number from it, in order), or a list
                with one per image; None seeds one from the operating system.
            batch_size: rows per call of the model.

        Returns:
            :class:`ForwardBackwardOutput` with ``samples`` of shape (n_times, n, ...).

        Raises:
            ValueError: a wrong type, shape or range, or a number of generators other than n.
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
        generators = _row_generators(generator, len(x0), times)

        self.scheduler.set_timesteps(num_inference_steps)
        grid = self.scheduler.timesteps.tolist()
        starts = [grid[0] if t == n_train else t for t in times]
        off_grid = {start for start in starts if start > 0} - set(grid)
        if off_grid and not isinstance(self.scheduler, DDPMScheduler):
            raise ValueError(
                f"timesteps {sorted(off_grid)} are not among the {num_inference_steps} steps of "
                f"{type(self.scheduler).__name__}, which cannot start between them; choose from "
                f"{grid[::-1]}"
            )

        x0 = x0.to(self.device)
        x = x0.repeat(len(times), *[1] * (x0.ndim - 1))  # row k * n + i is image i at time k
        row_times = torch.tensor(times).repeat_interleave(len(x0))
        row_starts = torch.tensor(starts).repeat_interleave(len(x0))
        row_starts[row_times == 0] = -1  # no noise: these rows never join
        sweep = sorted(off_grid.union(g for g in grid if g <= row_starts.max()), reverse=True)
        for t in self.progress_bar(sweep):
            joining = (row_starts == t).nonzero().flatten()
            if len(joining):
                x[joining] = self._noised(x[joining], row_times[joining], generators, joining)
            if t in off_grid:  # a step that only the rows starting here take
                self.scheduler.set_timesteps(timesteps=[t] + [g for g in grid if g < t])
                self._denoise(x, t, joining, generators, batch_size)
                self.scheduler.set_timesteps(num_inference_steps)
            else:
                under_way = (row_starts >= t).nonzero().flatten()
                self._denoise(x, t, under_way, generators, batch_size)
        return ForwardBackwardOutput(samples=x.reshape(len(times), *x0.shape))

    def _noised(self, x, times, generators, rows):
        """x_t of the given rows: (n_rows, ...) x_0 in, x_t out; pure noise at t = T."""
        noise = randn_tensor(x.shape, generator=[generators[row] for row in rows], device=x.device)
        pure = times == self.scheduler.config.num_train_timesteps
        steps = times.masked_fill(pure, 0).to(x.device)
        noisy = self.scheduler.add_noise(x, noise, steps)
        noisy[pure] = noise[pure]
        return noisy

    def _denoise(self, x, t, rows, generators, batch_size):
        """One scheduler step at time t of the given rows of x, in place, in full batches."""
        for batch in rows.split(batch_size):
            filled = batch[torch.arange(batch_size) % len(batch)]
            predicted = self.model(x[filled], torch.tensor(t, device=x.device)).sample
            x[batch] = self.scheduler.step(
                predicted[: len(batch)], t, x[batch], generator=[generators[row] for row in batch]
            ).prev_sample


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
    if generator is None:
        generator = torch.Generator()
        generator.seed()
    if isinstance(generator, torch.Generator):
        generator = [generator] * n
    if len(generator) != n:
        raise ValueError(f"got {len(generator)} generators for {n} images; give one per image")
    keys = [
        int(torch.randint(2**63 - 1, (), generator=own, device=own.device)) for own in generator
    ]
    seen, rows = Counter(), []
    for t in times:
        rows += [derived_generator(key, t, seen[t]) for key in keys]
        seen[t] += 1
    return rows
