"""An experiment over many units (images, say), in shards that survive interruptions.

A shard is a range of units, and :func:`~hierphase.runs.shards.run_shard` writes what was measured
on it into a file of its own. :func:`run_sweep` computes the shards that are not there yet, on any
executor, and puts all together. It can be killed at any moment; run again, it goes on and arrives
at the same bits.
"""

import contextlib
import itertools
import json
import os

import xarray as xr
from tqdm import tqdm

from hierphase.checks import positive_integer
from hierphase.files import WriteError, output_directory
from hierphase.runs import RunError, results, shards
from hierphase.runs.executors import outcomes


def run_sweep(experiment, chapter, preset, parameters, directory, shard_size, executor):
    """Measure all units of an experiment, or finish a run that was interrupted.

    Shards go to ``shards/KEY`` in the directory, where KEY stands for everything the numbers depend
    on; what is there from another run with the same key and shard size is not computed again. The
    result is saved in the directory with :func:`hierphase.runs.results.save`. A progress bar counts
    units, on a terminal. Arguments, result and errors are those of
    :func:`hierphase.experiments.registry.run_sweep`, but for:

    Args:
        experiment: the class; see :class:`hierphase.experiments.base.Experiment`.
        chapter: that the result is stored for.
        preset: likewise.
        parameters: all of them.
        directory: of the result.
        shard_size: units per shard.
        executor: that computes the shards.
    """
    shard_size = positive_integer("shard_size", shard_size)
    shards.opened.cache_clear()  # files may have changed since an earlier sweep of this process
    computed, key = shards.opened(experiment, json.dumps(parameters))  # refuses bad parameters
    folder = output_directory(os.path.join(directory, "shards", key[:16]))
    unit, n = computed.unit_dimensions[0], len(computed)
    if n == 0:
        raise ValueError(f"{chapter} has no {unit}s with the parameters {parameters}")
    ranges = itertools.pairwise([*range(0, n, shard_size), n])
    specs = [shards.ShardSpec(experiment, parameters, *ends, folder, key) for ends in ranges]
    missing = [spec for spec in specs if shards.read_whole(spec.path, key) is None]
    title, n_done = f"{chapter} {preset}", n - _count(missing)
    with tqdm(total=n, initial=n_done, desc=title, unit=unit, disable=None) as progress:
        try:
            if missing and shards.read_whole(missing[0].prepared_path, key) is None:
                _call(shards.run_preparation, missing[:1], executor, "the preparation failed")
            _call(shards.run_shard, missing, executor, "shards failed", progress)
            result = _merge(specs)
            with shards.one_thread():
                result = computed.finish(result)
            computed.check_finite(result, parameters)
            results.save(result, chapter, preset, parameters, directory)
        except (KeyboardInterrupt, WriteError) as error:
            n_done = n - _count([spec for spec in specs if not spec.path.exists()])
            ended = str(error) or "the sweep was interrupted"
            done = f"{n_done} of {n} {unit}s are done ({folder})"
            raise type(error)(f"{ended}; {done}, and the same command goes on from there") from None
    return results.load(chapter, preset, parameters, directory)


def _call(function, specs, executor, failure: str, progress: tqdm | None = None) -> None:
    """Call ``function`` on all specs; a RunError afterwards, if any of them failed.

    What cannot be written ends it at once: the other shards could not be written either.
    """
    failed = {}
    with contextlib.closing(outcomes(executor, function, specs)) as calls:
        for spec, error in calls:
            if isinstance(error, WriteError):
                raise error
            if error is not None:
                failed.setdefault(error, []).append(spec)
            elif progress is not None:
                progress.update(spec.stop - spec.start)
    if failed:
        lines = [f"  {_ranges(of_error)}: {error}\n" for error, of_error in failed.items()]
        kept = "the others are kept; run the same again for these"
        raise RunError(f"{failure}:\n{''.join(lines)}{kept}")


def _ranges(specs: list[shards.ShardSpec]) -> str:
    """Units of the shards, in words."""
    ranges = ", ".join(f"{a} to {b - 1}" for a, b in sorted((s.start, s.stop) for s in specs))
    return f"{specs[0].experiment.unit_dimensions[0]}s {ranges}"


def _count(specs: list[shards.ShardSpec]) -> int:
    return sum(spec.stop - spec.start for spec in specs)


def _merge(specs: list[shards.ShardSpec]) -> xr.Dataset:
    """All shards joined along units; what does not go along these must be the same in all."""
    os.listdir(specs[0].directory)  # else NFS may hide new files for a minute
    parts = [shards.read_whole(spec.path, spec.key) for spec in specs]
    lost = [spec for spec, part in zip(specs, parts, strict=True) if part is None]
    if lost:
        unread = f"{_ranges(lost)} were computed, but cannot be read in {specs[0].directory}"
        raise RunError(f"{unread}: do all workers share it? Run the same again")
    same = {"compat": "equals", "join": "exact", "combine_attrs": "override"}
    dimensions, joined = specs[0].experiment.unit_dimensions, []
    for dimension in dimensions:
        along = [part.drop_dims({*dimensions} - {dimension}, errors="ignore") for part in parts]
        joined.append(xr.concat(along, dimension, data_vars="minimal", coords="minimal", **same))
    devices = sorted({part.attrs.pop("device", "unknown") for part in parts})
    return xr.merge(joined, **same).assign_attrs(device="; ".join(devices))
