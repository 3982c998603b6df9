"""Real images, ready for a diffusion model: float32, channels first, values in [-1, 1]."""

from dataclasses import dataclass

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

N_HELD_OUT_DIGITS = 450
DIGITS_SPLIT_SEED = 0


@dataclass(frozen=True)
class ImageData:
    """Labelled images split into a part to learn from and a part held out.

    Attributes:
        train_images: (n_train, channels, height, width), float32 in [-1, 1].
        train_labels: (n_train,), int64 class indices.
        test_images: (n_test, channels, height, width), float32 in [-1, 1].
        test_labels: (n_test,), int64 class indices.
        class_names: one name per class index.

    Raises:
        ValueError: images outside [-1, 1] or not float32, labels that are no class index, or a
            number of labels other than the number of images.
    """

    train_images: torch.Tensor
    train_labels: torch.Tensor
    test_images: torch.Tensor
    test_labels: torch.Tensor
    class_names: tuple[str, ...]

    def __post_init__(self):
        for part in ("train", "test"):
            images, labels = getattr(self, f"{part}_images"), getattr(self, f"{part}_labels")
            if images.dtype != torch.float32 or images.ndim != 4:
                raise ValueError(
                    f"{part}_images must be float32 of shape (n, channels, height, width), got "
                    f"{images.dtype} of shape {tuple(images.shape)}"
                )
            if not (images.amin() >= -1 and images.amax() <= 1):
                raise ValueError(
                    f"{part}_images must lie in [-1, 1], got values from {images.amin():g} to "
                    f"{images.amax():g}"
                )
            if labels.shape != images.shape[:1]:
                raise ValueError(
                    f"{part}_labels must hold one label per image, got shape "
                    f"{tuple(labels.shape)} for {len(images)} images"
                )
            if labels.amin() < 0 or labels.amax() >= len(self.class_names):
                raise ValueError(
                    f"{part}_labels must lie in [0, {len(self.class_names)}), got values from "
                    f"{labels.amin()} to {labels.amax()}"
                )


def digits() -> ImageData:
    """The 8x8 handwritten digits that come with scikit-learn (no download).

    1797 grey-scale images of ten classes (the test part of UCI's "Optical Recognition of
    Handwritten Digits"), whose integer intensities 0..16 are mapped linearly to [-1, 1]. A
    class-stratified random split with a fixed seed holds out 450 images; the other 1347 are for
    training. Writers are not identified in the data, so the same hand may be on both sides.

    Returns:
        Images of shape (n, 1, 8, 8).
    """
    pixels, labels = load_digits(return_X_y=True)
    images = torch.from_numpy(pixels).to(torch.float32).reshape(-1, 1, 8, 8) / 8 - 1
    labels = torch.from_numpy(labels).to(torch.int64)
    train, test = train_test_split(
        torch.arange(len(labels)).numpy(),
        test_size=N_HELD_OUT_DIGITS,
        stratify=labels.numpy(),
        random_state=DIGITS_SPLIT_SEED,
    )
    return ImageData(
        train_images=images[train],
        train_labels=labels[train],
        test_images=images[test],
        test_labels=labels[test],
        class_names=tuple(str(digit) for digit in range(10)),
    )
