"""hierphase: diffusion models reveal the hierarchical nature of data.

A thin library behind the Jupyter Book of the same name, which reproduces Sclocchi, Favero and
Wyart (arXiv 2402.16991). Every result is the same experiment, in six rooms:

``rhm`` is the exactly solvable world, ``diffusion`` gives models and images from elsewhere,
``analysis`` is what is read off pairs of x_0 and x̂0(t), ``networks`` is what is trained, ``runs``
is how results come about, and ``experiments`` puts them together. The names that most users need
can be imported from here; each is loaded when it is asked for.
"""

import pkgutil

__version__ = "0.1.0"

# Each module that defines public names -> these names.
_DEFINED = {
    "analysis.calibration": "calibration",
    "analysis.representations": "layer_similarity",
    "analysis.transition": "transition_time",
    "diffusion.forward_backward": "ForwardBackwardPipeline",
    "diffusion.guided_diffusion": "convert_state_dict load_adm",
    "diffusion.image_folder": "image_folder",
    "experiments.registry": "result run_sweep",
    "experiments.your_model": "measure_transition",
    "rhm.bayes_denoiser": "BayesDenoiser",
    "rhm.belief_propagation": "BeliefPropagation",
    "rhm.corruption": "EpsilonProcess GaussianProcess MaskingProcess",
    "rhm.model": "RandomHierarchyModel",
    "runs.comparison": "compare",
}
# Each public name and where it is defined, module:name.
_PLACES = {name: f"{where}:{name}" for where, names in _DEFINED.items() for name in names.split()}
_PLACES |= {"load_result": "runs.results:load", "meanfield": "rhm.meanfield:"}
__all__ = sorted(_PLACES)


def __getattr__(name: str):
    if name not in _PLACES:
        from hierphase.checks import unknown

        raise AttributeError(unknown("name of hierphase", name, __all__))
    return pkgutil.resolve_name(f"{__name__}.{_PLACES[name]}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
