"""Sizes beyond memory or reason are refused at once, with L, n and the bytes."""

import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from hierphase import checks
from hierphase.analysis.bootstrap import mean_curve
from hierphase.rhm import meanfield
from hierphase.rhm.belief_propagation import BeliefPropagation
from hierphase.rhm.model import RandomHierarchyModel

RHM = RandomHierarchyModel(4, 2, 2, 3)
POSTERIOR = BeliefPropagation(RHM)(torch.ones(5, 8, 4))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: RandomHierarchyModel(2, 1, 2, 40).sample(1), "n=1, s=2, L=40 need 26,388,279,066"),
        (lambda: RHM.sample(10**15), "n=1000000000000000, s=2, L=3 need 180,000,000,000,000,000 b"),
        (lambda: RHM.sample(10**400), "n=10000"),
        (lambda: POSTERIOR.sample(10**12), "k=1000000000000, n=5, s=2, L=3 need 900,000,000,000"),
        (lambda: RandomHierarchyModel(2, 1, 2, 64), "L must be at most 62, got 64"),
        (lambda: RandomHierarchyModel(2, 1, 2, 10**7), "L must be at most 62, got 10000000"),
        (lambda: RandomHierarchyModel(10, 1, 9, 20), "L must be at most 19, got 20"),
        (
            lambda: RandomHierarchyModel(10**6, 10**5, 2, 1),
            "rules of v=1000000, m=100000, s=2, L=1",
        ),
        (lambda: meanfield.profile(0.5, 4, 2, 2, 10**7), "L must be at most 1000"),
        (lambda: mean_curve(torch.ones(1, 9), n_resamples=10**12), "resamples of n_resamples=1000"),
    ],
)
def test_too_large(call, message):
    start = time.perf_counter()
    with pytest.raises(ValueError, match=message):
        call()
    assert time.perf_counter() - start < 2


def test_as_large_as_this_machine_can(monkeypatch):
    monkeypatch.setattr(checks.psutil, "virtual_memory", lambda: SimpleNamespace(total=1000))
    checks.check_memory(1000, "samples", n=1)
    with pytest.raises(
        ValueError, match="of n=1, L=2 need 1,001 bytes, of 1,000 here: choose small"
    ):
        checks.check_memory(1001, "samples", n=1, L=2)


def test_a_deep_theory_takes_no_time():
    start = time.perf_counter()
    assert 1 < meanfield.susceptibility(0.5, 32, 8, 2, 1000) < 2
    assert time.perf_counter() - start < 5


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak memory from /proc")
def test_the_example_of_the_readme_needs_less_than_a_gigabyte():
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    code = readme.split("```python\n")[1].split("```")[0]
    code += "print(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])"
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(result.stdout) * 1024 < 1e9
