import dataclasses

import pytest
import torch
from diffusers.training_utils import EMAModel
from safetensors.torch import load_file
from torch import nn

from hierphase.networks import catalogue, training
from hierphase.networks.best_weights import BestWeights


def test_the_lowest_of_the_averages_is_kept_and_the_network_is_left_alone():
    model = nn.Linear(1, 1, bias=False)
    ema = EMAModel(model.parameters(), decay=0.5)
    best = BestWeights(lambda network: abs(network.weight.item() - 3))
    for average in (0.0, 2.5, 5.0, 2.0):
        nn.init.constant_(model.weight, 7.0)
        ema.shadow_params[0].fill_(average)
        best.offer(model, ema)
        assert model.weight.item() == 7 and ema.shadow_params[0].item() == average
    assert best.lowest == pytest.approx(0.5)
    best.copy_to(model)
    assert model.weight.item() == 2.5


@pytest.fixture
def spoiled(monkeypatch):
    """A training whose third and later steps ruin the network; a checkpoint after every step."""
    original = catalogue.TRAININGS["rhm-unet-16"]
    calls = []

    def loss(model, images, labels, generator):
        sign = 1
        if torch.is_grad_enabled():
            calls.append(images)
            sign = 1 if len(calls) <= 2 else -1
        return sign * original.loss(model, images, labels, generator)

    def replace(**changes):
        changed = dataclasses.replace(
            original, checkpoint_every=1, ema_decay=0.0, loss=loss, **changes
        )
        monkeypatch.setitem(catalogue.TRAININGS, "rhm-unet-16", changed)

    monkeypatch.setattr(training, "WARM_UP_STEPS", 1)
    replace()
    return replace, calls


def weights(directory):
    return load_file(directory / "diffusion_pytorch_model.safetensors")


def test_training_ends_on_the_best_weights_also_when_it_was_killed(spoiled, tmp_path, monkeypatch):
    replace, calls = spoiled
    whole = weights(catalogue.train("rhm-unet-16", tmp_path / "whole", steps=5))
    calls.clear()
    save, saved = training.save_checkpoint, []

    def killing_save(*arguments):
        save(*arguments)
        saved.append(arguments)
        if len(saved) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(training, "save_checkpoint", killing_save)
    with pytest.raises(KeyboardInterrupt):
        catalogue.train("rhm-unet-16", tmp_path / "killed", steps=5)
    resumed = weights(catalogue.train("rhm-unet-16", tmp_path / "killed", steps=5))
    assert len(calls) == 5
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())
    best = saved[-1][-1][-1]  # of the last checkpoint
    stored = catalogue.TRAININGS["rhm-unet-16"].model()
    stored.load_state_dict({name: value.float() for name, value in whole.items()})
    for parameter, expected in zip(stored.parameters(), best.weights, strict=True):
        assert torch.equal(parameter, expected.half().float())

    calls.clear()
    replace(keep_best=False)
    last = weights(catalogue.train("rhm-unet-16", tmp_path / "last", steps=5))
    assert not all(torch.equal(value, last[name]) for name, value in whole.items())
