"""Signs of a hierarchy, measured by one code in worlds of known structure and in images.

Two judges say what class an image has: the posterior of an exact law ("exact"), and a convolutional
network that is trained on the world, by one recipe but for the number of steps ("cnn").
"""

import json

import numpy as np
import torch
import xarray as xr
from scipy import stats

from hierphase.analysis import bootstrap, signs, speciation
from hierphase.analysis.representations import activations
from hierphase.diffusion.model_folders import model_files
from hierphase.experiments import judges, sources, worlds
from hierphase.experiments.base import Experiment
from hierphase.runs import results
from hierphase.seeds import derived_generator

JUDGES, PARTS = ("exact", "cnn"), ("value", "low", "high")  # of a sign, with its interval

_LACKING = {
    "": "judge-accuracy",
    "; K < 1/2": "auc-pixels auc-pixels-end auc-parts-over-whole splice-loss splice-rise half-snr",
    "; K does not fall from .9 to .1": "width-snr width-snr-per-image",
    "; K < 1/2, also of groups, or two classes": "superclass-gap",
    "; a network gives no density": "log-evidence",
    "; only of data sets, or no noise is little enough": "predicted-snr predicted-snr-pairs",
    "; K < 1/2, or the posterior has no layers": "auc-early-less-late",
    "; K < 1/2, or no group of six images": "coupling-near coupling-far coupling-near-kept "
    "coupling-far-kept coupling-near-end coupling-far-end energy-ratio",
    "; K < 1/2, no group of six, or less than two blocks a side": "ladder-4 ladder-8 ladder-16",
}
#: Signs -> why one may be lacking (NaN).
SIGNS = {sign: f"not judged{why}" for why, names in _LACKING.items() for sign in names.split()}


_SIZES = {
    "n_redraws": 20, "n_judged": 1, "judge_steps": 2000, "n_images": 100, "n_noises": 10,
    "n_levels": 17, "n_reversals": 1150, "num_inference_steps": 100, "seed": 0,
}  # fmt: skip
_LAWS = [name for name in sources.LAWS if name not in sources.OTHER_TREES]
#: Preset -> the parameters of :class:`Evidence`.
PRESETS = {"laws": _SIZES | {"worlds": _LAWS, "judge_steps": 4000}}
PRESETS["other-trees"] = PRESETS["laws"] | {"worlds": [*sources.OTHER_TREES], "n_redraws": 10}
_REAL = {"n_redraws": 2, "n_judged": 2, "n_images": 60, "n_noises": 8}
_DIGITS = {"n_redraws": 1, "n_judged": 1, "n_reversals": 450}  # all that are held out
_OF_DATA = ("", "fits-", "more-fits-", "real-")  # presets of one data set, by how they begin
_JUDGED = ("fields", "flat", "clusters-20")  # fits that a network judges too
for _data in ("tree-1", "tree-2", "tree-3", "tree-3-half", "tree-3-quarter", *worlds.DATASETS):
    _more = [f"{kind}-{_data}" for kind in sources.FITS if kind not in _JUDGED]
    _fits = _SIZES | {"n_redraws": 20 if _data == "tree-2" else 5}
    _fits["n_judged"] = 5 if _data == "fashion-mnist" else 1  # where calls were closest
    PRESETS[f"fits-{_data}"] = _fits | {"worlds": [f"{kind}-{_data}" for kind in _JUDGED]}
    _judges = {} if _data in worlds.DATASETS else {"n_judged": 0}
    PRESETS[f"more-fits-{_data}"] = _fits | {"worlds": _more} | _judges
PRESETS["more-fits-digits"]["worlds"].remove("clusters-320-digits")  # 135 images of a class
for _data in worlds.DATASETS:
    _few = _SIZES | _REAL | (_DIGITS if _data == "digits" else {})
    PRESETS[_data] = _few | {"worlds": [_data]}
    _fits = [f"{kind}-{_data}{sources.REAL}" for kind in _JUDGED]
    PRESETS[f"real-{_data}"] = _few | {"worlds": _fits, "n_judged": 0}
for _data, _n in {"digits": 2, "fashion-mnist": 1}.items():  # controls of how data sets are judged
    _own = f"clusters-20-{_data}{sources.LEARNT}"
    _few = _SIZES | _REAL | {"n_redraws": _n, "n_judged": _n}
    PRESETS[f"learnt-{_data}"] = _few | {"worlds": [_own, *(f"{k}-{_own}" for k in sources.FITS)]}


class Evidence(Experiment):
    """All signs of a few worlds, each redrawn several times.

    Args:
        parameters: ``worlds`` by name (:func:`~hierphase.experiments.sources.open_source`);
            ``n_redraws`` of each; in the first ``n_judged`` of them a network judges too, after
            ``judge_steps`` of training; K is read off ``n_images`` x_0 with ``n_noises`` each, at
            ``n_levels`` over its fall; ``n_reversals`` at K = .5, and from pure noise;
            ``num_inference_steps`` of the networks that denoise; ``seed``.

    Raises:
        ValueError: a bad parameter, an unknown world.
    """

    presets = PRESETS
    units = ("worlds", "n_redraws")
    least = {"n_judged": 0, "n_images": 2, "n_levels": 5, "n_reversals": 2}
    padded = (*PARTS, "redraws")

    def __init__(self, parameters: dict):
        super().__init__(parameters)
        for name in parameters["worlds"] or [""]:
            sources.check_world(name)

    def files(self):
        """As of the base: those of the denoisers of real images."""
        names = [name for name in self.p.worlds if name in worlds.DATASETS]
        return {name: model_files(worlds.stored_model(name)) for name in names}

    def measure_unit(self, i: int, prepared: xr.Dataset) -> xr.Dataset:
        """All signs of one redraw of one world.

        Args:
            i: worlds first, their redraws in turn.
            prepared: not used.

        Returns:
            ``value``, ``low`` and ``high`` (sign, judge).
        """
        (world, redraw), seed = divmod(i, self.p.n_redraws), self.p.seed
        source = sources.open_source(self.p.worlds[world], redraw, seed, self.p.num_inference_steps)
        present = {"exact": judges.exact_judge(source)} if source.law else {}
        if redraw < self.p.n_judged:
            own = derived_generator(seed, redraw, 1).initial_seed()
            present["cnn"] = judges.trained_judge(source, self.p.judge_steps, own)
        axes = {"sign": list(SIGNS), "judge": list(JUDGES), "part": list(PARTS)}
        numbers = xr.DataArray(np.nan, axes, list(axes))
        for name, judge in present.items():
            found = all_signs(source, judge, self.parameters, derived_generator(seed, redraw, 2))
            for sign, estimate in found.items():
                if estimate is not None:
                    numbers.loc[sign, name] = [estimate.value, estimate.low, estimate.high]
        return numbers.to_dataset("part")

    def finish(self, merged: xr.Dataset) -> xr.Dataset:
        """Each world's mean over its redraws, with 95% intervals; the redraws themselves stay.

        The standard error of the mean is that of the redraws where there are five or more, else it
        comes from the intervals of each.

        Returns:
            ``value``, ``low``, ``high`` (world, sign, judge), ``redraws`` (part, world, redraw,
            sign, judge) of these three parts.
        """
        merged = merged.drop_vars("unit", errors="ignore")
        redraws = merged.coarsen(unit=self.p.n_redraws).construct(unit=("world", "redraw"))
        n = redraws["value"].count("redraw")
        mean, spread = redraws["value"].mean("redraw"), redraws["value"].std("redraw", ddof=1)
        own = (((redraws["high"] - redraws["low"]) / 2) ** 2).mean("redraw")
        over = spread * stats.t.ppf(0.975, n.clip(2) - 1) / n**0.5
        found = xr.Dataset(_interval(mean, over.where(n >= 5, (own / n) ** 0.5)))
        names = {"world": self.p.worlds, "redraw": np.arange(self.p.n_redraws)}
        found["redraws"] = redraws.to_dataarray("part").astype(np.float32)
        return found.assign_coords(names).assign_attrs(reasons=json.dumps(SIGNS))


#: Presets whose results the book stores; the last of the data sets has no denoiser.
RUN = ["laws", "other-trees", *(f"{kind}tree-{L}" for L in (2, 3) for kind in _OF_DATA[1:3])]
RUN += [f"{kind}{name}" for name in [*worlds.DATASETS][:-1] for kind in _OF_DATA]
#: Worlds, also within the names of fits -> the same at half the resolution.
COARSER = {"tree-3": "tree-3-half", "tree-3-half": "tree-3-quarter", "cifar10-16": "cifar10-8"}


class Signs(Experiment):
    """The signs of all worlds in one table, and the one that compares two of them.

    Args:
        parameters: ``sources``, the presets of :class:`Evidence` whose stored results it holds.

    Raises:
        ValueError: a result that is not there.
    """

    presets = {"signs": {"sources": RUN}}
    padded = Evidence.padded

    def files(self):
        """As of the base."""
        return {"sources": {n: results.result_path("evidence", n) for n in self.p.sources}}

    def measure_unit(self, i, prepared):
        """All of :meth:`Evidence.finish`, of all worlds; redraws that one lacks are NaN."""
        tables = [results.read(path) for path in self.files()["sources"].values()]
        return xr.concat(tables, "world", join="outer", combine_attrs="drop")

    def finish(self, merged):
        """The table with ``width-resolution``: what half the resolution adds to the width."""
        table = merged.isel(unit=0, drop=True)
        a = table.sel(sign="width-snr", drop=True)
        coarser = [
            next((name[: -len(end)] + b for end, b in COARSER.items() if name.endswith(end)), "")
            for name in table.world.values
        ]
        b = a.reindex(world=coarser).assign_coords(world=a.world)  # NaN where there is none
        margin = np.hypot(a.high - a.low, b.high - b.low) / 2
        gain = xr.Dataset(_interval(b.value - a.value, margin), {"sign": "width-resolution"})
        table = xr.concat([table, gain], "sign", join="exact")
        return table.assign_attrs(reasons=json.dumps(SIGNS | {"width-resolution": "no half size"}))


def _interval(value, margin) -> dict:
    """``value``, ``low`` and ``high`` of a number with its margin."""
    return {"value": value, "low": value - margin, "high": value + margin}


def all_signs(source: sources.Source, judge: judges.Judge, sizes: dict, generator) -> dict:
    """The signs of one world as one judge sees it; None where it has no such sign.

    Args:
        source: the world.
        judge: who says what classes there are before and after.
        sizes: parameters of :class:`Evidence`.
        generator: of all that is drawn.
    """
    x_0, given = source.starts(sizes["n_images"], generator)
    verdict = judge.verdict(x_0)
    labels = given if judge.network is None else verdict.argmax(dim=1)
    right = (verdict.argmax(dim=1) == given).double().numpy()
    found = {"judge-accuracy": bootstrap.function_of_mean(lambda mean: mean, right)}

    if source.law is None:
        found |= _predicted(*source.learnt(sources.N_FITTED, generator))
    if judge.network is None:
        originals, _ = (source.originals or source.starts)(sizes["n_images"], generator)
        noisy = sources.noised(originals, judges.CLEAN, generator)
        evidence = source.law.log_evidence(noisy, float(judges.CLEAN.sigmoid())).numpy()
        found["log-evidence"] = bootstrap.function_of_mean(lambda mean: mean, evidence)

    def curves(levels, n_noises):
        rows = x_0.repeat(n_noises, 1, 1, 1), given.repeat(n_noises)
        seen, taken = judge.way_back(*rows, torch.as_tensor(levels), generator)
        taken, at = np.unique(taken.numpy(), return_index=True)
        return taken, seen[at].unflatten(1, (n_noises, -1)).mean(dim=1).transpose(0, 1)

    # K over the whole range, then closely where it falls
    levels, posterior = curves(np.arange(-10.0, 10.0), 1)
    k = signs.order_parameter(posterior, labels).mean(axis=0)
    first, last = (k > 0.05).argmax(), len(k) - (k[::-1] < 0.95).argmax()
    ends = levels[[max(first - 1, 0), min(last, len(k) - 1)]]
    levels, posterior = curves(np.linspace(*ends, sizes["n_levels"]), sizes["n_noises"])
    k = signs.order_parameter(posterior, labels)
    found["half-snr"] = signs.of_mean_curve(lambda k: signs.crossing(levels, k, 0.5), k)
    found["width-snr"] = signs.of_mean_curve(lambda k: signs.width(levels, k), k)
    per_image, _ = signs.width_per_image(levels, k)
    found["width-snr-per-image"] = per_image if np.isfinite(per_image.high) else None
    if found["half-snr"] is None:
        return found
    if source.n_classes > 2:
        found["superclass-gap"] = _superclass_gap(source, posterior, labels, levels, generator)

    x_0, given = source.starts(sizes["n_reversals"], generator)
    starts = torch.tensor([found["half-snr"].value, -torch.inf])
    back = source.back(x_0, given, starts, generator)
    old, new = given, back.classes
    if judge.network is not None:
        old, *new = (judge.verdict(x).argmax(dim=1) for x in (x_0, *back.samples))
    for sampled, after, end in zip(back.samples, new, ("", "-end"), strict=True):
        found |= _pair_signs(x_0, sampled, old, after, judge.network, end)
    several = torch.bincount(old)[old] > 1  # of its class, as the judge sees it
    x_0, old, (height, width) = x_0[several], old[several], x_0.shape[2:]
    losses = []
    for squares in ([(height, width // 2), (height // 2, width)], [(4, 4)]):
        masks = torch.cat([signs.checkerboards(height, width, *square) for square in squares])
        verdicts = [judge.verdict(x) for x in signs.spliced(x_0, old, masks, generator)]
        losses.append(signs.splice_loss(torch.stack(verdicts), old))
    margin = np.hypot(*(loss.high - loss.low for loss in losses)) / 2
    rise = bootstrap.Estimate(**_interval(losses[1].value - losses[0].value, margin))
    return found | {"splice-loss": losses[0], "splice-rise": rise}


def _predicted(images, labels) -> dict:
    """ln SNR at which a class should go: of all images, and of the median pair of class means."""
    pairs = speciation.pair_variances(images, labels).median().item()
    variances = {"predicted-snr": speciation.largest_variance(images), "predicted-snr-pairs": pairs}
    levels = {sign: speciation.speciation_level(x).item() for sign, x in variances.items()}
    return {sign: bootstrap.Estimate(x, x, x) for sign, x in levels.items() if x < np.inf}


def _superclass_gap(source, posterior, labels, levels, generator) -> bootstrap.Estimate | None:
    """How much longer real super-classes are kept than random groups of classes."""
    images, own = source.learnt(5000, generator)
    groups = signs.superclasses(images, own, n_groups=4)
    orders = [torch.randperm(len(groups), generator=generator) for _ in range(20)]
    all_groups = [groups, *(groups[order] for order in orders)]
    k = np.stack([signs.order_parameter(posterior, labels, own) for own in all_groups], axis=1)

    def gap(curves):
        half = signs.crossing(levels, curves, 0.5)
        return half[:, 1:].mean(axis=1) - half[:, 0]

    return signs.of_mean_curve(gap, k)


def _pair_signs(x_0, sampled, old, new, network, end) -> dict[str, bootstrap.Estimate]:
    """What x_0 and x̂0 show, at K = .5 (``end`` is empty) or from pure noise."""
    pairs, found, coupled = (x_0, sampled, old, new), {}, {}
    in_group = torch.bincount((100 * old + new)[old != new], minlength=1).max()
    if in_group >= 2:
        pixels = signs.similarity_auc(*pairs)
        found[f"auc-pixels{end}"] = signs.ratio(pixels)
    if in_group >= 2 and not end:
        parts = signs.similarity_auc(*pairs, block=4)
        both = [part - [0.5, 0] * part[:, 1:] for part in (parts, pixels)]
        found["auc-parts-over-whole"] = signs.ratio(both[0], over=both[1])
    if in_group >= 2 and network and not end:
        layers = ["layers.0.relu", "logits"]
        seen = [activations(network, judges.in_squares(x), layers) for x in (x_0, sampled)]
        early, late = (signs.similarity_auc(*(x[name] for x in seen), old, new) for name in layers)
        early[:, 0] -= late[:, 0]
        found["auc-early-less-late"] = signs.ratio(early)
    if in_group < 6:
        return found
    with_kept = not end and old[old == new].bincount(minlength=1).max() >= 6
    for kept in (False, True)[: 1 + with_kept]:
        coupled[kept] = signs.couplings(*pairs, kept=kept)
        for i, name in enumerate(("near", "far")):
            found[f"coupling-{name}{'-kept' * kept}{end}"] = signs.ratio(coupled[kept][:, i])
    if with_kept:
        found["energy-ratio"] = signs.ratio(coupled[False][:, 2], over=coupled[True][:, 2])
    framed = [judges.in_frame(x) for x in (x_0, sampled)]
    for block in (4, 8, 16) if not end else ():
        if 2 * block <= framed[0].shape[-1]:
            found[f"ladder-{block}"] = signs.coupling_ladder(*framed, old, new, block)
    return found
