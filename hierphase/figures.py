"""The figures of the book, one function a figure; colours are seaborn's colour-blind palette.

Each function returns a closed figure: as the last line of a cell it is shown once.
"""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.figure import Figure

from hierphase.transition import Estimate

COLORS = sns.color_palette("colorblind")


def image_grid(
    x0: np.ndarray, samples: np.ndarray, times: Sequence[float], changed: np.ndarray
) -> Figure:
    """x_0 and its reconstructions x̂0(t), a row per image; a frame where the class changed.

    Args:
        x0: (n, height, width) or (n, 1, height, width) in [-1, 1].
        samples: (n_times, n, ...) like ``x0``.
        times: (n_times,) reversal times as fractions of T, shown above the columns.
        changed: (n_times, n) whether the class is another than that of x_0.
    """
    images = np.concatenate([np.asarray(x0)[None], np.asarray(samples)])
    images = images.reshape(*images.shape[:2], *images.shape[-2:])
    n_columns, n_rows = images.shape[:2]
    height = 0.62 * n_rows + 0.45
    figure, axes = plt.subplots(
        n_rows, n_columns, figsize=(0.62 * n_columns, height), squeeze=False
    )
    for (row, column), axis in np.ndenumerate(axes):
        axis.imshow(images[column, row], cmap="gray_r", vmin=-1, vmax=1)
        axis.set(xticks=[], yticks=[])
        framed = column > 0 and changed[column - 1][row]
        axis.spines[:].set(color=COLORS[3] if framed else "0.85", linewidth=2.5 if framed else 0.5)
    axes[0, 0].set_xlabel("$x_0$")
    for axis, time in zip(axes[0, 1:], times, strict=True):
        axis.set_xlabel(f"{time:.2g}")
    for axis in axes[0]:
        axis.xaxis.set_label_position("top")
    figure.supxlabel("reversal time $t/T$", y=1.0, va="top", fontsize="medium")
    figure.subplots_adjust(0, 0, 1, 1 - 0.45 / height, wspace=0.08, hspace=0.08)
    plt.close(figure)
    return figure


def kept_class(
    times: Sequence[float], kept: Estimate, chance: float, t_star: Estimate | None = None
) -> Figure:
    """Probability of keeping the class against the reversal time, with its band, chance and t*.

    Args:
        times: (n_times,) reversal times as fractions of T.
        kept: the curve, arrays of shape (n_times,).
        chance: the plateau, drawn as a line.
        t_star: the transition, in the units of ``times``; drawn with its interval if given.
    """
    figure, axis = plt.subplots(figsize=(6, 3.6))
    if t_star is not None:
        axis.axvspan(t_star.low, t_star.high, color=COLORS[1], alpha=0.25, linewidth=0)
        axis.axvline(t_star.value, color=COLORS[1], label=f"$t^*/T$ = {t_star.value:.3f}")
    axis.axhline(chance, color="0.5", linestyle=":", label=f"chance, {chance:.2g}")
    _curve(axis, times, kept, COLORS[0], "class of $x_0$ kept", "o")
    axis.set(xlabel="reversal time $t/T$", ylabel="probability of keeping the class")
    axis.set(xlim=(0, 1), ylim=(0, 1.02))
    axis.legend(frameon=False)
    sns.despine(figure)
    plt.close(figure)
    return figure


def layer_similarities(
    times: Sequence[float],
    layers: Mapping[str, Estimate],
    t_star: Estimate | None = None,
    ylabel: str = "cosine similarity of $x_0$ and $\\hat{x}_0(t)$",
) -> Figure:
    """Similarity of x_0 and x̂0(t) in each layer of a network against the reversal time.

    Args:
        times: (n_times,) reversal times as fractions of T.
        layers: layer -> mean curve with its band, from the lowest layer to the highest.
        t_star: the class transition, in the units of ``times``; drawn if given.
        ylabel: what the curves are, where it is not the plain similarity.
    """
    figure, axis = plt.subplots(figsize=(6, 3.8))
    if t_star is not None:
        axis.axvspan(t_star.low, t_star.high, color="0.5", alpha=0.25, linewidth=0)
        axis.axvline(t_star.value, color="0.5", linewidth=1, label="$t^*$ of the class")
    colors = sns.color_palette("viridis", len(layers))
    for (name, curve), color, marker in zip(layers.items(), colors, "osD^vP*X", strict=False):
        _curve(axis, times, curve, color, name, marker)
    axis.set(xlabel="reversal time $t/T$", ylabel=ylabel)
    axis.set(xlim=(0, 1), ylim=(None, 1.02))
    axis.legend(frameon=False)
    sns.despine(figure)
    plt.close(figure)
    return figure


def _curve(axis, times, estimate: Estimate, color, label: str, marker: str) -> None:
    """A curve with its band."""
    axis.fill_between(times, estimate.low, estimate.high, color=color, alpha=0.25, linewidth=0)
    axis.plot(times, estimate.value, color=color, label=label, marker=marker, markersize=4)
