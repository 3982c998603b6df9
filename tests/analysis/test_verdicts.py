import numpy as np
import pytest
import xarray as xr

from hierphase.analysis import verdicts

RULES = {"blocks": {"near": {"above": 0.1}, "far": {"not above": 0.1}}}


def table(near, far, margin=0.1, worlds=("a", "b", "c")):
    value = xr.DataArray(
        np.array([near, far], dtype=float), [("sign", ["near", "far"]), ("world", list(worlds))]
    )
    return xr.Dataset({"value": value, "low": value - margin, "high": value + margin})


def test_a_rule_needs_all_its_signs():
    found = verdicts.calls(table([0.3, 0.3, np.nan], [0.1, 0.3, 0.0]), RULES, 1)
    assert found["blocks"].values.tolist() == [True, False, False]
    absent = verdicts.calls(table([0.3] * 3, [0.1, np.nan, 0.0]), RULES, 1)
    assert absent["blocks"].values.tolist() == [True, False, True]


def test_more_looks_ask_for_more():
    seen = table([0.21, 0.3, 0.3], [0, 0.21, 0])
    assert verdicts.calls(seen, RULES, 1)["blocks"].values.tolist() == [True, False, True]
    # 100 looks: 3.48 standard errors instead of 1.96, here a margin of .178
    assert verdicts.calls(seen, RULES, 100)["blocks"].values.tolist() == [False, True, True]


def test_one_look_in_twenty_is_wrong_and_one_family_in_twenty():
    rng, n_looks = np.random.default_rng(0), 20
    value = rng.normal(size=(2, 4000 * n_looks))
    seen = table(*value, margin=1.95996, worlds=range(4000 * n_looks))
    low, high = verdicts.widened(seen.sel(sign="near"), n_looks)
    wrong = ((low > 0) | (high < 0)).values.reshape(4000, n_looks).any(axis=1)
    assert abs(wrong.mean() - 0.05) < 4 * (0.05 * 0.95 / 4000) ** 0.5


def test_the_simplest_world_is_the_first_that_no_sign_tells_apart():
    seen = table([0.0, 0.6, 0.15], [0.5, 0.5, 0.4])
    distances = verdicts.apart(seen, "a", ["b", "c"])
    error = 2**0.5 * 0.1 / 1.95996
    np.testing.assert_allclose(distances.sel(sign="near"), [0.6 / error, 0.15 / error], rtol=1e-5)
    assert verdicts.simplest(distances) == "c"
    assert verdicts.simplest(verdicts.apart(seen, "a", ["b"])) is None
    assert verdicts.simplest(verdicts.apart(seen, "a", ["a", "c"])) == "a"


@pytest.mark.parametrize(("lacking", "expected"), [("a", "b"), ("b", "c")])
def test_a_sign_that_only_one_has(lacking, expected):
    """What the world lacks is no sign of it; what another lacks tells it apart."""
    seen = table([0.0, 0.6, 0.1], [0.5, 0.5, 0.5])
    if lacking == "b":
        seen.loc[{"sign": "near", "world": "b"}] = np.nan
    else:
        seen.loc[{"sign": "near", "world": "a"}] = np.nan
    assert verdicts.simplest(verdicts.apart(seen, "a", ["b", "c"])) == expected


def test_what_is_certain_and_alike_is_not_apart():
    """A share of 1 in both worlds, without an error, is no difference; of 1 and 0 it is one."""
    distances = verdicts.apart(table([1, 1, 0], [1, 1, 1], margin=0), "a", ["b", "c"])
    assert distances.sel(sign="near").values.tolist() == [0, -np.inf]
    assert verdicts.simplest(distances) == "b"


def test_bad_rules_and_nothing_to_look_at_are_refused():
    seen = table([0.3] * 3, [0] * 3)
    with pytest.raises(ValueError, match=r"unknown bound 'over'.*above"):
        verdicts.calls(seen, {"blocks": {"near": {"over": 0.1}}}, 1)
    with pytest.raises(ValueError, match="n_looks must be at least 1, got 0"):
        verdicts.simplest(verdicts.apart(table([np.nan] * 3, [np.nan] * 3), "a", ["b"]))
