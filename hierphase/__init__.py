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

# Each public name and where it is defined, module:name.
_PLACES = {
    "BayesDenoiser": "rhm.bayes_denoiser:BayesDenoiser",
    "BeliefPropagation": "rhm.belief_propagation:BeliefPropagation",
    "EpsilonProcess": "rhm.corruption:EpsilonProcess",
    "ForwardBackwardPipeline": "diffusion.forward_backward:ForwardBackwardPipeline",
    "GaussianProcess": "rhm.corruption:GaussianProcess",
    "MaskingProcess": "rhm.corruption:MaskingProcess",
    "RandomHierarchyModel": "rhm.model:RandomHierarchyModel",
    "calibration": "analysis.calibration:calibration",
    "compare": "runs.comparison:compare",
    "convert_state_dict": "diffusion.guided_diffusion:convert_state_dict",
    "image_folder": "diffusion.image_folder:image_folder",
    "layer_similarity": "analysis.representations:layer_similarity",
    "load_adm": "diffusion.guided_diffusion:load_adm",
    "load_result": "runs.results:load",
    "meanfield": "rhm.meanfield:",
    "measure_transition": "experiments.your_model:measure_transition",
    "result": "experiments.registry:result",
    "run_sweep": "experiments.registry:run_sweep",
    "transition_time": "analysis.transition:transition_time",
}
__all__ = list(_PLACES)


def __getattr__(name: str):
    if name not in _PLACES:
        from hierphase.checks import unknown

        raise AttributeError(unknown("name of hierphase", name, __all__))
    return pkgutil.resolve_name(f"{__name__}.{_PLACES[name]}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
