"""Independent random streams from a few integers: the same numbers give the same stream."""

import numpy as np
import torch


def derived_generator(*numbers: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A new generator that depends on ``numbers`` and on nothing else.

    NumPy's SeedSequence mixes the numbers, so that streams of different numbers (also of
    neighbouring ones) are independent for all practical purposes. This is how one seed serves
    many images, noise levels or training steps without any of them depending on the others.

    Args:
        numbers: non-negative integers, e.g. (seed, step).
        device: where the generator lives.
    """
    state = np.random.SeedSequence(numbers).generate_state(1, np.uint64)
    return torch.Generator(device).manual_seed(int(state[0]))
