"""Against a stand-in for torchvision everywhere, against torchvision itself where it is."""

import enum
import sys
from types import ModuleType
from urllib.error import URLError

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from hierphase.analysis.representations import activations
from hierphase.networks.classifiers import PAPER_LAYERS, torchvision_classifier

try:
    import torchvision
except (ImportError, RuntimeError) as error:
    torchvision, why = None, f"torchvision cannot be imported here: {error}"
needs_torchvision = pytest.mark.skipif(torchvision is None, reason=why if not torchvision else "")


def random_images(n, height, width, seed=0):
    return torch.rand(n, 3, height, width, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def build(name="tiny"):
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(4, 5),
    )  # fmt: skip


class TinyWeights(enum.Enum):
    """Like torchvision's: two published sets that want different sizes, the second the default."""

    IMAGENET1K_V1 = 8
    IMAGENET1K_V2 = 9
    DEFAULT = 9

    @property
    def meta(self):
        return {"categories": ["tench", "goldfish", "shark", "crane", "crane"]}

    @property
    def url(self):
        return f"https://weights.invalid/tiny-{self.value}.pth"

    def transforms(self):
        return nn.Upsample((self.value, self.value), mode="bilinear")

    def get_state_dict(self, check_hash, weights_only):
        assert check_hash
        assert weights_only
        if self is TinyWeights.IMAGENET1K_V2:
            raise URLError("no network")
        return published_state()


def published_state():
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(5)
        return build().state_dict()


@pytest.fixture
def stand_in(monkeypatch):
    """A torchvision that knows one tiny model."""
    models = ModuleType("torchvision.models")
    models.list_models = lambda module, exclude: ["tiny"] if module is models else []
    models.get_model = build
    models.get_model_weights = lambda name: TinyWeights
    package = ModuleType("torchvision")
    package.models = models
    monkeypatch.setitem(sys.modules, "torchvision", package)
    monkeypatch.setitem(sys.modules, "torchvision.models", models)
    return models


def sees(classifier, weights):
    """Whether the network of a classifier is given what these weights' transform makes."""
    images, given = random_images(2, 12, 17), []
    hook = classifier.network.register_forward_pre_hook(lambda _, inputs: given.extend(inputs))
    classifier(images)
    hook.remove()
    return len(given) == 1 and torch.equal(given[0], weights.transforms()((images + 1) / 2))


@pytest.mark.parametrize("shape", [(2, 1, 8, 8), (3, 8, 8)])
def test_other_shapes_are_refused(stand_in, shape):
    with pytest.raises(ValueError, match=r"\(n, 3, height, width\), got \(.*8, 8\)"):
        torchvision_classifier("tiny")(torch.zeros(shape))


# --- weights


def same_state(network, state):
    return all(torch.equal(value, state[name]) for name, value in network.state_dict().items())


def test_random_weights_are_always_the_same_and_leave_the_global_stream_alone(stand_in):
    first = torchvision_classifier("tiny")
    torch.rand(1)  # the global stream moves on
    before = torch.get_rng_state()
    second = torchvision_classifier("tiny")
    assert torch.equal(torch.get_rng_state(), before)
    assert same_state(first.network, second.network.state_dict())
    assert sees(first, TinyWeights.DEFAULT) and not first.training
    images = random_images(3, 20, 30).requires_grad_()
    first(images).sum().backward()
    assert images.grad.abs().sum() > 0
    layers = activations(first, images, ["network.0", "logits"])
    assert torch.equal(layers["logits"], first(images))


def test_published_weights_bring_their_own_sizes(stand_in):
    classifier = torchvision_classifier("tiny", "IMAGENET1K_V1")
    assert same_state(classifier.network, published_state())
    assert sees(classifier, TinyWeights.IMAGENET1K_V1)
    message = r"IMAGENET1K_V2 of tiny cannot be downloaded from https://.*tiny-9.pth .*no network"
    with pytest.raises(FileNotFoundError, match=message):
        torchvision_classifier("tiny", "IMAGENET1K_V2")


@pytest.mark.parametrize(
    ("name", "preset"),
    [("tiny-8.pth", "IMAGENET1K_V1"), ("mine.pt", "DEFAULT"), ("mine.safetensors", "DEFAULT")],
)
def test_weights_are_read_from_a_file(stand_in, tmp_path, name, preset):
    path = tmp_path / name
    save = save_file if path.suffix == ".safetensors" else torch.save
    save(published_state(), path)
    for weights in (path, str(path)):
        classifier = torchvision_classifier("tiny", weights)
        assert same_state(classifier.network, published_state())
        assert sees(classifier, TinyWeights[preset])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "holds a list, not names and tensors"),
        ({"0.weight": torch.zeros(4, 3, 3, 3)}, r"not fit tiny: 8 missing \(0.bias, 1.bias, .*\)$"),
        ({"module.0.bias": torch.zeros(4)}, r"9 missing .*; 1 unexpected \(module.0.bias\)$"),
        ({"0.bias": torch.zeros(7)}, r"of another shape \(0.bias: \(7,\) instead of \(4,\)\)$"),
    ],
)
def test_a_file_that_holds_something_else_is_refused(stand_in, tmp_path, content, message):
    torch.save(content, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=rf"other.pth.*{message}"):
        torchvision_classifier("tiny", tmp_path / "other.pth")


def test_unknown_names_are_refused(stand_in, tmp_path):
    with pytest.raises(ValueError, match="unknown classifier 'huge'; known: tiny"):
        torchvision_classifier("huge")
    message = r"of tiny and no path .* 'IMAGENET1K_V3'.*known: IMAGENET1K_V1, IMAGENET1K_V2$"
    with pytest.raises(ValueError, match=message):
        torchvision_classifier("tiny", "IMAGENET1K_V3")
    with pytest.raises(FileNotFoundError, match=r"no checkpoint .*nowhere.pth"):
        torchvision_classifier("tiny", tmp_path / "nowhere.pth")


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (None, "No module named 'torchvision'|import of torchvision halted"),
        ("raise RuntimeError('operator torchvision::nms does not exist')", "torchvision::nms"),
    ],
)
def test_without_torchvision_the_error_says_what_to_install(tmp_path, monkeypatch, source, reason):
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, name)
    if source is None:
        monkeypatch.setitem(sys.modules, "torchvision", None)
    else:
        (tmp_path / "torchvision").mkdir()
        (tmp_path / "torchvision/__init__.py").write_text(source)
        monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(
        ImportError, match=rf"beside torch {torch.__version__[:4]}.*{reason}.*install"
    ):
        torchvision_classifier("convnext_base")


# --- torchvision itself


def test_paper_has_41_layers():
    assert len(set(PAPER_LAYERS)) == len(PAPER_LAYERS) == 41


@needs_torchvision
def test_paper_layers_are_those_of_convnext_base():
    classifier = torchvision_classifier("convnext_base")
    images = random_images(2, 64, 64)
    layers = activations(classifier, images, PAPER_LAYERS)
    maps = [tuple(layer.shape[1:]) for layer in layers.values()]
    assert maps == [
        *[(128, 56, 56)] * 4, *[(256, 28, 28)] * 4, *[(512, 14, 14)] * 28, *[(1024, 7, 7)] * 4,
        (1000,),
    ]  # fmt: skip
    # every layer of the network once, in order: the last child of each stage is the stage's output
    stages = activations(classifier, images, [f"network.features.{i}" for i in range(8)])
    for stage, layer in [(1, "1.2"), (3, "3.2"), (5, "5.26"), (7, "7.2")]:
        assert torch.equal(stages[f"network.features.{stage}"], layers[f"network.features.{layer}"])
    network = torchvision.models.convnext_base()
    network.load_state_dict(classifier.network.state_dict())
    transform = torchvision.models.ConvNeXt_Base_Weights.IMAGENET1K_V1.transforms()
    with torch.no_grad():
        torch.testing.assert_close(network.eval()(transform((images + 1) / 2)), layers["logits"])


@needs_torchvision
def test_networks_see_what_their_published_weights_want(monkeypatch):
    monkeypatch.setattr(torchvision.models, "get_model", lambda name: nn.Identity())
    images = random_images(1, 70, 91).requires_grad_()
    done = set()
    for name in torchvision.models.list_models(module=torchvision.models):
        if name.startswith(("googlenet", "inception", "densenet", "convnext_base")):
            continue
        for weights in torchvision.models.get_model_weights(name):
            preset = weights.transforms()
            if str(preset) in done:
                continue
            done.add(str(preset))
            monkeypatch.setattr(type(weights), "get_state_dict", lambda self, **options: {})
            seen = torchvision_classifier(name, weights.name)(images)
            assert seen.requires_grad and seen.shape[2:] == tuple(preset.crop_size * 2)
            assert torch.equal(seen, preset((images + 1) / 2))
    assert len(done) > 10


@needs_torchvision
@pytest.mark.parametrize("name", ["resnet50", "resnet152", "wide_resnet50_2"])
def test_residual_networks_by_name(name, tmp_path):
    classifier = torchvision_classifier(name)
    images = random_images(1, 32, 48)
    layers = activations(classifier, images, ["network.layer1", "network.layer4.2", "logits"])
    assert [tuple(layer.shape[1:]) for layer in layers.values()] == [
        (256, 56, 56), (2048, 7, 7), (1000,),
    ]  # fmt: skip
    torch.save(classifier.network.state_dict(), tmp_path / "mine.pth")
    again = torchvision_classifier(name, tmp_path / "mine.pth")
    with torch.no_grad():
        assert torch.equal(again(images), layers["logits"])


@needs_torchvision
@pytest.mark.parametrize("name", ["googlenet", "inception_v3", "densenet121", "fcn_resnet50"])
def test_what_torchvision_builds_differently_is_not_offered(name):
    with pytest.raises(ValueError, match=f"unknown classifier '{name}'.*known: .*convnext_base"):
        torchvision_classifier(name)
