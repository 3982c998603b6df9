"""Every stock scheduler of diffusers against exactly solved data: which are right, and how right.

A new scheduler, spacing or prediction is one line of a table. ``ERRORS``: largest error of mean,
variance and covariance with x_0, for data N(1, 1/4) from SNR about 1, with 50, 100 and 250 steps,
as measured independently (``schedulers.md`` of the project: each scheduler's own step() with
one-hot rows, no code of this package).
"""

import pytest
import torch
from diffusers import (
    CogVideoXDDIMScheduler,
    DDIMParallelScheduler,
    DDIMScheduler,
    DDPMParallelScheduler,
    DDPMScheduler,
    DEISMultistepScheduler,
    DPMSolverMultistepScheduler,
    DPMSolverSinglestepScheduler,
    EDMDPMSolverMultistepScheduler,
    EDMEulerScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    HeunDiscreteScheduler,
    KDPM2AncestralDiscreteScheduler,
    KDPM2DiscreteScheduler,
    LMSDiscreteScheduler,
    PNDMScheduler,
    SASolverScheduler,
    UnCLIPScheduler,
    UniPCMultistepScheduler,
)
from linear_response import moments

LINEAR = {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02}
FLOW = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
FREE = {"clip_sample": False}
KARRAS = LINEAR | {"use_karras_sigmas": True}
SDE = {"algorithm_type": "sde-dpmsolver++"}

#: Name -> scheduler, covariance of x̂0 and x_0 as a power of their correlation squared, errors.
ERRORS = {
    "ddpm": (DDPMScheduler(**FREE), 1, [0.21, 0.12, 0.055]),
    "ddpm large": (DDPMScheduler(variance_type="fixed_large", **FREE), 1, [0.062, 0.03, 0.012]),
    "ddpm trailing": (DDPMScheduler(timestep_spacing="trailing", **FREE), 1, [0.21, 0.12, 0.055]),
    "ddpm parallel": (DDPMParallelScheduler(**FREE), 1, [0.21, 0.12, 0.055]),
    "ddim": (DDIMScheduler(**FREE), 0.5, [0.098, 0.05, 0.021]),
    "ddim parallel": (DDIMParallelScheduler(**FREE), 0.5, [0.098, 0.05, 0.021]),
    "cogvideox ddim": (CogVideoXDDIMScheduler(**FREE), 0.5, [0.18, 0.1, 0.049]),
    "unclip": (UnCLIPScheduler(**FREE), 1, [0.12, 0.069, 0.031]),
    "pndm": (PNDMScheduler(skip_prk_steps=True, **LINEAR), 0.5, [1.9e-3, 8.5e-4, 2.7e-4]),
    "dpm++ 1": (DPMSolverMultistepScheduler(solver_order=1, **LINEAR), 0.5, [0.1, 0.053, 0.022]),
    "dpm++ 2m": (DPMSolverMultistepScheduler(**LINEAR), 0.5, [2e-3, 1.1e-3, 5.4e-4]),
    "dpm++ 3m": (DPMSolverMultistepScheduler(solver_order=3, **LINEAR), 0.5, [0.026, 0.01, 2.9e-3]),
    "dpm++ 2m karras": (DPMSolverMultistepScheduler(**KARRAS), 0.5, [7.9e-3, 1.7e-3, 7e-5]),
    "dpm++ 2m lu": (
        DPMSolverMultistepScheduler(use_lu_lambdas=True, **LINEAR), 0.5, [5e-4, 7.6e-5, 3.4e-4],
    ),
    "dpm 2m": (
        DPMSolverMultistepScheduler(
            algorithm_type="dpmsolver", final_sigmas_type="sigma_min", **LINEAR
        ), 0.5, [0.048, 0.013, 2.5e-3],
    ),
    "sde 1": (DPMSolverMultistepScheduler(solver_order=1, **SDE, **LINEAR), 1, [0.21, 0.12, 0.055]),
    "sde 2m": (DPMSolverMultistepScheduler(**SDE, **LINEAR), 1, [0.054, 0.028, 5.9e-3]),
    "sde 2m karras": (DPMSolverMultistepScheduler(**SDE, **KARRAS), 1, [0.032, 7.6e-3, 8.3e-4]),
    "sde 2m heun": (
        DPMSolverMultistepScheduler(solver_type="heun", **SDE, **LINEAR), 1, [0.1, 0.045, 9.1e-3],
    ),
    "dpm++ 2m flow": (DPMSolverMultistepScheduler(**FLOW), 0.5, [6.9e-3, 2.2e-3, 4.4e-4]),
    "sde 2m flow": (DPMSolverMultistepScheduler(**SDE, **FLOW), 1, [0.031, 9.8e-3, 1.9e-3]),
    "dpm++ 2s": (DPMSolverSinglestepScheduler(**LINEAR), 0.5, [0.051, 0.017, 4.8e-3]),
    "dpm++ 3s": (
        DPMSolverSinglestepScheduler(solver_order=3, **LINEAR), 0.5, [0.034, 4.3e-3, 2.1e-3],
    ),
    "dpm++ 2s flow": (DPMSolverSinglestepScheduler(**FLOW), 0.5, [9.7e-3, 2.5e-3, 5e-4]),
    "unipc": (UniPCMultistepScheduler(**LINEAR), 0.5, [7.4e-3, 3.2e-3, 1.9e-3]),
    "unipc 3": (UniPCMultistepScheduler(solver_order=3, **LINEAR), 0.5, [0.014, 6.5e-3, 2.5e-3]),
    "unipc karras": (UniPCMultistepScheduler(**KARRAS), 0.5, [3.3e-3, 6.5e-5, 3.7e-4]),
    "unipc flow": (UniPCMultistepScheduler(**FLOW), 0.5, [2.5e-3, 5.2e-4, 3.9e-5]),
    "deis 2": (DEISMultistepScheduler(**LINEAR), 0.5, [0.024, 8e-3, 1.8e-3]),
    "deis 3": (DEISMultistepScheduler(solver_order=3, **LINEAR), 0.5, [0.011, 3.5e-3, 1e-3]),
    "sa tau 1": (SASolverScheduler(tau_func=lambda t: 1, **LINEAR), 1, [0.23, 0.073, 0.011]),
    "sa tau 0": (SASolverScheduler(tau_func=lambda t: 0, **LINEAR), 0.5, [0.012, 3.4e-3, 3.6e-4]),
    "euler": (EulerDiscreteScheduler(**LINEAR), 0.5, [0.1, 0.051, 0.021]),
    "euler karras": (EulerDiscreteScheduler(**KARRAS), 0.5, [0.095, 0.05, 0.02]),
    "euler ancestral": (EulerAncestralDiscreteScheduler(**LINEAR), 1, [0.21, 0.12, 0.055]),
    "heun": (HeunDiscreteScheduler(**LINEAR), 0.5, [4.6e-3, 8.4e-4, 2e-4]),
    "heun karras": (HeunDiscreteScheduler(**KARRAS), 0.5, [8.8e-3, 1.9e-3, 3.3e-5]),
    "kdpm2": (KDPM2DiscreteScheduler(**LINEAR), 0.5, [0.016, 3.8e-3, 3e-4]),
    "kdpm2 ancestral": (KDPM2AncestralDiscreteScheduler(**LINEAR), 1, [0.054, 0.02, 8.2e-3]),
    "lms": (LMSDiscreteScheduler(**LINEAR), 0.5, [2e-3, 4.7e-4, 7.6e-5]),
    "edm euler": (EDMEulerScheduler(), 0.5, [0.094, 0.047, 0.019]),
    "edm dpm++ 2m": (EDMDPMSolverMultistepScheduler(), 0.5, [8.5e-3, 1.9e-3, 2.7e-4]),
    "edm dpm++ 3m": (EDMDPMSolverMultistepScheduler(solver_order=3), 0.5, [6e-3, 1.2e-3, 1.7e-4]),
    "edm sde": (EDMDPMSolverMultistepScheduler(**SDE), 1, [0.031, 7.2e-3, 1.1e-3]),
    "flow euler": (FlowMatchEulerDiscreteScheduler(), 0.5, [0.049, 0.025, 9.9e-3]),
    "flow euler shift": (FlowMatchEulerDiscreteScheduler(shift=3.0), 0.5, [0.1, 0.052, 0.021]),
    "flow euler karras": (
        FlowMatchEulerDiscreteScheduler(use_karras_sigmas=True), 0.5, [0.062, 0.03, 0.012],
    ),
    "flow heun": (FlowMatchHeunDiscreteScheduler(), 0.5, [1.1e-4, 2.9e-5, 1.1e-6]),
}  # fmt: skip


def errors(scheduler, power, n, mu, variance, ln_snr, **options):
    """Largest of each start, relative to mean, variance and variance."""
    found = moments(scheduler, n, mu, variance, ln_snr=ln_snr, **options)
    truth = variance * found.rho2**power
    return torch.stack(
        [
            (found.mean - mu).abs().amax(1),
            (found.variance / variance - 1).abs().amax(1),
            ((found.covariance - truth) / variance).abs().amax(1),
        ]
    ).amax(0)


ONE, QUARTER = torch.ones(1).double(), torch.full((1,), 0.25).double()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ERRORS)
def test_moments_of_white_data_are_as_wrong_as_measured_elsewhere(name):
    scheduler, power, expected = ERRORS[name]
    found = [
        float(errors(scheduler, power, n, ONE, QUARTER, [0.0], exact_levels=True))
        for n in (50, 100, 250)
    ]
    for ours, theirs in zip(found, expected, strict=True):
        assert ours < 1e-3 or ours == pytest.approx(theirs, rel=0.2), (found, expected)
