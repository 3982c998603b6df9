"""``from hierphase import ...``: all names, each loaded only when it is asked for."""

import subprocess
import sys

import pytest

import hierphase
from hierphase.analysis.calibration import calibration
from hierphase.analysis.representations import layer_similarity
from hierphase.analysis.transition import transition_time
from hierphase.diffusion.forward_backward import ForwardBackwardPipeline
from hierphase.diffusion.guided_diffusion import convert_state_dict, load_adm
from hierphase.diffusion.image_folder import image_folder
from hierphase.experiments import registry
from hierphase.experiments.your_model import measure_transition
from hierphase.rhm import meanfield
from hierphase.rhm.bayes_denoiser import BayesDenoiser
from hierphase.rhm.belief_propagation import BeliefPropagation
from hierphase.rhm.corruption import EpsilonProcess, GaussianProcess, MaskingProcess
from hierphase.rhm.model import RandomHierarchyModel
from hierphase.runs import results
from hierphase.runs.comparison import compare

PUBLIC = {
    "BayesDenoiser": BayesDenoiser,
    "BeliefPropagation": BeliefPropagation,
    "EpsilonProcess": EpsilonProcess,
    "ForwardBackwardPipeline": ForwardBackwardPipeline,
    "GaussianProcess": GaussianProcess,
    "MaskingProcess": MaskingProcess,
    "RandomHierarchyModel": RandomHierarchyModel,
    "calibration": calibration,
    "compare": compare,
    "convert_state_dict": convert_state_dict,
    "image_folder": image_folder,
    "layer_similarity": layer_similarity,
    "load_adm": load_adm,
    "load_result": results.load,
    "meanfield": meanfield,
    "measure_transition": measure_transition,
    "result": registry.result,
    "run_sweep": registry.run_sweep,
    "transition_time": transition_time,
}


def test_each_name_is_the_object_of_its_room():
    assert {name: getattr(hierphase, name) for name in hierphase.__all__} == PUBLIC
    assert {*PUBLIC, "__version__"} <= set(dir(hierphase))


def test_all_of_them_at_once():
    names = {}
    exec("from hierphase import *", names)
    assert names.keys() >= PUBLIC.keys()


def test_an_unknown_name():
    with pytest.raises(AttributeError, match=r"did you mean 'BeliefPropagation'\?"):
        _ = hierphase.BeliefPropogation
    with pytest.raises(ImportError, match="cannot import name 'BeliefPropogation'"):
        exec("from hierphase import BeliefPropogation")


@pytest.mark.parametrize(
    "code",
    ["import hierphase", "from hierphase.__main__ import main; assert main(['--help']) == 0"],
)
def test_what_is_heavy_waits_until_it_is_needed(code):
    heavy = {"torch", "matplotlib", "xarray", "numpy", "jupytext", "nbformat", "papermill"}
    code = f"{code}; import sys; found = {heavy} & sys.modules.keys(); assert not found, found"
    subprocess.run([sys.executable, "-c", code], check=True)
