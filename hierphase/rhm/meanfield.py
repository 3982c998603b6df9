r"""Mean-field theory of belief propagation on the Random Hierarchy Model.

Messages are averaged over the draw of the rules and their fluctuations neglected. What remains
is one number a level: p, the upward belief in the true symbol, and q, the downward one. With

.. math:: a = \frac{m - 1}{v^s - 1}, \qquad f = \frac{m v - 1}{v^s - 1}

the upward recursion F (:func:`upward`) has the fixed points 1 and 1/v. Where both attract, a
repulsive :math:`p^*` between them separates noise that leaves the class known from noise that
destroys it. (Sclocchi, Favero, Wyart, arXiv 2402.16991; the correlations: Sclocchi et al., arXiv
2410.13770.) All functions raise a ValueError for sizes v, m, s (symbols, rules of each, branching)
without unambiguous rules, L out of range, and beliefs or noise outside [0, 1].

Example:
    >>> from hierphase import meanfield
    >>> round(meanfield.critical_epsilon(v=32, m=8, s=2), 3)
    0.731
    >>> print(meanfield.critical_epsilon(v=32, m=32, s=2))  # no transition
    None
"""

import numpy as np
from scipy.optimize import brentq

from hierphase import checks


def upward(p, v, m, s):
    r"""F(p), the belief in the true symbol a level up.

    .. math:: F(p) = \frac{p^s + a (1 - p^s)}{p^s + f (1 - p^s)}

    Args:
        p: belief in the true symbol of each child, in [0, 1]; float or array.
        v, m, s: symbols, rules a symbol, branching.

    Returns:
        The belief of the parent, of the shape of ``p``.
    """
    v, m, s = checks.tree_sizes(v, m, s)
    return _parent(checks.fractions("p", p) ** s, v, s, 1 / m, v)


def downward(q, p, v, m, s):
    r"""Downward belief in the true symbol of a child.

    .. math::
        q_\mathrm{child} = \frac{q w + c (1 - w)}{q w + c (v - w)}, \qquad
        w = p^{s-1}, \quad c = \frac{m - q}{v^s - 1}

    Args:
        q: downward belief in the true symbol of the parent; float or array.
        p: upward belief of each of the s-1 siblings.
        v, m, s: symbols, rules a symbol, branching.

    Raises:
        ValueError: beliefs 0 and 1 that exclude each other.
    """
    v, m, s = checks.tree_sizes(v, m, s)
    return _child(checks.fractions("q", q), checks.fractions("p", p) ** (s - 1), v, s, 1 / m)


def slopes(v, m, s) -> tuple[float, float]:
    r"""Slopes of F at its two trivial fixed points, which attract where it is below 1.

    .. math::
        F'(1) = \frac{s m (v - 1)}{v^s - 1} \approx s f, \qquad
        F'(1/v) = \frac{s (v - 1) v^{s-1}}{m (v^s - 1)}
    """
    v, m, s = checks.tree_sizes(v, m, s)
    return s * m * (v - 1) / (v**s - 1), s * (v - 1) * v ** (s - 1) / (m * (v**s - 1))


def fixed_point(v, m, s) -> float | None:
    r"""Repulsive fixed point p* of F between 1/v and 1, or None where there is no transition.

    There is none where :math:`F'(1) \geq 1` (any noise loses the class) or :math:`F'(1/v) \geq 1`
    (no noise does). For s = 2, :math:`p^* = (m - 1)/(v - m)`.
    """
    if max(slopes(v, m, s)) >= 1:
        return None
    # F(p) = p with the known roots 1 and 1/v divided out: sum_j ((v p)^j - m p^j) = 0, j < s.
    polynomial = [float(v) ** power - m for power in range(s - 1, -1, -1)]
    return float(brentq(lambda p: np.polyval(polynomial, p), 1 / v, 1, xtol=1e-15))


def slope(p, v, m, s) -> float:
    r"""The factor :math:`F'(p)` by which a small difference in belief grows in one level.

    .. math:: F'(p) = \frac{s p^{s-1} (f - a)}{[p^s + f (1 - p^s)]^2}
    """
    v, m, s = checks.tree_sizes(v, m, s)
    p = checks.fractions("p", p)
    a, f = (m - 1) / (v**s - 1), (m * v - 1) / (v**s - 1)
    return s * p ** (s - 1) * (f - a) / (p**s + f * (1 - p**s)) ** 2


def critical_epsilon(v, m, s) -> float | None:
    r"""Critical noise of the epsilon-process, or None where there is no transition.

    .. math:: \epsilon^* = \frac{1 - p^*}{1 - 1/v}
    """
    p = fixed_point(v, m, s)
    return None if p is None else (1 - p) / (1 - 1 / v)


def length_exponent(v, m, s) -> float | None:
    r"""Exponent of the correlation length, or None where there is no transition.

    .. math:: \nu = \frac{\ln s}{\ln F'(p^*)}

    A deviation from :math:`p^*` grows by :math:`F'(p^*)` a level, so the number of leaves below
    the level at which it decides is :math:`\lvert\epsilon - \epsilon^*\rvert^{-\nu}`.
    """
    p = fixed_point(v, m, s)
    return None if p is None else float(np.log(s) / np.log(slope(p, v, m, s)))


def inverse(p, v, m, s):
    """The belief of the children that gives a parent the belief p, from F(0) to 1."""
    v, m, s = checks.tree_sizes(v, m, s)
    a, f = (m - 1) / (v**s - 1), (m * v - 1) / (v**s - 1)
    p = checks.within("p", p, a / f, 1).double().numpy()
    return ((p * f - a) / (1 - a - p * (1 - f))) ** (1 / s)


def leaf_belief(epsilon, v):
    r"""Belief in the true symbol of a leaf in the epsilon-process.

    .. math:: p_0 = 1 - \epsilon + \epsilon / v
    """
    v = checks.positive_integer("v", v, minimum=2)
    return 1 - checks.fractions("epsilon", epsilon) * (1 - 1 / v)


def beliefs(p_0, v, m, s, L, n_classes=None, power=pow, share=None):
    r"""Upward beliefs p and downward beliefs q of all levels, from the belief p_0 in the leaves.

    With :math:`\pi` the probability of the true rule of a node that has n symbols to choose from,

    .. math::
        p_\mathrm{parent} = \frac{\pi w + (1 - \pi)\, o}{\pi w + (n - \pi)\, o}, \qquad
        w = p^s, \quad o = \frac{1 - w}{v^s - 1}

    and downwards as :func:`downward`, :math:`m - q` there being :math:`m (1 - \pi q)`. For
    :math:`\pi = 1/m` and n = v this is :func:`upward`.

    Args:
        p_0: upward belief in the true symbol of a leaf; float or array.
        v, m, s: symbols, rules a symbol (one number, or those of levels 1 to L), branching.
        L: depth.
        n_classes: number of classes; None means v.
        power: ``power(p, k)`` stands for :math:`p^k`, the product of the beliefs of k siblings.
        share: ``share(m, shape)`` stands for :math:`\pi = 1/m`, the probability of a node's true
            rule, of m.

    Returns:
        p and q, arrays ``(L+1, *shape of p_0)``, index l for level l; :math:`q_L` is 1/n_classes.
    """
    L, p = checks.tree_depth(L, s), [checks.fractions("p_0", p_0)]
    n_classes = v if n_classes is None else checks.positive_integer("n_classes", n_classes)
    shares = []
    for level, m_level in enumerate(checks.rules_by_level(m, L), 1):
        n = n_classes if level == L else v
        v, m_level, s = checks.tree_sizes(v, m_level, s, n)
        shares.append(share(m_level, p[0].shape) if share else 1 / m_level)
        p.append(_parent(power(p[-1], s), v, s, shares[-1], n))
    q = [np.full_like(p[0], 1 / n_classes)]
    for level in range(L - 1, -1, -1):
        q.insert(0, _child(q[0], power(p[level], s - 1), v, s, shares[level]))
    return np.stack(p), np.stack(q)


def marginal(p, q, v):
    r"""Probability of the true symbol, from both directions; not of 0 and 1, exclusive beliefs.

    .. math:: P = \frac{p q}{p q + (1 - p)(1 - q)/(v - 1)}
    """
    p, q, v = checks.fractions("p", p), checks.fractions("q", q), checks.positive_integer("v", v, 2)
    joint = p * q
    return _ratio(joint, joint + (1 - p) * (1 - q) / (v - 1))


def profile(epsilon, v, m, s, L, n_classes=None) -> np.ndarray:
    """Probability of the true symbol of each level after the epsilon-process.

    Args:
        epsilon: noise in [0, 1]; float or array.
        v, m, s: symbols, rules a symbol (one number, or those of levels 1 to L), branching.
        L: depth.
        n_classes: number of classes; None means v.

    Returns:
        Array ``(L+1, *shape of epsilon)``; index l for level l, 0 the leaves, L the class.
    """
    return _profile(*beliefs(leaf_belief(epsilon, v), v, m, s, L, n_classes), v)


def population_profile(p_0, v, m, s, L, seed=0, n_classes=None, zipf=0.0) -> np.ndarray:
    """Probability of the true symbol of each level where beliefs differ from node to node.

    Noise that is drawn leaves each leaf with a belief of its own, and rules that are not equally
    likely each parent. Here a whole population of beliefs goes up and down the tree (population
    dynamics, or density evolution): a parent takes s members at random, w is the product of their
    beliefs instead of :math:`p^s`, and a rule at random. Where all members are equal this is
    :func:`profile`.

    Args:
        p_0: (size,) sample of the leaves' beliefs in their true symbol.
        v, m, s, L, n_classes: as of :func:`profile`.
        seed: of the random combinations, not negative.
        zipf: exponent of the probabilities of a symbol's rules.

    Returns:
        Array (L+1,), index l for level l. Its sampling error falls as 1/sqrt(size).
    """
    rng = np.random.default_rng(checks.positive_integer("seed", seed, minimum=0))

    def power(p, k):
        return np.prod([rng.permutation(p) for _ in range(k)], axis=0)

    def share(m, shape):
        likely = np.arange(1, m + 1) ** -float(zipf)
        likely /= likely.sum()
        return rng.choice(likely, shape, p=likely)

    checks.check_shape("p_0", p_0, "size")
    drawn = share if zipf else None
    return _profile(*beliefs(p_0, v, m, s, L, n_classes, power, drawn), v).mean(axis=1)


def quenched_half_epsilon(rhm) -> float:
    r"""Noise of the epsilon-process that loses half of the class, for rules as they are drawn.

    In place of averages over draws the rules that share k entries with the true one are counted,
    b_k of its own symbol and a_k of all (``rhm.overlaps(level)``):

    .. math:: F_R(p) = \frac{\sum_k b_k p^k w^{s-k}}{\sum_k a_k p^k w^{s-k}}, \qquad
        w = \frac{1 - p}{v - 1}

    Args:
        rhm: a :class:`~hierphase.rhm.model.RandomHierarchyModel`.
    """
    k, levels = np.arange(rhm.s + 1), [rhm.overlaps(level) for level in range(1, rhm.L + 1)]

    def above_half(epsilon):
        p = leaf_belief(epsilon, rhm.v)
        for own, every in levels:
            products = p**k * ((1 - p) / (rhm.v - 1)) ** (rhm.s - k)
            p = own @ products / (every @ products)
        return p - (1 + 1 / rhm.n_classes) / 2

    return float(brentq(above_half, 0, 1, xtol=1e-12))


def correlation(epsilon, v, m, s, L) -> np.ndarray:
    r"""Connected correlation of the changes of two leaves, against their tree distance.

    :math:`\sigma = +1` if a leaf changed between x_0 and a posterior sample, -1 if not. For a pair
    whose common ancestor lies k levels up, with q its downward belief and u the upward belief of
    its children, the weights that the two children are right (1) or wrong (0) are

    .. math::
        W_{11} = q u^s + u^2 (1 - u^{s-2}) c, \quad
        W_{10} = W_{01} = u (1 - u) c, \quad
        W_{00} = (1 - u)^2 c

    with :math:`c = (m - q)/(v^s - 1)`. Each child's state then goes down to its leaf, from q = 1 or
    q = 0.

    Args:
        epsilon: noise in (0, 1], a float; not so small that beliefs round to 1.
        v, m, s, L: as of :func:`profile`, m one number.

    Returns:
        Array (L+1,); index k for tree distance k, index 0 the variance of sigma.
    """
    sizes = v, m, s = checks.tree_sizes(v, m, s)
    p, q = beliefs(leaf_belief(checks.fraction("epsilon", epsilon), v), *sizes, L)
    if max(p[0], q[0]) > 1 - 1e-12:
        raise ValueError(f"epsilon must be above 0, where leaves of {sizes} change, got {epsilon}")
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
    r"""How many leaves change together.

    .. math:: \chi = \frac{\sum_{ij} C_{ij}}{\sum_i C_{ii}}

    Arguments are those of :func:`correlation`.
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
        states[:, above] = _child(state, w, v, s, 1 / m)
    wrong = (1 - p[0]) / (v - 1)
    return differences * p[0] * wrong / (states * p[0] + (1 - states) * wrong).prod(axis=0)


def _parent(w, v, s, share, n):
    """Upward belief of a parent of n symbols, w the product of its children's."""
    other = (1 - w) / (v**s - 1)
    return (share * w + (1 - share) * other) / (share * w + (n - share) * other)


def _child(q, w, v, s, share):
    """Downward belief of a child, w the product of its siblings' upward ones."""
    q = q * share
    c = (1 - q) / (v**s - 1)
    return _ratio(q * w + c * (1 - w), q * w + c * (v - w))


def _profile(p, q, v):
    """Probability of the true symbol of each level; the class has its prior from above."""
    return np.concatenate([marginal(p[:-1], q[:-1], v), p[-1:]])


def _ratio(part, whole):
    if not np.all(whole > 0):
        raise ValueError("beliefs must not be 0 and 1 where they exclude every symbol together")
    return part / whole
