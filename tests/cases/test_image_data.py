"""What a data set may hold: a line for each thing that is wrong."""

import dataclasses

import pytest
import torch
from sklearn.datasets import load_digits

from hierphase.diffusion import datasets
from hierphase.diffusion.datasets import digits


@pytest.fixture(scope="module")
def data():
    return digits()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"test_images": torch.zeros(450, 1, 8, 8).double()}, "float32 .* got torch.float64"),
        ({"test_images": torch.zeros(3, 8, 8)}, r"\(n, channels, height, width\), got \(3, 8, 8\)"),
        ({"test_images": torch.zeros(0, 1, 8, 8)}, r"test_images .* got \(0, 1, 8, 8\)"),
        ({"train_images": torch.full((1347, 1, 8, 8), 16.0)}, "from -1 to 1, got .* from 16 to 16"),
        ({"train_images": torch.full((1347, 1, 8, 8), float("nan"))}, "from nan to nan"),
        ({"test_labels": torch.zeros(7, dtype=int)}, r"test_labels .* \(450,\), got \(7,\)"),
        ({"test_labels": torch.zeros(450)}, "test_labels must be torch.int64 .* got torch.float32"),
        (
            {"test_labels": torch.full((450,), -1)},
            "test_labels .* from 0 to 9, got .* from -1 to -1",
        ),
        ({"class_names": ("0", "1")}, "train_labels .* from 0 to 1, got torch.int64 from 0 to 9"),
    ],
)
def test_inconsistent_data_are_refused(data, change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(data, **change)


def test_other_digits_than_the_published_are_refused(monkeypatch):
    pixels, labels = load_digits(return_X_y=True)
    monkeypatch.setattr(datasets, "load_digits", lambda return_X_y: (pixels / 16, labels))
    with pytest.raises(ValueError, match="scikit-learn holds other data than the published digits"):
        digits()
