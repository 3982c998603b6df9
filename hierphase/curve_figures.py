"""Figures of measured curves beside what is expected of them, in one panel or several."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import cycle

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.figure import Figure

from hierphase.bootstrap import Estimate
from hierphase.figures import COLORS, MARKERS, draw_curve, finished


@dataclass(frozen=True)
class Panel:
    """One pair of axes of :func:`panels`.

    Attributes:
        curves: name -> (x, estimate), points with a band.
        xlabel: of the axis.
        ylabel: of the axis.
        lines: name -> (x, y); in the colour of the curve of that name, without a name of their own.
        verticals: name -> x of a vertical line.
        horizontals: name -> y of a horizontal line.
        log: "x", "y" or "xy" for logarithmic axes.
    """

    curves: Mapping[str, tuple[np.ndarray, Estimate]]
    xlabel: str
    ylabel: str
    lines: Mapping[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)
    verticals: Mapping[str, float] = field(default_factory=dict)
    horizontals: Mapping[str, float] = field(default_factory=dict)
    log: str = ""


def panels(*content: Panel, ordered: bool = False) -> Figure:
    """Measured curves with bands, and lines to compare them with, side by side.

    Args:
        content: the panels, from left to right.
        ordered: the curves are the steps of a scale (of depth, of noise): colours from dark to
            light instead of different ones.
    """
    figure, axes = plt.subplots(
        1, len(content), figsize=(4.8 * len(content), 3.8), layout="constrained", squeeze=False
    )
    for axis, panel in zip(axes[0], content, strict=True):
        n_curves = len(panel.curves)
        colors = sns.color_palette("viridis", n_curves) if ordered else COLORS
        color_of = dict(zip(panel.curves, cycle(colors), strict=False))
        for (name, (x, estimate)), marker in zip(
            panel.curves.items(), cycle(MARKERS), strict=False
        ):
            linestyle = "" if name in panel.lines else "-"
            draw_curve(axis, x, estimate, color_of[name], name, marker, linestyle)
        for name, (x, y) in panel.lines.items():
            known = name in color_of
            style = {"color": color_of[name]} if known else {"color": "0.2", "linestyle": "--"}
            axis.plot(x, y, linewidth=1.2, label=None if known else name, **style)
        styles = cycle(("--", ":", "-."))
        for name, x in panel.verticals.items():
            axis.axvline(x, color="0.5", linestyle=next(styles), linewidth=1, label=name)
        for name, y in panel.horizontals.items():
            axis.axhline(y, color="0.5", linestyle=next(styles), linewidth=1, label=name)
        axis.set(xlabel=panel.xlabel, ylabel=panel.ylabel)
        for which in panel.log:
            axis.set(**{f"{which}scale": "log"})
        axis.legend(frameon=False, fontsize="small")
    return finished(figure)


def curve_panels(
    content: Mapping[str, Mapping[str, tuple[np.ndarray, Estimate]]],
    xlabel: str,
    ylabel: str,
    references: Mapping[str, tuple[np.ndarray, np.ndarray]],
    scales: tuple[str, str] = ("linear", "linear"),
) -> Figure:
    """Curves with bands, the steps of one scale, in panels that share axes, colours and legend.

    Args:
        content: what the panel shows (empty where that is clear) -> label -> (x, estimate).
        xlabel: what x is.
        ylabel: what the curves are.
        references: (x, y) drawn dashed in all panels, in the colour of the curve of the same label,
            or in black with a label of their own.
        scales: of the two axes, as in matplotlib.
    """
    n_columns = min(3 if len(content) % 3 == 0 else 2, len(content))
    n_rows = -(-len(content) // n_columns)
    figure, axes = plt.subplots(
        n_rows, n_columns, figsize=(1.4 + 4.2 * n_columns, 3.5 * n_rows), sharex=True, sharey=True,
        squeeze=False, layout="constrained",
    )  # fmt: skip
    labels = list(dict.fromkeys(label for curves in content.values() for label in curves))
    colors = dict(zip(labels, sns.color_palette("viridis", len(labels)), strict=True))
    markers = dict(zip(labels, cycle(MARKERS), strict=False))
    handles = {}
    for axis, (name, curves) in zip(axes.flat, content.items(), strict=False):
        for label, (x, estimate) in curves.items():
            draw_curve(axis, x, estimate, colors[label], label, markers[label])
        others = cycle(["--", ":", "-."])
        for label, (x, y) in references.items():
            known = label in colors
            style = "--" if known else next(others)
            color = colors.get(label, "black")
            axis.plot(x, y, style, color=color, linewidth=1.2, label=None if known else label)
        axis.set(xscale=scales[0], yscale=scales[1])
        axis.set_xlabel(f"{xlabel}, {name}" if name else xlabel)
        lines, names = axis.get_legend_handles_labels()
        handles |= dict(zip(names, lines, strict=True))
    for axis in axes[:, 0]:
        axis.set_ylabel(ylabel)
    order = [*labels, *(name for name in handles if name not in colors)]
    figure.legend([handles[name] for name in order], order, loc="outside right", frameon=False)
    return finished(figure)


def learning_thresholds(
    thresholds: Mapping[str, Sequence[Estimate | None]], theory: Sequence[float], m: int
) -> Figure:
    """Training set size from which a level is generated correctly, against the level.

    Args:
        thresholds: what was trained -> P_l of levels 1 to L; None where it was not reached.
        theory: P_l of theory for these levels.
        m: rules per symbol, for the label.
    """
    figure, axis = plt.subplots(figsize=(5.6, 4))
    levels = np.arange(1, len(theory) + 1)
    axis.plot(levels, theory, "k--", linewidth=1.2, label=f"$v\\,m^{{l+1}}$, $m$ = {m}")
    for k, (name, estimates) in enumerate(thresholds.items()):
        found = [(level, e) for level, e in zip(levels, estimates, strict=True) if e is not None]
        values = np.array([[e.value, e.low, e.high] for _, e in found]).reshape(-1, 3).T
        axis.errorbar(
            [level + 0.05 * k for level, _ in found], values[0],
            [values[0] - values[1], values[2] - values[0]],
            color=COLORS[k], marker=MARKERS[k], linestyle="", capsize=3, label=name,
        )  # fmt: skip
    axis.set(xlabel="level $l$", ylabel="training set size $P_l$", yscale="log", xticks=levels)
    axis.legend(frameon=False)
    return finished(figure)
