import dataclasses

import pytest
import torch
from safetensors.torch import load_file

from hierphase.networks import catalogue, training


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
    for parameter, expected in zip(stored.parameters(), best.shadow_params, strict=True):
        assert torch.equal(parameter, expected.half().float())

    calls.clear()
    replace(keep_best=False)
    last = weights(catalogue.train("rhm-unet-16", tmp_path / "last", steps=5))
    assert not all(torch.equal(value, last[name]) for name, value in whole.items())
