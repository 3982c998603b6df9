"""A stand-in for ImageNet: a few JPEGs, and random weights in the formats as published."""

import adm_reference
import numpy as np
import torch
from PIL import Image

from hierphase.networks.classifiers import ConvClassifier

NAMES = ("n01443537", "other", "n01440764")


def parameters(folder):
    """Those that differ from the preset's, of files that are written into a folder."""
    for synset, shade in (("n01440764", 60), ("n01443537", 160)):
        of_class = folder / "val" / synset
        of_class.mkdir(parents=True)
        for i in range(3):
            pixels = np.random.default_rng([shade, i]).normal(shade, 30, (70 + i, 90, 3))
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(of_class / f"{i}.JPEG")
    flags = {
        "image_size": 32, "num_channels": 32, "num_res_blocks": 1, "channel_mult": (1, 2),
        "attention_resolutions": (16,), "num_head_channels": 16,
    }  # fmt: skip
    weights = adm_reference.Weights(torch.Generator().manual_seed(0))
    x, t = torch.zeros(1, 3, 32, 32), torch.zeros(1)
    adm_reference.forward(weights, x, t, None, **flags)
    torch.save(dict(weights), folder / "adm.pt")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        classifier = ConvClassifier(in_channels=3, n_classes=7, channels=(8, 8), class_names=NAMES)
        noise = torch.randn(32, 3, 32, 32).clip(-1, 1) * torch.rand(32, 1, 1, 1)
    with torch.no_grad():  # else all images are of one class
        classifier.logits.bias -= classifier.eval()(noise).mean(dim=0)
    classifier.save_pretrained(folder / "classifier")
    return {
        "images": folder / "val", "model": folder / "adm.pt", "model_flags": flags,
        "classifier": folder / "classifier", "layers": ["stages.0", "stages.1", "logits"],
        "n_per_class": 2, "num_inference_steps": 5, "n_times": 4, "precision": "bfloat16",
        "n_shown": 1, "batch_size": 4,
    }  # fmt: skip


def sweep(values):
    """The command for them, in words."""
    words = ["sweep", "imagenet-transition", "--preset", "imagenet"]
    for name, value in values.items():
        words += ["-p", name, str(value)]
    return words
