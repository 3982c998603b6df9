import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import xarray as xr

from hierphase.runs import results

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
    with pytest.raises(ValueError, match=r"parameter L cannot be {1, 2}, for which JSON"):
        results.save(DATA, "chapter", "preset", {"L": {1, 2}}, tmp_path)
    xr.testing.assert_equal(results.load("chapter", "preset", PARAMETERS, tmp_path), DATA)
    assert len(list(tmp_path.iterdir())) == 1


def test_two_writers_do_no_harm(tmp_path):
    code = (
        "import sys, numpy as np, xarray as xr; from hierphase.runs import results\n"
        "data = xr.Dataset({'p': ('x', np.full(100000, float(sys.argv[1])))})\n"
        "for _ in range(10): results.save(data, 'chapter', 'preset', {}, sys.argv[2])"
    )
    writers = [subprocess.Popen([sys.executable, "-c", code, n, str(tmp_path)]) for n in "12"]
    assert [writer.wait(120) for writer in writers] == [0, 0]
    values = results.load("chapter", "preset", {}, tmp_path).p.values
    assert values[0] in (1, 2) and (values == values[0]).all()
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:5000]), "OSError("),
        (lambda path: path.write_bytes(b""), "OSError("),
        (lambda path: path.write_text("no NetCDF"), "OSError("),
        (lambda path: DATA.to_netcdf(path, engine="h5netcdf"), "KeyError('parameters')"),
        *(
            (
                lambda path, text=text: DATA.assign_attrs(parameters=text).to_netcdf(
                    path, engine="h5netcdf"
                ),
                reason,
            )
            for text, reason in [
                ("L: 3", "JSONDecodeError"),
                ("[1]", "TypeError"),
                ("null", "TypeError"),
                (3, "TypeError"),
            ]
        ),
    ],
)
def test_a_file_that_is_no_result_is_named_with_the_remedy(tmp_path, damage, reason):
    path = results.save(DATA, "chapter", "preset", PARAMETERS, tmp_path)
    damage(path)
    with pytest.raises(ValueError, match=re.escape(f"{path} is damaged or no stored")) as caught:
        results.load("chapter", "preset", PARAMETERS, tmp_path)
    assert reason in str(caught.value)
    assert "delete it and compute it with: hierphase run chapter" in str(caught.value)


def git(folder, *words):
    identity = ["-c", "user.name=x", "-c", "user.email=x", "-c", "init.defaultBranch=main"]
    command = ["git", "-C", folder, *identity, *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def committed(folder):
    """A repository with one file; its commit."""
    git(folder, "init")
    (folder / "file").write_text("text")
    git(folder, "add", "file")
    git(folder, "commit", "-m", "x")
    return git(folder, "describe", "--always")


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
@pytest.mark.parametrize("where", ["nowhere", "inside another", "its own", "modified", "a hook"])
def test_only_the_commit_of_this_checkout_is_recorded(tmp_path, monkeypatch, where):
    package = tmp_path / "outer" / "project" / "hierphase"
    package.mkdir(parents=True)
    monkeypatch.setattr(results, "PACKAGE", package)
    expected = "unknown"
    if where in ("inside another", "a hook"):
        committed(tmp_path / "outer")
    if where == "a hook":  # git tells its hooks which repository is theirs
        monkeypatch.setenv("GIT_DIR", str(tmp_path / "outer" / ".git"))
    if where in ("its own", "modified"):
        expected = committed(package.parent)
    if where == "modified":
        (package.parent / "file").write_text("another")
        expected += "+"
    path = results.save(DATA, "chapter", "preset", PARAMETERS, tmp_path)
    assert results.load("chapter", "preset", PARAMETERS, path.parent).attrs["commit"] == expected


def test_without_git_a_result_is_saved(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    results.save(DATA, "chapter", "preset", PARAMETERS, tmp_path)
    assert results.load("chapter", "preset", PARAMETERS, tmp_path).attrs["commit"] == "unknown"


def test_book_directory_is_said(tmp_path, monkeypatch):
    monkeypatch.setenv("HIERPHASE_BOOK", "book")
    with pytest.raises(ValueError, match="absolute path, got 'book'"):
        results.book_directory()
    monkeypatch.setenv("HIERPHASE_BOOK", str(tmp_path / "none"))
    with pytest.raises(FileNotFoundError, match=r"no book directory with chapters at .*none"):
        results.book_directory()
    (tmp_path / "none").mkdir()
    with pytest.raises(FileNotFoundError, match=r"no book directory with chapters at .*none"):
        results.book_directory()


def test_large_numbers_are_compressed_without_loss():
    dataset = xr.Dataset(
        {"pixels": ("row", np.arange(200_000) % 7), "few": ("row_2", [0.1, np.nan])}
    )
    content = results.netcdf(dataset)
    assert results.from_netcdf(content).identical(dataset)
    assert len(content) < dataset.nbytes / 10
