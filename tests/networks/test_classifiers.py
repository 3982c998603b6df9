import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.neighbors import NearestCentroid

from hierphase.diffusion.datasets import digits
from hierphase.networks.catalogue import model_directory
from hierphase.networks.classifiers import ConvClassifier, class_probabilities, nearest_mean


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


def featured():
    classifier = ConvClassifier.from_pretrained(model_directory("digits-classifier"))
    images = digits().test_images[:120]
    with torch.no_grad():
        return classifier, images, classifier.features(images).numpy()


def test_the_nearest_mean_of_labelled_features():
    classifier, images, features = featured()
    labels = digits().test_labels[:120]
    names = [f"a {k}" for k in range(10)]
    judge = nearest_mean(classifier, images.split(50), names, labels)
    expected = NearestCentroid().fit(features, labels.numpy()).predict(features)
    assert class_probabilities(judge, images).argmax(1).tolist() == expected.tolist()
    assert judge.namings == [names]


def test_clusters_are_those_of_k_means_and_logits_those_of_round_gaussians():
    classifier, images, features = featured()
    judge = nearest_mean(classifier, [images], n_clusters=6)
    means = KMeans(6, n_init=10, random_state=0).fit(features.astype(float))
    found = class_probabilities(judge, images)
    assert found.argmax(1).tolist() == means.labels_.tolist()
    apart = torch.cdist(torch.tensor(features), torch.tensor(means.cluster_centers_).float())
    variance = apart.amin(1).square().sum() / features.size
    expected = (-apart.square() / (2 * variance)).softmax(1)
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)
    with pytest.raises(ValueError, match="clusters must be at most 120, got 121"):
        nearest_mean(classifier, [images], n_clusters=121)
