"""What the chapters draw with: panels of curves, and grids of images.

Colours are those of seaborn's colour-blind palette, or of a scale from dark to light where curves
are its steps. Every function returns a closed figure: as the last line of a cell it is shown once.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import cycle

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.text import Text

from hierphase.analysis.bootstrap import Estimate

COLORS = sns.color_palette("colorblind")
MARKERS = "osD^vP*X"
WIDTH = 6.9  # of the text of a page, in inches: what is drawn wider is shown smaller
_LAYOUT = {"squeeze": False, "layout": "constrained"}


@dataclass(frozen=True)
class Panel:
    """One pair of axes of :func:`curves`.

    Attributes:
        curves: name -> (x, estimate), points with a band.
        xlabel: of the axis; what is in parentheses after four blanks goes into a second line.
        ylabel: of the axis.
        lines: name -> (x, y), y an estimate if the line has a band; in the colour of the curve of
            that name, or dashed with a name of their own.
        verticals: name -> x of a vertical line; of an estimate with its interval. In the colour of
            the curve of that name, or grey.
        horizontals: name -> y of a horizontal line, likewise.
        bars: the curves are single points with error bars, not joined, without bands.
        axes: more for matplotlib's ``Axes.set``: ``xlim``, ``yscale``, ``xticks``, ...
    """

    curves: Mapping[str, tuple[np.ndarray, Estimate]]
    xlabel: str
    ylabel: str
    lines: Mapping[str, tuple[np.ndarray, np.ndarray | Estimate]] = field(default_factory=dict)
    verticals: Mapping[str, float | Estimate] = field(default_factory=dict)
    horizontals: Mapping[str, float | Estimate] = field(default_factory=dict)
    bars: bool = False
    axes: Mapping[str, object] = field(default_factory=dict)


def curves(*content: Panel, ordered=False, shared=False, n_columns=None) -> Figure:
    """Measured curves with bands, and what to compare them with, in one panel or several.

    Args:
        content: the panels, row by row.
        ordered: the curves are the steps of a scale (levels, depths, sizes): colours from dark to
            light. Of more than twelve only the first and the last are named.
        shared: the panels have axes, colours and one legend in common.
        n_columns: panels in a row, at most; by default three with one legend, two with their own.
    """
    n_columns = min(n_columns or 2 + shared, len(content))
    n_rows = -(-len(content) // n_columns)
    size = (WIDTH, n_rows * (3.9 if n_columns == 1 else 2.8) + 0.5 * shared)
    axes_in_common = {"sharex": shared, "sharey": shared}
    figure, axes = plt.subplots(n_rows, n_columns, figsize=size, **axes_in_common, **_LAYOUT)
    for axis in axes.flat[len(content) :]:
        axis.axis("off")
    named = {}
    for axis, panel in zip(axes.flat, content, strict=False):
        names = dict.fromkeys(n for p in (content if shared else [panel]) for n in p.curves)
        scale = sns.color_palette("viridis", 5 * len(names) // 4 + 1) if ordered else COLORS
        looks = dict(zip(names, zip(cycle(scale), cycle(MARKERS), strict=False), strict=False))
        for i, (name, (x, estimate)) in enumerate(panel.curves.items()):
            hidden = ordered and len(names) > 12 and 0 < i < len(panel.curves) - 1
            style = {"linestyle": ""} if panel.bars or name in panel.lines else {}
            label = None if hidden else name
            draw(axis, x, estimate, *looks[name], bars=panel.bars, label=label, **style)
        others = cycle(("--", ":", "-."))
        for name, (x, y) in panel.lines.items():
            color, label, style = _look(name, looks, others, "0.2")
            y = y if isinstance(y, Estimate) else Estimate(y, y, y)
            draw(axis, x, y, color, linestyle=style, linewidth=1.2, label=label)
        for lines, along, span, own in (
            (panel.verticals, axis.axvline, axis.axvspan, "-"),
            (panel.horizontals, axis.axhline, axis.axhspan, ":"),
        ):
            for name, at in lines.items():
                color, label, style = _look(name, looks, others, "0.5", own)
                if isinstance(at, Estimate):
                    span(at.low, at.high, color=color, alpha=0.25, linewidth=0)
                    at, style = at.value, "-"
                along(at, color=color, linestyle=style, linewidth=1, label=label)
        axis.set(xlabel=panel.xlabel.replace("    (", "\n("), ylabel=panel.ylabel, **panel.axes)
        lines, labels = axis.get_legend_handles_labels()
        named |= dict(zip(labels, lines, strict=True))
        if not shared:
            axis.legend(frameon=False, fontsize="small")
    if shared:
        figure.legend(named.values(), named, frameon=False, ncols=4, loc="outside lower center")
        for axis in axes[:, 1:].flat:
            axis.set_ylabel("")
    return finished(figure)


def _look(name, looks, styles, otherwise, own="-"):
    """Colour, label and style of a line: in the colour of the curve of that name, or by itself."""
    return (looks[name][0], None, own) if name in looks else (otherwise, name, next(styles))


def draw(axis, x, estimate: Estimate, color, marker: str = "", bars=False, **style) -> None:
    """A curve with its band, or error bars, points and the line that joins them.

    Args:
        axis: matplotlib's axes.
        x: (n,) where the points are.
        estimate: curve and band, arrays (n,).
        color: of all of it.
        marker: of the points.
        bars: a bar at each point instead of the band.
        style: more for matplotlib's ``plot``: ``label``, ``linestyle``.
    """
    if bars:
        axis.vlines(x, estimate.low, estimate.high, color=color, linewidth=1.2)
    else:
        axis.fill_between(x, estimate.low, estimate.high, color=color, alpha=0.25, linewidth=0)
    axis.plot(x, estimate.value, color=color, marker=marker, markersize=4, **style)


def over_draws(values) -> Estimate:
    """Mean and standard deviation over draws as an estimate, for :func:`curves`.

    Args:
        values: an xarray with a dimension ``draw``, or an array whose first axis it is.
    """
    axis = values.get_axis_num("draw") if hasattr(values, "get_axis_num") else 0
    mean, deviation = np.mean(values, axis=axis), np.std(values, axis=axis, ddof=1)
    return Estimate(*(np.asarray(x) for x in (mean, mean - deviation, mean + deviation)))


def image_grid(images, framed, above=(), names=(), rows=(), title="") -> Figure:
    """Images in rows and columns, some of them in a thick frame.

    Args:
        images: (rows, columns, channels, height, width), 0 to 255; one channel (grey) or three.
        framed: (rows, columns), whether there is a frame.
        above: labels of the columns.
        names: (rows, columns) of what stands below each image.
        rows: labels of the rows.
        title: above the labels of the columns.
    """
    images = np.asarray(images)
    n_rows, n_columns = images.shape[:2]
    width = min(0.95 if len(names) else 0.62, WIDTH / n_columns)
    size = (width * n_columns, (width + 0.3 * bool(len(names))) * n_rows + 0.45)
    figure, axes = plt.subplots(n_rows, n_columns, figsize=size, **_LAYOUT)
    figure.get_layout_engine().set(w_pad=0.01, h_pad=0.01, wspace=0, hspace=0)
    for (row, column), axis in np.ndenumerate(axes):
        axis.imshow(np.moveaxis(images[row, column], 0, -1), cmap="gray_r", vmin=0, vmax=255)
        thick = framed[row][column]
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set(color=COLORS[3] if thick else "0.85", linewidth=2.5 if thick else 0.5)
        if len(names):
            axis.set_xlabel(names[row][column], fontsize="small")
    for axis, label in zip(axes[0], above, strict=bool(above)):
        axis.set_title(label, fontsize="medium", pad=3)
    for axis, label in zip(axes[:, 0], rows, strict=bool(rows)):
        axis.set_ylabel(label)
    figure.suptitle(title, fontsize="medium")
    plt.setp(figure.findobj(Text), color="0.47")  # legible on light and on dark
    plt.close(figure)
    return figure


def finished(figure: Figure) -> Figure:
    """Close the figure, so that a notebook shows it once: as the value of the cell."""
    sns.despine(figure)
    plt.close(figure)
    return figure
