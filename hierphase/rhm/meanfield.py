"""Mean-field theory of belief propagation on the Random Hierarchy Model.

Messages are averaged over the draw of the rules and their fluctuations neglected. What remains
is one number a level: p, the upward belief in the true symbol, and q, the downward one. With

    a = (m-1)/(v^s-1),    f = (m v-1)/(v^s-1)

the upward recursion F has the fixed points 1 and 1/v. Where both attract, a repulsive p* between
them separates noise that leaves the class known from noise that destroys it. (Sclocchi, Favero,
Wyart, arXiv 2402.16991; the correlations: Sclocchi et al., arXiv 2410.13770.)
"""

import numpy as np
from scipy.optimize import brentq

from hierphase.checks import (
    check_shape,
    fraction,
    fractions,
    positive_integer,
    tree_depth,
    tree_sizes,
)


def upward(p, v, m, s):
    """F(p) = [p^s + a (1 - p^s)] / [p^s + f (1 - p^s)]: belief in the true symbol, a level up.

    Args:
        p: belief in the true symbol of each child, in [0, 1]; float or array.
        v, m, s: symbols, rules a symbol, branching.

    Returns:
        The belief of the parent, of the shape of ``p``.

    Raises:
        ValueError: sizes without unambiguous rules, or p outside [0, 1].
    """
    v, m, s = tree_sizes(v, m, s)
    return _parent(fractions("p", p) ** s, v, m, s)


def downward(q, p, v, m, s):
    """q_child = [q w + c (1-w)] / [q w + c (v-w)], w = p^(s-1), c = (m-q)/(v^s-1).

    Args:
        q: downward belief in the true symbol of the parent; float or array.
        p: upward belief of each of the s-1 siblings.
        v, m, s: symbols, rules a symbol, branching.

    Raises:
        ValueError: sizes without unambiguous rules, a belief outside [0, 1], or beliefs 0 and 1
            that exclude each other.
    """
    v, m, s = tree_sizes(v, m, s)
    return _child(fractions("q", q), fractions("p", p) ** (s - 1), v, m, s)


def slopes(v, m, s) -> tuple[float, float]:
    """F'(1) and F'(1/v); a fixed point attracts where its slope is below 1.

    F'(1) = s m (v-1)/(v^s-1), close to s f;  F'(1/v) = s (v-1) v^(s-1)/(m (v^s-1)).

    Raises:
        ValueError: sizes without unambiguous rules.
    """
    v, m, s = tree_sizes(v, m, s)
    return s * m * (v - 1) / (v**s - 1), s * (v - 1) * v ** (s - 1) / (m * (v**s - 1))


def fixed_point(v, m, s) -> float | None:
    """Repulsive fixed point p* of F between 1/v and 1, or None where there is no transition.

    There is none where F'(1) >= 1 (any noise loses the class) or F'(1/v) >= 1 (no noise does).
    For s = 2, p* = (m-1)/(v-m).

    Raises:
        ValueError: sizes without unambiguous rules.
    """
    if max(slopes(v, m, s)) >= 1:
        return None
    # F(p) = p with the known roots 1 and 1/v divided out: sum_j ((v p)^j - m p^j) = 0, j < s.
    polynomial = [float(v) ** power - m for power in range(s - 1, -1, -1)]
    return float(brentq(lambda p: np.polyval(polynomial, p), 1 / v, 1, xtol=1e-15))


def slope(p, v, m, s) -> float:
    """F'(p), the factor by which a small difference in belief grows in one level.

    Raises:
        ValueError: sizes without unambiguous rules, or p outside [0, 1].
    """
    v, m, s = tree_sizes(v, m, s)
    p = fractions("p", p)
    a, f = (m - 1) / (v**s - 1), (m * v - 1) / (v**s - 1)
    return s * p ** (s - 1) * (f - a) / (p**s + f * (1 - p**s)) ** 2


def critical_epsilon(v, m, s) -> float | None:
    """Critical noise eps* = (1 - p*)/(1 - 1/v), or None where there is no transition.

    Raises:
        ValueError: sizes without unambiguous rules.
    """
    p = fixed_point(v, m, s)
    return None if p is None else (1 - p) / (1 - 1 / v)


def length_exponent(v, m, s) -> float | None:
    """nu = ln s / ln F'(p*) of the correlation length, or None where there is no transition.

    A deviation from p* grows by F'(p*) a level, so the number of leaves below
    the level at which it decides is ``|eps - eps*|^-nu``.

    Raises:
        ValueError: sizes without unambiguous rules.
    """
    p = fixed_point(v, m, s)
    return None if p is None else float(np.log(s) / np.log(slope(p, v, m, s)))


def leaf_belief(epsilon, v):
    """p_0 = 1 - eps + eps/v: belief in the true symbol of a leaf in the epsilon-process.

    Raises:
        ValueError: v is not an integer >= 2, or epsilon is outside [0, 1].
    """
    return 1 - fractions("epsilon", epsilon) * (1 - 1 / positive_integer("v", v, minimum=2))


def beliefs(p_0, v, m, s, L) -> tuple[np.ndarray, np.ndarray]:
    """Upward beliefs p and downward beliefs q of all levels, from the belief p_0 in the leaves.

    Args:
        p_0: upward belief in the true symbol of a leaf; float or array.
        v, m, s: symbols, rules a symbol, branching.
        L: depth.

    Returns:
        p and q, arrays ``(L+1, *shape of p_0)``, index l for level l; q_L = 1/v.

    Raises:
        ValueError: sizes without unambiguous rules, L out of range, or p_0 outside [0, 1].
    """
    L = tree_depth(L, s)
    p = [fractions("p_0", p_0)]
    for _ in range(L):
        p.append(upward(p[-1], v, m, s))
    q = [np.full_like(p[0], 1 / v)]
    for level in range(L - 1, -1, -1):
        q.insert(0, downward(q[0], p[level], v, m, s))
    return np.stack(p), np.stack(q)


def marginal(p, q, v):
    """P = p q / [p q + (1-p)(1-q)/(v-1)]: probability of the true symbol, from both directions.

    Raises:
        ValueError: v is not an integer >= 2, or beliefs outside [0, 1], or 0 and 1, which exclude
            each other.
    """
    p, q, v = fractions("p", p), fractions("q", q), positive_integer("v", v, minimum=2)
    joint = p * q
    return _ratio(joint, joint + (1 - p) * (1 - q) / (v - 1))


def profile(epsilon, v, m, s, L) -> np.ndarray:
    """Probability of the true symbol of each level after the epsilon-process.

    Args:
        epsilon: noise in [0, 1]; float or array.
        v, m, s: symbols, rules a symbol, branching.
        L: depth.

    Returns:
        Array ``(L+1, *shape of epsilon)``; index l for level l, 0 the leaves, L the class.

    Raises:
        ValueError: sizes without unambiguous rules, L out of range, or epsilon outside [0, 1].
    """
    v, m, s = tree_sizes(v, m, s)
    p, q = beliefs(leaf_belief(epsilon, v), v, m, s, L)
    return marginal(p, q, v)


def population_profile(p_0, v, m, s, L, seed=0) -> np.ndarray:
    """Probability of the true symbol of each level where leaf beliefs differ from leaf to leaf.

    Gaussian noise or masking leaves each leaf with a belief of its own. Here a whole population of
    beliefs goes up and down the tree (population dynamics, or density evolution): a parent takes
    s members at random, w is the product of their beliefs instead of p^s. Where all members are
    equal this is :func:`profile`.

    Args:
        p_0: (size,) sample of the leaves' beliefs in their true symbol.
        v, m, s: symbols, rules a symbol, branching.
        L: depth.
        seed: of the random combinations.

    Returns:
        Array (L+1,), index l for level l. Its sampling error falls as 1/sqrt(size).

    Raises:
        ValueError: sizes without unambiguous rules, L out of range, a belief outside [0, 1], none
            at all or not in one dimension, or a seed that is no integer or negative.
    """
    v, m, s = tree_sizes(v, m, s)
    L = tree_depth(L, s)
    rng = np.random.default_rng(positive_integer("seed", seed, minimum=0))

    def product(p, count):
        return np.prod([rng.permutation(p) for _ in range(count)], axis=0)

    check_shape("p_0", p_0, "size")
    p = [fractions("p_0", p_0)]
    for _ in range(L):
        p.append(_parent(product(p[-1], s), v, m, s))
    q = np.full_like(p[0], 1 / v)
    result = [marginal(p[L], q, v).mean()]
    for level in range(L - 1, -1, -1):
        q = _child(q, product(p[level], s - 1), v, m, s)
        result.insert(0, marginal(p[level], q, v).mean())
    return np.array(result)


def correlation(epsilon, v, m, s, L) -> np.ndarray:
    """Connected correlation of the changes of two leaves, against their tree distance.

    sigma = +1 if a leaf changed between x_0 and a posterior sample, -1 if not. For a pair whose
    common ancestor lies k levels up, with q its downward belief and u the upward belief of its
    children, the weights that the two children are right (1) or wrong (0) are

        W11 = q u^s + u^2 (1 - u^(s-2)) c,  W10 = W01 = u (1-u) c,  W00 = (1-u)^2 c,

    c = (m-q)/(v^s-1). Each child's state then goes down to its leaf, from q = 1 or q = 0.

    Args:
        epsilon: noise in (0, 1], a float.
        v, m, s: symbols, rules a symbol, branching.
        L: depth.

    Returns:
        Array (L+1,); index k for tree distance k, index 0 the variance of sigma.

    Raises:
        ValueError: sizes without unambiguous rules, L out of range, or epsilon not a number in
            (0, 1], or where leaves change so rarely that beliefs round to 1.
    """
    v, m, s = tree_sizes(v, m, s)
    p, q = beliefs(leaf_belief(fraction("epsilon", epsilon), v), v, m, s, L)
    if max(p[0], q[0]) > 1 - 1e-12:
        raise ValueError(
            f"epsilon must be above 0, where leaves of {v, m, s} change, got {epsilon}"
        )
    right, wrong = p[0] * q[0], (1 - p[0]) * (1 - q[0]) / (v - 1)
    variance = 4 * right * wrong / (right + wrong) ** 2
    # The covariance of two states is the determinant of their joint weights, W11 W00 - W10^2 =
    # u^s (1-u)^2 c (q-c), and maps (a x + b) / (g x + d) have differences in closed form. Taken as
    # differences of numbers, correlations below 1e-16 would be rounding errors.
    u, q = p[:-1], q[1:]
    c = (m - q) / (v**s - 1)
    both = q * u**s + u**2 * (1 - u ** (s - 2)) * c
    one, none = u * (1 - u) * c, (1 - u) ** 2 * c
    covariance = u**s * (1 - u) ** 2 * c * (q - c) / (both + 2 * one + none) ** 2
    return np.append(variance, 4 * covariance * _leaf_differences(u, v, m, s) ** 2)


def susceptibility(epsilon, v, m, s, L) -> float:
    """chi = sum_ij C_ij / sum_i C_ii: how many leaves change together.

    Args:
        epsilon: noise in (0, 1], a float.
        v, m, s: symbols, rules a symbol, branching.
        L: depth.

    Raises:
        ValueError: as :func:`correlation`.
    """
    correlations = correlation(epsilon, v, m, s, L)
    pairs = (s - 1) * float(s) ** np.arange(L)  # leaves at tree distance 1..L of a given leaf
    return float(1 + pairs @ correlations[1:] / correlations[0])


def _leaf_differences(p, v, m, s) -> np.ndarray:
    """P(leaf is right | its ancestor is right) - P(... | wrong), for ancestors of every level."""
    # Both maps have the form (a x + b) / (g x + d), so that differences are multiplied by
    # (a d - b g) / [(g x_1 + d) (g x_2 + d)].
    states, differences = np.tile([[1.0], [0.0]], len(p)), np.ones(len(p))
    for level in range(len(p) - 2, -1, -1):
        w, above = p[level] ** (s - 1), slice(level + 1, None)
        state = states[:, above]
        below = state * w + (m - state) / (v**s - 1) * (v - w)
        differences[above] *= m * w * (v - 1) / (v**s - 1) / below.prod(axis=0)
        states[:, above] = _child(state, w, v, m, s)
    wrong = (1 - p[0]) / (v - 1)
    return differences * p[0] * wrong / (states * p[0] + (1 - states) * wrong).prod(axis=0)


def _parent(w, v, m, s):
    """Upward belief of a parent, w the product of its children's."""
    a, f = (m - 1) / (v**s - 1), (m * v - 1) / (v**s - 1)
    return (w + a * (1 - w)) / (w + f * (1 - w))


def _child(q, w, v, m, s):
    """Downward belief of a child, w the product of its siblings' upward ones."""
    c = (m - q) / (v**s - 1)
    return _ratio(q * w + c * (1 - w), q * w + c * (v - w))


def _ratio(part, whole):
    if not np.all(whole > 0):
        raise ValueError("beliefs must not be 0 and 1 where they exclude every symbol together")
    return part / whole
