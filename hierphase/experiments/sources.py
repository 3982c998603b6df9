"""Worlds of the evidence, by name: labelled x_0, and their way back from any noise level.

Those with an exact posterior are laws: trees and chains as images
(:mod:`hierphase.rhm.symbol_images`), and mixtures that are fitted to these or to a data set
(:mod:`hierphase.analysis.gaussian_mixture`). Real images are denoised by a trained network.
"""

import re
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch.nn import functional

from hierphase.analysis.gaussian_field import power_law_classes
from hierphase.analysis.gaussian_mixture import GaussianMixture
from hierphase.checks import check_known
from hierphase.experiments import worlds
from hierphase.experiments.images import PRESETS, ImageExperiment
from hierphase.networks import objectives
from hierphase.networks.catalogue import TRAININGS
from hierphase.networks.training import run
from hierphase.rhm.symbol_images import ChainSymbols, SymbolImages, tree_images
from hierphase.seeds import derived_generator

#: Images to which a mixture is fitted, or as many as a data set has.
N_FITTED = 50_000


def chain_images(seed: int, kept: float = 0.0, pattern: float = 0.0) -> SymbolImages:
    """Images like those of trees of L = 3, of symbols in a Markov chain along the leaves.

    Args:
        seed: of colours, patterns and chances.
        kept: 0 gives each class a table of its own of the three symbols that may follow each;
            otherwise there is no chain, and each leaf with this probability the symbol that its
            class has there.
        pattern: positive, there is one table for all classes, and what tells them apart is a
            pattern of each, white noise of this standard deviation.
    """
    tree, generator = tree_images(3, seed), derived_generator(seed, 1)
    _, _, sites, v, *patch = tree.means.shape
    classes, kinds = (1, tree.n_classes) if pattern else (tree.n_classes, 1)
    if kept:
        own = torch.randint(v, (classes, sites, 1), generator=generator).expand(-1, -1, v)
        favoured, share = functional.one_hot(own, v), kept
    else:
        ranks = torch.rand(classes, 1, v, v, generator=generator).argsort(dim=-1)
        favoured, share = (ranks < 3).expand(-1, sites, -1, -1) / 3, 0.99
    chances = share * favoured.double() + (1 - share) / v
    patterns = pattern * torch.randn(kinds, 1, sites, 1, *patch, generator=generator)
    return SymbolImages(ChainSymbols(chances), tree.means + patterns, tree.texture)


#: Name of a tree as images -> its law, given a seed of rules and colours.
TREES = {f"tree-{L}": partial(tree_images, L) for L in (1, 2, 3)}
TREES |= {f"tree-{L}-rough": partial(tree_images, L, texture=0.5) for L in (2, 3)}
_CHANGED = {"contrast": {"contrast": 0.3}, "half": {"coarse": 2}, "quarter": {"coarse": 4}}
_CHANGED |= {"m400": {"m": 400}, "m3": {"m": 3}, "shuffled": {"shuffled": True}}
TREES |= {f"tree-3-{name}": partial(tree_images, 3, **own) for name, own in _CHANGED.items()}
#: Those without a transition, of many rules or of few, and the one whose leaves lie anywhere.
OTHER_TREES = ("tree-3-m400", "tree-3-m3", "tree-3-shuffled")
#: All laws that are not fitted to images.
LAWS = TREES | {
    "star": partial(chain_images, kept=0.3),
    "chain": chain_images,
    "chainmean": partial(chain_images, pattern=0.1),
    "power-law-2": lambda seed: power_law_classes(2.0),
    "power-law-3": lambda seed: power_law_classes(3.0),
}
#: What is fitted to the images of another world, by name, from Gaussians of one covariance to
#: several Gaussians a class.
FITS = {"fields": {"shared": True}, "flat": {}}
for _k, _rank in ((5, 32), (20, 16), (80, 8), (320, 2)):  # as many as the images of a cluster bear
    FITS[f"clusters-{_k}"] = {"clusters": _k, "rank": _rank}
#: Ends the name of a fit that is given images of the data set for x_0.
REAL = "-real"
#: Ends the name of such a fit that a network denoises, as it does the data set itself.
LEARNT = "-learnt"
_NAMES = re.compile(f"(?:({'|'.join(FITS)})-)?(.*?)({REAL}|{LEARNT})?", re.DOTALL)


class Source(NamedTuple):
    """A world in which what can be drawn is drawn: rules, colours, the images it is fitted to.

    ``starts(n, generator)`` gives x_0 (n, channels, height, width) and labels (n,), at most as many
    as there are; ``back(x_0, labels, ln_snr, generator)`` of levels (k,) what
    :class:`~hierphase.experiments.worlds.Denoised` holds; ``learnt(n, generator)`` images and
    labels to learn from, at most as many as there are. ``law`` is the exact one, or None;
    ``originals`` are ``starts`` of what it is fitted to, if it is fitted.
    """

    starts: Callable
    back: Callable
    learnt: Callable
    n_classes: int
    law: Any = None
    originals: Callable | None = None


def open_source(name: str, redraw: int, seed: int, num_inference_steps: int) -> Source:
    """A world by name.

    Args:
        name: of :data:`LAWS`; a data set with a preset of the image experiment; either after one of
            :data:`FITS` and a hyphen, or such a fit of a data set before :data:`REAL` or
            :data:`LEARNT`; a fit to what is learnt.
        redraw: of all that is random; of real images another part of those held out.
        seed: of all redraws.
        num_inference_steps: of the networks.

    Raises:
        ValueError: an unknown name.
    """
    if name in LAWS:
        return of_law(LAWS[name](seed=seed + redraw))
    if name in worlds.DATASETS:
        return _of_data(name, redraw, num_inference_steps)
    kind, data, end = check_world(name)
    generator = derived_generator(seed, redraw)
    original = open_source(data, redraw, seed, num_inference_steps)
    images, labels = original.learnt(N_FITTED, generator)
    rank = {"rank": 600} if images[0].numel() > 1000 else {}  # not full
    options = rank | FITS[kind] | {"seed": seed + redraw}
    source = of_law(GaussianMixture.fitted(images, labels, **options))
    source = source._replace(originals=original.starts)
    if end == LEARNT:
        return _learnt(source, data, generator, num_inference_steps)
    if end == REAL:
        source = source._replace(starts=partial(_held_out, worlds.DATASETS[data](), redraw))
    return source


def check_world(name: str) -> tuple[str, str, str]:
    """What is fitted, to which world, and how the name ends; a ValueError for an unknown one.

    All that the name does not say is empty.
    """
    kind, data, end = _NAMES.fullmatch(str(name)).groups("")
    if kind and end == LEARNT and data.startswith(tuple(FITS)):
        check_world(data + end)
        return kind, data + end, ""
    known = worlds.DATASETS if end else worlds.DATASETS | LAWS
    check_known("world", data if kind else str(name), known)
    return kind, data, end


def of_law(law) -> Source:
    """The source of a law: classes equally likely, and draws from the exact posterior."""

    def starts(n, generator):
        labels = torch.arange(n) % law.n_classes
        return law.draw(labels, generator), labels

    def back(x_0, labels, ln_snr, generator):
        noisy = ((noised(x_0, level, generator), level.sigmoid()) for level in ln_snr)
        found = [law.denoised(*x_t, generator) for x_t in noisy]
        samples, classes = map(torch.stack, zip(*found, strict=True))
        return worlds.Denoised(samples, classes=classes, ln_snr=ln_snr)

    return Source(starts, back, starts, law.n_classes, law)


def noised(x_0: torch.Tensor, ln_snr: torch.Tensor, generator) -> torch.Tensor:
    """x_t of x_0 at a level, float32."""
    alpha_bar = ln_snr.double().sigmoid()
    z = torch.randn(x_0.shape, generator=generator)
    return (alpha_bar.sqrt() * x_0 + (1 - alpha_bar).sqrt() * z).float()


def _held_out(data, redraw: int, n: int, generator) -> tuple[torch.Tensor, torch.Tensor]:
    """``starts`` of images of a data set that were held out, each redraw others."""
    rows = slice(redraw * n, (redraw + 1) * n)
    return data.test_images[rows], data.test_labels[rows]


def _of_data(name: str, redraw: int, num_inference_steps: int) -> Source:
    data = worlds.DATASETS[name]()

    def learnt(n, generator):
        n_images = len(data.train_images)
        rows = torch.randint(n_images, (min(n, n_images),), generator=generator)
        return data.train_images[rows], data.train_labels[rows]

    back = _by_network(name, num_inference_steps, lambda: name)
    return Source(partial(_held_out, data, redraw), back, learnt, len(data.class_names))


def _learnt(source: Source, data: str, generator, num_inference_steps: int) -> Source:
    """What a law draws, denoised by a network that learns it as that of a data set learns its."""
    test_images, _ = source.starts(objectives.N_VALIDATION, generator)
    drawn = SimpleNamespace(batch=source.learnt, test_images=test_images)
    simple = {"report": objectives.denoiser_report, "judges": {}}
    training = replace(TRAININGS[data], data=lambda: drawn, **simple)
    folder = tempfile.TemporaryDirectory()

    def model():
        run(training, data, Path(folder.name), training.steps, generator.initial_seed())
        return folder.name

    return source._replace(back=_by_network(data, num_inference_steps, model), law=None)


def _by_network(name: str, num_inference_steps: int, model: Callable[[], str]) -> Callable:
    """``back`` of a :class:`Source` by a network in place of that of a data set."""

    @cache
    def world():
        changes = {"num_inference_steps": num_inference_steps, "n_per_class": 1, "model": model()}
        return ImageExperiment(PRESETS[name] | changes).world

    def back(x_0, labels, ln_snr, generator):
        numbers = torch.randint(2**63 - 1, (len(x_0),), generator=generator).tolist()
        generators = [derived_generator(number) for number in numbers]
        return world().denoised([x_0, labels], ln_snr.tolist(), generators)

    return back
