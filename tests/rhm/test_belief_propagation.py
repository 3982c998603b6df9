import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from enumeration import enumerate_posterior
from scipy.stats import chisquare

from hierphase.rhm import belief_propagation_numba
from hierphase.rhm.belief_propagation import BACKENDS, BeliefPropagation
from hierphase.rhm.corruption import EpsilonProcess, log_likelihood
from hierphase.rhm.model import RandomHierarchyModel

SMALL = [
    dict(v=3, m=2, s=2, L=3),
    dict(v=4, m=3, s=2, L=2, n_classes=2),
    dict(v=3, m=3, s=3, L=2, n_classes=5),
    dict(v=2, m=1, s=3, L=2),
    dict(v=3, m=2, s=5, L=1),
    dict(v=6, m=6, s=2, L=1, n_classes=1),
    dict(v=3, m=3, s=2, L=3, zipf=1.0),
    dict(v=4, m=(3, 2), s=2, L=2, n_classes=6),
    dict(v=2, m=(2, 3), s=3, L=2, n_classes=2, zipf=0.5),
]
backends = pytest.mark.parametrize("backend", list(BACKENDS))


def random_beliefs(rhm, n, power=1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(n, rhm.d, rhm.v, dtype=torch.float64, generator=generator) ** power


def assert_equal_posteriors(posterior, marginals, log_evidence, tolerance):
    for ours, exact in zip(posterior.marginals, marginals, strict=True):
        torch.testing.assert_close(ours.double(), exact, atol=tolerance, rtol=0)
    torch.testing.assert_close(
        posterior.log_evidence.double(), log_evidence, atol=10 * tolerance, rtol=tolerance
    )


@backends
@pytest.mark.parametrize("sizes", SMALL)
@pytest.mark.parametrize("log", [False, True])
def test_equals_enumeration_of_all_trees(sizes, backend, log):
    rhm = RandomHierarchyModel(**sizes, seed=1)
    beliefs = random_beliefs(rhm, 70, power=5)  # more than one block of lanes
    _, _, marginals, evidence = enumerate_posterior(rhm, beliefs)
    posterior = BeliefPropagation(rhm, backend)(beliefs.log() if log else beliefs, log=log)
    assert_equal_posteriors(posterior, marginals, evidence, 1e-10)


@backends
def test_single_precision_agrees_with_enumeration(backend):
    rhm = RandomHierarchyModel(**SMALL[2], seed=1)
    beliefs = random_beliefs(rhm, 20)
    _, _, marginals, evidence = enumerate_posterior(rhm, beliefs)
    posterior = BeliefPropagation(rhm, backend)(beliefs.float())
    assert posterior.log_evidence.dtype == posterior.marginals[0].dtype == torch.float32
    assert_equal_posteriors(posterior, marginals, evidence, 1e-5)


@backends
@pytest.mark.parametrize("kind", ["graded", "contradictory", "zeros"])
def test_beliefs_beyond_single_precision(backend, kind):
    """Contradictory evidence, whose products underflow float32, is still inferred exactly."""
    rhm = RandomHierarchyModel(v=4, m=3, s=2, L=3, seed=2)
    generator = torch.Generator().manual_seed(0)
    exponent = torch.rand(40, rhm.d, rhm.v, dtype=torch.float64, generator=generator)
    if kind == "contradictory":
        exponent = (exponent < exponent.amax(-1, keepdim=True)).double() * (1 - exponent / 10)
    beliefs = (10 ** (-36 * exponent)).float()
    if kind == "zeros":
        beliefs[exponent < 0.1] = 0
    _, _, marginals, evidence = enumerate_posterior(rhm, beliefs.double())
    posterior = BeliefPropagation(rhm, backend)(beliefs)
    assert_equal_posteriors(posterior, marginals, evidence, 2e-6)
    assert posterior._unsafe.any(), "the case must be one that plain products cannot do"
    samples = posterior.sample(300, torch.Generator().manual_seed(1))
    certain = marginals[-1].amax(-1)[:, 0] > 1 - 1e-9
    assert certain.any()
    best = marginals[-1].argmax(-1)[certain]
    assert (samples[-1][:, certain] == best).all()


def test_log_beliefs_beyond_any_precision():
    rhm = RandomHierarchyModel(v=4, m=2, s=2, L=2, seed=0)
    leaves = rhm.sample(1)[0]
    log_beliefs = torch.full((1, rhm.d, rhm.v), -1e5)
    log_beliefs.scatter_(2, leaves[..., None], 0.0)
    foreign = leaves.clone()
    foreign[0, 0] = (leaves[0, 0] + 1) % 4
    log_foreign = torch.full((1, rhm.d, rhm.v), -1e5).scatter_(2, foreign[..., None], 0.0)
    posterior = BeliefPropagation(rhm)(torch.cat([log_beliefs, log_foreign]), log=True)
    torch.testing.assert_close(posterior.marginals[0][0].argmax(-1), leaves[0])
    # What is seen of the second is no datum: explaining it costs at least one wrong leaf.
    prior = -math.log(4) - 3 * math.log(2)
    assert posterior.log_evidence[0].item() == pytest.approx(prior, rel=1e-6)
    assert posterior.log_evidence[1].item() <= prior


def test_the_two_backends_agree_on_a_large_model_of_every_shape():
    for sizes in (dict(v=32, m=8, s=2, L=6), dict(v=10, m=7, s=3, L=4, n_classes=20)):
        rhm = RandomHierarchyModel(**sizes)
        beliefs = EpsilonProcess(rhm.v).beliefs(rhm.sample(9)[0], 0.65).double()
        fused, plain = (BeliefPropagation(rhm, b)(beliefs) for b in ("numba", "torch"))
        assert_equal_posteriors(fused, plain.marginals, plain.log_evidence, 1e-12)
        draws = [p.sample(20, torch.Generator().manual_seed(3)) for p in (fused, plain)]
        for a, b in zip(*draws, strict=True):
            assert torch.equal(a, b)


def test_threads_do_not_change_the_result(monkeypatch):
    rhm = RandomHierarchyModel(v=16, m=4, s=2, L=6)
    beliefs = EpsilonProcess(rhm.v).beliefs(rhm.sample(33)[0], 0.6)
    alone = BeliefPropagation(rhm)(beliefs)
    monkeypatch.setattr(belief_propagation_numba, "_WORTH_THREADS", 0)
    before = torch.get_num_threads()
    torch.set_num_threads(5)
    try:
        shared = BeliefPropagation(rhm)(beliefs)
        for a, b in zip(alone.marginals, shared.marginals, strict=True):
            assert torch.equal(a, b)
        generators = [torch.Generator().manual_seed(1) for _ in range(2)]
        draws = [p.sample(3, g) for p, g in zip((alone, shared), generators, strict=True)]
        for a, b in zip(*draws, strict=True):
            assert torch.equal(a, b)
        assert torch.get_num_threads() == 5
    finally:
        torch.set_num_threads(before)


def test_torch_opens_no_threads_and_no_other_thread_notices():
    """Counted by the kernel: OpenMP's workers stay with the process that has started them."""
    code = (
        "import os, threading, torch\n"
        "from hierphase.rhm.belief_propagation import BeliefPropagation\n"
        "from hierphase.rhm.belief_propagation_numba import one_thread\n"
        "from hierphase.rhm.model import RandomHierarchyModel\n"
        "rhm = RandomHierarchyModel(32, 8, 2, 6)\n"
        "def call():\n"
        "    for given, log in ((beliefs, False), (logs, True)):\n"
        "        posterior = BeliefPropagation(rhm)(given, log=log)\n"
        "        posterior.marginals, posterior.messages, posterior.sample(20)\n"
        "    rhm.sample(5000)\n"
        "torch.set_num_threads(1)\n"
        "beliefs = torch.rand(16, rhm.d, 32)\n"
        "logs = 100 * beliefs.log()\n"
        "call()\n"
        "torch.set_num_threads(4)\n"
        "before = len(os.listdir('/proc/self/task'))\n"
        "call()\n"
        "assert len(os.listdir('/proc/self/task')) == before, 'a parallel region'\n"
        "found = []\n"
        "other = threading.Thread(target=lambda: found.append(torch.get_num_threads()))\n"
        "with one_thread():\n"
        "    assert torch.get_num_threads() == 1\n"
        "    other.start()\n"
        "    other.join()\n"
        "assert found == [4] and torch.get_num_threads() == 4\n"
        "beliefs.exp()\n"
        "assert len(os.listdir('/proc/self/task')) > before, 'the test counts nothing'\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@backends
@pytest.mark.parametrize("sizes", [SMALL[0], SMALL[1], dict(v=3, m=2, s=3, L=1, n_classes=4)])
def test_samples_follow_the_enumerated_posterior(sizes, backend):
    rhm = RandomHierarchyModel(**sizes, seed=4)
    beliefs = random_beliefs(rhm, 2, power=2, seed=3)
    trees, weight, _, _ = enumerate_posterior(rhm, beliefs)
    k = 20_000
    samples = BeliefPropagation(rhm, backend)(beliefs).sample(k, torch.Generator().manual_seed(0))
    assert [tuple(x.shape) for x in samples] == [
        (k, 2, rhm.s ** (rhm.L - level)) for level in range(rhm.L + 1)
    ]
    catalogue = {tuple(tree): i for i, tree in enumerate(torch.cat(trees, 1).tolist())}
    for i in range(2):
        drawn = torch.cat([level[:, i] for level in samples], 1).tolist()
        counts = torch.bincount(
            torch.tensor([catalogue[tuple(tree)] for tree in drawn]), minlength=len(catalogue)
        ).double()
        expected = k * weight[i]
        common = expected > 5  # chi-square wants filled cells; the rest go into one
        counts = torch.cat([counts[common], counts[~common].sum()[None]])
        expected = torch.cat([expected[common], expected[~common].sum()[None]])
        filled = expected > 0
        assert counts[~filled].sum() == 0
        assert chisquare(counts[filled], expected[filled]).pvalue > 1e-3


def test_a_list_of_generators_makes_draws_independent_of_the_batch():
    rhm = RandomHierarchyModel(v=8, m=3, s=2, L=4)
    beliefs = EpsilonProcess(8).beliefs(rhm.sample(4)[0], 0.7)
    bp = BeliefPropagation(rhm)

    def generators():
        return [torch.Generator().manual_seed(seed) for seed in range(4)]

    together = bp(beliefs).sample(6, generators())
    for i, generator in enumerate(generators()):
        alone = bp(beliefs[i : i + 1]).sample(6, [generator])
        for a, b in zip(together, alone, strict=True):
            assert torch.equal(a[:, i : i + 1], b)
    fresh = bp(beliefs).sample(6)
    assert not torch.equal(fresh[0], bp(beliefs).sample(6)[0])


def test_probability_of_given_symbols():
    rhm = RandomHierarchyModel(**SMALL[1], seed=1)
    beliefs = random_beliefs(rhm, 3)
    levels = rhm.sample(3, seed=9)
    _, _, marginals, _ = enumerate_posterior(rhm, beliefs)
    posterior = BeliefPropagation(rhm)(beliefs)
    probability = posterior.probability_of(levels)
    for level, (marginal, symbols) in enumerate(zip(marginals, levels, strict=True)):
        for i in range(3):
            known = [marginal[i, j, symbol] for j, symbol in enumerate(symbols[i])]
            assert probability[i, level].item() == pytest.approx(sum(known).item() / len(known))
    with pytest.raises(ValueError, match=r"levels\[0\] must be of shape \(3, 4\), got \(2, 4\)"):
        posterior.probability_of([symbols[:2] for symbols in levels])
    with pytest.raises(ValueError, match=r"levels\[2\] must not hold symbol 2, outside 0..1"):
        posterior.probability_of([*levels[:2], torch.full((3, 1), 2)])
    with pytest.raises(ValueError, match=r"levels\[0\] must be .* got torch.float32"):
        posterior.probability_of([levels[0].float(), *levels[1:]])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_depth_twenty_neither_under_nor_overflows(dtype):
    """2**20 leaves: known leaves give a known class and evidence, unknown ones say nothing."""
    rhm = RandomHierarchyModel(v=4, m=2, s=2, L=20)
    leaves = rhm.sample(1)[0]
    prior = -math.log(4) - (2**20 - 1) * math.log(2)
    known = EpsilonProcess(4).beliefs(leaves, 0.0).to(dtype)
    posterior = BeliefPropagation(rhm)(1e-3 * known)
    expected = prior + 2**20 * math.log(1e-3)
    assert posterior.log_evidence.item() == pytest.approx(expected, rel=1e-6)
    for marginal, level in zip(posterior.marginals, rhm.parse(leaves), strict=True):
        assert torch.equal(marginal.argmax(-1), level)
        assert torch.isfinite(marginal).all()
    nothing = BeliefPropagation(rhm)(torch.ones_like(known))
    assert nothing.log_evidence.item() == pytest.approx(0, abs=0.02)
    assert torch.isfinite(nothing.marginals[0]).all()
    torch.testing.assert_close(nothing.marginals[-1], torch.full((1, 1, 4), 0.25, dtype=dtype))


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak memory from /proc")
def test_a_sample_of_131072_leaves_needs_less_than_a_gigabyte():
    code = (
        "from hierphase.rhm.belief_propagation import BeliefPropagation\n"
        "from hierphase.rhm.corruption import EpsilonProcess\n"
        "from hierphase.rhm.model import RandomHierarchyModel\n"
        "rhm = RandomHierarchyModel(32, 8, 2, 17)\n"
        "beliefs = EpsilonProcess(32).beliefs(rhm.sample(1)[0], 0.5)\n"
        "posterior = BeliefPropagation(rhm)(beliefs)\n"
        "assert posterior.marginals[-1].max() > 0.99\n"
        "print(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert int(result.stdout) * 1024 < 1e9


def make(shape=(2, 4, 3), fill=1.0, dtype=torch.float32):
    return torch.full(shape, fill, dtype=dtype)


def poisoned(value):
    beliefs = make()
    beliefs[1, 2, 0] = value
    return beliefs


@backends
@pytest.mark.parametrize(
    ("beliefs", "log", "message"),
    [
        (make((2, 4, 4)), False, r"\(n, 4, 3\), got \(2, 4, 4\)"),
        (make((2, 3, 3)), False, r"got \(2, 3, 3\)"),
        (make((4, 3)), False, r"got \(4, 3\)"),
        (make((0, 4, 3)), False, r"got \(0, 4, 3\)"),
        (make(dtype=torch.float16), False, "a tensor of float32 or float64, got torch.float16"),
        (make().numpy(), False, "a tensor of float32 or float64, got float32"),
        (poisoned(-0.5), False, "got -0.5 at sample 1, leaf 2, symbol 0"),
        (poisoned(math.nan), False, "got nan at sample 1, leaf 2, symbol 0"),
        (poisoned(math.inf), False, "got inf at sample 1, leaf 2, symbol 0"),
        (poisoned(math.nan), True, "got nan at sample 1, leaf 2, symbol 0"),
        (poisoned(math.inf), True, "got inf at sample 1, leaf 2, symbol 0"),
    ],
)
def test_bad_beliefs_are_refused(backend, beliefs, log, message):
    bp = BeliefPropagation(RandomHierarchyModel(v=3, m=2, s=2, L=2), backend)
    with pytest.raises(ValueError, match=message):
        bp(beliefs, log=log)


@backends
@pytest.mark.parametrize("log", [False, True])
def test_an_impossible_observation_is_named(backend, log):
    rhm = RandomHierarchyModel(v=4, m=1, s=2, L=2)
    leaves = rhm.sample(3)[0]
    known = {tuple(rule) for rule in rhm.rules[0].flatten(0, 1).tolist()}
    leaves[2, :2] = torch.tensor(
        next((a, b) for a in range(4) for b in range(4) if (a, b) not in known)
    )
    beliefs = EpsilonProcess(4).beliefs(leaves, 0.0)
    with pytest.raises(ValueError, match="sample 2 has probability zero under the model"):
        BeliefPropagation(rhm, backend)(beliefs.log() if log else beliefs, log=log)
    dead = torch.ones(3, 4, 4)
    dead[1, 0] = 0
    with pytest.raises(ValueError, match="sample 1 has probability zero"):
        BeliefPropagation(rhm, backend)(dead.log() if log else dead, log=log)


def test_other_bad_arguments():
    rhm = RandomHierarchyModel(v=3, m=2, s=2, L=2)
    with pytest.raises(ValueError, match="unknown backend 'jax'; known: numba, torch"):
        BeliefPropagation(rhm, "jax")
    with pytest.raises(ValueError, match="must be a RandomHierarchyModel, got None"):
        BeliefPropagation(None)
    posterior = BeliefPropagation(rhm)(make())
    with pytest.raises(ValueError, match="k must be at least 1, got 0"):
        posterior.sample(0)
    with pytest.raises(ValueError, match="list of 2, one a sample; got 3"):
        posterior.sample(1, [torch.Generator()] * 3)
    with pytest.raises(ValueError, match=r"one torch\.Generator or a list, got 7"):
        posterior.sample(1, 7)


@backends
@pytest.mark.parametrize("draw", range(3))
@pytest.mark.parametrize("kind", ["zipf", "levels", "few classes", "many classes", "uniform noise"])
def test_other_kinds_of_trees_equal_enumeration_to_rounding(kind, draw, backend):
    rng = np.random.default_rng(draw)
    v, s, zipf = int(rng.integers(5, 7)), int(rng.integers(2, 4)), float(rng.uniform(0.2, 3))
    m, n_classes = rng.permutation([2, 3]).tolist(), {"few classes": 2, "many classes": v + 2}
    options = {"zipf": zipf if kind == "zipf" else 0.0, "n_classes": n_classes.get(kind)}
    rhm = RandomHierarchyModel(v, m, s, L=2, seed=draw, **options)
    if kind == "uniform noise":
        leaves, generator = rhm.sample(30, seed=1)[0], torch.Generator().manual_seed(draw)
        beliefs = log_likelihood("uniform", leaves, v, 0.6, generator).exp()
    else:
        beliefs = random_beliefs(rhm, 30, power=3, seed=draw)
    _, _, marginals, evidence = enumerate_posterior(rhm, beliefs)
    posterior = BeliefPropagation(rhm, backend)(beliefs)
    assert_equal_posteriors(posterior, marginals, evidence, 1e-12)
