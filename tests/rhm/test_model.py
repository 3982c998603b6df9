import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from hierphase.rhm.model import RandomHierarchyModel

MODELS = [
    dict(v=4, m=2, s=2, L=3),
    dict(v=5, m=3, s=3, L=2, n_classes=7),
    dict(v=3, m=1, s=4, L=2, n_classes=2),
    dict(v=6, m=6, s=2, L=1),
]


@pytest.mark.parametrize("sizes", MODELS)
def test_rules_are_distinct_tuples_of_known_symbols(sizes):
    rhm = RandomHierarchyModel(**sizes)
    assert len(rhm.rules) == rhm.L
    for level, rules in enumerate(rhm.rules, 1):
        n_symbols = rhm.v if level < rhm.L else rhm.n_classes
        assert rules.shape == (n_symbols, rhm.m, rhm.s)
        assert rules.dtype == torch.int64
        assert 0 <= rules.min() and rules.max() < rhm.v
        tuples = {tuple(rule) for rule in rules.flatten(0, 1).tolist()}
        assert len(tuples) == n_symbols * rhm.m


def test_rules_are_drawn_uniformly():
    first = [RandomHierarchyModel(2, 1, 2, 1, seed=seed).rules[0][0, 0] for seed in range(800)]
    codes = torch.stack(first) @ torch.tensor([2, 1])
    assert chisquare(np.bincount(codes, minlength=4)).pvalue > 1e-3


def test_rules_depend_on_the_seed_alone():
    again = RandomHierarchyModel(8, 3, 2, 4, seed=5)
    for a, b in zip(RandomHierarchyModel(8, 3, 2, 4, seed=5).rules, again.rules, strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(again.rules[0], RandomHierarchyModel(8, 3, 2, 4, seed=6).rules[0])


def test_deep_and_wide_rules_need_no_table_of_all_tuples():
    assert RandomHierarchyModel(v=64, m=4, s=8, L=1).rules[0].shape == (64, 4, 8)


@pytest.mark.parametrize("sizes", MODELS)
def test_samples_obey_the_rules(sizes):
    rhm = RandomHierarchyModel(**sizes)
    levels = rhm.sample(50, seed=3)
    assert [tuple(x.shape) for x in levels] == [
        (50, rhm.s ** (rhm.L - k)) for k in range(rhm.L + 1)
    ]
    for level, rules in enumerate(rhm.rules, 1):
        children = levels[level - 1].unflatten(1, (-1, rhm.s))
        allowed = rules[levels[level]]  # (n, nodes, m, s)
        assert (allowed == children[:, :, None]).all(-1).any(-1).all()


def test_classes_and_rules_are_uniform():
    rhm = RandomHierarchyModel(v=5, m=3, s=2, L=2, n_classes=4)
    levels = rhm.sample(6000, seed=1)
    assert chisquare(np.bincount(levels[2][:, 0], minlength=4)).pvalue > 1e-3
    used = (rhm.rules[0][levels[1]] == levels[0].unflatten(1, (-1, 2))[:, :, None]).all(-1)
    assert chisquare(used.sum((0, 1))).pvalue > 1e-3


def test_a_sample_does_not_depend_on_how_many_are_drawn():
    rhm = RandomHierarchyModel(v=5, m=3, s=2, L=4)
    many = rhm.sample(100, seed=2)
    for few, all_ in zip(rhm.sample(30, seed=2), many, strict=True):
        assert torch.equal(few, all_[:30])
    assert not torch.equal(rhm.sample(30, seed=4)[0], many[0][:30])


@pytest.mark.parametrize("sizes", MODELS)
def test_parse_recovers_every_level(sizes):
    rhm = RandomHierarchyModel(**sizes)
    levels = rhm.sample(40)
    for parsed, level in zip(rhm.parse(levels[0]), levels, strict=True):
        assert torch.equal(parsed, level)


def test_parse_marks_what_no_rule_produces():
    rhm = RandomHierarchyModel(v=4, m=1, s=2, L=2)
    leaves = rhm.sample(1)[0]
    known = {tuple(rule) for rule in rhm.rules[0].flatten(0, 1).tolist()}
    foreign = next((a, b) for a in range(4) for b in range(4) if (a, b) not in known)
    leaves[0, 2:] = torch.tensor(foreign)
    parsed = rhm.parse(leaves)
    assert parsed[1][0, 0] >= 0
    assert parsed[1][0, 1] == -1 and parsed[2][0, 0] == -1


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        (dict(v=4, m=5, s=2, L=2), r"m=5 rules need 20 .* only v\*\*s = 4\*\*2 = 16"),
        (dict(v=4, m=2, s=2, L=2, n_classes=9), "m=2 rules need 18 different tuples"),
        (dict(v=1, m=1, s=2, L=2), "v must be at least 2, got 1"),
        (dict(v=4, m=0, s=2, L=2), "m must be at least 1, got 0"),
        (dict(v=4, m=2, s=1, L=2), "s must be at least 2, got 1"),
        (dict(v=4, m=2, s=2, L=0), "L must be at least 1, got 0"),
        (dict(v=4, m=2, s=2, L=-3), "L must be at least 1, got -3"),
        (dict(v=4.0, m=2, s=2, L=2), "v must be an integer, got 4.0"),
        (dict(v=4, m="2", s=2, L=2), "m must be an integer, got '2'"),
        (dict(v=4, m=2, s=2, L=True), "L must be an integer, got True"),
        (dict(v=4, m=2, s=2, L=2, n_classes=0), "n_classes must be at least 1, got 0"),
        (dict(v=4, m=2, s=2, L=2, seed=-1), "seed must be at least 0, got -1"),
        (dict(v=64, m=2, s=11, L=2), "too many"),
        (dict(v=64, m=2, s=600, L=2), r"64\*\*600 is too large"),
    ],
)
def test_impossible_sizes_are_refused(sizes, message):
    with pytest.raises(ValueError, match=message):
        RandomHierarchyModel(**sizes)


@pytest.mark.parametrize(
    ("leaves", "message"),
    [
        (torch.zeros(2, 3, dtype=torch.int64), r"shape \(n, 4\), got \(2, 3\)"),
        (torch.zeros(2, 4), "a tensor of integers, got torch.float32"),
        (torch.full((2, 4), 4), r"symbol 4, outside 0..3"),
        (torch.full((2, 4), -1), r"symbol -1, outside 0..3"),
        ([[0, 1, 2, 3]], "got list"),
        (torch.zeros(2, 4, dtype=torch.bool), "a tensor of integers, got torch.bool"),
        (torch.zeros(2, 4, dtype=torch.complex64), "a tensor of integers, got torch.complex64"),
    ],
)
def test_parse_refuses_what_are_no_leaves(leaves, message):
    with pytest.raises(ValueError, match=message):
        RandomHierarchyModel(v=4, m=2, s=2, L=2).parse(leaves)


def test_sample_refuses_a_bad_count():
    with pytest.raises(ValueError, match="n must be at least 1, got 0"):
        RandomHierarchyModel(v=4, m=2, s=2, L=2).sample(0)


@pytest.mark.parametrize("zipf", [0.0, 1.0, 3.0])
def test_rules_are_as_likely_as_their_rank_says(zipf):
    rhm = RandomHierarchyModel(v=6, m=4, s=2, L=1, zipf=zipf)
    leaves, classes = rhm.sample(20_000, seed=3)
    used = (rhm.rules[0][classes[:, 0]] == leaves[:, None]).all(-1)
    expected = 1 / torch.arange(1, 5).double() ** zipf
    counts = used.sum(0).double()
    assert chisquare(counts, expected / expected.sum() * counts.sum()).pvalue > 1e-4


def test_each_level_may_have_a_number_of_rules_of_its_own():
    rhm = RandomHierarchyModel(v=6, m=[2, 5, 3], s=2, L=3, n_classes=11)
    assert rhm.m == (2, 5, 3)
    assert [tuple(rules.shape) for rules in rhm.rules] == [(6, 2, 2), (6, 5, 2), (11, 3, 2)]
    levels = rhm.sample(50)
    assert all((a == b).all() for a, b in zip(rhm.parse(levels[0]), levels, strict=True))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"m": [2, 3]}, r"m must be one number or L=3 numbers, got \[2, 3\]"),
        ({"m": [2, 0, 3]}, "each m must be at least 1, got 0"),
        ({"m": [2, 2, 7]}, "m=7 rules need 42 different tuples"),
        ({"zipf": -1}, "zipf must be a number, 0 to 100, got -1"),
        ({"zipf": float("nan")}, "zipf must be a number, 0 to 100, got nan"),
    ],
)
def test_impossible_kinds_of_rules_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        RandomHierarchyModel(**{"v": 6, "m": 2, "s": 2, "L": 3} | changes)


@pytest.mark.parametrize("sizes", [(5, 3, 2, 2), (4, 2, 3, 2, 3), (4, [2, 4], 2, 2)])
@pytest.mark.parametrize("zipf", [0.0, 1.5])
def test_overlaps_are_counted_pair_by_pair(sizes, zipf):
    rhm = RandomHierarchyModel(*sizes, seed=4, zipf=zipf)
    for level in (1, 2):
        rules = rhm.rules[level - 1].tolist()
        n, m = len(rules), len(rules[0])
        likely = [(r + 1) ** -zipf for r in range(m)]
        likely = [x / sum(likely) for x in likely]
        own, every = np.zeros(rhm.s + 1), np.zeros(rhm.s + 1)
        for a, i, b, j in np.ndindex(n, m, n, m):
            k = sum(x == y for x, y in zip(rules[a][i], rules[b][j], strict=True))
            every[k] += likely[i] * likely[j] / n
            own[k] += likely[i] * likely[j] / n * (a == b)
        np.testing.assert_allclose(rhm.overlaps(level), [own, every], atol=1e-12)
        assert own.sum() == pytest.approx(1) and every.sum() == pytest.approx(n)


def test_models_of_two_classes_are_not_taken_for_one_another():
    rhm = RandomHierarchyModel(4, 2, 2, 3)
    first, second = rhm.of_class(1), rhm.of_class(2)
    assert len({first, second, RandomHierarchyModel(4, 2, 2, 3, n_classes=1)}) == 3
    assert torch.equal(second.rules[-1][0], rhm.rules[-1][2])
    for label, message in ((4, "at most 3, got 4"), (-1, "at least 0, got -1"), (True, "integer")):
        with pytest.raises(ValueError, match=f"label must be .*{message}"):
            rhm.of_class(label)


@pytest.mark.parametrize("level", [0, -1, 4, 1.0])
@pytest.mark.parametrize("of", ["rule_weights", "overlaps"])
def test_levels_of_rules_are_1_to_L(of, level):
    with pytest.raises(ValueError, match=f"level must be .*, got {level}"):
        getattr(RandomHierarchyModel(4, 2, 2, 3), of)(level)
