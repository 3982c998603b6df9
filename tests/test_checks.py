import numpy as np
import pytest
import torch

from hierphase.checks import check_shape


@pytest.mark.parametrize(
    ("shape", "axes"),
    [
        ((2, 3), ("n d",)),
        ((2, 3), ("n", 3)),
        ((5, 2, 3), ("n_times", *torch.zeros(2, 3).shape)),
        ((4, 4), ("side side",)),
        ((7, 4, 4), ("... side side",)),
        ((4, 4), ("... side side",)),
        ((3, 7, 1), ("n ... 1",)),
        ((), ("...",)),
    ],
)
def test_shapes_that_fit(shape, axes):
    check_shape("x", np.zeros(shape), *axes)
    check_shape("x", torch.zeros(shape), *axes)


@pytest.mark.parametrize(
    ("shape", "axes", "wanted"),
    [
        ((2, 3), ("n v d",), "(n, v, d)"),
        ((2, 3), ("n", 4), "(n, 4)"),
        ((4, 5), ("... side side",), "(..., side, side)"),
        ((4,), ("... side side",), "(..., side, side)"),
        ((0, 3), ("n d",), "(n, d)"),
        ((3, 0, 1), ("n ... 1",), "(n, ..., 1)"),
    ],
)
def test_others_are_named(shape, axes, wanted):
    with pytest.raises(ValueError) as raised:
        check_shape("x", np.zeros(shape), *axes)
    assert str(raised.value) == f"x must be of shape {wanted}, got {shape}"
