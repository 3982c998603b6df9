"""The networks of the book that are trained on exactly solvable data: classifiers and denoisers."""

from functools import partial

from hierphase.analysis.two_mode_mixture import TwoModeMixture
from hierphase.networks import objectives
from hierphase.networks.rhm_classifier import TreeClassifier
from hierphase.networks.rhm_denoisers import TreeTransformer, TreeUNet
from hierphase.networks.training import Training
from hierphase.rhm.dataset import TreeData
from hierphase.rhm.model import RandomHierarchyModel

N_RULE_DRAWS = 6

#: (v, m, s, L) of the trees, besides (16, 4, 2, 7), that classifiers are trained on.
STRUCTURES = (
    (16, 4, 2, 5), (10, 3, 2, 8), (24, 6, 2, 5), (32, 8, 2, 4),
    (8, 4, 3, 3), (8, 4, 3, 5), (6, 6, 4, 3), (6, 4, 4, 4),
)  # fmt: skip


def _classifier(data, steps: int = 4000, **sizes: int) -> Training:
    """Training of a :class:`TreeClassifier` of these sizes on fresh examples."""
    return Training(
        about=f"Classifier of `{data}`, trained on fresh examples: none is seen twice.",
        data=lambda: data,
        model=partial(TreeClassifier, **sizes, width=64),
        steps=steps,
        batch_size=256,
        learning_rate=5e-3,
        muon=True,
    )


def tree_classifier(v: int, m: int, s: int, L: int, seed: int) -> Training:
    """Training of a classifier of the shape of a tree on fresh data of it."""
    data = TreeData(RandomHierarchyModel(v, m, s, L, seed=seed))
    return _classifier(data, v=v, s=s, L=L, n_classes=v)


_mixture_classifier = partial(_classifier, steps=500, v=1, s=4, L=5, n_classes=2)
#: 16 classes, each of 256 strings of 16 leaves without parts.
_FLAT = TreeData(RandomHierarchyModel(8, 256, 16, 1, n_classes=16))
#: Of these a network can learn nothing, for comparison.
_SHUFFLED = TreeData(RandomHierarchyModel(16, 4, 2, 7), shuffled=True)

#: The classifiers of exactly solvable data by name, those of several draws of the rules of a Random
#: Hierarchy Model first, then those of data without a hierarchy.
TREE_CLASSIFIERS = {
    **{
        f"rhm-cnn-{seed}" if seed else "rhm-cnn": tree_classifier(16, 4, 2, 7, seed)
        for seed in range(N_RULE_DRAWS)
    },
    **{
        f"rhm-cnn-{v}-{m}-{s}-{L}-{seed}": tree_classifier(v, m, s, L, seed)
        for v, m, s, L in STRUCTURES
        for seed in range(3)
    },
    "flat-cnn": _classifier(_FLAT, v=8, s=2, L=4, n_classes=16),
    "shuffled-cnn": _classifier(_SHUFFLED, v=16, s=2, L=7, n_classes=16),
    "mixture-cnn": _mixture_classifier(TwoModeMixture(d=1024, r=0.25)),
    "coloured-cnn": _mixture_classifier(TwoModeMixture(d=1024, r=0.1, exponent=1.2, component=200)),
}


def tree_denoiser_name(architecture: str, P: int | None, draw: int = 0) -> str:
    """Name of the training of a denoiser on P data of a draw of the rules."""
    name = f"rhm-{architecture}-{'fresh' if P is None else P}"
    return f"{name}-rules-{draw}" if draw else name


def tree_rhm(draw: int, m: int = 3, L: int = 4) -> RandomHierarchyModel:
    """The small tree of the denoisers, with the ``draw``-th draw of its rules."""
    return RandomHierarchyModel(v=8, m=m, s=2, L=L, seed=draw)


def _tree_denoiser(architecture: str, P: int | None, rhm: RandomHierarchyModel) -> Training:
    """Training of a denoiser on P data of a small tree, or on fresh ones (None)."""
    return Training(
        about=f"Denoiser of `{TreeData(rhm, P=P)}`. Below, `loss` and `loss_held_out` are the "
        "noise-prediction errors on training and held-out data; P=None is fresh data without end.",
        data=lambda: TreeData(rhm, P=P),
        model=lambda: TREE_DENOISERS[architecture](rhm.v, rhm.s, rhm.L),
        loss=objectives.denoising_loss,
        report=objectives.denoiser_report,
        steps=2000 if P is not None and P < 500 else 4000,  # with few data it overfits before
        batch_size=512 if architecture == "unet" else 256,
        learning_rate=1e-2 if architecture == "unet" else 3e-3,
        ema_decay=0.99,
        checkpoint_every=100,
        muon=True,
        keep_best=True,
    )


#: Architectures of denoisers of the tree.
TREE_DENOISERS = {"unet": TreeUNet, "transformer": TreeTransformer}

#: Training set sizes of the denoisers of the tree; None is fresh data without end.
TREE_SIZES = (*(2**k for k in range(2, 15)), None)

#: Trainings of the denoisers of the tree, by name, for two draws of its rules, and U-Nets for three
#: depths and three numbers of rules.
TREE_TRAININGS = {
    tree_denoiser_name(architecture, P, draw): _tree_denoiser(architecture, P, tree_rhm(draw))
    for architecture in TREE_DENOISERS
    for P in TREE_SIZES
    for draw in range(2)
} | {
    f"rhm-unet-m{m}-L{L}-{P}": _tree_denoiser("unet", P, tree_rhm(0, m, L))
    for m in (2, 3, 4)
    for L in (3, 4, 5)
    for P in (64, 256, 1024, 4096, 16384)
}
