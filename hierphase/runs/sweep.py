"""An experiment over many images, in shards that survive interruptions.

A shard is a range of images, and :func:`~hierphase.runs.shards.run_shard` writes what was measured
on it into a file of its own. :func:`run_sweep` computes the shards that are not there yet, on any
executor, and puts all together. It can be killed at any moment; run again, it goes on and arrives
at the same bits.
"""

import contextlib
import importlib
import os
from pathlib import Path

import xarray as xr
from tqdm import tqdm

from hierphase.checks import positive_integer, unknown, utf8
from hierphase.parameters import check_values
from hierphase.runs import results
from hierphase.runs.executors import ShardError, outcomes
from hierphase.runs.shards import (
    ShardSpec,
    load_experiment,
    one_thread,
    read_whole,
    run_preparation,
    run_shard,
    sweep_key,
)

#: For each chapter the ``module:class`` of its experiment (or a function that makes it). The module
#: has a dictionary ``PRESETS`` with the parameters for each preset.
EXPERIMENTS = {
    "correlations": "hierphase.experiments.susceptibility:correlation_experiment",
    "imagenet-transition": "hierphase.experiments.images:ImageExperiment",
    "learned-denoisers": "hierphase.experiments.learned_denoisers:DenoiserExperiment",
    "probe-curves": "hierphase.experiments.representations:ProbeExperiment",
}


def run_sweep(
    experiment: str,
    preset: str,
    parameters: dict,
    directory: Path | str,
    shard_size: int = 16,
    executor=None,
) -> xr.Dataset:
    """Run the experiment of a chapter on all its images, or finish a run that was interrupted.

    Shards go to ``shards/KEY`` in the directory, where KEY stands for everything the numbers depend
    on; what is there from another run with the same key and shard size is not computed again. The
    result is saved in the directory with :func:`hierphase.runs.results.save`. A progress bar counts
    images, on a terminal.

    Args:
        experiment: chapter, key of :data:`EXPERIMENTS`.
        preset: one of the experiment's presets.
        parameters: values that differ from the preset's.
        directory: of the result; created if missing. All workers have to share it.
        shard_size: images per shard; the result does not depend on it.
        executor: a ``concurrent.futures.Executor`` (a process pool, ``Client.get_executor()`` of
            Dask, ...), an executor of submitit, or None to compute in this process.

    Returns:
        The result, as :func:`hierphase.runs.results.load` gives it for all parameters of the run.

    Raises:
        ValueError: an unknown experiment, preset or parameter, or a bad value.
        OSError: the directory cannot be written.
        ShardError: shards failed; the others are kept, and the message names those that failed.
        KeyboardInterrupt: interrupted; its message says what is kept.
    """
    parameters = all_parameters(experiment, preset, parameters)
    shard_size = positive_integer("shard_size", shard_size)
    directory = Path(directory).resolve()
    utf8("output directory", directory)
    target = EXPERIMENTS[experiment]
    key = sweep_key(target, parameters)
    shards = directory / "shards" / key[:16]
    shards.mkdir(parents=True, exist_ok=True)
    for needed in (directory, shards):
        if not os.access(needed, os.W_OK):
            raise PermissionError(f"cannot write into {needed}")

    computed = load_experiment(target, parameters)
    n_images = len(computed)
    if n_images == 0:
        raise ValueError(f"{experiment} has no images with the parameters {parameters}")
    specs = [
        ShardSpec(target, parameters, start, min(start + shard_size, n_images), shards, key)
        for start in range(0, n_images, shard_size)
    ]
    missing = [s for s in specs if read_whole(s.path, key, s.start, s.stop) is None]
    title = f"{experiment} {preset}"
    n_done = n_images - _count(missing)
    with tqdm(total=n_images, initial=n_done, desc=title, unit="image", disable=None) as progress:
        try:
            if missing and read_whole(missing[0].prepared_path, key) is None:
                _call(run_preparation, missing[:1], executor, "the preparation failed")
            _call(run_shard, missing, executor, "shards failed", progress)
        except KeyboardInterrupt:
            n_done = n_images - _count([s for s in specs if not s.path.exists()])
            raise KeyboardInterrupt(
                f"the sweep was interrupted; {n_done} of {n_images} images are done "
                f"({shards}), and the same command goes on from there"
            ) from None

    result = _merge(specs, getattr(computed, "image_dimensions", ("image",)))
    if hasattr(computed, "finish"):
        with one_thread():
            result = computed.finish(result)
    results.save(result, experiment, preset, parameters, directory)
    return results.load(experiment, preset, parameters, directory)


def preset_parameters(experiment: str, preset: str) -> dict:
    """The parameters of a preset, with their defaults.

    Raises:
        ValueError: an unknown experiment or preset; the message names the closest and all.
    """
    if experiment not in EXPERIMENTS:
        raise ValueError(unknown("sweep", experiment, list(EXPERIMENTS)))
    presets = importlib.import_module(EXPERIMENTS[experiment].split(":")[0]).PRESETS
    if preset not in presets:
        raise ValueError(unknown(f"preset of {experiment}", preset, list(presets)))
    return dict(presets[preset])


def all_parameters(experiment: str, preset: str, changes: dict) -> dict:
    """The parameters of a preset with changes, as :func:`run_sweep` computes and stores them.

    Args:
        experiment: chapter, key of :data:`EXPERIMENTS`.
        preset: one of its presets.
        changes: values that differ.

    Raises:
        ValueError: an unknown experiment, preset or parameter, or a value of another type.
    """
    defaults = preset_parameters(experiment, preset)
    return defaults | check_values(f"preset {preset}", defaults, changes)


def _call(function, specs, executor, failure: str, progress: tqdm | None = None) -> None:
    """Call ``function`` on all specs; a ShardError afterwards, if any of them failed."""
    failed = {}
    with contextlib.closing(outcomes(executor, function, specs)) as calls:
        for spec, error in calls:
            if error is not None:
                failed.setdefault(error, []).append(spec)
            elif progress is not None:
                progress.update(spec.stop - spec.start)
    if failed:
        lines = [f"  {_ranges(of_error)}: {error}" for error, of_error in failed.items()]
        raise ShardError(
            "\n".join([f"{failure}:", *lines, "the others are kept; run the same again for these"])
        )


def _ranges(specs: list[ShardSpec]) -> str:
    """Images of the shards, in words."""
    ordered = sorted(specs, key=lambda spec: spec.start)
    return "images " + ", ".join(f"{spec.start} to {spec.stop - 1}" for spec in ordered)


def _count(specs: list[ShardSpec]) -> int:
    return sum(spec.stop - spec.start for spec in specs)


def _merge(specs: list[ShardSpec], dimensions: tuple[str, ...]) -> xr.Dataset:
    """All shards joined along ``dimensions``; what has none of these must be the same in all."""
    os.listdir(specs[0].directory)  # else NFS may hide new files for a minute
    shards = [read_whole(spec.path, spec.key, spec.start, spec.stop) for spec in specs]
    lost = [spec for spec, shard in zip(specs, shards, strict=True) if shard is None]
    if lost:
        raise ShardError(
            f"{_ranges(lost)} were computed, but their files cannot be read in "
            f"{specs[0].directory}: do all workers share it? Run the same again"
        )
    joined = [
        xr.concat(
            [s.drop_dims(set(dimensions) - {dimension}, errors="ignore") for s in shards],
            dim=dimension,
            data_vars="minimal",
            coords="minimal",
            compat="equals",
            join="exact",
            combine_attrs="override",
        )
        for dimension in dimensions
    ]
    return xr.merge(joined, compat="equals", join="exact", combine_attrs="override")
