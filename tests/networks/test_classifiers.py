import torch

from hierphase.diffusion.datasets import digits
from hierphase.networks.catalogue import model_directory
from hierphase.networks.classifiers import ConvClassifier, class_probabilities


def test_the_books_classifier_recognises_held_out_digits():
    data = digits()
    model = ConvClassifier.from_pretrained(model_directory("digits-classifier"))
    predicted = class_probabilities(model, data.test_images).argmax(dim=1)
    assert (predicted == data.test_labels).float().mean() >= 0.97


def test_stages_halve_the_map_and_logits_follow_the_average():
    model = ConvClassifier(in_channels=3, n_classes=4, channels=(8, 16, 24)).eval()
    assert {"stages.0", "stages.1", "stages.2", "logits"} <= dict(model.named_modules()).keys()
    images = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    maps = images
    for stage, shape in zip(model.stages, [(8, 16, 16), (16, 8, 8), (24, 4, 4)], strict=True):
        maps = stage(maps)
        assert maps.shape == (2, *shape)
    assert torch.allclose(model(images), model.logits(maps.mean((2, 3))))
    assert model(images).shape == (2, 4)


def test_saved_classifier_is_safetensors_and_comes_back(tmp_path):
    model = ConvClassifier(n_classes=3, channels=[16, 8])
    model.save_pretrained(tmp_path)
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".safetensors"}
    images = torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    loaded = ConvClassifier.from_pretrained(tmp_path)
    probabilities = class_probabilities(loaded, images, batch_size=2)
    expected = model.eval()(images).exp()
    expected = (expected / expected.sum(dim=1, keepdim=True)).detach()
    torch.testing.assert_close(probabilities, expected, rtol=1e-5, atol=1e-6)
    assert not probabilities.requires_grad
