"""The chapter on exponents: its closed forms, its proof that a = 2 - 2/nu, and their limits."""

import itertools
import math

import numpy as np
import pytest
import sympy
import torch

from hierphase.rhm import correlations, meanfield
from hierphase.rhm.belief_propagation import BeliefPropagation
from hierphase.rhm.corruption import EpsilonProcess
from hierphase.rhm.model import RandomHierarchyModel
from hierphase.runs import chapters

TREES = [
    (v, m, s)
    for s, sizes in ((2, (8, 16, 32, 64, 256)), (3, (6, 8, 24)), (4, (6, 9)), (5, (4, 7)))
    for v in sizes
    for m in {2, int(v ** ((s - 1) / 2)), int(v ** ((s - 1) / 2)) + 2}
    if meanfield.fixed_point(v, m, s)
]


def brackets(x, power):
    """[s]_x = 1 + x + ... + x^(s-1), of x^s."""
    return (power - 1) / (x - 1)


def closed_forms(p, v, X, V):
    """m, q*, lambda and the correlation of siblings, of p = p*, v, X = p^s and V = v^s."""
    of_p, of_vp, of_v = brackets(p, X), brackets(v * p, V * X), brackets(v, V)
    less_p, less_vp = brackets(p, X / p), brackets(v * p, V * X / (v * p))  # [s - 1]
    m = of_vp / of_p
    slope = X / p * of_v / (of_p * of_vp)
    return m, m / v * less_p / less_vp, slope, X / p * (of_v - of_vp) / (less_p * of_vp)


def zero(expression):
    return sympy.cancel(sympy.together(expression)) == 0


def test_closed_forms_for_every_s():
    """p, v, p^s and v^s as four independent symbols: what cancels then holds for every s."""
    p, v, X, V, s = sympy.symbols("p v X V s", positive=True)
    m, q, lam, siblings = closed_forms(p, v, X, V)
    b, f = (m - 1) / (V - 1), (m * v - 1) / (V - 1)
    F = (X + b * (1 - X)) / (X + f * (1 - X))
    assert zero(F - p)
    B, W = sympy.symbols("b f")  # F as a function of p^s, of which d/dp is s p^s / p
    by_power = sympy.diff((X + B * (1 - X)) / (X + W * (1 - X)), X).subs({B: b, W: f})
    assert zero(by_power * s * X / p - s * lam)

    w = X / p  # the map of q: (a q + c) / (g q + d), whose slope is (a d - c g) / (g q + d)^2
    a, c = w - (1 - w) / (V - 1), m * (1 - w) / (V - 1)
    g, d = w - (v - w) / (V - 1), m * (v - w) / (V - 1)
    for root in (q, -(1 - p) / (v * p - 1)):  # the other root of the quadratic is no belief
        assert zero((a * root + c) / (g * root + d) - root)
    assert zero((a * d - c * g) / (g * q + d) ** 2 - lam)

    wrong = (m - q) / (V - 1)
    both, none = q * X + (p**2 - X) * wrong, (1 - p) ** 2 * wrong
    one = p * (1 - p) * wrong
    assert zero((both * none - one**2) / ((both + one) * (one + none)) - siblings)

    dual = closed_forms(1 / (v * p), v, 1 / (V * X), V)
    assert zero(dual[0] * m - V / v) and zero(dual[2] - lam)
    halfway = closed_forms(1 / sympy.sqrt(v), v, 1 / sympy.sqrt(V), V)[2]
    assert zero(halfway - brackets(v, V) / brackets(sympy.sqrt(v), sympy.sqrt(V)) ** 2)


@pytest.mark.parametrize("s", [2, 3, 4, 5])
def test_closed_forms_with_powers_written_out(s):
    p, v, x = sympy.symbols("p v x", positive=True)
    m, _, lam, _ = closed_forms(p, v, p**s, v**s)
    b, f = (m - 1) / (v**s - 1), (m * v - 1) / (v**s - 1)
    for number in (sympy.Rational(1, 3), sympy.Rational(2, 7)):
        at = {p: number}
        F = ((x**s + b * (1 - x**s)) / (x**s + f * (1 - x**s))).subs(at)
        assert zero(F.subs(x, number) - number)
        assert zero(sympy.diff(F, x).subs(x, number) - (s * lam).subs(at))


@pytest.mark.parametrize(("v", "m", "s"), TREES)
def test_closed_forms_are_those_of_the_package(v, m, s):
    p = meanfield.fixed_point(v, m, s)
    number, q, lam, siblings = closed_forms(p, v, p**s, float(v) ** s)
    assert number == pytest.approx(m, rel=1e-9)
    assert lam == pytest.approx(meanfield.slope(p, v, m, s) / s, rel=1e-9)
    assert meanfield.downward(q, p, v, m, s) == pytest.approx(q, rel=1e-9)
    # Far from the root the chain is at its fixed point, which it comes to by lambda a level; but
    # F'(p*) a level is what the rounding of p* grows by.
    c = meanfield.correlation(meanfield.critical_epsilon(v, m, s), v, m, s, 40)
    if lam < 0.8:
        assert c[1] / c[0] == pytest.approx(siblings, rel=1e-3)
        assert c[4] / c[3] == pytest.approx(lam**2, rel=1e-3)
    nu = meanfield.length_exponent(v, m, s)
    assert 2 - 2 / nu == pytest.approx(-2 * math.log(lam) / math.log(s), rel=1e-9)


def averaged_tree(v, m, s, depth):
    """Every labelling of a tree with averaged rules at its fixed point: symbols, probabilities.

    The true symbol is 0 everywhere. No belief propagation is in it: the product of the factors.
    """
    p = meanfield.fixed_point(v, m, s)
    q = closed_forms(p, v, p**s, float(v) ** s)[1]
    symbols = np.array([[]], dtype=int)
    sizes = [s**k for k in range(depth + 1)]  # from the root down
    for _ in range(sum(sizes)):
        symbols = np.hstack([
            np.repeat(symbols, v, 0), np.tile(np.arange(v), len(symbols))[:, None]
        ])  # fmt: skip
    right = symbols == 0
    starts = np.cumsum([0, *sizes])
    weight = np.where(right[:, 0], q, (1 - q) / (v - 1))
    for k in range(depth):
        for i in range(sizes[k]):
            parent = right[:, starts[k] + i]
            child = starts[k + 1] + s * i
            tuple_ = right[:, child : child + s].all(1)
            factor = np.where(parent, m - 1, m) / (v**s - 1)
            weight = weight * np.where(tuple_, parent, factor)
    leaves = right[:, starts[depth] :]
    weight = weight * np.where(leaves, p, (1 - p) / (v - 1)).prod(1)
    return right, weight / weight.sum()


@pytest.mark.parametrize(("v", "m", "s"), [(4, 2, 2), (5, 2, 2), (3, 3, 3), (3, 4, 3)])
def test_the_chain_by_enumeration(v, m, s):
    """Stationary, with eigenvalue F'(p*)/s; siblings and cousins covary as the proof says."""
    right, weight = averaged_tree(v, m, s, 2)
    p = meanfield.fixed_point(v, m, s)
    _, _, lam, siblings = closed_forms(p, v, p**s, float(v) ** s)
    assert lam == pytest.approx(meanfield.slope(p, v, m, s) / s, rel=1e-6)
    share = weight @ right
    np.testing.assert_allclose(share, share[0], rtol=1e-8)
    variance = share[0] * (1 - share[0])

    def correlation(i, j):
        return (weight @ (right[:, i] & right[:, j]) - share[i] * share[j]) / variance

    first, last = 1 + s, right.shape[1] - 1
    assert correlation(0, 1) == pytest.approx(lam, rel=1e-6)  # root and child
    assert correlation(1, first) == pytest.approx(lam, rel=1e-6)
    assert correlation(0, last) == pytest.approx(lam**2, rel=1e-6)
    assert correlation(first, first + 1) == pytest.approx(siblings, rel=1e-6)
    assert correlation(1, 2) == pytest.approx(siblings, rel=1e-6)
    assert correlation(first, last) == pytest.approx(siblings * lam**2, rel=1e-6)


def test_kesten_stigum_of_the_prior_over_all_rules():
    """Every way to give nine pairs to three symbols, two each: |P M d|^2 / |d|^2 on average."""
    v, m, s = 3, 2, 2
    delta = np.array([1.0, 2.0, -3.0])
    pairs, found, sums = list(itertools.product(range(v), repeat=s)), [], []
    for first in itertools.combinations(range(9), m):
        rest = [i for i in range(9) if i not in first]
        for second in itertools.combinations(rest, m):
            for third in itertools.combinations([i for i in rest if i not in second], m):
                M = np.zeros((v, v))
                for y, rules in enumerate((first, second, third)):
                    for rule in rules:
                        M[y, pairs[rule][0]] += 1 / m
                found.append(((M - M.mean(0)) ** 2).sum() / (v - 1))
                sums.append(m * M @ delta)
    assert len(found) == 7560
    assert np.mean(found) == pytest.approx(meanfield.slopes(v, m, s)[1] / s, rel=1e-12)
    covariances = np.cov(np.transpose(sums), bias=True) / (delta @ delta)
    own, other = m / v * (v**s - m) / (v**s - 1), -(m**2) / v / (v**s - 1)
    np.testing.assert_allclose(covariances, np.where(np.eye(v), own, other), rtol=1e-12)


@pytest.mark.parametrize(("v", "m", "epsilon"), [(2, 2, 0.4), (3, 1, 0.6), (3, 2, 0.5)])
def test_a_population_of_one_level_is_the_mean_over_all_rules(v, m, epsilon):
    """The page's function, of fresh rules at every node, against every order of the tuples."""
    (cell,) = [c for c in chapters.load("exponents").notebook.cells if "def population" in c.source]
    exec(cell.source, names := {"np": np})
    belief = np.full(v, epsilon / v)
    belief[0] += 1 - epsilon
    weights = np.outer(belief, belief).flatten()  # the first tuple is the true one
    own, every = np.transpose([
        (weights[0] + sum(rest[: m - 1]), weights[0] + sum(rest))
        for rest in itertools.permutations(weights[1:], v * m - 1)
    ])  # fmt: skip
    found = names["population"](epsilon, v, m, 2, 1, 400_000, seed=0)
    error = (own / every).std() / 400_000**0.5
    assert found == pytest.approx((own / every).mean(), abs=4 * error + 1e-12)


@pytest.mark.parametrize("sizes", [(8, 3, 2, 5), (6, 5, 3, 3)])
def test_chi_is_the_response_to_a_field(sizes):
    v, epsilon, h = sizes[0], 0.6, 1e-4
    rhm = RandomHierarchyModel(*sizes, seed=2)
    leaves = rhm.sample(8, seed=2)[0]
    true = torch.nn.functional.one_hot(leaves, v).double()
    beliefs, infer = EpsilonProcess(v).beliefs(leaves, epsilon).double(), BeliefPropagation(rhm)
    kept = [(infer(beliefs * (x * true).exp()).marginals[0] * true).sum(-1) for x in (-h, 0, h)]
    slope = (kept[2] - kept[0]).sum() / (2 * h)
    variance = (kept[1] * (1 - kept[1])).sum()
    c = correlations.posterior_covariance(infer(beliefs), leaves).sum(0)
    assert (slope / variance).item() == pytest.approx(c.sum() / c[0], rel=1e-6)


@pytest.mark.parametrize(("v", "m", "s"), [(16, 4, 2), (8, 8, 3), (6, 16, 4)])
def test_where_nu_is_above_two_chi_has_a_limit(v, m, s):
    p = meanfield.fixed_point(v, m, s)
    _, _, lam, siblings = closed_forms(p, v, p**s, float(v) ** s)
    limit = 1 + (s - 1) * siblings / (1 - s * lam**2)
    assert meanfield.length_exponent(v, m, s) > 2 and s * lam**2 < 1
    star = meanfield.critical_epsilon(v, m, s)
    assert meanfield.susceptibility(star, v, m, s, 120) == pytest.approx(limit, rel=2e-3)


def test_bounds_on_nu():
    p = np.linspace(1 / 32, 1, 100_001)
    assert meanfield.slope(p, 32, 8, 2).max() == pytest.approx(1.4603, abs=5e-5)
    for v, s in ((16, 2), (25, 2), (9, 3), (4, 4)):  # lambda is largest where the tree is self-dual
        most = [
            meanfield.slope(x, v, m, s) / s
            for m in range(2, v ** (s - 1))
            if (x := meanfield.fixed_point(v, m, s))
        ]
        root = v**0.5
        assert max(most) == pytest.approx((v**s - 1) / (v - 1) * ((root - 1) / (root**s - 1)) ** 2)


def test_singularity_of_the_leaves():
    """Their slope follows |epsilon - epsilon*|^(nu - 2), where nu is well below 2."""
    sizes = 256, 16, 2
    away = np.geomspace(1e-6, 1e-5, 2)
    for side in (-1, 1):
        noise = meanfield.critical_epsilon(*sizes) + side * away
        P = meanfield.profile(noise, *sizes, 60)[0]
        chi = [meanfield.susceptibility(epsilon, *sizes, 60) for epsilon in noise]
        exponent = np.diff(np.log(chi * P * (1 - P)))[0] / np.log(10)
        assert exponent == pytest.approx(meanfield.length_exponent(*sizes) - 2, abs=2e-3)
        assert exponent == pytest.approx(-0.796, abs=2e-3)
