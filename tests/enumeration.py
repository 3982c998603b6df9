"""Brute force: every tree a small model can grow, as an independent check of inference."""

import itertools
import math

import torch


def all_trees(rhm):
    """Return every tree: list of L+1 LongTensors (trees, s**(L-l)), and their probabilities."""
    # each tree: its probability, and its levels from the top down
    trees = [(1 / rhm.n_classes, [[c]]) for c in range(rhm.n_classes)]
    for rules in reversed(rhm.rules):
        weights = [1 / rank**rhm.zipf for rank in range(1, rules.shape[1] + 1)]
        options = [list(zip(own, weights, strict=True)) for own in rules.tolist()]
        grown = []
        for probability, tree in trees:
            for choice in itertools.product(*(options[symbol] for symbol in tree[-1])):
                children, shares = zip(*choice, strict=True)
                share = math.prod(shares) / sum(weights) ** len(shares)
                below = list(itertools.chain.from_iterable(children))
                grown.append((probability * share, [*tree, below]))
        trees = grown
    levels = [torch.tensor([tree[-1 - level] for _, tree in trees]) for level in range(rhm.L + 1)]
    return levels, torch.tensor([probability for probability, _ in trees], dtype=torch.float64)


def enumerate_posterior(rhm, beliefs):
    """Posterior weights (n, trees), and marginals and log evidence as BeliefPropagation's."""
    trees, prior = all_trees(rhm)
    leaf = torch.arange(rhm.d)
    likelihood = beliefs[:, leaf, trees[0]].double().prod(-1) * prior  # (n, trees)
    evidence = likelihood.sum(1)
    weight = likelihood / evidence[:, None]
    marginals = []
    for level, symbols in enumerate(trees):
        onehot = torch.nn.functional.one_hot(symbols, rhm.n_symbols(level)).double()
        marginals.append(torch.einsum("nt,tks->nks", weight, onehot))
    return trees, weight, marginals, evidence.log()
