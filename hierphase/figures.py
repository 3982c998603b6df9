"""The figures of the book, one function a figure; colours are seaborn's colour-blind palette.

Each function returns a closed figure: as the last line of a cell it is shown once.
"""

from collections.abc import Mapping, Sequence
from itertools import cycle

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
import torch
import xarray as xr
from matplotlib.figure import Figure

from hierphase import meanfield
from hierphase.bootstrap import Estimate
from hierphase.rhm import RandomHierarchyModel

COLORS = sns.color_palette("colorblind")
MARKERS = "osD^vP*X"
SIMILARITY = "cosine similarity of $x_0$ and $\\hat{x}_0(t)$"


def image_grid(
    x0: np.ndarray, samples: np.ndarray, times: Sequence[float], changed: np.ndarray
) -> Figure:
    """x_0 and its reconstructions x̂0(t), a row per image; a frame where the class changed.

    Args:
        x0: (n, channels, height, width), 0 to 255; one channel (grey) or three (RGB).
        samples: (n_times, n, ...) like ``x0``.
        times: (n_times,) reversal times as fractions of T, shown above the columns.
        changed: (n_times, n) whether the class is another than that of x_0.
    """
    images = np.concatenate([np.asarray(x0)[None], np.asarray(samples)])
    n_columns, n_rows = images.shape[:2]
    height = 0.62 * n_rows + 0.45
    figure, axes = plt.subplots(
        n_rows, n_columns, figsize=(0.62 * n_columns, height), squeeze=False
    )
    for (row, column), axis in np.ndenumerate(axes):
        _show(axis, images[column, row], column > 0 and changed[column - 1][row])
    axes[0, 0].set_xlabel("$x_0$")
    for axis, time in zip(axes[0, 1:], times, strict=True):
        axis.set_xlabel(f"{time:.2g}")
    for axis in axes[0]:
        axis.xaxis.set_label_position("top")
    figure.supxlabel("reversal time $t/T$", y=1.0, va="top", fontsize="medium")
    figure.subplots_adjust(0, 0, 1, 1 - 0.45 / height, wspace=0.08, hspace=0.08)
    plt.close(figure)
    return figure


def image_pairs(
    x0: np.ndarray, samples: np.ndarray, before: Sequence[str], after: Sequence[str]
) -> Figure:
    """Starting images above, what came back below, each with its class.

    Args:
        x0: (n, channels, height, width), 0 to 255.
        samples: like ``x0``.
        before: (n,) class of each starting image.
        after: (n,) class of what came back.
    """
    n = len(x0)
    figure, axes = plt.subplots(2, n, figsize=(0.95 * n, 2.5), squeeze=False, layout="constrained")
    for row, (images, names) in enumerate(((x0, before), (samples, after))):
        for axis, image, name in zip(axes[row], images, names, strict=True):
            _show(axis, image, framed=row == 1)
            axis.set_xlabel(name, fontsize="small")
    axes[0, 0].set_ylabel("$x_0$")
    axes[1, 0].set_ylabel("$\\hat{x}_0(t)$")
    plt.close(figure)
    return figure


def _show(axis, image: np.ndarray, framed: bool) -> None:
    """One image (channels, height, width), 0 to 255, with a thick frame if asked."""
    image = np.asarray(image)
    if len(image) == 1:
        axis.imshow(image[0], cmap="gray_r", vmin=0, vmax=255)
    else:
        axis.imshow(np.moveaxis(image, 0, -1))
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set(color=COLORS[3] if framed else "0.85", linewidth=2.5 if framed else 0.5)


def kept_class(
    times: Sequence[float],
    kept: Mapping[str, Estimate],
    chance: Mapping[str, float],
    t_star: Mapping[str, Estimate],
) -> Figure:
    """Probability of keeping the class against the reversal time: curves, bands, chance and t*.

    Args:
        times: (n_times,) reversal times as fractions of T.
        kept: what is kept -> its curve, arrays of shape (n_times,).
        chance: the plateau of each curve, drawn as a dotted line.
        t_star: the transition of each curve, drawn as a vertical line with its interval.
    """
    figure, axis = plt.subplots(figsize=(6, 3.8))
    for (name, curve), color, marker in zip(kept.items(), COLORS, cycle(MARKERS), strict=False):
        star = t_star[name]
        axis.axvspan(star.low, star.high, color=color, alpha=0.25, linewidth=0)
        axis.axvline(star.value, color=color, linewidth=1)
        axis.axhline(chance[name], color=color, linestyle=":")
        draw_curve(axis, times, curve, color, f"{name}: $t^*/T$ = {star.value:.3f}", marker)
    axis.set(xlabel="reversal time $t/T$", ylabel="probability of keeping the class")
    axis.set(xlim=(0, 1), ylim=(0, 1.02))
    axis.legend(frameon=False)
    return finished(figure)


def calibration(
    reliability: xr.Dataset, times: Sequence[float], confident: Mapping[str, Estimate]
) -> Figure:
    """Whether the classifier's confidence can be believed, and how it fares along the times.

    Args:
        reliability: ``accuracy``, ``error`` (its standard error) and ``confidence`` (bin).
        times: (n_times,) reversal times as fractions of T.
        confident: threshold -> share of x̂0(t) whose class has more than that probability.
    """
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    axes[0].plot([0, 1], [0, 1], color="0.6", linewidth=1, label="calibrated")
    axes[0].errorbar(
        reliability.confidence, reliability.accuracy, 2 * reliability.error,
        color=COLORS[0], marker="o", capsize=3, label="starting images",
    )  # fmt: skip
    axes[0].set(xlabel="confidence of the classifier", ylabel="share of right answers")
    axes[0].set(xlim=(0.3, 1.02), ylim=(0, 1.02))
    styles = zip(confident.items(), COLORS, MARKERS, strict=False)
    for (name, curve), color, marker in styles:
        draw_curve(axes[1], times, curve, color, name, marker)
    axes[1].set(xlabel="reversal time $t/T$", ylabel="share of confident verdicts")
    axes[1].set(xlim=(0, 1), ylim=(0, 1.02))
    for axis in axes:
        axis.legend(frameon=False)
    return finished(figure)


def layer_similarities(
    times: Sequence[float],
    layers: Mapping[str, Estimate],
    t_star: Estimate | None = None,
    ylabel: str = SIMILARITY,
) -> Figure:
    """Similarity of x_0 and x̂0(t) in each layer of a network against the reversal time.

    Args:
        times: (n_times,) reversal times as fractions of T.
        layers: layer -> mean curve with its band, from the lowest layer to the highest.
        t_star: the class transition, in the units of ``times``; drawn if given.
        ylabel: what the curves are, where it is not the plain similarity.
    """
    figure, axis = plt.subplots(figsize=(6, 3.8))
    _layer_similarities(axis, times, layers, t_star, ylabel)
    return finished(figure)


def layer_panels(
    panels: Mapping[str, tuple[Sequence[float], Mapping[str, Estimate], Estimate | None]],
) -> Figure:
    """:func:`layer_similarities` of several experiments side by side.

    Args:
        panels: label of the horizontal axis -> noise levels, curves of the layers from the lowest
            to the highest, and transition of the class or None.
    """
    n_columns = min(2 if len(panels) < 5 else 3, len(panels))
    n_rows = -(-len(panels) // n_columns)
    figure, axes = plt.subplots(
        n_rows, n_columns, figsize=(4.4 * n_columns, 3.7 * n_rows), sharey=True, squeeze=False,
        layout="constrained",
    )  # fmt: skip
    for axis in axes.flat[len(panels) :]:
        axis.axis("off")
    for axis, (label, (noise, layers, star)) in zip(axes.flat, panels.items(), strict=False):
        _layer_similarities(axis, noise, layers, star, SIMILARITY, label)
    for axis in axes[:, 1:].flat:
        axis.set_ylabel("")
    return finished(figure)


def tracked_levels(panels: Mapping[str, xr.Dataset], critical: float | None = None) -> Figure:
    """Similarity in each layer beside what is kept of the level of the same height.

    Args:
        panels: label of the horizontal axis -> ``measured`` (draw, x, curve), shown as mean and
            standard deviation over draws, and ``theory`` (x, curve), shown as lines; coordinates
            ``x`` and ``curve``, the name of each.
        critical: where theory expects the transition; None draws nothing.
    """
    figure, axes = plt.subplots(
        1, len(panels), figsize=(5 * len(panels), 4), sharey=True, squeeze=False,
        layout="constrained",
    )  # fmt: skip
    for axis, (label, dataset) in zip(axes.flat, panels.items(), strict=True):
        _measured_and_theory(axis, dataset, list(dataset.curve.values))
        _critical_line(axis, critical)
        axis.set(xlabel=label, ylim=(None, 1.02))
    axes[0, 0].set_ylabel("cosine similarity, or share kept")
    axes[0, 0].legend(frameon=False, fontsize="small")
    return finished(figure)


def _layer_similarities(
    axis, times, layers, t_star, ylabel, xlabel="reversal time $t/T$"
) -> None:
    if t_star is not None:
        axis.axvspan(t_star.low, t_star.high, color="0.5", alpha=0.25, linewidth=0)
        axis.axvline(t_star.value, color="0.5", linewidth=1, label="$t^*$ of the class")
    colors = sns.color_palette("viridis", len(layers))
    for i, (name, curve) in enumerate(layers.items()):
        # with many layers only the ends of the scale need names
        named = len(layers) <= len(MARKERS) or i in (0, len(layers) - 1)
        marker = MARKERS[i % len(MARKERS)]
        draw_curve(axis, times, curve, colors[i], name if named else None, marker)
    axis.set(xlabel=xlabel, ylabel=ylabel)
    top = max(np.max(curve.high) for curve in layers.values())
    axis.set(xlim=(0, 1), ylim=(None, 1.02 * max(1, top)))
    axis.legend(frameon=False)


def draw_curve(
    axis, times, estimate: Estimate, color, label: str | None, marker: str, linestyle: str = "-"
) -> None:
    """A curve with its band, points and the line that joins them.

    Args:
        axis: matplotlib's axes.
        times: (n_times,) where the points are.
        estimate: curve and band, arrays (n_times,).
        color: of all of it.
        label: in the legend; None for none.
        marker: of the points.
        linestyle: of the line; "" for none.
    """
    axis.fill_between(times, estimate.low, estimate.high, color=color, alpha=0.25, linewidth=0)
    axis.plot(
        times, estimate.value, linestyle, color=color, label=label, marker=marker, markersize=4
    )


def tree(rhm: RandomHierarchyModel, levels: Sequence[torch.Tensor]) -> Figure:
    """One datum of a small model, as a tree, beside all rules with those it used in bold.

    Args:
        rhm: the model; up to 26 symbols.
        levels: one sample, as :meth:`~hierphase.rhm.RandomHierarchyModel.sample` returns.
    """
    letters = "abcdefghijklmnopqrstuvwxyz"
    figure, (axis, table) = plt.subplots(
        1, 2, figsize=(9, 1.1 * rhm.L + 1), width_ratios=(3, 2), sharey=True
    )
    palette = sns.color_palette("crest", rhm.L + 1)
    for level in range(rhm.L + 1):
        symbols = levels[level][0].tolist()
        x = (np.arange(len(symbols)) + 0.5) * rhm.s**level
        if level < rhm.L:
            for i, at in enumerate(x):
                axis.plot(
                    [at, (i // rhm.s + 0.5) * rhm.s ** (level + 1)],
                    [level, level + 1],
                    color="0.7",
                    zorder=1,
                )
        axis.scatter(x, np.full(len(x), level), s=380, color=palette[level], zorder=2)
        for symbol, at in zip(symbols, x, strict=True):
            axis.text(
                at, level, letters[symbol], color="white", ha="center", va="center", weight="bold"
            )
    axis.set(xlim=(0, rhm.d), ylim=(-0.5, rhm.L + 0.5), xticks=[])
    names = ["leaves", *map(str, range(1, rhm.L)), "class"]
    axis.set_yticks(
        range(rhm.L + 1),
        [
            f"level {i}, {name}" if not name.isdigit() else f"level {i}"
            for i, name in enumerate(names)
        ],
    )
    for level, rules in enumerate(rhm.rules, 1):
        children = levels[level - 1][0].unflatten(0, (-1, rhm.s)).tolist()
        used = set(zip(levels[level][0].tolist(), map(tuple, children), strict=True))
        for symbol, tuples in enumerate(rules.tolist()):
            y = level - 0.18 + 0.2 * (len(rules) / 2 - symbol)
            table.text(0.08, y, f"{letters[symbol]} →", color=palette[level], family="monospace")
            for i, rule in enumerate(tuples):
                bold = (symbol, tuple(rule)) in used
                table.text(
                    0.25 + 0.2 * i,
                    y,
                    "".join(letters[x] for x in rule),
                    family="monospace",
                    weight="bold" if bold else "normal",
                    color="black" if bold else "0.5",
                )
    table.axis("off")
    axis.set_frame_on(False)
    axis.tick_params(left=False)
    return finished(figure)


def leaf_correlations(dataset: xr.Dataset, noise: float) -> Figure:
    """Correlation of leaf pairs against tree distance: exact, sampled, expected.

    Args:
        dataset: ``exact`` and ``sampled`` (draw, distance), ``expected`` (distance).
        noise: size of the sampling noise, drawn as a line.
    """
    figure, axis = plt.subplots(figsize=(6, 3.8))
    x = dataset.distance
    axis.plot(x, dataset.expected, color=COLORS[1], label="expected")
    for name, marker, color in (("exact", "o", COLORS[0]), ("sampled", "x", COLORS[2])):
        axis.errorbar(
            x,
            dataset[name].mean("draw"),
            dataset[name].std("draw"),
            color=color,
            linestyle="",
            marker=marker,
            capsize=3,
            label=name,
        )
    axis.axhline(noise, color="0.4", linestyle=":", label="sampling noise")
    axis.set(yscale="log", xlabel="tree distance $k$ (levels)", ylabel="typical correlation $C_k$")
    axis.set_xticks(x)
    axis.legend(frameon=False)
    return finished(figure)


def overview(
    levels: xr.Dataset,
    critical: float | None,
    times: Sequence[float],
    layers: Mapping[str, Estimate],
    t_star: Estimate,
) -> Figure:
    """The experiment in two worlds: :func:`level_profiles` beside :func:`layer_similarities`."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    _level_profiles(axes[0], levels, "noise $\\epsilon$", critical)
    _layer_similarities(axes[1], times, layers, t_star, SIMILARITY)
    return finished(figure)


def level_profiles(dataset: xr.Dataset, xlabel: str, critical: float | None = None) -> Figure:
    """Probability of the true symbol of each level against the noise.

    Args:
        dataset: ``measured`` (draw, x, level), shown as mean and standard deviation over draws, and
            optionally ``theory`` (x, level), shown as lines; coordinates ``x`` and ``level``.
        xlabel: what ``x`` is.
        critical: where theory expects the transition; None draws nothing.
    """
    figure, axis = plt.subplots(figsize=(6.4, 4))
    _level_profiles(axis, dataset, xlabel, critical)
    return finished(figure)


def _level_profiles(axis, dataset, xlabel, critical) -> None:
    names = {int(dataset.level[0]): "leaves", int(dataset.level[-1]): "class"}
    labels = [
        f"level {level}{', ' + names[level] if level in names else ''}"
        for level in dataset.level.values
    ]
    _measured_and_theory(axis, dataset.rename(level="curve"), labels)
    _critical_line(axis, critical)
    axis.set(xlabel=xlabel, ylabel="probability of the true symbol", ylim=(0, 1.02))
    axis.legend(frameon=False, fontsize="small" if len(labels) > 6 else None)


def depth_profiles(dataset: xr.Dataset, critical: float | None = None) -> Figure:
    """Probability of the true class against the noise, for trees of several depths.

    Args:
        dataset: ``measured`` (draw, depth, x) and ``theory`` (depth, x).
        critical: critical noise, or None.
    """
    figure, axis = plt.subplots(figsize=(6.4, 4))
    labels = [f"$L$ = {depth}" for depth in dataset.depth.values]
    _measured_and_theory(axis, dataset.rename(depth="curve"), labels)
    _critical_line(axis, critical)
    axis.set(xlabel="noise $\\epsilon$", ylabel="probability of the true class", ylim=(0, 1.02))
    axis.legend(frameon=False)
    return finished(figure)


def cobweb(models: Sequence[tuple[int, int, int]], n_steps: int) -> Figure:
    """The mean-field map F and its iteration from both sides of p*, a panel per model.

    Args:
        models: (v, m, s) of each panel.
        n_steps: iterations drawn.
    """
    figure, axes = plt.subplots(1, len(models), figsize=(4.2 * len(models), 4), sharey=True)
    p = np.linspace(0, 1, 400)
    for axis, (v, m, s) in zip(axes, models, strict=True):
        axis.plot(p, p, color="0.6", linewidth=1)
        axis.plot(p, meanfield.upward(p, v, m, s), color=COLORS[0], linewidth=2, label="$F(p)$")
        star = meanfield.fixed_point(v, m, s)
        starts = (0.97,) if star is None else (star + 0.03, star - 0.03)
        for start, color in zip(starts, (COLORS[2], COLORS[1]), strict=False):
            path = [start]
            for _ in range(n_steps):
                path.append(meanfield.upward(path[-1], v, m, s))
            axis.plot(np.repeat(path, 2)[:-1], np.repeat(path, 2)[1:], color=color, linewidth=1)
            axis.plot(start, start, "o", color=color, label=f"start, $p$ = {start:.2f}")
        if star is not None:
            axis.plot(
                star,
                star,
                "o",
                markersize=9,
                markerfacecolor="white",
                markeredgecolor="black",
                label=f"$p^*$ = {star:.3f}",
            )
        axis.text(
            0.97,
            0.03,
            f"$m$ = {m},  $F'(1)$ = {meanfield.slopes(v, m, s)[0]:.2f}",
            transform=axis.transAxes,
            ha="right",
        )
        axis.set(xlabel="belief of the children $p$", xlim=(0, 1), ylim=(0, 1.01), aspect="equal")
        axis.legend(frameon=False, loc="upper left")
    axes[0].set_ylabel("belief of the parent $F(p)$")
    return finished(figure)


def phase_diagram(dataset: xr.Dataset, boundary: tuple[Sequence[float], Sequence[float]]) -> Figure:
    """Class probability over (F'(1), noise), measured beside theory.

    Args:
        dataset: ``measured`` and ``theory`` (m, x), coordinates ``slope`` (m) and ``x``.
        boundary: F'(1) and critical noise of the line to draw.
    """
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.8), sharey=True, layout="constrained")
    for axis, name, title in zip(
        axes, ("measured", "theory"), ("belief propagation", "theory"), strict=True
    ):
        mesh = axis.pcolormesh(
            dataset.slope,
            dataset.x,
            dataset[name].T,
            cmap="cividis",
            vmin=0,
            vmax=1,
            shading="nearest",
        )
        axis.plot(*boundary, color="white", linewidth=2, label="$\\epsilon^*$")
        axis.axvline(1, color="white", linestyle=":")
        axis.set(xlabel=f"$F'(1) \\approx s f$    ({title})")
        axis.legend(frameon=False, labelcolor="white")
    axes[0].set_ylabel("noise $\\epsilon$")
    figure.colorbar(mesh, ax=axes, label="probability of the true class")
    return finished(figure)


def theory_failure(offsets: np.ndarray, alphabets: Sequence[int], gap: np.ndarray) -> Figure:
    """Error of the mean field and spread over rules, against the distance to the critical noise.

    Args:
        offsets: (n,) noise minus critical noise.
        alphabets: numbers of symbols v.
        gap: (alphabets, n_rules, n) measured minus theory, for each draw of the rules.
    """
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    colors = sns.color_palette("viridis", len(alphabets))
    for draws, size, color, marker in zip(gap, alphabets, colors, cycle(MARKERS), strict=False):
        mean, deviation = draws.mean(0), draws.std(0, ddof=1)
        error = deviation / np.sqrt(len(draws))
        axes[0].fill_between(offsets, mean - error, mean + error, color=color, alpha=0.2, lw=0)
        for axis, values in zip(axes, (mean, deviation), strict=True):
            axis.plot(
                offsets, values, color=color, marker=marker, markersize=4, label=f"$v$ = {size}"
            )
    for axis in axes:
        axis.axvline(0, color="0.5", linewidth=1)
        axis.set_xlabel("$\\epsilon - \\epsilon^*$")
    axes[0].set_ylabel("class probability, BP $-$ theory")
    axes[1].set_ylabel("standard deviation over rules")
    axes[1].legend(frameon=False)
    return finished(figure)


def _measured_and_theory(axis, dataset: xr.Dataset, labels: Sequence[str]) -> None:
    """Points with a band of one standard deviation over draws, and lines, one a ``curve``."""
    colors = sns.color_palette("viridis", len(labels))
    for i, (label, color, marker) in enumerate(zip(labels, colors, cycle(MARKERS), strict=False)):
        curve = dataset.isel(curve=i)
        mean, deviation = curve.measured.mean("draw"), curve.measured.std("draw", ddof=1)
        axis.fill_between(
            curve.x, mean - deviation, mean + deviation, color=color, alpha=0.2, linewidth=0
        )
        axis.plot(
            curve.x,
            mean,
            color=color,
            linestyle="" if "theory" in dataset else "-",
            marker=marker,
            markersize=4,
            label=label,
        )
        if "theory" in dataset:
            axis.plot(curve.x, curve.theory, color=color, linewidth=1.2)


def _critical_line(axis, critical: float | None) -> None:
    if critical is not None:
        axis.axvline(critical, color="0.5", linestyle="--", linewidth=1)


def process_curves(processes: Mapping[str, xr.Dataset], critical: float | None) -> Figure:
    """Class and leaves after several corruptions, against the noise of equal mean leaf belief.

    Args:
        processes: name -> ``measured`` (draw, x, level), ``theory`` (x, level) and ``noise`` (x).
        critical: critical noise of even beliefs, or None.
    """
    figure, axis = plt.subplots(figsize=(6.4, 4))
    for (name, data), color in zip(processes.items(), COLORS, strict=False):
        for level, style, what in ((-1, "-", "class"), (0, "--", "leaves")):
            draws = data.measured.isel(level=level)
            mean, deviation = draws.mean("draw"), draws.std("draw", ddof=1)
            axis.fill_between(
                data.noise, mean - deviation, mean + deviation, color=color, alpha=0.2, linewidth=0
            )
            axis.plot(data.noise, mean, style, color=color, label=f"{name}, {what}")
        axis.plot(data.noise, data.theory.isel(level=-1), ":", color=color)
    _critical_line(axis, critical)
    axis.set(
        xlabel="noise of equal mean leaf belief $\\epsilon_{\\rm eff}$",
        xlim=(0, 1),
        ylabel="probability of the true symbol",
        ylim=(0, 1.02),
    )
    axis.legend(frameon=False, fontsize="small", loc="lower left")
    return finished(figure)


def stepwise_agreement(dataset: xr.Dataset) -> Figure:
    """Share of symbols kept, step by step and by one posterior draw, against the time.

    Args:
        dataset: ``stepwise`` and ``one_shot`` (t, datum, level), the share of symbols kept.
    """
    figure, axis = plt.subplots(figsize=(6.4, 4))
    colors = sns.color_palette("viridis", dataset.sizes["level"])
    error = dataset.std("datum", ddof=1) / np.sqrt(dataset.sizes["datum"])
    mean = dataset.mean("datum")
    for level, color, marker in zip(dataset.level.values, colors, cycle(MARKERS), strict=False):
        one, sem = mean.one_shot.sel(level=level), 2 * error.one_shot.sel(level=level)
        axis.fill_between(dataset.t, one - sem, one + sem, color=color, alpha=0.3, linewidth=0)
        axis.errorbar(
            dataset.t,
            mean.stepwise.sel(level=level),
            error.stepwise.sel(level=level),
            color=color,
            marker=marker,
            linestyle="",
            capsize=3,
            label=f"level {level}",
        )
    axis.set(
        xlabel="reversal time $t/T$", ylabel="probability that the symbol is kept", ylim=(0, 1.02)
    )
    axis.legend(frameon=False)
    return finished(figure)


def change_fields(fields: Mapping[str, np.ndarray]) -> Figure:
    """Which leaves changed, a panel for each noise and a row for each posterior sample.

    Args:
        fields: name of the noise -> (samples, leaves), whether the leaf changed.
    """
    figure, axes = plt.subplots(
        len(fields), 1, figsize=(8, 1.1 * len(fields) + 0.4), sharex=True, layout="constrained"
    )
    for axis, (name, changed) in zip(np.atleast_1d(axes), fields.items(), strict=True):
        axis.imshow(changed, aspect="auto", cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
        axis.set(yticks=[], ylabel=name)
    axis.set_xlabel("leaf")
    return finished(figure)


def finished(figure: Figure) -> Figure:
    """Close the figure, so that a notebook shows it once: as the value of the cell."""
    sns.despine(figure)
    plt.close(figure)
    return figure
