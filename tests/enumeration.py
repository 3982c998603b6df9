"""Brute force: every tree a small model can grow, as an independent check of inference."""

import itertools

import torch


def all_trees(rhm):
    """Return every tree, all equally likely: list of L+1 LongTensors (trees, s**(L-l))."""
    trees = [[[c]] for c in range(rhm.n_classes)]  # each tree: its levels from the top down
    for rules in reversed(rhm.rules):
        options = rules.tolist()
        grown = []
        for tree in trees:
            for choice in itertools.product(*(options[symbol] for symbol in tree[-1])):
                grown.append([*tree, list(itertools.chain.from_iterable(choice))])
        trees = grown
    return [torch.tensor([tree[-1 - level] for tree in trees]) for level in range(rhm.L + 1)]


def enumerate_posterior(rhm, beliefs):
    """Posterior weights (n, trees), and marginals and log evidence as BeliefPropagation's."""
    trees = all_trees(rhm)
    leaf = torch.arange(rhm.d)
    likelihood = beliefs[:, leaf, trees[0]].double().prod(-1)  # (n, trees)
    evidence = likelihood.mean(1)
    weight = likelihood / likelihood.sum(1, keepdim=True)
    marginals = []
    for level, symbols in enumerate(trees):
        onehot = torch.nn.functional.one_hot(symbols, rhm.n_symbols(level)).double()
        marginals.append(torch.einsum("nt,tks->nks", weight, onehot))
    return trees, weight, marginals, evidence.log()
