"""Every experiment of the book by the name of its chapter, its presets, and how a chapter runs it.

A new world, data set, network or preset is an entry of a table, here or in an experiment's file.
"""

from hierphase.checks import check_known
from hierphase.experiments.ablations import RuleDraws, TreeMap
from hierphase.experiments.base import Experiment
from hierphase.experiments.evidence import Evidence, Signs
from hierphase.experiments.images import ImageExperiment
from hierphase.experiments.learned_denoisers import DenoiserExperiment
from hierphase.experiments.levels import LevelEntropy
from hierphase.experiments.representations import ProbeExperiment
from hierphase.experiments.susceptibility import ImageCorrelations, TreeCorrelations
from hierphase.experiments.u_turns import ImageUTurns, UTurns
from hierphase.experiments.universality import ImageSamplers, TreeSamplers
from hierphase.experiments.your_model import OwnImages
from hierphase.parameters import check_values
from hierphase.runs import results, sweep

#: Chapter -> its experiments; each has presets of its own.
EXPERIMENTS: dict[str, tuple[type[Experiment], ...]] = {
    "ablations": (TreeMap,),
    "bp-theory": (RuleDraws,),
    "correlations": (TreeCorrelations,),
    "evidence": (Evidence, Signs),
    "image-correlations": (ImageCorrelations,),
    "imagenet-transition": (ImageExperiment,),
    "learned-denoisers": (DenoiserExperiment,),
    "probe-curves": (ProbeExperiment,),
    "speciation": (LevelEntropy,),
    "u-turns": (UTurns, ImageUTurns),
    "universality": (TreeSamplers, ImageSamplers),
    "your-model": (OwnImages,),
}


def find(chapter: str, preset: str) -> tuple[type[Experiment], dict]:
    """The experiment of a chapter that has the preset, and the preset's parameters.

    Raises:
        ValueError: an unknown experiment or preset; the message names the closest and all.
    """
    check_known("sweep", chapter, EXPERIMENTS)
    owner = {name: found for found in EXPERIMENTS[chapter] for name in found.presets}
    check_known(f"preset of {chapter}", preset, owner)
    return owner[preset], dict(owner[preset].presets[preset])


def all_parameters(chapter: str, preset: str, changes: dict | None = None) -> dict:
    """The parameters of a preset with changes, as :func:`run_sweep` computes and stores them.

    Args:
        chapter: key of :data:`EXPERIMENTS`.
        preset: one of its presets.
        changes: values that differ.

    Raises:
        ValueError: an unknown experiment, preset or parameter, or a value of another type, or one
            that the experiment does not take.
    """
    experiment, defaults = find(chapter, preset)
    parameters = defaults | check_values(f"preset {preset}", defaults, changes or {})
    return experiment(parameters).parameters


def run_sweep(chapter: str, preset: str, changes: dict, directory, shard_size=16, executor=None):
    """Run the experiment of a chapter on all its units, or finish a run that was interrupted.

    Args:
        chapter: key of :data:`EXPERIMENTS`.
        preset: one of its presets.
        changes: parameters that differ from the preset's.
        directory: of the result; created if missing. All workers have to share it.
        shard_size: units per shard; the result does not depend on it.
        executor: a ``concurrent.futures.Executor`` (a process pool, ``Client.get_executor()`` of
            Dask, ...), an executor of submitit, or None to compute in this process.

    Returns:
        The result, as :func:`hierphase.runs.results.load` gives it for all parameters of the run.

    Raises:
        ValueError: an unknown experiment, preset or parameter, or a bad value.
        OSError: the directory cannot be written.
        RunError: shards failed; the others are kept, and the message names those that failed.
        KeyboardInterrupt: interrupted; its message says what is kept.

    Example:
        >>> from hierphase import run_sweep
        >>> small = {"n_per_class": 1, "n_times": 2, "num_inference_steps": 4}
        >>> digits = run_sweep("imagenet-transition", "digits", small, "runs/small")
        >>> digits.similarity.dims
        ('layer', 'time', 'image')
    """
    experiment, parameters = find(chapter, preset)[0], all_parameters(chapter, preset, changes)
    return sweep.run_sweep(experiment, chapter, preset, parameters, directory, shard_size, executor)


def result(chapter: str, preset: str, changes=None, recompute=False, output=None, stored=None):
    """The result of an experiment, a data set: loaded, or computed anew.

    Args:
        chapter: key of :data:`EXPERIMENTS`.
        preset: one of its presets.
        changes: parameters that differ from the preset's.
        recompute: True runs the sweep in this process.
        output: directory that receives what is computed; by default ``runs/recomputed``.
        stored: directory to load from; by default that of the book.

    Raises:
        FileNotFoundError: there is no stored result.
        ValueError: as for :func:`all_parameters`, or the stored result is of other parameters.

    Example:
        >>> from hierphase import result
        >>> tree = result("correlations", "tree")  # as the book stores it
        >>> sorted(tree.coords)
        ['depth', 'epsilon', 'part', 'process', 'unit']
    """
    parameters = all_parameters(chapter, preset, changes)
    if recompute:
        return run_sweep(chapter, preset, parameters, output or "runs/recomputed")
    return results.load(chapter, preset, parameters, stored)
