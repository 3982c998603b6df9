import numpy as np
import pytest
from slow_experiment import NAME, PRESETS, SlowExperiment

from hierphase.experiments import registry
from hierphase.experiments.base import Experiment
from hierphase.runs import chapters


@pytest.fixture(autouse=True)
def slow(monkeypatch):
    monkeypatch.setitem(registry.EXPERIMENTS, NAME, (SlowExperiment,))


def test_every_experiment_belongs_to_a_chapter_and_its_presets_are_whole():
    assert {*registry.EXPERIMENTS} - {NAME} <= {*chapters.names()}
    for chapter, experiments in registry.EXPERIMENTS.items():
        presets = [preset for experiment in experiments for preset in experiment.presets]
        assert len({*presets}) == len(presets), chapter
        for experiment in experiments:
            assert issubclass(experiment, Experiment)
            (names,) = {tuple(sorted(p)) for p in experiment.presets.values()}
            assert {*experiment.least, *experiment.choices} <= {*names}
            for parameters in experiment.presets.values():
                experiment(parameters)


def test_a_result_is_computed_or_loaded_by_the_same_call(tmp_path):
    computed = registry.result(NAME, "tiny", {"n_images": 3}, recompute=True, output=tmp_path)
    loaded = registry.result(NAME, "tiny", {"n_images": 3}, stored=tmp_path)
    assert loaded.identical(computed)
    np.testing.assert_array_equal(loaded.image, np.arange(3))
    with pytest.raises(ValueError, match=r"other parameters.*n_images: stored 3, wanted 12"):
        registry.result(NAME, "tiny", stored=tmp_path)
    with pytest.raises(FileNotFoundError, match=f"hierphase sweep {NAME} --preset tiny"):
        registry.result(NAME, "tiny")


@pytest.mark.parametrize(
    ("chapter", "preset", "changes", "message"),
    [
        ("slwo", "tiny", {}, "unknown sweep 'slwo'.*did you mean 'slow'"),
        (NAME, "tny", {}, "unknown preset of slow 'tny'.*did you mean 'tiny'"),
        (NAME, "tiny", {"sede": 1}, "unknown parameter of preset tiny 'sede'.*seed=0"),
        (NAME, "tiny", {"seed": "one"}, "seed of preset tiny is of type int.*'one'"),
        (NAME, "tiny", {"n_images": -1}, "n_images must be at least 0, got -1"),
    ],
)
def test_wrong_wishes_are_refused(tmp_path, chapter, preset, changes, message):
    with pytest.raises(ValueError, match=message):
        registry.run_sweep(chapter, preset, changes, tmp_path)
    assert not list(tmp_path.rglob("*.nc"))


def test_an_experiment_wants_exactly_its_parameters():
    with pytest.raises(ValueError, match=r"lack \['seed'\] and have unknown \['sed'\]"):
        SlowExperiment({("sed" if k == "seed" else k): v for k, v in PRESETS["tiny"].items()})
