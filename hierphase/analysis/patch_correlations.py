"""How far the changes of images are correlated: C(r) from patch to patch of a grid.

Like the correlations of leaves (:mod:`hierphase.rhm.correlations`): fields of changes over many
trajectories of each x_0, and the sums of their covariances over all pairs at the same distance.
"""

import numpy as np

from hierphase.checks import check_finite, positive_integer


def patch_changes(x0: np.ndarray, samples: np.ndarray, size: int) -> np.ndarray:
    """How much every patch of an image changed: root mean square over its values.

    Args:
        x0: (n, channels, height, width).
        samples: (K, n, channels, height, width), K trajectories of each.
        size: side of the square patches; divides height and width.

    Returns:
        (K, n, height / size, width / size), in units of the pixels.

    Raises:
        ValueError: shapes that do not fit, NaN or infinity, or patches that do not tile the images.
    """
    size = positive_integer("size", size)
    check_finite("x0", x0)
    check_finite("samples", samples, "K", *x0.shape)
    rows, columns = x0.shape[-2:]
    if rows % size or columns % size:
        raise ValueError(f"patches of size {size} do not tile images of {rows} x {columns}")
    squared = np.square(np.asarray(samples, dtype=np.float64) - np.asarray(x0))
    tiled = squared.reshape(*squared.shape[:-2], rows // size, size, columns // size, size)
    return np.sqrt(tiled.mean(axis=(2, 4, 6)))


def grid_covariance(fields: np.ndarray) -> np.ndarray:
    """Covariances of a field on a square grid, summed over all pairs at the same distance.

    Args:
        fields: (K, n, rows, columns), K >= 2 trajectories of each of n data.

    Returns:
        (n, n_distances), in the order of :func:`grid_distances`: the sum of C_ij over ordered
        pairs, each the unbiased covariance over the trajectories (K - 1 in the denominator).

    Raises:
        ValueError: another shape, NaN or infinity.
    """
    fields = np.asarray(fields, dtype=np.float64)
    check_finite("fields", fields, "K n rows columns")
    *_, which = grid_distances(*fields.shape[2:])
    centred = (fields - fields.mean(axis=0)).reshape(*fields.shape[:2], -1)
    products = centred.transpose(1, 2, 0) @ centred.swapaxes(0, 1) / (len(fields) - 1)
    return np.stack([np.bincount(which.ravel(), x.ravel()) for x in products])


def grid_distances(rows: int, columns: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The Euclidean distances on a grid, in steps, and how many ordered pairs are that far apart.

    Args:
        rows, columns: of the grid.

    Returns:
        (n_distances,) increasing from 0, (n_distances,) counts, and (n, n) which of the distances
        each ordered pair of the n places has.
    """
    place = np.stack(np.indices((rows, columns)), axis=-1).reshape(-1, 2)
    squared = np.square(place[:, None] - place).sum(axis=-1)
    distances, which, counts = np.unique(squared, return_inverse=True, return_counts=True)
    return np.sqrt(distances), counts, which
