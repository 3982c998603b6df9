import numpy as np
import pytest
import torch
from torch import nn

from hierphase.analysis.representations import (
    Moments,
    Standardiser,
    activations,
    fit_standardisers,
    layer_similarity,
)
from hierphase.networks.classifiers import ConvClassifier

LAYERS = ["stages.0", "stages.1", "logits"]


@pytest.fixture(scope="module")
def model():
    return ConvClassifier(channels=(8, 16)).eval()


@pytest.fixture(scope="module")
def images():
    return torch.randn(7, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def hooks(model):
    return sum(len(module._forward_hooks) for module in model.modules())


def test_activations_are_the_modules_outputs_in_one_pass(model, images):
    calls = []
    counter = model.register_forward_pre_hook(lambda module, inputs: calls.append(len(inputs[0])))
    layers = activations(model, images, LAYERS, batch_size=3)
    counter.remove()
    assert calls == [3, 3, 1]
    with torch.no_grad():
        low = model.stages[0](images)
        high = model.stages[1](low)
    torch.testing.assert_close(layers["stages.0"], low)
    torch.testing.assert_close(layers["stages.1"], high)
    torch.testing.assert_close(layers["logits"], model(images).detach())
    assert list(layers) == LAYERS
    assert hooks(model) == 0


def test_hooks_are_removed_when_the_model_fails(model):
    with pytest.raises(ValueError, match=r"cannot take images, torch.float32 of shape \(2, 3, 8"):
        activations(model, torch.zeros(2, 3, 8, 8), LAYERS)
    assert hooks(model) == 0


def test_modules_that_give_no_tensor_per_image_are_refused(images):
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.idle = nn.Flatten(), nn.Flatten()

        def forward(self, x):
            return self.used(x) + self.used(x)

    for name in ("used", "idle"):
        with pytest.raises(ValueError, match=f"module '{name}' does not give one tensor"):
            activations(Twice(), images, [name])


def test_bad_requests_are_named(model, images):
    with pytest.raises(
        ValueError,
        match=r"module of the model 'stage.0' .did you mean 'stages.0'.*known: stages, stages.0",
    ):
        activations(model, images, ["logits", "stage.0"])
    with pytest.raises(ValueError, match="at least one name"):
        activations(model, images, [])
    with pytest.raises(ValueError, match="and 0"):
        activations(model, images[:0], LAYERS)
    with pytest.raises(ValueError, match=r"samples must be of shape \(n_times, 7, 1, 8, 8\), got"):
        layer_similarity(model, images, images[None, :5], {})
    with pytest.raises(ValueError, match="at least 2 activations per channel, got 1"):
        fit_standardisers(model, [images[:1]], ["logits"])


def test_standardised_layers_have_zero_mean_and_unit_variance_per_channel(images):
    maps = images.expand(7, 3, 8, 8) * torch.tensor([1.0, 5.0, 0.0]).view(3, 1, 1) + 4
    moments = Moments()
    for batch in maps.split(2):
        moments.update(batch)
    flat = moments.standardiser()(maps).reshape(7, 3, 64).movedim(1, 0).reshape(3, -1)
    torch.testing.assert_close(flat.mean(dim=1), torch.zeros(3), rtol=0, atol=1e-5)
    torch.testing.assert_close(flat.std(dim=1, correction=0), torch.tensor([1.0, 1.0, 0.0]))


def test_streamed_moments_survive_a_large_mean():
    generator = torch.Generator().manual_seed(4)
    values = torch.randn(1000, 5, generator=generator, dtype=torch.float64) * 1e-3 + 1e6
    moments = Moments()
    for batch in values.split([1, 9, 490, 500]):
        moments.update(batch)
    expected = values.std(dim=0, correction=0)
    torch.testing.assert_close(moments.standardiser().std.double(), expected, rtol=1e-5, atol=0)
    naive = ((values.square().mean(dim=0) - values.mean(dim=0).square()).clamp(min=0)).sqrt()
    assert ((naive - expected).abs() > 0.01 * expected).any()  # what streaming sums would give


def test_the_papers_normalisation_divides_by_the_root_mean_square():
    layer = torch.tensor([[1.0, 10.0], [3.0, 12.0]])
    scale = Standardiser(mean=torch.tensor([2.0, 11.0]), std=torch.tensor([1.0, 1.0]))
    torch.testing.assert_close(scale(layer), torch.tensor([[-1.0, -1.0], [1.0, 1.0]]))
    rms = torch.tensor([5.0, 122.0]).sqrt()  # of the two columns
    torch.testing.assert_close(scale(layer, uncentred=True), scale(layer) / rms)


def test_similarity_against_numpy(model, images):
    generator = torch.Generator().manual_seed(1)
    samples = torch.stack([images, -images, torch.randn(images.shape, generator=generator)])
    reference = torch.randn(50, 1, 8, 8, generator=generator)
    scales = fit_standardisers(model, reference.split(20), LAYERS)
    similarity = layer_similarity(model, images, samples, scales, batch_size=3)
    assert similarity.cosine.shape == similarity.distance.shape == (3, 3, 7)
    torch.testing.assert_close(similarity.cosine[:, 0], torch.ones(3, 7))
    torch.testing.assert_close(similarity.distance[:, 0], torch.zeros(3, 7), rtol=0, atol=1e-5)
    with torch.no_grad():
        maps = [model.stages[0](x).numpy() for x in (images, samples[2], reference)]
        logits = [model(x).numpy() for x in (images, samples[2], reference)]
    for layer, (first, second, known), axes in ((0, maps, (0, 2, 3)), (2, logits, 0)):
        mean, std = known.mean(axes, keepdims=True), known.std(axes, keepdims=True)
        a = ((first - mean) / std).reshape(7, -1)
        b = ((second - mean) / std).reshape(7, -1)
        expected = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
        np.testing.assert_allclose(similarity.cosine[layer, 2].numpy(), expected, atol=1e-5)
        expected = np.linalg.norm(a - b, axis=1) / np.sqrt(a.shape[1])
        np.testing.assert_allclose(similarity.distance[layer, 2].numpy(), expected, rtol=1e-4)
