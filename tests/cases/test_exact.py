"""The exactly solved world at its extremes: a right number, or an error in one line."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from enumeration import enumerate_posterior

from hierphase.rhm import meanfield
from hierphase.rhm.belief_propagation import BACKENDS, BeliefPropagation
from hierphase.rhm.correlations import tree_distances
from hierphase.rhm.corruption import EpsilonProcess, GaussianProcess, MaskingProcess, ddpm_scheduler
from hierphase.rhm.model import RandomHierarchyModel

dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
backends = pytest.mark.parametrize("backend", list(BACKENDS))


@backends
@dtypes
@pytest.mark.parametrize("far", [0, 30, 1e3, 1e5, 1e8, 1e10, 1e12, 1e16, 1e30, 3e38, math.inf])
@pytest.mark.parametrize("level", [0, -1e30, 3e38])
@pytest.mark.parametrize("leaves", [[0, 0, 0, 1, 0, 2, 2, 2], None])
def test_any_finite_log_beliefs(leaves, level, far, dtype, backend):
    """Against enumeration with whole numbers of contradicted leaves; far away is impossible."""
    rhm = RandomHierarchyModel(3, 2, 2, 3, seed=1)
    leaves = rhm.sample(1)[0] if leaves is None else torch.tensor([leaves])
    log_beliefs = torch.full((1, rhm.d, 3), -far, dtype=torch.float64)
    log_beliefs = (log_beliefs.scatter_(2, leaves[..., None], 0.0) + level).to(dtype)
    far = (log_beliefs.max().double() - log_beliefs.min()).item()  # as far as dtype tells
    trees, *_ = enumerate_posterior(rhm, torch.ones(1, rhm.d, 3, dtype=torch.float64))
    wrong = (trees[0] != leaves).sum(1).double()
    bp = BeliefPropagation(rhm, backend)
    if wrong.min() > 0 and far > 1e11 / rhm.d:
        with pytest.raises(ValueError, match="sample 0 has probability zero under the model"):
            bp(log_beliefs, log=True)
        return
    posterior = bp(log_beliefs, log=True)
    weight = (-min(far, 1e30) * (wrong - wrong.min())).softmax(0)
    for symbols, marginal in zip(trees, posterior.marginals, strict=True):
        torch.testing.assert_close(marginal.sum(-1), torch.ones_like(marginal[..., 0]))
        for symbol in range(marginal.shape[-1]):
            expected = weight @ (symbols == symbol).double()
            torch.testing.assert_close(marginal[0, :, symbol].double(), expected, atol=1e-5, rtol=0)
    assert posterior.sample(3)[0].shape == (3, 1, rhm.d)


@pytest.mark.parametrize(
    "integer", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, np.int8, np.uint8]
)
@pytest.mark.parametrize("t", [0, 5, 250])
def test_integers_of_any_size_are_times(integer, t):
    if t > 127 and integer in (torch.int8, np.int8):
        return
    process, leaves = GaussianProcess(ddpm_scheduler(), 4), torch.tensor([[0, 1], [2, 3]])
    time = torch.tensor(t, dtype=integer) if isinstance(integer, torch.dtype) else integer(t)
    for function in (process.alpha_bar, process.snr):
        assert function(time).shape == () and torch.equal(function(time), function(t))
    times = torch.as_tensor([t, t]).to(torch.as_tensor(time).dtype)
    for some in (process, MaskingProcess(4)):
        drawn = [some.corrupt(leaves, x, torch.Generator().manual_seed(0)) for x in (t, times)]
        assert torch.equal(*drawn)
        assert torch.equal(*(some.beliefs(drawn[0], x) for x in (t, times)))


def test_theory_where_rounding_would_end_it():
    """1 - P of a leaf is not taken as a difference: C_0 and chi are right down to 1e-10."""
    v, m, s, L = 4, 2, 2, 3
    for epsilon in (1e-3, 1e-6, 1e-9, 1e-10):
        p, q = [1 - Fraction(epsilon) * Fraction(v - 1, v)], Fraction(1, v)
        a, f = Fraction(m - 1, v**s - 1), Fraction(m * v - 1, v**s - 1)
        for _ in range(L):
            p.append((p[-1] ** s + a * (1 - p[-1] ** s)) / (p[-1] ** s + f * (1 - p[-1] ** s)))
        for w in p[L - 1 :: -1]:
            c = (m - q) / (v**s - 1)
            q = (q * w + c * (1 - w)) / (q * w + c * (v - w))
        right, wrong = p[0] * q, (1 - p[0]) * (1 - q) / (v - 1)
        exact = float(4 * right * wrong / (right + wrong) ** 2)
        found = meanfield.correlation(epsilon, v, m, s, L)[0]
        assert found == pytest.approx(exact, rel=1e-15 / epsilon)
        assert meanfield.susceptibility(epsilon, v, m, s, L) == pytest.approx(1, abs=9 * epsilon)
    assert 1 < meanfield.susceptibility(0.5, 32, 8, 2, 1000) < 2


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: meanfield.susceptibility(0.5, 2, 1, 50, 6),
            r"above 0, where leaves of \(2, 1, 50\) change, got 0.5",
        ),
        (lambda: meanfield.susceptibility(1e-15, 4, 1, 3, 6), "above 0.* got 1e-15"),
        (lambda: meanfield.correlation(1e-13, 4, 2, 2, 6), "above 0.* got 1e-13"),
        (lambda: meanfield.marginal(1.0, 0.0, 32), "0 and 1 where they exclude every symbol"),
        (lambda: meanfield.marginal([0.5, 0], [0.5, 1], 32), "0 and 1 where they exclude"),
        (lambda: meanfield.inverse(0.02, 32, 8, 2), r"p must be a number, 0.027\d* to 1, got 0.02"),
        (lambda: meanfield.marginal(2, 3, 32), "p must be between 0 and 1, got 2"),
        (lambda: meanfield.marginal(0.5, -1, 32), "q must be between 0 and 1, got -1"),
        (lambda: meanfield.marginal(0.5, 0.5, 1), "v must be at least 2, got 1"),
        (lambda: meanfield.downward(1, 0, 4, 1, 2), "0 and 1 where they exclude every symbol"),
        (lambda: meanfield.upward(torch.tensor(0.5, requires_grad=True), 4, 2, 2), "p must be"),
        (lambda: meanfield.profile(torch.tensor(0.5).bfloat16(), 4, 2, 2, 3), "epsilon must be"),
        (lambda: meanfield.profile([[0.5], [0.5, 1]], 4, 2, 2, 3), "epsilon must be a number"),
        (lambda: meanfield.profile(0.5, 4, 2, 2, 10**7), "L must be at most 1000, got 1000"),
        (lambda: meanfield.correlation(0.5, 4, 2, 3, 700), "L must be at most 630, got 700"),
        (lambda: tree_distances(2, 5000), "L must be at most 1000, got 5000"),
        (
            lambda: EpsilonProcess(4).beliefs(
                torch.zeros(1, 4).long(), torch.tensor(0.5, requires_grad=True)
            ),
            "epsilon must be a number between 0 and 1, got tensor",
        ),
    ],
)
def test_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
