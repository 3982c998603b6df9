"""Whether reversals of real images change with more steps of the sampler.

    python benchmarks/more_steps.py digits -0.6 [N_IMAGES] [--write]

Noises held-out images to one level (ln SNR; take the half-way one) and denoises them in 100 and in
400 steps. Prints, for each, the share that keeps its class as the classifier sees it and the
variance of a pixel of x̂0 around its mean, and the differences image by image, all with standard
errors over images; --write leaves that as steps.csv beside the model of the book. 100 images of
digits take a minute of one core, of Fashion-MNIST ten.
"""

import sys

import numpy as np
import pandas as pd
import torch

from hierphase.diffusion.model_folders import load_model
from hierphase.experiments.sources import open_source
from hierphase.experiments.worlds import stored_model
from hierphase.networks.catalogue import model_directory
from hierphase.networks.classifiers import ConvClassifier, class_probabilities
from hierphase.seeds import derived_generator

if __name__ == "__main__":
    words = [word for word in sys.argv[1:] if word != "--write"]
    name, level, n, write = words[0], float(words[1]), int([*words, 100][2]), "--write" in sys.argv
    classifier = load_model(stored_model(f"{name}-classifier"), ConvClassifier)
    measured = {}
    for steps in (100, 400):
        source = open_source(name, 0, 0, steps)
        x_0, labels = source.starts(n, derived_generator(0))
        back = source.back(x_0, labels, torch.tensor([level]), derived_generator(1)).samples[0]
        new, old = (class_probabilities(classifier, x).argmax(dim=1) for x in (back, x_0))
        spread = (back - back.mean(dim=0)).square().flatten(1).mean(dim=1)
        measured[f"{steps} steps"] = torch.stack([(new == old).double(), spread.double()]).numpy()
    measured["difference"] = np.subtract(*reversed(measured.values()))
    table = pd.DataFrame({
        title: {
            "kept": kept.mean(), "kept_error": kept.std(ddof=1) / len(x_0) ** 0.5,
            "variance": spread.mean(), "variance_error": spread.std(ddof=1) / len(x_0) ** 0.5,
        }
        for title, (kept, spread) in measured.items()
    }).T.assign(images=len(x_0), ln_snr=level)  # fmt: skip
    print(table.to_string())
    if write:
        table.to_csv(model_directory(name) / "steps.csv", index_label="steps", float_format="%.5g")
