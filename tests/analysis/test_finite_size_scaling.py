import numpy as np
import pytest

from hierphase.analysis import finite_size_scaling
from hierphase.rhm import correlations, meanfield

X = np.concatenate([-np.geomspace(0.2, 0.002, 12), [0], np.geomspace(0.002, 0.2, 12)])
SIZES = [2.0**L for L in (8, 9, 10, 11)]


def scaled_curves(nu, kappa):
    """y = size^kappa g(x size^(1/nu)) for a lopsided peak g."""
    return np.array([
        size**kappa * (2 + np.tanh(X * size ** (1 / nu))) / (1 + (X * size ** (1 / nu) - 0.3) ** 2)
        for size in SIZES
    ])  # fmt: skip


def test_power_law():
    x = np.array([1.0, 2.0, 5.0])
    y = np.array([[3 * x**-1.5], [0.1 * x**2]])
    np.testing.assert_allclose(finite_size_scaling.power_law(x, y), [[-1.5], [2]])


@pytest.mark.parametrize(("nu", "kappa"), [(1.9, 1.0), (1.4, 0.1)])
def test_collapse_finds_the_exponents_that_made_the_curves(nu, kappa):
    y = scaled_curves(nu, kappa)
    found = finite_size_scaling.best_collapse(X, y, SIZES, reach=0.03)
    assert found[0] == pytest.approx(nu, rel=0.02)
    assert found[1] == pytest.approx(kappa, abs=0.01)
    right = finite_size_scaling.collapse_spread(X, y, SIZES, nu, kappa, 0.03)
    assert found[2] <= right < 0.02
    assert finite_size_scaling.collapse_spread(X, y, SIZES, nu, kappa + 0.3, 0.03) > 10 * right


def test_collapse_does_not_depend_on_the_order_of_sizes():
    y = scaled_curves(1.5, 0.5)
    spread = finite_size_scaling.collapse_spread(X, y, SIZES, 1.2, 0.4, 0.03)
    assert finite_size_scaling.collapse_spread(
        X, y[::-1], SIZES[::-1], 1.2, 0.4, 0.03
    ) == pytest.approx(spread)


def test_theory_of_deep_trees_collapses_with_its_own_exponents():
    """nu and a of infinite trees from the correlations of finite ones."""
    v, m, s = 32, 8, 2
    nu = meanfield.length_exponent(v, m, s)
    assert nu == pytest.approx(1.893, abs=5e-4)
    critical, depths = meanfield.critical_epsilon(v, m, s), [20, 21, 22]
    x = X * meanfield.slope(meanfield.fixed_point(v, m, s), v, m, s) ** (10 - depths[0])
    lengths, first = [], []
    for L in depths:
        r, pairs = correlations.tree_distances(s, L), correlations.tree_pairs(s, L)
        sums = np.array([meanfield.correlation(critical + e, v, m, s, L) * pairs for e in x])
        lengths.append(correlations.correlation_length(sums, r))
        first.append(correlations.moments(sums, r)[1])
    sizes, reach = [s**L for L in depths], 0.05 * x[-1] / X[-1]
    found = finite_size_scaling.best_collapse(x, lengths, sizes, reach)
    assert found[0] == pytest.approx(nu, rel=0.01)
    assert found[1] == pytest.approx(1, abs=0.002)
    # M_1 ~ s^(L (2 - a)), a = 2 - 2/nu
    assert finite_size_scaling.best_collapse(x, first, sizes, reach)[1] == pytest.approx(
        2 / nu, abs=0.01
    )


def test_length_diverges_with_nu_on_both_sides():
    v, m, s, L = 32, 8, 2, 40
    nu, critical = meanfield.length_exponent(v, m, s), meanfield.critical_epsilon(v, m, s)
    r, pairs = correlations.tree_distances(s, L), correlations.tree_pairs(s, L)
    x = np.geomspace(1e-4, 1e-3, 5)
    for sign in (-1, 1):
        sums = [meanfield.correlation(critical + sign * e, v, m, s, L) * pairs for e in x]
        slope = finite_size_scaling.power_law(x, correlations.correlation_length(sums, r))
        assert slope == pytest.approx(-nu, rel=0.005)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: finite_size_scaling.power_law([1.0], [1.0]), "two different numbers, got 1 alone"),
        (
            lambda: finite_size_scaling.power_law([1.0, 2.0], [1.0, -3.0]),
            "y must be positive.*got -3",
        ),
        (
            lambda: finite_size_scaling.power_law([0.0, 2.0], [1.0, 3.0]),
            "x must be positive.*got 0",
        ),
        (
            lambda: finite_size_scaling.best_collapse(X, np.ones((1, 25)), [8], 0.1),
            "no collapse found",
        ),
    ],
)
def test_bad_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
