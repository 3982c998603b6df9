"""Where the shards of a sweep are computed: here, in a process pool, by Dask, in SLURM jobs.

:func:`open_executor` makes an executor from its name and a few numbers, and :func:`outcomes` calls
a function through any of them. dask and submitit come with ``pip install 'hierphase[cluster]'``.
"""

import concurrent.futures
import contextlib
import multiprocessing
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from hierphase.checks import check_known, import_extra
from hierphase.files import WriteError

#: Names that :func:`open_executor` takes.
EXECUTORS = ("in-process", "processes", "dask", "slurm")
POLL_SECONDS = 2  # between two looks at the queue of SLURM


def open_executor(name: str, directory, workers=None, scheduler=None, slurm=None):
    """An executor for ``run_sweep`` as a context manager, which shuts it down at its end.

    Args:
        name: one of :data:`EXECUTORS`.
        directory: the sweep's; SLURM's scripts and logs go to ``slurm`` in it.
        workers: processes, Dask workers on this machine, or SLURM jobs that run at once; by default
            one a core, and for SLURM at most 256.
        scheduler: address of a running Dask scheduler, instead of workers on this machine.
        slurm: options of a SLURM job, named as submitit's ``SlurmExecutor`` names them
            (``partition``, ``gpus_per_node``, ``mem``, ...); ``time`` in minutes is 60 by default.

    Returns:
        A context manager that gives what :func:`outcomes` takes: None for ``in-process``.

    Raises:
        ValueError: an unknown executor or SLURM option, an option of another executor, or no SLURM
            on this machine.
        ImportError: a package is not installed.
        OSError: no Dask scheduler answers.
    """
    check_known("executor", name, EXECUTORS)
    misplaced = {
        "--scheduler": scheduler is not None and name != "dask",
        "--slurm": bool(slurm) and name != "slurm",
        "--workers": workers is not None and (name == "in-process" or scheduler is not None),
    }
    if wrong := [option for option, is_wrong in misplaced.items() if is_wrong]:
        raise ValueError(f"executor {name} has no use for {wrong[0]}")
    if name == "in-process":
        return contextlib.nullcontext()
    if name == "processes":
        return _process_pool(workers)
    if name == "dask":
        return _dask(workers, scheduler)
    return contextlib.nullcontext(_slurm(Path(directory).resolve() / "slurm", workers, slurm or {}))


def outcomes(executor, function: Callable, items: list) -> Iterator[tuple]:
    """Call ``function(item)`` for every item; a failing call does not stop the others.

    Args:
        executor: a ``concurrent.futures.Executor``, one of submitit's, or None to call the function
            in this process.
        function: importable by name where the executor's workers run; it returns nothing.
        items: picklable.

    Yields:
        (item, None or a line that says what went wrong, or the WriteError where something could not
        be written), in the order in which the calls end.
        When the iterator is closed early, calls that have not begun are cancelled (with submitit,
        those under way too).
    """
    if executor is None:
        yield from ((item, _attempt(function, item)) for item in items)
    elif isinstance(executor, concurrent.futures.Executor):
        with _interrupts_held_back():
            futures = {executor.submit(_attempt, function, item): item for item in items}
        try:
            for future in concurrent.futures.as_completed(futures):
                yield futures[future], _attempt(future.result)
        finally:
            for future in futures:
                future.cancel()
    else:
        yield from _job_outcomes(executor, function, items)


def _attempt(function: Callable, *arguments):
    """What the function returns; what it raised comes back in words.

    It is called where the work is done, and again on what has come of that: a worker may have died.
    """
    try:
        return function(*arguments)
    except WriteError as error:
        return error
    except Exception as error:
        return f"{type(error).__name__}: {error}"


@contextlib.contextmanager
def _process_pool(workers: int | None):
    spawn = multiprocessing.get_context("spawn")
    pool = concurrent.futures.ProcessPoolExecutor(workers, spawn, _follow_parent)
    before = threading.excepthook

    def hook(arguments):
        """Without a fault of the pool's thread, of Python 3.11, that would hide our message.

        When workers have died, it tells all calls, and those that were cancelled do not take it.
        """
        if not issubclass(arguments.exc_type, concurrent.futures.InvalidStateError):
            before(arguments)

    threading.excepthook = hook
    try:
        yield pool
    except KeyboardInterrupt:  # do not wait for the shards under way
        for process in multiprocessing.active_children():
            process.kill()
        raise
    finally:
        pool.shutdown(cancel_futures=True)
        threading.excepthook = before


@contextlib.contextmanager
def _interrupts_held_back():
    """Keep Ctrl-C and SIGTERM waiting; processes that start meanwhile leave Ctrl-C to the main one.

    They would else be hit by it too, at worst before they have begun to run Python. That the main
    thread blocks a signal is not enough: threads of a library take it, and Python tells the main
    thread, between the start of a process and what it is sent to begin with.
    """
    held, waiting = {signal.SIGINT, signal.SIGTERM}, []
    before, handlers = signal.pthread_sigmask(signal.SIG_BLOCK, held), {}
    if threading.current_thread() is threading.main_thread():  # no other may, nor is told of any
        handlers = {n: signal.signal(n, lambda number, _: waiting.append(number)) for n in held}
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)  # what the thread blocked is held too
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for number in waiting[:1]:
            signal.raise_signal(number)


def _follow_parent() -> None:
    """In a worker: end when the main process has ended, in whatever way, and at SIGTERM."""

    def watch():
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})


@contextlib.contextmanager
def _dask(workers: int | None, scheduler: str | None):
    local = {"n_workers": workers, "threads_per_worker": 1, "dashboard_address": None}
    options = {"address": scheduler} if scheduler else local
    with import_extra("distributed", "cluster").Client(**options) as client:
        yield client.get_executor(pure=False)  # a shard that was lost has to be called again


def _slurm(folder: Path, workers: int | None, options: dict):
    try:
        executor = import_extra("submitit", "cluster").SlurmExecutor(folder)
    except RuntimeError:
        raise ValueError("executor slurm needs sbatch, srun and squeue on this machine") from None
    ours = {"job_name": "hierphase", "time": 60, "array_parallelism": workers or 256}
    executor.update_parameters(**ours | options)
    return executor


def _job_outcomes(executor, function, items):
    """:func:`outcomes` for an executor of submitit: one job array.

    The queue itself is asked what has ended: SLURM's accounting, which submitit asks, is not
    everywhere switched on, and without it a cancelled job would be waited for without end.
    """
    import submitit

    calls = executor.map_array(_attempt, [function] * len(items), items)
    jobs = dict(zip(calls, items, strict=True))
    on_slurm = isinstance(executor, submitit.SlurmExecutor)
    try:
        while jobs:
            queue = _slurm_queue() if on_slurm else None
            os.listdir(executor.folder)  # else NFS may hide new files for a minute
            for job in list(jobs):
                ended = queue is not None and job.job_id not in queue if on_slurm else job.done()
                if job.paths.result_pickle.exists():
                    yield jobs.pop(job), _attempt(job.result)
                elif ended:
                    reason = "ended without a result (cancelled? out of time or memory?)"
                    yield jobs.pop(job), f"job {job.job_id} {reason}: {job.paths.stderr}"
            if jobs:
                time.sleep(POLL_SECONDS)
    finally:
        for job in jobs:
            job.cancel(check=False)


def _slurm_queue() -> set[str] | None:
    """Ids of our jobs that wait or run; None while SLURM does not answer."""
    command = ["squeue", "--me", "--noheader", "--array", "--format=%i"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    return set(answer.stdout.split()) if answer.returncode == 0 else None
