"""Whether a trained denoiser of images draws from the posterior: `calibration` beside its nulls.

    python benchmarks/calibrated.py digits [N_IMAGES] [--write]

Four rows at each of three levels of noise (ln SNR), in thousandths of a nat for each number of an
image, with 95% intervals over images: the denoiser on images that were held out and on some that
it was trained on; and, of images drawn from the flat mixture that is fitted to the data set, the
mixture's exact denoiser, and one whose evidence counts for 0.8 of itself. All go through the same
sampler. --write leaves that as calibration.csv beside the model of the book. 200 images of
Fashion-MNIST take five minutes of one core, 450 digits two.
"""

import sys
from types import SimpleNamespace

import diffusers
import numpy as np
import pandas as pd
import torch
from torch.nn.functional import pixel_unshuffle

from hierphase import ForwardBackwardPipeline, calibration
from hierphase.diffusion.datasets import DATASETS
from hierphase.diffusion.model_folders import load_model, load_scheduler
from hierphase.experiments import worlds
from hierphase.experiments.sources import open_source
from hierphase.networks.catalogue import model_directory
from hierphase.rhm.bayes_denoiser import BayesDenoiser
from hierphase.seeds import derived_generator

LEVELS = [2.0, 0.0, -2.0]
TEMPERED = 0.8


class ExactMixture(BayesDenoiser):
    """The exact denoiser of a Gaussian mixture; evidence may count for a share of itself only."""

    def __init__(self, law, scheduler, share=1.0):
        super().__init__(law, scheduler)
        self.share = share

    def __call__(self, x_t, t):
        """As of its base: the mean of x_0 given x_t."""
        alpha, sigma = self.parametrisation.level(t)
        snr = self.share * (alpha / sigma) ** 2
        seen = snr / (1 + snr)  # abar at which x_t / alpha has this SNR
        rows, law = (x_t / alpha).flatten(1).double(), self.bp
        posterior = law.class_posterior(seen.sqrt() * rows, float(seen))  # a component a class
        mean = torch.zeros_like(rows)
        for k, likely in enumerate(posterior.T):
            centre, axes = law.means[k].flatten(), law.axes[k]
            gain = snr * law.variances[k] / (1 + snr * law.variances[k])
            mean += likely[:, None] * (centre + ((rows - centre) @ axes * gain) @ axes.T)
        mean = mean.view(x_t.shape).to(x_t.dtype)
        return SimpleNamespace(sample=self.parametrisation.prediction(x_t, mean, alpha, sigma))


if __name__ == "__main__":
    words = [word for word in sys.argv[1:] if word != "--write"]
    name, n = words[0], int([*words, 200][1])
    folder = model_directory(name)
    unet = load_model(folder / "unet", diffusers.ModelMixin)
    scheduler = load_scheduler(folder / "scheduler")
    kind, settings = worlds.SAMPLERS["sde-dpm++-2m-karras"]
    sampler = kind.from_config(scheduler.config, **settings)
    data, law = DATASETS[name](), open_source(f"flat-{name}", 0, 0, 100).law
    patch = data.test_images.shape[-1] // unet.config.sample_size
    drawn = law.draw(torch.arange(n) % law.n_classes, derived_generator(0, 1))
    seen = torch.randperm(len(data.train_images), generator=derived_generator(0, 2))[:n]
    tested = {
        "held out": (unet, pixel_unshuffle(data.test_images[:n], patch)),
        "training": (unet, pixel_unshuffle(data.train_images[seen], patch)),
        "flat mixture": (ExactMixture(law, sampler), drawn),
        "tempered": (ExactMixture(law, sampler, TEMPERED), drawn),
    }
    rows = []
    for which, (model, images) in tested.items():
        own = [derived_generator(0, 3, i) for i in range(len(images))]
        found = calibration(ForwardBackwardPipeline(model, sampler), images, LEVELS, 100, own)
        for level, one in zip(LEVELS, found, strict=True):
            numbers = 1000 * np.array([one.value, one.low, one.high])
            rows.append([which, level, len(images), *numbers])
    table = pd.DataFrame(rows, columns=["of", "ln_snr", "images", "value", "low", "high"])
    print(table.round(1).to_string())
    if "--write" in sys.argv:
        table.to_csv(folder / "calibration.csv", index=False, float_format="%.4g")
