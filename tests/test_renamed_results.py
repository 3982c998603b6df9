"""Stored results were renamed once, by tests/renamed_results.py: every bit is still there."""

import json

import numpy as np
import pytest
import renamed_results
import xarray as xr

from hierphase.runs import results

CONVERTED = [
    path
    for path in sorted((results.book_directory() / "results").glob("*.nc"))
    if "converted" in xr.open_dataset(path, engine="h5netcdf").attrs
]


@pytest.mark.parametrize("path", CONVERTED, ids=lambda path: path.stem)
def test_a_stored_result_says_how_it_was_converted_and_has_the_numbers_of_before(path):
    dataset = xr.load_dataset(path, engine="h5netcdf")
    about = json.loads(dataset.converted)
    assert about["names"] == {"image": "unit"}
    assert "unit" in dataset.sizes and "image" not in dataset.sizes
    assert renamed_results.checksum(dataset) == about["checksum"]


def test_a_conversion_keeps_numbers_dimensions_and_provenance(tmp_path):
    numbers = np.random.default_rng(0).normal(size=(3, 2)).astype(np.float32)
    before = xr.Dataset(
        {"kept": (("image", "noise"), numbers), "t": ("noise", [0.5, np.nan])},
        coords={"image": [4, 5, 6], "layer": ("name", ["a", "bc"])},
    )
    path = results.save(before, "chapter", "preset", {"seed": 0}, tmp_path)
    stored = results.load("chapter", "preset", {"seed": 0}, tmp_path)
    assert renamed_results.convert(path, {"image": "unit"}) == path
    after = results.load("chapter", "preset", {"seed": 0}, tmp_path)
    xr.testing.assert_identical(after.rename(unit="image").drop_attrs(), stored.drop_attrs())
    assert after.kept.values.tobytes() == numbers.tobytes()
    assert {name: after.attrs[name] for name in stored.attrs} == stored.attrs
    assert renamed_results.checksum(after) == json.loads(after.converted)["checksum"]
    changed = after.assign(kept=after.kept + 1e-6)
    assert renamed_results.checksum(changed) != renamed_results.checksum(after)
