"""Independent random streams from a few integers: the same numbers give the same stream."""

import numpy as np
import torch


def derived_generator(*numbers: int) -> torch.Generator:
    """A new generator (on the CPU) that depends on ``numbers`` and on nothing else.

    NumPy's SeedSequence mixes the numbers, so that streams of different numbers (also of
    neighbouring ones) are independent for all practical purposes. This is how one seed serves
    many images, noise levels or training steps without any of them depending on the others.

    Args:
        numbers: integers from 0 to 2**64 - 1, e.g. (seed, step).

    Raises:
        ValueError: a number out of range.
    """
    words = [len(numbers)]  # SeedSequence pads with zeros: without it (1,) would equal (1, 0)
    for number in numbers:
        if not 0 <= number < 2**64:
            raise ValueError(f"numbers must be from 0 to 2**64 - 1, got {number}")
        words += [number % 2**32, number // 2**32]  # always two, or (2**32,) would equal (0, 1)
    state = np.random.SeedSequence(words).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0]))
