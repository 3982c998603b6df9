"""Sweeps give the same bits however they are split, computed, killed and resumed.

The experiment is tests/slow_experiment.py, which also is a command line that knows it.
"""

import concurrent.futures
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import slow_experiment
import torch
import xarray as xr
from slow_experiment import NAME, PRESETS, SlowExperiment, spec

from hierphase.__main__ import main
from hierphase.experiments import registry
from hierphase.runs import executors, results, shards

TESTS = Path(__file__).parents[1]
COMMAND = [sys.executable, str(TESTS / "slow_experiment.py"), "sweep", NAME, "--preset", "tiny"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The result of a sweep that nothing disturbed: one shard, in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(registry.EXPERIMENTS, NAME, (SlowExperiment,))
        return registry.run_sweep(NAME, "tiny", {}, tmp_path_factory.mktemp("undisturbed"), 100)


@pytest.fixture(autouse=True)
def workers(tmp_path, monkeypatch):
    """Workers find the experiment, would use two threads, and log the shards they begin."""
    monkeypatch.setitem(registry.EXPERIMENTS, NAME, (SlowExperiment,))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(TESTS.parent), str(TESTS)]))
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    monkeypatch.setenv("SLOW_LOG", str(tmp_path / "log"))
    (tmp_path / "log").mkdir()


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
        experiment = shards.load_experiment(SlowExperiment, PRESETS["tiny"])
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


@pytest.mark.parametrize("executor", ["in-process", "processes"])
def test_ctrl_c(tmp_path, executor):
    process = subprocess.Popen(
        [*COMMAND, "--output", tmp_path / "out", "--shard-size", "2", "--executor", executor],
        env=os.environ | {"SLOW_SECONDS": "20"}, start_new_session=True, stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    wait_for(lambda: begun(tmp_path))
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    sent = time.monotonic()
    stderr = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert time.monotonic() - sent < 30  # a shard takes 40 seconds: none was waited for
    assert "the sweep was interrupted; 0 of 12 images are done (" in stderr
    assert "and the same command goes on from there" in stderr
    assert "Traceback" not in stderr
    assert not list(tmp_path.glob("out/*.nc"))


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
    content = shards.run_shard(one).read_bytes()
    for position in [*range(0, len(content), len(content) // 80), len(content) - 1]:
        changed = bytearray(content)
        changed[position] ^= 0x10
        one.path.write_bytes(changed)
        assert one.read() is None, position


def test_key_follows_everything_that_numbers_depend_on(monkeypatch):
    keys = {shards.sweep_key(SlowExperiment, PRESETS["tiny"] | {"seed": seed}) for seed in (0, 1)}
    monkeypatch.setattr(results, "package_versions", lambda: {"torch": "1.0"})
    keys.add(shards.sweep_key(SlowExperiment, PRESETS["tiny"]))
    monkeypatch.undo()
    shards._fingerprint.cache_clear()
    monkeypatch.setenv("SLOW_WEIGHTS", "trained anew")
    keys.add(shards.sweep_key(SlowExperiment, PRESETS["tiny"]))
    shards._fingerprint.cache_clear()
    assert len(keys) == 4


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


def test_workers_refuse_what_they_cannot_do_right(tmp_path):
    absent = spec(tmp_path / "elsewhere")
    with pytest.raises(FileNotFoundError, match=r"no directory .*elsewhere.*share its output"):
        shards.run_shard(absent)
    other = shards.ShardSpec(SlowExperiment, PRESETS["tiny"], 0, 4, tmp_path, "of another machine")
    with pytest.raises(ValueError, match="would compute other numbers"):
        shards.run_shard(other)


def test_measured_images_are_checked(tmp_path, monkeypatch):
    measure = slow_experiment.SlowExperiment.measure
    monkeypatch.setattr(
        slow_experiment.SlowExperiment, "measure",
        lambda self, start, stop, prepared: measure(self, start, stop - 1, prepared),
    )  # fmt: skip
    with pytest.raises(ValueError, match="was asked for images 4 to 7, but its coordinate image"):
        shards.run_shard(spec(tmp_path, 4, 8))


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
        ([NAME, "--preset", "tiny", "--executor", "processes", "--workers", "0"], "got 0"),
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


def test_directory_that_cannot_be_written(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write anywhere
    with pytest.raises(PermissionError, match=r"cannot write into .*out"):
        run(tmp_path / "out")


def test_an_output_that_is_no_text_is_refused_before_anything_runs(tmp_path):
    output = tmp_path / os.fsdecode(b"caf\xe9")
    with pytest.raises(ValueError, match=r"output directory '.*caf\\udce9' is not UTF-8"):
        registry.run_sweep(NAME, "tiny", {}, output)
    assert not output.exists()


@pytest.mark.parametrize(("name", "module"), [("dask", "distributed"), ("slurm", "submitit")])
def test_missing_extra_is_named(tmp_path, monkeypatch, name, module):
    monkeypatch.setitem(sys.modules, module, None)
    message = rf"needs {module}: pip install 'hierphase\[cluster\]'"
    with pytest.raises(ValueError, match=message), executors.open_executor(name, tmp_path):
        pass


def test_no_slurm_here(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match="sbatch"), executors.open_executor("slurm", tmp_path):
        pass
