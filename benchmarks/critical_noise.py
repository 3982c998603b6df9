"""Where the class of each data set should be lost: predictions, and the exact flat mixture.

    python benchmarks/critical_noise.py [NAME ...]

Prints a line of JSON for each data set: the largest variance of its images and of pairs of class
means (least, median, largest), the ln SNR and t/T that these predict (infinite: the signal is below
the last noise's variance from the start), the ln SNR where the class is half-way to chance in the
flat mixture that is fitted to it (its own images, 2000 of them), and the accuracy of a linear
classifier of the pixels. cifar10-32 takes about five minutes of one core and 4 GB, the others less
than one.
"""

import json
import sys

import numpy as np
import torch
from scipy.optimize import brentq
from sklearn.linear_model import RidgeClassifier

from hierphase.analysis import speciation
from hierphase.analysis.gaussian_mixture import GaussianMixture
from hierphase.diffusion.datasets import DATASETS
from hierphase.experiments.worlds import ln_snrs
from hierphase.rhm.corruption import ddpm_scheduler
from hierphase.seeds import derived_generator

N_LINEAR = 20_000  # training images of the linear classifier


def half_way_level(law, classes, generator):
    """ln SNR where the posterior of a law brings its own images back to their classes half-way.

    Half-way is K = (P - 1/C) / (1 - 1/C) = 1/2, P the mean probability of the own class.
    """
    x_0 = law.draw(classes, generator)
    noise = torch.randn(x_0.shape, generator=generator)

    def above(level):
        alpha_bar = torch.tensor(level, dtype=torch.float64).sigmoid().item()
        x_t = alpha_bar**0.5 * x_0 + (1 - alpha_bar) ** 0.5 * noise
        posterior = law.class_posterior(x_t, alpha_bar)
        chance = 1 / posterior.shape[1]
        own = posterior.gather(1, classes[:, None]).double().mean().item()
        return (own - chance) / (1 - chance) - 0.5

    return brentq(above, -8, 8, xtol=0.01)


def prediction(data, n=2000):
    images, labels = data.train_images, data.train_labels
    pairs = speciation.pair_variances(images, labels).quantile(torch.tensor([0, 0.5, 1]).double())
    variances = {"all": speciation.largest_variance(images)}
    variances |= dict(
        zip(("nearest_pair", "median_pair", "farthest_pair"), pairs.tolist(), strict=True)
    )
    mixture = GaussianMixture.fitted(images, labels)
    classes = torch.arange(n) % len(data.class_names)
    levels = {name: float(speciation.speciation_level(x)) for name, x in variances.items()}
    levels["flat"] = half_way_level(mixture, classes, derived_generator(0))
    pixels = images[:N_LINEAR].flatten(1).numpy(), labels[:N_LINEAR].numpy()
    linear = RidgeClassifier(alpha=50).fit(*pixels)
    times = speciation.reversal_time(list(levels.values()), ln_snrs(ddpm_scheduler()))
    return {
        "n_classes": len(data.class_names),
        "linear": linear.score(data.test_images.flatten(1).numpy(), data.test_labels.numpy()),
        "variance": variances,
        "ln_snr": levels,
        "time": dict(zip(levels, times.tolist(), strict=True)),
    }


if __name__ == "__main__":
    for name in sys.argv[1:] or DATASETS:
        print(json.dumps({name: prediction(DATASETS[name]())}), flush=True)
    for name, (_, snr) in speciation.PUBLISHED.items():
        level = speciation.rescaled_level(np.log(snr), intensities=1)
        time = speciation.reversal_time(level, ln_snrs(ddpm_scheduler()))
        print(json.dumps({f"{name}, quoted": {"ln_snr": level, "time": float(time)}}))
