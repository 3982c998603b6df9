import itertools

import pytest
import torch

from hierphase.seeds import derived_generator


def test_streams_repeat_and_differ_for_every_set_of_numbers():
    def draw(*numbers):
        return torch.randn(1000, generator=derived_generator(*numbers))

    keys = [(0,), (1,), (0, 0), (0, 1), (1, 0), (2**32,), (2**62, 5), (2**62 + 1, 5)]
    assert all(torch.equal(draw(*key), draw(*key)) for key in keys)
    for first, second in itertools.combinations(keys, 2):
        correlation = torch.corrcoef(torch.stack([draw(*first), draw(*second)]))[0, 1]
        assert abs(correlation) < 0.15


@pytest.mark.parametrize("number", [-1, 2**64, 1.5, True, "a"])
def test_what_is_no_number_in_range_is_named(number):
    with pytest.raises(ValueError, match=f"got {number!r}"):
        derived_generator(0, number)
