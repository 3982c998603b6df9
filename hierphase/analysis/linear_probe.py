"""Which layer knows which level: linear decoding of the symbols of a tree from activations."""

from sklearn.linear_model import RidgeClassifier
from torch import Tensor

from hierphase.checks import positive_integer


def patches(layer: Tensor, symbols: Tensor) -> tuple[Tensor, Tensor]:
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
        found = f"activations of shape {tuple(layer.shape)}"
        raise ValueError(f"{found} do not fit symbols of shape {tuple(symbols.shape)}")
    rows = layer.unflatten(2, (k, -1)).movedim(2, 1).flatten(2)
    return rows.flatten(0, 1), symbols[:, :: nodes // k].flatten()


def linear_decoding(layer: Tensor, symbols: Tensor, n_train=4000, n_test=2000) -> float:
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
    split = 2 * positive_integer("the number of data", len(layer), minimum=3) // 3

    def some(layer, symbols, n):
        """Few rows of many data, as rows of one datum are related."""
        rows, wanted = patches(layer, symbols)
        step = max(1, len(rows) // n)
        return rows[::step].numpy(), wanted[::step].numpy()

    classifier = RidgeClassifier().fit(*some(layer[:split], symbols[:split], n_train))
    return float(classifier.score(*some(layer[split:], symbols[split:], n_test)))
