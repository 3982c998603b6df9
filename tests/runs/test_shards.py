"""Files of shards are used again only where they can be trusted."""

import json
import shutil
from pathlib import Path

import pytest
import xarray as xr
from slow_experiment import PRESETS, SlowExperiment, spec
from sweeps import assert_same, begun, run

from hierphase.runs import results, shards

pytestmark = pytest.mark.usefixtures("workers")


def cut_short(path):
    path.write_bytes(path.read_bytes()[:-100])


def flip_a_value(path):
    content = bytearray(path.read_bytes())
    with xr.open_dataset(path, engine="h5netcdf") as stored:
        values = (stored.numbers if "numbers" in stored else stored.total).values.tobytes()
    content[content.index(values) + 5] ^= 1
    path.write_bytes(content)


def empty(path):
    path.write_bytes(b"")


def of_other_parameters(path):
    other = spec(path.parent, 4, 8, scale=2.0)
    shards.run_shard(other)


def of_other_images(path):
    shutil.copy(path.with_name("0000000-0000004.nc"), path)


@pytest.mark.parametrize(
    "damage", [cut_short, flip_a_value, empty, of_other_parameters, of_other_images, Path.unlink]
)
def test_what_cannot_be_trusted_is_redone(undisturbed, tmp_path, damage):
    run(tmp_path)
    (path,) = tmp_path.glob("shards/*/0000004-0000008.nc")
    whole = path.read_bytes()
    damage(path)
    assert not path.exists() or path.read_bytes() != whole
    n_begun = len(begun(tmp_path))
    assert_same(run(tmp_path), undisturbed)
    assert len(begun(tmp_path)) == n_begun + 1  # this one and no other


@pytest.mark.parametrize("damage", [cut_short, flip_a_value, empty, Path.unlink])
def test_damaged_preparation_is_redone(undisturbed, tmp_path, damage):
    run(tmp_path)
    for path in tmp_path.glob("shards/*/*.nc"):
        damage(path) if path.name == "prepared.nc" else path.unlink()
    assert_same(run(tmp_path), undisturbed)


def test_no_flipped_byte_passes(tmp_path):
    one = spec(tmp_path)
    shards.run_shard(one)
    content = one.path.read_bytes()
    for position in [*range(0, len(content), len(content) // 80), len(content) - 1]:
        changed = bytearray(content)
        changed[position] ^= 0x10
        one.path.write_bytes(changed)
        assert shards.read_whole(one.path, one.key) is None, position


def test_key_follows_everything_that_numbers_depend_on(monkeypatch):
    def key(**changes):
        shards.opened.cache_clear()
        return shards.opened(SlowExperiment, json.dumps(PRESETS["tiny"] | changes))[1]

    keys = {key(seed=0), key(seed=1)}
    monkeypatch.setattr(results, "package_versions", lambda: {"torch": "1.0"})
    keys.add(key())
    monkeypatch.undo()
    monkeypatch.setenv("SLOW_WEIGHTS", "trained anew")
    keys.add(key())
    shards.opened.cache_clear()
    assert len(keys) == 4


def test_workers_refuse_what_they_cannot_do_right(tmp_path):
    absent = spec(tmp_path / "elsewhere")
    with pytest.raises(FileNotFoundError, match=r"no directory .*elsewhere.*share its output"):
        shards.run_shard(absent)
    other = shards.ShardSpec(SlowExperiment, PRESETS["tiny"], 0, 4, tmp_path, "of another machine")
    with pytest.raises(ValueError, match="would compute other numbers"):
        shards.run_shard(other)
