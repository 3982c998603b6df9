"""Which layer knows which level: linear decoding of the symbols of a tree from activations."""

import torch
from sklearn.linear_model import RidgeClassifier


def patches(layer: torch.Tensor, symbols: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What a layer has about each symbol of a level, row by row.

    Where the layer has more positions than the level has symbols, a symbol's row holds all the
    positions below it. Where it has fewer, a position has several symbols below it, and its row
    goes with the first of them.

    Args:
        layer: (n, channels, positions) activations, or (n, features).
        symbols: (n, nodes); one of positions and nodes divides the other.

    Returns:
        Rows (n * k, features) and their symbols (n * k,), k the smaller of positions and nodes.

    Raises:
        ValueError: numbers of positions and nodes that do not divide, or of rows that differ.
    """
    layer = layer.reshape(len(layer), layer.shape[1], -1)
    positions, nodes = layer.shape[2], symbols.shape[1]
    k = min(positions, nodes)
    if len(layer) != len(symbols) or max(positions, nodes) % k:
        raise ValueError(
            f"activations of shape {tuple(layer.shape)} do not fit symbols of shape "
            f"{tuple(symbols.shape)}"
        )
    rows = layer.unflatten(2, (k, -1)).movedim(2, 1).flatten(2)
    return rows.flatten(0, 1), symbols[:, :: nodes // k].flatten()


def linear_decoding(
    layer: torch.Tensor, symbols: torch.Tensor, n_train: int = 4000, n_test: int = 2000
) -> float:
    """Share of symbols of a level that a linear classifier reads from a layer.

    The classifier is a ridge regression on the one-hot code of the symbols (scikit-learn's
    ``RidgeClassifier``), tested on rows of data that it was not fitted to.

    Args:
        layer: as for :func:`patches`.
        symbols: as for :func:`patches`.
        n_train: at most so many rows of the first two thirds of the data are fitted.
        n_test: at most so many rows of the rest are tested.

    Raises:
        ValueError: as :func:`patches`, or fewer than three data.
    """
    if len(layer) < 3:
        raise ValueError(f"need at least 3 data, got {len(layer)}")
    split = 2 * len(layer) // 3
    train, test = (
        patches(layer[part], symbols[part]) for part in (slice(split), slice(split, None))
    )
    # Rows of one datum are related: take few rows of many data.
    fitted, tested = (
        torch.arange(0, len(rows), max(1, len(rows) // n)) for (rows, _), n in
        ((train, n_train), (test, n_test))
    )  # fmt: skip
    classifier = RidgeClassifier().fit(train[0][fitted].numpy(), train[1][fitted].numpy())
    return float(classifier.score(test[0][tested].numpy(), test[1][tested].numpy()))
