"""Whether a result agrees with the stored one, in units of its intervals."""

import numpy as np
import pytest
import xarray as xr

from hierphase.__main__ import main
from hierphase.runs import results
from hierphase.runs.comparison import compare

PARAMETERS = {"n": 40, "seed": 0}


def result(seed=0, n=40, times=5, shift=0.0, rounding=0.0):
    """Curves of n images, at times of which every other is also in a result of twice as many."""
    rng = np.random.default_rng(seed)
    time = np.linspace(0, 1, times)
    return xr.Dataset(
        {
            "kept": (
                ("time", "image"),
                (rng.random((times, n)) > 0.5 * time[:, None]).astype("u1"),
            ),
            "similarity": (
                ("layer", "time", "image"),
                (rng.normal(0.5, 0.1, (2, times, n)) + shift * time[:, None]) * (1 + rounding),
            ),
            "accuracy": (("network",), [0.9 + seed / 100]),
            "pixels": (("shown", "row"), rng.random((min(n, 3), 4))),
        },
        {"time": time, "layer": ["early", "late"], "image": np.arange(n)},
    )


@pytest.fixture
def stored(tmp_path):
    """Directory of the stored result; the other one is saved in `mine` beside it."""
    results.save(result(), "trees", "oak", PARAMETERS, tmp_path / "stored")
    return tmp_path / "stored"


def saved(tmp_path, dataset, **changes):
    return results.save(dataset, "trees", "oak", PARAMETERS | changes, tmp_path / "mine")


@pytest.mark.parametrize(
    "mine, agrees, says",
    [
        (result(), True, {"kept": "equal everywhere", "pixels": "equal everywhere"}),
        (result(rounding=1e-7), True, {"kept": "equal everywhere", "similarity": "layer"}),
        (result(seed=1), True, {"accuracy": "not compared", "pixels": "not compared"}),
        (result(seed=2, n=400), True, {"similarity": "layer"}),
        (result(seed=3, n=2), True, {}),
        (result(seed=1, times=9), True, {"kept": "time"}),
        (result(seed=1, shift=0.2), False, {"similarity": "time 1.0"}),
        (result(seed=1, n=400, shift=-0.1), False, {"similarity": "time 1.0"}),
        (result(rounding=0.3), False, {"similarity": "layer"}),
    ],
    ids="same rounding seed larger tiny finer shifted slightly scaled".split(),
)
def test_agreement(stored, tmp_path, mine, agrees, says):
    table = compare(saved(tmp_path, mine), stored)
    assert table.attrs["agrees"] == agrees
    assert not table.attrs["parameters"]
    for name, at in says.items():
        assert at in table["at"][name]
    known = table.drop("similarity")
    assert not (known.difference > known.allowed).any(), "only this one was shifted"


def test_chance_allows_what_other_seeds_do(stored, tmp_path):
    agree = [compare(saved(tmp_path, result(seed)), stored).attrs["agrees"] for seed in range(20)]
    assert sum(agree) >= 19  # 19.8 are expected


def test_units_are_combined_standard_errors(stored, tmp_path):
    mine, theirs = result(1, n=50, shift=0.3), result()
    found = compare(saved(tmp_path, mine), stored).difference.similarity
    a, b = (x.similarity.sel(layer="late", time=1).values for x in (mine, theirs))
    c, d = (x.similarity.sel(layer="early", time=1).values for x in (mine, theirs))
    pooled = [
        ((x.var() * 50 + y.var() * 40) / 88 * (1 / 50 + 1 / 40)) ** 0.5 for x, y in ((a, b), (c, d))
    ]
    expected = (a.mean() - b.mean()) / pooled[0], (c.mean() - d.mean()) / pooled[1]
    assert found == pytest.approx(max(expected), rel=1e-4)


def test_parameters_that_differ_are_listed(stored, tmp_path):
    table = compare(saved(tmp_path, result(1), seed=1, n=41), stored)
    assert table.attrs["parameters"] == ["n: stored 40, yours 41", "seed: stored 0, yours 1"]


@pytest.mark.parametrize(
    "what, error",
    [
        ("nothing", "mine.nc is damaged or no stored result .*No such file"),
        ("text", "mine.nc is damaged or no stored result"),
        ("other preset", "trees-elm.nc is damaged or no stored result .*No such file"),
        ("other times", "have no points in common"),
    ],
)
def test_errors(stored, tmp_path, what, error):
    path = tmp_path / "mine.nc"
    if what == "text":
        path.write_text("no NetCDF")
    elif what == "other preset":
        path = results.save(result(), "trees", "elm", PARAMETERS, tmp_path)
    elif what == "other times":
        path = saved(tmp_path, result(1).drop_vars("accuracy").assign_coords(time=np.arange(5) + 7))
    with pytest.raises(ValueError, match=error) as caught:
        compare(path, stored)
    assert "\n" not in str(caught.value)


def test_command(book, tmp_path, capsys):
    (book / "results").mkdir()
    results.save(result(), "trees", "oak", PARAMETERS, book / "results")
    for mine, status, says in (
        (result(1), 0, "agrees: nothing differs"),
        (result(1, shift=1.0), 1, "similarity"),
    ):
        path = saved(tmp_path, mine, seed=1)
        assert main(["compare", str(path)]) == status
        shown = capsys.readouterr()
        assert "seed: stored 0, yours 1\n" in shown.out and says in shown.out
        assert ("does not agree" in shown.err) == bool(status)
    assert main(["compare", "absent.nc"]) == 2
    assert capsys.readouterr().err.startswith("hierphase: error: absent.nc is damaged or no")
