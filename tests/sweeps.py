"""What the tests of sweeps have in common; the experiment is tests/slow_experiment.py."""

import json
import sys
import time
from pathlib import Path

import xarray as xr
from slow_experiment import NAME

from hierphase.experiments import registry

TESTS = Path(__file__).parent
COMMAND = [sys.executable, str(TESTS / "slow_experiment.py"), "sweep", NAME, "--preset", "tiny"]


def begun(tmp_path):
    """(start, stop, pid) of every shard whose computation was begun, sorted."""
    return sorted(json.loads(p.read_text()) for p in (tmp_path / "log").glob("*.json"))


def wait_for(condition, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def run(directory, shard_size=4, executor=None):
    return registry.run_sweep(NAME, "tiny", {}, directory, shard_size, executor)


def assert_same(result, expected):
    xr.testing.assert_identical(result.drop_attrs(), expected.drop_attrs())
    for name, variable in expected.variables.items():
        assert result[name].dtype == variable.dtype
        assert result[name].attrs == variable.attrs
