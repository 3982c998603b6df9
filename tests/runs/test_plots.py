"""What a figure holds: curves with bands, lines to compare them with, names, frames."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr

from hierphase.analysis.bootstrap import Estimate
from hierphase.runs import plots
from hierphase.runs.plots import Panel

X = np.linspace(0, 1, 5)


def estimate(height):
    return Estimate(height * X, height * X - 0.1, height * X + 0.1)


def panel(n, **options):
    return Panel({f"level {i}": (X, estimate(i + 1)) for i in range(n)}, "x", "y", **options)


def line(axis, label):
    (found,) = [line for line in axis.lines if line.get_label() == label]
    return found


def test_a_panel_shows_curves_bands_and_what_to_compare_them_with():
    figure = plots.curves(panel(
        2, lines={"level 1": (X, X**2), "theory": (X, X**3)},
        verticals={"t*": Estimate(0.5, 0.4, 0.6), "level 0": 0.3}, horizontals={"chance": 0.1},
        axes={"ylim": (0, 3), "yscale": "linear"},
    ))  # fmt: skip
    (axis,) = figure.axes
    assert not plt.get_fignums(), "an open figure would be shown twice"
    assert (axis.get_xlabel(), axis.get_ylabel(), axis.get_ylim()) == ("x", "y", (0, 3))
    assert np.array_equal(line(axis, "level 1").get_ydata(), 2 * X)
    assert line(axis, "level 1").get_linestyle() == "None", "a line of its own joins these points"
    assert line(axis, "level 0").get_linestyle() == "-"
    assert line(axis, "theory").get_linestyle() == "--"
    band = axis.collections[0].get_paths()[0].vertices
    assert band[:, 1].min() == pytest.approx(-0.1) and band[:, 1].max() == pytest.approx(1.1)
    own = [li for li in axis.lines if np.array_equal(li.get_ydata(), X**2)]
    assert own[0].get_color() == line(axis, "level 1").get_color()
    (span,) = axis.patches
    assert span.get_x() == pytest.approx(0.4) and span.get_width() == pytest.approx(0.2)
    names = [text.get_text() for text in axis.get_legend().get_texts()]
    assert names == ["level 0", "level 1", "theory", "t*", "chance"]


def test_points_with_bars_beside_lines_with_bands():
    lines = {"level 0": (X, estimate(0.9)), "theory": (X, X)}
    (axis,) = plots.curves(panel(2, bars=True, lines=lines)).axes
    assert line(axis, "level 1").get_linestyle() == "None"
    bars = np.array(axis.collections[1].get_segments())[..., 1]
    assert np.allclose(bars, np.stack([2 * X - 0.1, 2 * X + 0.1], axis=1))
    band = axis.collections[2].get_paths()[0].vertices[:, 1]
    assert band.min() == pytest.approx(-0.1) and band.max() == pytest.approx(1.0)
    assert line(axis, "theory").get_linestyle() == "--"


def test_shared_panels_have_one_legend_and_the_same_colours():
    content = [panel(2), Panel({"level 1": (X, estimate(1))}, "x", "y"), panel(1)]
    figure = plots.curves(*content, ordered=True, shared=True, n_columns=2)
    first, second, third, empty = figure.axes
    assert line(first, "level 1").get_color() == line(second, "level 1").get_color()
    assert first.get_ylim() == third.get_ylim() and not empty.axison
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["level 0", "level 1"]
    assert first.get_legend() is None


def test_of_a_long_scale_the_ends_are_named():
    (axis,) = plots.curves(panel(13), ordered=True).axes
    assert [text.get_text() for text in axis.get_legend().get_texts()] == ["level 0", "level 12"]
    assert len(plots.curves(panel(13)).axes[0].get_legend().get_texts()) == 13


def test_spread_over_draws():
    draws = np.array([[1.0, 2.0], [3.0, 6.0]])
    for values in (draws, xr.DataArray(draws.T, dims=("x", "draw"))):
        spread = plots.over_draws(values)
        assert np.allclose(spread.value, [2, 4])
        assert np.allclose(spread.high - spread.value, np.sqrt([2, 8]))
        assert np.allclose(spread.value - spread.low, np.sqrt([2, 8]))


@pytest.mark.parametrize("channels", [1, 3])
def test_image_grid_shows_pixels_frames_and_names(channels):
    images = np.random.default_rng(0).integers(0, 256, (2, 3, channels, 4, 4), dtype=np.uint8)
    framed = np.array([[True, False, False], [False, False, True]])
    figure = plots.image_grid(
        images, framed, ["a", "b", "c"], [["d", "e", "f"]] * 2, ["g", "h"], "i"
    )
    for k, axis in enumerate(figure.axes):
        shown = axis.images[0].get_array()
        expected = np.moveaxis(images.reshape(6, channels, 4, 4)[k], 0, -1).squeeze()
        assert np.array_equal(shown, expected)
        assert (axis.spines["top"].get_linewidth() > 1) == framed.flat[k]
    assert [axis.get_title() for axis in figure.axes[:3]] == ["a", "b", "c"]
    assert [axis.get_xlabel() for axis in figure.axes[3:]] == ["d", "e", "f"]
    assert [axis.get_ylabel() for axis in figure.axes[::3]] == ["g", "h"]
    assert figure.get_suptitle() == "i"
