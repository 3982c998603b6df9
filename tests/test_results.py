import json
import subprocess
import sys

import numpy as np
import pytest
import xarray as xr

from hierphase import results

PARAMETERS = {"L": 3, "grid": [0.1, 0.5], "name": None}
DATA = xr.Dataset({"p": (("x",), np.arange(3.0))}, coords={"x": [1, 2, 3]})


def test_a_result_comes_back_with_its_provenance(tmp_path):
    path = results.save(DATA, "chapter", "preset", PARAMETERS, tmp_path / "new")
    assert path == tmp_path / "new" / "chapter-preset.nc"
    loaded = results.load("chapter", "preset", PARAMETERS | {"grid": (0.1, 0.5)}, path.parent)
    xr.testing.assert_equal(loaded, DATA)
    assert json.loads(loaded.attrs["parameters"]) == PARAMETERS
    assert json.loads(loaded.attrs["packages"]).keys() == set(results.RECORDED_PACKAGES)
    assert loaded.attrs.keys() >= {"chapter", "preset", "created", "commit", "machine"}
    assert [p.name for p in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"L": 4}, "L: stored 3, wanted 4"),
        ({"grid": [0.1]}, r"grid: stored \[0.1, 0.5\], wanted \[0.1\]"),
        ({"m": 2}, "m: stored 'absent', wanted 2"),
    ],
)
def test_other_parameters_are_refused_with_the_remedy(tmp_path, change, message):
    results.save(DATA, "chapter", "preset", PARAMETERS, tmp_path)
    with pytest.raises(ValueError, match=f"{message}.*hierphase run chapter -p recompute True"):
        results.load("chapter", "preset", PARAMETERS | change, tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no stored result .*chapter-other.nc.*sweep"):
        results.load("chapter", "other", PARAMETERS, tmp_path)


def test_a_failing_write_leaves_the_old_result(tmp_path):
    results.save(DATA, "chapter", "preset", PARAMETERS, tmp_path)
    bad = DATA.assign(p=("x", np.array([object()] * 3)))
    with pytest.raises(ValueError, match="unable to infer dtype"):
        results.save(bad, "chapter", "preset", {"L": 9}, tmp_path)
    with pytest.raises(TypeError):
        results.save(DATA, "chapter", "preset", {"L": {1, 2}}, tmp_path)
    xr.testing.assert_equal(results.load("chapter", "preset", PARAMETERS, tmp_path), DATA)
    assert len(list(tmp_path.iterdir())) == 1


def test_two_writers_do_no_harm(tmp_path):
    code = (
        "import sys, numpy as np, xarray as xr; from hierphase import results\n"
        "data = xr.Dataset({'p': ('x', np.full(100000, float(sys.argv[1])))})\n"
        "for _ in range(10): results.save(data, 'chapter', 'preset', {}, sys.argv[2])"
    )
    writers = [subprocess.Popen([sys.executable, "-c", code, n, str(tmp_path)]) for n in "12"]
    assert [writer.wait(120) for writer in writers] == [0, 0]
    values = results.load("chapter", "preset", {}, tmp_path).p.values
    assert values[0] in (1, 2) and (values == values[0]).all()
    assert len(list(tmp_path.iterdir())) == 1


def test_book_directory_is_said(tmp_path, monkeypatch):
    monkeypatch.setenv("HIERPHASE_BOOK", "book")
    with pytest.raises(ValueError, match="absolute path, got 'book'"):
        results.book_directory()
    monkeypatch.setenv("HIERPHASE_BOOK", str(tmp_path / "none"))
    with pytest.raises(FileNotFoundError, match=r"no book directory at .*none"):
        results.book_directory()
