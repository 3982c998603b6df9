"""The networks of the book that are trained on exactly solvable data: classifiers and denoisers."""

from functools import partial

from hierphase.analysis.two_mode_mixture import TwoModeMixture
from hierphase.networks import objectives
from hierphase.networks.rhm_classifier import LeafTransformer, TreeClassifier
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


def _classifier(data, steps: int = 4000, kind=TreeClassifier, **sizes) -> Training:
    """Training of a classifier of a kind and of these sizes on fresh examples."""
    about = f"Classifier of `{data}`, trained on fresh examples: none is seen twice."
    model, how = partial(kind, **sizes, width=64), {"batch_size": 256, "learning_rate": 5e-3}
    return Training(about, lambda: data, model, steps, **how, muon=True)


def tree_classifier(v: int, m: int, s: int, L: int, seed: int, **shape) -> Training:
    """Training of a classifier, of the shape of a tree or another, on fresh data of the tree."""
    data = TreeData(RandomHierarchyModel(v, m, s, L, seed=seed))
    enough = {"steps": max(4000, 10 * v * m**L // 256)}  # ten times n_c m^L examples
    return _classifier(data, v=v, s=s, L=L, n_classes=v, **(enough | shape))


#: Networks that do not have the shape of the tree (6, 6, 4, 3), whose 64 leaves they see.
OTHER_SHAPES = {
    "stride-2": {"strides": [2] * 6},
    "stride-8": {"strides": [8] * 2},
    "twice-as-deep": {"strides": [4, 1] * 3},
    "mlp": {"strides": [64, 1, 1]},
    "transformer": {"kind": LeafTransformer, "steps": 2500},  # ten times a CNN's cost a step
}

_mixture_classifier = partial(_classifier, steps=500, v=1, s=4, L=5, n_classes=2)
#: 16 classes, each of 256 strings of 16 leaves without parts.
_FLAT = TreeData(RandomHierarchyModel(8, 256, 16, 1, n_classes=16))
#: Of these a network can learn nothing, for comparison.
_SHUFFLED = TreeData(RandomHierarchyModel(16, 4, 2, 7), shuffled=True)

#: The classifiers of exactly solvable data by name, those of several draws of the rules of a Random
#: Hierarchy Model first, then those of data without a hierarchy.
TREE_CLASSIFIERS = {
    f"rhm-cnn-{seed}" if seed else "rhm-cnn": tree_classifier(16, 4, 2, 7, seed, steps=4000)
    for seed in range(N_RULE_DRAWS)
}
_trees = [("cnn", sizes, {}) for sizes in STRUCTURES]
_trees += [(name, (6, 6, 4, 3), shape) for name, shape in OTHER_SHAPES.items()]
for _kind, _sizes, _shape in _trees:
    for _seed in range(3):
        _name = "-".join(map(str, ("rhm", _kind, *_sizes, _seed)))
        TREE_CLASSIFIERS[_name] = tree_classifier(*_sizes, _seed, **_shape)
TREE_CLASSIFIERS |= {
    "flat-cnn": _classifier(_FLAT, v=8, s=2, L=4, n_classes=16),
    "shuffled-cnn": _classifier(_SHUFFLED, v=16, s=2, L=7, n_classes=16),
    "mixture-cnn": _mixture_classifier(TwoModeMixture(d=1024, r=0.25)),
    "coloured-cnn": _mixture_classifier(TwoModeMixture(d=1024, r=0.1, exponent=1.2, component=200)),
}


def tree_denoiser_name(architecture: str, P: int | None, draw: int = 0) -> str:
    """Name of the training of a denoiser on P data of a draw of the rules."""
    name = f"rhm-{architecture}-{'fresh' if P is None else P}"
    return f"{name}-rules-{draw}" if draw else name


def tree_rhm(draw: int, architecture: str = "unet") -> RandomHierarchyModel:
    """The small tree that denoisers of an architecture learn, its ``draw``-th draw of rules."""
    _, m, L = TREE_DENOISERS[architecture]
    return RandomHierarchyModel(v=8, m=m, s=2, L=L, seed=draw)


def _tree_denoiser(architecture: str, P: int | None, draw: int) -> Training:
    """Training of a denoiser on P data of a draw of its small tree, or on fresh ones (None)."""
    rhm, kind = tree_rhm(draw, architecture), TREE_DENOISERS[architecture][0]
    data, model = partial(TreeData, rhm, P), partial(kind, rhm.v, rhm.s, rhm.L)
    about = f"Denoiser of `{data()}`. Below, `loss` and `loss_held_out` are the noise-prediction "
    about += "errors on training and held-out data; P=None is fresh data without end."
    steps = 2000 if P is not None and P < 500 else 4000  # with few data it overfits before
    batch_size, rate = (512, 1e-2) if kind is TreeUNet else (256, 3e-3)
    goal = {"loss": objectives.denoising_loss, "report": objectives.denoiser_report}
    how = {"ema_decay": 0.99, "checkpoint_every": 100, "muon": True, "keep_best": True}
    return Training(about, data, model, steps, batch_size, rate, **goal, **how)


#: Class of each denoiser of the tree by name, with m and L of the tree that it is trained on.
TREE_DENOISERS = {"unet": (TreeUNet, 3, 4), "transformer": (TreeTransformer, 3, 4)} | {
    f"unet-m{m}-L{L}": (TreeUNet, m, L) for m in (2, 3, 4) for L in (3, 4, 5) if (m, L) != (3, 4)
}

#: Training set sizes of the denoisers of the tree; None is fresh data without end. Of the trees
#: besides the first, fewer.
TREE_SIZES = (*(2**k for k in range(2, 15)), None)
OTHER_SIZES = (16, 64, 256, 1024, 4096, 16384)

#: How many draws of the rules of each tree have denoisers.
TREE_DRAWS = {name: 2 if "-" not in name or "L3" in name else 1 for name in TREE_DENOISERS}

#: Trainings of the denoisers of the trees, by name, for a few draws of the rules.
TREE_TRAININGS = {
    tree_denoiser_name(architecture, P, draw): _tree_denoiser(architecture, P, draw)
    for architecture, n_draws in TREE_DRAWS.items()
    for P in (OTHER_SIZES if "-" in architecture else TREE_SIZES)
    for draw in range(n_draws)
}
