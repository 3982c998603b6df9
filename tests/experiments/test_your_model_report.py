"""What a measurement of a reader's own refuses, and what its report does not claim."""

import json
import re

import pytest
import stand_ins
import torch
from test_your_model import SMALL, own_folder, small

import hierphase
from hierphase.analysis.bootstrap import Estimate
from hierphase.experiments import your_model
from hierphase.experiments.your_model import chosen
from hierphase.runs import chapters, results

pytestmark = pytest.mark.filterwarnings("ignore:.* changes the variance of Gaussian data")


def glued(folder, output, monkeypatch):
    """What the page makes of the sweeps of a folder: its words by name, and its numbers."""
    words = {}
    monkeypatch.setattr("myst_nb.glue", lambda name, x, display: words.update({name[4:]: x}))
    chapter = chapters.load("your-model")
    names = chapter.defaults | {"measured": str(folder), "output": str(output)}
    output.mkdir()
    for cell in chapter.notebook.cells:
        tags = cell.metadata.get("tags", [])
        if cell.cell_type == "code" and "parameters" not in tags:
            exec(cell.source, names)
        if "own-named" in cell.source:
            return words, names["own"]


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """The sweeps of thirty digits, and how to change what they hold."""
    folder, levels = tmp_path_factory.mktemp("swept"), {"n_times": 10, "num_inference_steps": 30}
    your_model.both_sweeps(chosen("digits", "digits", limit=30, **levels), folder)

    def changed(to, change):
        to.mkdir()
        for preset in ("measured", "null"):
            one = results.read(folder / f"your-model-{preset}.nc")
            parameters = json.loads(one.parameters)
            results.save(change(one, preset), "your-model", preset, parameters, to)
        return to

    return changed


def test_the_report_says_what_the_sampler_does(swept, tmp_path, monkeypatch):
    few, _ = glued(swept(tmp_path / "a", lambda one, preset: one), tmp_path / "b", monkeypatch)
    assert few["law"] == "which draws noise on the way"
    assert "In 30 steps" in few["variance"] and "+11.1%: too much, take more" in few["variance"]
    assert re.search(r"which would miss up to \d+\.\d nats|does not draw from", few["calibrated"])


def test_a_deterministic_sampler_gets_no_verdict(tmp_path, monkeypatch):
    parameters = chosen("digits", "digits", limit=20, sampler="dpm++-2m", **SMALL)
    your_model.both_sweeps(parameters, tmp_path / "a")
    words, own = glued(tmp_path / "a", tmp_path / "b", monkeypatch)
    assert own.law == "deterministic" and "does not apply" in words["calibrated"]
    assert "not compared, as the mixture draws" in words["told-apart"]


def test_what_few_images_or_one_class_tell_is_not_found(swept, tmp_path, monkeypatch):
    two = swept(tmp_path / "two", lambda one, preset: one.isel(image=[0, 1], shown=[0, 1]))
    words, own = glued(two, tmp_path / "left-two", monkeypatch)
    assert "too few images" in words["calibrated"]
    for name in ("t_star", "half_snr", "width", "width_per_image", "crossing"):
        assert own[name].isnull() and own[f"{name}_high"].isnull()
    assert own.persistence.isnull().all() and own.matched.item() < 8
    assert "not found" in own.table().to_string() and "nan" not in own.table().to_string()

    def in_one_class(one, preset):
        return one.assign(top_class=one.top_class * 0) if preset == "measured" else one

    words, own = glued(swept(tmp_path / "one", in_one_class), tmp_path / "left-one", monkeypatch)
    assert own.t_star.isnull() and own.t_star_null.notnull()
    assert "puts all of these images into one class" in words["told-apart"]


def test_levels_that_do_not_span_the_fall_give_no_width(swept, tmp_path, monkeypatch):
    """At the least noise that there is, a fifth of the classes have gone."""

    def late(one, preset):
        first = one.top_class.transpose("time", "image", "rank").copy(deep=True)
        first[1, ::5] = (first[0, ::5] + 1) % 10
        return one.assign(top_class=first)

    _, own = glued(swept(tmp_path / "a", late), tmp_path / "b", monkeypatch)
    assert own.width_per_image.isnull() and own.width.isnull() and own.t_star.notnull()


def test_numbers_are_told_apart_by_the_ends_that_face_each_other(swept, tmp_path, monkeypatch):
    """0.81 (-2.82 to 3.07) and -5.39 (-8.70 to 0.99) are not: 6.2 is less than 7.3."""
    numbers = {"half_snr": (0.81, -2.82, 3.07), "half_snr_null": (-5.39, -8.70, 0.99)}
    estimate = your_model.Measurement.estimate

    def skewed(self, name):
        return Estimate(*numbers[name]) if name in numbers else estimate(self, name)

    monkeypatch.setattr(your_model.Measurement, "estimate", skewed)
    same = swept(tmp_path / "a", lambda one, preset: one)
    words, _ = glued(same, tmp_path / "b", monkeypatch)
    assert words["told-apart"] == "no difference that the intervals can tell"
    numbers["half_snr_null"] = (-5.39, -8.70, -1.39)
    words, _ = glued(same, tmp_path / "c", monkeypatch)
    assert words["told-apart"] == "later than the model"


def test_what_python_gives_is_checked(tmp_path):
    model = stand_ins.unet()
    for wrong, message in {
        (model, "digits"): "must be names or paths, got <class '.*UNet2DModel'>",
        ("digits", torch.zeros(2, 1, 8, 8)): "must be names or paths, got <class 'torch.Tensor'>",
    }.items():
        with pytest.raises(ValueError, match=message):
            chosen(*wrong)
    with pytest.raises(ValueError, match="must be names or paths, got <class 'list'>"):
        chosen("digits", tmp_path, [0, 1])
    for name, value in (("n_per_class", 3), ("null", True)):
        with pytest.raises(ValueError, match=f"{name} has no effect: arguments and limit"):
            chosen("digits", "digits", **{name: value})
    with pytest.raises(ValueError, match="what open_executor gives, or None, got 'processes'"):
        hierphase.measure_transition("digits", "digits", executor="processes")


def test_one_wrong_label_does_not_discard_the_rest(tmp_path):
    folder, _ = own_folder(tmp_path)
    lines = [f"{i:03}.png,{int(i == 7)}" for i in range(40)]
    (tmp_path / "labels.csv").write_text("\n".join(["file,label", *lines]))
    given = "digits", folder, tmp_path / "labels.csv"
    with pytest.raises(ValueError, match="class '1' has 1 of 40 usable images, and each class"):
        chosen(*given, classes="labels")
    assert chosen(*given, classes="labels", limit=2)["n_per_class"] == 1


def test_a_damaged_file_is_not_counted(tmp_path):
    folder, _ = own_folder(tmp_path, 11)
    (folder / "004.png").write_bytes((folder / "004.png").read_bytes()[:60])
    experiment = small("digits", folder, clusters=2)
    with pytest.warns(UserWarning, match="1 files of .* are no usable images"):
        assert len(experiment) == 10


def test_files_of_labels_by_any_path(tmp_path):
    folder, _ = own_folder(tmp_path, 4)
    files = ["./000.png", str(folder / "001.png"), "002.png", "./003.png"]
    (tmp_path / "labels.csv").write_text("\n".join(["file,label", *(f"{f},1" for f in files)]))
    assert chosen("digits", folder, tmp_path / "labels.csv", clusters=2)["n_per_class"] == 4
