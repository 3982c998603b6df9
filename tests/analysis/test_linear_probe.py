import pytest
import torch
from torch.nn.functional import one_hot

from hierphase.analysis.linear_probe import linear_decoding, patches


def test_rows_hold_what_lies_below_a_symbol_or_the_position_above_it():
    layer = torch.arange(2 * 3 * 4).view(2, 3, 4)
    rows, symbols = patches(layer, torch.tensor([[7, 8], [9, 10]]))
    assert symbols.tolist() == [7, 8, 9, 10]
    assert sorted(rows[1].tolist()) == sorted(layer[0, :, 2:].flatten().tolist())
    rows, symbols = patches(layer[..., :1], torch.tensor([[7, 8], [9, 10]]))
    assert symbols.tolist() == [7, 9]
    assert rows.tolist() == layer[..., 0].tolist()
    with pytest.raises(ValueError, match=r"shape \(2, 3, 4\) do not fit symbols of shape \(2, 3\)"):
        patches(layer, torch.zeros(2, 3))


def test_what_is_linear_is_read_and_what_is_a_matter_of_pairs_is_not():
    symbols = torch.randint(4, (900, 8), generator=torch.Generator().manual_seed(0))
    layer = one_hot(symbols, 4).mT.float()
    assert linear_decoding(layer, symbols) == 1.0
    parents = (symbols[:, ::2] + symbols[:, 1::2]) % 4  # every child alone says nothing of it
    assert linear_decoding(layer, parents) < 0.5
    assert linear_decoding(torch.randn(900, 5, 8), symbols) == pytest.approx(0.25, abs=0.06)
    with pytest.raises(ValueError, match="number of data must be at least 3, got 2"):
        linear_decoding(layer[:2], symbols[:2])
