"""Sweeps that a signal or a full disk ends: in one line, and the same command goes on."""

import os
import pickle
import signal
import subprocess
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from slow_experiment import PRESETS
from sweeps import COMMAND, assert_same, begun, run, wait_for

from hierphase.files import WriteError
from hierphase.runs import executors

pytestmark = pytest.mark.usefixtures("workers")


def one_line(stderr):
    """What the command itself has said; Dask has a log of its own."""
    (line,) = (line for line in stderr.splitlines() if line.startswith("hierphase: "))
    assert "Traceback" not in stderr and "Exception ignored" not in stderr
    return line


@pytest.mark.parametrize(
    ("executor", "sent", "whom"),
    [
        ("in-process", signal.SIGINT, os.killpg),  # as a terminal does
        ("processes", signal.SIGINT, os.killpg),
        ("in-process", signal.SIGTERM, os.kill),
        ("processes", signal.SIGTERM, os.kill),
        ("processes", signal.SIGTERM, os.killpg),  # as SLURM does
    ],
)
def test_an_interrupted_sweep_says_how_it_goes_on(tmp_path, executor, sent, whom):
    process = subprocess.Popen(
        [*COMMAND, "--output", tmp_path / "out", "--shard-size", "2", "--executor", executor],
        env=os.environ | {"SLOW_SECONDS": "20"}, start_new_session=True, stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    wait_for(lambda: begun(tmp_path))
    whom(process.pid, sent)
    begin = time.monotonic()
    stderr = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert time.monotonic() - begin < 30  # a shard takes 40 seconds: none was waited for
    line = one_line(stderr)
    assert line.startswith("hierphase: the sweep was interrupted; 0 of 12 images are done (")
    assert line.endswith(", and the same command goes on from there")
    assert not list(tmp_path.glob("out/*.nc"))
    for _, _, pid in begun(tmp_path):
        wait_for(lambda pid=pid: not Path(f"/proc/{pid}").exists(), 10)


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_no_thread_of_a_library_lets_a_signal_in_while_processes_start(sent):
    ended = threading.Event()
    other = threading.Thread(target=ended.wait)  # as OpenBLAS has: it blocks no signal
    other.start()
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    reached = False
    try:
        with pytest.raises(KeyboardInterrupt), executors._interrupts_held_back():
            os.kill(os.getpid(), sent)
            time.sleep(0.2)  # time for the other thread to take it, and for Python to tell
            reached = True
        assert signal.getsignal(signal.SIGTERM) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGTERM, before)
        ended.set()
        other.join()
    assert reached


@pytest.mark.parametrize("executor", ["in-process", "processes"])
def test_a_full_disk_ends_a_sweep_that_goes_on_with_space(undisturbed, tmp_path, executor, disk):
    output = disk("64k") / "out"
    command = [*COMMAND, "--output", output, "--shard-size", "2", "--executor", executor]
    ended = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
    assert ended.returncode == 2
    line = one_line(ended.stderr)
    assert line.startswith(f"hierphase: error: cannot write {output}/shards/")
    assert ".nc: No space left on device; " in line
    assert not [path for path in output.rglob("*.tmp")]
    kept = {path: path.stat().st_mtime_ns for path in output.glob("shards/*/0*.nc")}
    assert 0 < len(kept) < 6
    if executor == "in-process":
        assert f"; {2 * len(kept)} of 12 images are done (" in line
        assert len(begun(tmp_path)) == len(kept) + 1  # the others were not tried

    subprocess.run(["mount", "-o", "remount,size=1M", output.parent], check=True)
    assert_same(run(output, 2), undisturbed)
    assert all(path.stat().st_mtime_ns == written for path, written in kept.items())


def test_what_a_worker_could_not_write_comes_back_as_such():
    ((_, error),) = executors.outcomes(None, _fails_to_write, [3])
    error = pickle.loads(pickle.dumps(error))  # as from other processes
    assert isinstance(error, WriteError) and str(error) == "cannot write 3"


def _fails_to_write(item):
    raise WriteError(f"cannot write {item}")


def test_a_disk_that_is_full_or_parameters_without_words_stop_a_sweep_at_once(
    tmp_path, disk, monkeypatch
):
    folder = disk("8k")
    (folder / "file").write_bytes(bytes(8192))
    with pytest.raises(WriteError, match=rf"cannot write {folder}.*No space left"):
        run(folder / "out")
    monkeypatch.setitem(PRESETS["tiny"], "scale", np.nan)
    with pytest.raises(ValueError, match="parameter scale cannot be nan, for which JSON"):
        run(tmp_path / "out")
    assert not begun(tmp_path) and not (tmp_path / "out").exists()
