"""A reader's own model and images: `hierphase measure`, from Python and as a command."""

import json
import re
import shutil

import nbformat
import numpy as np
import pytest
import stand_ins
import torch
import xarray as xr
from PIL import Image
from test_conditional_models import NAMES, classes, latents, transformer

import hierphase
from hierphase.__main__ import main
from hierphase.analysis.calibration import calibration
from hierphase.analysis.transition import transition_time, unrelated_agreement
from hierphase.diffusion.datasets import digits
from hierphase.experiments import images, registry, worlds, your_model
from hierphase.experiments.your_model import OwnImages, chosen
from hierphase.runs import chapters, results

LEVELS = worlds.ln_snrs(worlds.ddpm_scheduler())[1:-1].numpy()
SMALL = {"n_times": 4, "num_inference_steps": 24}
pytestmark = pytest.mark.filterwarnings("ignore:.* changes the variance of Gaussian data")


def small(*arguments, **changes):
    return OwnImages(chosen(*arguments, **SMALL | changes))


def own_folder(folder, n=40, inside=lambda label: ""):
    """Held-out digits as files, a class after the other in turn, and a CSV of their labels."""
    data, lines = digits(), ["file,label"]
    of_class = [(data.test_labels == c).nonzero()[: n // 10 + 1] for c in range(10)]
    for i, row in enumerate(torch.cat(of_class, 1).flatten()[:n]):
        image, label = data.test_images[row], data.test_labels[row].item()
        path = folder / "mine" / inside(label) / f"{i:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(((image[0] + 1) * 127.5).round().byte().numpy()).save(path)
        lines.append(f"{path.relative_to(folder / 'mine')},{label}")
    (folder / "labels.csv").write_text("\n".join(lines))
    return folder / "mine", folder / "labels.csv"


def page(folder, output):
    """Execute the page for the sweeps of a folder, which stays as it is; what it left in output."""
    held, values = sorted(folder.iterdir()), {"measured": str(folder), "output": str(output)}
    chapters.execute(chapters.load("your-model"), values, None, folder)
    assert sorted(folder.iterdir()) == held
    return your_model.opened(output)


def test_sweeps_are_those_of_the_chapter_and_of_its_null(tmp_path):
    parameters = chosen("digits", "digits", limit=20, **SMALL)
    your_model.both_sweeps(parameters, tmp_path)
    like = {"n_per_class": 2, "n_shown": 10} | SMALL
    for preset, ours in (("digits", "measured"), ("flat-digits", "null")):
        found = results.read(tmp_path / f"your-model-{ours}.nc").drop_attrs()
        found = found.drop_vars("schedule")
        if ours == "null":
            del like["num_inference_steps"]
        expected = registry.run_sweep("imagenet-transition", preset, like, tmp_path / preset)
        xr.testing.assert_identical(found, expected.drop_attrs())


def test_the_page_reads_the_books_own_numbers(tmp_path):
    """Of stored results: t* of the chapter, its null, and the layers' crossing."""
    parameters = chosen("digits", "digits", limit=300)
    for preset, ours in (("digits", "measured"), ("flat-digits", "null")):
        stored = registry.result("imagenet-transition", preset).assign_attrs(
            fitted="x", law="draws", variance_error=0.0
        )
        stored = stored.assign(schedule=("step", LEVELS))
        if ours == "measured":  # as if the denoiser were exact
            stored["explained"] = xr.zeros_like(stored.class_probability)
        results.save(stored, "your-model", ours, parameters, tmp_path)
    own = page(tmp_path, tmp_path.with_name("left"))
    for preset, end in (("digits", ""), ("flat-digits", "_null")):
        stored = registry.result("imagenet-transition", preset)
        first = stored.top_class.isel(rank=0).transpose("time", "image").values
        chance = unrelated_agreement(first[0], first[-1])
        star = transition_time(stored.time.values, first == first[0], chance)
        assert own.estimate(f"t_star{end}") == star
        level = np.interp(1000 * star.value, np.arange(1, 1000), LEVELS)
        assert own[f"half_snr{end}"].item() == pytest.approx(level)
    assert f"{own.t_star.item():.3f}" in repr(own).splitlines()[1]
    assert own.width > 2 and own.width_per_image < own.width
    assert (own.persistence > 0.5).all() and (own.calibration == 0).all()


def test_command_interrupted_then_finished(tmp_path, monkeypatch, capsys):
    measure, done = images.ImageExperiment.measure, []

    def interrupted(self, start, stop, prepared):
        if len(done) == 1:
            raise KeyboardInterrupt
        done.append(start)
        return measure(self, start, stop, prepared)

    monkeypatch.chdir(tmp_path)
    words = ["measure", "digits", "digits", "--limit", "20", "--shard-size", "10"]
    words += ["--output", "out", "-p", "n_times", "4", "-p", "num_inference_steps", "50"]
    with monkeypatch.context() as patch:
        patch.setattr(images.ImageExperiment, "measure", interrupted)
        assert main(words) == 130
    told = capsys.readouterr().err
    assert "10 of 20 images are done" in told and "the same command goes on from there" in told
    again = []

    def counted(self, start, stop, prepared):
        again.append((self.p.null, start))
        return measure(self, start, stop, prepared)

    monkeypatch.setattr(images.ImageExperiment, "measure", counted)
    assert main(words) == 0
    assert again == [(False, 10), (True, 0), (True, 10)]
    told = capsys.readouterr().out
    assert "t*/T" in told and "report: out/report.html" in told

    out = tmp_path / "out"
    left = {path.name for path in out.iterdir() if path.is_file()}
    assert left >= {"measure.nc", "reconstructions.png", "report.html"}
    html = (out / "report.html").read_text()
    assert len(html) < 3e6 and "<script" not in html and "import json" not in html
    loaded = re.findall(r"""(?:src|href)=["']?([^"'\s>]+)|url\(([^)]+)\)|@import""", html)
    assert not [a or b for a, b in loaded if not (a or b).startswith(("#", "data:"))]
    assert "pip install" not in html and "Without labels" not in html and "(sec-" not in html
    assert not re.search(r"\{[\w:]+\}`", html), "a role that nobody resolved"
    stored = results.read(out / "measure.nc")
    assert f"{stored.t_star.item():.3f}" in html and stored.attrs["fitted"] in html
    assert json.loads(stored.parameters)["n_per_class"] == 2
    whole = registry.run_sweep("your-model", "measured", json.loads(stored.parameters), "whole")
    xr.testing.assert_identical(
        whole.drop_attrs(), results.read(out / "your-model-measured.nc").drop_attrs()
    )


def test_what_is_explained_is_the_calibration():
    experiment = small("digits", "digits", limit=20)
    measured = experiment.measure(0, 20, experiment.prepare())
    assert (measured.explained.sel(time=0) == 0).all()
    assert abs(measured.explained.sel(time=1)).max() == 0  # nothing is explained by noise alone
    inside = measured.ln_snr.values[1:-1]
    found = calibration(
        experiment.world.pipeline, experiment.world.starts(range(20))[0], inside,
        SMALL["num_inference_steps"], experiment.generators(range(20)),
    )  # fmt: skip
    means = measured.explained.mean("image").values[1:-1]
    np.testing.assert_allclose(means, [one.value for one in found], rtol=1e-4)


def test_a_dry_run_counts_and_writes_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["measure", "digits", "digits", "--limit", "30", "--dry-run", "--shard-size", "20"]
    assert main([*words, *"-p n_times 4 -p num_inference_steps 24".split()]) == 0
    told = capsys.readouterr().out
    assert not list(tmp_path.iterdir())
    experiment, rows = small("digits", "digits", limit=30), []
    unet = experiment.world.pipeline.model
    unet.register_forward_pre_hook(lambda _, given: rows.append(len(given[0])))
    for start, stop in ((0, 20), (20, 30)):
        experiment.round_trips(start, stop, experiment.times())
    assert f"calls of the denoiser: {len(rows):,} of 32 rows" in told and {*rows} == {32}
    needed = re.search(r"([\d,]+) rows are needed", told)[1].replace(",", "")
    assert int(needed) % 30 == 0 and int(needed) <= sum(rows)
    assert "(1, 8, 8)" in told and "701,345 weights" in told
    assert re.search(r"disk: 1\.\d MB", told) and "and half a minute for the report" in told
    assert re.search(r"time: [\d.e-]+ minutes", told) and re.search(r"memory: [\d.]+ GB", told)


def test_a_folder_is_what_the_data_set_is(tmp_path):
    """Grey files for a model of one channel; labelled by a CSV or by folders, the same images."""
    flat, csv = own_folder(tmp_path / "flat")
    deep, _ = own_folder(tmp_path / "deep", inside=str)
    by_csv, by_folder = small("digits", flat, csv), small("digits", deep)
    assert by_csv.p.classes == "classifier" and by_csv.p.classifier == "digits-classifier"
    a, b = (x.world.starts(range(len(x))) for x in (by_csv, by_folder))
    assert a[0].shape[1:] == (1, 8, 8) and torch.equal(a[0], b[0]) and torch.equal(a[1], b[1])
    images = digits().test_images
    apart = torch.cdist(a[0].flatten(1), images.flatten(1)).amin(1)
    assert apart.max() < 0.02  # of rounding to 8 bits
    by_csv.check()


@pytest.mark.parametrize("known", [True, False])
def test_classes_of_features(known, tmp_path):
    folder, csv = own_folder(tmp_path)
    given = {"classes": "labels"} if known else {"clusters": 5}
    experiment = small("digits", folder, csv if known else None, n_shown=0, **given)
    experiment.check()
    assert experiment.p.classes == ("labels" if known else "clusters")
    measured = experiment.measure(0, 6, experiment.prepare())
    labels = measured.label.values
    right = (measured.top_class.isel(rank=0, time=0) == labels).mean()
    assert right > 0.8 if known else (labels == -1).all()
    assert measured.sizes["class"] == (10 if known else 5)
    null, by_class = OwnImages(experiment.parameters | {"null": True}), experiment.p.n_per_class
    assert list(null.world.class_names) == null.classifier.namings[0]
    assert null.world.labels.bincount().tolist() == ([by_class] * 10 if known else [8] * 5)
    of_null = null.measure(0, 6, null.prepare())
    assert (of_null.true_class.sel(time=0) == of_null.label).all()
    assert "principal components" in null.world.about and null.files()["images"]
    assert null.fingerprint() != experiment.fingerprint()


def test_clusters_of_a_data_set(tmp_path):
    experiment = small("digits", "digits", clusters=4, limit=10)
    experiment.check()
    assert experiment.classifier.namings == [[f"cluster {k}" for k in (1, 2, 3, 4)]]


@pytest.mark.parametrize(
    ("model", "label"), [(latents, None), (classes, "kept"), (transformer, "kept")]
)
def test_other_kinds_of_models(model, label, tmp_path):
    """Latents, and models that are told classes; their null has the pixels of the images."""
    model(tmp_path / "model")
    own = stand_ins.images(tmp_path, NAMES)
    flags = {"model_flags": {"label": label}} if label else {}
    given = [own[name] for name in ("model", "images")]
    parameters = chosen(*given, classifier=own["classifier"], n_times=3, sampler="own",
                        num_inference_steps=20, **flags)  # fmt: skip
    assert parameters["layers"] == ["stages.0", "stages.1", "logits"]
    your_model.both_sweeps(parameters, tmp_path / "out", 5)
    found, null = (
        results.read(tmp_path / f"out/your-model-{preset}.nc") for preset in ("measured", "null")
    )
    assert found.sizes == null.sizes and found.sizes["image"] == 9
    assert found.explained.notnull().all() and "rows are needed" in your_model.plan(parameters)


def test_public_name_and_words(tmp_path, monkeypatch):
    """From Python: what is returned, and that it is what is left."""
    monkeypatch.chdir(tmp_path)
    few = {"limit": 10, "n_times": 3, "num_inference_steps": 50}
    own = hierphase.measure_transition("digits", "digits", output="own", **few)
    assert isinstance(own, xr.Dataset) and own.t_star_low <= own.t_star <= own.t_star_high
    xr.testing.assert_identical(own, your_model.opened("own"))
    assert {"half_snr_null", "kept_null_low", "similarity", "calibration_high"} <= {*own}
    words = repr(own).splitlines()
    assert words[0].split() == ["measured", "flat", "mixture"] and words[1].startswith("t*/T")
    assert "Dimensions:" in repr(own[["kept"]])  # a part of it shows as well
    assert nbformat.read("own/your-model.ipynb", 4).cells
    shutil.rmtree("own")


#: What is typed after `hierphase measure`, from a folder with files -> the message.
WRONG = {
    "digit digits": "no denoiser 'digit'",
    "digits nowhere": "no folder of images at nowhere",
    "digits empty": "empty holds no images (",
    "digits digits --labels labels.csv": "labels labels.csv have no effect with",
    "digits mine --labels nowhere.csv": "nowhere.csv: ",
    "digits mine --labels short.csv": "short.csv: it lists no label of images of mine: ['039.png']",
    "digits mine --labels long.csv": "long.csv: it lists files that are not in mine: ['040.png']",
    "digits mine --labels twice.csv": "twice.csv: it lists files twice: ['000.png']",
    "digits mine --labels blank.csv": "blank.csv: it lists files without a label: ['000.png']",
    "digits mine --labels columns.csv": "columns.csv: needs a line file,label",
    "digits mine --labels other.csv": "'zero'] are not each one class of the classifier",
    "digits mine --limit 41": "limit, of images in 1 classes, the smallest of 40, must be at mo",
    "digits digits --limit 9": "in 10 classes, the smallest of 43, must be at least 10, got 9",
    "digits digits --limit 10000": "must be at most 430, got 10000",
    "digits digits -p layers ['stages.7','logits']": "unknown module of the model 'stages.7'",
    "digits digits -p layer 1": "unknown parameter of a measurement 'layer'",
    "digits digits -p n_times x": "parameter n_times of a measurement is of type int",
    "digits mine --labels columns2.csv": "columns2.csv: needs a line file,label",
    "digits mine --labels good.csv --clusters 0": "clusters must be at least 1, got 0",
    "digits digits -p model mnist": "-p model has no effect",
    "digits digits --limit 50 -p n_per_class 1": "n_per_class has no effect",
    "digits digits -p null True": "null has no effect",
    "mine digits": "mine holds no model (config.json): the model comes before the images",
    "digits digits --shard-size 0": "shard_size must be at least 1, got 0",
    "digits mine --clusters 41": "clusters must be at most 40, got 41",
    "digits mine --classifier convnet": "classifier 'convnet'",
    "pickle.pt digits --limit 10": "pickle.pt",
    "digits digits --executor dsk": "unknown executor 'dsk' (did you mean 'dask'?)",
}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wrong")
    _, csv = own_folder(folder)
    lines = csv.read_text().splitlines()
    (folder / "empty").mkdir()
    torch.save({"model": torch.nn.Linear(2, 2)}, folder / "pickle.pt")
    for name, changed in {
        "short": lines[:-1],
        "long": [*lines, "040.png,1"],
        "twice": [*lines, "000.png,9"],
        "blank": [lines[0], "000.png,", *lines[2:]],
        "good": lines,
        "columns": ["name,class", *lines[1:]],
        "columns2": [f"{line},{line.split(',')[1]}" for line in lines],
        "other": [re.sub(",0$", ",zero", line) for line in lines],
    }.items():
        (folder / f"{name}.csv").write_text("\n".join(changed))
    return folder


@pytest.mark.parametrize("typed", WRONG)
def test_what_is_wrong_is_said_in_one_line(typed, files, monkeypatch, capsys):
    monkeypatch.chdir(files)
    before = sorted(files.rglob("*"))
    assert main(["measure", *typed.split(), "--dry-run"]) == 2 or "executor" in typed
    if "executor" in typed:
        assert main(["measure", *typed.split()]) == 2
    told = capsys.readouterr().err
    assert WRONG[typed] in told, told
    assert told.count("\n") == 1 and sorted(files.rglob("*")) == before
