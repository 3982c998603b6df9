import os

import pytest
from slow_experiment import NAME, SlowExperiment
from sweeps import TESTS

from hierphase.experiments import registry


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The result of a sweep that nothing disturbed: one shard, in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(registry.EXPERIMENTS, NAME, (SlowExperiment,))
        return registry.run_sweep(NAME, "tiny", {}, tmp_path_factory.mktemp("undisturbed"), 100)


@pytest.fixture
def workers(tmp_path, monkeypatch):
    """Workers find the experiment, would use two threads, and log the shards they begin."""
    monkeypatch.setitem(registry.EXPERIMENTS, NAME, (SlowExperiment,))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(TESTS.parent), str(TESTS)]))
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    monkeypatch.setenv("SLOW_LOG", str(tmp_path / "log"))
    (tmp_path / "log").mkdir()
