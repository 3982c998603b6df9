"""A sweep as a SLURM job array, cancelled half-way and resumed, on a real SLURM of one machine.

The daemons keep everything in a temporary directory and need root; `.ci/run` installs them.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from slow_experiment import NAME, PRESETS
from sweeps import COMMAND, TESTS, assert_same, begun, wait_for

from hierphase.runs import results

pytestmark = pytest.mark.usefixtures("workers")

DAEMONS = ("munged", "slurmctld", "slurmd")

CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={directory}/munge.socket
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=1
SlurmdParameters=config_overrides
ReturnToService=2
MpiDefault=none
KillWait=1
MailProg=/bin/true
StateSaveLocation={directory}/state
SlurmdSpoolDir={directory}/spool
SlurmctldPidFile={directory}/slurmctld.pid
SlurmdPidFile={directory}/slurmd.pid
SlurmctldLogFile={directory}/slurmctld.log
SlurmdLogFile={directory}/slurmd.log
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def free_ports(n):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(n)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def run(*command):
    answer = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert answer.returncode == 0, f"{command}: {answer.stdout}{answer.stderr}"
    return answer.stdout


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    """A SLURM of this machine, in $SLURM_CONF; its daemons are ended by their pid files."""
    search = os.environ["PATH"] + ":/usr/sbin"
    programs = {name: shutil.which(name, path=search) for name in (*DAEMONS, "sbatch", "scancel")}
    if absent := [name for name, path in programs.items() if path is None]:
        pytest.skip(f"SLURM is not installed: no {', '.join(absent)} (apt: slurm-wlm munge)")
    if os.getuid() != 0:
        pytest.skip("only root can start a SLURM for this test")

    directory = tmp_path_factory.mktemp("slurm")
    (directory / "state").mkdir()
    (directory / "spool").mkdir()
    configuration = directory / "slurm.conf"
    host = socket.gethostname().split(".")[0]
    configuration.write_text(
        CONFIGURATION.format(directory=directory, host=host, ports=free_ports(2))
    )
    key = directory / "munge.key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    munge = {"key-file": key} | {f"{n}-file": directory / f"munged.{n}" for n in ("log", "seed")}
    munge |= {"pid-file": directory / "munged.pid", "socket": directory / "munge.socket"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", str(configuration))
        try:
            run(programs["munged"], "--force", *(f"--{k}={v}" for k, v in munge.items()))
            run(programs["slurmctld"])
            run(programs["slurmd"], "-N", host)
            wait_for(lambda: run("sinfo", "--noheader", "--format=%T").strip() == "idle", 30)
            yield directory
        finally:
            for name in reversed(DAEMONS):
                end(directory / f"{name}.pid")


def end(pid_file):
    if pid_file.is_file():
        pid = int(pid_file.read_text())
        os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + 10
        while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
            time.sleep(0.05)


def test_cancelled_array_resumes_to_the_same_bits(slurm, undisturbed, tmp_path):
    output = tmp_path / "out"
    command = [*COMMAND, "--output", output, "--shard-size", "3"]
    command += ["--executor", "slurm", "--workers", "1", "--slurm", "time", "5"]

    def start(seconds):
        environment = os.environ | {"SLOW_SECONDS": str(seconds)}
        return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)

    def done():
        return {path.name for path in output.glob("shards/*/0*.nc")}

    process = start(0.5)
    wait_for(done, 120)
    run("scancel", "--jobname=hierphase")
    stderr = process.communicate(timeout=60)[1]
    assert process.returncode == 1, stderr
    assert "ended without a result (cancelled?" in stderr
    assert 1 <= len(done()) < 4
    assert not list(output.glob("*.nc"))
    n_begun, first = len(begun(tmp_path)), done()

    process = start(100)
    wait_for(lambda: len(begun(tmp_path)) > n_begun, 120)
    process.send_signal(signal.SIGINT)
    stderr = process.communicate(timeout=60)[1]
    assert process.returncode == 130, stderr
    assert f"{3 * len(first)} of 12 images are done" in stderr
    wait_for(lambda: not run("squeue", "--noheader"), 30)  # Ctrl-C cancels what is queued
    assert done() == first
    n_begun = len(begun(tmp_path))

    process = start(0)
    stderr = process.communicate(timeout=120)[1]
    assert process.returncode == 0, stderr
    assert len(begun(tmp_path)) == n_begun + 4 - len(first)  # what was done is not done again
    assert os.getpid() not in {pid for _, _, pid in begun(tmp_path)}
    assert_same(results.load(NAME, "tiny", PRESETS["tiny"], output), undisturbed)


def test_batch_script(slurm, tmp_path, monkeypatch):
    """The script for a GPU on a machine without one; its result names the device."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "hierphase").write_text(f'#!/bin/sh\nexec {sys.executable} -m hierphase "$@"\n')
    (folder / "hierphase").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    script = TESTS.parent / "book" / "_static" / "gpu.sbatch"
    options = ["--wait", "--gres=none", "--cpus-per-task=1", "--mem=0", f"--output={tmp_path}/said"]
    sweep = ["correlations", "--preset", "tree", "-p", "depths", "[2, 3]", "-p", "L", "2"]
    sweep += ["-p", "n_rules", "2", "-p", "n_data", "2", "-p", "n_times", "3", "-p", "n_draws", "2"]
    run("sbatch", *options, script, *sweep, "--output", tmp_path / "out")
    assert "result: " in (tmp_path / "said").read_text()
    assert results.read(tmp_path / "out" / "correlations-tree.nc").device == results.device()
