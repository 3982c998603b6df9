"""Susceptibility on the tree: the exact recursion against sampling the posterior.

(v, m, s) = (32, 8, 2) at the critical noise, one draw of the rules, 16 data, float64, one thread.
``exact`` is the CPU time of the posterior and the recursion; ``sampled`` that of the posterior
and 200 draws of each datum; ``error`` the relative standard deviation of chi from such draws, over
8 repetitions. ``ratio`` is the time that sampling takes to an error of 1%, as errors fall with
the square root of the draws, over the time of the recursion, whose error is that of rounding.
"""

import argparse
import time

import numpy as np
import torch

from hierphase.rhm import correlations, meanfield
from hierphase.rhm.belief_propagation import BeliefPropagation
from hierphase.rhm.corruption import EpsilonProcess
from hierphase.rhm.model import RandomHierarchyModel
from hierphase.seeds import derived_generator

DRAWS, REPETITIONS, ACCURACY = 200, 8, 0.01


def timed(function):
    """Result and CPU seconds, the fewest of three."""
    seconds = []
    for _ in range(3):
        start = time.process_time()
        result = function()
        seconds.append(time.process_time() - start)
    return result, min(seconds)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="shallow trees only")
    depths = (5, 7) if parser.parse_args().quick else (5, 7, 9, 11)
    torch.set_num_threads(1)
    epsilon = meanfield.critical_epsilon(32, 8, 2)
    print(" L   exact/ms  sampled/ms  chi exact  chi sampled  error  ratio")
    for L in depths:
        rhm = RandomHierarchyModel(32, 8, 2, L, seed=0)
        leaves = rhm.sample(16, seed=0)[0]
        beliefs = EpsilonProcess(32).beliefs(leaves, epsilon).double()

        def exact(rhm=rhm, beliefs=beliefs, leaves=leaves):
            posterior = BeliefPropagation(rhm)(beliefs)
            covariance = correlations.posterior_covariance(posterior, leaves).mean(0)
            return covariance.sum() / covariance[0]

        def sampled(seed=0, rhm=rhm, beliefs=beliefs, leaves=leaves):
            drawn = BeliefPropagation(rhm)(beliefs).sample(DRAWS, derived_generator(seed))[0]
            sigma = (2.0 * (drawn != leaves) - 1).numpy()
            covariance = correlations.tree_covariance(sigma, rhm.s).mean(0)
            return covariance.sum() / covariance[0]

        (chi, seconds), (_, of_sampling) = timed(exact), timed(sampled)
        values = np.array([sampled(seed) for seed in range(REPETITIONS)])
        error = values.std(ddof=1) / chi
        ratio = of_sampling * (error / ACCURACY) ** 2 / seconds
        print(
            f"{L:2d} {1e3 * seconds:10.1f} {1e3 * of_sampling:11.1f} {chi:10.3f} "
            f"{values.mean():12.3f} {error:6.3f} {ratio:6.1f}"
        )


if __name__ == "__main__":
    main()
