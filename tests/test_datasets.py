import dataclasses

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from hierphase.datasets import digits


@pytest.fixture(scope="module")
def data():
    return digits()


def test_digits_are_all_there_once_with_their_labels(data):
    images = torch.cat([data.train_images, data.test_images])
    labels = torch.cat([data.train_labels, data.test_labels])
    pixels, targets = load_digits(return_X_y=True)

    def rows(pixels, labels):
        return sorted(map(tuple, np.column_stack([pixels, labels]).round().astype(int)))

    assert rows((images.reshape(-1, 64).numpy() + 1) * 8, labels) == rows(pixels, targets)
    assert images.dtype == torch.float32
    assert data.test_images.shape == (450, 1, 8, 8)
    assert (images.amin().item(), images.amax().item()) == (-1.0, 1.0)


def test_split_is_stratified_and_always_the_same(data):
    everything = torch.cat([data.train_labels, data.test_labels]).bincount()
    expected = everything * len(data.test_labels) / everything.sum()
    assert (data.test_labels.bincount() - expected).abs().amax() <= 1
    again = digits()
    assert torch.equal(again.test_images, data.test_images)
    assert torch.equal(again.train_labels, data.train_labels)
    # the split itself, so that a change of scikit-learn's shuffling does not pass unseen
    assert data.test_labels[:12].tolist() == FIRST_TEST_LABELS


FIRST_TEST_LABELS = [2, 0, 4, 9, 4, 1, 2, 4, 6, 7, 9, 1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"test_images": torch.zeros(3, 1, 8, 8, dtype=torch.float64)}, "float32.*torch.float64"),
        ({"test_images": torch.zeros(3, 8, 8)}, r"got torch.float32 of shape \(3, 8, 8\)"),
        ({"train_images": torch.full((3, 1, 8, 8), 16.0)}, r"\[-1, 1\], got values from 16 to 16"),
        ({"train_images": torch.full((3, 1, 8, 8), float("nan"))}, "got values from nan"),
        ({"test_labels": torch.zeros(7)}, r"got shape \(7,\) for 450 images"),
        ({"class_names": ("0", "1")}, r"must lie in \[0, 2\), got values from 0 to 9"),
    ],
)
def test_inconsistent_data_are_refused(data, change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(data, **change)
