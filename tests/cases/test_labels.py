"""Classes of images against those of a classifier: a line for each kind of names."""

import dataclasses
import json

import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from PIL import Image

from hierphase.diffusion import datasets
from hierphase.diffusion.datasets import DIGIT_CLASSES, FASHION_MNIST_CLASSES
from hierphase.diffusion.image_folder import image_folder
from hierphase.diffusion.labels import IMAGENET_SYNSETS, class_indices
from hierphase.experiments import registry
from hierphase.experiments.images import ImageExperiment
from hierphase.networks.catalogue import TRAININGS, model_directory
from hierphase.networks.classifiers import ConvClassifier, PublishedClassifier
from hierphase.networks.training import run

#: Each with its number in the 1000, for a few from a second source (keras).
KNOWN = {
    "n01440764": 0, "n02321529": 329, "n02504458": 386, "n03000684": 491, "n03445777": 574,
    "n03534580": 601,
}  # fmt: skip
INDICES = list(map(str, range(1000)))
IMAGENET = PublishedClassifier(
    torch.nn.Identity(),
    torch.nn.Identity(),
    [[*"tgs", "crane", *map("c{}".format, range(995)), "crane"], IMAGENET_SYNSETS, INDICES],
    torch.nn.Identity(),
)
PETS = ConvClassifier(n_classes=4, channels=(8,), class_names=("cat", "Dog", "guinea pig"))
BARE = ConvClassifier(n_classes=12, channels=(8,))
ONE_BASED = ConvClassifier(n_classes=3, channels=(8,), class_names=("1", "2", "3"))


def test_synsets_are_the_thousand_of_imagenet():
    assert len(set(IMAGENET_SYNSETS)) == 1000 and sorted(IMAGENET_SYNSETS) == IMAGENET_SYNSETS
    assert {name: IMAGENET_SYNSETS.index(name) for name in KNOWN} == KNOWN


@pytest.mark.parametrize(
    ("names", "classifier", "expected"),
    [
        (IMAGENET_SYNSETS, IMAGENET, list(range(1000))),
        (list(KNOWN), IMAGENET, list(KNOWN.values())),
        (list(map(str, range(1000))), IMAGENET, list(range(1000))),
        (["0", "217", "999"], IMAGENET, [0, 217, 999]),
        (["c5", "t"], IMAGENET, [9, 0]),
        (["guinea_pig", "dog"], PETS, [2, 1]),
        (["CAT", "3"], PETS, [0, 3]),  # a class without a name has its index
        (["10", "2", "009"], BARE, [10, 2, 9]),
        (["03", "1"], ONE_BASED, [2, 0]),
    ],
)
def test_names_are_matched(names, classifier, expected):
    assert class_indices(names, classifier.namings) == expected


@pytest.mark.parametrize(
    ("names", "classifier", "message"),
    [
        (
            ["cat", "horse"],
            PETS,
            r"\['horse'\] are not each .* have 2, \['cat', 'horse'\], it has 4, \['cat'",
        ),
        (
            ["cat", "cow"],
            BARE,
            r"it has 12, \['0', '1', '2', '3', '4', '5', ...\]; .* classes.json",
        ),
        (["cat", "Cat"], PETS, r"\['cat', 'Cat'\] are not each one class"),
        (["crane"], IMAGENET, r"\['crane'\] are not each"),  # a bird and a machine
        (["n01440764", "t"], IMAGENET, "are not each"),  # not of one naming
        (["n00000000"], IMAGENET, r"'n01440764'.* or \['0'"),
        (["12"], BARE, r"\['12'\] are not"),
        (["0"], PETS, r"\['0'\] are not"),
        (["0"], ONE_BASED, r"\['0'\] are not"),
        ([f"x{i}" for i in range(999)], PETS, r"\['x0', 'x1', 'x2', 'x3', 'x4', 'x5', ...\]"),
    ],
)
def test_what_cannot_be_matched_shows_both_sides(names, classifier, message):
    with pytest.raises(ValueError, match=message) as caught:
        class_indices(names, classifier.namings)
    assert len(str(caught.value)) < 500


def grey_folder(path, levels):
    """A folder of images of one grey level for each class, all different files."""
    for name, level in levels.items():
        (path / name).mkdir(parents=True)
        for k in range(2):
            Image.new("RGB", (8, 8), (level + k,) * 3).save(path / name / f"{k}.png")
    return path


@pytest.mark.parametrize(
    ("levels", "mapping", "names"),
    [
        (dict.fromkeys(map(str, range(1000)), 0), None, tuple(map(str, range(1000)))),
        (dict.fromkeys(["10", "9", "x"], 0), None, ("10", "9", "x")),
        (dict.fromkeys(["b", "a"], 0), {"a": "zebra", "other": "cow"}, ("zebra", "b")),
        (dict.fromkeys(["b", "a"], 0), {"a": 7}, ("7", "b")),
    ],
)
def test_classes_of_a_folder_are_in_order_and_have_the_names_of_the_map(
    tmp_path, levels, mapping, names
):
    if mapping is not None:
        (tmp_path / "classes.json").write_text(json.dumps(mapping))
    folder = image_folder(grey_folder(tmp_path, levels), 1, 8)
    assert folder.class_names == names and folder.rejected == {}
    assert folder.labels.tolist() == list(range(len(names)))


@pytest.mark.parametrize("text", ["", "{", "[1]", "null", '"a"', "\xff"])
def test_a_map_that_is_none_is_refused(tmp_path, text):
    (grey_folder(tmp_path, {"a": 0}) / "classes.json").write_text(text, encoding="latin-1")
    with pytest.raises(ValueError, match=r"classes.json must be JSON like .*\"tench\""):
        image_folder(tmp_path, 1, 8)


class Grey(torch.nn.Module):
    """Tells the ten classes of images of grey 25 k apart, without fault."""

    def __init__(self, namings):
        super().__init__()
        self.namings, self.grey, self.logits = namings, torch.nn.Identity(), torch.nn.Identity()

    def forward(self, images):
        grey = self.grey(images.mean((1, 2, 3), keepdim=True)[:, :, 0, 0] + 1) * 127.5
        return self.logits(-((grey - 25 * torch.arange(10)) ** 2) / 100)


@pytest.mark.parametrize("classes", [(7, 2, 9), tuple(range(10)), (4,)])
def test_a_classifier_that_is_right_on_ten_is_right_on_some_of_them(tmp_path, monkeypatch, classes):
    names = [f"{letter}-class" for letter in "qwertzuiop"]
    grey_folder(tmp_path / "images", {names[k]: 25 * k for k in classes})
    unet = UNet2DModel(
        8, 3, 3, block_out_channels=(8,), norm_num_groups=8, layers_per_block=1,
        down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",), add_attention=False,
    )  # fmt: skip
    DDPMPipeline(unet, DDPMScheduler()).save_pretrained(tmp_path / "model")
    changes = {
        "images": str(tmp_path / "images"), "model": str(tmp_path / "model"), "n_per_class": 2,
        "n_times": 1, "n_shown": 0, "num_inference_steps": 2, "layers": ["grey", "logits"],
    }  # fmt: skip
    monkeypatch.setattr(ImageExperiment, "classifier", Grey([names]))
    experiment = ImageExperiment(registry.all_parameters("imagenet-transition", "digits", changes))
    measured = experiment.measure(0, len(experiment), experiment.prepare())
    assert measured.label.values.tolist() == sorted(classes, key=names.__getitem__) * 2
    assert (measured.top_class[0, :, 0] == measured.label).all()
    assert measured.class_name.values.tolist() == names

    mapped = {name: names[9 - names.index(name)] for name in experiment.world.class_names}
    (tmp_path / "images" / "classes.json").write_text(json.dumps(mapped))
    other = ImageExperiment(experiment.parameters)
    assert other.classes.tolist() == [9 - i for i in experiment.classes.tolist()]
    assert other.fingerprint() != experiment.fingerprint()  # another sweep

    monkeypatch.setattr(ImageExperiment, "classifier", Grey([names[:4]]))
    del experiment.classes
    with pytest.raises(ValueError, match="are not each one class of the classifier"):
        experiment.check()


@pytest.mark.parametrize("name", ["digits-classifier", "fashion-mnist-classifier"])
def test_classifiers_of_the_book_know_their_classes(name):
    expected = DIGIT_CLASSES if "digits" in name else FASHION_MNIST_CLASSES
    stored = ConvClassifier.from_pretrained(model_directory(name))
    assert stored.namings == [list(expected)]


def test_a_trained_classifier_knows_the_classes_of_its_data(tmp_path):
    data = datasets.digits()
    named = dataclasses.replace(data, class_names=tuple("abcdefghij"))
    short = dataclasses.replace(TRAININGS["digits-classifier"], data=lambda: named)
    run(short, "digits-classifier", tmp_path / "new", steps=1, seed=0)
    assert ConvClassifier.from_pretrained(tmp_path / "new").namings == [list("abcdefghij")]
