"""Sweeps give the same bits however they are split, computed, killed and resumed."""

import concurrent.futures
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from slow_experiment import NAME, PRESETS, SlowExperiment
from sweeps import COMMAND, assert_same, begun, run, wait_for

from hierphase.__main__ import main
from hierphase.experiments import registry
from hierphase.runs import executors, results

pytestmark = pytest.mark.usefixtures("workers")


def test_result_is_complete_and_found_by_load(undisturbed, tmp_path):
    assert undisturbed.image.values.tolist() == list(range(12))
    assert undisturbed.sizes["shown"] == 5
    assert undisturbed.total.attrs == {"units": "none"} and undisturbed.attrs["about"] == "nothing"
    assert undisturbed.average == undisturbed.total.mean()
    run(tmp_path / "new" / "directory")
    loaded = results.load(NAME, "tiny", PRESETS["tiny"], tmp_path / "new" / "directory")
    assert_same(loaded, undisturbed)


@pytest.mark.parametrize("shard_size", [1, 5, 12])
def test_shard_size_does_not_matter(undisturbed, tmp_path, shard_size):
    assert_same(run(tmp_path, shard_size), undisturbed)
    assert len(begun(tmp_path)) == -(-12 // shard_size)


def test_shards_compute_with_one_thread(undisturbed, tmp_path):
    """The experiment's sums tell one thread from two, where the machine has two cores."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert_same(run(tmp_path), undisturbed)
        assert (undisturbed.n_threads == 1).all()
        assert torch.get_num_threads() == 2
        experiment = SlowExperiment(PRESETS["tiny"])
        two = experiment.measure(0, 12, experiment.prepare())
        assert (two.total.values != undisturbed.total.values).any() or os.cpu_count() == 1
    finally:
        torch.set_num_threads(n_threads)


@pytest.mark.parametrize("name", ["threads", "processes", "submitit"])
def test_same_bits_from_executors(undisturbed, tmp_path, name, monkeypatch):
    if name == "threads":
        with concurrent.futures.ThreadPoolExecutor(3) as executor:
            result = run(tmp_path, executor=executor)
    elif name == "processes":
        with executors.open_executor("processes", tmp_path, workers=2) as executor:
            result = run(tmp_path, executor=executor)
    else:
        from submitit import LocalExecutor

        monkeypatch.setattr(executors, "POLL_SECONDS", 0.1)
        result = run(tmp_path, 6, executor=LocalExecutor(tmp_path / "jobs"))
    assert_same(result, undisturbed)
    elsewhere = {pid for _, _, pid in begun(tmp_path)} - {os.getpid()}
    assert bool(elsewhere) == (name != "threads")


def test_dask_from_the_command_line_and_a_killed_worker(undisturbed, tmp_path, monkeypatch):
    from distributed import LocalCluster

    monkeypatch.setenv("SLOW_SECONDS", "0.5")
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        statuses = []
        options = ["--executor", "dask", "--scheduler", cluster.scheduler_address]
        options += ["--output", str(tmp_path / "out"), "--shard-size", "3"]
        command = ["sweep", NAME, "--preset", "tiny", *options]
        thread = threading.Thread(target=lambda: statuses.append(main(command)))
        thread.start()
        wait_for(lambda: len(begun(tmp_path)) >= 3)
        newest = max((tmp_path / "log").glob("*.json"), key=lambda path: path.stat().st_mtime_ns)
        start, _, victim = json.loads(newest.read_text())  # sleeps for a second and a half
        os.kill(victim, signal.SIGKILL)
        thread.join(120)
    assert statuses == [0]
    assert_same(results.load(NAME, "tiny", PRESETS["tiny"], tmp_path / "out"), undisturbed)
    assert len([pid for s, _, pid in begun(tmp_path) if s == start]) == 2  # the killed one again


@pytest.mark.parametrize("executor", ["in-process", "processes"])
def test_killed_sweep_resumes_to_the_same_bits(undisturbed, tmp_path, executor):
    output = tmp_path / "out"
    command = [*COMMAND, "--output", output, "--shard-size", "2", "--executor", executor]
    process = subprocess.Popen(command, env=os.environ | {"SLOW_SECONDS": "0.3"})
    wait_for(lambda: len(list(output.glob("shards/*/0*.nc"))) >= 2 and len(begun(tmp_path)) > 2)
    process.kill()
    process.wait()
    pids = {pid for _, _, pid in begun(tmp_path)}
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), 10)
    left = {path.name: path.stat().st_mtime_ns for path in output.glob("shards/*/0*.nc")}
    assert 2 <= len(left) < 6
    assert not list(output.glob("*.nc"))
    n_begun = len(begun(tmp_path))

    assert_same(run(output, 2), undisturbed)
    assert len(begun(tmp_path)) - n_begun == 6 - len(left)  # the others were not computed again
    for name, written in left.items():
        (path,) = output.glob(f"shards/*/{name}")
        assert path.stat().st_mtime_ns == written


def test_cancelled_calls_whose_workers_die_raise_nothing_in_the_thread_of_the_pool(monkeypatch):
    raised = []
    monkeypatch.setattr(threading, "excepthook", raised.append)
    before = threading.excepthook
    with pytest.raises(KeyboardInterrupt):
        with executors.open_executor("processes", ".", workers=1) as pool:
            futures = [pool.submit(time.sleep, 20) for _ in range(20)]
            wait_for(futures[1].running)  # the queue of the worker is full, the others wait
            for future in futures:
                future.cancel()
            for process in multiprocessing.active_children():
                process.kill()
                process.join()
            wait_for(futures[0].done)
            raise KeyboardInterrupt
    assert raised == []
    assert threading.excepthook == before


def test_two_processes_in_one_directory_do_no_harm(undisturbed, tmp_path):
    command = [*COMMAND, "--output", tmp_path / "out", "--shard-size", "1"]
    environment = os.environ | {"SLOW_SECONDS": "0.05"}
    both = [subprocess.Popen(command, env=environment) for _ in range(2)]
    assert [process.wait(120) for process in both] == [0, 0]
    assert_same(results.load(NAME, "tiny", PRESETS["tiny"], tmp_path / "out"), undisturbed)
    assert not [path for path in tmp_path.rglob("*") if path.suffix == ".tmp"]


def test_failed_shards_are_named_and_the_others_kept(undisturbed, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SLOW_FAIL", "5")
    command = ["sweep", NAME, "--preset", "tiny", "--output", str(tmp_path), "--shard-size", "3"]
    assert main(command) == 1
    error = capsys.readouterr().err
    assert "images 3 to 5: RuntimeError: image 5 is told to fail" in error
    assert "the others are kept; run the same again" in error
    assert len(begun(tmp_path)) == 4
    monkeypatch.delenv("SLOW_FAIL")
    assert main(command) == 0
    assert str(tmp_path / f"{NAME}-tiny.nc") in capsys.readouterr().out
    assert [b[:2] for b in begun(tmp_path)].count([3, 6]) == 2
    assert len(begun(tmp_path)) == 5
    assert_same(results.load(NAME, "tiny", PRESETS["tiny"], tmp_path), undisturbed)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["slo", "--preset", "tiny"], "unknown sweep 'slo' (did you mean 'slow'?)"),
        ([NAME, "--preset", "tinny"], "unknown preset of slow 'tinny' (did you mean 'tiny'?)"),
        ([NAME, "--preset", "tiny", "-p", "sed", "1"], "did you mean 'seed'?); known: n_images=12"),
        ([NAME, "--preset", "tiny", "-p", "seed", "x"], "of preset tiny is of type int (default 0"),
        ([NAME, "--preset", "tiny", "-p", "n_images", "-1"], "n_images must be at least 0, got -1"),
        ([NAME, "--preset", "tiny", "-p", "n_images", "0"], "slow has no images with the param"),
        ([NAME, "--preset", "tiny", "--shard-size", "0"], "shard_size must be at least 1, got 0"),
        ([NAME, "--preset", "tiny", "--executor", "process"], "did you mean 'processes'?"),
        ([NAME, "--preset", "tiny", "--workers", "2"], "in-process has no use for --workers"),
        (
            [NAME, "--preset", "tiny", "--executor", "processes", "--workers", "0"],
            "not in the range",
        ),
        ([NAME, "--preset", "tiny", "--scheduler", "a:1"], "has no use for --scheduler"),
        ([NAME, "--preset", "tiny", "--slurm", "time", "5"], "has no use for --slurm"),
        ([NAME, "--preset", "tiny", "--output", "/proc/cpuinfo/out"], "/proc/cpuinfo/out"),
        ([NAME, "--preset", "tiny", "--output", "/sys/out"], "/sys/out"),
    ],
)
def test_errors(tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    assert main(["sweep", *words]) == 2
    error = capsys.readouterr().err
    assert error.startswith("hierphase: error: ")
    assert message in error
    assert not begun(tmp_path)
    assert not list(tmp_path.rglob("*.nc"))


def test_an_output_that_is_no_text_is_refused_before_anything_runs(tmp_path):
    output = tmp_path / os.fsdecode(b"caf\xe9")
    with pytest.raises(ValueError, match=r"output directory '.*caf\\udce9/.*' is not UTF-8"):
        registry.run_sweep(NAME, "tiny", {}, output)
    assert not output.exists()


@pytest.mark.parametrize(("name", "module"), [("dask", "distributed"), ("slurm", "submitit")])
def test_missing_extra_is_named(tmp_path, monkeypatch, name, module):
    monkeypatch.setitem(sys.modules, module, None)
    message = rf"needs {module}: pip install 'hierphase\[cluster\]'"
    with pytest.raises(ImportError, match=message), executors.open_executor(name, tmp_path):
        pass


def test_no_slurm_here(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match="sbatch"), executors.open_executor("slurm", tmp_path):
        pass
