"""Independent random streams from a few integers: the same numbers give the same stream."""

import numpy as np
import torch

from hierphase.checks import positive_integer


def derived_generator(*numbers: int) -> torch.Generator:
    """A new generator (on the CPU) that depends on ``numbers`` and on nothing else.

    NumPy's SeedSequence mixes the numbers, so that streams of different numbers (also of
    neighbouring ones) are independent for all practical purposes. This is how one seed serves
    many images, noise levels or training steps without any of them depending on the others.

    Args:
        numbers: integers from 0 to 2**64 - 1, e.g. (seed, step).

    Raises:
        ValueError: a number that is no integer, or out of range.
    """
    words = [len(numbers)]  # SeedSequence pads with zeros: without it (1,) would equal (1, 0)
    for number in numbers:
        number = positive_integer("each number", number, 0, 2**64 - 1)
        words += [number % 2**32, number // 2**32]  # always two, or (2**32,) would equal (0, 1)
    state = np.random.SeedSequence(words).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0]))


def drawn(distribution, shape, generator=None, axis: int = 0, dtype=None) -> torch.Tensor:
    """Random numbers, each sample's from its own generator where a list is given.

    Args:
        distribution: ``torch.rand`` or ``torch.randn``.
        shape: of the numbers.
        generator: as for :func:`checked_generators`; they are drawn on its device.
        axis: along which the samples lie.
        dtype: of the numbers.

    Raises:
        ValueError: as :func:`checked_generators`.
    """
    generator = checked_generators(generator, shape[axis])
    if not isinstance(generator, list):
        return distribution(shape, generator=generator, device=generator.device, dtype=dtype)
    one = (*shape[:axis], *shape[axis + 1 :])
    rows = [distribution(one, generator=g, device=g.device, dtype=dtype) for g in generator]
    return torch.stack(rows, axis)


def checked_generators(generator, n: int) -> torch.Generator | list[torch.Generator]:
    """Return ``generator``, or one with a fresh seed from the system for None.

    Args:
        generator: a generator, a list of n (one a sample), or None.
        n: number of samples.

    Raises:
        ValueError: something else, or a list of another length.
    """
    if generator is None:
        generator = torch.Generator()
        generator.seed()
    listed = generator if isinstance(generator, list) else [generator]
    if wrong := [entry for entry in listed if not isinstance(entry, torch.Generator)]:
        raise ValueError(f"generator must be one torch.Generator or a list, got {wrong[0]!r}")
    if listed is generator and len(listed) != n:
        raise ValueError(f"generators must be a list of {n}, one a sample; got {len(listed)}")
    return generator
