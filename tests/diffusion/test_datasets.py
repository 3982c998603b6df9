import numpy as np
import pytest
import small_data
import torch
from sklearn.datasets import load_digits

from hierphase.diffusion import datasets
from hierphase.diffusion import published as places
from hierphase.diffusion.datasets import cifar10, digits, fashion_mnist, mnist


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


# --- published data sets, on small files of the same formats


@pytest.fixture
def cached(tmp_path, monkeypatch):
    """Fills a cache with the small files."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(places, "SYSTEM", tmp_path / "system")
    small_data.pin(monkeypatch)
    for dataset, contents in small_data.CONTENTS.items():
        small_data.put(places.cache_directory() / dataset, contents)


@pytest.mark.parametrize(
    ("load", "names"),
    [(fashion_mnist, datasets.FASHION_MNIST_CLASSES), (mnist, map(str, range(10)))],
)
@pytest.mark.usefixtures("cached")
def test_grey_images_are_read_as_published(load, names):
    data = load()
    n_train = small_data.N_TRAIN
    assert data.train_images.shape == (n_train, 1, 28, 28)
    assert data.test_images.shape == (len(small_data.PIXELS) - n_train, 1, 28, 28)
    images = torch.cat([data.train_images, data.test_images])
    assert images.dtype == torch.float32
    assert np.array_equal(((images + 1) * 127.5).round().squeeze(1).numpy(), small_data.PIXELS)
    assert torch.cat([data.train_labels, data.test_labels]).tolist() == small_data.LABELS.tolist()
    assert data.class_names == tuple(names)


@pytest.mark.parametrize("size", [32, 16, 8])
@pytest.mark.usefixtures("cached")
def test_cifar10_is_read_in_published_order_and_averaged_over_squares(size):
    data = cifar10(size)
    k = 32 // size
    expected = small_data.PHOTOGRAPHS.astype(float).reshape(-1, 3, size, k, size, k).mean((3, 5))
    images = torch.cat([data.train_images, data.test_images])
    np.testing.assert_allclose(images, expected / 127.5 - 1, atol=1e-6)
    assert data.train_labels.tolist() == list(range(10))
    assert data.test_labels.tolist() == [3, 8]


@pytest.mark.parametrize("size", [0, 5, 64, "16"])
def test_cifar10_of_a_size_that_does_not_divide_is_refused(size):
    with pytest.raises(ValueError, match=f"divisor of it, got {size!r}"):
        cifar10(size)


def test_fashion_mnist_as_published(published):
    data = published(fashion_mnist)
    assert data.train_images.shape == (60_000, 1, 28, 28)
    assert data.test_images.shape == (10_000, 1, 28, 28)
    assert data.train_labels.bincount().tolist() == [6_000] * 10
    assert data.test_labels.bincount().tolist() == [1_000] * 10
    # mean and standard deviation of the training pixels in [0, 1], as commonly quoted
    pixels = (data.train_images + 1) / 2
    assert pixels.mean().item() == pytest.approx(0.2860, abs=5e-5)
    assert pixels.std().item() == pytest.approx(0.3530, abs=5e-5)
    # sandals are fainter than pullovers, and the first test image is an ankle boot
    brightness = [pixels[data.train_labels == label].mean().item() for label in range(10)]
    names = data.class_names
    assert brightness[names.index("sandal")] < brightness[names.index("pullover")] / 2
    assert names[data.test_labels[0]] == "ankle boot"


@pytest.mark.parametrize(
    ("load", "train", "test"),
    [
        (mnist, [5, 0, 4, 1, 9, 2, 1, 3, 1, 4], [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]),
        (cifar10, [6, 9, 9, 4, 1, 1, 2, 7, 8, 3], [3, 8, 8, 0, 6, 6, 1, 6, 3, 1]),
    ],
)
def test_real_files_are_in_published_order(published, load, train, test):
    data = published(load)
    assert data.train_labels[:10].tolist() == train
    assert data.test_labels[:10].tolist() == test
    n = len(data.test_labels) // 10
    assert abs(data.test_labels.bincount() - n).max() < 140  # MNIST's classes differ in size
